"""Steps on a GPU as CUDA graphs: launched by hand first, recorded from then on.

A graph of all of a step's kernels is one launch for the processor, where the kernels by themselves are one each.
"""

from __future__ import annotations

import gc
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any, ClassVar, TypeAlias, TypeVar

import cupy
import numpy as np
from numpy.typing import DTypeLike

from nnbp.errors import NnbpError

from . import memory
from .cublas import Cublas

T = TypeVar("T")

Call: TypeAlias = tuple[Callable[..., object], tuple[Any, ...]]
"""A launch: a function and the arguments that it is bound to."""

_STEPS = 16
"""Steps that one graph holds, where at least as many are to be run."""

_STREAMS = 4
"""Streams whose workspaces and graphs are kept, those used last: a workspace takes 32 MiB on Hopper."""

_PER_THREAD = 2
"""The handle of CUDA's stream that is another one in every thread."""


class Streams:
    """What the recordings of a device share: cuBLAS, its workspaces, and where graphs are captured.

    Work on one stream is done in order, so products that go there can share a workspace, and those that go elsewhere
    cannot. Methods are called while the device is current, by one thread at a time.

    Attributes:
        device: the context in which the device is current.
        cublas: the products.
        lock: for that: networks of several threads share a device.

    Args:
        device: of CuPy.
        name: of the device, as users write it.
    """

    _of: ClassVar[weakref.WeakValueDictionary[int, Streams]] = weakref.WeakValueDictionary()

    def __init__(self, device: Any, name: str) -> None:
        self.device, self.lock, self._name = device, RLock(), name
        with device:
            self.cublas = Cublas(int(device.compute_capability))
        self._workspaces: OrderedDict[int, Any] = OrderedDict()
        self._capturing: Any = None

    @classmethod
    def of(cls, index: int, name: str) -> Streams:
        """Those of a device: a handle of cuBLAS and workspaces take memory of the card, and go with their last user."""
        found = cls._of.get(index)
        if found is None:
            found = cls._of[index] = cls(cupy.cuda.Device(index), name)
        return found

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Any:
        """A new array, or the error that says what did not fit."""
        return memory.empty(shape, dtype, self._name)

    def workspace(self, stream: Any) -> Any:
        """The memory in which cuBLAS may work on the current stream. It lives as long as a graph holds it, too."""
        return _recent(self._workspaces, int(stream.ptr), lambda: self.empty(self.cublas.bytes, np.uint8))

    def use(self, stream: Any) -> None:
        """Sends products to the current stream."""
        self.cublas.use(int(stream.ptr), self.workspace(stream).data.ptr)

    def captured(self, calls: Sequence[Call], times: int, stream: Any) -> Graph:
        """A graph of so many runs of the calls, to be launched on a stream.

        Raises:
            CaptureError: none can be made of them.
        """
        if self._capturing is None:
            self._capturing = cupy.cuda.Stream(non_blocking=True)
        graph, failed = None, None
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
            except Exception as error:
                failed = error
            finally:
                # In any case, also after Ctrl-C: the stream would capture for ever.
                try:
                    graph = capturing.end_capture()
                except Exception as error:
                    failed = failed or error
        if failed is not None and memory.exhausted(failed):
            raise failed
        if failed is not None:
            raise CaptureError(f"{type(failed).__name__}: {failed}") from failed
        return Graph(graph, workspace)


@dataclass(frozen=True, eq=False)
class Graph:
    """A recorded step, and the workspace whose address is recorded in its products."""

    recorded: Any
    workspace: Any


def _recent(kept: OrderedDict[int, T], stream: int, make: Callable[[], T]) -> T:
    """The item of a stream, made if there is none; those of the streams used last are kept.

    Streams are told apart by their handles, as CuPy does: objects for one and the same stream come and go.
    """
    found = kept.pop(stream, None)
    kept[stream] = item = make() if found is None else found
    while len(kept) > _STREAMS:
        kept.popitem(last=False)
    return item


class CaptureError(Exception):
    """What stands in the way of a graph."""


def _refuse(size: int) -> Any:
    # CuPy would take the memory back when the call ends, and the graph go on to use it.
    raise RuntimeError(f"a call takes {size} bytes of memory while a graph is made of it")


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python collects no cycles: a handle of cuBLAS in one waits for the device when it goes, which ends a capture."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class Usage:
    """How one backend uses its device: as graphs or not, and on which streams.

    Its networks have one set of buffers each, so the work that it asks for on several streams is kept in order.

    Attributes:
        graphs: whether to make graphs.
    """

    def __init__(self, *, graphs: bool) -> None:
        self.graphs, self._told = graphs, False
        self._used: dict[int, Any] = {}
        self._lock = RLock()

    def tell(self, reason: CaptureError) -> None:
        """Says why steps are not recorded, once."""
        if not self._told:
            self._told = True
            warnings.warn(
                f"Steps of this network are launched kernel by kernel, and not as one CUDA graph: something in a step "
                f"cannot be recorded ({reason}). A layer of your own may read values on the host, or take memory, "
                "while it runs; give it buffers when it is connected.",
                RuntimeWarning,
                stacklevel=2,
            )

    def follow(self) -> None:
        """Lets the current stream wait for what was asked of other streams before.

        Raises:
            NnbpError: the stream is CUDA's own of each thread.
        """
        current = cupy.cuda.get_current_stream()
        if current.ptr == _PER_THREAD:
            raise NnbpError(
                "Networks run on streams that all threads see; received CUDA's default stream of each thread. Unset "
                "CUPY_CUDA_PER_THREAD_DEFAULT_STREAM, or use a cupy.cuda.Stream()."
            )
        with self._lock:
            for key, other in self._used.items():
                if key != current.ptr:
                    event = cupy.cuda.Event(disable_timing=True)
                    event.record(other)
                    current.wait_event(event)
            # What comes after the current one comes after all of them.
            self._used = {current.ptr: current}

    def leave(self) -> None:
        """Remembers the current stream, which may have gone on while another thread used another one."""
        current = cupy.cuda.get_current_stream()
        with self._lock:
            self._used[current.ptr] = current


class Recording:
    """Runs calls so many times, on the stream that is current then.

    The first run launches one by one, which also loads what CUDA loads at first use. The graph is made after it, or,
    of what runs once at a time, after a second run: what is run twice and thrown away is not worth one.

    Args:
        calls: in order; they allocate nothing and wait for nothing.
        times: how often all of them run at each call.
        streams: of the device.
        usage: of the backend.
    """

    def __init__(self, calls: Sequence[Call], times: int, streams: Streams, usage: Usage) -> None:
        self.calls, self.times, self._streams, self._usage = calls, times, streams, usage
        self._recorded = usage.graphs
        # By stream and by the number of steps.
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
