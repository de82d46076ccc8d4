"""The CuPy backend without CuPy: the part of CuPy that it touches, with kernels compiled by g++ and cuBLAS in NumPy.

Streams and graphs are there, too: while a stream captures, launches are kept and not run, and what CUDA then forbids
fails.

What it proves is the backend's own work: kernels, arguments, launches, layouts. CuPy's and CUDA's it cannot prove.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock
from weakref import WeakValueDictionary

import nnbp.backends.cuda
import nnbp.backends.cuda.persistent  # known before the emulation is loaded, and so the same to both
import numpy as np
from kernel_samples import blas, function_of


class EmulatedArray(np.ndarray):
    """An array as CuPy has it: with an address, a device and ways to and from the host."""

    @property
    def __cuda_array_interface__(self) -> Any:
        return {**self.__array_interface__, "version": 3}

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.__array_interface__["data"][0])

    @property
    def device(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(id=0)

    def get(self) -> np.ndarray:
        Stream.forbid("a copy to the host")
        return np.array(self)

    def set(self, values: np.ndarray) -> None:
        Stream.forbid("a copy from the host")
        assert type(values) is np.ndarray
        assert (values.dtype, values.shape) == (self.dtype, self.shape)
        self[...] = values


class OutOfMemoryError(MemoryError):
    """CuPy's own error."""


class Device:
    """A context that makes the device the current one."""

    depth = 0
    attributes = {"MultiProcessorCount": 2}  # noqa: RUF012
    compute_capability = "80"
    clusters = True
    """Whether blocks of a cluster find room."""

    def __init__(self, index: int) -> None:
        if index != 0:
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    def __enter__(self) -> Device:
        Device.depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        Device.depth -= 1

    def synchronize(self) -> None:
        Stream.forbid("waiting for the device")

    @property
    def mem_info(self) -> tuple[int, int]:
        return _memory()


class CUDARuntimeError(RuntimeError):
    """CuPy's own error."""


class CUDADriverError(RuntimeError):
    """CuPy's own error."""


class Graph:
    """Launches that were captured."""

    launched = 0

    def __init__(self, kept: list[tuple[Callable[..., None], tuple[Any, ...]]]) -> None:
        self.kept = kept

    def launch(self) -> None:
        assert Device.depth, "launched where the device is not the current one"
        Graph.launched += 1
        for function, arguments in self.kept:
            function(*arguments)


class Stream:
    """A stream; the null stream has the address 0."""

    stack: list[Stream] = []  # noqa: RUF012
    addresses = iter(range(1000, 100_000))
    known: WeakValueDictionary[int, Stream] = WeakValueDictionary()  # noqa: RUF012

    def __init__(self, non_blocking: bool = True) -> None:
        self.ptr = next(Stream.addresses)
        self.kept: list[Any] | None = None
        self.broken = False
        self.copies: list[Callable[[], None]] = []
        Stream.known[self.ptr] = self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self) -> int:
        return self.ptr

    def __enter__(self) -> Stream:
        Stream.stack.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        Stream.stack.pop()

    def begin_capture(self) -> None:
        self.kept, self.broken = [], False

    def end_capture(self) -> Graph:
        kept, self.kept = self.kept, None
        if self.broken or kept is None:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated: operation failed due to a previous error")
        return Graph(kept)

    def synchronize(self) -> None:
        Stream.forbid("waiting for a stream")

    def wait_event(self, event: Event) -> None:
        event.synchronize()

    @staticmethod
    def current() -> Stream:
        return Stream.stack[-1] if Stream.stack else _NULL

    @staticmethod
    def forbid(what: str) -> None:
        stream = Stream.current()
        if stream.kept is not None:
            stream.broken = True
            raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: {what} while a stream captures")


class ExternalStream(Stream):
    """Another object for a stream that exists."""

    def __init__(self, ptr: int) -> None:
        super().__init__()
        self.ptr = ptr


class Event:
    """A place in what a stream does; copies are made as late as somebody waits for them."""

    def __init__(self, disable_timing: bool = False) -> None:
        self._copies: list[Callable[[], None]] = []
        self.recorded: Stream | None = None

    def record(self, stream: Stream) -> None:
        self.recorded = stream
        self._copies, stream.copies = [*self._copies, *stream.copies], []

    def synchronize(self) -> None:
        for copy in self._copies:
            copy()
        self._copies = []


