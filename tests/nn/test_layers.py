"""Layers: what a Dense and a Dropout layer compute and pass back, their arguments, and their plain JSON form."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnbp.backends.cpu.backend import NumpyBackend
from numpy.typing import NDArray

from nnbp import Dense, Dropout, LeakyReLU, Network, Tanh
from nnbp.graph.builder import Builder
from nnbp.nn.layers import DenseNode, IdentityNode, Layer, named
from nnbp.nn.losses import Huber


def parameters(rng: np.random.Generator, n_out: int, n_in: int) -> dict[str, NDArray[Any]]:
    return {"W": rng.normal(size=(n_out, n_in)), "b": rng.normal(size=n_out)}


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 30), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_dense_forward_and_backward(n_in: int, n_out: int, m: int, keep_z: bool, seed: int) -> None:
    """z = W x + b, a = f(z); delta = f'(z) da, dW = delta xᵀ, db = Σ delta, dx = Wᵀ delta."""
    rng = np.random.default_rng(seed)
    theta, gradient = parameters(rng, n_out, n_in), parameters(rng, n_out, n_in)
    x, da = rng.normal(size=(n_in, m)), rng.normal(size=(n_out, m))
    op = Builder(NumpyBackend(), np.float64, m, training=True)
    node = Dense(n_out, "tanh").connect(op, x, theta, gradient, None, keep_z=keep_z)
    assert isinstance(node, DenseNode)
    dx = node.backward(op, da.copy(), want_dx=True)
    op.backend.compile(op.operations)()
    z = theta["W"] @ x + theta["b"][:, None]
    delta = (1 - np.tanh(z) ** 2) * da
    np.testing.assert_allclose(node.a, np.tanh(z), rtol=1e-13)
    np.testing.assert_allclose(node.delta, delta, atol=1e-13)
    np.testing.assert_allclose(gradient["W"], delta @ x.T, atol=1e-12)
    np.testing.assert_allclose(gradient["b"], delta.sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(dx, theta["W"].T @ delta, atol=1e-12)
    assert (node.z is node.a) != keep_z
    if keep_z:
        np.testing.assert_allclose(node.z, z, rtol=1e-13)


def test_dense_leaves_dx_out_where_nobody_wants_it() -> None:
    rng = np.random.default_rng(0)
    op = Builder(NumpyBackend(), np.float64, 3, training=True)
    theta, gradient = parameters(rng, 2, 4), parameters(rng, 2, 4)
    node = Dense(2, "tanh").connect(op, rng.normal(size=(4, 3)), theta, gradient, None, keep_z=False)
    buffers = len(op.buffers)
    assert node.backward(op, np.ones((2, 3)), want_dx=False) is None
    assert len(op.buffers) == buffers


def test_activation_that_reads_z_keeps_it() -> None:
    rng = np.random.default_rng(0)
    op = Builder(NumpyBackend(), np.float64, 3, training=True)
    node = Dense(2, "silu").connect(
        op, np.ones((4, 3)), parameters(rng, 2, 4), parameters(rng, 2, 4), None, keep_z=False
    )
    assert isinstance(node, DenseNode)
    assert node.z is not node.a


def test_dense_describes_itself() -> None:
    layer = Dense(3, "tanh")
    assert layer.outputs(7) == 3
    assert [(s.name, s.shape, s.decays) for s in layer.parameters(7)] == [("W", (3, 7), True), ("b", (3,), False)]
    initial = layer.initial(np.random.default_rng(0), 7)
    assert initial["W"].shape == (3, 7)
    assert np.array_equal(initial["b"], np.zeros(3))


def test_initializer_follows_the_activation_unless_given() -> None:
    draws = {
        activation: Dense(400, activation).initial(np.random.default_rng(0), 100)
        for activation in ("tanh", "gelu", "relu", "leaky_relu")
    }
    bounds = {
        "tanh": np.sqrt(6 / 500),
        "gelu": np.sqrt(6 / 100),
        "relu": np.sqrt(12 / 500),
        "leaky_relu": np.sqrt(12 / 500),
    }
    for activation, bound in bounds.items():
        assert np.abs(draws[activation]["W"]).max() == pytest.approx(bound, rel=1e-2)
        assert draws[activation]["b"].any() == activation.endswith("relu")
    for initializer in ("zeros", "he_uniform"):
        named = Dense(4, "relu", initializer=initializer).initial(np.random.default_rng(0), 3)
        assert named["W"].any() == (initializer == "he_uniform")
        assert not named["b"].any()


def test_the_weights_of_other_layers_do_not_depend_on_drawn_biases() -> None:
    """Nor do those of a relu layer, but for their bound."""
    options: dict[str, Any] = {"device": "cpu", "seed": 3, "dtype": "float64"}
    drawn = Network([5, Dense(8, "relu"), Dense(4, "tanh"), Dense(2)], **options)
    plain = Network([5, Dense(8, "relu", initializer="he_uniform"), Dense(4, "tanh"), Dense(2)], **options)
    np.testing.assert_allclose(drawn.weights[0], plain.weights[0] * np.sqrt(5 / 6.5), 1e-12)
    for k in (1, 2):
        np.testing.assert_array_equal(drawn.weights[k], plain.weights[k])
    assert [bool(b.any()) for b in (*drawn.biases, *plain.biases)] == [True, False, False, False, False, False]


def test_relu_networks_learn_a_curve_of_one_input() -> None:
    """With all biases 0 at first, the kinks of all units would begin at x = 0."""
    x = np.linspace(-1.7, 1.7, 400)
    errors = []
    for initializer in (None, "he_uniform"):
        error = 0.0
        for seed in range(3):
            net = Network([1, Dense(32, "relu", initializer=initializer), Dense(1)], device="cpu", seed=seed)
            net.fit(x[:, None], np.sin(4 * x), epochs=60, learning_rate=0.01, progress=False)
            error += np.mean((net.predict(x[:, None]) - np.sin(4 * x)) ** 2)
        errors.append(error)
    assert errors[0] < 0.5 * errors[1], errors


def test_with_activation_fills_only_what_is_open() -> None:
    open_layer, decided = Dense(3, initializer="zeros"), Dense(3, "relu")
    filled = open_layer.with_activation(Tanh())
    assert filled.f == Tanh()
    assert filled.initializer is open_layer.initializer
    assert open_layer.activation is None
    assert decided.with_activation(Tanh()) is decided


# Dropout.


def dropped(rate: float, dtype: Any = np.float64, key: tuple[int, int] = (1, 2), m: int = 5000) -> tuple[Any, Any]:
    """Output for ones, and what comes back of ones."""
    op = Builder(NumpyBackend(), dtype, m, training=True)
    layer = Dropout(rate)
    node = layer.connect(op, np.ones((4, m), dtype), {}, {}, layer.stream(op.backend, key), keep_z=False)
    da = np.ones((4, m), dtype)
    assert node.backward(op, da, want_dx=True) is da
    op.backend.compile(op.operations)()
    return node.a, da


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_zeroes_a_share_and_scales_the_rest(rate: float) -> None:
    a, da = dropped(rate)
    kept = a != 0
    assert 1 - kept.mean() == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / a.size))
    np.testing.assert_allclose(a[kept], 1 / (1 - rate), rtol=1e-6)
    np.testing.assert_array_equal(da, a)


