"""Covariance estimates of delay vectors from their moments, with autograd."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from manifoldkit._checks import check_choice, check_interval
from manifoldkit.linalg.checks import compute_dtype
from manifoldkit.linalg.elementary import eye_like, trace
from manifoldkit.spd.augmented.moments import (
    TRIMS,
    DelayMoments,
    block_autocovariances,
    block_toeplitz,
    check_order_lag,
    check_signals,
    delay_moments,
)

#: Estimators that are functions of the second moments (lwf: and of the vectors' norms).
MOMENT_ESTIMATORS = ("cov", "scm", "corr", "oas", "lwf")
STRUCTURES = ("stacked", "toeplitz")

_GROUP_BYTES = 1 << 21


def augmented_covariance(
    x: Tensor,
    order: int = 1,
    lag: int = 1,
    *,
    estimator: str = "oas",
    structure: str = "stacked",
    trim: str = "full",
    shrinkage: float = 0.0,
) -> Tensor:
    r"""Covariance of the delay vectors of signals, by exact block updates.

    .. math:: z_t = (x_t, x_{t+l}, \dots, x_{t+(o-1)l}), \qquad
              C = \frac1n \sum_t (z_t - \bar z)(z_t - \bar z)^\top

    With ``structure="toeplitz"`` block (a, b) is the biased autocovariance
    :math:`\Gamma((a-b)l)` of the whole signal: fewer free numbers, positive
    semidefinite by construction.

    Parameters
    ----------
    x : Tensor, shape (..., n_channels, n_times)
        Signals, any batch shape; differentiable to any order.
    order : int, default=1
        Number of delayed copies, 1 is the plain covariance.
    lag : int, default=1
        Delay between copies, in samples.
    estimator : {"oas", "lwf", "cov", "scm", "corr"}, default="oas"
        pyriemann's: oracle approximating shrinkage, Ledoit-Wolf, divisor n - 1,
        divisor n, correlation. (``structure="toeplitz"`` always divides by T, so there
        "cov" and "scm" are the same; "lwf" needs the stacked form.)
    structure : {"stacked", "toeplitz"}, default="stacked"
        Sample covariance of the delay vectors, or block Toeplitz.
    trim : {"full", "moabb"}, default="full"
        Use all ``T - (order - 1) lag`` delay vectors, or ``T - order lag`` as MOABB's
        ``AugmentedDataset`` does. No effect on "toeplitz".
    shrinkage : float, default=0.0
        Further shrinkage s towards the scaled identity,
        ``(1 - s) C + s tr(C) / n I``, in [0, 1].

    Returns
    -------
    Tensor, shape (..., order * n_channels, order * n_channels)
        Dtype and device of ``x``; half precision is computed in float32.

    Raises
    ------
    TypeError
        Not a floating-point tensor; order or lag not an integer.
    ValueError
        Unknown option, or fewer than two delay vectors. Rank is not checked here:
        :class:`AugmentedCovariances` does.

    References
    ----------
    .. [1] Carrara and Papadopoulo, "Classification of BCI-EEG based on the augmented
           covariance matrix", IEEE Trans. Biomed. Eng. 2024, arXiv 2302.04508.
    .. [2] Chen, Wiesel, Eldar, Hero, "Shrinkage algorithms for MMSE covariance
           estimation", IEEE Trans. Signal Process. 2010, equation 23.

    Examples
    --------
    >>> x = torch.randn(5, 3, 100, generator=torch.Generator().manual_seed(0))
    >>> augmented_covariance(x, order=4, lag=2).shape
    torch.Size([5, 12, 12])
    """
    order, lag = check_order_lag(order, lag)
    return augmented_covariance_grid(
        x,
        [order],
        lag,
        estimator=estimator,
        structure=structure,
        trim=trim,
        shrinkage=shrinkage,
    )[order]


def augmented_covariance_grid(
    x: Tensor,
    orders: Iterable[int],
    lag: int = 1,
    *,
    estimator: str = "oas",
    structure: str = "stacked",
    trim: str = "full",
    shrinkage: float = 0.0,
) -> dict[int, Tensor]:
    """Augmented covariances for several orders at one lag, sharing their products.

    A smaller order has more delay vectors, so its matrix is no leading block of a
    larger one; the few samples between them are added exactly, and each result equals
    :func:`augmented_covariance` of that order alone up to rounding.

    Parameters
    ----------
    x : Tensor, shape (..., n_channels, n_times)
        Signals.
    orders : sequence of int
        The orders wanted.
    lag : int, default=1
        The common delay, in samples.
    estimator, structure, trim, shrinkage
        The options of :func:`augmented_covariance`.

    Returns
    -------
    dict of int to Tensor, shape (..., order * n_channels, order * n_channels)

    Raises
    ------
    TypeError, ValueError
        As :func:`augmented_covariance`; no order given.

    Examples
    --------
    >>> x = torch.randn(5, 3, 100, generator=torch.Generator().manual_seed(0))
    >>> grid = augmented_covariance_grid(x, [1, 2, 4], lag=2)
    >>> [tuple(c.shape) for c in grid.values()]
    [(5, 3, 3), (5, 6, 6), (5, 12, 12)]
    """
    check_signals(x)
    orders = [check_order_lag(o, lag)[0] for o in orders]
    if not orders:
        raise ValueError("orders: expected at least one order, found none")
    check_choice(estimator, MOMENT_ESTIMATORS, "estimator")
    check_choice(structure, STRUCTURES, "structure")
    check_choice(trim, TRIMS, "trim")
    check_toeplitz(structure, estimator)
    check_interval(shrinkage, "shrinkage", 0, 1)

    batch, n_times = x.shape[:-2], x.shape[-1]
    flat = x.reshape(-1, *x.shape[-2:]).to(compute_dtype(x.dtype))

    def estimate(
        epochs: Tensor, out: dict[int, Tensor] | None = None
    ) -> dict[int, Tensor]:
        epochs = epochs - epochs.mean(-1, keepdim=True)
        if structure == "toeplitz":
            gamma = block_autocovariances(epochs, max(orders), lag)
            return {
                o: _from_scm(block_toeplitz(gamma[:, :o]), n_times, estimator)
                for o in orders
            }
        ddof = 1 if estimator in ("cov", "corr") else 0
        moments = delay_moments(epochs, orders, lag, trim, out, ddof)
        return {o: _from_moments(moments[o], epochs, lag, estimator) for o in orders}

    return {
        o: shrink(c, shrinkage).to(x.dtype).reshape(*batch, *c.shape[1:])
        for o, c in _in_groups(estimate, flat, orders).items()
    }


def _in_groups(
    estimate: Callable[..., dict[int, Tensor]], x: Tensor, orders: list[int]
) -> dict[int, Tensor]:
    """Estimate a few epochs at a time, so that their matrices stay in the cache.

    Without it "oas, order 10, lag 1, function" of benchmarks/augmented.py takes 1.4
    times as long.
    """
    sizes = {o: o * x.shape[1] for o in orders}
    size = max(sizes.values()) ** 2 * x.element_size()
    group = max(1, _GROUP_BYTES // size)
    if x.is_cuda or x.requires_grad or len(x) <= group:
        return estimate(x)
    results = {o: x.new_empty(len(x), n, n) for o, n in sizes.items()}
    for start in range(0, len(x), group):
        parts = {o: c[start : start + group] for o, c in results.items()}
        for o, c in estimate(x[start : start + group], parts).items():
            if c.data_ptr() != parts[o].data_ptr():
                parts[o].copy_(c)
    return results


def _from_moments(moments: DelayMoments, x: Tensor, lag: int, estimator: str) -> Tensor:
    """Turn the covariance of delay vectors into an estimate."""
    scm, first, n = moments
    if estimator == "lwf":
        mean = first / n
        unit = _unit(trace(scm) / scm.shape[-1])
        return _ledoit_wolf(scm, _fourth_moment(x, mean, n, lag, unit), n)
    return _from_scm(scm, n, estimator)


def _from_scm(scm: Tensor, n: int, estimator: str) -> Tensor:
    if estimator == "oas":
        return _oas(scm, n)
    if estimator == "corr":
        std = scm.diagonal(dim1=-2, dim2=-1).sqrt()
        return (scm / std[..., :, None] / std[..., None, :]).clamp(-1, 1)
    return scm


def _add_identity(c: Tensor, amount: Tensor) -> Tensor:
    return c + amount[..., None, None] * eye_like(c)


def _unit(mu: Tensor) -> Tensor:
    return torch.where(mu > 0, mu, torch.ones_like(mu))


def _oas(scm: Tensor, n: int) -> Tensor:
    """Shrink as scikit-learn's ``oas``: needs tr S and tr S² only."""
    p = scm.shape[-1]
    if p == 1:
        return scm
    mu = trace(scm) / p
    # in units of mu, so that no square of a covariance leaves the range
    alpha = (scm / _unit(mu)[..., None, None]).square().mean((-2, -1))
    excess = (n + 1) * (alpha - 1 / p)
    degenerate = excess == 0
    ratio = (alpha + 1) / torch.where(degenerate, 1.0, excess)
    weight = torch.where(degenerate, 1.0, ratio.clamp(max=1.0))
    return _add_identity((1 - weight)[..., None, None] * scm, weight * mu)


