"""Steps on a GPU as CUDA graphs: the first run launches kernel by kernel, later ones launch a recorded graph.

For the CPU, a graph of all kernels of a step is a single launch; without it, each kernel is a launch.
"""

from __future__ import annotations

import gc
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import RLock
from typing import Any, ClassVar, TypeAlias, TypeVar

import cupy
import numpy as np

from nnbp.errors import NnbpError

from . import memory
from .cublas import Cublas

T = TypeVar("T")

Call: TypeAlias = tuple[Callable[..., object], tuple[Any, ...]]
"""A launch: a function and its bound arguments."""

_STEPS = 16
"""Steps in one graph, if at least as many remain to be run."""

_STREAMS = 4
"""Number of most recently used streams whose workspaces and graphs are kept: a workspace takes 32 MiB on Hopper."""

_PER_THREAD = 2
"""The handle of CUDA's per-thread default stream."""


class Streams:
    """The resources that all recordings on a device share: cuBLAS, its workspaces, and the stream for graph capture.

    Work on one stream is done in order, so products on the same stream can share a workspace, and products on different
    streams cannot. Methods must be called while the device is current, by one thread at a time.

    Attributes:
        device: the context in which the device is current.
        cublas: runs the products.
        lock: ensures that only one thread calls the methods, since networks in several threads share a device.

    Args:
        index: of the device.
    """

    _of: ClassVar[weakref.WeakValueDictionary[int, Streams]] = weakref.WeakValueDictionary()

    def __init__(self, index: int) -> None:
        self.device, self.lock = cupy.cuda.Device(index), RLock()
        with self.device:
            self.cublas = Cublas(int(self.device.compute_capability))
        self._workspaces: OrderedDict[int, Any] = OrderedDict()
        self._capturing: Any = None

    @classmethod
    def of(cls, index: int) -> Streams:
        """The shared object of a device, which is freed with its last user: handle and workspaces use GPU memory."""
        found = cls._of.get(index)
        if found is None:
            found = cls._of[index] = cls(index)
        return found

    def workspace(self, stream: Any) -> Any:
        """The memory that cuBLAS may use on the current stream. A graph that uses it keeps it alive, too."""
        return _recent(self._workspaces, int(stream.ptr), lambda: memory.empty(self.cublas.bytes, np.uint8))

    def use(self, stream: Any) -> None:
        """Sends products to the current stream."""
        self.cublas.use(int(stream.ptr), self.workspace(stream).data.ptr)

    def captured(self, calls: Sequence[Call], times: int, stream: Any) -> Graph:
        """A graph of `times` runs of the calls, to be launched on a stream.

        Raises:
            CaptureError: the calls cannot be captured.
        """
        if self._capturing is None:
            self._capturing = cupy.cuda.Stream(non_blocking=True)
        # Not while the other stream is current: CuPy keeps freed memory for the stream that it was taken on.
        workspace = self.workspace(stream)
        with self._capturing as capturing, _no_collection():
            self.cublas.use(int(capturing.ptr), workspace.data.ptr)
            capturing.begin_capture()
            try:
                with cupy.cuda.using_allocator(_refuse):
                    for _ in range(times):
                        for function, arguments in calls:
                            function(*arguments)
                return Graph(capturing.end_capture(), workspace)
            except BaseException as error:
                # Even after Ctrl-C, because otherwise the stream would stay in capture mode.
                with suppress(Exception):
                    capturing.end_capture()
                if not isinstance(error, Exception) or memory.exhausted(error):
                    raise
                raise CaptureError(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True, eq=False)
class Graph:
    """A recorded step, and the workspace whose address its products contain."""

    recorded: Any
    workspace: Any


def _recent(kept: OrderedDict[int, T], stream: int, make: Callable[[], T]) -> T:
    """The item of a stream, created if necessary; only those of the most recently used streams are kept.

    Streams are identified by their handles, as in CuPy, because Python objects for the same stream come and go.
    """
    found = kept.pop(stream, None)
    kept[stream] = item = make() if found is None else found
    while len(kept) > _STREAMS:
        kept.popitem(last=False)
    return item


