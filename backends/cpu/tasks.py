"""Tasks: operations on NumPy arrays that can be cut along an axis of their output.

A task estimates its cost. From this and from the arrays, the schedule (`schedule.py`) decides which thread runs which
parts. Only then does the task become calls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np

from nnbp.graph import ops
from nnbp.graph.formula import Formula
from nnbp.graph.ops import Array, Operation, address

from . import chains
from .chains import Calls, Registers
from .streams import PhiloxStream, fill, filling_columns

# Nanoseconds per float32 element on one core, measured on a server of 2021; most ufuncs are limited by the cache.
_CHEAP = 0.2
_COSTS = {"tanh": 2.8, "exp": 1.4, "log": 1.8, "sqrt": 0.5, "maximum": 0.5, "minimum": 0.5, "sign": 0.5}
_COSTS |= dict.fromkeys(("expm1", "log1p", "sin", "cos", "arctan", "power"), 10.0)

_FLOPS = 80e3
"""Floating-point operations per microsecond of a float32 product on one core."""

# OpenBLAS runs smaller products on one thread.
_SHARED_FLOPS = 2 * 65536 * 4
_SHARED_VECTOR = 2304 * 4


class Place(NamedTuple):
    """Where a view lies in a vector such as theta or the gradient: `length` times `unit` elements from `start` on."""

    vector: int
    """The number of elements of the vector."""
    start: int
    length: int
    unit: int

    def holds(self, array: Array) -> bool:
        """Whether an array lies at the same place in a vector of as many elements."""
        return _place(array, self.unit) == self


def _place(array: Array, unit: int = 1) -> Place | None:
    """The place of a contiguous view in the vector that owns its memory; None if no vector does."""
    owner = array if array.base is None else array.base
    if not isinstance(owner, np.ndarray) or owner.ndim != 1 or owner.dtype != array.dtype:
        return None
    if not (array.flags.c_contiguous and owner.flags.c_contiguous):
        return None
    start = (address(array) - address(owner)) // array.itemsize
    return Place(owner.size, start, array.size // unit, unit)


def owner(array: Array) -> int:
    """The id of the array that this one is a view of; 0 for memory that NumPy does not own, which may be shared."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return id(array) if array.base is None else 0


class Task(ABC):
    """An operation on NumPy arrays.

    Attributes:
        reads, writes: its arrays; `cuts` tells which of them are cut with it; the others are read or written whole.
        length: of the axis of its output along which it can be cut: the last one, or the rows of a part of a vector.
        place: where its outputs lie in vectors, if they do. The parts of such a task lie in the same parts of the
            vectors as those of all the others, so that a gradient is computed and used by the same thread.
        work: estimated time on one thread, in microseconds, apart from what a call costs.
        steps: the number of calls.
        product: `work` if it is a product that BLAS would share among its threads if it had several, else 0.
    """

    reads: Sequence[Array]
    writes: Sequence[Array]
    work: float
    steps: int = 1
    product: float = 0.0

    @cached_property
    def length(self) -> int:
        shape = self.writes[0].shape
        return int(shape[-1]) if shape else 1

    @cached_property
    def place(self) -> Place | None:
        return None

    @abstractmethod
    def calls(self, part: slice | None, registers: Registers) -> Calls:
        """The calls that compute a part, or all of it. Without parts, nobody asks for `length` and `place`."""

    def cuts(self, array: Array) -> bool:
        """Whether an array of this task is cut with the task."""
        return self.length > 1 and array.ndim > 0 and array.shape[-1] == self.length

    def part(self, array: Array, part: slice | None) -> Array:
        """The columns of an array that belong to a part."""
        whole = part is None or part == slice(0, self.length) or not self.cuts(array)
        return array if whole else array[..., part]


@final
class Gemm(Task):
    """``out = a @ b``."""

    def __init__(self, a: Array, b: Array, out: Array) -> None:
        self.a, self.b, self.out = a, b, out
        self.reads, self.writes = (a, b), (out,)
        if 1 in out.shape:
            # With a vector, the time is that of reading the matrix.
            elements = max(a.size, b.size)
            self.work, shared = elements * 1e-4, elements >= _SHARED_VECTOR
        else:
            flops = 2.0 * a.shape[1] * out.size
            self.work = flops / (_FLOPS if out.dtype == np.float32 else _FLOPS / 2)
            shared = flops > _SHARED_FLOPS
        self.product = self.work if shared else 0.0

    @cached_property
    def length(self) -> int:
        return int(self.out.shape[1] if self.place is None else len(self.out))

    @cached_property
    def place(self) -> Place | None:
        return _place(self.out, self.out.shape[1])

    def cuts(self, array: Array) -> bool:
        # The factor that has the other axis is always read whole, even if its inner dimension happens to be as long,
        # or if it is both factors.
        if self.place is None:
            return array is not self.a and super().cuts(array)
        return array is not self.b and self.length > 1

    def calls(self, part: slice | None, registers: Registers) -> Calls:
        if part is None:
            a, b, out = self.a, self.b, self.out
        elif self.place is None:
            a, b, out = self.a, self.b[:, part], self.out[:, part]
        else:
            a, b, out = self.a[part], self.b, self.out[part]
        if not out.size:
            return []
        # `dot` has half the overhead of `matmul`, but supports only whole arrays.
        whole = all(x.flags.c_contiguous or x.flags.f_contiguous for x in (a, b)) and out.flags.c_contiguous
        return [(np.dot if whole and a.shape[1] else np.matmul, (a, b, out))]


