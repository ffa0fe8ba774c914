"""What EqMotion gives out: forecasts, categories and features, zero for padding."""

from typing import NamedTuple

from torch import Tensor


class EqMotionOutput(NamedTuple):
    """What :class:`EqMotion` returns; without the batch axis for input without one.

    Attributes
    ----------
    pred : Tensor, shape (B, N, T_out, D) or (B, N, n_modes, T_out, D)
        Future positions, in the dtype of the input.
    category : Tensor, shape (B, N, N, K), or (E, K) for a graph
        Share of each category of interaction for every ordered pair (i, j); agent i
        feels agent j.
    h : Tensor, shape (B, N, hidden)
        Invariant features that the last layer read.
    G : Tensor, shape (B, N, channels, D) or (B, N, n_modes, channels, D)
        Vectors about the center of the scene, which turn with it.
    """

    pred: Tensor
    category: Tensor
    h: Tensor
    G: Tensor


def both_valid(mask: Tensor) -> Tensor:
    """Pairs of valid agents, (B, N, N, 1)."""
    return (mask[:, :, None] & mask[:, None])[..., None]


def finish(
    out: EqMotionOutput, mask: Tensor | None, batched: bool, graph: bool
) -> EqMotionOutput:
    """Zero what belongs to no agent; drop the batch axis that was added."""
    pred, category, h, vectors = out
    if mask is not None:
        wide = (..., *(None,) * (pred.ndim - 2))
        pred = pred.where(mask[wide], 0.0)
        vectors = vectors.where(mask[(..., *(None,) * (vectors.ndim - 2))], 0.0)
        h = h.where(mask[..., None], 0.0)
        if not graph:
            category = category.where(both_valid(mask), 0.0)
    if not batched:
        pred, h, vectors = pred[0], h[0], vectors[0]
        category = category if graph else category[0]
    return EqMotionOutput(pred, category, h, vectors)
