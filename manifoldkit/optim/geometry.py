"""How a batch of points of one manifold moves: the part of a step that is geometry.

An optimizer keeps its momentum in *coordinates*. For most manifolds these are tangent
vectors, and :class:`TangentGeometry` moves them with the manifold's own methods, so
that any ``geoopt.Manifold`` works. Where the manifold has a moving frame, the
transport is free in its coordinates (:class:`FrameGeometry`). :class:`SphereGeometry`
and :class:`StiefelGeometry` are the tangent form in fewer passes over memory.

Every method takes whole batches ``(B, *point)``; each row is computed on its own.
"""

from typing import Any

import geoopt
import torch
from geoopt.manifolds.base import Manifold
from torch import Tensor

from manifoldkit.linalg.checks import tolerance
from manifoldkit.linalg.qr import cholesky_qr
from manifoldkit.manifolds import SPD, Sphere, Stiefel
from manifoldkit.manifolds.base import Manifold as OurManifold


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

    def total_square(self, x: Tensor, frame, u: Tensor) -> Tensor:
        """Sum of the squared lengths of all points."""
        return self.manifold.inner(x, u, keepdim=True).sum()

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

    def total_square(self, x, frame, u):
        """Sum of the squared lengths."""
        return u.square().sum()

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


class SphereGeometry(TangentGeometry):
    """Unit spheres: add and normalise, project the momentum."""

    @staticmethod
    def _dot(x: Tensor, u: Tensor) -> Tensor:
        return (x * u).sum(-1, keepdim=True)

    def gradient(self, x, frame, egrad):
        """Coordinates of the Riemannian gradient."""
        return torch.addcmul(egrad, x, self._dot(x, egrad), value=-1)

    project = gradient

    def square(self, x, frame, u):
        """Squared length."""
        return self._dot(u, u)

    def total_square(self, x, frame, u):
        """Sum of the squared lengths."""
        return u.square().sum()

    def move(self, x, frame, d, m):
        """Normalise x + d; |x + d| >= 1 for a tangent d, so nothing is near zero."""
        y = x + d
        y.div_(torch.linalg.vector_norm(y, dim=-1, keepdim=True))
        if m is not None and self.transport != "none":
            m = m.addcmul_(y, self._dot(y, m), value=-1)
        return y, m


class StiefelGeometry(TangentGeometry):
    """Orthonormal columns under the Euclidean metric, QR retraction by Cholesky.

    The Gram matrix is computed from ``x + u`` itself, which also removes the drift
    of x.
    """

    def gradient(self, x, frame, egrad):
        """G - x sym(x'G)."""
        s = x.mT @ egrad
        return torch.baddbmm(egrad, x, s + s.mT, alpha=-0.5)

    project = gradient

    def square(self, x, frame, u):
        """Squared length."""
        return torch.linalg.vector_norm(u, dim=(-2, -1), keepdim=True).square_()

    def total_square(self, x, frame, u):
        """Sum of the squared lengths."""
        return u.square().sum()

    def move(self, x, frame, d, m):
        """Q of the QR decomposition of x + d, with positive diagonal of R."""
        y = _orthonormalize(x + d, d)
        if m is not None and self.transport != "none":
            m = self.gradient(y, None, m)
        return y, m


