"""PyG aggregations that fold the elements of every set."""

import warnings
from typing import Any

import torch
import torch_geometric
import torch_geometric.nn.aggr as pyg_aggr
from torch import Tensor, nn
from torch_geometric.nn.aggr import Aggregation

from manifoldkit._checks import check_choice, check_count
from manifoldkit.graphs.modules import redraw_parts
from manifoldkit.graphs.monoid.losses import associativity_loss
from manifoldkit.graphs.monoid.operators import ExactMonoid, GRUMonoid
from manifoldkit.graphs.monoid.plan import Operator, SegmentTreePlan
from manifoldkit.graphs.monoid.reduce import plan_for

_HALF = (torch.float16, torch.bfloat16)


class _RaggedAggregation(Aggregation):
    """What both aggregations share: projection, random orders, the axis, the plan."""

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int | None,
        project: bool,
        permute: str,
        generator: torch.Generator | None,
    ):
        super().__init__()
        check_choice(permute, ("train", "always", "never"), "permute")
        self.permute, self.generator = permute, generator
        both = None not in (in_channels, out_channels)
        if both and in_channels != out_channels and not project:
            raise ValueError(
                f"project: expected True, as in_channels={in_channels} and "
                f"out_channels={out_channels} differ"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.lin: nn.Module | None = None
        if project:
            if in_channels is None or out_channels is None:
                raise ValueError("in_channels, out_channels: needed by project=True")
            self.lin = nn.Linear(in_channels, out_channels)

    def reset_parameters(self) -> None:
        """Draw all weights again."""
        redraw_parts(self)

    def forward(
        self,
        x: Tensor,
        index: Tensor | None = None,
        ptr: Tensor | None = None,
        dim_size: int | None = None,
        dim: int = -2,
        max_num_elements: int | None = None,
        plan: SegmentTreePlan | None = None,
    ) -> Tensor:
        """Aggregate ``x`` along ``dim``; sets by ``index``, ``ptr`` or ``plan``.

        Returns a tensor with ``dim_size`` sets in place of the elements.
        """
        if dim % x.dim() == x.dim() - 1:
            raise ValueError("dim: the last dimension holds the features")
        if plan is None:
            if index is not None:
                ptr = None  # PyG passes both; the index says it all
            plan = plan_for(index, ptr, dim_size)
        elif dim_size not in (None, plan.num_segments):
            raise ValueError(
                f"dim_size: expected {plan.num_segments} as the plan says, found "
                f"{dim_size}"
            )
        x = x.movedim(dim, 0)
        if x.shape[0] != plan.num_elements:
            raise ValueError(
                f"x, index: expected equal lengths, found {x.shape[0]} elements and "
                f"{plan.num_elements} indices"
            )
        out = self._fold(self._encode(x), plan)
        return out.to(x.dtype).movedim(0, dim)

    def _encode(self, x: Tensor) -> Tensor:
        """Project; half precision becomes float32 unless the weights are half."""
        weight = next(self.parameters(), None)
        if x.dtype in _HALF and (weight is None or weight.dtype != x.dtype):
            x = x.float()
        return x if self.lin is None else self._project(x, self.lin)

    def _project(self, x: Tensor, layer: nn.Module) -> Tensor:
        """Apply the layer to a multiple of 16 rows: same bits in any company."""
        rows = x.reshape(-1, x.shape[-1])
        padding = rows[:1].expand(-len(rows) % 16, -1)
        out = layer(torch.cat([rows, padding])).relu()[: len(rows)]
        return out.view(*x.shape[:-1], out.shape[-1])

    def _ordered(self, plan: SegmentTreePlan) -> SegmentTreePlan:
        """Return the plan, in random order where ``permute`` says so."""
        if self.permute == "always" or (self.permute == "train" and self.training):
            return plan.shuffled(self.generator)
        return plan

    def _fold(self, x: Tensor, plan: SegmentTreePlan) -> Tensor:
        raise NotImplementedError


class LCMAggregation(_RaggedAggregation):
    """Learnable commutative monoid aggregation over ragged sets.

    Elements of each set are combined along a balanced tree by a binary operator. A
    drop-in ``aggr=`` for PyG's message passing; unlike PyG's class of the same name,
    which pads with zeros that take part, the value of a set depends on that set alone,
    an unsorted index, ``ptr``, empty sets and further leading dimensions are fine, and
    memory follows the number of elements instead of sets times the largest set.

    Parameters
    ----------
    operator : callable or str, default="gru"
        Maps two ``(m, F)`` tensors to one (:class:`GRUMonoid`,
        :class:`SymmetricMLPMonoid`, :class:`ExactMonoid` or any function), or "gru", or
        a kind of :class:`ExactMonoid`.
    in_channels, out_channels : int, optional
        Features before and after; needed for "gru" and by ``project``.
    project : bool, optional
        Apply a linear layer and relu first. Default: if both numbers are given.
    identity : Tensor, float or None
        Value of an empty set; default ``operator.identity``, else zero. A
        ``torch.nn.Parameter`` is learned.
    permute : {"train", "always", "never"}
        When to draw a random order of every set. The order matters as far as the
        operator is not associative; random orders in training teach it to be.
    num_orders : int, default=1
        Average over so many random orders in evaluation.
    generator : torch.Generator, optional
        Source of the random orders; default torch's own.

    Notes
    -----
    Under ``torch_geometric.debug()`` an operator that does not commute is named by a
    warning.

    References
    ----------
    Ong and Velickovic, "Learnable Commutative Monoids for Graph Neural Networks",
    LoG 2022.

    Examples
    --------
    >>> aggregate = LCMAggregation(GRUMonoid(8))
    >>> x, index = torch.randn(5, 8), torch.tensor([2, 0, 0, 2, 2])
    >>> aggregate(x, index, dim_size=3).shape
    torch.Size([3, 8])
    """

    def __init__(
        self,
        operator: Operator | str = "gru",
        in_channels: int | None = None,
        out_channels: int | None = None,
        project: bool | None = None,
        identity: Tensor | float | None = None,
        permute: str = "train",
        num_orders: int = 1,
        generator: torch.Generator | None = None,
    ):
        check_count(num_orders, "num_orders")
        if project is None:
            project = in_channels is not None and out_channels is not None
        super().__init__(in_channels, out_channels, project, permute, generator)
        if isinstance(operator, str):
            operator = self._named(operator, out_channels or in_channels)
        if not callable(operator):
            raise TypeError(
                "operator: expected a callable of two tensors or a name, found "
                f"{type(operator).__name__}"
            )
        self.operator, self.num_orders = operator, num_orders
        if isinstance(identity, Tensor) and not isinstance(identity, nn.Parameter):
            self.register_buffer("identity", identity)
        else:
            self.identity = identity

    @staticmethod
    def _named(name: str, channels: int | None) -> nn.Module:
        if name != "gru":
            return ExactMonoid(name)
        if channels is None:
            raise ValueError("in_channels: needed by operator='gru'")
        return GRUMonoid(channels)

    def _fold(self, x: Tensor, plan: SegmentTreePlan) -> Tensor:
        if torch_geometric.is_debug_enabled():
            self._warn_unless_commutative(x.detach().flatten(0, -2))
        if self.num_orders > 1 and not self.training:
            return self._orders(x, plan, self.num_orders).mean(0)
        return self._ordered(plan).reduce(x, self.operator, self.identity)

    def _warn_unless_commutative(self, rows: Tensor) -> None:
        """Try the operator both ways on some of the rows."""
        with torch.no_grad():
            a, b = rows[:16], rows[-16:].flip(0)
            gap = (self.operator(a, b) - self.operator(b, a)).abs()
        size = float(gap.max()) if gap.numel() else 0.0
        if size > 1e-4 * float(rows.abs().max() if rows.numel() else 0.0):
            warnings.warn(
                f"operator: f(a, b) and f(b, a) differ by {size:.2g}, so the value of "
                "a set depends on the order of its elements; symmetrize the operator",
                stacklevel=4,
            )

    def _orders(self, x: Tensor, plan: SegmentTreePlan, orders: int) -> Tensor:
        return torch.stack(
            [
                plan.shuffled(self.generator).reduce(x, self.operator, self.identity)
                for _ in range(orders)
            ]
        )

    @torch.no_grad()
    def order_sensitivity(
        self, x: Tensor, index: Tensor, orders: int = 8, dim_size: int | None = None
    ) -> Tensor:
        """Return the standard deviation over random orders, a number for each set.

        Root mean square over features; zero for an associative operator.

        Parameters
        ----------
        x : Tensor of shape (n_elements, F)
        index : Tensor of shape (n_elements,)
            Set of each element.
        orders : int, default=8
            How many to draw.
        dim_size : int, optional
            Number of sets; default: the largest index plus one.

        Returns
        -------
        Tensor of shape (n_sets,)
        """
        check_count(orders, "orders")
        values = self._orders(self._encode(x), plan_for(index, None, dim_size), orders)
        return values.var(0, correction=0).mean(-1).sqrt()

    @torch.no_grad()
    def associativity_error(
        self, x: Tensor, index: Tensor | None = None, triples: int = 256
    ) -> Tensor:
        """Return the error of associativity on random triples of elements.

        Root mean square of ``f(f(a, b), c) - f(a, f(b, c))``, relative to that of the
        elements. With ``index`` the three are drawn from one set.

        Parameters
        ----------
        x : Tensor of shape (n_elements, F)
        index : Tensor of shape (n_elements,), optional
            Set of each element.
        triples : int, default=256
            How many to draw.

        Returns
        -------
        Tensor, scalar
            Absolute where all elements are zero.

        Raises
        ------
        ValueError
            There are no elements.
        """
        if not len(x):
            raise ValueError(f"x: expected elements, found shape {tuple(x.shape)}")
        x = self._encode(x)
        generator = self.generator
        device = x.device if generator is None else generator.device
        keys = torch.rand(3, triples, generator=generator, device=device).to(x.device)
        chosen = (keys * len(x)).long()
        if index is not None:
            plan = plan_for(index)
            segment = index[chosen[0]].long()
            place = (keys * plan.counts[segment]).long() + plan.ptr[segment]
            chosen = plan.order[place]
        a, b, c = x[chosen]
        error = associativity_loss(self.operator, a, b, c)
        size = x.square().mean()
        return (error / torch.where(size > 0, size, 1.0)).sqrt()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.operator}, permute={self.permute!r})"


