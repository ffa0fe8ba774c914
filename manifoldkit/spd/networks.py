"""Networks on SPD matrices, with a choice of normalization."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from manifoldkit._checks import check_choice, check_count, count, optional
from manifoldkit.linalg.checks import check_spd, check_square
from manifoldkit.spd.batchnorm.domains import DomainBatchNorm
from manifoldkit.spd.batchnorm.factory import make_batchnorm
from manifoldkit.spd.batchnorm.gbw import GBWBatchNorm
from manifoldkit.spd.conditioning import Rescaled, check_batch, mean_eigenvalue
from manifoldkit.spd.layers.bimap import BiMap
from manifoldkit.spd.layers.filters import SpatioTemporalFilters
from manifoldkit.spd.layers.maps import LogEig, ReEig, SPDResidual
from manifoldkit.spd.layers.orthonormal import check_weight, redraw
from manifoldkit.spd.layers.pooling import CovariancePool

_ORDERS = {
    "after_bimap": ("bimap", "norm", "rectify"),
    "after_reeig": ("bimap", "rectify", "norm"),
    "before_bimap": ("norm", "bimap", "rectify"),
}


class SPDNet(Rescaled):
    r"""SPDNet: [BiMap, batch norm, ReEig] x L, LogEig, linear.

    The matrices are divided by a constant first, the median over the first training
    batch (or that of ``init_from_data``) of their mean eigenvalue, so that covariances
    of volts and of microvolts are the same to the network.

    Parameters
    ----------
    n_in : int
        Size of the input matrices.
    dims : sequence of int
        Sizes after each BiMap, not increasing.
    n_classes : int or None
        Outputs of the linear layer; None leaves it out, the output is then the LogEig
        features.
    batchnorm : str or None, default="gbw"
        Normalization in each block: "gbw", "bw", "airm", "airm-mean", "log_euclidean",
        "log_cholesky", or None.
    power, learn_metric, momentum
        Options of the normalization (``power`` and ``learn_metric`` are those of
        :class:`~manifoldkit.spd.GBWBatchNorm` and used by "gbw" only).
    batchnorm_options : dict, optional
        Further options of the normalization. It is told ``relative=False``: its ``eps``
        is in units of ``scale`` too.
    position : {"after_bimap", "after_reeig", "before_bimap"}, default="after_bimap"
        Where in each block the normalization is.
    threshold : float or None, default=1e-4
        Smallest eigenvalue that ReEig leaves, in units of ``scale``; None leaves ReEig
        out.
    relative : bool, default=False
        Take the threshold times the mean eigenvalue of each matrix instead.
    rescale : bool, default=True
        Divide by the constant ``scale``. Otherwise everything is in the unit of the
        input: the threshold, the settings of the normalization, the learned weights.
    channels : sequence of int, optional
        Numbers of channels of the input and after each BiMap; default one, without a
        channel dimension.
    n_residual : int, default=0
        Riemannian residual blocks (:class:`SPDResidual`) before LogEig.
    vectorize : bool or "flat", default=True
        Form of the :class:`LogEig` features; "flat" is that of the original code.
    validate : bool, default=False
        Check in ``forward`` that the input is SPD.
    generator : torch.Generator, optional
        Generator of the initial weights.
    device, dtype
        Device and dtype of all parameters. Input of another precision is converted and
        the output converted back.
    domain_batchnorm : bool, default=False
        Normalize with statistics of each domain, by
        :class:`~manifoldkit.spd.DomainBatchNorm`; ``batchnorm_options`` may have its
        settings too. ``forward`` takes the domains then.
    parametrized : bool, default=False
        Compute all weights on manifolds from free numbers, so that any optimizer may
        step them: parametrized BiMaps, and Cholesky factors in the normalization. Not
        with residual blocks.

    Attributes
    ----------
    scale : Tensor, shape (), or None
        The constant, which is saved with the weights; 0 before it is set: evaluation
        divides each matrix by its own mean eigenvalue then. Weights of version 0.1.0,
        which have none, are loaded with 1.

    Raises
    ------
    ValueError
        Sizes, position or options that do not fit; in training, a matrix that is not
        finite (the first is named).

    Notes
    -----
    The last ReEig and LogEig share one eigendecomposition. The weights of the BiMaps
    are on the Stiefel manifold: train with
    :func:`manifoldkit.optim.build_optimizer` or another optimizer that knows geoopt's
    parameters; with a plain one they leave it.

    References
    ----------
    .. [1] Z. Huang, L. Van Gool, "A Riemannian network for SPD matrix learning",
       AAAI 2017.
    .. [2] R. Wang et al., "Learning to normalize on the SPD manifold under
       Bures-Wasserstein geometry", CVPR 2025.

    Examples
    --------
    >>> net = SPDNet(8, (6, 4), n_classes=3)
    >>> x = torch.eye(8) + 0.1 * torch.rand(5, 1, 1) * torch.ones(8, 8)
    >>> net(x).shape, net.features(x).shape
    (torch.Size([5, 3]), torch.Size([5, 10]))
    """

    def __init__(
        self,
        n_in: int,
        dims: Sequence[int],
        n_classes: int | None,
        *,
        batchnorm: str | None = "gbw",
        power: float = 1.0,
        learn_metric: bool = True,
        momentum: float | None = 0.1,
        batchnorm_options: dict | None = None,
        position: str = "after_bimap",
        threshold: float | None = 1e-4,
        relative: bool = False,
        rescale: bool = True,
        channels: Sequence[int] | None = None,
        n_residual: int = 0,
        vectorize: bool | str = True,
        validate: bool = False,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        domain_batchnorm: bool = False,
        parametrized: bool = False,
    ):
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.n_in, self.dims = check_count(n_in, "n_in"), _check_dims(n_in, dims)
        self.channels = _check_channels(channels, len(self.dims))
        self.n_classes = optional(count())(n_classes, "n_classes")
        check_choice(position, _ORDERS, "position")
        self.batchnorm, self.position, self.validate = batchnorm, position, validate
        self._add_scale(rescale, **factory)
        if parametrized and n_residual:
            raise ValueError(
                "parametrized: expected False with residual blocks, whose orthogonal "
                f"weights are on their manifold, found n_residual={n_residual}"
            )
        options: dict[str, Any] = {"momentum": momentum, "relative": False}
        options |= {"parametrization": "cholesky"} if parametrized else {}
        options = {**options, **(batchnorm_options or {}), **factory}
        if batchnorm == "gbw":
            options = {"power": power, "learn_metric": learn_metric, **options}

        weights: dict[str, Any] = {"generator": generator, "parametrized": parametrized}
        layers: list[nn.Module] = []
        sizes = (self.n_in, *self.dims)
        for k, (a, b) in enumerate(pairwise(sizes)):
            pair = self.channels[k : k + 2]
            parts = {
                "bimap": BiMap(a, b, pair[0], pair[1], **weights, **factory),
                "norm": _norm(
                    batchnorm,
                    a if position == "before_bimap" else b,
                    domain_batchnorm,
                    options,
                ),
                "rectify": None if threshold is None else ReEig(threshold, relative),
            }
            block = [parts[name] for name in _ORDERS[position]]
            layers += [m for m in block if not isinstance(m, nn.Identity | None)]
        layers += [
            SPDResidual(sizes[-1], relative=False, generator=generator, **factory)
            for _ in range(n_residual)
        ]
        fused = None
        if isinstance(layers[-1], ReEig):
            layers.pop()
            fused = threshold
        self.layers = nn.Sequential(*layers)
        self.log = LogEig(vectorize, fused, relative)
        self.n_features = self.channels[-1] * self.log.n_features(sizes[-1])
        self.head: nn.Module = nn.Identity()
        if self.n_classes is not None:
            self.head = nn.Linear(self.n_features, self.n_classes, **factory)
            if generator is not None:
                redraw(self.head, generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights, reset the normalization and forget the scale."""
        self._forget_scale()
        for module in [*self.layers, self.head]:
            if isinstance(module, BiMap | SPDResidual):
                module.reset_parameters(generator)
            elif isinstance(module, nn.Linear):
                redraw(module, generator)
            elif callable(reset := getattr(module, "reset_parameters", None)):
                reset()

    @property
    def domain_batchnorm(self) -> bool:
        """Whether the normalization has statistics of each domain."""
        return any(isinstance(layer, DomainBatchNorm) for layer in self.layers)

    @torch.no_grad()
    def init_from_data(self, x: Tensor, domains: Any = None) -> Self:
        """Set the scale and start the normalization at the statistics of a batch.

        Layers that have ``init_from_data`` (see
        :class:`~manifoldkit.spd.GBWBatchNorm`) get the batch as it arrives at them,
        and with ``domain_batchnorm`` the domains.
        """
        training = self.training
        domains = self._domains(domains)
        self._forget_scale()
        x = self.train()._scaled(self._check(x))
        try:
            for layer in self.layers:
                if isinstance(layer, DomainBatchNorm):
                    layer.init_from_data(x, domains)
                elif callable(start := getattr(layer, "init_from_data", None)):
                    start(x)
                x = _apply(layer.eval(), x, domains)
        finally:
            self.train(training)
        return self

    @torch.no_grad()
    def adapt(self, x: Tensor, domain: int) -> Self:
        """Set the statistics of a domain to those of all its matrices, without labels.

        Parameters
        ----------
        x : Tensor, shape (..., n_in, n_in), or (..., channels[0], n_in, n_in)
            At least two SPD matrices of the domain.
        domain : int
            Number of the domain, which may be new.

        Returns
        -------
        SPDNet
            The network itself.

        Raises
        ------
        ValueError
            There is no ``domain_batchnorm``, or too few matrices.
        """
        if not self.domain_batchnorm:
            raise ValueError("adapt: expected a network with domain_batchnorm=True")
        training = self.training
        x = self.eval()._scaled(self._check(x))
        try:
            for layer in self.layers:
                if isinstance(layer, DomainBatchNorm):
                    layer.adapt(x, domain)
                x = _apply(layer, x, domain)
        finally:
            self.train(training)
        return self

    def _domains(self, domains: Any) -> Any:
        """Domains as the normalization takes them."""
        if self.domain_batchnorm and domains is None:
            raise ValueError("domains: expected one a matrix (domain_batchnorm=True)")
        if domains is None:
            return None
        if not self.domain_batchnorm:
            raise ValueError(
                "domains: expected None, the network has no domain_batchnorm"
            )
        device = next(self.parameters()).device
        domains = torch.as_tensor(domains, device=device)
        several = max(self.channels) > 1 and domains.ndim
        return domains[..., None] if several else domains

    def _check(self, x: Tensor) -> Tensor:
        check_square(x, "x", self.n_in)
        channels = self.channels[0]
        if max(self.channels) > 1 and (x.ndim < 3 or x.shape[-3] != channels):
            raise ValueError(
                f"x: expected shape (..., {channels}, {self.n_in}, {self.n_in}), "
                f"found {tuple(x.shape)}"
            )
        return check_spd(x, "x") if self.validate else x

    def _scaled(self, x: Tensor) -> Tensor:
        """Matrices in units of the scale, in the dtype of the network."""
        own = check_weight(next(self.parameters()))
        y = x.to(torch.promote_types(x.dtype, own))
        if self.training:
            check_batch(x, y)
        return self._divided(y, mean_eigenvalue).to(own)

    def _logarithms(self, x: Tensor, domains: Any = None) -> Tensor:
        """Through the layers and LogEig; a power between both is never taken."""
        if domains is not None:
            for layer in self.layers:
                x = _apply(layer, x, domains)
            return self.log(x)
        last = self.layers[-1]
        power = last.power if isinstance(last, GBWBatchNorm) else 1.0
        if power == 1 or not self.log.takes_power(power):
            return self.log(self.layers(x))
        for layer in self.layers:
            x = layer(x) if layer is not last else layer(x, deformed=True)
        return self.log(x, power)

    def features(self, x: Tensor, domains: Any = None) -> Tensor:
        """Return the LogEig features, shape (..., n_features)."""
        return self._features(self._check(x), domains).to(x.dtype)

    def _features(self, x: Tensor, domains: Any = None) -> Tensor:
        y = self._logarithms(self._scaled(x), self._domains(domains))
        if not self.log.vectorize:
            y = y.flatten(-2)
        return y.flatten(-2) if max(self.channels) > 1 else y

    def forward(self, x: Tensor, domains: Any = None) -> Tensor:
        """Return class scores (logits).

        Parameters
        ----------
        x : Tensor, shape (..., n_in, n_in), or (..., channels[0], n_in, n_in)
            SPD matrices.
        domains : Tensor of integers, sequence of int, or int, optional
            Domain of each item, with ``domain_batchnorm`` only.

        Returns
        -------
        Tensor, shape (..., n_classes)
        """
        return self.head(self._features(self._check(x), domains)).to(x.dtype)


