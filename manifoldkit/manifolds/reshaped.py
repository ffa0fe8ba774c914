"""A manifold in the layout of a module's weight: transposed or flattened points."""

import math
from collections.abc import Callable

import geoopt
from torch import Tensor

from manifoldkit.manifolds.base import Manifold


def _same(method: str) -> Callable[..., Tensor]:
    """Make the method that calls that of the base manifold, there and back."""

    def call(self: "Reshaped", *tensors: Tensor, **named: Tensor) -> Tensor:
        arguments = (self.to_base(t) for t in (*tensors, *named.values()))
        return self.from_base(getattr(self.base, method)(*arguments))

    call.__name__, call.__doc__ = method, f"Call ``{method}`` of the base manifold."
    return call


class Reshaped(Manifold):
    """View of a manifold whose points are stored in another shape.

    The formulas are those of ``base``: arguments are brought to its layout and results
    back, without copies. :func:`attach` uses it where a weight does not have
    the layout of its manifold: transposed linear weights, convolution kernels.

    Parameters
    ----------
    base : geoopt.Manifold
        The manifold.
    shape : tuple of int
        Shape of one stored point.
    flatten : bool, default=False
        Bring a stored point to (shape[0], prod(shape[1:])) for a manifold of matrices,
        to (prod(shape),) for one of vectors.
    transpose : bool, default=False
        Transpose the last two dimensions, after flattening.

    Examples
    --------
    >>> from manifoldkit.manifolds import Stiefel
    >>> rows = Reshaped(Stiefel(), (2, 5), transpose=True)
    >>> w = rows.origin(2, 5)
    >>> w.data @ w.data.mT
    tensor([[1., 0.],
            [0., 1.]])
    """

    name = "Reshaped"

    def __init__(
        self,
        base: geoopt.Manifold,
        shape: tuple[int, ...],
        *,
        flatten: bool = False,
        transpose: bool = False,
    ):
        super().__init__()
        self.base = base
        self.shape = tuple(shape)
        self.flatten, self.transpose = flatten, transpose
        self.ndim = len(self.shape)
        self.reversible = base.reversible
        self.compact = getattr(base, "compact", False)
        if base.ndim == 1:
            self._flat: tuple[int, ...] = (math.prod(self.shape),)
        else:
            self._flat = (self.shape[0], math.prod(self.shape[1:]))

    def to_base(self, x: Tensor) -> Tensor:
        """Bring stored points or vectors to the layout of the base manifold."""
        if self.flatten:
            x = x.reshape(*x.shape[: x.ndim - self.ndim], *self._flat)
        return x.mT if self.transpose else x

    def from_base(self, x: Tensor) -> Tensor:
        """Bring points or vectors of the base manifold to the stored layout."""
        x = x.mT if self.transpose else x
        if self.flatten:
            x = x.reshape(*x.shape[: x.ndim - len(self._flat)], *self.shape)
        return x

    def _scalar(self, value: Tensor) -> Tensor:
        """Component values ``(..., 1, 1)``, ``(..., 1, p)`` in the stored layout."""
        value = value.mT if self.transpose else value
        if self.flatten:
            value = value.expand(
                *value.shape[: value.ndim - len(self._flat)], *self._flat
            )
            value = value.reshape(*value.shape[: -len(self._flat)], *self.shape)
        return value

    def _check_shape(self, shape, name):
        if tuple(shape[len(shape) - self.ndim :]) != self.shape:
            return False, (
                f"{name}: expected shape (..., {', '.join(map(str, self.shape))}), "
                f"found {tuple(shape)}"
            )
        rows = self._flat if self.flatten else self.shape
        return self.base._check_shape(rows[::-1] if self.transpose else rows, name)

    def _check_point_on_manifold(self, x, *, atol=1e-5, rtol=1e-5):
        return self.base._check_point_on_manifold(self.to_base(x), atol=atol, rtol=rtol)

    def component_inner(self, x: Tensor, u: Tensor, v: Tensor | None = None) -> Tensor:
        """Component inner products of the base manifold."""
        arguments = (self.to_base(t) for t in (x, u, u if v is None else v))
        return self._scalar(self.base.component_inner(*arguments))

    def inner(
        self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False
    ) -> Tensor:
        """Inner product of the base manifold."""
        arguments = (self.to_base(t) for t in (x, u, u if v is None else v))
        value = self.base.inner(*arguments)
        return value[(...,) + (None,) * self.ndim] if keepdim else value

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Distance of the base manifold."""
        value = self.base.dist(self.to_base(x), self.to_base(y))
        return value[(...,) + (None,) * self.ndim] if keepdim else value

    def _call_pair(self, method: str, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        y, v = getattr(self.base, method)(*(self.to_base(t) for t in tensors))
        return self.from_base(y), self.from_base(v)

    proju, egrad2rgrad, projx = _same("proju"), _same("egrad2rgrad"), _same("projx")
    retr, expmap, logmap = _same("retr"), _same("expmap"), _same("logmap")
    transp = _same("transp")
    transp_follow_retr = _same("transp_follow_retr")
    transp_follow_expmap = _same("transp_follow_expmap")

    def retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Step and transport of the base manifold."""
        return self._call_pair("retr_transp", x, u, v)

    def expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Geodesic step and transport of the base manifold."""
        return self._call_pair("expmap_transp", x, u, v)

    def decay(
        self, x: Tensor, rate: float | Tensor, anchor: Tensor | None = None
    ) -> Tensor:
        """Decay of the base manifold, if it has one."""
        if not isinstance(self.base, Manifold):
            return x
        end = None if anchor is None else self.to_base(anchor)
        return self.from_base(self.base.decay(self.to_base(x), rate, end))

    def base_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of stored points in the layout of the base manifold."""
        batch = tuple(shape[: len(shape) - self.ndim])
        rows = self._flat if self.flatten else self.shape
        return batch + (rows[::-1] if self.transpose else rows)

    def _sample(self, shape, generator, dtype, device):
        extra = {"generator": generator} if isinstance(self.base, Manifold) else {}
        x = self.base.random(
            *self.base_shape(shape), dtype=dtype, device=device, **extra
        )
        return self.from_base(x.data).contiguous()

    def _origin(self, shape, dtype, device):
        x = self.base.origin(*self.base_shape(shape), dtype=dtype, device=device)
        return self.from_base(x.data).contiguous()
