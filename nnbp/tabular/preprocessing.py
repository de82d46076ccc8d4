"""From the columns of a table to features and targets, and back from outputs to labels.

A column of text stays one number per row, the index of its category, until the network's first layer, `OneHot`, makes a
feature of each category. What goes into a model file is JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from nnbp.errors import DataError, ModelFileError
from nnbp.formatting import json_value, shown
from nnbp.nn.layers import is_constant
from nnbp.registry import suggest
from nnbp.tabular.summary import MAX_DISTINCT, Summary
from nnbp.tabular.table import (
    EXACT,
    PLAIN,
    TEXT,
    Column,
    Floats,
    Reading,
    Source,
    Texts,
    codes_among,
    distinct_texts,
    listed,
    whole,
)

Task = Literal["classification", "regression"]
T = TypeVar("T", bound="Spec | TargetEncoder | Reading")

MAX_CATEGORIES = 1000  # a text column with more is a name or an identifier: one-hot it only fills memory
ALL_DIFFERENT = 0.9  # a share of distinct texts from which on a column says which row it is, and nothing of it
FEW = 30  # rows that are too few to tell
MAX_CLASSES = 20  # whole numbers with more distinct values are taken for a quantity
# How labels of each type are read; bools as 0.0 and 1.0, which equal False and True.
READERS: dict[type, Callable[[Source, str], Column]] = {
    int: Source.integers,
    bool: Source.booleans,
    str: Source.texts,
}


class _OneFeature:
    """A column that gives one feature."""

    name: str
    width: ClassVar[int] = 1
    categories: ClassVar[tuple[str, ...]] = ()

    @property
    def features(self) -> tuple[str, ...]:
        """The name of the feature."""
        return (self.name,)


@dataclass(frozen=True)
class NumberColumn(_OneFeature):
    """(x − mean) / scale, a missing x being the median."""

    name: str
    median: float
    mean: float
    scale: float

    @classmethod
    def fit(cls, summary: Summary) -> NumberColumn:
        """The column of a summary; DataError at a bad cell."""
        name, cells = summary.name, summary.cells
        if summary.moments is None:
            cells.numbers(name)  # It raises.
        if not summary.complete:
            raise DataError(
                f"{cells.name}, column {name!r}: numbers that are stored as text, more than {MAX_DISTINCT} different "
                "ones; of so many, the median is known only of a column of numbers. Store the column as numbers, or "
                f"leave it out: {cells.option('drop', name)}."
            )
        median = summary.median
        return cls(name, median, *_standard(summary, median))

    def f(self, x: Any) -> Any:
        """The feature of a cell, in code that `nnbp.graph.formula.trace` can read; nan, alone unequal to itself, is a
        missing one."""
        return (np.where(x != x, self.median, x) - self.mean) / self.scale

    def cells(self, source: Source, name: str) -> Floats:
        """Column `name` of the source (m,), nan if missing; DataError at the first cell that is no finite number."""
        return source.numbers(name)

    def example(self, rng: np.random.Generator, m: int) -> Column:
        """A column of m cells such as the training table may have had."""
        return np.where(rng.random(m) < 0.1, np.nan, rng.normal(self.mean, self.scale, m))

    def encode(self, source: Source, name: str, messages: list[str]) -> Floats:
        """Column `name` of the source as a feature (m,); DataError as of `cells`."""
        with np.errstate(over="ignore"):
            scaled = np.asarray(self.f(self.cells(source, name)))
        expected = f"a number that can be standardised by the {self.mean} ± {self.scale} of training"
        source.check(name, ~np.isfinite(scaled), expected, "Check the cell and its unit")
        return scaled


@dataclass(frozen=True)
class BoolColumn(_OneFeature):
    """0 or 1, a missing value being `fill`, the more frequent one at training."""

    name: str
    fill: bool

    @classmethod
    def fit(cls, summary: Summary) -> BoolColumn:
        """The column of a summary."""
        name, column = summary.name, summary.cells[summary.name]
        if not isinstance(column, Texts):
            return cls(name, summary.moments is not None and summary.moments.mean > 0.5)
        values, counts = summary.cells.booleans(name), column.counts[column.codes]
        return cls(name, bool(2 * counts[values == 1].sum() > counts[~np.isnan(values)].sum()))

    def f(self, x: Any) -> Any:
        """The feature of a cell; see `NumberColumn.f`."""
        return np.where(x != x, float(self.fill), x)

    def cells(self, source: Source, name: str) -> Floats:
        """Column `name` of the source (m,), nan if missing; DataError at the first cell that is not true or false."""
        return source.booleans(name)

    def example(self, rng: np.random.Generator, m: int) -> Column:
        """A column of m cells such as the training table may have had."""
        return rng.choice([0.0, 1.0, np.nan], m)

    def encode(self, source: Source, name: str, messages: list[str]) -> Floats:
        """Column `name` of the source as a feature (m,); DataError as of `cells`."""
        return np.asarray(self.f(self.cells(source, name)))


@dataclass(frozen=True)
class TextColumn:
    """The index of its category ("" is missing): `OneHot` makes 1 of it there and 0 elsewhere."""

    name: str
    categories: tuple[str, ...]

    @classmethod
    def fit(cls, summary: Summary) -> TextColumn:
        """The column of a summary; DataError if it has more than `MAX_CATEGORIES`."""
        name, texts = summary.name, summary.cells.texts(summary.name)
        categories = texts.distinct[texts.counts > 0].tolist()
        if len(categories) > MAX_CATEGORIES:
            least = "" if summary.complete else "at least "
            raise DataError(
                f"{summary.cells.name}, column {name!r}: {least}{len(categories)} different texts in {summary.rows} "
                f"rows, each to be a feature; at most {MAX_CATEGORIES} are taken. Leave the column out or group its "
                "texts."
            )
        return cls(name, tuple(categories))

    @property
    def width(self) -> int:
        """The number of features that it gives."""
        return len(self.categories)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features that it gives, one per category."""
        return tuple(f"{self.name}={category or '(missing)'}" for category in self.categories)

    def cells(self, source: Source, name: str) -> npt.NDArray[np.object_]:
        """Column `name` of the source (m,), "" if missing; DataError if it is no text."""
        return np.array(source.texts(name).tolist(), dtype=object)

    def example(self, rng: np.random.Generator, m: int) -> Column:
        """A column of m cells such as the training table may have had, and some that it did not have."""
        distinct, _ = distinct_texts(np.array([*self.categories, "", "a text that training did not have"], dtype=TEXT))
        return Texts(rng.integers(0, len(distinct), m, dtype=np.int32), distinct)

    def encode(self, source: Source, name: str, messages: list[str]) -> Floats:
        """Indices of categories (m,), −1 for one that training did not have; one message tells of all of these."""
        codes, new = codes_among(self.categories, source.texts(name))
        if new:
            unknown = codes < 0
            which = listed([text or "(missing)" for text in new], 5)
            messages.append(
                f"{source.at(int(unknown.argmax()), name)}: here first, and in {unknown.sum()} of {len(source)} rows, "
                f"is a category that training did not have ({which}): its features are 0."
            )
        return codes.astype(np.float64)


