"""Metrics that are Euclidean in a chart: log-Euclidean and log-Cholesky.

Both subclasses give the chart, its inverse and their derivatives; geodesics are
straight lines of the chart, and transport leaves chart vectors as they are.
"""

from torch import Tensor

from manifoldkit.linalg import eigh, expm, frechet_derivative, logm, symmetrize
from manifoldkit.linalg.elementary import safe_sqrt
from manifoldkit.linalg.factorizations import cholesky
from manifoldkit.manifolds.base import trace_product
from manifoldkit.manifolds.spd.common import SPD, whiten


class FlatSPD(SPD):
    """SPD with a global chart in which the metric is the Frobenius product."""

    reversible = True

    def chart(self, x: Tensor) -> Tensor:
        """Coordinates of x."""
        raise NotImplementedError

    def unchart(self, y: Tensor) -> Tensor:
        """Matrix of the coordinates y."""
        raise NotImplementedError

    def inner(
        self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False
    ) -> Tensor:
        """Frobenius product of the changes of the chart."""
        frame = self.chart(x)
        a = self.to_frame(frame, u)
        return trace_product(a, a if v is None else self.to_frame(frame, v), keepdim)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """Gradient in the chart, as a tangent vector."""
        frame = self.chart(x)
        return self.from_frame(frame, self.frame_gradient(frame, u))

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Straight line of the chart."""
        frame = self.chart(x)
        return self.unchart(frame + self.to_frame(frame, u))

    retr = expmap

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Difference in the chart, as a tangent vector."""
        frame = self.chart(x)
        return self.from_frame(frame, self.chart(y) - frame)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Frobenius norm of the difference in the chart."""
        d = self.chart(y) - self.chart(x)
        return safe_sqrt(trace_product(d, d, keepdim))

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport: chart vectors stay as they are."""
        return self.from_frame(self.chart(y), self.to_frame(self.chart(x), v))

    def decay(
        self, x: Tensor, rate: float | Tensor, anchor: Tensor | None = None
    ) -> Tensor:
        """Shrink the chart towards the identity (its origin) or the anchor."""
        y = self.chart(x)
        end = 0.0 if anchor is None else self.chart(anchor)
        return self.unchart(y + rate * (end - y))

    def frame(self, x: Tensor) -> Tensor:
        """Chart value of x."""
        return self.chart(x)

    def frame_retr(self, frame: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """Step in the chart."""
        new = frame + d
        return self.unchart(new), new


class LogEuclideanSPD(FlatSPD):
    """Chart ``log x``; derivatives by Daleckii-Krein."""

    metric = "log_euclidean"

    def chart(self, x: Tensor) -> Tensor:
        """``log x``."""
        return logm(x)

    def unchart(self, y: Tensor) -> Tensor:
        """``exp y``."""
        return expm(y)

    def from_frame(self, frame: Tensor, d: Tensor) -> Tensor:
        """Derivative of the exponential at the chart value, in direction d."""
        return frechet_derivative(frame, d, "expm")

    def to_frame(self, frame: Tensor, u: Tensor) -> Tensor:
        """Derivative of the logarithm, the inverse of :meth:`from_frame`."""
        s, vectors = eigh(frame)
        return frechet_derivative(expm(frame), u, "logm", eig=(s.exp(), vectors))

    def frame_gradient(self, frame: Tensor, egrad: Tensor) -> Tensor:
        """The derivative of the exponential is self-adjoint."""
        return self.from_frame(frame, egrad)


def _lower_half(w: Tensor) -> Tensor:
    """Lower triangle with half of the diagonal."""
    return w.tril() - w.diagonal(dim1=-2, dim2=-1).diag_embed() / 2


class LogCholeskySPD(FlatSPD):
    """Chart: Cholesky factor with the logarithm of its diagonal; no eigenvalues."""

    metric = "log_cholesky"

    def chart(self, x: Tensor) -> Tensor:
        """Strictly lower part of L plus the logarithm of its diagonal."""
        factor = cholesky(x)
        return factor.tril(-1) + factor.diagonal(dim1=-2, dim2=-1).log().diag_embed()

    def _factor(self, y: Tensor) -> Tensor:
        return y.tril(-1) + y.diagonal(dim1=-2, dim2=-1).exp().diag_embed()

    def unchart(self, y: Tensor) -> Tensor:
        """``L L'``."""
        factor = self._factor(y)
        return symmetrize(factor @ factor.mT)

    def from_frame(self, frame: Tensor, d: Tensor) -> Tensor:
        """``dL L' + L dL'``, ``dL`` with the diagonal of d times that of L."""
        factor = self._factor(frame)
        diagonal = factor.diagonal(dim1=-2, dim2=-1)
        change = d.tril(-1) + (d.diagonal(dim1=-2, dim2=-1) * diagonal).diag_embed()
        half = change @ factor.mT
        return half + half.mT

    def to_frame(self, frame: Tensor, u: Tensor) -> Tensor:
        """``dL = L half(L^-1 u L^-T)``, its diagonal divided by that of L."""
        factor = self._factor(frame)
        change = factor @ _lower_half(whiten(factor, symmetrize(u)))
        diagonal = factor.diagonal(dim1=-2, dim2=-1)
        scaled = change.diagonal(dim1=-2, dim2=-1) / diagonal
        return change.tril(-1) + scaled.diag_embed()

    def frame_gradient(self, frame: Tensor, egrad: Tensor) -> Tensor:
        """``2 sym(G) L``, lower part, the diagonal times that of L."""
        factor = self._factor(frame)
        g = 2 * symmetrize(egrad) @ factor
        scaled = g.diagonal(dim1=-2, dim2=-1) * factor.diagonal(dim1=-2, dim2=-1)
        return g.tril(-1) + scaled.diag_embed()
