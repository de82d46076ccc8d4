"""Epochs: batches in their order, the sum of the costs, clipping, and the optimizer's rates step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnbp.backends.cpu.backend import NumpyBackend
from numpy.typing import NDArray

from nnbp import SGD, Adam, Dense
from nnbp.engine.dataset import Dataset
from nnbp.engine.epoch import Epoch
from nnbp.engine.model import Model
from nnbp.engine.passes import Passes
from nnbp.engine.updater import OptimizerState, Updater
from nnbp.nn.layers import Dropout
from nnbp.nn.losses import SquaredError


def linear(seed: int = 0, decay: float = 0.0) -> Model:
    """h = W x + b with one output, in float64."""
    return Model(
        NumpyBackend(), [Dense(1, "identity")], SquaredError(), n_in=3, weight_decay=decay, dtype="float64", seed=seed
    )


def data(m: int, weighted: bool = False, seed: int = 1) -> Dataset:
    rng = np.random.default_rng(seed)
    w = rng.uniform(0, 2, (m, 1)) if weighted else None
    return Dataset(rng.normal(size=(m, 3)), rng.normal(size=(m, 1)), w)


def gradient_of(theta: NDArray[Any], X: Any, y: Any, w: Any, decay: float) -> NDArray[Any]:
    """∇J of the linear model, by hand."""
    share = np.full(len(X), 1 / len(X)) if w is None else w[:, 0] / w.sum()
    r = (X @ theta[:3] + theta[3] - y[:, 0]) * share
    return np.append(X.T @ r + decay * theta[:3], r.sum())


def cost_of(model: Model, rows: Dataset) -> NDArray[Any]:
    """C of every sample, from the outputs: ½‖h − y‖²."""
    h = np.concatenate([part for _, part, _ in Passes(model).outputs(rows.X)])
    return 0.5 * ((h - rows.y) ** 2).sum(axis=1)


@given(st.integers(1, 40), st.integers(1, 45), st.booleans())
@settings(max_examples=40, deadline=None)
def test_total_is_the_weighted_sum_of_costs(m: int, batch: int, weighted: bool) -> None:
    model, rows = linear(), data(m, weighted)
    epoch = Epoch(model, rows, batch)
    epoch.run()
    costs = cost_of(model, rows)
    w = np.ones(m) if rows.w is None else rows.w[:, 0]
    assert epoch.total == pytest.approx(float(w @ costs), rel=1e-10)
    assert epoch.steps == -(-m // min(batch, m))
    epoch.run()
    assert epoch.total == pytest.approx(float(w @ costs), rel=1e-10)


@given(
    st.integers(1, 17), st.integers(1, 20), st.booleans(), st.sampled_from([0.0, 0.3]), st.sampled_from([None, 0.05])
)
@settings(max_examples=40, deadline=None)
def test_training_equals_a_loop_by_hand(m: int, batch: int, weighted: bool, decay: float, clip: float | None) -> None:
    """Every step, the smaller last batch too: θ ← θ − η ∇J, the gradient clipped as PyTorch clips it."""
    model, rows = linear(decay=decay), data(m, weighted)
    theta = model.parameters.theta.copy()
    size = min(batch, m)
    steps = -(-m // size)
    updater = Updater(model, SGD(), steps, clip, OptimizerState())
    epoch = Epoch(model, rows, batch, training=True, update=updater)
    etas = np.linspace(0.1, 0.2, steps)
    for _ in range(2):
        updater.begin(etas)
        epoch.run()
        for k in range(steps):
            part = slice(k * size, min((k + 1) * size, m))
            w = None if rows.w is None else rows.w[part]
            g = gradient_of(theta, rows.X[part], rows.y[part], w, decay)
            if clip is not None:
                g *= min(1.0, clip / (np.linalg.norm(g) + 1e-6))
            theta = theta - etas[k] * g
    np.testing.assert_allclose(model.parameters.theta, theta, rtol=1e-11, atol=1e-13)


def test_clipping_equals_pytorch() -> None:
    torch = pytest.importorskip("torch")
    model, rows = linear(), data(8)
    theta = model.parameters.theta.copy()
    updater = Updater(model, SGD(), 1, 0.01, OptimizerState())
    updater.begin(np.ones(1))
    Epoch(model, rows, 8, training=True, update=updater).run()
    peer = torch.tensor(theta, requires_grad=True)
    peer.grad = torch.tensor(gradient_of(theta, rows.X, rows.y, None, 0.0))
    torch.nn.utils.clip_grad_norm_([peer], 0.01)
    np.testing.assert_allclose(model.parameters.theta, theta - peer.grad.numpy(), rtol=1e-12)
    assert np.linalg.norm(model.parameters.theta - theta) == pytest.approx(0.01, rel=1e-3)


def test_small_gradients_are_not_clipped() -> None:
    results = []
    for clip in (None, 1e6):
        model = linear()
        updater = Updater(model, SGD(), 1, clip, OptimizerState())
        updater.begin(np.ones(1))
        Epoch(model, data(8), 8, training=True, update=updater).run()
        results.append(model.parameters.theta.copy())
    np.testing.assert_array_equal(*results)


def test_shuffle_is_the_permutation_of_the_generator() -> None:
    model = linear()
    epoch = Epoch(model, data(10), 3)
    assert np.array_equal(epoch.order, np.arange(10))
    epoch.shuffle(np.random.default_rng(5))
    np.testing.assert_array_equal(epoch.order, np.random.default_rng(5).permutation(10))


def test_shuffled_batches_are_the_rows_of_the_order() -> None:
    rows, order = data(7), np.random.default_rng(3).permutation(7)
    shuffled = Dataset(rows.X[order], rows.y[order])
    found = []
    for source, shuffle in ((rows, True), (shuffled, False)):
        model = linear()
        updater = Updater(model, SGD(), 3, None, OptimizerState())
        epoch = Epoch(model, source, 3, training=True, update=updater)
        if shuffle:
            epoch.shuffle(np.random.default_rng(3))
        updater.begin(np.full(3, 0.1))
        epoch.run()
        found.append(model.parameters.theta.copy())
    np.testing.assert_array_equal(*found)


def test_whole_data_set_is_neither_copied_nor_shuffled() -> None:
    model, rows = linear(), data(6)
    epoch = Epoch(model, rows, 100)
    generator = np.random.default_rng(0)
    epoch.shuffle(generator)
    assert (epoch.whole, epoch.steps) == (True, 1)
    assert np.array_equal(epoch.order, np.arange(6))
    assert generator.random() == np.random.default_rng(0).random()


def test_data_are_only_read() -> None:
    rows = data(7, weighted=True)
    for array in (rows.X, rows.y, rows.w):
        array.flags.writeable = False
    for batch in (3, 7):
        model = linear(decay=0.1)
        updater = Updater(model, Adam(), -(-7 // batch), 1.0, OptimizerState())
        updater.begin(np.full(-(-7 // batch), 0.1))
        Epoch(model, rows, batch, training=True, update=updater).run()
        assert np.isfinite(model.parameters.theta).all()


def test_optimizer_state_goes_on() -> None:
    """Two epochs through one updater equal two updaters that share their state: slots and step number."""
    rows = data(9)
    model, state = linear(), OptimizerState()
    for _ in range(2):
        updater = Updater(model, Adam(), 3, None, state)
        updater.begin(np.full(3, 0.01))
        Epoch(model, rows, 3, training=True, update=updater).run()
    assert state.steps == 6
    # The second epoch's rates are those of the steps 4, 5 and 6.
    wanted = Adam().rates(np.array([4.0, 5.0, 6.0]), np.full(3, 0.01))["step"]
    np.testing.assert_allclose(updater.table[:, updater.names.index("step")], wanted, rtol=1e-14)
    assert set(state.slots) == {"m", "v"}
    once = linear()
    updater = Updater(once, Adam(), 3, None, OptimizerState())
    epoch = Epoch(once, rows, 3, training=True, update=updater)
    for _ in range(2):
        updater.begin(np.full(3, 0.01))
        epoch.run()
    np.testing.assert_array_equal(model.parameters.theta, once.parameters.theta)


def test_validation_epochs_do_not_drop_and_do_not_learn() -> None:
    model = Model(
        NumpyBackend(), [Dense(4, "tanh"), Dropout(0.9), Dense(1, "identity")], SquaredError(), n_in=3,
        weight_decay=0.0, dtype="float64", seed=0,
    )  # fmt: skip
    theta, rows = model.parameters.theta.copy(), data(11)
    epoch = Epoch(model, rows, 4)
    epoch.run()
    assert epoch.total == pytest.approx(cost_of(model, rows).sum(), rel=1e-12)
    np.testing.assert_array_equal(model.parameters.theta, theta)


def test_length_of_data() -> None:
    assert len(data(7)) == 7
