"""Fusion: which operations of a step share a kernel.

A step is recorded as separate formulas. This module reduces it to fewer launches; the layers, losses and optimizers
that recorded the formulas are not involved:

- a formula that reads another one's output, element by element, is computed in the same kernel;
- a softmax, its cost and their derivative, and all other operations within the columns of a matrix, are one kernel;
- the kernel that computes the terms of a sum along the rows also computes the sum: db with delta.

An operation may move forward to the first of those that it joins if it does not conflict with anything in between. All
buffers end up with the same values as without fusion, except for rounding: a product that is stored, and then added to
in the same kernel, is added before it is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnbp.graph.formula import Constant, Formula, Input, Instruction, Operand, Value, trace
from nnbp.graph.ops import (  # fmt: skip
    Advance,
    Array,
    Foreign,
    Gather,
    Gemm,
    Map,
    Operation,
    Reduce,
    Uniform,
    conflict,
    meetings,
    overlap,
    same,
)

from . import codegen
from .codegen import Empty, Launch, arithmetic, same_dtype
from .codegen_fused import IDENTITY, columns, row_sums
from .cublas import layout

_ZERO = trace(lambda: 0.0)


@dataclass(frozen=True, eq=False)
class _Columns:
    """Operations that `columns` compiles into one kernel."""

    items: tuple[Map | Reduce, ...]

    @property
    def reads(self) -> tuple[Array, ...]:
        """The arrays that any of them reads."""
        return tuple(array for item in self.items for array in item.reads)

    @property
    def writes(self) -> tuple[Array, ...]:
        """The arrays that any of them writes."""
        return tuple(array for item in self.items for array in item.writes)


@dataclass(frozen=True, eq=False)
class _RowSum:
    """A formula and the sum of one of its results along the rows."""

    item: Map
    summand: int
    out: Array

    @property
    def reads(self) -> tuple[Array, ...]:
        """The inputs of the formula."""
        return self.item.reads

    @property
    def writes(self) -> tuple[Array, ...]:
        """The outputs of the formula, and the sums."""
        return (*self.item.writes, self.out)


Joined = Operation | _Columns | _RowSum


def lowered(operations: Sequence[Operation], capability: int) -> list[Operation]:
    """The operations in a form that a GPU supports, without those that have no elements.

    Args:
        operations: of a step.
        capability: compute capability of the card, 90 for Hopper.

    Raises:
        DTypeError, ShapeError: kernels do not support the dtype or layout of an operand of a product or a sum.
    """
    found: list[Operation] = []
    for operation in operations:
        if not all(out.size for out in operation.writes):
            continue
        match operation:
            case Gemm(a, b, out, precision):
                same_dtype("gemm", out, a, b)
                if layout(a, b, out).k == 0:
                    found.append(Map(_ZERO, (), (out,)))
                else:
                    # Cards before Ampere have no units for these lower precisions.
                    found.append(Gemm(a, b, out, precision if capability >= 80 else None))
            case Reduce(fold, a, _, out):
                same_dtype(f"a {fold}", out, a)
                found.append(operation)
            case Uniform(stream, out):
                # A separate launch advances the stream, because every thread of this one must read the old position.
                found += [operation, Advance(stream.state, out.size)]
            case _:
                found.append(operation)
    return found


def narrowed(operations: Sequence[Operation], empty: Empty) -> list[Operation]:
    """The operations, with bfloat16 products that read rounded copies of their factors.

    A factor is rounded again only if it has been written in between.
    """
    found: list[Operation] = []
    copies: list[tuple[Array, Array]] = []
    valid: set[int] = set()
    for operation in operations:
        if isinstance(operation, Gemm) and operation.precision == "bf16":
            factors = []
            for factor in (operation.a, operation.b):
                stored = factor if factor.flags.c_contiguous or not factor.flags.f_contiguous else factor.T
                place = next((k for k, (known, _) in enumerate(copies) if same(known, stored)), len(copies))
                if place == len(copies):
                    copies.append((stored, empty(stored.shape, np.uint16)))
                if place not in valid:
                    found.append(Map(IDENTITY, (stored,), (copies[place][1],)))
                    valid.add(place)
                factors.append(copies[place][1] if stored is factor else copies[place][1].T)
            a, b = factors
            found.append(Gemm(a, b, operation.out, "bf16"))
        else:
            found.append(operation)
        if isinstance(operation, Foreign):
            valid.clear()
        valid -= {k for k in valid for out in operation.writes if overlap(copies[k][0], out)}
    return found


def fused(operations: Sequence[Operation]) -> list[Joined]:
    """The operations, joined as described in the docstring of this module."""
    found: list[Joined] = []
    rest = list(_merged(operations))
    while rest:
        first, *others = rest
        grouped, rest = _grouped(first, others)
        found.append(grouped)
    return found


def launches(operations: Sequence[Joined], empty: Empty) -> list[Launch | Gemm | Foreign]:
    """The launches, in order; `empty` allocates arrays for partial sums."""
    found: list[Launch | Gemm | Foreign] = []
    for operation in operations:
        match operation:
            case Map():
                found.append(codegen.elementwise(operation))
            case Reduce(axis=0) | _Columns():
                items = operation.items if isinstance(operation, _Columns) else (operation,)
                found.append(columns(items))
            case Reduce(a=a, out=out):
                found += row_sums(Map(IDENTITY, (a,), ()), 0, out, empty)
            case _RowSum(item, summand, out):
                found += row_sums(item, summand, out, empty)
            case Gather(source, order, counter, stride, out):
                found.append(codegen.gather(source, order, counter, stride, out))
            case Uniform(stream, out):
                found.append(codegen.uniform(stream.state, stream.key, out))
            case Advance(counter, count):
                found.append(codegen.advance(counter, count))
            case Gemm(a, b, out) if out.size == 1 and a.dtype == out.dtype:
                # A dot product, which cuBLAS's matrix kernels would compute in a single block.
                product = trace(lambda x, y: x * y, "x", "y")
                found += row_sums(Map(product, (a, b.T), ()), 0, out, empty)
            case _:
                found.append(operation)
    return found


def _merged(operations: Sequence[Operation]) -> list[Operation]:
    """The operations, with each formula merged into an earlier one whose output it reads."""
    done: list[Operation] = []
    for operation in operations:
        place = _place(done, operation, _chain) if isinstance(operation, Map) else None
        if place is None:
            done.append(operation)
        else:
            before = done[place]
            assert isinstance(before, Map), "only formulas are joined by formulas"
            assert isinstance(operation, Map), "only formulas join formulas"
            done[place] = _composed(before, operation)
    return done


def _place(done: Sequence[Operation], late: Operation, joins: Callable[[Any, Any], bool]) -> int | None:
    """Index of the operation that a later one can join without a conflict in between; None if there is none."""
    for k in range(len(done) - 1, -1, -1):
        if joins(done[k], late):
            return k
        if conflict(done[k], late):
            return None
    return None


def _chain(before: Operation, after: Map) -> bool:
    """Whether a formula reads another one's output, element by element."""
    if not isinstance(before, Map) or before.outputs[0].shape != after.outputs[0].shape:
        return False
    dtype = arithmetic(before.outputs)
    if dtype != arithmetic(after.outputs) or any(out.dtype not in (dtype, np.uint16) for out in before.outputs):
        return False
    linked = any(same(x, out) for x in after.reads for out in before.outputs)
    return linked and all(same(x, y) for x, y in meetings(before, after))


