"""The operations of a step. The engine passes no others to a backend.

Each operation lists the arrays that it reads and those that it writes. From these a backend can tell which operations
may be reordered, run in parallel or become one kernel, without knowing their purpose. Shapes are checked when an
operation is created, once for all backends; a backend checks the further requirements of its device when it compiles.

Matrices are (features, samples). All arrays belong to the backend and are on its device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from nnbp.errors import DTypeError, ShapeError
from nnbp.graph.formula import Formula

Array: TypeAlias = Any
"""An array of the backend's own library, on its device."""

Precision: TypeAlias = Literal["tf32", "bf16"]
"""Allows the factors of a float32 product to be rounded to 10 or 7 bits after the point; sums are float32."""

PRECISIONS: tuple[Precision, ...] = ("tf32", "bf16")


class RandomStream(Protocol):
    """An endless stream of uniform float32 numbers, bit-identical on every device, with a position that can be set."""

    @property
    def key(self) -> tuple[int, int]:
        """The key that identifies the stream."""

    @property
    def state(self) -> Array:
        """The array that every draw changes."""

    @property
    def position(self) -> int:
        """The number of values drawn so far."""

    @position.setter
    def position(self, position: int) -> None: ...


@dataclass(frozen=True, eq=False)
class Map:
    """``outputs = formula(inputs)``, element by element, with broadcasting.

    Args:
        formula: see `nnbp.graph.formula`.
        inputs: one array per input of the formula.
        outputs: one array per result, of the shape that all operands broadcast to. An output may be one of the inputs,
            but must not partly overlap one.

    Raises:
        ShapeError: the operands do not broadcast to the shape of the outputs.
    """

    formula: Formula
    inputs: Sequence[Array]
    outputs: Sequence[Array]

    def __post_init__(self) -> None:
        shapes = [tuple(x.shape) for x in (*self.inputs, *self.outputs)]
        try:
            shape = np.broadcast_shapes(*shapes)
        except ValueError:
            raise ShapeError(
                f"The operands of an elementwise formula broadcast to one shape; received {shapes}."
            ) from None
        if any(tuple(out.shape) != shape for out in self.outputs):
            raise ShapeError(
                f"Every output of an elementwise formula has the shape that its operands broadcast to, {shape}; "
                f"received outputs {[tuple(out.shape) for out in self.outputs]}."
            )

    @cached_property
    def reads(self) -> tuple[Array, ...]:
        """The inputs that the formula uses."""
        named = zip(self.formula.inputs, self.inputs, strict=True)
        return tuple(array for name, array in named if self.formula.uses(name))

    @property
    def writes(self) -> Sequence[Array]:
        """The outputs."""
        return self.outputs


@dataclass(frozen=True, eq=False)
class Gemm:
    """``out = a @ b``.

    Args:
        a: (n, k), contiguous or the transpose of a contiguous array.
        b: (k, m), likewise.
        out: (n, m), with contiguous rows; it must share no memory with the factors.
        precision: the precision that the factors may be rounded to. A backend that gains nothing does not round.

    Raises:
        ShapeError: the shapes do not fit.
    """

    a: Array
    b: Array
    out: Array
    precision: Precision | None = None

    def __post_init__(self) -> None:
        a, b, out = (tuple(x.shape) for x in (self.a, self.b, self.out))
        if {len(a), len(b), len(out)} != {2} or (a[1], out) != (b[0], (a[0], b[1])):
            raise ShapeError(
                f"A product takes a (n, k) and b (k, m) and writes out (n, m); received the shapes {a}, {b} and {out}."
            )

    @property
    def reads(self) -> tuple[Array, ...]:
        """The factors."""
        return (self.a, self.b)

    @property
    def writes(self) -> tuple[Array, ...]:
        """The product."""
        return (self.out,)


