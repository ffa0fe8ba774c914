r"""Bures-Wasserstein metric and its generalization by an SPD matrix M.

With :math:`M = CC'` the map :math:`x \mapsto C^{-1}xC^{-T}` carries the generalized
metric to the plain one (any square root of M would do: the plain metric does not
change under rotations), and :math:`L` with :math:`xLM + MLx = v` to :math:`C'LC`.
"""

import torch
from torch import Tensor

from manifoldkit.linalg import check_spd, solve_lyapunov, sqrtm, symmetrize
from manifoldkit.linalg.elementary import eye_like, safe_sqrt
from manifoldkit.linalg.factorizations import cholesky
from manifoldkit.manifolds.base import trace_product
from manifoldkit.manifolds.spd.common import SPD, color, whiten


class BuresWassersteinSPD(SPD):
    r"""Metric :math:`\operatorname{tr}(u L_v) / 2` with :math:`xL_v + L_vx = v`.

    Geodesics :math:`(I + L_u)x(I + L_u)` stay positive definite while
    :math:`I + L_u` does; ``retr`` is the same map. Transport keeps the matrix v.
    """

    metric = "bw"

    def _solve(self, x: Tensor, v: Tensor) -> Tensor:
        """L with x L + L x = v."""
        return symmetrize(solve_lyapunov(x, symmetrize(v)))

    def inner(
        self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False
    ) -> Tensor:
        """``tr(u L_v) / 2``."""
        return trace_product(u, self._solve(x, u if v is None else v), keepdim) / 2

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """``4 sym(u x)``."""
        return 4 * symmetrize(symmetrize(u) @ x)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """``x + u + L x L``."""
        factor = self._solve(x, u)
        return symmetrize(x + u + factor @ x @ factor)

    retr = expmap

    def _transport_map(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """``(T - I) K`` and ``K = chol(x)`` for the SPD map T with ``T x T = y``."""
        k = cholesky(x)
        root = sqrtm(k.mT @ y @ k)
        return torch.linalg.solve_triangular(k.mT, root, upper=True) - k, k

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """``x L + L x`` with ``L = T - I``."""
        change, k = self._transport_map(x, y)
        return 2 * symmetrize(change @ k.mT)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Frobenius norm of ``(T - I) K``: no cancellation for close matrices."""
        change, _ = self._transport_map(x, y)
        return safe_sqrt(trace_product(change, change, keepdim))

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Tangent spaces agree: v itself."""
        v = symmetrize(v)
        return v.expand(torch.broadcast_shapes(x.shape, y.shape, v.shape))


class GeneralizedBuresWassersteinSPD(BuresWassersteinSPD):
    r"""Metric :math:`\operatorname{tr}(u L_v) / 2` with :math:`xL_vM + ML_vx = v`."""

    metric = "gbw"

    def __init__(self, metric: str = "gbw", M: Tensor | None = None):
        super().__init__()
        if M is not None:
            check_spd(M, "M")
            if M.ndim != 2:
                raise ValueError(
                    f"M: expected one matrix (n, n), found {tuple(M.shape)}"
                )
        if not isinstance(M, torch.nn.Parameter) and M is not None:
            # not a buffer: the manifold of a parameter is not moved with its module
            M = symmetrize(M.detach())
            self._value = (M.dtype, tuple(M.flatten().tolist()))
        self.M = M

    def settings(self) -> dict:
        """Return the constructor arguments."""
        return {"metric": self.metric} | ({} if self.M is None else {"M": self.M})

    def group_key(self) -> tuple:
        """A constant M by value, a learned one by identity."""
        if self.M is None:
            return (type(self), None)
        if isinstance(self.M, torch.nn.Parameter):
            return (type(self), id(self.M))
        return (type(self), self._value)

    def extra_repr(self) -> str:
        """Metric and the shape of M."""
        if self.M is None:
            return "metric='gbw'"
        kind = "learned" if isinstance(self.M, torch.nn.Parameter) else "constant"
        return f"metric='gbw', M={kind} {tuple(self.M.shape)}"

    def _check_shape(self, shape, name):
        ok, reason = super()._check_shape(shape, name)
        if ok and self.M is not None and shape[-1] != self.M.shape[-1]:
            n = self.M.shape[-1]
            return False, f"{name}: M is ({n}, {n}), found shape {tuple(shape)}"
        return ok, reason

    def _matrix(self, x: Tensor) -> Tensor:
        return eye_like(x) if self.M is None else self.M.to(x)

    def _solve(self, x, v):
        c = cholesky(self._matrix(x))
        plain = super()._solve(whiten(c, x), whiten(c, symmetrize(v)))
        inverse = torch.linalg.solve_triangular(c, eye_like(c), upper=False)
        return symmetrize(inverse.mT @ plain @ inverse)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """``4 sym(x u M)``."""
        return 4 * symmetrize(x @ symmetrize(u) @ self._matrix(x))

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """``(I + M L) x (I + L M)``."""
        factor = self._matrix(x) @ self._solve(x, u)
        return symmetrize(x + u + factor @ x @ factor.mT)

    retr = expmap

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Logarithm of the whitened matrices, mapped back."""
        c = cholesky(self._matrix(x))
        return color(c, super().logmap(whiten(c, x), whiten(c, y)))

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Bures-Wasserstein distance of the whitened matrices."""
        c = cholesky(self._matrix(x))
        return super().dist(whiten(c, x), whiten(c, y), keepdim=keepdim)
