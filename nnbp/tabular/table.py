"""The columns of a table, before they are features: `Source`, and what its cells say.

A source is a dictionary of columns; a matrix is a table whose columns are numbered and bear no names
(`named` is False). A column of numbers is an array of them, nan if missing; a column with any other cell is `Texts`.
So is one whose text must be kept, whatever its cells say: that of the target, whose labels may be 007, and those that
a model takes as text.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from nnbp.errors import DataError
from nnbp.registry import suggest
from nnbp.validation import one_of

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Kind = Literal["number", "bool", "text"]

# Those of pandas.read_csv, and the question mark.
MISSING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null", "?",
)  # fmt: skip
TEXT = np.dtypes.StringDType()
FIX = "Correct the cell, or leave it empty if the value is not known"
EXACT = 2**53  # every whole number up to here is a float64

_SIGN, _MARK, _UNIT = r"[-+]?\s*", r"[^\w\s.,+-]{0,2}\s*", r"[^\W\d_]{1,5}([/·^][^\W\d_]{1,5})?[²³]?"
_NUMBER_LIKE = re.compile(
    rf"([A-Z]{{3}}\s*)?{_MARK}{_SIGN}{_MARK}\d[\d.,'’ \u00a0\u202f]*(e[-+]?\d+)?\s*({_UNIT}|[^\w\s]{{1,2}})?",
    re.IGNORECASE,
)
"""A number with a currency, thousands separators, a decimal comma, a percent sign or a unit."""

_GROUPED = re.compile(r"[-+]?\d{1,3}(\.\d{3})+")
"""A whole number with points between its thousands."""

_SINGLE = ("decimal", "target", "task")
"""Options that take one value."""

_DECIMAL_COMMA = re.compile(r"[-+]?(\d{1,3}([. '’\u00a0\u202f]\d{3})+|\d+),\d+(e[-+]?\d+)?", re.IGNORECASE)


class Cells(Protocol):
    """Cells of text as they were read: an array of NumPy or of Arrow."""

    def __len__(self) -> int: ...

    def tolist(self) -> Any:
        """The cells as a list of str."""


@dataclass(frozen=True)
class Reading:
    """How a table is read, as the user says; a model keeps it for the tables that it predicts.

    missing: marks of a missing value, besides `MISSING`. decimal: the decimal mark, a point or a comma.
    text: columns to take as text. drop: columns to leave out.
    """

    missing: tuple[str, ...] = ()
    decimal: str = "."
    text: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one_of("decimal, the decimal mark,", self.decimal, ".", ",")

    @cached_property
    def marks(self) -> frozenset[str]:
        """All texts that mean that a value is missing."""
        return frozenset((*MISSING, *self.missing))

    def column(self, parts: Sequence[Cells], *, keep_text: bool = False) -> Column:
        """The column that consists of these parts; each of its cells is parsed once.

        keep_text: `Texts`, also if all known cells are numbers.
        """
        if not keep_text:
            try:
                return np.concatenate([self._numbers(part.tolist()) for part in parts])
            except ValueError:
                pass  # There is other text.
        place: dict[str, int] = {}
        codes = [
            np.fromiter((place.setdefault(cell, len(place)) for cell in part.tolist()), np.int32, len(part))
            for part in parts
        ]
        return self.encoded(np.concatenate(codes), list(place), keep_text=keep_text)

    def encoded(self, codes: npt.NDArray[Any], texts: Sequence[str], *, keep_text: bool = False) -> Column:
        """The column whose cell n is ``texts[codes[n]]``; see `column`."""
        cleaned = np.array([self._clean(text, keep_text) for text in texts], dtype=TEXT)
        distinct, places = distinct_texts(cleaned)
        column = Texts(places.astype(np.int32)[codes], distinct)
        return column if keep_text or (column.wrong | column.infinite).any() else column.numbers

    def _numbers(self, cells: list[str]) -> npt.NDArray[Any]:
        """The cells as numbers, nan if missing; ValueError if one is neither a finite number nor missing."""
        marks, nan = self.marks, float("nan")
        if self.missing:
            # Such a mark may be a number, which may have blanks around it.
            cells = [cell.strip() for cell in cells]
        values = np.array([nan if cell in marks else float(cell) for cell in cells], np.float64)
        unknown = len(cells) - np.count_nonzero(np.isfinite(values))
        text = "".join(cells)
        points = self.decimal == "," and "." in text
        if "_" in text or points or (unknown and unknown != sum(cell in marks for cell in cells)):
            raise ValueError
        return _narrow(values)

    def _clean(self, text: str, keep_text: bool) -> str:
        """A cell as it is kept: no blanks around, "" if it is missing, a decimal point."""
        text = text.strip()
        if text in self.marks:
            return ""
        if self.decimal == "." or keep_text or not (_DECIMAL_COMMA.fullmatch(text) or _GROUPED.fullmatch(text)):
            return text
        return re.sub(r"[.\s'’]", "", text).replace(",", ".")


PLAIN = Reading()


@dataclass(frozen=True, eq=False)
class Texts:
    """A column of text: cell n is ``distinct[codes[n]]``, "" if it is missing.

    codes: (m,) int32. distinct: (k,) of `TEXT`, in rising order; rows that were taken from a table need not have all.
    weights: (m,), for how many rows of a table each cell stands; None is one.
    """

    codes: npt.NDArray[np.int32]
    distinct: npt.NDArray[Any]
    weights: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> str:
        return str(self.distinct[self.codes[row]])

    def take(self, rows: npt.NDArray[Any]) -> Texts:
        """The column of these rows."""
        codes, distinct = self.codes[rows], self.distinct
        if len(codes) < len(distinct):
            # A few rows do not keep all texts of their table in memory.
            used, places = np.unique(codes, return_inverse=True)
            codes, distinct = places.astype(np.int32), distinct[used]
        return Texts(codes, distinct, None if self.weights is None else self.weights[rows])

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        """The column that consists of these parts; all of them have weights or none."""
        distinct, places = distinct_texts(np.concatenate([part.distinct for part in parts]))
        ends = np.cumsum([len(part.distinct) for part in parts])
        codes = [own[part.codes] for own, part in zip(np.split(places.astype(np.int32), ends[:-1]), parts, strict=True)]
        weights = [part.weights for part in parts if part.weights is not None]
        return cls(np.concatenate(codes), distinct, np.concatenate(weights) if weights else None)

    def tolist(self) -> list[str]:
        """All cells."""
        return list(self.distinct[self.codes].tolist())

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """How often each distinct text stands in the column (k,)."""
        return np.bincount(self.codes, self.weights, minlength=len(self.distinct)).astype(np.int64)

    @property
    def present(self) -> list[str]:
        """The distinct known texts of these rows."""
        return [text for text in self.distinct[self.counts > 0].tolist() if text]

    @cached_property
    def _parsed(self) -> Floats:
        return np.array([parse_number(text) for text in self.distinct.tolist()])

    @property
    def numbers(self) -> Floats:
        """The numbers that the cells say (m,), nan for a cell that is missing or says none."""
        return np.asarray(self._parsed[self.codes])

    @cached_property
    def wrong(self) -> Bools:
        """Which distinct texts are known, in these rows, and no numbers (k,)."""
        return np.asarray((self.counts > 0) & np.isnan(self._parsed) & (self.distinct != ""))

    @property
    def infinite(self) -> Bools:
        """Which distinct texts are numbers beyond all others (k,)."""
        return np.asarray(np.isinf(self._parsed))


Column = npt.NDArray[Any] | Texts


@dataclass(frozen=True, eq=False)
class Source:
    """One table: columns of m cells each, and perhaps a target column.

    name: the file or set, as messages call it. columns: name → array (m,) of numbers or bools, or `Texts`.
    target: (m,) or None. named: False if the names are only positions.
    places: (m,) int64, where each row stands in the file: its line, or its index from 0 (`unit` says which).
    as_text: columns that are text whatever their cells say. in_python: whether the user speaks Python, not to a shell.
    """

    name: str
    columns: Mapping[str, Column]
    places: npt.NDArray[np.int64]
    unit: Literal["line", "row"] = "row"
    named: bool = True
    target: Column | None = None
    target_name: str | None = None
    as_text: tuple[str, ...] = ()
    in_python: bool = False

    def __len__(self) -> int:
        """The number m of rows."""
        return len(self.places)

    def __getitem__(self, name: str) -> Column:
        """The column of that name, the target included."""
        if self.target is not None and name == self.target_name:
            return self.target
        return self.columns[name]

    def at(self, row: int, name: str) -> str:
        """Where a cell stands: "iris.csv, line 17, column 'petal width'"; rows of arrays count from 0."""
        column = name if name.isdigit() and not self.named else repr(name)
        return f"{self.name}, {self.unit} {self.places[row]}, column {column}"

    def option(self, name: str, *values: str) -> str:
        """An option as the user gives it: --text COLUMN, or text=['COLUMN']."""
        if self.in_python:
            return f"{name}={values[0] if name in _SINGLE else list(values)!r}" if values else name
        return " ".join(f"--{name} {shlex.quote(value)}" for value in values) or f"--{name}"

    def take(self, rows: npt.NDArray[np.int64]) -> Source:
        """The source of those rows; they keep their lines."""
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        target = None if self.target is None else self.target.take(rows)
        return replace(self, columns=columns, places=self.places[rows], target=target)

    @classmethod
    def joined(cls, parts: Sequence[Source]) -> Source:
        """The source of the rows of these parts, which have the same columns."""
        first, *_ = parts
        columns = {name: _joined([part.columns[name] for part in parts]) for name in first.columns}
        targets = [part.target for part in parts if part.target is not None]
        places = np.concatenate([part.places for part in parts])
        return replace(first, columns=columns, places=places, target=_joined(targets) if targets else None)

    def alone(self, name: str) -> Source:
        """The source of that column alone, the target included."""
        return replace(self, columns={name: self[name]}, target=None, target_name=None)

    def with_target(self, name: str | None, *, required: bool) -> Source:
        """The source with that column set aside as its target; DataError if it is required and absent."""
        if name is None or name not in self.columns:
            if not required:
                return self
            what = "no target was named" if name is None else f"no column {name!r}"
            raise DataError(
                f"{self.name}: {what}; the target must be one of the columns "
                f"{listed(self.columns)}{suggest(name or '', self.columns)}. Name it: "
                f"{self.option('target', 'COLUMN')}."
            )
        rest = {other: column for other, column in self.columns.items() if other != name}
        return replace(self, columns=rest, target=self.columns[name], target_name=name)

    def kind(self, name: str, *, mixed: bool = False) -> Kind:
        """What a column holds: "number" (also if all is missing), "bool" (true, false in any case) or "text".

        mixed: numbers among texts are text. If not, DataError if most of the known cells are numbers and others are
            not, or would be numbers without a decimal comma, a separator of thousands, a percent sign, a currency or a
            unit: as text each would be a feature of its own.
        """
        column = self[name]
        if name in self.as_text:
            return "text"
        if not isinstance(column, Texts):
            return "bool" if column.dtype.kind == "b" else "number"
        if not column.wrong.any():
            return "number"
        if all(text.lower() in ("true", "false") for text in column.present):
            return "bool"
        if not mixed:
            self._check_numeric(name, column)
        return "text"

    def _check_numeric(self, name: str, column: Texts) -> None:
        """DataError if most of the known cells of a column of text are numbers, or nearly."""
        texts, counts = column.distinct[column.wrong], column.counts[column.wrong]
        alike = np.array([_NUMBER_LIKE.fullmatch(text) is not None for text in texts])
        known = int(column.counts[column.distinct != ""].sum())
        good = known - int(counts.sum())
        if not 2 * (good + counts[alike].sum()) > max(known, 2):
            return
        remedies = []
        if others := texts[~alike].tolist():
            marks = self.option("missing", *others[:3])
            remedies.append(f"if {listed(others, 3)} means that the value is not known: {marks}")
        if alike.any():
            commas = all(_DECIMAL_COMMA.fullmatch(text) for text in texts[alike])
            remedies.append(
                f"if a comma is the decimal mark: {self.option('decimal', ',')}" if commas else
                f"write {listed(texts[alike].tolist(), 3)} as plain numbers, without marks and units"
            )  # fmt: skip
        remedies.append(
            f"else take the column as text: {self.option('text', name)}, or leave it out: {self.option('drop', name)}"
        )
        what = f"a finite number, as in {good} of the {known} known cells of this column" if good else "a plain number"
        self.check(name, column.wrong[column.codes], what, f"Correct the cells; {'; '.join(remedies)}")

    def check(self, name: str, bad: Bools, expected: str, fix: str = FIX) -> None:
        """DataError for the first bad cell (m,) of a column, if there is one: its place, what was expected, the fix."""
        if bad.any():
            row = int(bad.argmax())
            received = repr(str(self[name][row]))
            raise DataError(f"{self.at(row, name)}: expected {expected}; received {received}. {fix}.")

    def numbers(self, name: str) -> Floats:
        """A column as float64 (m,), nan if missing; DataError at the first cell that is no finite number."""
        column = self[name]
        if isinstance(column, Texts):
            self.check(name, (column.wrong | column.infinite)[column.codes], "a finite number")
            return column.numbers
        values: Floats = column.astype(np.float64)
        self.check(name, np.isinf(values), "a finite number")
        return values

    def integers(self, name: str) -> npt.NDArray[np.int64]:
        """A column without missing cells as int64 (m,); DataError at the first cell that is no whole number."""
        values = self.numbers(name)
        expected = "a class, that is text, true or false, or a whole number"
        self.check(name, ~whole(values), expected, f"Use {self.option('task', 'regression')} for a quantity")
        return values.astype(np.int64)

    def booleans(self, name: str) -> Floats:
        """A column of bools as float64 (m,) of 0, 1 and nan if missing; DataError at the first other cell."""
        column = self[name]
        if isinstance(column, Texts):
            says = {"true": 1.0, "false": 0.0}
            values = np.array([says.get(text.lower(), np.nan) for text in column.distinct.tolist()])[column.codes]
            bad = np.isnan(values) & (column.distinct != "")[column.codes]
        else:
            values = column.astype(np.float64)
            bad = ~(np.isnan(values) | (values == 0) | (values == 1))
        self.check(name, bad, "true or false")
        return values

    def texts(self, name: str) -> Texts:
        """A column of text; DataError if it holds numbers or bools instead."""
        column = self[name]
        if isinstance(column, Texts):
            return column
        raise DataError(
            f"{self.at(0, name)}: expected text, as at training; received {column[0]!s} in a column of dtype "
            f"{column.dtype}. Store the column as text."
        )


def distinct_texts(texts: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """The distinct ones of some texts (m,) of dtype `TEXT`, in rising order, and the index of each text there (m,)."""
    # With return_index, NumPy sorts stably. Its other sort of such texts, in NumPy 2.4 at least, crashes the process if
    # quicksort resorts to heapsort, as for many sorted texts with others after them.
    distinct, _, places = np.unique(texts, return_index=True, return_inverse=True)
    return distinct, places


def _joined(parts: Sequence[Column]) -> Column:
    texts = [part for part in parts if isinstance(part, Texts)]
    return Texts.joined(texts) if texts else np.concatenate([part for part in parts if not isinstance(part, Texts)])


def listed(names: Iterable[str], limit: int = 12) -> str:
    """The names as a message lists them: the first `limit`, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more


