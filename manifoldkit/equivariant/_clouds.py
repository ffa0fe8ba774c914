"""Checks of point clouds, their scale, and what exporting asks of them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.compiler import is_compiling

from manifoldkit.linalg.checks import (
    check_finite,
    check_floating,
    check_tensor,
    compute_dtype,
    first_index,
)

_RANGE = 0.4  # coordinates up to this power of the largest number have covariances


def check_clouds(x: Tensor, name: str = "x") -> Tensor:
    """Return clouds as (B, N, 3); raise where they are not finite points."""
    check_floating(x, name)
    if x.ndim not in (2, 3) or x.shape[-1] != 3 or x.shape[-2] == 0:
        raise ValueError(
            f"{name}: expected points of shape (B, N, 3) or (N, 3), "
            f"found shape {tuple(x.shape)}"
        )
    x = x if x.ndim == 3 else x[None]
    return x if is_compiling() else check_finite(x, name)


def is_exporting() -> bool:
    """Whether ``torch.export`` looks on: there only torch's own operations count."""
    tell = getattr(torch.compiler, "is_exporting", None)  # from torch 2.7 on
    return is_compiling() if tell is None else tell()


def has_memory(x: Tensor) -> bool:
    """Whether other libraries can read a tensor: not inside ``torch.func``."""
    try:
        x.data_ptr()
    except RuntimeError:
        return False
    return True


def binary_scale(x: Tensor) -> Tensor:
    """Powers of two near the largest coordinates of clouds (B, N, 3): (B, 1, 1).

    Dividing by them is exact, so squares of what is left neither overflow nor vanish
    and nothing else changes.
    """
    x = x.detach().double()
    if not x.shape[1]:
        return x.new_ones(x.shape[0], 1, 1)
    largest = x.abs().amax((-2, -1), keepdim=True)
    scale = torch.exp2(largest.log2().ceil().clamp(-1000, 1000))
    return torch.where(largest > 0, scale, 1.0)


def check_range(x: Tensor, dtype: torch.dtype, name: str = "x") -> Tensor:
    """Return clouds (B, N, 3); raise where a network of this dtype would overflow."""
    bound = torch.finfo(compute_dtype(dtype)).max ** _RANGE
    if is_compiling() or not x.numel():
        return x
    largest = x.detach().abs().amax((-2, -1))
    if bool((largest > bound).any()):
        i = first_index(largest > bound)[0]
        raise ValueError(
            f"{name}[{i}]: expected coordinates up to {bound:.0e}, whose products "
            f"{str(dtype).removeprefix('torch.')} weights can hold, found "
            f"{float(largest[i]):.1e}; divide clouds by their radius"
        )
    return x


def check_mask(mask: Tensor, shape: Sequence[int], name: str = "mask") -> Tensor:
    """Return a mask; raise unless it holds booleans of this shape."""
    if mask.dtype != torch.bool or mask.shape != tuple(shape):
        raise ValueError(
            f"{name}: expected booleans of shape {tuple(shape)}, found "
            f"{str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}"
        )
    return mask


def check_shape(x: Tensor, shape: Sequence[int], name: str) -> Tensor:
    """Return a tensor; raise unless it has this shape."""
    if x.shape != tuple(shape):
        raise ValueError(
            f"{name}: expected shape {tuple(shape)}, found shape {tuple(x.shape)}"
        )
    return x


def split_normals(x: Tensor, normals: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Take rows of six numbers for points and their normals."""
    if x.ndim < 2 or x.shape[-1] != 6:
        return x, normals
    if normals is not None:
        raise ValueError(
            "x: expected points of three numbers beside normals, "
            f"found shape {tuple(x.shape)}"
        )
    check_floating(x, "x")
    return x[..., :3], x[..., 3:]


def sorted_batch(batch: Tensor, n: int, name: str = "batch") -> Tensor:
    """Return the vector of cloud numbers; raise unless it is sorted and fits."""
    check_tensor(batch, name)
    whole = batch.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8)
    if batch.shape != (n,) or not whole:
        raise ValueError(
            f"{name}: expected {n} integers, one a row of x, found "
            f"{str(batch.dtype).removeprefix('torch.')} of shape {tuple(batch.shape)}"
        )
    if n and (bool((batch[1:] < batch[:-1]).any()) or int(batch[0]) < 0):
        raise ValueError(f"{name}: expected sorted numbers from 0 on")
    return batch


def one_hot_category(
    category: Tensor | None, n: int, n_clouds: int | torch.SymInt
) -> Tensor:
    """Categories as rows; raise where they do not fit the network."""
    if n == 0:
        return torch.zeros(n_clouds, 0)
    if category is None or category.shape != (n_clouds,):
        found = "none" if category is None else f"shape {tuple(category.shape)}"
        raise ValueError(f"category: expected {n_clouds} numbers, found {found}")
    bad = category.is_floating_point()
    if bad or (not is_compiling() and bool(((category < 0) | (category >= n)).any())):
        raise ValueError(f"category: expected integers from 0 to {n - 1}")
    places = torch.arange(n, device=category.device)
    return (category[:, None] == places).long()