def _fourth_moment(x: Tensor, mean: Tensor, n: int, lag: int, unit: Tensor) -> Tensor:
    """Sum over delay vectors of the squares of squared lengths, these in a unit."""
    mean = mean.unflatten(-1, (-1, x.shape[1]))
    length = x.new_zeros(x.shape[0], n)
    for a in range(mean.shape[1]):
        piece = x[:, :, a * lag : a * lag + n] - mean[:, a, :, None]
        length = length + piece.square().sum(-2)
    return (length / unit[:, None]).square().sum(-1)


def _ledoit_wolf(scm: Tensor, fourth: Tensor, n: int) -> Tensor:
    """Shrink as scikit-learn's ``ledoit_wolf``; the fourth moment in units of mu."""
    p = scm.shape[-1]
    if p == 1:
        return scm
    mu = trace(scm) / p
    frobenius = (scm / _unit(mu)[..., None, None]).square().sum((-2, -1))
    delta = (frobenius - p) / p
    beta = torch.minimum((fourth / n - frobenius) / (p * n), delta)
    none = beta == 0
    weight = torch.where(none, 0.0, beta / torch.where(none, 1.0, delta))
    return _add_identity((1 - weight)[..., None, None] * scm, weight * mu)


def shrink(c: Tensor, amount: float) -> Tensor:
    """Return ``(1 - amount) c + amount tr(c) / n I`` for matrices (..., n, n)."""
    if amount == 0:
        return c
    mu = trace(c) / c.shape[-1]
    return _add_identity((1 - amount) * c, amount * mu)


def check_toeplitz(structure: str, estimator: Any) -> None:
    """Raise ``ValueError`` where the Toeplitz form cannot have this estimator."""
    if structure == "toeplitz" and estimator not in ("cov", "scm", "corr", "oas"):
        raise ValueError(
            "structure='toeplitz' is built from autocovariances alone: expected "
            f"estimator 'oas', 'cov', 'scm' or 'corr', found {estimator!r}"
        )
