"""The columns of a table, before they are features: `Source`, and what its cells say.

A source is a dictionary of columns; a matrix is a table whose columns are numbered and bear no names
(`named` is False). Text cells stay text here: whether a column holds numbers is decided where a preprocessor
is fitted, and is the same at predict whatever the new file happens to hold. Surrounding blanks of a text
cell are cut off, and the tokens in `MISSING` become the empty string, which means "missing" from here on.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nnbp.errors import DataError
from nnbp.registry import suggest

Column = npt.NDArray[Any]
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

_DECIMAL_COMMA = re.compile(r"[-+]?(\d{1,3}([. '’\u00a0\u202f]\d{3})+|\d+),\d+(e[-+]?\d+)?", re.IGNORECASE)


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


PLAIN = Reading()


@dataclass(frozen=True, eq=False)
class Source:
    """One table: columns of m cells each, and perhaps a target column.

    name: the file or set, as messages call it. columns: name → array (m,) of numbers, bools or strings
    (`StringDType`, "" is missing). target: (m,) or None. named: False if the names are only positions.
    places: (m,) int64, where each row stands in the file: its line, or its index from 0 (`unit` says which).
    as_text: columns that are text whatever their cells say.
    """

    name: str
    columns: Mapping[str, Column]
    places: npt.NDArray[np.int64]
    unit: Literal["line", "row"] = "row"
    named: bool = True
    target: Column | None = None
    target_name: str | None = None
    as_text: tuple[str, ...] = ()

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

    def take(self, rows: npt.NDArray[np.int64]) -> Source:
        """The source of those rows; they keep their lines."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        target = None if self.target is None else self.target[rows]
        return replace(self, columns=columns, places=self.places[rows], target=target)

    def with_target(self, name: str | None, *, required: bool) -> Source:
        """The source with that column set aside as its target; DataError if it is required and absent."""
        if name is None or name not in self.columns:
            if not required:
                return self
            what = "no target was named" if name is None else f"no column {name!r}"
            raise DataError(
                f"{self.name}: {what}; the target must be one of the columns "
                f"{listed(self.columns)}{suggest(name or '', self.columns)}. Name it: --target COLUMN."
            )
        rest = {other: column for other, column in self.columns.items() if other != name}
        return replace(self, columns=rest, target=self.columns[name], target_name=name)

    def read_as(self, reading: Reading, *, required: bool = True) -> Source:
        """The source read that way; DataError if `required` and a column that it names is absent."""
        names = (*self.columns, *([] if self.target_name is None else [self.target_name]))
        for name in (*reading.text, *reading.drop):
            if required and name not in names:
                raise DataError(
                    f"{self.name}: no column {name!r} to take as text or to leave out; the columns are "
                    f"{listed(names)}{suggest(name, names)}."
                )

        def read(name: str, cells: Column) -> Column:
            if cells.dtype.kind != "T":
                return cells.astype(TEXT) if name in reading.text else cells
            for mark in reading.missing:
                cells = np.where(cells == mark, "", cells)
            if reading.decimal == "," and name not in reading.text:
                distinct, inverse = np.unique(cells, return_inverse=True)
                cells = np.array([_with_point(text) for text in distinct], dtype=TEXT)[inverse]
            return cells

        columns = {name: read(name, cells) for name, cells in self.columns.items() if name not in reading.drop}
        target = None if self.target is None else read(self.target_name or "", self.target)
        return replace(self, columns=columns, target=target, as_text=reading.text)

    def kind(self, name: str, *, mixed: bool = False) -> Kind:
        """What a column holds: "number" (also if all is missing), "bool" (true, false in any case) or "text".

        mixed: numbers among texts are text. If not, DataError if most of the known cells are numbers and others are
            not, or would be numbers without a decimal comma, a separator of thousands, a percent sign, a currency or a
            unit: as text each would be a feature of its own.
        """
        column = self[name]
        if name in self.as_text:
            return "text"
        if column.dtype.kind != "T":
            return "bool" if column.dtype.kind == "b" else "number"
        present = column != ""
        bad = _parse(column)[1]
        if not bad.any():
            return "number"
        if np.isin(np.strings.lower(column[present]).astype(object), ("true", "false")).all():
            return "bool"
        if not mixed:
            self._check_numeric(name, bad, int(present.sum()))
        return "text"

    def _check_numeric(self, name: str, bad: npt.NDArray[np.bool_], known: int) -> None:
        """DataError if most of the known cells of a column of text are numbers, or nearly."""
        texts, counts = np.unique(self[name][bad], return_counts=True)
        alike = np.array([_NUMBER_LIKE.fullmatch(text) is not None for text in texts])
        good = known - int(bad.sum())
        if not 2 * (good + counts[alike].sum()) > max(known, 2):
            return
        remedies = []
        if others := texts[~alike].tolist():
            marks = " ".join(f"--missing {shlex.quote(text)}" for text in others[:3])
            remedies.append(f"if {listed(others, 3)} means that the value is not known: {marks}")
        if alike.any():
            commas = all(_DECIMAL_COMMA.fullmatch(text) for text in texts[alike])
            remedies.append(
                "if a comma is the decimal mark: --decimal ," if commas else
                f"write {listed(texts[alike].tolist(), 3)} as plain numbers, without marks and units"
            )  # fmt: skip
        column = shlex.quote(name)
        remedies.append(f"else take the column as text: --text {column}, or leave it out: --drop {column}")
        what = f"a finite number, as in {good} of the {known} known cells of this column" if good else "a plain number"
        self.check(name, bad, what, f"Correct the cells; {'; '.join(remedies)}")

    def check(self, name: str, bad: npt.NDArray[np.bool_], expected: str, fix: str = FIX) -> None:
        """DataError for the first bad cell (m,) of a column, if there is one: its place, what was expected, the fix."""
        if bad.any():
            row = int(bad.argmax())
            received = repr(str(self[name][row]))
            raise DataError(f"{self.at(row, name)}: expected {expected}; received {received}. {fix}.")

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """A column as float64 (m,), nan if missing; DataError at the first cell that is no finite number."""
        values, bad = _parse(self[name])
        self.check(name, bad | np.isinf(values), "a finite number")
        return values

    def integers(self, name: str) -> npt.NDArray[np.int64]:
        """A column without missing cells as int64 (m,); DataError at the first cell that is no whole number."""
        values = self.numbers(name)
        expected = "a class, that is text, true or false, or a whole number"
        self.check(name, ~whole(values), expected, "Use --task regression for a quantity")
        return values.astype(np.int64)

    def booleans(self, name: str) -> npt.NDArray[np.float64]:
        """A column of bools as float64 (m,) of 0, 1 and nan if missing; DataError at the first other cell."""
        column = self[name]
        if column.dtype.kind == "T":
            lower = np.strings.lower(column)
            values = np.where(lower == "true", 1.0, np.where(lower == "false", 0.0, np.nan))
            bad = np.isnan(values) & (column != "")
        else:
            values = column.astype(np.float64)
            bad = ~(np.isnan(values) | (values == 0) | (values == 1))
        self.check(name, bad, "true or false")
        return values

    def texts(self, name: str) -> Column:
        """A column as text (m,), "" if missing; DataError if it holds numbers or bools instead."""
        column = self[name]
        if column.dtype.kind == "T":
            return column
        raise DataError(
            f"{self.at(0, name)}: expected text, as at training; received {column[0]!s} in a column of dtype "
            f"{column.dtype}. Store the column as text."
        )


