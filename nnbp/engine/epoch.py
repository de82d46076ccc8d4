"""Epochs: one pass through a data set in batches, in which every step runs the same list of operations.

The device finds the rows of a batch by a permutation and a step counter that are stored there. If a data set stays on
the host, its batches are sent ahead; see `nnbp.engine.prefetch`. The sum of the costs accumulates on the device and is
read after the epoch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nnbp.engine.dataset import Dataset
from nnbp.engine.executor import Batch, Executor
from nnbp.engine.model import Model
from nnbp.engine.prefetch import Prefetch, Rows
from nnbp.engine.updater import Updater
from nnbp.graph.ops import Advance, Gather


class Epoch:
    """A pass through a data set.

    Attributes:
        steps: number of batches; the last one may be smaller.
        whole: whether there is only one batch, which is then not copied.

    Args:
        model: the network.
        data: the data set.
        batch_size: samples per batch.
        training: whether this is a training epoch, with dropout and a backward pass.
        update: the optimizer's part, if the optimizer works step by step.
        runs: approximate number of times that the pass will be run.
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
    ) -> None:
        self.model, self.data = model, data
        samples = len(data)
        size = min(batch_size, samples)
        self.whole = size == samples and data.feed is None
        self.steps = -(-samples // size)
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
        full, rest = divmod(samples, size)
        self._runs = [self._record(size, full)]
        if rest:
            self._runs.append(self._record(rest, 1))

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

    def _record(self, size: int, times: int) -> Callable[[], None]:
        """A function that runs `times` batches of `size` samples, one after the other."""
        op = self.model.builder(size, training=self._training)
        gather = op.begin()
        data = self.data
        if self.whole:
            batch = Batch(data.X, data.y, data.w)
        else:
            sources, order, counter = self._rows
            rows = [op.empty(size, source.shape[1], source.dtype) for source in sources]
            for source, out in zip(sources, rows, strict=True):
                op.record(Gather(source, order, counter, self._stride, out))
            batch = Batch(*rows)
        executor = Executor(
            self.model, batch, training=self._training, searching=self._training and self._update is None,
            gradients=self._training,
        )  # fmt: skip
        tail = op.begin()
        op.map(lambda total, batch: total + batch, [self._total], total=self._total, batch=executor.total)
        if self._update is not None:
            self._update.record(op, self.counter)
        op.record(Advance(self.counter))
        operations = [*gather, *executor.forward, *executor.backward, *tail]
        if self._prefetch is None:
            return self.model.backend.compile(operations, times, self._expected)
        return self._prefetch.prefetching(self.model.backend.compile(operations, runs=times * self._expected), times)
