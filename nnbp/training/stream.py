"""Data larger than memory: blocks of samples that the user's function reads again for each epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.engine.dataset import Dataset, Unread
from nnbp.engine.ranks import ALONE, Ranks
from nnbp.errors import DataError
from nnbp.formatting import shown
from nnbp.training.data_adapter import SAMPLE, DataAdapter
from nnbp.validation import unscaled_weights, weight_shift

Batches = Callable[[], Iterable[Any]]
"""A function that returns an iterator over blocks (X, y) or (X, y, sample_weight) for one epoch."""

_SAMPLED = 2**25
"""The most elements of X in `Stream.sample`."""

Block = list[NDArray[Any]]
"""X (k, n_in), encoded targets (k, columns), and weights (k, 1) if there are any, on the host."""


class Stream:
    """A feed of samples from blocks, in their order or shuffled in a buffer.

    With a buffer of K samples, the first K samples are permuted and half of them are passed on; then the buffer is
    refilled, and so on. A sample thus moves by about K places: sorted data need a large K, or files in random order.

    Attributes:
        samples: m, the same in every epoch.
        sample: a random sample of 10,000 of them, or all if there are fewer, on which J and metrics are measured; it is
            smaller if samples have more than about 3,000 inputs.

    Args:
        batches: returns the blocks of an epoch.
        buffer: K, or 0 to keep the order.
        adapter: checks the blocks; it need not know the sizes yet.
        ranks: the ranks of the training; each reads its own samples.

    Raises:
        DataError, ShapeError, DTypeError, TypeError: a block does not fit. The first epoch is read here to check them.
    """

    def __init__(self, batches: Batches, buffer: int, adapter: DataAdapter, ranks: Ranks = ALONE) -> None:
        self._batches, self._buffer, self._adapter, self._ranks = batches, buffer, adapter, ranks
        self._generator: np.random.Generator | None = None
        self._rest: Block = []
        self._blocks: Iterator[Block] = iter(())
        self.samples, self._sum, self._taken = 0, 0.0, 0
        self._weighted: bool | None = None
        self._is_first, self._shift = True, 0
        self._scan()

    @property
    def adapter(self) -> DataAdapter:
        """The adapter; it now knows the sizes."""
        return self._adapter

    def dataset(self) -> Dataset:
        """The samples as a data set that is never in memory as a whole."""
        X, y, *w = (Unread((self.samples, array.shape[1]), array.dtype) for array in self._first)
        return Dataset(X, y, w[0] if w else None, feed=self, sum=self._sum, digest=self._digest)

    def __iter__(self) -> Iterator[Block]:
        """The checked blocks of an epoch, in their order."""
        count = 0
        for number, given in enumerate(self._read()):
            if not isinstance(given, tuple | list) or len(given) not in (2, 3):
                raise TypeError(
                    f"Each block of batches() is (X, y) or (X, y, sample_weight); received {shown(given)} as block "
                    f"{number}. Yield a tuple."
                )
            try:
                self._adapter, data = self._adapter.read(*given[:2])
                w = unscaled_weights(given[2], len(data)) if len(given) == 3 and given[2] is not None else None
                if self._is_first:
                    self._adapter.finite(data.X, first=count)
            except Exception as error:
                error.add_note(f"This is block {number} of batches(), which begins with sample {count}")
                raise
            if self._weighted not in (None, w is not None):
                raise DataError(
                    f"Either all blocks of batches() have sample weights or none; received block {number} "
                    f"{'without' if w is None else 'with'} them. Give weights of 1."
                )
            self._weighted = w is not None
            count += len(data)
            download = self._adapter.backend.download
            X = download(data.X) if self._adapter.backend.owns(data.X) else np.asarray(data.X)
            yield [X, data.y, *([] if w is None else [np.ldexp(w, self._shift).reshape(-1, 1)])]
        if self.samples not in (0, count):
            raise self._changed(count)

    def _read(self) -> Iterator[Any]:
        blocks = self._batches()
        if not isinstance(blocks, Iterable):
            raise TypeError(
                "batches is a function that returns a new iterator over blocks (X, y) for each epoch; received "
                f"{shown(blocks)} from it. Write a generator function."
            )
        return iter(blocks)

    def _scan(self) -> None:
        """Reads the first epoch: counts and samples it, sums the weights, and computes its hash."""
        total, rng, largest = hashlib.sha256(), np.random.default_rng(0), 0.0
        kept: Block = []
        size = SAMPLE
        for block in self:
            if not kept:
                self._first = [array[:0] for array in block]
                size = min(SAMPLE, max(1, _SAMPLED // block[0].shape[1]))
                kept = [np.empty((size, array.shape[1]), array.dtype) for array in block]
            for array in block:
                total.update(np.ascontiguousarray(array).data)
            # Each sample is kept with the same probability: Vitter, "Random sampling with a reservoir", 1985.
            places = np.arange(self.samples, self.samples + len(block[0]))
            later = places >= size
            places[later] = rng.integers(0, places[later] + 1)
            chosen = places < size
            for array, into in zip(block, kept, strict=True):
                into[places[chosen]] = array[chosen]
            self.samples += len(block[0])
            if self._weighted:
                largest = max(largest, float(block[2].max()))
                self._sum += float(block[2].sum())
        if not self.samples:
            raise DataError("batches() returned no block, and an epoch needs at least one sample. Yield blocks (X, y).")
        if self._weighted and not largest > 0:
            raise DataError(
                "The sample weights of all blocks are 0, so J would be 0 / 0. Give at least one weight above 0."
            )
        # The scale of the weights is the same on all ranks.
        self._shift = min(self._ranks.allgather(weight_shift(largest) if self._weighted else 0))
        self._sum = float(np.ldexp(self._sum, self._shift)) if self._weighted else float(self.samples)
        self._is_first, self._digest = False, total.hexdigest()
        X, y, *w = (array[: self.samples] for array in kept)
        weights = np.ldexp(w[0][:, 0], self._shift) if w else None
        # The encoded targets serve as targets: class indices, one-hot rows or values.
        self.sample = Dataset(X, y, None if weights is None else weights.reshape(-1, 1), y, weights)

    # The methods of `Feed`.

    def shuffle(self, generator: np.random.Generator) -> None:
        self._generator = generator if self._buffer else None

    def begin(self) -> None:
        self._blocks, self._rest, self._taken = self._mixed(), [], 0

    def take(self, into: Any) -> None:
        """Writes the next samples into arrays.

        Raises:
            DataError: the number of samples differs from that of the first epoch.
        """
        done, count = 0, len(into[0])
        while done < count:
            if not (self._rest and len(self._rest[0])):
                found = next(self._blocks, None)
                if found is None:
                    raise self._changed(self._taken)
                self._rest = found
            now = min(count - done, len(self._rest[0]))
            for array, out in zip(self._rest, into, strict=True):
                out[done : done + now] = array[:now]
            self._rest = [array[now:] for array in self._rest]
            done += now
            self._taken += now
        if self._taken == self.samples and next(self._blocks, None) is not None:
            raise self._changed(self._taken + 1)

    def _mixed(self) -> Iterator[Block]:
        """The blocks, with their samples shuffled in the buffer."""
        generator = self._generator
        if generator is None:
            yield from self
            return
        held: Block = []
        for block in self._slices():
            held = [np.concatenate(pair) for pair in zip(held, block, strict=True)] if held else block
            while len(held[0]) >= self._buffer:
                # Permutes the buffer and yields half of it; samples beyond the buffer wait.
                order = np.arange(len(held[0]))
                order[: self._buffer] = generator.permutation(self._buffer)
                half = max(1, self._buffer // 2)
                yield [array[order[:half]] for array in held]
                held = [array[order[half:]] for array in held]
        if held and len(held[0]):
            order = generator.permutation(len(held[0]))
            yield [array[order] for array in held]

    def _slices(self) -> Iterator[Block]:
        """The blocks, cut so that none is larger than the buffer: samples that wait would be copied again and again."""
        for block in self:
            for first in range(0, len(block[0]), self._buffer):
                yield [array[first : first + self._buffer] for array in block]

    def _changed(self, count: int) -> DataError:
        more = "at least " if count > self.samples else ""
        return DataError(
            f"batches() must give the same samples in every epoch, {self.samples} in the first one; received "
            f"{more}{count} later. Return a new iterator at each call: pass a generator function, and not a generator."
        )
