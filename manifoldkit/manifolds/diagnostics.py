"""Check the formulas of a manifold: ours, geoopt's, or one that a user writes."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import geoopt
import torch
from torch import Tensor

from manifoldkit.linalg.checks import check_floating

# steps of the slope tests: small enough for the leading term, large against rounding
_STEPS = (2.0**-5, 2.0**-6)
# a slope may fall short of its integer by this much at those steps
_SLOPE_MARGIN = 0.3
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes
    ----------
    name : str
        The law.
    value : float
        What was measured: an error, or the order of one; NaN if the manifold lacks the
        method.
    expected : str
        The bound.
    passed : bool or None
        None for what was not available, or is measured and not required.
    note : str
        Explanation of the value.
    """

    name: str
    value: float
    expected: str
    passed: bool | None
    note: str = ""

    def __str__(self) -> str:
        mark = {True: "ok", False: "FAILED", None: "-"}[self.passed]
        value = "" if math.isnan(self.value) else f"{self.value:.2g}"
        line = f"{mark:7}{self.name:28}{value:>9}  {self.expected:14}{self.note}"
        return line.rstrip()


@dataclass(frozen=True)
class ManifoldReport:
    """Result of :func:`check_manifold`; true if every law that must hold does.

    Attributes
    ----------
    manifold : str
        The manifold that was checked.
    findings : tuple of Finding
        One entry a law.
    """

    manifold: str
    findings: tuple[Finding, ...]

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The laws that do not hold."""
        return tuple(f for f in self.findings if f.passed is False)

    def __bool__(self) -> bool:
        return not self.failures

    def __getitem__(self, name: str) -> Finding:
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(f"{name!r}; the report has {[f.name for f in self.findings]}")

    def __repr__(self) -> str:
        head = f"{self.manifold}: {'all laws hold' if self else 'FAILED'}"
        return "\n".join([head, *(f"  {finding}" for finding in self.findings)])


def _error(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the size of b where that exceeds one."""
    scale = float(b.abs().max().clamp_min(1.0))
    return float((a - b).abs().max()) / scale


def _order(errors: list[float]) -> float:
    """Exponent of an error that falls with the step; infinite for rounding only."""
    if max(errors) < _ROUNDING:
        return math.inf
    if not all(math.isfinite(e) and e > 0 for e in errors):
        return math.nan
    steps = math.log(_STEPS[0] / _STEPS[1])
    return math.log(errors[0] / errors[1]) / steps


class _Probe:
    """A point and vectors on a manifold, and the laws measured there."""

    def __init__(self, manifold: geoopt.Manifold, x: Tensor, seed: int):
        self.manifold, self.x = manifold, x
        # another stream than that of the point, or G would be parallel to x
        generator = torch.Generator().manual_seed(seed + 1)

        def normal() -> Tensor:
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            return noise.to(x)

        self.egrad, self.ambient = normal(), normal()
        self.weights, self.curvature = normal(), normal()
        self.u = self._unit(manifold.proju(x, normal())) / 4
        self.v = self._unit(manifold.proju(x, normal()))
        self.w = self._unit(manifold.proju(x, normal()))

    def _inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self.manifold.inner(x, u, v).sum()

    def _unit(self, u: Tensor) -> Tensor:
        return u / self._inner(self.x, u, u).sqrt()

    def _same(self, y: Tensor, z: Tensor) -> float:
        """Distance of two points as stored; subspaces are first aligned."""
        align = getattr(self.manifold, "align", None)
        return _error(align(z, y) if align else y, z)

    def point(self) -> float:
        x = self.x
        ok = self.manifold.check_point_on_manifold(x)
        return _error(self.manifold.projx(x), x) if ok else math.inf

    def projection(self) -> float:
        x = self.x
        once = self.manifold.proju(x, self.ambient)
        return _error(self.manifold.proju(x, once), once)

    def gradient(self) -> float:
        """<egrad2rgrad(G), u>_x = tr G'u."""
        # a copy: some implementations change the gradient in place
        rgrad = self.manifold.egrad2rgrad(self.x, self.egrad.clone())
        found = self._inner(self.x, rgrad, self.v)
        return _error(found, (self.egrad * self.v).sum())

    def gradient_order(self) -> float:
        """Order of f(retr(x, tu)) - f(x) - t <grad f, u>."""

        def f(y: Tensor) -> Tensor:
            return (self.weights * y + self.curvature * y**2 / 2).sum()

        x = self.x.detach().clone().requires_grad_()
        with torch.enable_grad():
            (egrad,) = torch.autograd.grad(f(x), x)
        x = x.detach()
        rgrad = self.manifold.egrad2rgrad(x, egrad)
        slope = self._inner(x, rgrad, self.v)
        errors = [
            float((f(self.manifold.retr(x, t * self.v)) - f(x) - t * slope).abs())
            for t in _STEPS
        ]
        return _order(errors)

    def retraction_start(self) -> float:
        """Order of retr(x, tu) - x - tu."""
        x, v = self.x, self.v
        return _order([_error(self.manifold.retr(x, t * v), x + t * v) for t in _STEPS])

    def retraction_order(self) -> float:
        """Order of the retraction: one less than that of its error to the geodesic."""
        x, m = self.x, self.manifold
        errors = [
            self._same(m.retr(x, t * self.v), m.expmap(x, t * self.v)) for t in _STEPS
        ]
        return _order(errors) - 1

    def tangency(self) -> float:
        """Normal part of vectors transported along the retraction."""
        y, v = self.manifold.retr_transp(self.x, self.u, self.v)
        return _error(self.manifold.proju(y, v), v)

    def isometry(self) -> float:
        """Change of inner products by transport along the retraction."""
        y, v = self.manifold.retr_transp(self.x, self.u, self.v)
        w = self.manifold.transp_follow_retr(self.x, self.u, self.w)
        before = (
            self._inner(self.x, self.v, self.w),
            self._inner(self.x, self.v, self.v),
        )
        after = self._inner(y, v, w), self._inner(y, v, v)
        return _error(torch.stack(after), torch.stack(before))

    def round_trip(self) -> float:
        """log(x, exp(x, u)) - u."""
        y = self.manifold.expmap(self.x, self.u)
        return _error(self.manifold.logmap(self.x, y), self.u)

    def distance(self) -> float:
        """dist(x, exp(x, u)) - |u|."""
        y = self.manifold.expmap(self.x, self.u)
        found = (self.manifold.dist(self.x, y) ** 2).sum().sqrt()
        return _error(found, self._inner(self.x, self.u, self.u).sqrt())


