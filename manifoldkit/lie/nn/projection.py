"""Projection of feature maps on a sampled group to images."""

import torch
from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.lie.nn._group_layer import GroupLayer
from manifoldkit.lie.nn.kernels import KernelFactory
from manifoldkit.lie.nn.pooling import check_features
from manifoldkit.lie.nn.sampled_group import GroupSamples


class GroupProject2d(GroupLayer):
    r"""Project a feature map on the group to an image.

    ``mode="learned"`` integrates against a kernel that moves with the sample,

    .. math:: (Pf)_o(u) = \sum_g w(g) |\det g|^{-1} \sum_x \sum_c
              k_{oc}(g^{-1} x) f_c(u + x, g);

    "mean" takes the weighted mean over the samples, "max" the largest value.

    Parameters
    ----------
    in_channels : int
        Channels of the feature map.
    out_channels : int, optional
        Channels of the image; as many by default, and without choice unless learned.
    kernel_size : int, default=1
        Size of the learned kernel.
    mode : {"learned", "mean", "max"}
        The learned integral, the weighted mean, or the largest value.
    padding, stride, kernel, hidden, n_hidden, w0, window, bias
        Settings of the learned kernel; :class:`LiftConv2d` describes them.

    Raises
    ------
    ValueError
        An unknown mode, or channels, sizes or strides that it does not take; in
        ``forward``, a feature map that does not fit.

    Examples
    --------
    >>> import torch
    >>> from manifoldkit.lie import SL
    >>> from manifoldkit.lie.nn import GroupProject2d, SampledGroup
    >>> samples = SampledGroup(SL(2), 6)()
    >>> project = GroupProject2d(8, 3, 5, padding=2)
    >>> project(torch.zeros(2, 8, 6, 20, 20), samples).shape
    torch.Size([2, 3, 20, 20])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 1,
        *,
        mode: str = "learned",
        padding: int = 0,
        stride: int = 1,
        kernel: str | KernelFactory = "siren",
        hidden: int = 60,
        n_hidden: int = 2,
        w0: float = 10.0,
        window: str = "hard",
        bias: bool = True,
    ):
        out_channels = in_channels if out_channels is None else out_channels
        check_choice(mode, ("learned", "mean", "max"), "mode")
        learned = mode == "learned"
        if not learned and (out_channels, kernel_size, stride) != (in_channels, 1, 1):
            raise ValueError(
                f"out_channels, kernel_size, stride: mode={mode!r} keeps the channels "
                f"and pixels, found {out_channels}, {kernel_size}, {stride}"
            )
        bias = bias and learned
        super().__init__(
            in_channels, out_channels, kernel_size, padding, stride, window, bias
        )
        self.mode = mode
        if learned:
            self.network = self._plane_network(kernel, hidden, n_hidden, w0)

    def kernel_at(self, samples: GroupSamples) -> Tensor:
        """Compute the kernels at the samples."""
        local, window = self._local(samples)
        weight = samples.weight / samples.det()
        values = self.network(local) * (window * weight[:, None])[..., None]
        values = values.unflatten(-1, (self.out_channels, self.in_channels))
        size = self.kernel_size
        return values.permute(2, 3, 0, 1).reshape(self.out_channels, -1, size, size)

    def forward(self, f: Tensor, samples: GroupSamples) -> Tensor:
        """Map ``(B, C_in, N, H, W)`` to ``(B, C_out, H', W')``."""
        check_features(f, samples, self.in_channels)
        if self.mode == "max":
            return f.amax(2)
        if self.mode == "mean":
            weight = samples.weight.to(dtype=f.dtype, device=f.device)
            return torch.einsum("bcnhw,n->bchw", f, weight)
        return self._biased(self._conv(f.flatten(1, 2), self._kernels(samples)))
