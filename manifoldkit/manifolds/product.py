"""Products of manifolds, packed into vectors."""

import math
from collections.abc import Sequence

import geoopt
import torch
from torch import Tensor

from manifoldkit.linalg.elementary import safe_sqrt
from manifoldkit.manifolds.base import Manifold

Shape = int | Sequence[int]


class Product(Manifold):
    """Product of manifolds; a point is the concatenation of its flattened parts.

    Parameters
    ----------
    *factors : tuple of (geoopt.Manifold, int or tuple of int)
        Each factor and the shape of its part of a point. A shape with more dimensions
        than a point of the factor has holds several points.

    Raises
    ------
    TypeError, ValueError
        No factors, a factor that is not a pair, or a shape that its manifold refuses.

    Notes
    -----
    Inner products and squared distances add up. ``component_inner`` keeps those of the
    factors apart, so that an adaptive optimizer scales each factor on its own.

    Examples
    --------
    >>> from manifoldkit.manifolds import SPD, Sphere
    >>> manifold = Product((Sphere(), 3), (SPD(), (2, 2)))
    >>> x = manifold.origin(5, 7)
    >>> [tuple(part.shape) for part in manifold.unpack_tensor(x)]
    [(5, 3), (5, 2, 2)]
    """

    name = "Product"
    ndim = 1

    def __init__(self, *factors: tuple[geoopt.Manifold, Shape]):
        super().__init__()
        if not factors:
            raise ValueError("factors: expected at least one pair (manifold, shape)")
        shapes = []
        for i, factor in enumerate(factors):
            if not isinstance(factor, tuple) or len(factor) != 2:
                raise TypeError(
                    f"factors[{i}]: expected a pair (manifold, shape), found {factor!r}"
                )
            manifold, shape = factor
            if not isinstance(manifold, geoopt.Manifold):
                raise TypeError(
                    f"factors[{i}]: expected a geoopt.Manifold, found {manifold!r}"
                )
            shape = (shape,) if isinstance(shape, int) else tuple(shape)
            ok, reason = manifold._check_shape(shape, f"factors[{i}]")
            if not ok:
                raise ValueError(f"{manifold} does not take shape {shape}: {reason}")
            shapes.append(shape)
        self.manifolds = torch.nn.ModuleList(manifold for manifold, _ in factors)
        self.shapes = shapes
        self.sizes = [math.prod(shape) for shape in shapes]
        self.reversible = all(m.reversible for m in self.manifolds)
        self.compact = all(getattr(m, "compact", False) for m in self.manifolds)

    def settings(self) -> dict:
        """Return the factors and their shapes."""
        pairs = zip(self.factors, self.shapes, strict=True)
        return {f"factor {i}": pair for i, pair in enumerate(pairs)}

    def extra_repr(self) -> str:
        """The factors."""
        return ", ".join(str(pair) for pair in self.settings().values())

    @property
    def factors(self) -> list[geoopt.Manifold]:
        """The manifolds of the parts."""
        return [m for m in self.manifolds if isinstance(m, geoopt.Manifold)]

    @property
    def n_elements(self) -> int:
        """Length of a packed point."""
        return sum(self.sizes)

    # ------------------------------------------------------------ packing

    def unpack_tensor(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Split ``(..., n_elements)`` into the parts, each in its shape."""
        parts = tensor.split(self.sizes, -1)
        return tuple(
            part.reshape((*tensor.shape[:-1], *shape))
            for part, shape in zip(parts, self.shapes, strict=True)
        )

    def pack_point(self, *tensors: Tensor) -> Tensor:
        """Flatten and concatenate parts."""
        if len(tensors) != len(self.shapes):
            raise ValueError(f"expected {len(self.shapes)} parts, found {len(tensors)}")
        flat = []
        for i, (part, shape) in enumerate(zip(tensors, self.shapes, strict=True)):
            batch = part.shape[: part.ndim - len(shape)]
            if part.shape[len(batch) :] != shape:
                raise ValueError(
                    f"part {i}: expected shape (..., {shape}), found {part.shape}"
                )
            flat.append(part.reshape(*batch, self.sizes[i]))
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in flat))
        return torch.cat([part.expand(*batch, -1) for part in flat], -1)

    def _apply_parts(self, method: str, *tensors: Tensor) -> list:
        """Call a method of every factor on its parts."""
        parts = zip(*(self.unpack_tensor(t) for t in tensors), strict=True)
        return [
            getattr(manifold, method)(*arguments)
            for manifold, arguments in zip(self.factors, parts, strict=True)
        ]

    def _map(self, method: str, *tensors: Tensor) -> Tensor:
        return self.pack_point(*self._apply_parts(method, *tensors))

    def _map_pair(self, method: str, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        points, vectors = zip(*self._apply_parts(method, *tensors), strict=True)
        return self.pack_point(*points), self.pack_point(*vectors)

    def _sum(self, method: str, *tensors: Tensor, keepdim: bool, power: int) -> Tensor:
        """Add up a scalar of the factors over all their points."""
        values = []
        parts = zip(*(self.unpack_tensor(t) for t in tensors), strict=True)
        rows = zip(self.factors, self.shapes, parts, strict=True)
        for manifold, shape, arguments in rows:
            value = getattr(manifold, method)(*arguments, keepdim=True) ** power
            dims = tuple(range(value.ndim - len(shape), value.ndim))
            values.append(value.sum(dims) if dims else value)
        total = torch.stack(torch.broadcast_tensors(*values)).sum(0)
        return total[..., None] if keepdim else total

    # ------------------------------------------------------------ checks

    def _check_shape(self, shape, name):
        if len(shape) < 1 or shape[-1] != self.n_elements:
            return False, (
                f"{name}: expected shape (..., {self.n_elements}), found {tuple(shape)}"
            )
        return True, None

    def _check_point_on_manifold(self, x, *, atol=1e-5, rtol=1e-5):
        for i, part in enumerate(self.unpack_tensor(x)):
            ok, reason = self.factors[i].check_point_on_manifold(
                part, explain=True, atol=atol, rtol=rtol
            )
            if not ok:
                return False, f"factor {i}, {self.factors[i]}: {reason}"
        return True, None

    # ------------------------------------------------------------ geometry

    def inner(
        self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False
    ) -> Tensor:
        """Sum of the inner products of the factors."""
        v = u if v is None else v
        return self._sum("inner", x, u, v, keepdim=keepdim, power=1)

    def component_inner(self, x: Tensor, u: Tensor, v: Tensor | None = None) -> Tensor:
        """Inner product of its component at every entry, shape (..., n_elements)."""
        v = u if v is None else v
        values = self._apply_parts("component_inner", x, u, v)
        batch = torch.broadcast_shapes(x.shape[:-1], u.shape[:-1], v.shape[:-1])
        return self.pack_point(
            *(
                value.expand((*batch, *shape))
                for value, shape in zip(values, self.shapes, strict=True)
            )
        )

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Tangent projection of every factor."""
        return self._map("proju", x, u)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """Riemannian gradient of every factor."""
        return self._map("egrad2rgrad", x, u)

    def projx(self, x: Tensor) -> Tensor:
        """Projection of every factor."""
        return self._map("projx", x)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """Retraction of every factor."""
        return self._map("retr", x, u)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Exponential of every factor."""
        return self._map("expmap", x, u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Logarithm of every factor."""
        return self._map("logmap", x, y)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Root of the sum of squared distances."""
        return safe_sqrt(self._sum("dist", x, y, keepdim=keepdim, power=2))

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Transport of every factor."""
        return self._map("transp", x, y, v)

    def retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Step and transport of every factor."""
        return self._map_pair("retr_transp", x, u, v)

    def expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Geodesic step and transport of every factor."""
        return self._map_pair("expmap_transp", x, u, v)

    def transp_follow_retr(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Transport of every factor along its retraction."""
        return self._map("transp_follow_retr", x, u, v)

    def transp_follow_expmap(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Transport of every factor along its geodesic."""
        return self._map("transp_follow_expmap", x, u, v)

    def decay(
        self, x: Tensor, rate: float | Tensor, anchor: Tensor | None = None
    ) -> Tensor:
        """Decay of every factor that has one."""
        parts = list(self.unpack_tensor(x))
        anchors = [None] * len(parts) if anchor is None else self.unpack_tensor(anchor)
        for i, manifold in enumerate(self.factors):
            if isinstance(manifold, Manifold):
                parts[i] = manifold.decay(parts[i], rate, anchors[i])
        return self.pack_point(*parts)

    def _sample(self, shape, generator, dtype, device):
        options = {"dtype": dtype, "device": device}
        parts = []
        for manifold, part in zip(self.factors, self.shapes, strict=True):
            extra = {"generator": generator} if isinstance(manifold, Manifold) else {}
            parts.append(manifold.random(*shape[:-1], *part, **options, **extra))
        return self.pack_point(*parts)

    def _origin(self, shape, dtype, device):
        return self.pack_point(
            *(
                manifold.origin(*shape[:-1], *part, dtype=dtype, device=device)
                for manifold, part in zip(self.factors, self.shapes, strict=True)
            )
        )
