"""Input and output of the rotation functions."""

from torch import Tensor

from manifoldkit.linalg.checks import check_broadcast, check_square, compute_dtype


def check_rotation(r: Tensor, n: int | None = 3) -> Tensor:
    """Check shape and dtype; values are the caller's."""
    check_square(r, "r", n)
    return r.to(compute_dtype(r.dtype))


def check_pair(a: Tensor, b: Tensor) -> None:
    """Check two batches of square matrices of one size that broadcast."""
    check_square(a, "a")
    check_square(b, "b", a.shape[-1])
    check_broadcast(a=(a, 2), b=(b, 2))
