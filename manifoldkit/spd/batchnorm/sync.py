"""Batch statistics over all processes of ``torch.distributed``."""

from typing import TypeVar

import torch.distributed as dist
from torch import nn

from manifoldkit.spd.batchnorm.base import BatchNormBase
from manifoldkit.spd.conditioning import Rescaled

Module = TypeVar("Module", bound=nn.Module)


def convert_sync_batchnorm(
    module: Module, process_group: "dist.ProcessGroup | None" = None
) -> Module:
    r"""Let the SPD batch normalizations of a module use the batches of all processes.

    The result on every process is that of one process with the joined batch, the
    shares may differ in size, and running statistics stay equal to the bit. A training
    forward of :class:`~manifoldkit.spd.GBWBatchNorm` sends ``2 + mean_iterations``
    messages of about :math:`n^2` numbers; evaluation sends none. A network that divides
    by a constant learns it from the first batches of all processes. Use it before
    ``DistributedDataParallel``, beside ``nn.SyncBatchNorm.convert_sync_batchnorm``
    for flat layers.

    Parameters
    ----------
    module : nn.Module
        A layer or a network; changed in place.
    process_group : torch.distributed.ProcessGroup, optional
        Processes to share statistics with, default all.

    Returns
    -------
    nn.Module
        The module itself.

    Raises
    ------
    TypeError
        ``module`` is no module.

    Notes
    -----
    With ``stats_grad=True`` the derivative passes through the sums to the inputs of all
    processes: gradients are those of the sum of the losses of all processes (which
    ``DistributedDataParallel`` divides by their number). Call ``init_from_data`` on all
    processes or on none.

    Examples
    --------
    >>> from manifoldkit.spd import SPDNet
    >>> net = convert_sync_batchnorm(SPDNet(4, (3,), 2))
    >>> net.layers[1]
    GBWBatchNorm(3, relative=False, synchronized=True)
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, found {module!r}")
    for layer in module.modules():
        if isinstance(layer, BatchNormBase | Rescaled):
            layer.synchronized, layer.process_group = True, process_group
    return module