@final
class Elementwise(Task):
    """``outputs = formula(inputs)``."""

    def __init__(self, formula: Formula, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        self.formula, self.reads, self.writes = formula, inputs, outputs
        size = outputs[0].size
        each = sum([_COSTS.get(step.primitive.name, _CHEAP) for step in formula.instructions]) or _CHEAP
        tiles = -(-size // chains.TILE_IN_PYTHON)
        width = outputs[0].itemsize / 4
        self.work, self.steps = size * each * width * 1e-3, tiles * max(1, len(formula.instructions))

    @cached_property
    def place(self) -> Place | None:
        places = {_place(out) for out in self.writes}
        return places.pop() if len(places) == 1 and self.writes[0].size == self.length else None

    def calls(self, part: slice | None, registers: Registers) -> Calls:
        if part is not None and part.start == part.stop:
            return []
        inputs, outputs = ([self.part(x, part) for x in arrays] for arrays in (self.reads, self.writes))
        return chains.bind(self.formula, inputs, outputs, registers)


@final
class MaximumRows(Task):
    """``out[0, j] = max_i a[i, j]``."""

    def __init__(self, a: Array, out: Array) -> None:
        self.reads, self.writes = (a,), (out,)
        self.work = a.size * 5e-4

    def calls(self, part: slice | None, registers: Registers) -> Calls:
        return [(np.maximum.reduce, (self.part(self.reads[0], part), 0, None, self.part(self.writes[0], part), True))]


@final
class Gather(Task):
    """``out[i] = source[order[counter[0] · stride + i]]``; it is cut by rows, which are the columns of ``out.T``."""

    def __init__(self, source: Array, order: Array, counter: Array, stride: int, out: Array) -> None:
        self.source, self.order, self.counter, self.stride = source, order, counter, stride
        self.reads, self.writes = (source, order, counter), (out.T,)
        self.work = out.size * 1e-3

    def cuts(self, array: Array) -> bool:
        return array is self.writes[0] and self.length > 1

    def calls(self, part: slice | None, registers: Registers) -> Calls:
        part = part or slice(0, self.length)
        out = self.writes[0].T[part]
        return [(gather, (self.source, self.order, self.counter, self.stride, part.start, out))]


def gather(source: Array, order: Array, counter: Array, stride: int, start: int, out: Array) -> None:
    """``out[i] = source[order[counter[0] · stride + start + i]]``."""
    first = counter.item() * stride + start
    # With mode="clip", `take` writes into `out` without buffering; all indices in the order are valid.
    source.take(order[first : first + len(out)], 0, out, "clip")


@final
class Call(Task):
    """A call that is never cut. If it has no known output, nothing is known about it, so it is never moved."""

    def __init__(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], writes: Sequence[Array] = (), work: float = 0.0
    ) -> None:
        self.call = (function, arguments)
        self.reads, self.writes, self.length, self.work = (), writes, 1, work

    def calls(self, part: slice | None, registers: Registers) -> Calls:
        return [self.call]


def task(operation: Operation) -> Task:
    """The task of an operation."""
    match operation:
        case ops.Map(formula, inputs, outputs):
            return Elementwise(formula, inputs, outputs)
        case ops.Gemm(a, b, out):
            # The precision is ignored: no CPU BLAS gains from less than the dtype of the arrays.
            return Gemm(a, b, out)
        case ops.Reduce("maximum", a, _, out):
            return MaximumRows(a, out)
        case ops.Reduce(_, a, axis, out):
            # As a product with ones, because BLAS sums fastest.
            ones = np.ones((1, len(a)) if axis == 0 else (a.shape[1], 1), a.dtype)
            return Gemm(ones, a, out) if axis == 0 else Gemm(a, ones, out)
        case ops.Gather(source, order, counter, stride, out):
            return Gather(source, order, counter, stride, out)
        case ops.Uniform(stream, out, offset):
            # A stream of this backend; its numbers must be drawn in order, so the call is not cut.
            if operation.columns == out.shape[-1]:
                return Call(fill, (stream, out), (out, stream.state), out.size * 2e-3)
            assert isinstance(stream, PhiloxStream), "a stream of this backend"
            columns = filling_columns(stream, out, offset, operation.columns)
            return Call(columns, (), (out, stream.state), operation.count * 2e-3)
        case ops.Advance(counter, count):
            return Call(np.add, (counter, np.full(1, count), counter))
        case ops.Foreign(function, arguments):
            return Call(foreign, (function, arguments))


def foreign(function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """A user's call. It runs as Python even if it is a call of NumPy: its arrays may overlap or be of any dtype."""
    function(*arguments)
