"""Square roots of the centered batch, and the Lyapunov equation of their derivative."""

import torch
from torch import Tensor

from manifoldkit.linalg import eigh
from manifoldkit.linalg.checks import tolerance

#: Below this part of the largest eigenvalue, in rounding units, a root has lost half
#: of its digits: it is taken from singular values instead.
_ILL_CONDITIONED = 1e4


class EigenRoots:
    """Roots by the eigendecomposition A = Q diag(r^2) Q'."""

    def __init__(self, a: Tensor, r: Tensor, q: Tensor):
        self.a, self.r, self.q = a, r, q
        self.root = (q * r[..., None, :]) @ q.mT

    def square(self) -> Tensor:
        """A itself."""
        return self.a

    def total(self) -> Tensor:
        """Sum of the roots of each group."""
        return self.root.sum(1)

    def lyapunov(self, grad: Tensor) -> Tensor:
        """Solve S X + X S = grad for symmetric right-hand sides."""
        q = self.q
        floor = tolerance(self.r.dtype) ** 0.5 * self.r.amax(-1, keepdim=True)
        r = torch.maximum(self.r, floor)
        core = q.mT @ grad @ q
        core = core / (r[..., :, None] + r[..., None, :])
        return q @ core @ q.mT


def square_roots(k: Tensor, y: Tensor, a: Tensor, method: str) -> EigenRoots:
    """Roots of A = K Y K'."""
    s, q = eigh(a)
    bad = s[..., 0] < _ILL_CONDITIONED * tolerance(s.dtype) * s[..., -1]
    r = s.clamp_min(0).sqrt()
    if bool(bad.any()):
        group, item = bad.nonzero(as_tuple=True)
        lower, info = torch.linalg.cholesky_ex(y[group, item])
        good = info == 0
        group, item = group[good], item[good]
        left, singular, _ = torch.linalg.svd(k[group] @ lower[good])
        r[group, item], q[group, item] = singular, left
    return EigenRoots(a, r, q)


class Absolute:
    """``f(a) = |a|`` of symmetric matrices, in the form of ``linalg._spectral``."""

    sees_small_eigenvalues = False

    def value(self, s: Tensor) -> Tensor:
        """f(a)."""
        return s.abs()

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        """f[a, b] = (a + b) / (|a| + |b|), also across the kink."""
        total = a.abs() + b.abs()
        return (a + b) / torch.where(total == 0, torch.ones_like(total), total)
