"""Kernels of geodesic distance."""

import warnings
from typing import overload

import numpy as np
import torch
from geoopt.manifolds.base import Manifold
from numpy.typing import ArrayLike
from torch import Tensor

from manifoldkit._checks import check_choice, check_positive
from manifoldkit.exceptions import ConvergenceWarning
from manifoldkit.manifolds import Euclidean, PositiveReals, pairwise_distance
from manifoldkit.manifolds.points import check_manifold_argument
from manifoldkit.manifolds.spd.flat import FlatSPD


@overload
def geodesic_kernel(
    manifold: Manifold,
    x: Tensor,
    y: Tensor | None = ...,
    kind: str = ...,
    gamma: float | str = ...,
    *,
    psd: str = ...,
) -> Tensor: ...


@overload
def geodesic_kernel(
    manifold: Manifold,
    x: ArrayLike,
    y: ArrayLike | None = ...,
    kind: str = ...,
    gamma: float | str = ...,
    *,
    psd: str = ...,
) -> np.ndarray: ...


def geodesic_kernel(
    manifold: Manifold,
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike | None = None,
    kind: str = "laplace",
    gamma: float | str = "median",
    *,
    psd: str = "warn",
) -> Tensor | np.ndarray:
    r"""Kernel matrix :math:`e^{-\gamma d}` or :math:`e^{-\gamma d^2}` of geodesic d.

    Parameters
    ----------
    manifold : geoopt.Manifold
        Manifold with ``dist``.
    x : Tensor or array-like, shape (n, *point)
        Points.
    y : Tensor or array-like, shape (m, *point), optional
        Other points; default x.
    kind : {"laplace", "gauss"}
        :math:`e^{-\gamma d}` or :math:`e^{-\gamma d^2}`.
    gamma : float or "median"
        Rate; "median" is one over the median distance (squared, for "gauss") of
        different points of this call. Pass a number to use one kernel for training and
        test data.
    psd : {"warn", "error", "clip", "ignore"}
        What to do where the kernel is not positive semidefinite. "clip" sets negative
        eigenvalues to zero.

    Returns
    -------
    Tensor or ndarray, shape (n, m)
        Of the kind of x; with gradient for tensors.

    Raises
    ------
    TypeError, ValueError
        Arguments that do not fit; an indefinite matrix under ``psd="error"``; "error"
        or "clip" with y, where there is no square matrix.

    Warns
    -----
    ConvergenceWarning
        ``psd="warn"`` and the matrix has a negative eigenvalue; or, with y, a "gauss"
        kernel on a curved metric.

    Notes
    -----
    The Gaussian kernel is positive definite for every gamma on flat metrics and on no
    others [1]_: Euclidean space, log-Euclidean and log-Cholesky SPD matrices. The
    Laplacian one also is on spheres and hyperbolic spaces. Elsewhere the matrix of the
    points at hand decides.

    References
    ----------
    .. [1] A. Feragen, F. Lauze, S. Hauberg, "Geodesic exponential kernels: when
       curvature and linearity conflict", CVPR 2015.

    Examples
    --------
    >>> from manifoldkit.manifolds import PositiveReals
    >>> geodesic_kernel(PositiveReals(), torch.tensor([1., torch.e]), gamma=1.0)
    tensor([[1.0000, 0.3679],
            [0.3679, 1.0000]])
    """
    check_manifold_argument(manifold)
    check_choice(kind, ("laplace", "gauss"), "kind")
    check_choice(psd, ("warn", "error", "clip", "ignore"), "psd")
    if not isinstance(x, Tensor):
        other = None if y is None else _to_tensor(y, "y")
        found = geodesic_kernel(
            manifold, _to_tensor(x, "x"), other, kind, gamma, psd=psd
        )
        return found.numpy()
    if y is not None and not isinstance(y, Tensor):
        y = _to_tensor(y, "y").to(x)
    if y is not None and psd in ("error", "clip"):
        raise ValueError(f'psd: {psd!r} needs a square matrix, without y; use "warn"')
    d = pairwise_distance(manifold, x, y)
    rate = _rate(d, y is None, gamma, kind)
    k = torch.exp(-rate * (d if kind == "laplace" else d.square()))
    if psd == "ignore" or isinstance(manifold, Euclidean | PositiveReals | FlatSPD):
        return k
    if y is None:
        return _definite(k, manifold, kind, psd)
    if kind == "gauss":
        warnings.warn(
            f"kind: the Gaussian kernel is positive definite on flat metrics only, "
            f"not on {manifold} for every gamma",
            ConvergenceWarning,
            stacklevel=2,
        )
    return k


def _to_tensor(x: ArrayLike, name: str) -> Tensor:
    try:
        array = np.asarray(x)
        if array.dtype.kind not in "fiu":
            raise ValueError
    except ValueError:
        raise TypeError(f"{name}: expected real points, found {x!r}"[:200]) from None
    return torch.tensor(array, dtype=torch.float64)


def _rate(d: Tensor, square: bool, gamma: float | str, kind: str) -> float | Tensor:
    if not isinstance(gamma, str):
        return check_positive(gamma, "gamma")
    check_choice(gamma, ("median",), "gamma")
    if square:
        i, j = torch.triu_indices(d.shape[-2], d.shape[-1], 1)
        d = d[..., i, j]
    values = d.detach().flatten()
    if values.numel() == 0:
        return 1.0
    median = float(np.median(values.cpu().numpy()))
    if not median > 0:
        raise ValueError(
            'gamma: "median" needs different points, found a median distance of zero'
        )
    return 1 / median if kind == "laplace" else 1 / median**2


def _definite(k: Tensor, manifold: Manifold, kind: str, psd: str) -> Tensor:
    if 0 in k.shape:
        return k
    s, vectors = torch.linalg.eigh(k if psd == "clip" else k.detach())
    least = float(s[..., 0].min())
    if least >= -k.shape[-1] * 8 * torch.finfo(k.dtype).eps * float(s.max()):
        return k
    if psd == "clip":
        return (vectors * s.clamp_min(0)[..., None, :]) @ vectors.mT
    text = (
        f"the {kind} kernel of these points on {manifold} is not positive "
        f"semidefinite: smallest eigenvalue {least:.2g}"
    )
    if psd == "error":
        raise ValueError(f"psd: {text}")
    warnings.warn(
        f'{text}; raise gamma, take kind="laplace" or psd="clip"',
        ConvergenceWarning,
        stacklevel=3,
    )
    return k
