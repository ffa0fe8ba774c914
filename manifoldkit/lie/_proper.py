"""Rotations of matrices that should be rotations.

Data and networks give matrices that are rotations to a few digits only, and reflections
by mistake. The first stand for the nearest rotation, as in SciPy; of the second, and of
whatever has no positive determinant, there is none.
"""

import torch
from torch import Tensor

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.lie.closed_forms.columns import may_look, rows, within
from manifoldkit.lie.closed_forms.newton_polar import polar_rotation
from manifoldkit.lie.closed_forms.procrustes import nearest_rotation
from manifoldkit.linalg.checks import first_index, subscript, tolerance
from manifoldkit.linalg.elementary import eye_like


def proper(r: Tensor, name: str = "r") -> Tensor:
    """Return rotations as they are, and the nearest ones of other matrices.

    Parameters
    ----------
    r : Tensor, shape (..., n, n)
        Rotations, or matrices with a positive determinant. Matrices with NaN give NaN.
    name : str, default="r"
        What an error calls them.

    Returns
    -------
    Tensor, shape (..., n, n)
        With every derivative. Where values cannot be read for nothing (on an
        accelerator, in a traced or transformed function) a matrix without a nearest
        rotation of its own orientation gives NaN instead of an error.

    Raises
    ------
    NotOnManifoldError
        A determinant that is not positive, as that of a reflection.

    Examples
    --------
    >>> proper(torch.tensor([[0.1, -1.0], [1.0, 0.1]])).round(decimals=4)
    tensor([[ 0.0995, -0.9950],
            [ 0.9950,  0.0995]])
    >>> proper(torch.diag(torch.tensor([1.0, 1.0, -1.0])))
    Traceback (most recent call last):
    ...
    manifoldkit.exceptions.NotOnManifoldError: r: expected rotations, found determinant -1, as a reflection has
    """  # noqa: E501
    if r.numel() == 0:
        return r
    look = may_look(r)
    tol = tolerance(r.dtype, 128)
    error = _defect(r.detach())
    if look and within(error, -tol, tol):
        return _with_tangent_derivative(r)
    off = ~(error.abs().amax(0) <= tol).view(r.shape[:-2])
    usable = _has_positive_determinant(r.detach())
    if look:
        _refuse(r.detach(), usable, name)
    usable = usable[..., None, None]
    safe = torch.where(usable, r, eye_like(r))
    near = nearest_rotation(safe)[0] if r.shape[-1] == 2 else polar_rotation(safe)
    near = torch.where(usable, near, torch.nan)
    return torch.where(off[..., None, None], near, _with_tangent_derivative(r))


def _with_tangent_derivative(r: Tensor) -> Tensor:
    """Return rotations with the derivative of the nearest rotation.

    A step of Newton and Schulz: r where r is a rotation, and to first order the
    nearest rotation around it.
    """
    if may_look(r) and not (r.requires_grad and torch.is_grad_enabled()):
        return r
    return (3 * r - r @ (r.mT @ r)) / 2


def _defect(r: Tensor) -> Tensor:
    """Numbers (k, N) that all vanish where, and only where, a matrix is a rotation.

    Of 3 x 3 matrices: the first two rows are unit vectors at a right angle, and the
    third one is their cross product.
    """
    if r.shape[-1] != 3:
        side = torch.where(torch.linalg.det(r) > 0, 0.0, 1.0).to(r.dtype)
        gram = (r @ r.mT - eye_like(r)).reshape(-1, r.shape[-1] ** 2)
        return torch.cat([gram, side.reshape(-1, 1)], -1).mT
    (a, b, c), (d, e, f), (g, h, i) = rows(r, 3, 3).unbind(0)
    return torch.stack(
        [
            a * a + b * b + c * c - 1,
            d * d + e * e + f * f - 1,
            a * d + b * e + c * f,
            b * f - c * e - g,
            c * d - a * f - h,
            a * e - b * d - i,
        ]
    )


def _has_positive_determinant(r: Tensor) -> Tensor:
    """Tell which matrices have a determinant above the rounding of its products."""
    scale = r.abs().amax((-2, -1), keepdim=True)
    unit = r / torch.where(scale > 0, scale, 1.0)
    return torch.linalg.det(unit) > tolerance(r.dtype, r.shape[-1])


def _refuse(r: Tensor, usable: Tensor, name: str) -> None:
    """Raise where a matrix has no rotation of its orientation; NaN passes."""
    bad = ~usable & r.isfinite().all(-1).all(-1)
    if not bool(bad.any()):
        return
    at = first_index(bad)
    det = float(torch.linalg.det(r[at]))
    kind = "as a reflection has" if det < 0 else "as singular matrices have"
    raise NotOnManifoldError(
        f"{name}{subscript(at)}: expected rotations, found determinant "
        f"{det:.3g}, {kind}"
    )