def test_dropout_masks_are_the_same_in_every_dtype_and_differ_by_key() -> None:
    single, double, other = dropped(0.3, np.float32)[0], dropped(0.3)[0], dropped(0.3, key=(1, 3))[0]
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single != 0, double != 0)
    assert not np.array_equal(double, other)


def test_dropout_mask_is_u_at_least_rate() -> None:
    u = np.random.Generator(np.random.Philox(key=np.array([1, 2], np.uint64))).random((4, 5000), np.float32)
    # A rate that was drawn itself: the sample at the bound is kept.
    for rate in (0.25, float(u[0, 0])):
        np.testing.assert_array_equal(dropped(rate)[0] != 0, u >= rate)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_dropout_does_nothing_in_inference_or_at_rate_0(rate: float) -> None:
    op = Builder(NumpyBackend(), np.float64, 3, training=rate == 0.0)
    x = np.ones((2, 3))
    layer = Dropout(rate)
    node = layer.connect(op, x, {}, {}, layer.stream(op.backend, (0, 0)), keep_z=False)
    assert isinstance(node, IdentityNode)
    assert node.a is x
    assert node.backward(op, x, want_dx=True) is x
    assert op.operations == []


def test_dropout_keeps_the_size() -> None:
    assert Dropout(0.2).outputs(7) == 7
    assert Dropout(0.2).parameters(7) == []
    assert Dropout(0.2).initial(np.random.default_rng(0), 7) == {}


@pytest.mark.parametrize("rate", [0.9999999, 1 - 2**-24, 1 - 2**-30, float(np.nextafter(1, 0))])
def test_rate_near_1_stays_below_1(rate: float) -> None:
    assert 0.999 < Dropout(rate).rate < 1
    a, _ = dropped(rate, m=10)
    assert np.isfinite(a).all()


# Arguments.


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Dense(0), "at least 1; received 0"),
        (lambda: Dense(-3), "at least 1; received -3"),
        (lambda: Dense(2.0), r"whole number.*received 2\.0"),  # type: ignore[arg-type]
        (lambda: Dense(True), "received True"),
        (lambda: Dense("tanh"), "received 'tanh'"),  # type: ignore[arg-type]
        (lambda: Dense(3, "tahn"), "did you mean 'tanh'"),
        (lambda: Dense(3, initializer="he"), "received 'he'"),
        (lambda: Dense(None), "whole number, at least 1; received None"),  # type: ignore[arg-type]
        (lambda: Dropout("0.5"), "is a number, at least 0 and below 1; received '0.5'"),  # type: ignore[arg-type]
        (lambda: Dropout(1.0), r"at least 0 and below 1; received 1\.0"),
        (lambda: Dropout(-0.1), r"received -0\.1"),
        (lambda: Dropout(float("nan")), "received nan"),
    ],
)
def test_arguments_out_of_range(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    "layer",
    [
        Dense(3),
        Dense(np.int64(4), "gelu"),  # type: ignore[arg-type]
        Dense(5, LeakyReLU(0.2), initializer="he_normal"),
        Dropout(0.25),
        Dropout(0.1),
    ],
    ids=repr,
)
def test_config_of_a_layer_is_plain_json(layer: Layer) -> None:
    assert json.loads(json.dumps(layer.config())) == layer.config()


def test_named_holds_name_and_arguments() -> None:
    assert named(LeakyReLU(0.2)) == {"name": "leaky_relu", "slope": 0.2}
    assert named(Huber()) == {"name": "huber", "threshold": 1.0}


def test_registry_is_closed() -> None:
    assert {"dense", "dropout"} <= set(Layer.registry)