class CaptureError(Exception):
    """The reason why a graph cannot be captured."""


def _refuse(size: int) -> Any:
    # CuPy would reuse the memory after the call, but the graph would continue to use it.
    raise RuntimeError(f"a call takes {size} bytes of memory while a graph is made of it")


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pauses Python's cycle collection: destroying a cuBLAS handle waits for the device, which ends a capture."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class Usage:
    """How one backend uses its device: with graphs or without, and on which streams.

    Each of its networks has only one set of buffers, so work on different streams must be kept in order.

    Attributes:
        graphs: whether to make graphs.
    """

    def __init__(self, *, graphs: bool) -> None:
        self.graphs, self._told = graphs, False
        self._used: dict[int, Any] = {}
        self._lock = RLock()

    def tell(self, reason: CaptureError) -> None:
        """Warns once that steps are not recorded, with the reason."""
        if not self._told:
            self._told = True
            warnings.warn(
                f"Steps of this network are launched kernel by kernel, and not as one CUDA graph: something in a step "
                f"cannot be recorded ({reason}). A custom layer may read values on the host or allocate memory "
                "while it runs; let it allocate its buffers when it is connected.",
                RuntimeWarning,
                stacklevel=2,
            )

    def follow(self) -> None:
        """Makes the current stream wait for earlier work on other streams.

        Raises:
            NnbpError: the current stream is CUDA's per-thread default stream.
        """
        current = cupy.cuda.get_current_stream()
        if current.ptr == _PER_THREAD:
            raise NnbpError(
                "Networks run on streams that all threads share; received CUDA's per-thread default stream. Unset "
                "CUPY_CUDA_PER_THREAD_DEFAULT_STREAM, or use a cupy.cuda.Stream()."
            )
        with self._lock:
            for key, other in self._used.items():
                if key != current.ptr:
                    event = cupy.cuda.Event(disable_timing=True)
                    event.record(other)
                    current.wait_event(event)
            # The current stream now waits for all others, so only it has to be remembered.
            self._used = {current.ptr: current}

    def leave(self) -> None:
        """Records the current stream again: another thread may have used a different one in the meantime."""
        current = cupy.cuda.get_current_stream()
        with self._lock:
            self._used[current.ptr] = current


class Recording:
    """Runs calls `times` times, on the stream that is current when it is called.

    The first run launches the calls one by one, which also loads everything that CUDA loads on first use. The graph is
    made after the first run, or after the second if `times` is 1: a graph is not worthwhile for only two runs.

    Args:
        calls: in order; they must not allocate or wait.
        times: how often all of them run in each call.
        streams: the shared resources of the device.
        usage: of the backend.
    """

    def __init__(self, calls: Sequence[Call], times: int, streams: Streams, usage: Usage) -> None:
        self.calls, self.times, self._streams, self._usage = calls, times, streams, usage
        self._recorded = usage.graphs
        # Keyed by stream and by the number of steps.
        self._graphs: OrderedDict[int, dict[int, Graph]] = OrderedDict()
        self._by_hand = 1 if times > 1 else 2

    def __call__(self) -> None:
        with self._streams.lock, self._streams.device:
            stream = cupy.cuda.get_current_stream()
            left = self.times
            if self._by_hand:
                self._launch(stream, 1)
                self._by_hand -= 1
                left -= 1
            for steps in (_STEPS, 1):
                if left >= steps and (graph := self._graph(stream, steps)) is not None:
                    while left >= steps:
                        graph.recorded.launch()
                        left -= steps
            self._launch(stream, left)

    def _launch(self, stream: Any, times: int) -> None:
        if times:
            self._streams.use(stream)
        for _ in range(times):
            for function, arguments in self.calls:
                function(*arguments)

    def _graph(self, stream: Any, steps: int) -> Graph | None:
        graphs = _recent(self._graphs, int(stream.ptr), dict)
        if self._recorded and steps not in graphs:
            try:
                graphs[steps] = self._streams.captured(self.calls, steps, stream)
            except CaptureError as reason:
                self._recorded = False
                self._usage.tell(reason)
        return graphs.get(steps)
