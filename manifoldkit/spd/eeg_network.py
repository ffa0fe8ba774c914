"""SPD networks with the arguments that EEG libraries give their models."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from manifoldkit._checks import check_choice, check_count, check_counts
from manifoldkit.spd.layers.pooling import CovariancePool
from manifoldkit.spd.networks import ConvSPDNet, SPDNet

_NETWORKS = ("conv", "covariance")


class EEGNetwork(nn.Module):
    """An SPD network of raw epochs with braindecode's arguments.

    ``EEGClassifier(EEGNetwork, ...)`` of braindecode finds ``n_chans``, ``n_outputs``
    and ``n_times`` in the data. All weights are parametrized, so that its plain
    optimizers may step them.

    Parameters
    ----------
    n_chans : int
        Channels of the epochs.
    n_outputs : int
        Classes.
    n_times : int
        Samples of an epoch.
    sfreq, chs_info, input_window_seconds
        What braindecode knows of the signals, which the networks need not.
    network : {"conv", "covariance"}, default="conv"
        :class:`~manifoldkit.spd.ConvSPDNet`, or :class:`~manifoldkit.spd.SPDNet` of the
        covariances of the channels.
    dims : sequence of int, optional
        Sizes after each BiMap; default (12,) for "conv", one of half the channels for
        "covariance".
    kernel_size : int, default=36
        Length of the temporal filters of "conv", at most ``n_times``.
    parametrized : bool, default=True
        See :class:`~manifoldkit.spd.SPDNet`.
    **options
        Further options of the network.

    Attributes
    ----------
    network : ConvSPDNet or nn.Sequential

    Raises
    ------
    ValueError
        Sizes that are not positive integers, or options that do not fit.

    Examples
    --------
    >>> import torch
    >>> net = EEGNetwork(n_chans=6, n_outputs=3, n_times=100, network="covariance")
    >>> net(torch.randn(4, 6, 100)).shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        n_chans: int,
        n_outputs: int,
        n_times: int,
        *,
        sfreq: float | None = None,
        chs_info: Any = None,
        input_window_seconds: float | None = None,
        network: str = "conv",
        dims: Sequence[int] | None = None,
        kernel_size: int = 36,
        parametrized: bool = True,
        **options: Any,
    ):
        super().__init__()
        check_counts(n_chans=n_chans, n_outputs=n_outputs, n_times=n_times)
        check_choice(network, _NETWORKS, "network")
        self.n_chans, self.n_outputs, self.n_times = n_chans, n_outputs, n_times
        options["parametrized"] = parametrized
        if network == "conv":
            length = min(check_count(kernel_size, "kernel_size"), n_times)
            sizes = (12,) if dims is None else dims
            self.network: nn.Module = ConvSPDNet(
                n_chans, n_outputs, kernel_size=length, dims=sizes, **options
            )
        else:
            sizes = (max(n_chans // 2, 1),) if dims is None else dims
            self.network = nn.Sequential(
                CovariancePool(), SPDNet(n_chans, sizes, n_outputs, **options)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores of epochs (..., n_chans, n_times): (..., n_outputs)."""
        if x.ndim < 2 or x.shape[-2] != self.n_chans:
            raise ValueError(
                f"x: expected shape (..., {self.n_chans}, n_times), "
                f"found {tuple(x.shape)}"
            )
        return self.network(x)
