"""Checks of point clouds, and ragged clouds as padded ones."""

import torch
import torch.nn.functional as F
from torch import Tensor

from manifoldkit.linalg.checks import check_finite, check_floating, check_tensor


def check_clouds(x: Tensor, name: str = "x") -> Tensor:
    """Return clouds as (B, N, 3); raise where they are not finite points."""
    check_floating(x, name)
    if x.ndim not in (2, 3) or x.shape[-1] != 3 or x.shape[-2] == 0:
        raise ValueError(
            f"{name}: expected points of shape (B, N, 3) or (N, 3), "
            f"found shape {tuple(x.shape)}"
        )
    x = x if x.ndim == 3 else x[None]
    return check_finite(x, name)


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


def pad_clouds(
    x: Tensor, batch: Tensor, n_clouds: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Lay ragged clouds out as a dense tensor.

    Parameters
    ----------
    x : Tensor, shape (N, C)
        Rows of all clouds.
    batch : Tensor of int, shape (N,)
        Cloud of each row, sorted.
    n_clouds : int, optional
        Number of clouds, if the last ones may be empty.

    Returns
    -------
    dense : Tensor, shape (n_clouds, largest, C)
        Rows, then zeros.
    mask : Tensor of bool, shape (n_clouds, largest)
        Where there is a row.
    offsets : Tensor of int64, shape (n_clouds,)
        Position in ``x`` of the first row of each cloud.

    Raises
    ------
    TypeError
        Not a tensor.
    ValueError
        Cloud numbers that are not integers, one a row, sorted.

    Examples
    --------
    >>> dense, mask, offsets = pad_clouds(torch.ones(3, 3), torch.tensor([0, 0, 1]))
    >>> dense.shape, mask.tolist(), offsets.tolist()
    (torch.Size([2, 2, 3]), [[True, True], [True, False]], [0, 2])
    """
    if not isinstance(x, Tensor) or x.ndim == 0:
        raise TypeError(f"x: expected a tensor of shape (N, C), found {x!r}"[:80])
    sorted_batch(batch, len(x))
    sizes = torch.bincount(batch, minlength=n_clouds or 0)
    offsets = sizes.cumsum(0) - sizes
    largest = int(sizes.max()) if len(sizes) else 0
    mask = torch.arange(largest, device=x.device) < sizes[:, None]
    dense = x.new_zeros(len(sizes), largest, *x.shape[1:])
    dense[mask] = x
    return dense, mask, offsets


def as_clouds(
    x: Tensor,
    mask: Tensor | None,
    batch: Tensor | None,
    name: str = "x",
    n_clouds: int | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Bring dense, masked or ragged clouds to (clouds, mask, offsets)."""
    if batch is not None:
        if x.ndim != 2 or mask is not None:
            raise ValueError(
                f"{name}: expected points of shape (N, 3) and no mask beside batch, "
                f"found shape {tuple(x.shape)}"
            )
        check_clouds(x, name)
        return pad_clouds(x, batch, n_clouds)
    if mask is not None:
        if mask.shape != x.shape[:-1] or mask.dtype != torch.bool:
            raise ValueError(
                f"mask: expected booleans of shape {tuple(x.shape[:-1])}, found "
                f"{str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}"
            )
        x = x.masked_fill(~mask[..., None], 0.0)
        mask = mask if mask.ndim == 2 else mask[None]
    return check_clouds(x, name), mask, None


def one_hot_category(category: Tensor | None, n: int, n_clouds: int) -> Tensor:
    """Categories as rows; raise where they do not fit the network."""
    if n == 0:
        return torch.zeros(n_clouds, 0)
    if category is None or category.shape != (n_clouds,):
        found = "none" if category is None else f"shape {tuple(category.shape)}"
        raise ValueError(f"category: expected {n_clouds} numbers, found {found}")
    if category.is_floating_point() or bool(((category < 0) | (category >= n)).any()):
        raise ValueError(f"category: expected integers from 0 to {n - 1}")
    return F.one_hot(category.long(), n)
