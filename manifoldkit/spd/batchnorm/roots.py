"""Square roots of a centered batch, and the Lyapunov equation of their derivative."""

import torch
from torch import Tensor

from manifoldkit.linalg.checks import tolerance
from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.factorizations import quick_eigh

#: Where the smallest eigenvalue is below this many rounding units of the largest, its
#: root has lost half of its digits: it is taken from singular values instead.
_ILL_CONDITIONED = 1e4
#: Of the Newton-Schulz iterations: enough for condition 1e10 of the roots' squares.
_NEWTON_SCHULZ_STEPS = 40


def congruence(k: Tensor, x: Tensor) -> Tensor:
    """K X K' of a batch: k (c, n, n) and x (c, N, n, n)."""
    flat = x.flatten(0, 1)
    spread = k[:, None].expand_as(x).flatten(0, 1)
    return torch.bmm(torch.bmm(spread, flat), spread.mT).view_as(x)


def weighted_sum(x: Tensor, weights: Tensor | None) -> Tensor:
    """Sum over the batch: x (c, N, ...), weights (c, N) or None."""
    if weights is None:
        return x.sum(1)
    return torch.einsum("cn,cn...->c...", weights, x)


class EigenRoots:
    """Roots by the eigendecomposition A = Q diag(r^2) Q'."""

    def __init__(self, square: Tensor, r: Tensor, q: Tensor):
        self.square, self.r, self.q = square, r, q
        self._root: Tensor | None = None

    @property
    def root(self) -> Tensor:
        """S = A^(1/2)."""
        # cached by hand: the lock of cached_property stops a strict export
        if self._root is None:
            q = self.q.flatten(0, 1)
            half = q * self.r.flatten(0, 1)[:, None, :]
            self._root = torch.bmm(half, q.mT).view_as(self.q)
        return self._root

    def lyapunov(self, grad: Tensor) -> Tensor:
        """Solve S X + X S = grad for symmetric right-hand sides."""
        q, r = self.q.flatten(0, 1), self.r.flatten(0, 1)
        # a singular matrix has an infinite derivative: bound it by the rounding level
        r = torch.maximum(r, tolerance(r.dtype) ** 0.5 * r.amax(-1, keepdim=True))
        core = torch.bmm(torch.bmm(q.mT, grad.flatten(0, 1)), q)
        core.div_(r[:, :, None] + r[:, None, :])
        return torch.bmm(torch.bmm(q, core), q.mT).view_as(self.q)


class NewtonSchulzRoots:
    """Roots and their derivatives by matrix products only."""

    def __init__(self, square: Tensor, root: Tensor):
        self.square, self.root = square, root

    def lyapunov(self, grad: Tensor) -> Tensor:
        """Solve S X + X S = grad: the sign iteration of [[S, grad], [0, -S]]."""
        scale = torch.linalg.matrix_norm(self.root)[..., None, None]
        a, q = self.root / scale, grad / scale
        eye = eye_like(a)
        for _ in range(_NEWTON_SCHULZ_STEPS):
            square = a @ a
            gap = float((eye - square).abs().amax())
            q = (q @ (3 * eye - square) - a @ (a @ q - q @ a)) / 2
            a = a @ (3 * eye - square) / 2
            if not gap > 0.5 * tolerance(a.dtype) ** 0.5:
                break
        return q / 2


def _newton_schulz(a: Tensor) -> NewtonSchulzRoots | None:
    """Roots by the coupled iteration; None where a matrix does not converge."""
    scale = torch.linalg.matrix_norm(a)[..., None, None]
    eye = eye_like(a)
    y, z = a / scale, eye.expand_as(a)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        product = z @ y
        gap = float((eye - product).abs().amax())
        t = (3 * eye - product) / 2
        y, z = y @ t, t @ z
        # convergence is quadratic: this step has squared the gap
        if gap < 0.5 * tolerance(a.dtype) ** 0.5:
            return NewtonSchulzRoots(a, (y + y.mT) / 2 * scale.sqrt())
    return None


def square_roots(k: Tensor, y: Tensor, method: str) -> "EigenRoots | NewtonSchulzRoots":
    """Roots of A = K Y K', k (c, n, n) and y (c, N, n, n)."""
    a = congruence(k, y)
    if method == "newton-schulz":
        roots = _newton_schulz(a)
        if roots is not None:
            return roots
    s, q = quick_eigh(a)
    bad = s[..., 0] < _ILL_CONDITIONED * tolerance(s.dtype) * s[..., -1]
    r = s.clamp_min(0).sqrt_()
    if torch.compiler.is_exporting():
        r, q = _refined(k, y, bad, r, q)
    elif bool(bad.any()):
        _refine(k, y, bad, r, q)
    return EigenRoots(a, r, q)


def _refined(
    k: Tensor, y: Tensor, bad: Tensor, r: Tensor, q: Tensor
) -> tuple[Tensor, Tensor]:
    """Singular values of K chol(Y) where they are needed, without looking."""
    lower, info = torch.linalg.cholesky_ex(y)
    good = bad & (info == 0)
    safe = torch.where(good[..., None, None], lower, eye_like(lower))
    left, singular, _ = torch.linalg.svd(k[:, None] @ safe)
    good = good[..., None]
    return torch.where(good, singular, r), torch.where(good[..., None], left, q)


def _refine(k: Tensor, y: Tensor, bad: Tensor, r: Tensor, q: Tensor) -> None:
    """Replace roots by the singular values of K chol(Y), in place."""
    group, item = bad.nonzero(as_tuple=True)
    lower, info = torch.linalg.cholesky_ex(y[group, item])
    good = info == 0
    group, item = group[good], item[good]
    left, singular, _ = torch.linalg.svd(k[group] @ lower[good])
    r[group, item], q[group, item] = singular, left


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
