"""The PyG aggregation that folds a learnable commutative monoid along a tree."""

import math
import warnings
from typing import Any

import torch
import torch_geometric
from torch import Tensor, nn

from manifoldkit._checks import check_choice, check_count, is_number
from manifoldkit.graphs.monoid.operators import ExactMonoid, GRUMonoid
from manifoldkit.graphs.monoid.plan import Operator, SegmentTreePlan
from manifoldkit.graphs.monoid.ragged import RaggedAggregation, take_part
from manifoldkit.graphs.monoid.reduce import plan_for
from manifoldkit.linalg.checks import check_last
from manifoldkit.linalg.draws import generator_option


class LCMAggregation(RaggedAggregation):
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
    identity : Tensor, float, "operator" or None
        Value of an empty set, such as a node without neighbors. Default:
        ``operator.identity``, with zero in place of infinities, so that it is finite
        for "max", "min" and "logsumexp" too, as PyG's aggregations are;
        "operator" takes it as it is (minus infinity for the maximum). A
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
    The result has the dtype of the elements. Elements narrower than the weights are
    computed with in the weights' dtype (without weights half precision in float32);
    wider ones, integers with weights, and complex numbers raise ``TypeError``.

    Every parameter takes part in the graph of every batch, empty sets or not, as
    ``DistributedDataParallel`` expects. ``torch.func``'s transforms and
    ``torch.compile`` apply; ``vmap`` over random orders needs ``randomness="same"``.

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
        identity: Tensor | float | str | None = None,
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
        if isinstance(identity, str):
            check_choice(identity, ("operator",), "identity")
        elif not (isinstance(identity, Tensor | None) or is_number(identity)):
            raise TypeError(
                'identity: expected a tensor, a number, "operator" or None, found '
                f"{identity!r}"
            )
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
        if isinstance(self.operator, ExactMonoid):
            self.operator.check(x)  # also where no set has two elements
        if torch_geometric.is_debug_enabled():
            self._warn_unless_commutative(x.detach().flatten(0, -2))
        if self.num_orders > 1 and not self.training:
            out = self._orders(x, plan, self.num_orders).mean(0)
        else:
            out = self._ordered(plan).reduce(x, self.operator, self._empty())
        if not plan.depth and isinstance(self.operator, nn.Module):
            out = take_part(out, self.operator.parameters())  # it was not called
        return out

    def _empty(self) -> Tensor | float | None:
        """Return the value of an empty set."""
        if self.identity is not None and not isinstance(self.identity, str):
            return self.identity
        identity = getattr(self.operator, "identity", None)
        if self.identity is not None or isinstance(identity, nn.Parameter):
            return identity
        if isinstance(identity, Tensor):
            return identity.masked_fill(identity.isinf(), 0)
        return 0.0 if identity is None or math.isinf(identity) else identity

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
                plan.shuffled(self.generator).reduce(x, self.operator, self._empty())
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
        x = self._encode(check_last(x, ("n", "F"), "x"))
        values = self._orders(x, plan_for(index, None, dim_size), orders)
        size = _size(values, (0, -1))  # squares of 1e20 overflow, of 1e-30 vanish
        deviation = (values / size).var(0, correction=0).mean(-1).sqrt()
        return deviation * size.flatten()

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
        check_count(triples, "triples")
        if not len(check_last(x, ("n", "F"), "x")):
            raise ValueError(f"x: expected elements, found shape {tuple(x.shape)}")
        x = self._encode(x)
        generator = self.generator
        device = x.device if generator is None else generator.device
        source: Any = generator_option(generator)
        keys = torch.rand(3, triples, device=device, **source)
        keys = keys.to(x.device)
        chosen = (keys * len(x)).long()
        if index is not None:
            plan = plan_for(index)
            if plan.num_elements != len(x):
                raise ValueError(
                    f"x, index: expected equal lengths, found {len(x)} elements and "
                    f"{plan.num_elements} indices"
                )
            segment = index[chosen[0]].long()
            place = (keys * plan.counts[segment]).long() + plan.ptr[segment]
            chosen = plan.order[place]
        (a, b, c), f = x[chosen], self.operator
        size = _size(x, None)
        error = (f(f(a, b), c) - f(a, f(b, c))) / size
        whole = (x / size).square().mean().sqrt()
        return error.square().mean().sqrt() / torch.where(whole > 0, whole, 1.0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.operator}, permute={self.permute!r})"


def _size(x: Tensor, dim: tuple[int, ...] | None) -> Tensor:
    """Return the largest modulus, 1 where all are zero."""
    size = x.abs().amax(dim, keepdim=True) if dim else x.abs().max()
    return torch.where(size > 0, size, 1.0)
