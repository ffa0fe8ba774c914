"""Affine-invariant metric, in the frame of the Cholesky factor."""

import torch
from torch import Tensor

from manifoldkit.linalg import expm, logm, sqrtm, symmetrize
from manifoldkit.linalg.elementary import eye_like, safe_sqrt
from manifoldkit.linalg.factorizations import cholesky
from manifoldkit.manifolds.base import trace_product
from manifoldkit.manifolds.spd.common import SPD, color, whiten


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
        return color(factor, logm(whiten(factor, y)))

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Root of the sum of squared logarithms of the eigenvalues of ``x^-1 y``."""
        w = whiten(cholesky(x), y)
        if torch.is_grad_enabled() and w.requires_grad:
            log = logm(w)  # whose second derivatives exist at repeated eigenvalues
        else:
            log = torch.linalg.eigvalsh(torch.nan_to_num(w)).log().diag_embed()
            log = torch.where(torch.isfinite(w), log, torch.nan)
        return safe_sqrt(trace_product(log, log, keepdim))

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
