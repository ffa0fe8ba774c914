"""The continuous frame: one element a pair of points, weighted."""

import math

import torch
from torch import Tensor

from manifoldkit._checks import check_choice, check_count, optional
from manifoldkit.equivariant.frames.builders import (
    flat_vectors,
    frame_of_moments,
    gap_tolerance,
    moments_of,
    read_points,
    unflatten,
    unit,
)
from manifoldkit.equivariant.frames.types import Frame
from manifoldkit.linalg.checks import known_any


def pair_frame(
    x: Tensor,
    group: str = "SE(3)",
    mask: Tensor | None = None,
    *,
    n_pairs: int | None = None,
    gap_tol: float | None = None,
    detach: bool = True,
    on_collinear: str = "pca",
    generator: torch.Generator | None = None,
    vectors: Tensor | None = None,
    vectors_mask: Tensor | None = None,
) -> Frame:
    r"""Return one frame a pair of points, weighted: continuous, exact on the cube.

    In space, with :math:`z = x - t` and :math:`c = z_i \times z_j`, the frame of an
    ordered pair has the axes :math:`z_i / |z_i|`, :math:`e_3 \times e_1` and
    :math:`e_3 = c / |c|`, and the weight :math:`|c|^2`; in the plane each point has a
    frame with the first axis along :math:`z_i` and the weight :math:`|z_i|^2`.
    For O and E the mirror images are added.

    Parameters
    ----------
    x : Tensor, shape (..., n, d)
        Points in 2 or 3 dimensions.
    group : str, default="SE(3)"
        ``"O(d)", "SO(d)", "E(d)", "SE(d)"`` or ``"scale x"`` one of these.
    mask : Tensor of bool, shape (..., n), optional
        Valid points.
    n_pairs : int, optional
        Draw so many pairs with these weights instead of taking all; right in
        expectation.
    gap_tol, detach
        Tolerance of the axes and whether frames are constants, as for
        :func:`pca_frame`.
    on_collinear : {"pca", "raise"}
        What to do with clouds on a line through the origin of the frame: take
        principal axes, or raise.
    generator : torch.Generator, optional
        Source of randomness of ``n_pairs``.
    vectors, vectors_mask
        Vectors that define the frame together with the points, as for
        :func:`pca_frame`.

    Returns
    -------
    Frame
        ``n (n - 1)`` elements (twice for O and E), those of weight zero included;
        ``gap`` is 1 but for collinear clouds.

    Raises
    ------
    ValueError
        Another dimension or group, or a collinear cloud with ``"raise"``.

    Notes
    -----
    A weighted frame in the sense of Dym et al., "Equivariant Frames and the
    Impossibility of Continuous Canonicalization", ICML 2024: the weights vanish where
    the frame of a pair is not defined, which makes the average continuous.

    Examples
    --------
    >>> from manifoldkit.equivariant import pca_frame
    >>> cube = torch.tensor([[float(i >> k & 1) for k in range(3)] for i in range(8)])
    >>> pca_frame(cube).degenerate, pair_frame(cube).degenerate
    (tensor(True), tensor(False))
    """
    spec, x, mask, lead = read_points(x, group, mask)
    d = spec.d
    if d not in (2, 3) or not spec.rotates:
        raise ValueError(
            f"frame 'pair' needs rotations in 2 or 3 dimensions, found group {group} "
            f"in {d}: use frame='pca'"
        )
    optional(check_count)(n_pairs, "n_pairs")
    check_choice(on_collinear, ("pca", "raise"), "on_collinear")
    more = flat_vectors(vectors, vectors_mask, lead, d)
    m = moments_of(x, mask, spec, detach, more)
    tol = gap_tolerance(x.dtype, gap_tol)
    axes = frame_of_moments(m, spec, tol, x.dtype, extra=True)
    r, weight = _point_frames(m.z) if d == 2 else _pair_frames(m.z)
    if spec.mirrors:
        flip = torch.ones(d, dtype=r.dtype, device=r.device)
        flip[-1] = -1
        r, weight = torch.cat([r, r * flip], 1), torch.cat([weight, weight], 1)
    top = weight.amax(1) if weight.shape[1] else weight.new_zeros(weight.shape[0])
    floor = (4 * torch.finfo(x.dtype).eps * m.peak) ** (2 * (d - 1))
    extent = m.c.diagonal(dim1=-2, dim2=-1).sum(-1)
    floor = torch.maximum(floor, extent ** (d - 1) * 1e-24)
    flat = ~(top > floor)  # what is not finite falls back to axes that are not
    if on_collinear == "raise" and known_any(flat & m.c.isfinite().all((-2, -1))):
        raise ValueError(
            "x: expected two points that are not on a line with the origin"
        )
    weight = torch.where(weight > 1e-12 * top[:, None], weight, 0.0)
    if n_pairs is not None and weight.shape[1] > n_pairs:
        r, weight = _draw(r, weight, flat, n_pairs, generator)
    used = weight > 0  # where the weight vanishes, so does its derivative
    share = weight / weight.sum(1, keepdim=True).clamp_min(1e-300)
    logs = torch.where(used, torch.where(used, share, 1.0).log(), -math.inf)
    r, logs = _with_fallback(r, logs, axes, flat)
    gap = torch.where(flat, axes.gap, 1.0)
    bad = flat & axes.degenerate
    frame = Frame(r, m.t, logs, gap, bad, spec.name, axes.scale, padded=True)
    return unflatten(frame, lead)


def _point_frames(z: Tensor) -> tuple[Tensor, Tensor]:
    e1 = unit(z)
    e2 = torch.stack([-e1[..., 1], e1[..., 0]], -1)
    return torch.stack([e1, e2], -1), z.square().sum(-1)


def _pair_frames(z: Tensor) -> tuple[Tensor, Tensor]:
    n = z.shape[1]
    place = torch.arange(n * (n - 1), device=z.device)
    i, j = place // max(n - 1, 1), place % max(n - 1, 1)
    j = j + (j >= i).long()
    cross = torch.linalg.cross(z[:, i], z[:, j], dim=-1)
    e1, e3 = unit(z)[:, i], unit(cross)
    e2 = torch.linalg.cross(e3, e1, dim=-1)
    return torch.stack([e1, e2, e3], -1), cross.square().sum(-1)


def _draw(
    r: Tensor,
    weight: Tensor,
    flat: Tensor,
    count: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Draw frames with their weights; the drawn ones weigh the same."""
    chance = torch.where(flat[:, None], 1.0, weight.detach())
    picked = torch.multinomial(chance, count, replacement=True, generator=generator)
    b = torch.arange(r.shape[0], device=r.device)[:, None]
    return r[b, picked], torch.ones_like(weight[b, picked])


def _with_fallback(
    r: Tensor, logs: Tensor, axes: Frame, flat: Tensor
) -> tuple[Tensor, Tensor]:
    """Put principal axes into the first places of the flagged clouds."""
    need = axes.R.shape[1]
    short = max(need - r.shape[1], 0)
    if short:
        r = torch.cat([r, axes.R[:, :short]], 1)
        logs = torch.cat([logs, logs.new_full((logs.shape[0], short), -math.inf)], 1)
    rest = r.shape[1] - need
    instead = torch.cat([axes.R, r[:, need:]], 1)
    other = torch.cat(
        [axes.log_weights, logs.new_full((logs.shape[0], rest), -math.inf)], 1
    )
    here = flat[:, None]
    return (
        torch.where(here[..., None, None], instead, r),
        torch.where(here, other, logs),
    )
