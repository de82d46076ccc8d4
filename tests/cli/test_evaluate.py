"""`nnbp evaluate`: metrics of a labelled table, by scikit-learn's definitions."""

import json
from pathlib import Path

import numpy as np
import pytest

from nnbp.cli.main import main
from nnbp.tabular.model import TableModel
from nnbp.tabular.readers import load_source

sklearn_metrics = pytest.importorskip("sklearn.metrics")
pytest.importorskip("tomli_w")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("wine", "breast_cancer", "diabetes"):
        assert main(["train", name, "--epochs", "15", "--quiet", "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture(autouse=True)
def _quiet(runs, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()


def evaluated(capsys, *words: str) -> dict:
    assert main(["evaluate", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_metrics_of_classes_are_those_of_scikit_learn(runs, capsys):
    found = evaluated(capsys, runs / "breast_cancer", "breast_cancer")
    model = TableModel.load(runs / "breast_cancer" / "model.safetensors")
    source = load_source("breast_cancer")
    X, _ = model.features(source)
    predicted, p = model.decoded(model.network.predict(X)), model.network.predict_proba(X)[:, 1]
    truth, labels, metrics = source.target.tolist(), predicted.tolist(), found["metrics"]
    positive = np.array([label == model.target.labels[1] for label in truth])
    assert found["rows"] == 569
    assert metrics["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(truth, labels))
    assert metrics["f1_macro"] == pytest.approx(sklearn_metrics.f1_score(truth, labels, average="macro"))
    assert metrics["roc_auc"] == pytest.approx(sklearn_metrics.roc_auc_score(positive, p))
    _, counts = np.unique(source.target, return_counts=True)
    assert found["baseline_accuracy"] == pytest.approx(counts.max() / 569)


def test_metrics_of_quantities_are_in_their_own_unit(runs, capsys):
    found = evaluated(capsys, runs / "diabetes", "diabetes")
    model = TableModel.load(runs / "diabetes" / "model.safetensors")
    source = load_source("diabetes")
    predicted = model.decoded(model.network.predict(model.features(source)[0]))
    assert set(found["metrics"]) == {"r2", "rmse", "mae"}
    mae, r2 = sklearn_metrics.mean_absolute_error, sklearn_metrics.r2_score
    assert found["metrics"]["mae"] == pytest.approx(mae(source.target, predicted), rel=1e-5)
    assert found["metrics"]["r2"] == pytest.approx(r2(source.target, predicted), rel=1e-5)
    assert "baseline_accuracy" not in found


def test_the_words_name_model_data_and_metrics(runs, capsys):
    assert main(["evaluate", str(runs / "wine"), "wine"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "wine, 178 rows" in out
    assert "'cultivar', 3 classes" in out
    assert "accuracy" in out


def test_what_is_not_defined_is_null_in_json(runs, capsys, tmp_path):
    source = load_source("diabetes")
    names = list(source.columns)
    cells = ",".join(str(source.columns[name][0]) for name in names)
    (tmp_path / "one.csv").write_text(f"{','.join(names)},progression\n{cells},151\n")
    found = evaluated(capsys, runs / "diabetes", "one.csv")
    assert found["metrics"]["r2"] is None
    assert found["metrics"]["mae"] >= 0


def test_another_name_of_the_target_can_be_given(runs, capsys, tmp_path):
    source = load_source("diabetes")
    names = list(source.columns)
    rows = "".join(
        ",".join(str(source.columns[name][k]) for name in names) + f",{source.target[k]}\n" for k in range(5)
    )
    (tmp_path / "other.csv").write_text(f"{','.join(names)},outcome\n{rows}")
    assert main(["evaluate", str(runs / "diabetes"), "other.csv"]) == 3
    assert "no column 'progression'" in capsys.readouterr().err
    assert evaluated(capsys, runs / "diabetes", "other.csv", "--target", "outcome")["rows"] == 5


def test_a_label_that_training_did_not_have_exits_with_3_and_its_place(runs, capsys, tmp_path):
    source = load_source("wine")
    names = list(source.columns)
    cells = ",".join(str(source.columns[name][0]) for name in names)
    (tmp_path / "new.csv").write_text(f"{','.join(names)},cultivar\n{cells},class_9\n")
    assert main(["evaluate", str(runs / "wine"), "new.csv"]) == 3
    err = capsys.readouterr().err
    assert "new.csv, line 2, column 'cultivar'" in err
    assert "class_9" in err


def test_a_model_of_something_else_does_not_fit(runs, capsys):
    assert main(["evaluate", str(runs / "wine"), "breast_cancer"]) == 3
    assert "one of the labels of training" in capsys.readouterr().err
