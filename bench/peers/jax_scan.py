"""JAX with one jitted call per epoch, a `lax.scan` over its steps: the fastest way to train small networks with it."""

from __future__ import annotations

from typing import Any

from ..cases import Problem
from .jax_jit import JaxJit


class JaxScan(JaxJit):
    """JAX, a call per epoch."""

    label = "JAX scan"
    devices = ("cpu", "cuda")

    def __init__(self, problem: Problem, threads: int) -> None:
        super().__init__(problem, threads)
        jax, step, batch = self.jax, self.step, self.case.batch

        def epoch(state: Any, X: Any, y: Any, order: Any) -> Any:
            def body(carry: Any, rows: Any) -> Any:
                return step(*carry, X, y, rows), None

            steps, rest = divmod(len(X), batch)
            whole = order[: steps * batch].reshape(steps, batch)
            carry, _ = jax.lax.scan(body, (state, jax.numpy.zeros(())), whole)
            return step(*carry, X, y, order[-rest:]) if rest else carry

        self.scanned = jax.jit(epoch, donate_argnums=0)

    def epoch(self, order: Any) -> Any:
        self.state, total = self.scanned(self.state, self.X, self.y, order)
        return total
