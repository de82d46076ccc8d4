"""Formulas on NumPy: chains of ufunc calls that write into existing arrays, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nnbp.graph.formula import Constant, Formula, Input, Instruction, Operand, Value
from nnbp.graph.ops import Array, same

Calls: TypeAlias = list[tuple[Callable[..., object], tuple[Any, ...]]]
"""Functions with their bound arguments, in order."""

TILE = 65536
"""Elements per tile: an elementwise chain processes its arrays in tiles that fit into the cache of a core."""

# NumPy deprecates `out` as a third positional argument, but only for these two.
_OUT_BY_KEYWORD = {np.maximum, np.minimum}


@final
class Registers:
    """Small arrays for intermediate values, shared by all chains that run one after the other."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[np.dtype[Any], int], NDArray[Any]] = {}

    def array(self, dtype: DTypeLike, index: int, shape: tuple[int, ...]) -> NDArray[Any]:
        """The first elements of a register, as an array of the given shape."""
        size = int(np.prod(shape))
        key = (np.dtype(dtype), index)
        if key not in self._arrays or self._arrays[key].size < size:
            self._arrays[key] = np.empty(max(size, min(TILE, 2 * size)), dtype)
        return self._arrays[key][:size].reshape(shape)


def bind(formula: Formula, inputs: Sequence[Array], outputs: Sequence[Array], registers: Registers) -> Calls:
    """The calls that compute ``outputs = formula(inputs)`` with broadcasting; outputs have the shape of the result."""
    calls: Calls = []
    single = outputs[0].size == 1
    # Single numbers become arrays without axes, which ufuncs handle in half the time.
    inputs = [x.reshape(()) if x.size == 1 else x for x in inputs]
    outputs = [x.reshape(()) if single else x for x in outputs]
    for tile in _tiles(outputs[0].shape):
        own = [_cut(x, tile) for x in inputs], [_cut(x, tile) for x in outputs]
        calls += _Tile(formula, *own, registers).calls
    return calls


