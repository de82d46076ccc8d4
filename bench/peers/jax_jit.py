"""JAX: jitted, with resident data, of which a step gathers its batch, and parameters that are donated.

On a CPU every step is a call; on a GPU an epoch is one, a `lax.scan` over its steps.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cases import Problem
from ..peer import Peer

__all__ = ["JaxJit"]


_MATMUL = {"fp32": "highest", "tf32": "tensorfloat32", "bf16": "highest"}
"""JAX's names for the precision of products of float32 matrices. Its "bfloat16" is TF32 on a GPU, so bf16 is cast by
hand: inputs and parameters to bfloat16, as PyTorch's autocast does; the loss is float32."""


class JaxJit(Peer):
    """JAX jit."""

    label = "JAX"
    modules = ("jax",)
    distributions = ("jax", "jaxlib")
    devices = ("cpu", "cuda")

    def __init__(self, problem: Problem, threads: int) -> None:
        super().__init__(problem, threads)
        jax, case = _jax(self.case.device), self.case
        self.jax, np_ = jax, jax.numpy
        self.low = np_.bfloat16 if case.precision == "bf16" else None
        f = np_.tanh if case.activation == "tanh" else jax.nn.relu
        rate = case.rate

        def outputs(P: Any, x: Any) -> Any:
            if self.low is not None:
                P, x = jax.tree.map(lambda array: array.astype(self.low), (P, x))
            for W, b in P[:-1]:
                x = f(x @ W + b)
            W, b = P[-1]
            return (x @ W + b).astype(case.dtype)

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

        def sweep(P: Any, S: Any, X: Any, y: Any, order: Any) -> tuple[Any, Any, Any]:
            def body(carry: tuple[Any, Any, Any], start: Any) -> tuple[Any, None]:
                return step(*carry, X, y, order, start, case.batch), None

            starts = np_.arange(0, len(X), case.batch)
            carry: tuple[Any, Any, Any] = jax.lax.scan(body, (P, S, np_.zeros((), case.dtype)), starts)[0]
            return carry

        jax.config.update("jax_default_matmul_precision", _MATMUL[case.precision] if case.on_gpu else None)
        self.step = jax.jit(step, donate_argnums=(0, 1, 2), static_argnums=7)
        self.sweep = jax.jit(sweep, donate_argnums=(0, 1))
        self.loss_of = jax.jit(loss)
        self.classes = jax.jit(lambda P, x: outputs(P, x).argmax(1))
        self.X, self.y = jax.device_put(problem.X), jax.device_put(problem.y.astype(np.int32))
        self.standing = None if case.shuffle else jax.device_put(self.epoch_order().astype(np.int32))
        self.reset()

    @classmethod
    def lacks(cls, device: str) -> str | None:
        if device == "cpu":
            return super().lacks(device)
        try:
            found = len(_jax(device).devices("cuda"))
        except (RuntimeError, AssertionError) as error:
            return f'JAX sees no GPU ({error}): python -m pip install "jax[cuda13]"'
        index = int(device.partition(":")[2] or 0)
        return None if index < found else f"JAX sees {found} GPUs, and {device} is none of them"

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
        jax = self.jax
        for _ in range(epochs):
            order = self.standing
            if order is None:
                order = jax.device_put(self.epoch_order().astype(np.int32))
            float(self.scanned(order) if self.case.on_gpu else self.stepped(order))

    def stepped(self, order: Any) -> Any:
        """An epoch, a call a step; the sum of the batches' losses."""
        m, batch, total = len(self.X), self.case.batch, self.jax.numpy.zeros((), self.case.dtype)
        P, S = self.P, self.S
        for start in range(0, m, batch):
            P, S, total = self.step(P, S, total, self.X, self.y, order, start, min(batch, m - start))
        self.P, self.S = P, S
        return total

    def scanned(self, order: Any) -> Any:
        """An epoch of whole batches in one call; the sum of their losses."""
        self.P, self.S, total = self.sweep(self.P, self.S, self.X, self.y, order)
        return total

    def wait(self) -> None:
        self.jax.block_until_ready((self.P, self.S))

    def loss(self) -> float:
        return float(self.loss_of(self.P, self.X, self.y))

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self.classes(self.P, X))


def _jax(device: str) -> Any:
    """JAX, with this device as its default one."""
    kind, _, index = device.partition(":")
    # JAX would take three quarters of the GPU's memory at once, and others are at work there.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    jax.config.update("jax_platforms", kind)
    if kind == "cuda":
        jax.config.update("jax_default_device", jax.devices("cuda")[int(index or 0)])
    return jax
