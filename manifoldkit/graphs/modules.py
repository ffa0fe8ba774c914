"""What the torch modules of the graphs share."""

from torch import nn


def redraw_parts(module: nn.Module) -> None:
    """Draw the weights of all parts again, each by its own ``reset_parameters``.

    torch's attention layers name theirs ``_reset_parameters``.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
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
