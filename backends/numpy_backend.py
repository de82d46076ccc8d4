"""The engine on NumPy: every operation is bound to ufuncs and BLAS calls that write into existing buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nnbp.backend import Array, Calls
from nnbp.errors import ShapeError
from nnbp.expression import Constant, Formula, Input, Operand, Value

__all__ = ["NumpyBackend"]

TILE = 16384
"""Elements of a tile: an elementwise chain goes over its arrays in tiles that stay in the cache of a core."""

# NumPy deprecates `out` as a third positional argument for these two alone.
_OUT_BY_KEYWORD = {np.maximum, np.minimum}


@final
class NumpyBackend:
    """NumPy on the CPU."""

    name = "numpy"
    device = "cpu"
    xp: Any = np

    def __init__(self) -> None:
        self._registers: dict[tuple[np.dtype[Any], int], NDArray[Any]] = {}

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        return np.empty(shape, dtype)

    def upload(self, host: NDArray[Any], dtype: DTypeLike) -> Array:
        return np.ascontiguousarray(host, dtype)

    def download(self, array: Array) -> NDArray[Any]:
        return np.asarray(array)

    def owns(self, array: object) -> bool:
        return isinstance(array, np.ndarray)

    def gemm(self, a: Array, b: Array, out: Array) -> Calls:
        return [(np.matmul, (a, b, out))]

    def elementwise(self, formula: Formula, inputs: Sequence[Array], outputs: Sequence[Array]) -> Calls:
        """Ufunc calls, tile after tile.

        Values between two calls live in registers: small arrays that all formulas of this backend share.
        """
        shape = np.broadcast_shapes(*(array.shape for array in [*inputs, *outputs]))
        if any(out.shape != shape for out in outputs):
            raise ShapeError(
                f"Every output of an elementwise formula has the shape that its operands broadcast to, {shape}; "
                f"received outputs {[out.shape for out in outputs]}."
            )
        calls: Calls = []
        for tile in _tiles(shape):
            calls += self._bind_tile(formula, [_cut(x, tile) for x in inputs], [_cut(x, tile) for x in outputs])
        return calls

    def maximum_rows(self, a: Array, out: Array) -> Calls:
        return [(np.maximum.reduce, (a, 0, None, out, True))]

    def gather(self, source: Array, order: Array, counter: Array, stride: int, out: Array) -> Calls:
        return [(_gather, (source, order, counter, stride, out))]

    def random_stream(self, key: tuple[int, int]) -> PhiloxStream:
        return PhiloxStream(key)

    def uniform(self, stream: Any, out: Array) -> Calls:
        return [(stream.fill, (out,))]

    def capture(self, calls: Calls) -> Callable[[], None]:
        def run() -> None:
            for function, arguments in calls:
                function(*arguments)

        return run

    def synchronize(self) -> None:
        """Nothing is ever under way on the CPU when a call has returned."""

    def active(self) -> AbstractContextManager[object]:
        return np.errstate(all="ignore")

    def _register(self, dtype: DTypeLike, index: int, shape: tuple[int, ...]) -> NDArray[Any]:
        """The first elements of a register, in the shape of a tile."""
        size = int(np.prod(shape))
        key = (np.dtype(dtype), index)
        if key not in self._registers or self._registers[key].size < size:
            self._registers[key] = np.empty(max(size, min(TILE, 2 * size)), dtype)
        return self._registers[key][:size].reshape(shape)

    def _bind_tile(self, formula: Formula, inputs: Sequence[Array], outputs: Sequence[Array]) -> Calls:
        dtype = outputs[0].dtype
        values: list[Array] = []
        free: dict[bool, list[int]] = {False: [], True: []}
        owned: dict[int, tuple[bool, int]] = {}
        taken = {False: 0, True: 0}
        calls: Calls = []

        def array(operand: Operand) -> Array:
            match operand:
                case Input(index):
                    return inputs[index]
                case Value(index):
                    return values[index]
                case Constant(number):
                    # An array of the formula's dtype, as a Python number beside a comparison would make float64.
                    return np.asarray(number, dtype)

        def release(operands: set[Operand], i: int, shape: tuple[int, ...] | None) -> None:
            """Frees the registers that instruction i is the last to read; with a shape, only those of that shape."""
            for operand in operands:
                if (
                    isinstance(operand, Value)
                    and operand.index in owned
                    and formula.last_use(operand) == i
                    and operand not in formula.results
                    and shape in (None, values[operand.index].shape)
                ):
                    kind, register = owned.pop(operand.index)
                    free[kind].append(register)

        # A result that is an input is set aside where another output takes its place.
        aside: dict[Operand, Array] = {}
        for out, result in zip(outputs, formula.results, strict=True):
            if isinstance(result, Input):
                source = inputs[result.index]
                if any(other is not out and np.may_share_memory(source, other) for other in outputs):
                    aside[result] = self._register(dtype, taken[False], source.shape)
                    taken[False] += 1
                    calls.append((np.copyto, (aside[result], source)))

        for i, step in enumerate(formula.instructions):
            boolean = step.operation.boolean
            arguments = tuple(array(operand) for operand in step.operands)
            # A value is as small as its operands allow: what depends on a row alone is computed once a row.
            shape = np.broadcast_shapes(*(argument.shape for argument in arguments))
            # The result may take the place of an operand that is read for the last time, if it fits exactly.
            release(set(step.operands), i, shape)
            target = _direct_target(formula, i, inputs, outputs)
            if target is None:
                if free[boolean]:
                    register = free[boolean].pop()
                else:
                    register = taken[boolean]
                    taken[boolean] += 1
                owned[i] = (boolean, register)
                target = self._register(np.bool if boolean else dtype, register, shape)
            values.append(target)
            ufunc = step.operation.ufunc
            if ufunc is None:
                condition, if_true, if_false = arguments
                calls += _bind_where(condition, if_true, if_false, target)
            elif ufunc in _OUT_BY_KEYWORD:
                calls.append((partial(ufunc, out=target), arguments))
            else:
                calls.append((ufunc, (*arguments, target)))
            release(set(step.operands), i, None)
        for out, result in zip(outputs, formula.results, strict=True):
            computed = aside[result] if result in aside else array(result)
            if computed is not out and not _same(computed, out):
                calls.append((np.copyto, (out, computed)))
        return calls


def _direct_target(formula: Formula, i: int, inputs: Sequence[Array], outputs: Sequence[Array]) -> Array | None:
    """The output array that instruction i can write its value to at once, or None.

    It can where the value is that result, and no input that shares the array's memory is read later.
    """
    for out, result in zip(outputs, formula.results, strict=True):
        if result != Value(i) or formula.instructions[i].operation.boolean:
            continue
        shared = [Input(k) for k, array in enumerate(inputs) if np.may_share_memory(array, out)]
        if all(formula.last_use(operand) <= i and operand not in formula.results for operand in shared):
            return out
    return None


def _same(a: Array, b: Array) -> bool:
    return bool(a.shape == b.shape and a.strides == b.strides and a.ctypes.data == b.ctypes.data)


def _tiles(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Slices that cut arrays of this shape into tiles of at most `TILE` elements, last axis first."""
    room = TILE
    steps: list[int] = []
    for size in reversed(shape):
        steps.insert(0, max(1, min(size, room)))
        room //= steps[0]

    def cut(axis: int, before: tuple[slice, ...]) -> Iterator[tuple[slice, ...]]:
        if axis == len(shape):
            yield before
            return
        for start in range(0, shape[axis], steps[axis]):
            yield from cut(axis + 1, (*before, slice(start, start + steps[axis])))

    return cut(0, ())


