"""Check that a function commutes with a group, class by class and in two precisions."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

from manifoldkit._checks import check_choice
from manifoldkit.testing import _side_checks as side
from manifoldkit.testing._errors import (
    Measure,
    centered_rms,
    mean_measure,
    measure,
    worst_of,
)
from manifoldkit.testing._subject import (
    GradientSubject,
    Subject,
    borrowed,
    cast_modules,
    modules_of,
)
from manifoldkit.testing.groups import Element, elements_of, parse_group
from manifoldkit.testing.report import Check, EquivarianceReport, Row
from manifoldkit.testing.types import TypeSpec, transform

#: Relative error allowed for an isometry, in units of the dtype's epsilon.
EPS_FACTOR = 512


@dataclass
class _Settings:
    n: int
    elements: str | Sequence[str]
    rtol: float | None
    atol: float | None
    seed: int
    expectation: int | None
    fixed_noise: bool
    mode: str


class _CheckOptions(TypedDict, total=False):
    """Options of :func:`check_equivariance` that its twin passes on."""

    elements: str | Sequence[str]
    dtypes: Sequence[str]
    rtol: float | None
    atol: float | None
    seed: int
    mode: str
    gradient: bool
    batch: bool
    expectation: int | None
    fixed_noise: bool
    modules: Iterable[nn.Module]


def check_equivariance(
    fn: Callable,
    inputs: Any,
    in_types: Any,
    out_types: Any,
    group: Any = "E(3)",
    n: int = 8,
    *,
    elements: str | Sequence[str] = "auto",
    dtypes: Sequence[str] = ("float32", "float64"),
    rtol: float | None = None,
    atol: float | None = None,
    seed: int = 0,
    mode: str = "eval",
    gradient: bool = False,
    batch: bool = True,
    expectation: int | None = None,
    fixed_noise: bool = False,
    modules: Iterable[nn.Module] = (),
    raise_on_fail: bool = False,
) -> EquivarianceReport:
    """Check ``fn(g x) = g fn(x)`` for every class of elements of a group.

    Each class (small angles, quarter turns, reflections, translations of 1, 100 and
    10 000 times the size of the data, transpositions, compositions, ...) is tested by
    itself in each dtype. Errors are relative to the root mean square of the centered
    output, so small outputs are not passed and large ones not failed.

    Parameters
    ----------
    fn : callable
        A function or module; modules that it closes over are found, cast, put in
        ``mode`` and given back as they were.
    inputs : Tensor, tuple of Tensor or dict of Tensor
        Arguments (a dict is passed by keyword); what is not a tensor is passed on.
    in_types, out_types : str, e3nn.o3.Irreps, or tuple or dict of these
        How the inputs and outputs transform, see :func:`manifoldkit.testing.transform`;
        ``None`` for an input that stays and an output that is not looked at.
    group : str or object
        ``"O(d)", "SO(d)", "E(d)", "SE(d)", "T(d)", "S(n)", "scale", "GL(d)", "SL(d)",
        "Aff(d)", "SPD-congruence", "sign", "basis(k)", "C4", "D4", "octahedral",
        "full-octahedral", "time-shift"``, with numbers or letters, products such as
        ``"S(n) x E(3)"``, or an object with ``sample(generator)``,
        ``act(element, tensor, type)`` and ``name(element)``.
    n : int, default=8
        Draws of the generic class.
    elements : "auto" or sequence of str
        Classes to test, by the start of their names.
    dtypes : sequence of str
        Precisions; two of them tell a wrong function from an ill-conditioned one.
    rtol, atol : float, optional
        Tolerances. The default ``rtol`` is 512 eps, times ``1 + |t| / scale`` for
        translations, times the condition number of the linear part, times 1/gap when
        ``fn`` has a method ``frame_gap(*inputs)``; ``atol`` 4 eps times the output.
    seed : int
        Seed of elements and noise; torch's generator is given back as it was.
    mode : {"eval", "train"}
        Mode of the modules.
    gradient : bool, default=False
        Also check that the gradient of the scalar outputs transforms as it must, and
        that it is the gradient (against differences in float64).
    batch : bool, default=True
        Whether dimension 0 of inputs and outputs is a batch.
    expectation : int, optional
        For functions with noise: compare the means of so many draws by a z-score.
    fixed_noise : bool, default=False
        For functions with noise: equality under equal seeds is enough.
    modules : iterable of nn.Module
        Modules that ``fn`` uses without closing over them.
    raise_on_fail : bool, default=False
        Raise ``AssertionError`` with the report unless everything passes.

    Returns
    -------
    EquivarianceReport
        Verdicts: ``PASS``; ``FAIL``, the error does not shrink from float32 to
        float64; ``ILL-CONDITIONED``, float64 passes and float32 does not; ``VACUOUS``,
        the output does not react to the input; ``NONFINITE``; ``STOCHASTIC``, two
        identical calls differ.

    Raises
    ------
    ValueError
        Unknown group or type, or a group whose sizes are not those of the data.
    TypeError
        ``fn`` returned something other than tensors.

    Examples
    --------
    >>> x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    >>> report = check_equivariance(
    ...     lambda x: torch.cdist(x, x).sum(-1), x, "position", "node_scalar",
    ...     "S(n) x E(3)", n=2, dtypes=["float64"],
    ... )
    >>> report.passed
    True
    """
    check_choice(mode, ("eval", "train"), "mode")
    subject = Subject(fn, inputs, in_types, out_types, batch)
    settings = _Settings(n, elements, rtol, atol, seed, expectation, fixed_noise, mode)
    act, chains = _elements(subject, group, settings)
    report = EquivarianceReport(group if isinstance(group, str) else repr(group))
    used = modules_of(fn, modules)
    precisions = [_dtype(d) for d in dtypes]
    finest = max(precisions, key=lambda d: -torch.finfo(d).eps)
    with torch.random.fork_rng(), borrowed(used, mode):
        for dtype in precisions:
            with borrowed(used, mode):
                cast_modules(used, dtype)
                run = _Run(subject, act, chains, dtype, settings, dtype == finest)
                report.rows += run.rows()
                if dtype == finest:
                    report.checks += side.all_checks(run, used)
                if gradient:
                    report.rows += _gradient_rows(run, report, dtype == finest)
    _settle(report.rows)
    if raise_on_fail and not report.passed:
        raise AssertionError(report.summary())
    return report


def assert_equivariant(
    fn: Callable,
    inputs: Any,
    in_types: Any,
    out_types: Any,
    group: Any = "E(3)",
    n: int = 8,
    *,
    allow: Iterable[str] = (),
    **options: Unpack[_CheckOptions],
) -> EquivarianceReport:
    """Raise ``AssertionError`` with the whole report unless ``fn`` is equivariant.

    Parameters
    ----------
    fn, inputs, in_types, out_types, group, n, **options
        Arguments of :func:`check_equivariance`.
    allow : iterable of str
        Verdicts to let through besides ``PASS``, such as ``"ILL-CONDITIONED"``.

    Returns
    -------
    EquivarianceReport

    Raises
    ------
    AssertionError
        A verdict that is neither ``PASS`` nor allowed.
    TypeError, ValueError
        Arguments that :func:`check_equivariance` refuses.

    Examples
    --------
    >>> report = assert_equivariant(
    ...     lambda x: x - x.mean(1, keepdim=True), torch.randn(2, 4, 3),
    ...     "position", "vector", "E(3)", n=1,
    ... )
    """
    report = check_equivariance(fn, inputs, in_types, out_types, group, n, **options)
    if report.failures(allow):
        raise AssertionError(report.summary())
    return report


def _dtype(name: str | torch.dtype) -> torch.dtype:
    found = name if isinstance(name, torch.dtype) else getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtypes: expected names such as 'float32', found {name!r}")
    return found


def _elements(subject: Subject, group: Any, settings: _Settings):
    """Return how a chain of elements acts, and the chains to test with their labels."""
    g = torch.Generator().manual_seed(settings.seed)
    if not isinstance(group, str):
        missing = [m for m in ("sample", "act", "name") if not hasattr(group, m)]
        if missing:
            raise TypeError(f"group: expected a name or an object with {missing}")
        drawn = [group.sample(g) for _ in range(settings.n)]
        chains = [(str(group.name(e)), [e]) for e in drawn]
        chains += [("composition", [group.sample(g) for _ in "gh"]) for _ in range(2)]

        def act_user(chain, x, spec: TypeSpec):
            for element in chain:
                x = group.act(element, x, spec.kind)
            return x

        return act_user, _chosen(chains, settings.elements)
    found = elements_of(parse_group(group, *subject.sizes()), settings.n, g)
    labeled = [(chain[0].label, chain) for chain in found]

    def act(chain: list[Element], x: Tensor, spec: TypeSpec) -> Tensor:
        for element in chain:
            x = transform(element, x, spec, subject.batch)
        return x

    return act, _chosen(labeled, settings.elements)


def _chosen(chains: list, elements: str | Sequence[str]) -> list:
    if elements == "auto":
        return chains
    wanted = (elements,) if isinstance(elements, str) else tuple(elements)
    kept = [c for c in chains if c[0].startswith(wanted)]
    if not kept:
        have = sorted({label for label, _ in chains})
        raise ValueError(f"elements: none of {wanted} in this group, which has {have}")
    return kept


class _Run:
    """One precision: the reference output, its scales, and the rows."""

    def __init__(self, subject, act, chains, dtype, settings, finest, grads=False):
        self.subject, self.act, self.chains = subject, act, chains
        self.dtype, self.settings, self.finest = dtype, settings, finest
        self.grads = grads
        self.guard = nullcontext() if grads else torch.no_grad()
        self.values = subject.cast(subject.values, dtype)
        self.y = self.call(self.values)
        self.response = self._responses()
        self.scale = {k: self._scale(k) for k in self.y}
        self.noisy = not grads and self._noisy()
        self.gap = self._frame_gap()

    def call(self, values: list, seed: int | None = None) -> dict[str, Tensor]:
        """Call on copies in this dtype; the noise is that of the seed."""
        seed = self.settings.seed if seed is None else seed
        with self.guard:
            return self.subject(self.subject.cast(values, self.dtype), seed)

    def _responses(self) -> dict[str, float]:
        """Return how much each output changes when the inputs are perturbed."""
        moved = side.perturbed(self.subject, self.values, self.settings.seed)
        other = self.call(moved)
        found = {}
        for k, y in self.y.items():
            if other[k].shape != y.shape or not y.numel():
                found[k] = 0.0
                continue
            change = (other[k].double() - y.double()).square().mean().sqrt()
            found[k] = float(change)
        return found

    def _scale(self, k: str) -> float:
        y = self.y[k]
        if not y.numel() or not y.is_floating_point():
            return 1.0
        size = max(centered_rms(y), self.response[k])
        if self.grads and size == 0:
            size = float(y.abs().max())
        return size

    def _noisy(self) -> bool:
        with self.guard:
            again = self.subject(self.subject.cast(self.values, self.dtype), None)
        eps = torch.finfo(self.dtype).eps
        for k, y in self.y.items():
            if again[k].shape != y.shape:
                return True
            limit = 64 * eps * max(self.scale[k], _peak(y))
            if (
                y.numel()
                and float((again[k].double() - y.double()).abs().max()) > limit
            ):
                return True
        return False

    def _frame_gap(self) -> float:
        probe = getattr(self.subject.fn, "frame_gap", None)
        if probe is None or self.subject.by_name:
            return 1.0
        with torch.no_grad():
            gap = torch.as_tensor(probe(*self.values)).double()
        return float(gap.min().clamp(1e-8, 1.0)) if gap.numel() else 1.0

    def vacuous(self, k: str) -> bool:
        """Whether an output does not react to its inputs (or is always zero)."""
        y = self.y[k]
        if self.grads or not self.finest or not y.is_floating_point() or not y.numel():
            return False
        return not self.response[k] > 1e3 * torch.finfo(self.dtype).eps * _peak(y)

    def rows(self) -> list[Row]:
        """Return one row a class of elements."""
        found: dict[str, list[Measure]] = {}
        for label, chain in self.chains:
            found.setdefault(label, []).extend(self._measure(label, chain))
        rows = []
        for label, measures in found.items():
            row = worst_of(label, str(self.dtype).removeprefix("torch."), measures)
            if row.verdict == "PASS" and any(self.vacuous(k) for k in self.y):
                row.verdict = "VACUOUS"
            if self.noisy and row.verdict == "PASS":
                settled = self.settings.expectation or self.settings.fixed_noise
                row.verdict = "PASS" if settled else "STOCHASTIC"
            rows.append(row)
        return rows

    def _measure(self, label: str, chain: list) -> list[Measure]:
        subject, specs = self.subject, self.subject.specs
        moved = [
            self.act(chain, v, s) if isinstance(v, Tensor) else v
            for v, s in zip(
                subject.cast(self.values, torch.float64), specs, strict=True
            )
        ]
        if self.noisy and self.settings.expectation:
            return self._measure_means(chain, moved)
        got = self.call(moved)
        found = []
        for k, y in self.y.items():
            spec = subject.out_specs[k]
            wide = y.detach().double() if y.is_floating_point() else y.detach()
            expected = self.act(chain, wide, spec)
            base = centered_rms(y) if y.is_floating_point() else 0.0
            scale = self.scale[k]
            if base > 0 and y.is_floating_point():
                scale *= centered_rms(expected) / base
            tol = self._tolerance(label, chain, expected, scale)
            found.append(measure(k, expected, got[k], spec, scale, tol))
        return found

    def _measure_means(self, chain, moved) -> list[Measure]:
        draws = range(self.settings.expectation or 0)
        first = [self.call(self.values, self.settings.seed + 1 + i) for i in draws]
        other = [self.call(moved, self.settings.seed + 1_000_003 + i) for i in draws]
        found = []
        for k in self.y:
            spec = self.subject.out_specs[k]
            a = torch.stack([self.act(chain, y[k].double(), spec) for y in first])
            b = torch.stack([y[k].double() for y in other])
            found.append(mean_measure(k, a, b, self.scale[k], self.dtype))
        return found

    def _tolerance(self, label, chain, expected: Tensor, scale: float) -> float:
        eps = torch.finfo(self.dtype).eps
        if label == "identity":
            return 0.0
        size = self.subject.sizes()[2]
        rtol = EPS_FACTOR * eps if self.settings.rtol is None else self.settings.rtol
        for element in chain:
            if getattr(element, "shift", None) is not None:
                rtol *= 1 + float(element.shift.norm()) / size
            if getattr(element, "matrix", None) is not None:
                rtol *= float(torch.linalg.cond(element.matrix))
        atol = self.settings.atol
        atol = 4 * eps * _peak(expected) if atol is None else atol
        return rtol / self.gap + (atol / scale if scale > 0 else 0.0)


def _peak(y: Tensor) -> float:
    return float(y.detach().abs().max()) if y.numel() else 0.0


def _gradient_rows(run: _Run, report: EquivarianceReport, finest: bool) -> list[Row]:
    """Return the rows of the gradient; against differences in the finest dtype."""
    specs = run.subject.out_specs
    names = ("scalar", "node_scalar", "edge_scalar")
    scalars = [k for k, s in specs.items() if s.kind in names]
    if not scalars:
        found = ", ".join(s.kind for s in specs.values())
        raise ValueError(f"gradient=True: expected a scalar output, found {found}")
    subject = GradientSubject(run.subject, scalars)
    below = _Run(
        subject, run.act, run.chains, run.dtype, run.settings, finest, grads=True
    )
    rows = below.rows()
    for row in rows:
        row.element = f"{row.element} (grad)"
    if finest and run.dtype == torch.float64:
        verdict, detail = side.gradient_is_right(subject, run.values, run.settings.seed)
        report.checks.append(Check("gradient against differences", verdict, detail))
    return rows


def _settle(rows: list[Row]) -> None:
    """Tell wrong functions from ill-conditioned ones by how the error shrinks."""
    by_class: dict[str, list[Row]] = {}
    for row in rows:
        by_class.setdefault(row.element, []).append(row)
    for group in by_class.values():
        eps = {r.dtype: torch.finfo(_dtype(r.dtype)).eps for r in group}
        fine = min(group, key=lambda r: eps[r.dtype])
        coarse = max(group, key=lambda r: eps[r.dtype])
        if fine is coarse:
            continue
        if fine.verdict == "PASS" and coarse.verdict == "FAIL":
            coarse.verdict = "ILL-CONDITIONED"
        elif fine.verdict == "FAIL" and coarse.verdict == "FAIL":
            shrink = eps[fine.dtype] / eps[coarse.dtype]
            if fine.tolerance and fine.max_rel < 100 * shrink * coarse.max_rel:
                fine.verdict = coarse.verdict = "ILL-CONDITIONED"
