"""What EqMotion takes in: checks, masks, partial tracks, invariant features."""

from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from manifoldkit.linalg.checks import check_floating, first_index, known_any

MISSING = ("raise", "hold", "linear")


class Tracks(NamedTuple):
    """Checked input of one forward pass.

    Attributes
    ----------
    x : Tensor, shape (B, N, T, D)
        Complete tracks, in double precision where the device has it.
    mask : Tensor of bool, shape (B, N), or None
        The valid agents; None when all are.
    batched : bool
        Whether the input had a batch dimension.
    """

    x: Tensor
    mask: Tensor | None
    batched: bool


def read_tracks(
    x: ArrayLike,
    mask: ArrayLike | None,
    lengths: ArrayLike | None,
    past_len: int,
    n_agents: int | None,
    missing: str,
    finite: bool,
) -> Tracks:
    """Check positions and masks, complete partial tracks."""
    x = check_floating(torch.as_tensor(x), "x")
    if x.ndim not in (3, 4) or x.shape[-1] == 0:
        raise ValueError(
            "x: expected positions of shape (B, N, T, D) or (N, T, D), "
            f"found {tuple(x.shape)}"
        )
    if x.shape[-2] != past_len:
        raise ValueError(
            f"x: expected past_len = {past_len} observed steps, shape (B, N, "
            f"{past_len}, D), found {tuple(x.shape)}"
        )
    batched = x.ndim == 4
    x = x if batched else x[None]
    if n_agents is not None and x.shape[1] != n_agents:
        raise ValueError(
            f"x: expected n_agents = {n_agents} agents, one an embedding, "
            f"found shape {tuple(x.shape)}"
        )
    steps = _read_mask(mask, lengths, x, batched)
    wide = x if x.device.type == "mps" else x.double()
    if finite:
        _check_observed(x, steps)
    if steps is None:
        return Tracks(wide, None, batched)
    agents = steps.any(-1)
    wide = wide.where(steps[..., None], 0.0)
    partial = known_any(agents & ~steps.all(-1))
    if partial or (partial is None and missing != "raise"):
        wide = _complete(wide, steps, missing)  # leaves complete tracks as they are
    return Tracks(wide, agents, batched)


def _read_mask(
    mask: ArrayLike | None, lengths: ArrayLike | None, x: Tensor, batched: bool
) -> Tensor | None:
    """Return a mask of steps (B, N, T), or None when nothing is masked."""
    b, n, t, _ = x.shape
    if lengths is not None:
        if mask is not None:
            raise ValueError("mask, lengths: expected one of them, found both")
        lengths = torch.as_tensor(lengths, device=x.device).reshape(-1)
        if lengths.shape != (b,) or known_any((lengths < 0) | (lengths > n)):
            raise ValueError(
                f"lengths: expected {b} numbers of agents between 0 and {n}, "
                f"found {lengths.tolist()}"
            )
        there = torch.arange(n, device=x.device) < lengths[:, None]
        return there[:, :, None].expand(b, n, t)
    if mask is None:
        return None
    mask = torch.as_tensor(mask, device=x.device)
    if mask.dtype != torch.bool:
        raise TypeError(f"mask: expected booleans, True = valid, found {mask.dtype}")
    mask = mask if batched else mask[None]
    if mask.shape == (b, n):
        mask = mask[..., None].expand(b, n, t)
    if mask.shape != (b, n, t):
        lead = "B, " if batched else ""
        raise ValueError(
            f"mask: expected shape ({lead}N) or ({lead}N, T) for x of shape "
            f"{tuple(x.shape if batched else x.shape[1:])}, found "
            f"{tuple(mask.shape if batched else mask.shape[1:])}"
        )
    return mask


def _check_observed(x: Tensor, steps: Tensor | None) -> None:
    """Raise where a valid position is not finite."""
    bad = ~torch.isfinite(x).all(-1)
    bad = bad if steps is None else bad & steps
    if known_any(bad):
        raise ValueError(
            f"x{list(first_index(bad))} is not finite: expected numbers at every valid "
            "step (mask the steps that were not observed)"
        )


