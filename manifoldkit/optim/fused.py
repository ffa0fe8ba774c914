"""Steps of the commonest manifolds in few passes over memory, and the choice of a step.

The classes give what :mod:`manifoldkit.optim.geometry` gives for the same manifolds
(the tests compare them), but write into the points and directions they are handed
instead of new memory: for many small or few large points memory is the cost.
"""

import geoopt
import torch
from geoopt.manifolds.base import Manifold
from torch import Tensor, bmm
from torch.linalg import vector_norm

from manifoldkit.linalg.checks import must_not_look, tolerance
from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.factorizations import cholesky
from manifoldkit.linalg.qr import cholesky_qr
from manifoldkit.manifolds import SPD, Sphere, Stiefel
from manifoldkit.optim.geometry import FrameGeometry, TangentGeometry


class SphereGeometry(TangentGeometry):
    """Unit spheres: add and normalize, project the momentum."""

    def gradient(self, x, frame, egrad):
        """Coordinates of the Riemannian gradient."""
        product = x * egrad
        dot = product.sum(-1, keepdim=True)
        return torch.addcmul(egrad, x, dot, value=-1, out=product)

    project = gradient

    def square(self, x, frame, u):
        """Squared length."""
        return vector_norm(u, dim=-1, keepdim=True).square_()

    def move(self, x, frame, d, m):
        """Normalize x + d; |x + d| >= 1 for a tangent d, so nothing is near zero."""
        y = x.add_(d)
        y.div_(vector_norm(y, dim=-1, keepdim=True))
        if m is not None and self.transport != "none":
            dot = torch.mul(y, m, out=d).sum(-1, keepdim=True)
            m = m.addcmul_(y, dot, value=-1)
        return y, m


class StiefelGeometry(TangentGeometry):
    """Orthonormal columns under the Euclidean metric, QR retraction by Cholesky.

    The Gram matrix is computed from ``x + u`` itself, which also removes the drift
    of x.
    """

    def gradient(self, x, frame, egrad):
        """G - x sym(x'G)."""
        s = bmm(x.mT, egrad)
        return torch.baddbmm(egrad, x, s + s.mT, alpha=-0.5)

    project = gradient

    def square(self, x, frame, u):
        """Squared length."""
        return vector_norm(u, dim=(-2, -1), keepdim=True).square_()

    def move(self, x, frame, d, m):
        """Q of the QR decomposition of x + d, with positive diagonal of R."""
        y = _orthonormalize(x, d)
        if m is not None and self.transport != "none":
            s = bmm(y.mT, m)
            m.baddbmm_(y, s + s.mT, alpha=-0.5)
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
        pd = torch.baddbmm(d, x, bmm(x.mT, d), alpha=-0.5)
        a = bmm(pd, x.mT)
        half = a.sub(a.mT).mul_(0.5)
        gram = bmm(half.mT, half)
        gram.diagonal(dim1=-2, dim2=-1).add_(1)
        low = cholesky(gram)
        v = x if m is None else torch.cat([x, m], -1)
        v = torch.baddbmm(v, half, v)
        v = torch.baddbmm(v, half, v).mT
        # from the right: torch solves rows several times as fast as columns
        v = torch.linalg.solve_triangular(low.mT, v, upper=True, left=False)
        v = torch.linalg.solve_triangular(low, v, upper=False, left=False).mT
        y = v[..., :p]
        y = torch.baddbmm(y, y, bmm(y.mT, y), beta=1.5, alpha=-0.5)
        if m is None or self.transport == "none":
            return y, m
        m = v[..., p:]
        return y, self.project(y, None, m) if self.transport == "project" else m


def _orthonormalize(x: Tensor, d: Tensor) -> Tensor:
    """Q of x + d, from the Gram matrix ``I + E``, cheaply where E is small.

    For a step d from an orthonormal x, ``E = d'd``; drift of x adds to it. Where E^2 is
    below the rounding unit, R is the upper triangle of ``I + E`` with half of E's
    diagonal, and its inverse takes no solve. Every matrix goes its own way, so that
    what is stepped beside it does not change it.
    """
    y = d.add_(x)
    if must_not_look(y):
        return cholesky_qr(y)
    gap = bmm(y.mT, y)
    diagonal = gap.diagonal(dim1=-2, dim2=-1)
    diagonal.sub_(1)
    size = vector_norm(gap, dim=(-2, -1), keepdim=True)
    limit = tolerance(y.dtype, 0.25) ** 0.5
    alike = float(size.amax()) < limit
    small = None if alike else size < limit
    if small is not None and not bool(small.any()):
        return cholesky_qr(y)
    gap.triu_()
    diagonal.mul_(0.5)
    q = torch.baddbmm(y, y, gap, alpha=-1, out=x)
    return q if small is None else torch.where(small, q, cholesky_qr(y))


class AffineGeometry(FrameGeometry):
    r"""SPD matrices under the affine-invariant metric, in the Cholesky frame.

    Steps longer than 0.9, by a bound of the spectral norm of the coordinates D, are
    shortened to it: the second-order :math:`I + D + D^2/2` is near :math:`e^D` up to
    there, and beyond -1 it turns back.
    """

    longest = 0.9

    def frame(self, x):
        """Cholesky factor, NaN where a matrix is not positive definite."""
        return cholesky(x)

    def gradient(self, x, frame, egrad):
        """``L' sym(G) L``."""
        w = bmm(bmm(frame.mT, egrad), frame)
        return w.add(w.mT).mul_(0.5)

    def square(self, x, frame, u):
        """Squared length."""
        return vector_norm(u, dim=(-2, -1), keepdim=True).square_()

    def move(self, x, frame, d, m):
        """``L E L'`` with ``E = I + D + D^2 / 2 = (I + (I + D)^2) / 2``."""
        length = vector_norm(d, dim=(-2, -1), keepdim=True)
        if must_not_look(d) or bool((length > self.longest).any()):
            rows = d.abs().sum(-1, keepdim=True).amax(-2, keepdim=True)
            d.mul_((self.longest / torch.minimum(length, rows)).clamp_max_(1.0))
        d.diagonal(dim1=-2, dim2=-1).add_(1)
        eye = eye_like(d).expand_as(d)
        e = torch.baddbmm(eye, d, d, beta=0.5, alpha=0.5)
        new = bmm(frame, cholesky(e))
        y = bmm(new, new.mT)
        return y.add(y.mT).mul_(0.5), m


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
        if isinstance(manifold, SPD) and manifold.metric == "airm":
            return AffineGeometry(manifold)
        if hasattr(manifold, "frame_retr"):
            return FrameGeometry(manifold)
    geometry = TangentGeometry if exact else _fused(manifold)
    return geometry(manifold, exact, transport)


def _with_retraction(manifold, settings: dict, retraction: str):
    if "retraction" not in settings:
        raise ValueError(
            f'retraction: {manifold} offers "exp" or its own (None), '
            f"found {retraction!r}"
        )
    return type(manifold)(**{**settings, "retraction": retraction})


def _fused(manifold) -> type[TangentGeometry]:
    """Class of the steps along the manifold's own retraction."""
    kind = type(manifold)
    unit = manifold.radius == 1 if kind is Sphere else False
    if unit or (kind is geoopt.Sphere and manifold.projector is None):
        return SphereGeometry
    if kind is geoopt.EuclideanStiefel:
        return StiefelGeometry
    if kind is not Stiefel:
        return TangentGeometry
    fused = {
        ("euclidean", "cholqr"): StiefelGeometry,
        ("canonical", "cayley"): CayleyGeometry,
    }
    return fused.get((manifold.metric, manifold.retraction), TangentGeometry)
