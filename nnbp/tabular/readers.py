"""Where data come from: built-in sets and CSV, Parquet, NPY and NPZ files, all read into one `Source`.

CSV is read by Python's own `csv`, which says on which line of the file a row stands, whatever lines before it were
blank or belong to a quoted field; so every bad cell can be named. A large file is read by pyarrow if it is installed
and every row stands on a line of its own; the cells are the same.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import mmap
import re
import warnings
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, TextIO

import numpy as np
from numpy.typing import NDArray

from nnbp.errors import DataError, NnbpError
from nnbp.formatting import brief, shown
from nnbp.registry import suggest
from nnbp.requirements import optional
from nnbp.tabular.table import PLAIN, TEXT, Cells, Column, Reading, Source, Texts, listed, parse_number, whole

BUILTIN = {
    "digits": "digit",
    "iris": "species",
    "wine": "cultivar",
    "breast_cancer": "diagnosis",
    "diabetes": "progression",
}
PARQUET = (".parquet", ".pq")
SUFFIXES = (".csv", ".tsv", *PARQUET, ".npy", ".npz")
LARGE_TABLE = 2**29  # bytes of memory that a table in a Parquet file may take to be read as a whole
CHUNK = 2**17  # cells that are Python strings at a time, which take 50 bytes each, of 128 rows or more
LARGE = 2**20  # bytes of a CSV file that are worth the import of pyarrow
WIDE = 2**14  # bytes of each of its columns that are worth an array of Arrow

# A file is refused before any work if it claims more than this.
MAX_COLUMNS = 1_000_000
MAX_EXPANSION = 100  # bytes of an array per byte of the compressed file that holds it
SMALL_ARRAY = 2**24  # bytes that any compressed file may expand to
MAX_HEADER = 2**14  # bytes of an NPY header; NumPy itself parses no more than 10,000
MAX_READ = 2**20  # bytes that `zipfile` reads at once: the directory of some 10,000 arrays


Raw = NDArray[Any] | Texts | list[Cells]
"""Numbers or bools (m,), or text, parsed or in parts."""


@dataclass(frozen=True)
class _Table:
    """What a file holds, before its cells are parsed.

    name: of the file or set. columns: by name.
    places, unit, named: those of the `Source`; the places are 0, 1, … unless given. target: the name of its column.
    y: the target, if it is none of the columns. in_python: that of the `Source`.
    """

    name: str
    columns: dict[str, Raw]
    places: NDArray[np.int64] | None = None
    unit: Literal["line", "row"] = "row"
    named: bool = True
    target: str | None = None
    y: NDArray[Any] | None = None
    in_python: bool = False

    def source(self, reading: Reading, required: bool, keep: Collection[str] | None) -> Source:
        """The table with its cells parsed; the columns are released one after the other."""
        columns, names = self.columns, list(self.columns)
        if required:
            _check_reading(self.name, names, reading)
        kept = {*names} if keep is None else {*keep, *reading.text}
        parsed = {
            name: _parsed(
                columns.pop(name), reading, keep_text=name in kept, as_text=name in reading.text,
                is_target=name == self.target,
            )
            for name in names
            if name not in reading.drop or name == self.target
        }  # fmt: skip
        m = len(next(iter(parsed.values()), ()) if self.y is None else self.y)
        places = np.arange(m) if self.places is None else self.places
        source = Source(
            self.name, parsed, places, self.unit, self.named, as_text=reading.text, in_python=self.in_python
        )
        if self.y is not None:
            return replace(source, target=_parsed(self.y, reading, is_target=True), target_name=self.target)
        return source.with_target(self.target, required=required)


def _check_reading(where: str, names: Sequence[str], reading: Reading) -> None:
    """DataError unless the table has the columns that its reading names."""
    for name in (*reading.text, *reading.drop):
        if name not in names:
            raise DataError(
                f"{where}: no column {name!r} to take as text or to leave out; the columns are "
                f"{listed(names)}{suggest(name, names)}."
            )


def _parsed(
    cells: Raw, reading: Reading, *, keep_text: bool = False, as_text: bool = False,
    is_target: bool = False,
) -> Column:  # fmt: skip
    if isinstance(cells, np.ndarray) and (as_text or cells.dtype.kind == "T"):
        cells = [cells.astype(TEXT, copy=False)]
    if not isinstance(cells, list):
        return cells
    column = reading.column(cells, keep_text=keep_text)
    # Whole numbers may be labels, which keep their text, such as 007.
    labels = is_target and not isinstance(column, Texts) and whole(column).all()
    return reading.column(cells, keep_text=True) if labels else column


def load_source(
    source: str | Path, *, target: str | None = None, target_required: bool = True, n_features: int | None = None,
    reading: Reading = PLAIN, keep_text: Collection[str] | None = (),
) -> Source:  # fmt: skip
    """Read a built-in set (`BUILTIN`) or a file (`SUFFIXES`) with its target set aside.

    target: a column's name; for NPY its index (the last by default; negative counts from the end); for NPZ
        the key of y ("y" by default, "X" holds the features). A built-in set knows its own.
    target_required: False for prediction: the target is set aside if it is there, and may be absent, as may the columns
        that `reading` names.
    n_features: for NPY at prediction, the columns that the model takes: an array of as many has no target.
    reading: how its cells are read.
    keep_text: columns, besides the target, whose text is kept if all their cells are numbers; None is all of them.
    Raises DataError with file, line and column for what cannot be read; MissingDependencyError.
    """
    name, suffix = str(source), Path(source).suffix.lower()
    if name in BUILTIN:
        table = _builtin(name, target or BUILTIN[name])
    elif suffix not in SUFFIXES:
        raise DataError(
            f"unknown source {name!r}{suggest(name, BUILTIN)}: it must be one of the sets {', '.join(BUILTIN)}, or a "
            f"file ending in {' '.join(SUFFIXES)}."
        )
    elif not Path(source).is_file():
        raise DataError(f"{name}: there is no such file; check the path (it is looked up from {Path.cwd()}).")
    else:
        try:
            table = _file(Path(source), suffix, target, target_required, n_features)
        except OSError as error:
            raise _unreadable(name, error) from error
    return table.source(reading, target_required, keep_text)


def _unreadable(name: str, error: OSError) -> DataError:
    return DataError(f"{name}: the file cannot be read ({error}).")


def frame_source(
    frame: Any, *, target: str, target_required: bool = True, reading: Reading = PLAIN,
    keep_text: Collection[str] | None = (),
) -> Source:  # fmt: skip
    """A data frame as a table; see `load_source`.

    frame: has the Arrow stream interface, as those of pandas, polars, Arrow and DuckDB have.
    Raises TypeError for anything else; DataError; MissingDependencyError.
    """
    if not hasattr(frame, "__arrow_c_stream__"):
        raise TypeError(
            "A table is a data frame with the Arrow stream interface, as those of pandas (from 2.2), polars, Arrow and "
            f"DuckDB have; received {shown(frame)}. Make one of it, as with pandas.DataFrame(X, columns=names)."
        )
    name, pa = type(frame).__name__, optional("pyarrow", "reading data frames")
    try:
        table = pa.table(frame)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise DataError(
            f"{name}: this is no table of Arrow ({brief(error)}). Give the cells of each column one type."
        ) from error
    made = replace(_from_arrow(name, table), target=target, in_python=True)
    return made.source(reading, target_required, keep_text)


def _file(path: Path, suffix: str, target: str | None, required: bool, n_features: int | None) -> _Table:
    if suffix == ".npy":
        return _npy(path, target, required, n_features)
    if suffix == ".npz":
        return _npz(path, target, required)
    table = _parquet(path) if suffix in PARQUET else _csv(path, "\t" if suffix == ".tsv" else ",")
    return replace(table, target=target)


def _check_names(where: str, names: Sequence[str]) -> None:
    """DataError unless the names of the columns are distinct and none is empty."""
    seen: dict[str, int] = {}
    for j, name in enumerate(names, 1):
        if not name:
            raise DataError(
                f"{where}: column {j} has no name. Name it, or leave it out: pandas writes such a column of row "
                "numbers unless it is told to_csv(index=False)."
            )
        if name in seen:
            raise DataError(f"{where}: columns {seen[name]} and {j} are both named {name!r}. Rename one of them.")
        seen[name] = j


def _builtin(name: str, target: str) -> _Table:
    data = getattr(optional("sklearn.datasets", f"the set {name!r}"), f"load_{name}")()
    columns: dict[str, Any] = {str(key): data.data[:, j] for j, key in enumerate(data.feature_names)}
    labels = data.get("target_names")
    y = data.target
    if labels is not None and np.asarray(labels).dtype.kind == "U":  # the flowers' names, not 0, 1, 2
        y = PLAIN.encoded(y, labels.tolist(), keep_text=True)
    columns[BUILTIN[name]] = y
    return _Table(name, columns, target=target)


def _csv(path: Path, delimiter: str) -> _Table:
    encoding = _encoding(path)
    try:
        with path.open(encoding=encoding, newline="") as file:
            mark = _delimiter(file, delimiter)
            rows = _rows(path, csv.reader(file, delimiter=mark, strict=True))
            line, names = next(rows, (1, []))
            header = [name.strip() for name in names]
            if not header:
                raise DataError(f"{path.name}: the file is empty; line 1 must name the columns.")
            _check_header(f"{path.name}, line {line}", header)
            found = _by_pyarrow(path, mark, len(header)) if encoding != "utf-16" and line == 1 else None
            columns, places = found or _by_csv(path, header, rows)
    except UnicodeDecodeError:
        raise DataError(_not_utf8(path)) from None
    if not len(places):
        raise DataError(f"{path.name}: the table has no rows: one at least must follow the names of the columns.")
    return _Table(path.name, dict(zip(header, columns, strict=True)), places, "line")


def _rows(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with its first line, if a quoted field breaks it."""
    last = width = 0
    try:
        for row in reader:
            line, last = last + 1, reader.line_num
            if row and (len(row) > 1 or width == 1 or row[0].strip()):
                width = width or len(row)
                yield line, row
    except csv.Error as error:
        raise DataError(
            f"{path.name}, line {last + 1}: the row that begins here is no valid CSV ({error}). "
            'Close every quote, and write a quote inside a quoted field twice: "say ""hi""".'
        ) from error


