"""Steps on a GPU as CUDA graphs: launched once by hand, recorded from then on.

A launch takes the processor longer than a small kernel takes the GPU; a graph of all of a step's kernels is one launch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from threading import RLock
from typing import Any

import cupy
import numpy as np

from nnbp.backend import Call

from .cublas import Cublas

__all__ = ["Recording", "Streams"]

_STEPS = 16
"""Steps that one graph holds, where at least as many are to be run."""


class Streams:
    """What the recordings of a backend share: where they are captured, and the workspaces of cuBLAS.

    Work on one stream is done in order, so products that go there can share a workspace, and those that go elsewhere
    cannot. Methods are called while the device is current, by one thread at a time.

    Attributes:
        lock: for that: networks of several threads may share a backend.

    Args:
        device: the context in which the device is current.
        cublas: the products.
        graphs: whether to make graphs at all.
    """

    def __init__(self, device: Any, cublas: Cublas, *, graphs: bool) -> None:
        self.device, self.cublas, self.graphs, self.lock = device, cublas, graphs, RLock()
        self._workspaces: dict[int, Any] = {}
        self._capturing: Any = None

    def use(self, stream: int, *, owner: int | None = None) -> None:
        """Sends products to a stream, with the workspace of that stream or of the one that a graph is made for."""
        key = stream if owner is None else owner
        if key not in self._workspaces:
            self._workspaces[key] = cupy.empty(self.cublas.bytes, np.uint8)
        self.cublas.use(stream, self._workspaces[key].data.ptr)

    def captured(self, calls: Sequence[Call], times: int, stream: int) -> Any:
        """A graph of so many runs of the calls, to be launched on a stream; None, with a warning, where none can be."""
        if self._capturing is None:
            self._capturing = cupy.cuda.Stream(non_blocking=True)
        graph = None
        with self._capturing as capturing:
            self.use(capturing.ptr, owner=stream)
            capturing.begin_capture()
            try:
                with cupy.cuda.using_allocator(_refuse):
                    for _ in range(times):
                        for function, arguments in calls:
                            function(*arguments)
            except Exception as error:
                self._told(error)
                # What was recorded until then is of no use; to end a capture that was broken is an error, too.
                try:
                    capturing.end_capture()
                except Exception as ended:
                    error.add_note(f"The capture ended with: {ended}")
            else:
                try:
                    graph = capturing.end_capture()
                except Exception as error:
                    self._told(error)
        return graph

    def _told(self, error: Exception) -> None:
        """Says once why there are no graphs, and makes none from here on."""
        self.graphs = False
        warnings.warn(
            f"Steps of this network are launched kernel by kernel, and not as one CUDA graph, which small networks are "
            f"faster with: something in a step cannot be recorded ({type(error).__name__}: {error}). A layer of your "
            "own may read values on the host, or take memory, while it runs; give it buffers when it is connected.",
            RuntimeWarning,
            stacklevel=2,
        )


def _refuse(size: int) -> Any:
    # CuPy would take the memory back when the call ends, and the graph go on to use it.
    raise RuntimeError(f"a call takes {size} bytes of memory while a graph is made of it")


class Recording:
    """Runs calls so many times, on the stream that is current then.

    The first run launches one by one, which also loads what CUDA loads at first use; the graph is made after it.

    Args:
        calls: in order; they allocate nothing and wait for nothing.
        times: how often all of them run at each call.
        streams: of the backend.
    """

    def __init__(self, calls: Sequence[Call], times: int, streams: Streams) -> None:
        self.calls, self.times, self._streams = calls, times, streams
        self._graphs: dict[tuple[int, int], Any] = {}
        self._launched = False

    def __call__(self) -> None:
        with self._streams.lock, self._streams.device:
            stream = int(cupy.cuda.get_current_stream().ptr)
            left = self.times
            if not self._launched:
                self._launch(stream, 1)
                self._launched = True
                left -= 1
            for steps in (_STEPS, 1):
                if left >= steps and (graph := self._graph(stream, steps)) is not None:
                    while left >= steps:
                        graph.launch()
                        left -= steps
            self._launch(stream, left)

    def _launch(self, stream: int, times: int) -> None:
        if times:
            self._streams.use(stream)
        for _ in range(times):
            for function, arguments in self.calls:
                function(*arguments)

    def _graph(self, stream: int, steps: int) -> Any:
        key = stream, steps
        if self._streams.graphs and key not in self._graphs:
            self._graphs[key] = self._streams.captured(self.calls, steps, stream)
        return self._graphs.get(key)
