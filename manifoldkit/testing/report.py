"""What a check of equivariance found."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

#: From harmless to worst.
VERDICTS = (
    "PASS",
    "ILL-CONDITIONED",
    "STOCHASTIC",
    "VACUOUS",
    "FAIL",
    "NONFINITE",
)


@dataclass
class Row:
    """The worst error over the elements of one class in one dtype."""

    element: str
    dtype: str
    max_abs: float = 0.0
    max_rel: float = 0.0
    median_rel: float = 0.0
    worst_sample: int = 0
    worst_output: str = ""
    tolerance: float = 0.0
    verdict: str = "PASS"

    @property
    def excess(self) -> float:
        """Error in units of the tolerance."""
        if self.max_rel != self.max_rel:
            return float("inf")
        if self.tolerance == 0:
            return float("inf") if self.max_rel > 0 else 0.0
        return self.max_rel / self.tolerance


@dataclass
class Check:
    """A check beside the errors, such as that the inputs were not modified."""

    name: str
    verdict: str
    detail: str = ""


@dataclass
class EquivarianceReport:
    """The outcome of :func:`manifoldkit.testing.check_equivariance`.

    Attributes
    ----------
    group : str
        The group.
    rows : list of Row
        One row a class of elements and dtype: largest absolute error, largest and
        median error relative to the size of the centered output, where the largest
        is, the tolerance and the verdict.
    checks : list of Check
        Inputs unmodified, training flag, shapes and dtypes, batch and padding
        independence, gradients against differences.

    Examples
    --------
    >>> import torch
    >>> from manifoldkit.testing import check_equivariance
    >>> report = check_equivariance(
    ...     lambda x: x.abs(), torch.randn(4, 5, 3), "vector", "vector", "SO(3)", n=1
    ... )
    >>> report.passed, report.worst.verdict
    (False, 'FAIL')
    """

    group: str
    rows: list[Row] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every row and check passed."""
        return all(x.verdict == "PASS" for x in self._all())

    @property
    def verdict(self) -> str:
        """The worst verdict of all."""
        found = [x.verdict for x in self._all()]
        return max(found, key=VERDICTS.index, default="PASS")

    @property
    def worst(self) -> Row:
        """The row with the worst verdict, and among these the largest error."""
        return max(self.rows, key=lambda row: (VERDICTS.index(row.verdict), row.excess))

    def failures(self, allow: Iterable[str] = ()) -> list[Row | Check]:
        """Return the rows and checks that did not pass and are not allowed."""
        fine = {"PASS", *allow}
        return [x for x in self._all() if x.verdict not in fine]

    def _all(self) -> list[Row | Check]:
        return [*self.rows, *self.checks]

    def to_records(self) -> list[dict[str, Any]]:
        """Return the rows as dictionaries."""
        return [asdict(row) for row in self.rows]

    def to_frame(self) -> "pandas.DataFrame | list[dict[str, Any]]":
        """Return the rows as a pandas data frame; a list of dicts without pandas."""
        try:
            import pandas
        except ImportError:
            return self.to_records()
        return pandas.DataFrame(self.to_records())

    def summary(self) -> str:
        """Return the report as text."""
        head = f"{self.group}: {'passed' if self.passed else self.verdict}"
        lines = [
            head,
            f"{'element':<20}{'dtype':<9}{'max rel':>9}{'tolerance':>11}  verdict",
        ]
        for row in self.rows:
            where = ""
            if row.verdict != "PASS":
                where = f" ({row.worst_output}, sample {row.worst_sample})"
            lines.append(
                f"{row.element:<20}{row.dtype:<9}{row.max_rel:>9.1e}"
                f"{row.tolerance:>11.1e}  {row.verdict}{where}"
            )
        for check in self.checks:
            detail = f" ({check.detail})" if check.detail else ""
            lines.append(f"{check.name:<49}  {check.verdict}{detail}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()
