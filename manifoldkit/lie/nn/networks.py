"""A residual network on the affine group, for images."""

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from manifoldkit._checks import check_choice
from manifoldkit.lie.groups import GLPlus
from manifoldkit.lie.nn.convolution import GroupConv2d, LiftConv2d
from manifoldkit.lie.nn.kernels import KernelFactory
from manifoldkit.lie.nn.pooling import GroupPool
from manifoldkit.lie.nn.sampled_group import GroupSamples, Proposal, SampledGroup

Activation = Callable[[Tensor], Tensor]


class GroupNorm(nn.Module):
    """Normalize feature maps ``(B, C, N, H, W)``; keeps equivariance.

    Parameters
    ----------
    channels : int
        Number of channels.
    kind : {"layer", "batch"}
        Over channels, samples and pixels of each image (as in the paper), or each
        channel over images, samples and pixels (in evaluation by running figures, which
        do not depend on the size of the frame around an object).
    affine : bool, default=True
        Learn a scale and a shift for each channel.
    """

    def __init__(self, channels: int, kind: str = "layer", affine: bool = True):
        super().__init__()
        check_choice(kind, ("layer", "batch"), "norm")
        if kind == "layer":  # one group: the statistics of a layer norm
            self.norm: nn.Module = nn.GroupNorm(1, channels, affine=affine)
        else:
            self.norm = nn.BatchNorm3d(channels, affine=affine)

    def forward(self, f: Tensor) -> Tensor:
        """Normalize ``(B, C, N, H, W)``."""
        return self.norm(f)


