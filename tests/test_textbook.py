"""The engine against the textbook, on every backend, for every activation and loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from emulated_cupy import emulated_backend_class
from kernel_samples import needs_compiler
from parity_cases import HIDDEN, LOSSES, OUTPUT, outputs_of
from strict_backend import StrictBackend

import nnbp
from nnbp import textbook
from nnbp.device.select import open_backend
from nnbp.nn.activations import Softmax
from nnbp.testing import example_problem

BACKENDS: dict[str, Callable[[], Any]] = {
    "numpy": lambda: open_backend("cpu"),
    "strict": StrictBackend,
    "emulated": lambda: emulated_backend_class()(),
    "cupy": lambda: open_backend("cuda", fallback=False),
}


@pytest.fixture(
    scope="module",
    params=[
        "numpy",
        "strict",
        pytest.param("emulated", marks=needs_compiler),
        pytest.param("cupy", marks=pytest.mark.gpu),
    ],
)
def backend(request: pytest.FixtureRequest) -> Any:
    return BACKENDS[request.param]()


def binary_cross_entropy(h: Any, y: Any) -> Any:
    return -(y * np.log(h) + (1 - y) * np.log(1 - h)).sum(axis=1)


def cross_entropy(h: Any, y: Any) -> Any:
    return -(y * np.log(h)).sum(axis=1)


COSTS = {
    "binary_cross_entropy": (binary_cross_entropy, lambda h, y: (h - y) / (h * (1 - h))),
    "cross_entropy": (cross_entropy, lambda h, y: -y / h),
}
"""C and ∂C/∂h of the losses that the library computes from z alone."""


@dataclass
class Problem:
    """A network in the words of the textbook. Its f is elementwise: softmax is a part of the cost."""

    W: list[Any]
    b: list[Any]
    f: list[textbook.Function]
    df: list[textbook.Function]
    cost: textbook.Cost
    dcost: textbook.Cost
    X: Any
    y: Any
    decay: float

    @classmethod
    def of(cls, net: nnbp.Network, X: Any, y: Any, hidden: nnbp.Activation | None = None) -> Problem:
        activations = [hidden or layer.f for layer in net.layers[:-1]] + [net.layers[-1].f]
        loss = net.loss_function
        cost, dcost = COSTS.get(loss.name) or (lambda h, y: loss.cost(h, y).sum(axis=1), loss.dcost)
        f = [a.f for a in activations]
        df = [lambda z, a=a: a.df(z, a.f(z)) * np.ones_like(z) for a in activations]
        if isinstance(activations[-1], Softmax):
            softmax, plain, dplain = f[-1], cost, dcost

            def dcost(z: Any, y: Any) -> Any:
                """Σᵢ ∂hᵢ/∂zⱼ ∂C/∂hᵢ, with ∂hᵢ/∂zⱼ = hᵢ ([i = j] − hⱼ)."""
                h = softmax(z)
                dh = dplain(h, y)
                return h * (dh - (h * dh).sum(axis=1, keepdims=True))

            cost, f[-1], df[-1] = lambda z, y: plain(softmax(z), y), lambda z: z, np.ones_like
        if y.dtype.kind == "i" and loss.name == "cross_entropy":
            y = np.eye(len(net.biases[-1]))[y]
        host = net.copy(device="cpu")
        return cls(
            list(host.weights), list(host.biases), f, df, cost, dcost, X, y.reshape(len(y), -1), net.weight_decay
        )

    def passes(self) -> tuple[list[Any], list[Any], list[Any], list[Any], list[Any]]:
        z, a = textbook.forward(self.X, self.W, self.b, self.f)
        delta = textbook.backward(z, a, self.y, self.W, self.df, self.dcost)
        return z, a, delta, *textbook.gradients(a, delta, self.W, self.decay)


def assert_follows_the_textbook(net: nnbp.Network, X: Any, y: Any, hidden: nnbp.Activation | None = None) -> None:
    """z, a, J, delta, dW, db and one step of gradient descent; the engine may sum in another order."""

    def close(ours: Any, theirs: Any) -> None:
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12)

    problem = Problem.of(net, X, y, hidden)
    z, a, delta, dW, db = problem.passes()
    trace, found = net.trace(X), net.gradients(X, y)
    for k in range(len(problem.W)):
        close(trace.a[k], a[k])
        close(trace.z[k + 1], z[k])
        close(found.delta[k], delta[k])
        close(found.dW[k], dW[k])
        close(found.db[k], db[k])
    close(net.loss(X, y), textbook.J(a[-1], problem.y, problem.W, problem.decay, problem.cost))
    close(found.dX, textbook.hidden_delta(X, problem.W[0], delta[0], np.ones_like))
    net.partial_fit(X, y, batch_size=None, optimizer="sgd", learning_rate=0.1)
    after = net.copy(device="cpu")
    for ours, theirs in zip(after.weights, textbook.descend(problem.W, dW, 0.1), strict=True):
        close(ours, theirs)
    for ours, theirs in zip(after.biases, textbook.descend(problem.b, db, 0.1), strict=True):
        close(ours, theirs)


def example(backend: Any, sizes: list[int], **options: Any) -> tuple[nnbp.Network, Any, Any]:
    net, X, y = example_problem(sizes, weight_decay=0.1, dtype="float64", device="cpu", **options)
    net.to(backend)
    return net, X, y


@pytest.mark.parametrize("activation", HIDDEN)
def test_every_activation(backend: Any, activation: str) -> None:
    net, X, y = example(backend, [3, 5, 4, 2], activation=activation)
    assert_follows_the_textbook(net, X, y)


def test_an_activation_that_is_only_a_formula(backend: Any) -> None:
    """Its derivative is derived and compiled; the textbook has one by hand."""

    class Softsign(nnbp.Activation):
        name = "softsign_for_this_test"

        def f(self, z: Any) -> Any:
            return z / (1.0 + abs(z))

    class ByHand(Softsign):
        def df(self, z: Any, a: Any) -> Any:
            return (1.0 - abs(a)) ** 2

    try:
        net, X, y = example(backend, [3, 5, 4, 2], activation=Softsign())
        assert_follows_the_textbook(net, X, y, ByHand())
    finally:
        del nnbp.Activation.registry[Softsign.name]


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(backend: Any, loss: str) -> None:
    for outputs in outputs_of(loss):
        net, X, y = example(backend, [3, 4, outputs], activation="tanh", loss=loss)
        assert_follows_the_textbook(net, X, y)


@pytest.mark.parametrize(("output", "loss"), OUTPUT)
def test_every_output_activation(backend: Any, output: str, loss: str) -> None:
    net, X, y = example(backend, [3, 4, 3], activation="tanh", output_activation=output, loss=loss)
    assert_follows_the_textbook(net, X, y)


def test_a_neuron_is_a_network_of_one_unit() -> None:
    net, X, _ = example_problem(
        [4, 1], activation="sigmoid", output_activation="sigmoid", device="cpu", dtype="float64"
    )
    w, b = net.weights[0][0], net.biases[0][0]
    assert net.forward(X)[0, 0] == pytest.approx(textbook.neuron(X[0], w, b, textbook.sigmoid), rel=1e-14)


@pytest.mark.parametrize(
    ("f", "df", "activation"),
    [
        (textbook.sigmoid, textbook.sigmoid_derivative, nnbp.Sigmoid()),
        (textbook.tanh, textbook.tanh_derivative, nnbp.Tanh()),
    ],
)
def test_activations_of_the_notes(f: textbook.Function, df: textbook.Function, activation: nnbp.Activation) -> None:
    z = np.linspace(-10, 10, 101)
    np.testing.assert_allclose(activation.f(z), f(z), rtol=1e-14)
    np.testing.assert_allclose(activation.df(z, activation.f(z)), df(z), rtol=1e-6, atol=1e-15)


@pytest.mark.gpu
def test_the_textbook_computes_on_a_gpu() -> None:
    """Its functions give CuPy arrays for CuPy arrays, with the values that NumPy finds."""
    import cupy

    net, X, y = example_problem([3, 4, 2], activation="tanh", dtype="float64", device="cpu")
    problem = Problem.of(net, X, y)
    z, a, delta, dW, db = problem.passes()
    problem.W, problem.b = [cupy.asarray(W) for W in problem.W], [cupy.asarray(b) for b in problem.b]
    problem.X, problem.y = cupy.asarray(X), cupy.asarray(problem.y)
    for ours, theirs in zip(problem.passes(), (z, a, delta, dW, db), strict=True):
        for on_gpu, on_host in zip(ours, theirs, strict=True):
            assert isinstance(on_gpu, cupy.ndarray)
            np.testing.assert_allclose(cupy.asnumpy(on_gpu), on_host, rtol=1e-12, atol=1e-14)
