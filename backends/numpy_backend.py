"""The engine on NumPy: every operation is bound to ufuncs and BLAS calls that write into existing buffers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nnbp.backend import Array, Calls, Precision
from nnbp.errors import ShapeError
from nnbp.expression import Formula

from . import schedule
from .operations import Elementwise, Fill, Gather, Gemm, MaximumRows, Operation
from .threads import Workers, blas

__all__ = ["NumpyBackend"]


@final
class NumpyBackend:
    """NumPy on the CPU.

    Operations are bound when a step is captured: only then is it known whether it is worth several threads.
    """

    name = "numpy"
    device = "cpu"
    xp: Any = np

    def __init__(self) -> None:
        self._workers = Workers()

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        return np.empty(shape, dtype)

    def upload(self, host: NDArray[Any], dtype: DTypeLike) -> Array:
        return np.ascontiguousarray(host, dtype)

    def download(self, array: Array) -> NDArray[Any]:
        return np.asarray(array)

    def owns(self, array: object) -> bool:
        return isinstance(array, np.ndarray)

    def gemm(self, a: Array, b: Array, out: Array, precision: Precision | None = None) -> Calls:
        """In the dtype of the arrays whatever the precision: no BLAS of a CPU gains from less."""
        return _calls(Gemm(a, b, out))

    def sum(self, a: Array, axis: int, out: Array) -> Calls:
        """As a product with ones, BLAS being the fastest reducer."""
        if axis == 0:
            return _calls(Gemm(np.ones((1, len(a)), a.dtype), a, out))
        return _calls(Gemm(a, np.ones((a.shape[1], 1), a.dtype), out))

    def elementwise(self, formula: Formula, inputs: Sequence[Array], outputs: Sequence[Array]) -> Calls:
        """Ufunc calls, tile after tile, see `chains.py`."""
        shape = np.broadcast_shapes(*(array.shape for array in [*inputs, *outputs]))
        if any(out.shape != shape for out in outputs):
            raise ShapeError(
                f"Every output of an elementwise formula has the shape that its operands broadcast to, {shape}; "
                f"received outputs {[out.shape for out in outputs]}."
            )
        return _calls(Elementwise(formula, inputs, outputs))

    def maximum_rows(self, a: Array, out: Array) -> Calls:
        return _calls(MaximumRows(a, out))

    def gather(self, source: Array, order: Array, counter: Array, stride: int, out: Array) -> Calls:
        return _calls(Gather(source, order, counter, stride, out))

    def advance(self, counter: Array, count: int) -> Calls:
        return [(np.add, (counter, count, counter))]

    def random_stream(self, key: tuple[int, int]) -> PhiloxStream:
        return PhiloxStream(key)

    def uniform(self, stream: Any, out: Array) -> Calls:
        return _calls(Fill(stream, out))

    def capture(self, calls: Calls, times: int = 1, runs: int = 1) -> Callable[[], None]:
        """A function that runs the calls in order, large ones on as many threads as BLAS has, see `schedule.py`."""
        run = schedule.plan(calls, self._workers)
        return run if times == 1 else partial(_repeat, run, times)

    def synchronize(self) -> None:
        """Nothing is ever under way on the CPU when a call has returned."""

    def active(self) -> AbstractContextManager[object]:
        return _Active()


@final
class _Active:
    """No floating-point warnings; the number of BLAS's threads is put back. A class, as it is met at every call."""

    __slots__ = ("_blas", "_errors")

    def __enter__(self) -> None:
        self._errors, self._blas = np.errstate(all="ignore"), blas()
        self._errors.__enter__()
        self._blas.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._blas.__exit__()
        self._errors.__exit__(*error)


def _calls(operation: Operation) -> Calls:
    return [(operation, ())] if all(out.size for out in operation.writes) else []


def _repeat(run: Callable[[], None], times: int) -> None:
    for _ in range(times):
        run()


@final
class PhiloxStream:
    """Uniform float32 numbers of NumPy's Philox4x64-10; `state` stands for what every draw changes."""

    def __init__(self, key: tuple[int, int]) -> None:
        self._key = key
        self.state = np.empty(1)
        self.position = 0

    @property
    def position(self) -> int:
        return self._position

    @position.setter
    def position(self, position: int) -> None:
        # A block of the generator is four 64-bit words, each two float32 numbers.
        blocks, rest = divmod(position, 8)
        bits = np.random.Philox(key=np.array(self._key, np.uint64))
        bits.advance(blocks)
        self._generator = np.random.Generator(bits)
        self._generator.random(rest, np.float32)
        self._position = position

    def fill(self, out: Array) -> None:
        self._generator.random(None, np.float32, out)
        self._position += out.size
