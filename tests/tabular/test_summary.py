"""Summaries of the blocks of a table: fitted to their sum, preprocessing is that of the whole table."""

from __future__ import annotations

from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest

from nnbp import DataError
from nnbp.tabular.defaults import preprocessor_of
from nnbp.tabular.preprocessing import NumberColumn, TablePreprocessor, TargetEncoder
from nnbp.tabular.readers import load_source
from nnbp.tabular.summary import MAX_DISTINCT, Moments, Summary
from nnbp.tabular.table import PLAIN, Source

ROWS = 999


def table(folder: Path, **columns: object) -> Source:
    path = folder / "table.csv"
    names, cells = list(columns), zip(*columns.values(), strict=True)  # type: ignore[call-overload]
    lines = [",".join(map(str, row)) for row in cells]
    path.write_text("\n".join([",".join(names), *lines]), encoding="utf-8")
    return load_source(path, target="y", keep_text=None)


@pytest.fixture
def mixed(tmp_path: Path) -> Source:
    """Numbers, some missing, a constant, whole numbers, bools, and texts."""
    rng = np.random.default_rng(0)
    age = [
        "" if hidden else f"{x:.3f}" for x, hidden in zip(rng.normal(1e4, 3, ROWS), rng.random(ROWS) < 0.2, strict=True)
    ]
    return table(
        tmp_path, age=age, same=["0.1"] * ROWS, rooms=rng.integers(1, 9, ROWS),
        owner=rng.choice(["true", "false"], ROWS),
        town=rng.choice(["Rome", "Oslo", ""], ROWS), y=rng.choice([3, 5, 8], ROWS),
    )  # fmt: skip


def blocks(source: Source, *ends: int) -> list[Source]:
    return [source.take(rows) for rows in np.split(np.arange(len(source)), ends)]


def summed(parts: list[Source], name: str, *, distinct: bool = False) -> Summary:
    return reduce(add, (Summary.of(part, name, distinct=distinct) for part in parts))


@pytest.mark.parametrize("ends", [(500,), (1, 2, 3, 700), tuple(range(100, ROWS, 100))])
def test_preprocessing_fitted_to_blocks_is_that_of_the_whole_table(mixed: Source, ends: tuple[int, ...]) -> None:
    whole = TablePreprocessor.fit(mixed)
    found = TablePreprocessor.of(mixed, [summed(blocks(mixed, *ends), name) for name in mixed.columns])
    assert found.feature_names == whole.feature_names
    for one, other in zip(found.columns, whole.columns, strict=True):
        if isinstance(other, NumberColumn):
            assert isinstance(one, NumberColumn)
            assert one.median == other.median
            assert one.mean == pytest.approx(other.mean, rel=1e-12)
            assert one.scale == pytest.approx(other.scale, rel=1e-12)
        else:
            assert one == other
    np.testing.assert_allclose(found.transform(mixed)[0], whole.transform(mixed)[0], rtol=0, atol=1e-9)


def test_missing_cells_count_as_the_median_and_the_rest_is_numpys_mean_and_std_to_the_bit(mixed: Source) -> None:
    columns = {column.name: column for column in TablePreprocessor.fit(mixed).columns}
    rooms, age = mixed.numbers("rooms"), mixed.numbers("age")
    found = columns["rooms"]
    assert isinstance(found, NumberColumn)
    assert (found.median, found.mean, found.scale) == (np.median(rooms), rooms.mean(), rooms.std())
    filled = np.where(np.isnan(age), np.nanmedian(age), age)
    found = columns["age"]
    assert isinstance(found, NumberColumn)
    assert found.median == np.nanmedian(age)
    assert (found.mean, found.scale) == (
        pytest.approx(filled.mean(), rel=1e-12),
        pytest.approx(filled.std(), rel=1e-12),
    )


