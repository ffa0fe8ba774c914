"""Steepest descent under the spectral norm on matrices with orthonormal columns."""

from typing import Unpack

import geoopt
from torch import Tensor
from torch.optim.optimizer import ParamsT

from manifoldkit._checks import check_counts, check_interval
from manifoldkit.linalg.qr import newton_schulz_polar
from manifoldkit.manifolds import Grassmann, SpecialOrthogonal, Stiefel
from manifoldkit.optim.adam import RiemannianAdamW
from manifoldkit.optim.geometry import FrameGeometry
from manifoldkit.optim.options import AdamOptions
from manifoldkit.optim.spectral import (
    converging_sign,
    steepest_tangent,
    within_unit,
)


class StiefelMuon(RiemannianAdamW):
    r"""Muon on the Stiefel, Grassmann and rotation manifolds.

    The step is the tangent matrix of spectral norm at most :math:`\eta` that descends
    fastest along the momentum m. On SO(n), with m = x S, it is
    :math:`-\eta\, x \operatorname{msign}(S)`, exactly tangent. For tall matrices
    ``lmo="project"`` takes the tangent part of :math:`\operatorname{msign}(m)`, divided
    by its norm where that exceeds one: 0.9 of the best decrease at equal norm, or more.
    ``lmo="dual"`` solves for the symmetric multiplier that makes
    :math:`\operatorname{msign}(m + x \Lambda)` tangent, for 0.97 and more, with a few
    eigendecompositions of p x p matrices. The point returns to the manifold by the
    polar factor. The matrix sign is that of Polar Express: quintic Newton-Schulz steps
    that converge, and never exceed one.

    Parameters of other manifolds and Euclidean ones are stepped as by
    :class:`RiemannianAdamW` with this learning rate; give them groups of their own.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups.
    lr : float or Tensor, default=0.02
        Largest spectral norm of a step.
    momentum : float, default=0.95
        Decay of the Riemannian momentum, in [0, 1).
    nesterov : bool, default=True
        Look ahead along the momentum.
    lmo : {"project", "dual"}
        How the direction is made tangent.
    ns_steps, dual_steps : int
        Newton-Schulz steps of msign, and steps to the multiplier.
    betas, eps, weight_decay, decay_mode, ...
        See :class:`RiemannianAdam`.

    Raises
    ------
    TypeError, ValueError
        An unknown option, one out of range, or a parameter that is not on its manifold.

    References
    ----------
    K. Jordan and others, Muon: an optimizer for hidden layers in neural networks,
    2024; J. Bernstein, Modular manifolds, 2025; N. Amsel, D. Persson, C. Musco and
    R. M. Gower, The Polar Express, 2025.

    Examples
    --------
    >>> import torch
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
        dual_steps: int = 3,
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
        return self._steepest(group, job, along) * -group["lr"], name, m

    @staticmethod
    def _steepest(group, job, along):
        """Tangent direction of spectral norm at most one."""
        geometry, x, steps = job.geometry, job.x, group["ns_steps"]
        if isinstance(geometry, FrameGeometry):
            return converging_sign(along, steps)
        if isinstance(geometry.manifold, Grassmann):
            # the sign of a tangent matrix is one
            return geometry.project(x, None, converging_sign(along, steps))
        if group["lmo"] == "dual":
            return steepest_tangent(x, along, group["dual_steps"])
        return within_unit(geometry.project(x, None, converging_sign(along, steps)))

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
