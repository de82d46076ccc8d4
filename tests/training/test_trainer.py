"""Training: what an epoch does and what history says of it, validation, schedules, weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from training_cases import data, fit, network

from nnbp import LBFGS, SGD, DataError, Network, Optimizer
from nnbp.training.callbacks import TrainingState

FIRST_ORDER = sorted(name for name, rule in Optimizer.registry.items() if not rule.searches)


class ByHand:
    """The network 3-4-2 with tanh and squared error, gradient descent on batches: plain NumPy."""

    def __init__(self, net: Network, decay: float) -> None:
        (self.W1, self.W2), (self.b1, self.b2) = ([a.copy() for a in p] for p in (net.weights, net.biases))
        self.decay = decay

    def step(self, X: Any, y: Any, w: Any, eta: float) -> float:
        """Σ wC of the batch, before the step."""
        share = (w / w.sum())[:, None]
        a1 = np.tanh(X @ self.W1.T + self.b1)
        h = a1 @ self.W2.T + self.b2
        total = float(np.sum(w * 0.5 * ((h - y) ** 2).sum(axis=1)))
        delta2 = (h - y) * share
        delta1 = (1 - a1**2) * (delta2 @ self.W2)
        for W, b, delta, x in ((self.W1, self.b1, delta1, X), (self.W2, self.b2, delta2, a1)):
            W -= eta * (delta.T @ x + self.decay * W)
            b -= eta * delta.sum(axis=0)
        return total

    def penalty(self) -> float:
        return 0.5 * self.decay * float((self.W1**2).sum() + (self.W2**2).sum())

    @property
    def flat(self) -> NDArray[Any]:
        return np.concatenate([self.W1.ravel(), self.W2.ravel(), self.b1, self.b2])


@pytest.mark.filterwarnings("ignore::nnbp.ConvergenceWarning")
@given(
    m=st.integers(1, 23),
    batch=st.one_of(st.none(), st.integers(1, 30)),
    decay=st.sampled_from([0.0, 0.1]),
    weighted=st.booleans(),
    shuffle=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_fit_equals_a_loop_in_numpy(m: int, batch: int | None, decay: float, weighted: bool, shuffle: bool) -> None:
    """Every epoch's parameters and loss, with a smaller last batch, one sample, or a batch larger than the data."""
    net = network(weight_decay=decay)
    X, y = data(m)
    w = np.random.default_rng(5).uniform(0.1, 2, m) if weighted else np.ones(m)
    hand, generator = ByHand(net, decay), copy.deepcopy(net.model.order_generator)
    size = m if batch is None else min(batch, m)
    thetas: list[NDArray[Any]] = []
    history = fit(
        net, X, y, batch_size=batch, optimizer=SGD(0.1), shuffle=shuffle,
        sample_weight=w if weighted else None, callbacks=[lambda s: thetas.append(s.network.parameters.copy())],
    )  # fmt: skip
    for epoch in range(3):
        order = generator.permutation(m) if shuffle and size < m else np.arange(m)
        loss, total = hand.penalty(), 0.0
        for start in range(0, m, size):
            rows = order[start : start + size]
            total += hand.step(X[rows], y[rows], w[rows], 0.1)
        np.testing.assert_allclose(thetas[epoch], hand.flat, rtol=1e-10, atol=1e-12)
        assert history["loss"][epoch] == pytest.approx(loss + total / w.sum(), rel=1e-10)


def test_loss_of_batch_descent_is_J_before_the_update() -> None:
    net = network(weight_decay=0.1)
    X, y = data(12)
    seen = [net.loss(X, y)]
    history = fit(net, X, y, batch_size=None, optimizer="sgd", callbacks=[lambda s: seen.append(s.network.loss(X, y))])
    np.testing.assert_allclose(history["loss"], seen[:3], rtol=1e-13)


def test_val_loss_and_metrics_are_taken_after_the_epoch() -> None:
    net = network(weight_decay=0.1)
    X, y = data(12)
    V, v = data(5, seed=9)
    seen: list[tuple[float, ...]] = []

    def note(state: TrainingState) -> None:
        here = state.network
        maes = (float(np.abs(here.forward(A) - b).mean()) for A, b in ((X, y), (V, v)))
        seen.append((here.loss(V, v), *maes))

    history = fit(net, X, y, validation_data=(V, v), metrics=["mae"], callbacks=[note])
    found = zip(history["val_loss"], history["mae"], history["val_mae"], strict=True)
    np.testing.assert_allclose(list(found), seen, rtol=1e-12)


