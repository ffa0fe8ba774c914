"""Batch normalization of points on any manifold with exponential, logarithm, transport.

The mean of a batch is the Karcher mean of the file ``karcher`` beside this one, whose
sums may run over the processes of ``torch.distributed``.
"""

import math
import warnings
from typing import Any

import geoopt
import torch
from torch import Tensor, nn

from manifoldkit._checks import check_count, check_interval, count, interval, optional
from manifoldkit.exceptions import ConvergenceWarning, NotOnManifoldError
from manifoldkit.linalg.checks import (
    check_finite,
    check_floating,
    compute_dtype,
    tolerance,
)
from manifoldkit.manifolds.euclidean import PositiveReals
from manifoldkit.manifolds.means.karcher import (
    descend,
    mean_direction,
    point_norm,
    spread_size,
)
from manifoldkit.manifolds.parameters import attach
from manifoldkit.manifolds.points import point_tolerance

#: Steps along the geodesic in which a transport that is no isometry is taken.
_LEGS = 8

#: Gradient at which a mean is taken for found, in units of the size of the data.
_MEAN_TOLERANCE = 1e-8


class ManifoldBatchNorm(nn.Module):
    r"""Batch normalization on a manifold.

    The points of a batch are moved to a learned point B, the bias, and brought to a
    learned standard deviation s. With the Karcher mean M of the batch and the transport
    T from M to B,

    .. math::

        v_i = T_{M \to B} \log_M x_i, \qquad
        \sigma^2 = \tfrac1N \sum_i \lvert v_i \rvert_B^2, \qquad
        z_i = \exp_B\bigl(s\, v_i / \sigma\bigr).

    As :math:`\sum_i \log_M x_i = 0` and T is linear, B is the mean of the
    :math:`z_i`, so long as none of them is moved beyond the cut locus of B: on compact
    manifolds choose a small ``scale``, or ``None``. A transport that is no isometry is
    taken in 8 steps along the geodesic, each made nearly one by a Newton-Schulz step.

    Evaluation uses running statistics: the running mean moves along the geodesic to
    the mean of every batch by the fraction ``momentum``, the running variance linearly;
    the first batch takes their place.

    Parameters
    ----------
    manifold : geoopt.Manifold
        Ours or geoopt's, with ``logmap``.
    shape : int or tuple of int
        Shape of a point; the manifold's ``origin`` of this shape is the first bias.
    momentum : float or None, default=0.1
        Share of a batch in the running statistics; None for their plain average.
    scale : float or None, default=1.0
        First standard deviation of what is returned; None leaves the dispersion.
    affine : bool, default=True
        Learn bias and scale.
    track_running_stats : bool, default=True
        Keep running statistics; without, evaluation uses the batch.
    stats_grad : bool, default=True
        Differentiate through mean (one step of its iteration) and variance.
    n_channels : int, optional
        Points of shape (..., n_channels, \*shape), every channel with a bias, scale and
        statistics of its own.
    validate : bool, default=False
        Check that the points lie on the manifold; takes time.
    max_iter : int, default=50
        Most iterations of the mean.
    synchronized : bool, default=False
        Use the batches of all processes, which may differ in size.
    process_group : torch.distributed.ProcessGroup, optional
        Those processes.
    device, dtype : optional
        Of bias, scale and statistics.

    Raises
    ------
    NotImplementedError
        The manifold has no logarithm.
    TypeError, ValueError
        Settings or inputs that do not fit; NaN or infinity in a batch, of which the
        first is named, and which leaves the running statistics as they are.

    References
    ----------
    Z. Chen, Y. Song, X.-J. Wu and N. Sebe, Gyrogroup batch normalization, ICLR 2025;
    Z. Chen, Y. Song, Y. Liu and N. Sebe, A Lie group approach to Riemannian batch
    normalization, ICLR 2024.

    Examples
    --------
    >>> from manifoldkit.manifolds import Sphere
    >>> from manifoldkit.optim import karcher_mean
    >>> x = torch.nn.functional.normalize(torch.randn(20, 3) + torch.tensor([0., 0, 5]))
    >>> layer = ManifoldBatchNorm(Sphere(), 3, scale=0.2)
    >>> z = layer(x).detach()
    >>> torch.allclose(karcher_mean(Sphere(), z).mean, layer.bias, atol=1e-4)
    True
    """

    bias: Tensor
    scale: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        manifold: geoopt.Manifold,
        shape: int | tuple[int, ...],
        *,
        momentum: float | None = 0.1,
        scale: float | None = 1.0,
        affine: bool = True,
        track_running_stats: bool = True,
        stats_grad: bool = True,
        n_channels: int | None = None,
        validate: bool = False,
        max_iter: int = 50,
        synchronized: bool = False,
        process_group: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if not isinstance(manifold, geoopt.Manifold):
            raise TypeError(f"manifold: expected a geoopt Manifold, found {manifold!r}")
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if len(self.shape) != manifold.ndim:
            raise ValueError(
                f"shape: expected {manifold.ndim} sizes for {manifold}, "
                f"found {self.shape}"
            )
        self.momentum = optional(interval(0, 1))(momentum, "momentum")
        self.n_channels = optional(count())(n_channels, "n_channels")
        self.max_iter = check_count(max_iter, "max_iter")
        self.manifold, self.affine, self.validate = manifold, affine, validate
        self.track_running_stats, self.stats_grad = track_running_stats, stats_grad
        self.synchronized, self.process_group = synchronized, process_group
        lead = () if n_channels is None else (n_channels,)
        # a manifold of geoopt may refuse what is not a shape of its points
        start = manifold.origin(*lead, *self.shape, device=device, dtype=dtype)
        start = torch.as_tensor(start.detach().as_subclass(Tensor)).clone()
        self._add_point("bias", start, manifold)
        if scale is None:
            self.scale = None
        else:
            check_interval(scale, "scale", 0, ends="()")
            self._add_point("scale", start.new_full(lead, scale), PositiveReals())
        if track_running_stats:
            self.register_buffer("running_mean", start.clone())
            self.register_buffer("running_var", start.new_ones(lead))
            self.register_buffer("num_batches_tracked", torch.tensor(0, device=device))
        self._legs = 1 if _is_isometry(manifold, start) else _LEGS

    def _add_point(self, name: str, value: Tensor, manifold) -> None:
        if not self.affine:
            self.register_buffer(name, value.clone())
            return
        self.register_parameter(name, nn.Parameter(value.clone()))
        attach(self, name, manifold, layout="as_is")

    def no_weight_decay(self) -> list[str]:
        """Names of parameters that decay would draw to the origin: bias and scale."""
        return [name for name in ("bias", "scale") if name in self._parameters]

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """Forget the batches: mean at the origin, variance 1."""
        if self.track_running_stats:
            mean = self.running_mean
            like = {"dtype": mean.dtype, "device": mean.device}
            mean.copy_(self.manifold.origin(*mean.shape, **like))
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Normalize points (..., *shape), or (..., n_channels, *shape)."""
        y = self._fold(x)
        bias = self._group(self.bias, y)
        if self.training or not self.track_running_stats:
            mean, size = self._batch_mean(y, x)
            v = self._carry(mean, bias, self.manifold.logmap(mean.expand_as(y), y))
            v, bias = v, bias.expand_as(y)
            var = self._sum((_square(self.manifold, bias, v) / size).sum(1))
            if not bool(var.isfinite().all()):
                raise ValueError(
                    "x: the variance of the batch is not finite: are its points on "
                    f"{self.manifold}?"
                )
            var = var if self.stats_grad else var.detach()
            if self.training and self.track_running_stats:
                self._store(mean, var)
        else:
            mean = self._group(self.running_mean, y)
            v = self._carry(mean, bias, self.manifold.logmap(mean.expand_as(y), y))
            bias, var = bias.expand_as(y), self._group(self.running_var, y)[:, 0]
        if self.scale is not None:
            scale = self.scale.to(y.dtype).reshape(-1)
            v = self._lift(scale / self._deviation(mean, var)) * v
        return self._unfold(self.manifold.expmap(bias, v), x)

    # ------------------------------------------------------------ statistics

    def _batch_mean(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor | int]:
        """Return means (groups, 1, point) and the number of points in a group."""
        size: Any = y.shape[1]
        if self.synchronized:
            bad = (~y.detach().isfinite()).sum()
            message = torch.stack([y.new_tensor(size), bad.to(y)])
            size, bad = self._sum(message).unbind()
            if bool(bad > 0):
                check_finite(x.detach(), "x", len(self.shape))
                raise ValueError("x: NaN or infinity in the batch of another process")
        if int(size) < 2:
            raise ValueError(
                "x: expected more than 1 point to normalize by batch statistics, "
                f"found {int(size)}; call eval() to use running statistics"
            )
        z, dim = y.detach(), 1
        weights = z.new_ones(z.shape[:2]) / size
        with torch.no_grad():
            start = self._start(z, weights)
            found = descend(
                self.manifold,
                start,
                z,
                weights,
                max(tolerance(z.dtype, 128), _MEAN_TOLERANCE),
                self.max_iter,
                self._sum,
            )
            unit = spread_size(self.manifold, found.x, found.cost)
        # what rounding leaves is no failure
        bad = found.norm > max(tolerance(z.dtype, 1024), _MEAN_TOLERANCE) * unit
        if bool(bad.any()):
            warnings.warn(
                f"ManifoldBatchNorm on {self.manifold}: the mean of the batch is not "
                f"converged after {found.iterations} iterations, gradient norm "
                f"{float(found.norm.max()):.1e}",
                ConvergenceWarning,
                stacklevel=3,
            )
        mean = found.x.unsqueeze(dim)
        if self.stats_grad and y.requires_grad:
            logs = self.manifold.logmap(mean.expand_as(y), y)
            step = self._sum((logs / size).sum(dim, keepdim=True))
            mean = self.manifold.expmap(mean, step)
        return mean, size

    def _start(self, z: Tensor, weights: Tensor) -> Tensor:
        """Best of projected mean, first point and running mean."""
        first = z[:, 0]
        if self.synchronized:
            rank = torch.distributed.get_rank(self.process_group)
            first = self._sum(first if rank == 0 else torch.zeros_like(first))
        lifted = self._lift(weights, 0)
        places = [first, self.manifold.projx(self._sum((lifted * z).sum(1)))]
        if self.track_running_stats and bool(self.num_batches_tracked > 0):
            places.append(self._group(self.running_mean, z)[:, 0])
        best, least = first, None
        for place in places:
            cost = mean_direction(self.manifold, place, z, weights, self._sum)[1]
            cost = torch.where(cost.isfinite(), cost, torch.inf)
            if least is None:
                best, least = place, cost
                continue
            better = cost < least
            best = torch.where(self._lift(better, 0), place, best)
            least = torch.minimum(cost, least)
        return best

    def _deviation(self, mean: Tensor, var: Tensor) -> Tensor:
        """Root of the variance, above the rounding of a point of this size."""
        own = point_norm(self.manifold, mean, mean)[:, 0].detach()
        floor = tolerance(var.dtype, 1024) * torch.where(own.isfinite(), own, 0.0)
        total = var + floor**2
        return torch.where(total > 0, total, torch.ones_like(total)).sqrt()

    @torch.no_grad()
    def _store(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards those of a batch."""
        step = self.num_batches_tracked.add_(1)
        share = 1 / int(step) if self.momentum is None else self.momentum
        share = 1.0 if int(step) == 1 and share > 0 else share
        old, new = self._group(self.running_mean, mean), mean.detach()
        if share < 1:
            manifold = self.manifold
            new = manifold.expmap(old, share * manifold.logmap(old, new))
        self.running_mean.copy_(new.reshape(self.running_mean.shape))
        var = var.detach().reshape(self.running_var.shape)
        self.running_var.lerp_(var.to(self.running_var), share)

    # ------------------------------------------------------------ shapes, processes

    def _carry(self, start: Tensor, end: Tensor, v: Tensor) -> Tensor:
        """Transport v from the mean to the bias."""
        manifold, x = self.manifold, start.expand_as(v)
        if self._legs == 1:
            return manifold.transp(x, end.expand_as(v), v)
        way = manifold.logmap(start, end)
        for k in range(1, self._legs + 1):
            y = manifold.expmap(start, k / self._legs * way).expand_as(v)
            there = manifold.transp(x, y, v)
            back = manifold.transp(x, y, manifold.transp(y, x, there))
            v, x = 1.5 * there - 0.5 * back, y
        # the path ends at the same point, but perhaps in another basis of it
        return manifold.transp(x, end.expand_as(v), v)

    def _sum(self, value: Tensor) -> Tensor:
        """Sum over the processes, differentiable."""
        if not self.synchronized:
            return value
        from torch.distributed.nn.functional import all_reduce

        group = self.process_group or torch.distributed.group.WORLD
        return all_reduce(value.contiguous(), group=group)

    def _lift(self, value: Tensor, extra: int = 1) -> Tensor:
        """Make a value of a group (or point) one of points."""
        return value[(..., *(None,) * (extra + len(self.shape)))]

    def _group(self, value: Tensor, like: Tensor) -> Tensor:
        """Make a point or value (groups, 1, ...), in the dtype of like."""
        value = value.to(like.dtype)
        return value[None, None] if self.n_channels is None else value[:, None]

    def _fold(self, x: Tensor) -> Tensor:
        """Check x; return it as (groups, N, point) in the dtype to compute."""
        check_floating(x, "x")
        lead = () if self.n_channels is None else (self.n_channels,)
        event = (*lead, *self.shape)
        if x.ndim < len(event) or x.shape[x.ndim - len(event) :] != event:
            raise ValueError(
                f"x: expected shape (..., {', '.join(map(str, event))}), "
                f"found {tuple(x.shape)}"
            )
        if not (self.synchronized and self.training):
            check_finite(x.detach(), "x", len(self.shape))
        dtype = torch.promote_types(compute_dtype(x.dtype), self.bias.dtype)
        y = x.to(compute_dtype(dtype))
        if self.validate:
            tol = point_tolerance(x.dtype)
            ok, reason = self.manifold.check_point_on_manifold(
                y.detach(), atol=tol, rtol=tol, explain=True
            )
            if not ok:
                raise NotOnManifoldError(f"x: not points of {self.manifold}: {reason}")
        if self.n_channels is not None:
            y = y.movedim(x.ndim - len(event), 0)
        size = math.prod(x.shape[: x.ndim - len(event)])
        return y.reshape(self.n_channels or 1, size, *self.shape)

    def _unfold(self, z: Tensor, x: Tensor) -> Tensor:
        """Invert :meth:`_fold`, to the shape and dtype of x."""
        if self.n_channels is not None:
            batch = x.shape[: x.ndim - len(self.shape) - 1]
            z = z.reshape(self.n_channels, *batch, *self.shape).movedim(0, len(batch))
        return z.reshape(x.shape).to(x.dtype)

    def extra_repr(self) -> str:
        """Settings that are not the default."""
        parts = [str(self.shape)]
        defaults = {
            "momentum": 0.1,
            "affine": True,
            "track_running_stats": True,
            "stats_grad": True,
            "n_channels": None,
            "synchronized": False,
        }
        for name, default in defaults.items():
            if getattr(self, name) != default:
                parts.append(f"{name}={getattr(self, name)!r}")
        return ", ".join(parts)


def _square(manifold, x: Tensor, v: Tensor) -> Tensor:
    """Squared lengths, (groups, N)."""
    square = manifold.inner(x, v, keepdim=True)
    return square.reshape(v.shape[: v.ndim - manifold.ndim])


@torch.no_grad()
def _is_isometry(manifold, origin: Tensor) -> bool:
    """Tell whether the manifold's transport keeps lengths; asked beside the origin."""
    generator = torch.Generator().manual_seed(0)
    x = origin.double()
    try:
        noise = torch.randn((2, *x.shape), generator=generator, dtype=x.dtype)
        u, v = (manifold.proju(x, w.to(x.device)) for w in noise)
        y = manifold.expmap(x, u / _square(manifold, x, u).amax().sqrt())
        before = _square(manifold, x, v)
        after = _square(manifold, y, manifold.transp(x, y, v))
    except RuntimeError:  # a manifold with constants of another dtype
        return False
    return torch.allclose(before, after, rtol=1e-8)