def _narrow(values: Floats) -> npt.NDArray[Any]:
    """The values in float32 if it holds all of them exactly: most tables have many columns of small whole numbers."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    return narrow if np.array_equal(narrow, values, equal_nan=True) else values


def parse_number(text: str) -> float:
    """The number that a cell says, nan for none; 1_000, which Python's float reads, is none."""
    try:
        return float("nan" if "_" in text else text)
    except ValueError:
        return float("nan")


def whole(values: Floats) -> Bools:
    """Which of the values (m,) are whole numbers, exactly kept by float64."""
    return np.equal(values, np.floor(values)) & (np.abs(values) <= EXACT)


def codes_among(known: Sequence[Any], column: Column) -> tuple[npt.NDArray[np.int64], list[Any]]:
    """Where each cell (m,) stands among the known values, −1 for none, and the distinct unknown cells."""
    place = {value: k for k, value in enumerate(known)}
    distinct: npt.NDArray[Any]
    inverse: npt.NDArray[Any]
    if isinstance(column, Texts):
        distinct, inverse = column.distinct, column.codes
        new = [text for text in distinct[column.counts > 0].tolist() if text not in place]
    else:
        distinct, inverse = np.unique(column, return_inverse=True)
        new = [value for value in distinct.tolist() if value not in place]
    codes = np.array([place.get(value, -1) for value in distinct.tolist()], dtype=np.int64)
    return codes[inverse], new


