"""Weighted Riemannian means on any manifold with exponential and logarithm."""

import warnings
from typing import NamedTuple

import torch
from geoopt.manifolds.base import Manifold
from torch import Tensor

from manifoldkit._checks import check_count, check_positive
from manifoldkit.exceptions import ConvergenceWarning, NotOnManifoldError
from manifoldkit.linalg.checks import (
    check_finite,
    check_floating,
    check_weights,
    tolerance,
)
from manifoldkit.optim.geometry import point_tolerance


class KarcherMean(NamedTuple):
    """A mean and how well it was reached."""

    mean: Tensor
    gradient_norm: Tensor
    variance: Tensor
    converged: Tensor
    iterations: int


@torch.no_grad()
def karcher_mean(
    manifold: Manifold,
    points: Tensor,
    weights: Tensor | None = None,
    tol: float | None = None,
    *,
    max_iter: int = 100,
    init: Tensor | None = None,
) -> KarcherMean:
    r"""Point that minimizes the weighted sum of squared distances.

    Fixed-point iteration :math:`x \leftarrow \exp_x(t \sum_i w_i \log_x y_i)` with
    step t = 1, halved where the cost does not fall enough (Armijo's rule), until the
    norm of the sum is at most ``tol``. Whole batches of problems run in one call, each
    with its own step.

    Parameters
    ----------
    manifold : geoopt.Manifold
        Manifold with ``expmap`` and ``logmap``.
    points : Tensor, shape (..., m, point)
        m points a problem; batch dimensions lead.
    weights : Tensor, shape (m,) or (..., m), optional
        Non-negative weights; scaled to sum to one.
    tol : float, optional
        Norm of the gradient to stop at; default 4096 rounding units of the dtype.
    max_iter : int, default=100
        Most iterations.
    init : Tensor, shape (..., point), optional
        Start; default the better of the first point and the projected arithmetic mean.

    Returns
    -------
    KarcherMean
        Named tuple: ``mean`` (..., point); ``gradient_norm``, ``variance`` (weighted
        mean squared distance) and ``converged`` of shape (...); ``iterations``. The
        result is a constant for autograd.

    Raises
    ------
    TypeError, ValueError
        Points, weights, start or options that do not fit; points that are not finite
        or, beyond the drift of points in use, not on the manifold.
    NotImplementedError
        The manifold has no logarithm.

    Warns
    -----
    ConvergenceWarning
        A problem did not reach ``tol``.

    References
    ----------
    H. Karcher, Riemannian center of mass and mollifier smoothing, 1977; X. Pennec,
    Intrinsic statistics on Riemannian manifolds, 2006.

    Examples
    --------
    >>> from manifoldkit.manifolds import PositiveReals
    >>> karcher_mean(PositiveReals(), torch.tensor([1., 4.])).mean.round(decimals=4)
    tensor(2.)
    """
    if not isinstance(manifold, Manifold):
        raise TypeError(f"manifold: expected a geoopt Manifold, found {manifold!r}")
    ndim = manifold.ndim
    y = _check_points(manifold, points)
    w = _weights(weights, y, ndim)
    if tol is None:
        tol = tolerance(y.dtype, 4096)
    check_positive(tol, "tol")
    check_count(max_iter, "max_iter")
    x = _start(manifold, y, w, init)
    direction, cost = _gradient(manifold, x, y, w)
    t = torch.ones_like(cost)
    for iteration in range(max_iter + 1):
        norm = _norm(manifold, x, direction)
        active = ~(norm <= tol)
        if iteration == max_iter or not bool(active.any()):
            break
        step = torch.where(active, t, 0.0)[(..., *(None,) * ndim)]
        trial = manifold.expmap(x, step * direction)
        new_direction, new_cost = _gradient(manifold, trial, y, w)
        # below rounding the cost can no longer tell, the gradient still can
        slack = tolerance(y.dtype, 16) * cost
        better = active & (new_cost <= cost - 1e-4 * t * norm**2 + slack)
        mask = better[(..., *(None,) * ndim)]
        x = torch.where(mask, trial, x)
        direction = torch.where(mask, new_direction, direction)
        cost = torch.where(better, new_cost, cost)
        t = torch.where(better, (2 * t).clamp_max(1.0), t / 2)
    converged = ~active
    if not bool(converged.all()):
        warnings.warn(
            f"karcher_mean on {manifold}: gradient norm {float(norm.max()):.1e} after "
            f"{iteration} iterations, above tol = {tol:.1e}",
            ConvergenceWarning,
            stacklevel=2,
        )
    return KarcherMean(x, norm, 2 * cost, converged, iteration)


def _check_points(manifold: Manifold, points: Tensor) -> Tensor:
    check_floating(points, "points")
    if points.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"points: expected float32 or float64, found {points.dtype}")
    ndim = manifold.ndim
    if points.ndim < ndim + 1 or points.shape[-1 - ndim] == 0:
        raise ValueError(
            f"points: expected (..., m, point) with m >= 1 points of {ndim} "
            f"dimensions each, found shape {tuple(points.shape)}"
        )
    ok, reason = manifold._check_shape(points.shape, "points")
    if not ok:
        raise ValueError(f"points: not points of {manifold}: {reason}")
    y = check_finite(points.detach().as_subclass(Tensor), "points", ndim)
    tol = point_tolerance(y.dtype)
    ok, reason = manifold._check_point_on_manifold(y, atol=tol, rtol=tol)
    if not ok:
        raise NotOnManifoldError(f"points: not points of {manifold}: {reason}")
    return y


def _weights(weights: Tensor | None, y: Tensor, ndim: int) -> Tensor:
    shape = y.shape[: y.ndim - ndim]
    if weights is None:
        return torch.full(shape, 1 / shape[-1], dtype=y.dtype, device=y.device)
    check_weights(weights, shape[-1])
    w = _expand(weights.to(y), shape, "weights")
    return w / w.sum(-1, keepdim=True)


def _expand(x: Tensor, shape: torch.Size, name: str) -> Tensor:
    try:
        return x.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"{name}: expected a shape that broadcasts to {tuple(shape)}, "
            f"found {tuple(x.shape)}"
        ) from None


def _start(manifold, y: Tensor, w: Tensor, init: Tensor | None) -> Tensor:
    dim = -1 - manifold.ndim
    first = y.select(dim, 0)
    if init is not None:
        check_floating(init, "init")
        return _expand(init.detach().to(y), first.shape, "init").clone()
    mean = (w[(..., *(None,) * manifold.ndim)] * y).sum(dim)
    mean = manifold.projx(mean)
    better = _gradient(manifold, mean, y, w)[1] < _gradient(manifold, first, y, w)[1]
    return torch.where(better[(..., *(None,) * manifold.ndim)], mean, first)


def _gradient(manifold, x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean of the logarithms, and half the weighted squared distances."""
    dim = -1 - manifold.ndim
    base = x.unsqueeze(dim).expand_as(y)
    logs = manifold.logmap(base, y)
    squares = _norm(manifold, base, logs) ** 2
    direction = (w[(..., *(None,) * manifold.ndim)] * logs).sum(dim)
    return direction, (w * squares).sum(-1) / 2


def _norm(manifold, x: Tensor, u: Tensor) -> Tensor:
    # keepdim: without it geoopt's hyperbolic models broadcast the batch with itself
    square = manifold.inner(x, u, keepdim=True).clamp_min(0)
    return square.reshape(u.shape[: u.ndim - manifold.ndim]).sqrt()
