"""Exponential and logarithm of rotations of any size."""

from torch import Tensor, linalg

from manifoldkit.lie import _two_by_two
from manifoldkit.linalg.rotation_log import logm_rotation


def skew_exp(a: Tensor) -> Tensor:
    """Rotation of a skew matrix."""
    if a.shape[-1] == 2:
        return _two_by_two.rotation((a[..., 1, 0] - a[..., 0, 1]) / 2)
    return linalg.matrix_exp((a - a.mT) / 2)


def rotation_angle(r: Tensor) -> Tensor:
    """Angle of a rotation of the plane, in (-pi, pi]."""
    return _two_by_two.angle(
        (r[..., 0, 0] + r[..., 1, 1]) / 2, (r[..., 1, 0] - r[..., 0, 1]) / 2
    )


def rotation_log(r: Tensor) -> Tensor:
    """Principal logarithm of a rotation."""
    if r.shape[-1] == 2:
        theta = rotation_angle(r)
        return _two_by_two.matrix(0 * theta, -theta, theta, 0 * theta)
    return logm_rotation(r)
