"""What people's tables really hold: marks of missing values, decimal commas, units, identifiers, labels with zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnbp import Network
from nnbp.cli.main import main
from nnbp.errors import DataError, ModelFileError
from nnbp.nn.layers import OneHot
from nnbp.tabular.model import TableModel
from nnbp.tabular.preprocessing import TablePreprocessor, TargetEncoder
from nnbp.tabular.readers import load_source
from nnbp.tabular.table import PLAIN, Reading, Source

RNG = np.random.default_rng(0)
VALUES = RNG.normal(50, 20, 600).round(2)


def source(keep_text: bool = False, **columns: Any) -> Source:
    cells = {
        name: PLAIN.column([np.array([str(cell) for cell in column])], keep_text=keep_text)
        for name, column in columns.items()
    }
    return Source("t.csv", cells, np.arange(2, 2 + len(next(iter(cells.values())))), unit="line")


def written(path: Path, lines: list[str], encoding: str = "utf-8") -> Path:
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def table(path: Path, cell: Any, every: int = 6, encoding: str = "utf-8", mark: str = ",") -> Path:
    """600 rows whose target is the sign of a − 50; every so many cells of a are written by `cell`."""
    rows = [f"a{mark}y", *(
        f"{cell(v) if k % every == 0 else v}{mark}{'high' if v > 50 else 'low'}" for k, v in enumerate(VALUES)
    )]  # fmt: skip
    return written(path, rows, encoding)


@pytest.mark.parametrize("mark", ["", "NULL", "#N/A", "n/a", "nan", "<NA>", "-nan", "None"])
def test_marks_of_missing_values_are_those_of_pandas(mark: str, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = table(tmp_path / "t.csv", lambda v: mark)
    numbers = load_source(path, target="y").numbers("a")
    assert np.isnan(numbers).sum() == 100
    np.testing.assert_array_equal(numbers, pandas.read_csv(path)["a"].to_numpy())


@pytest.mark.parametrize(
    ("cell", "every", "remedy"),
    [
        (lambda v: "-", 6, "if '-' means that the value is not known: --missing -;"),
        (lambda v: "na", 5, "--missing na;"),
        (lambda v: "not yet", 6, "--missing 'not yet';"),
        (lambda v: f'"{v:.2f}"'.replace(".", ","), 6, "if a comma is the decimal mark: --decimal ,;"),
        (lambda v: f'"{v:.2f}"'.replace(".", ","), 1, "if a comma is the decimal mark: --decimal ,;"),
        (lambda v: f"{v}%", 1, "as plain numbers, without marks and units"),
        (lambda v: f"{v} kg", 1, "as plain numbers"),
        (lambda v: f"${v}", 6, "as plain numbers"),
        (lambda v: f"EUR {v}", 1, "as plain numbers"),
        (lambda v: f'"1,{abs(int(v)) % 1000:03d}.5"', 1, "as plain numbers"),
        (lambda v: f"{v} km/h", 2, "as plain numbers"),
    ],
)
def test_a_column_that_is_nearly_numbers_is_an_error_with_remedies(
    cell: Any, every: int, remedy: str, tmp_path: Path
) -> None:
    path = table(tmp_path / "t.csv", cell, every)
    with pytest.raises(DataError, match=r"t\.csv, line \d+, column 'a': expected a ") as caught:
        TablePreprocessor.fit(load_source(path, target="y"))
    said = str(caught.value)
    assert remedy in said
    assert "received '" in said
    assert said.endswith("else take the column as text: --text a, or leave it out: --drop a.")


def test_a_space_before_a_quote_is_no_part_of_a_number(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", ["a, b, y", *(f'{k}, "{k / 4}", {k % 2}' for k in range(40))])
    with pytest.raises(DataError, match=r"column 'b': expected a plain number; received .*as plain numbers"):
        TablePreprocessor.fit(load_source(path, target="y"))


@pytest.mark.parametrize("cells", [["red", "green", "blue"] * 9, ["2020-01-05", "2020-02-06"] * 9, ["A1", "B2"] * 9])
def test_other_columns_of_text_stay_text(cells: list[str]) -> None:
    assert source(a=cells).kind("a") == "text"
    assert source(a=[*cells, "1", "2"]).kind("a") == "text"


def test_options_say_how_to_read_it(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", ["a;b;c;d", "1,5;1;7;1", "1.200,25;x;07;2", "-;2;7;3", "3;3;7;4"])
    options = Reading(missing=("-",), decimal=",", text=("b", "c"), drop=("d",))
    read = load_source(path, target_required=False, reading=options)
    np.testing.assert_array_equal(read.numbers("a"), [1.5, 1200.25, np.nan, 3])
    assert [read.kind(name) for name in read.columns] == ["number", "text", "text"]
    assert read["c"].tolist() == ["7", "07", "7", "7"]
    np.save(tmp_path / "t.npy", np.array([[1, 5], [2, 6], [1, 7]]))
    numbers = load_source(tmp_path / "t.npy", reading=Reading(text=("0",)))
    assert numbers["0"].tolist() == ["1", "2", "1"]
    assert numbers.kind("0") == "text"
    for reading in (Reading(text=("colour",)), Reading(drop=("e",))):
        with pytest.raises(DataError, match=r"no column '(colour|e)' to take as text or to leave out; the columns are"):
            load_source(path, target="a", reading=reading)


def test_a_model_reads_other_tables_as_its_own(tmp_path: Path) -> None:
    options = Reading(missing=("-",), decimal=",", drop=("note",))
    rows = [f"{a};{b};x;{y}" for a, b, y in zip(["1,5", "-", "3,5", "4"] * 10, "uv" * 20, "12" * 20, strict=True)]
    train = load_source(written(tmp_path / "t.csv", ["a;b;note;y", *rows]), target="y", reading=options)
    preprocessor = TablePreprocessor.fit(train, options)
    layers = [2, OneHot(preprocessor.one_hot), 1]
    net = Network(layers, loss="binary_cross_entropy", device="cpu", seed=0)
    model = TableModel(net, preprocessor, TargetEncoder.fit(train))
    model.save(tmp_path / "m.safetensors")
    again = TableModel.load(tmp_path / "m.safetensors", device="cpu")
    path = written(tmp_path / "new.csv", ["a;b;note", "2,5;u;?", "-;v;x"])
    new = load_source(path, target_required=False, reading=again.reading, keep_text=again.texts)
    assert again.preprocessor is not None
    assert again.preprocessor.reading == options
    X, messages = again.features(new)
    expected = preprocessor.transform(source(a=["2.5", ""], b=["u", "v"]))[0]
    np.testing.assert_array_equal(X, expected)
    assert not messages, "a column that was left out is no news"


@pytest.mark.parametrize(
    "broken", [{"reading": 3}, {"reading": {"decimal": ";"}}, {"left_out": "id"}, {"left_out": [1]}]
)
def test_a_damaged_reading_is_refused(broken: dict[str, Any]) -> None:
    good = TablePreprocessor.fit(source(a=["1", "2"])).to_json()
    assert set(good) == {"named", "columns"}, "as before, if there is nothing to say"
    with pytest.raises(ModelFileError):
        TablePreprocessor.from_json(good | broken)


def test_identifiers_are_left_out_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["id,a,y", *(f"customer {k},{v},{int(v > 50)}" for k, v in enumerate(VALUES[:200]))]
    path = written(tmp_path / "t.csv", lines)
    words = ["train", str(path), "--target", "y", "--epochs", "2", "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "column 'id' is left out: nearly all of its texts are different" in told.err
    assert "--text id" in told.err
    assert main(["predict", str(tmp_path / "run"), str(path), "--device", "cpu"]) == 0
    assert "ignored" not in capsys.readouterr().err
    assert main([*words[:-3], str(tmp_path / "run2"), "--device", "cpu", "--text", "id"]) == 0
    assert len(TableModel.load(tmp_path / "run2" / "model.safetensors").preprocessor.feature_names) > 100  # type: ignore[union-attr]


def test_a_target_of_nearly_as_many_classes_as_rows_is_refused() -> None:
    labelled = source(a=range(40), y=[f"name {k}" for k in range(40)]).with_target("y", required=True)
    with pytest.raises(DataError, match=r"column 'y': 40 classes in 40 rows.*Use --task regression"):
        TargetEncoder.fit(labelled)
    prices = source(a=range(40), y=range(1000, 1040)).with_target("y", required=True)
    with pytest.raises(DataError, match="Use --task regression"):
        TargetEncoder.fit(prices, "classification")
    assert TargetEncoder.fit(prices).task == "regression"


def test_labels_keep_their_text() -> None:
    labelled = source(True, a=range(40), y=["007", "003", "7", "12"] * 10).with_target("y", required=True)
    target = TargetEncoder.fit(labelled)
    assert target.labels == ("003", "007", "12", "7")
    assert target.decode(target.encode(labelled)).tolist() == ["007", "003", "7", "12"] * 10
    plain = source(True, a=range(40), y=["7", "3"] * 20).with_target("y", required=True)
    assert TargetEncoder.fit(plain).labels == (3, 7)


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_and_encodings_are_found(mark: str, encoding: str, tmp_path: Path) -> None:
    found = load_source(table(tmp_path / "t.csv", lambda v: v, encoding=encoding, mark=mark), target="y")
    np.testing.assert_array_equal(found.numbers("a"), VALUES)
    assert found.target is not None
    assert set(found.target.tolist()) == {"high", "low"}


def test_one_column_of_text_with_a_semicolon_is_one_column(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", ["y", "a;b", "c", "a;b"])
    assert load_source(path, target="y").target.tolist() == ["a;b", "c", "a;b"]  # type: ignore[union-attr]


def test_a_cell_beyond_the_dtype_is_named_at_predict(tmp_path: Path) -> None:
    preprocessor = TablePreprocessor.fit(source(a=["1", "2", "3"], b=["x", "y", "x"]))
    layers = [2, OneHot(preprocessor.one_hot), 1]
    model = TableModel(Network(layers, device="cpu", seed=0), preprocessor, TargetEncoder("y"))
    with pytest.raises(DataError, match=r"t\.csv, line 3, column 'a': expected a number that float32 .*'1e\+300'"):
        model.features(source(a=["1", "1e300"], b=["x", "y"]))


def test_the_case_of_a_table_with_missing_values_is_learnt(tmp_path: Path) -> None:
    """600 rows, the target is the sign of a − 50, a sixth of the cells are empty."""
    path = table(tmp_path / "t.csv", lambda v: "NULL")
    words = ["train", str(path), "--target", "y", "--out", str(tmp_path / "run"), "--device", "cpu", "--quiet"]
    assert main(words) == 0
    model = TableModel.load(tmp_path / "run" / "model.safetensors")
    assert model.preprocessor is not None
    assert model.preprocessor.feature_names == ("a",)
    assert model.compare(load_source(path, target="y")).metrics["accuracy"] > 0.85


def test_marks_that_are_numbers_may_have_blanks_around_them(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", ["a,y", "5,1.5", " -999,2.5", "-999 ,1.0"])
    found = load_source(path, target="y", reading=Reading(missing=("-999",)))
    np.testing.assert_array_equal(found.numbers("a"), [5, np.nan, np.nan])


def test_points_between_thousands_are_no_decimal_marks(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", ["a;b;y", "1.234,5;1.234;1", "1.234;2.000;2", "7;3,5;1"])
    found = load_source(path, target="y", reading=Reading(decimal=","))
    np.testing.assert_array_equal(found.numbers("a"), [1234.5, 1234, 7])
    np.testing.assert_array_equal(found.numbers("b"), [1234, 2000, 3.5])
    with pytest.raises(ValueError, match="decimal"):
        Reading(decimal=";")


def test_a_stray_cell_is_found_before_training_wherever_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in range(1, 60, 6):
        rows = [f"{v},{v / 2}" if k != line else f"oops,{v}" for k, v in enumerate(VALUES[:60])]
        words = ["train", str(written(tmp_path / "t.csv", ["a,y", *rows])), "--target", "y", "--device", "cpu"]
        assert main([*words, "--out", str(tmp_path / "run")]) == 3
        said = capsys.readouterr().err
        assert f"line {line + 2}, column 'a'" in said
        assert "--missing oops" in said
        assert not (tmp_path / "run").exists()
