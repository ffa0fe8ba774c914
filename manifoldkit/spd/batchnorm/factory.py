"""SPD batch normalization by name."""

from typing import Any

from torch import nn

from manifoldkit.spd.batchnorm.base import BatchNormBase
from manifoldkit.spd.batchnorm.gbw import BWBatchNorm, GBWBatchNorm
from manifoldkit.spd.batchnorm.peers import SPDBatchNorm

_NAMES: dict[str, tuple[type[BatchNormBase], dict[str, Any]]] = {
    "gbw": (GBWBatchNorm, {}),
    "bw": (BWBatchNorm, {}),
    "airm": (SPDBatchNorm, {"metric": "airm"}),
    "airm-mean": (SPDBatchNorm, {"metric": "airm", "dispersion": False}),
    "lie": (SPDBatchNorm, {"metric": "airm", "congruence": "cholesky"}),
    "log_euclidean": (SPDBatchNorm, {"metric": "log_euclidean"}),
    "log_cholesky": (SPDBatchNorm, {"metric": "log_cholesky"}),
}


def make_batchnorm(name: str | None, n: int, **options: Any) -> nn.Module:
    """Make a normalization layer by its name.

    Parameters
    ----------
    name : str or None
        ``"gbw"`` (:class:`GBWBatchNorm`), ``"bw"`` (:class:`BWBatchNorm`), and of
        :class:`SPDBatchNorm` ``"airm"`` (mean and dispersion), ``"airm-mean"`` (mean
        only), ``"lie"`` (airm by Cholesky factors), ``"log_euclidean"`` and
        ``"log_cholesky"``; None or ``"none"`` for the identity.
    n : int
        Size of the matrices.
    **options
        Further options of the class.

    Raises
    ------
    ValueError
        An unknown name.

    Returns
    -------
    nn.Module

    Examples
    --------
    >>> make_batchnorm("airm-mean", 3)
    SPDBatchNorm(3, metric='airm', dispersion=False)
    """
    if name is None or name == "none":
        return nn.Identity()
    if name not in _NAMES:
        raise ValueError(
            f"batchnorm: expected one of {[*_NAMES, None]}, found {name!r}"
        )
    layer, defaults = _NAMES[name]
    return layer(n, **{**defaults, **options})
