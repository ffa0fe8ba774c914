"""Value checks of group elements: raise, mask, or nothing.

Shapes and dtypes are always checked. Values are read only on request, as that waits for
an accelerator and breaks traced graphs; NumPy arrays ask for it by themselves.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.lie._arrays import F, accepts_numpy
from manifoldkit.linalg.checks import check_finite, check_square, first_index, subscript
from manifoldkit.linalg.elementary import eye_like

VALIDATE = ("raise", "mask", "off")

#: Tells which matrices of a batch are fine.
Test = Callable[[Tensor], Tensor]


def accepts_numpy_checked(function: F) -> F:
    """Like :func:`accepts_numpy`; arrays get ``validate="raise"`` by default."""
    inner = accepts_numpy(function)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(x, np.ndarray) for x in (*args, *kwargs.values())):
            kwargs.setdefault("validate", "raise")
        return inner(*args, **kwargs)

    return cast(F, wrapper)


def positive_determinant(g: Tensor) -> Tensor:
    """Tell which matrices are finite with a positive determinant."""
    finite = torch.isfinite(g).all(-1).all(-1)
    scale = g.abs().amax((-2, -1), keepdim=True)
    safe = torch.where(finite[..., None, None] & (scale > 0), scale, 1.0)
    return finite & (torch.linalg.det(g / safe) > 0)


def positive_definite(p: Tensor) -> Tensor:
    """Tell which matrices are finite and positive definite."""
    finite = torch.isfinite(p).all(-1).all(-1)
    eye = eye_like(p)
    safe = torch.where(finite[..., None, None], (p + p.mT) / 2, eye)
    return finite & (torch.linalg.cholesky_ex(safe)[1] == 0)


def guard(
    g: Tensor, test: Test, expected: str, validate: str, name: str = "g"
) -> tuple[Tensor, Callable[..., Tensor]]:
    """Apply one of the three policies to a batch of matrices.

    Parameters
    ----------
    g : Tensor, shape (..., n, n)
        The matrices, of a native dtype.
    test : callable
        Gives True for a good matrix.
    expected : str
        Ends the error message "g[3] is outside the group: expected ...".
    validate : {"raise", "mask", "off"}
        ``"mask"`` replaces bad matrices by the identity, so that no derivative passes
        through them, and marks their results with NaN.

    Returns
    -------
    g : Tensor
        What to compute with.
    finish : callable
        To be applied to every result, ``(result, event_ndim)``.
    """
    check_choice(validate, VALIDATE, "validate")
    if validate == "off" or g.numel() == 0:
        return g, lambda result, event_ndim=2: result
    if validate == "raise":
        check_finite(g.detach(), name)
        bad = ~test(g.detach())
        if bool(bad.any()):
            index = first_index(bad)
            raise NotOnManifoldError(
                f"{name}{subscript(index)} is outside the set: expected {expected}, "
                f"found determinant {float(torch.linalg.det(g.detach()[index])):.1e}"
            )
        return g, lambda result, event_ndim=2: result
    good = test(g.detach())
    eye = eye_like(g)

    def finish(result: Tensor, event_ndim: int = 2) -> Tensor:
        shown = good.reshape(good.shape + (1,) * event_ndim)
        return torch.where(shown, result, torch.nan)

    return torch.where(good[..., None, None], g, eye), finish


def check_size(g: Tensor, name: str = "g", n: int | None = None) -> Tensor:
    """Check square matrices of at least two rows."""
    check_square(g, name, n)
    if g.shape[-1] < 2:
        raise ValueError(
            f"{name}: expected matrices of shape (..., n, n) with n >= 2, "
            f"found shape {tuple(g.shape)}"
        )
    return g