class CayleyGeometry(TangentGeometry):
    r"""Orthonormal columns under the canonical metric, Cayley step, p > n / 4.

    With the skew :math:`W = Pux' - xu'P, P = I - xx'/2`, the Cayley transform is
    :math:`(I - W/2)^{-1}(I + W/2) = (I + W'W/4)^{-1}(I + W/2)^2`: a Cholesky solve,
    half the time of the LU solve of the manifold's own method.
    """

    def move(self, x, frame, d, m):
        """Rotate the points and the momentum."""
        n, p = x.shape[-2:]
        if 4 * p <= n:
            return super().move(x, frame, d, m)  # Woodbury, with matrices of size 2p
        pd = torch.baddbmm(d, x, x.mT @ d, alpha=-0.5)
        a = pd @ x.mT
        half = (a - a.mT).mul_(0.5)
        gram = half.mT @ half
        gram.diagonal(dim1=-2, dim2=-1).add_(1)
        low, info = torch.linalg.cholesky_ex(gram)
        low = torch.where((info == 0)[..., None, None], low, torch.nan)
        v = x if m is None else torch.cat([x, m], -1)
        v = torch.baddbmm(v, half, v)
        v = torch.baddbmm(v, half, v).mT
        # from the right: torch solves rows several times as fast as columns
        v = torch.linalg.solve_triangular(low.mT, v, upper=True, left=False)
        v = torch.linalg.solve_triangular(low, v, upper=False, left=False).mT
        y = v[..., :p]
        y = torch.baddbmm(y, y, y.mT @ y, beta=1.5, alpha=-0.5)
        if m is None or self.transport == "none":
            return y, m
        m = v[..., p:]
        return y, self.project(y, None, m) if self.transport == "project" else m


def _orthonormalize(y: Tensor, d: Tensor) -> Tensor:
    """Q of y = x + d, in one pass of Cholesky-QR where all steps d are short.

    The Gram matrix ``I + d'd`` then has a condition below 2.
    """
    short = y.device.type == "cpu" and not torch.compiler.is_compiling()
    if not (short and bool(torch.linalg.vector_norm(d, dim=(-2, -1)).max() < 1)):
        return cholesky_qr(y)
    low, _ = torch.linalg.cholesky_ex(y.mT @ y)
    return torch.linalg.solve_triangular(low.mT, y, upper=True, left=False)


def point_tolerance(dtype: torch.dtype) -> float:
    """Largest deviation that is taken for the drift of a point in use."""
    if dtype in (torch.float16, torch.bfloat16):
        return 5e-2
    return max(1e-4, tolerance(dtype, 1e4))


def geometry_of(manifold: Manifold, retraction: str | None = None, transport="auto"):
    """Choose the geometry that steps points of a manifold fastest.

    Parameters
    ----------
    manifold : geoopt.Manifold
        Ours or a foreign one.
    retraction : str, optional
        ``"exp"`` for geodesics, or a retraction that the manifold's class offers.
    transport : {"auto", "project", "none"}
        How momentum follows the point.

    Raises
    ------
    ValueError
        The manifold has no such retraction.
    """
    settings = manifold.settings() if hasattr(manifold, "settings") else {}
    exact = retraction == "exp" and "retraction" not in settings
    if retraction is not None and not exact:
        manifold = _with_retraction(manifold, settings, retraction)
    if transport == "auto" and not exact:
        if type(manifold) is geoopt.SymmetricPositiveDefinite:
            manifold = SPD("airm")
        if hasattr(manifold, "frame_retr"):
            return FrameGeometry(manifold)
    if not exact and _is_unit_sphere(manifold):
        return SphereGeometry(manifold, transport=transport)
    if not exact and _is_euclidean_stiefel(manifold):
        return StiefelGeometry(manifold, transport=transport)
    if not exact and _is_cayley_stiefel(manifold):
        return CayleyGeometry(manifold, transport=transport)
    return TangentGeometry(manifold, exact, transport)


def _with_retraction(manifold, settings: dict, retraction: str):
    if "retraction" not in settings:
        raise ValueError(
            f'retraction: {manifold} offers "exp" or its own (None), '
            f"found {retraction!r}"
        )
    return type(manifold)(**{**settings, "retraction": retraction})


def _is_unit_sphere(manifold) -> bool:
    if type(manifold) is geoopt.Sphere:
        return manifold.projector is None
    return type(manifold) is Sphere and manifold.radius == 1


def _is_cayley_stiefel(manifold) -> bool:
    if type(manifold) is not Stiefel or manifold.metric != "canonical":
        return False
    return manifold.retraction == "cayley"


def _is_euclidean_stiefel(manifold) -> bool:
    if type(manifold) is geoopt.EuclideanStiefel:
        return True
    if type(manifold) is not Stiefel or manifold.metric != "euclidean":
        return False
    return manifold.retraction == "cholqr"
