"""Ragged clouds as padded ones."""

import torch
from torch import Tensor

from manifoldkit.equivariant._clouds import check_clouds, check_mask, sorted_batch


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
        check_mask(mask, x.shape[:-1])
        x = x.masked_fill(~mask[..., None], 0.0)
        mask = mask if mask.ndim == 2 else mask[None]
    return check_clouds(x, name), mask, None
