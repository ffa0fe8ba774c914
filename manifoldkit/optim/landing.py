"""Retraction-free descent that lands on the Stiefel manifold."""

from typing import Any, Unpack

import geoopt
import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.optim.optimizer import ParamsT

from manifoldkit._checks import check_choice, check_interval
from manifoldkit.linalg.checks import must_not_look
from manifoldkit.manifolds import Stiefel
from manifoldkit.optim.adam import RiemannianAdam
from manifoldkit.optim.base import Job, RiemannianOptimizer
from manifoldkit.optim.fused import geometry_of
from manifoldkit.optim.geometry import TangentGeometry
from manifoldkit.optim.options import AdamOptions, SGDOptions
from manifoldkit.optim.sgd import RiemannianSGD

#: how points come back to the manifold, and the ``eps_safe`` that goes with each
_SAFE = {"attraction": 0.5, "pogo": 1e-2}


def relative_gradient(x: Tensor, g: Tensor) -> Tensor:
    """Return ``(g x' - x g') x / 2``, from products of (B, n, p) matrices."""
    straight = torch.bmm(g, torch.bmm(x.mT, x))
    return torch.baddbmm(straight, x, torch.bmm(g.mT, x), beta=0.5, alpha=-0.5)


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

    def square(self, x, frame, u):
        """Squared Frobenius norm."""
        return vector_norm(u, dim=(-2, -1), keepdim=True).square_()

    def project(self, x, frame, u):
        """All of u: the relative gradient is taken of the whole direction."""
        return u

    def step(self, x, d, group, m):
        """Follow the relative gradient of d and the attraction."""
        d = relative_gradient(x, d)
        return _land(x, d, group["lr"], group["attraction"], group["eps_safe"])

    def stabilize(self, x, m):
        """Nearest orthonormal matrix."""
        return self.manifold.projx(x), m


class PogoGeometry(LandingGeometry):
    """The same points; coordinates are relative gradients, ``(G - x G'x) / 2``.

    That is the formula for an orthonormal x: the difference is of the order of the
    departure, and goes with the step back. Momentum is an average of relative
    gradients, and its tangent part is stepped along; of an older Euclidean gradient
    the relative one would pull back to where the point was then.
    """

    def gradient(self, x, frame, egrad):
        """Relative gradient."""
        small = torch.bmm(egrad.mT, x)
        return torch.baddbmm(egrad, x, small, beta=0.5, alpha=-0.5)

    def lengths(self, x, frame, u):
        """Norms."""
        return torch.linalg.matrix_norm(u)

    def step(self, x, d, group, m):
        """Add d, and come back by one Newton-Schulz step."""
        if m is not None:
            s = torch.bmm(x.mT, d)
            d = torch.baddbmm(d, x, s.add(s.mT), alpha=-0.5)
        return _bounce(x, d, group["eps_safe"] ** 0.5)


class _Landing(RiemannianOptimizer):
    """Steps of the landing family, under any base optimizer."""

    def _settings(self, attraction, eps_safe, normal_step, options) -> dict[str, Any]:
        """Check the options of the family."""
        check_choice(normal_step, tuple(_SAFE), "normal_step")
        safe = _SAFE[normal_step] if eps_safe is None else eps_safe
        check_interval(safe, "eps_safe", 0, 1, "()")
        for name in ("retraction", "transport"):
            if options.get(name) not in (None, "auto"):
                raise ValueError(
                    f"{name}: {type(self).__name__} has none to choose, "
                    f"found {options[name]!r}"
                )
        return {"attraction": attraction, "eps_safe": safe, "normal_step": normal_step}

    @property
    def _point_tolerance(self):  # type: ignore[override]  # follows an option
        return self.defaults["eps_safe"]

    def _geometry(self, manifold, group: dict):
        if isinstance(manifold, Stiefel | geoopt.Stiefel):
            pogo = group["normal_step"] == "pogo"
            return (PogoGeometry if pogo else LandingGeometry)(manifold)
        return geometry_of(manifold, group["retraction"], group["transport"])

    def _move(self, group: dict, job: Job, x, frame, d, m):
        if isinstance(job.geometry, LandingGeometry):
            return job.geometry.step(x, d, group, m), m
        return super()._move(group, job, x, frame, d, m)


