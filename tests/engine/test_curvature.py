"""G = Σ wₙ JₙᵀJₙ / Σ w + λ on the decayed diagonal, against per-sample gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nnbp
from nnbp import Dense, Network
from nnbp.engine import curvature
from nnbp.engine.curvature import Curvature


def curvature_of(net: Network, X: Any, y: Any, w: Any = None) -> np.ndarray:
    data = net.prepare(X, y, w)
    with net._backend.active():
        return np.array(net._backend.download(Curvature(net.model, data)()))


def reference(net: Network, X: Any, w: Any = None) -> np.ndarray:
    """∂h_k/∂θ is the gradient of ½ ‖h − y‖² if y is h but for output k, where it is h − 1."""
    h = np.array(net.forward(X))
    share = np.full(len(X), 1.0 / len(X)) if w is None else w / w.sum()
    total = np.zeros((net.parameters.size, net.parameters.size))
    for k in range(h.shape[1]):
        y = h.copy()
        y[:, k] -= 1.0
        J = np.asarray(net.per_sample_gradients(X, y), np.float64)
        total += (J * share[:, None]).T @ J
    n = net.model.parameters.decayed
    total[np.arange(n), np.arange(n)] += net.weight_decay
    return total


RNG = np.random.default_rng(0)
X, Y, W = RNG.normal(size=(37, 3)), RNG.normal(size=(37, 2)), RNG.uniform(0, 2, 37)
ARCHITECTURES: dict[str, list[Any]] = {
    "one output layer": [Dense(2)],
    "hidden layers": [Dense(5, "tanh"), Dense(4, "softplus"), Dense(2)],
    "a bounded output": [Dense(5, "tanh"), Dense(2, "sigmoid")],
    "a softmax output": [Dense(5, "tanh"), Dense(2, "softmax")],
    "a norm layer": [Dense(5, "identity"), nnbp.LayerNorm("tanh"), Dense(2)],
}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [4, 37, 2**21])
def test_it_is_that_of_per_sample_gradients(
    name: str, weighted: bool, rows: int, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several outputs, weights and λ, in one piece and in pieces of which the last is smaller."""
    net = Network([3, *ARCHITECTURES[name]], weight_decay=0.1, dtype="float64", device=backend, seed=0)
    monkeypatch.setattr(curvature, "_ROWS", rows * net.parameters.size if rows < 2**21 else rows)
    w = W if weighted else None
    found, expected = curvature_of(net, X, Y, w), reference(net, X, w)
    assert np.abs(found - expected).max() <= 1e-13 * np.abs(expected).max()
    np.testing.assert_allclose(found, found.T, rtol=0, atol=1e-15 * np.abs(found).max())


def test_it_leaves_the_gradient_and_is_float64_for_float32() -> None:
    net = Network([3, 5, 2], activation="tanh", device="cpu", seed=0)
    data = net.prepare(X, Y)
    with net._backend.active():
        net.model.parameters.gradient[...] = 7.0
        found = Curvature(net.model, data)()
    assert found.dtype == np.float64
    assert (net.model.parameters.gradient == 7.0).all()
    expected = reference(net.copy(dtype="float64"), X)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_it_is_the_second_derivative_of_a_linear_model() -> None:
    net = Network([3, 2], weight_decay=0.2, dtype="float64", device="cpu", seed=0)
    G, theta = curvature_of(net, X, Y), np.array(net.parameters)
    differences = np.empty_like(G)
    for k in range(len(theta)):
        sides = []
        for step in (1e-4, -1e-4):
            net.parameters[...] = theta
            net.parameters[k] += step
            sides.append(net.gradients(X, Y).flat.copy())
        differences[k] = (sides[0] - sides[1]) / 2e-4
    np.testing.assert_allclose(G, differences, atol=1e-9)
