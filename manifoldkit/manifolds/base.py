r"""What every manifold of the package shares, and the protocol of the optimizers.

The batched optimizers see a manifold through ``geoopt.Manifold`` and these additions,
all optional: a foreign manifold without them is stepped through the geoopt methods.

``group_key()``
    Hashable; two manifolds with equal keys compute the same maps, so their parameters
    may be stacked and stepped as one batch. Equality and hash of ours follow it.
``point_dims``
    Number of trailing dimensions of one point (geoopt's ``ndim``).
``component_inner(x, u, v=None)``
    Inner product per component, shaped to broadcast against ``u``: ``(..., 1, 1)`` for
    matrices, ``(..., 1)`` for vectors, elementwise for Euclidean space, per column or
    per factor for products of spheres and :class:`Product`.
``compact`` and ``decay(x, rate, anchor=None)``
    Decoupled weight decay: a geodesic pull of length ``rate`` towards the anchor. A
    compact manifold has no default anchor and stays where it is.
``frame`` and its companions (SPD with flat or affine-invariant metric, SO, GL+, SL)
    Coordinates in which the metric is the Frobenius product and in which following
    ``frame_retr`` transports a vector by leaving its coordinates alone, an isometry:

    - ``f = frame(x)``: the frame at x (Cholesky factor, chart value, or x itself);
    - ``frame_gradient(f, egrad)``: coordinates of the Riemannian gradient;
    - ``x_new, f_new = frame_retr(f, d)``: step by the tangent vector of coordinates d;
    - ``to_frame(f, u)`` and ``from_frame(f, d)``: tangent vectors to coordinates and
      back.

    A manifold has them if ``hasattr(manifold, "frame_retr")``.
"""

import inspect
from typing import TYPE_CHECKING

import geoopt
import torch
from geoopt.manifolds.base import ScalingInfo
from geoopt.utils import size2shape
from torch import Tensor

from manifoldkit.linalg.checks import check_floating, first_index
from manifoldkit.linalg.draws import generator_option
from manifoldkit.linalg.elementary import safe_sqrt
from manifoldkit.manifolds.tensors import ManifoldTensor


def trace_product(u: Tensor, v: Tensor, keepdim: bool = False) -> Tensor:
    """Frobenius product ``tr u'v`` over the last two dimensions."""
    return (u * v).sum((-2, -1), keepdim=keepdim)


