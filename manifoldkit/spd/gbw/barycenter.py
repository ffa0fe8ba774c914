"""Weighted means of the generalized Bures-Wasserstein geometry, many at a time."""

import math
from functools import reduce
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from manifoldkit._checks import check_choice, check_count, check_positive
from manifoldkit.linalg import is_spd, symmetrize
from manifoldkit.linalg.checks import (
    check_broadcast,
    check_spd,
    check_square,
    check_weights,
    compute_dtype,
    maybe_any,
)
from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.factorizations import cholesky
from manifoldkit.spd.gbw.chart import Chart, check_power, represent, restore
from manifoldkit.spd.gbw.mean_derivatives import barycenter
from manifoldkit.spd.gbw.mean_solver import MeanInfo, unrolled
from manifoldkit.spd.gbw.squared_distance import scale_by, unit_size


def _check(x, weights, M, init) -> torch.Size:
    """Check shapes; return the batch shape of the result."""
    check_square(x, "x", hermitian=True)
    if x.ndim < 3 or x.shape[-3] == 0:
        raise ValueError(
            "x: expected matrices of shape (..., n_matrices, n, n) with at least one "
            f"matrix, found shape {tuple(x.shape)}"
        )
    if weights is not None:
        check_weights(weights, x.shape[-3])
    if M is not None:
        check_square(M, "M", x.shape[-1], hermitian=True)
    if init is not None:
        check_square(init, "init", x.shape[-1], hermitian=True)
    shapes = {"x": (x, 3), "weights": (weights, 1), "M": (M, 2), "init": (init, 2)}
    return check_broadcast(
        **{name: (t, ndim) for name, (t, ndim) in shapes.items() if t is not None}
    )


def _check_values(x: Tensor, w: Tensor, M: Tensor | None, power: float) -> None:
    """Raise where the mean does not exist."""
    check_spd(x, "x", semidefinite=power > 0, hermitian=True)
    if M is not None:
        check_spd(M, "M", hermitian=True)
    if not bool(is_spd((w[..., None, None] * x).sum(-3), hermitian=True).all()):
        raise ValueError(
            "x: all matrices of a mean are singular in one direction, expected a "
            "positive definite mean"
        )


def _skip_zero_weights(x: Tensor, w: Tensor) -> Tensor:
    """Put the identity where a weight is zero and the matrix is no SPD matrix."""
    zero = w == 0
    if not maybe_any(zero):
        return x
    padding = (zero & ~is_spd(x, hermitian=True))[..., None, None]
    return torch.where(padding, eye_like(x), x)


class _Sizes(NamedTuple):
    """Powers of 2 that bring the matrices of a mean near one, see :func:`unit_size`."""

    given: Tensor  # (..., 1), of the matrices
    flat: Tensor  # (..., 1), of what the chart makes of them

    def to_flat(self, x: Tensor, chart: Chart) -> Tensor:
        return scale_by(chart.to_flat(scale_by(x, self.given)), self.flat)

    def from_flat(self, y: Tensor, chart: Chart) -> Tensor:
        mean = chart.from_flat(scale_by(y, 1 / self.flat[..., 0]))
        return scale_by(mean, 1 / self.given[..., 0])


def _sizes(x: Tensor, w: Tensor, chart: Chart) -> _Sizes:
    """Measure the largest matrix of every mean, before and after the chart."""

    def largest(y: Tensor) -> Tensor:
        size = torch.where(w > 0, unit_size(y), 0.0)
        return size.amax(-1, keepdim=True)

    given = largest(x)
    if chart.factor is None and chart.power == 1:
        return _Sizes(given, torch.ones_like(given))
    return _Sizes(given, largest(chart.to_flat(scale_by(x, given)).detach()))


@overload
def gbw_mean(
    x: Tensor,
    weights: Tensor | None = ...,
    M: Tensor | None = ...,
    power: float = ...,
    tol: float = ...,
    max_iter: int = ...,
    *,
    init: Tensor | None = ...,
    grad: str = ...,
    return_info: Literal[False] = ...,
    validate: bool = ...,
) -> Tensor: ...


@overload
def gbw_mean(
    x: Tensor,
    weights: Tensor | None = ...,
    M: Tensor | None = ...,
    power: float = ...,
    tol: float = ...,
    max_iter: int = ...,
    *,
    init: Tensor | None = ...,
    grad: str = ...,
    return_info: Literal[True],
    validate: bool = ...,
) -> tuple[Tensor, MeanInfo]: ...