def test_validation_weights() -> None:
    net = network()
    (X, y), (V, v), w = data(12), data(5, seed=9), np.array([0.0, 1.0, 2.0, 0.5, 3.0])
    seen: list[float] = []
    history = fit(
        net, X, y, validation_data=(V, v, w), callbacks=[lambda s: seen.append(s.network.loss(V, v, sample_weight=w))]
    )
    np.testing.assert_allclose(history["val_loss"], seen, rtol=1e-12)


@pytest.mark.parametrize("early", [None, 3])
def test_best_weights_by_validation_are_restored(early: int | None) -> None:
    net = network(2, 30, 1)
    X, y = data(12, 2, 1)
    V, v = data(12, 2, 1, seed=4)
    thetas: list[NDArray[Any]] = []
    history = fit(
        net, X, y, epochs=60, validation_data=(V, v), learning_rate=0.05, early_stopping=early,
        callbacks=[lambda s: thetas.append(s.network.parameters.copy())],
    )  # fmt: skip
    best = int(np.argmin(history["val_loss"]))
    assert best < history.epochs - 1
    assert history.best_epoch == best + 1
    np.testing.assert_array_equal(net.parameters, thetas[best])
    assert net.loss(V, v) == pytest.approx(min(history["val_loss"]), rel=1e-12)
    if early:
        assert history.epochs == best + 1 + early


def test_without_validation_the_last_weights_stay() -> None:
    net = network()
    last: list[NDArray[Any]] = []
    history = fit(net, *data(12), callbacks=[lambda s: last.append(s.network.parameters.copy())])
    assert history.best_epoch is None
    np.testing.assert_array_equal(net.parameters, last[-1])


# Schedules and optimizers.


@pytest.mark.parametrize("schedule", ["step", "exponential", "cosine", "inverse_scaling", "warm_up"])
def test_schedule_reaches_the_update(schedule: str) -> None:
    """θ moves by η_k ∇J with the rate of the schedule, epoch for epoch."""
    net = network()
    X, y = data(12)
    before, rates = [net.parameters.copy()], []
    slopes = [net.gradients(X, y).flat]

    def note(state: TrainingState) -> None:
        before.append(state.network.parameters.copy())
        slopes.append(state.network.gradients(X, y).flat)
        rates.append(state.learning_rate)

    fit(net, X, y, epochs=8, batch_size=None, optimizer="sgd", learning_rate=0.1, schedule=schedule, callbacks=[note])
    assert len(set(rates)) > 1
    assert max(rates) <= 0.1
    for k, rate in enumerate(rates):
        np.testing.assert_allclose(before[k + 1], before[k] - rate * slopes[k], rtol=1e-12, atol=1e-14)


def test_schedule_moves_within_an_epoch() -> None:
    """Four steps of an epoch have four rates: a function of the epoch is asked at 0, ¼, ½, ¾."""
    asked: list[float] = []

    def schedule(epoch: float) -> float:
        asked.append(epoch)
        return 0.0 if epoch >= 1 else 1.0

    net, X, y = network(), *data(12)
    thetas: list[NDArray[Any]] = []
    fit(
        net, X, y, epochs=3, batch_size=3, schedule=schedule,
        callbacks=[lambda s: thetas.append(s.network.parameters.copy())],
    )  # fmt: skip
    assert {0.0, 0.25, 0.5, 0.75} <= set(asked)
    np.testing.assert_array_equal(thetas[0], thetas[2])


def test_reduce_on_plateau_sees_the_loss() -> None:
    rates: list[float] = []
    fit(
        network(), *data(12), epochs=40, optimizer="sgd", learning_rate=1e-6, schedule="reduce_on_plateau",
        callbacks=[lambda s: rates.append(s.learning_rate)],
    )  # fmt: skip
    assert rates[0] == 1e-6
    assert rates[-1] < rates[0]


@pytest.mark.parametrize("optimizer", FIRST_ORDER)
def test_learning_rate_0_changes_nothing_but_with_rprop(optimizer: str) -> None:
    net = network()
    before = net.parameters.copy()
    fit(net, *data(12), optimizer=optimizer, learning_rate=0.0)
    changed = not np.array_equal(net.parameters, before)
    # Rprop's smallest step size is 1e-6.
    assert changed == (optimizer == "rprop")


def test_optimizer_object_is_not_changed() -> None:
    rule = SGD(0.5)
    fit(network(), *data(12), optimizer=rule, learning_rate=0.1)
    assert rule.learning_rate == 0.5


