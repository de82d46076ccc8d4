"""The passes: h, J, gradients and traces, in one piece and in several, with cached executors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnbp.backends.cpu.backend import NumpyBackend

from nnbp import Dense, Dropout
from nnbp.engine.dataset import Dataset
from nnbp.engine.model import Model
from nnbp.engine.passes import PIECE, Passes, pieces
from nnbp.nn.layers import Layer
from nnbp.nn.losses import CrossEntropy, SquaredError


def passes(*layers: Layer, **options: Any) -> Passes:
    options = {"n_in": 3, "weight_decay": 0.0, "dtype": "float64", "seed": 0, **options}
    loss = options.pop("loss", SquaredError())
    layers = layers or (Dense(4, "tanh"), Dense(2, "identity"))
    return Passes(Model(NumpyBackend(), layers, loss, **options))


def data(m: int, n_out: int = 2) -> tuple[Any, Any]:
    rng = np.random.default_rng(m)
    return rng.normal(size=(m, 3)), rng.normal(size=(m, n_out))


def forward(made: Passes, X: Any) -> Any:
    parts = list(made.outputs(X))
    assert [first for first, _, _ in parts] == [rows.start for rows in pieces(len(X), made.piece)]
    return np.concatenate([h for _, h, _ in parts])


def costs(made: Passes, X: Any, y: Any) -> Any:
    """C of each sample: J of that sample alone, without the decay."""
    return np.array([made.loss(Dataset(X[n : n + 1], y[n : n + 1])) for n in range(len(X))]) - made.model.decay()


@given(st.integers(1, 50), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_pieces_cut_everything_once(samples: int, size: int) -> None:
    cut = list(pieces(samples, size))
    rows = [k for part in cut for k in range(samples)[part]]
    assert rows == list(range(samples))
    assert all(part.stop - part.start == size for part in cut[:-1])


def test_a_piece_is_as_large_as_its_layers_allow() -> None:
    assert passes(Dense(5, "relu"), Dense(2, "identity")).piece == PIECE // (3 + 5 + 2)
    assert passes(Dense(PIECE, "relu"), Dense(2, "identity")).piece == 1


@pytest.mark.parametrize("m", [1, 63, 64, 65, 2 * 64 + 17])
def test_large_inputs_go_through_in_pieces(m: int) -> None:
    made = passes()
    made.piece = 64
    X, y = data(m)
    (W1, W2), (b1, b2) = ([v[name] for v in made.model.parameters.views(made.model.parameters.theta)] for name in "Wb")
    h = np.tanh(X @ W1.T + b1) @ W2.T + b2
    np.testing.assert_allclose(forward(made, X), h, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(costs(made, X, y), 0.5 * ((h - y) ** 2).sum(axis=1), rtol=1e-11)


def test_a_few_executors_are_kept_and_their_results_do_not_leak() -> None:
    made = passes()
    outputs = [forward(made, data(m)[0]) for m in (1, 2, 3, 4, 5, 6, 3)]
    assert len(made._executors) == 4
    kept = outputs[2].copy()
    forward(made, np.zeros((3, 3)))
    np.testing.assert_array_equal(outputs[2], kept)
    np.testing.assert_array_equal(outputs[2], outputs[6])


def test_executors_that_are_kept_are_small_together() -> None:
    made = passes()
    made.piece = 10
    for m in (10, 9, 3, 8):
        forward(made, data(m)[0])
    assert [kind.samples for kind in made._executors] == [9, 3, 8]


def test_gradients_leave_nothing_shared() -> None:
    """Results belong to the caller: the next call does not change them, and they share no memory with buffers."""
    made = passes()
    X, y = data(6)
    first = made.gradients(Dataset(X, y))
    kept = [first.flat.copy(), first.dX.copy(), *(d.copy() for d in first.delta)]
    made.gradients(Dataset(X + 1, y))
    for now, then in zip([first.flat, first.dX, *first.delta], kept, strict=True):
        np.testing.assert_array_equal(now, then)
    assert not np.shares_memory(first.flat, made.model.parameters.gradient)
    trace = made.trace(X)
    results = [
        first.flat,
        first.dX,
        *first.delta,
        *trace.z[1:],
        *trace.a,
        forward(made, X),
        made.per_sample_gradients(Dataset(X, y)),
    ]
    assert all(result.flags.c_contiguous and result.flags.writeable for result in results)


@given(st.integers(1, 20), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_weighted_gradient_is_the_weighted_mean_of_samples(m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = passes(weight_decay=0.2)
    X, y, w = rng.normal(size=(m, 3)), rng.normal(size=(m, 2)), rng.uniform(0.1, 3, (m, 1))
    rows = made.per_sample_gradients(Dataset(X, y))
    found = made.gradients(Dataset(X, y, w, weights=w[:, 0]))
    expected = np.average(rows, axis=0, weights=w[:, 0])
    expected[: made.model.parameters.decayed] += 0.2 * made.model.parameters.theta[: made.model.parameters.decayed]
    np.testing.assert_allclose(found.flat, expected, rtol=1e-9, atol=1e-12)
    # delta and dX are per sample, so the weights do not affect them.
    bare = made.gradients(Dataset(X, y))
    np.testing.assert_array_equal(found.dX, bare.dX)
    np.testing.assert_allclose(found.loss, np.average(costs(made, X, y), weights=w[:, 0]) + made.model.decay())


def test_dX_by_central_differences() -> None:
    made = passes(Dense(4, "tanh"), Dense(2, "softmax"), loss=CrossEntropy())
    X, y = data(4)[0], np.array([[0.0], [1.0], [1.0], [0.0]])
    dX = made.gradients(Dataset(X, y)).dX
    for n, j in np.ndindex(4, 3):
        step = np.zeros_like(X)
        step[n, j] = 1e-6
        numeric = (costs(made, X + step, y) - costs(made, X - step, y))[n] / 2e-6
        assert dX[n, j] == pytest.approx(numeric, abs=1e-8)


def test_trace_skips_what_is_not_dense() -> None:
    made = passes(Dropout(0.5), Dense(4, "tanh"), Dropout(0.5), Dense(2, "identity"))
    X = data(5)[0]
    trace = made.trace(X)
    assert [z.shape for z in trace.z[1:]] == [(5, 4), (5, 2)]
    assert [a.shape for a in trace.a] == [(5, 3), (5, 4), (5, 2)]
    np.testing.assert_array_equal(trace.a[1], np.tanh(trace.z[1]))
    assert not np.shares_memory(trace.a[0], X)


def test_inference_does_not_drop() -> None:
    layers = (Dense(4, "tanh"), Dropout(0.9), Dense(2, "identity"))
    made = passes(*layers)
    bare = passes(layers[0], layers[2])
    bare.model.parameters.theta[...] = made.model.parameters.theta
    X, y = data(5)
    np.testing.assert_array_equal(forward(made, X), forward(bare, X))
    np.testing.assert_array_equal(made.gradients(Dataset(X, y)).flat, bare.gradients(Dataset(X, y)).flat)
    np.testing.assert_array_equal(costs(made, X, y), costs(bare, X, y))


@pytest.mark.parametrize("weighted", [False, True])
def test_executors_that_are_kept_compute_as_new_ones_do(weighted: bool) -> None:
    """Whatever ran before, a cached executor starts with the original shares of the samples."""
    kept = passes(weight_decay=0.1)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        X, y, w = rng.normal(size=(6, 3)), rng.normal(size=(6, 2)), rng.uniform(1, 3, 6)
        one = Dataset(X, y, w[:, None], weights=w) if weighted else Dataset(X, y)
        new = passes(weight_decay=0.1)
        found, expected = kept.gradients(one), new.gradients(one)
        for name in ("loss", "flat", "dX"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        for mine, other in zip(found.delta, expected.delta, strict=True):
            np.testing.assert_array_equal(mine, other)
        assert kept.loss(one) == new.loss(one) == pytest.approx(found.loss, rel=1e-12)
        np.testing.assert_array_equal(kept.per_sample_gradients(one), new.per_sample_gradients(one))


def test_J_is_the_same_in_pieces() -> None:
    made, whole = passes(weight_decay=0.1), passes(weight_decay=0.1)
    made.piece = 7
    X, y = data(30)
    w = np.random.default_rng(0).uniform(0.5, 2, 30)
    for one in (Dataset(X, y), Dataset(X, y, w[:, None], weights=w)):
        assert made.loss(one) == pytest.approx(whole.loss(one), rel=1e-13)
    h = forward(whole, X)
    expected = np.average(0.5 * ((h - y) ** 2).sum(axis=1), weights=w) + whole.model.decay()
    assert made.loss(Dataset(X, y, w[:, None], weights=w)) == pytest.approx(expected, rel=1e-13)