class FoldAggregation(_RaggedAggregation):
    """Recurrent fold of ragged sets: a GRU or LSTM that ends where the set ends.

    Sequential and order dependent, the baseline of the tree. Unlike PyG's
    ``GRUAggregation`` and ``LSTMAggregation``, which read their state after the padding
    of the largest set, the value of a set depends on that set alone.

    Parameters
    ----------
    in_channels, out_channels : int
        Features of an element and of the state.
    kind : {"gru", "lstm"}
    permute : {"train", "always", "never"}
        When to draw a random order; default never, the order is data.
    generator : torch.Generator, optional

    Examples
    --------
    >>> aggregate = FoldAggregation(4, 8)
    >>> aggregate(torch.randn(3, 4), torch.tensor([0, 2, 2]), dim_size=3).shape
    torch.Size([3, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kind: str = "gru",
        permute: str = "never",
        generator: torch.Generator | None = None,
    ):
        super().__init__(None, None, False, permute, generator)
        check_choice(kind, ("gru", "lstm"), "kind")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.state_size, self.kind = out_channels, kind
        cell: Any = nn.GRUCell if kind == "gru" else nn.LSTMCell
        self.cell = cell(in_channels, out_channels)

    def _fold(self, x: Tensor, plan: SegmentTreePlan) -> Tensor:
        plan = self._ordered(plan)
        if x.dim() > 2:
            parts = x.flatten(1, -2)
            shape = (plan.num_segments, *x.shape[1:-1], self.state_size)
            if not parts.shape[1]:
                return x.new_zeros(shape)
            folded = [self._fold_sets(part, plan) for part in parts.unbind(1)]
            return torch.stack(folded, 1).view(shape)
        return self._fold_sets(x, plan)

    def scan(
        self, x: Tensor, index: Tensor | None = None, ptr: Tensor | None = None
    ) -> Tensor:
        """Return the state after every element, in the order of ``x``: all prefixes.

        Parameters
        ----------
        x : Tensor of shape (n_elements, in_channels)
        index, ptr
            Sets, one of both; within a set elements keep their order.

        Returns
        -------
        Tensor of shape (n_elements, out_channels)

        Raises
        ------
        TypeError, ValueError
            Elements or sets of another shape; not exactly one of ``index`` and ``ptr``.
        """
        plan = plan_for(index, ptr)
        if x.dim() != 2 or len(x) != plan.num_elements:
            raise ValueError(
                f"x: expected shape ({plan.num_elements}, {self.in_channels}), found "
                f"{tuple(x.shape)}"
            )
        steps: list[tuple[Tensor, Tensor]] = []
        self._fold_sets(self._encode(x), plan, steps)
        if not steps:
            return x.new_zeros(0, self.state_size)
        places, states = (torch.cat(parts) for parts in zip(*steps, strict=True))
        order = plan.order[places]
        return torch.empty_like(states).index_copy(0, order, states).to(x.dtype)

    def _fold_sets(
        self,
        x: Tensor,
        plan: SegmentTreePlan,
        steps: list[tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """Step through positions; sets leave, longest last, when they are at an end.

        Places of the elements and states of every step are appended to ``steps``.
        """
        counts, by_length = torch.sort(plan.counts, descending=True, stable=True)
        starts = plan.ptr[:-1][by_length]
        longest = int(counts[0]) if counts.numel() else 0
        alive = torch.searchsorted(
            -counts, -torch.arange(longest, device=counts.device), right=False
        ).tolist()
        elements = x.index_select(0, plan.order)
        zeros = x.new_zeros(len(counts), self.state_size)
        state: tuple[Tensor, ...] = (zeros,) if self.kind == "gru" else (zeros, zeros)
        finished: list[Tensor] = []
        for step, number in enumerate(alive):
            if number < len(state[0]):
                finished.append(state[0][number:])
                state = tuple(s[:number] for s in state)
            places = starts[:number] + step
            state = self._step(elements[places], state)
            if steps is not None:
                steps.append((places, state[0]))
        out = torch.cat([state[0], *reversed(finished)])
        return torch.empty_like(out).index_copy(0, by_length, out)

    def _step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One cell call on a multiple of 16 rows."""
        padding = -len(x) % 16
        x, *padded = (torch.cat([t, t[:1].expand(padding, -1)]) for t in (x, *state))
        if self.kind == "gru":
            out = (self.cell(x, padded[0]),)
        else:
            out = self.cell(x, tuple(padded))
        return tuple(o[: len(x) - padding] for o in out)


class LCMRaggedAggregation(LCMAggregation):
    """:class:`LCMAggregation` as PyG's resolver builds it: ``aggr="lcm_ragged"``.

    Parameters
    ----------
    in_channels, out_channels : int
        Features before and after.
    **settings
        Further arguments of :class:`LCMAggregation`.

    Examples
    --------
    >>> from torch_geometric.nn import SAGEConv
    >>> sizes = {"in_channels": 4, "out_channels": 4}
    >>> conv = SAGEConv(4, 8, aggr="lcm_ragged", aggr_kwargs=sizes)
    """

    def __init__(self, in_channels: int, out_channels: int, **settings: Any):
        super().__init__("gru", in_channels, out_channels, **settings)


# PyG's resolver looks names up among the attributes of this module.
pyg_aggr.LCMRaggedAggregation = LCMRaggedAggregation
