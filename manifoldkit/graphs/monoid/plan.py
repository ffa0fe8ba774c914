"""Balanced-tree reduction of ragged sets.

Every set is folded along its own balanced binary tree: adjacent elements are paired, an
odd last element waits for the next level. The depth is ``ceil(log2(largest set))`` and
the number of operator calls is one less than the number of elements, whatever the sizes
of the other sets: nothing is padded to the largest one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.compiler import is_compiling

from manifoldkit._checks import check_count
from manifoldkit.linalg.draws import generator_option

Operator = Callable[[Tensor, Tensor], Tensor]

# Matrix products treat the last rows of a block by other instructions. With a multiple
# of 16 rows every row sees the same ones, so a set has the same bits in any company.
LANES = 16


class _Level(NamedTuple):
    """One level: which rows of the buffer are paired, carried, or already results."""

    perm: Tensor  # rows in the order [left | right | carried | finished]
    inverse: Tensor  # where each row of the buffer stands in perm
    sizes: tuple[int, int, int, int]
    pairs: int  # pairs that count; the others repeat the first and are dropped


class SegmentTreePlan:
    """The integer work of a tree reduction, made once and used for any features.

    Parameters
    ----------
    counts : Tensor of shape (n_segments,)
        Number of elements of each segment; elements of a segment are adjacent.
    order : Tensor of shape (n_elements,), optional
        Where the elements are: ``x[order]`` is sorted by segment. Default: already so.

    Attributes
    ----------
    counts : Tensor
        Number of elements of each segment, as int64.
    levels : list
        The levels, from the leaves.

    Notes
    -----
    Building takes O(n_elements) integer operations. A row leaves the buffer as soon as
    its segment is finished, so the buffer shrinks geometrically.

    Examples
    --------
    >>> plan = SegmentTreePlan(torch.tensor([3, 0, 1]))
    >>> plan.num_elements, plan.num_segments, plan.depth
    (4, 3, 2)
    >>> x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    >>> plan.reduce(x, torch.add).flatten().tolist()
    [6.0, 0.0, 4.0]
    """

    def __init__(self, counts: Tensor, order: Tensor | None = None):
        if counts.dim() != 1 or counts.dtype not in _INTEGERS:
            raise ValueError(
                "counts: expected integers of shape (n_segments,), found "
                f"{counts.dtype} of shape {tuple(counts.shape)}"
            )
        if counts.numel() and int(counts.min()) < 0:
            raise ValueError(f"counts: expected >= 0, found {int(counts.min())}")
        n = int(counts.sum())
        if order is not None and order.shape != (n,):
            raise ValueError(
                f"order: expected shape ({n},), found {tuple(order.shape)}"
            )
        if order is not None and not _is_permutation(order):
            raise ValueError(f"order: expected every position below {n} once")
        self._set(counts.long(), order)

    def _set(self, counts: Tensor, order: Tensor | None) -> None:
        self.counts = counts
        self.num_segments = counts.numel()
        self.num_elements = int(counts.sum())
        self._order = order
        self.has_empty = bool((self.counts == 0).any())
        self._segment = torch.repeat_interleave(
            torch.arange(self.num_segments, device=counts.device), self.counts
        )
        self.levels, self._final, self._final_inverse = self._build()

    @classmethod
    def _checked(cls, counts: Tensor, order: Tensor | None) -> Self:
        """Return the plan of arguments that need no check."""
        plan = object.__new__(cls)
        plan._set(counts, order)
        return plan

    @classmethod
    def from_index(cls, index: Tensor, dim_size: int | None = None) -> Self:
        """Return the plan of a group index, sorted or not.

        Parameters
        ----------
        index : Tensor of shape (n_elements,)
            Segment of each element. Within a segment the elements keep their order.
        dim_size : int, optional
            Number of segments; default: the largest index plus one.

        Raises
        ------
        TypeError, ValueError
            Not integers, not one-dimensional, negative, or not below ``dim_size``.
        """
        index = check_index(index)
        if dim_size is not None and not is_compiling():  # there it may be symbolic
            check_count(dim_size, "dim_size", 0)
        low, high = (int(v) for v in index.aminmax()) if index.numel() else (0, -1)
        if low < 0:
            raise ValueError(f"index: expected values >= 0, found {low}")
        if dim_size is None:
            dim_size = high + 1
        elif high >= dim_size:
            raise ValueError(
                f"index: expected values < dim_size={dim_size}, found {high}"
            )
        counts = torch.bincount(index, minlength=dim_size)
        is_sorted = bool((index[1:] >= index[:-1]).all())
        order = None if is_sorted else torch.sort(index, stable=True).indices
        return cls._checked(counts, order)

    @classmethod
    def from_ptr(cls, ptr: Tensor) -> Self:
        """Return the plan of boundaries: segment ``s`` is ``ptr[s]:ptr[s + 1]``."""
        ptr = check_index(ptr, "ptr")
        if ptr.numel() == 0 or int(ptr[0]) != 0 or bool((ptr[1:] < ptr[:-1]).any()):
            raise ValueError(
                "ptr: expected non-decreasing boundaries that begin with 0"
            )
        return cls(ptr[1:] - ptr[:-1])

    @property
    def depth(self) -> int:
        """Number of operator calls on the longest way: ceil(log2(largest count))."""
        return max(len(self.levels) - 1, 0)

    @property
    def order(self) -> Tensor:
        """Positions of the elements, sorted by segment."""
        if self._order is None:
            return torch.arange(self.num_elements, device=self.counts.device)
        return self._order

    @property
    def ptr(self) -> Tensor:
        """Boundaries of the segments in the sorted elements."""
        return torch.cat([self.counts.new_zeros(1), self.counts.cumsum(0)])

    def shuffled(self, generator: torch.Generator | None = None) -> "SegmentTreePlan":
        """Return the plan with the elements of every segment in random order."""
        source: Any = generator_option(generator)
        keys = torch.rand(
            self.num_elements,
            dtype=torch.float64,
            device=self.counts.device if generator is None else generator.device,
            **source,
        )
        order = self.order[torch.argsort(self._segment + keys.to(self.counts.device))]
        plan = object.__new__(SegmentTreePlan)
        plan.__dict__.update(self.__dict__)
        plan._order = order
        if plan.levels:
            leaves = self._level_of(order, self.counts)[0]
            plan.levels = [leaves, *self.levels[1:]]
        return plan

    def to(self, device: torch.device | str) -> "SegmentTreePlan":
        """Return the plan on another device."""
        order = None if self._order is None else self._order.to(device)
        return self._checked(self.counts.to(device), order)

    def _build(self) -> tuple[list[_Level], Tensor, Tensor]:
        levels, finished = [], []
        place, counts = self.order, self.counts
        segment = torch.arange(self.num_segments, device=counts.device)
        while True:
            segment, counts = segment[counts > 0], counts[counts > 0]
            if not counts.numel():
                break
            finished.append(segment[counts == 1])
            level, place = self._level_of(place, counts)
            levels.append(level)
            counts = torch.where(counts == 1, 0, (counts + 1) // 2)
        done = torch.cat(finished) if finished else segment
        final = torch.zeros_like(self.counts)
        final[done] = torch.arange(done.numel(), device=done.device)
        return levels, final, done

    @staticmethod
    def _level_of(place: Tensor, counts: Tensor) -> tuple[_Level, Tensor]:
        """Return a level, and where the next level's rows will be in the next buffer.

        ``place`` holds the buffer row of each element, elements sorted by segment.
        """
        counts = counts[counts > 0]
        start = counts.cumsum(0) - counts
        finished = start[counts == 1]
        pairs = counts // 2
        many, n_pairs = counts > 1, int(pairs.sum())
        next_counts = torch.where(many, pairs + counts % 2, 0)
        next_start = next_counts.cumsum(0) - next_counts
        first = torch.repeat_interleave(start - 2 * (pairs.cumsum(0) - pairs), pairs)
        left = first + 2 * torch.arange(n_pairs, device=place.device)
        odd = many & (counts % 2 == 1)
        carried = (start + counts - 1)[odd]

        total = int(next_counts.sum())
        next_place = torch.empty(total, dtype=torch.long, device=place.device)
        slot = torch.repeat_interleave(next_start - (pairs.cumsum(0) - pairs), pairs)
        number = torch.arange(total, device=place.device)
        next_place[slot + number[:n_pairs]] = number[:n_pairs]
        next_place[(next_start + pairs)[odd]] = number[n_pairs:]

        padding = left[:1].expand(-n_pairs % LANES)
        left, right = torch.cat([left, padding]), torch.cat([left + 1, padding + 1])
        perm = place[torch.cat([left, right, carried, finished])]
        inverse = torch.empty_like(place)
        real = torch.arange(perm.numel(), device=place.device)
        lanes = left.numel()
        real = torch.cat(
            [real[:n_pairs], real[lanes : lanes + n_pairs], real[2 * lanes :]]
        )
        inverse[perm[real]] = real
        sizes = (lanes, lanes, carried.numel(), finished.numel())
        return _Level(perm, inverse, sizes, n_pairs), next_place

    def reduce(
        self,
        x: Tensor,
        operator: Operator,
        identity: Tensor | float | None = None,
    ) -> Tensor:
        """Fold every segment of ``x`` (dimension 0) by ``operator``.

        Parameters
        ----------
        x : Tensor of shape (n_elements, ..., F)
        operator : callable
            Maps two ``(m, F)`` tensors to one.
        identity : Tensor or float, optional
            Value of an empty segment; default: ``operator.identity`` or zero. Where
            it requires gradients it takes part in the graph whether or not a segment
            is empty, as ``DistributedDataParallel`` expects of every parameter.

        Returns
        -------
        Tensor of shape (n_segments, ..., F)

        Raises
        ------
        ValueError
            Another number of elements; an operator that changes the shape; an
            identity that does not fit the features or their dtype.
        """
        if x.dim() == 0 or x.shape[0] != self.num_elements:
            raise ValueError(
                f"x: expected {self.num_elements} elements in dimension 0, found shape "
                f"{tuple(x.shape)}"
            )
        if x.dim() == 1:
            return self.reduce(x[:, None], operator, identity)[:, 0]
        if identity is None:
            identity = getattr(operator, "identity", None)
        identity = 0.0 if identity is None else identity
        if not self.levels:
            shape = (self.num_segments, *x.shape[1:])
            return torch.cat([_fill(identity, x).expand(shape), x])
        results, buffer = [], x
        for level in self.levels:
            dealt = _deal(buffer, level.perm, level.inverse)
            left, right, carried, finished = dealt.split(level.sizes)
            results.append(finished)
            if level.pairs:
                out = call_on_rows(operator, left, right)[: level.pairs]
                buffer = torch.cat([out, carried]) if carried.shape[0] else out
        done = torch.cat(results)
        out = _deal(done, self._final, self._final_inverse)
        learned = isinstance(identity, Tensor) and identity.requires_grad
        if self.has_empty or learned:
            empty = (self.counts == 0).view(-1, *[1] * (x.dim() - 1))
            out = torch.where(empty, _fill(identity, out), out)
        return out

    def __repr__(self) -> str:
        return (
            f"SegmentTreePlan(num_segments={self.num_segments}, "
            f"num_elements={self.num_elements}, depth={self.depth})"
        )


def _fill(identity: Tensor | float, x: Tensor) -> Tensor:
    """Return the value of empty segments in the dtype and on the device of ``x``."""
    if isinstance(identity, Tensor):
        wide = identity.is_complex() and not x.is_complex()
        sizes = zip(identity.shape[::-1], x.shape[::-1], strict=False)
        fits = all(n in (1, m) for n, m in sizes)
        if wide or not fits or identity.dim() > x.dim():
            raise ValueError(
                f"identity: expected shape ({x.shape[-1]},) for {x.dtype}, found "
                f"{identity.dtype} of shape {tuple(identity.shape)}"
            )
        return identity.to(x)
    integer = float(identity).is_integer()
    if not (integer or x.is_floating_point() or x.is_complex()):
        raise ValueError(
            f"identity: expected an integer as value of empty sets of {x.dtype}, found "
            f"{identity}; give one, or convert x to floating point"
        )
    return torch.as_tensor(identity, dtype=x.dtype, device=x.device)


def _is_permutation(order: Tensor) -> bool:
    """Whether positions 0, ..., n - 1 stand in it, each once."""
    if order.dtype not in _INTEGERS:
        return False
    low, high = order.aminmax() if order.numel() else (0, 0)
    if low < 0 or high >= max(order.numel(), 1):
        return False
    return bool((torch.bincount(order, minlength=order.numel()) == 1).all())


def _deal(x: Tensor, perm: Tensor, inverse: Tensor) -> Tensor:
    """Return ``x[perm]``; the compiler does not take the function below."""
    if torch.compiler.is_compiling():
        return x.index_select(0, perm)
    return _Deal.apply(x, perm, inverse)


class _Deal(torch.autograd.Function):
    """``x[perm]``; the gradient is gathered as well, by the inverse permutation.

    Rows that ``perm`` repeats are thrown away later, so their gradient is zero and only
    the position that ``inverse`` names counts. No scatter, hence deterministic.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x, perm, inverse):
        return x.index_select(0, perm)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, perm, inverse = inputs
        ctx.save_for_backward(inverse)
        ctx.save_for_forward(perm)

    @staticmethod
    def backward(ctx, grad):
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None

    @staticmethod
    def jvp(ctx, tangent, *_):
        (perm,) = ctx.saved_tensors
        return tangent.index_select(0, perm)


def call_on_rows(operator: Operator, left: Tensor, right: Tensor) -> Tensor:
    """Call the operator on rows of features; further dimensions become rows."""
    shape = left.shape
    if left.dim() > 2:
        left, right = left.reshape(-1, shape[-1]), right.reshape(-1, shape[-1])
    out = operator(left, right)
    if out.shape != left.shape:
        raise ValueError(
            f"operator: expected a result of shape {tuple(left.shape)}, as its "
            f"arguments, found {tuple(out.shape)}"
        )
    return out.reshape(shape)


def check_index(index: Tensor, name: str = "index") -> Tensor:
    """Return a one-dimensional integer tensor as int64, or raise."""
    if not isinstance(index, Tensor) or index.dtype not in _INTEGERS:
        found = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"{name}: expected a tensor of integers, found {found}")
    if index.dim() != 1:
        raise ValueError(
            f"{name}: expected one dimension, found shape {tuple(index.shape)}"
        )
    return index.long()


_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
