"""Second-order and line-search methods: our manifolds and torch costs in pymanopt."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from geoopt.manifolds.base import Manifold
from torch import Tensor

from manifoldkit.exceptions import MissingExtraError

if TYPE_CHECKING:
    import pymanopt


def to_pymanopt(
    manifold: Manifold,
    cost: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    *,
    dim: int | None = None,
    device: torch.device | str = "cpu",
) -> "pymanopt.Problem":
    """Make a ``pymanopt.Problem`` of a torch cost on a manifold.

    pymanopt's solvers (trust region, conjugate gradient, line-searched descent) then
    run on any of our manifolds or geoopt's, in float64. Gradients come from autograd,
    Hessian-vector products from central differences of gradients in normal coordinates,
    ``cost(exp(x, u))``: the Levi-Civita Hessian, whatever the manifold's transport.

    Parameters
    ----------
    manifold : geoopt.Manifold
        The manifold.
    cost : callable
        Maps a point, a float64 tensor of ``shape``, to a scalar tensor.
    shape : tuple of int
        Shape of the point; leading dimensions make it several points.
    dim : int, optional
        Dimension of the manifold, which solvers use as a default number of inner
        iterations; default the number of entries.
    device : torch.device or str
        Where the cost is computed.

    Returns
    -------
    pymanopt.Problem
        To be handed to ``pymanopt.optimizers``; points are NumPy arrays.

    Raises
    ------
    MissingExtraError
        pymanopt is not installed.

    Examples
    --------
    >>> from manifoldkit.manifolds import Sphere
    >>> problem = to_pymanopt(Sphere(), lambda x: x[0], (3,))  # doctest: +SKIP
    >>> solver = pymanopt.optimizers.TrustRegions(verbosity=0)  # doctest: +SKIP
    >>> solver.run(problem).point.round(3)  # doctest: +SKIP
    array([-1., -0.,  0.])
    """
    try:
        import pymanopt
        from pymanopt.function import numpy as numpy_function
    except ImportError as error:
        raise MissingExtraError("to_pymanopt", "pymanopt", "pymanopt") from error
    space = _Space(manifold, tuple(shape), device)
    wrapped = _wrap(pymanopt, space, dim)

    @numpy_function(wrapped)
    def evaluate(point):
        with torch.no_grad():
            return float(cost(space.tensor(point)))

    @numpy_function(wrapped)
    def riemannian_gradient(point):
        return space.gradient(cost, space.tensor(point)).cpu().numpy()

    @numpy_function(wrapped)
    def riemannian_hessian(point, tangent):
        return space.hessian(cost, point, tangent)

    return pymanopt.Problem(
        wrapped,
        evaluate,
        riemannian_gradient=riemannian_gradient,
        riemannian_hessian=riemannian_hessian,
    )


class _Space:
    """A manifold seen from NumPy."""

    def __init__(self, manifold: Manifold, shape, device):
        self.manifold, self.shape, self.device = manifold, shape, device

    def tensor(self, array) -> Tensor:
        return torch.as_tensor(
            np.asarray(array), dtype=torch.float64, device=self.device
        )

    def call(self, method: str, *arrays):
        """Apply a method of the manifold to arrays."""
        with torch.no_grad():
            out = getattr(self.manifold, method)(*map(self.tensor, arrays))
        return out.detach().as_subclass(Tensor).cpu().numpy()

    def gradient(self, cost, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (egrad,) = torch.autograd.grad(cost(x), x)
        with torch.no_grad():
            return self.manifold.egrad2rgrad(x.detach(), egrad)

    def _pulled_gradient(self, cost, x: Tensor, u: Tensor) -> Tensor:
        """Euclidean gradient in u of the cost at ``exp(x, u)``."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            y = self.manifold.expmap(x, self.manifold.proju(x, u))
            return torch.autograd.grad(cost(y), u)[0]

    def hessian(self, cost, point, tangent):
        """Second derivative in normal coordinates, which is the Riemannian Hessian.

        Central difference of the gradient of ``cost(exp(x, u))`` in u; no transport,
        so symmetric also where that of the manifold is not the Levi-Civita one.
        """
        x, u = self.tensor(point), self.tensor(tangent)
        with torch.no_grad():
            size = float(self.manifold.inner(x, u).sum()) ** 0.5
        if size == 0:
            return np.zeros_like(tangent)
        t = 6e-6 / size  # cube root of the rounding unit
        ahead, behind = (self._pulled_gradient(cost, x, s * u) for s in (t, -t))
        with torch.no_grad():
            out = self.manifold.egrad2rgrad(x, (ahead - behind) / (2 * t))
        return out.cpu().numpy()


def _wrap(pymanopt, space: _Space, dim: int | None):
    """Subclass pymanopt's manifold, which can be imported only here."""
    base = pymanopt.manifolds.manifold.Manifold

    class TorchManifold(base):  # type: ignore[misc, valid-type]  # known at run time
        """pymanopt's view of a torch manifold."""

        def __init__(self):
            entries = int(np.prod(space.shape, dtype=int))
            super().__init__(str(space.manifold), dim or entries)

        @property
        def typical_dist(self):
            return max(self.dim, 1) ** 0.5

        def inner_product(self, point, tangent_vector_a, tangent_vector_b):
            product = space.call("inner", point, tangent_vector_a, tangent_vector_b)
            return float(product.sum())

        def norm(self, point, tangent_vector):
            square = self.inner_product(point, tangent_vector, tangent_vector)
            return max(square, 0.0) ** 0.5

        def projection(self, point, vector):
            return space.call("proju", point, vector)

        to_tangent_space = projection

        def euclidean_to_riemannian_gradient(self, point, euclidean_gradient):
            return space.call("egrad2rgrad", point, euclidean_gradient)

        def retraction(self, point, tangent_vector):
            return space.call("retr", point, tangent_vector)

        def exp(self, point, tangent_vector):
            return space.call("expmap", point, tangent_vector)

        def log(self, point_a, point_b):
            return space.call("logmap", point_a, point_b)

        def dist(self, point_a, point_b):
            return float((space.call("dist", point_a, point_b) ** 2).sum() ** 0.5)

        def transport(self, point_a, point_b, tangent_vector_a):
            return space.call("transp", point_a, point_b, tangent_vector_a)

        def random_point(self):
            point = space.manifold.random(*space.shape, dtype=torch.float64)
            return point.detach().as_subclass(Tensor).numpy().copy()

        def random_tangent_vector(self, point):
            v = self.projection(point, torch.randn(space.shape).double().numpy())
            return v / self.norm(point, v)

        def zero_vector(self, point):
            return np.zeros(space.shape)

    return TorchManifold()
