"""The groups GL+(n) and SL(n)."""

import torch
from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.lie import haar
from manifoldkit.lie.basis import skew_basis, symmetric_basis
from manifoldkit.lie.closed_forms import general_log, two_by_two
from manifoldkit.lie.decompositions import (
    iwasawa,
    log_det,
    polar_factors,
    polar_log,
    sym_exp,
    sym_exp_pair,
)
from manifoldkit.lie.groups.base import MatrixGroup
from manifoldkit.lie.groups.presentation import length
from manifoldkit.lie.groups.rotation_maps import rotation_log, skew_exp
from manifoldkit.lie.groups.spd_space import spd_distance, spd_geodesic


class GLPlus(MatrixGroup):
    r"""Matrices with a positive determinant.

    Coordinates: :math:`g = e^Y R` with Y symmetric and R a rotation;
    ``coords(g)`` are those of Y in the basis :math:`E_{ii}`,
    :math:`(E_{ij} + E_{ji})/\sqrt 2` (row-major upper triangle), then those of
    :math:`\log R`: :math:`\sqrt 2\,\theta` for n = 2, :math:`\sqrt 2` times the
    rotation vector for n = 3, :math:`\sqrt 2` times the entries below the diagonal
    otherwise. They are one-to-one and smooth, at the identity too, but for rotations by
    :math:`\pi`, where the angle jumps (``angle="periodic"`` does not). The group
    logarithm is no chart: it does not exist everywhere.

    Distance and geodesic are those of the product of the two factors, affine-invariant
    on :math:`e^Y` and bi-invariant on R. Haar densities: ``"coords"``,
    ``"matrix"`` (:math:`|\det g|^{-n}\prod dg_{ij}`), ``"polar"`` (volume of
    :math:`Y` times Haar measure of R), ``"iwasawa"`` (:math:`dK \prod da_i/a_i\, dN`).

    Parameters
    ----------
    n, alpha, angle, convention
        See :class:`MatrixGroup`.

    Raises
    ------
    ValueError
        A size below 2, a scale that is not positive, or an unknown form of the
        coordinates.

    Examples
    --------
    >>> group = GLPlus(2)
    >>> group.coords(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    tensor([0.0000, 0.0000, 0.0000, 2.2214])
    >>> g, g_inv, log_weight = group.sample(3, generator=torch.Generator())
    >>> torch.allclose(group.compose(g, g_inv), group.identity(), atol=1e-6)
    True
    """

    _expected = "a finite matrix with a positive determinant"
    _unimodular = False

    def _algebra(self):
        return symmetric_basis(self.n, self._unimodular), skew_basis(self.n)

    def _contains(self, g, atol):
        return torch.isfinite(log_det(g))

    def _inverse(self, g):
        if self.n > 2:
            return super()._inverse(g)
        scale = g.detach().abs().amax((-2, -1), keepdim=True)
        x = g / scale
        a, b, c, d = x[..., 0, 0], x[..., 0, 1], x[..., 1, 0], x[..., 1, 1]
        det = a * d - b * c
        det = torch.where(det == 0, torch.nan, det)
        return two_by_two.matrix(d, -b, -c, a) / (det[..., None, None] * scale)

    def _log(self, g):
        log = two_by_two if self.n == 2 else general_log
        return log.general_log(g)

    def _coords(self, g):
        if self.n == 2:
            a, b, d, _, _, theta = two_by_two.polar_log_parts(g)
            return self._stack(a, b, d, theta)
        y, r = polar_log(g)
        return (y + rotation_log(r)).flatten(-2) @ self._unit_vectors(g)

    def _stack(self, a, b, d, theta):
        return torch.stack([a, 2**0.5 * b, d, 2**0.5 * theta], -1)

    def _unit_vectors(self, like: Tensor) -> Tensor:
        return self._basis.to(like.device, like.dtype).flatten(-2).mT

    def _from_coords(self, x):
        return sym_exp(x) @ skew_exp((x - x.mT) / 2)

    def _project(self, g):
        return g

    def _distance(self, g, h):
        (p, r), (q, s) = polar_factors(g), polar_factors(h)
        turn = rotation_log(r.mT @ s)
        return torch.hypot(spd_distance(p, q), length(turn))

    def _geodesic(self, g, h, t):
        (p, r), (q, s) = polar_factors(g), polar_factors(h)
        return spd_geodesic(p, q, t) @ r @ skew_exp(t * rotation_log(r.mT @ s))

    def _haar_log_density(self, g, coords):
        known = ("coords", "polar", "iwasawa") + ("matrix",) * (not self._unimodular)
        check_choice(coords, known, "coords")
        if coords == "matrix":
            return -self.n * log_det(g)
        if coords == "iwasawa":
            log_a = iwasawa(g).a.diagonal(dim1=-2, dim2=-1).log()
            power = torch.arange(self.n - 1, -self.n, -2, device=g.device)
            return log_a @ power.to(g.dtype)
        y, r = polar_log(g)
        stretch = haar.stretch_log_density(2 * y)
        if coords == "polar" or self.n == 2:
            return stretch
        return stretch + haar.rotation_log_density(rotation_log(r))

    def _cube_dim(self, options):
        options.rotation = options.take("rotation", "haar")
        turns = haar.rotation_cube_dim(self.n, options.rotation)
        return turns + haar.stretch_cube_dim(self.stretch_dim, self.n, options)

    def _draw(self, n, options):
        x, log_weight = haar.stretch_proposal(self._float_basis(options), options)
        r, log_turn = haar.rotation_proposal(n, self.n, options.rotation, options)
        # x are those of S = p^2
        p, p_inv = sym_exp_pair(x / 2)
        return p @ r, r.mT @ p_inv, log_weight + log_turn


class SL(GLPlus):
    r"""Matrices of determinant one.

    As :class:`GLPlus`, with trace-free Y: the n diagonal coordinates give way to
    :math:`n - 1` in Helmert's basis
    :math:`(E_{11} + .. + E_{kk} - k E_{k+1,k+1})/\sqrt{k(k+1)}`, which come first, then
    those off the diagonal, then the rotation. There is no Haar density ``"matrix"``.

    Parameters
    ----------
    n, alpha, angle, convention
        See :class:`MatrixGroup`.

    Raises
    ------
    ValueError
        A size below 2, a scale that is not positive, or an unknown form of the
        coordinates.

    Examples
    --------
    >>> group = SL(2)
    >>> group.coords(torch.diag(torch.tensor([2.0, 0.5])))
    tensor([0.9803, 0.0000, 0.0000])
    >>> torch.linalg.det(group.project(torch.diag(torch.tensor([2.0, 8.0]))))
    tensor(1.)
    """

    _expected = "a finite matrix of determinant one"
    _unimodular = True

    def _contains(self, g, atol):
        return log_det(g).abs() <= atol

    def _stack(self, a, b, d, theta):
        return 2**0.5 * torch.stack([(a - d) / 2, b, theta], -1)

    def _log(self, g):
        x = super()._log(g)
        trace = x.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        return x - trace * torch.eye(self.n, dtype=x.dtype, device=x.device)

    def _project(self, g):
        return g * torch.exp(-log_det(g) / self.n)[..., None, None]
