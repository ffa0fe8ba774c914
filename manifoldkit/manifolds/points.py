"""What a point of a manifold is: shape, dtype, finite, on the manifold within drift."""

import torch
from geoopt.manifolds.base import Manifold
from torch import Tensor

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.linalg.checks import check_finite, check_floating, tolerance
from manifoldkit.linalg.transforms import is_vmapped

#: Numbers that are checked at a time.
_PART = 1 << 20


def point_tolerance(dtype: torch.dtype) -> float:
    """Largest deviation that is taken for the drift of a point in use."""
    if dtype in (torch.float16, torch.bfloat16):
        return 5e-2
    return max(1e-4, tolerance(dtype, 1e4))


def check_manifold_argument(manifold: Manifold) -> Manifold:
    """Raise ``TypeError`` unless the argument is a manifold.

    >>> check_manifold_argument("sphere")
    Traceback (most recent call last):
    TypeError: manifold: expected a geoopt Manifold, found 'sphere'
    """
    if not isinstance(manifold, Manifold):
        raise TypeError(f"manifold: expected a geoopt Manifold, found {manifold!r}")
    return manifold


def check_points(
    manifold: Manifold, points: Tensor, name: str, axis: str = ""
) -> Tensor:
    """Return the plain tensor of points that are finite and on the manifold.

    Parameters
    ----------
    manifold : geoopt.Manifold
        The manifold.
    points : Tensor, shape (..., *point), or (..., m, *point) with ``axis``
        Real numbers in float32 or float64.
    name : str
        The argument, for the message.
    axis : str, default=""
        Letter of an axis of one or more points before the dimensions of a point.

    Returns
    -------
    Tensor
        The points, with their gradient.

    Raises
    ------
    TypeError, ValueError
        Not such a tensor; the message names the first point that is not finite or
        (as ``NotOnManifoldError``) not on the manifold.

    Examples
    --------
    >>> from manifoldkit.manifolds import Sphere
    >>> check_points(Sphere(), torch.ones(2, 3), "x")
    Traceback (most recent call last):
    manifoldkit.exceptions.NotOnManifoldError: x: not points of Sphere(radius=1.0): ...
    """
    check_floating(points, name)
    if points.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: expected float32 or float64, found {points.dtype}")
    ndim = manifold.ndim
    short = points.ndim < ndim + bool(axis)
    if short or (axis and points.shape[-1 - ndim] == 0):
        wanted = f"(..., {axis}, point) with {axis} >= 1" if axis else "(..., point)"
        raise ValueError(
            f"{name}: expected {wanted} points of {ndim} dimensions each, "
            f"found shape {tuple(points.shape)}"
        )
    ok, reason = manifold._check_shape(points.shape, name)
    if not ok:
        raise ValueError(f"{name}: not points of {manifold}: {reason}")
    plain = points.as_subclass(Tensor)
    if is_vmapped():
        return plain
    y = check_finite(plain.detach(), name, ndim)
    tol = point_tolerance(y.dtype)
    event = y.shape[y.ndim - ndim :]
    # in parts, which hold the memory that a check takes
    for part in y.reshape(-1, *event).split(max(1, _PART // max(1, event.numel()))):
        ok, reason = manifold._check_point_on_manifold(part, atol=tol, rtol=tol)
        if not ok:  # whose place is counted in the whole
            reason = manifold._check_point_on_manifold(y, atol=tol, rtol=tol)[1]
            raise NotOnManifoldError(f"{name}: not points of {manifold}: {reason}")
    return plain