def gbw_mean(
    x: Tensor,
    weights: Tensor | None = None,
    M: Tensor | None = None,
    power: float = 1.0,
    tol: float = 1e-10,
    max_iter: int = 100,
    *,
    init: Tensor | None = None,
    grad: str = "implicit",
    return_info: bool = False,
    validate: bool = False,
) -> Tensor | tuple[Tensor, MeanInfo]:
    r"""Weighted mean, the minimizer of :math:`\sum_i w_i d_\theta(G, X_i)^2`.

    Many means at once over the leading dimensions: problems that have converged leave
    the iteration. Ragged groups are padded with weight 0; what such a matrix holds does
    not matter.

    Parameters
    ----------
    x : Tensor, shape (..., n_matrices, n, n)
        SPD matrices; with ``power > 0`` some may be singular.
    weights : Tensor, shape (..., n_matrices), optional
        Non-negative weights, normalized to sum 1; equal by default.
    M : Tensor, shape (..., n, n), optional
        Metric matrix, one a mean; default the identity.
    power : float, default=1
        Deformation, see :func:`~manifoldkit.spd.gbw_distance`.
    tol : float, default=1e-10
        Bound of :math:`|\sum_i w_i T_i - I|_F / \sqrt n`, which is free of units. An
        iteration that stalls above it at the rounding level of the dtype and condition
        number counts as converged.
    max_iter : int, default=100
        Largest number of steps.
    init : Tensor, shape (..., n, n), optional
        Start, default the weighted arithmetic mean.
    grad : {"implicit", "unrolled"}
        "implicit": Newton-CG and the derivative of the exact mean in x, weights and M
        (first order). "unrolled": fixed-point steps recorded by automatic
        differentiation, for a few steps or for higher derivatives; stopping at
        ``max_iter`` is then no reason for a warning.
    return_info : bool, default=False
        Return the :class:`MeanInfo` too.
    validate : bool, default=False
        Raise for a matrix that is not SPD.

    Returns
    -------
    Tensor, shape (..., n, n)
        And the :class:`MeanInfo` with ``return_info``.

    Raises
    ------
    TypeError, ValueError
        No matrix, shapes that do not fit, bad weights or settings; with ``validate``,
        the first bad matrix.

    Warns
    -----
    ConvergenceWarning
        A mean is not converged after ``max_iter`` steps; it is returned all the same.

    References
    ----------
    P. Alvarez-Esteban et al., "A fixed-point approach to barycenters in Wasserstein
    space", J. Math. Anal. Appl. 441, 2016.

    Examples
    --------
    >>> x = torch.diag_embed(torch.tensor([[1., 4.], [9., 4.]]))
    >>> gbw_mean(x).round(decimals=4)
    tensor([[4., 0.],
            [0., 4.]])
    """
    batch = _check(x, weights, M, init)
    power = check_power(power)
    check_positive(tol, "tol")
    check_count(max_iter, "max_iter")
    check_choice(grad, ("implicit", "unrolled"), "grad")
    given = [t.dtype for t in (x, weights, M) if t is not None]
    dtype = reduce(torch.promote_types, given)
    work = compute_dtype(dtype.to_real() if dtype.is_complex else dtype)
    count = x.shape[-3]
    w = x.new_ones(count, dtype=work) if weights is None else weights.to(work)
    w = (w / w.sum(-1, keepdim=True)).expand(*batch, count)
    x = _skip_zero_weights(x, w)
    if validate:
        _check_values(x, w, M, power)
    factor = None if M is None else cholesky(symmetrize(represent(M, dtype)))
    chart = Chart(factor, power)
    # M has one matrix a mean: make room for the dimension of the matrices
    inner = Chart(None if factor is None else factor[..., None, :, :], power)
    x = symmetrize(represent(x, dtype))
    sizes = _sizes(x, w, inner)
    flat = sizes.to_flat(x, inner)
    n = flat.shape[-1]
    flat = flat.expand(*batch, count, n, n)
    if init is None:
        start = (w[..., None, None] * flat).sum(-3)
    else:
        start = sizes.to_flat(represent(init, dtype)[..., None, :, :], inner)[
            ..., 0, :, :
        ]
    problems = math.prod(batch)
    start = start.expand(*batch, n, n).reshape(problems, n, n)
    flat, w = flat.reshape(problems, count, n, n), w.reshape(problems, count)
    if grad == "unrolled":
        g, info = unrolled(flat, w, start, tol, max_iter)
    else:
        g, info = barycenter(flat, w, start, tol, max_iter, init is not None)
    mean = sizes.from_flat(g.reshape(*batch, n, n), chart)
    mean = restore(mean, dtype)
    if not return_info:
        return mean
    return mean, MeanInfo(*(t.reshape(batch) for t in info))
