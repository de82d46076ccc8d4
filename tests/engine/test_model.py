"""The model: costs, gradients and traces in one piece and in several, and what its seed decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnbp.backends.cpu.backend import NumpyBackend

from nnbp import Dense, Dropout, Network
from nnbp.engine.model import PIECE, Model, pieces
from nnbp.graph.ops import Uniform
from nnbp.nn.layers import Layer
from nnbp.nn.losses import CrossEntropy, SquaredError


def model(*layers: Layer, **options: Any) -> Model:
    options = {"n_in": 3, "weight_decay": 0.0, "dtype": "float64", "seed": 0, **options}
    loss = options.pop("loss", SquaredError())
    return Model(NumpyBackend(), layers or (Dense(4, "tanh"), Dense(2, "identity")), loss, **options)


def data(m: int, n_out: int = 2) -> tuple[Any, Any]:
    rng = np.random.default_rng(m)
    return rng.normal(size=(m, 3)), rng.normal(size=(m, n_out))


def test_sizes_go_through_the_layers() -> None:
    made = model(Dropout(0.1), Dense(5, "relu"), Dropout(0.5), Dense(2, "identity"))
    assert made.sizes == [3, 3, 5, 5, 2]
    assert (made.n_out, made.dense) == (2, [1, 3])
    assert made.parameters.size == 3 * 5 + 5 * 2 + 5 + 2


@given(st.integers(1, 50), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_pieces_cut_everything_once(samples: int, size: int) -> None:
    cut = list(pieces(samples, size))
    rows = [k for part in cut for k in range(samples)[part]]
    assert rows == list(range(samples))
    assert all(part.stop - part.start == size for part in cut[:-1])


def test_a_piece_is_as_large_as_its_layers_allow() -> None:
    assert model(Dense(5, "relu"), Dense(2, "identity")).piece == PIECE // (3 + 5 + 2)
    assert model(Dense(PIECE, "relu"), Dense(2, "identity")).piece == 1


@pytest.mark.parametrize("m", [1, 63, 64, 65, 2 * 64 + 17])
def test_large_inputs_go_through_in_pieces(m: int) -> None:
    made = model()
    made.piece = 64
    X, y = data(m)
    (W1, W2), (b1, b2) = ([v[name] for v in made.parameters.views(made.parameters.theta)] for name in "Wb")
    h = np.tanh(X @ W1.T + b1) @ W2.T + b2
    np.testing.assert_allclose(made.forward(X), h, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(made.costs(X, y), 0.5 * ((h - y) ** 2).sum(axis=1), rtol=1e-11)


def test_a_few_executors_are_kept_and_their_results_do_not_leak() -> None:
    made = model()
    outputs = [made.forward(data(m)[0]) for m in (1, 2, 3, 4, 5, 6, 3)]
    assert len(made._executors) == 4
    kept = outputs[2].copy()
    made.forward(np.zeros((3, 3)))
    np.testing.assert_array_equal(outputs[2], kept)
    np.testing.assert_array_equal(outputs[2], outputs[6])


def test_executors_that_are_kept_are_small_together() -> None:
    made = model()
    made.piece = 10
    for m in (10, 9, 3, 8):
        made.forward(data(m)[0])
    assert list(made._executors) == [9, 3, 8]


def test_decay_and_norm() -> None:
    made = model(weight_decay=0.3)
    views = made.parameters.views(made.parameters.theta)
    for k, view in enumerate(views):
        view["b"][...] = 5.0 + k
    squares = sum((view["W"] ** 2).sum() for view in views)
    assert made.decay() == pytest.approx(0.15 * squares, rel=1e-14)
    assert made.norm() == pytest.approx(np.linalg.norm(made.parameters.theta), rel=1e-14)
    assert model().decay() == 0.0
    made.parameters.theta[-1] = np.nan
    assert np.isnan(made.norm())
    made.parameters.theta[-1] = 1e200
    with made.backend.active():
        assert made.norm() == np.inf


def test_gradients_leave_nothing_shared() -> None:
    """Results are the caller's: the next call does not change them, nor do they share memory with buffers."""
    made = model()
    X, y = data(6)
    first = made.gradients(X, y)
    kept = [first.flat.copy(), first.dX.copy(), *(d.copy() for d in first.delta)]
    made.gradients(X + 1, y)
    for now, then in zip([first.flat, first.dX, *first.delta], kept, strict=True):
        np.testing.assert_array_equal(now, then)
    assert not np.shares_memory(first.flat, made.parameters.gradient)
    trace = made.trace(X)
    results = [first.flat, first.dX, *first.delta, *trace.z, *trace.a, made.forward(X), made.per_sample_gradients(X, y)]
    assert all(result.flags.c_contiguous and result.flags.writeable for result in results)


