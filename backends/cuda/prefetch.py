"""Transfer of batches to a GPU: from pinned memory, on a separate stream, while the GPU computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import cupy
import numpy as np
from numpy.typing import DTypeLike, NDArray

from nnbp.errors import DeviceMemoryError

from . import memory


@final
class CupyTransfer:
    """Two halves that are used alternately; see `nnbp.graph.backend.Transfer`.

    Two events guard each half. `read` is recorded after the last computation that uses its contents, and the next copy
    into it waits for this event. `sent` is recorded after the copy; the computation waits for it, and so does the host
    before it writes to the pinned memory again. The host is therefore at most two batches ahead.

    The device must be current during construction and in all methods.

    Args:
        rows: maximum number of samples per batch.
        columns: number of columns of each array.
        dtypes: of each array.
    """

    def __init__(self, rows: int, columns: Sequence[int], dtypes: Sequence[DTypeLike]) -> None:
        arrays = [(n, np.dtype(dtype)) for n, dtype in zip(columns, dtypes, strict=True)]
        self.windows = [memory.empty((2 * rows, n), dtype) for n, dtype in arrays]
        self._staging = [[_pinned((rows, n), dtype) for n, dtype in arrays] for _ in range(2)]
        self._copying = cupy.cuda.Stream(non_blocking=True)
        self._read, self._sent = ([cupy.cuda.Event(disable_timing=True) for _ in range(2)] for _ in range(2))
        # The windows may reuse memory of arrays that the device is still computing with.
        for read in self._read:
            read.record(cupy.cuda.get_current_stream())
        self._half = 0

    def rows(self) -> list[NDArray[Any]]:
        self._sent[self._half].synchronize()
        return self._staging[self._half]

    def send(self, samples: int) -> int:
        half, computing = self._half, cupy.cuda.get_current_stream()
        # All computation with the other half was submitted before this call.
        self._read[1 - half].record(computing)
        self._copying.wait_event(self._read[half])
        for window, staging in zip(self.windows, self._staging[half], strict=True):
            row = staging.itemsize * staging.shape[1]
            cupy.cuda.runtime.memcpyAsync(
                window.data.ptr + half * len(staging) * row, staging.ctypes.data, samples * row,
                cupy.cuda.runtime.memcpyHostToDevice, self._copying.ptr,
            )  # fmt: skip
        self._sent[half].record(self._copying)
        computing.wait_event(self._sent[half])
        self._half = 1 - half
        return half


def _pinned(shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A host array that the device can copy from on its own, while the host continues."""
    size = shape[0] * shape[1]
    try:
        pinned = cupy.cuda.alloc_pinned_memory(size * dtype.itemsize)
    except Exception as error:
        if not memory.exhausted(error):
            raise
        raise DeviceMemoryError(
            "Batches of data that stay on the host are sent from pinned memory of the host; received one of shape "
            f"{shape}, {size * dtype.itemsize / 2**20:,.1f} MiB, for which there is none. Take a smaller batch_size."
        ) from error
    return np.frombuffer(pinned, dtype, size).reshape(shape)
