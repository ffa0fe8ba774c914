"""NumPy in, NumPy out; half precision computed in float32."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from manifoldkit.linalg.checks import check_broadcast, check_square, compute_dtype

F = TypeVar("F", bound=Callable[..., Any])


def _to_tensor(value: Any) -> Any:
    # a copy: tensors over read-only or reversed NumPy memory are not supported
    return torch.tensor(value) if isinstance(value, np.ndarray) else value


def _to_numpy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().numpy()
    if isinstance(value, tuple):
        items = [_to_numpy(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


def accepts_numpy(function: F) -> F:
    """Let a tensor function take NumPy arrays; it then returns NumPy arrays.

    A checker keeps seeing the tensor function.

    Examples
    --------
    >>> @accepts_numpy
    ... def double(x):
    ...     return 2 * x
    >>> double(np.array([1.0, 2.0]))
    array([2., 4.])
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        if not any(isinstance(value, np.ndarray) for value in values):
            return function(*args, **kwargs)
        args = tuple(_to_tensor(a) for a in args)
        kwargs = {k: _to_tensor(a) for k, a in kwargs.items()}
        return _to_numpy(function(*args, **kwargs))

    return cast(F, wrapper)


def full_precision(function: F) -> F:
    """Compute half precision in float32, and let autocast round nothing inside.

    Results are of the dtype of the first tensor.

    Examples
    --------
    >>> full_precision(lambda x: x)(torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.bfloat16
    """

    def is_half(x: Tensor) -> bool:
        return x.is_floating_point() and compute_dtype(x.dtype) != x.dtype

    def widen(value: Any) -> Any:
        half = isinstance(value, Tensor) and is_half(value)
        return value.float() if half else value

    def narrow(value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, Tensor):
            return value.to(dtype) if value.is_floating_point() else value
        items = [narrow(item, dtype) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        if not tensors:
            return function(*args, **kwargs)
        dtype, device = tensors[0].dtype, tensors[0].device.type
        half = is_half(tensors[0])
        if half:
            args = tuple(widen(x) for x in args)
            kwargs = {key: widen(x) for key, x in kwargs.items()}
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                result = function(*args, **kwargs)
        else:
            result = function(*args, **kwargs)
        return narrow(result, dtype) if half else result

    return cast(F, wrapper)


def array_function(function: F) -> F:
    """Join :func:`accepts_numpy` and :func:`full_precision`."""
    return accepts_numpy(full_precision(function))


def check_pair(a: Tensor, b: Tensor, names: str = "ab") -> None:
    """Check two batches of square matrices of one size that broadcast."""
    check_square(a, names[0])
    check_square(b, names[1], a.shape[-1])
    check_broadcast(**{names[0]: (a, 2), names[1]: (b, 2)})


def gradient_floor(dtype: torch.dtype) -> float:
    """Length below which a vector counts as zero for derivatives (1 / it overflows)."""
    return 1e-280 if dtype == torch.float64 else 1e-30


def unit_vector(x: Tensor) -> tuple[Tensor, Tensor]:
    """Normalize along the last axis whatever the size of the entries.

    Returns the unit vectors, with the first basis vector and no derivative where
    ``x`` is zero, and the mask of these.
    """
    m = x.detach().abs().amax(-1, keepdim=True)
    zero = m == 0
    first = torch.zeros_like(x[..., :1]) + 1
    first = torch.cat([first, torch.zeros_like(x[..., 1:])], -1)
    y = torch.where(zero, first, x) / torch.where(zero, 1.0, m).to(x.dtype)
    tiny = m < gradient_floor(x.dtype)
    y = torch.where(tiny, y.detach(), y)
    return y / (y * y).sum(-1, keepdim=True).sqrt(), zero[..., 0]


def without_dust(y: Tensor) -> Tensor:
    """Make entries zero that are far below rounding of 1, with their derivative.

    Subnormal numbers stop the iterations of LAPACK.
    """
    dust = y.detach().abs() < torch.finfo(y.dtype).eps ** 2
    return torch.where(dust, 0.0, y)
