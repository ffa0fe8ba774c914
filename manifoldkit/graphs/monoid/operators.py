"""Binary operators to fold with: exact monoids and learnable ones."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from manifoldkit._checks import check_choice, check_count
from manifoldkit.graphs.modules import redraw_parts
from manifoldkit.graphs.monoid.cells import gru_step, lstm_step
from manifoldkit.graphs.monoid.gru_kernel import SymmetricGRU, symmetric_gru
from manifoldkit.linalg.checks import check_floating, check_tensor, must_not_look
from manifoldkit.linalg.transforms import is_transformed

# numbers of a block, 512 KiB in float32: the row "gates recomputed" takes twice the
# memory without blocks
_BLOCK = 1 << 17
Device = torch.device | str | None


def _log_add_exp(a: Tensor, b: Tensor) -> Tensor:
    """``log(e^a + e^b)``; two equal infinities have weights 1/2, not NaN."""
    total = torch.logaddexp(a, b)
    blind = must_not_look(total) or is_transformed()
    if not blind and total.detach().sum().isfinite():
        return total
    same = a.isinf() & (a == b)
    total = torch.logaddexp(a.masked_fill(same, 0), b.masked_fill(same, 0))
    return torch.where(same, (a + b) / 2, total)


class Monoid(nn.Module):
    """Base of the operators: ``forward(a, b)`` on ``(m, dim)`` and an ``identity``.

    A user's operator need not derive from it: any callable of two tensors will do.

    Examples
    --------
    >>> isinstance(ExactMonoid("sum"), Monoid), ExactMonoid("sum").identity
    (True, 0.0)
    """

    identity: Any


class ExactMonoid(Monoid):
    """A fixed commutative monoid, for checks and as a plain aggregation.

    Sum, product, maximum and minimum take integers as well, maximum and minimum
    booleans; sum and product complex numbers.

    Parameters
    ----------
    kind : {"sum", "product", "max", "min", "logsumexp"}

    Attributes
    ----------
    identity : float
        The neutral element: 0, 1, minus infinity, infinity, minus infinity.

    Examples
    --------
    >>> ExactMonoid("max")(torch.tensor([[1.0]]), torch.tensor([[3.0]])).item()
    3.0
    """

    _KINDS: ClassVar[dict[str, tuple[Callable[..., Tensor], float]]] = {
        "sum": (torch.add, 0.0),
        "product": (torch.mul, 1.0),
        "max": (torch.maximum, -torch.inf),
        "min": (torch.minimum, torch.inf),
        "logsumexp": (_log_add_exp, -torch.inf),
    }

    def __init__(self, kind: str = "sum"):
        super().__init__()
        check_choice(kind, self._KINDS, "kind")
        self.kind = kind
        self.identity = self._KINDS[kind][1]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Combine row by row."""
        for name, value in (("a", a), ("b", b)):
            self.check(value, name)
        return self._KINDS[self.kind][0](a, b)

    def check(self, x: Tensor, name: str = "x") -> None:
        """Raise ``TypeError`` for a dtype on which the operation is not defined."""
        dtype = check_tensor(x, name).dtype
        if self.kind == "logsumexp":
            check_floating(x, name)
        elif self.kind in ("max", "min") and dtype.is_complex:
            raise TypeError(f"{name}: complex numbers have no order, found {dtype}")
        elif self.kind in ("sum", "product") and dtype == torch.bool:
            raise TypeError(f"{name}: {self.kind!r} is for numbers, found {dtype}")

    def extra_repr(self) -> str:
        """Show the kind."""
        return repr(self.kind)


class _Learnable(Monoid):
    """A learnable operator on ``dim`` features with a learnable identity."""

    def __init__(
        self, dim: int, device: Device = None, dtype: torch.dtype | None = None
    ):
        super().__init__()
        check_count(dim, "dim")
        self.dim = dim
        self.identity = nn.Parameter(torch.zeros(dim, device=device, dtype=dtype))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Combine row by row; on a CPU in blocks that stay in its cache."""
        for name, value in (("a", a), ("b", b)):
            check_tensor(value, name)
        if a.shape != b.shape or a.dim() != 2 or a.shape[-1] != self.dim:
            raise ValueError(
                f"a, b: expected equal shapes (m, {self.dim}), found "
                f"{tuple(a.shape)} and {tuple(b.shape)}"
            )
        self._check_dtypes(a, b)
        rows = max(_BLOCK // self.dim // 16 * 16, 16)
        if a.device.type != "cpu" or len(a) <= 2 * rows:
            return self.combine(a, b)
        blocks = zip(a.split(rows), b.split(rows), strict=True)
        return torch.cat([self.combine(x, y) for x, y in blocks])

    def _check_dtypes(self, a: Tensor, b: Tensor) -> None:
        """Raise unless the arguments have the dtype of the weights, or autocast."""
        wanted = self.identity.dtype
        if a.dtype == b.dtype == wanted:
            return
        for name, value in (("a", a), ("b", b)):
            check_floating(value, name)
        if not torch.is_autocast_enabled(a.device.type):
            raise TypeError(
                f"a, b: expected {wanted} as the weights, found {a.dtype} and {b.dtype}"
            )

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        """Combine row by row."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw the weights again and set the identity to zero."""
        nn.init.zeros_(self.identity)
        redraw_parts(self)

    def extra_repr(self) -> str:
        """Show the number of features."""
        return f"dim={self.dim}"


