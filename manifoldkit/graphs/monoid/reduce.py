"""Reduce ragged sets by a binary operator, with plans kept for the last indices."""

from functools import lru_cache
from typing import Any

from torch import Tensor
from torch.compiler import is_compiling

from manifoldkit.graphs.monoid.plan import Operator, SegmentTreePlan, check_index
from manifoldkit.linalg.checks import check_tensor
from manifoldkit.linalg.transforms import is_transformed


class _Index:
    """An index tensor as a key: changed in place it is another one.

    In the cache it keeps the tensor alive, so that its address cannot come to mean
    another tensor.
    """

    def __init__(self, values: Tensor):
        self.values = values
        layout = values.shape, values.stride(), values.dtype, values.device
        self.key = values.data_ptr(), values._version, *layout

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Index) and self.key == other.key


@lru_cache(maxsize=8)  # without it a fold by maximum takes 2.5 times as long
def kept_plan(index: _Index, kind: str, dim_size: int | None) -> SegmentTreePlan:
    """Return the plan of an index, from the last ones if it is among them."""
    return _make_plan(index.values, kind, dim_size)


def _make_plan(values: Any, kind: str, dim_size: int | None) -> SegmentTreePlan:
    if kind == "ptr":
        return SegmentTreePlan.from_ptr(values)
    return SegmentTreePlan.from_index(values, dim_size)


def _unkept_plan(values: Any, kind: str, dim_size: int | None) -> SegmentTreePlan:
    try:
        return _make_plan(values, kind, dim_size)
    except RuntimeError as error:
        if not is_transformed():
            raise
        raise ValueError(
            f"{kind}: expected the same sets for all items of torch.func.vmap, as the "
            "sizes are the shapes of the tree; join the items to one batch instead"
        ) from error


def plan_for(
    index: Tensor | None = None,
    ptr: Tensor | None = None,
    dim_size: int | None = None,
) -> SegmentTreePlan:
    """Return the plan of an index or of boundaries, from the cache if it is there."""
    if (index is None) == (ptr is None):
        raise ValueError("index, ptr: expected exactly one of them")
    length = None if ptr is None else check_index(ptr, "ptr").numel()
    if length and dim_size not in (None, length - 1):
        raise ValueError(
            f"dim_size: expected {length - 1} as ptr says, found {dim_size}"
        )
    kind, values = ("index", index) if ptr is None else ("ptr", ptr)
    if (
        not isinstance(values, Tensor)
        or is_compiling()
        or is_transformed()
        or values.is_inference()
    ):  # what has no address or no version is not kept
        return _unkept_plan(values, kind, dim_size)
    return kept_plan(_Index(values), kind, dim_size)


def segment_tree_reduce(
    x: Tensor,
    index: Tensor | None,
    operator: Operator,
    dim_size: int | None = None,
    identity: Tensor | float | None = None,
    *,
    ptr: Tensor | None = None,
    dim: int = 0,
    plan: SegmentTreePlan | None = None,
) -> Tensor:
    """Fold ragged sets by a binary operator along balanced trees.

    For a set ``x_1, ..., x_n``, adjacent elements are combined, an odd last one waits:
    ``f(f(x_1, x_2), f(x_3, x_4))`` and so on, ``n - 1`` calls in ``ceil(log2 n)``
    batched steps. Sets of any sizes go side by side without padding, and the value of a
    set does not depend on the others, to the last bit.

    Parameters
    ----------
    x : Tensor of shape (..., n_elements, ..., F)
        Elements along dimension ``dim``.
    index : Tensor of shape (n_elements,) or None
        Set of each element, in any order; None if ``ptr`` or ``plan`` is given.
    operator : callable
        Maps two tensors of shape ``(m, F)`` to one. Associative operators give the fold
        exactly; others give the value of the balanced tree in the given order.
    dim_size : int, optional
        Number of sets; default: the largest index plus one.
    identity : Tensor or float, optional
        Value of an empty set; default: ``operator.identity`` (minus infinity for the
        maximum), else zero.
    ptr : Tensor of shape (n_sets + 1,), optional
        Boundaries of adjacent sets, instead of ``index``.
    dim : int, default=0
    plan : SegmentTreePlan, optional
        Made before, instead of ``index``. Plans of the last indices are kept anyway.

    Returns
    -------
    Tensor of shape (..., n_sets, ..., F)

    Raises
    ------
    TypeError, ValueError
        An index that is not integer, negative, too large or of another length; an
        operator that changes the shape; an identity that does not fit.

    Notes
    -----
    ``torch.func``'s transforms and ``torch.compile`` apply, with respect to ``x`` and
    the operator's parameters; the index has to be the same for all items of a ``vmap``.

    References
    ----------
    Ong and Velickovic, "Learnable Commutative Monoids for Graph Neural Networks",
    LoG 2022 (the balanced tree of a dense set).

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0], [5.0], [2.0], [3.0]])
    >>> index = torch.tensor([1, 0, 1, 1])
    >>> segment_tree_reduce(x, index, torch.maximum, dim_size=3).flatten().tolist()
    [5.0, 3.0, 0.0]
    """
    check_tensor(x, "x")
    if plan is None:
        plan = plan_for(index, ptr, dim_size)
    if not -x.dim() <= dim < x.dim():
        raise ValueError(
            f"dim: expected a dimension of shape {tuple(x.shape)}, found {dim}"
        )
    if dim % x.dim() == x.dim() - 1 and x.dim() > 1:
        raise ValueError("dim: the last dimension holds the features")
    return plan.reduce(x.movedim(dim, 0), operator, identity).movedim(0, dim)
