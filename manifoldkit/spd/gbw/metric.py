r"""Generalized Bures-Wasserstein (GBW) geometry of SPD matrices.

With a metric matrix M (SPD) and a power :math:`\theta \ne 0`

.. math::
    d_\theta(X, Y) = d_M(X^\theta, Y^\theta) / |\theta|, \quad
    d_M(X, Y)^2 = \operatorname{tr} M^{-1}X + \operatorname{tr} M^{-1}Y
        - 2 \operatorname{tr} (M^{-1} X M^{-1} Y)^{1/2},

the pullback of the Bures-Wasserstein (BW) metric
:math:`\langle U, V \rangle_P = \tfrac12 \operatorname{tr}(\mathcal L_P(U) V)`, where
:math:`L = \mathcal L_P(U)` solves ``P L + L P = U``, by
:math:`X \mapsto C^{-1} X^\theta C^{-\top}` with the Cholesky factor ``M = C C'`` (any
factor gives the same geometry). Everything is computed in that flat picture from the
transport map ``T``, the SPD solution of ``T G T = X``:

.. math::
    \log_G X = TG + GT - 2G, \quad \exp_G V = (I + L) G (I + L), \quad
    \gamma(t) = S_t G S_t,\ S_t = (1 - t) I + t T.

Shared conventions: tensors of shape (..., n, n) whose batch dimensions broadcast, also
empty; float32 and float64 are kept and half precision is computed in float32; inputs
are symmetrized; gradients are exact in every tensor argument, M included. Complex
Hermitian matrices are computed as real ones of twice the size; the rest of the text
says "symmetric" for both. Without
``validate=True`` values are not looked at, and a matrix outside the domain gives NaN
for itself alone.

References
----------
A. Han, B. Mishra, P. Jawanpuria, J. Gao, "Learning with symmetric positive definite
matrices via generalized Bures-Wasserstein geometry", GSI 2023.
R. Bhatia, T. Jain, Y. Lim, "On the Bures-Wasserstein distance between positive
definite matrices", Expositiones Mathematicae 37, 2019.
"""

import torch
from torch import Tensor

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.linalg import (
    polar,
    solve_lyapunov,
    sqrtm,
    symmetrize,
)
from manifoldkit.linalg.checks import (
    check_broadcast,
    check_floating,
    first_index,
    maybe_any,
    must_not_look,
    tolerance,
)
from manifoldkit.linalg.elementary import eye_like, trace
from manifoldkit.linalg.factorizations import cholesky, eigvalsh
from manifoldkit.spd.conditioning import seems_clear
from manifoldkit.spd.gbw.chart import prepare, restore
from manifoldkit.spd.gbw.squared_distance import flatten_to_unit, squared_distance


def transport(base: Tensor, point: Tensor, accurate: bool = True) -> Tensor:
    """Return T with T G T = X and the Cholesky factor of G is used once.

    The accurate route takes the polar factor of ``chol(G)' chol(X)`` and keeps the
    small eigenvalues, which squaring loses; the fast one the root of ``L' X L``.
    """
    factor = cholesky(base)
    half = torch.linalg.solve_triangular(
        factor.mT, root_in_frame(factor, point, accurate), upper=True
    )
    return symmetrize(torch.linalg.solve_triangular(factor.mT, half.mT, upper=True))


def root_in_frame(factor: Tensor, point: Tensor, accurate: bool) -> Tensor:
    """(L' X L)^(1/2)."""
    if not accurate:
        return sqrtm(factor.mT @ point @ factor)
    second, info = torch.linalg.cholesky_ex(point)
    good = (info == 0)[..., None, None]
    if not must_not_look(point) and not maybe_any(~good):
        return polar(factor.mT @ second).p
    eye = eye_like(point)
    regular = polar(factor.mT @ torch.where(good, second, eye)).p
    singular = sqrtm(factor.mT @ torch.where(good, eye, point) @ factor)
    return torch.where(good, regular, singular)


