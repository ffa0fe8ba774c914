"""Spheres: one a vector, or one a column of a matrix (oblique manifold)."""

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm

from manifoldkit._checks import check_positive
from manifoldkit.linalg.checks import maybe_any, tolerance
from manifoldkit.linalg.elementary import safe_sqrt
from manifoldkit.manifolds.base import Manifold, sample_normal


class Sphere(Manifold):
    r"""Sphere of radius r in the last dimension.

    Tangent vectors satisfy :math:`x'u = 0`; the metric is that of the ambient space.

    Parameters
    ----------
    radius : float, default=1.0
        Positive.

    Raises
    ------
    ValueError
        The radius is not positive and finite.

    Notes
    -----
    Between antipodal points all great circles are equally short. ``logmap(x, -x)`` and
    ``parallel_transport(x, -x, v)`` take the one through the tangent part of the unit
    vector on which x has its smallest entry: a vector of length pi r, at whose end
    ``expmap`` is the antipode.

    Examples
    --------
    >>> x, y = torch.tensor([1., 0.]), torch.tensor([0., 1.])
    >>> Sphere().logmap(x, y)
    tensor([0.0000, 1.5708])
    """

    name = "Sphere"
    ndim = 1
    compact = True
    _dim = -1

    def __init__(self, radius: float = 1.0):
        super().__init__()
        self.radius = check_positive(radius, "radius")

    def _dot(self, u, v):
        return (u * v).sum(self._dim, keepdim=True)

    def _length(self, u):
        return vector_norm(u, dim=self._dim, keepdim=True)

    def _check_shape(self, shape, name):
        if len(shape) < self.ndim or shape[self._dim] < 2:
            return False, (
                f"{name}: expected at least 2 entries along dimension {self._dim}, "
                f"found shape {tuple(shape)}"
            )
        return True, None

    def _violation(self, x):
        gap = (self._length(x) / self.radius - 1).abs()
        return gap.flatten(-self.ndim).amax(-1), "the relative error of the norm |x|"

    def component_inner(self, x: Tensor, u: Tensor, v: Tensor | None = None) -> Tensor:
        """Inner product per sphere."""
        return self._dot(u, u if v is None else v)

    def inner(
        self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False
    ) -> Tensor:
        """Return ``u'v``, summed over the spheres of a point."""
        total = (u * (u if v is None else v)).flatten(-self.ndim).sum(-1)
        return total[(...,) + (None,) * self.ndim] if keepdim else total

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Return ``u - x (x'u) / r^2``."""
        return u - x * (self._dot(x, u) / self.radius**2)

    egrad2rgrad = proju

    def projx(self, x: Tensor) -> Tensor:
        """Scale to the radius; the zero vector goes to the origin."""
        length = self._length(x)
        safe = torch.where(length == 0, torch.ones_like(length), length)
        fallback = self._origin(x.shape, x.dtype, x.device)
        return torch.where(length == 0, fallback, x * (self.radius / safe))

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """Scale ``x + u`` to the radius (second order)."""
        y = x + u
        return y * (self.radius / self._length(y))

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Great circle ``x cos t + (r u / |u|) sin t``, ``t = |u| / r``."""
        t = self._length(u) / self.radius
        y = x * t.cos() + u * torch.sinc(t / math.pi)
        return y * (self.radius / self._length(y))

    def _angle(self, x, y):
        """Angle, accurate from 0 to pi."""
        return 2 * torch.atan2(self._length(x - y), self._length(x + y))

    def _any_direction(self, x: Tensor) -> Tensor:
        """Unit tangent vector at x that depends on x alone."""
        index = x.detach().abs().argmin(self._dim, keepdim=True)
        e = torch.zeros_like(x).scatter(self._dim, index, 1.0)
        u = self.proju(x, e)
        return u / self._length(u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``t / sin t`` times the tangent part of y; see the notes on -x."""
        same_side = self._dot(x, y) > 0
        # the tangent part of y, without the cancellation that y has near x and -x
        p = self.proju(x, torch.where(same_side, y - x, y + x))
        sine = self._length(p) / self.radius
        near = (sine < 1e-4) & same_side
        antipode = (sine < tolerance(p.dtype, 8)) & ~same_side
        angle = self._angle(x, torch.where(near, -y, y))
        ratio = angle / torch.where(near | antipode, 1.0, sine)
        ratio = torch.where(near, 1 + self._dot(p, p) / (6 * self.radius**2), ratio)
        if maybe_any(antipode):
            p = torch.where(antipode, self.radius * self._any_direction(x), p)
        return p * ratio

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Return r times the angle; over columns, the root of the sum of squares."""
        angle = self.radius * self._angle(x, y)
        total = safe_sqrt((angle**2).flatten(-self.ndim).sum(-1))
        return total[(...,) + (None,) * self.ndim] if keepdim else total

    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport along the shortest great circle, an isometry."""
        total = x + y
        scale = self.radius**2 + self._dot(x, y)
        antipode = self._length(total) < tolerance(x.dtype, 8) * self.radius
        moved = v - total * (self._dot(y, v) / torch.where(antipode, 1.0, scale))
        if maybe_any(antipode):
            u = self._any_direction(x)
            moved = torch.where(antipode, v - 2 * u * self._dot(u, v), moved)
        return moved

    def _sample(self, shape, generator, dtype, device):
        x = sample_normal(shape, generator, dtype, device)
        return self.projx(x)

    def _origin(self, shape, dtype, device):
        x = torch.zeros(shape, dtype=dtype, device=device)
        x.select(self._dim, 0).fill_(self.radius)
        return x


class Oblique(Sphere):
    r"""Matrices whose columns lie on spheres of radius r: a product of spheres.

    Parameters
    ----------
    radius : float, default=1.0
        Norm of every column.

    Examples
    --------
    >>> x = Oblique().random(3, 5, generator=torch.Generator().manual_seed(0))
    >>> torch.linalg.norm(x.data, dim=0)
    tensor([1., 1., 1., 1., 1.])
    """

    name = "Oblique"
    ndim = 2
    _dim = -2
