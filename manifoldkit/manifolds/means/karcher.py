"""Weighted Riemannian means on any manifold with exponential and logarithm."""

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from geoopt.manifolds.base import Manifold
from torch import Tensor

from manifoldkit._checks import check_count, check_positive
from manifoldkit.exceptions import ConvergenceWarning
from manifoldkit.linalg.checks import check_floating, check_weights, tolerance
from manifoldkit.manifolds.points import check_manifold_argument, check_points

#: Relative error of logarithms beyond which a mean of them is not trusted.
_TRUST = 1e-2


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
    norm of the sum is small beside the size of the data. A manifold that has a method
    ``weighted_mean`` solves by that: ``SPD("airm")`` by Newton's method, in float64 for
    float32 points too. Whole batches of problems run in one call, each with its own
    step.

    Where points lie so far apart that a stationary point may be none of least cost (as
    for antipodes of a sphere), the search starts again beside it and keeps the lower;
    what is found is then a local minimum and perhaps one of several.

    It reads values, so it does not run under ``torch.func.vmap``.

    Parameters
    ----------
    manifold : geoopt.Manifold
        Manifold with ``expmap`` and ``logmap``.
    points : Tensor, shape (..., m, point)
        m points a problem; batch dimensions lead.
    weights : Tensor, shape (m,) or (..., m), optional
        Non-negative weights; scaled to sum to one.
    tol : float, optional
        Norm of the gradient to stop at, in units of the root mean squared distance
        plus the norm of x itself as a vector at x, so that it is free of the unit of
        the data. Default 1024 rounding units of the dtype, for ``weighted_mean`` what
        the manifold chooses.
    max_iter : int, default=100
        Most iterations.
    init : Tensor, shape (..., point), optional
        Start; default the better of the first point and the projected arithmetic mean.

    Returns
    -------
    KarcherMean
        Named tuple: ``mean`` (..., point); ``gradient_norm`` in units of the metric,
        ``variance`` (weighted mean squared distance) and ``converged`` of shape (...);
        ``iterations``. Where a logarithm at the mean does not lead to its point, or is
        longer than the distance, nothing counts as converged. The result is a constant
        for autograd.

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
    check_manifold_argument(manifold)
    ndim = manifold.ndim
    y = check_points(manifold, points, "points", "m").detach()
    w = _weights(weights, y, ndim)
    if tol is not None:
        check_positive(tol, "tol")
    check_count(max_iter, "max_iter")
    if init is not None:
        check_floating(init, "init")
        shape = y.shape[: y.ndim - ndim - 1] + y.shape[y.ndim - ndim :]
        init = _expand(init.detach().to(y), shape, "init").clone()
    solve = getattr(manifold, "weighted_mean", None)
    if solve is None:
        found = _search(manifold, y, w, init, tol or tolerance(y.dtype, 1024), max_iter)
    else:
        found = KarcherMean(*solve(y, w, tol, max_iter, init))
    bad = ~found.converged
    if bool(bad.any()):
        warnings.warn(
            f"karcher_mean on {manifold}: {int(bad.sum())} of {bad.numel()} means not "
            f"converged after {found.iterations} iterations, gradient norm "
            f"{float(found.gradient_norm[bad].max()):.1e}",
            ConvergenceWarning,
            stacklevel=2,
        )
    return found


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


Total = Callable[[Tensor], Tensor]


class _State(NamedTuple):
    """A point of the search and what is known there."""

    x: Tensor
    direction: Tensor
    cost: Tensor
    norm: Tensor
    converged: Tensor
    iterations: int


def _lift(mask: Tensor, ndim: int) -> Tensor:
    """Make a value of a problem one of its points."""
    return mask[(..., *(None,) * ndim)]


def _search(manifold, y: Tensor, w: Tensor, init, tol: float, max_iter: int):
    x = _start(manifold, y, w) if init is None else init
    state = descend(manifold, x, y, w, tol, max_iter)
    if not getattr(manifold, "unique_means", False):
        state = _look_around(manifold, state, y, w, tol, max_iter)
    variance, true = _verify(manifold, state, y, w)
    converged = state.converged & true
    return KarcherMean(state.x, state.norm, variance, converged, state.iterations)


def _start(manifold, y: Tensor, w: Tensor) -> Tensor:
    """Return the better of the first point and the projected mean, and a finite one."""
    dim = -1 - manifold.ndim
    first = y.select(dim, 0)
    mean = manifold.projx((_lift(w, manifold.ndim) * y).sum(dim))
    costs = [mean_direction(manifold, x, y, w)[1] for x in (mean, first)]
    mean_cost, first_cost = (torch.where(c.isnan(), torch.inf, c) for c in costs)
    return torch.where(_lift(mean_cost < first_cost, manifold.ndim), mean, first)


