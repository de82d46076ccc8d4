"""Tasks: operations on NumPy arrays that can be cut along the last axis of their output.

A task has a cost estimate. From this and from the arrays, the schedule (`schedule.py`) decides which thread runs which
parts. Only then does the task become calls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np

from nnbp.graph import ops
from nnbp.graph.formula import Formula
from nnbp.graph.ops import Array, Operation

from . import chains
from .chains import Calls, Registers
from .streams import fill

CALL = 1.0
"""Overhead of a call in microseconds."""

# Nanoseconds per float32 element on one core, measured on a server of 2021; most ufuncs are limited by the cache.
_CHEAP = 0.2
_COSTS = {"tanh": 2.8, "exp": 1.4, "log": 1.8, "sqrt": 0.5, "maximum": 0.5, "minimum": 0.5, "sign": 0.5}
_COSTLY = dict.fromkeys(("expm1", "log1p", "sin", "cos", "arctan", "power"), 10.0)

_FLOPS = 80e3
"""Floating-point operations per microsecond of a float32 product on one core."""

# OpenBLAS runs smaller products on one thread.
_SHARED_FLOPS = 2 * 65536 * 4
_SHARED_VECTOR = 2304 * 4


class Task(ABC):
    """An operation on NumPy arrays.

    Attributes:
        reads, writes: its arrays; `cuts` tells which of them are cut with it; the others are read or written whole.
        columns: length of the last axis of its output, along which it can be cut.
        work: estimated time on one thread, in microseconds.
        product: the part of `work` that BLAS would share among its threads if it had several; 0 if it would not.
    """

    reads: Sequence[Array]
    writes: Sequence[Array]
    columns: int
    work: float
    product: float = 0.0

    @abstractmethod
    def calls(self, part: slice, registers: Registers) -> Calls:
        """The calls that compute the columns `part`."""

    def cuts(self, array: Array) -> bool:
        """Whether an array of this task is cut with the task."""
        return self.columns > 1 and array.ndim > 0 and array.shape[-1] == self.columns

    def part(self, array: Array, part: slice) -> Array:
        """The columns of an array that belong to a part."""
        whole = part == slice(0, self.columns) or not self.cuts(array)
        return array if whole else array[..., part]


@final
class Gemm(Task):
    """``out = a @ b``."""

    def __init__(self, a: Array, b: Array, out: Array) -> None:
        self.a, self.b, self.out = a, b, out
        self.reads, self.writes, self.columns = (a, b), (out,), out.shape[1]
        if 1 in out.shape:
            # With a vector, the time is that of reading the matrix.
            elements = max(a.size, b.size)
            self.work, shared = CALL + elements * 1e-4, elements >= _SHARED_VECTOR
        else:
            flops = 2.0 * a.shape[1] * out.size
            self.work = CALL + flops / (_FLOPS if out.dtype == np.float32 else _FLOPS / 2)
            shared = flops > _SHARED_FLOPS
        self.product = self.work - CALL if shared else 0.0

    def cuts(self, array: Array) -> bool:
        # The left factor is always read whole, even if its inner dimension happens to be as long, or if it is also b.
        return array is not self.a and super().cuts(array)

    def calls(self, part: slice, registers: Registers) -> Calls:
        a, b, out = self.a, self.b[:, part], self.out[:, part]
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
        shape = outputs[0].shape
        self.columns = shape[-1] if shape else 1
        size = outputs[0].size
        each = sum((_COSTS | _COSTLY).get(step.primitive.name, _CHEAP) for step in formula.instructions) or _CHEAP
        tiles = -(-size // chains.TILE)
        width = outputs[0].itemsize / 4
        self.work = CALL * tiles * max(1, len(formula.instructions)) + size * each * width * 1e-3

    def calls(self, part: slice, registers: Registers) -> Calls:
        inputs, outputs = ([self.part(x, part) for x in arrays] for arrays in (self.reads, self.writes))
        return chains.bind(self.formula, inputs, outputs, registers)


@final
class MaximumRows(Task):
    """``out[0, j] = max_i a[i, j]``."""

    def __init__(self, a: Array, out: Array) -> None:
        self.reads, self.writes, self.columns = (a,), (out,), out.shape[1]
        self.work = 3 * CALL + a.size * 5e-4

    def calls(self, part: slice, registers: Registers) -> Calls:
        return [(np.maximum.reduce, (self.part(self.reads[0], part), 0, None, self.part(self.writes[0], part), True))]


@final
class Gather(Task):
    """``out[i] = source[order[counter[0] · stride + i]]``; it is cut by rows, which are the columns of ``out.T``."""

    def __init__(self, source: Array, order: Array, counter: Array, stride: int, out: Array) -> None:
        self.source, self.order, self.counter, self.stride = source, order, counter, stride
        self.reads, self.writes, self.columns = (source, order, counter), (out.T,), len(out)
        self.work = 2 * CALL + out.size * 1e-3

    def cuts(self, array: Array) -> bool:
        return array is self.writes[0] and self.columns > 1

    def calls(self, part: slice, registers: Registers) -> Calls:
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
        self, function: Callable[..., Any], arguments: tuple[Any, ...], writes: Sequence[Array] = (), work: float = CALL
    ) -> None:
        self.call = (function, arguments)
        self.reads, self.writes, self.columns, self.work = (), writes, 1, work

    def calls(self, part: slice, registers: Registers) -> Calls:
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
        case ops.Uniform(stream, out):
            # A stream of this backend; its numbers must be drawn in order, so the call is not cut.
            return Call(fill, (stream, out), (out, stream.state), CALL + out.size * 2e-3)
        case ops.Advance(counter, count):
            return Call(np.add, (counter, np.full(1, count), counter))
        case ops.Foreign(function, arguments):
            return Call(foreign, (function, arguments))


def foreign(function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """A user's call. It runs as Python even if it is a call of NumPy: its arrays may overlap or be of any dtype."""
    function(*arguments)