def gbw_distance(
    a: Tensor,
    b: Tensor,
    M: Tensor | None = None,
    power: float = 1.0,
    *,
    squared: bool = False,
    validate: bool = False,
) -> Tensor:
    r"""Distance :math:`d_\theta(a, b)` of the generalized Bures-Wasserstein geometry.

    Costs one Cholesky factorization and the eigenvalues of ``L' X L`` for a pair;
    entries that lose digits to cancellation are computed again as
    :math:`\min_Q |K_a - K_b Q|` over orthogonal Q, so that the absolute error stays
    near 1e-15 in float64 for nearly equal matrices of unit scale.

    Parameters
    ----------
    a, b : Tensor, shape (..., n, n)
        SPD matrices; singular positive semidefinite ones are allowed with
        ``power > 0``. For all pairs of two sets give shapes (N, 1, n, n) and (K, n, n).
    M : Tensor, shape (..., n, n), optional
        SPD metric matrix, default the identity (Bures-Wasserstein). ``M = a`` makes
        the metric at ``a`` a quarter of the affine-invariant one.
    power : float, default=1
        Deformation; towards 0 (with M = I) half the log-Euclidean distance.
    squared : bool, default=False
        Return the squared distance, whose gradient is smooth everywhere.
    validate : bool, default=False
        Raise for a matrix that is not SPD.

    Returns
    -------
    Tensor, shape (...)
        The gradient of the distance where ``a == b`` is 0.

    Raises
    ------
    TypeError
        Not floating-point tensors.
    ValueError
        Shapes that do not fit, a power near 0; with ``validate``, the first bad matrix.

    References
    ----------
    Han et al. 2023, eq. 3; Bhatia et al. 2019, theorem 1.

    Examples
    --------
    >>> gbw_distance(torch.diag(torch.tensor([4., 1.])), torch.eye(2))
    tensor(1.)
    """
    (a, b), chart, dtype = prepare(
        {"a": (a, "psd"), "b": (b, "psd")}, M, power, validate, hermitian=True
    )
    out = dtype.to_real() if dtype.is_complex else dtype
    # whiten before broadcasting: one solve a matrix, not one a pair
    (a, size_a), (b, size_b) = (flatten_to_unit(chart, x) for x in (a, b))
    size = torch.maximum(size_a, size_b)
    size_a, size_b = size_a / size, size_b / size
    # the real representation has every eigenvalue twice
    unit = power**2 * (2 if dtype.is_complex else 1)
    result = squared_distance(a, b, size_a, size_b) / unit
    if squared:
        return (result * size * size).to(out)
    # nearer than rounding the direction of the gradient is noise
    traces = (trace(a) * size_a**2 + trace(b) * size_b**2).detach() / unit
    zero = result <= tolerance(a.dtype, 32) ** 2 * traces
    root = torch.where(zero, torch.ones_like(result), result).sqrt()
    return (torch.where(zero, result.detach().sqrt(), root) * size).to(out)


def gbw_log(
    base: Tensor,
    point: Tensor,
    M: Tensor | None = None,
    power: float = 1.0,
    *,
    validate: bool = False,
) -> Tensor:
    r"""Riemannian logarithm :math:`\log_G X`, a symmetric matrix in units of X.

    Parameters
    ----------
    base : Tensor, shape (..., n, n)
        SPD matrices G.
    point : Tensor, shape (..., n, n)
        SPD matrices X; singular positive semidefinite ones are allowed with
        ``power > 0`` (the gradient with respect to them is then infinite).
    M, power, validate
        See :func:`gbw_distance`.

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    TypeError, ValueError
        As :func:`gbw_distance`.

    Examples
    --------
    >>> gbw_log(torch.eye(2), torch.diag(torch.tensor([4., 1.])))
    tensor([[2., 0.],
            [0., 0.]])
    """
    (base, point), chart, dtype = prepare(
        {"base": (base, "spd"), "point": (point, "psd")},
        M,
        power,
        validate,
        hermitian=True,
    )
    flat = chart.to_flat(base)
    t = transport(flat, chart.to_flat(point))
    eye = eye_like(t)
    return restore(chart.pull(base, symmetrize(2 * (t - eye) @ flat)), dtype)


