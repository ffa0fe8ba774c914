r"""Learned spatial and temporal filters in front of a covariance.

Two linear convolutions with batch normalization between them are one convolution:
for spatial filters :math:`w_j` and temporal kernels :math:`v_{ojk}`,

.. math::
    \sum_{jk} v_{ojk} \Bigl(\gamma_j \frac{w_j' x_{t+k} - \mu_j}{\sigma_j} +
    \beta_j\Bigr) = \sum_k \Bigl(\sum_j v_{ojk} \frac{\gamma_j}{\sigma_j} w_j\Bigr)'
    x_{t+k} + b_o(t),

and the batch statistics of the inner normalization follow from those of the input,
:math:`\mu_j = w_j'm` and :math:`\sigma_j^2 = w_j' C w_j`. The hidden signals are never
formed: for 8 channels and 125 spatial filters, 16 times fewer operations. Signals are
divided by a constant scale first, so that their unit does not matter.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifoldkit._checks import check_count, check_counts
from manifoldkit.linalg.checks import check_floating
from manifoldkit.linalg.symmetric import full_precision
from manifoldkit.spd.conditioning import Rescaled, check_batch
from manifoldkit.spd.layers.orthonormal import check_weight, redraw


class SpatioTemporalFilters(Rescaled):
    """Spatial convolution, batch norm, temporal convolution, batch norm.

    Signals are divided by a constant: the median over the first training batch of the
    root mean square of a signal.

    Parameters
    ----------
    n_channels : int
        Channels of the signals.
    n_spatial : int, default=125
        Spatial filters, each a weighting of the channels.
    n_filters : int, default=15
        Temporal filters over all spatially filtered signals; channels of the output.
    kernel_size : int, default=36
        Length of the temporal filters. The signal is padded by half of it.
    eps, momentum : float
        Settings of both batch normalizations.
    folded : bool, default=True
        Compute both convolutions as one. The same function to rounding, with the same
        derivatives and running statistics; False computes them one after the other.
    rescale : bool, default=True
        Divide by the constant ``scale``. Otherwise ``eps`` and the biases are in the
        unit of the signals, and those of EEG in volts are nothing beside them.
    generator : torch.Generator, optional
        Generator of the initial weights.
    device, dtype
        Device and dtype of the parameters.

    Attributes
    ----------
    scale : Tensor, shape (), or None
        The constant, which is saved with the weights; 0 before it is set: evaluation
        divides by the root mean square of each signal then. Weights of version 0.1.0,
        which have none, are loaded with 1.

    Raises
    ------
    ValueError
        Sizes that are not positive integers; in ``forward``, signals of other channels
        or shorter than the kernel; in training, signals that are not finite (the first
        is named).

    Examples
    --------
    >>> SpatioTemporalFilters(8)(torch.randn(2, 8, 125)).shape
    torch.Size([2, 15, 126])
    """

    def __init__(
        self,
        n_channels: int,
        n_spatial: int = 125,
        n_filters: int = 15,
        kernel_size: int = 36,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        folded: bool = True,
        rescale: bool = True,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        check_counts(n_channels=n_channels, n_spatial=n_spatial, n_filters=n_filters)
        self.padding = check_count(kernel_size, "kernel_size") // 2
        norm: dict[str, Any] = {"eps": eps, "momentum": momentum, **factory}
        self.folded = folded
        self._add_scale(rescale, **factory)
        self.spatial = nn.Conv1d(n_channels, n_spatial, 1, **factory)
        self.spatial_norm = nn.BatchNorm1d(n_spatial, **norm)
        self.temporal = nn.Conv1d(
            n_spatial, n_filters, kernel_size, padding=self.padding, **factory
        )
        self.temporal_norm = nn.BatchNorm1d(n_filters, **norm)
        if generator is not None:
            self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights, reset the statistics and forget the scale."""
        self._forget_scale()
        for convolution in (self.spatial, self.temporal):
            redraw(convolution, generator)
        for norm in (self.spatial_norm, self.temporal_norm):
            norm.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Filter signals (..., n_channels, n_times) to (..., n_filters, n_times')."""
        check_floating(x, "x")
        channels = self.spatial.in_channels
        shortest = self.temporal.kernel_size[0] - 2 * self.padding
        if x.ndim < 2 or x.shape[-2] != channels or x.shape[-1] < max(shortest, 1):
            raise ValueError(
                f"x: expected signals of shape (..., {channels}, n_times), "
                f"found {tuple(x.shape)}"
            )
        own = check_weight(self.spatial.weight)
        with full_precision(x):
            y = x.reshape(-1, *x.shape[-2:]).to(torch.promote_types(x.dtype, own))
            if self.training:
                check_batch(x, y)
            y = self._divided(y, _root_mean_square).to(own)
            if self.folded:
                y = self._folded(y)
            else:
                y = self.temporal(self.spatial_norm(self.spatial(y)))
            y = self.temporal_norm(y)
        return y.reshape(*x.shape[:-2], *y.shape[-2:]).to(x.dtype)

    def _folded(self, x: Tensor) -> Tensor:
        norm: Any = self.spatial_norm
        w = self.spatial.weight[..., 0]
        bias: Any = self.spatial.bias
        mean, variance = self._statistics(x, w)
        gain = norm.weight * (variance + norm.eps).rsqrt()
        offset = norm.bias + gain * (bias - mean)
        kernel = torch.einsum("ojk,jc->ock", self.temporal.weight, gain[:, None] * w)
        y = F.conv1d(x, kernel, self.temporal.bias, padding=self.padding)
        # the offset is a constant signal, but zero where the padding is
        constant = offset[None, :, None].expand(1, -1, x.shape[-1])
        return y + F.conv1d(constant, self.temporal.weight, padding=self.padding)

    def _statistics(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the spatially filtered signals, running ones in eval."""
        norm: Any = self.spatial_norm
        bias: Any = self.spatial.bias
        if not norm.training:
            return norm.running_mean, norm.running_var
        count = x.shape[0] * x.shape[-1]
        if count < 2:
            raise ValueError(
                "x: batch statistics need more than one value a channel, "
                f"found shape {tuple(x.shape)}"
            )
        center = x.mean((0, 2), keepdim=True)
        flat = (x - center).movedim(1, 0).flatten(1)
        covariance = flat @ flat.mT / count
        mean = w @ center[0, :, 0] + bias
        variance = ((w @ covariance) * w).sum(-1)
        with torch.no_grad():
            norm.num_batches_tracked += 1
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * count / (count - 1), norm.momentum)
        return mean, variance


def _root_mean_square(x: Tensor) -> Tensor:
    """Of every signal, shape (..., 1, 1)."""
    # numbers whose squares overflow or vanish are near 1 beside the largest
    largest = x.detach().abs().amax((-2, -1), keepdim=True)
    top = torch.where(largest > 0, largest, torch.ones_like(largest))
    return largest * (x / top).square().mean((-2, -1), keepdim=True).sqrt()
