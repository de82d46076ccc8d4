"""Metrics: equal to scikit-learn's on random data, their edge cases, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nnbp import metrics
from nnbp.errors import DataError, DTypeError, ShapeError
from nnbp.metrics import Metric

LABEL_NAMES = ["accuracy", "balanced_accuracy", "f1_macro"]
VALUE_NAMES = ["mse", "rmse", "mae", "r2"]
NAMES = [*LABEL_NAMES, *VALUE_NAMES, "log_loss", "roc_auc", "max_error"]
SEEDS = st.integers(0, 2**32 - 1)
# Random data are to meet a single class and a class that is only predicted; scikit-learn warns of both.
PEER_WARNINGS = pytest.mark.filterwarnings(
    "ignore:y_pred contains classes not in y_true:UserWarning",
    "ignore:A single label was found:UserWarning",
)


def peer(name: str) -> Callable[..., float]:
    """scikit-learn's function of the same meaning."""
    sk = pytest.importorskip("sklearn.metrics")
    functions: dict[str, Callable[..., float]] = {
        "accuracy": sk.accuracy_score,
        "balanced_accuracy": sk.balanced_accuracy_score,
        "f1_macro": lambda y, p, **kw: sk.f1_score(y, p, average="macro", **kw),
        "log_loss": lambda y, p, **kw: sk.log_loss(y, p, labels=range(p.shape[1]), **kw),
        "roc_auc": sk.roc_auc_score,
        "mse": sk.mean_squared_error,
        "rmse": sk.root_mean_squared_error,
        "mae": sk.mean_absolute_error,
        "r2": sk.r2_score,
    }
    return functions[name]


def both(name: str, y: NDArray[Any], p: NDArray[Any], w: NDArray[Any] | None) -> tuple[float, float]:
    """Ours and scikit-learn's; ours must not change what it is given."""
    kept = [a.copy() for a in (y, p)]
    ours = metrics.get(name)(y, p, w)
    assert np.array_equal(y, kept[0])
    assert np.array_equal(p, kept[1])
    assert type(ours) is float
    return ours, peer(name)(y, p, sample_weight=w)


def weights(rng: np.random.Generator, m: int, weighted: bool) -> NDArray[np.float64] | None:
    return rng.exponential(size=m) + 1e-3 if weighted else None


@PEER_WARNINGS
@pytest.mark.parametrize("name", LABEL_NAMES)
@given(seed=SEEDS, m=st.integers(1, 40), k=st.integers(1, 6), weighted=st.booleans())
@settings(max_examples=60, deadline=None)
def test_label_metrics_equal_scikit_learn(name: str, seed: int, m: int, k: int, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    y, p = rng.integers(k, size=m), rng.integers(k, size=m)
    ours, theirs = both(name, y, p, weights(rng, m, weighted))
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-12)


@given(seed=SEEDS, m=st.integers(1, 40), k=st.integers(2, 6), weighted=st.booleans(), hard=st.booleans())
@settings(max_examples=60, deadline=None)
def test_log_loss_equals_scikit_learn(seed: int, m: int, k: int, weighted: bool, hard: bool) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(k, size=m)
    p = np.eye(k)[rng.integers(k, size=m)] if hard else rng.dirichlet(np.ones(k), size=m)
    w = weights(rng, m, weighted)
    ours, theirs = both("log_loss", y, p, w)
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-12)
    single = p.astype(np.float32)
    assert metrics.LogLoss()(y, single, w) == pytest.approx(peer("log_loss")(y, single, sample_weight=w), rel=1e-5)


@given(seed=SEEDS, m=st.integers(2, 40), levels=st.integers(1, 30), weighted=st.booleans())
@settings(max_examples=80, deadline=None)
def test_roc_auc_equals_scikit_learn_with_ties(seed: int, m: int, levels: int, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    y = np.concatenate([[0, 1], rng.integers(2, size=m - 2)])
    p = rng.integers(levels, size=m) / levels
    w = weights(rng, m, weighted)
    ours, theirs = both("roc_auc", y, p, w)
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-12)
    assert metrics.RocAuc()(y, np.column_stack([1 - p, p]), w) == ours


@pytest.mark.parametrize("name", VALUE_NAMES)
@given(seed=SEEDS, m=st.integers(2, 40), k=st.integers(1, 4), weighted=st.booleans(), scale=st.integers(-3, 3))
@settings(max_examples=60, deadline=None)
def test_value_metrics_equal_scikit_learn(name: str, seed: int, m: int, k: int, weighted: bool, scale: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(m, k)) * 10.0**scale
    p = y + rng.normal(size=(m, k)) * 10.0**scale
    ours, theirs = both(name, y, p, weights(rng, m, weighted))
    assert ours == pytest.approx(theirs, rel=1e-12)
    if k == 1:
        assert metrics.get(name)(y[:, 0], p) == metrics.get(name)(y, p[:, 0])