Spec = NumberColumn | BoolColumn | TextColumn
KINDS: dict[str, type[Spec]] = {"number": NumberColumn, "bool": BoolColumn, "text": TextColumn}


@dataclass(frozen=True)
class TablePreprocessor:
    """How each column becomes features: numbers imputed and standardised, bools 0 and 1, texts one-hot.

    columns: one a column of the table, in the order of the features. named: whether columns are matched by
    their names (tables) or by their number and order (matrices). reading: how the table is read. left_out: columns of
    text, nearly all different, which are not used.
    """

    columns: tuple[Spec, ...]
    named: bool = True
    reading: Reading = PLAIN
    left_out: tuple[str, ...] = ()

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the n features: the column's, with "=category" if it is one-hot."""
        return tuple(feature for column in self.columns for feature in column.features)

    def notes(self, source: Source) -> list[str]:
        """What the user should know of the columns of the training table."""
        return [
            f"column {shown(name)} is left out: nearly all of its texts are different, as those of names and numbers "
            f"of rows are. To use it all the same, give {source.option('text', name)}."
            for name in self.left_out
        ]

    @property
    def n_features(self) -> int:
        """The number n of features; a file may have names that are too long to be put together."""
        return sum(column.width for column in self.columns)

    @property
    def one_hot(self) -> list[int]:
        """The number of categories of each column, 0 if it has none: what `OneHot` takes."""
        return [len(column.categories) for column in self.columns]

    @classmethod
    def fit(cls, source: Source, reading: Reading = PLAIN) -> TablePreprocessor:
        """Medians, means and deviations of numbers, and the sorted categories of texts.

        Raises DataError at a bad cell, for a table without features or a text column of more than `MAX_CATEGORIES`.
        """
        return cls.of(source, [Summary.of(source, name) for name in source.columns], reading)

    @classmethod
    def of(cls, source: Source, summaries: Sequence[Summary], reading: Reading = PLAIN) -> TablePreprocessor:
        """The preprocessor of a table of which the source is a part, from the summaries of its columns; see `fit`."""
        specs: list[Spec] = []
        left_out: list[str] = []
        for summary in summaries:
            kind = summary.cells.kind(summary.name)
            if kind == "text" and _all_different(summary):
                left_out.append(summary.name)
            else:
                specs.append(KINDS[kind].fit(summary))
        if not specs:
            aside = f" and the columns left out, {listed(left_out)}" if left_out else ""
            raise DataError(f"{source.name}: nothing but the target{aside}; another column must hold features.")
        return cls(tuple(specs), source.named, reading, tuple(left_out))

    def transform(self, source: Source) -> tuple[Floats, list[str]]:
        """One number per column (m, columns) float64, and messages on what was ignored or not known.

        Columns are matched by name, in any order, if both tables have names, else by number and order.
        Raises DataError for missing columns, a wrong number of them, or a bad cell.
        """
        messages: list[str] = []
        names = self.names_in(source, messages)
        X = np.empty((len(source), len(names)))
        for values, column, name in zip(X.T, self.columns, names, strict=True):
            values[...] = column.encode(source, name, messages)
        return X, messages

    def names_in(self, source: Source, messages: list[str]) -> list[str]:
        """The name of each column in a source; adds messages on what is ignored. DataError as of `transform`."""
        names = [column.name for column in self.columns]
        if self.named and source.named:
            self._match(names, source, messages)
        elif len(source.columns) != len(names):
            raise DataError(
                f"{source.name}: {len(source.columns)} columns of features, but the model was trained on {len(names)}. "
                "Where either table has no names, both must have the same columns in the same order, the target aside."
            )
        else:
            names = list(source.columns)
        return names

    def _match(self, names: Sequence[str], source: Source, messages: list[str]) -> None:
        known = set(names)
        unused = {*known, *self.left_out, *self.reading.drop}
        extra = [name for name in source.columns if name not in unused]
        missing = [name for name in names if name not in source.columns]
        if missing:
            hints = ", ".join(repr(name) + suggest(name, extra) for name in missing)
            raise DataError(
                f"{source.name}: the model was trained on {len(names)} columns, of which these are missing: {hints}. "
                "Add or rename them; their order does not matter."
            )
        if extra:
            messages.append(f"{source.name}: columns that training did not have are ignored: {listed(extra)}.")

    def to_json(self) -> dict[str, Any]:
        """The preprocessor in JSON's types; floats come back from JSON text bit for bit."""
        kinds = {spec: kind for kind, spec in KINDS.items()}
        columns = [{"kind": kinds[type(column)]} | json_value(asdict(column)) for column in self.columns]
        made: dict[str, Any] = {"named": self.named, "columns": columns}
        if self.reading != PLAIN:
            made["reading"] = json_value(asdict(self.reading))
        if self.left_out:
            made["left_out"] = list(self.left_out)
        return made

    @classmethod
    def from_json(cls, data: object) -> TablePreprocessor:
        """The preprocessor that `to_json` wrote; ModelFileError for anything else."""
        # The files of most tables do not have the last two, nor did those of earlier versions.
        given = {"reading": asdict(PLAIN), "left_out": [], **data} if isinstance(data, dict) else data
        checked = _checked(given, "preprocessing", ("named", "columns", "reading", "left_out"))
        reading = _made(Reading, json_value(checked["reading"]), "preprocessing, reading")
        columns: list[Spec] = []
        for j, column in enumerate(checked["columns"]):
            where = f"preprocessing, column {j}"
            kind = column.get("kind") if isinstance(column, dict) else None
            if not isinstance(kind, str) or kind not in KINDS:
                raise _damaged(where, f"an object whose kind is one of {listed(KINDS)}", column)
            rest = {key: value for key, value in column.items() if key != "kind"}
            columns.append(_made(KINDS[kind], rest, where))
        names = [column.name for column in columns]
        if not _distinct(names, str):
            raise _damaged("preprocessing, names of columns", "distinct strings, one at least", names)
        return cls(tuple(columns), checked["named"], reading, checked["left_out"])


