"""Formulas on NumPy: chains of ufunc calls that write into existing arrays, tile by tile."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeGuard, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nnbp.graph.formula import Constant, Formula, Input, Instruction, Operand, Value
from nnbp.graph.ops import Array, same

Calls: TypeAlias = list[tuple[Callable[..., object], tuple[Any, ...]]]
"""Functions with their bound arguments, in order."""

TILE_IN_C = 1024
TILE_IN_PYTHON = 65536
"""Elements per tile, about: so few that the registers stay in the cache of a core, so many that calls cost little."""

# NumPy deprecates `out` as a third positional argument, but only for these two.
_OUT_BY_KEYWORD = {np.maximum, np.minimum}


@final
class Registers:
    """Small arrays for intermediate values and constants, shared by all chains that run one after the other.

    Args:
        native: whether the chains run in C, where calls cost little.
    """

    def __init__(self, native: bool) -> None:
        self.native = native
        self.tile = TILE_IN_C if native else TILE_IN_PYTHON
        self.room = 0
        """Elements of a register: those of the largest tile. It is known before a tile is bound: all tiles of a chain
        must find a register at the same address."""
        self._arrays: dict[tuple[np.dtype[Any], int], NDArray[Any]] = {}
        self._constants: dict[tuple[np.dtype[Any], str], NDArray[Any]] = {}

    def constant(self, dtype: np.dtype[Any], number: float) -> NDArray[Any]:
        """A number as an array: a Python number in a comparison would give float64."""
        # By its text because 0.0 and -0.0 are equal.
        return self._constants.setdefault((dtype, repr(number)), np.asarray(number, dtype))

    def array(self, dtype: DTypeLike, index: int, shape: tuple[int, ...]) -> NDArray[Any]:
        """The first elements of a register, as an array of the given shape."""
        return self.whole(np.dtype(dtype), index)[: math.prod(shape)].reshape(shape)

    def whole(self, dtype: np.dtype[Any], index: int) -> NDArray[Any]:
        """A register; the caller keeps it alive, because a larger one may take its place."""
        known = self._arrays.get((dtype, index))
        if known is None or known.size < self.room:
            known = self._arrays[dtype, index] = np.empty(self.room, dtype)
        return known

    def anew(self) -> Registers:
        """Others for tiles of the same size."""
        other = Registers(self.native)
        other.tile = self.tile
        return other

    @property
    def used(self) -> list[tuple[np.dtype[Any], int]]:
        """Dtype and index of every register that there is."""
        return list(self._arrays)


@final
class Chain:
    """``outputs = formula(inputs)`` with broadcasting, tile by tile along the first axis of more than one element.

    Args:
        formula: its instructions become ufunc calls.
        inputs, outputs: arrays; the outputs have the shape of the result.
        registers: hold the intermediate values.
    """

    def __init__(
        self, formula: Formula, inputs: Sequence[Array], outputs: Sequence[Array], registers: Registers
    ) -> None:
        single = outputs[0].size == 1
        # Single numbers become arrays without axes, which ufuncs handle in half the time.
        self.inputs = [x.reshape(()) if x.size == 1 else x for x in inputs]
        self.outputs = [x.reshape(()) if single else x for x in outputs]
        self.formula, self.registers = formula, registers
        shape = self.outputs[0].shape
        self._axis = next((k for k, size in enumerate(shape) if size > 1), 0) - len(shape)
        length = shape[self._axis] if shape else 1
        self._step = max(1, registers.tile * length // max(1, self.outputs[0].size))
        self.full, rest = divmod(length, self._step)
        """The number of tiles of full size."""
        self.tiles = self.full + bool(rest)
        registers.room = max(registers.room, self._step * self.outputs[0].size // max(1, length))
        self._calls: dict[int, Calls] = {}
        self.keeps: object = None
        """What the chain's records use besides its arrays."""

    def tile(self, k: int) -> Calls:
        """The calls of a tile, which are kept, and their arrays with them."""
        if k not in self._calls:
            self._calls[k] = self._bind(k)
        return self._calls[k]

    def _bind(self, k: int) -> Calls:
        part = slice(k * self._step, (k + 1) * self._step)
        inputs, outputs = ([self._cut(x, part) for x in arrays] for arrays in (self.inputs, self.outputs))
        return _Tile(self.formula, inputs, outputs, self.registers).calls

    def _cut(self, array: Array, part: slice) -> Array:
        """The part of an array that belongs to a tile; axes of length one are broadcast, so they are not cut."""
        if array.ndim < max(1, -self._axis) or array.shape[self._axis] == 1:
            return array
        return array[(..., part, *[slice(None)] * (-self._axis - 1))]

    def __call__(self) -> None:
        """Runs all tiles; for calls that have no records."""
        for k in range(self.tiles):
            for function, arguments in self.tile(k):
                function(*arguments)


def bind(formula: Formula, inputs: Sequence[Array], outputs: Sequence[Array], registers: Registers) -> Calls:
    """The calls that compute ``outputs = formula(inputs)``: those of all tiles, or in C a chain."""
    chain = Chain(formula, inputs, outputs, registers)
    if registers.native:
        return [(chain, ())]
    return [call for k in range(chain.tiles) for call in chain.tile(k)]


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
                return self.registers.constant(self.dtype, number)

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

    def _ends(self, operand: Operand, i: int) -> TypeGuard[Value]:
        """Whether an operand is in a register that instruction i is the last to read."""
        return (
            isinstance(operand, Value)
            and operand.position in self._owned
            and self.formula.last_use(operand) == i
            and operand not in self.formula.results
        )

    def _release(self, values: Sequence[int]) -> None:
        """Frees the registers of these values."""
        for index in values:
            kind, register = self._owned.pop(index)
            self._free[kind].append(register)

    def _set_aside(self) -> dict[Operand, Array]:
        """Copies of inputs that are also results, if another output overwrites them."""
        aside: dict[Operand, Array] = {}
        for out, result in zip(self.outputs, self.formula.results, strict=True):
            if isinstance(result, Input):
                source = self.inputs[result.position]
                if any(other is not out and np.may_share_memory(source, other) for other in self.outputs):
                    aside[result] = self._new(False, source.shape)[1]
                    self.calls.append((np.copyto, (aside[result], source)))
        return aside

    def _bind_step(self, i: int, step: Instruction) -> None:
        boolean, ufunc = step.primitive.boolean, step.primitive.ufunc
        arguments = tuple(map(self._array, step.operands))
        flag = _flag_as_number(step, arguments)
        # A value is as small as its operands allow: one that depends only on the row is computed once per row.
        shape = np.broadcast(*arguments).shape
        casts: list[int] = []
        if ufunc is not None and flag is None:
            arguments = tuple(self._as_number(argument, casts) for argument in arguments)
        # The result may overwrite an operand that is read for the last time, if their shapes are equal.
        ended = [operand.position for operand in dict.fromkeys(step.operands) if self._ends(operand, i)]
        self._release([index for index in ended if self._values[index].shape == shape])
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
        self._release([index for index in ended if index in self._owned])

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


def _bind_where(condition: Array, if_true: Array, if_false: Array, out: Array) -> Calls:
    # Views of the same memory are different objects, so addresses tell whether `out` already holds the values.
    if same(out, if_true):
        return [(copy_unless, (out, if_false, condition))]
    before: Calls = [] if same(out, if_false) else [(np.copyto, (out, if_false))]
    return [*before, (np.copyto, (out, if_true, "same_kind", condition))]


def copy_unless(out: Array, values: Array, condition: Array) -> None:
    """``out = values`` where the condition does not hold."""
    np.copyto(out, values, where=~condition)
