r"""Convolutions over :math:`\mathbb{R}^2 \rtimes H`: lift and correlate.

A feature map is a function on the affine group, sampled at pixels and at ``N`` elements
of ``H``: a tensor ``(B, C, N, H, W)``. Kernels are functions on the group too, given by
a network, so they can be evaluated at any sample; no grid of the group is needed.
Lengths are in units of half a kernel: its pixels lie in ``[-1, 1]``.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifoldkit._checks import check_choice, check_counts, check_positive
from manifoldkit.lie.nn._group_layer import GroupLayer
from manifoldkit.lie.nn.kernels import KernelFactory, kernel_network
from manifoldkit.lie.nn.pooling import check_features
from manifoldkit.lie.nn.sampled_group import GroupSamples


class LiftConv2d(GroupLayer):
    r"""Correlate an image with a kernel under every sampled deformation.

    .. math:: (Lf)_o(u, g) = |\det g|^{-1} \sum_x \sum_c k_{oc}(g^{-1} x) f_c(u + x).

    Parameters
    ----------
    in_channels, out_channels, kernel_size : int
        Sizes as ``torch.nn.Conv2d`` takes them.
    padding, stride : int
        Margin and step as ``torch.nn.Conv2d`` takes them; a stride above 1 keeps
        equivariance to those translations only that are multiples of it.
    kernel : {"siren", "fourier", "gaussian"} or callable
        Network of the kernel; a callable ``(in_features, out_features, out_scale)``
        returns a module.
    hidden, n_hidden, w0 : int, int, float
        Width, hidden layers and frequency of that network.
    window : {"hard", "smooth", "none"}
        Cut the kernel at ``|g^-1 x| = 1``, fade it there, or leave it.
    bias : bool, default=True
        A bias for each output channel.

    Raises
    ------
    ValueError
        Sizes that are not positive integers, an unknown window or kernel; in
        ``forward``, something other than floating-point images of ``in_channels``.

    References
    ----------
    .. [1] Mironenco, Forré, "Lie group decompositions for equivariant neural networks",
           ICLR 2024.

    Examples
    --------
    >>> import torch
    >>> from manifoldkit.lie import GLPlus
    >>> from manifoldkit.lie.nn import LiftConv2d, SampledGroup
    >>> samples = SampledGroup(GLPlus(2), 6)()
    >>> LiftConv2d(1, 8, 5)(torch.zeros(2, 1, 20, 20), samples).shape
    torch.Size([2, 8, 6, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        padding: int = 0,
        stride: int = 1,
        kernel: str | KernelFactory = "siren",
        hidden: int = 60,
        n_hidden: int = 2,
        w0: float = 10.0,
        window: str = "hard",
        bias: bool = True,
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, padding, stride, window, bias
        )
        self.network = self._plane_network(kernel, hidden, n_hidden, w0)

    def kernel_at(self, samples: GroupSamples) -> Tensor:
        """Compute the kernels at the samples."""
        local, window = self._local(samples)
        values = self.network(local) * (window / samples.det()[:, None])[..., None]
        values = values.unflatten(-1, (self.out_channels, self.in_channels))
        return values.permute(2, 0, 3, 1).reshape(
            -1, self.in_channels, self.kernel_size, self.kernel_size
        )

    def forward(self, x: Tensor, samples: GroupSamples) -> Tensor:
        """Lift ``(B, C_in, H, W)`` to ``(B, C_out, N, H', W')``."""
        if x.ndim != 4 or x.shape[1] != self.in_channels or not x.is_floating_point():
            raise ValueError(
                "x: expected floating-point images of shape "
                f"(B, {self.in_channels}, H, W), found "
                f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"
            )
        kernel = self._kernels(samples)
        return self._as_features(self._conv(x, kernel), len(samples))


class GroupConv2d(GroupLayer):
    r"""Correlate a feature map on the group with a kernel on the group.

    .. math::
        (k \star f)_o(u, g) = \sum_{\tilde g} w(\tilde g) |\det \tilde g|^{-1}
        \sum_x \sum_c k_{oc}\bigl(g^{-1} x, \xi^{-1}(g^{-1} \tilde g)\bigr)
        f_c(u + x, \tilde g).

    The dense kernel costs ``C_out C_in N_out N_in k^2`` multiplications a pixel.
    ``separable=True`` takes :math:`k_{oc}(x, h) = k_{oc}(x)\, k_c(h)`: a mean over the
    samples in each pixel and channel, then one spatial correlation for each output
    sample, ``N_out C_in (N_in + C_out k^2)`` in all. ``separable="depthwise"`` takes
    :math:`k_{oc}(x, h) = k_o(x)\, k_{oc}(h)`: mixing channels and samples in each
    pixel, then a spatial correlation of each channel and sample,
    ``C_out N_out (C_in N_in + k^2)``.

    Parameters
    ----------
    in_channels, out_channels, kernel_size : int
        Sizes as ``torch.nn.Conv2d`` takes them.
    coords_dim : int, default=4
        Coordinates of the group (``SampledGroup.coords_dim``): 4 for ``GLPlus(2)``, 3
        for ``SL(2)``, 1 for ``SO(2)``; one more with ``angle="periodic"``.
    separable : bool or "depthwise", default=False
        Dense kernels, or one of the two products above.
    locality : float, optional
        Width of a Gaussian window on the group: the weights of a sample are multiplied
        by ``exp(-d^2 / (2 locality^2))``, with ``d`` the distance of its coordinates
        from those of the identity, and made to sum to one again, so that each output
        sample averages over its neighbors. The smaller, the fewer samples
        the integral needs; small against their distance, each sample is on its own.
        None (default) integrates over all.
    reduction : {"mean", "sum"}
        Weights that sum to one, or to the number of samples (as the reference code
        does; the output then grows with it, for which the first weights account if
        ``n_samples`` is given).
    n_samples : int, optional
        Usual number of input samples.
    padding, stride, kernel, hidden, n_hidden, w0, window, bias
        Form of the convolution; :class:`LiftConv2d` describes it.

    Raises
    ------
    ValueError
        Sizes that are not positive integers, an unknown option; in ``forward``, a
        feature map or samples that do not fit.

    Examples
    --------
    >>> import torch
    >>> from manifoldkit.lie import GLPlus
    >>> from manifoldkit.lie.nn import GroupConv2d, SampledGroup
    >>> fine, coarse = SampledGroup(GLPlus(2), 6)(), SampledGroup(GLPlus(2), 4)()
    >>> conv = GroupConv2d(8, 16, 5, separable=True)
    >>> conv(torch.zeros(2, 8, 6, 20, 20), fine, coarse).shape
    torch.Size([2, 16, 4, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        coords_dim: int = 4,
        separable: bool | str = False,
        locality: float | None = None,
        reduction: str = "mean",
        n_samples: int | None = None,
        padding: int = 0,
        stride: int = 1,
        kernel: str | KernelFactory = "siren",
        hidden: int = 60,
        n_hidden: int = 2,
        w0: float = 10.0,
        window: str = "hard",
        bias: bool = True,
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, padding, stride, window, bias
        )
        check_counts(coords_dim=coords_dim)
        check_choice(reduction, ("mean", "sum"), "reduction")
        check_choice(separable, (True, False, "depthwise"), "separable")
        if locality is not None:
            check_positive(locality, "locality")
        self.coords_dim, self.separable = coords_dim, separable
        self.locality, self.reduction = locality, reduction
        terms = in_channels * (n_samples or 1 if reduction == "sum" else 1)
        area = kernel_size**2
        pairs = out_channels * in_channels

        def network(inputs: int, outputs: int, fan_in: int) -> nn.Module:
            return kernel_network(kernel, inputs, outputs, fan_in, hidden, n_hidden, w0)

        if separable == "depthwise":
            self.network = network(coords_dim, pairs, terms)
            self.spatial_network = network(2, out_channels, area)
        elif separable:
            self.network = network(coords_dim, in_channels, 4)
            self.spatial_network = network(2, pairs, terms * area)
        else:
            self.network = network(2 + coords_dim, pairs, terms * area)

    def kernel_at(self, samples: GroupSamples, out_samples: GroupSamples) -> Any:
        """Compute the kernels at the samples."""
        local, window = self._local(out_samples)
        relative = out_samples.relative(samples)
        if relative.shape[-1] != self.coords_dim:
            raise ValueError(
                f"samples: expected {self.coords_dim} coordinates of the group "
                f"(coords_dim), found {relative.shape[-1]}"
            )
        weight = self._weights(relative, samples) / samples.det()
        if self.separable:
            return self._separable_kernels(local, window, relative, weight)
        n_out, n_in, p = *relative.shape[:2], local.shape[1]
        z = torch.cat(
            [
                local[:, None].expand(n_out, n_in, p, 2),
                relative[:, :, None].expand(n_out, n_in, p, self.coords_dim),
            ],
            -1,
        )
        values = self.network(z) * (window[:, None] * weight[..., None])[..., None]
        values = values.unflatten(-1, (self.out_channels, self.in_channels))
        size = self.kernel_size
        return values.permute(3, 0, 4, 1, 2).reshape(
            self.out_channels * n_out, self.in_channels * n_in, size, size
        )

    def _weights(self, relative: Tensor, samples: GroupSamples) -> Tensor:
        """Weights of the input samples for every output sample, ``(N_out, N_in)``."""
        log_weight = samples.weight.log().expand(relative.shape[:2])
        if self.locality is not None:
            square = samples.square_distance(relative)
            log_weight = log_weight - square / (2 * self.locality**2)
            log_weight = log_weight.log_softmax(-1)
        count = relative.shape[1] if self.reduction == "sum" else 1
        return log_weight.exp() * count

    def _separable_kernels(self, local, window, relative, weight):
        """Return the matrix that mixes samples (and channels), and spatial kernels."""
        n_out, size = len(local), self.kernel_size
        mix = self.network(relative)
        space = self.spatial_network(local) * window[..., None]
        if self.separable == "depthwise":
            mix = mix.unflatten(-1, (self.out_channels, self.in_channels))
            mix = (mix * weight[..., None, None]).permute(2, 0, 3, 1)
            mix = mix.reshape(self.out_channels * n_out, -1, 1, 1)
            return mix, space.permute(2, 0, 1).reshape(-1, 1, size, size)
        # around one, so that the first kernels average and do not cancel
        mix = (1 + mix.permute(2, 0, 1)) * weight
        space = space.unflatten(-1, (self.out_channels, self.in_channels))
        space = space.permute(0, 2, 3, 1).reshape(-1, self.in_channels, size, size)
        return mix, space

    def forward(
        self, f: Tensor, samples: GroupSamples, out_samples: GroupSamples | None = None
    ) -> Tensor:
        """Map ``(B, C_in, N_in, H, W)`` to ``(B, C_out, N_out, H', W')``.

        Parameters
        ----------
        f : Tensor
            Feature map at ``samples``.
        samples : GroupSamples
            Where the input lives.
        out_samples : GroupSamples, optional
            Where the output is wanted; as the input by default.
        """
        check_features(f, samples, self.in_channels)
        out = samples if out_samples is None else out_samples
        kernels = self._kernels(samples, out)
        if self.separable is True:
            mix, space = kernels
            x = (mix.to(f.dtype) @ f.flatten(3)).transpose(1, 2)
            x = x.flatten(1, 2).unflatten(2, f.shape[3:])
            x = self._conv(x, space, groups=len(out))
            x = x.unflatten(1, (len(out), self.out_channels)).transpose(1, 2)
            return self._biased(x)
        x = f.flatten(1, 2)
        if self.separable:
            mix, space = kernels
            x = self._conv(F.conv2d(x, mix), space, groups=len(space))
        else:
            x = self._conv(x, kernels)
        return self._as_features(x, len(out))