@pytest.mark.parametrize("distinct", [False, True])
def test_the_median_is_that_of_all_cells_however_often_each_is_there(tmp_path: Path, distinct: bool) -> None:
    for cells in ([1, 1, 1, 5], [1, 1, 5, 5], [4, 2, 2, 7, 9], [3]):
        source = table(tmp_path, x=[f"{x}.0" for x in cells], y=range(len(cells)))
        assert Summary.of(source, "x", distinct=distinct).median == np.median(cells)


def test_moments_of_huge_and_of_far_apart_numbers_lose_nothing() -> None:
    parts = [np.array([1e9, 1e9 + 1]), np.array([]), np.array([1e9 + 2]), np.full(5, 1e9)]
    found, whole = sum(map(Moments.of, parts), start=Moments()), np.concatenate(parts)
    assert (found.count, found.low, found.high) == (8, whole.min(), whole.max())
    assert found.mean == pytest.approx(whole.mean(), rel=1e-15)
    assert found.deviation == pytest.approx(whole.std(), rel=1e-12)
    assert not np.isfinite((Moments.of(np.array([1e200])) + Moments.of(np.array([-1e200]))).deviation)


@pytest.mark.parametrize("task", [None, "classification", "regression"])
def test_a_target_fitted_to_blocks_is_that_of_the_whole_table(mixed: Source, task: str | None) -> None:
    parts = blocks(mixed, 10, 400)
    found, whole = TargetEncoder.of(summed(parts, "y", distinct=True), task), TargetEncoder.fit(mixed, task)  # type: ignore[arg-type]
    assert (found.labels, found.task) == (whole.labels, whole.task)
    assert (found.mean, found.scale) == (pytest.approx(whole.mean, rel=1e-12), pytest.approx(whole.scale, rel=1e-12))


def test_the_first_bad_cell_is_named_with_its_line_in_whatever_block_it_is(tmp_path: Path) -> None:
    cells = [*map(str, range(60)), "oops", *map(str, range(60)), "argh"]
    source = table(tmp_path, x=cells, y=[0, 1] * 61)
    for ends in ((), (3, 50), (61,), (100,)):
        with pytest.raises(DataError, match="line 62, column 'x': expected a finite number, as in 120 of the 122"):
            TablePreprocessor.of(source, [summed(blocks(source, *ends), "x")])


def test_a_column_with_too_many_different_cells_is_summarised_in_bounded_memory(tmp_path: Path) -> None:
    many = 4 * MAX_DISTINCT
    source = table(
        tmp_path, name=[f"n{k}" for k in range(many)], code=[f"c{k // 3}" for k in range(many)],
        number=[f"{k}.5" for k in range(many)], y=[0, 1] * (many // 2),
    )  # fmt: skip
    parts = blocks(source, *range(1000, many, 1000))
    names = summed(parts, "name")
    assert len(names.cells) <= MAX_DISTINCT + 1000
    assert names.rows == many
    assert TablePreprocessor.of(source, [names, summed(parts, "y")]).left_out == ("name",)
    with pytest.raises(DataError, match=r"at least 1\d{4} different texts in 40000 rows"):
        TablePreprocessor.of(source, [summed(parts, "code")])
    with pytest.raises(DataError, match="numbers that are stored as text, more than 10000 different ones"):
        TablePreprocessor.of(source, [summed(parts, "number")])
    with pytest.raises(DataError, match="at least 11000 classes"):
        TargetEncoder.of(summed(parts, "name", distinct=True), "classification")


def test_columns_of_one_unit_are_standardised_together_in_blocks_too() -> None:
    digits = load_source("digits")
    whole, together = preprocessor_of(digits, [Summary.of(digits, name) for name in digits.columns], PLAIN)
    parts = blocks(digits, 100, 1000)
    found, also = preprocessor_of(digits, [summed(parts, name) for name in digits.columns], PLAIN)
    assert together
    assert also
    pixels = np.column_stack([digits.numbers(name) for name in digits.columns])
    for made in (whole, found):
        for column in made.columns:
            assert isinstance(column, NumberColumn)
            assert column.mean == pytest.approx(pixels.mean(), rel=1e-12)
            assert column.scale == pytest.approx(pixels.std(), rel=1e-12)
