"""The algorithm of the notes as plain functions: neuron, forward pass, cost, backpropagation, gradient descent.

The letters are those of the notes (docs/notes.md). Layer k has the weights W[k], (n_out, n_in), the biases b[k],
(n_out,), the activation f[k] and its derivative df[k]. Its input is a[k], its weighted sums are z[k], and its output is
a[k + 1]; so a[0] is X, and a[-1] is h(X). A row of X, z[k], a[k] and delta[k] is one of m samples. Arrays may be
NumPy's or CuPy's: NumPy's functions and operators compute where their arguments are.

Nothing here uses the engine, which is tested against it. A network of three inputs, four hidden units and two outputs:

>>> rng = np.random.default_rng(0)
>>> W, b = [rng.normal(size=(4, 3)), rng.normal(size=(2, 4))], [np.zeros(4), np.zeros(2)]
>>> f, df = [tanh, sigmoid], [tanh_derivative, sigmoid_derivative]
>>> X, y = rng.normal(size=(5, 3)), rng.uniform(size=(5, 2))
>>> for _ in range(3):
...     z, a = forward(X, W, b, f)
...     print(f"{J(a[-1], y, W, decay=0.01):.4f}")
...     delta = backward(z, a, y, W, df)
...     dW, db = gradients(a, delta, W, decay=0.01)
...     W, b = descend(W, dW, eta=0.5), descend(b, db, eta=0.5)
0.1632
0.1548
0.1475
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = Any
"""An array of NumPy or CuPy."""

Function = Callable[[Array], Array]
"""A function of each element: f, df."""

Cost = Callable[[Array, Array], Array]
"""A function of h and y: the cost of each sample, (m,), or its derivative ∂C/∂h, (m, n_out)."""


# Section 1: the neuron.


def sigmoid(z: Array) -> Array:
    """f(z) = 1 / (1 + e^−z), with values in [0, 1]."""
    return 1.0 / (1.0 + np.exp(-z))


def sigmoid_derivative(z: Array) -> Array:
    """f'(z) = f(z) (1 − f(z))."""
    return sigmoid(z) * (1.0 - sigmoid(z))


def tanh(z: Array) -> Array:
    """f(z) = (e^z − e^−z) / (e^z + e^−z), with values in [−1, 1]."""
    return np.tanh(z)


def tanh_derivative(z: Array) -> Array:
    """f'(z) = 1 − f(z)²."""
    return 1.0 - np.tanh(z) ** 2


def neuron(x: Array, w: Array, b: Array, f: Function) -> Array:
    """Output of one neuron, f(w · x + b) = f(w₁x₁ + … + w_K x_K + b); x and w are (K,)."""
    return f(w @ x + b)


# Section 2: layers of neurons, in matrix form.


def layer(a: Array, W: Array, b: Array, f: Function) -> tuple[Array, Array]:
    """z = W a + b and f(z) of one layer, for the samples in the rows of a."""
    z = a @ W.T + b
    return z, f(z)


def forward(X: Array, W: Sequence[Array], b: Sequence[Array], f: Sequence[Function]) -> tuple[list[Array], list[Array]]:
    """z and a of all layers: a[0] = X, and each layer's output is the input of the next."""
    z, a = [], [X]
    for k in range(len(W)):
        sums, output = layer(a[k], W[k], b[k], f[k])
        z.append(sums)
        a.append(output)
    return z, a


# Section 3.1: the cost.


def cost(h: Array, y: Array) -> Array:
    """C = ½ ‖h − y‖² of each sample, (m,); h and y are (m, n_out)."""
    return ((h - y) ** 2).sum(axis=1) / 2


def cost_derivative(h: Array, y: Array) -> Array:
    """∂C/∂h = h − y of each sample."""
    return h - y


def J(h: Array, y: Array, W: Sequence[Array], decay: float, cost: Cost = cost) -> Array:
    """J = 1/m Σ C + λ/2 Σ W², with λ = decay. Biases do not decay."""
    return cost(h, y).mean() + decay / 2 * sum((w**2).sum() for w in W)


# Section 3.2: backpropagation.


def output_delta(z: Array, h: Array, y: Array, df: Function, dcost: Cost) -> Array:
    """First case, the output layer: delta = ∂C/∂z = f'(z) ∂C/∂h."""
    return df(z) * dcost(h, y)


def hidden_delta(z: Array, W_next: Array, delta_next: Array, df: Function) -> Array:
    """Second case, a hidden layer: delta = f'(z) Wᵀ delta, with W and delta of the layer that it feeds."""
    return df(z) * (delta_next @ W_next)


def backward(
    z: Sequence[Array],
    a: Sequence[Array],
    y: Array,
    W: Sequence[Array],
    df: Sequence[Function],
    dcost: Cost = cost_derivative,
) -> list[Array]:
    """delta = ∂C/∂z of all layers, for each sample: from the output back to the first layer."""
    delta = [output_delta(z[-1], a[-1], y, df[-1], dcost)]
    for k in reversed(range(len(W) - 1)):
        delta.insert(0, hidden_delta(z[k], W[k + 1], delta[0], df[k]))
    return delta


def gradients(
    a: Sequence[Array], delta: Sequence[Array], W: Sequence[Array], decay: float
) -> tuple[list[Array], list[Array]]:
    """dW = ∂J/∂W = 1/m Σ delta aᵀ + λW and db = ∂J/∂b = 1/m Σ delta of all layers, the sums over the samples."""
    dW = [delta[k].T @ a[k] / len(a[k]) + decay * W[k] for k in range(len(W))]
    db = [delta[k].mean(axis=0) for k in range(len(W))]
    return dW, db


def descend(theta: Sequence[Array], gradient: Sequence[Array], eta: float) -> list[Array]:
    """One step of gradient descent: θ − η ∇J(θ) for each array of parameters."""
    return [p - eta * g for p, g in zip(theta, gradient, strict=True)]