class AffineResNet(nn.Module):
    r"""Classify images regardless of an affine map, by group convolutions.

    Lift - residual blocks - pooling by two - group convolution to a second, coarser
    stage - pooling over space and samples - classifier. Every stage has one set of
    group samples that all its layers share; the convolution between the stages goes
    from one set to the other. Fewer samples than the paper's ten, fewer channels, a
    stride in the lift and separable kernels make it train on a CPU in minutes.

    Parameters
    ----------
    n_classes, in_channels : int
        Outputs, and channels of the images.
    group : Group, optional
        ``GLPlus(2)`` (default), ``SL(2)`` or ``SO(2)``.
    channels : int or pair of int, default=40
        Channels of the feature maps in the two stages.
    n_samples : int or pair of int, default=10
        Group samples of the two stages in training.
    share_samples : bool, default=False
        Both stages use the first one's samples.
    n_eval : int or pair of int, optional
        Group samples of the two stages in evaluation; default as in training.
    kernel_size : int, default=5
        Size of all kernels but the lift's.
    lift_size, lift_stride, lift_padding : int
        Kernel, stride and padding of the lift; default ``kernel_size``, 1 and 0.
    last_padding : int, default=0
        Padding of the last convolution.
    n_blocks : int, default=1
        Residual blocks.
    separable : bool or "depthwise", default=True
        Separable kernels (see :class:`GroupConv2d`); False is the paper's network, an
        order of magnitude slower.
    locality : float, optional
        Group window of the convolutions (see :class:`GroupConv2d`).
    proposal, resample, weighting, angle, seed
        Settings of the samples; :class:`SampledGroup` describes them.
    kernel, hidden, n_hidden, w0, window
        Settings of the kernels; :class:`LiftConv2d` describes them.
    pool_space, pool_group : str
        How features are pooled at the end; :class:`GroupPool` describes it.
    head : int, default=256
        Hidden units of the classifier; 0 for a linear one.
    dropout : float, default=0.3
        Rate of dropout before the last layer.
    activation : callable, default=torch.nn.functional.gelu
        Activation after the convolutions.
    norm : {"layer", "batch"}
        Normalization over each image, as in the paper, or over each channel.
    affine_norm : bool, default=True
        Learned scale and shift in the norms.

    Raises
    ------
    ValueError
        Settings that its layers refuse.

    References
    ----------
    .. [1] Mironenco, Forré, "Lie group decompositions for equivariant neural networks",
           ICLR 2024, section 5.
    .. [2] Knigge, Romero, Bekkers, "Exploiting redundancy: separable group
           convolutional networks on Lie groups", ICML 2022.

    Examples
    --------
    >>> import torch
    >>> from manifoldkit.lie.nn import AffineResNet
    >>> net = AffineResNet(channels=4, n_samples=3, hidden=8, head=16)
    >>> net(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        n_classes: int = 10,
        *,
        in_channels: int = 1,
        group: Any = None,
        channels: int | tuple[int, int] = 40,
        n_samples: int | tuple[int, int] = 10,
        share_samples: bool = False,
        n_eval: int | tuple[int, int] | None = None,
        kernel_size: int = 5,
        lift_size: int | None = None,
        lift_stride: int = 1,
        lift_padding: int = 0,
        last_padding: int = 0,
        n_blocks: int = 1,
        separable: bool | str = True,
        locality: float | None = None,
        proposal: str | Proposal | Tensor | None = None,
        resample: str = "step",
        weighting: str = "haar",
        angle: str = "principal",
        seed: int = 0,
        kernel: str | KernelFactory = "siren",
        hidden: int = 60,
        n_hidden: int = 2,
        w0: float = 10.0,
        window: str = "hard",
        pool_space: str = "max",
        pool_group: str = "max",
        head: int = 256,
        dropout: float = 0.3,
        activation: Activation = F.gelu,
        norm: str = "layer",
        affine_norm: bool = True,
    ):
        super().__init__()
        how: dict[str, Any] = {
            "resample": resample,
            "weighting": weighting,
            "angle": angle,
        }
        self.stages = nn.ModuleList(
            SampledGroup(
                GLPlus(2) if group is None else group,
                _pair(n_samples)[i],
                proposal,
                n_eval=_pair(n_eval)[i],
                seed=seed + i,
                **how,
            )
            for i in range(1 if share_samples else 2)
        )
        form: dict[str, Any] = {
            "kernel": kernel,
            "hidden": hidden,
            "n_hidden": n_hidden,
            "w0": w0,
            "window": window,
            "bias": False,
        }
        group_form = {
            **form,
            "coords_dim": self.stages[0].coords_dim,
            "separable": separable,
            "locality": locality,
        }
        lift_size = kernel_size if lift_size is None else lift_size
        first, second = _pair(channels)
        place: dict[str, Any] = {"stride": lift_stride, "padding": lift_padding}
        self.lift = LiftConv2d(in_channels, first, lift_size, **place, **form)
        half, norms = kernel_size // 2, (norm, affine_norm)
        self.blocks = nn.ModuleList(
            _Block(first, kernel_size, half, norms, activation, group_form)
            for _ in range(n_blocks)
        )
        self.last = GroupConv2d(
            first, second, kernel_size, padding=last_padding, **group_form
        )
        self.norms = nn.ModuleList(
            GroupNorm(c, norm, affine_norm) for c in (first, first, second)
        )
        self.pool = GroupPool(pool_space, pool_group)
        self.activation = activation
        self.classifier = _classifier(second, n_classes, head, dropout)

    def features(self, x: Tensor) -> tuple[Tensor, GroupSamples]:
        """Return the last feature map ``(B, C, N, H', W')`` and its samples."""
        fine = self.stages[0]()
        f = self.activation(self.norms[0](self.lift(x, fine)))
        for block in self.blocks:
            f = block(f, fine)
        f = self.norms[1](f)
        f = F.max_pool2d(f.flatten(1, 2), 2).unflatten(1, f.shape[1:3])
        coarse = self.stages[1]() if len(self.stages) == 2 else fine
        f = self.last(self.activation(f), fine, coarse)
        return self.activation(self.norms[2](f)), coarse

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, n_classes)`` of images ``(B, C_in, H, W)``."""
        return self.classifier(self.pool(*self.features(x)))

    def redraw(self, n_eval: int | tuple[int, int], seed: int | None = None) -> None:
        """Evaluate at other, for example more, group samples."""
        for i, (stage, n) in enumerate(zip(self.stages, _pair(n_eval), strict=False)):
            cast(SampledGroup, stage).redraw(n, None if seed is None else seed + i)


class _Block(nn.Module):
    """Two group convolutions on the same samples around a skip connection."""

    def __init__(self, channels, size, padding, norm, activation, form):
        super().__init__()
        self.convs = nn.ModuleList(
            GroupConv2d(channels, channels, size, padding=padding, **form)
            for _ in range(2)
        )
        self.norms = nn.ModuleList(GroupNorm(channels, *norm) for _ in range(2))
        self.activation = activation

    def forward(self, f: Tensor, samples: GroupSamples) -> Tensor:
        h = f
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = self.activation(norm(conv(h, samples)))
        return self.activation(f + h)


def _classifier(channels: int, n_classes: int, head: int, dropout: float) -> nn.Module:
    if head == 0:
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, n_classes))
    return nn.Sequential(
        nn.Linear(channels, head, bias=False),
        nn.LayerNorm(head),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(head, n_classes),
    )


def _pair(value):
    return value if isinstance(value, tuple) else (value, value)
