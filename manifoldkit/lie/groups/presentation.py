"""The forms in which coordinates are given, and helpers of all groups."""

import math
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from manifoldkit.linalg.checks import common_dtype
from manifoldkit.linalg.elementary import safe_sqrt


def length(x: Tensor) -> Tensor:
    """Frobenius norm whose derivative at zero is zero."""
    return safe_sqrt((x * x).sum((-2, -1)))


ANGLES = ("principal", "periodic")
CONVENTIONS = ("orthonormal", "rgenn")


def common(*tensors: Tensor) -> tuple[torch.dtype, tuple[Tensor, ...]]:
    """Return the promoted dtype, and the tensors in the dtype to compute in."""
    dtype = reduce(torch.promote_types, (x.dtype for x in tensors))
    return dtype, common_dtype(*tensors)


def present(group: Any, v: Tensor, angle: str, convention: str) -> Tensor:
    """Scale coordinates for alpha = 1 and give the rotation its form."""
    root = group.alpha**0.5
    if not group.turn_dim or (angle, convention) == ("principal", "orthonormal"):
        return v if root == 1 else root * v
    stretch, theta = v[..., :-1], v[..., -1:] / 2**0.5
    if angle == "periodic":
        return torch.cat([root * stretch, theta.cos(), theta.sin()], -1)
    theta = torch.remainder(theta, 2 * math.pi)
    if group.stretch_dim == 2:
        return torch.cat([stretch[..., 1:], theta, stretch[..., :1]], -1)
    return torch.cat([stretch, theta], -1)


def recover(group: Any, v: Tensor, angle: str, convention: str) -> Tensor:
    """Orthonormal coordinates of vectors of :func:`present`."""
    root = group.alpha**0.5
    if not group.turn_dim or (angle, convention) == ("principal", "orthonormal"):
        return v
    if angle == "periodic":
        stretch, theta = v[..., :-2], torch.atan2(v[..., -1:], v[..., -2:-1])
        return torch.cat([stretch, (2**0.5 * root) * theta], -1)
    if group.stretch_dim == 2:
        v = torch.cat([v[..., 2:], v[..., :1], v[..., 1:2]], -1)
    return root * torch.cat([v[..., :-1], 2**0.5 * v[..., -1:]], -1)
