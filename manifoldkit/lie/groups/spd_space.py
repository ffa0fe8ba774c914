"""The symmetric spaces SPD(n) = GL+(n) / SO(n) and SSPD(n) = SL(n) / SO(n)."""

import torch
from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.lie import haar
from manifoldkit.lie._arrays import accepts_numpy
from manifoldkit.lie._guard import positive_definite
from manifoldkit.lie.basis import symmetric_basis
from manifoldkit.lie.decompositions import (
    log_det,
    sym_exp,
    sym_exp_pair,
    sym_inv_sqrt,
    sym_log,
    sym_sqrt,
)
from manifoldkit.lie.groups.base import MatrixGroup
from manifoldkit.lie.groups.presentation import common, length
from manifoldkit.linalg.checks import check_broadcast
from manifoldkit.linalg.symmetric import full_precision


def _between(p: Tensor, q: Tensor) -> Tensor:
    """Logarithm of q seen from p, ``p^-1/2 q p^-1/2``."""
    w = sym_inv_sqrt(p)
    return sym_log(w @ q @ w)


def spd_distance(p: Tensor, q: Tensor) -> Tensor:
    """Affine-invariant distance."""
    return length(_between(p, q))


def spd_geodesic(p: Tensor, q: Tensor, t: Tensor) -> Tensor:
    """Affine-invariant geodesic."""
    root = sym_sqrt(p)
    x = root @ sym_exp(t * _between(p, q)) @ root
    return (x + x.mT) / 2


class SPDSpace(MatrixGroup):
    r"""Symmetric positive definite matrices, as the space of the stretches of GL+(n).

    Coordinates are those of :math:`\log S`, ordered as in :class:`GLPlus` (``SL`` with
    ``unimodular``). GL+(n) moves the points: ``act(g, s)`` is :math:`g S g'`. Distance
    and geodesic are the affine-invariant ones, which that action keeps.

    The space is no subgroup. ``compose`` is the log-Euclidean product
    :math:`\exp(\log S + \log T)`, which makes it a commutative group (Arsigny et al.,
    SIAM J. Matrix Anal. 29, 2007) whose maps are ``exp``, ``log`` and ``coords``.
    Invariant densities, of the action: ``"coords"`` (:math:`w(\log S)`), ``"matrix"``
    (:math:`\det(S)^{-(n+1)/2} \prod_{i \le j} dS_{ij}`; not for unimodular).

    Parameters
    ----------
    n : int
        Size of the matrices.
    unimodular : bool, default=False
        Determinant one.
    alpha : float, default=1.0
        See :class:`MatrixGroup`.

    Raises
    ------
    ValueError
        A size below 2, or a scale that is not positive.

    Examples
    --------
    >>> space = SPDSpace(2)
    >>> space.distance(torch.eye(2), 2 * torch.eye(2))
    tensor(0.9803)
    """

    _expected = "a symmetric positive definite matrix"

    def __init__(self, n: int, unimodular: bool = False, *, alpha: float = 1.0):
        self.unimodular = bool(unimodular)
        super().__init__(n, alpha=alpha)

    def __repr__(self) -> str:
        text = super().__repr__()
        return f"{text[:-1]}, unimodular=True)" if self.unimodular else text

    def _algebra(self):
        return symmetric_basis(self.n, self.unimodular), []

    def _contains(self, g, atol):
        size = g.abs().amax((-2, -1))
        fits = (g - g.mT).abs().amax((-2, -1)) <= atol * size
        if self.unimodular:
            fits = fits & (log_det(g).abs() <= atol)
        return fits & positive_definite(g)

    def _compose(self, g, h):
        return sym_exp(sym_log(g) + sym_log(h))

    def _inverse(self, g):
        return sym_exp(-sym_log(g))

    @accepts_numpy
    def act(self, g: Tensor, x: Tensor) -> Tensor:
        """Move points of the space, ``g x g'``, both of shape (..., n, n)."""
        self._element(g)
        self._element(x, "x")
        check_broadcast(g=(g, 2), x=(x, 2))
        dtype, (g, x) = common(g, x)
        with full_precision(g):
            y = g @ x @ g.mT
            return ((y + y.mT) / 2).to(dtype)

    def _adjoint(self, g, x):
        return x + 0 * g

    _exp = _from_coords = staticmethod(sym_exp)
    _log = staticmethod(sym_log)
    _distance, _geodesic = staticmethod(spd_distance), staticmethod(spd_geodesic)

    def _coords(self, g):
        basis = self._basis.to(g.device, g.dtype)
        return sym_log(g).flatten(-2) @ basis.flatten(-2).mT

    def _project(self, g):
        x = (g + g.mT) / 2
        s, u = torch.linalg.eigh(torch.nan_to_num(x.detach()))
        size = s.abs().amax(-1, keepdim=True)
        floor = torch.where(size > 0, size, 1.0) * torch.finfo(x.dtype).eps ** 0.5
        # the nearest semidefinite matrix, lifted off the boundary
        lift = (u * (s.clamp_min(floor) - s)[..., None, :]) @ u.mT
        x = torch.where(positive_definite(x.detach())[..., None, None], x, x + lift)
        if self.unimodular:
            x = x * torch.exp(-log_det(x) / self.n)[..., None, None]
        return x

    def _haar_log_density(self, g, coords):
        check_choice(
            coords, ("coords",) + ("matrix",) * (not self.unimodular), "coords"
        )
        if coords == "matrix":
            return -(self.n + 1) / 2 * log_det(g)
        return haar.stretch_log_density(sym_log(g))

    def _cube_dim(self, options):
        return haar.stretch_cube_dim(self.dim, self.n, options)

    def _draw(self, n, options):
        x, log_weight = haar.stretch_proposal(self._float_basis(options), options)
        return *sym_exp_pair(x), log_weight
