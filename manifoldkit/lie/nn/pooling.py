"""Pooling feature maps over space and over the samples of the group."""

import torch
from torch import Tensor, nn

from manifoldkit._checks import check_choice
from manifoldkit.lie.nn.sampled_group import GroupSamples

_MODES = ("max", "mean", "none")


class GroupPool(nn.Module):
    """Pool over space for every sample, then over the samples.

    Each pooling commutes with the group's action up to the change of the samples; both
    together make features that no affine map changes (as far as the samples cover the
    group).

    Parameters
    ----------
    space, group : {"max", "mean", "none"}
        How each is pooled; a mean over the group uses the samples' weights.

    Raises
    ------
    ValueError
        An unknown way of pooling; in ``forward``, a feature map that does not fit, or
        no samples for a mean.

    Examples
    --------
    >>> import torch
    >>> from manifoldkit.lie.nn import GroupPool
    >>> GroupPool("max", "max")(torch.zeros(2, 8, 6, 10, 10)).shape
    torch.Size([2, 8])
    >>> GroupPool("none", "max")(torch.zeros(2, 8, 6, 10, 10)).shape
    torch.Size([2, 8, 10, 10])
    """

    def __init__(self, space: str = "max", group: str = "max"):
        super().__init__()
        self.space = check_choice(space, _MODES, "space")
        self.group = check_choice(group, _MODES, "group")

    def forward(self, f: Tensor, samples: GroupSamples | None = None) -> Tensor:
        """Pool ``f`` of shape ``(B, C, N, H, W)``.

        Parameters
        ----------
        f : Tensor
            Feature map.
        samples : GroupSamples, optional
            Needed by a mean over the group.
        """
        check_features(f, samples)
        if self.space == "max":
            f = f.amax((-2, -1))
        elif self.space == "mean":
            f = f.mean((-2, -1))
        axis = 2
        if self.group == "max":
            return f.amax(axis)
        if self.group == "mean":
            if samples is None:
                raise ValueError("samples: a mean over the group needs their weights")
            weight = samples.weight.to(dtype=f.dtype, device=f.device)
            return torch.tensordot(f, weight, dims=([axis], [0]))
        return f

    def extra_repr(self) -> str:
        """Return the modes."""
        return f"space={self.space!r}, group={self.group!r}"


def check_features(
    f: Tensor, samples: GroupSamples | None = None, channels: int | None = None
) -> None:
    """Raise ``ValueError`` unless ``f`` is a feature map on these samples."""
    n = None if samples is None else len(samples)
    good = f.ndim == 5 and f.is_floating_point()
    good = good and n in (None, f.shape[2]) and channels in (None, f.shape[1])
    if not good:
        c, count = ("C" if channels is None else channels), ("N" if n is None else n)
        raise ValueError(
            f"f: expected floating-point features of shape (B, {c}, {count}, H, W), "
            f"found {str(f.dtype).removeprefix('torch.')} of shape {tuple(f.shape)}"
        )
