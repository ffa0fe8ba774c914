"""All prefixes of ragged sequences, in logarithmic depth."""

import torch
from torch import Tensor

from manifoldkit.graphs.monoid.plan import (
    LANES,
    Operator,
    SegmentTreePlan,
    call_on_rows,
)
from manifoldkit.graphs.monoid.reduce import plan_for
from manifoldkit.linalg.checks import check_last


def segment_tree_scan(
    x: Tensor,
    index: Tensor | None,
    operator: Operator,
    *,
    ptr: Tensor | None = None,
    plan: SegmentTreePlan | None = None,
) -> Tensor:
    """Return every prefix of every set: ``x_1, f(x_1, x_2), f(f(x_1, x_2), x_3), ...``

    Pairs are combined, the half as long sequences scanned, and the prefixes of odd
    length completed: at most ``2 n`` operator calls in ``2 ceil(log2 n)`` batched
    steps. Equal to the left fold if the operator is associative. The prefixes of a set
    do not depend on the other sets, to the last bit.

    Parameters
    ----------
    x : Tensor of shape (n_elements, F)
    index, operator, ptr, plan
        Sets and operator, given as to :func:`segment_tree_reduce`.

    Returns
    -------
    Tensor of shape (n_elements, F)
        The prefix that ends with each element, in the order of ``x``.

    Raises
    ------
    TypeError, ValueError
        Elements that are not floating-point numbers or of another length than the
        index; an operator that changes the shape.

    References
    ----------
    R. Ladner and M. Fischer, "Parallel prefix computation", Journal of the ACM 27,
    1980.

    Examples
    --------
    >>> x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    >>> index = torch.tensor([0, 0, 0, 1])
    >>> segment_tree_scan(x, index, torch.add).flatten().tolist()
    [1.0, 3.0, 6.0, 4.0]
    """
    check_last(x, ("n", "F"), "x")
    if plan is None:
        plan = plan_for(index, ptr)
    if x.shape[0] != plan.num_elements:
        raise ValueError(
            f"x: expected {plan.num_elements} elements, found {x.shape[0]}"
        )
    scanned = _scan(x.index_select(0, plan.order), plan.counts, operator)
    return torch.empty_like(scanned).index_copy(0, plan.order, scanned)


def _scan(x: Tensor, counts: Tensor, operator: Operator) -> Tensor:
    """Scan adjacent segments."""
    if not counts.numel() or int(counts.max()) <= 1:
        return x
    pairs = counts // 2
    segment = torch.repeat_interleave(torch.arange(len(pairs), device=x.device), pairs)
    number = torch.arange(segment.numel(), device=x.device)
    start, pair_start = counts.cumsum(0) - counts, pairs.cumsum(0) - pairs
    left = start[segment] + 2 * (number - pair_start[segment])
    prefix = _scan(_on_lanes(operator, x, left, x, left + 1), pairs, operator)
    # elements 3, 5, ... follow the pair before them; the first of a set stands alone
    odd = (counts - 1).clamp_min(0) // 2
    segment = torch.repeat_interleave(torch.arange(len(odd), device=x.device), odd)
    place = (
        torch.arange(segment.numel(), device=x.device) - (odd.cumsum(0) - odd)[segment]
    )
    before, target = pair_start[segment] + place, start[segment] + 2 * place + 2
    out = x.index_copy(0, left + 1, prefix)
    if not target.numel():
        return out
    return out.index_copy(0, target, _on_lanes(operator, prefix, before, x, target))


def _on_lanes(
    operator: Operator, x: Tensor, left: Tensor, y: Tensor, right: Tensor
) -> Tensor:
    """Combine rows of ``x`` and ``y``, a multiple of 16: same bits in any company."""
    pairs, padding = len(left), -len(left) % LANES
    if padding:
        left, right = (torch.cat([at, at[:1].expand(padding)]) for at in (left, right))
    return call_on_rows(operator, x[left], y[right])[:pairs]
