"""The NumPy backend: operations become ufunc and BLAS calls that write into existing buffers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nnbp.graph.ops import Array, Operation

from . import schedule
from .program import walker
from .streams import PhiloxStream
from .tasks import task
from .threads import Workers


@final
class NumpyBackend:
    """NumPy on the CPU."""

    name = "numpy"
    device = "cpu"
    xp: Any = np

    def __init__(self) -> None:
        self._workers = Workers()

    @staticmethod
    def compiled() -> str | None:
        """None if the compiled part is used, else the reason why steps run as Python's calls."""
        found = walker()
        return found if isinstance(found, str) else None

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        return np.empty(shape, dtype)

    def upload(self, host: NDArray[Any], dtype: DTypeLike) -> Array:
        return np.ascontiguousarray(host, dtype)

    def download(self, array: Array) -> NDArray[Any]:
        return np.asarray(array)

    def owns(self, array: object) -> bool:
        return isinstance(array, np.ndarray)

    def random_stream(self, key: tuple[int, int]) -> PhiloxStream:
        return PhiloxStream(key)

    def compile(self, operations: Sequence[Operation], times: int = 1, runs: int = 1) -> Callable[[], None]:
        """A function that runs the operations in order, large ones on BLAS's number of threads; see `schedule.py`."""
        tasks = [task(operation) for operation in operations if all(out.size for out in operation.writes)]
        return schedule.plan(tasks, self._workers, times)

    def synchronize(self) -> None:
        """Does nothing: on the CPU all work is done when a call returns."""

    def active(self) -> AbstractContextManager[object]:
        """Turns NumPy's floating-point warnings off."""
        return np.errstate(all="ignore")
