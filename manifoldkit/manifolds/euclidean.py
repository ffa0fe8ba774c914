"""Flat space and the positive numbers: every entry is a component of its own."""

import geoopt
import torch
from geoopt.utils import size2shape
from torch import Tensor

from manifoldkit.manifolds.base import Manifold


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

    def settings(self) -> dict:
        """Return the constructor arguments."""
        return {"ndim": self.ndim}

    def random(self, *size, dtype=None, device=None, generator=None, mean=0.0, std=1.0):
        """Sample independent normal entries."""
        shape = size2shape(*size)
        self._assert_check_shape(shape, "x")
        x = torch.randn(shape, dtype=dtype, device=device, generator=generator)
        return geoopt.ManifoldTensor(x * std + mean, manifold=self)

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

    __scaling__ = Manifold.__scaling__.copy()
    name = "PositiveReals"
    ndim = 0
    reversible = True

    def _violation(self, x):
        return torch.where(x > 0, 0.0, 1.0 - x), "1 minus a number that is not positive"

    def inner(self, x, u, v=None, *, keepdim=False):
        """Elementwise ``u v / x^2``."""
        return u * (u if v is None else v) / x**2

    def norm(self, x, u, *, keepdim=False):
        """Elementwise ``|u| / x``."""
        return (u / x).abs()

    def proju(self, x, u):
        """Every vector is tangent."""
        return u.expand(torch.broadcast_shapes(x.shape, u.shape))

    def egrad2rgrad(self, x, u):
        """Riemannian gradient ``x^2 u``."""
        return x**2 * u

    def projx(self, x):
        """Replace numbers below the smallest normal one by it."""
        return x.clamp_min(torch.finfo(x.dtype).tiny)

    def expmap(self, x, u):
        """Geodesic ``x exp(u / x)``."""
        return x * torch.exp(u / x)

    retr = expmap

    def logmap(self, x, y):
        """Return ``x log(y / x)``."""
        return x * (y.log() - x.log())

    def dist(self, x, y, *, keepdim=False):
        """Elementwise ``|log y - log x|``."""
        return (y.log() - x.log()).abs()

    def transp(self, x, y, v):
        """Parallel transport ``v y / x``, an isometry."""
        return v * (y / x)

    def frame(self, x):
        """Return the chart value ``log x``."""
        return x.log()

    def frame_gradient(self, frame, egrad):
        """Return the gradient with respect to ``log x``."""
        return frame.exp() * egrad

    def frame_retr(self, frame, d):
        """Step in the chart."""
        new = frame + d
        return new.exp(), new

    def to_frame(self, frame, u):
        """Return ``u / x``."""
        return u * torch.exp(-frame)

    def from_frame(self, frame, d):
        """Return ``x d``."""
        return d * frame.exp()

    def _sample(self, shape, generator, dtype, device):
        return torch.randn(shape, dtype=dtype, device=device, generator=generator).exp()

    def _origin(self, shape, dtype, device):
        return torch.ones(shape, dtype=dtype, device=device)