def gbw_exp(
    base: Tensor,
    tangent: Tensor,
    M: Tensor | None = None,
    power: float = 1.0,
    *,
    check_domain: bool = False,
    validate: bool = False,
) -> Tensor:
    r"""Riemannian exponential :math:`\exp_G V = (I + L) G (I + L)`.

    In the flat picture :math:`L = \mathcal L_G(V)`. SPD matrices are not geodesically
    complete in this geometry: the map is injective, with inverse :func:`gbw_log`, only
    where ``I + L`` is positive definite. Elsewhere the formula still gives a positive
    semidefinite matrix, at which the geodesic has met the boundary and come back.

    Parameters
    ----------
    base : Tensor, shape (..., n, n)
        SPD matrices G.
    tangent : Tensor, shape (..., n, n)
        Symmetric matrices V.
    M, power
        See :func:`gbw_distance`.
    check_domain : bool, default=False
        Raise where ``I + L`` is not positive definite.
    validate : bool, default=False
        Raise for a base that is not SPD or a tangent that is not finite.

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    NotOnManifoldError
        With ``check_domain``, the first tangent outside the domain.

    Examples
    --------
    >>> gbw_exp(torch.eye(2), torch.diag(torch.tensor([2., 0.])))
    tensor([[4., 0.],
            [0., 1.]])
    """
    (base, tangent), chart, dtype = prepare(
        {"base": (base, "spd"), "tangent": (tangent, "symmetric")},
        M,
        power,
        validate,
        hermitian=True,
    )
    flat = chart.to_flat(base)
    change = solve_lyapunov(flat, chart.push(base, tangent))
    result = stretch(flat, change, check_domain, "tangent")
    return restore(chart.from_flat(result), dtype)


def stretch(flat: Tensor, change: Tensor, check_domain: bool, name: str) -> Tensor:
    """(I + L) G (I + L), positive semidefinite by construction."""
    eye = eye_like(flat)
    step = eye + symmetrize(change)
    if check_domain:
        s = eigvalsh(step.detach())[..., 0]
        bad = ~(s > 0)
        if not seems_clear(bad):
            index = first_index(bad) if bad.ndim else ()
            where = f"[{', '.join(map(str, index))}]" if index else ""
            raise NotOnManifoldError(
                f"{name}{where} is outside the injectivity domain of the exponential: "
                f"I + L has smallest eigenvalue {float(s[index]):.1e}, expected > 0"
            )
    half = step @ cholesky(flat)
    return half @ half.mT


def gbw_geodesic(
    a: Tensor,
    b: Tensor,
    t: float | Tensor,
    M: Tensor | None = None,
    power: float = 1.0,
    *,
    validate: bool = False,
) -> Tensor:
    r"""Point :math:`\gamma(t)` of the geodesic with ``gamma(0) = a``, ``gamma(1) = b``.

    Parameters
    ----------
    a, b : Tensor, shape (..., n, n)
        SPD matrices; b may be singular with ``power > 0``.
    t : float or Tensor, shape (...)
        Positions, broadcast with the batch dimensions of a and b. All of [0, 1] is
        valid; outside, the geodesic may meet the boundary (see :func:`gbw_exp`).
    M, power, validate
        See :func:`gbw_distance`.

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    TypeError, ValueError
        As :func:`gbw_distance`; positions that do not broadcast.

    Examples
    --------
    >>> gbw_geodesic(torch.eye(2), torch.diag(torch.tensor([9., 1.])), 0.5)
    tensor([[4., 0.],
            [0., 1.]])
    """
    (a, b), chart, dtype = prepare(
        {"a": (a, "spd"), "b": (b, "psd")}, M, power, validate, hermitian=True
    )
    if isinstance(t, Tensor):
        check_floating(t, "t")
    if not isinstance(t, Tensor | float | int):
        raise TypeError(f"t: expected a number or a tensor, found {t!r}")
    t = torch.as_tensor(t, dtype=a.dtype, device=a.device)
    flat = chart.to_flat(a)
    change = transport(flat, chart.to_flat(b))
    change = change - eye_like(a)
    check_broadcast(a=(change, 2), t=(t, 0))
    result = stretch(flat, t[..., None, None] * change, False, "t")
    return restore(chart.from_flat(result), dtype)
