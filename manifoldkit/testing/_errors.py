"""Errors of one output for one element, and the worst of many."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manifoldkit.testing.report import Row
from manifoldkit.testing.types import TypeSpec


@dataclass
class Measure:
    """How far an output is from what it must be."""

    name: str
    max_abs: float
    relative: Tensor  # the largest error of each sample
    tolerance: float
    verdict: str


def centered_rms(y: Tensor) -> float:
    """Return the root mean square of an output about its mean over all but features."""
    y = y.detach().double()
    y = y - (y.flatten(0, -2).mean(0) if y.ndim > 1 else y.mean())
    return float(y.square().mean().sqrt())


def _difference(expected: Tensor, got: Tensor, spec: TypeSpec) -> Tensor:
    if not got.is_floating_point():
        return (expected != got).double()
    expected, got = expected.double(), got.double()
    if spec.kind == "normal":
        plus = (got - expected).abs().amax(-1)
        return torch.minimum(plus, (got + expected).abs().amax(-1))
    return (got - expected).abs()


def _per_sample(error: Tensor) -> Tensor:
    if error.numel() == 0:
        return error.new_zeros(1)
    return error.reshape(error.shape[0], -1).amax(1) if error.ndim else error[None]


def measure(
    name: str, expected: Tensor, got: Tensor, spec: TypeSpec, scale: float, tol: float
) -> Measure:
    """Compare an output with what it must be."""
    got = got.detach()
    if got.shape != expected.shape:
        return Measure(name, math.inf, torch.tensor([math.inf]), tol, "FAIL")
    if not (bool(got.isfinite().all()) and bool(expected.isfinite().all())):
        bad = ~(got.isfinite() & expected.isfinite())
        relative = _per_sample(bad.double() * math.inf).nan_to_num(0.0, math.inf)
        return Measure(name, math.nan, relative, tol, "NONFINITE")
    error = _per_sample(_difference(expected, got, spec))
    relative = error / scale if scale > 0 else torch.where(error > 0, math.inf, error)
    verdict = "PASS" if float(relative.max()) <= tol else "FAIL"
    return Measure(name, float(error.max()), relative, tol, verdict)


def mean_measure(
    name: str, a: Tensor, b: Tensor, scale: float, dtype: torch.dtype
) -> Measure:
    """Compare the means of two sets of draws by the largest z-score.

    The bound is that of the largest of so many normal variables, at level 1e-6.
    """
    if not (bool(a.isfinite().all()) and bool(b.isfinite().all())):
        return Measure(name, math.nan, torch.tensor([math.inf]), 0.0, "NONFINITE")
    difference = (a.mean(0) - b.mean(0)).abs()
    error = ((a.var(0) + b.var(0)) / len(a)).sqrt()
    bound = math.sqrt(2 * math.log(2e6 * max(difference.numel(), 1)))
    # few draws have heavier tails than the normal distribution
    bound *= 1 + 4 / len(a)
    floor = 512 * torch.finfo(dtype).eps * max(scale, 1e-300)
    z = difference / (error + floor)
    verdict = "PASS" if not z.numel() or float(z.max()) <= bound else "FAIL"
    top = float(difference.max()) if z.numel() else 0.0
    return Measure(name, top, _per_sample(z), bound, verdict)


def worst_of(label: str, dtype: str, measures: list[Measure]) -> Row:
    """Return the row of the worst of all draws and outputs of a class."""
    order = {"PASS": 0, "FAIL": 1, "NONFINITE": 2}

    def badness(m: Measure) -> tuple[int, float]:
        return order[m.verdict], float(m.relative.max()) / (m.tolerance or 1e-300)

    worst = max(measures, key=badness)
    return Row(
        label,
        dtype,
        max_abs=worst.max_abs,
        max_rel=float(worst.relative.max()),
        median_rel=float(worst.relative.median()),
        worst_sample=int(worst.relative.argmax()),
        worst_output=worst.name,
        tolerance=worst.tolerance,
        verdict=worst.verdict,
    )
