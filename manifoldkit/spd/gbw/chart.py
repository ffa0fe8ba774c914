"""The chart of the generalized Bures-Wasserstein geometry, and its argument checks."""

import math
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from manifoldkit._checks import is_number
from manifoldkit.linalg import (
    check_spd,
    eigh,
    frechet_derivative,
    powm,
    solve_lyapunov,
    sqrtm,
    symmetrize,
)
from manifoldkit.linalg.checks import (
    check_broadcast,
    check_finite,
    check_square,
    compute_dtype,
    semidefinite_floor,
)
from manifoldkit.linalg.factorizations import cholesky
from manifoldkit.linalg.hermitian import hermitian_to_real, real_to_hermitian

#: Smallest power: below it the powers of all matrices are equal to a few digits.
MIN_POWER = 1e-3


def check_power(power: float) -> float:
    """Return the power as a float; raise ``ValueError`` where it is no deformation."""
    if not is_number(power) or not MIN_POWER <= abs(power) < math.inf:
        raise ValueError(
            f"power: expected a finite number with |power| >= {MIN_POWER}, "
            f"found {power!r}"
        )
    return float(power)


class Chart(NamedTuple):
    """The isometry to the plain BW geometry: power, then whitening by chol(M)."""

    factor: Tensor | None
    power: float

    def to_flat(self, x: Tensor) -> Tensor:
        """X to C^-1 X^p C^-T."""
        return self.whiten(power_of(x, self.power))

    def from_flat(self, y: Tensor) -> Tensor:
        """Invert :meth:`to_flat`."""
        return power_of(self.unwhiten(y), 1 / self.power)

    def whiten(self, y: Tensor) -> Tensor:
        """C^-1 Y C^-T."""
        if self.factor is None:
            return y
        half = torch.linalg.solve_triangular(self.factor, y, upper=False)
        return symmetrize(
            torch.linalg.solve_triangular(self.factor, half.mT, upper=False)
        )

    def unwhiten(self, y: Tensor) -> Tensor:
        """C Y C'."""
        if self.factor is None:
            return y
        return symmetrize(self.factor @ y @ self.factor.mT)

    def push(self, x: Tensor, v: Tensor) -> Tensor:
        """Differential of :meth:`to_flat` at x."""
        return self.whiten(_power_derivative(x, v, self.power))

    def pull(self, x: Tensor, v: Tensor) -> Tensor:
        """Inverse of the differential of :meth:`to_flat` at x."""
        v = self.unwhiten(v)
        if self.power == 1:
            return v
        return _power_derivative(power_of(x, self.power), v, 1 / self.power)


def power_of(x: Tensor, power: float) -> Tensor:
    """X^p, with a product for the square."""
    return symmetrize(x @ x) if power == 2 else powm(x, power)


def _power_derivative(x: Tensor, v: Tensor, power: float) -> Tensor:
    """Differential of X^p at x in direction v (symmetric)."""
    if power == 1:
        return v
    if power == 2:
        return symmetrize(2 * x @ v)
    if power == 0.5:
        return solve_lyapunov(sqrtm(x), v)
    return frechet_derivative(x, v, "powm", power=power)


def prepare(
    tensors: dict,
    M: Tensor | None,
    power: float,
    validate: bool,
    *,
    hermitian: bool = False,
):
    """Check names, shapes and dtypes; return symmetric tensors, chart, output dtype.

    ``tensors`` maps names to ``(tensor, kind)``, kind "spd", "psd" or "symmetric".
    With ``hermitian`` complex matrices are accepted: if one is complex, all tensors
    come back in their real representation, and :func:`restore` undoes that.
    """
    power = check_power(power)
    if M is not None:
        tensors = {**tensors, "M": (M, "spd")}
    (first, (x, _)), *rest = tensors.items()
    n = check_square(x, first, hermitian=hermitian).shape[-1]
    for name, (y, _) in rest:
        check_square(y, name, n, hermitian=hermitian)
    check_broadcast(**{name: (y, 2) for name, (y, _) in tensors.items()})
    dtype = reduce(torch.promote_types, (y.dtype for y, _ in tensors.values()))
    out = {}
    for name, (y, kind) in tensors.items():
        if validate and kind == "symmetric":
            check_finite(y, name)
        elif validate:
            semidefinite = kind == "psd" and power > 0
            check_spd(y, name, semidefinite=semidefinite, hermitian=hermitian)
        out[name] = symmetrize(represent(y, dtype))
    M = out.pop("M", None)
    factor = None if M is None else cholesky(M)
    return list(out.values()), Chart(factor, power), dtype


def represent(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x in the dtype to compute in, real of twice the size for a complex one."""
    if not dtype.is_complex:
        return x.to(compute_dtype(dtype))
    work = compute_dtype(dtype.to_real())
    return hermitian_to_real(x.to(work.to_complex() if x.is_complex() else work))


def restore(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return matrices of :func:`represent` in the dtype that was given."""
    return (real_to_hermitian(x) if dtype.is_complex else x).to(dtype)


def square_factor(x: Tensor) -> tuple[Tensor, bool]:
    """Some K with K K' = x, also for singular x; and whether all x are regular."""
    factor, info = torch.linalg.cholesky_ex(x)
    bad = info != 0
    if not bool(bad.any()):
        return factor, True
    s, u = eigh(x[bad])
    s = torch.where((s < 0) & (s >= semidefinite_floor(s)), 0.0, s)
    factor = factor.clone()
    factor[bad] = u * s.sqrt()[..., None, :]
    return factor, False
