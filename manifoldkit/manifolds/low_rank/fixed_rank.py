"""Matrices of fixed rank, as an embedded manifold."""

import torch
from torch import Tensor

from manifoldkit._checks import check_count
from manifoldkit.linalg.checks import tolerance
from manifoldkit.manifolds.base import MatrixManifold, sample_normal
from manifoldkit.manifolds.low_rank.truncation import (
    bases,
    core,
    joined,
    probe_matrix,
    project_tangent,
    thin_svd,
    truncated,
)


class LowRankMatrices(MatrixManifold):
    """What matrices of fixed rank share: a probe of the range, no geodesics."""

    def __init__(self, rows: int, rank: int):
        super().__init__()
        self.register_buffer("probe", probe_matrix(rows, rank), persistent=False)
        self.probe: Tensor

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """No closed form exists: raises ``NotImplementedError``."""
        raise NotImplementedError(
            "matrices of fixed rank have no closed geodesics; retr follows them to "
            "second order"
        )

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """No closed form exists: raises ``NotImplementedError``."""
        raise NotImplementedError(
            "matrices of fixed rank have no closed logarithm or distance"
        )

    def decay(
        self, x: Tensor, rate: float | Tensor, anchor: Tensor | None = None
    ) -> Tensor:
        """Shrink by the factor ``1 - rate``, or step towards the anchor."""
        if anchor is None:
            return x * (1 - rate)
        return self.retr(x, rate * self.proju(x, anchor - x))


class FixedRank(LowRankMatrices):
    r"""Matrices of m rows, n columns and rank r, with the Frobenius product.

    A point is the matrix itself, of shape (..., m, n). With :math:`x = U S V'` a
    tangent vector is :math:`UMV' + U_p V' + U V_p'` with :math:`U'U_p = 0, V'V_p = 0`.
    The retraction is the nearest matrix of rank r to x + u, a second-order one; it is
    computed from the factors, as x + u has rank 2r at most.

    Parameters
    ----------
    m, n : int
        Rows and columns.
    r : int
        The rank, at most m and n.

    Raises
    ------
    TypeError, ValueError
        Sizes that are no positive integers, or r above m or n.

    Notes
    -----
    A step costs :math:`O(mnr)`: products with the matrix and QR of thin ones. The set
    is not closed: a step may lead towards a matrix of lower rank, where tangent spaces
    change fast; values below about eps times the largest singular value are lost.
    ``expmap``, ``logmap`` and ``dist`` have no closed form and raise
    ``NotImplementedError``. The retraction has first derivatives, exact where the r-th
    singular value of x + u is above the next.

    References
    ----------
    .. [1] B. Vandereycken, "Low-rank matrix completion by Riemannian optimization",
       SIAM J. Optim. 23, 2013.

    Examples
    --------
    >>> manifold = FixedRank(5, 4, 2)
    >>> x = manifold.random(5, 4, generator=torch.Generator().manual_seed(0))
    >>> y = manifold.retr(x, manifold.proju(x, torch.ones(5, 4)))
    >>> int(torch.linalg.matrix_rank(y.data))
    2
    """

    name = "FixedRank"

    def __init__(self, m: int, n: int, r: int):
        m, n, r = check_count(m, "m"), check_count(n, "n"), check_count(r, "r")
        if r > min(m, n):
            raise ValueError(f"r: expected at most min(m, n) = {min(m, n)}, found {r}")
        super().__init__(m, r)
        self.m, self.n, self.r = m, n, r

    def _check_shape(self, shape, name):
        if tuple(shape[-2:]) != (self.m, self.n):
            return False, (
                f"{name}: expected matrices (..., {self.m}, {self.n}), "
                f"found shape {tuple(shape)}"
            )
        return True, None

    def _floor(self, x: Tensor) -> float:
        return tolerance(x.dtype, max(self.m, self.n))

    def _violation(self, x):
        s = torch.linalg.svdvals(x)
        tiny = torch.finfo(x.dtype).tiny
        top = s[..., 0].clamp_min(tiny)
        rest = s[..., self.r] if self.r < s.shape[-1] else torch.zeros_like(top)
        low = s[..., self.r - 1] <= self._floor(x) * top
        what = f"singular value {self.r + 1} over the first (2 for a rank below)"
        return torch.where(low, 2.0, rest / top), what

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Tangent part ``UU'u + uVV' - UU'uVV'``."""
        return project_tangent(*bases(x, self.probe), u)

    egrad2rgrad = proju

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """Nearest matrix of rank r to ``x + u`` for a tangent vector u."""
        with torch.no_grad():
            p, q = bases(x.detach(), self.probe)
            z = u.detach()
            left, right = z @ q, z.mT @ p
            m = p.mT @ left
            across, ra = joined(p, left - p @ m)
            down, rd = joined(q, right - q @ m.mT)
            a, s, b = thin_svd(ra @ core(p.mT @ x.detach() @ q + m) @ rd.mT)
            factors = across @ a, s, down @ b
        return truncated(x + u, *factors, self.r)

    def projx(self, x: Tensor) -> Tensor:
        """Nearest matrix of rank r.

        Singular values below ``10 max(m, n) eps`` times the largest are raised to that,
        so that a matrix of lower rank gets rank r; a point keeps its bits.
        """
        p, s, q = thin_svd(x)
        top = torch.where(s[..., :1] == 0, torch.ones_like(s[..., :1]), s[..., :1])
        floor = 10 * self._floor(x) * top
        low = s[..., self.r - 1 : self.r] < floor
        raised = torch.cat([s[..., : self.r].maximum(floor), s[..., self.r :]], -1)
        y = truncated(x, p, torch.where(low, raised, s), q, self.r)
        rest = s[..., self.r : self.r + 1].sum(-1, keepdim=True)
        good = ~low & (rest <= self._floor(x) * top)
        return torch.where(good[..., None] & torch.isfinite(p[..., :1, :1]), x, y)

    def _sample(self, shape, generator, dtype, device):
        batch = shape[:-2]
        size = (*batch, self.m + self.n, self.r)
        factors = sample_normal(size, generator, dtype, device)
        a, b = factors.split((self.m, self.n), -2)
        return a @ b.mT / self.r**0.5

    def _origin(self, shape, dtype, device):
        x = torch.eye(self.m, self.n, dtype=dtype, device=device)
        x[self.r :] = 0
        return x.expand(shape).clone()
