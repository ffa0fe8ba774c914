"""Stochastic gradient descent with momentum on manifolds."""

from typing import Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from manifoldkit.optim.base import RiemannianOptimizer
from manifoldkit.optim.options import CommonOptions


class RiemannianSGD(RiemannianOptimizer):
    r"""Riemannian stochastic gradient descent with momentum.

    On a manifold, with Riemannian gradient g, retraction R and transport T,

    .. math::

        m_0 = g_0, \quad m_t = \mu\, T(m_{t-1}) + (1 - \tau) g_t, \quad
        x_{t+1} = R_{x_t}(-\eta\, m_t);

    Euclidean parameters go through :class:`torch.optim.SGD`.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups; those with a manifold
        (``geoopt.ManifoldParameter``, :func:`manifoldkit.manifolds.attach`) are stepped
        on it.
    lr : float or Tensor, default=1e-2
        Learning rate :math:`\eta`.
    momentum, dampening : float, default=0
        :math:`\mu` and :math:`\tau`.
    nesterov : bool, default=False
        Nesterov momentum.
    weight_decay, decay_mode, maximize, foreach, capturable, fused
        See :class:`RiemannianAdam`.
    stabilize, retraction, transport, nonfinite, grad_clip, views, master_points
        See :class:`RiemannianAdam`.

    Raises
    ------
    TypeError
        Unknown option or integer parameters.
    ValueError
        An option out of range, or a parameter that is not on its manifold.

    References
    ----------
    S. Bonnabel, Stochastic gradient descent on Riemannian manifolds, IEEE TAC 2013.

    Examples
    --------
    >>> import geoopt
    >>> x = geoopt.ManifoldParameter(torch.tensor([0.6, 0.8]), manifold=geoopt.Sphere())
    >>> optimizer = RiemannianSGD([x], lr=0.5)
    >>> for _ in range(50):
    ...     optimizer.zero_grad()
    ...     x[1].backward()
    ...     optimizer.step()
    >>> x.detach().round(decimals=3)
    tensor([ 0., -1.])
    """

    _engine_class = torch.optim.SGD
    _engine_names = ("momentum", "dampening", "nesterov")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        **options: Unpack[CommonOptions],
    ):
        own = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
        }
        super().__init__(params, own, options)

    def _direction(self, group, job):
        mu, gradient = group["momentum"], job.gradient
        if not mu:
            return gradient * -group["lr"], "", None
        job.batch.advance()
        name, m = self._momentum(job, "momentum_buffer")
        m.mul_(mu).add_(gradient, alpha=1 - group["dampening"])
        if group["dampening"]:
            first = torch.as_tensor(job.batch.steps() == 1, device=m.device)
            m.copy_(torch.where(first, gradient, m))
        d = gradient + mu * m if group["nesterov"] else m
        return d * -group["lr"], name, m
