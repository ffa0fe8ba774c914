"""Batch normalization of SPD matrices in the metrics that GBW is compared with."""

from typing import ClassVar, Self, cast

import torch
from torch import Tensor

from manifoldkit._checks import check_choice, check_count
from manifoldkit.linalg import expm, invsqrtm, logm, sqrtm, symmetrize
from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.factorizations import cholesky, eigh
from manifoldkit.linalg.symmetric import Eig, full_precision
from manifoldkit.manifolds import SPD
from manifoldkit.manifolds.spd.flat import FlatSPD
from manifoldkit.spd.batchnorm import affine
from manifoldkit.spd.batchnorm.base import BatchAverage, BatchNormBase, Moved
from manifoldkit.spd.batchnorm.roots import congruence
from manifoldkit.spd.conditioning import (
    definite,
    lift,
    log_spd,
    mean_eigenvalue,
    power_spd,
    transformed,
)
from manifoldkit.spd.gbw.chart import check_power, power_of

_METRICS = ("airm", "log_euclidean", "log_cholesky")
_CHARTS = {metric: cast(FlatSPD, SPD(metric)) for metric in _METRICS[1:]}


def _plain(*tensors: Tensor) -> bool:
    """Whether nothing is differentiated through these, nor traced."""
    if torch.compiler.is_compiling() or transformed():
        return False
    return not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))


