"""Small pieces that everything is made of, with harmless derivatives."""

import torch
from torch import Tensor


def eye_like(x: Tensor) -> Tensor:
    """Return the identity of the size of the last dimension, in dtype and on device.

    >>> eye_like(torch.ones(5, 2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    return torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def trace(x: Tensor) -> Tensor:
    """Return the trace of every matrix, (..., n, n) to (...).

    >>> trace(torch.ones(3, 2, 2))
    tensor([2., 2., 2.])
    """
    return x.diagonal(dim1=-2, dim2=-1).sum(-1)


def unit_size(x: Tensor, dims: tuple[int, ...] = (-2, -1)) -> Tensor:
    """Return the power of two below the largest modulus, a constant; 1 for zero.

    >>> unit_size(torch.tensor([[10.0, -40.0]]))
    tensor([[32.]])
    """
    size = x.detach().abs().amax(dims, keepdim=True).log2().floor().exp2()
    return torch.where(size == 0, torch.ones_like(size), size)


def bring_to_unit(x: Tensor, dims: tuple[int, ...] = (-2, -1)) -> Tensor:
    """Divide by a power of two so that the largest modulus lies between 1 and 2.

    For functions that do not depend on the scale: products of entries then neither
    overflow nor vanish, and no digit changes. The divisor is a constant for
    derivatives; zero stays zero.

    >>> bring_to_unit(torch.tensor([[10.0, -40.0]]))
    tensor([[ 0.3125, -1.2500]])
    """
    return x / unit_size(x, dims)


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root with derivative zero at zero; rounding below zero counts as zero.

    >>> safe_sqrt(torch.tensor([4.0, 0.0, -1e-9]))
    tensor([2., 0., 0.])
    """
    zero = x <= 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, x).sqrt())


def safe_divide(x: Tensor, y: Tensor, limit: Tensor) -> Tensor:
    """Return x / y, and ``limit`` where y is zero.

    >>> safe_divide(torch.zeros(2), torch.tensor([0.0, 2.0]), torch.ones(2))
    tensor([1., 0.])
    """
    zero = y == 0
    return torch.where(zero, limit, x / torch.where(zero, torch.ones_like(y), y))


def safe_norm(x: Tensor, keepdim: bool = False) -> Tensor:
    """Length of vectors; zero vectors have gradient zero."""
    squared = x.square().sum(-1, keepdim=keepdim)
    tiny = torch.finfo(x.dtype).tiny
    return squared.clamp_min(tiny).sqrt() * (squared > tiny)


def unit(x: Tensor) -> Tensor:
    """Vectors of length one; zero stays zero."""
    return x / safe_norm(x, keepdim=True).clamp_min(1e-12)
