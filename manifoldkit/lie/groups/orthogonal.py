"""The rotation groups SO(n)."""

import torch

from manifoldkit._checks import check_choice
from manifoldkit.lie import haar
from manifoldkit.lie._proper import proper
from manifoldkit.lie.basis import skew_basis
from manifoldkit.lie.groups.base import MatrixGroup
from manifoldkit.lie.groups.presentation import length
from manifoldkit.lie.groups.rotation_maps import rotation_angle, rotation_log, skew_exp
from manifoldkit.linalg import procrustes


class SO(MatrixGroup):
    r"""Rotations of :math:`R^n`.

    Coordinates are those of the principal logarithm: :math:`\sqrt 2\,\theta` for n = 2,
    :math:`\sqrt 2` times the rotation vector for n = 3, :math:`\sqrt 2` times the
    entries below the diagonal otherwise. Distance is the norm of the relative
    logarithm, :math:`\sqrt 2\,\theta` for n = 2 and 3; projection the nearest rotation.
    Logarithm, coordinates, distances and geodesics of a matrix that is off the group
    are those of the nearest rotation; a determinant that is not positive is refused.
    Haar densities: ``"coords"``.

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
    >>> group = SO(3)
    >>> r = group.from_coords(torch.tensor([0.0, 0.0, 1.0]))
    >>> group.log(r)[1, 0]
    tensor(0.7071)
    """

    _expected = "a rotation matrix"

    def _algebra(self):
        return [], skew_basis(self.n)

    def _contains(self, g, atol):
        eye = torch.eye(self.n, dtype=g.dtype, device=g.device)
        gap = (g.mT @ g - eye).abs().amax((-2, -1))
        return (gap <= atol) & (torch.linalg.det(g) > 0)

    def _inverse(self, g):
        return g.mT

    _exp = _from_coords = staticmethod(skew_exp)

    def _log(self, g):
        return rotation_log(proper(g, "g"))

    def _coords(self, g):
        g = proper(g, "g")
        if self.n == 2:
            return 2**0.5 * rotation_angle(g)[..., None]
        basis = self._basis.to(g.device, g.dtype)
        return rotation_log(g).flatten(-2) @ basis.flatten(-2).mT

    def _project(self, g):
        eye = torch.eye(self.n, dtype=g.dtype, device=g.device)
        return procrustes(eye, g, special=True)

    def _distance(self, g, h):
        return length(rotation_log(proper(g, "g").mT @ proper(h, "h")))

    def _geodesic(self, g, h, t):
        g, h = proper(g, "g"), proper(h, "h")
        return g @ skew_exp(t * rotation_log(g.mT @ h))

    def _haar_log_density(self, g, coords):
        check_choice(coords, ("coords",), "coords")
        return haar.rotation_log_density(self._log(g))

    def _cube_dim(self, options):
        if options.antithetic:
            raise ValueError("antithetic: only proposals of stretches have it")
        options.rotation = options.proposal or "haar"
        check_choice(options.rotation, haar.ROTATIONS, "proposal")
        return haar.rotation_cube_dim(self.n, options.rotation)

    def _draw(self, n, options):
        r, log_weight = haar.rotation_proposal(n, self.n, options.rotation, options)
        return r, r.mT, log_weight
