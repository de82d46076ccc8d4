"""What the cells of a table say, and which rows are trained on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnbp.errors import DataError
from nnbp.registry import suggest
from nnbp.tabular.table import (
    MISSING,
    PLAIN,
    TEXT,
    Source,
    codes_among,
    train_test_split,
)


def table(*cells, dtype=TEXT):
    """A source of one column "c" whose first row is line 2, as in a CSV."""
    column = np.array(cells, dtype=dtype)
    column = PLAIN.column([column], keep_text=True) if dtype is TEXT else column
    return Source("t.csv", {"c": column}, np.arange(len(cells)) + 2, unit="line")


def test_missing_tokens_become_the_empty_string_and_blanks_go():
    assert table(*(f" {token} " for token in MISSING))["c"].tolist() == [""] * len(MISSING)
    assert table("NAN", " a b ", "none")["c"].tolist() == ["NAN", "a b", "none"]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (("1", "", "-2.5e3", "NA"), "number"),
        (("", "NA"), "number"),
        (("true", "False", ""), "bool"),
        (("true", "yes"), "text"),
        (("1", "a", "b"), "text"),
        (("1", "a"), "text"),
        (("1_000", "2_000", "x"), "text"),
    ],
)
def test_kind_of_text_columns(cells, kind):
    assert table(*cells).kind("c") == kind


def test_kind_of_typed_columns():
    assert table(1.0, np.nan, dtype=float).kind("c") == "number"
    assert table(True, False, dtype=bool).kind("c") == "bool"


@pytest.mark.parametrize("bad", ["abc", "1_000", "12,5", "NAN", "0x1F"])
@pytest.mark.parametrize("good", [2, 40])
def test_a_bad_cell_among_numbers_is_named(bad, good):
    source = table(*["1.5"] * good, "", bad)
    known = f"as in {good} of the {good + 1} known cells of this column"
    message = rf"^t\.csv, line {good + 3}, column 'c': expected a finite number, {known}; received '{bad}'"
    with pytest.raises(DataError, match=message):
        source.kind("c")
    assert source.kind("c", mixed=True) == "text"


@pytest.mark.parametrize("bad", ["inf", "-Infinity", "1e999"])
def test_infinity_is_refused_in_text_and_in_arrays(bad):
    with pytest.raises(DataError, match=rf"line 3, column 'c': expected a finite number.*; received '{bad}'"):
        table("1", bad, "2").numbers("c")
    with pytest.raises(DataError, match=r"line 2, column 'c': .* received '-?inf'"):
        table(float(bad), 1.0, dtype=float).numbers("c")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_written_as_text_are_read_bit_for_bit(values):
    np.testing.assert_array_equal(table(*map(repr, values)).numbers("c"), values)


def test_readers_of_cells():
    np.testing.assert_array_equal(table("1", "", "-.5").numbers("c"), [1, np.nan, -0.5])
    np.testing.assert_array_equal(table("TRUE", "", "false").booleans("c"), [1, np.nan, 0])
    np.testing.assert_array_equal(table(0, 1, dtype=int).booleans("c"), [0, 1])
    np.testing.assert_array_equal(table("1", "2.0").integers("c"), [1, 2])
    assert table("a", "NA").texts("c").tolist() == ["a", ""]


def test_reading_never_changes_the_source():
    source = table(1.0, np.nan, dtype=float)
    source.numbers("c")[:] = 7
    source.booleans("c")[:] = 7
    np.testing.assert_array_equal(source["c"], [1, np.nan])


@pytest.mark.parametrize(
    ("read", "cells", "dtype", "message"),
    [
        (Source.booleans, ("true", "maybe"), TEXT, "line 3, column 'c': expected true or false; received 'maybe'"),
        (Source.booleans, (1, 2), int, "line 3, column 'c': expected true or false; received '2'"),
        (Source.integers, ("1", "1.5"), TEXT, "line 3, column 'c': expected a class, .*; received '1.5'"),
        (Source.texts, (3.0, 4.0), float, r"line 2, column 'c': expected text, as at training; received 3\.0"),
    ],
)
def test_a_cell_of_the_wrong_kind_is_named(read, cells, dtype, message):
    with pytest.raises(DataError, match=message):
        read(table(*cells, dtype=dtype), "c")


def test_unnamed_columns_and_rows_are_told_by_number():
    source = Source("X.npy", {"0": np.ones(2), "1": np.array([0, np.inf])}, np.arange(2), named=False)
    with pytest.raises(DataError, match=r"^X\.npy, row 1, column 1: "):
        source.numbers("1")


def test_rows_keep_their_lines_when_they_are_taken():
    source = table("1", "2", "x").with_target("c", required=True).take(np.array([2, 0]))
    assert len(source) == 2
    assert source.target.tolist() == ["x", "1"]
    assert source.at(0, "c") == "t.csv, line 4, column 'c'"


def test_target_must_be_a_column_where_it_is_required():
    source = Source("t.csv", {"age": np.ones(2), "income": np.ones(2)}, np.arange(2))
    with pytest.raises(DataError, match=r"no column 'incme'.* 'age', 'income' \(did you mean 'income'\?\)"):
        source.with_target("incme", required=True)
    with pytest.raises(DataError, match=r"no target was named.*--target COLUMN"):
        source.with_target(None, required=True)
    assert source.with_target("incme", required=False) is source
    assert list(source.with_target("income", required=True).columns) == ["age"]


def test_codes_among_known_values():
    codes, new = codes_among(("b", "", "a"), PLAIN.column([np.array(["a", "z", "", "b", "z"])]))
    assert codes.tolist() == [2, -1, 1, 0, -1]
    assert new == ["z"]


def test_suggestions():
    assert suggest("sepal lenght", ["sepal length", "x"]) == " (did you mean 'sepal length'?)"
    assert suggest("q", ["sepal length"]) == ""


@given(m=st.integers(2, 200), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 9), k=st.integers(1, 6))
def test_split_parts_the_rows(m, fraction, seed, k):
    labels = np.random.default_rng(seed).integers(0, k, m)
    train, test = train_test_split(m, fraction, seed, labels)
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(m))
    assert len(test) == min(max(round(m * fraction), 1), m - 1)
    assert train.dtype == test.dtype == np.int64
    counts = np.unique(labels, return_counts=True)[1]
    if counts.min() >= 2 and len(counts) <= min(len(test), len(train)):
        tested = np.array([(labels[test] == label).sum() for label in np.unique(labels)])
        assert ((tested >= 1) & (tested < counts)).all()
        share = counts * len(test) / m
        squeezed = (share < 1) | (share > counts - 1)
        if not squeezed.any():
            assert (np.abs(tested - share) < 1).all()


def test_split_repeats_with_its_seed_and_differs_with_another():
    first, again, other = (train_test_split(100, 0.2, seed)[1] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("m", "fraction"), [(1, 0.5), (10, 0.0), (10, 1.0), (10, float("nan"))])
def test_split_refuses(m, fraction):
    with pytest.raises(DataError, match="2 rows or more and a fraction above 0 and below 1"):
        train_test_split(m, fraction, 0)


def test_split_refuses_labels_of_another_length():
    with pytest.raises(DataError, match=r"\(10,\); received \(9,\)"):
        train_test_split(10, 0.5, 0, np.zeros(9))


def test_texts_in_any_order_are_read_however_many_there_are():
    # NumPy's quicksort of strings crashes the process at some of these sizes.
    for many in range(3000, 18_000, 500):
        cells = [*sorted(f"n{k}" for k in range(many)), *(f"n{k}" for k in range(50_000, 51_000))]
        column = PLAIN.column([np.array(cells)])
        assert column.tolist() == cells
        assert column.distinct.tolist() == sorted(cells)