def _standard(summary: Summary, median: float = 0.0) -> tuple[float, float]:
    """Mean and deviation of a column whose missing cells are the median; the deviation of a constant is 1."""
    assert summary.moments is not None, "all known cells are finite numbers"
    moments = summary.moments.with_constant(median, summary.missing)
    if not math.isfinite(moments.deviation):
        largest = max(moments.low, moments.high, key=abs)
        found = np.flatnonzero(summary.cells.numbers(summary.name) == largest)
        cell = (
            summary.cells.at(int(found[0]), summary.name) if len(found) else f"{summary.cells.name}, {summary.name!r}"
        )
        raise DataError(
            f"{cell}: {largest} is so large that the variance of its column overflows. Check the cell, or express the "
            "column in a larger unit."
        )
    return moments.mean, 1.0 if is_constant(moments.mean, moments.deviation) else moments.deviation


def _all_different(summary: Summary) -> bool:
    """Whether a column of text has hardly any text twice; one that the user wants as text has not."""
    source, name = summary.cells, summary.name
    if not source.named or name in source.as_text:
        return False
    texts = source.texts(name)
    known = texts.counts[texts.distinct != ""].sum()
    return bool(known >= FEW and len(texts.present) > ALL_DIFFERENT * known)


@dataclass(frozen=True)
class TargetEncoder:
    """Labels ↔ class indices 0 … k−1 in sorted order, or values ↔ (y − mean) / scale.

    name: the target's column. labels: the k classes as strings, ints or bools; empty for regression.
    """

    name: str
    labels: tuple[str, ...] | tuple[int, ...] = ()
    mean: float = 0.0
    scale: float = 1.0

    @property
    def task(self) -> Task:
        """What is done with such a target."""
        return "classification" if self.labels else "regression"

    @classmethod
    def fit(cls, source: Source, task: Task | None = None) -> TargetEncoder:
        """Fit to the target of a source; without a task, it follows from the cells.

        Strings and bools are classes. Numbers are classes if all are whole and either at most 2 are distinct,
        or at most `MAX_CLASSES` and no more than half the number of rows; else they are a quantity.
        Raises DataError for a missing cell, a single class, or a cell that the task cannot take, by its row.
        """
        return cls.of(Summary.of(source, checked_target(source), distinct=True), task)

    @classmethod
    def of(cls, summary: Summary, task: Task | None = None) -> TargetEncoder:
        """Fit to the summary of a target whose cells are all there and told apart; see `fit`."""
        name, cells, rows = summary.name, summary.cells, summary.rows
        kind = cells.kind(name, mixed=task == "classification")
        if task is None and kind == "number":
            values = np.unique(cells.numbers(name))
            few = len(values) <= max(2, min(MAX_CLASSES, rows // 2))
            task = "classification" if few and whole(values).all() else "regression"
        if task == "regression":
            cells.numbers(name)  # It raises at a cell that is none.
            return cls(name, (), *_standard(summary))
        label = {"number": int, "bool": bool, "text": str}[kind]
        read, column = READERS[label](cells, name), cells[name]
        if label is int and isinstance(column, Texts) and any(str(int(float(text))) != text for text in column.present):
            read = column  # Labels keep their text, such as 007.
        labels = read.present if isinstance(read, Texts) else [label(value) for value in np.unique(read)]
        regression = cells.option("task", "regression")
        if (len(labels) > ALL_DIFFERENT * rows and rows >= FEW) or not summary.complete:
            least, hardly = ("", ", hardly one of them twice") if summary.complete else ("at least ", "")
            raise DataError(
                f"{cells.name}, column {name!r}: {least}{len(labels)} classes in {rows} rows{hardly}; from one row "
                f"nothing can be learnt of a class. Use {regression} for a quantity, or choose another target."
            )
        if len(labels) < 2:
            raise DataError(
                f"{cells.name}, column {name!r}: every row is of the class {labels[0]!r}; there must be two classes "
                f"at least. Choose another target, or {regression} if it is a quantity."
            )
        return cls(name, tuple(labels))

    def encode(self, source: Source) -> npt.NDArray[Any]:
        """The source's target as class indices (m,) int64 or standardised values (m,) float64.

        Raises DataError at the first cell that is missing, no number, or no label of the training.
        """
        name = checked_target(source)
        if not self.labels:
            return (source.numbers(name) - self.mean) / self.scale
        codes, _ = codes_among(self.labels, READERS[type(self.labels[0])](source, name))
        expected = f"one of the labels of training, {listed(map(str, self.labels))}"
        source.check(name, codes < 0, expected, "Correct the cell, or train anew with this class")
        return codes

    def decode(self, outputs: npt.ArrayLike) -> npt.NDArray[Any]:
        """Class indices → labels, or standardised values → values in the target's own unit; any shape."""
        if self.labels:
            return np.asarray(np.array(self.labels)[np.asarray(outputs)])
        return np.asarray(self.f(np.asarray(outputs, dtype=np.float64)))

    def f(self, y: Any) -> Any:
        """The value in the target's own unit of a standardised one; see `NumberColumn.f`."""
        return y * self.scale + self.mean

    def to_json(self) -> dict[str, Any]:
        """The encoder in JSON's types."""
        return dict(json_value(asdict(self)))

    @classmethod
    def from_json(cls, data: object) -> TargetEncoder:
        """The encoder that `to_json` wrote; ModelFileError for anything else."""
        return _made(cls, data, "target")


def checked_target(source: Source) -> str:
    """The name of the source's target, no cell of which is missing; DataError if one is."""
    column, name = source.target, source.target_name
    if column is None or name is None:
        raise DataError(
            f"{source.name}: there is no target here. Name its column: {source.option('target', 'COLUMN')}."
        )
    missing = (column.distinct == "")[column.codes] if isinstance(column, Texts) else np.isnan(column)
    if missing.any():
        raise DataError(
            f"{source.at(int(missing.argmax()), name)}: the target is missing here and in {missing.sum()} rows in all; "
            "every row needs one. Fill it in, or leave those rows out."
        )
    return name


def _distinct(values: Any, *types: type) -> bool:
    """Whether it is a list of at least one value, all of one of the types and all different."""
    kinds = {type(value) for value in values} if isinstance(values, list) else set()
    return len(kinds) == 1 and kinds <= set(types) and len(set(values)) == len(values)


def _finite(value: Any) -> bool:
    return (type(value) is int and abs(value) <= EXACT) or (isinstance(value, float) and math.isfinite(value))


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _are_labels(values: Any) -> bool:
    several = _distinct(values, str, int, bool) and len(values) > 1
    return values == [] or (several and (isinstance(values[0], str) or max(map(abs, values)) <= EXACT))


FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "named": ("true or false", lambda value: isinstance(value, bool)),
    "columns": ("a list", lambda value: isinstance(value, list)),
    "name": ("a string", lambda value: isinstance(value, str)),
    "median": ("finite", _finite),
    "mean": ("finite", _finite),
    "scale": ("finite and above 0", lambda value: _finite(value) and value > 0),
    "fill": ("true or false", lambda value: isinstance(value, bool)),
    "categories": ("distinct strings, one at least", lambda value: _distinct(value, str)),
    "labels": ("empty, or two or more distinct labels of one type", _are_labels),
    "decimal": ("a point or a comma", lambda value: value in (".", ",")),
    "reading": ("an object", lambda value: isinstance(value, dict)),
    **dict.fromkeys(("missing", "text", "drop", "left_out"), ("a list of strings", _are_texts)),
}
"""What the fields of the JSON objects are, in words and as a test."""


def _checked(data: object, where: str, names: Sequence[str]) -> dict[str, Any]:
    """The fields of a JSON object, lists as tuples; ModelFileError if they are not these `FIELDS`."""
    if not isinstance(data, dict) or data.keys() != set(names):
        raise _damaged(where, f"an object of {listed(names)}", data)
    for name in names:
        rule, kept = FIELDS[name]
        if not kept(data[name]):
            raise _damaged(f"{where}, {name}", rule, data[name])
    return {name: tuple(data[name]) if isinstance(data[name], list) else data[name] for name in names}


def _made(cls: type[T], data: object, where: str) -> T:
    """An object of a dataclass from a JSON object of its fields."""
    return cls(**_checked(data, where, [field.name for field in fields(cls)]))


def _damaged(where: str, rule: str, got: object) -> ModelFileError:
    return ModelFileError(f"{where} is {rule}; received {shown(got)}. Save the model anew.")
