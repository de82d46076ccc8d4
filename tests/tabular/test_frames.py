"""nnbp.TableModel: data frames of any library with the Arrow stream interface."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnbp
from nnbp import DataError, TableModel

pandas = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")

RNG = np.random.default_rng(0)
M = 120
OPTIONS: dict[str, Any] = {"device": "cpu", "progress": False, "epochs": 20, "hidden": [8]}


def houses() -> Any:
    """A frame of pandas with columns of many kinds."""
    frame = pandas.DataFrame(
        {
            "area": RNG.normal(80, 20, M).astype(np.float32),
            "rooms": pandas.array([None, *RNG.integers(1, 6, M - 1)], dtype="Int64"),
            "garden": RNG.random(M) < 0.5,
            "sold": pandas.array([None, *(RNG.random(M - 1) < 0.5)], dtype="boolean"),
            "town": RNG.choice(["Rome", "Oslo", "Bern"], M),
            "grade": pandas.Categorical(RNG.choice(list("ABC"), M)),
            "heating": [None, "gas", "oil", "NA"] * (M // 4),
        }
    )
    frame["price"] = 3.0 * frame["area"] + 20 * (frame["town"] == "Oslo") + 5 * frame["garden"]
    return frame


FRAME = houses()


def by_polars(frame: Any) -> Any:
    return pytest.importorskip("polars").from_arrow(pa.Table.from_pandas(frame, preserve_index=False))


def by_duckdb(frame: Any) -> Any:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return pytest.importorskip("duckdb").from_arrow(table)


LIBRARIES: dict[str, Callable[[Any], Any]] = {
    "pandas": lambda frame: frame,
    "pandas with an index": lambda frame: frame.set_index(pandas.RangeIndex(7, 7 + 2 * len(frame), 2)[::-1]),
    "pyarrow": lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
    "polars": by_polars,
    "duckdb": by_duckdb,
}


@pytest.fixture(scope="module")
def model() -> TableModel:
    return TableModel.fit(FRAME, "price", **OPTIONS)


@pytest.mark.parametrize("library", LIBRARIES)
def test_frames_of_all_libraries_give_the_same_model(library: str, model: TableModel) -> None:
    convert = LIBRARIES[library]
    own = TableModel.fit(convert(FRAME), "price", **OPTIONS)
    assert own.preprocessor == model.preprocessor
    np.testing.assert_array_equal(own.network.parameters, model.network.parameters)
    np.testing.assert_array_equal(own.predict(convert(FRAME)), model.predict(FRAME))
    assert own.evaluate(convert(FRAME)) == model.evaluate(FRAME)


def test_columns_are_matched_by_name(model: TableModel) -> None:
    assert model.feature_names == tuple(FRAME.columns[:-1])
    expected = model.predict(FRAME)
    np.testing.assert_array_equal(model.predict(FRAME[FRAME.columns[::-1]].drop(columns="price")), expected)
    with pytest.raises(DataError, match=r"DataFrame: .* these are missing: 'town'"):
        model.predict(FRAME.drop(columns="town"))
    with pytest.warns(UserWarning, match="columns that training did not have are ignored: 'street'") as caught:
        np.testing.assert_array_equal(model.predict(FRAME.assign(street="x")), expected)
    assert caught[0].filename == __file__


def test_unknown_categories_are_told() -> None:
    model = TableModel.fit(FRAME[["town", "area", "price"]], "price", **OPTIONS)
    with pytest.warns(UserWarning, match=r"DataFrame, row 1, column 'town': here first, and in 1 of 2 rows"):
        model.predict(pandas.DataFrame({"town": ["Rome", "Lima"], "area": [50, 60]}))


@pytest.mark.parametrize(
    ("target", "labels"),
    [
        (["yes", "no"], ("no", "yes")),
        ([3, 1], (1, 3)),
        ([True, False], (False, True)),
        (["007", "7"], ("007", "7")),
        (pandas.Categorical(["b", "a"] * (M // 2)), ("a", "b")),
    ],
)
def test_labels_come_back_as_they_were(target: Any, labels: tuple[Any, ...], tmp_path: Path) -> None:
    frame = FRAME.drop(columns="price").assign(y=target if len(target) == M else target * (M // 2))
    frame["area"] += 1000 * (frame["y"] == frame["y"][0])
    made = TableModel.fit(frame, "y", **{**OPTIONS, "epochs": 200, "dropout": 0.0})
    made.save(tmp_path / "m")
    again = TableModel.load(tmp_path / "m", device="cpu")
    assert again.labels == labels
    assert [type(label) for label in again.labels] == [type(label) for label in labels]
    np.testing.assert_array_equal(again.predict(frame), frame["y"].to_numpy())
    probabilities = again.predict_proba(frame)
    assert probabilities.shape == (M, 2)
    np.testing.assert_array_equal(np.array(labels)[probabilities.argmax(axis=1)], frame["y"].to_numpy())
    assert again.evaluate(frame)["accuracy"] == 1.0


def test_remedies_are_said_in_python() -> None:
    frame = pandas.DataFrame(
        {"a": ["1,5", "2,5", "3", "-"] * 10, "id": [f"n{k}" for k in range(40)], "y": [0.5, 1] * 20}
    )
    with pytest.raises(DataError, match=r"missing=\['-'\].*text=\['a'\], or leave it out: drop=\['a'\]"):
        TableModel.fit(frame, "y", **OPTIONS)
    with pytest.raises(DataError, match=r"no column 'z'.*Name it: target='COLUMN'"):
        TableModel.fit(frame, "z", **OPTIONS)
    with pytest.warns(UserWarning, match=r"column 'id' is left out.*give text=\['id'\]"):
        made = TableModel.fit(frame, "y", missing=["-"], decimal=",", **OPTIONS)
    assert made.feature_names == ("a",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made.predict(frame).shape == (40,)


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        (np.zeros((3, 2)), TypeError, "A table is a data frame with the Arrow stream interface"),
        ({"a": [1], "y": [2]}, TypeError, "A table is a data frame"),
        (pandas.DataFrame({"a": [1, "x"], "y": [1.5, 2]}), DataError, "no table of Arrow.*one type"),
        (pandas.DataFrame({"a": [], "y": []}), DataError, "no rows or no columns"),
        (pandas.DataFrame({"a": pandas.to_datetime(["2020", "2021"]), "y": [1.5, 2]}), DataError, "of type timestamp"),
        (pandas.DataFrame([[1, 2, 1.5]], columns=["a", "a", "y"]), DataError, "both named 'a'|Duplicate"),
    ],
)
def test_what_is_no_table_is_refused(frame: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TableModel.fit(frame, "y", **OPTIONS)


def test_options_are_checked() -> None:
    for wrong in (
        {"loss": "cross_entropy"},
        {"hidden": [0]},
        {"optimizer": "x"},
        {"epoch": 3},
        {"patience": -1},
        {"drop": "town"},
        {"missing": "-"},
        {"decimal": ";"},
        {"task": "regresion"},
        {"epochs": 0},
        {"validation_fraction": "half"},
    ):
        with pytest.raises((ValueError, TypeError)):
            TableModel.fit(FRAME, "price", **{**OPTIONS, **wrong})


def test_it_trains_as_the_command_does(tmp_path: Path) -> None:
    from nnbp.cli.main import main

    FRAME.to_csv(tmp_path / "t.csv", index=False)
    words = ["--target", "price", "--device", "cpu", "--quiet", "--epochs", "20", "--test-fraction", "0"]
    assert main(["train", str(tmp_path / "t.csv"), *words, "--out", str(tmp_path / "run")]) == 0
    by_command = TableModel.load(tmp_path / "run" / "model.safetensors", device="cpu")
    own = TableModel.fit(pandas.read_csv(tmp_path / "t.csv"), "price", epochs=20, device="cpu", progress=False)
    np.testing.assert_array_equal(own.network.parameters, by_command.network.parameters)
    assert nnbp.TableModel is TableModel
