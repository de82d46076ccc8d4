"""What a fit leaves behind when it goes wrong: the best parameters, a finite J, a history, and one warning."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine

import nnbp
from nnbp import ConvergenceWarning, DivergenceError, Network, NnbpError
from nnbp.nn import losses
from nnbp.nn.losses import Loss
from nnbp.training import data_adapter

HOUSES = np.array([[2104, 5], [1416, 3], [1534, 3], [852, 2], [1940, 4], [2000, 3], [1890, 4]], float)
PRICES = np.array([460, 232, 315, 178, 440, 399, 370], float)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(500, 5))


def network(*sizes: int, **options: Any) -> Network:
    return Network(list(sizes), **{"device": "cpu", "seed": 0, **options})


def doubts(net: Network, X: Any, y: Any, **options: Any) -> list[str]:
    """The texts of the warnings of a fit, which all point to this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net.fit(X, y, progress=False, **options)
    assert {each.category for each in caught} <= {ConvergenceWarning}
    assert {each.filename for each in caught} <= {__file__}
    return [str(each.message) for each in caught]


def test_a_fit_that_ends_worse_names_the_column_and_the_targets() -> None:
    net = network(2, 8, 1)
    (text,) = doubts(net, HOUSES, PRICES, optimizer="sgd")
    assert text.startswith("The network has got worse: J was ")
    assert "Column 0 of X has the mean 1677 and the deviation 408.9" in text
    assert "nnbp.Standardize()" in text
    assert "The targets have the mean 342 and the deviation 98.04" in text


def test_the_remedies_work() -> None:
    net = Network([nnbp.Standardize(), 8, 1], device="cpu", seed=0)
    (text,) = doubts(net, HOUSES, PRICES * 1000)
    assert "Column" not in text, "the inputs are standardised"
    net = Network([nnbp.Standardize(), 8, 1], device="cpu", seed=0)
    y = (PRICES - PRICES.mean()) / PRICES.std()
    assert not doubts(net, HOUSES, y, epochs=300, learning_rate=0.01)
    assert net.evaluate(HOUSES, y)["r2"] > 0.8


def test_targets_that_are_too_large_for_the_steps_are_named() -> None:
    (text,) = doubts(network(2, 8, 1), (HOUSES - HOUSES.mean(0)) / HOUSES.std(0), PRICES * 1000)
    assert text.startswith("After 100 epochs the network is no better than a constant prediction: the mean cost")
    assert "Column" not in text
    assert "train on (y - y.mean()) / y.std()" in text


def test_without_another_cause_the_learning_rate_is_named() -> None:
    (text,) = doubts(network(5, 8, 1), X, X[:, 0], learning_rate=1e-9, epochs=20)
    assert text.endswith("Train for more epochs, or with another learning rate (it was 1e-09).")
    (text,) = doubts(network(5, 8, 1), X, X[:, 0], optimizer="sgd", learning_rate=1.5, epochs=1, clip_norm=100.0)
    assert text.startswith("The network has got worse")
    assert text.endswith("Lower the learning rate (it was 1.5).")


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (load_digits(return_X_y=True), {"epochs": 3}),
        (load_iris(return_X_y=True), {"epochs": 1}),
        (load_wine(return_X_y=True), {"epochs": 3}),
        (load_breast_cancer(return_X_y=True), {"epochs": 50}),
    ],
    ids=["digits", "iris", "wine", "breast cancer"],
)
def test_ordinary_fits_give_no_warning(data: Any, options: dict[str, Any]) -> None:
    """Nor do those of a few steps, even on data that nobody has scaled."""
    features, labels = data
    classes = int(labels.max()) + 1
    assert not doubts(network(features.shape[1], 16, classes, loss="cross_entropy"), features, labels, **options)


def test_ordinary_regressions_give_no_warning() -> None:
    features, y = load_diabetes(return_X_y=True, scaled=False)
    features = (features - features.mean(0)) / features.std(0)
    net = network(10, 16, 1)
    assert not doubts(net, features, (y - y.mean()) / y.std(), epochs=30)
    assert not doubts(net, features, (y - y.mean()) / y.std(), epochs=3), "training that goes on"
    assert not doubts(network(5, 8, 1), X, np.full(500, 3.0), epochs=30), "a constant prediction is perfect"
    assert not doubts(network(5, 8, 1, loss="poisson"), X, RNG.poisson(np.exp(X[:, 0] / 2 + 1)), epochs=30)