@pytest.mark.parametrize("optimizer", ["rprop", "lbfgs"])
def test_full_batch_optimizers_take_the_whole_batch(optimizer: str) -> None:
    X, y = data(20)
    one, other = network(), network()
    fit(one, X, y, optimizer=optimizer, batch_size=3)
    fit(other, X, y, optimizer=optimizer, batch_size=None)
    np.testing.assert_array_equal(one.parameters, other.parameters)


def test_lbfgs_finds_least_squares() -> None:
    X, y = data(40, 3, 1)
    net = network(3, 1)
    fit(net, X, y, epochs=20, optimizer=LBFGS(tolerance_change=0, line_search="strong_wolfe"))
    solution, *_ = np.linalg.lstsq(np.column_stack([X, np.ones(40)]), y[:, 0], rcond=None)
    np.testing.assert_allclose([*net.weights[0][0], net.biases[0][0]], solution, atol=1e-7)


# Weights.


def test_class_weights_are_sample_weights() -> None:
    X, _ = data(30)
    y = np.random.default_rng(0).integers(0, 2, 30)
    by_class, by_sample, both = (network(loss="cross_entropy") for _ in range(3))
    w = np.where(y == 1, 2.5, 0.5)
    fit(by_class, X, y, class_weight={0: 0.5, 1: 2.5})
    fit(by_sample, X, y, sample_weight=w)
    np.testing.assert_array_equal(by_class.parameters, by_sample.parameters)
    fit(both, X, y, class_weight={1: 5.0}, sample_weight=np.full(30, 0.5))
    np.testing.assert_array_equal(both.parameters, by_sample.parameters)


def test_balanced_class_weights_reach_validation_too() -> None:
    X, _ = data(30)
    y = (np.arange(30) % 3 == 0).astype(int)
    V, v = X[:7], y[:7]
    net, twin = network(loss="cross_entropy"), network(loss="cross_entropy")
    w = np.where(y == 1, 30 / (2 * 10), 30 / (2 * 20))
    first = fit(net, X, y, class_weight="balanced", validation_data=(V, v))
    second = fit(twin, X, y, sample_weight=w, validation_data=(V, v, w[:7]))
    assert first["loss"] == second["loss"]
    assert first["val_loss"] == second["val_loss"]


def test_class_weights_of_one_hot_targets() -> None:
    X, _ = data(30)
    y = np.random.default_rng(0).integers(0, 2, 30)
    one, other = network(loss="cross_entropy"), network(loss="cross_entropy")
    fit(one, X, y, class_weight={1: 3.0})
    fit(other, X, np.eye(2)[y], class_weight={1: 3.0})
    np.testing.assert_array_equal(one.parameters, other.parameters)


def test_sample_of_weight_0_counts_as_absent() -> None:
    X, y = data(11)
    w = np.ones(11)
    w[10] = 0
    one, other = network(), network()
    first = fit(one, X, y, sample_weight=w, batch_size=None)
    second = fit(other, X[:10], y[:10], batch_size=None)
    np.testing.assert_allclose(one.parameters, other.parameters, rtol=1e-12)
    np.testing.assert_allclose(first["loss"], second["loss"], rtol=1e-12)


def test_class_weights_that_leave_nothing() -> None:
    X, _ = data(6)
    y = np.array([0, 1] * 3)
    net = network(loss="cross_entropy")
    with pytest.raises(DataError, match="not all 0"):
        fit(net, X, y, class_weight={0: 0.0, 1: 0.0})
    with pytest.raises(DataError, match="not all 0"):
        fit(net, X, y, class_weight={0: 0.0}, sample_weight=np.where(y == 1, 0.0, 1.0))


def test_batch_larger_than_the_data_is_the_whole_batch() -> None:
    X, y = data(10)
    one, other = network(), network()
    assert fit(one, X, y, batch_size=1000)["loss"] == fit(other, X, y, batch_size=None)["loss"]
    np.testing.assert_array_equal(one.parameters, other.parameters)


def test_one_sample() -> None:
    net = network()
    X, y = data(1)
    history = fit(net, X, y, epochs=200, learning_rate=0.05)
    assert history["loss"][-1] < 1e-4 * history["loss"][0]


def test_fit_learns_a_function() -> None:
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (200, 1))
    net = Network([1, 20, 1], activation="tanh", device="cpu", seed=0)
    history = fit(net, X, np.sin(2 * X[:, 0]), epochs=200, learning_rate=0.02)
    assert history["loss"][-1] < 1e-3
    assert math.isclose(float(net.predict([[0.5]])[0]), math.sin(1.0), abs_tol=0.05)