def sample_normal(
    shape: tuple[int, ...],
    generator: torch.Generator | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> Tensor:
    """Standard normal numbers, for :meth:`Manifold._sample`."""
    option = generator_option(generator)
    return torch.randn(shape, dtype=dtype, device=device, **option)


class Manifold(geoopt.Manifold):
    """Base class: value equality, sampling, defaults built on ``expmap`` and ``proju``.

    A subclass gives ``name``, ``ndim``, ``inner``, ``proju``, ``egrad2rgrad``,
    ``projx``, ``retr``, ``expmap``, ``_sample``, ``_origin`` and ``_violation``;
    ``logmap`` where it exists.

    Examples
    --------
    >>> class Line(Manifold):
    ...     name, ndim = "Line", 0
    ...     def inner(self, x, u, v=None, *, keepdim=False):
    ...         return u * (u if v is None else v) / 4
    ...     def proju(self, x, u):
    ...         return u
    ...     def egrad2rgrad(self, x, u):
    ...         return 4 * u
    ...     def projx(self, x):
    ...         return x
    ...     def expmap(self, x, u):
    ...         return x + u
    ...     retr = expmap
    ...     def logmap(self, x, y):
    ...         return y - x
    >>> Line().dist(torch.tensor(1.), torch.tensor(5.))
    tensor(2.)
    """

    __scaling__ = geoopt.Manifold.__scaling__.copy()

    name: str
    ndim: int
    reversible = False
    compact = False

    def __init__(self) -> None:
        super().__init__()

    if TYPE_CHECKING:  # a checker sees nothing of geoopt's class

        def inner(
            self,
            x: Tensor,
            u: Tensor,
            v: Tensor | None = None,
            *,
            keepdim: bool = False,
        ) -> Tensor:
            """Inner product of tangent vectors at x."""

        def proju(self, x: Tensor, u: Tensor) -> Tensor:
            """Project u to the tangent vectors at x."""

        def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
            """Riemannian gradient of a Euclidean one."""

        def projx(self, x: Tensor) -> Tensor:
            """Nearest point of the manifold."""

        def retr(self, x: Tensor, u: Tensor) -> Tensor:
            """Step from x along u."""

        def expmap(self, x: Tensor, u: Tensor) -> Tensor:
            """Point that the geodesic from x along u reaches at time 1."""

        def logmap(self, x: Tensor, y: Tensor) -> Tensor:
            """Tangent vector at x whose exponential is y."""

        def component_inner(
            self, x: Tensor, u: Tensor, v: Tensor | None = None
        ) -> Tensor:
            """Inner product of each component."""

        def retr_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            """Step, and v carried along."""

        def expmap_transp(
            self, x: Tensor, u: Tensor, v: Tensor
        ) -> tuple[Tensor, Tensor]:
            """Geodesic step, and v carried along."""

    # ------------------------------------------------------------ identity

    @property
    def point_dims(self) -> int:
        """Number of trailing dimensions of one point."""
        return self.ndim

    def settings(self) -> dict:
        """Constructor arguments that define the manifold, as shown by ``repr``.

        They are those that the constructor keeps as attributes of the same names.
        """
        names = inspect.signature(type(self).__init__).parameters
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def group_key(self) -> tuple:
        """Hashable identity of the formulas: class and settings."""
        return (type(self), *self.settings().items())

    def __eq__(self, other) -> bool:
        if self is other:
            return True
        if not isinstance(other, Manifold) or type(self) is not type(other):
            return NotImplemented
        return self.group_key() == other.group_key()

    def __hash__(self) -> int:
        return hash(self.group_key())

    def __repr__(self) -> str:
        return f"{self.name}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """Settings as keyword arguments."""
        return ", ".join(f"{k}={v!r}" for k, v in self.settings().items())

    # ------------------------------------------------------------ checks

    def _violation(self, x: Tensor) -> tuple[Tensor, str]:
        """Size of the violation per point, shape (...), and what it measures."""
        raise NotImplementedError

    def _normal_part(self, x: Tensor, u: Tensor) -> Tensor:
        """Return the part of u that is not tangent."""
        return u - self.proju(x, u)

    def _check_point_on_manifold(self, x, *, atol=1e-5, rtol=1e-5):
        if x.numel() == 0:
            return True, None
        if not x.is_floating_point():
            return False, f"expected floating-point numbers, found {x.dtype}"
        finite = torch.isfinite(x)
        if not bool(finite.all()):
            return False, "it contains NaN or infinity"
        gap, what = self._violation(x.detach())
        bad = ~(gap <= atol + rtol)
        if bool(bad.any()):
            index = first_index(bad)
            at = f" at {list(index)}" if index else ""
            value = float(gap[index])
            return (
                False,
                f"{what} is {value:.1e}{at}, expected at most {atol + rtol:.1e}",
            )
        return True, None

    def _check_vector_on_tangent(self, x, u, *, atol=1e-5, rtol=1e-5):
        if u.numel() == 0:
            return True, None
        gap = float(self._normal_part(x, u).detach().abs().max())
        bound = atol + rtol * float(u.detach().abs().max())
        if not gap <= bound:
            return False, f"normal part of u is {gap:.1e}, expected at most {bound:.1e}"
        return True, None

    # ------------------------------------------------------------ points

    def _sample(self, shape, generator, dtype, device) -> Tensor:
        raise NotImplementedError

    def _origin(self, shape, dtype, device) -> Tensor:
        raise NotImplementedError

    def random(
        self,
        *size: int | tuple[int, ...],
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> ManifoldTensor:
        """Sample points; uniform (the invariant measure) on compact manifolds.

        Parameters
        ----------
        *size : int or tuple of int
            Shape of the result, batch dimensions first.
        dtype, device
            Precision and place of the points, by default those of torch.
        generator : torch.Generator, optional
            Source of randomness.
        """
        shape = size2shape(*size)
        self._assert_check_shape(shape, "x")
        x = self._sample(shape, generator, dtype, device)
        return ManifoldTensor(x, manifold=self)

    def origin(
        self,
        *size: int | tuple[int, ...],
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        seed: int | None = None,
    ) -> ManifoldTensor:
        """Return a distinguished point (identity, first unit vectors); no randomness.

        ``seed`` is accepted for geoopt's signature and not needed.
        """
        shape = size2shape(*size)
        self._assert_check_shape(shape, "x")
        x = self._origin(shape, dtype, device)
        return ManifoldTensor(x, manifold=self)

    # ------------------------------------------------------------ maps

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """Length of a tangent vector; its derivative at zero is zero."""
        return safe_sqrt(self.inner(x, u, keepdim=keepdim))

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Geodesic distance, the length of ``logmap(x, y)``."""
        return self.norm(x, self.logmap(x, y), keepdim=keepdim)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Transport v from x to y: the projection to the tangent space at y."""
        return self.proju(y, v)

    @__scaling__(ScalingInfo())
    def geodesic(self, t: float | Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Point at time t of the geodesic with x at 0 and y at 1."""
        return self.expmap(x, t * self.logmap(x, y))

    @__scaling__(ScalingInfo.NotCompatible)
    def decay(
        self, x: Tensor, rate: float | Tensor, anchor: Tensor | None = None
    ) -> Tensor:
        """Pull x along the geodesic to the anchor by the fraction ``rate``.

        Without an anchor, towards the origin of a non-compact manifold; a point of a
        compact one is returned as it is.
        """
        if anchor is None:
            if self.compact:
                return x
            anchor = self._origin(x.shape, x.dtype, x.device)
        return self.geodesic(rate, x, anchor)


def check_point_argument(x: Tensor, manifold: geoopt.Manifold, name: str = "x") -> None:
    """Raise unless x is a real floating-point tensor of a shape the manifold takes.

    Raises
    ------
    NotImplementedError
        Complex numbers.
    TypeError
        Not a tensor, or integers.
    ValueError
        The shape does not fit.
    """
    if isinstance(x, Tensor) and x.is_complex():
        raise NotImplementedError(
            f"{name}: complex points are not supported, found {x.dtype}"
        )
    check_floating(x, name)
    ok, reason = manifold._check_shape(x.shape, name)
    if not ok:
        raise ValueError(f"{name}: not a point of {manifold}: {reason}")


class MatrixManifold(Manifold):
    """Points are matrices in the last two dimensions; Frobenius product by default."""

    ndim = 2

    def inner(
        self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False
    ) -> Tensor:
        """Frobenius product ``tr u'v``."""
        return trace_product(u, u if v is None else v, keepdim)

    def _check_shape(self, shape, name):
        if len(shape) < 2 or 0 in shape[-2:]:
            return False, f"{name}: expected matrices (..., n, p), found {tuple(shape)}"
        return True, None


class SquareMatrixManifold(MatrixManifold):
    """Points are square matrices, the origin is the identity."""

    def _check_shape(self, shape, name):
        if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] == 0:
            return False, (
                f"{name}: expected square matrices (..., n, n), found {tuple(shape)}"
            )
        return True, None

    def _origin(self, shape, dtype, device):
        return torch.eye(shape[-1], dtype=dtype, device=device).expand(shape).clone()
