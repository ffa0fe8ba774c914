"""Losses, metrics and averages of rotations.

Every loss takes ``reduction="none" | "mean" | "sum"`` and has finite derivatives at
zero error.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from manifoldkit._checks import check_choice, check_count
from manifoldkit.lie._arrays import array_function, check_pair
from manifoldkit.lie._proper import proper
from manifoldkit.lie.closed_forms import so3 as _so3
from manifoldkit.lie.closed_forms.procrustes import nearest_rotation
from manifoldkit.lie.groups.rotation_maps import rotation_log, skew_exp
from manifoldkit.lie.rotation import geodesic_distance
from manifoldkit.linalg.checks import (
    check_broadcast,
    check_floating,
    check_last,
    check_square,
    check_weights,
    common_dtype,
)


class Registration(NamedTuple):
    """A similarity transform ``x -> scale * r x + t``, found by :func:`register`.

    Examples
    --------
    >>> x = torch.eye(3)
    >>> register(x, x + 1).t
    tensor([1., 1., 1.])
    """

    scale: Tensor
    r: Tensor
    t: Tensor


def _reduce(value: Tensor, reduction: str) -> Tensor:
    check_choice(reduction, ("none", "mean", "sum"), "reduction")
    if reduction == "mean":
        return value.mean()
    return value.sum() if reduction == "sum" else value


def _pair(a: Tensor, b: Tensor) -> Tensor:
    check_pair(a, b)
    return a - b


@array_function
def geodesic_loss(
    a: Tensor, b: Tensor, *, reduction: str = "mean", degrees: bool = False
) -> Tensor:
    """Angle between rotations; see :func:`manifoldkit.lie.rotation.geodesic_distance`.

    Parameters
    ----------
    a, b : Tensor, shape (..., n, n)
    reduction : {"mean", "sum", "none"}
    degrees : bool, default=False

    Returns
    -------
    Tensor

    Examples
    --------
    >>> r = torch.diag(torch.tensor([-1., -1., 1.]))
    >>> round(geodesic_loss(torch.eye(3), r, degrees=True).item(), 3)
    180.0
    """
    return _reduce(geodesic_distance(a, b, degrees=degrees), reduction)


@array_function
def chordal_loss(
    a: Tensor, b: Tensor, *, reduction: str = "mean", squared: bool = False
) -> Tensor:
    """Frobenius distance ``|a - b|``, or its square.

    Parameters
    ----------
    a, b : Tensor, shape (..., n, n)
    reduction : {"mean", "sum", "none"}
    squared : bool, default=False

    Returns
    -------
    Tensor

    Examples
    --------
    >>> half = torch.diag(torch.tensor([-1., -1., 1.]))
    >>> chordal_loss(torch.eye(3), half, squared=True)
    tensor(8.)
    """
    difference = _pair(a, b).flatten(-2)
    value = (difference * difference).sum(-1)
    return _reduce(value if squared else _so3.safe_norm(difference), reduction)


@array_function
def log_cosh_loss(a: Tensor, b: Tensor, *, reduction: str = "mean") -> Tensor:
    """Mean over entries of ``log cosh(a - b)``, computed without overflow.

    Parameters
    ----------
    a, b : Tensor, shape (..., n, n)
    reduction : {"mean", "sum", "none"}

    Returns
    -------
    Tensor

    Examples
    --------
    >>> log_cosh_loss(torch.eye(3), torch.eye(3))
    tensor(0.)
    """
    x = _pair(a, b).abs()
    value = x + torch.nn.functional.softplus(-2 * x) - math.log(2)
    return _reduce(value.mean((-2, -1)), reduction)


@array_function
def rotvec_loss(a: Tensor, b: Tensor, *, reduction: str = "mean") -> Tensor:
    """Distance of rotation vectors, ``|log a - log b|`` (not continuous at pi).

    Parameters
    ----------
    a, b : Tensor, shape (..., 3, 3)
    reduction : {"mean", "sum", "none"}

    Returns
    -------
    Tensor

    Examples
    --------
    >>> half = torch.diag(torch.tensor([-1., -1., 1.]))
    >>> rotvec_loss(torch.eye(3), half)
    tensor(3.1416)
    """
    check_pair(a, b)
    check_square(a, "a", 3)
    first, second = common_dtype(a, b)
    first = _so3.log_so3(proper(first, "a"))
    second = _so3.log_so3(proper(second, "b"))
    return _reduce(_so3.safe_norm(first - second), reduction)


@array_function
def quaternion_loss(p: Tensor, q: Tensor, *, reduction: str = "mean") -> Tensor:
    """``min(|q - p|, |q + p|)`` of unit quaternions, in either order.

    Parameters
    ----------
    p, q : Tensor, shape (..., 4)
    reduction : {"mean", "sum", "none"}

    Returns
    -------
    Tensor

    Examples
    --------
    >>> q = torch.tensor([1., 0., 0., 0.])
    >>> quaternion_loss(q, -q).item()
    0.0
    """
    check_last(p, (4,), "p")
    check_last(q, (4,), "q")
    check_broadcast(p=(p, 1), q=(q, 1))
    near = torch.minimum(_so3.safe_norm(q - p), _so3.safe_norm(q + p))
    return _reduce(near, reduction)


@array_function
def alignment_loss(
    a: Tensor, b: Tensor, points: Tensor, *, reduction: str = "mean"
) -> Tensor:
    """Mean distance of points turned by ``a`` and by ``b`` (ADD).

    Parameters
    ----------
    a, b : Tensor, shape (..., n, n)
    points : Tensor, shape (..., N, n)
    reduction : {"mean", "sum", "none"}

    Returns
    -------
    Tensor

    Examples
    --------
    >>> half = torch.diag(torch.tensor([-1., -1., 1.]))
    >>> alignment_loss(torch.eye(3), half, torch.tensor([[1., 0., 0.], [0., 0., 1.]]))
    tensor(1.)
    """
    check_pair(a, b)
    check_last(points, ("N", a.shape[-1]), "points")
    check_broadcast(a=(a, 2), b=(b, 2), points=(points, 2))
    points, turn = common_dtype(points, _pair(a, b))
    moved = points @ turn.mT
    return _reduce(_so3.safe_norm(moved).mean(-1), reduction)


@array_function
def chordal_mean(r: Tensor, weights: Tensor | None = None) -> Tensor:
    """Rotation nearest to the weighted arithmetic mean.

    Parameters
    ----------
    r : Tensor, shape (..., m, n, n)
        Rotations.
    weights : Tensor, shape (m,) or (..., m), optional
        Not negative, not all zero; equal by default.

    Returns
    -------
    Tensor, shape (..., n, n)

    Examples
    --------
    >>> chordal_mean(torch.eye(3).expand(4, 3, 3))
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    check_square(r, "r")
    return nearest_rotation(_weighted(proper(r), weights))[0]


