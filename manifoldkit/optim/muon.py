"""Steepest descent under the spectral norm on matrices with orthonormal columns."""

from typing import Unpack

import geoopt
import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from manifoldkit._checks import check_counts, check_interval
from manifoldkit.linalg.qr import msign, newton_schulz_polar
from manifoldkit.manifolds import Grassmann, SpecialOrthogonal, Stiefel
from manifoldkit.optim.adam import RiemannianAdamW
from manifoldkit.optim.geometry import FrameGeometry
from manifoldkit.optim.options import AdamOptions


class StiefelMuon(RiemannianAdamW):
    r"""Muon on the Stiefel, Grassmann and rotation manifolds.

    The step is the tangent matrix of spectral norm at most :math:`\eta` that descends
    fastest along the momentum m. On SO(n), with m = x S, it is
    :math:`-\eta\, x \operatorname{msign}(S)`, exactly tangent. For tall matrices
    ``lmo="project"`` takes the tangent part of :math:`\operatorname{msign}(m)`, and
    ``lmo="dual"`` solves for the symmetric multiplier that makes
    :math:`\operatorname{msign}(m + x \Lambda)` tangent, by dual ascent. The point
    returns to the manifold by the polar factor.

    Parameters of other manifolds and Euclidean ones are stepped as by
    :class:`RiemannianAdamW` with this learning rate; give them groups of their own.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups.
    lr : float or Tensor, default=0.02
        Spectral norm of a step.
    momentum : float, default=0.95
        Decay of the Riemannian momentum, in [0, 1).
    nesterov : bool, default=True
        Look ahead along the momentum.
    lmo : {"project", "dual"}
        How the direction is made tangent.
    ns_steps, dual_steps : int
        Newton-Schulz steps of msign, and steps of the dual ascent.
    betas, eps, weight_decay, decay_mode, ...
        See :class:`RiemannianAdam`.

    Raises
    ------
    TypeError, ValueError
        An unknown option, one out of range, or a parameter that is not on its manifold.

    References
    ----------
    K. Jordan and others, Muon: an optimizer for hidden layers in neural networks,
    2024; J. Bernstein, Modular manifolds, 2025.

    Examples
    --------
    >>> x = geoopt.ManifoldParameter(torch.eye(4, 2), manifold=Stiefel())
    >>> optimizer = StiefelMuon([x], lr=0.05)
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
        lr: float | Tensor = 0.02,
        momentum: float = 0.95,
        *,
        nesterov: bool = True,
        lmo: str = "project",
        ns_steps: int = 5,
        dual_steps: int = 8,
        weight_decay: float = 0.0,
        **options: Unpack[AdamOptions],
    ):
        check_counts(ns_steps=ns_steps, dual_steps=dual_steps)
        check_interval(momentum, "momentum", 0, 1, "[)")
        self._extra = {
            "momentum": momentum,
            "nesterov": nesterov,
            "dampening": 0.0,
            "lmo": lmo,
            "ns_steps": ns_steps,
            "dual_steps": dual_steps,
        }
        super().__init__(params, lr, weight_decay=weight_decay, **options)

    def _direction(self, group, job):
        if not _is_orthonormal(job.geometry.manifold):
            return super()._direction(group, job)
        mu, gradient = group["momentum"], job.gradient
        job.batch.advance()
        name, m = self._momentum(job, "momentum_buffer")
        m.lerp_(gradient, 1 - mu)
        along = gradient.lerp(m, mu) if group["nesterov"] else m
        lr = group["lr"]
        if isinstance(job.geometry, FrameGeometry):
            return msign(along, group["ns_steps"]) * -lr, name, m
        if group["lmo"] == "dual":
            along = _dual_direction(
                job.x, along, group["dual_steps"], group["ns_steps"]
            )
        else:
            along = msign(along, group["ns_steps"])
        return job.geometry.project(job.x, None, along) * -lr, name, m

    def _move(self, group, job, x, frame, d, m):
        geometry = job.geometry
        own = group["retraction"] is not None or isinstance(geometry, FrameGeometry)
        if own or not _is_orthonormal(geometry.manifold):
            return super()._move(group, job, x, frame, d, m)
        y = newton_schulz_polar(x + d)
        return y, m if group["transport"] == "none" else geometry.project(y, None, m)


def _is_orthonormal(manifold) -> bool:
    ours = (Stiefel, Grassmann, SpecialOrthogonal)
    return isinstance(manifold, (*ours, geoopt.Stiefel))


def _dual_direction(x: Tensor, g: Tensor, steps: int, ns_steps: int) -> Tensor:
    """Maximize ``<g, a>`` over tangent a of spectral norm one, nearly.

    The dual variable is the symmetric L of ``a = msign(g + x L)``; its gradient is the
    departure ``sym(x'a)`` from tangency, and its step shrinks linearly.
    """
    size = torch.linalg.matrix_norm(g, keepdim=True) / g.shape[-1] ** 0.5
    multiplier = torch.zeros_like(x.mT @ g)
    for k in range(steps):
        a = msign(g + x @ multiplier, ns_steps)
        w = x.mT @ a
        multiplier = multiplier - (1 - k / steps) * size * (w + w.mT) / 2
    return msign(g + x @ multiplier, ns_steps)
