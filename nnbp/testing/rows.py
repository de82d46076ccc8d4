"""Comparison of an array on one device with the same array on another: its errors, and a verdict in words."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from nnbp import html
from nnbp.formatting import json_value, table
from nnbp.testing.tolerances import relative_error

EQUAL, ROUNDING, KINK, UNSTEADY, FAULT = "equal", "rounding", "a kink", "nondeterministic", "fault"
UNDECIDED = "undecided"
"""The verdicts on an array; see `ParityRow`."""

UNDECIDABLE = 0.1
"""Bounds on relative errors that are at least this large decide nothing."""


@dataclass(frozen=True)
class ParityRow:
    """One array on two devices; if layers are isolated, p is the result of a float64 run on the inputs of the layer.

    Attributes:
        stage: "pass", forward and backward, or "training".
        name: "z1", "a1", "J", "delta1" (∂J/∂z), "dW1", "db1", …, "dX" (∂J/∂x); after the updates "W1 trained", "b1
            trained", …, and "J by epoch".
        device: the device that is judged.
        shape: of the array.
        max_absolute_error: max |p − q|.
        max_relative_error: max |p − q| / max |p|, which must be within the bound; if the array is larger in a float64
            run, relative to that. In float32 an array also passes if denormals explain its absolute error; see
            `nnbp.testing.tolerances`.
        max_ulp_error: max |p − q| in units in the last place of the larger of the two.
        cosine: of the angle between the arrays as vectors.
        bound: on the relative error.
        passed: whether the array is within its bound.
        verdict: "equal", the same bits; "rounding", within the bound; "a kink", within it without the samples for which
            the devices are on different sides of a kink; "nondeterministic": two runs on one device differ by more than
            the bound; "fault", beyond the bound; or "undecided", within a bound of 0.1 or more, which decides nothing.
    """

    stage: str
    name: str
    device: str
    shape: tuple[int, ...]
    max_absolute_error: float
    max_relative_error: float
    max_ulp_error: float
    cosine: float
    bound: float
    passed: bool
    verdict: str

    @property
    def ratio(self) -> float:
        """The relative error in units of the bound."""
        if not self.max_relative_error:
            return 0.0
        return self.max_relative_error / self.bound if self.bound else math.inf


_LEFT = (0, 1, 8, 9)
"""Columns that stand at the left."""


class Report:
    """The base of all reports that consist of rows."""

    rows: tuple[ParityRow, ...]

    @property
    def passed(self) -> bool:
        """Whether every row passed."""
        return all(row.passed for row in self.rows)

    @property
    def max_relative_error(self) -> float:
        """The largest relative error of all rows."""
        return max(row.max_relative_error for row in self.rows)

    @property
    def culprit(self) -> ParityRow | None:
        """The first array that failed. The other failures may follow from it, unless layers were isolated."""
        return next((row for row in self.rows if not row.passed), None)

    def as_dict(self) -> dict[str, Any]:
        """The report in JSON types; numbers that are not finite become None."""
        culprit = None if self.culprit is None else self.culprit.name
        summary = {"passed": self.passed, "max_relative_error": self.max_relative_error, "culprit": culprit}
        report: dict[str, Any] = json_value({**summary, **asdict(cast(Any, self))})
        return report

    @property
    def several(self) -> bool:
        """Whether the rows are of several devices, so that each has to name its own."""
        return False

    def lines(self) -> list[str]:
        """What stands below the table."""
        return []

    def __str__(self) -> str:
        return "\n".join([*table(self._table(), left=_LEFT, ruled=True), *self.lines()])

    def _repr_html_(self) -> str:
        """The table, with a bar for each ratio on a logarithmic scale, for notebooks."""
        bars = [(html.length(row.ratio), row.passed) for row in self.rows]
        return html.table(self._table(), left=_LEFT, bars=bars, lines=self.lines())

    def _table(self) -> list[tuple[str, ...]]:
        head = ("array", "shape", "max |p−q|", "relative", "ulp", "1 − cosine", "bound", "ratio", "verdict", "on")
        return [head if self.several else head[:-1], *(_cells(row, self.several) for row in self.rows)]


def _cells(row: ParityRow, several: bool) -> tuple[str, ...]:
    errors = (f"{row.max_absolute_error:.1e}", f"{row.max_relative_error:.1e}", f"{row.max_ulp_error:.3g}")
    judged = (f"{row.bound:.1e}", f"{row.ratio:.2g}", row.verdict if row.passed else f"FAILED: {row.verdict}")
    return (row.name, str(row.shape), *errors, f"{1 - row.cosine:.1e}", *judged, *[row.device] * several)


def equal(p: NDArray[Any], q: NDArray[Any]) -> bool:
    return np.array_equal(p, q, equal_nan=True)


def judged(
    stage: str,
    name: str,
    device: str,
    p: NDArray[Any],
    q: NDArray[Any],
    *,
    bound: float,
    lost: float,
    size: float = 0.0,
    unsteady: float = 0.0,
    whole: tuple[NDArray[Any], NDArray[Any]] | None = None,
) -> ParityRow:
    """The row of an array on two devices.

    Args:
        stage, name, device: of the row.
        p, q: the array on each device, without the samples at kinks.
        bound: on the relative error.
        lost: the absolute error that always passes.
        size: the largest entry in float64; p may be much smaller by chance if rounding is all that is left of it.
        unsteady: the largest absolute difference between two runs on one device.
        whole: p and q with the samples at kinks; None if there are none.
    """
    p_whole, q_whole = whole or (p, q)
    x, y = p.astype(np.float64).ravel(), q.astype(np.float64).ravel()
    with np.errstate(all="ignore"):
        difference = np.abs(x - y)
        larger = np.maximum(np.abs(p), np.abs(q))
        ulp = difference / np.spacing(larger if larger.dtype.kind == "f" else larger.astype(np.float64)).ravel()
        lengths = np.linalg.norm(x) * np.linalg.norm(y)
        cosine = min(1.0, float(x @ y / lengths)) if lengths > 0 else float(np.array_equal(x, y))
    size, absolute = float(np.max(np.abs(p_whole), initial=size)), float(np.max(difference, initial=0.0))
    relative = relative_error(p, q, size)

    def within(error: float, absolute: float) -> bool:
        # A bound that is not finite does not count: the run in float64 has failed.
        return (error <= bound and math.isfinite(bound)) or absolute <= lost

    passed = within(relative, absolute)
    if equal(p_whole, q_whole):
        # NaN and infinity at the same places, too.
        passed, verdict = True, EQUAL
    elif unsteady > max(bound * size, lost):
        passed, verdict = False, UNSTEADY
    elif not passed:
        verdict = FAULT
    elif bound >= UNDECIDABLE and not absolute <= lost:
        verdict = UNDECIDED
    else:
        error = relative_error(p_whole, q_whole, size)
        verdict = ROUNDING if within(error, error * size) else KINK
    return ParityRow(
        stage, name, device, tuple(p.shape), absolute, relative, float(ulp.max(initial=0.0)), cosine, bound, passed,
        verdict,
    )  # fmt: skip