@given(seed=SEEDS, m=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_max_error_equals_scikit_learn(seed: int, m: int) -> None:
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    y, p, w = rng.normal(size=m), rng.normal(size=m), rng.integers(2, size=m)
    w[rng.integers(m)] = 1
    assert metrics.MaxError()(y, p) == sk.max_error(y, p)
    assert metrics.MaxError()(y, p, w) == sk.max_error(y[w > 0], p[w > 0])
    table = rng.normal(size=(m, 3))
    assert metrics.MaxError()(table, np.zeros((m, 3))) == abs(table).max()


@PEER_WARNINGS
@given(seed=SEEDS, m=st.integers(1, 40), k=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_confusion_matrix_equals_scikit_learn(seed: int, m: int, k: int) -> None:
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    y, p = rng.integers(k, size=m), rng.integers(k, size=m)
    ours = metrics.confusion_matrix(y, p, k)
    assert ours.dtype == np.int64
    assert np.array_equal(ours, sk.confusion_matrix(y, p, labels=range(k)))


def data(metric: Metric, m: int = 12) -> tuple[NDArray[Any], NDArray[Any]]:
    """A truth and a prediction of the kind that the metric needs."""
    rng = np.random.default_rng(0)
    labels = np.arange(m) % 2
    return {
        "labels": (labels, rng.integers(2, size=m)),
        "values": (rng.normal(size=m), rng.normal(size=m)),
        "probabilities": (labels, rng.random(m)),
    }[metric.needs]


def test_the_names_and_the_defaults() -> None:
    assert set(NAMES) <= set(Metric.registry)
    assert all(cls.name == name for name, cls in Metric.registry.items())
    assert metrics.defaults(True) == ("accuracy",)
    assert metrics.defaults(False) == ("r2", "rmse")


@pytest.mark.parametrize("name", Metric.registry)
def test_a_perfect_prediction_is_the_best_value(name: str) -> None:
    metric = metrics.get(name)
    y, p = data(metric)
    best, other = metric(y, y.astype(float)), metric(y, p)
    assert best == pytest.approx(1.0 if metric.greater_is_better else 0.0, abs=1e-15)
    assert best > other if metric.greater_is_better else best < other


@pytest.mark.parametrize("name", Metric.registry)
def test_weight_zero_leaves_a_sample_out_and_equal_weights_change_nothing(name: str) -> None:
    metric = metrics.get(name)
    y, p = data(metric)
    w = np.array([1.0, 2.0, 0.5] * 4)
    assert metric(y, p, np.full(12, 0.3)) == pytest.approx(metric(y, p), rel=1e-14)
    out = w.copy()
    out[[3, 8]] = 0
    assert metric(y, p, out) == pytest.approx(metric(y[out > 0], p[out > 0], w[out > 0]), rel=1e-14)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in LABEL_NAMES])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_prediction_that_is_not_finite_gives_nan(name: str, bad: float) -> None:
    metric = metrics.get(name)
    y, p = data(metric)
    assert math.isfinite(metric(y, p))
    p[3] = bad
    assert math.isnan(metric(y, p))
    w = np.ones(12)
    w[3] = 0
    assert math.isfinite(metric(y, p, w))


@pytest.mark.parametrize("name", [*VALUE_NAMES, "max_error"])
def test_float32_is_computed_in_float64_and_overflow_does_not_warn(name: str) -> None:
    rng = np.random.default_rng(1)
    y, p = rng.normal(size=(2, 50)).astype(np.float32)
    metric = metrics.get(name)
    assert metric(y, p) == metric(y.astype(np.float64), p.astype(np.float64))
    assert not math.isfinite(metric([0.0, 1.0], [1e200, -1e308])) or name in ("mae", "max_error")


@pytest.mark.parametrize("target", [3.0, 0.1])
def test_r2_of_a_constant_target(target: float) -> None:
    y = np.full(10, target)
    assert metrics.R2()(y, y) == 1.0
    assert metrics.R2()(y, y + 1e-3) == 0.0
    sk = pytest.importorskip("sklearn.metrics")
    both_columns = np.column_stack([np.full(10, 3.0), np.arange(10.0)])
    noisy = both_columns + 0.5
    assert metrics.R2()(both_columns, noisy) == pytest.approx(sk.r2_score(both_columns, noisy), rel=1e-12)


def test_undefined_is_nan_without_a_warning() -> None:
    assert math.isnan(metrics.R2()([1.0], [1.0]))
    assert math.isnan(metrics.R2()([1.0, 2.0], [1.0, 2.0], [1.0, 0.0]))
    assert math.isnan(metrics.RocAuc()([1, 1], [0.2, 0.3]))
    assert math.isnan(metrics.RocAuc()([0, 1], [0.2, 0.3], [1.0, 0.0]))