def _by_csv(
    path: Path, header: list[str], numbered: Iterator[tuple[int, list[str]]]
) -> tuple[list[list[Cells]], NDArray[np.int64]]:
    """The columns, and the line of each row."""
    columns: list[list[Cells]] = [[] for _ in header]
    lines = [np.empty(0, np.int64)]
    while some := list(islice(numbered, max(128, CHUNK // len(header)))):
        for line, row in some:
            if len(row) != len(header):
                raise DataError(
                    f"{path.name}, line {line}: {len(row)} field{'s' * (len(row) != 1)}, but the header names "
                    f"{len(header)} columns ({_ragged(row, header)}). Every row must have as many fields as the "
                    "header; quote a field that holds the separator."
                )
        lines.append(np.array([line for line, _ in some]))
        _pack(columns, zip(*(row for _, row in some), strict=True))
    return columns, np.concatenate(lines)


class _Packed:
    """Cells as one string, with a byte for a character; as strings of their own they would take 50 bytes each."""

    _MARK = "\0"

    def __init__(self, cells: Sequence[str]) -> None:
        self._count = len(cells)
        self._text = self._MARK.join(cells)
        self._cells = cells if self._text.count(self._MARK) >= len(cells) else None

    def __len__(self) -> int:
        return self._count

    def tolist(self) -> list[str]:
        return self._text.split(self._MARK) if self._cells is None else list(self._cells)


def _pack(columns: list[list[Cells]], block: Iterable[Sequence[str]]) -> None:
    """Adds a block of rows, column by column."""
    for parts, cells in zip(columns, block, strict=True):
        parts.append(_Packed(cells))


def _plain_lines(content: mmap.mmap, delimiter: bytes) -> int | None:
    """The number of lines of a CSV file, if all readers take its bytes for the same cells; else None.

    In such a file every line ends as usual and is a whole row, in which a field has quotes around it or none at all.
    """
    field = b'(?:[^"%b\\r\\n]*+|"(?:[^"\\r\\n]++|"")*+")' % re.escape(delimiter)
    row = re.compile(b"%b(?:%b%b)*+\\r?\\n?" % (field, re.escape(delimiter), field))
    if re.search(rb"\r(?!\n)", content) or content.find(b"\0") >= 0:
        return None
    lines = 0
    for line in iter(content.readline, b""):
        if b'"' in line and row.fullmatch(line) is None:
            return None
        lines += 1
    return lines


def _by_pyarrow(path: Path, delimiter: str, width: int) -> tuple[list[list[Cells]], NDArray[np.int64]] | None:
    """What `_by_csv` returns, if pyarrow is there, the file is large and each row stands on a line; else None."""
    size = path.stat().st_size
    if size < max(LARGE, WIDE * width):
        return None
    try:
        import pyarrow as pa
        from pyarrow import csv as arrow
    except ImportError:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        lines = _plain_lines(content, delimiter.encode())
    if lines is None:
        return None
    names = [f"f{j}" for j in range(width)]
    columns: list[list[Cells]] = [[] for _ in names]
    rows = 0
    try:
        # More threads would need more memory and hardly less time.
        with arrow.open_csv(
            path,
            arrow.ReadOptions(autogenerate_column_names=True, use_threads=False, block_size=2**18),
            arrow.ParseOptions(delimiter=delimiter),
            arrow.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        ) as batches:
            for batch in batches:
                if batch.num_columns != width:
                    return None
                # The first row is the header.
                _pack(columns, (column.tolist()[not rows :] for column in batch.columns))
                rows += batch.num_rows
        pa.default_memory_pool().release_unused()
    except pa.ArrowInvalid:
        return None  # The module csv says what is wrong, and where.
    return (columns, np.arange(2, rows + 1)) if rows == lines else None


def _encoding(path: Path) -> str:
    """UTF-16 if the file begins with its mark, else UTF-8."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _delimiter(file: TextIO, usual: str) -> str:
    """What separates the fields: the usual mark, unless the first line is one field with it, and the first two lines
    have several and as many as each other with another mark."""
    lines = [line for line, _ in zip(file, range(2), strict=False)]
    file.seek(0)

    def fields(mark: str) -> list[int]:
        with suppress(csv.Error):
            return [len(row) for row in csv.reader(lines, delimiter=mark)]
        return [1]

    others = [mark for mark in ",;\t|" if min(fields(mark), default=1) > 1 and len(set(fields(mark))) == 1]
    return others[0] if others and fields(usual)[0] == 1 else usual


def _ragged(row: list[str], header: list[str]) -> str:
    if len(row) < len(header):
        return f"nothing for column {header[len(row)]!r}"
    return f"the first one too many is {row[len(header)]!r}"


def _check_header(where: str, header: list[str]) -> None:
    _check_names(where, header)
    other = next((mark for mark in ";\t,|" if len(header) == 1 and mark in header[0]), None)
    if other:
        raise DataError(
            f"{where}: one column, named {header[0]!r}: its fields seem to be separated by {other!r}. Save a .csv with "
            "commas, or a .tsv with tabs."
        )
    values = [parse_number(name) for name in header]
    if all(np.isfinite(values)) and any(not name.lstrip("-").isdigit() for name in header):
        raise DataError(
            f"{where}: every column has a number for a name ({listed(header, 4)}): the file seems to have no header. "
            "Put a line with the names of the columns on top."
        )


def _not_utf8(path: Path) -> str:
    with path.open("rb") as file:
        for line, text in enumerate(file, 1):
            try:
                text.decode("utf-8")
            except UnicodeDecodeError as error:
                return (
                    f"{path.name}, line {line}: byte {error.start + 1} (0x{text[error.start]:02x}) is not UTF-8. Save "
                    "the file as UTF-8, as with: iconv -f latin1 -t utf-8 OLD > NEW."
                )
    return f"{path.name}: the file ends within a character of UTF-8. It may have been cut off."


@contextmanager
def _reading(path: Path, what: str, fix: str) -> Iterator[None]:
    """Turns every error about the content of an open file into a DataError.

    What NumPy, zipfile and pyarrow raise for damaged files is not documented and has no common base; their warnings
    about such files quote the files.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except (NnbpError, MemoryError):
        raise
    except Exception as error:
        reason = brief(error) or type(error).__name__
        raise DataError(f"{path.name}: this is no readable {what} ({reason}). {fix}") from error


def _check_expansion(path: Path, label: str, size: int, fix: str) -> None:
    """DataError if a compressed file claims to hold far more bytes than data do."""
    limit = max(SMALL_ARRAY, MAX_EXPANSION * path.stat().st_size)
    if size > limit:
        raise DataError(
            f"{path.name}: {label} takes {size} bytes of memory; from a compressed file of {path.stat().st_size} bytes "
            f"at most {limit} are read. If the data are right, {fix}."
        )


def _check_width(path: Path, columns: int) -> None:
    if columns > MAX_COLUMNS:
        raise DataError(
            f"{path.name}: a table has at most {MAX_COLUMNS} columns; this one has {columns}. Leave some out."
        )


def is_parquet(path: Path) -> bool:
    """Whether it is a Parquet file that is there, by its name."""
    return path.suffix.lower() in PARQUET and path.is_file()


@contextmanager
def parquet_file(path: Path, *, in_pieces: bool = False) -> Iterator[Any]:
    """A Parquet file, opened by pyarrow, that claims no more than it can hold; its texts are read as categories.

    in_pieces: it is read piece by piece, in little memory however large its row groups are.
    """
    pa = optional("pyarrow", "reading Parquet")
    parquet = optional("pyarrow.parquet", "reading Parquet")
    # Opened first, so that a file that one may not read is not told as a damaged one.
    with path.open("rb"), _reading(path, "Parquet file", "Write it anew."):
        with parquet.ParquetFile(path) as opened:
            rows, width = opened.metadata.num_rows, opened.metadata.num_columns
            _check_width(path, width)
            fix = "write it with compression=None, use_dictionary=False"
            _check_expansion(path, f"a table of {rows} rows and {width} columns", table_bytes(opened.metadata), fix)
            texts = [field.name for field in opened.schema_arrow if pa.types.is_string(field.type)]
            if in_pieces and opened.metadata.num_row_groups:
                # Of texts that are stored one by one, the categories would grow with each piece of a row group.
                stored = _stored(opened.metadata.row_group(0))
                texts = [name for name in texts if stored.get(name, math.inf) <= 8]
        options = {"pre_buffer": False, "buffer_size": 2**16} if in_pieces else {}
        # A long text that a file holds once is not to be read as often as it stands in the table.
        with parquet.ParquetFile(path, read_dictionary=texts, **options) as opened:
            yield opened


def _stored(group: Any) -> dict[str, float]:
    """The bytes per cell that each column of a row group takes before compression."""
    columns = (group.column(k) for k in range(group.num_columns))
    return {column.path_in_schema: column.total_uncompressed_size / max(1, column.num_values) for column in columns}


def table_bytes(metadata: Any) -> int:
    """About the bytes of memory that a Parquet file's table takes, by its metadata."""
    pages = sum(metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups))
    return int(max(8 * metadata.num_rows * metadata.num_columns, pages))


def _parquet(path: Path) -> _Table:
    with parquet_file(path) as opened:
        return _from_arrow(path.name, opened.read())


def _from_arrow(name: str, table: Any) -> _Table:
    names = _columns(name, table.schema, table.num_rows)
    return _Table(name, {column: _arrow(name, column, table.column(column)) for column in names})


def _columns(name: str, schema: Any, rows: int) -> list[str]:
    """The names of the columns of a table of Arrow; DataError if it has none, or no rows."""
    # pandas stores its row index as a column and says so here; it is no feature.
    index = (schema.pandas_metadata or {}).get("index_columns", ())
    _check_names(name, schema.names)
    names = [column for column in schema.names if column not in index]
    if not (names and rows):
        raise DataError(f"{name}: the table has no rows or no columns; at least one of each is needed.")
    return names


class _Categories:
    """Cells that Arrow holds as indices of distinct values, as it does for categories."""

    def __init__(self, chunk: Any) -> None:
        self._chunk = chunk

    def __len__(self) -> int:
        return len(self._chunk)

    def tolist(self) -> list[str]:
        values = ["" if value is None else str(value) for value in self._chunk.dictionary.tolist()]
        indices = self._chunk.indices.fill_null(len(values)).to_numpy()
        return list(map([*values, ""].__getitem__, indices.tolist()))


def _arrow(where: str, name: str, column: Any) -> Raw:
    """The cells of a column of Arrow."""
    pa, kind = optional("pyarrow", "reading data frames"), column.type
    if pa.types.is_dictionary(kind) and not pa.types.is_nested(kind.value_type):
        return [_Categories(chunk) for chunk in column.chunks]
    if pa.types.is_boolean(kind) and column.null_count == 0:
        return np.array(column.to_numpy(), dtype=np.bool_)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return np.array((column.cast(pa.float64()) if pa.types.is_decimal(kind) else column).to_numpy())
    if pa.types.is_null(kind):
        return np.full(len(column), "", dtype=TEXT)
    strings = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if strings or pa.types.is_boolean(kind):
        return list(column.cast(pa.large_string()).fill_null("").chunks)
    raise DataError(
        f"{where}, column {name!r}: cells of type {kind} cannot be used; columns must hold numbers, bools or text. "
        "Turn it into numbers (a date into days, say) or leave it out."
    )


@dataclass(frozen=True)
class RowGroups:
    """The rows of a Parquet file, or of some of its row groups, which are read block by block.

    A row group is what a Parquet file holds together. A block is at most 8 MiB, or 128 rows, of one of them.
    In a block, columns of text are `Texts` even if all of their cells are numbers, and so are bools.

    Attributes:
        path: of the file.
        target: the name of the target's column.
        reading: how its cells are read; columns to drop are not read at all.
        names: of the columns that are read, the target included.
        sizes: the number of rows of each row group of the file.
        groups: indices of the row groups to read.
        nbytes: about the bytes of memory that the whole table would take.
        required: False for prediction: the target and the columns that the reading names may be absent.
    """

    path: Path
    target: str | None
    reading: Reading
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    groups: tuple[int, ...]
    nbytes: int
    required: bool = True

    @classmethod
    def of(cls, path: Path, target: str | None, reading: Reading, *, required: bool = True) -> RowGroups:
        """The rows of all row groups of a file; DataError if it cannot be read or lacks a column that is named."""
        try:
            path.open("rb").close()
        except OSError as error:
            raise _unreadable(str(path), error) from error
        with parquet_file(path) as opened:
            metadata = opened.metadata
            names = _columns(path.name, opened.schema_arrow, metadata.num_rows)
            if required:
                _check_reading(path.name, names, reading)
            sizes = tuple(metadata.row_group(k).num_rows for k in range(metadata.num_row_groups))
            kept = tuple(name for name in names if name not in reading.drop or name == target)
            groups = tuple(k for k, size in enumerate(sizes) if size)
            nbytes, own = table_bytes(metadata), replace(reading, drop=())
            return cls(path, target, own, kept, sizes, groups, nbytes, required)

    def __len__(self) -> int:
        """The number of rows."""
        return sum(self.sizes[k] for k in self.groups)

    def blocks(self, groups: Iterable[int] | None = None) -> Iterator[tuple[int, Source]]:
        """The rows of these row groups, or of all, in their order: the index of a row group, and a block of it.

        The places of rows are counted from 0 through the whole file, whichever row groups are read.
        """
        pa = optional("pyarrow", "reading Parquet")
        rows = min(2**16, max(128, 2**23 * sum(self.sizes) // self.nbytes))
        first = np.cumsum([0, *self.sizes])
        with parquet_file(self.path, in_pieces=True) as opened:
            for group in self.groups if groups is None else groups:
                done = int(first[group])
                # More threads would need more memory and hardly less time.
                for batch in opened.iter_batches(rows, [group], columns=list(self.names), use_threads=False):
                    cells = pa.Table.from_batches([batch])
                    columns = {name: self._cells(pa, name, cells.column(name)) for name in self.names}
                    places = np.arange(done, done + len(batch))
                    table = _Table(self.path.name, columns, places, target=self.target)
                    yield group, table.source(self.reading, self.required, None)
                    done += len(batch)
                pa.default_memory_pool().release_unused()

    def _cells(self, pa: Any, name: str, column: Any) -> Raw:
        """The cells of a column of a block, of which each distinct text is parsed once."""
        kind = column.type
        if pa.types.is_boolean(kind):
            column = column.cast(pa.string())
        elif not (pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            return _arrow(self.path.name, name, column)
        chunk = column.dictionary_encode().combine_chunks()
        texts = ["" if value is None else str(value) for value in chunk.dictionary.tolist()]
        codes = chunk.indices.fill_null(len(texts)).to_numpy()
        return self.reading.encoded(codes, [*texts, ""], keep_text=True)


_NUMPY = "NumPy file of arrays of numbers or strings"
_NUMPY_FIX = "Save it with np.save or np.savez from arrays of numbers or strings, not of objects."


class _SmallReads(io.BufferedReader):
    """A file that `zipfile` cannot be made to read at once: it takes in a whole directory before one sees its size."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_READ:
            raise ValueError(f"its directory has {size} bytes, at most {MAX_READ} are read")
        return super().read(size)


def _array(path: Path, label: str, file: IO[bytes], size: int, ndim: int) -> NDArray[Any]:
    """The array of an open NPY file, read once its header was checked.

    label: the array, as messages call it. size: bytes of the file. ndim: dimensions that it must have; (m, 1) passes
        for (m,).
    Raises DataError unless it holds numbers, bools or strings, is not empty, and all of it is in the file.
    """
    head = io.BytesIO(file.read(MAX_HEADER))
    version = np.lib.format.read_magic(head)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = header(head)
    except MemoryError as error:  # Python's parser says so of brackets in brackets
        raise ValueError("its header is nested too deep") from error
    if dtype.kind not in "biufU":
        raise DataError(
            f"{path.name}: {label} has dtype {brief(dtype)}; it must hold numbers, bools or strings, not objects. "
            "Convert it with astype."
        )
    if ndim == 1 and shape[1:] == (1,):
        shape = shape[:1]
    if len(shape) != ndim or min(shape) < 1 or not dtype.itemsize:
        need = "(samples, features)" if ndim == 2 else "(samples,)"
        raise DataError(
            f"{path.name}: {label} has shape {shown(shape)} and dtype {dtype}; it must be {need}, none of them 0. "
            "Reshape it, as with X.reshape(len(X), -1)" + (" or y.argmax(axis=1) for one-hot rows" * (ndim == 1))
        )
    nbytes = math.prod(shape) * dtype.itemsize
    _check_width(path, math.prod(shape[1:]))
    if nbytes > size - head.tell():
        raise DataError(
            f"{path.name}: {label} has shape {shown(shape)} and dtype {dtype}, which is {nbytes} bytes; "
            f"{size - head.tell()} are in the file. It was cut off or damaged: take a fresh copy."
        )
    _check_expansion(path, label, nbytes, "save it with np.savez instead of np.savez_compressed")
    file.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False).reshape(shape)
    return array.astype(TEXT) if dtype.kind == "U" else array


def _npy(path: Path, target: str | None, required: bool, n_features: int | None) -> _Table:
    with path.open("rb") as file, _reading(path, _NUMPY, _NUMPY_FIX):
        if file.peek(2).startswith(b"PK"):
            raise DataError(f"{path.name}: this is an NPZ file; give it the ending .npz.")
        matrix = _array(path, "the array", file, path.stat().st_size, 2)
    width = matrix.shape[1]
    table = _Table(path.name, {str(j): matrix[:, j] for j in range(width)}, named=False)
    bare = width == n_features or (n_features is None and target is None)  # features and nothing else
    if bare and not required:
        return table
    try:
        position = int("-1" if target is None else target)
    except ValueError:
        raise DataError(
            f"{path.name}: the target must be the index of a column (0 to {width - 1}; -1 is the last), not "
            f"{target!r}. Name it so: --target -1."
        ) from None
    if not -width <= position < width:
        if not required:
            return table
        raise DataError(
            f"{path.name}: no column {position} for the target: there are {width}. Choose --target from 0 to "
            f"{width - 1}, or -1 for the last."
        )
    return replace(table, target=str(position % width))


def _npz(path: Path, target: str | None, required: bool) -> _Table:
    with _SmallReads(io.FileIO(path)) as file, _reading(path, _NUMPY, _NUMPY_FIX):
        if file.peek(6).startswith(np.lib.format.MAGIC_PREFIX):
            raise DataError(f"{path.name}: this is an NPY file; give it the ending .npy.")
        with zipfile.ZipFile(file) as archive:
            arrays = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            key = target if target is not None and (required or target in arrays) else "y"
            label = "X" if "X" in arrays else next((other for other in arrays if other != key), "X")
            for needed in (label, key) if required else (label,):
                if needed not in arrays:
                    raise DataError(
                        f"{path.name}: no array {needed!r}; it has {listed(arrays)}{suggest(needed, arrays)}. Save it "
                        "with np.savez(path, X=X, y=y), or name the key of y: --target KEY."
                    )
            matrix = _member(path, archive, label, arrays[label], 2)
            y = _member(path, archive, key, arrays[key], 1) if key in arrays else None
    table = _Table(path.name, {str(j): matrix[:, j] for j in range(matrix.shape[1])}, named=False)
    if y is None:
        return table
    if len(y) != len(matrix):
        raise DataError(
            f"{path.name}: {label} has {len(matrix)} rows and {key} has {len(y)}; they must have as many. Save both "
            "from the same samples."
        )
    return replace(table, target=key, y=y)


def _member(path: Path, archive: zipfile.ZipFile, label: str, info: zipfile.ZipInfo, ndim: int) -> NDArray[Any]:
    """One array of an NPZ file; see `_array`."""
    # The others expand a block without a bound; NumPy writes these two.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{label} is compressed by another method than Deflate")
    with archive.open(info.filename) as member:
        return _array(path, label, member, info.file_size, ndim)