class GRUMonoid(_Learnable):
    """The symmetrized GRU cell: ``f(a, b) = (g(a, b) + g(b, a)) / 2``.

    ``g(x, h)`` is a GRU cell with the first argument as input and the second as hidden
    state. Commutative by construction; associativity has to be learned.

    Parameters
    ----------
    dim : int
        Number of features.
    recompute : bool, default=False
        Compute the gates again in the backward pass: a third of the memory for one
        matrix product more.
    device, dtype : optional
        Where the parameters are and in which type; default torch's own.

    Attributes
    ----------
    cell : torch.nn.GRUCell
        The weights, under torch's names.
    identity : Parameter of shape (dim,)
        Value of an empty set; learned, zero at first.

    References
    ----------
    Ong and Velickovic, "Learnable Commutative Monoids for Graph Neural Networks",
    LoG 2022.

    Examples
    --------
    >>> f = GRUMonoid(4)
    >>> a, b = torch.randn(2, 3, 4)
    >>> torch.equal(f(a, b), f(b, a))
    True
    """

    def __init__(
        self,
        dim: int,
        recompute: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(dim, device, dtype)
        self.cell = nn.GRUCell(dim, dim, device=device, dtype=dtype)
        self.recompute = recompute

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        """Combine row by row."""
        cell = self.cell
        weights = (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
        plain = torch.compiler.is_compiling() or is_transformed()
        if plain or torch.is_autocast_enabled(a.device.type):
            return symmetric_gru(a, b, *weights)
        return SymmetricGRU.apply(a, b, *weights, self.recompute)


class LSTMMonoid(_Learnable):
    """The symmetrized LSTM cell on pairs of hidden and cell state.

    The ``dim`` features are ``[hidden, cell]``; the first argument's hidden state is
    the input, the second argument the state, averaged over both orders.

    Parameters
    ----------
    dim : int
        Number of features, even.

    References
    ----------
    Ong and Velickovic, "Learnable Commutative Monoids for Graph Neural Networks",
    LoG 2022.

    Examples
    --------
    >>> f = LSTMMonoid(4)
    >>> a, b = torch.randn(2, 3, 4)
    >>> torch.equal(f(a, b), f(b, a))
    True
    """

    def __init__(
        self, dim: int, device: Device = None, dtype: torch.dtype | None = None
    ):
        super().__init__(dim, device, dtype)
        if dim % 2:
            raise ValueError(f"dim: expected an even number, found {dim}")
        self.cell = nn.LSTMCell(dim // 2, dim // 2, device=device, dtype=dtype)

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        """Combine row by row."""
        first, second = torch.cat([a, b]), torch.cat([b, a])
        half = self.dim // 2
        state = second[:, :half], second[:, half:]
        out = lstm_step(self.cell, first[:, :half], state)
        return torch.cat(out, -1).view(2, -1, self.dim).mean(0)


class SymmetricGRUMonoid(_Learnable):
    """One GRU cell on symmetric statistics: half the cost of :class:`GRUMonoid`.

    ``f(a, b) = g([|a - b|, a * b], a + b)``, commutative by construction.

    Parameters
    ----------
    dim : int
        Number of features.

    Examples
    --------
    >>> f = SymmetricGRUMonoid(4)
    >>> a, b = torch.randn(2, 3, 4)
    >>> torch.equal(f(a, b), f(b, a))
    True
    """

    def __init__(
        self, dim: int, device: Device = None, dtype: torch.dtype | None = None
    ):
        super().__init__(dim, device, dtype)
        self.cell = nn.GRUCell(2 * dim, dim, device=device, dtype=dtype)

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        """Combine row by row."""
        return gru_step(self.cell, torch.cat([(a - b).abs(), a * b], -1), a + b)


class SymmetricMLPMonoid(_Learnable):
    """A gated choice between both arguments: ``f = m + s * d + u``.

    ``m = (a + b) / 2`` and ``d = |a - b| / 2`` are the middle and half the distance,
    ``s`` in (-1, 1) and a correction ``u`` come from a perceptron on the symmetric
    statistics ``[a + b, |a - b|, a * b]``; ``s = 1, u = 0`` is the exact maximum,
    ``s = -1`` the minimum, ``u = m`` the sum. Commutative by construction.

    Parameters
    ----------
    dim : int
        Number of features.
    hidden : int, optional
        Width of the perceptron; default ``2 * dim``.

    Examples
    --------
    >>> f = SymmetricMLPMonoid(4)
    >>> a, b = torch.randn(2, 3, 4)
    >>> torch.equal(f(a, b), f(b, a))
    True
    """

    def __init__(
        self,
        dim: int,
        hidden: int | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(dim, device, dtype)
        hidden = 2 * dim if hidden is None else hidden
        self.inner = nn.Linear(3 * dim, hidden, device=device, dtype=dtype)
        self.outer = nn.Linear(hidden, 2 * dim, device=device, dtype=dtype)

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        """Combine row by row."""
        total, distance = a + b, (a - b).abs()
        hidden = functional.silu(self.inner(torch.cat([total, distance, a * b], -1)))
        slope, shift = self.outer(hidden).chunk(2, -1)
        return 0.5 * (total + torch.tanh(slope) * distance) + shift
