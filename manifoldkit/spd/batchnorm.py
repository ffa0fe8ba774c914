r"""Batch normalisation in the generalized Bures-Wasserstein (GBW) geometry."""

import warnings
from typing import ClassVar

import torch
from torch import Tensor, nn

from manifoldkit.linalg import symmetrize
from manifoldkit.linalg.symmetric import _apply, _full_precision
from manifoldkit.manifolds import SPD
from manifoldkit.spd import _gbw_batchnorm_kernel as kernel
from manifoldkit.spd._batchnorm_base import BatchNormBase, check_count, check_option
from manifoldkit.spd._gbw_batchnorm_roots import Absolute
from manifoldkit.spd._gbw_chart import check_power, power_of
from manifoldkit.spd.batchnorm_peers import SPDBatchNorm
from manifoldkit.spd.gbw import gbw_distance, gbw_geodesic

#: Steps of `init_from_data` at most, and the relative change that ends it.
_INIT_STEPS, _INIT_TOLERANCE = 100, 1e-10


class GBWBatchNorm(BatchNormBase):
    """Docstring."""

    _moves_metric = True
    _extra_defaults: ClassVar[dict] = {
        "power": 1.0,
        "learn_metric": True,
        "mean_iterations": 1,
        "stats_grad": False,
        "dispersion": "mean",
        "fold": False,
        "root": "eigh",
    }

    def __init__(
        self,
        n: int,
        power: float = 1.0,
        learn_metric: bool = True,
        momentum: float | None = 0.1,
        eps: float = 1e-5,
        affine: bool = True,
        track_running_stats: bool = True,
        mean_iterations: int = 1,
        stats_grad: bool = False,
        dispersion: str = "mean",
        fold: bool = False,
        parametrization: str = "manifold",
        check_domain: bool = False,
        root: str = "eigh",
        n_channels: int | None = None,
        validate: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__(
            n,
            momentum=momentum,
            eps=eps,
            affine=affine,
            learn_scale=True,
            track_running_stats=track_running_stats,
            parametrization=parametrization,
            n_channels=n_channels,
            validate=validate,
            device=device,
            dtype=dtype,
        )
        self.power = check_power(power)
        self.learn_metric = learn_metric
        self.mean_iterations = check_count(mean_iterations, "mean_iterations", 0)
        self.stats_grad, self.fold = stats_grad, fold
        self.dispersion = check_option(dispersion, ("mean", "identity"), "dispersion")
        self.root = check_option(root, ("eigh", "newton-schulz"), "root")
        self.check_domain, self._warned = check_domain, False
        self._add_point("metric", self._identity(), SPD("airm"), learn_metric)

    # -- statistics ---------------------------------------------------------------

    @staticmethod
    def _frame(metric: Tensor) -> kernel.Frame:
        factor = torch.linalg.cholesky(metric)
        with torch.no_grad():
            eye = torch.eye(metric.shape[-1], dtype=metric.dtype, device=metric.device)
            inverse = torch.linalg.solve_triangular(
                factor.detach(), eye.expand_as(factor), upper=False
            )
        return kernel.Frame(factor, inverse)

    def _batch_mean(self, y: Tensor, frame: kernel.Frame, count: int) -> Tensor:
        """Fixed-point steps G <- H G H from the arithmetic mean, in units of y."""
        mean = self._sum(y.sum(1)) / count
        self.check_mean(mean.detach(), y)
        c = frame.factor
        for _ in range(self.mean_iterations):
            h = kernel.sum_transports(y, frame, mean, self.root)
            h = self._sum(h) / count
            # C H C^-1 is the step in units of y: G <- (C H C^-1) G (C H C^-1)'
            step = torch.linalg.solve_triangular(c.mT, (c @ h).mT, upper=True).mT
            mean = symmetrize(step @ mean @ step.mT)
        return mean

    def _batch_variance(self, v: Tensor, y: Tensor, metric: Tensor, count: int):
        if self.dispersion == "mean":
            total = v.square().sum((1, 2, 3)) / 4
        else:
            center = self._group(metric, y)
            total = gbw_distance(y, center[:, None], center[:, None], squared=True)
            total = total.sum(1)
        return self._sum(total) / (count * self.power**2)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, metric: Tensor) -> None:
        if not (self.training and self.track_running_stats):
            return
        t = self._momentum(mean)
        old = self._group(self.running_mean, mean)
        metric = self._group(metric, mean)
        new = gbw_geodesic(power_of(old, self.power), mean, t, metric)
        new = power_of(new, 1 / self.power)
        self.running_mean.copy_(new.reshape(self.running_mean.shape))
        self.running_var.lerp_(
            var.reshape(self.running_var.shape).to(self.running_var.dtype),
            t.to(self.running_var.dtype),
        )

    # -- the layer ----------------------------------------------------------------

    def _tangent(self, x: Tensor, track: bool) -> tuple:
        """Centered tangent vectors at I, their basis, gain, frame and deformed bias."""
        metric = self.metric
        y = power_of(x, self.power)
        frame = self._frame(self._group(metric, y))
        if self._uses_batch():
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.stats_grad):
                count = self._count(y)
                mean = self._batch_mean(y, frame, count)
            v, basis = kernel.center_batch(y, frame, mean, self.root)
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.stats_grad):
                var = self._batch_variance(v, y, metric, count)
            if track:
                self._track(mean, var, metric)
        else:
            mean = power_of(self._group(self.running_mean, y), self.power)
            v, basis = kernel.center_batch(y, frame, mean, self.root)
            var = self._group(self.running_var, y)
        gain = self._group(self.scale, y) / (var + self.eps).sqrt()
        if self.fold:
            v, gain = _folded(v, gain)
        bias = power_of(self._group(self.bias, y), self.power)
        return v, basis, gain, frame, bias

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        with _full_precision(x):
            y = self._fold(x)
            if y.numel() == 0 and not self._uses_batch():
                return x.clone()
            v, basis, gain, frame, bias = self._tangent(y, self.training)
            if self.check_domain and self.training:
                self._warn_outside(v, basis, gain, frame, bias)
            z = kernel.expand(v, frame, bias, gain, basis)
            return self._unfold(power_of(z, 1 / self.power), x)

    @torch.no_grad()
    def domain_margin(self, x: Tensor) -> Tensor:
        """Smallest eigenvalue of I + V/2 and I + L over the batch."""
        with _full_precision(x):
            v, basis, gain, frame, bias = self._tangent(self._fold(x), False)
            return kernel.margin(v, frame, bias, gain, basis)

    def _warn_outside(self, v, basis, gain, frame, bias) -> None:
        with torch.no_grad():
            margin = float(kernel.margin(v, frame, bias, gain, basis))
        if margin < 0 and not self._warned:
            self._warned = True
            warnings.warn(
                "GBWBatchNorm: the batch leaves the injectivity domain of the "
                f"exponential (smallest eigenvalue {margin:.1e}): call init_from_data, "
                "scale the input, or use a smaller power",
                UserWarning,
                stacklevel=3,
            )

    @torch.no_grad()
    def init_from_data(self, x: Tensor) -> "GBWBatchNorm":
        """Start M, the bias and the running statistics at the mean of a batch."""
        with _full_precision(x):
            y = power_of(self._fold(x), self.power)
            count = self._count(y)
            metric = self._group(self.metric, y)
            mean = self._batch_mean(y, self._frame(metric), count)
            if self._moves_metric:
                mean = self._fixed_metric(y, mean, count)
                self._set_point("metric", mean)
                metric = mean
            center = power_of(mean, 1 / self.power)
            self._set_point("bias", center)
            if self.track_running_stats:
                v, _ = kernel.center_batch(y, self._frame(metric), mean, self.root)
                var = self._batch_variance(v, y, self.metric, count)
                self.reset_running_stats()
                self.running_mean.copy_(center.reshape(self.running_mean.shape))
                self.running_var.copy_(var.reshape(self.running_var.shape))
        return self

    def _fixed_metric(self, y: Tensor, mean: Tensor, count: int) -> Tensor:
        """The metric matrix that is the mean of the batch under itself."""
        for _ in range(_INIT_STEPS):
            old, mean = mean, self._batch_mean(y, self._frame(mean), count)
            change = torch.linalg.matrix_norm(mean - old)
            if bool((change <= _INIT_TOLERANCE * torch.linalg.matrix_norm(mean)).all()):
                break
        return mean


