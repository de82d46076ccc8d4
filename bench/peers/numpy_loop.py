"""NumPy as people write it by hand: rows are samples, and every operation makes a new array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cases import Problem
from ..peer import Peer


class NumpyLoop(Peer):
    """A bare loop."""

    label = "NumPy loop"
    modules = ("numpy",)
    distributions = ("numpy",)

    def __init__(self, problem: Problem, threads: int) -> None:
        super().__init__(problem, threads)
        self.reset()

    def reset(self) -> None:
        problem = self.problem
        self.W = [W.T.copy() for W in problem.weights]
        self.b = [b.copy() for b in problem.biases]
        parameters = [*self.W, *self.b]
        self.steps, self.m, self.v = 0, [np.zeros_like(p) for p in parameters], [np.zeros_like(p) for p in parameters]

    def forward(self, X: NDArray[Any]) -> list[NDArray[Any]]:
        """X, the activations of every hidden layer, and z of the last."""
        a = [X]
        for k, (W, b) in enumerate(zip(self.W, self.b, strict=True)):
            z = a[-1] @ W + b
            if k < len(self.W) - 1:
                z = np.tanh(z) if self.case.activation == "tanh" else np.maximum(z, 0)
            a.append(z)
        return a

    def fit(self, epochs: int) -> None:
        X, y, batch = self.problem.X, self.problem.y, self.case.batch
        for _ in range(epochs):
            order, total = self.epoch_order(), 0.0
            for start in range(0, len(X), batch):
                rows = order[start : start + batch]
                total += self.step(X[rows], y[rows])

    def step(self, X: NDArray[Any], y: NDArray[Any]) -> float:
        """One training step; the batch's loss."""
        a = self.forward(X)
        samples = np.arange(len(X))
        e = np.exp(a[-1] - a[-1].max(axis=1, keepdims=True))
        h = e / e.sum(axis=1, keepdims=True)
        loss = -np.log(h[samples, y]).mean()
        delta = h
        delta[samples, y] -= 1
        delta /= len(X)
        dW: list[NDArray[Any]] = []
        db: list[NDArray[Any]] = []
        for k in range(len(self.W) - 1, -1, -1):
            dW.insert(0, a[k].T @ delta)
            db.insert(0, delta.sum(axis=0))
            if k:
                slope = 1 - a[k] ** 2 if self.case.activation == "tanh" else a[k] > 0
                delta = (delta @ self.W[k].T) * slope
        self.update([*dW, *db])
        return float(loss)

    def update(self, gradients: list[NDArray[Any]]) -> None:
        """SGD or Adam."""
        parameters, rate = [*self.W, *self.b], self.case.rate
        if self.case.optimizer == "sgd":
            for p, g in zip(parameters, gradients, strict=True):
                p -= rate * g
            return
        self.steps += 1
        for k, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
            self.m[k] = 0.9 * self.m[k] + 0.1 * g
            self.v[k] = 0.999 * self.v[k] + 0.001 * g**2
            m, v = self.m[k] / (1 - 0.9**self.steps), self.v[k] / (1 - 0.999**self.steps)
            p -= rate * m / (np.sqrt(v) + 1e-8)

    def loss(self) -> float:
        z = self.forward(self.problem.X)[-1].astype(np.float64)
        z -= z.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), self.problem.y]))

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = self.forward(X)[-1].argmax(axis=1)
        return found
