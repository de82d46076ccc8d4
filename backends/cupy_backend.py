"""The engine on CuPy: every operation is bound to a CUDA kernel or a cuBLAS call, and running it is a launch.

What is bound allocates nothing, waits for nothing and reads nothing on the host. Everything runs on the stream that is
CuPy's current one, so it stays in order with what the user's own CuPy code does there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import cupy
import numpy as np
from cupy.cuda import device as cuda_device
from numpy.typing import DTypeLike, NDArray

from nnbp.backend import Array, Calls
from nnbp.errors import DeviceMemoryError
from nnbp.expression import Formula

from . import kernel_source
from .kernel_source import Launch

__all__ = ["CupyBackend"]

_THREADS = 128
"""Threads of a block."""

_BLOCKS = 16
"""Blocks of a multiprocessor: as many of these threads as one can hold."""


@final
class CupyBackend:
    """CuPy on one NVIDIA GPU.

    Args:
        index: of the device, as CuPy counts.

    Raises:
        cupy.cuda.runtime.CUDARuntimeError: there is no such device, or no driver.
    """

    name = "cupy"
    xp: Any = cupy

    def __init__(self, index: int = 0) -> None:
        self.index, self.device = index, f"cuda:{index}"
        # As a context, this makes the device CuPy's current one, in the thread and for the time of the block.
        self._current: Any = cupy.cuda.Device(index)
        self._most_blocks = _BLOCKS * int(self._current.attributes["MultiProcessorCount"])
        self._kernels: dict[tuple[str, str], Any] = {}
        # α = 1 and β = 0 of every product; cuBLAS reads them on the host, at each call.
        self._factors = {np.dtype(t): np.array([1, 0], t) for t in (np.float32, np.float64)}

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        with self._current:
            try:
                return cupy.empty(shape, dtype)
            except cupy.cuda.memory.OutOfMemoryError:
                # CuPy keeps freed memory for reuse, also what user code freed.
                cupy.get_default_memory_pool().free_all_blocks()
            try:
                return cupy.empty(shape, dtype)
            except cupy.cuda.memory.OutOfMemoryError as error:
                size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
                free, total = self.memory()
                raise DeviceMemoryError(
                    f"Arrays have to fit into the memory of {self.device}; received one of shape {shape} and dtype "
                    f"{np.dtype(dtype)}, {size / 2**20:,.1f} MiB, where {free / 2**20:,.1f} of {total / 2**20:,.1f} "
                    'MiB are free. Take a smaller batch_size or network, free arrays of your own, or use device="cpu".'
                ) from error

    def upload(self, host: NDArray[Any], dtype: DTypeLike) -> Array:
        values = np.ascontiguousarray(host, dtype)
        array = self.empty(values.shape, dtype)
        with self._current:
            array.set(values)
            # The caller may change or free the host array at once.
            cupy.cuda.get_current_stream().synchronize()
        return array

    def download(self, array: Array) -> NDArray[Any]:
        with self._current:
            host: NDArray[Any] = array.get()
            return host

    def owns(self, array: object) -> bool:
        return isinstance(array, cupy.ndarray) and array.device.id == self.index

    def gemm(self, a: Array, b: Array, out: Array) -> Calls:
        """cuBLAS's sgemm or dgemm: full precision, as long as nobody asks cuBLAS itself for TF32."""
        transb, transa, m, n, k, ldb, lda, ldc = kernel_source.gemm(a, b, out)
        if not m or not n:
            return []
        if not k:
            return [(out.fill, (0,))]
        # Here, not above: it loads cuBLAS, and this module is importable where there is none.
        from cupy_backends.cuda.libs import cublas

        factors = self._factors[out.dtype]
        alpha = factors.ctypes.data
        beta = alpha + factors.itemsize
        arguments = transb, transa, m, n, k, alpha, b.data.ptr, ldb, a.data.ptr, lda, beta, out.data.ptr, ldc
        with self._current:
            # The first use of cuBLAS in a thread allocates its workspace; later ones only launch.
            cuda_device.get_cublas_handle()
        function = cublas.sgemm if out.dtype == np.float32 else cublas.dgemm
        return [(_multiply, (function, arguments, (a, b, out, factors)))]

    def elementwise(self, formula: Formula, inputs: Sequence[Array], outputs: Sequence[Array]) -> Calls:
        """One kernel, compiled when first bound: once for a formula, its dtypes and the layout of its operands."""
        return self._bind(kernel_source.elementwise(formula, inputs, outputs))

    def maximum_rows(self, a: Array, out: Array) -> Calls:
        return self._bind(kernel_source.maximum_rows(a, out))

    def gather(self, source: Array, order: Array, counter: Array, stride: int, out: Array) -> Calls:
        return self._bind(kernel_source.gather(source, order, counter, stride, out))

    def random_stream(self, key: tuple[int, int]) -> PhiloxStream:
        return PhiloxStream(self, key)

    def uniform(self, stream: Any, out: Array) -> Calls:
        fill = self._bind(kernel_source.uniform(stream.state, stream.key, out))
        return fill + self._bind(kernel_source.advance(stream.state, out.size))

    def capture(self, calls: Calls) -> Callable[[], None]:
        """A function that launches the calls one by one, in order, on the stream that is current when it runs.

        No CUDA graph is made of them: CuPy lets no cuBLAS call into one.
        """

        def run() -> None:
            with self._current:
                for function, arguments in calls:
                    function(*arguments)

        return run

    def synchronize(self) -> None:
        self._current.synchronize()

    def memory(self) -> tuple[int, int]:
        """Free and total memory of the GPU, in bytes."""
        with self._current:
            free, total = cupy.cuda.runtime.memGetInfo()
        return int(free), int(total)

    @contextmanager
    def active(self) -> Iterator[None]:
        with self._current, np.errstate(all="ignore"):
            yield

    def _bind(self, launch: Launch) -> Calls:
        if not launch.size:
            return []
        key = launch.name, launch.source
        if key not in self._kernels:
            with self._current:
                self._kernels[key] = cupy.RawKernel(launch.source, launch.name).kernel
        blocks = min(-(-launch.size // _THREADS), self._most_blocks)
        return [(self._kernels[key], ((blocks,), (_THREADS,), launch.arguments))]


def _multiply(function: Callable[..., None], arguments: tuple[int, ...], alive: tuple[Any, ...]) -> None:
    """Runs a product; `alive` are the arrays whose addresses stand in the arguments."""
    # cuBLAS handles belong to a thread and a device.
    function(cuda_device.get_cublas_handle(), *arguments)


@final
class PhiloxStream:
    """Uniform float32 numbers of NumPy's Philox4x64-10, whose position is kept on the device."""

    def __init__(self, backend: CupyBackend, key: tuple[int, int]) -> None:
        self._backend = backend
        self.key = key
        self.state = backend.upload(np.zeros(1), np.int64)

    @property
    def position(self) -> int:
        """How many numbers were drawn so far; waits for the device."""
        return int(self._backend.download(self.state)[0])

    @position.setter
    def position(self, position: int) -> None:
        # In place: calls that were bound before go on from the new position.
        with self._backend.active():
            self.state[...] = self._backend.upload(np.array([position]), np.int64)
