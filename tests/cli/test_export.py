"""`nnbp export`: a run folder or a model file becomes an ONNX file that a runtime has computed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from nnbp import Network
from nnbp.cli.main import main
from nnbp.tabular.model import TableModel
from nnbp.tabular.readers import load_source

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("sklearn")
pytest.importorskip("tomli_w")

TABLE = "age,city,income,buys\n" + "".join(
    f"{20 + k},{('Bern', 'Wien', '')[k % 3]},{'' if k == 5 else f'{30 + k % 7}.5'},{'yes' if k > 20 else 'no'}\n"
    for k in range(40)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "people.csv").write_text(TABLE)
    words = ["train", str(folder / "people.csv"), "--target", "buys", "--epochs", "20", "--device", "cpu", "--quiet"]
    assert main([*words, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def _quiet(run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()


def test_a_run_folder_becomes_a_file_that_predicts_as_nnbp(run, capsys):
    assert main(["export", str(run), "model.onnx"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "'age', 'city', 'income'" in out
    assert "onnxruntime" in out
    source = load_source(run.parent / "people.csv", target="buys", keep_text=["city"])
    cells = {
        "age": source.numbers("age"), "income": source.numbers("income"),
        "city": np.array(source.texts("city").tolist(), dtype=object),
    }  # fmt: skip
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    label, probabilities = session.run(None, {name: column[:, None] for name, column in cells.items()})
    model = TableModel.load(run / "model.safetensors", device="cpu")
    X, _ = model.features(source)
    np.testing.assert_allclose(probabilities, model.network.predict_proba(X), rtol=0, atol=1e-5)
    assert label.tolist() == model.decoded(model.network.predict(X)).tolist()


def test_the_comparison_takes_the_rows_of_a_table(run, capsys):
    assert main(["export", str(run), "model.onnx", "--data", str(run.parent / "people.csv"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == "model.onnx"
    assert found["samples"] == 40
    assert found["inputs"] == ["age", "city", "income"]
    assert found["outputs"] == ["label", "probabilities"]
    assert found["labels"] == ["no", "yes"]
    assert 0 <= found["error"] < found["tolerance"] == 1e-5


def test_a_model_file_without_a_table_takes_x(capsys, tmp_path):
    Network([2, 3, 1], device="cpu", dtype="float64", seed=0).save("net.safetensors")
    np.save("X.npy", np.arange(8.0).reshape(4, 2))
    assert main(["export", "net.safetensors", "net.onnx", "--data", "X.npy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["inputs"], found["outputs"], found["samples"]) == (["X"], ["value"], 4)
    assert onnx.load("net.onnx").opset_import[0].version == 17


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["absent", "model.onnx"], 4, "there is no such file or folder"),
        (["RUN", "absent/model.onnx"], 4, "there is no"),
        (["RUN", "RUN/model.safetensors"], 2, "FILE would overwrite"),
        (["RUN", "model.onnx", "--tolerance", "1e-30"], 4, "the same, up to 1e-30"),
        (["RUN", "model.onnx", "--data", "absent.csv"], 3, "there is no such file"),
        (["RUN"], 2, "FILE"),
    ],
)
def test_what_goes_wrong_has_its_exit_code(words, code, message, run, capsys, tmp_path):
    assert main(["export", *(word.replace("RUN", str(run)) for word in words)]) == code
    assert message in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_without_onnx_the_exit_code_is_6(run, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(run), "model.onnx"]) == 6
    assert 'python -m pip install "onnx' in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