def test_any_integer_labels_do() -> None:
    assert metrics.Accuracy()([-1, 5, 5], [-1.0, 5.0, -1.0]) == pytest.approx(2 / 3)
    assert metrics.F1Macro()([True, False], [[1], [0]]) == 1.0
    assert metrics.RocAuc()([3, 8], [0.1, 0.2]) == 1.0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: metrics.MSE()([1.0, 2.0], [[1.0, 2.0]]), ShapeError, r"\(2, 1\) here; received shape \(1, 2\)"),
        (
            lambda: metrics.MSE()(np.zeros((2, 3)), np.zeros((2, 4))),
            ShapeError,
            "y_pred of mse has the shape of y_true",
        ),
        (lambda: metrics.MSE()([], []), ShapeError, "at least one sample"),
        (lambda: metrics.MSE()(np.zeros((2, 2, 2)), np.zeros(2)), ShapeError, "one or two dimensions"),
        (
            lambda: metrics.MSE()([math.nan], [1.0]),
            DataError,
            r"y_true of mse is finite; received \[nan\] in row 0",
        ),
        (lambda: metrics.Accuracy()([0, 1], [0, 1, 1]), ShapeError, "has the shape of y_true"),
        (lambda: metrics.Accuracy()([0, 1], np.eye(2)), ShapeError, r"argmax\(axis=1\)"),
        (lambda: metrics.Accuracy()([0, 1], [0.0, 0.7]), DataError, r"whole numbers; received 0\.7 in row 1"),
        (lambda: metrics.Accuracy()([0, 1], [0.0, math.nan]), DataError, "whole numbers"),
        (lambda: metrics.Accuracy()(["a"], ["a"]), DTypeError, r"np\.unique\(y"),
        (lambda: metrics.LogLoss()([0, 2], np.eye(2)), DataError, r"0\.\.1.*received 2 in row 1"),
        (
            lambda: metrics.LogLoss()([0, 1], [[2.0, 1.0], [0.0, 1.0]]),
            DataError,
            r"probabilities.*\[2\. 1\.\] in row 0",
        ),
        (lambda: metrics.LogLoss()([0, 1], [-0.5, 0.5]), DataError, "predict_proba"),
        (lambda: metrics.LogLoss()([0, 1, 1], np.eye(2)), ShapeError, "has the shape of y_true"),
        (lambda: metrics.RocAuc()([0, 1, 2], [0.1, 0.2, 0.3]), DataError, "two classes; received 3"),
        (lambda: metrics.RocAuc()([0, 1], np.ones((2, 3)) / 3), DataError, "3 columns"),
        (lambda: metrics.MSE()([1.0], [1.0], [1.0, 2.0]), ShapeError, "sample_weight has one number per sample"),
        (lambda: metrics.MSE()([1.0], [1.0], [-1.0]), DataError, r"from -1\.0 to -1\.0"),
        (lambda: metrics.MSE()([1.0], [1.0], [0.0]), DataError, "not all 0"),
        (lambda: metrics.MSE()([1.0], [1.0], [math.nan]), DataError, "finite"),
        (
            lambda: metrics.confusion_matrix([0, 1], [0, 2], 2),
            DataError,
            r"y_pred holds class indices in 0\.\.1; received 2",
        ),
        (lambda: metrics.confusion_matrix([0, 1], [0], 2), ShapeError, "confusion matrix"),
        (
            lambda: metrics.get("acuracy"),
            ValueError,
            r"accuracy, balanced_accuracy.*did you mean 'accuracy'\?",
        ),
        (lambda: metrics.get("???"), ValueError, "Pass one of these names"),
        (lambda: metrics.get(metrics.MSE), TypeError, "a Metric object or a function"),  # type: ignore[arg-type]
        (lambda: metrics.get(3), TypeError, "received 3"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_are_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_get_takes_objects_and_functions() -> None:
    mse = metrics.MSE()
    assert metrics.get(mse) is mse
    assert repr(metrics.get("mse")) == "MSE()"

    def share(y_true: NDArray[Any], y_pred: NDArray[Any], sample_weight: NDArray[Any] | None = None) -> float:
        return float(np.average(y_true == y_pred, weights=sample_weight))

    metric = metrics.get(share, classification=True)
    assert (metric.name, metric.needs, metric.greater_is_better) == ("share", "labels", True)
    y, p, w = np.array([0, 1]), np.array([0, 0]), np.array([3.0, 1.0])
    assert metric(y, p) == 0.5
    assert metric(y, p, w) == metric.score(y, p, w) == 0.75


def test_a_function_without_weights_is_told_so_only_when_they_are_used() -> None:
    def worst(y_true: NDArray[Any], y_pred: NDArray[Any]) -> float:
        return float(abs(y_true - y_pred).max())

    worst.greater_is_better = False  # type: ignore[attr-defined]
    metric = metrics.get(worst)
    assert (metric.needs, metric.greater_is_better) == ("values", False)
    assert metric(np.ones(2), np.zeros(2)) == 1.0
    with pytest.raises(TypeError, match=r"metric worst .*sample_weight=None"):
        metric(np.ones(2), np.zeros(2), np.ones(2))


def test_an_own_metric_is_one_class() -> None:
    class Bias(Metric):
        name, greater_is_better, needs = "bias_for_this_test", False, "values"

        def score(self, truth: NDArray[Any], prediction: NDArray[Any], weight: NDArray[Any]) -> float:
            return float(np.average(prediction - truth, axis=0, weights=weight).mean())

    try:
        assert metrics.get("bias_for_this_test")([1, 2], [2, 4], [1, 3]) == 1.75
    finally:
        del Metric.registry["bias_for_this_test"]