def _norm(name: str | None, n: int, by_domain: bool, options: dict) -> nn.Module:
    """The normalization of a block."""
    if by_domain and name not in (None, "none"):
        return DomainBatchNorm(n, name, **options)
    if by_domain:
        raise ValueError("domain_batchnorm: expected a batchnorm beside it, found None")
    return make_batchnorm(name, n, **options)


def _apply(layer: nn.Module, x: Tensor, domains: Any) -> Tensor:
    return layer(x, domains) if isinstance(layer, DomainBatchNorm) else layer(x)


def _check_dims(n_in: int, dims: Sequence[int]) -> tuple[int, ...]:
    if isinstance(dims, int) or not len(dims):
        raise ValueError(f"dims: expected a sequence of sizes, found {dims!r}")
    sizes = tuple(check_count(n, "dims") for n in dims)
    if list((n_in, *sizes)) != sorted((n_in, *sizes), reverse=True):
        raise ValueError(
            f"dims: expected sizes that do not increase from n_in = {n_in}, "
            f"found {sizes}"
        )
    return sizes


def _check_channels(channels: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    if channels is None:
        return (1,) * (depth + 1)
    numbers = tuple(check_count(c, "channels") for c in channels)
    if len(numbers) != depth + 1:
        raise ValueError(
            f"channels: expected {depth + 1} numbers, for the input and after each "
            f"BiMap, found {numbers}"
        )
    return numbers


class ConvSPDNet(nn.Module):
    """Raw epochs to classes: learned filters, covariance, SPDNet.

    The network of the GBWBN paper for MAMEM SSVEP epochs of 8 channels at 125 Hz:
    125 spatial filters, 15 temporal filters of 36 samples over them, both with batch
    normalization, the covariance of the 15 signals, and SPDNet 15 -> 12.

    Parameters
    ----------
    n_channels : int
        Channels of the epochs.
    n_classes : int or None
        The same as in :class:`SPDNet`.
    n_spatial, n_filters, kernel_size : int
        Sizes of the :class:`SpatioTemporalFilters`.
    dims : sequence of int, default=(12,)
        Sizes of the :class:`SPDNet` after each BiMap.
    eps : float, default=1e-5
        Added to the diagonal of the covariances. The filtered signals are normalized,
        so it needs no unit.
    folded, rescale : bool, default=True
        See :class:`SpatioTemporalFilters`: the signals are divided by a constant.
    generator, device, dtype
        The same as in :class:`SPDNet`.
    **options
        Further options of :class:`SPDNet`.

    Raises
    ------
    ValueError
        As :class:`SpatioTemporalFilters` and :class:`SPDNet`.

    Examples
    --------
    >>> net = ConvSPDNet(8, 5)
    >>> net(torch.randn(4, 8, 125)).shape
    torch.Size([4, 5])
    """

    def __init__(
        self,
        n_channels: int,
        n_classes: int | None,
        *,
        n_spatial: int = 125,
        n_filters: int = 15,
        kernel_size: int = 36,
        dims: Sequence[int] = (12,),
        eps: float = 1e-5,
        folded: bool = True,
        rescale: bool = True,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ):
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        sizes = n_channels, n_spatial, n_filters, kernel_size
        self.filters = SpatioTemporalFilters(
            *sizes, folded=folded, rescale=rescale, generator=generator, **factory
        )
        self.covariance = CovariancePool(eps, relative=False)
        options = {"rescale": False, "generator": generator, **factory, **options}
        self.spd = SPDNet(n_filters, dims, n_classes, **options)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights and reset the normalization."""
        self.filters.reset_parameters(generator)
        self.spd.reset_parameters(generator)

    def matrices(self, x: Tensor) -> Tensor:
        """Covariances of the filtered signals, shape (..., n_filters, n_filters)."""
        return self.covariance(self.filters(x))

    def features(self, x: Tensor, domains: Any = None) -> Tensor:
        """Return the LogEig features of epochs, shape (..., n_features)."""
        return self.spd.features(self.matrices(x), domains)

    def adapt(self, x: Tensor, domain: int) -> Self:
        """Set the statistics of a domain to those of its epochs, as in SPDNet."""
        training = self.training
        try:
            self.eval().spd.adapt(self.matrices(x), domain)
        finally:
            self.train(training)
        return self

    def forward(self, x: Tensor, domains: Any = None) -> Tensor:
        """Return class scores of epochs (..., n_channels, n_times), and their domains.

        ``domains`` as for :class:`SPDNet`, with ``domain_batchnorm`` only.
        """
        return self.spd(self.matrices(x), domains)
