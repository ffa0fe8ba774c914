"""Random draws that ``torch.compile`` accepts for sizes that change."""

from typing import Any

import torch


def generator_option(generator: torch.Generator | None) -> dict[str, Any]:
    """Return the keyword ``generator`` of torch's samplers, only if there is one.

    PyTorch has no kernel for ``torch.rand(n, generator=None)`` with a symbolic ``n``,
    so a compiled function fails at its second size; without the keyword it works, and
    the draws are the same.

    Parameters
    ----------
    generator : torch.Generator, optional
        Source of randomness; torch's own if ``None``.

    Examples
    --------
    >>> torch.rand(2, **generator_option(None)).shape
    torch.Size([2])
    >>> g = torch.Generator().manual_seed(0)
    >>> torch.randn(2, dtype=torch.float64, **generator_option(g)).dtype
    torch.float64
    """
    return {} if generator is None else {"generator": generator}