@final
class _Tile:
    """The calls of one tile, and the register that holds each value."""

    def __init__(
        self, formula: Formula, inputs: Sequence[Array], outputs: Sequence[Array], registers: Registers
    ) -> None:
        self.formula, self.outputs, self.registers = formula, outputs, registers
        self.dtype = outputs[0].dtype
        self.calls: Calls = []
        self._values: list[Array] = []
        self._free: dict[bool, list[int]] = {False: [], True: []}
        self._owned: dict[int, tuple[bool, int]] = {}
        self._taken = {False: 0, True: 0}
        self.inputs = [self._in_own_dtype(x) for x in inputs]
        aside = self._set_aside()
        for i, step in enumerate(formula.instructions):
            self._bind_step(i, step)
        for out, result in zip(outputs, formula.results, strict=True):
            computed = aside[result] if result in aside else self._array(result)
            if computed is not out and not same(computed, out):
                self.calls.append((np.copyto, (out, computed)))

    def _array(self, operand: Operand) -> Array:
        match operand:
            case Input(index):
                return self.inputs[index]
            case Value(index):
                return self._values[index]
            case Constant(number):
                # An array of the formula's dtype, because a Python number with a comparison would give float64.
                return np.asarray(number, self.dtype)

    def _in_own_dtype(self, array: Array) -> Array:
        """A float array as it is, or copied into one of the formula's dtype: ufuncs on mixed dtypes are slow."""
        if array.dtype == self.dtype or array.dtype.kind != "f":
            return array
        own = self._new(False, array.shape)[1]
        self.calls.append((np.copyto, (own, array)))
        return own

    def _new(self, boolean: bool, shape: tuple[int, ...]) -> tuple[int, Array]:
        if self._free[boolean]:
            register = self._free[boolean].pop()
        else:
            register = self._taken[boolean]
            self._taken[boolean] += 1
        return register, self.registers.array(np.bool if boolean else self.dtype, register, shape)

    def _release(self, operands: set[Operand], i: int, shape: tuple[int, ...] | None) -> None:
        """Frees the registers that instruction i is the last to read; with a shape, only those of that shape."""
        for operand in operands:
            if (
                isinstance(operand, Value)
                and operand.index in self._owned
                and self.formula.last_use(operand) == i
                and operand not in self.formula.results
                and shape in (None, self._values[operand.index].shape)
            ):
                kind, register = self._owned.pop(operand.index)
                self._free[kind].append(register)

    def _set_aside(self) -> dict[Operand, Array]:
        """Copies of inputs that are also results, if another output overwrites them."""
        aside: dict[Operand, Array] = {}
        for out, result in zip(self.outputs, self.formula.results, strict=True):
            if isinstance(result, Input):
                source = self.inputs[result.index]
                if any(other is not out and np.may_share_memory(source, other) for other in self.outputs):
                    aside[result] = self._new(False, source.shape)[1]
                    self.calls.append((np.copyto, (aside[result], source)))
        return aside

    def _bind_step(self, i: int, step: Instruction) -> None:
        boolean, ufunc = step.primitive.boolean, step.primitive.ufunc
        arguments = tuple(self._array(operand) for operand in step.operands)
        flag = _flag_as_number(step, arguments)
        # A value is as small as its operands allow: one that depends only on the row is computed once per row.
        shape = np.broadcast_shapes(*(argument.shape for argument in arguments))
        casts: list[int] = []
        if ufunc is not None and flag is None:
            arguments = tuple(self._as_number(argument, casts) for argument in arguments)
        # The result may overwrite an operand that is read for the last time, if their shapes are equal.
        self._release(set(step.operands), i, shape)
        target = self._direct_target(i)
        if target is None:
            register, target = self._new(boolean, shape)
            self._owned[i] = (boolean, register)
        self._values.append(target)
        if flag is not None:
            self.calls.append((np.copyto, (target, flag)))
        elif ufunc is None:
            condition, if_true, if_false = arguments
            self.calls += _bind_where(condition, if_true, if_false, target)
        elif ufunc in _OUT_BY_KEYWORD:
            self.calls.append((partial(ufunc, out=target), arguments))
        else:
            self.calls.append((ufunc, (*arguments, target)))
        self._free[False] += casts
        self._release(set(step.operands), i, None)

    def _as_number(self, argument: Array, casts: list[int]) -> Array:
        """A comparison's result as the numbers 0 and 1: ufuncs on mixed dtypes are slow and allocate a buffer."""
        if argument.dtype != np.bool:
            return argument
        register, number = self._new(False, argument.shape)
        casts.append(register)
        self.calls.append((np.copyto, (number, argument)))
        return number

    def _direct_target(self, i: int) -> Array | None:
        """The output array that instruction i can write its value to directly, or None.

        It can if its value is the result for this output, and no input that shares the array's memory is read later.
        """
        formula = self.formula
        for out, result in zip(self.outputs, formula.results, strict=True):
            if result != Value(i) or formula.instructions[i].primitive.boolean:
                continue
            shared = [Input(k) for k, array in enumerate(self.inputs) if np.may_share_memory(array, out)]
            if all(formula.last_use(operand) <= i and operand not in formula.results for operand in shared):
                return out
        return None


def _flag_as_number(step: Instruction, arguments: Sequence[Array]) -> Array | None:
    """The comparison that a product with 1 converts to a number; None if the step is not of this form."""
    if step.primitive.ufunc is not np.multiply or Constant(1.0) not in step.operands:
        return None
    return next((argument for argument in arguments if argument.dtype == np.bool), None)


def _tiles(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Slices that divide arrays of this shape into tiles of at most `TILE` elements, filling the last axis first."""
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
    """The part of an array that belongs to a tile; axes of length one are broadcast, so they are not cut."""
    own = tile[len(tile) - array.ndim :]
    # With the Ellipsis, indexing an array without axes returns an array and not a scalar.
    return array[(*(slice(None) if size == 1 else part for size, part in zip(array.shape, own, strict=True)), ...)]


def _bind_where(condition: Array, if_true: Array, if_false: Array, out: Array) -> Calls:
    # Views of the same memory are different objects, so addresses tell whether `out` already holds the values.
    if same(out, if_true):
        return [(copy_unless, (out, if_false, condition))]
    before: Calls = [] if same(out, if_false) else [(np.copyto, (out, if_false))]
    return [*before, (np.copyto, (out, if_true, "same_kind", condition))]


def copy_unless(out: Array, values: Array, condition: Array) -> None:
    """``out = values`` where the condition does not hold."""
    np.copyto(out, values, where=~condition)
