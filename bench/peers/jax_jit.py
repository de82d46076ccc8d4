"""JAX with one jitted call per step: resident data, of which a step gathers its batch, and donated parameters."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cases import Problem
from ..peer import Peer

_MATMUL = {"fp32": "highest", "tf32": "tensorfloat32", "bf16": "highest"}
"""JAX's names for the precision of products of float32 matrices. Its "bfloat16" is TF32 on a GPU, so bf16 is cast by
hand: inputs and parameters to bfloat16, as PyTorch's autocast does; the loss is float32."""


class JaxJit(Peer):
    """JAX, a call per step.

    Attributes:
        state: parameters and the optimizer's slots; every call takes their memory.
        step: (state, total, X, y, rows) → state and the sum of the losses after a training step on these rows.
    """

    label = "JAX jit"
    modules = ("jax",)
    distributions = ("jax", "jaxlib")

    def __init__(self, problem: Problem, threads: int) -> None:
        super().__init__(problem, threads)
        jax, case = _jax(self.case.device), self.case
        self.jax, np_ = jax, jax.numpy
        f = np_.tanh if case.activation == "tanh" else jax.nn.relu
        rate = case.rate

        def outputs(P: Any, x: Any) -> Any:
            if case.precision == "bf16":
                P, x = jax.tree.map(lambda array: array.astype(np_.bfloat16), (P, x))
            for W, b in P[:-1]:
                x = f(x @ W + b)
            W, b = P[-1]
            return (x @ W + b).astype(np_.float32)

        def loss(P: Any, x: Any, y: Any) -> Any:
            return -np_.take_along_axis(jax.nn.log_softmax(outputs(P, x)), y[:, None], 1).mean()

        def sgd(P: Any, slots: Any, g: Any) -> Any:
            return jax.tree.map(lambda w, g: w - rate * g, P, g), slots

        def adam(P: Any, slots: Any, g: Any) -> Any:
            m, v, t = slots[0], slots[1], slots[2] + 1
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
            c, d = 1 - 0.9**t, 1 - 0.999**t
            P = jax.tree.map(lambda w, m, v: w - rate * (m / c) / (np_.sqrt(v / d) + 1e-8), P, m, v)
            return P, (m, v, t)

        def step(state: Any, total: Any, X: Any, y: Any, rows: Any) -> Any:
            P, slots = state
            value, g = jax.value_and_grad(loss)(P, X[rows], y[rows])
            return (adam if case.optimizer == "adam" else sgd)(P, slots, g), total + value

        def sliced(state: Any, total: Any, X: Any, y: Any, order: Any, start: Any, size: int) -> Any:
            return step(state, total, X, y, jax.lax.dynamic_slice(order, (start,), (size,)))

        jax.config.update("jax_default_matmul_precision", _MATMUL[case.precision] if case.on_gpu else None)
        self.step: Callable[..., Any] = step
        self.call = jax.jit(sliced, donate_argnums=(0, 1), static_argnums=6)
        self.loss_of = jax.jit(loss)
        self.classes = jax.jit(lambda P, x: outputs(P, x).argmax(1))
        self.X, self.y = jax.device_put(problem.X), jax.device_put(problem.y.astype(np.int32))
        self.standing = None if case.shuffle else jax.device_put(self.epoch_order().astype(np.int32))
        self.reset()

    @classmethod
    def lacks(cls, device: str) -> str | None:
        if device == "cpu":
            return None
        try:
            found = len(_jax(device).devices("cuda"))
        except (RuntimeError, AssertionError) as error:
            return f'JAX sees no GPU ({error}): python -m pip install "jax[cuda13]"'
        index = int(device.partition(":")[2])
        return None if index < found else f"JAX sees {found} GPUs, and {device} is none of them"

    def reset(self) -> None:
        jax, problem = self.jax, self.problem
        # Donated buffers are overwritten, so they may not be those of NumPy's arrays.
        P = jax.tree.map(
            lambda array: jax.numpy.array(array, copy=True),
            [(W.T, b) for W, b in zip(problem.weights, problem.biases, strict=True)],
        )
        slots: Any = ()
        if self.case.optimizer == "adam":
            zeros = (jax.tree.map(jax.numpy.zeros_like, P) for _ in range(2))
            slots = (*zeros, jax.numpy.zeros((), jax.numpy.float32))
        self.state = P, slots

    def fit(self, epochs: int) -> None:
        for _ in range(epochs):
            order = self.standing
            float(self.epoch(self.jax.device_put(self.epoch_order().astype(np.int32)) if order is None else order))

    def epoch(self, order: Any) -> Any:
        """Trains for an epoch in this order of the samples; the sum of the batches' losses."""
        m, batch, total = len(self.X), self.case.batch, self.jax.numpy.zeros(())
        for start in range(0, m, batch):
            self.state, total = self.call(self.state, total, self.X, self.y, order, start, min(batch, m - start))
        return total

    def wait(self) -> None:
        self.jax.block_until_ready(self.state)

    def loss(self) -> float:
        return float(self.loss_of(self.state[0], self.X, self.y))

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self.classes(self.state[0], X))


def _jax(device: str) -> Any:
    """JAX, with this device as its default one."""
    kind, _, index = device.partition(":")
    # JAX would take three quarters of the GPU's memory at once, and others are at work there.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    jax.config.update("jax_platforms", kind)
    if kind == "cuda":
        jax.config.update("jax_default_device", jax.devices("cuda")[int(index)])
    return jax
