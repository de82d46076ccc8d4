"""JAX: one jitted step, which gathers its batch from resident data and gets its parameters donated."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cases import Problem
from ..peer import Peer

__all__ = ["JaxJit"]


class JaxJit(Peer):
    """JAX jit on the CPU."""

    label = "JAX"
    modules = ("jax",)
    distributions = ("jax", "jaxlib")

    def __init__(self, problem: Problem, threads: int) -> None:
        super().__init__(problem, threads)
        import jax

        jax.config.update("jax_platforms", "cpu")
        self.jax, case, np_ = jax, self.case, jax.numpy
        f = np_.tanh if case.activation == "tanh" else jax.nn.relu
        rate = case.rate

        def outputs(P: Any, x: Any) -> Any:
            for W, b in P[:-1]:
                x = f(x @ W + b)
            W, b = P[-1]
            return x @ W + b

        def loss(P: Any, x: Any, y: Any) -> Any:
            return -np_.take_along_axis(jax.nn.log_softmax(outputs(P, x)), y[:, None], 1).mean()

        def adam(P: Any, S: Any, g: Any) -> tuple[Any, Any]:
            m, v, t = S[0], S[1], S[2] + 1
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
            c, d = 1 - 0.9**t, 1 - 0.999**t
            P = jax.tree.map(lambda w, m, v: w - rate * (m / c) / (np_.sqrt(v / d) + 1e-8), P, m, v)
            return P, (m, v, t)

        def step(P: Any, S: Any, total: Any, X: Any, y: Any, order: Any, start: Any, size: int) -> tuple[Any, Any, Any]:
            rows = jax.lax.dynamic_slice(order, (start,), (size,))
            value, g = jax.value_and_grad(loss)(P, X[rows], y[rows])
            if case.optimizer == "sgd":
                P = jax.tree.map(lambda w, g: w - rate * g, P, g)
            else:
                P, S = adam(P, S, g)
            return P, S, total + value

        self.step = jax.jit(step, donate_argnums=(0, 1, 2), static_argnums=7)
        self.loss_of = jax.jit(loss)
        self.classes = jax.jit(lambda P, x: outputs(P, x).argmax(1))
        self.X, self.y = jax.device_put(problem.X), jax.device_put(problem.y.astype(np.int32))
        self.reset()

    def reset(self) -> None:
        jax, problem = self.jax, self.problem
        # Donated buffers are overwritten, so they may not be those of NumPy's arrays.
        self.P = jax.tree.map(
            lambda array: jax.numpy.array(array, copy=True),
            [(W.T, b) for W, b in zip(problem.weights, problem.biases, strict=True)],
        )
        self.S: Any = ()
        if self.case.optimizer == "adam":
            zeros = (jax.tree.map(jax.numpy.zeros_like, self.P) for _ in range(2))
            self.S = (*zeros, jax.numpy.zeros((), jax.numpy.float32))

    def fit(self, epochs: int) -> None:
        jax, m, batch = self.jax, len(self.X), self.case.batch
        P, S = self.P, self.S
        for _ in range(epochs):
            order = jax.device_put(self.order.permutation(m).astype(np.int32))
            total = jax.numpy.zeros((), self.case.dtype)
            for start in range(0, m, batch):
                size = min(batch, m - start)
                P, S, total = self.step(P, S, total, self.X, self.y, order, start, size)
            float(total)
        self.P, self.S = P, S

    def loss(self) -> float:
        return float(self.loss_of(self.P, self.X, self.y))

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self.classes(self.P, X))
