"""The program of a page computes what nnbp computes: every activation, loss and layer, and those of users."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from program_reader import Reader, decoded

import nnbp
from nnbp import Activation, Dense, Layer, Loss, Network
from nnbp.errors import NnbpError
from nnbp.explorer.explanation import explained
from nnbp.explorer.program import encoded, program_of
from nnbp.graph.formula import PRIMITIVES
from nnbp.graph.ops import Foreign
from nnbp.nn.layers import OneHot
from nnbp.testing import example_problem

HIDDEN = [name for name in Activation.built_in() if name != "softmax"]
PASS = files("nnbp.explorer").joinpath("static/pass.js").read_text(encoding="utf-8")


def assert_same(net: Network, X: Any, y: Any, tolerance: float = 1e-12) -> None:
    """For each sample, the program finds the numbers of `trace` and `gradients`, and per-sample gradients."""
    explanation = explained(net, X, y)
    network = explanation.network
    reader = Reader(program_of(network.model))
    rows = network.per_sample_gradients(explanation.X, explanation.y)
    assert network.weight_decay == net.weight_decay
    for k in range(len(explanation.rows)):
        found = reader.run(explanation.X[k], explanation.y[k], np.array(network.parameters))
        expected: dict[str, Any] = {
            "cost": explanation.cost[[k]], "dx": explanation.gradients.dX[k], "gradient": rows[k],
            "inputs": explanation.inputs[k],
        }  # fmt: skip
        pairs = [(found[name], expected[name]) for name in expected]
        for l, layer in enumerate(found["layers"]):
            pairs += [(layer["z"], explanation.trace.z[l + 1][k]), (layer["a"], explanation.trace.a[l + 1][k])]
            pairs.append((layer["delta"], explanation.gradients.delta[l][k]))
        for p, q in pairs:
            np.testing.assert_allclose(p, q, rtol=0, atol=tolerance * max(1.0, np.abs(q).max()))


@pytest.mark.parametrize("name", HIDDEN)
def test_every_activation(name: str) -> None:
    assert_same(*example_problem([4, 6, 5, 3], activation=name, loss="cross_entropy", device="cpu", weight_decay=0.1))


@pytest.mark.parametrize("name", Loss.built_in())
def test_every_loss(name: str) -> None:
    assert_same(*example_problem([4, 6, 3], activation="tanh", loss=name, device="cpu"))


def test_a_softmax_under_another_loss() -> None:
    assert_same(*example_problem([4, 6, 3], output_activation="softmax", activation="tanh", device="cpu"))


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=2, max_size=5),
    activation=st.sampled_from(HIDDEN[:-1]),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 99),
)
def test_random_networks(sizes: list[int], activation: str, dtype: str, seed: int) -> None:
    assert_same(*example_problem(sizes, activation=activation, dtype=dtype, seed=seed, device="cpu", samples=3))


def test_every_layer() -> None:
    layers = [
        nnbp.Standardize(), nnbp.Dropout(0.2), Dense(6, "identity"), nnbp.BatchNorm("relu"), Dense(5, "gelu"),
        nnbp.LayerNorm("tanh"), nnbp.Dropout(0.1), Dense(3),
    ]  # fmt: skip
    net = Network(layers, loss="cross_entropy", weight_decay=0.01, device="cpu", seed=0)
    rng = np.random.default_rng(0)
    X, y = rng.normal(5, 3, (40, 4)), rng.integers(0, 3, 40)
    net.fit(X, y, epochs=3, progress=False)
    assert_same(net, X, y)


def test_categories() -> None:
    net = Network([3, OneHot([0, 3, 2]), 4, 1], device="cpu", seed=0)
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=9), rng.integers(-1, 3, 9), rng.integers(0, 2, 9)])
    assert_same(net, X, rng.normal(size=9))


def test_classes_of_users() -> None:
    class Bump(Activation):
        name = "bump"

        def f(self, z: Any) -> Any:
            return np.exp(-np.square(z)) * np.cos(z) + np.where(z > 1.0, np.arctan(z), np.sin(z))

    class Quartic(Loss):
        name = "fourth_power"

        def cost(self, h: Any, y: Any) -> Any:
            return np.abs(h - y) ** 4

    net, X, y = example_problem([3, 5, 2], activation=Bump(), loss="squared_error", device="cpu")
    assert_same(net, X, y)
    assert_same(Network([3, 5, 2], activation=Bump(), loss=Quartic(), device="cpu", seed=1), X, y)


def test_a_layer_with_an_unknown_operation_is_refused_by_name() -> None:
    class Odd(Layer):
        kind = "odd"

        def outputs(self, n_in: int) -> int:
            return n_in

        def config(self) -> dict[str, Any]:
            return {}

        def connect(self, op: Any, x: Any, theta: Any, gradient: Any, stream: Any, *, keep_z: bool) -> Any:
            op.record(Foreign(print))
            return Dense(2, "tanh").connect(op, x, theta, gradient, stream, keep_z=keep_z)

        def parameters(self, n_in: int) -> Any:
            return Dense(2, "tanh").parameters(n_in)

    net = Network([2, Odd(), 1], device="cpu", seed=0)
    with pytest.raises(NnbpError, match=r"operations Map, Gemm and Reduce; received Foreign"):
        program_of(net.copy(dtype="float64").model)


def test_numbers_survive_their_encoding() -> None:
    values = np.array([[0.1, -0.0], [5e-324, np.nan], [np.inf, -1e308]])
    np.testing.assert_array_equal(decoded(encoded(values)), values.ravel())
    assert np.signbit(decoded(encoded(values))[1])


def test_the_page_knows_every_primitive() -> None:
    table = PASS[PASS.index("const PRIMITIVES") : PASS.index("};")]
    assert set(re.findall(r"(\w+):", table)) == set(PRIMITIVES)
