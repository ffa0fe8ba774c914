"""Argument checks and tolerances: one place for every threshold and error text.

Checks read values, so on an accelerator they synchronize; functions of this package
therefore validate shapes and dtypes always and values only where a user asks
(``validate=True``) or where an estimator takes data in.
"""

from functools import reduce

import torch
from torch import Tensor

from manifoldkit._checks import check_choice as check_choice
from manifoldkit._checks import check_count as check_count
from manifoldkit._checks import check_counts as check_counts
from manifoldkit._checks import check_positive as check_positive
from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.transforms import is_vmapped

_HALF = (torch.float16, torch.bfloat16)

#: Largest relative asymmetry that is taken for rounding and removed by symmetrizing.
SYMMETRY_RTOL = {
    torch.float64: 1e-6,
    torch.float32: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in: float32 for half precision, else the same.

    >>> compute_dtype(torch.bfloat16), compute_dtype(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.float32 if dtype in _HALF else dtype


def tolerance(dtype: torch.dtype, scale: float = 1.0) -> float:
    """Return ``scale`` times the rounding unit of the dtype that is computed in.

    >>> tolerance(torch.float64, 4) == 4 * torch.finfo(torch.float64).eps
    True
    """
    return scale * torch.finfo(compute_dtype(dtype)).eps


def semidefinite_floor(s: Tensor) -> Tensor:
    """Return how far below zero rounding may have taken an eigenvalue that is zero.

    Parameters
    ----------
    s : Tensor, shape (..., n)
        Eigenvalues.

    Returns
    -------
    Tensor, shape (..., 1)
        ``-8 n eps`` times the largest modulus.
    """
    size = s.abs().amax(-1, keepdim=True)
    return -s.shape[-1] * tolerance(s.dtype, 8) * size


def must_not_look(x: Tensor) -> bool:
    """Tell where reading a value would wait for the accelerator or break a graph."""
    return x.device.type != "cpu" or torch.compiler.is_compiling()


def maybe_any(mask: Tensor) -> bool:
    """Tell whether any entry is true; under ``torch.func.vmap``, that some may be."""
    try:
        return bool(mask.any())
    except RuntimeError:  # there values cannot be read
        return True


def known_any(mask: Tensor) -> bool | None:
    """Tell whether any entry is true, or None where values cannot be read.

    That is while a graph is traced by ``torch.compile`` or ``torch.export``, and under
    ``torch.func.vmap``.

    >>> known_any(torch.tensor([False, True]))
    True
    """
    if torch.compiler.is_compiling():
        return None
    try:
        return bool(mask.any())
    except RuntimeError:
        return None


def _found(x: object) -> str:
    if isinstance(x, Tensor):
        return f"a {str(x.dtype).removeprefix('torch.')} tensor of shape {_shape(x)}"
    return f"{type(x).__name__} {x!r}"[:80]


def _shape(x: Tensor) -> str:
    return str(tuple(x.shape))


def subscript(index: tuple[int, ...]) -> str:
    """Return an index as it stands behind a name.

    >>> subscript((2, 0)), subscript(())
    ('[2, 0]', '')
    """
    return f"[{', '.join(map(str, index))}]" if index else ""


def first_index(mask: Tensor) -> tuple[int, ...]:
    """Return the first index at which a boolean tensor is true.

    >>> first_index(torch.tensor([[False, False], [True, True]]))
    (1, 0)
    """
    return tuple(int(i) for i in mask.nonzero()[0])


def check_floating(x: Tensor, name: str = "x") -> Tensor:
    """Raise ``TypeError`` unless ``x`` is a tensor of real floating-point numbers."""
    if check_tensor(x, name).is_complex():
        raise TypeError(f"{name}: real matrices only, found {_found(x)}")
    if not x.is_floating_point():
        raise TypeError(f"{name}: expected floating-point numbers, found {_found(x)}")
    return x


def check_tensor(x: Tensor, name: str = "x") -> Tensor:
    """Raise ``TypeError`` unless ``x`` is a tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch tensor, found {_found(x)}")
    return x


def check_last(x: Tensor, sizes: tuple[int | str, ...], name: str = "x") -> Tensor:
    """Raise unless ``x`` is floating point and its last dimensions have these sizes.

    Parameters
    ----------
    x : Tensor, shape (..., *sizes)
        What to check.
    sizes : tuple of int or str
        A letter stands for any size.
    name : str
        The argument's name, for the message.

    Examples
    --------
    >>> check_last(torch.ones(2, 5, 3), ("K", 3)).shape
    torch.Size([2, 5, 3])
    """
    check_floating(x, name)
    found = x.shape[-len(sizes) :]
    fits = all(isinstance(s, str) or s == f for s, f in zip(sizes, found, strict=False))
    if x.ndim < len(sizes) or not fits:
        wanted = ", ".join(map(str, sizes))
        raise ValueError(f"{name}: expected shape (..., {wanted}), found {_shape(x)}")
    return x


def check_broadcast(**batches: tuple[Tensor, int]) -> torch.Size:
    """Return the shape that tensors broadcast to, without so many last dimensions each.

    Raises ``ValueError`` where they do not.

    Examples
    --------
    >>> check_broadcast(a=(torch.ones(4, 3, 3), 2), v=(torch.ones(3), 1))
    torch.Size([4])
    """
    shapes = [x.shape[: x.ndim - ndim] for x, ndim in batches.values()]
    if all(shape == shapes[0] for shape in shapes):
        return shapes[0]
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        found = " and ".join(_shape(x) for x, _ in batches.values())
        raise ValueError(
            f"{', '.join(batches)}: expected batch shapes that broadcast, found {found}"
        ) from None


def common_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors in the dtype that holds all of them and is computed in.

    >>> [x.dtype for x in common_dtype(torch.ones(1), torch.ones(1).double())]
    [torch.float64, torch.float64]
    """
    dtype = compute_dtype(reduce(torch.promote_types, (x.dtype for x in tensors)))
    return tuple(x.to(dtype) for x in tensors)


def check_square(
    x: Tensor, name: str = "x", n: int | None = None, *, hermitian: bool = False
) -> Tensor:
    """Raise unless ``x`` is a floating-point tensor of shape ``(..., n, n)``.

    Parameters
    ----------
    x : Tensor
        The value to look at.
    name : str
        The argument's name, for the message.
    n : int, optional
        The size that is expected.
    hermitian : bool, default=False
        Accept complex numbers too.

    Raises
    ------
    TypeError
        Not a tensor, or not of a (real) floating-point dtype.
    ValueError
        Not square, or of another size.
    """
    if not (hermitian and isinstance(x, Tensor) and x.is_complex()):
        check_floating(x, name)
    elif x.dtype == torch.complex32:
        raise TypeError(f"{name}: expected complex64 or complex128, found {_found(x)}")
    if x.ndim < 2 or x.shape[-1] != x.shape[-2] or x.shape[-1] == 0:
        raise ValueError(
            f"{name}: expected square matrices of shape (..., n, n), "
            f"found shape {_shape(x)}"
        )
    if n is not None and x.shape[-1] != n:
        raise ValueError(
            f"{name}: expected matrices of shape (..., {n}, {n}), "
            f"found shape {_shape(x)}"
        )
    return x


def check_finite(x: Tensor, name: str = "x", event_ndim: int = 2) -> Tensor:
    """Raise ``ValueError`` naming the first entry of the batch that is not finite.

    Parameters
    ----------
    x : Tensor, shape (*batch, *event)
        The values.
    name : str
        The argument's name, for the message.
    event_ndim : int, default=2
        Number of trailing dimensions that make one item of the batch.

    Under ``torch.func.vmap``, where no value can be read, nothing is checked.
    """
    if is_vmapped():
        return x
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        bad = ~finite
        if event_ndim:
            bad = bad.flatten(-event_ndim).any(-1)
        where = subscript(first_index(bad))
        raise ValueError(f"{name}{where} is not finite: it contains NaN or infinity")
    return x


def _asymmetry(x: Tensor) -> Tensor:
    scale = x.abs().amax((-2, -1)).clamp_min(torch.finfo(x.dtype).tiny)
    return (x - x.mH).abs().amax((-2, -1)) / scale


def _symmetry_rtol(x: Tensor, rtol: float | None) -> float:
    if rtol is not None:
        return rtol
    return SYMMETRY_RTOL[x.dtype.to_real() if x.is_complex() else x.dtype]


def check_symmetric(
    x: Tensor, name: str = "x", rtol: float | None = None, *, hermitian: bool = False
) -> Tensor:
    """Raise ``ValueError`` where ``x`` is asymmetric beyond rounding.

    The measure is ``max|x - x'| / max|x|`` per matrix, the bound
    :data:`SYMMETRY_RTOL` of the dtype unless ``rtol`` is given. With ``hermitian``,
    complex matrices are accepted and compared with their adjoint.
    """
    check_square(x, name, hermitian=hermitian)
    if x.numel() == 0 or is_vmapped():
        return x
    rtol = _symmetry_rtol(x, rtol)
    gap = _asymmetry(x)
    bad = gap > rtol
    if bool(bad.any()):
        index = first_index(bad)
        raise NotOnManifoldError(
            f"{name}{subscript(index)} is not {_kind(x)}: max|x - x'| is "
            f"{float(gap[index]):.1e} of max|x|, expected at most {rtol:.0e}"
        )
    return x


def _kind(x: Tensor) -> str:
    return "Hermitian" if x.is_complex() else "symmetric"


def is_spd(x: Tensor, rtol: float | None = None, *, hermitian: bool = False) -> Tensor:
    """Tell which matrices are finite, symmetric and positive definite.

    Positive definite means that the Cholesky factorization succeeds; nothing is
    raised, whatever the values.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        Matrices.
    rtol : float, optional
        Relative asymmetry to accept; default :data:`SYMMETRY_RTOL` of the dtype.
    hermitian : bool, default=False
        Accept complex matrices, which have to be Hermitian.

    Returns
    -------
    Tensor of bool, shape (...)

    Raises
    ------
    TypeError, ValueError
        Not a floating-point tensor of square matrices.

    Examples
    --------
    >>> eye = torch.eye(2)
    >>> is_spd(torch.stack([eye, -eye, eye * torch.nan]))
    tensor([ True, False, False])
    """
    check_square(x, hermitian=hermitian)
    rtol = _symmetry_rtol(x, rtol)
    x = x.detach().to(compute_dtype(x.dtype))
    if x.numel() == 0:
        return torch.ones(x.shape[:-2], dtype=torch.bool, device=x.device)
    finite = torch.isfinite(x).flatten(-2).all(-1)
    eye = eye_like(x)
    x = torch.where(finite[..., None, None], x, eye)
    _, info = torch.linalg.cholesky_ex((x + x.mH) / 2)
    return finite & (_asymmetry(x) <= rtol) & (info == 0)


def check_spd(
    x: Tensor,
    name: str = "x",
    rtol: float | None = None,
    semidefinite: bool = False,
    *,
    hermitian: bool = False,
) -> Tensor:
    """Raise unless every matrix is finite, symmetric and positive definite.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        Matrices.
    name : str
        The argument's name, for the message.
    rtol : float, optional
        Relative asymmetry to accept; default :data:`SYMMETRY_RTOL` of the dtype.
    semidefinite : bool, default=False
        Accept singular matrices (smallest eigenvalue down to rounding below zero).
    hermitian : bool, default=False
        Accept complex matrices, which have to be Hermitian.

    Returns
    -------
    Tensor
        ``x`` itself.

    Raises
    ------
    TypeError
        Not a tensor of real floating-point numbers.
    ValueError
        The shape is not (..., n, n); or (as ``NotOnManifoldError``) the first bad
        matrix, its smallest eigenvalue and what to do.

    Examples
    --------
    >>> check_spd(torch.stack([torch.eye(2), torch.tensor([[1., 0.], [0., -1.]])]), "c")
    Traceback (most recent call last):
    ...
    manifoldkit.exceptions.NotOnManifoldError: c[1] is not positive definite: \
smallest eigenvalue -1.0e+00, largest 1.0e+00; use a shrinkage estimator or add c * I
    """
    check_square(x, name, hermitian=hermitian)
    y = x.detach().to(compute_dtype(x.dtype))
    check_finite(y, name)
    check_symmetric(x.detach(), name, rtol, hermitian=hermitian)
    if y.numel() == 0 or is_vmapped():
        return x
    y = (y + y.mH) / 2
    if semidefinite:
        s = torch.linalg.eigvalsh(y)
        bad = (s < semidefinite_floor(s)).any(-1)
    else:
        bad = torch.linalg.cholesky_ex(y)[1] != 0
    if bool(bad.any()):
        index = first_index(bad)
        s = torch.linalg.eigvalsh(y[index])
        kind = "positive semidefinite" if semidefinite else "positive definite"
        raise NotOnManifoldError(
            f"{name}{subscript(index)} is not {kind}: smallest eigenvalue "
            f"{float(s[0]):.1e}, largest {float(s[-1]):.1e}; "
            "use a shrinkage estimator or add c * I"
        )
    return x


def check_weights(weights: Tensor, length: int, name: str = "weights") -> Tensor:
    """Raise ``ValueError`` unless weights are finite, non-negative, not all zero.

    Parameters
    ----------
    weights : Tensor, shape (..., length)
        One weight an item.
    length : int
        Number of items.
    name : str
        The argument's name, for the message.
    """
    check_floating(weights, name)
    if weights.ndim == 0 or weights.shape[-1] != length:
        raise ValueError(
            f"{name}: expected shape (..., {length}), one weight an item, "
            f"found {_shape(weights)}"
        )
    if is_vmapped():
        return weights
    w = weights.detach()
    check_finite(w, name, event_ndim=0)
    if bool((w < 0).any()):
        index = first_index(w < 0)
        raise ValueError(
            f"{name}{subscript(index)} is {float(w[index])}: expected no negative "
            "weight"
        )
    if w.numel() and bool((w.sum(-1) == 0).any()):
        raise ValueError(f"{name}: all weights are zero, expected a positive sum")
    return weights