def _measure(law: Callable[[], float]) -> tuple[float, str]:
    """Value of a law, NaN and a reason if the manifold does not have the method."""
    try:
        return law(), ""
    except NotImplementedError as error:
        return math.nan, str(error) or "not available"


def _random_point(manifold: geoopt.Manifold, size: tuple, seed: int) -> Tensor:
    """A random point; where the manifold samples none, a step away from its origin."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return manifold.random(*size, dtype=torch.float64)
        except NotImplementedError:
            x = manifold.origin(*size, dtype=torch.float64).detach()
            u = torch.randn(size, dtype=torch.float64)
            return manifold.expmap(x, manifold.proju(x, u)).detach()


def check_manifold(
    manifold: geoopt.Manifold,
    *size: int,
    point: Tensor | None = None,
    seed: int = 0,
    tol: float = 1e-6,
) -> ManifoldReport:
    r"""Measure whether the methods of a manifold agree with each other.

    In float64, at a random point (or the one given) and random tangent vectors:

    - projections leave points and tangent vectors alone;
    - :math:`\langle \operatorname{egrad2rgrad}(G), u\rangle_x = \langle G, u\rangle`,
      which fixes the factor of the metric, and
      :math:`f(R_x(tu)) - f(x) - t\langle \operatorname{grad} f, u\rangle_x` falls as
      :math:`t^2`;
    - :math:`R_x(tu) - x - tu` falls as :math:`t^2`; the order of the retraction against
      ``expmap`` (1 first order, 2 second order, inf the geodesic itself);
    - transported vectors are tangent; whether transport is isometric (reported, not
      required);
    - ``logmap`` inverts ``expmap``, and ``dist`` is the length of ``logmap``.

    Parameters
    ----------
    manifold : geoopt.Manifold
        Ours, geoopt's or your own.
    *size : int
        Shape of the random point, for ``manifold.random``.
    point : Tensor, optional
        The point to use instead; then ``size`` is not needed.
    seed : int, default=0
        Seed of the point and the vectors; the global generator is left as it was.
    tol : float, default=1e-6
        Largest error of the laws that hold exactly.

    Returns
    -------
    ManifoldReport
        Prints as a table; ``bool(report)`` tells whether all required laws hold.

    Raises
    ------
    TypeError, ValueError
        Not a manifold, neither size nor point, or a size it does not take.

    Examples
    --------
    >>> from manifoldkit.manifolds import Sphere
    >>> report = check_manifold(Sphere(), 4)
    >>> bool(report)
    True
    >>> round(report["retraction order"].value)
    2
    """
    if not isinstance(manifold, geoopt.Manifold):
        raise TypeError(f"manifold: expected a geoopt.Manifold, found {manifold!r}")
    # constants of the manifold (curvature, scale) in the precision of the tests
    manifold = copy.deepcopy(manifold).double()
    if point is None:
        if not size and manifold.ndim:
            raise ValueError("size: expected the shape of a point, or point=")
        point = _random_point(manifold, size or (1,), seed)
    x = torch.Tensor(check_floating(point, "point").detach().double())
    with torch.no_grad():
        probe = _Probe(manifold, x, seed)
        exact = f"<= {tol:.0e}"
        order = f">= {2 - _SLOPE_MARGIN:.1f}"
        laws = [
            ("point and projx", probe.point, exact),
            ("tangent projection", probe.projection, exact),
            ("gradient and metric", probe.gradient, exact),
            ("gradient slope", probe.gradient_order, order),
            ("retraction slope", probe.retraction_start, order),
            ("retraction order", probe.retraction_order, ""),
            ("transport is tangent", probe.tangency, exact),
            ("transport changes lengths by", probe.isometry, ""),
            ("log inverts exp", probe.round_trip, exact),
            ("dist is the length of log", probe.distance, exact),
        ]
        findings = []
        for name, law, expected in laws:
            value, note = _measure(law)
            passed: bool | None = None
            if expected and not note:
                passed = (
                    value <= tol if expected == exact else value >= 2 - _SLOPE_MARGIN
                )
            if name == "transport changes lengths by" and value <= tol:
                note = "isometric"
            findings.append(Finding(name, value, expected, passed, note))
    return ManifoldReport(repr(manifold), tuple(findings))
