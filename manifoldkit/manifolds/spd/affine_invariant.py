"""Affine-invariant metric, in the frame of the Cholesky factor."""

import torch
from torch import Tensor

from manifoldkit.linalg import eigh, expm, logm, spectral, sqrtm, symmetrize
from manifoldkit.linalg.checks import maybe_any, tolerance
from manifoldkit.linalg.elementary import eye_like, safe_sqrt
from manifoldkit.linalg.factorizations import cholesky, eigvalsh
from manifoldkit.linalg.symmetric import apply_spectral
from manifoldkit.manifolds.base import trace_product
from manifoldkit.manifolds.spd.affine_mean import affine_mean
from manifoldkit.manifolds.spd.common import SPD, color, whiten


class _PlainLog(spectral.Log):
    """The logarithm of eigenvalues that are accurate already, the small ones too."""

    sees_small_eigenvalues = False

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        """f[a, b], also where (a - b) / (a + b) rounds to one."""
        wide = torch.maximum(a, b) > 3 * torch.minimum(a, b)
        quotient = (a.log() - b.log()) / torch.where(wide, a - b, 1.0)
        return torch.where(wide, quotient, super().first(a, torch.where(wide, a, b)))


def _log_whitened(factor: Tensor, y: Tensor) -> Tensor:
    """Logarithm of ``L^-1 y L^-T``.

    Rounding of that product drowns eigenvalues below eps times the largest; where one
    comes near, they are squared singular values of ``L^-1 chol(y)``, which are not.
    """
    w = whiten(factor, y)
    s, u = eigh(w)
    rough = _rough(s)
    if torch.compiler.is_compiling() or not maybe_any(rough):
        return logm(w, eig=(s, u))
    half, finite = _half_whitened(factor, y)
    vectors, singular, _ = torch.linalg.svd(half)
    good = (rough & finite)[..., None]
    s = torch.where(good, singular**2, s)
    u = torch.where(good[..., None], vectors, u)
    # the other matrices keep logm, which corrects its eigenvalues by their residual
    plain = apply_spectral(w, _PlainLog(), (s, u))
    log = logm(torch.where(good[..., None], eye_like(w), w), eig=(s, u))
    return torch.where(good[..., None], plain, log)


def _rough(s: Tensor) -> Tensor:
    """Tell where rounding may have spoilt the smallest of ascending eigenvalues."""
    return ~(s[..., 0] > 1e4 * tolerance(s.dtype) * s[..., -1])


def _half_whitened(factor: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``L^-1 chol(y)`` without gradient, and where it is finite (else I)."""
    with torch.no_grad():
        half = torch.linalg.solve_triangular(factor, cholesky(y), upper=False)
        finite = half.isfinite().flatten(-2).all(-1)
        return torch.where(finite[..., None, None], half, eye_like(half)), finite


class AffineInvariantSPD(SPD):
    r"""Metric :math:`\operatorname{tr} x^{-1}u x^{-1}v`.

    With :math:`x = LL'` every map is one of the whitened matrix
    :math:`L^{-1}uL^{-T}`, whose Frobenius norm is the length of u.
    """

    def inner(
        self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False
    ) -> Tensor:
        """``tr x^-1 u x^-1 v``."""
        factor = cholesky(x)
        a = whiten(factor, u)
        return trace_product(a, a if v is None else whiten(factor, v), keepdim)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """``x sym(u) x``."""
        return symmetrize(x @ symmetrize(u) @ x)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """``x + u + u x^-1 u / 2``: second order, positive definite for every u."""
        w = torch.linalg.solve_triangular(cholesky(x), u, upper=False)
        return symmetrize(x + u + w.mT @ w / 2)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Geodesic ``L expm(L^-1 u L^-T) L'``."""
        factor = cholesky(x)
        return color(factor, expm(whiten(factor, u)))

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """``L logm(L^-1 y L^-T) L'``."""
        factor = cholesky(x)
        return color(factor, _log_whitened(factor, y))

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Root of the sum of squared logarithms of the eigenvalues of ``x^-1 y``."""
        factor = cholesky(x)
        w = whiten(factor, y)
        if torch.is_grad_enabled() and w.requires_grad:
            # its second derivatives exist at repeated eigenvalues
            log = _log_whitened(factor, y)
        else:
            s = eigvalsh(w)
            rough = _rough(s)
            if not torch.compiler.is_compiling() and maybe_any(rough):
                half, finite = _half_whitened(factor, y)
                exact = torch.linalg.svdvals(half) ** 2
                s = torch.where((rough & finite)[..., None], exact, s)
            log = s.log().diag_embed()
        return safe_sqrt(trace_product(log, log, keepdim))

    def weighted_mean(
        self,
        points: Tensor,
        weights: Tensor,
        tol: float | None,
        max_iter: int,
        init: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """Means by Newton's method, which :func:`~manifoldkit.optim.karcher_mean` asks.

        Parameters
        ----------
        points : Tensor, shape (..., m, n, n)
            SPD matrices.
        weights : Tensor, shape (..., m)
            Weights of sum one.
        tol, max_iter, init
            The options of ``karcher_mean``.

        Returns
        -------
        tuple
            What :class:`~manifoldkit.optim.KarcherMean` holds.
        """
        if tol is None:
            tol = tolerance(points.dtype, 1 if points.dtype == torch.float32 else 4096)
        return affine_mean(points, weights, init, tol, max_iter)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport ``E v E'``, ``E = (y x^-1)^(1/2)``."""
        factor = cholesky(x)
        return color(factor @ sqrtm(whiten(factor, y)), whiten(factor, v))

    def retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Step and carry v along in the Cholesky frame, an isometry."""
        factor = cholesky(x)
        y, new = self.frame_retr(factor, whiten(factor, u))
        return y, color(new, whiten(factor, v))

    def transp_follow_retr(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Transport v along the retraction of u."""
        return self.retr_transp(x, u, v)[1]

    def decay(
        self, x: Tensor, rate: float | Tensor, anchor: Tensor | None = None
    ) -> Tensor:
        """``x^(1 - rate)``, or the geodesic to the anchor."""
        if anchor is not None:
            return self.geodesic(rate, x, anchor)
        return expm((1 - rate) * logm(x))

    def frame(self, x: Tensor) -> Tensor:
        """Cholesky factor L."""
        return cholesky(x)

    def frame_gradient(self, frame: Tensor, egrad: Tensor) -> Tensor:
        """``L' sym(G) L``."""
        w = frame.mT @ symmetrize(egrad) @ frame
        return (w + w.mT) / 2

    def frame_retr(self, frame: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """Step ``L E L'``, ``E = I + D + D^2 / 2``; the new frame is ``L chol(E)``."""
        eye = eye_like(d)
        d = symmetrize(d)
        # E = (I + (I + D)^2) / 2, a form that rounding cannot make indefinite
        shifted = eye + d
        new = frame @ cholesky((eye + shifted @ shifted) / 2)
        return color(new, eye), new

    def to_frame(self, frame: Tensor, u: Tensor) -> Tensor:
        """``L^-1 u L^-T``."""
        return whiten(frame, u)

    def from_frame(self, frame: Tensor, d: Tensor) -> Tensor:
        """``L d L'``."""
        return color(frame, d)
