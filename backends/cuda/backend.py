"""The CuPy backend: operations become CUDA kernels and cuBLAS calls, and running them is a launch.

A compiled function does not allocate, wait or read values on the host. Everything runs on CuPy's current stream, so it
stays in order with the user's own CuPy code on that stream.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, final

import cupy
import numpy as np
from numpy.typing import DTypeLike, NDArray

from nnbp.graph.ops import Array, Foreign, Gemm, Operation

from . import memory
from .codegen import Launch
from .fusion import fused
from .graphs import Call, Recording, Streams, Usage
from .lowering import launches, lowered, narrowed
from .persistent import most_blocks, persistent_steps
from .prefetch import CupyTransfer

_BLOCKS = 16
"""Blocks per multiprocessor: enough to fill one with threads at the default block size."""


@final
class CupyBackend:
    """CuPy on one NVIDIA GPU.

    Args:
        index: of the device, in CuPy's numbering.
        graphs: whether steps become CUDA graphs. Otherwise the same kernels are launched one by one.
        persistent: minimum number of steps for which a small network uses a single kernel, which must be compiled at
            its first use on a machine; None is never.

    Raises:
        ImportError: nvmath-python is not installed.
        cupy.cuda.runtime.CUDARuntimeError: there is no such device, or no driver.
    """

    name = "cupy"
    xp: Any = cupy

    def __init__(self, index: int = 0, *, graphs: bool = True, persistent: int | None = 256) -> None:
        self.index, self.device = index, f"cuda:{index}"
        # As a context manager, this makes the device CuPy's current one in this thread for the duration of the block.
        self._current: Any = cupy.cuda.Device(index)
        multiprocessors = int(self._current.attributes["MultiProcessorCount"])
        self._most_blocks = _BLOCKS * multiprocessors
        self._kernels: dict[tuple[str, str], Any] = {}
        self._capability = int(self._current.compute_capability)
        self._persistent, self._blocks_in_step = persistent, most_blocks(self._capability, multiprocessors)
        self._streams, self._usage = Streams.of(index), Usage(graphs=graphs)

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        with self._current:
            return memory.empty(shape, dtype)

    def upload(self, host: NDArray[Any], dtype: DTypeLike) -> Array:
        values = np.ascontiguousarray(host, dtype)
        array = self.empty(values.shape, dtype)
        with self._current:
            array.set(values)
            # The caller may change or free the host array immediately.
            cupy.cuda.get_current_stream().synchronize()
        return array

    def download(self, array: Array) -> NDArray[Any]:
        with self._current:
            host: NDArray[Any] = array.get()
            return host

    def owns(self, array: object) -> bool:
        return isinstance(array, cupy.ndarray) and array.device.id == self.index

    def random_stream(self, key: tuple[int, int]) -> PhiloxStream:
        return PhiloxStream(self, key)

    def compile(self, operations: Sequence[Operation], times: int = 1, runs: int = 1) -> Callable[[], None]:
        """A CUDA graph of the operations, of fewer kernels than there are operations; see `fusion.py` and `graphs.py`.

        Small steps that run many times become a single kernel; see `persistent.py`. Products use cuBLAS, in full
        precision unless requested otherwise, provided that NVIDIA_TF32_OVERRIDE is not set.
        """
        operations = lowered(operations, self._capability)
        if self._persistent is not None and times * runs >= self._persistent:
            steps = self._persistent_steps(operations, times)
            if steps is not None:
                return Recording([self._bound(item) for item in steps], 1, self._streams, self._usage)
        joined = fused(narrowed(operations, self.empty))
        calls = [self._bound(item) for operation in joined for item in launches(operation, self.empty)]
        return Recording(calls, times, self._streams, self._usage)

    def _persistent_steps(self, operations: Sequence[Operation], times: int) -> list[Launch] | None:
        """The steps as one kernel. If the card cannot launch clusters, this and all later kernels use one block."""
        steps = persistent_steps(operations, times, self._blocks_in_step, self.empty)
        if steps is None or steps[0].size == 1:
            return steps
        # Whether the blocks can be launched together is tested by a launch of 0 steps.
        function, arguments = self._bound(replace(steps[0], arguments=(np.int32(0), *steps[0].arguments[1:])))
        try:
            with self._current:
                function(*arguments)
        except cupy.cuda.driver.CUDADriverError as refused:
            if memory.exhausted(refused):
                raise
            warnings.warn(
                f"{self.device} cannot run a cluster of {steps[0].size} blocks ({refused}), so the steps of small "
                "networks run on one block, which may take longer but is equally accurate. A part of a card (MIG), or "
                "a limit on the multiprocessors of a process (MPS), may leave no room for a cluster.",
                RuntimeWarning,
                stacklevel=2,
            )
        else:
            return steps
        self._blocks_in_step = 1
        return persistent_steps(operations, times, 1, self.empty)

    def _bound(self, item: Launch | Gemm | Foreign) -> Call:
        match item:
            case Gemm(a, b, out, precision):
                # The arrays must stay alive because the call has only their addresses.
                return _multiply, (*self._streams.cublas.bind(a, b, out, precision), (a, b, out))
            case Foreign(function, arguments):
                return function, arguments
        key = item.name, item.source
        if key not in self._kernels:
            with self._current:
                self._kernels[key] = cupy.RawKernel(item.source, item.name).kernel
        blocks = min(-(-item.size // item.turns), self._most_blocks)
        return self._kernels[key], ((blocks,), (item.block,), item.arguments)

    def synchronize(self) -> None:
        self._current.synchronize()

    def memory(self) -> tuple[int, int]:
        with self._current:
            return memory.free_and_total()

    def transfer(self, rows: int, columns: Sequence[int], dtypes: Sequence[DTypeLike]) -> CupyTransfer:
        with self._current:
            return CupyTransfer(rows, columns, dtypes)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Makes the device current and converts all out-of-memory errors of CUDA and its libraries to one error.

        This covers memory that is not allocated by `empty`: by operators and functions of CuPy, which has then already
        freed its cached memory and tried again, and by kernels, graphs and cuBLAS.
        """
        with self._current, np.errstate(all="ignore"):
            self._usage.follow()
            try:
                yield
            except Exception as error:
                if not memory.exhausted(error):
                    raise
                raise memory.full(f"an operation for which there was none: {error}") from error
            finally:
                self._usage.leave()


def _multiply(function: Callable[..., None], arguments: tuple[Any, ...], alive: tuple[Any, ...]) -> None:
    """Runs a product; `alive` keeps the arrays alive whose addresses are in the arguments."""
    function(*arguments)


@final
class PhiloxStream:
    """Uniform float32 numbers from NumPy's Philox4x64-10, with the position stored on the device."""

    def __init__(self, backend: CupyBackend, key: tuple[int, int]) -> None:
        self._backend = backend
        self.key = key
        self.state = backend.upload(np.zeros(1), np.int64)

    @property
    def position(self) -> int:
        """The number of values drawn so far; waits for the device."""
        return int(self._backend.download(self.state)[0])

    @position.setter
    def position(self, position: int) -> None:
        # In place, so that calls bound earlier continue from the new position.
        with self._backend.active():
            self.state[...] = self._backend.upload(np.array([position]), np.int64)