def _cut(array: Array, tile: tuple[slice, ...]) -> Array:
    """The part of an array that belongs to a tile; axes of length one are broadcast, so they stay whole."""
    own = tile[len(tile) - array.ndim :]
    return array[tuple(slice(None) if size == 1 else part for size, part in zip(array.shape, own, strict=True))]


def _bind_where(condition: Array, if_true: Array, if_false: Array, out: Array) -> Calls:
    # Views of the same memory are different objects, so what stands in `out` already is told by its address.
    if _same(out, if_true):
        return [(_copy_unless, (out, if_false, condition))]
    before: Calls = [] if _same(out, if_false) else [(np.copyto, (out, if_false))]
    return [*before, (np.copyto, (out, if_true, "same_kind", condition))]


def _copy_unless(out: Array, values: Array, condition: Array) -> None:
    np.copyto(out, values, where=~condition)


def _gather(source: Array, order: Array, counter: Array, stride: int, out: Array) -> None:
    start = int(counter[0]) * stride
    # With mode="clip" `take` writes into `out` without a buffer of its own; the order holds valid rows alone.
    np.take(source, order[start : start + len(out)], 0, out, "clip")


@final
class PhiloxStream:
    """Uniform float32 numbers of NumPy's Philox4x64-10."""

    def __init__(self, key: tuple[int, int]) -> None:
        self._key = key
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