class LandingSGD(_Landing, RiemannianSGD):
    r"""Landing: no retraction, matrix products only.

    .. math::

        x \leftarrow x - \eta\bigl(\psi + \lambda\, x (x'x - I)\bigr), \qquad
        \psi = \tfrac12 (G x' - x G') x,

    with momentum on G. The points leave the manifold during training and
    converge to it; the step is shortened where ``|x'x - I|`` would exceed
    ``eps_safe``. ``stabilize()`` puts the points on the manifold exactly, at the end
    of training. Parameters of other manifolds and Euclidean ones are stepped as by
    :class:`RiemannianSGD`.

    ``normal_step="pogo"`` comes back after every step, by one Newton-Schulz step:

    .. math::

        z = x - \eta\psi, \qquad x \leftarrow z + \tfrac12 z (I - z'z).

    A departure E of z, of the order of :math:`\eta^2`, becomes
    :math:`-\tfrac34 E^2 + \tfrac14 E^3`: points stay near the manifold, and the
    learning rate needs no attraction to balance it. Momentum is on :math:`\psi`
    (the paper has it on G, which makes no difference without momentum).

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups.
    lr : float or Tensor, default=1e-2
        Learning rate.
    momentum : float, default=0
        Momentum on the gradient.
    attraction : float, default=1.0
        :math:`\lambda`, the pull to the manifold of ``normal_step="attraction"``.
    eps_safe : float, optional
        Largest Frobenius norm of ``x'x - I``, in (0, 1); 0.5 by default, 0.01 for
        ``"pogo"``.
    normal_step : {"attraction", "pogo"}
        How points come back to the manifold.
    dampening, nesterov, weight_decay, ...
        See :class:`RiemannianSGD`; ``retraction`` and ``transport`` cannot be chosen.

    Raises
    ------
    TypeError, ValueError
        An unknown option, one out of range, or a parameter that is not on its manifold.

    References
    ----------
    P. Ablin and G. Peyré, Fast and accurate optimization on the orthogonal manifold
    without retraction, AISTATS 2022; A. Javaloy and A. Vergari, POGO, 2026,
    arXiv:2602.14656.

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
        eps_safe: float | None = None,
        normal_step: str = "attraction",
        weight_decay: float = 0.0,
        **options: Unpack[SGDOptions],
    ):
        self._extra = self._settings(attraction, eps_safe, normal_step, options)
        super().__init__(params, lr, momentum, weight_decay=weight_decay, **options)


class POGO(LandingSGD):
    r"""Landing that comes back by one Newton-Schulz step: never far from the manifold.

    :class:`LandingSGD` with ``normal_step="pogo"``: a gradient step :math:`z = x -
    \eta\psi`, then :math:`x \leftarrow z + \tfrac12 z (I - z'z)`, five matrix products
    and no factorization. With Adam as the base optimizer it is :class:`LandingAdam`.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups.
    lr : float or Tensor, default=1e-2
        Learning rate.
    momentum : float, default=0
        Momentum on the relative gradient.
    eps_safe : float, default=0.01
        Largest Frobenius norm of ``x'x - I``, in (0, 1), at every step.
    dampening, nesterov, weight_decay, ...
        See :class:`RiemannianSGD`; ``retraction`` and ``transport`` cannot be chosen.

    Raises
    ------
    TypeError, ValueError
        An unknown option, one out of range, or a parameter that is not on its manifold.

    References
    ----------
    A. Javaloy and A. Vergari, POGO, 2026, arXiv:2602.14656.

    Examples
    --------
    >>> x = geoopt.ManifoldParameter(torch.eye(4, 2), manifold=Stiefel())
    >>> optimizer = POGO([x], lr=0.2)
    >>> target = torch.eye(4)[:, 1:3]
    >>> for _ in range(200):
    ...     optimizer.zero_grad()
    ...     ((x - target) ** 2).sum().backward()
    ...     optimizer.step()
    >>> bool(torch.linalg.matrix_norm(x.mT @ x - torch.eye(2)) < 0.01)
    True
    >>> bool(((x - target) ** 2).sum() < 0.1)
    True
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        momentum: float = 0.0,
        *,
        eps_safe: float = 0.01,
        weight_decay: float = 0.0,
        **options: Unpack[SGDOptions],
    ):
        super().__init__(
            params,
            lr,
            momentum,
            eps_safe=eps_safe,
            normal_step="pogo",
            weight_decay=weight_decay,
            **options,
        )