@dataclass(frozen=True, eq=False)
class Reduce:
    """``out[0, j] = Σ_i a[i, j]`` for axis 0, ``out[i, 0] = Σ_j a[i, j]`` for axis 1; or the maximum, along axis 0.

    Args:
        fold: "sum" or "maximum".
        a: (n, m).
        axis: 0 or 1.
        out: (1, m) for axis 0; (n, 1), contiguous, for axis 1.

    Raises:
        ShapeError: the shapes do not fit, or the result along axis 1 is not contiguous.
        ValueError: the fold is a maximum along axis 1.
    """

    fold: Literal["sum", "maximum"]
    a: Array
    axis: Literal[0, 1]
    out: Array

    def __post_init__(self) -> None:
        a, out = tuple(self.a.shape), tuple(self.out.shape)
        shape = tuple(1 if axis == self.axis else size for axis, size in enumerate(a))
        if len(a) != 2 or out != shape or (self.fold == "maximum" and a[0] == 0):
            raise ShapeError(
                f"The {self.fold} along axis {self.axis} of a matrix (n, m) is (1, m) for 0 and (n, 1) for 1, and a "
                f"maximum is of at least one number; received shapes {a} and {out}."
            )
        if self.fold == "maximum" and self.axis:
            raise ValueError("A maximum is taken along axis 0, over the features of a sample; received axis 1.")
        if self.axis:
            _check_contiguous(self.out, "Sums of rows are written one after the other")

    @property
    def reads(self) -> tuple[Array, ...]:
        """The matrix."""
        return (self.a,)

    @property
    def writes(self) -> tuple[Array, ...]:
        """The row or column of results."""
        return (self.out,)


@dataclass(frozen=True, eq=False)
class Gather:
    """``out[i] = source[order[counter[0] * stride + i]]``: the rows of one batch.

    Args:
        source: (N, k), with contiguous rows.
        order: (N,), int64, contiguous; indices of rows.
        counter: (1,), int64; the number of the step.
        stride: rows per batch.
        out: (m, k), C-contiguous.

    Raises:
        ShapeError: the shapes do not fit.
        DTypeError: order or counter is not int64.
    """

    source: Array
    order: Array
    counter: Array
    stride: int
    out: Array

    def __post_init__(self) -> None:
        source, order, counter, out = (tuple(x.shape) for x in (self.source, self.order, self.counter, self.out))
        if len(source) != 2 or len(out) != 2 or 0 in source or (out[1], len(order), counter) != (source[1], 1, (1,)):
            raise ShapeError(
                "gather takes a source (N, k), an order (N,) and a counter (1,), and writes rows (m, k); received the "
                f"shapes {source}, {order}, {counter} and {out}."
            )
        if self.order.dtype != np.int64 or self.counter.dtype != np.int64:
            raise DTypeError(
                f"order and counter of gather are int64; received {self.order.dtype} and {self.counter.dtype}."
            )

    @property
    def reads(self) -> tuple[Array, ...]:
        """The source and its indices."""
        return (self.source, self.order, self.counter)

    @property
    def writes(self) -> tuple[Array, ...]:
        """The rows."""
        return (self.out,)


@dataclass(frozen=True, eq=False)
class Uniform:
    """Fills ``out`` (rows, columns), float32 and C-contiguous, with the next numbers of a stream.

    They are some columns of a matrix of `total` columns, those from `offset` on, and the stream advances by the numbers
    of the whole matrix. By default `out` is the matrix.

    Raises:
        DTypeError: out is not float32.
        ShapeError: out is not C-contiguous, or the matrix has no such columns.
    """

    stream: RandomStream
    out: Array
    offset: int = 0
    total: int | None = None

    def __post_init__(self) -> None:
        if self.out.dtype != np.float32:
            raise DTypeError(f"Random numbers are always float32; received an array of {self.out.dtype}.")
        _check_contiguous(self.out, "Random numbers are written to a C-contiguous array")
        if not 0 <= self.offset <= self.columns - self.out.shape[-1]:
            raise ShapeError(
                f"Random numbers are columns of a matrix of {self.columns} columns; received {self.out.shape[-1]} of "
                f"them from {self.offset} on."
            )

    @property
    def columns(self) -> int:
        """The number of columns of the whole matrix."""
        return int(self.out.shape[-1] if self.total is None else self.total)

    @property
    def count(self) -> int:
        """By how many numbers the stream advances."""
        return int(self.out.size) // max(1, int(self.out.shape[-1])) * self.columns

    @property
    def reads(self) -> tuple[Array, ...]:
        """The position of the stream."""
        return (self.stream.state,)

    @property
    def writes(self) -> tuple[Array, ...]:
        """The numbers, and the position of the stream."""
        return (self.out, self.stream.state)


