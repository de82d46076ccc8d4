"""GPU memory: how much is free, and a single error for all the ways in which CUDA reports that it is full."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
from numpy.typing import DTypeLike

from nnbp.errors import DeviceMemoryError

_NO_MEMORY = ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "STATUS_ALLOC_FAILED")
"""Names in the messages of CUDA's runtime, its driver and its libraries when memory is full."""


def empty(shape: int | tuple[int, ...], dtype: DTypeLike) -> Any:
    """A new array on the current GPU.

    Raises:
        DeviceMemoryError: there is no room for it.
    """
    try:
        return cupy.empty(shape, dtype)
    except Exception as error:
        if not exhausted(error):
            raise
    # CuPy caches freed memory, including memory freed by user code and blocks of other sizes.
    cupy.get_default_memory_pool().free_all_blocks()
    try:
        return cupy.empty(shape, dtype)
    except Exception as error:
        if not exhausted(error):
            raise
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        what = f"one of shape {shape} and dtype {np.dtype(dtype)}, {size / 2**20:,.1f} MiB"
        raise full(what) from error


def exhausted(error: BaseException) -> bool:
    """Whether an error reports that the GPU is out of memory."""
    if isinstance(error, cupy.cuda.memory.OutOfMemoryError):
        return True
    module = type(error).__module__.partition(".")[0]
    # It must be the library's own error, and not a user's error that quotes it.
    return module in ("cupy", "cupy_backends", "nvmath") and any(name in str(error) for name in _NO_MEMORY)


def free_and_total() -> tuple[int, int]:
    """Free and total bytes of the current GPU, within CuPy's memory limit if one is set.

    Memory that CuPy caches counts as free, because CuPy releases it when memory runs out.
    """
    free, total = map(int, cupy.cuda.runtime.memGetInfo())
    pool = cupy.get_default_memory_pool()
    free += int(pool.free_bytes())
    limit = int(pool.get_limit())
    if limit:
        free, total = max(0, min(free, limit - int(pool.used_bytes()))), min(total, limit)
    return free, total


def full(what: str) -> DeviceMemoryError:
    """The error that states what did not fit on the current GPU, how much is free and what helps."""
    free, total = free_and_total()
    return DeviceMemoryError(
        f"Arrays must fit into the memory of cuda:{cupy.cuda.runtime.getDevice()}; received {what}, but "
        f"{free / 2**20:,.1f} of {total / 2**20:,.1f} MiB are free. Take a smaller batch_size or network, free arrays "
        'of your own, check with `nvidia-smi` who else uses memory on the card, or use device="cpu".'
    )
