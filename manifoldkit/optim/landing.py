"""Retraction-free descent that lands on the Stiefel manifold."""

from typing import Unpack

import geoopt
import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from manifoldkit._checks import check_interval
from manifoldkit.manifolds import Stiefel
from manifoldkit.optim.fused import geometry_of
from manifoldkit.optim.geometry import TangentGeometry
from manifoldkit.optim.options import SGDOptions
from manifoldkit.optim.sgd import RiemannianSGD


def relative_gradient(x: Tensor, g: Tensor) -> Tensor:
    """Return ``(g x' - x g') x / 2``, from products of n x p matrices."""
    return (g @ (x.mT @ x) - x @ (g.mT @ x)) / 2


class LandingGeometry(TangentGeometry):
    """Matrices near the Stiefel manifold; coordinates are Euclidean gradients.

    The momentum is kept in the ambient space, and the relative gradient is taken of
    it at the current point: only then does a step not change ``x'x`` to first order.
    """

    def gradient(self, x, frame, egrad):
        """The Euclidean gradient itself."""
        return egrad

    def lengths(self, x, frame, u):
        """Norms of the relative gradients."""
        return torch.linalg.matrix_norm(relative_gradient(x, u))

    def stabilize(self, x, m):
        """Nearest orthonormal matrix."""
        return self.manifold.projx(x), m


class LandingSGD(RiemannianSGD):
    r"""Landing: no retraction, matrix products only.

    .. math::

        x \leftarrow x - \eta\bigl(\psi + \lambda\, x (x'x - I)\bigr), \qquad
        \psi = \tfrac12 (G x' - x G') x,

    with momentum on G. The points leave the manifold during training and
    converge to it; the step is shortened where ``|x'x - I|`` would exceed
    ``eps_safe``. ``stabilize()`` puts the points on the manifold exactly, at the end
    of training. Parameters of other manifolds and Euclidean ones are stepped as by
    :class:`RiemannianSGD`.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups.
    lr : float or Tensor, default=1e-2
        Learning rate.
    momentum : float, default=0
        Momentum on the gradient.
    attraction : float, default=1.0
        :math:`\lambda`, the pull to the manifold.
    eps_safe : float, default=0.5
        Largest Frobenius norm of ``x'x - I``, in (0, 1).
    dampening, nesterov, weight_decay, ...
        See :class:`RiemannianSGD`; ``retraction`` and ``transport`` cannot be chosen.

    Raises
    ------
    TypeError, ValueError
        An unknown option, one out of range, or a parameter that is not on its manifold.

    References
    ----------
    P. Ablin and G. Peyré, Fast and accurate optimization on the orthogonal manifold
    without retraction, AISTATS 2022.

    Examples
    --------
    >>> x = geoopt.ManifoldParameter(torch.eye(4, 2), manifold=Stiefel())
    >>> optimizer = LandingSGD([x], lr=0.2)
    >>> target = torch.eye(4)[:, 1:3]
    >>> for _ in range(200):
    ...     optimizer.zero_grad()
    ...     ((x - target) ** 2).sum().backward()
    ...     optimizer.step()
    >>> optimizer.stabilize()
    >>> bool(((x - target) ** 2).sum() < 0.1)
    True
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        momentum: float = 0.0,
        *,
        attraction: float = 1.0,
        eps_safe: float = 0.5,
        weight_decay: float = 0.0,
        **options: Unpack[SGDOptions],
    ):
        check_interval(eps_safe, "eps_safe", 0, 1, "()")
        for name in ("retraction", "transport"):
            if options.get(name) not in (None, "auto"):
                raise ValueError(
                    f"{name}: LandingSGD has none to choose, found {options[name]!r}"
                )
        self._extra = {"attraction": attraction, "eps_safe": eps_safe}
        super().__init__(params, lr, momentum, weight_decay=weight_decay, **options)

    @property
    def _point_tolerance(self):  # type: ignore[override]  # follows an option
        return self.defaults["eps_safe"]

    def _geometry(self, manifold, group):
        if isinstance(manifold, Stiefel | geoopt.Stiefel):
            return LandingGeometry(manifold)
        return geometry_of(manifold, group["retraction"], group["transport"])

    def _move(self, group, job, x, frame, d, m):
        if not isinstance(job.geometry, LandingGeometry):
            return super()._move(group, job, x, frame, d, m)
        d = relative_gradient(x, d)
        return _land(x, d, group["lr"], group["attraction"], group["eps_safe"]), m


def _land(x: Tensor, d: Tensor, lr, attraction: float, eps_safe: float) -> Tensor:
    """Add d and the attraction, shortened to stay within ``eps_safe``.

    With ``H = x'x - I`` and ``d = A x``, A skew, a step ``t (d - lr a x H)`` leaves
    ``|H| <= h - 2 t lr a h (1 - h) + t^2 f^2`` where h = |H| and f is the norm of the
    whole field: the largest t with a bound of ``eps_safe`` is the root below.
    """
    gram = x.mT @ x
    gram.diagonal(dim1=-2, dim2=-1).sub_(1)
    h = torch.linalg.matrix_norm(gram, keepdim=True)
    step = d - (lr * attraction) * (x @ gram)
    f2 = (step * step).sum((-2, -1), keepdim=True)
    pull = (lr * attraction) * h * (1 - h).clamp_min(0)
    root = (pull**2 + f2 * (eps_safe - h).clamp_min(0)).sqrt()
    longest = (pull + root) / f2.clamp_min(torch.finfo(x.dtype).tiny)
    return x + step * longest.clamp_max(1.0)
