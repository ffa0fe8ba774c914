"""Batch normalization in the generalized Bures-Wasserstein (GBW) geometry."""

import warnings
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from manifoldkit._checks import check_choice, check_count
from manifoldkit.linalg.symmetric import full_precision
from manifoldkit.manifolds import SPD
from manifoldkit.spd.batchnorm import kernel
from manifoldkit.spd.batchnorm.base import BatchNormBase, Moved
from manifoldkit.spd.conditioning import power_spd
from manifoldkit.spd.gbw.chart import check_power, power_of


class GBWBatchNorm(BatchNormBase):
    r"""Batch normalization of SPD matrices in the GBW geometry with learned metric.

    With the metric matrix ``M = C C'``, the power :math:`\theta` and
    :math:`\tilde X_i = C^{-1} X_i^\theta C^{-\top}`, the batch is centered at its mean
    G by the transport maps ``T_i`` (:math:`T_i G T_i = \tilde X_i`), carried to I,
    scaled by :math:`\kappa = s / \sqrt{\mathrm{var} + \epsilon \bar g}` with
    :math:`\bar g = \operatorname{tr}(G) / n`, and carried to the bias
    :math:`\tilde B = C^{-1} B^\theta C^{-\top}`:

    .. math::
        V_i = H_{1/2}(G)[T_i - I], \quad L_i = H_{-1/2}(\tilde B)[\kappa V_i], \quad
        Y_i = \bigl(C (I + L_i) \tilde B (I + L_i) C'\bigr)^{1/\theta},

    where :math:`H_p` multiplies by :math:`(2 (d_a + d_b))^p` in the eigenbasis of its
    argument and var is the mean squared distance to the mean. Statistics are taken
    over all leading dimensions, or per channel with ``n_channels``. Training costs
    ``mean_iterations + 1`` batched eigendecompositions, evaluation one, and one or two
    more with a power; backward costs none.

    Parameters
    ----------
    n : int
        Size of the matrices.
    power : float, default=1
        Deformation :math:`\theta`, not 0; 0.5 is the paper's best setting.
    learn_metric : bool, default=True
        Learn M; otherwise it is a constant that only ``init_from_data`` sets.
    momentum : float or None, default=0.1
        Weight of a batch in the running statistics; None for their plain average.
    eps : float, default=1e-5
        Added to the variance, times :math:`\bar g`.
    relative : bool, default=True
        Matrices in another unit are normalized alike: ``eps`` is relative, and the
        running statistics start with those of the first batch (or of
        ``init_from_data``, which counts as one). Otherwise, as in version 0.1.0 and in
        the released code, ``eps`` is added as it is, and the running mean starts at I.
    affine : bool, default=True
        Learn bias and scale.
    track_running_stats : bool, default=True
        Keep running statistics for evaluation; otherwise evaluation uses the batch too.
    mean_iterations : int, default=1
        Fixed-point steps from the arithmetic mean towards the barycenter.
    stats_grad : bool, default=False
        Differentiate through mean and variance, as Euclidean batch normalization does.
        The released code and its relatives treat them as constants (here: constants in
        input coordinates).
    dispersion : {"mean", "identity"}
        Variance about the mean; "identity" is that of the released code, about I.
    fold : bool, default=False
        Pass tangent vectors through exponential and logarithm at I by real roots, as
        the released code does: outside the domain eigenvalues are folded. If relative,
        both are of tangent vectors in units of the mean of the batch.
    parametrization : {"manifold", "cholesky"}
        "manifold": metric and bias are ``ManifoldParameter`` on ``SPD("airm")`` and
        scale on ``PositiveReals``, for the optimizers of :mod:`manifoldkit.optim`.
        "cholesky": free Cholesky factors with a softplus diagonal, for any optimizer.
    check_domain : bool, default=False
        Warn once when a training batch leaves the domain of the exponential (see
        Notes); costs two more decompositions.
    root : {"eigh", "newton-schulz"}
        Square roots by eigendecomposition, or by matrix products only (where batched
        eigendecompositions are slow; falls back where it does not converge).
    n_channels : int, optional
        Normalize the channels of (..., n_channels, n, n) separately, each with its own
        parameters.
    validate : bool, default=False
        Check in ``forward`` that every matrix is SPD. Without it asymmetric matrices
        and a mean that is not positive definite are noticed.
    device, dtype
        Device and dtype of parameters and buffers.

    Attributes
    ----------
    metric, bias : Tensor, shape (n, n), or (n_channels, n, n)
        M and B; they start at the identity.
    scale : Tensor, shape (), or (n_channels,)
        Starts at 1.
    running_mean : Tensor, shape of bias
        In units of the input.
    running_var : Tensor, shape of scale
    num_batches_tracked : Tensor, shape ()

    Raises
    ------
    ValueError
        Settings out of range; in training, fewer than two matrices, or a mean that is
        not positive definite.

    Notes
    -----
    The GBW exponential is injective only where ``I + V/2`` and ``I + L`` are positive
    definite. With mean eigenvalues far above 1 (such as EEG in microvolts) samples
    leave that domain; the output is positive semidefinite all the same, but may touch
    singularity. ``init_from_data`` is the remedy.

    Gradients are exact at repeated eigenvalues and at ``M = B = I``. Second derivatives
    go through dense operators of size n^2 and are meant for small n.

    References
    ----------
    .. [1] R. Wang et al., "Learning to normalize on the SPD manifold under
       Bures-Wasserstein geometry", CVPR 2025.

    Examples
    --------
    >>> x = torch.eye(3) * torch.linspace(1, 2, 8)[:, None, None]
    >>> layer = GBWBatchNorm(3).init_from_data(x)
    >>> layer(x).shape
    torch.Size([8, 3, 3])
    >>> bool(layer.domain_margin(0.01 * x + torch.eye(3)) > 0)
    True
    """

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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        relative: bool = True,
    ):
        super().__init__(
            n,
            momentum=momentum,
            eps=eps,
            relative=relative,
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
        self.dispersion = check_choice(dispersion, ("mean", "identity"), "dispersion")
        self.root = check_choice(root, ("eigh", "newton-schulz"), "root")
        self.check_domain, self._warned = check_domain, False
        self._add_point("metric", self._identity(), SPD("airm"), learn_metric)

    def _deform(self, x: Tensor) -> Tensor:
        """X^theta of symmetric matrices."""
        return power_spd(x, self.power)

    def _undeform(self, y: Tensor) -> Tensor:
        """Invert :meth:`_deform`."""
        return y if self.power == 1 else power_of(y, 1 / self.power)

    def _settings(self) -> kernel.Settings:
        return kernel.Settings(*(getattr(self, k) for k in kernel.Settings._fields))

    def _normalization(
        self, x: Tensor, weights: Tensor | None = None, metric: Tensor | None = None
    ) -> kernel.Normalization:
        """A batch with the statistics of this mode, or its own under a metric."""
        y, statistics, earlier = self._deform(self._fold(x)), None, None
        if metric is None and not self._uses_batch():
            mean, var, _ = self._running()
            statistics = self._deform(self._group(mean, y)), self._group(var, y)
        elif (found := self._lent_share(y)) is not None and found[0].rate != 1:
            lent, share = found
            old = self._deform(self._group(lent.train_mean, y))
            earlier = old, self._group(lent.train_var, y), share
        return kernel.Normalization(
            y,
            self._group(self.metric, y) if metric is None else metric,
            self._deform(self._group(self.bias, y)),
            self._group(self.scale, y),
            self._average(x, weights),
            self._settings(),
            statistics,
            earlier,
        )

    @torch.no_grad()
    def estimate(
        self,
        x: Tensor,
        weights: Tensor | None = None,
        mean_iterations: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Mean and variance of a batch, in the unit of the input and in groups."""
        settings = self._settings()
        if mean_iterations is not None:
            settings = settings._replace(mean_iterations=mean_iterations)
        with full_precision(x):
            y = self._deform(self._fold(x))
            batch = kernel.Normalization(
                y,
                self._group(self.metric, y),
                self._deform(self._group(self.bias, y)),
                self._group(self.scale, y),
                self._average(x, weights, always=True),
                settings,
            )
            return self._undeform(batch.mean), batch.var

    @torch.no_grad()
    def _track(self, x: Tensor, batch: kernel.Normalization) -> None:
        """Move the running statistics towards those of the batch."""
        self._check_spread(x, batch.found[1])
        if self.lent is not None:
            moved = Moved(batch.mean, batch.var, None)
            self._store_moved(self._undeform(batch.mean), moved)
        t = self._momentum(batch.mean)
        old = self._deform(self._group(self._running()[0], batch.mean))
        self._store(self._undeform(batch.mean_from(old, t)), batch.found[1], t)

    def forward(
        self, x: Tensor, weights: Tensor | None = None, *, deformed: bool = False
    ) -> Tensor:
        r"""Normalize a batch; in training update the running statistics.

        Parameters
        ----------
        x : Tensor, shape (..., n, n), or (..., n_channels, n, n)
            SPD matrices; single ones may be singular.
        weights : Tensor, optional
            Weights of the matrices in the mean and variance of the batch, not negative,
            of a shape that broadcasts to that of x without (n, n): 0 for padding, which
            is normalized all the same. Constants for differentiation; ignored where
            running statistics are used.
        deformed : bool, default=False
            Return :math:`Y^\theta` and save the power, for a
            :class:`~manifoldkit.spd.LogEig` that is told ``power`` too.

        Returns
        -------
        Tensor, shape and dtype of x
        """
        with full_precision(x):
            if x.numel() == 0 and not self._uses_batch():
                return self._fold(x).reshape(x.shape).to(x.dtype)
            batch = self._normalization(x, weights)
            if self.training and self.track_running_stats:
                self._track(x, batch)
            if self.check_domain and self.training:
                self._warn_outside(batch)
            z = batch.matrices()
            return self._unfold(z if deformed else self._undeform(z), x)

    @torch.no_grad()
    def domain_margin(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Smallest eigenvalue of I + V/2 and of I + L over a batch.

        Positive inside the domain of the exponential. The statistics are those that
        ``forward`` would use now; nothing is updated.

        Parameters
        ----------
        x : Tensor, shape (..., n, n)
            SPD matrices.
        weights : Tensor, optional
            Weights that :meth:`forward` takes.

        Returns
        -------
        Tensor, shape ()
        """
        with full_precision(x):
            return self._normalization(x, weights).margin()

    def _warn_outside(self, batch: kernel.Normalization) -> None:
        with torch.no_grad():
            margin = float(batch.margin())
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
    def init_from_data(self, x: Tensor) -> Self:
        """Start M, the bias and the running statistics at the mean of a batch.

        M becomes the matrix that is the mean of the deformed batch under the geometry
        of M itself, and the bias the same in units of the input: mean and bias are then
        I in the whitened picture, and centering cannot leave the domain.

        Parameters
        ----------
        x : Tensor, shape (..., n, n)
            SPD matrices, at least two.

        Returns
        -------
        GBWBatchNorm
            The layer itself.
        """
        with full_precision(x):
            y = self._deform(self._fold(x))
            metric = self._group(self.metric, y)
            if self._moves_metric:
                average, settings = self._average(x), self._settings()
                metric = kernel.own_mean(y, metric, average, settings)
                self._set_point("metric", metric)
            batch = self._normalization(x, metric=metric)
            center = self._undeform(batch.mean)
            self._set_point("bias", center)
            if self.track_running_stats:
                self.reset_running_stats()
                self._store(center, batch.var, batch.var.new_ones(()))
                self._count_start()
        return self


class BWBatchNorm(GBWBatchNorm):
    """Batch normalization in the Bures-Wasserstein geometry: M is I and stays it.

    Parameters
    ----------
    n, power, **options
        The options of :class:`GBWBatchNorm`, without ``learn_metric``.

    Raises
    ------
    ValueError
        As :class:`GBWBatchNorm`.

    Examples
    --------
    >>> sorted(name for name, _ in BWBatchNorm(3).named_parameters())
    ['bias', 'scale']
    """

    _moves_metric = False

    def __init__(self, n: int, power: float = 1.0, **options: Any):
        super().__init__(n, power, learn_metric=False, **options)
