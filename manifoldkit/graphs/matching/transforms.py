"""Whether a function of ``torch.func`` looks on."""

import torch
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Whether a transform such as ``vmap`` or ``jvp`` is at work around the call.

    >>> is_transformed()
    False
    >>> torch.func.vmap(lambda x: x + is_transformed())(torch.zeros(2))
    tensor([1., 1.])
    """
    active = torch._C._are_functorch_transforms_active()
    return active or forward_ad._current_level >= 0
