"""Small vectors and matrices as rows of numbers, one a batch element.

Three numbers next to each other are slow to compute with; the same numbers as three
long rows are fast. On the CPU a batch may also be looked at: if none of its elements
needs the care that degenerate ones do, the short formulas are used. Both are the same
functions, and elsewhere (accelerators, traced graphs, functorch) the careful ones run.
Without the short forms the rows "6D to matrix", "SVD to matrix" and "rotation vector to
matrix" of benchmarks/rotations.py take 1.7, 8 and 2.4 times as long.
"""

import torch
from torch import Tensor

from manifoldkit.linalg.transforms import is_transformed


def may_look(x: Tensor) -> bool:
    """Tell whether values cost nothing to read: eager, on the CPU, not transformed."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not is_transformed()
        and x.numel() > 0
    )


def columns(x: Tensor) -> tuple[Tensor, ...]:
    """Entries of (..., k), laid out so that compiled loops over them are vectorized.

    Without it the rows "6D to matrix, compiled" of benchmarks/rotations.py take 1.7
    (float64) and 3 times (float32) as long.
    """
    if not torch.compiler.is_compiling() or x.device.type != "cpu":
        return x.unbind(-1)
    y = rows(x, x.shape[-1])
    # as_strided keeps the compiler from merging the copy into the loop that reads it
    y = y.as_strided(y.shape, y.stride())
    return tuple(row.view(x.shape[:-1]) for row in y.unbind(0))


def rows(x: Tensor, *event: int) -> Tensor:
    """Move the entries to the front: (..., k) to contiguous (*event, N)."""
    flat = x.reshape(-1, *event)
    return flat.permute(*range(1, flat.ndim), 0).contiguous()


def unrows(x: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Inverse of :func:`rows`."""
    return x.permute(-1, *range(x.ndim - 1)).reshape(shape)


def assemble(entries: list[Tensor], *event: int) -> Tensor:
    """Stack entries (...) to a contiguous (..., *event): faster than along the end."""
    stacked = torch.stack(entries).movedim(0, -1)
    return stacked.contiguous().unflatten(-1, event)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products along the first axis."""
    return (a * b).sum(0)


def cross(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Cross products along the first axis."""
    first = torch.mul(a.roll(-1, 0), b.roll(1, 0), out=out)
    return first.addcmul_(a.roll(1, 0), b.roll(-1, 0), value=-1)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Products of (n, n, N) matrices."""
    out = a[:, :1] * b[0]
    for k in range(1, len(b)):
        out.addcmul_(a[:, k : k + 1], b[k])
    return out


def within(x: Tensor, low: float, high: float) -> bool:
    """Tell whether all entries lie between the bounds; False with NaN."""
    least, most = x.aminmax()
    return float(least) >= low and float(most) <= high
