"""Flat space and the positive numbers: every entry is a component of its own."""

import geoopt
import torch
from geoopt.utils import size2shape
from torch import Tensor

from manifoldkit.manifolds.base import Manifold, sample_normal
from manifoldkit.manifolds.tensors import ManifoldTensor


class Euclidean(geoopt.Euclidean, Manifold):
    """Euclidean space; geoopt's class with value equality and a generator.

    Parameters
    ----------
    ndim : int, default=0
        Trailing dimensions of one point: 0 makes every entry a point.

    Examples
    --------
    >>> Euclidean(1).dist(torch.zeros(2), torch.tensor([3., 4.]))
    tensor(5.)
    """

    __scaling__ = Manifold.__scaling__.copy()

    def __init__(self, ndim: int = 0):
        geoopt.Euclidean.__init__(self, ndim)

    def random(
        self,
        *size: int | tuple[int, ...],
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> ManifoldTensor:
        """Sample independent normal entries."""
        shape = size2shape(*size)
        self._assert_check_shape(shape, "x")
        x = sample_normal(shape, generator, dtype, device)
        return ManifoldTensor(x * std + mean, manifold=self)

    def _origin(self, shape, dtype, device):
        return torch.zeros(shape, dtype=dtype, device=device)

    def decay(
        self, x: Tensor, rate: float | Tensor, anchor: Tensor | None = None
    ) -> Tensor:
        """Shrink towards the anchor, default zero: ``x (1 - rate) + rate anchor``."""
        return x * (1 - rate) if anchor is None else x + rate * (anchor - x)


class PositiveReals(Manifold):
    r"""Positive numbers with the logarithmic metric :math:`uv / x^2`.

    Every entry is a point of its own (``ndim = 0``), as in :class:`Euclidean`.
    :math:`\exp_x(u) = x e^{u / x}`, :math:`d(x, y) = |\log y - \log x|`.

    Examples
    --------
    >>> x = torch.tensor([1., 2.])
    >>> PositiveReals().dist(x, x * torch.e)
    tensor([1., 1.])
    """

    name = "PositiveReals"
    ndim = 0
    reversible = True

    def _violation(self, x):
        return torch.where(x > 0, 0.0, 1.0 - x), "1 minus a number that is not positive"

    def inner(
        self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False
    ) -> Tensor:
        """Elementwise ``u v / x^2``."""
        return u * (u if v is None else v) / x**2

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """Elementwise ``|u| / x``."""
        return (u / x).abs()

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Every vector is tangent."""
        return u.expand(torch.broadcast_shapes(x.shape, u.shape))

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """Riemannian gradient ``x^2 u``."""
        return x**2 * u

    def projx(self, x: Tensor) -> Tensor:
        """Replace numbers below the smallest normal one by it."""
        return x.clamp_min(torch.finfo(x.dtype).tiny)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """Geodesic ``x exp(u / x)``."""
        return x * torch.exp(u / x)

    retr = expmap

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``x log(y / x)``."""
        return x * (y.log() - x.log())

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Elementwise ``|log y - log x|``."""
        return (y.log() - x.log()).abs()

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport ``v y / x``, an isometry."""
        return v * (y / x)

    def frame(self, x: Tensor) -> Tensor:
        """Return the chart value ``log x``."""
        return x.log()

    def frame_gradient(self, frame: Tensor, egrad: Tensor) -> Tensor:
        """Return the gradient with respect to ``log x``."""
        return frame.exp() * egrad

    def frame_retr(self, frame: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """Step in the chart."""
        new = frame + d
        return new.exp(), new

    def to_frame(self, frame: Tensor, u: Tensor) -> Tensor:
        """Return ``u / x``."""
        return u * torch.exp(-frame)

    def from_frame(self, frame: Tensor, d: Tensor) -> Tensor:
        """Return ``x d``."""
        return d * frame.exp()

    def _sample(self, shape, generator, dtype, device):
        return sample_normal(shape, generator, dtype, device).exp()

    def _origin(self, shape, dtype, device):
        return torch.ones(shape, dtype=dtype, device=device)