def _copy_async(to: int, of: int, size: int, kind: int, stream: int) -> None:
    assert Device.depth, "copied where the device is not the current one"
    assert kind == 1
    Stream.known[stream].copies.append(partial(ctypes.memmove, to, of, size))


_NULL = Stream()
_NULL.ptr = 0


class RawKernel:
    """A kernel of which the compiled function is asked for."""

    compiled: list[str] = []  # noqa: RUF012

    def __init__(self, code: str, name: str) -> None:
        RawKernel.compiled.append(code)
        function = _on_device(function_of(code, name))

        def kernel(*arguments: Any) -> None:
            if "__cluster_dims__" in code and not Device.clusters:
                raise CUDADriverError("CUDA_ERROR_INVALID_CLUSTER_SIZE: invalid cluster size")
            function(*arguments)

        self.kernel: Any = kernel
        self.kernel.kernel_name = name


def _on_device(function: Callable[..., None]) -> Callable[..., None]:
    def launch(*arguments: Any) -> None:
        assert Device.depth, "launched where the device is not the current one"
        kept = Stream.current().kept
        if kept is None:
            function(*arguments)
        else:
            kept.append((function, arguments))

    return launch


class Cublas:
    """NVIDIA's bindings, with one handle, which remembers its stream and its workspace."""

    stream: int | None = None
    workspace: tuple[int, int] | None = None

    @staticmethod
    def create() -> int:
        return 1

    @staticmethod
    def destroy(handle: int) -> None:
        assert handle == 1

    @staticmethod
    def set_stream(handle: int, stream: int) -> None:
        Cublas.stream, Cublas.workspace = stream, None

    @staticmethod
    def set_workspace(handle: int, address: int, size: int) -> None:
        Cublas.workspace = address, size

    @staticmethod
    def _check(handle: int) -> None:
        assert handle == 1
        assert Cublas.stream == Stream.current().ptr, "a product on another stream"
        assert Cublas.workspace is not None, "a product without a workspace would take memory"

    @staticmethod
    def gemm_ex(handle, transb, transa, m, n, k, alpha, b, kb, ldb, a, ka, lda, beta, c, kc, ldc, compute, algorithm):
        Cublas._check(handle)
        assert (ka, kc, algorithm) == (kb, 0, -1)
        assert compute == {0: 77, 14: 68}[ka]
        assert ctypes.c_float.from_address(alpha).value == 1
        assert ctypes.c_float.from_address(beta).value == 0
        dtype = np.dtype(np.uint16 if ka == 14 else np.float32)
        rounded = _of_bfloat16 if ka == 14 else _to_tf32
        run = partial(blas, np.dtype(np.float32), factors=dtype, read=rounded)
        _on_device(run)(transb, transa, m, n, k, b, ldb, a, lda, c, ldc)


def _gemm(kind: type[ctypes.c_float] | type[ctypes.c_double]) -> Callable[..., None]:
    def run(handle, transb, transa, m, n, k, alpha, b, ldb, a, lda, beta, c, ldc):
        Cublas._check(handle)
        assert (kind.from_address(alpha).value, kind.from_address(beta).value) == (1, 0)
        _on_device(partial(blas, np.dtype(kind)))(transb, transa, m, n, k, b, ldb, a, lda, c, ldc)

    return run


def _of_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _to_tf32(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)


class Memory:
    """Room on the device, and what CuPy keeps of it."""

    limit = 2**24
    """Bytes that one array can have."""

    allocator: Callable[[int], Any] | None = None
    """What takes memory in place of the pool."""

    kept = 0
    """Bytes of the limit that are taken until `free_all_blocks` is called."""

    free = 2**24
    """The most that is told to be free."""

    used = 0
    """Bytes that CuPy has handed out, as its pool tells it."""

    pool_limit = 0
    """The most that CuPy was told to hand out; 0 is no limit."""

    allocations = 0
    """How many arrays were made so far."""

    refused: int | None = None
    """The one of them, counted from 1, that finds no room."""

    @staticmethod
    def free_all_blocks() -> None:
        Memory.kept = 0

    @staticmethod
    def free_bytes() -> int:
        return Memory.kept

    @staticmethod
    def used_bytes() -> int:
        return Memory.used

    @staticmethod
    def get_limit() -> int:
        return Memory.pool_limit

    @staticmethod
    def take(size: int) -> None:
        """What every new array asks for."""
        if Memory.allocator is not None:
            Memory.allocator(size)
        Memory.allocations += 1
        if size > Memory.limit - Memory.kept or Memory.allocations == Memory.refused:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes")