@given(st.integers(1, 20), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_weighted_gradient_is_the_weighted_mean_of_samples(m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = model(weight_decay=0.2)
    X, y, w = rng.normal(size=(m, 3)), rng.normal(size=(m, 2)), rng.uniform(0.1, 3, (m, 1))
    rows = made.per_sample_gradients(X, y)
    found = made.gradients(X, y, w)
    expected = np.average(rows, axis=0, weights=w[:, 0])
    expected[: made.parameters.decayed] += 0.2 * made.parameters.theta[: made.parameters.decayed]
    np.testing.assert_allclose(found.flat, expected, rtol=1e-9, atol=1e-12)
    # delta and dX belong to samples: weights do not touch them.
    bare = made.gradients(X, y)
    np.testing.assert_array_equal(found.dX, bare.dX)
    np.testing.assert_allclose(found.loss, np.average(made.costs(X, y), weights=w[:, 0]) + made.decay())


def test_dX_by_central_differences() -> None:
    made = model(Dense(4, "tanh"), Dense(2, "softmax"), loss=CrossEntropy())
    X, y = data(4)[0], np.array([[0.0], [1.0], [1.0], [0.0]])
    dX = made.gradients(X, y).dX
    for n, j in np.ndindex(4, 3):
        step = np.zeros_like(X)
        step[n, j] = 1e-6
        numeric = (made.costs(X + step, y) - made.costs(X - step, y))[n] / 2e-6
        assert dX[n, j] == pytest.approx(numeric, abs=1e-8)


def test_trace_skips_what_is_not_dense() -> None:
    made = model(Dropout(0.5), Dense(4, "tanh"), Dropout(0.5), Dense(2, "identity"))
    X = data(5)[0]
    trace = made.trace(X)
    assert [z.shape for z in trace.z] == [(5, 4), (5, 2)]
    assert [a.shape for a in trace.a] == [(5, 3), (5, 4), (5, 2)]
    np.testing.assert_array_equal(trace.a[1], np.tanh(trace.z[0]))
    assert not np.shares_memory(trace.a[0], X)


def test_inference_does_not_drop() -> None:
    layers = (Dense(4, "tanh"), Dropout(0.9), Dense(2, "identity"))
    made = model(*layers)
    bare = model(layers[0], layers[2])
    bare.parameters.theta[...] = made.parameters.theta
    X, y = data(5)
    np.testing.assert_array_equal(made.forward(X), bare.forward(X))
    np.testing.assert_array_equal(made.gradients(X, y).flat, bare.gradients(X, y).flat)
    np.testing.assert_array_equal(made.costs(X, y), bare.costs(X, y))


# The seed.


def test_seed_decides_the_weights() -> None:
    first, same, other = model(seed=3), model(seed=3), model(seed=4)
    np.testing.assert_array_equal(first.parameters.theta, same.parameters.theta)
    assert not np.array_equal(first.parameters.theta, other.parameters.theta)


def test_float32_weights_are_the_rounded_float64_ones() -> None:
    single, double = model(dtype="float32"), model()
    np.testing.assert_array_equal(single.parameters.theta, double.parameters.theta.astype(np.float32))


def test_dropout_layers_have_streams_of_their_own() -> None:
    made = model(Dropout(0.5), Dense(4, "tanh"), Dropout(0.5), Dense(2, "identity"))
    streams = [stream for stream in made.engine.streams if stream is not None]
    assert len(streams) == 2
    drawn = []
    for stream in streams:
        out = np.empty((2, 8), np.float32)
        made.backend.compile([Uniform(stream, out)])()
        drawn.append(out)
    assert not np.array_equal(*drawn)


def test_load_sets_every_array() -> None:
    made = model()
    rng = np.random.default_rng(1)
    values = [
        {"W": rng.normal(size=(4, 3)), "b": rng.normal(size=4)},
        {"W": rng.normal(size=(2, 4)), "b": rng.normal(size=2)},
    ]
    made.load(values)
    for view, given_values in zip(made.parameters.views(made.parameters.theta), values, strict=True):
        np.testing.assert_array_equal(view["W"], given_values["W"])
        np.testing.assert_array_equal(view["b"], given_values["b"])


def test_network_and_model_see_the_same_parameters() -> None:
    net = Network([3, 4, 2], device="cpu", seed=0)
    net.weights[0][...] = 7
    assert (net.model.parameters.theta[:12] == 7).all()
