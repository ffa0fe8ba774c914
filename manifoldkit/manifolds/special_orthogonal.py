"""Rotation matrices of any size."""

import math

import torch
from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.linalg import procrustes
from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.qr import qr_factor
from manifoldkit.linalg.rotation_log import logm_rotation
from manifoldkit.manifolds.base import (
    SquareMatrixManifold,
    sample_normal,
    trace_product,
)
from manifoldkit.manifolds.stiefel.maps import orthonormality_gap, polish

_RETRACTIONS = ("cayley", "qr", "exp")


def skew(a: Tensor) -> Tensor:
    """Return the skew part ``(a - a') / 2``."""
    return (a - a.mT) / 2


class SpecialOrthogonal(SquareMatrixManifold):
    r"""Rotations SO(n): :math:`x'x = I, \det x = 1`.

    The metric is :math:`\operatorname{tr} u'v`. Tangent vectors are x times a skew
    matrix. Every map multiplies x by a rotation, so the determinant stays +1.

    Parameters
    ----------
    retraction : {"cayley", "qr", "exp"}, default="cayley"
        x times the Cayley transform (second order), the QR factor (first order) or the
        exponential of :math:`x'u`.
    scale : {"frobenius", "angle"}, default="frobenius"
        Length of the metric: the Frobenius norm, or that divided by :math:`\sqrt 2`,
        which for n = 3 is the angle of rotation.

    Raises
    ------
    ValueError
        Unknown retraction or scale.

    Examples
    --------
    >>> quarter = torch.tensor([[0., -1., 0.], [1., 0., 0.], [0., 0., 1.]])
    >>> SpecialOrthogonal(scale="angle").dist(torch.eye(3), quarter)
    tensor(1.5708)
    """

    name = "SpecialOrthogonal"
    compact = True

    def __init__(self, retraction: str = "cayley", scale: str = "frobenius"):
        super().__init__()
        self.retraction = check_choice(retraction, _RETRACTIONS, "retraction")
        self.reversible = retraction != "qr"
        self.scale = check_choice(scale, ("frobenius", "angle"), "scale")
        # the frame of unit length: length = _unit * Frobenius norm
        self._unit = 1.0 if scale == "frobenius" else math.sqrt(0.5)

    def _violation(self, x):
        gap = orthonormality_gap(x)
        reflection = torch.linalg.det(x) < 0
        return torch.where(reflection, 2.0, gap), "max|x'x - I| (2 for a reflection)"

    def inner(
        self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False
    ) -> Tensor:
        """``tr u'v``, halved for ``scale="angle"``."""
        return trace_product(u, u if v is None else v, keepdim) * self._unit**2

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Return ``x skew(x'u)``."""
        return x @ skew(x.mT @ u)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """Riemannian gradient, ``x skew(x'u)`` over the scale of the metric."""
        return self.proju(x, u) / self._unit**2

    def projx(self, x: Tensor) -> Tensor:
        """Nearest rotation (for a reflection, the one that flips the least)."""
        return procrustes(eye_like(x), x, special=True)

    def _move(self, x: Tensor, a: Tensor, kind: str) -> Tensor:
        """Multiply x by the rotation of the skew matrix a."""
        if kind == "exp":
            return polish(x @ torch.linalg.matrix_exp(a))
        eye = eye_like(a)
        if kind == "qr":
            return polish(x @ qr_factor(eye + a))
        rotation = torch.linalg.solve_ex(eye - a / 2, eye + a / 2)[0]
        return polish(x @ rotation)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """Step by the retraction chosen."""
        return self._move(x, skew(x.mT @ u), self.retraction)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Geodesic ``x expm(x'u)``."""
        return self._move(x, skew(x.mT @ u), "exp")

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``x log(x'y)``."""
        return x @ logm_rotation(x.mT @ y)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Norm of ``log(x'y)``."""
        return self.norm(x, logm_rotation(x.mT @ y), keepdim=keepdim)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Left translation ``y x'v``, an isometry."""
        return y @ (x.mT @ v)

    def frame(self, x: Tensor) -> Tensor:
        """Return x itself: coordinates are the skew matrices ``x'u``."""
        return x

    def frame_gradient(self, frame: Tensor, egrad: Tensor) -> Tensor:
        """Coordinates ``skew(x'G)`` in the unit frame."""
        return skew(frame.mT @ egrad) / self._unit

    def frame_retr(self, frame: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """Step; the new frame is the new point."""
        y = self._move(frame, skew(d) / self._unit, self.retraction)
        return y, y

    def to_frame(self, frame: Tensor, u: Tensor) -> Tensor:
        """Return ``x'u`` in units of the metric."""
        return frame.mT @ u * self._unit

    def from_frame(self, frame: Tensor, d: Tensor) -> Tensor:
        """Return ``x d`` in units of the ambient space."""
        return frame @ d / self._unit

    def _sample(self, shape, generator, dtype, device):
        x = sample_normal(shape, generator, dtype, device)
        q = qr_factor(x)
        # Haar on O(n); flipping one column of the reflections gives Haar on SO(n)
        sign = torch.linalg.det(q).sign()
        return torch.cat([q[..., :1] * sign[..., None, None], q[..., 1:]], -1)