def listed(names: Iterable[str], limit: int = 12) -> str:
    """The names as a message lists them: the first `limit`, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more


def clean(cells: Column) -> Column:
    """Strings (…,) as they are kept: no blanks around, "" for every token of `MISSING`."""
    cells = np.strings.strip(cells)
    for token in MISSING[1:]:
        cells[cells == token] = ""
    return cells


def _with_point(text: str) -> str:
    """A cell with a decimal comma as one with a point, and without separators of thousands; others as they are."""
    return re.sub(r"[.\s'’]", "", text).replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text


def parse_number(text: str) -> float:
    """The number that a cell says, nan for none; 1_000, which Python's float reads, is none."""
    try:
        return float("nan" if "_" in text else text)
    except ValueError:
        return float("nan")


def _parse(cells: Column) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Cells (m,) → their numbers, nan if missing or wrong, and a mask of the wrong ones."""
    values: npt.NDArray[np.float64]
    if cells.dtype.kind != "T":
        values = cells.astype(np.float64)
        return values, np.zeros(len(values), dtype=np.bool_)
    missing = cells == ""
    try:
        values = np.where(missing, "nan", cells).astype(np.float64)
        values[np.strings.find(cells, "_") >= 0] = np.nan
    except ValueError:
        distinct, inverse = np.unique(cells, return_inverse=True)
        values = np.array([parse_number(text) for text in distinct])[inverse]
    return values, np.isnan(values) & ~missing


def whole(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which of the values (m,) are whole numbers, exactly kept by float64."""
    return np.equal(values, np.floor(values)) & (np.abs(values) <= EXACT)


def codes_among(known: Sequence[Any], cells: Column) -> tuple[npt.NDArray[np.int64], list[Any]]:
    """Where each cell (m,) stands among the known values, −1 for none, and the distinct unknown cells."""
    place = {value: k for k, value in enumerate(known)}
    distinct, inverse = np.unique(cells, return_inverse=True)
    values = distinct.tolist()
    codes = np.array([place.get(value, -1) for value in values], dtype=np.int64)
    return codes[inverse], [value for value in values if value not in place]


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
