"""How a batch of points of one manifold moves: the part of a step that is geometry.

An optimizer keeps its momentum in *coordinates*. For most manifolds these are tangent
vectors, and :class:`TangentGeometry` moves them with the manifold's own methods, so
that any ``geoopt.Manifold`` works. Where the manifold has a moving frame, the
transport is free in its coordinates (:class:`FrameGeometry`). The manifolds that
models use most have the same steps in fewer passes over memory:
:mod:`manifoldkit.optim.fused`, which also chooses.

Every method takes whole batches ``(B, *point)``; each row is computed on its own.
"""

from typing import Any

import torch
from geoopt.manifolds.base import Manifold
from torch import Tensor

from manifoldkit.manifolds.base import Manifold as OurManifold
from manifoldkit.manifolds.points import point_tolerance as point_tolerance
from manifoldkit.manifolds.product import Product


class TangentGeometry:
    """Momentum as tangent vectors, moved by the methods of the manifold.

    Parameters
    ----------
    manifold : geoopt.Manifold
        Ours or a foreign one.
    exact : bool
        Move along geodesics instead of by the retraction.
    transport : {"auto", "project", "none"}
        The manifold's own transport, orthogonal projection, or none.
    """

    #: coordinates are tangent vectors (state dicts of geoopt hold these)
    framed = False

    def __init__(self, manifold: Manifold, exact: bool = False, transport="auto"):
        self.manifold = manifold
        self.exact = exact
        self.transport = transport
        #: a row that is not finite neither raises nor reaches the other rows: the
        #: maps of this package keep that, foreign ones may not
        self.isolates_rows = all(
            isinstance(m, OurManifold)
            for m in manifold.modules()
            if isinstance(m, Manifold)
        )

    def frame(self, x: Tensor) -> Tensor | None:
        """What the other methods need of the points; computed once a step."""
        return None

    def gradient(self, x: Tensor, frame, egrad: Tensor) -> Tensor:
        """Coordinates of the Riemannian gradient."""
        if not self.isolates_rows:
            egrad = egrad.clone()  # geoopt's Lorentz changes its argument
        return self.manifold.egrad2rgrad(x, egrad)

    def square(self, x: Tensor, frame, u: Tensor) -> Tensor:
        """Squared length, one number for each point (or factor, or entry)."""
        return self.manifold.component_inner(x, u)

    def lengths(self, x: Tensor, frame, u: Tensor) -> Tensor:
        """Length of every point's coordinates."""
        return self.manifold.inner(x, u, keepdim=True).clamp_min(0).sqrt()

    def project(self, x: Tensor, frame, u: Any) -> Tensor:
        """Nearest coordinates that belong to a tangent vector."""
        return self.manifold.proju(x, u)

    def move(self, x: Tensor, frame, d: Tensor, m: Tensor | None):
        """Return the points one step along ``d``, and momentum ``m`` there."""
        manifold = self.manifold
        if m is None or self.transport != "auto":
            y = (manifold.expmap if self.exact else manifold.retr)(x, d)
            return y, self.project(y, None, m) if self._projects(m) else m
        return (manifold.expmap_transp if self.exact else manifold.retr_transp)(x, d, m)

    def _projects(self, m) -> bool:
        return m is not None and self.transport == "project"

    def encode(self, x: Tensor, frame, v: Tensor) -> Tensor:
        """Coordinates of the tangent vector ``v``."""
        return v

    def decay(self, x: Tensor, rate) -> Tensor | None:
        """Points pulled towards the origin by ``rate``, None if compact."""
        manifold = self.manifold
        if hasattr(manifold, "decay"):
            return manifold.decay(x, rate)
        anchor = self._anchor(x)
        if anchor is None:
            return None
        return manifold.expmap(x, rate * manifold.logmap(x, anchor))

    def decay_gradient(self, x: Tensor, frame) -> Tensor | None:
        """Gradient of half the squared distance to the origin, None if compact."""
        anchor = self._anchor(x)
        return None if anchor is None else -self.manifold.logmap(x, anchor)

    def _anchor(self, x: Tensor) -> Tensor | None:
        if is_compact(self.manifold):
            return None
        if isinstance(self.manifold, Product):
            return self.manifold.decay(x, 1.0)  # where compact factors stay
        origin = self.manifold.origin(*x.shape[1:], dtype=x.dtype, device=x.device)
        return torch.as_tensor(origin.detach()).expand_as(x)

    def follow(self, x: Tensor, y: Tensor, u: Tensor) -> Tensor:
        """Coordinates ``u`` at x carried to y."""
        return self.manifold.transp(x, y, u)

    def stabilize(self, x: Tensor, m: Tensor | None):
        """Return the nearest points of the manifold and the momentum there."""
        y = self.manifold.projx(x)
        return y, None if m is None else self.manifold.proju(y, m)


_COMPACT = ("CanonicalStiefel", "BirkhoffPolytope", "Sphere", "Stiefel")


def is_compact(manifold: Manifold) -> bool:
    """Tell whether weight decay means nothing on the manifold.

    >>> import geoopt
    >>> is_compact(geoopt.Sphere()), is_compact(geoopt.PoincareBall())
    (True, False)
    """
    manifold = getattr(manifold, "base", manifold)
    compact = getattr(manifold, "compact", None)
    if compact is not None:
        return bool(compact)
    factors = getattr(manifold, "manifolds", None)
    if factors is not None:
        return any(is_compact(factor) for factor in factors)
    return any(c.__name__ in _COMPACT for c in type(manifold).__mro__)


class FrameGeometry(TangentGeometry):
    """Momentum in an orthonormal frame that moves with the point.

    The manifold's frame protocol gives the coordinates (``L^-1 u L^-T`` for SPD
    matrices, ``x^-1 u`` in a group, a chart's): their Frobenius norm is the length of
    the vector, and keeping them along a step is an isometric transport.
    """

    framed = True

    def frame(self, x):
        """Frame at the points."""
        return self.manifold.frame(x)

    def gradient(self, x, frame, egrad):
        """Coordinates of the Riemannian gradient."""
        return self.manifold.frame_gradient(frame, egrad)

    def square(self, x, frame, u):
        """Squared length of each point's coordinates."""
        dims = tuple(range(-self.manifold.ndim, 0))
        return (u * u).sum(dims, keepdim=True) if dims else u * u

    def lengths(self, x, frame, u):
        """Length of every point's coordinates."""
        return self.square(x, frame, u).sqrt()

    def project(self, x, frame, u):
        """Orthogonal projection to the coordinates of tangent vectors."""
        tangent = self.manifold.proju(x, self.manifold.from_frame(frame, u))
        return self.manifold.to_frame(frame, tangent)

    def move(self, x, frame, d, m):
        """Step in the frame; the coordinates of the momentum stay."""
        return self.manifold.frame_retr(frame, d)[0], m

    def encode(self, x, frame, v):
        """Coordinates of the tangent vector v."""
        return self.manifold.to_frame(frame, v)

    def decay_gradient(self, x, frame):
        """Coordinates of minus the logarithm of the origin, None if compact."""
        u = super().decay_gradient(x, frame)
        return None if u is None else self.manifold.to_frame(frame, u)

    def follow(self, x, y, u):
        """Coordinates do not change."""
        return u

    def stabilize(self, x, m):
        """Project the points; coordinates are tangent in any frame."""
        return self.manifold.projx(x), m
