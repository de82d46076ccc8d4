"""Intervals of predictions: their definition, their coverage, and what they need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nnbp
from nnbp import Network
from nnbp.errors import DataError


def fitted(outputs: int = 1) -> tuple[Network, Any, Any]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 2))
    y = np.column_stack([X[:, 0], X[:, 1] ** 2])[:, :outputs] + 0.1 * rng.normal(size=(80, outputs))
    net = Network([2, 8, outputs], activation="tanh", dtype="float64", device="cpu", seed=0)
    net.fit(X[:40], y[:40], optimizer="levenberg_marquardt", epochs=10, progress=False)
    return net, X, y


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize(("level", "rank"), [(0.9, 37), (0.5, 21), (0.975, 40)])
def test_the_width_is_a_residual_of_the_calibration_data(outputs: int, level: float, rank: int) -> None:
    net, X, y = fitted(outputs)
    lower, upper = net.predict_interval(X, calibration=(X[40:], y[40:]), level=level)
    predicted = net.predict(X)
    assert lower.shape == upper.shape == predicted.shape
    residuals = np.sort(np.abs(y[40:] - np.reshape(net.predict(X[40:]), (40, outputs))), axis=0)
    np.testing.assert_allclose((upper - lower).reshape(80, outputs), 2 * np.tile(residuals[rank - 1], (80, 1)))
    np.testing.assert_allclose((upper + lower) / 2, predicted, atol=1e-12)


@pytest.mark.parametrize(("level", "least"), [(0.9, 9), (0.95, 19), (0.5, 1), (0.99, 99)])
def test_too_few_samples_are_an_error_that_says_how_many(level: float, least: int) -> None:
    net, X, y = fitted()
    many = (np.resize(X, (least, 2)), np.resize(y, (least, 1)))
    net.predict_interval(X, calibration=many, level=level)
    if least > 1:
        with pytest.raises(DataError, match=rf"need at least {least} calibration samples; received {least - 1}\."):
            net.predict_interval(X, calibration=(many[0][1:], many[1][1:]), level=level)


def test_arguments_that_do_not_fit() -> None:
    net, X, y = fitted()
    for level in (0.0, 1.0, "high"):
        with pytest.raises((ValueError, TypeError), match="level"):
            net.predict_interval(X, calibration=(X, y), level=level)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"calibration is \(X, y\)"):
        net.predict_interval(X, calibration=X)
    with pytest.raises(DataError):
        net.predict_interval(X, calibration=(X, y * np.nan))
    classes = Network([2, 3], loss="cross_entropy", device="cpu", seed=0)
    with pytest.raises(TypeError, match="cross_entropy is for classes"):
        classes.predict_interval(X, calibration=(X, np.zeros(80)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::nnbp.ConvergenceWarning")
@pytest.mark.parametrize("name", ["friedman", "sine", "diabetes"])
def test_intervals_hold_what_they_promise(name: str) -> None:
    """The mean coverage of 60 repetitions lies between 0.89 and 0.92 at level 0.9, for uneven noise, too."""
    datasets = pytest.importorskip("sklearn.datasets")
    known = datasets.load_diabetes()

    def drawn(seed: int) -> tuple[Any, Any]:
        rng = np.random.default_rng(seed)
        if name == "friedman":
            return datasets.make_friedman1(900, noise=1.0, random_state=seed)
        if name == "sine":
            X = rng.uniform(-3, 3, (900, 1))
            return X, np.sin(X[:, 0]) + (0.1 + 0.2 * np.abs(X[:, 0])) * rng.normal(size=900)
        order = rng.permutation(len(known.target))
        return known.data[order], known.target[order]

    covered = []
    for seed in range(60):
        X, y = drawn(seed)
        X, y = (X - X[:200].mean(0)) / X[:200].std(0), (y - y[:200].mean()) / y[:200].std()
        net = Network(
            [X.shape[1], 8, 1], activation="tanh", weight_decay=1e-2, dtype="float64", device="cpu", seed=seed
        )
        net.fit(X[:200], y[:200], optimizer="levenberg_marquardt", epochs=20, progress=False)
        lower, upper = net.predict_interval(X[300:], calibration=(X[200:300], y[200:300]))
        covered.append(np.mean((lower <= y[300:]) & (y[300:] <= upper)))
    assert 0.89 <= np.mean(covered) <= 0.92


def test_arrays_come_back_where_they_came_from(device: str) -> None:
    net, X, y = fitted()
    moved = net.copy(device=device)
    lower, _ = moved.predict_interval(X, calibration=(X[40:], y[40:]))
    assert type(lower) is np.ndarray
    np.testing.assert_allclose(lower, nnbp.Network.predict_interval(net, X, calibration=(X[40:], y[40:]))[0])