def _empty(shape: int | tuple[int, ...], dtype: Any) -> EmulatedArray:
    assert Device.depth, "allocated where the device is not the current one"
    Memory.take(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    array = np.empty(shape, dtype)
    array.fill(np.nan if array.dtype.kind == "f" else 77)
    return array.view(EmulatedArray)


@contextmanager
def _using_allocator(allocator: Callable[[int], Any]) -> Iterator[None]:
    Memory.allocator = allocator
    try:
        yield
    finally:
        Memory.allocator = None


def _memory() -> tuple[int, int]:
    return min(Memory.free, Memory.limit - Memory.kept), Memory.limit


def _solve(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A⁻¹ b; unlike NumPy, CuPy raises no error if A is singular."""
    try:
        return np.linalg.solve(A, b)
    except np.linalg.LinAlgError:
        return np.full_like(b, np.nan)


@cache
def modules() -> dict[str, ModuleType]:
    """CuPy and nvmath-python as far as they are emulated, by their names in `sys.modules`."""
    names = ("cupy", "cupy.cuda", "nvmath", "nvmath.bindings")
    found = {name: ModuleType(name) for name in names}
    cupy, cuda = (found[name] for name in names[:2])

    def of_numpy(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return emulated(name, getattr(np, name))

    def emulated(name: str, function: Callable[..., Any]) -> Callable[..., Any]:

        def call(*arguments: Any, **options: Any) -> Any:
            if Stream.current().kept is not None:
                if len(arguments) != 3 or options:
                    Stream.forbid(f"cupy.{name} with a new array")
                return _on_device(function)(*arguments)
            result = function(*arguments, **options)
            if not any(result is given for given in (*arguments, options.get("out"))) and isinstance(
                result, np.ndarray
            ):
                Memory.take(result.nbytes)
            # What is a scalar in NumPy is an array on the device in CuPy.
            return np.asarray(result).view(EmulatedArray) if isinstance(result, np.ndarray | np.generic) else result

        return call

    cupy.__getattr__ = of_numpy  # type: ignore[method-assign]
    cupy.__dict__.update(
        cuda=cuda, ndarray=EmulatedArray, empty=_empty, RawKernel=RawKernel, get_default_memory_pool=lambda: Memory,
        asnumpy=np.array, clear_memo=lambda: None, linalg=SimpleNamespace(solve=emulated("linalg.solve", _solve)),
        # Of the probe.
        ElementwiseKernel=lambda *_: lambda x: 2 * x - 1,
    )  # fmt: skip
    cuda.__dict__.update(
        Device=Device,
        Stream=Stream,
        using_allocator=_using_allocator,
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        driver=SimpleNamespace(CUDADriverError=CUDADriverError),
        nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)),
        runtime=SimpleNamespace(
            getDevice=lambda: 0,
            getDeviceCount=lambda: 1,
            getDeviceProperties=lambda index: {"name": b"emulated GPU"},
            driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 13000,
            memGetInfo=_memory,
            memcpyAsync=_copy_async,
            memcpyHostToDevice=1,
        ),
        alloc_pinned_memory=lambda size: bytearray(max(512, size)),
        Event=Event,
        get_current_stream=Stream.current,
    )
    for name, kind in (("sgemm", ctypes.c_float), ("dgemm", ctypes.c_double)):
        setattr(Cublas, name, staticmethod(_gemm(kind)))
    found["nvmath.bindings"].__dict__.update(cublas=Cublas)
    return found


@cache
def emulated_backend_class() -> Callable[..., Any]:
    """The class CupyBackend, loaded once more, on the emulation; the true module stays as it is."""
    (folder,) = nnbp.backends.cuda.__path__
    spec = spec_from_file_location("nnbp.backends.cuda.emulated_backend", f"{folder}/backend.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    with mock.patch.dict(sys.modules, modules()):
        # It uses CuPy as well; the true one comes back with the end of the block.
        for name in ("graphs", "memory", "prefetch"):
            sys.modules.pop(f"nnbp.backends.cuda.{name}", None)
        spec.loader.exec_module(module)
    opened = module.CupyBackend.__init__

    def emulated_init(*arguments: Any, **options: Any) -> None:
        """Opening the device imports cuBLAS; here it finds the emulation."""
        with mock.patch.dict(sys.modules, modules()):
            opened(*arguments, **options)

    module.CupyBackend.__init__ = emulated_init
    found: Callable[..., Any] = module.CupyBackend
    return found
