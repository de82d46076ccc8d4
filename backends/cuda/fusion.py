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

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnbp.graph.formula import Constant, Formula, Input, Instruction, Operand, Value
from nnbp.graph.ops import Array, Map, Operation, Reduce, conflict, meetings, overlap, same

from .codegen import arithmetic


@dataclass(frozen=True, eq=False)
class Group:
    """Operations that share a kernel: within the columns of matrices, or a formula and the sum of a result of it."""

    items: tuple[Map | Reduce, ...]

    @property
    def reads(self) -> tuple[Array, ...]:
        """The arrays that any of them reads."""
        return tuple(array for item in self.items for array in item.reads)

    @property
    def writes(self) -> tuple[Array, ...]:
        """The arrays that any of them writes."""
        return tuple(array for item in self.items for array in item.writes)


def fused(operations: Sequence[Operation]) -> list[Operation | Group]:
    """The operations, joined as described in the docstring of this module."""
    rest: list[Operation] = []
    for operation in operations:
        _merge(rest, operation)
    found: list[Operation | Group] = []
    while rest:
        first, *others = rest
        grouped, rest = _grouped(first, others)
        found.append(grouped)
    return found


def position(arrays: Sequence[Array], array: Array) -> int | None:
    """Index of an array among others; None if it is not there."""
    return next((k for k, known in enumerate(arrays) if same(known, array)), None)


def _merge(done: list[Operation], late: Operation) -> None:
    """Appends an operation; or merges a formula into an earlier one, whose output it reads."""
    if isinstance(late, Map):
        for k in range(len(done) - 1, -1, -1):
            before = done[k]
            if isinstance(before, Map) and _chain(before, late):
                done[k] = _composed(before, late)
                return
            if conflict(before, late):
                break
    done.append(late)


def _chain(before: Map, after: Map) -> bool:
    """Whether a formula reads another one's output, element by element."""
    dtype = arithmetic(before.outputs)
    if before.outputs[0].shape != after.outputs[0].shape or dtype != arithmetic(after.outputs):
        return False
    if any(out.dtype not in (dtype, np.uint16) for out in before.outputs):
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
        place = position(outputs, array)
        if place is None:
            sources.append(Input(len(arrays)))
            arrays.append(array)
        else:
            sources.append(results[place])

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
        place = position(outputs, out)
        if place is None:
            outputs.append(out)
            results.append(moved(result))
        else:
            results[place] = moved(result)
    names = tuple(f"x{k}" for k in range(len(arrays)))
    formula = Formula(names, (*before.formula.instructions, *steps), tuple(results))
    return Map(formula, tuple(arrays), tuple(outputs))


def _grouped(first: Operation, others: list[Operation]) -> tuple[Operation | Group, list[Operation]]:
    """An operation joined with all that can join it, and the remaining operations."""
    if not isinstance(first, Map | Reduce):
        return first, others
    for joins in (_joins_columns, _joins_row_sum):
        items: list[Map | Reduce] = [first]
        left: list[Operation] = []
        for late in others:
            if isinstance(late, Map | Reduce) and joins(items, late) and not any(conflict(x, late) for x in left):
                items.append(late)
            else:
                left.append(late)
        if len(items) > 1 and any(isinstance(item, Reduce) for item in items):
            return Group(tuple(items)), left
    return first, others


def _joins_columns(items: Sequence[Map | Reduce], late: Map | Reduce) -> bool:
    """Whether an operation fits into one kernel with others: same number of columns, same dtype, same elements."""
    first, out = items[0].writes[0], late.writes[0]
    if not (_in_columns(items[0]) and _in_columns(late) and out.shape[-1] == first.shape[-1]):
        return False
    return out.dtype == first.dtype and all(same(x, y) for item in items for x, y in meetings(item, late))


def _in_columns(operation: Map | Reduce) -> bool:
    """Whether an operation works within the columns of matrices."""
    if isinstance(operation, Reduce):
        return operation.axis == 0
    first, *others = operation.outputs
    return first.ndim == 2 and first.dtype != np.uint16 and all(out.dtype == first.dtype for out in others)


def _joins_row_sum(items: Sequence[Map | Reduce], late: Map | Reduce) -> bool:
    """Whether the kernel of a formula can also compute an operation: the sum of one of its results along the rows."""
    first = items[0]
    if len(items) > 1 or not (isinstance(first, Map) and isinstance(late, Reduce) and late.axis == 1):
        return False
    if position(first.outputs, late.a) is None or arithmetic(first.outputs) != late.out.dtype:
        return False
    return not any(overlap(late.out, array) for array in (*first.reads, *first.writes))