def _weighted(r: Tensor, weights: Tensor | None) -> Tensor:
    check_square(r, "r")
    if r.ndim < 3 or r.shape[-3] == 0:
        raise ValueError(f"r: expected shape (..., m, n, n), found {tuple(r.shape)}")
    if weights is None:
        return r.mean(-3)
    w = _normalized(weights, r.shape[-3], r=(r, 3)).to(r.dtype)
    return (r * w[..., None, None]).sum(-3)


def _normalized(weights: Tensor, size: int, **items: tuple[Tensor, int]) -> Tensor:
    """Weights of sum one, for batches of so many items."""
    check_weights(weights, size)
    check_broadcast(weights=(weights, 1), **items)
    return weights / weights.sum(-1, keepdim=True)


@array_function
def karcher_mean(
    r: Tensor, weights: Tensor | None = None, *, steps: int = 16
) -> Tensor:
    """Rotation with the least weighted sum of squared angles.

    Newton-like steps ``R <- R exp(mean log(R' r_i))`` from the chordal mean; unique for
    rotations within 90 degrees of a common one.

    Parameters
    ----------
    r : Tensor, shape (..., m, n, n)
        Rotations.
    weights : Tensor, shape (m,) or (..., m), optional
        Not negative, not all zero; equal by default.
    steps : int, default=16
        Number of steps.

    Returns
    -------
    Tensor, shape (..., n, n)

    Examples
    --------
    >>> from manifoldkit.lie.rotation import matrix_to_rotvec, rotvec_to_matrix
    >>> turns = torch.tensor([[0., 0., 0.2], [0., 0., 0.4]])
    >>> matrix_to_rotvec(karcher_mean(rotvec_to_matrix(turns)))
    tensor([0.0000, 0.0000, 0.3000])
    """
    check_count(steps, "steps", 0)
    r = proper(check_square(r, "r"))
    mean = chordal_mean(r, weights)
    for _ in range(steps):
        logs = rotation_log(mean.mT[..., None, :, :] @ r)
        mean = mean @ skew_exp(_weighted(logs, weights))
    return mean


@array_function
def register(
    source: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    *,
    scale: bool = False,
) -> Registration:
    """Similarity transform that best maps points to points (weighted Procrustes).

    Minimizes ``sum w_i |scale * r x_i + t - y_i|^2`` over rotations, translations and,
    if asked, scales.

    Parameters
    ----------
    source, target : Tensor, shape (..., N, n)
        Points in rows.
    weights : Tensor, shape (N,) or (..., N), optional
        Not negative, not all zero; equal by default.
    scale : bool, default=False
        Find a scale too; otherwise it is one.

    Returns
    -------
    Registration
        ``scale`` (...), ``r`` (..., n, n), ``t`` (..., n).

    References
    ----------
    Umeyama, PAMI 1991.

    Examples
    --------
    >>> x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    >>> fit = register(x, 2 * x + 1, scale=True)
    >>> round(fit.scale.item(), 4), [round(v, 3) for v in fit.t.tolist()]
    (2.0, [1.0, 1.0, 1.0])
    """
    check_floating(source, "source")
    check_floating(target, "target")
    if source.ndim < 2 or source.shape != target.shape or not source.shape[-2]:
        raise ValueError(
            "source, target: expected equal shapes (..., N, n), N >= 1, found "
            f"{tuple(source.shape)} and {tuple(target.shape)}"
        )
    source, target = common_dtype(source, target)
    size = source.shape[-2]
    w = source.new_ones(size) if weights is None else weights
    w = _normalized(w, size, source=(source, 2)).to(source.dtype)[..., None]
    middle, aim = ((w * p).sum(-2, keepdim=True) for p in (source, target))
    x, unit_x = _of_size_one(source - middle)
    y, unit_y = _of_size_one(target - aim)
    cross = (w * y).mT @ x
    r = nearest_rotation(cross)[0]
    s = 0 * r[..., 0, 0] + 1  # not a number where the points are not
    if scale:
        size_of = (w * x * x).sum((-2, -1))
        s = (r * cross).sum((-2, -1)) / torch.where(size_of == 0, 1.0, size_of)
        s = s * (unit_y / unit_x)
    t = aim[..., 0, :] - s[..., None] * (r @ middle.mT)[..., 0]
    return Registration(s, r, t)


def _of_size_one(x: Tensor) -> tuple[Tensor, Tensor]:
    """Divide by the largest entry, so that squares are finite in every unit."""
    unit = x.detach().abs().amax((-2, -1))
    unit = torch.where(unit > 0, unit, 1.0)
    return x / unit[..., None, None], unit