def _composed(before: Map, after: Map) -> Map:
    """Two formulas composed into one; the second reads the output of the first."""
    arrays, outputs = list(before.inputs), list(before.outputs)
    results = list(before.formula.results)
    shift = len(before.formula.instructions)
    sources: list[Operand] = []
    for array in after.inputs:
        written = [result for out, result in zip(outputs, results, strict=True) if same(out, array)]
        if written:
            sources.append(written[-1])
        else:
            sources.append(Input(len(arrays)))
            arrays.append(array)

    def moved(operand: Operand) -> Operand:
        match operand:
            case Input(index):
                return sources[index]
            case Value(index):
                return Value(index + shift)
            case Constant():
                return operand

    steps = [Instruction(s.primitive, tuple(map(moved, s.operands))) for s in after.formula.instructions]
    for out, result in zip(after.outputs, after.formula.results, strict=True):
        place = next((k for k, known in enumerate(outputs) if same(known, out)), None)
        if place is None:
            outputs.append(out)
            results.append(moved(result))
        else:
            results[place] = moved(result)
    names = tuple(f"x{k}" for k in range(len(arrays)))
    formula = Formula(names, (*before.formula.instructions, *steps), tuple(results))
    return Map(formula, tuple(arrays), tuple(outputs))


def _grouped(first: Operation, others: list[Operation]) -> tuple[Joined, list[Operation]]:
    """An operation joined with all that can join it, and the remaining operations."""
    items: list[Operation] = [first]
    left: list[Operation] = []
    if _in_columns(first):
        for operation in others:
            if _in_columns(operation) and _joins_columns(items, operation) and not _conflicts(left, operation):
                items.append(operation)
            else:
                left.append(operation)
        if len(items) > 1 and any(isinstance(item, Reduce) for item in items):
            return _Columns(tuple(items)), left  # type: ignore[arg-type]
    if isinstance(first, Map):
        for k, operation in enumerate(others):
            if isinstance(operation, Reduce) and operation.axis == 1 and operation.fold == "sum":
                summand = next((i for i, out in enumerate(first.outputs) if same(out, operation.a)), None)
                if summand is not None and not _conflicts(others[:k], operation) and _sums(first, operation):
                    return _RowSum(first, summand, operation.out), [*others[:k], *others[k + 1 :]]
    return first, others


def _in_columns(operation: Operation) -> bool:
    """Whether an operation works within the columns of matrices."""
    if isinstance(operation, Reduce):
        return operation.axis == 0
    return (
        isinstance(operation, Map)
        and all(out.ndim == 2 and out.dtype != np.uint16 for out in operation.outputs)
        and len({out.dtype for out in operation.outputs}) == 1
    )


def _joins_columns(items: Sequence[Operation], late: Operation) -> bool:
    """Whether an operation fits into one kernel with others: same number of columns, same dtype, same elements."""
    first = items[0].writes[0]
    if late.writes[0].shape[-1] != first.shape[-1] or late.writes[0].dtype != first.dtype:
        return False
    return all(same(x, y) for item in items for x, y in meetings(item, late))


def _sums(item: Map, late: Reduce) -> bool:
    """Whether the kernel that computes the terms of a sum along the rows can also compute the sum."""
    return item.outputs[0].ndim == 2 and arithmetic(item.outputs) == late.out.dtype and not any(
        overlap(late.out, array) for array in (*item.reads, *item.writes)
    )  # fmt: skip


def _conflicts(operations: Sequence[Operation], late: Operation) -> bool:
    return any(conflict(operation, late) for operation in operations)
