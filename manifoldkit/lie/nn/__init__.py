"""Networks on Lie groups: group convolutions on images and heads for rotations."""

from manifoldkit._lazy import lazy_names

_EXPORTS = {
    "convolution": ("GroupConv2d", "LiftConv2d"),
    "kernels": ("FourierKernel", "GaussianKernel"),
    "networks": ("AffineResNet",),
    "pooling": ("GroupPool",),
    "projection": ("GroupProject2d",),
    "rotation_head": ("RotationHead",),
    "sampled_group": ("GroupSamples", "LocalBox", "SampledGroup"),
    "siren": ("Siren",),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _EXPORTS)
