"""Sweeps: one pass through a data set in batches, each step of it a recorded list of calls.

The rows of a batch are found on the device, from a permutation and a step counter that live there, so that a step is
the same list of calls every time. A data set that stays on the host sends its batches ahead, see `nnbp.feed`. What a
step leaves on the device (the sum of the costs) is read after the sweep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nnbp.feed import Feed
from nnbp.ops import Advance, Array, Gather, Gemm
from nnbp.optimizers import Optimizer
from nnbp.plan import Batch, Engine, Plan
from nnbp.recorder import Recorder

__all__ = ["Data", "OptimizerState", "Sweep", "Updater"]


@dataclass(frozen=True)
class Data:
    """A data set: X (m, n_in), encoded targets y (m, columns), weights w (m, 1) or None.

    All are on the device in the network's dtype, or all on the host, of any dtype.
    """

    X: Array
    y: Array
    w: Array | None = None

    def __len__(self) -> int:
        return len(self.X)

    @property
    def arrays(self) -> list[Array]:
        """Those that there are, in order."""
        return [array for array in (self.X, self.y, self.w) if array is not None]


@dataclass
class OptimizerState:
    """What an optimizer remembers: the number of steps taken, and its vectors on the device."""

    steps: int = 0
    slots: dict[str, Array] = field(default_factory=dict)


class Updater:
    """The optimizer's part of a training step.

    Args:
        engine: the network.
        optimizer: the rule.
        steps: steps of an epoch.
        clip_norm: bound on the Euclidean norm of the whole gradient, or None.
        state: to go on with, or a new one.
    """

    def __init__(
        self, engine: Engine, optimizer: Optimizer, steps: int, clip_norm: float | None, state: OptimizerState
    ) -> None:
        self.engine, self.optimizer, self.clip_norm, self.state = engine, optimizer, clip_norm, state
        backend, theta = engine.backend, engine.parameters.theta
        for slot in optimizer.slots:
            if slot not in state.slots:
                values = backend.empty(len(theta), engine.dtype)
                values[...] = optimizer.initial(slot)
                state.slots[slot] = values
        self.names = list(optimizer.rates(np.ones(1), np.ones(1)))
        self.table = backend.empty((steps, max(1, len(self.names))), engine.dtype)
        self._host = np.empty((steps, len(self.names)))
        self._sent = np.full_like(self._host, np.nan)
        self.steps = backend.upload(np.arange(steps), np.int64)

    def begin(self, eta: NDArray[np.float64]) -> None:
        """Sets the learning rates of the coming epoch, one a step."""
        t = self.state.steps + np.arange(1.0, len(eta) + 1)
        rates = self.optimizer.rates(t, eta)
        for j, name in enumerate(self.names):
            self._host[:, j] = rates[name]
        # Rates that stay are not sent again.
        if self.names and not np.array_equal(self._host, self._sent):
            self.table[...] = self.engine.backend.upload(self._host, self.engine.dtype)
            self._sent[...] = self._host
        self.state.steps += len(eta)

    def record(self, op: Recorder, counter: Array) -> None:
        """Records clipping and update with the rates of the step that the counter shows."""
        parameters = self.engine.parameters
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
        op.map(self.optimizer.update, [theta, *slots.values()], theta=theta, g=g, **slots, **rates)


class Sweep:
    """A pass through a data set.

    Attributes:
        steps: number of batches; the last one may be smaller.
        whole: whether there is one batch only, which is then not copied.

    Args:
        engine: the network.
        data: the data set.
        batch_size: samples of a batch.
        training: whether this is a training sweep: dropout drops, and the way back is recorded.
        update: the optimizer's part, where there is one that works step by step.
        runs: how often the pass will be made, about.
    """

    def __init__(
        self,
        engine: Engine,
        data: Data,
        batch_size: int,
        *,
        training: bool = False,
        update: Updater | None = None,
        runs: int = 1,
    ) -> None:
        self.engine, self.data = engine, data
        samples = len(data)
        size = min(batch_size, samples)
        self.whole = size == samples
        self.steps = -(-samples // size)
        backend = engine.backend
        self.counter = backend.upload(np.zeros(1), np.int64)
        self._feed: Feed | None = None
        if not backend.owns(data.X) and self.whole:
            self.data = data = Data(*(backend.upload(array, engine.dtype) for array in data.arrays))
        if backend.owns(data.X):
            self.order = backend.upload(np.arange(samples), np.int64)
            self._rows = data.arrays, self.order, self.counter
        else:
            self._feed = Feed(backend, data.arrays, size, engine.dtype)
            self._rows = self._feed.sources, self._feed.rows, self._feed.half
        self._total = backend.upload(np.zeros((1, 1)), np.float64)
        self._training, self._update, self._stride, self._expected = training, update, size, runs
        full, rest = divmod(samples, size)
        self._runs = [self._record(size, full)]
        if rest:
            self._runs.append(self._record(rest, 1))

    def shuffle(self, generator: np.random.Generator) -> None:
        """A new order of the samples, drawn on the host: the same on every device."""
        if self.whole:
            return
        order = generator.permutation(len(self.data))
        if self._feed is None:
            self.order[...] = self.engine.backend.upload(order, np.int64)
        else:
            self._feed.order = order

    def run(self) -> None:
        """Runs all steps."""
        self.counter[...] = 0
        self._total[...] = 0.0
        if self._feed is not None:
            self._feed.begin()
        for run in self._runs:
            run()

    @property
    def total(self) -> float:
        """Σ wₙ Cⁿ over the sweep; waits for the device."""
        return float(self.engine.backend.download(self._total)[0, 0])

    def _record(self, size: int, times: int) -> Callable[[], None]:
        """What runs so many batches, one after the other."""
        op = self.engine.recorder(size, training=self._training)
        gather = op.begin()
        data = self.data
        if self.whole:
            batch = Batch(data.X, data.y, data.w)
        else:
            sources, order, counter = self._rows
            rows = [op.empty(size, source.shape[1]) for source in sources]
            for source, out in zip(sources, rows, strict=True):
                op.record(Gather(source, order, counter, self._stride, out))
            batch = Batch(*rows)
        plan = Plan(self.engine, batch, training=self._training, gradients=self._training)
        tail = op.begin()
        op.map(lambda total, batch: total + batch, [self._total], total=self._total, batch=plan.total)
        if self._update is not None:
            self._update.record(op, self.counter)
        op.record(Advance(self.counter))
        operations = [*gather, *plan.forward, *plan.backward, *tail]
        if self._feed is None:
            return self.engine.backend.compile(operations, times, self._expected)
        return self._feed.feeding(self.engine.backend.compile(operations, runs=times * self._expected), times)