@dataclass(frozen=True, eq=False)
class Advance:
    """``counter[0] += count``; the counter is (1,), int64.

    Raises:
        DTypeError: the counter is not int64.
        ShapeError: its shape is not (1,).
    """

    counter: Array
    count: int = 1

    def __post_init__(self) -> None:
        if self.counter.dtype != np.int64:
            raise DTypeError(f"A counter is int64; received {self.counter.dtype}.")
        if tuple(self.counter.shape) != (1,):
            raise ShapeError(f"A counter is one number, (1,); received shape {tuple(self.counter.shape)}.")

    @property
    def reads(self) -> tuple[Array, ...]:
        """The counter."""
        return (self.counter,)

    @property
    def writes(self) -> tuple[Array, ...]:
        """The counter."""
        return (self.counter,)


@dataclass(frozen=True, eq=False)
class Foreign:
    """``function(*arguments)``: a call whose arrays are unknown, so no operation is moved past it.

    On a GPU the function must do all its work on the device: a recorded step repeats the device's work, not the host's.
    """

    function: Callable[..., object]
    arguments: tuple[Any, ...] = ()
    reads: tuple[Array, ...] = ()
    writes: tuple[Array, ...] = ()


Operation: TypeAlias = Map | Gemm | Reduce | Gather | Uniform | Advance | Foreign


class Accesses(Protocol):
    """Anything that reads and writes arrays: an operation, or several that a backend has joined into one."""

    @property
    def reads(self) -> Sequence[Array]: ...
    @property
    def writes(self) -> Sequence[Array]: ...


def _check_contiguous(array: Array, rule: str) -> None:
    if not array.flags.c_contiguous:
        raise ShapeError(f"{rule}; received strides {array.strides} in bytes.")


def conflict(before: Accesses, after: Accesses) -> bool:
    """Whether the order of two operations matters."""
    return isinstance(before, Foreign) or isinstance(after, Foreign) or any(True for _ in meetings(before, after))


def meetings(before: Accesses, after: Accesses) -> Iterator[tuple[Array, Array]]:
    """Pairs of arrays, one from each operation, that may share memory and of which at least one is written."""
    for x in before.writes:
        yield from ((x, y) for y in (*after.reads, *after.writes) if overlap(x, y))
    for x in before.reads:
        yield from ((x, y) for y in after.writes if overlap(x, y))


def overlap(x: Array, y: Array) -> bool:
    """Whether two arrays on one device may share memory, that is, whether their address ranges overlap."""
    if not (x.size and y.size):
        return False
    (first, end), (other, other_end) = span(x), span(y)
    return first < other_end and other < end


def same(x: Array, y: Array) -> bool:
    """Whether two arrays have the same elements at the same addresses."""
    return bool(x.shape == y.shape and x.strides == y.strides and x.dtype == y.dtype and address(x) == address(y))


def span(array: Array) -> tuple[int, int]:
    """The range of addresses in which an array's elements lie."""
    reach = [(size - 1) * step for size, step in zip(array.shape, array.strides, strict=True)]
    start = address(array)
    return start + sum(min(0, r) for r in reach), start + sum(max(0, r) for r in reach) + array.dtype.itemsize


def address(array: Array) -> int:
    """The address of the first element, from the interfaces that array libraries share."""
    interface = getattr(array, "__cuda_array_interface__", None) or array.__array_interface__
    return int(interface["data"][0])