class _AffineInvariant:
    """Congruence by a root of the mean, the logarithm at I, and back at the bias."""

    def __init__(self, congruence: str, linear: bool, iterations: int):
        self.congruence, self.linear, self.iterations = congruence, linear, iterations

    def _root(self, x: Tensor) -> Tensor:
        return cholesky(x) if self.congruence == "cholesky" else sqrtm(x)

    def _inverse_root(self, x: Tensor) -> Tensor:
        if self.congruence != "cholesky":
            return invsqrtm(x)
        eye = eye_like(x).expand_as(x)
        return torch.linalg.solve_triangular(cholesky(x), eye, upper=False)

    def coordinates(self, x: Tensor) -> Tensor:
        """What is averaged first: the matrices."""
        return x

    def mean(self, y: Tensor, start: Tensor, average: BatchAverage) -> Tensor:
        """Karcher steps from the arithmetic mean."""
        mean = start
        if _plain(y, start):
            for _ in range(self.iterations):
                mean = affine.karcher_step(y, mean, average)
            return mean
        for _ in range(self.iterations):
            eig = eigh(mean)
            root, inverse = sqrtm(mean, eig=eig), invsqrtm(mean, eig=eig)
            inverse = inverse[:, None]
            step = average(log_spd(inverse @ y @ inverse))
            mean = symmetrize(root @ expm(step) @ root)
        return mean

    def center(self, y: Tensor, mean: Tensor) -> tuple[Tensor, Eig | None]:
        """Centered matrices, or their logarithms where a dispersion is set.

        And the eigendecomposition of the logarithms, which serves the exponential.
        """
        w = self._inverse_root(mean)[:, None]
        y = symmetrize(w @ y @ w.mT)
        if self.linear:
            return y, None
        y, (s, u) = lift(y)
        return logm(y, eig=(s, u)), (s.log(), u)

    def expand(self, v: Tensor, bias: Tensor, eig: Eig | None) -> Tensor:
        """Matrices around the bias."""
        root = self._root(bias)[:, None]
        return symmetrize(root @ (v if self.linear else expm(v, eig=eig)) @ root.mT)

    def geodesic(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        """From a (t = 0) to b."""
        if _plain(a, b):
            return affine.geodesic(a, b, t)
        eig = eigh(a)
        root, inverse = sqrtm(a, eig=eig), invsqrtm(a, eig=eig)
        return symmetrize(root @ expm(t * logm(inverse @ b @ inverse)) @ root)


class _Flat:
    """Global coordinates in which the geometry is Euclidean: a manifold's chart."""

    def __init__(self, metric: str, relative: bool):
        manifold = _CHARTS[metric]
        self.chart, self.matrix = manifold.chart, manifold.unchart
        self.logarithms = metric == "log_euclidean"
        # a Cholesky factor has a unit below its diagonal, logarithms have none
        self.relative = relative and not self.logarithms

    def coordinates(self, x: Tensor) -> Tensor:
        """Chart of matrices whose eigenvalues may be lost to rounding."""
        return log_spd(x) if self.logarithms else self.chart(definite(x))

    def mean(self, y: Tensor, start: Tensor, average: BatchAverage) -> Tensor:
        """Return to matrices from the mean of the coordinates."""
        return self.matrix(start)

    def center(self, y: Tensor, mean: Tensor) -> tuple[Tensor, Eig | None]:
        """Differences of coordinates, in units of the mean if relative."""
        difference = self.coordinates(y) - self.coordinates(mean)[:, None]
        if not self.relative:
            return difference, None
        root = mean_eigenvalue(mean).sqrt()[:, None]
        diagonal = difference.diagonal(dim1=-2, dim2=-1).diag_embed()
        return difference.tril(-1) / root + diagonal, None

    def expand(self, v: Tensor, bias: Tensor, eig: Eig | None) -> Tensor:
        """Matrices around the bias."""
        return self.matrix(v + self.coordinates(bias)[:, None])

    def geodesic(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        """From a (t = 0) to b."""
        return self.matrix(torch.lerp(self.coordinates(a), self.coordinates(b), t))


class SPDBatchNorm(BatchNormBase):
    r"""Batch normalization of SPD matrices in another metric.

    Center at the mean, scale by the dispersion, translate to the bias, in the
    affine-invariant metric (Brooks et al.: mean; Kobler et al.: mean and dispersion;
    LieBN's form with Cholesky factors) or in the coordinates that make the
    log-Euclidean and log-Cholesky metrics flat (LieBN).

    Parameters
    ----------
    n : int
        Size of the matrices.
    metric : {"airm", "log_euclidean", "log_cholesky"}
        "airm": :math:`B^{1/2} (G^{-1/2} X G^{-1/2})^{\kappa} B^{1/2}`; otherwise
        :math:`\phi^{-1}(\kappa (\phi(X) - \phi(G)) + \phi(B))`.
    dispersion : bool, default=True
        Scale to :math:`\kappa = s / \sqrt{\mathrm{var} + \epsilon}`; otherwise
        :math:`\kappa = 1` and there is no scale to learn.
    power : float, default=1
        Normalize powers of the matrices (without effect for "log_euclidean").
    mean_iterations : int, default=1
        Karcher steps from the arithmetic mean, "airm" only.
    congruence : {"symmetric", "cholesky"}
        Root that moves matrices, "airm" only.
    momentum, affine, track_running_stats, stats_grad, parametrization, n_channels
        The same as in :class:`~manifoldkit.spd.GBWBatchNorm`.
    eps : float, default=1e-5
        Added to the variance, which has no unit.
    validate, device, dtype
        The same as in :class:`~manifoldkit.spd.GBWBatchNorm`.
    relative : bool, default=True
        Matrices in another unit are normalized alike: the running statistics start with
        those of the first batch (or of ``init_from_data``, which counts as one), and
        Cholesky factors are taken in units of the root of the mean eigenvalue of the
        mean. Otherwise, as in version 0.1.0 and in the released codes, the running mean
        starts at I and Cholesky factors have the unit of the input.

    Attributes
    ----------
    bias, scale, running_mean, running_var, num_batches_tracked
        The same as in :class:`~manifoldkit.spd.GBWBatchNorm`.

    Raises
    ------
    ValueError
        Settings out of range; in training, fewer than two matrices, or a mean that is
        not positive definite.

    References
    ----------
    .. [1] D. Brooks et al., "Riemannian batch normalization for SPD neural networks",
       NeurIPS 2019.
    .. [2] R. Kobler et al., "SPD domain-specific batch normalization to crack
       interpretable unsupervised domain adaptation in EEG", NeurIPS 2022.
    .. [3] Z. Chen et al., "A Lie group approach to Riemannian batch normalization",
       ICLR 2024.

    Examples
    --------
    >>> x = torch.eye(3) * torch.linspace(1, 2, 8)[:, None, None]
    >>> layer = SPDBatchNorm(3, "log_euclidean", momentum=1.0)
    >>> torch.allclose(layer(x).log2().diagonal(dim1=1, dim2=2).mean(), torch.zeros(()),
    ...                atol=1e-6)
    True
    """

    _extra_defaults: ClassVar[dict] = {
        "metric": None,
        "dispersion": True,
        "power": 1.0,
        "mean_iterations": 1,
        "stats_grad": False,
        "congruence": "symmetric",
    }

    def __init__(
        self,
        n: int,
        metric: str = "airm",
        dispersion: bool = True,
        power: float = 1.0,
        momentum: float | None = 0.1,
        eps: float = 1e-5,
        affine: bool = True,
        track_running_stats: bool = True,
        mean_iterations: int = 1,
        stats_grad: bool = False,
        parametrization: str = "manifold",
        congruence: str = "symmetric",
        n_channels: int | None = None,
        validate: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        relative: bool = True,
    ):
        if metric in ("bw", "gbw"):
            raise ValueError(
                f"metric: expected one of {list(_METRICS)}, found {metric!r}: use "
                f"GBWBatchNorm, or make_batchnorm({metric!r}, n)"
            )
        self_metric = check_choice(metric, _METRICS, "metric")
        super().__init__(
            n,
            momentum=momentum,
            eps=eps,
            relative=relative,
            affine=affine,
            learn_scale=dispersion,
            track_running_stats=track_running_stats,
            parametrization=parametrization,
            n_channels=n_channels,
            validate=validate,
            device=device,
            dtype=dtype,
        )
        self.metric, self.dispersion = self_metric, bool(dispersion)
        self.power = check_power(power)
        self.mean_iterations = check_count(mean_iterations, "mean_iterations", 0)
        self.stats_grad = stats_grad
        self.congruence = check_choice(
            congruence, ("symmetric", "cholesky"), "congruence"
        )

    def _space(self, steps: int | None = None) -> _AffineInvariant | _Flat:
        if self.metric == "airm":
            steps = self.mean_iterations if steps is None else steps
            return _AffineInvariant(self.congruence, not self.dispersion, steps)
        return _Flat(self.metric, self.relative)

    def _deform(self, x: Tensor) -> Tensor:
        # the logarithm of a power is a multiple: nothing would change
        return x if self.metric == "log_euclidean" else power_spd(x, self.power)

    def _undeform(self, y: Tensor) -> Tensor:
        return y if self.metric == "log_euclidean" else power_of(y, 1 / self.power)

    def _variance(self, v: Tensor, average: BatchAverage) -> Tensor:
        scale = 1 if self.metric == "log_euclidean" else self.power**2
        return average(v.square().sum((2, 3))) / scale

    def _batch_mean(self, y: Tensor, space, average: BatchAverage) -> Tensor:
        start = average.first(space.coordinates(y))
        mean = space.mean(y, start, average)
        average.check(mean)
        return mean

    def _moved(self, mean: Tensor, space) -> Moved:
        """Mean to normalize by, moved from that of a domain."""
        found = self._lent_share(mean)
        if found is None or found[0].rate == 1:
            return Moved(mean, None, None)
        lent, share = found
        old = self._deform(self._group(lent.train_mean, mean))
        new = torch.where(share == 1, mean, space.geodesic(old, mean, share))
        return Moved(new, None, share)

    def _moved_variance(self, var: Tensor, moved: Moved) -> Tensor:
        if moved.share is None or self.lent is None:
            return var
        return torch.lerp(self._group(self.lent.train_var, var), var, moved.share)

    def _statistics(
        self, y: Tensor, space, average: BatchAverage
    ) -> tuple[Moved, tuple[Tensor, Eig | None], Moved]:
        """Statistics to use, centered batch with its decomposition, those found."""
        if not self._uses_batch():
            center, spread, _ = self._running()
            mean = self._deform(self._group(center, y))
            used = Moved(mean, self._group(spread, y), None)
            return used, space.center(y, mean), used
        differentiate = torch.is_grad_enabled() and self.stats_grad
        with torch.set_grad_enabled(differentiate):
            # constants of forward mode too
            mean = self._batch_mean(y if differentiate else y.detach(), space, average)
            moved = self._moved(mean, space)
        centered = space.center(y, moved.mean)
        var = None
        if self.dispersion:
            with torch.set_grad_enabled(differentiate):
                v = centered[0] if differentiate else centered[0].detach()
                var = self._variance(v, average)
                moved = moved._replace(var=self._moved_variance(var, moved))
        return moved, centered, Moved(mean, var, None)

    def _has_constants(self) -> bool:
        """Whether the statistics are constants, of which nothing is traced."""
        if self._uses_batch():
            return _plain() and not (self.stats_grad and torch.is_grad_enabled())
        return _plain(self._running()[0])

    def _quick(
        self, x: Tensor, y: Tensor, space: _AffineInvariant, average: BatchAverage
    ) -> Tensor:
        """The affine-invariant layer with constant statistics."""
        by_cholesky, fixed, spectrum = space.congruence == "cholesky", y.detach(), None
        with torch.no_grad():
            if self._uses_batch():
                mean = self._batch_mean(fixed, space, average)
                used = self._moved(mean, space)
            else:
                center, spread, _ = self._running()
                mean = self._deform(self._group(center, y))
                used = Moved(mean, self._group(spread, y), None)
            found = Moved(mean, None, None)
            w = affine.inverse_root(used.mean, by_cholesky)
            if self.dispersion:
                spectrum = affine.log_spectrum(congruence(w, fixed))
            if self.dispersion and self._uses_batch():
                squares = spectrum[0].square().sum(-1)  # type: ignore[index]
                var = average(squares) / self.power**2
                found = found._replace(var=var)
                used = used._replace(var=self._moved_variance(var, used))
            if self.training and self.track_running_stats:
                self._track(x, used, found, space)
        r = affine.root(self._deform(self._group(self.bias, y)), by_cholesky)
        if spectrum is None or used.var is None:
            return affine.linear(y, r, w)
        gain = self._group(self.scale, y) * (used.var + self.eps).rsqrt()
        return affine.powers(y, r, gain, w, spectrum)

    @torch.no_grad()
    def _track(self, x: Tensor, moved: Moved, found: Moved, space) -> None:
        mean, var, _ = found
        self._check_spread(x, var)
        if self.lent is not None:
            self._store_moved(self._undeform(moved.mean), moved)
        t = self._momentum(mean)
        old = self._deform(self._group(self._running()[0], mean))
        new = torch.where(t == 1, mean, space.geodesic(old, mean, t))
        self._store(self._undeform(new), var, t)

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Normalize a batch of shape (..., n, n); in training update statistics.

        ``weights`` as for :class:`~manifoldkit.spd.GBWBatchNorm`.
        """
        with full_precision(x):
            y = self._fold(x)
            if y.numel() == 0 and not self._uses_batch():
                return x.clone()
            y, space = self._deform(y), self._space()
            average = self._average(x, weights)
            if isinstance(space, _AffineInvariant) and self._has_constants():
                z = self._quick(x, y, space, average)
                return self._unfold(self._undeform(z), x)
            used, (v, eig), found = self._statistics(y, space, average)
            if self.training and self.track_running_stats:
                self._track(x, used, found, space)
            if self.dispersion and used.var is not None:
                gain = self._group(self.scale, y) * (used.var + self.eps).rsqrt()
                v = gain[:, None, None, None] * v
                if eig is not None:
                    eig = gain.detach()[:, None, None] * eig[0], eig[1]
            z = space.expand(v, self._deform(self._group(self.bias, y)), eig)
            return self._unfold(self._undeform(z), x)

    @torch.no_grad()
    def estimate(
        self,
        x: Tensor,
        weights: Tensor | None = None,
        mean_iterations: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Mean and variance of a batch, in the unit of the input and in groups."""
        with full_precision(x):
            y, space = self._deform(self._fold(x)), self._space(mean_iterations)
            average = self._average(x, weights, always=True)
            mean = self._batch_mean(y, space, average)
            v, _ = space.center(y, mean)
            var = self._variance(v, average) if self.dispersion else None
            return self._undeform(mean), var

    @torch.no_grad()
    def init_from_data(self, x: Tensor) -> Self:
        """Start the bias and the running statistics at those of a batch."""
        center, var = self.estimate(x)
        self._set_point("bias", center)
        if self.track_running_stats:
            self.reset_running_stats()
            self._store(center, var, center.new_ones(()))
            self._count_start()
        return self
