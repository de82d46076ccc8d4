"""The memory of a GPU: how much is free, and the one error for all the ways in which CUDA says that it is full."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
from numpy.typing import DTypeLike

from nnbp.errors import DeviceMemoryError

_NO_MEMORY = ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "STATUS_ALLOC_FAILED")
"""What CUDA's runtime, its driver and its libraries begin or end their messages with."""


def empty(shape: int | tuple[int, ...], dtype: DTypeLike, device: str) -> Any:
    """A new array on the current GPU, whose name is `device`.

    Raises:
        DeviceMemoryError: there is no room for it.
    """
    try:
        return cupy.empty(shape, dtype)
    except Exception as error:
        if not exhausted(error):
            raise
    # CuPy keeps freed memory for reuse, also what user code freed, and that of other sizes.
    cupy.get_default_memory_pool().free_all_blocks()
    try:
        return cupy.empty(shape, dtype)
    except Exception as error:
        if not exhausted(error):
            raise
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        what = f"one of shape {shape} and dtype {np.dtype(dtype)}, {size / 2**20:,.1f} MiB"
        raise full(device, what) from error


def exhausted(error: BaseException) -> bool:
    """Whether an error says that the GPU has no more memory."""
    if isinstance(error, cupy.cuda.memory.OutOfMemoryError):
        return True
    module = type(error).__module__.partition(".")[0]
    # A library's own error, and not one of the user's that quotes it.
    return module in ("cupy", "cupy_backends", "nvmath") and any(name in str(error) for name in _NO_MEMORY)


def free_and_total() -> tuple[int, int]:
    """Bytes of the current GPU that an array could have, and all of them, within the limit that CuPy was given.

    What CuPy keeps for reuse is free: it gives it back when memory is short.
    """
    free, total = map(int, cupy.cuda.runtime.memGetInfo())
    pool = cupy.get_default_memory_pool()
    free += int(pool.free_bytes())
    limit = int(pool.get_limit())
    if limit:
        free, total = max(0, min(free, limit - int(pool.used_bytes()))), min(total, limit)
    return free, total


def full(device: str, what: str) -> DeviceMemoryError:
    """The error that says what did not fit on the device that is current, how much is free and what helps."""
    free, total = free_and_total()
    return DeviceMemoryError(
        f"Arrays have to fit into the memory of {device}; received {what}, where {free / 2**20:,.1f} of "
        f"{total / 2**20:,.1f} MiB are free. Take a smaller batch_size or network, free arrays of your own, look with "
        '`nvidia-smi` who else holds memory of the card, or use device="cpu".'
    )
