"""What preprocessing must know of a column: a summary of its cells, which adds up over the blocks of a table.

The preprocessing of a table in memory is fitted to summaries of the whole table as one block; that of a file that is
read block by block to the sums of those of its blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nnbp.nn.moments import merged
from nnbp.tabular.table import Floats, Source, Texts

MAX_DISTINCT = 10_000
"""Once a column has more distinct cells than this, the cells of further blocks are not told apart."""


@dataclass(frozen=True)
class Moments:
    """Some numbers x: how many, their mean μ, Σ(x − μ)², the lowest and the highest one.

    The sum of those of two sets is that of both; see `nnbp.nn.moments`. Those of one block are NumPy's mean and
    std, bit for bit.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    @classmethod
    def of(cls, values: Floats) -> Moments:
        """The moments of finite numbers; infinite or nan if the numbers are too large for them."""
        if not values.size:
            return cls()
        with np.errstate(all="ignore"):
            mean = values.mean()
            squares = np.square(values - mean).sum()
        return cls(values.size, float(mean), float(squares), float(values.min()), float(values.max()))

    def __add__(self, other: Moments) -> Moments:
        if not (self.count and other.count):
            return self if self.count else other
        mean, squares, count = merged(
            (self.mean, self.squares, self.count), (other.mean, other.squares, other.count)
        )  # fmt: skip
        return Moments(count, mean, squares, min(self.low, other.low), max(self.high, other.high))

    def with_constant(self, value: float, count: int) -> Moments:
        """The moments of these numbers and of one value that stands so many times beside them."""
        return self + Moments(count, value, 0.0, value, value)

    @property
    def deviation(self) -> float:
        """√(Σ(x − μ)² / m)."""
        return math.sqrt(self.squares / self.count)


@dataclass(frozen=True)
class Summary:
    """A column of some rows of a table; the sum of two is that of the rows of both, in this order.

    Attributes:
        cells: a table of this column alone. If it is `distinct`, as for text, each cell is there once, where it stands
            first, with the number of its rows; else all cells, or those of some rows, of which the median is taken.
        rows: how many it summarises.
        moments: of the known numbers; None if some known cell is no finite number.
        distinct: see `cells`.
        complete: whether all distinct cells are there; not, if there are more than `MAX_DISTINCT`.
    """

    cells: Source
    rows: int
    moments: Moments | None
    distinct: bool
    complete: bool = True

    @classmethod
    def of(cls, source: Source, name: str, *, distinct: bool = False, some: NDArray[np.int64] | None = None) -> Summary:
        """The summary of a column of a source.

        Args:
            source: the rows.
            name: of the column.
            distinct: whether numbers are told apart, too, as the classes of a target are.
            some: indices of the rows whose numbers are kept; None is all of them.

        Raises:
            DataError: an infinite cell in a column of numbers.
        """
        cells, column, values = source.alone(name), source[name], None
        if not isinstance(column, Texts):
            values = source.numbers(name)
        elif not ((column.wrong | column.infinite) & (column.counts > 0)).any():
            values = column.numbers
        moments = None if values is None else Moments.of(values[~np.isnan(values)])
        if distinct or isinstance(column, Texts):
            return cls(_distinct(cells), len(source), moments, True)
        return cls(cells if some is None else cells.take(some), len(source), moments, False)

    @property
    def name(self) -> str:
        """The name of the column."""
        return next(iter(self.cells.columns))

    @property
    def missing(self) -> int:
        """The number of missing cells of a column of numbers."""
        return self.rows - (0 if self.moments is None else self.moments.count)

    @property
    def median(self) -> float:
        """The median of the known numbers of `cells`, each as often as it stands in the table; 0 if there are none."""
        column, values = self.cells[self.name], self.cells.numbers(self.name)
        known = np.flatnonzero(~np.isnan(values))
        if not len(known):
            return 0.0
        if not isinstance(column, Texts):
            return float(np.median(values[known]))
        rising = known[np.argsort(values[known])]
        last = np.cumsum(column.counts[column.codes[rising]])
        middle = np.searchsorted(last, [(last[-1] - 1) // 2, last[-1] // 2], side="right")
        return float(values[rising][middle].mean())

    def __add__(self, other: Summary) -> Summary:
        both = None if self.moments is None or other.moments is None else self.moments + other.moments
        complete = self.complete and other.complete
        total = replace(self, rows=self.rows + other.rows, moments=both, complete=complete)
        if self.distinct and (len(self.cells) > MAX_DISTINCT or not complete):
            # A cell that is no number among so many numbers must not be lost.
            bad = self.moments is not None and other.moments is None
            return replace(total, complete=False, cells=other.cells if bad else self.cells)
        cells = Source.joined([self.cells, other.cells])
        return replace(total, cells=_distinct(cells) if self.distinct else cells)


def _distinct(cells: Source) -> Source:
    """A table of one column without the rows whose cell stands in a row before; texts have their numbers of rows."""
    ((name, column),) = cells.columns.items()
    codes = column.codes if isinstance(column, Texts) else np.unique(column, return_inverse=True)[1]
    first = np.full(codes.max(initial=0) + 1, -1)
    # Of several values for one place, NumPy keeps the last one, which is the first row here.
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    rows = np.sort(first[first >= 0])
    made = cells.take(rows)
    if not isinstance(column, Texts):
        return made
    return replace(made, columns={name: replace(column.take(rows), weights=column.counts[codes[rows]])})
