"""Frames of point clouds from their second moments, and drawn group elements."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manifoldkit._checks import check_choice, check_count, optional
from manifoldkit.equivariant._clouds import check_mask
from manifoldkit.equivariant.frames.types import Frame, GroupSpec, parse_group
from manifoldkit.linalg.actions import haar_orthogonal, signed_permutations
from manifoldkit.linalg.checks import check_floating
from manifoldkit.linalg.eigensystem import safe_eigh

GAP_TOL = {torch.float64: 1e-10, torch.float32: 1e-4}
_HALF_GAP_TOL = 1e-2
MAX_FRAMES = 256
#: Dimension of groups of signed permutations, and whether they mirror.
FINITE_GROUPS = {
    "C4": (2, False),
    "D4": (2, True),
    "octahedral": (3, False),
    "full-octahedral": (3, True),
}
_FINITE = ", ".join(map(repr, FINITE_GROUPS))


def pca_frame(
    x: Tensor,
    group: str = "SE(3)",
    mask: Tensor | None = None,
    *,
    order: str = "ascending",
    gap_tol: float | None = None,
    detach: bool = True,
    extra_vectors: bool = False,
    signs: str = "all",
    draws: int | None = None,
    vectors: Tensor | None = None,
    vectors_mask: Tensor | None = None,
) -> Frame:
    r"""Return the principal axes of point clouds, with every choice of signs.

    With :math:`t` the mean of the points (zero for O and SO) and
    :math:`C = \sum_i (x_i - t)(x_i - t)^T = V \operatorname{diag}(\lambda) V^T`, the
    frames are :math:`V \operatorname{diag}(s)`, :math:`s \in \{-1, 1\}^d`: all
    :math:`2^d` of them for O and E, those of determinant one for SO and SE.

    Parameters
    ----------
    x : Tensor, shape (..., n, d)
        Points.
    group : str, default="SE(3)"
        ``"O(d)", "SO(d)", "E(d)", "SE(d)", "T(d)"`` or ``"scale x"`` one of these.
    mask : Tensor of bool, shape (..., n), optional
        Valid points; the others may hold anything.
    order : {"ascending", "descending"}
        Order of the eigenvalues.
    gap_tol : float, optional
        Relative gap below which a spectrum is degenerate: 1e-10 in float64, 1e-4 in
        float32, 1e-2 in half precision.
    detach : bool, default=True
        Take frames for constants in differentiation. Without it, the derivative passes
        through the eigenvectors and is zero between eigenvalues that meet.
    extra_vectors : bool, default=False
        Whether values other than the points will be seen in these frames: then the
        null space of the points matters, and two null directions are degenerate.
    signs : {"all", "moment"}
        ``"moment"`` keeps only the signs that make the third moment along an axis
        positive, both where it vanishes.
    draws : int, optional
        So many random sign choices instead of all.
    vectors : Tensor, shape (..., m, d), optional
        Vectors that define the axes together with the centered points, such as
        velocities; they do not move the origin.
    vectors_mask : Tensor of bool, shape (..., m), optional
        Valid vectors.

    Returns
    -------
    Frame
        In float64, whatever the dtype of ``x``; leading dimensions of ``x`` are those
        of the frame, none gives ``R`` of shape (F, d, d).

    Raises
    ------
    ValueError
        Unknown group, a group of another dimension, shapes that do not fit, or more
        than 256 frames.

    References
    ----------
    Puny et al., "Frame Averaging for Invariant and Equivariant Network Design",
    ICLR 2022, section 3.1.

    Examples
    --------
    >>> x = torch.randn(4, 10, 3, generator=torch.Generator().manual_seed(0))
    >>> pca_frame(x, "SE(3)").R.shape, pca_frame(x, "E(3)").R.shape
    (torch.Size([4, 4, 3, 3]), torch.Size([4, 8, 3, 3]))
    """
    spec, x, mask, lead = read_points(x, group, mask)
    tol = gap_tolerance(x.dtype, gap_tol)
    check_choice(order, ("ascending", "descending"), "order")
    check_choice(signs, ("all", "moment"), "signs")
    optional(check_count)(draws, "draws")
    more = flat_vectors(vectors, vectors_mask, lead, x.shape[-1])
    moments = moments_of(x, mask, spec, detach, more)
    frame = frame_of_moments(
        moments, spec, tol, x.dtype, order=order, extra=extra_vectors, draws=draws
    )
    if signs == "moment":
        frame = _keep_moment_signs(frame, moments.z, spec)
    return unflatten(frame, lead)


def gap_tolerance(dtype: torch.dtype, gap_tol: float | None) -> float:
    """Return the relative gap below which a spectrum counts as degenerate."""
    return GAP_TOL.get(dtype, _HALF_GAP_TOL) if gap_tol is None else gap_tol


@dataclass
class Moments:
    """Moments of a batch of clouds, in float64.

    Attributes
    ----------
    z : Tensor, shape (B, n, d)
        Centered points, then the vectors that define the axes with them, in units of
        ``unit``, so that no power of them overflows or vanishes.
    mask : Tensor of bool or None
        Valid points.
    t, c : Tensor, shape (B, d) and (B, d, d)
        Mean, and sum of outer products of ``z``.
    count, peak : Tensor, shape (B,)
        Number of valid rows, and the largest modulus before centering, in units.
    unit : Tensor, shape (B,)
        Power of two next to the largest modulus, so that dividing rounds nothing.
    """

    z: Tensor
    mask: Tensor | None
    t: Tensor
    c: Tensor
    count: Tensor
    peak: Tensor
    unit: Tensor

    def scale(self) -> Tensor:
        """Return the root mean square length, the unit of groups with scalings."""
        second = self.c.diagonal(dim1=-2, dim2=-1).sum(-1) / self.count.clamp_min(1)
        length = torch.where(second > 0, second, 1.0).sqrt()
        return torch.where(second > 0, length * self.unit, length)


def power_of_two(size: Tensor) -> Tensor:
    """Return the power of two below positive numbers, one for all others."""
    good = (size > 0) & size.isfinite()
    return torch.where(good, size, 1.0).log2().floor().exp2()


def wide(dtype_of: Tensor) -> torch.dtype:
    """Return the dtype that frames are computed in on this device."""
    return torch.float32 if dtype_of.device.type == "mps" else torch.float64


def read_points(
    x: Tensor, group: str, mask: Tensor | None
) -> tuple[GroupSpec, Tensor, Tensor | None, torch.Size]:
    """Return group, points (B, n, d), mask (B, n) and the leading dimensions."""
    check_floating(x, "x")
    if x.ndim < 2:
        raise ValueError(f"x: expected points (..., n, d), found {tuple(x.shape)}")
    spec = parse_group(group)
    d = x.shape[-1]
    if spec.d is not None and spec.d != d:
        raise ValueError(
            f"x: expected {spec.d} coordinates for the group {group}, found {d}"
        )
    if spec.rotates and not spec.mirrors and d == 1:
        raise ValueError(f"group {group}: rotations need 2 dimensions; try 'O(1)'")
    lead = x.shape[:-2]
    if mask is not None:
        mask = check_mask(mask, x.shape[:-1]).reshape(-1, x.shape[-2])
    batch = math.prod(lead)
    return spec._replace(d=d), x.reshape(batch, *x.shape[-2:]), mask, lead


def unflatten(frame: Frame, lead: torch.Size) -> Frame:
    """Give a frame of a flat batch the leading dimensions of the points."""
    tensors = {k: v for k, v in frame._asdict().items() if isinstance(v, Tensor)}
    shaped: dict[str, Any] = {
        k: v.reshape((*lead, *v.shape[1:])) for k, v in tensors.items()
    }
    return frame._replace(**shaped)


def flat_vectors(
    vectors: Tensor | None, mask: Tensor | None, lead: torch.Size, d: int
) -> Tensor | None:
    """Return vectors (*lead, m, d) as (B, m, d), zero where masked."""
    if vectors is None:
        return None
    check_floating(vectors, "vectors")
    if vectors.ndim < 2 or vectors.shape[-1] != d:
        raise ValueError(
            f"vectors: expected {d} coordinates, found shape {tuple(vectors.shape)}"
        )
    if vectors.shape[:-2] != lead:
        raise ValueError(
            f"vectors: expected a batch of {' x '.join(map(str, lead)) or 'none'}, as "
            f"the points have, found shape {tuple(vectors.shape)}"
        )
    if mask is not None:
        check_mask(mask, vectors.shape[:-1], "vectors_mask")
        vectors = torch.where(mask[..., None], vectors, 0.0)
    return vectors.reshape(math.prod(lead), *vectors.shape[-2:])


def moments_of(
    x: Tensor,
    mask: Tensor | None,
    spec: GroupSpec,
    detach: bool,
    vectors: Tensor | None = None,
) -> Moments:
    """Return the moments of points (B, n, d), of vectors (B, m, d) too if given."""
    z = (x.detach() if detach else x).to(wide(x))
    count = z.new_ones(z.shape[0]) * z.shape[1]
    if mask is not None:
        z = torch.where(mask[..., None], z, 0.0)
        count = mask.sum(1).to(z)
    peak = z.detach().abs().flatten(1)
    peak = peak.amax(1) if peak.shape[1] else peak.new_zeros(z.shape[0])
    t = torch.zeros_like(z[:, 0]) if z.shape[1] else z.new_zeros(z.shape[0], z.shape[2])
    if spec.moves:
        t = z.sum(1) / count.clamp_min(1)[:, None]
        z = z - t[:, None]
        if mask is not None:
            z = torch.where(mask[..., None], z, 0.0)
    if vectors is not None:
        v = (vectors.detach() if detach else vectors).to(z)
        z, count = torch.cat([z, v], 1), count + v.shape[1]
        if v.shape[1]:
            peak = torch.maximum(peak, v.detach().abs().flatten(1).amax(1))
    unit = power_of_two(peak)
    z = z * unit.reciprocal()[:, None, None]  # exact, and faster than a division
    return Moments(z, mask, t, z.mT @ z, count, peak / unit, unit)


def frame_of_moments(
    m: Moments,
    spec: GroupSpec,
    tol: float,
    dtype: torch.dtype,
    *,
    order: str = "ascending",
    extra: bool = False,
    draws: int | None = None,
) -> Frame:
    """Return the frame of second moments; ``dtype`` is that of the points."""
    batch, d = m.t.shape
    scale = m.scale() if spec.scales else None
    ones = m.t.new_ones(batch)
    if not spec.rotates:
        eye = torch.eye(d, dtype=m.t.dtype, device=m.t.device).expand(batch, 1, d, d)
        flat = torch.zeros_like(eye[:, :, 0, 0])
        return Frame(eye, m.t, flat, ones, ones < 0, spec.name, scale)
    finite = m.c.detach().isfinite().flatten(1).all(1)
    eye = torch.eye(d, dtype=m.c.dtype, device=m.c.device)
    s, v = safe_eigh(torch.where(finite[:, None, None], m.c, eye), tol)
    # axes of what is not finite are not either
    v = torch.where(finite[:, None, None], v, torch.nan)
    gap = torch.where(finite, _relative_gap(s.detach(), m, dtype, extra), torch.nan)
    if order == "descending":
        v = v.flip(-1)
    if not spec.mirrors:
        first = v[..., :1] * torch.linalg.det(v).detach().sign()[:, None, None]
        v = torch.cat([first, v[..., 1:]], -1)
    signs = sign_patterns(d, not spec.mirrors, draws).to(v)
    r = v[:, None] * signs[None, :, None, :]
    logs = r.new_full(r.shape[:2], -math.log(max(r.shape[1], 1)))
    return Frame(r, m.t, logs, gap, gap < tol, spec.name, scale)


def _relative_gap(s: Tensor, m: Moments, dtype: torch.dtype, extra: bool) -> Tensor:
    """Return the smallest relative gap; zeros among themselves count only if asked."""
    if s.shape[-1] == 1:
        return torch.ones_like(s[:, 0])
    top = s[:, -1].clamp_min(0)
    rounding = (4 * torch.finfo(dtype).eps * m.peak) ** 2 * m.count.clamp_min(1)
    null = s <= torch.maximum(rounding, 64 * torch.finfo(s.dtype).eps * top)[:, None]
    gap = s.diff(dim=-1) / torch.where(top > 0, top, 1.0)[:, None]
    both = null[:, 1:] & null[:, :-1]
    gap = torch.where(both, 0.0 if extra else 1.0, gap)
    return gap.amin(-1).clamp(0.0, 1.0)


def sign_patterns(d: int, special: bool, draws: int | None = None) -> Tensor:
    """Return sign choices, one a row, the identity first; or random ones."""
    if draws is not None:
        signs = torch.randint(0, 2, (draws, d), dtype=torch.float64) * 2 - 1
        if special:
            signs[:, 0] = signs[:, 1:].prod(-1)
        return signs
    if 2 ** (d - special) > MAX_FRAMES:
        raise ValueError(
            f"a full frame in dimension {d} has {2 ** (d - special)} elements, more "
            f"than {MAX_FRAMES}: use mode='stochastic' or an int, or frame='pca-det'"
        )
    free = d - special
    bits = torch.arange(2**free)[:, None] >> torch.arange(free - 1, -1, -1) & 1
    signs = 1.0 - 2.0 * bits.double()
    if special:  # the last sign makes the product one
        signs = torch.cat([signs, signs.prod(1, keepdim=True)], 1)
    return signs


def _keep_moment_signs(frame: Frame, z: Tensor, spec: GroupSpec) -> Frame:
    """Keep the elements whose axes have positive third moments, where these differ.

    With determinant one, the axis of the weakest moment follows from the others.
    """
    if not spec.rotates:
        return frame
    along = z.detach() @ frame.R.detach()[:, 0]
    third = along.pow(3).sum(1)
    size = along.abs().pow(3).sum(1)
    strength = torch.where(size > 0, third.abs() / size, 0.0)
    clear = strength > 1e-6
    if not spec.mirrors:
        axis = torch.arange(z.shape[-1], device=z.device)
        weakest = axis == strength.argmin(-1, keepdim=True)
        clear = clear & ~weakest
    signs = (frame.R.detach() * frame.R.detach()[:, :1]).sum(-2).round()
    agree = (signs == third.sign()[:, None]) | ~clear[:, None]
    keep = agree.all(-1)
    logs = torch.where(keep, 0.0, -math.inf)
    logs = logs - keep.sum(-1, keepdim=True).log()
    return frame._replace(log_weights=logs.to(frame.log_weights), padded=True)


def unit(v: Tensor) -> Tensor:
    """Return vectors of length one; zero stays zero."""
    if v.shape[-1]:  # squares of very large or small components are none
        v = v / power_of_two(v.detach().abs().amax(-1, keepdim=True))
    size = v.square().sum(-1, keepdim=True)
    return v / torch.where(size > 0, size, 1.0).sqrt()


def check_elements(group: Tensor) -> None:
    """Raise unless matrices (m, d, d) are orthogonal and closed under products."""
    if group.ndim != 3 or group.shape[1] != group.shape[2] or not len(group):
        raise ValueError(
            f"group: expected matrices (m, d, d), found shape {tuple(group.shape)}"
        )
    g = group.detach().to(torch.float64)
    eye = torch.eye(g.shape[-1], dtype=g.dtype, device=g.device)
    if (g @ g.mT - eye).abs().max() > 1e-4:
        raise ValueError("group: expected orthogonal matrices")
    products = (g[:, None] @ g[None]).flatten(0, 1).flatten(1)
    nearest = torch.cdist(products, g.flatten(1)).amin(1)
    if nearest.max() > 1e-3:
        raise ValueError("group: expected products of elements to be elements")


def check_drawn(group: str, draws: int | None) -> GroupSpec:
    """Return an infinite group to draw from; raise where no number of draws is given.

    Raises
    ------
    ValueError
        It is no group either; without a number.
    """
    try:
        spec = parse_group(group)
    except ValueError as error:
        raise ValueError(f"{error}, or with frame='group' one of {_FINITE}") from None
    if draws is None:
        raise ValueError(
            f"frame='group' with the infinite group {group}: give mode= the number "
            "of elements to draw"
        )
    return spec


def finite_elements(group: str) -> Tensor | None:
    """Return the matrices of a finite group by its name, None for other names."""
    if group not in FINITE_GROUPS:
        return None
    size, mirrors = FINITE_GROUPS[group]
    return signed_permutations(size, mirrors)


def element_frame(x: Tensor, group: str | Tensor, draws: int | None, d: int) -> Tensor:
    """Return group elements (F, d, d) to average over: a finite group or Haar draws.

    Parameters
    ----------
    x : Tensor
        A value of the batch, for its device.
    group : str or Tensor
        Matrices of a finite group, or the name of a Euclidean group to draw from.
    draws : int, optional
        Number of Haar draws.
    d : int
        Dimension.

    Returns
    -------
    Tensor, shape (F, d, d)

    Raises
    ------
    ValueError
        A group that is unknown or of another dimension.
    """
    if isinstance(group, Tensor):
        if d and group.shape[-1] != d:
            raise ValueError(
                f"group: expected matrices of size {d}, found {tuple(group.shape)}"
            )
        return group.to(x.device, wide(x))
    spec = check_drawn(group, draws)
    found = haar_orthogonal((draws or 1,), spec.d or d, special=not spec.mirrors)
    return found.to(x.device, wide(x))
