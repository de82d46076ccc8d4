"""Epochs: one pass through a data set in batches, in which every step runs the same list of operations.

The device finds the rows of a batch by a permutation and a step counter that are stored there. If a data set stays on
the host, its batches are sent ahead; see `nnbp.engine.prefetch`. The sum of the costs accumulates on the device and is
read after the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from nnbp.engine.dataset import Dataset
from nnbp.engine.executor import Batch, Executor, mean
from nnbp.engine.model import Model
from nnbp.engine.prefetch import Prefetch, Rows
from nnbp.engine.ranks import ALONE, Ranks, Steps
from nnbp.engine.updater import Updater
from nnbp.graph.builder import Builder
from nnbp.graph.ops import Advance, Array, Gather, Operation, Uniform


class Epoch:
    """A pass through a data set.

    Attributes:
        steps: number of batches; the last one may be smaller. With several ranks, that of the rank that has most.
        whole: whether there is only one batch, which is then not copied.

    Args:
        model: the network.
        data: the data set.
        batch_size: samples per batch.
        training: whether this is a training epoch, with dropout and a backward pass.
        update: the optimizer's part, if the optimizer works step by step.
        runs: approximate number of times that the pass will be run.
        ranks: those that take each step together; only a training epoch has several.
        steps: the steps of these ranks, `Ranks.steps`; None for a process alone.
    """

    def __init__(
        self,
        model: Model,
        data: Dataset,
        batch_size: int,
        *,
        training: bool = False,
        update: Updater | None = None,
        runs: int = 1,
        ranks: Ranks = ALONE,
        steps: Sequence[Steps] | None = None,
    ) -> None:
        self.model, self.data = model, data
        samples = len(data)
        size = min(batch_size, samples)
        self.whole = size == samples and data.feed is None
        self.ranks, parts = ranks, ALONE.steps(samples, size) if steps is None else steps
        self.steps = sum(part.times for part in parts)
        backend = model.backend
        self.counter = backend.upload(np.zeros(1), np.int64)
        self._prefetch: Prefetch | None = None
        dtypes = [model.input_dtype(data.X), *[model.dtype] * (len(data.arrays) - 1)]
        if not backend.owns(data.X) and self.whole:
            self.data = data = Dataset(*map(model.on_device, data.arrays, dtypes))
        if backend.owns(data.X):
            self.order = backend.upload(np.arange(samples), np.int64)
            self._rows = data.arrays, self.order, self.counter
        else:
            columns = [array.shape[1] for array in data.arrays]
            self._prefetch = Prefetch(backend, data.feed or Rows(data.arrays), samples, size, columns, dtypes)
            self._rows = self._prefetch.sources, self._prefetch.rows, self._prefetch.half
        self._total = backend.upload(np.zeros((1, 1)), np.float64)
        self._training, self._update, self._stride, self._expected = training, update, size, runs
        self._searching = training and update is None
        self._runs = [self._record(part) if ranks.alone else self._record_together(part) for part in parts]

    def shuffle(self, generator: np.random.Generator) -> None:
        """Draws a new order of the samples, on the host so that it is the same on every device."""
        if self.whole:
            return
        if self._prefetch is None:
            self.order[...] = self.model.backend.upload(generator.permutation(len(self.data)), np.int64)
        else:
            self._prefetch.feed.shuffle(generator)

    def run(self) -> None:
        """Runs all steps."""
        self.counter[...] = 0
        self._total[...] = 0.0
        if self._prefetch is not None:
            self._prefetch.begin()
        for run in self._runs:
            run()

    @property
    def total(self) -> float:
        """Σ wₙ Cⁿ over the epoch; waits for the device."""
        return float(self.model.backend.download(self._total)[0, 0])

    def _record(self, steps: Steps) -> Callable[[], None]:
        """A function that runs the steps, one after the other."""
        op = self.model.builder(steps.samples, training=self._training)
        gather = op.begin()
        executor = Executor(
            self.model, self._batch(op), training=self._training, searching=self._searching, gradients=self._training
        )
        tail = op.begin()
        op.map(lambda total, batch: total + batch, [self._total], total=self._total, batch=executor.total)
        self._record_update(op)
        operations = [*gather, *executor.forward, *executor.backward, *tail]
        if self._prefetch is None:
            return self.model.backend.compile(operations, steps.times, self._expected)
        run = self.model.backend.compile(operations, runs=steps.times * self._expected)
        return self._prefetch.prefetching(run, steps.times)

    def _record_together(self, steps: Steps) -> Callable[[], None]:
        """The same for several ranks, which add up their sums between the gradient and the update."""
        model, runs = self.model, steps.times * self._expected
        gradient, size = model.parameters.gradient.reshape(1, -1), model.parameters.size
        # A vector of its own: a backend may cut the gradient and theta at the same places, if they are as long.
        sums = model.backend.empty(size + 2, model.dtype)
        views = [sums[rows].reshape(1, -1) for rows in (slice(size), slice(size, size + 1), slice(size + 1, size + 2))]
        op = model.builder(max(1, steps.samples), training=True)
        own = self._summed(op, steps, views)
        tail = op.begin()
        op.map(mean, [gradient], total=views[0], weight=views[2])
        model.record_decay(op)
        op.map(lambda total, batch: total + batch, [self._total], total=self._total, batch=views[1])
        self._record_update(op)
        compute, finish = (model.backend.compile(operations, runs=runs) for operations in (own, tail))
        add = self.ranks.allreduce(sums, model.backend)

        def step() -> None:
            compute()
            add()
            finish()

        if self._prefetch is not None and steps.samples:
            return self._prefetch.prefetching(step, steps.times)
        return partial(_repeat, step, steps.times)

    def _summed(self, op: Builder, steps: Steps, sums: Sequence[Array]) -> list[Operation]:
        """Σ w ∂C/∂θ, Σ wC and Σ w of this rank's part of a batch; zeros if it has no samples in it."""
        model, place = self.model, (steps.offset, steps.total)
        first = op.begin()
        if steps.samples:
            batch, searching = self._batch(op), self._searching
            executor = Executor(
                model, batch, training=True, searching=searching, gradients=True, summed=True, place=place
            )
            found = model.parameters.gradient.reshape(1, -1), executor.total, executor.weight
            last = op.begin()
            for value, total in zip(found, sums, strict=True):
                op.map(lambda value: value, [total], value=value)
            return [*first, *executor.forward, *executor.backward, *last]
        for total in sums:
            op.map(lambda: 0.0, [total])
        # The random numbers of the others' samples are drawn, so that the streams stand where theirs do.
        x = op.empty(1, model.n_in, model.input_dtype(self.data.X))
        others = Executor(model, Batch(x), training=True, place=(0, steps.total)).forward
        return [*first, *(item for item in others if isinstance(item, Uniform))]

    def _batch(self, op: Builder) -> Batch:
        """The samples of a step; records how they are gathered."""
        data = self.data
        if self.whole:
            return Batch(data.X, data.y, data.w)
        sources, order, counter = self._rows
        rows = [op.empty(op.samples, source.shape[1], source.dtype) for source in sources]
        for source, out in zip(sources, rows, strict=True):
            op.record(Gather(source, order, counter, self._stride, out))
        return Batch(*rows)

    def _record_update(self, op: Builder) -> None:
        if self._update is not None:
            self._update.record(op, self.counter)
        op.record(Advance(self.counter))


def _repeat(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()
