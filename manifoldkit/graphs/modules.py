"""What the torch modules of the graphs share."""

import torch
from torch import nn
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Whether ``torch.func`` or forward-mode differentiation is at work.

    An ``autograd.Function`` whose backward writes into buffers knows neither; its
    caller then takes the form of elementary operations.

    Examples
    --------
    >>> is_transformed()
    False
    >>> torch.func.vmap(lambda x: x + is_transformed())(torch.zeros(2))
    tensor([1., 1.])
    """
    active = torch._C._are_functorch_transforms_active()
    return active or forward_ad._current_level >= 0


def redraw_parts(module: nn.Module) -> None:
    """Draw the weights of all parts again, each by its own ``reset_parameters``.

    torch's attention layers name theirs ``_reset_parameters``.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> before = net[0].weight.clone()
    >>> redraw_parts(net)
    >>> torch.equal(net[0].weight, before)
    False
    """
    for part in module.children():
        reset = getattr(part, "reset_parameters", None)
        own = getattr(part, "_reset_parameters", None)
        if callable(reset):
            reset()
            continue
        redraw_parts(part)
        if callable(own):
            own()
