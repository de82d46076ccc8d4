"""Parquet files that are read block by block: the same rows, statistics and bits as in memory, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnbp import DataError, History, Network
from nnbp.tabular.defaults import Options, PreparedData, prepare
from nnbp.tabular.preprocessing import NumberColumn, TablePreprocessor, TargetEncoder
from nnbp.tabular.readers import RowGroups, load_source
from nnbp.tabular.streaming import prepare_streamed
from nnbp.tabular.table import PLAIN, Reading, Source, Texts
from nnbp.training.callbacks import TrainingState

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS, GROUP = 2000, 300
OPTIONS = Options(test_fraction=0.2, validation_fraction=0.1)


def columns() -> dict[str, Any]:
    """Numbers, some missing, whole numbers that tell the row, bools, texts of all kinds, and classes."""
    rng = np.random.default_rng(0)
    hidden = rng.random(ROWS) < 0.1
    return {
        "row": np.arange(ROWS),
        "age": pa.array(rng.normal(40, 12, ROWS), mask=hidden),
        "same": np.full(ROWS, 0.1),
        "owner": pa.array(rng.random(ROWS) < 0.3, mask=hidden),
        "seen": rng.random(ROWS) < 0.6,
        "town": pa.array(rng.choice(["Rome", "Oslo", "Bern"], ROWS), mask=hidden),
        "grade": pa.array([f"{x:.1f}" for x in rng.normal(3, 1, ROWS)]),
        "name": [f"n{k}x" for k in rng.permutation(ROWS)],
        "kind": pa.array(rng.choice(["a", "b"], ROWS)).dictionary_encode(),
        "y": rng.choice(["low", "middle", "high"], ROWS, p=[0.6, 0.3, 0.1]),
    }


def written(folder: Path, group: int = GROUP, **given: Any) -> Path:
    path = folder / "t.parquet"
    parquet.write_table(pa.table(given), path, row_group_size=group)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path, **columns())


def groups(path: Path, target: str = "y", reading: Reading = PLAIN) -> RowGroups:
    return RowGroups.of(path, target, reading)


def streamed(path: Path, target: str = "y", **options: Any) -> PreparedData:
    return prepare_streamed(groups(path, target), replace(OPTIONS, **options), PLAIN)


def epoch(data: PreparedData, number: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """X and y of all rows to train on, in the order of an epoch."""
    train: Any = data.train
    if number is not None:
        train.on_train_begin(TrainingState(None, 9, History()))
        train.on_train_resume(TrainingState(None, 9, History(), epoch=number))
    X, y = zip(*train.blocks(), strict=True)
    return np.concatenate(X), np.concatenate(y)


def rows(data: PreparedData, X: np.ndarray) -> list[int]:
    """Which rows of the file X has, by its column "row"."""
    column = data.preprocessor.columns[0]
    assert isinstance(column, NumberColumn)
    return np.rint(X[:, 0] * column.scale + column.mean).astype(int).tolist()


def test_the_blocks_are_the_rows_of_the_file(path: Path) -> None:
    whole, blocks = load_source(path, target="y", keep_text=None), list(groups(path).blocks())
    assert [group for group, _ in blocks] == list(range(7))
    together = Source.joined([source for _, source in blocks])
    np.testing.assert_array_equal(together.places, whole.places)
    assert together.target_name == "y"
    assert list(together.columns) == list(whole.columns)
    for name in [*whole.columns, "y"]:
        one, other = together[name], whole[name]
        if isinstance(other, np.ndarray) and other.dtype == bool:
            np.testing.assert_array_equal(together.booleans(name), other)
        elif isinstance(one, Texts) and isinstance(other, Texts):
            assert one.tolist() == other.tolist()
        else:
            np.testing.assert_array_equal(one, other)


def test_some_row_groups_are_read_with_the_places_that_they_have_in_the_file(path: Path) -> None:
    some = replace(groups(path), groups=(5, 1))
    assert len(some) == 2 * GROUP
    places = np.concatenate([source.places for _, source in some.blocks()])
    np.testing.assert_array_equal(places, [*range(1500, 1800), *range(300, 600)])


def test_each_row_is_trained_on_or_validates_or_is_held_out(path: Path) -> None:
    data = streamed(path)
    assert data.test is not None
    assert data.validation is not None
    parts = [rows(data, epoch(data)[0]), rows(data, data.validation[0]), data.test.places.tolist()]
    assert sorted(np.concatenate(parts)) == list(range(ROWS))
    assert data.rows() == {
        name: len(part) for name, part in zip(("train", "validation", "held_out"), parts, strict=True)
    }
    assert [len(part) / ROWS for part in parts] == pytest.approx([0.72, 0.08, 0.2], abs=0.03)
    share = [np.mean([cell == "high" for cell in data.test.target.tolist()]), np.mean(epoch(data)[1] == 0)]
    assert share == pytest.approx([0.1, 0.1], abs=0.03)


def test_a_row_is_in_the_same_part_whichever_row_groups_are_read(path: Path) -> None:
    whole, some = streamed(path), prepare_streamed(replace(groups(path), groups=(6, 2)), OPTIONS, PLAIN)
    assert whole.test is not None
    assert some.test is not None
    assert set(some.test.places) == {row for row in whole.test.places if row >= 1800 or 600 <= row < 900}
    in_groups = [tuple(whole.test.places[whole.test.places // GROUP == k] % GROUP) for k in range(6)]
    assert len(set(in_groups)) == 6
    other = streamed(path, seed=1).test
    assert other is not None
    assert other.places.tolist() != whole.test.places.tolist()


@pytest.mark.parametrize("target", ["y", "age", "grade", "owner", "kind", "sum"])
def test_preprocessing_is_that_of_the_same_rows_in_memory(path: Path, target: str) -> None:
    table = columns() | {"sum": np.arange(ROWS) / 2}
    if target in ("age", "owner"):
        table[target] = table[target].fill_null(True if target == "owner" else 1.5)
    written(path.parent, **table)
    data, whole = streamed(path, target), load_source(path, target=target)
    assert data.test is not None
    rest = whole.take(np.setdiff1d(whole.places, data.test.places))
    expected = TablePreprocessor.fit(rest)
    assert data.preprocessor.left_out == expected.left_out == ("name",)
    for one, other in zip(data.preprocessor.columns, expected.columns, strict=True):
        if isinstance(other, NumberColumn):
            assert isinstance(one, NumberColumn)
            assert (one.name, one.median) == (other.name, other.median)
            assert (one.mean, one.scale) == pytest.approx((other.mean, other.scale), rel=1e-12)
        else:
            assert one == other
    labels = TargetEncoder.fit(whole).labels
    assert data.target.labels == labels
    if not labels:
        fitted = TargetEncoder.fit(rest, "regression")
        assert (data.target.mean, data.target.scale) == pytest.approx((fitted.mean, fitted.scale), rel=1e-12)
    X, y = epoch(data)
    train = whole.take(np.array(rows(data, X)))
    np.testing.assert_allclose(X, expected.transform(train)[0], rtol=0, atol=1e-10)
    np.testing.assert_allclose(y, data.target.encode(train), rtol=0, atol=1e-10)


def test_training_has_the_bits_of_training_in_memory_on_the_same_rows_in_the_same_order(path: Path) -> None:
    data = streamed(path)
    X, y = epoch(data, 0)
    nets = [Network([X.shape[1], 8, 3], loss="cross_entropy", device="cpu", seed=0) for _ in range(2)]
    nets[0].fit(X.astype(np.float32), y, epochs=1, shuffle=False, progress=False)
    data.train.fit(nets[1], epochs=1, shuffle=False, progress=False, callbacks=[])
    assert np.array_equal(nets[0].parameters, nets[1].parameters)


def test_every_epoch_has_the_same_rows_in_another_order_of_row_groups(path: Path) -> None:
    data = streamed(path)
    orders = [rows(data, epoch(data, number)[0]) for number in range(4)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert rows(data, epoch(streamed(path), 2)[0]) == orders[2]


def test_a_bounded_number_of_rows_is_held_out_of_a_long_file(tmp_path: Path) -> None:
    many = 250_000
    x = np.random.default_rng(0).normal(size=many)
    data = streamed(written(tmp_path, 50_000, x=x, y=x > 0), test_fraction=0.8, validation_fraction=0.2)
    assert data.rows()["held_out"] == pytest.approx(100_000, abs=1500)
    assert len(data.source) < 2000
    column = data.preprocessor.columns[0]
    assert isinstance(column, NumberColumn)
    # Half of the known numbers are below the median of some of them, but for three of its standard errors.
    assert np.mean(x < column.median) == pytest.approx(0.5, abs=3 * 0.5 / np.sqrt(20_000))


@pytest.mark.parametrize(
    ("options", "reading", "said"),
    [
        ({"optimizer": "lbfgs"}, PLAIN, "received --optimizer lbfgs. Choose one that takes batches, such as adam, or"),
        ({}, Reading(decimal=","), "received --decimal ,. Store such columns as numbers, or read it whole"),
    ],
)
def test_options_that_need_all_rows_are_refused_before_the_file_is_read(
    path: Path, options: dict[str, Any], reading: Reading, said: str
) -> None:
    table = groups(path)
    path.unlink()
    with pytest.raises(ValueError, match=said):
        prepare_streamed(table, replace(OPTIONS, **options), reading)


def test_what_is_wrong_with_a_cell_is_said_with_its_row(tmp_path: Path) -> None:
    x, y = np.arange(900.0), pa.array(np.arange(900) % 2, mask=np.arange(900) == 777)
    with pytest.raises(DataError, match=r"t\.parquet, row 777, column 'y': the target is missing"):
        streamed(written(tmp_path, x=x, y=y))
    x[650] = np.inf
    with pytest.raises(DataError, match="row 650, column 'x': expected a finite number; received 'inf'"):
        streamed(written(tmp_path, x=x, y=np.arange(900) % 2))
    texts = [str(k) for k in range(900)]
    texts[812] = "oops"
    with pytest.raises(DataError, match="row 812, column 'x': expected a finite number, as in"):
        streamed(written(tmp_path, x=texts, y=np.arange(900) % 2), test_fraction=0.0)
    with pytest.raises(DataError, match="each part needs a row; of 2 rows, "):
        streamed(written(tmp_path, x=[1.0, 2.0], y=["a", "b"]))
    with pytest.raises(DataError, match="the table has no rows"):
        streamed(written(tmp_path, x=pa.array([], pa.float64()), y=pa.array([], pa.string())))
    with pytest.raises(DataError, match="no column 'z'"):
        streamed(written(tmp_path, x=[1.0, 2.0], y=["a", "b"]), "z")
    with pytest.raises(DataError, match="no column 'u' to take as text or to leave out"):
        groups(tmp_path / "t.parquet", reading=Reading(drop=("u",)))


@pytest.mark.slow
def test_a_row_group_of_any_size_is_read_in_little_memory(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    many = 600_000
    numbers = {f"x{k}": np.random.default_rng(k).normal(size=many) for k in range(8)}
    path = written(tmp_path, many, **numbers, name=[f"the name of row {k}" for k in range(many)], y=np.arange(many) % 2)
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from nnbp.tabular.readers import RowGroups\n"
        "from nnbp.tabular.table import PLAIN\n"
        "peaks = []\n"
        "for _ in RowGroups.of(Path(sys.argv[1]), 'y', PLAIN).blocks():\n"
        "    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        "print(len(peaks), peaks[-1] - peaks[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    blocks, growth = map(int, done.stdout.split())
    # The table takes 57 MB. Of the reader's memory, macOS counts bytes and others KiB.
    assert blocks > 5
    assert growth < 15_000 * (1024 if sys.platform == "darwin" else 1)


def test_columns_to_leave_out_are_not_read(tmp_path: Path) -> None:
    days = pa.array([0, 1, 2, 3], pa.date32())
    path = written(tmp_path, day=days, x=[1.0, 2.0, 3.0, 4.0], y=["a", "b", "a", "b"])
    assert list(next(groups(path, reading=Reading(drop=("day",))).blocks())[1].columns) == ["x"]


def test_the_split_of_a_table_in_memory_is_what_it_was() -> None:
    assert prepare(load_source("iris"), OPTIONS, PLAIN).rows() == {"train": 108, "validation": 12, "held_out": 30}
