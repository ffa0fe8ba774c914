"""What the scikit-learn faces of torch networks share."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Torch's generators, seeded inside and untouched outside."""
    cuda = torch.device(device).type == "cuda"
    devices = [torch.cuda.current_device()] if cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
