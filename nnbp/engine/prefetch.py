"""Prefetching for a data set that stays on the host: each batch is sent while the device computes with the last one.

The device holds two batches, one below the other: the *window*. A step finds its rows in the window by an order and a
counter, as it does in a data set that is entirely on the device; here the order is that of the window, and the counter
selects one of its halves. The host follows the permutation of the samples, so every batch has the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nnbp.graph.backend import Backend, Streaming, Transfer
from nnbp.graph.ops import Array
from nnbp.validation import Sparse


class Prefetch:
    """Sends the batches of host arrays to the device, in an order.

    Attributes:
        sources: the windows, (2 size, columns) on the device, one for each array.
        rows: the indices of a window's rows in order, 0, 1, …, on the device.
        half: the half of the windows that holds the batch, 0 or 1, on the device.
        order: of the samples, on the host.

    Args:
        backend: receives the batches.
        arrays: (m, columns) each, on the host, of any dtype; a `Sparse` one becomes dense batch by batch.
        size: samples per batch; the last one may be smaller.
        dtypes: of the windows.
    """

    def __init__(
        self, backend: Backend, arrays: Sequence[NDArray[Any] | Sparse], size: int, dtypes: Sequence[DTypeLike]
    ) -> None:
        self._arrays, self._size, self._sent = arrays, size, 0
        columns = [array.shape[1] for array in arrays]
        self._transfer: Transfer = (
            backend.transfer(size, columns, dtypes)
            if isinstance(backend, Streaming)
            else _Upload(backend, size, columns, dtypes)
        )
        self.sources = list(self._transfer.windows)
        self.rows = backend.upload(np.arange(2 * size), np.int64)
        self.half = backend.upload(np.zeros(1), np.int64)
        self.order = np.arange(len(arrays[0]))

    def begin(self) -> None:
        """Starts again at the first batch."""
        self._sent = 0

    def prefetching(self, run: Callable[[], None], times: int) -> Callable[[], None]:
        """A function that runs `times` steps, each on the next batch."""

        def run_all() -> None:
            for _ in range(times):
                self._send()
                run()

        return run_all

    def _send(self) -> None:
        rows = self.order[self._sent : self._sent + self._size]
        for array, into in zip(self._arrays, self._transfer.rows(), strict=True):
            _take(array, rows, into[: len(rows)])
        self.half[...] = self._transfer.send(len(rows))
        self._sent += len(rows)


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


def _take(source: NDArray[Any] | Sparse, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
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