class LandingAdam(_Landing, RiemannianAdam):
    r"""Adam in place of momentum in :class:`LandingSGD`.

    The second moment is one number for each matrix. With ``normal_step="pogo"`` the
    moments are those of the relative gradient :math:`\psi`; with ``"attraction"`` of
    the Euclidean one, and :math:`\psi` is taken of Adam's direction.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups.
    lr : float or Tensor, default=1e-2
        Learning rate: about the Frobenius norm of a step.
    betas, eps, amsgrad, moment, weight_decay, ...
        See :class:`RiemannianAdam`; ``retraction`` and ``transport`` cannot be chosen.
    attraction, eps_safe
        See :class:`LandingSGD`.
    normal_step : {"pogo", "attraction"}
        How points come back to the manifold.

    Raises
    ------
    TypeError, ValueError
        An unknown option, one out of range, or a parameter that is not on its manifold.

    References
    ----------
    A. Javaloy and A. Vergari, POGO, 2026, arXiv:2602.14656.

    Examples
    --------
    >>> x = geoopt.ManifoldParameter(torch.eye(4, 2), manifold=Stiefel())
    >>> optimizer = LandingAdam([x], lr=0.05)
    >>> target = torch.eye(4)[:, 1:3]
    >>> for _ in range(100):
    ...     optimizer.zero_grad()
    ...     ((x - target) ** 2).sum().backward()
    ...     optimizer.step()
    >>> bool(((x - target) ** 2).sum() < 0.1)
    True
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        *,
        attraction: float = 1.0,
        eps_safe: float | None = None,
        normal_step: str = "pogo",
        weight_decay: float = 0.0,
        **options: Unpack[AdamOptions],
    ):
        self._extra = self._settings(attraction, eps_safe, normal_step, options)
        super().__init__(params, lr, weight_decay=weight_decay, **options)


def _bounce(x: Tensor, d: Tensor, longest: float) -> Tensor:
    """Add d, and come back by one Newton-Schulz step.

    d is shortened where ``|z'z - I|`` of ``z = x + d`` would exceed ``longest``, whose
    square bounds what is left after the step back.
    """
    z = d.add_(x)
    gap, size = _departure(z)
    if must_not_look(x) or not float(size.amax()) <= longest:
        # z'z - I = H + t (x'd + d'x) + t^2 d'd at z = x + t d
        d = z - x
        rest = (longest - _departure(x)[1]).clamp_min(0)
        slope, bend = (
            vector_norm(s, dim=(-2, -1), keepdim=True)
            for s in (x.mT @ d + d.mT @ x, d.mT @ d)
        )
        tiny = torch.finfo(x.dtype).tiny
        t = 2 * rest / (slope + (slope**2 + 4 * bend * rest).sqrt()).clamp_min(tiny)
        z = torch.addcmul(x, torch.where(size > longest, t.clamp_max(1.0), 1.0), d)
        gap, _ = _departure(z)
    if must_not_look(x):
        return torch.baddbmm(z, z, gap, alpha=-0.5)
    return torch.baddbmm(z, z, gap, alpha=-0.5, out=x)


def _departure(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``x'x - I`` and its Frobenius norm."""
    gap = torch.bmm(x.mT, x)
    gap.diagonal(dim1=-2, dim2=-1).sub_(1)
    return gap, vector_norm(gap, dim=(-2, -1), keepdim=True)


def _land(x: Tensor, d: Tensor, lr, attraction: float, eps_safe: float) -> Tensor:
    """Add d and the attraction, shortened to stay within ``eps_safe``.

    With ``H = x'x - I`` and ``d = A x``, A skew, a step ``t (d - lr a x H)`` leaves
    ``|H| <= h - 2 t lr a h (1 - h) + t^2 f^2`` where h = |H| and f is the norm of the
    whole field, as long as ``2 t lr a (1 + h) <= 1``: the largest t with a bound of
    ``eps_safe`` is the root below.
    """
    gap, h = _departure(x)
    step = d - (lr * attraction) * (x @ gap)
    f2 = (step * step).sum((-2, -1), keepdim=True)
    pull = (lr * attraction) * h * (1 - h).clamp_min(0)
    root = (pull**2 + f2 * (eps_safe - h).clamp_min(0)).sqrt()
    longest = (pull + root) / f2.clamp_min(torch.finfo(x.dtype).tiny)
    longest = torch.minimum(longest, 1 / (2 * lr * attraction * (1 + h)))
    return x + step * longest.clamp_max(1.0)
