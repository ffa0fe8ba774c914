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


def hermitian_part(x: Tensor) -> Tensor:
    """Return ``(x + x*) / 2``, which is the symmetric part of a real matrix.

    >>> hermitian_part(torch.tensor([[1.0, 2.0j], [0.0, 1.0]]))
    tensor([[1.+0.j, 0.+1.j],
            [0.-1.j, 1.+0.j]])
    """
    return (x + x.mH).mul_(0.5)


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


def _split(q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where q is small; q for the series; root of q for the closed form.

    Each is clamped to its own side, so that neither branch has an infinite derivative
    where the other is chosen.
    """
    return q < 1e-2, q.clamp(max=1e-2), q.clamp(min=1e-2).sqrt()


def _log_sinhc_series(q: Tensor) -> Tensor:
    """Series of log(sinh(r) / r) in ``q = r^2``, for negative q of log(sin(r) / r)."""
    total = q / 467775 - 1 / 37800
    for c in (1 / 2835, -1 / 180, 1 / 6):
        total = total * q + c
    return q * total


def log_sinhc_of_square(q: Tensor) -> Tensor:
    """Return log(sinh(r) / r) for ``q = r^2``, smooth at zero, without overflow.

    >>> log_sinhc_of_square(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.1614])
    """
    near, small, r = _split(q)
    far = r + torch.log(-torch.expm1(-2 * r) / (2 * r))
    return torch.where(near, _log_sinhc_series(small), far)


def log_sinhc(x: Tensor) -> Tensor:
    r"""Return :math:`\log(\sinh x / x)`, smooth at zero, without overflow.

    Examples
    --------
    >>> log_sinhc(torch.tensor([0.0, 1.0, 500.0]))
    tensor([0.0000e+00, 1.6144e-01, 4.9309e+02])
    """
    return log_sinhc_of_square(x * x)


def log_sinc(x: Tensor) -> Tensor:
    r"""Return :math:`\log|\sin x / x|`, smooth at zero; -inf at its roots.

    Examples
    --------
    >>> log_sinc(torch.tensor([0.05, 1.0]))
    tensor([-0.0004, -0.1726])
    """
    near, small, r = _split(x * x)
    return torch.where(near, _log_sinhc_series(-small), (r.sin() / r).abs().log())
