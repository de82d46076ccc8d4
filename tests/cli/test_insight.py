"""What the report says of a model beyond its metrics, against scikit-learn's definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nnbp
from nnbp.cli.report.insight import ROWS, WORK, affordable, calibration, inspect, roc
from nnbp.tabular.model import TableModel
from nnbp.tabular.readers import frame_source, load_source
from nnbp.tabular.table import Source

sklearn = pytest.importorskip("sklearn")
pandas = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")


def source_of(model: TableModel, frame: Any) -> Source:
    return frame_source(frame, target=model.target.name, reading=model.reading, keep_text=model.texts)


@pytest.fixture(scope="module")
def houses() -> tuple[TableModel, Any]:
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({
        "area": rng.normal(80, 20, 300), "town": rng.choice(["Rome", "Oslo", "Kyiv"], 300),
        "noise": rng.normal(size=300),
    })  # fmt: skip
    frame["price"] = 3.0 * frame["area"] + 40.0 * (frame["town"] == "Oslo")
    frame.loc[17, "price"] = 1000.0
    model = nnbp.TableModel.fit(frame, "price", hidden=[8], epochs=60, progress=False, device="cpu")
    return model, frame


def test_importance_is_that_of_scikit_learn(houses: tuple[TableModel, Any]) -> None:
    from sklearn.inspection import permutation_importance
    from sklearn.metrics import r2_score

    model, frame = houses
    found = inspect(model, source_of(model, frame), held_out=True)
    columns = frame[["area", "town", "noise"]]

    def score(_: Any, X: Any, y: Any) -> float:
        return float(r2_score(y, model.predict(X)))

    class Fitted:
        def fit(self) -> None: ...

    expected = permutation_importance(Fitted(), columns, frame["price"], scoring=score, n_repeats=30, random_state=1)
    assert found.importance is not None
    for item in found.importance.columns:
        k = list(columns).index(item.column)
        deviation = expected.importances_std[k]
        # Of means of 5 and of 30 repeats.
        assert item.mean == pytest.approx(expected.importances_mean[k], abs=4 * deviation * (1 / 5 + 1 / 30) ** 0.5)
        assert 0 < item.deviation < 3 * deviation
    assert found.importance.columns[0].column == "area"
    assert found.importance.score == "r2"


def test_the_worst_rows_are_named_with_their_cells(houses: tuple[TableModel, Any]) -> None:
    model, frame = houses
    found = inspect(model, source_of(model, frame), held_out=False)
    worst = found.worst[0]
    assert (worst.place, worst.truth, worst.cells["town"]) == (17, "1000", frame["town"][17])
    assert float(worst.cells["area"]) == pytest.approx(frame["area"][17], rel=1e-5)
    costs = [row.cost for row in found.worst]
    assert costs == sorted(costs, reverse=True)
    assert len(costs) == 10
    assert costs[0] == pytest.approx(abs(1000.0 - model.predict(frame[17:18])[0]), rel=1e-5)


def test_dead_and_saturated_units_have_their_numbers() -> None:
    source = load_source("iris")
    frame = pandas.DataFrame({**source.columns, "kind": np.array(source.target.tolist())})
    model = nnbp.TableModel.fit(frame, "kind", hidden=[5, 4], epochs=2, progress=False, device="cpu")
    network = model.network
    network.biases[0][2] = -1e3
    network.biases[1][1] = -1e3
    layers = inspect(model, source_of(model, frame), held_out=True).layers
    # Units 1 to 4 are inputs, 5 to 9 the first layer, 10 to 13 the second, 14 to 16 the outputs.
    assert {7} <= set(layers[0].dead)
    assert {11} <= set(layers[1].dead)
    assert [layer.name for layer in layers] == ["layer 1: 5 relu", "layer 2: 4 relu", "layer 3: 3 softmax"]
    assert layers[2].dead == layers[2].saturated == []
    np.testing.assert_array_equal(layers[0].a[:, 2], 0.0)
    np.testing.assert_array_equal(layers[0].delta[:, 2], 0.0)


def test_large_tables_are_thinned_out() -> None:
    rng = np.random.default_rng(0)
    m, n = ROWS + 500, 230
    frame = pandas.DataFrame(rng.normal(size=(m, n)), columns=[f"c{k}" for k in range(n)])
    frame["kind"] = np.where(frame["c7"] > 0, "yes", "no")
    model = nnbp.TableModel.fit(frame, "kind", hidden=[4], epochs=20, progress=False, device="cpu")
    found = inspect(model, source_of(model, frame), held_out=True)
    assert found.importance is not None
    assert (found.rows, len(found.importance.columns), found.importance.unmeasured) == (ROWS, 200, 30)
    assert found.importance.columns[0].column == "c7"


@pytest.mark.parametrize("parameters", [10, 40_000, 5_000_000, 100_000_000])
@pytest.mark.parametrize("columns", [1, 8, 60, 10_000])
def test_the_importance_takes_a_bounded_time(parameters: int, columns: int) -> None:
    rows, measured, repeats = affordable(parameters, ROWS, columns)
    assert rows * measured * repeats * parameters <= max(WORK, 100 * repeats * parameters)
    assert 100 <= rows <= ROWS
    assert 1 <= measured <= columns


def test_one_row_has_no_importance(houses: tuple[TableModel, Any]) -> None:
    model, frame = houses
    found = inspect(model, source_of(model, frame[:1]), held_out=True)
    assert found.importance is None
    assert len(found.worst) == 1


def test_missing_cells_are_dashes_and_gradients_are_those_of_the_parameters() -> None:
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"x": rng.normal(size=60), "empty": np.full(60, np.nan), "y": rng.normal(size=60)})
    frame["empty"] = frame["empty"].where(np.arange(60) > 0, 1.0)
    model = nnbp.TableModel.fit(frame, "y", hidden=[3], epochs=2, progress=False, device="cpu")
    source = source_of(model, frame)
    found = inspect(model, source, held_out=True)
    assert {row.cells["empty"] for row in found.worst} <= {"–", "1"}
    assert "–" in {row.cells["empty"] for row in found.worst}
    X, y = model.features(source)[0], model.target.encode(source)
    gradients = model.network.gradients(X, y)
    for layer, dW, db in zip(found.layers, gradients.dW, gradients.db, strict=True):
        np.testing.assert_array_equal(layer.gradient, np.append(dW, db))


@pytest.mark.parametrize("k", [2, 4])
def test_calibration_is_that_of_scikit_learn(k: int) -> None:
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(k), 500)
    truth = np.array([rng.choice(k, p=p) for p in probabilities])
    found = calibration(truth, probabilities)
    p, hit = probabilities[:, 1], truth == 1
    if k > 2:
        p, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    observed, predicted = calibration_curve(hit, p, n_bins=10)
    np.testing.assert_allclose(found.observed, observed)
    np.testing.assert_allclose(found.predicted, predicted)
    assert found.rows.sum() == 500
    assert found.error == pytest.approx(found.rows / 500 @ np.abs(observed - predicted))


def test_sure_and_right_predictions_are_calibrated() -> None:
    truth = np.array([0, 1, 1, 0])
    assert calibration(truth, np.eye(2)[truth]).error == 0.0


@pytest.mark.parametrize("digits", [1, 8])
def test_roc_is_that_of_scikit_learn(digits: int) -> None:
    """With ties, too."""
    from sklearn.metrics import roc_auc_score, roc_curve

    rng = np.random.default_rng(0)
    positive = rng.random(200) < 0.3
    score = np.round(rng.random(200) + 0.3 * positive, digits)
    false, true, area = roc(positive, score)
    expected = roc_curve(positive, score, drop_intermediate=False)
    np.testing.assert_allclose(false, expected[0])
    np.testing.assert_allclose(true, expected[1])
    assert area == pytest.approx(roc_auc_score(positive, score))
