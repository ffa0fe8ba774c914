"""What all SPD batch normalizations share: parameters, shapes, statistics."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from manifoldkit._checks import (
    check_choice,
    check_count,
    check_interval,
    count,
    interval,
    optional,
)
from manifoldkit.linalg import symmetrize
from manifoldkit.linalg.checks import (
    SYMMETRY_RTOL,
    check_finite,
    check_floating,
    check_spd,
    check_square,
    check_symmetric,
    check_weights,
    compute_dtype,
)
from manifoldkit.manifolds import SPD, PositiveReals, attach
from manifoldkit.spd.batchnorm.points import CholeskyPoint, FreePoint, SoftplusPoint
from manifoldkit.spd.batchnorm.roots import weighted_sum
from manifoldkit.spd.conditioning import seems_clear

_PARAMETRIZATIONS = ("manifold", "cholesky")


class Statistics(NamedTuple):
    """Running statistics that a domain lends to a layer; written in place.

    Training moves the statistics ``train_mean`` and ``train_var`` by the share
    ``rate`` towards those of a batch and normalizes by the result; with a rate of 1
    these are the statistics of the batch.
    """

    mean: Tensor
    var: Tensor
    batches: Tensor
    train_mean: Tensor
    train_var: Tensor
    rate: float


class Moved(NamedTuple):
    """Statistics to normalize by in training, and the share they moved by."""

    mean: Tensor
    var: Tensor | None
    share: Tensor | None


class BatchAverage:
    """Weighted means over a batch, joined with the batches of all processes.

    Parameters
    ----------
    layer : BatchNormBase
        Knows the processes.
    given : Tensor
        The batch as the user passed it, for error texts.
    weights : Tensor, shape (groups, N), or None
        Constants; None for equal ones.
    """

    def __init__(self, layer: "BatchNormBase", given: Tensor, weights: Tensor | None):
        self.layer, self.given, self.weights = layer, given, weights
        self.size: int | Tensor = 0

    def first(self, values: Tensor) -> Tensor:
        """Mean of (groups, N, ...); finds the sizes of the batches on the way.

        Raises where one matrix only counts, which has no dispersion.
        """
        if self.weights is not None:
            self.weights = self.weights.to(values)
        total, groups = weighted_sum(values, self.weights), len(values)
        if self.weights is None:
            count = self.size = values.shape[1]
            size = counts = total.new_full((groups,), count)
        else:
            size = self.size = self.weights.sum(1)
            counts = (self.weights > 0).sum(1)
        if self.layer.synchronized:
            message = torch.cat([total.flatten(), size, counts.to(total)])
            message = self.layer.all_processes(message)
            parts = message.split([total.numel(), groups, groups])
            total, self.size, counts = parts[0].view_as(total), parts[1], parts[2]
        if self.weights is not None or self.layer.synchronized:
            count = int(counts.amin())
        if count < 2:
            what = "" if self.weights is None else " of positive weight"
            raise ValueError(
                f"x: expected more than 1 matrix{what} to normalize by batch "
                f"statistics, found {count}; call eval() to use running statistics"
            )
        return self._divide(total)

    def of_sum(self, total: Tensor) -> Tensor:
        """Mean over all processes from a weighted sum over the batch."""
        return self._divide(self.layer.all_processes(total))

    def __call__(self, values: Tensor) -> Tensor:
        """Mean of (groups, N, ...) over all processes."""
        return self.of_sum(weighted_sum(values, self.weights))

    def check(self, mean: Tensor) -> Tensor:
        """Return the lower Cholesky factor of the mean of a batch, or raise.

        The first bad matrix of the input is named, by the index of the user's tensor.
        """
        mean, given = mean.detach(), self.given
        lower, info = torch.linalg.cholesky_ex(mean)
        # infinity is no obstacle to the factorization
        if not seems_clear((info != 0).any() | ~lower.sum().isfinite()):
            check_finite(given.detach(), "x")
            if not bool(mean.isfinite().all()):
                check_spd(given, "x")
            channels = self.layer.n_channels
            check_spd(mean[0] if channels is None else mean, "mean of x")
        return lower

    def _divide(self, total: Tensor) -> Tensor:
        size = self.size
        if isinstance(size, Tensor):
            size = size.reshape(-1, *[1] * (total.ndim - 1))
        return total / size


def _seems_asymmetric(x: Tensor, symmetric: Tensor, rtol: float) -> bool:
    """Whether a matrix is far from its symmetric part, or has no positive entry."""
    symmetric = symmetric.detach()
    gap = (x.detach() - symmetric).amax((-2, -1))
    bound = symmetric.amax((-2, -1)).mul_(rtol / 2)
    return not seems_clear(gap > bound)


class BatchNormBase(nn.Module):
    """Bias and scale, running statistics, and the way in and out.

    Inputs (..., n, n) become (groups, N, n, n): one group, or one a channel.
    """

    _extra_defaults: ClassVar[dict] = {}
    _version = 2
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    process_group: Any
    #: Of layers that were pickled whole before there was the setting.
    relative: bool = False
    stats_grad: bool
    #: Statistics of a domain, for the time of a call.
    lent: Statistics | None = None

    def __init__(
        self,
        n: int,
        *,
        momentum: float | None,
        eps: float,
        relative: bool,
        affine: bool,
        learn_scale: bool,
        track_running_stats: bool,
        parametrization: str,
        n_channels: int | None,
        validate: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ):
        super().__init__()
        self.n = check_count(n, "n")
        self.n_channels = optional(count())(n_channels, "n_channels")
        optional(interval(0, 1))(momentum, "momentum")
        self.momentum, self.eps = momentum, check_interval(eps, "eps", 0)
        self.relative = bool(relative)
        self.affine, self.track_running_stats = affine, track_running_stats
        self.parametrization = check_choice(
            parametrization, _PARAMETRIZATIONS, "parametrization"
        )
        self.validate = validate
        self.process_group = None
        self.synchronized = False
        lead = () if n_channels is None else (n_channels,)
        eye = torch.eye(n, device=device, dtype=dtype)
        eye = eye.expand(*lead, n, n)
        ones = torch.ones(lead, device=device, dtype=dtype)
        self._add_point("bias", eye, SPD("airm"), affine)
        self._add_point("scale", ones, PositiveReals(), affine and learn_scale)
        for name, value in (("mean", eye), ("var", ones)):
            start = value.clone() if track_running_stats else None
            self.register_buffer(f"running_{name}", start)
        batches = torch.tensor(0, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", batches)

    def _add_point(self, name: str, value: Tensor, manifold, learn: bool) -> None:
        """Add a parameter on a manifold, or a constant."""
        value = value.contiguous().clone()
        if not learn:
            self.register_buffer(name, value)
        elif self.parametrization == "manifold":
            self.register_parameter(name, nn.Parameter(value))
            attach(self, name, manifold, layout="as_is")
        else:
            positive = isinstance(manifold, PositiveReals)
            kind: type[FreePoint] = SoftplusPoint if positive else CholeskyPoint
            self.add_module(f"free_{name}", kind(value))

    def __getattr__(self, name: str) -> Any:
        # `bias` of a Cholesky parametrization is computed from its free parameter
        free = self.__dict__.get("_modules", {}).get(f"free_{name}")
        return super().__getattr__(name) if free is None else free()

    @torch.no_grad()
    def _set_point(self, name: str, value: Tensor) -> None:
        free = self._modules.get(f"free_{name}")
        value = value.reshape(getattr(self, name).shape)
        if isinstance(free, FreePoint):
            free.assign(value.to(free.raw))
        else:
            getattr(self, name).copy_(value)

    def _running(self) -> tuple[Tensor, Tensor, Tensor]:
        """Running mean, variance and count of a layer that keeps them."""
        if self.lent is not None:
            return self.lent[:3]
        mean, var, count = self.running_mean, self.running_var, self.num_batches_tracked
        if mean is None or var is None or count is None:
            raise RuntimeError("track_running_stats: the layer keeps no statistics")
        return mean, var, count

    @contextmanager
    def using(self, statistics: Statistics) -> Iterator[None]:
        """Take the running statistics from elsewhere, and write them there."""
        self.lent = statistics
        try:
            yield
        finally:
            self.lent = None

    def estimate(
        self,
        x: Tensor,
        weights: Tensor | None = None,
        mean_iterations: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Mean and variance of a batch, in the unit of the input and in groups."""
        raise NotImplementedError

    def _lent_share(self, like: Tensor) -> tuple[Statistics, Tensor] | None:
        """What a domain lends to training, and the share that it moves by."""
        lent = self.lent
        if lent is None or not self.training:
            return None
        share = torch.full((), lent.rate, dtype=like.dtype, device=like.device)
        if self.relative and lent.rate > 0:
            share = torch.where(lent.batches == 0, torch.ones_like(share), share)
        return lent, share

    @torch.no_grad()
    def _store_moved(self, mean: Tensor, moved: Moved) -> None:
        """Keep the statistics that training normalized by."""
        if self.lent is None:
            return
        old, spread = self.lent.train_mean, self.lent.train_var
        old.copy_(mean.reshape(old.shape))
        if moved.var is not None:
            spread.copy_(moved.var.reshape(spread.shape))

    @torch.no_grad()
    def _store(self, mean: Tensor, var: Tensor | None, weight: Tensor) -> None:
        """Set the running mean; move the running variance by a share."""
        running_mean, running_var, _ = self._running()
        running_mean.copy_(mean.reshape(running_mean.shape))
        if var is not None:
            var = var.reshape(running_var.shape).to(running_var)
            running_var.lerp_(var, weight.to(running_var))

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """Set the running mean to the identity and the running variance to 1."""
        if self.track_running_stats:
            mean, var, count = self._running()
            mean.copy_(self._identity())
            var.fill_(1)
            count.zero_()

    def reset_parameters(self) -> None:
        """Set all SPD parameters to the identity, the scale to 1; reset statistics."""
        self.reset_running_stats()
        self.reset_points()

    def reset_points(self) -> None:
        """Set all SPD parameters to the identity, the scale to 1."""
        for name in ("metric", "bias"):
            if isinstance(getattr(self, name, None), Tensor):
                self._set_point(name, self._identity())
        self._set_point("scale", torch.ones_like(self.scale))

    def no_weight_decay(self) -> list[str]:
        """Names of parameters that :func:`~manifoldkit.optim.build_optimizer` spares.

        All: decay would draw them to the identity, whatever the data.
        """
        return [name for name, _ in self.named_parameters()]

    def _identity(self) -> Tensor:
        bias = self.bias
        return torch.eye(self.n, device=bias.device, dtype=bias.dtype).expand_as(bias)

    def _fold(self, x: Tensor) -> Tensor:
        """Check x; return it symmetric, (groups, N, n, n), in the dtype to compute."""
        check_square(x, "x", self.n)
        channels = self.n_channels
        if channels is not None and (x.ndim < 3 or x.shape[-3] != channels):
            raise ValueError(
                f"x: expected shape (..., {channels}, {self.n}, {self.n}), "
                f"found {tuple(x.shape)}"
            )
        if self.validate:
            check_spd(x, "x")
        dtype = torch.promote_types(compute_dtype(x.dtype), self.bias.dtype)
        y = x.to(compute_dtype(dtype))
        groups = channels or 1
        count = math.prod(x.shape[:-2]) // groups
        if channels is not None:
            y = y.movedim(-3, 0)
        y = y.reshape(groups, count, self.n, self.n)
        symmetric = symmetrize(y)
        look = not (self.validate or torch.compiler.is_compiling())
        if look and _seems_asymmetric(y, symmetric, SYMMETRY_RTOL[x.dtype]):
            check_symmetric(x.detach(), "x")
        return symmetric

    def _unfold(self, z: Tensor, x: Tensor) -> Tensor:
        """Invert :meth:`_fold`, to the shape and dtype of x."""
        if self.n_channels is not None:
            z = z.reshape(self.n_channels, *x.shape[:-3], self.n, self.n).movedim(0, -3)
        return z.reshape(x.shape).to(x.dtype)

    def _group(self, value: Tensor, like: Tensor) -> Tensor:
        """Parameter or buffer with the dimension of groups, in the dtype of like."""
        lead = 0 if self.n_channels is None else 1
        value = value.to(like.dtype)
        return value if lead else value[None]

    def _average(
        self, x: Tensor, weights: Tensor | None = None, always: bool = False
    ) -> "BatchAverage":
        """Averaging over the batch x, with weights as the user passed them."""
        if weights is None or not (always or self._uses_batch()):
            return BatchAverage(self, x, None)
        check_floating(weights, "weights")
        lead = x.shape[:-2]
        try:
            w = weights.detach().broadcast_to(lead)
        except RuntimeError:
            raise ValueError(
                f"weights: expected shape {tuple(lead)}, one a matrix, "
                f"found {tuple(weights.shape)}"
            ) from None
        if not self.synchronized or bool((w != 0).any()):
            check_weights(w.reshape(-1), w.numel(), "weights")
        if self.n_channels is not None:
            w = w.movedim(-1, 0)
        return BatchAverage(self, x, w.reshape(self.n_channels or 1, -1))

    def all_processes(self, value: Tensor) -> Tensor:
        """Sum over the processes, differentiable."""
        if not self.synchronized:
            return value
        from manifoldkit.spd.batchnorm.all_reduce import all_reduce_sum

        return all_reduce_sum(value, self.process_group)

    def _uses_batch(self) -> bool:
        return self.training or not self.track_running_stats

    @torch.no_grad()
    def _momentum(self, like: Tensor) -> Tensor:
        """Count the batch; return the weight of its statistics.

        The identity, with which the running mean starts, has a unit: where all is
        relative, the first batch takes its place.
        """
        count = self._running()[2].add_(1)
        if self.momentum is None:
            return 1 / count.to(like.dtype)
        t = torch.full((), self.momentum, dtype=like.dtype, device=like.device)
        if self.relative and self.momentum > 0:
            t = torch.where(count == 1, torch.ones_like(t), t)
        return t

    @torch.no_grad()
    def _count_start(self) -> None:
        """Count the batch that a layer starts from, so that none takes its place."""
        if self.relative:
            self._running()[2].fill_(1)

    def _check_spread(self, x: Tensor, var: Tensor | None) -> None:
        """Raise, before anything is stored, where the variance is not finite."""
        if var is not None and not seems_clear(~var.detach().isfinite()):
            check_spd(x.detach(), "x")
            raise ValueError(
                "x: the variance of the batch is not finite: its matrices are too "
                "large, or too near to singular, for their precision"
            )

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, local_metadata: dict, *rest: Any
    ) -> None:
        if local_metadata.get("version") == 1:  # 0.1.0 knew no other form
            self.relative = False
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def extra_repr(self) -> str:
        """Settings that are not the default."""
        parts = [str(self.n)]
        defaults = {
            "momentum": 0.1,
            "eps": 1e-5,
            "relative": True,
            "affine": True,
            "track_running_stats": True,
            "parametrization": "manifold",
            "n_channels": None,
            "synchronized": False,
            **self._extra_defaults,
        }
        for name, default in defaults.items():
            value = getattr(self, name)
            if value != default:
                parts.append(f"{name}={value!r}")
        return ", ".join(parts)
