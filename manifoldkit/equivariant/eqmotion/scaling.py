"""Units of length: the size of a scene, and the unit of a set of scenes."""

import numpy as np
import torch
from torch import Tensor

#: Ways to divide a scene by its own size; their places are what a state dict stores.
RESCALE = (None, "speed", "radius")
#: Scenes are shown to a network at most so many units large, see :func:`oversize`.
LARGEST = 10.0


def center_of(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean (B, 1, 1, D), weights of agents and the number of positions."""
    if mask is None:
        center = x.mean((1, 2), keepdim=True)
        one = x.new_ones(())  # a product, because float() would fix the number
        return center, one, one * (x.shape[1] * x.shape[2])
    weight = mask[:, :, None, None].to(x.dtype)
    count = weight.sum((1, 2, 3), keepdim=True).clamp_min(1) * x.shape[2]
    return (x * weight).sum((1, 2), keepdim=True) / count, weight, count


def rms_length(vectors: Tensor, weight: Tensor, count: Tensor) -> Tensor:
    """Return the root mean square length (B, 1, 1, 1), one where all vectors are zero.

    Vectors (B, N, T, D) are divided by their largest component first, so that no
    square overflows or vanishes.
    """
    vectors = vectors * weight
    if not vectors.shape[1]:
        return vectors.new_ones(len(vectors), 1, 1, 1)
    peak = vectors.detach().abs().amax((1, 2, 3), keepdim=True)
    peak = peak.where(peak > 0, 1.0)
    square = (vectors / peak).square().sum((1, 2, 3), keepdim=True) / count
    return peak * square.where(square > 0, 1.0).sqrt()


def normalize_scenes(
    x: Tensor, mask: Tensor | None, rescale: str | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return center and size of each scene, and what it is made of without them.

    Parameters
    ----------
    x : Tensor, shape (B, N, T, D)
        Complete tracks.
    mask : Tensor of bool, shape (B, N), or None
        The valid agents.
    rescale : {None, "speed", "radius"}
        What the size is: one, the root mean square speed, or the root mean square
        distance from the center.

    Returns
    -------
    center, size : Tensor, shape (B, 1, 1, D) and (B, 1, 1, 1)
    position, velocity : Tensor, shape (D, B, N, T)
    """
    center, weight, count = center_of(x, mask)
    position, velocity = x - center, x.diff(dim=2)
    velocity = torch.cat([velocity[:, :, :1], velocity], 2)
    size = x.new_ones(x.shape[0], 1, 1, 1)
    if rescale is not None:
        what = velocity if rescale == "speed" else position
        size = rms_length(what, weight, count)
        position, velocity = position / size, velocity / size
    position, velocity = (a.permute(3, 0, 1, 2) for a in (position, velocity))
    return center, size, position.contiguous(), velocity.contiguous()


def oversize(x: Tensor, seen: Tensor) -> Tensor:
    """Return how many times larger than :data:`LARGEST` a scene is, at least one.

    Activations of EqMotion grow by a high power of the size of a scene; one far larger
    than those it was trained on is shrunk by this factor, and its forecast enlarged.
    """
    weight = seen[..., None].to(x.dtype)
    count = weight.sum((1, 2, 3), keepdim=True).clamp_min(1)
    x = x.where(seen[..., None], 0.0)
    gap = x - x.sum((1, 2), keepdim=True) / count
    return (rms_length(gap, weight, count) / LARGEST).clamp_min(1.0)


def typical_size(tracks: np.ndarray) -> float:
    """Return the unit of a set of scenes: the median of their sizes.

    The size of a scene is the root mean square distance of its positions from their
    mean; scenes of no extent do not count, and without any other the unit is one.
    A median, because one scene in another unit must not set that of all.

    Parameters
    ----------
    tracks : ndarray, shape (n_scenes, n_agents, n_steps, n_dims)
        Positions, NaN where nothing was observed.
    """
    x = tracks.reshape(len(tracks), -1, tracks.shape[-1]).astype(np.float64)
    known = np.isfinite(x).all(-1, keepdims=True)
    count = np.maximum(known.sum(1, keepdims=True), 1)
    x = np.where(known, x, 0.0)
    x = np.where(known, x - x.sum(1, keepdims=True) / count, 0.0)
    peak = np.abs(x).max((1, 2), initial=0.0, keepdims=True)
    share = x / np.where(peak > 0, peak, 1.0)
    size = np.sqrt((share**2).sum((1, 2)) / count[:, 0, 0]) * peak[:, 0, 0]
    size = size[size > 0]
    return float(np.median(size)) if len(size) else 1.0
