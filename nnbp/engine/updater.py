"""The optimizer's part of a training step."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nnbp.engine.model import Model
from nnbp.graph.builder import Builder
from nnbp.graph.ops import Array, Gather, Gemm
from nnbp.optim.optimizers import Optimizer


@dataclass
class OptimizerState:
    """The state of an optimizer: the number of steps taken, and its vectors on the device."""

    steps: int = 0
    slots: dict[str, Array] = field(default_factory=dict)


class Updater:
    """The optimizer's part of a training step.

    Args:
        model: the network.
        optimizer: the rule.
        steps: steps per epoch.
        clip_norm: bound on the Euclidean norm of the whole gradient, or None.
        state: the state to continue from; a new one for a fresh start.
    """

    def __init__(
        self, model: Model, optimizer: Optimizer, steps: int, clip_norm: float | None, state: OptimizerState
    ) -> None:
        self.model, self.optimizer, self.clip_norm, self.state = model, optimizer, clip_norm, state
        backend, theta = model.backend, model.parameters.theta
        for slot in optimizer.slots:
            if slot not in state.slots:
                values = backend.empty(len(theta), model.dtype)
                values[...] = optimizer.initial(slot)
                state.slots[slot] = values
        self.names = list(optimizer.rates(np.ones(1), np.ones(1)))
        self.table = backend.empty((steps, max(1, len(self.names))), model.dtype)
        self._host = np.empty((steps, len(self.names)))
        self._sent = np.full_like(self._host, np.nan)
        self.steps = backend.upload(np.arange(steps), np.int64)

    def begin(self, eta: NDArray[np.float64]) -> None:
        """Sets the learning rates of the next epoch, one per step."""
        t = self.state.steps + np.arange(1.0, len(eta) + 1)
        rates = self.optimizer.rates(t, eta)
        for j, name in enumerate(self.names):
            self._host[:, j] = rates[name]
        # Unchanged rates are not sent again.
        if (self._host != self._sent).any():
            self.table[...] = self.model.backend.upload(self._host, self.model.dtype)
            self._sent[...] = self._host
        self.state.steps += len(eta)

    def record(self, op: Builder, counter: Array) -> None:
        """Records clipping and the update, with the rates of the step that the counter points to."""
        parameters = self.model.parameters
        theta, g = parameters.theta.reshape(1, -1), parameters.gradient.reshape(1, -1)
        rates: dict[str, Array] = {}
        if self.names:
            row = op.record(Gather(self.table, self.steps, counter, 1, op.empty(1, len(self.names))))
            rates = {name: row[:, j : j + 1] for j, name in enumerate(self.names)}
        if self.clip_norm is not None:
            square, bound = op.empty(1, 1), self.clip_norm
            op.record(Gemm(g, g.T, square))
            # PyTorch's clip_grad_norm_ adds the same 1e-6.
            op.map(lambda g, s: g * np.minimum(bound / (np.sqrt(s) + 1e-6), 1.0), [g], g=g, s=square)
        slots = {slot: self.state.slots[slot].reshape(1, -1) for slot in self.optimizer.slots}
        self.optimizer.record(op, theta, g, slots, rates)