def train_test_split(
    m: int, fraction: float, seed: int, stratify: npt.NDArray[Any] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows 0 … m−1 split at random into those to train on and a `fraction` to test on, each in rising order.

    stratify: labels (m,). Where every class can be on both sides, each is split in the same proportion, to
    a row. Returns (train, test), int64; the same seed gives the same rows. Raises DataError for m < 2, a
    fraction outside (0, 1), or labels of another length.
    """
    if m < 2 or not 0 < fraction < 1:
        raise DataError(
            "a split of rows in two needs 2 rows or more and a fraction above 0 and below 1; received "
            f"{m} row{'s' * (m != 1)} and the fraction {fraction}. Give more rows, or a fraction such as 0.2."
        )
    if stratify is not None and np.shape(stratify) != (m,):
        raise DataError(f"stratify must be one label per row, ({m},); received {np.shape(stratify)}. Pass y as ({m},).")
    size = min(max(round(m * fraction), 1), m - 1)
    order = np.random.default_rng(seed).permutation(m)
    labels = np.zeros(m) if stratify is None else stratify
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if counts.min() < 2 or not len(counts) <= size <= m - len(counts):
        codes, counts = np.zeros(m, dtype=np.int64), np.array([m])
    # Largest remainders: each class its share rounded down, then a row each for those furthest below theirs.
    share = counts * (size / m)
    take = np.clip(share.astype(np.int64), 1, counts - 1)
    while take.sum() < size:
        take[np.where(take < counts - 1, share - take, -np.inf).argmax()] += 1
    while take.sum() > size:
        take[np.where(take > 1, share - take, np.inf).argmin()] -= 1
    test = np.concatenate([order[codes[order] == k][: take[k]] for k in range(len(counts))])
    return np.setdiff1d(order, test), np.sort(test)