def _complete(x: Tensor, steps: Tensor, missing: str) -> Tensor:
    """Fill the gaps of partial tracks from the steps that were observed."""
    if missing == "raise":
        b, n = first_index(steps.any(-1) & ~steps.all(-1))
        raise ValueError(
            f"mask[{b}, {n}]: {int(steps[b, n].sum())} of {steps.shape[-1]} steps are "
            "observed; partial tracks need EqMotion(missing='hold') or 'linear', or a "
            "mask without the agent"
        )
    t = torch.arange(steps.shape[-1], device=x.device).expand(steps.shape)
    last = t.where(steps, -1).cummax(-1).values
    after = t.where(steps, steps.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    # before the first observation hold it, after the last one hold that; an agent
    # never seen stays where it is (it is masked as a whole)
    seen = steps.any(-1, keepdim=True)
    before = last.where(last >= 0, after).where(seen, t)
    after = after.where(after < steps.shape[-1], last).where(seen, t)
    index = before[..., None].expand(x.shape)
    left = x.gather(-2, index)
    if missing == "hold":
        return left
    right = x.gather(-2, after[..., None].expand(x.shape))
    span = (after - before).clamp_min(1).to(x.dtype)
    share = ((t - before).to(x.dtype) / span).clamp(0, 1)[..., None]
    return left + share * (right - left)


def check_category(
    category: Tensor, shape: tuple[int, ...], mask: Tensor | None, values: bool
) -> None:
    """Check given categories of pairs, or raise ``ValueError``."""
    check_floating(category, "category")
    if tuple(category.shape) != shape:
        raise ValueError(
            f"category: expected shape {shape}, one share of each category a pair, "
            f"found {tuple(category.shape)}"
        )
    if not values or category.numel() == 0:
        return
    gap = (category.detach().sum(-1) - 1).abs()
    gap = gap.where(gap.isfinite(), torch.inf)
    if mask is not None and gap.ndim == 3:
        gap = gap * (mask[:, :, None] & mask[:, None])
    if known_any(gap > 1e-4):
        raise ValueError(
            "category: expected shares that sum to 1 over the last axis, found sums "
            f"that differ by up to {float(gap.max()):.1e}"
        )


def check_edges(edges: ArrayLike, b: int, n: int, device: torch.device) -> Tensor:
    """Return edges as (3, E): sample, sender, receiver."""
    edges = torch.as_tensor(edges, device=device)
    whole = edges.dtype in (torch.int64, torch.int32)
    if not whole or edges.ndim != 2 or edges.shape[0] not in (2, 3):
        raise ValueError(
            "edge_index: expected integers of shape (2, E), one graph for all samples, "
            "or (3, E) with the sample first, found "
            f"{edges.dtype} of shape {tuple(edges.shape)}"
        )
    edges = edges.long()
    if edges.shape[0] == 2:  # the same graph in every sample
        sample = torch.arange(b, device=device).repeat_interleave(edges.shape[1])
        edges = torch.cat([sample[None], edges.repeat(1, b)])
    beyond = (edges < 0) | (edges >= edges.new_tensor([[b], [n], [n]]))
    if known_any(beyond):
        raise ValueError(
            f"edge_index: expected agents 0 to {n - 1} of samples 0 to {b - 1}, found "
            f"{int(edges[1:].min())} to {int(edges[1:].max())}; for a graph that "
            "torch-geometric batched give batch="
        )
    return edges


def lengths_of(v: Tensor) -> Tensor:
    """Norms over the first axis; all derivatives of a norm that is zero are zero."""
    square = v.square().sum(0)
    some = square > 0
    return square.where(some, 1.0).sqrt().where(some, 0.0)


def invariants(v: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    r"""Speeds and turning angles (B, N, T) of velocities (D, B, N, T).

    ``kind="reference"`` is the authors' angle, :math:`\arccos` of
    :math:`\langle a, b\rangle / ((|a| + 10^{-6})(|b| + 10^{-6}))`; ``"atan2"`` is the
    true angle, zero where an agent stands still. Both are computed in Kahan's form,
    :math:`|a||b| \mp \langle a, b\rangle = |\,|b|a \mp |a|b\,|^2 / (2|a||b|)`,
    which loses nothing near 0 and pi, where arccos loses half of the digits.
    """
    speed = lengths_of(v)
    previous = torch.cat([v[..., :1], v[..., :-1]], -1)
    before = torch.cat([speed[..., :1], speed[..., :-1]], -1)
    a, b = previous * speed, v * before
    if kind == "atan2":
        narrow, wide = lengths_of(a - b), lengths_of(a + b)
        tiny = torch.finfo(v.dtype).tiny ** 0.5
        smooth = (speed > tiny) & (before > tiny) & (narrow > 0)
        angle = 2 * torch.atan2(narrow.where(smooth, 0), wide.where(smooth, 1))
        return speed, angle
    product = 2 * speed * before
    product = product.where(product > torch.finfo(v.dtype).tiny, 1.0)
    shift = 1e-6 * (speed + before) + 1e-12
    narrow = (a - b).square().sum(0) / product + shift
    wide = (a + b).square().sum(0) / product + shift
    return speed, 2 * torch.atan2(narrow.sqrt(), wide.sqrt())


def dct_matrix(
    n: int,
    dtype: torch.dtype = torch.float64,
    device: torch.device | None = None,
) -> Tensor:
    """Return the orthonormal DCT-II matrix: rows are frequencies.

    Examples
    --------
    >>> d = dct_matrix(4)
    >>> torch.allclose(d @ d.T, torch.eye(4, dtype=d.dtype))
    True
    """
    i = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(torch.pi * (i + 0.5) * i[:, None] / n) * (2 / n) ** 0.5
    matrix[0] = (1 / n) ** 0.5
    return matrix.to(device=device, dtype=dtype)