def _folded(v: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """2 |I + k (|I + V/2| - I)| - 2 I: exponential and logarithm at I by real roots."""
    eye = torch.eye(v.shape[-1], dtype=v.dtype, device=v.device)
    inner = _apply(eye + v / 2, Absolute(), None) - eye
    outer = _apply(eye + gain[:, None, None, None] * inner, Absolute(), None) - eye
    return 2 * outer, torch.ones_like(gain)


class BWBatchNorm(GBWBatchNorm):
    """Batch normalisation in the Bures-Wasserstein geometry: the metric matrix is I."""

    _moves_metric = False

    def __init__(self, n: int, power: float = 1.0, **options):
        super().__init__(n, power, learn_metric=False, **options)


_NAMES = {
    "gbw": (GBWBatchNorm, {}),
    "bw": (BWBatchNorm, {}),
    "airm": (SPDBatchNorm, {"metric": "airm"}),
    "airm-mean": (SPDBatchNorm, {"metric": "airm", "dispersion": False}),
    "lie": (SPDBatchNorm, {"metric": "airm", "congruence": "cholesky"}),
    "log_euclidean": (SPDBatchNorm, {"metric": "log_euclidean"}),
    "log_cholesky": (SPDBatchNorm, {"metric": "log_cholesky"}),
}


def make_batchnorm(name: str | None, n: int, **options) -> nn.Module:
    """Normalisation layer by its name."""
    if name in (None, "none"):
        return nn.Identity()
    if name not in _NAMES:
        raise ValueError(
            f"batchnorm: expected one of {[*_NAMES, None]}, found {name!r}"
        )
    layer, defaults = _NAMES[name]
    return layer(n, **{**defaults, **options})
