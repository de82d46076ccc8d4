"""Prefetching for a data set that stays on the host: each batch is sent while the device computes with the last one.

A *feed* gives the batches: `Rows` those of host arrays in an order, `nnbp.training.stream` those of an iterator.

The device holds two batches, one below the other: the *window*. A step finds its rows in the window by an order and a
counter, as it does in a data set that is entirely on the device; here the order is that of the window, and the counter
selects one of its halves. The host follows the permutation of the samples, so every batch has the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nnbp.graph.backend import Backend, Streaming, Transfer
from nnbp.graph.ops import Array
from nnbp.validation import Lazy


class Feed(Protocol):
    """Where the batches of an epoch come from, on the host."""

    def shuffle(self, generator: np.random.Generator) -> None:
        """Draws the order of the samples of the next epoch."""

    def begin(self) -> None:
        """Starts again at the first sample."""

    def take(self, into: Sequence[NDArray[Any]]) -> None:
        """Writes the next samples, as many as the arrays have rows: X, y, and w if there are weights."""

    def __iter__(self) -> Iterator[list[NDArray[Any]]]:
        """All samples in their own order, in blocks of these arrays."""


class Rows:
    """The rows of host arrays, (m, columns) each, in an order; a `Lazy` one becomes dense batch by batch."""

    def __init__(self, arrays: Sequence[NDArray[Any] | Lazy]) -> None:
        self._arrays, self._order, self._taken = arrays, np.arange(len(arrays[0])), 0

    def shuffle(self, generator: np.random.Generator) -> None:
        self._order = generator.permutation(len(self._order))

    def begin(self) -> None:
        self._taken = 0

    def __iter__(self) -> Iterator[list[NDArray[Any]]]:
        yield [np.asarray(array) for array in self._arrays]

    def take(self, into: Sequence[NDArray[Any]]) -> None:
        first, self._taken = self._taken, self._taken + len(into[0])
        for array, out in zip(self._arrays, into, strict=True):
            _take(array, self._order[first : self._taken], out)


class Prefetch:
    """Sends the batches of a feed to the device.

    Attributes:
        sources: the windows, (2 size, columns) on the device, one for each array.
        rows: the indices of a window's rows in order, 0, 1, …, on the device.
        half: the half of the windows that holds the batch, 0 or 1, on the device.
        feed: gives the batches.

    Args:
        backend: receives the batches.
        feed: gives them.
        samples: in an epoch.
        size: samples per batch; the last one may be smaller.
        columns, dtypes: of the windows.
    """

    def __init__(
        self,
        backend: Backend,
        feed: Feed,
        samples: int,
        size: int,
        columns: Sequence[int],
        dtypes: Sequence[DTypeLike],
    ) -> None:
        self.feed, self._samples, self._size, self._sent = feed, samples, size, 0
        self._transfer: Transfer = (
            backend.transfer(size, columns, dtypes)
            if isinstance(backend, Streaming)
            else _Upload(backend, size, columns, dtypes)
        )
        self.sources = list(self._transfer.windows)
        self.rows = backend.upload(np.arange(2 * size), np.int64)
        self.half = backend.upload(np.zeros(1), np.int64)

    def begin(self) -> None:
        """Starts again at the first batch."""
        self._sent = 0
        self.feed.begin()

    def prefetching(self, run: Callable[[], None], times: int) -> Callable[[], None]:
        """A function that runs `times` steps, each on the next batch."""

        def run_all() -> None:
            for _ in range(times):
                self._send()
                run()

        return run_all

    def _send(self) -> None:
        count = min(self._size, self._samples - self._sent)
        self.feed.take([into[:count] for into in self._transfer.rows()])
        self.half[...] = self._transfer.send(count)
        self._sent += count


class _Upload:
    """The transfer of a backend that has none of its own: a batch is uploaded before the step that needs it."""

    def __init__(self, backend: Backend, rows: int, columns: Sequence[int], dtypes: Sequence[DTypeLike]) -> None:
        arrays = list(zip(columns, dtypes, strict=True))
        self._upload = backend.upload
        self._host = [np.empty((rows, n), dtype) for n, dtype in arrays]
        # The second half is not used.
        self.windows: Sequence[Array] = [backend.empty((2 * rows, n), dtype) for n, dtype in arrays]

    def rows(self) -> Sequence[NDArray[Any]]:
        return self._host

    def send(self, samples: int) -> int:
        for window, host in zip(self.windows, self._host, strict=True):
            window[:samples] = self._upload(host[:samples], host.dtype)
        return 0


def _take(source: NDArray[Any] | Lazy, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
    """``out = source[rows]``."""
    if (
        isinstance(source, np.ndarray)
        and source.dtype == out.dtype
        and source.flags.c_contiguous
        and source.flags.aligned
    ):
        # Without an intermediate copy; "clip" because NumPy buffers the output if an index might be out of range.
        np.take(source, rows, 0, out, "clip")
    else:
        out[...] = source[rows]
