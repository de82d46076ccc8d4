"""Training on a Parquet file that is larger than memory: its row groups are read anew for every epoch.

One pass over the file takes the statistics of its columns and sets the held-out rows aside, of which there are at most
about 100,000. Then `Network.fit` reads the other rows block by block.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.engine.ranks import ALONE, Ranks
from nnbp.errors import DataError
from nnbp.formatting import counted
from nnbp.network import Network
from nnbp.optim import optimizers
from nnbp.tabular.defaults import Options, PreparedData, encoder_of, preprocessor_of
from nnbp.tabular.preprocessing import TablePreprocessor, TargetEncoder, checked_target
from nnbp.tabular.readers import RowGroups
from nnbp.tabular.summary import Summary
from nnbp.tabular.table import Floats, Reading, Source
from nnbp.training.callbacks import Callback, History, TrainingState
from nnbp.training.progress import Countdown

_KEPT, _BYTES = 100_000, 2**25
"""The most rows that are held out, and the most bytes of numbers of a part of the file that is kept in memory."""

_SHOWN = 1000

# What is drawn with the seed.
_DIVISION, _ORDER = 1, 2

Tell = Callable[[str], None] | None


def most_rows(columns: int) -> int:
    """How many rows of a part of a file are kept in memory: at most 32 MiB of float64, but 1000 rows at least."""
    return max(1000, _BYTES // (8 * columns))


@dataclass(frozen=True)
class Division:
    """Which rows of a file are held out, validate, or are trained on, without a list of all rows.

    Each row of the file has a number u, uniform in [0, 1), which depends on the seed, its row group and its place there
    alone. It is held out if u < test, validates if test ≤ u < aside, and is trained on otherwise. So every class has
    about the same share of each part.
    """

    seed: int
    test: float
    aside: float

    def blocks(self, table: RowGroups, groups: Sequence[int] | None = None) -> Iterator[tuple[Source, Floats]]:
        """The blocks of row groups, with the u of each row; see `RowGroups.blocks`."""
        current, generator = None, np.random.default_rng()
        for group, source in table.blocks(groups):
            if group != current:
                current, generator = group, np.random.default_rng((self.seed, _DIVISION, group))
            yield source, generator.random(len(source))


def check_options(options: Options, reading: Reading) -> None:
    """Raises ValueError for options that need all rows in memory."""
    rule = "A file that is read block by block never has all of its rows in memory"
    fix = "or read it whole: --no-stream"
    optimizer = optimizers.get(options.optimizer)
    if optimizer.full_batch:
        raise ValueError(
            f"{rule}, and {optimizer.name} needs them at every step; received --optimizer {optimizer.name}. Choose one "
            f"that takes batches, such as adam, {fix}."
        )
    if reading.decimal != ".":
        raise ValueError(
            f"{rule}, and only all cells of a column of text can tell whether a comma is a decimal mark; received "
            f"--decimal {reading.decimal}. Store such columns as numbers, {fix}."
        )


def part_of(table: RowGroups, ranks: Ranks) -> RowGroups:
    """The row groups that a rank reads: about as many on each, and those of rank 0 come first.

    Raises:
        DataError: there are fewer row groups than ranks.
    """
    count = len(table.groups)
    if count < ranks.size:
        raise DataError(
            f"{table.path.name}: each rank reads row groups of its own; received {counted(count, 'row group')} for "
            f"{ranks.size} ranks. Write the file with a smaller row_group_size, or start fewer ranks."
        )
    first, end = (k * count // ranks.size for k in (ranks.rank, ranks.rank + 1))
    return replace(table, groups=table.groups[first:end])


def prepare_streamed(
    table: RowGroups, options: Options, reading: Reading, tell: Tell = None, ranks: Ranks = ALONE
) -> PreparedData:
    """Fits the preprocessing to the rows of a file, and sets rows aside, in one pass; see `defaults.prepare`.

    Means, deviations, categories and classes are those of all rows but the held-out ones. Medians, which stand for
    missing cells, are those of about as many rows as are held out at most, and of all rows of a smaller file.

    Args:
        table: the row groups.
        options: what the user says of network and training.
        reading: how the cells are read.
        tell: receives lines on the progress.
        ranks: each reads some row groups, trains on them, and has a part of the validation rows.

    Raises:
        DataError: a cell cannot be used.
        ValueError: an option cannot be used.
    """
    check_options(options, reading)
    own = part_of(table, ranks)
    m, most = len(table), min(_KEPT, most_rows(len(table.names)))
    test = min(options.test_fraction, most / m)
    division = Division(options.seed, test, test + min(options.validation_fraction * (1 - test), most / m))
    totals: dict[str, Summary] = {}
    whole: Summary | None = None
    parts: dict[str, list[Source]] = defaultdict(list)
    countdown = Countdown(f"reading {table.path.name} for the statistics of its columns", len(own), tell)
    for source, u in division.blocks(own):
        name = checked_target(source)
        of_block = Summary.of(source, name, distinct=True)
        whole = of_block if whole is None else whole + of_block
        rest, sampled = source.take(np.flatnonzero(u >= test)), u[u >= test] >= 1 - most / m
        for column in (name, *rest.columns):
            summary = Summary.of(rest, column, some=np.flatnonzero(sampled))
            totals[column] = totals[column] + summary if column in totals else summary
        chosen = {"test": u < test, "validation": (u >= test) & (u < division.aside), "shown": u >= 1 - _SHOWN / m}
        for part, rows in chosen.items():
            parts[part].append(source.take(np.flatnonzero(rows)))
        countdown.advance(len(source))
    # What each rank has found, in the order of the file.
    found = ranks.share((whole, totals, {part: Source.joined(rows) for part, rows in parts.items()}))
    whole = reduce(add, (of_rank for of_rank, _, _ in found))
    totals = {name: reduce(add, (of_rank[name] for _, of_rank, _ in found)) for name in totals}
    held_out, validating, shown = (
        Source.joined([of_rank[part] for _, _, of_rank in found]) for part in ("test", "validation", "shown")
    )
    assert whole is not None, "the file has rows"
    left = m - len(held_out) - len(validating)
    if not (left and (len(held_out) or not test) and (len(validating) or division.aside == test)):
        raise DataError(
            f"{table.path.name}: each part needs a row; of {m} rows, {len(held_out)} are held out, {len(validating)} "
            f"validate and {left} are trained on. Change --test-fraction or --validation-fraction, or give more rows."
        )
    target = encoder_of(whole, options)
    of_rest = totals.pop(whole.name)
    if not target.labels:
        target = encoder_of(of_rest, replace(options, task="regression"))
    preprocessor, one_unit = preprocessor_of(shown, list(totals.values()), reading)
    if test:
        # A cell of a held-out row is to be found now, not after the training.
        preprocessor.transform(held_out)
    mine = validating.take(np.arange(ranks.rank, len(validating), ranks.size))
    validation = (preprocessor.transform(mine)[0], target.encode(mine)) if len(mine) else None
    train = StreamedRows(own, division, preprocessor, target, left, tell)
    test_rows = held_out if test else None
    return PreparedData(shown, preprocessor, target, train, validation, test_rows, one_unit, len(validating))


class StreamedRows(Callback):
    """The rows of a file to train on, which are read anew for every epoch.

    An epoch reads the row groups in an order of its own, drawn with the seed and the epoch's number, and shuffles their
    rows in a buffer; see `nnbp.training.stream.Stream`. So training that resumes reads the same rows in the same order.
    To `Network.fit` this is a callback, too, which follows the number of the epoch.

    Args:
        table: the row groups.
        division: tells which rows are trained on.
        preprocessor, target: make features and targets of them.
        rows: how many there are, on all ranks.
        tell: receives lines on the progress.
    """

    each_rank = True

    def __init__(
        self, table: RowGroups, division: Division, preprocessor: TablePreprocessor, target: TargetEncoder, rows: int,
        tell: Tell,
    ) -> None:  # fmt: skip
        names = tuple(column.name for column in preprocessor.columns)
        self._table = replace(table, names=(*names, target.name))
        self._division, self._preprocessor, self._target = division, preprocessor, target
        self._rows, self._tell = rows, tell
        self._epoch: int | None = None
        self._epochs, self._dtype = 0, np.dtype(np.float64)

    def __len__(self) -> int:
        return self._rows

    @property
    def buffer(self) -> int:
        """The number of rows that are shuffled in memory."""
        return most_rows(len(self._preprocessor.columns))

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "streamed": True,
            "row_groups": sum(size > 0 for size in self._table.sizes),
            "shuffle_buffer": self.buffer,
        }

    def fit(self, network: Network, *, callbacks: Sequence[Any], progress: bool | str, **options: Any) -> History:
        self._dtype = network.dtype
        return network.fit(
            batches=self.blocks, shuffle_buffer=self.buffer, callbacks=[self, *callbacks],
            # A bar has no room for the lines that tell of the progress within an epoch.
            progress="lines" if progress else False, **options,
        )  # fmt: skip

    def on_train_begin(self, state: TrainingState) -> None:
        self._epoch, self._epochs = 0, state.epochs

    def on_train_resume(self, state: TrainingState) -> None:
        self._epoch = state.epoch

    def on_epoch_end(self, state: TrainingState) -> None:
        self._epoch = state.epoch

    def blocks(self) -> Iterator[tuple[Floats, NDArray[Any]]]:
        """X (k, columns) and y (k,) of each block of an epoch; before the first one, in the order of the file."""
        groups, what, repeats = self._table.groups, f"checking {self._table.path.name}", 1
        if self._epoch is not None:
            order = np.random.default_rng((self._division.seed, _ORDER, self._epoch)).permutation(len(groups))
            groups = tuple(groups[k] for k in order)
            what, repeats = f"epoch {self._epoch + 1}/{self._epochs}", self._epochs - self._epoch
        countdown = Countdown(what, len(self._table), self._tell, repeats)
        for source, u in self._division.blocks(self._table, groups):
            rows = source.take(np.flatnonzero(u >= self._division.aside))
            if len(rows):
                yield self._preprocessor.transform(rows)[0].astype(self._dtype), self._target.encode(rows)
            countdown.advance(len(source))
