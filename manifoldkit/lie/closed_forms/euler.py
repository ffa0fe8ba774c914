"""Euler and Tait-Bryan angles in SciPy's naming of the 24 orders.

Upper case is intrinsic (about the turned axes), lower case extrinsic. The angles come
from the quaternion (Bernardes and Viollet, PLoS ONE 17, 2022), one formula for all.
"""

import math

import torch
from torch import Tensor

from manifoldkit.lie.closed_forms.so3 import safe_atan2, safe_norm


def axes_of(order: str) -> tuple[list[int], bool]:
    """Return the three axes and whether the order is intrinsic, or raise."""
    axes = ["xyz".find(letter) for letter in str(order).lower()]
    one_case = order in (str(order).lower(), str(order).upper())
    if len(axes) != 3 or -1 in axes or not one_case or axes[1] in (axes[0], axes[2]):
        raise ValueError(
            'order: expected axes such as "XYZ" (intrinsic) or "zxz" (extrinsic), '
            f"no axis twice in a row, found {order!r}"
        )
    return axes, order == order.upper()


def angles_to_matrix(angles: Tensor, order: str) -> Tensor:
    """Product of the three elementary rotations."""
    axes, intrinsic = axes_of(order)
    turns = [_about(axis, angles[..., k]) for k, axis in enumerate(axes)]
    first, second, third = turns if intrinsic else turns[::-1]
    return first @ second @ third


def _about(axis: int, angle: Tensor) -> Tensor:
    c, s = angle.cos(), angle.sin()
    one, o = torch.ones_like(c), torch.zeros_like(c)
    entries = [
        [one, o, o, o, c, -s, o, s, c],
        [c, o, s, o, one, o, -s, o, c],
        [c, -s, o, s, c, o, o, o, one],
    ][axis]
    return torch.stack(entries, -1).unflatten(-1, (3, 3))


def quaternion_to_angles(q: Tensor, order: str) -> Tensor:
    """Angles of scalar-first unit quaternions; at gimbal lock the third is zero."""
    axes, intrinsic = axes_of(order)
    i, j, k = axes[::-1] if intrinsic else axes
    proper = i == k
    if proper:
        k = 3 - i - j
    sign = (i - j) * (j - k) * (k - i) // 2
    w, v = q[..., 0], q[..., 1:]
    if proper:
        a, b, c, d = w, v[..., i], v[..., j], sign * v[..., k]
    else:
        a, b = w - v[..., j], v[..., i] + sign * v[..., k]
        c, d = v[..., j] + w, sign * v[..., k] - v[..., i]
    near, far = safe_norm(torch.stack([a, b], -1)), safe_norm(torch.stack([c, d], -1))
    middle = 2 * safe_atan2(far, near)
    tiny = 8 * torch.finfo(q.dtype).eps
    no_turn, half_turn = far < tiny, near < tiny
    locked = no_turn | half_turn
    half_sum, half_difference = safe_atan2(b, a), safe_atan2(d, c)
    first, third = half_sum - half_difference, half_sum + half_difference
    mirror = 2 if intrinsic else -2
    alone = torch.where(no_turn, 2 * half_sum, mirror * half_difference)
    if intrinsic:
        first, third = third, first
    first = torch.where(locked, alone, first)
    third = torch.where(locked, 0.0, third)
    if not proper:
        middle = middle - math.pi / 2
        first, third = (sign * first, third) if intrinsic else (first, sign * third)
    return torch.stack([wrap(first), middle, wrap(third)], -1)


def wrap(angle: Tensor) -> Tensor:
    """Bring angles to [-pi, pi]."""
    turns = (angle > math.pi).to(angle.dtype) - (angle < -math.pi).to(angle.dtype)
    return angle - 2 * math.pi * turns
