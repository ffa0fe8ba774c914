"""Exponential and logarithm of rotations of any size."""

import torch
from torch import Tensor

from manifoldkit.lie.closed_forms import so3 as _so3
from manifoldkit.lie.closed_forms import two_by_two
from manifoldkit.lie.closed_forms.newton_polar import polar_rotation
from manifoldkit.linalg.rotation_log import logm_rotation


def skew_exp(a: Tensor) -> Tensor:
    """Rotation of a skew matrix."""
    n = a.shape[-1]
    if n == 2:
        return two_by_two.rotation((a[..., 1, 0] - a[..., 0, 1]) / 2)
    if n == 3:
        return _so3.exp_so3(_so3.vee(a))
    return torch.linalg.matrix_exp((a - a.mT) / 2)


def rotation_angle(r: Tensor) -> Tensor:
    """Angle of a rotation of the plane, in (-pi, pi]."""
    return two_by_two.angle(
        (r[..., 0, 0] + r[..., 1, 1]) / 2, (r[..., 1, 0] - r[..., 0, 1]) / 2
    )


def rotation_log(r: Tensor) -> Tensor:
    """Principal logarithm of a rotation."""
    n = r.shape[-1]
    if n == 2:
        theta = rotation_angle(r)
        return two_by_two.matrix(0 * theta, -theta, theta, 0 * theta)
    if n == 3:
        return _so3.hat(_so3.log_so3(r))
    if r.dtype == torch.float64 or r.numel() == 0:
        return logm_rotation(r)
    # near half turns the general method keeps half of the digits: give it twice as many
    return logm_rotation(polar_rotation(r.double())).to(r.dtype)
