"""The PyG aggregation that folds a recurrent cell."""

from typing import Any

import torch
from torch import Tensor, nn

from manifoldkit._checks import check_choice
from manifoldkit.graphs.monoid.cells import gru_step, lstm_step
from manifoldkit.graphs.monoid.plan import SegmentTreePlan
from manifoldkit.graphs.monoid.ragged import RaggedAggregation, take_part
from manifoldkit.graphs.monoid.reduce import plan_for


class FoldAggregation(RaggedAggregation):
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
        if not x.numel():  # the cell is not called, yet its weights take part
            shape = (plan.num_segments, *x.shape[1:-1], self.state_size)
            return take_part(x.new_zeros(shape), self.cell.parameters())
        plan = self._ordered(plan)
        if x.dim() > 2:
            parts = x.flatten(1, -2)
            shape = (plan.num_segments, *x.shape[1:-1], self.state_size)
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
            out: tuple[Tensor, ...] = (gru_step(self.cell, x, padded[0]),)
        else:
            out = lstm_step(self.cell, x, (padded[0], padded[1]))
        return tuple(o[: len(x) - padding] for o in out)
