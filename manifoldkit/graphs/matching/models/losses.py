"""The loss that retrieval networks are trained with."""

import torch
from torch import Tensor

from manifoldkit.linalg.checks import check_floating, check_tensor


def pairwise_ranking_loss(
    scores: Tensor, labels: Tensor, margin: float = 0.5
) -> Tensor:
    r"""Return ``relu(margin + s_neg - s_pos)``, mean over positive-negative pairs.

    The scores are asymmetric (how much of the *query* is not covered), the loss is the
    hinge over every pair of a positive and a negative in the batch. Zero if the batch
    lacks one of the two.

    Parameters
    ----------
    scores : Tensor, shape (B,)
    labels : Tensor, shape (B,)
        Nonzero for positives.
    margin : float, default=0.5
        By how much positives should lead.

    Returns
    -------
    Tensor, scalar

    Raises
    ------
    TypeError, ValueError
        Scores that are not floating-point numbers; shapes that differ.

    References
    ----------
    Ramachandran, Raj, Roy, Chakrabarti, De, "Iteratively refined early interaction
    alignment for subgraph matching based graph retrieval", NeurIPS 2024.

    Examples
    --------
    >>> scores = torch.tensor([1.0, 0.8, 0.0])
    >>> round(float(pairwise_ranking_loss(scores, torch.tensor([1, 0, 0]))), 3)
    0.15
    """
    check_floating(scores, "scores")
    check_tensor(labels, "labels")
    if scores.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(
            "scores, labels: expected equal shapes (B,), found "
            f"{tuple(scores.shape)} and {tuple(labels.shape)}"
        )
    positive = labels != 0
    gap = torch.relu(margin + scores[None, :] - scores[:, None])
    both = (positive[:, None] & ~positive[None, :]).to(gap.dtype)
    return (gap * both).sum() / both.sum().clamp_min(1.0)
