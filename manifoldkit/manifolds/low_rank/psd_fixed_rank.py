"""Positive semidefinite matrices of fixed rank."""

import torch
from torch import Tensor

from manifoldkit._checks import check_count
from manifoldkit.linalg import symmetrize
from manifoldkit.linalg.checks import tolerance
from manifoldkit.linalg.qr import qr_factor
from manifoldkit.manifolds.base import sample_normal
from manifoldkit.manifolds.low_rank.fixed_rank import LowRankMatrices
from manifoldkit.manifolds.low_rank.truncation import (
    core,
    descending_eigh,
    joined,
    project_tangent,
    truncated,
)


class PSDFixedRank(LowRankMatrices):
    r"""Symmetric positive semidefinite matrices of size n and rank r.

    A point is the matrix itself, of shape (..., n, n), with the Frobenius product. With
    :math:`x = U S U'` a tangent vector is the symmetric
    :math:`UMU' + U_p U' + U U_p'`, :math:`U'U_p = 0`. The retraction keeps the r
    largest eigenvalues of x + u, a second-order one computed from the factors.

    Parameters
    ----------
    n : int
        Rows and columns.
    r : int
        The rank, at most n.

    Raises
    ------
    TypeError, ValueError
        Sizes that are no positive integers, or r above n.

    Notes
    -----
    Where fewer than r eigenvalues of x + u are positive, which takes a step as long as
    x, the others are set to ``10 n eps`` times the largest modulus. Cost, derivatives
    and what has no closed form are as in :class:`FixedRank`.

    References
    ----------
    .. [1] B. Vandereycken, P.-A. Absil, S. Vandewalle, "Embedded geometry of the set
       of symmetric positive semidefinite matrices of fixed rank", IEEE SSP 2009.

    Examples
    --------
    >>> manifold = PSDFixedRank(4, 2)
    >>> x = manifold.origin(4, 4)
    >>> y = manifold.retr(x, manifold.proju(x, torch.ones(4, 4)))
    >>> manifold.check_point_on_manifold(y)
    True
    """

    name = "PSDFixedRank"

    def __init__(self, n: int, r: int):
        n, r = check_count(n, "n"), check_count(r, "r")
        if r > n:
            raise ValueError(f"r: expected at most n = {n}, found {r}")
        super().__init__(n, r)
        self.n, self.r = n, r

    def _check_shape(self, shape, name):
        if tuple(shape[-2:]) != (self.n, self.n):
            return False, (
                f"{name}: expected matrices (..., {self.n}, {self.n}), "
                f"found shape {tuple(shape)}"
            )
        return True, None

    def _floor(self, x: Tensor) -> float:
        return tolerance(x.dtype, self.n)

    def _violation(self, x):
        s = torch.linalg.eigvalsh((x + x.mT) / 2).flip(-1)
        top = s.abs().amax(-1).clamp_min(torch.finfo(x.dtype).tiny)
        gap = (x - x.mT).abs().amax((-2, -1)) / top
        if self.r < self.n:
            gap = torch.maximum(gap, s[..., self.r :].abs().amax(-1) / top)
        low = s[..., self.r - 1] <= self._floor(x) * top
        what = (
            f"largest of asymmetry and eigenvalues after the first {self.r} over the "
            "first (2 for a rank below)"
        )
        return torch.where(low, 2.0, gap), what

    def _basis(self, x: Tensor) -> Tensor:
        return qr_factor(x @ qr_factor(x @ self.probe.to(x)))

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Tangent part ``Ps + sP - PsP`` of the symmetric part s, ``P = UU'``."""
        basis = self._basis(x)
        return symmetrize(project_tangent(basis, basis, symmetrize(u)))

    egrad2rgrad = proju

    def _raise_floor(self, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """First r eigenvalues at or above the floor, and whether all were."""
        top = s.abs().amax(-1, keepdim=True)
        top = torch.where(top == 0, torch.ones_like(top), top)
        floor = 10 * self._floor(x) * top
        low = s[..., self.r - 1 : self.r] < floor
        raised = torch.cat([s[..., : self.r].maximum(floor), s[..., self.r :]], -1)
        return torch.where(low, raised, s), ~low

    def _nearest(self, x: Tensor, s: Tensor, p: Tensor) -> Tensor:
        return symmetrize(truncated(symmetrize(x), p, s, p, self.r))

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """Nearest point to ``x + u`` for a tangent vector u."""
        with torch.no_grad():
            basis, z = self._basis(x.detach()), symmetrize(u.detach())
            left = z @ basis
            m = basis.mT @ left
            q, upper = joined(basis, left - basis @ m)
            k = basis.mT @ x.detach() @ basis + m
            s, a = descending_eigh(upper @ core(k) @ upper.mT)
            s, _ = self._raise_floor(x, s)
        return self._nearest(x + u, s, q @ a)

    def projx(self, x: Tensor) -> Tensor:
        """Nearest point: the r largest eigenvalues, raised to the floor of the Notes.

        A point keeps its bits.
        """
        s, p = descending_eigh(x)
        raised, good = self._raise_floor(x, s)
        rest = s[..., self.r :].abs().sum(-1, keepdim=True)
        good = good & (rest <= self._floor(x) * s[..., :1].abs())
        good = good[..., None] & torch.isfinite(p[..., :1, :1])
        return torch.where(good, symmetrize(x), self._nearest(x, raised, p))

    def _sample(self, shape, generator, dtype, device):
        size = (*shape[:-1], self.r)
        a = sample_normal(size, generator, dtype, device)
        return symmetrize(a @ a.mT / self.r**0.5)

    def _origin(self, shape, dtype, device):
        x = torch.eye(self.n, dtype=dtype, device=device)
        x[self.r :] = 0
        return x.expand(shape).clone()