def descend(
    manifold, x, y, w, tol: float, max_iter: int, total: Total | None = None
) -> _State:
    """Iterate from x; ``total`` sums over processes that hold further points."""
    ndim = manifold.ndim
    direction, cost = mean_direction(manifold, x, y, w, total)
    t = torch.ones_like(cost)
    for iteration in range(max_iter + 1):
        norm = point_norm(manifold, x, direction)
        converged = norm <= tol * spread_size(manifold, x, cost)
        active = ~converged & (t > 1e-5)
        if iteration == max_iter or not bool(active.any()):
            break
        trial = manifold.expmap(x, _lift(torch.where(active, t, 0.0), ndim) * direction)
        new_direction, new_cost = mean_direction(manifold, trial, y, w, total)
        # below rounding the cost can no longer tell, the gradient still can
        slack = tolerance(y.dtype, 16) * cost
        better = active & (new_cost <= cost - 1e-4 * t * norm**2 + slack)
        if not bool((better | ~active).all()):
            level = new_cost <= (1 + 1e-9) * cost
            better |= (
                active & level & (point_norm(manifold, trial, new_direction) < norm / 2)
            )
        mask = _lift(better, ndim)
        x = torch.where(mask, trial, x)
        direction = torch.where(mask, new_direction, direction)
        cost = torch.where(better, new_cost, cost)
        t = torch.where(better, (2 * t).clamp_max(1.0), t / 2)
    return _State(x, direction, cost, norm, converged, iteration)


def spread_size(manifold, x: Tensor, cost: Tensor) -> Tensor:
    """Unit of length: spread of the points, and x as a vector (how far it scales)."""
    own = point_norm(manifold, x, x)
    return (2 * cost).sqrt() + torch.where(own.isfinite(), own, 0.0)


def _look_around(manifold, state: _State, y, w, tol: float, max_iter: int) -> _State:
    """Search again beside x where far points may have made it a saddle."""
    ndim = manifold.ndim
    base = state.x.unsqueeze(-1 - ndim).expand_as(y)
    farthest = point_norm(manifold, base, manifold.logmap(base, y)).amax(-1)
    size = spread_size(manifold, state.x, torch.zeros_like(state.cost))
    far = farthest > math.pi / 4 * size.clamp_max(1.0)
    if not bool(far.any()):
        return state
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(state.x.shape, generator=generator, dtype=y.dtype).to(y.device)
    v = manifold.proju(state.x, noise)
    length = 1e-2 * (2 * state.cost).sqrt() / point_norm(manifold, state.x, v)
    length = torch.where(far & length.isfinite(), length, 0.0)
    x = manifold.expmap(state.x, _lift(length, ndim) * v)
    other = descend(manifold, x, y, w, tol, max_iter)
    lower = far & (other.cost < (1 - 1e-4) * state.cost)
    mask = _lift(lower, ndim)
    return _State(
        torch.where(mask, other.x, state.x),
        torch.where(mask, other.direction, state.direction),
        torch.where(lower, other.cost, state.cost),
        torch.where(lower, other.norm, state.norm),
        torch.where(lower, other.converged, state.converged),
        state.iterations + (other.iterations if bool(lower.any()) else 0),
    )


def _verify(manifold, state: _State, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variance, and whether the logarithms at the mean are what they say.

    At a cut locus a logarithm may be short or lead elsewhere, and the gradient vanish.
    """
    ndim = manifold.ndim
    base = state.x.unsqueeze(-1 - ndim).expand_as(y)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        logs = manifold.logmap(base, y)
    doubtful = any(issubclass(w.category, ConvergenceWarning) for w in said)
    end = manifold.expmap(base, logs)
    event = (*y.shape[: y.ndim - ndim], -1)
    gap, most = (t.abs().reshape(event).amax(-1) for t in (end - y, y))
    reached = gap <= _TRUST * most
    own, variance = point_norm(manifold, base, logs), 2 * state.cost
    try:
        distance = manifold.dist(base, y, keepdim=True).reshape(own.shape)
        if not (doubtful or bool(reached.all())):  # another basis of the same space?
            left = manifold.dist(end, y, keepdim=True).reshape(own.shape)
            size = spread_size(manifold, state.x, state.cost)[..., None]
            reached |= left <= _TRUST * size
        variance = (w * distance**2).sum(-1)
        # a point within rounding of the mean has no length to compare
        slack = _TRUST**3 * spread_size(manifold, state.x, state.cost)[..., None]
        reached &= (own - distance).abs() <= _TRUST * own + slack
    except NotImplementedError:  # a manifold of another library without distances
        pass
    return variance, (reached | (w == 0)).all(-1)


def mean_direction(
    manifold, x: Tensor, y: Tensor, w: Tensor, total: Total | None = None
) -> tuple[Tensor, Tensor]:
    """Weighted mean of the logarithms, and half the weighted squared distances."""
    dim = -1 - manifold.ndim
    base = x.unsqueeze(dim).expand_as(y)
    logs = manifold.logmap(base, y)
    squares = point_norm(manifold, base, logs) ** 2
    direction = (_lift(w, manifold.ndim) * logs).sum(dim)
    cost = (w * squares).sum(-1) / 2
    return (direction, cost) if total is None else (total(direction), total(cost))


def point_norm(manifold, x: Tensor, u: Tensor) -> Tensor:
    """Length of tangent vectors, one for each point."""
    # keepdim: without it geoopt's hyperbolic models broadcast the batch with itself
    square = manifold.inner(x, u, keepdim=True).clamp_min(0)
    return square.reshape(u.shape[: u.ndim - manifold.ndim]).sqrt()
