"""`nnbp predict`: labels as the training had them, columns by name, and a clear word where a table does not fit."""

import csv
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from nnbp import Network
from nnbp.cli.main import main

pytest.importorskip("sklearn")
pytest.importorskip("tomli_w")

TABLE = "age,city,income,buys\n" + "".join(
    f"{20 + k},{('Bern', 'Wien')[k % 2]},{30 + k % 7}.5,{'yes' if k > 20 else 'no'}\n" for k in range(40)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The run folder of a small table with text labels; the model file alone is what the tests use."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "people.csv").write_text(TABLE)
    words = ["train", str(folder / "people.csv"), "--target", "buys", "--epochs", "300", "--patience", "0", "--quiet"]
    assert main([*words, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def model(run, tmp_path, capsys, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    shutil.copy(run / "model.safetensors", tmp_path / "model.safetensors")
    return "model.safetensors"


def table(capsys, *words: str) -> tuple[list[dict[str, str]], str]:
    assert main(["predict", *words]) == 0
    out, err = capsys.readouterr()
    return list(csv.DictReader(io.StringIO(out))), err


def test_labels_come_back_as_the_strings_they_were_with_their_lines(model, capsys):
    Path("new.csv").write_text("age,city,income\n21,Bern,31.5\n\n58,Wien,34.5\n")
    rows, err = table(capsys, model, "new.csv")
    assert rows == [{"line": "2", "prediction": "no"}, {"line": "4", "prediction": "yes"}]
    assert err == ""


def test_a_run_folder_stands_for_its_model(run, model, capsys):
    Path("new.csv").write_text("age,city,income\n21,Bern,31.5\n")
    assert table(capsys, str(run), "new.csv") == table(capsys, model, "new.csv")


def test_columns_are_matched_by_name_and_the_target_is_set_aside(model, capsys):
    Path("a.csv").write_text("age,city,income\n25,Wien,31.5\n50,Bern,33.5\n")
    Path("b.csv").write_text("buys,income,age,city\nno,31.5,25,Wien\nno,33.5,50,Bern\n")
    assert table(capsys, model, "a.csv", "--proba") == table(capsys, model, "b.csv", "--proba")


def test_columns_that_are_new_are_ignored_and_said(model, capsys):
    Path("a.csv").write_text("age,city,income,phone\n25,Wien,31.5,1\n")
    rows, err = table(capsys, model, "a.csv")
    assert len(rows) == 1
    assert "nnbp predict: note: " in err
    assert "'phone'" in err


def test_a_category_that_is_new_is_said_with_its_place(model, capsys):
    Path("a.csv").write_text("age,city,income\n25,Wien,31.5\n30,Paris,31.5\n")
    rows, err = table(capsys, model, "a.csv")
    assert len(rows) == 2
    assert "line 3, column 'city'" in err
    assert "'Paris'" in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("age,income\n25,31.5\n", "these are missing: 'city'"),
        ("age,town,income\n25,Wien,31.5\n", "these are missing: 'city'"),
        ("age,city,income\n25,Wien,abc\n", "line 2, column 'income': expected a finite number; received 'abc'"),
        ("age,city,income\n25,Wien\n", "line 2: 2 fields"),
    ],
)
def test_a_table_that_does_not_fit_exits_with_3(model, capsys, text, said):
    Path("a.csv").write_text(text)
    assert main(["predict", model, "a.csv"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


def test_probabilities_of_every_class_sum_to_1(model, capsys):
    Path("a.csv").write_text("age,city,income\n21,Wien,31.5\n58,Bern,31.5\n")
    rows, _ = table(capsys, model, "a.csv", "--proba")
    assert list(rows[0]) == ["line", "prediction", "p(no)", "p(yes)"]
    for row in rows:
        p = {label: float(row[f"p({label})"]) for label in ("no", "yes")}
        assert sum(p.values()) == pytest.approx(1, abs=1e-6)
        assert max(p, key=p.get) == row["prediction"]


def test_output_goes_to_a_file_and_nothing_to_standard_output(model, capsys):
    Path("a.csv").write_text("age,city,income\n21,Wien,31.5\n")
    assert main(["predict", model, "a.csv", "--output", "out.csv"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "out.csv" in err
    assert Path("out.csv").read_bytes() == b"line,prediction\n2,no\n"


def test_a_file_that_cannot_be_written_exits_with_6(model, capsys):
    Path("a.csv").write_text("age,city,income\n21,Wien,31.5\n")
    assert main(["predict", model, "a.csv", "--output", "nowhere/out.csv"]) == 6
    assert "nowhere/out.csv: No such file or directory" in capsys.readouterr().err


def test_json_is_one_object(model, capsys):
    Path("a.csv").write_text("age,city,income\n21,Wien,31.5\n58,Bern,31.5\n")
    assert main(["predict", model, "a.csv", "--json", "--proba"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["predictions"] == ["no", "yes"]
    assert found["line"] == [2, 3]
    assert found["labels"] == ["no", "yes"]
    assert np.shape(found["probabilities"]) == (2, 2)


def test_values_come_back_in_their_own_unit_and_have_no_probabilities(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "diabetes", "--epochs", "30", "--quiet", "--out", "run"]) == 0
    capsys.readouterr()
    rows, _ = table(capsys, "run", "diabetes")
    values = [float(row["prediction"]) for row in rows]
    assert len(values) == 442
    assert [row["row"] for row in rows[:2]] == ["0", "1"]
    assert 100 < np.mean(values) < 200
    assert main(["predict", "run", "diabetes", "--proba"]) == 2
    assert "quantity" in capsys.readouterr().err


def test_a_damaged_model_exits_with_4(model, capsys):
    data = bytearray(Path(model).read_bytes())
    data[-3] ^= 1
    Path(model).write_bytes(data)
    assert main(["predict", model, "iris"]) == 4
    assert "checksum" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["nothing", "empty"])
def test_where_there_is_no_model_it_exits_with_4(tmp_path, monkeypatch, capsys, path):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert main(["predict", path, "iris"]) == 4
    assert path in capsys.readouterr().err


def test_a_network_that_was_saved_in_python_takes_columns_of_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    net = Network([2, 4, 3], loss="cross_entropy", device="cpu", seed=0)
    net.save("net.safetensors")
    X = np.array([[0.5, 1.0], [-2.0, 3.0], [4.0, 0.0]])
    np.save("X.npy", X)
    rows, _ = table(capsys, "net.safetensors", "X.npy")
    assert [int(row["prediction"]) for row in rows] == net.predict(X).tolist()
    Path("three.csv").write_text("a,b,c\n1,2,3\n")
    assert main(["predict", "net.safetensors", "three.csv"]) == 3
    Path("empty.csv").write_text("a,b\n1,\n")
    assert main(["predict", "net.safetensors", "empty.csv"]) == 3
    assert "line 2, column 'b': the cell is empty" in capsys.readouterr().err


def test_several_outputs_are_several_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    net = Network([2, 3, 2], device="cpu", seed=0)
    net.save("net.safetensors")
    np.save("X.npy", np.eye(2))
    rows, _ = table(capsys, "net.safetensors", "X.npy")
    assert list(rows[0]) == ["row", "prediction 1", "prediction 2"]
    found = [[float(row["prediction 1"]), float(row["prediction 2"])] for row in rows]
    np.testing.assert_allclose(found, net.predict(np.eye(2)), rtol=1e-6)


def test_control_characters_of_a_table_do_not_reach_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name, red = "people\x1b[2J.csv", "\x1b[31mred\x9b"
    Path(name).write_text("a,b\x07,c\n" + f"1,2,{red}\n2,1,blue\n" * 20, encoding="utf-8")
    assert main(["train", name, "--target", "c", "--epochs", "40", "--learning-rate", "0.05", "--out", "run\x1b"]) == 0
    shown = capsys.readouterr()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for words in (["evaluate"], ["predict", "--proba"], ["predict", "--json"], ["predict", "--output", "out\x1b.csv"]):
        assert main([words[0], "run\x1b", name, *words[1:]]) == 0
        shown = [*shown, *capsys.readouterr()]
    assert main(["evaluate", "run\x1b", "none\x1b.csv"]) == 3
    for text in (*shown, *capsys.readouterr()):
        assert text.replace("\n", "").isprintable(), text
    assert "p(\\x1b[31mred\\x9b)" in "".join(shown)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert main(["predict", "run\x1b", name]) == 0
    assert red in capsys.readouterr().out