def test_training_that_goes_on_from_a_good_network_may_move_around_it() -> None:
    net = network(5, 8, 1, activation="tanh")
    net.fit(X, X[:, 0], epochs=100, learning_rate=0.01, validation_data=(X, X[:, 0]), progress=False)
    good, losses = net.parameters.copy(), []
    for rate in (0.002, 0.005, 0.01, 0.02):
        net.parameters[...] = good
        assert not doubts(net, X, X[:, 0], epochs=10, learning_rate=rate)
        losses.append(net.loss(X, X[:, 0]))
    net.parameters[...] = good
    assert max(losses) > 1.1 * net.loss(X, X[:, 0]), "some have moved away"
    (text,) = doubts(net, X, X[:, 0], epochs=10, learning_rate=1.0)
    assert text.startswith("The network has got worse")


def test_a_part_of_large_data_is_like_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes that alternate are drawn alike; samples without a weight do not count, however many they are."""
    monkeypatch.setattr(data_adapter, "SAMPLE", 250)
    drawn: list[Any] = []
    loss = Network._objective
    monkeypatch.setattr(Network, "_objective", lambda *args: drawn.append(args[-1]) or loss(*args))  # type: ignore[func-returns-value]
    weights = np.zeros(500)
    weights[[3, 8]] = 1.0, 3.0
    for w in (None, weights):
        network(5, 8, 2, loss="cross_entropy").fit(X, np.arange(500) % 2, epochs=1, sample_weight=w, progress=False)
    assert len(drawn[0]) == 250
    assert 100 < drawn[0].y.sum() < 150
    assert {*map(tuple, drawn[-1].X)} == {*map(tuple, X[[3, 8]].astype("float32"))}


def test_large_data_are_judged_by_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """J before and after is taken on so many samples at most, from all over the data."""
    monkeypatch.setattr(data_adapter, "SAMPLE", 40)
    seen: list[int] = []
    loss = Network._objective

    def objective(self: Network, passes: Any, data: Any) -> float:
        seen.append(len(data))
        return loss(self, passes, data)

    monkeypatch.setattr(Network, "_objective", objective)
    order = np.argsort(X[:, 0])
    (text,) = doubts(
        network(5, 8, 1), X[order], 50 * X[order, 0], epochs=10, learning_rate=1e-7, sample_weight=np.arange(500.0)
    )
    assert "no better than a constant" in text or "hardly better" in text
    assert seen == [40, 40]


@pytest.mark.parametrize("name", [name for name in Loss.registry if name != "cross_entropy"])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_constant_prediction_is_much_better_than_the_bound(name: str, weighted: bool) -> None:
    """By a minimiser that knows nothing of means and medians."""
    rule = losses.get(name)
    y = (RNG.random((300, 1)) < 0.3) * 1.0 if rule.classification else RNG.gamma(2.0, 1.0, (300, 1)).round(1)
    w = np.repeat([1.0, 3.0], 150) if weighted else None
    cost = rule.cost_z if rule.classification else rule.cost
    found = minimize(lambda h: np.average(cost(h[0], y)[:, 0], weights=w), [y.mean()], method="Nelder-Mead")
    perfect, constant = rule.bounds(y, w)
    assert found.fun - 1e-5 <= constant
    assert constant - found.fun < 0.05 * (found.fun - perfect)
    assert perfect < found.fun


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("w", [None, np.arange(1.0, 301.0)])
def test_the_bounds_of_cross_entropy_are_entropies(rows: bool, w: NDArray[Any] | None) -> None:
    labels = np.sort(RNG.choice(3, 300, p=[0.5, 0.3, 0.2]))
    p = np.bincount(labels, w)
    p = p / p.sum()
    perfect, constant = losses.get("cross_entropy").bounds(np.eye(3)[labels] if rows else labels[:, None], w)
    assert perfect == 0
    assert constant == pytest.approx(-(p * np.log(p)).sum())


# Divergence.


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop", "rprop", "lbfgs"])
@pytest.mark.parametrize("loss", list(Loss.registry))
@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_whatever_happens_J_is_finite_and_no_worse_or_there_is_a_warning(
    activation: str, loss: str, optimizer: str
) -> None:
    y: NDArray[Any] = np.abs(100 * X[:64, 0])
    rule = losses.get(loss)
    if rule.classification:
        y = (X[:64, 0] > 0) * 1.0
    net = network(5, 8, 2 if loss == "cross_entropy" else 1, activation=activation, loss=loss)
    before = net.loss(X[:64], y)
    for rate in (0.5, 50.0):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                net.fit(X[:64], y, epochs=8, optimizer=optimizer, learning_rate=rate, progress=False)
            except DivergenceError:
                assert net.loss(X[:64], y) <= before
        after = net.loss(X[:64], y)
        assert np.isfinite(net.parameters).all()
        assert np.isfinite(after)
        assert after <= 1.05 * abs(before) or caught
        assert optimizer != "lbfgs" or after <= before
        before = after


@pytest.mark.parametrize("counts", [np.zeros(64), np.floor(np.abs(X[:64, 0]))])
def test_a_J_that_is_not_finite_after_the_last_step_is_divergence(counts: NDArray[Any]) -> None:
    """All epochs have a finite loss, and then an output of relu is 0: J is infinite, or 0 ln 0."""
    net = network(5, 8, 1, loss="poisson", output_activation="relu", activation="identity")
    net.biases[-1][...] = 10.0
    before = net.loss(X[:64], counts)
    assert np.isfinite(before)
    with pytest.raises(
        DivergenceError, match=r"epoch 1 ended with a loss of (inf|nan).*the initial parameters, whose J is"
    ):
        net.fit(X[:64], counts, epochs=1, batch_size=None, optimizer="sgd", learning_rate=20.0, progress=False)
    assert net.loss(X[:64], counts) == before


def test_lbfgs_without_a_line_search_leaves_its_best() -> None:
    features, labels = load_wine(return_X_y=True)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    net = network(13, 30, 3, activation="tanh", loss="cross_entropy", weight_decay=1e-4, dtype="float64")
    losses = [net.loss(features, labels)]
    history = net.fit(
        features, labels, epochs=10, optimizer=nnbp.LBFGS(line_search=None), learning_rate=2.0, progress=False,
        callbacks=[lambda state: losses.append(state.network.loss(features, labels))],
    )  # fmt: skip
    assert max(losses) > 1e3 * losses[0], "it is the case that goes wrong"
    assert net.loss(features, labels) <= (1 + 1e-5) * min(*losses, *history["loss"])


def test_lbfgs_by_its_name_trains_wine() -> None:
    features, labels = load_wine(return_X_y=True)
    net = network(13, 30, 3, loss="cross_entropy", weight_decay=1e-4, seed=2)
    net.fit(features, labels, epochs=10, optimizer="lbfgs", progress=False)
    assert net.evaluate(features, labels)["accuracy"] > 0.95


# Callbacks and ends.


class Moving(nnbp.Callback):
    def on_train_begin(self, state: Any) -> None:
        state.network.to("cpu")


def test_a_network_is_not_moved_while_it_is_trained() -> None:
    net = network(5, 8, 1)
    with pytest.raises(NnbpError, match="stays on its device"):
        net.fit(X, X[:, 0], progress=False, callbacks=[Moving()])
    assert net.history is None, "training has not begun"
    with pytest.raises(NnbpError, match=r"stays on its device .*received a call of to\(\) .*net\.copy"):
        net.fit(X, X[:, 0], epochs=3, progress=False, callbacks=[lambda state: state.network.to("cpu")])
    assert net.history is not None
    assert net.history.epochs == 1
    net.to("cpu")

    def train_and_move(state: Any) -> None:
        state.network.fit(X, X[:, 0], epochs=1, progress=False)
        state.network.to("cpu")

    with pytest.raises(NnbpError, match="stays on its device"):
        net.fit(X, X[:, 0], epochs=3, progress=False, callbacks=[train_and_move])
    net.fit(X, X[:, 0], epochs=1, progress=False, callbacks=[lambda state: state.network.copy().to("cpu")])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError, None])
def test_the_history_survives_every_end(error: type[BaseException] | None) -> None:
    net = network(5, 8, 1)
    assert net.history is None

    def end(state: Any) -> None:
        if state.epoch == 3 and error is not None:
            raise error

    with nullcontext() if error is None else pytest.raises(error):
        returned = net.fit(X, X[:, 0], epochs=5, progress=False, callbacks=[end])
        assert net.history is returned
    assert net.history is not None
    assert net.history.epochs == (5 if error is None else 3)
    assert net.copy().history == net.history


@pytest.mark.parametrize("weights", [{7: 100.0}, {-1: 9.0}, {0: 1.0, 3: 2.0}, {0.5: 1.0}])
def test_keys_of_class_weight_are_classes(weights: dict[Any, float]) -> None:
    labels = RNG.integers(0, 3, 500)
    net = network(5, 8, 3, loss="cross_entropy")
    with pytest.raises(nnbp.DataError, match=r"keys of class_weight are class indices, whole numbers from 0 to 2 here"):
        net.fit(X, labels, class_weight=weights, progress=False)
    net = network(5, 8, 1, loss="binary_cross_entropy")
    with pytest.raises(nnbp.DataError, match="from 0 to 1 here; received 2"):
        net.fit(X, labels > 0, class_weight={2: 1.0}, progress=False)
