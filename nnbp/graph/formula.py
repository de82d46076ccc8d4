"""Formulas: written once in ordinary NumPy code and compiled for every backend.

An activation, a loss or an optimizer states its formula as an ordinary function of arrays, say
``lambda z: np.tanh(z)``. Called with arrays it computes. Called with the symbols of this module it is *traced*:
every ufunc that it calls becomes an instruction, and the list of instructions is a `Formula`. A backend turns a
`Formula` into its fastest form: a chain of ufunc calls over cache-sized blocks, or one CUDA kernel. So there is one
version of each formula for all devices.

>>> formula = trace(lambda z, b: np.tanh(z + b), "z", "b")
>>> print(formula)
v0 = add(z, b)
v1 = tanh(v0)
-> v1
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin


class Primitive(NamedTuple):
    """An elementwise function that formulas may use: its ufunc (None for `where`), and its expression in C."""

    name: str
    ufunc: np.ufunc | None
    c: str
    boolean: bool = False


def _primitives() -> dict[str, Primitive]:
    unary = {
        name: f"{name}({{0}})" for name in ("exp", "expm1", "log", "log1p", "tanh", "sqrt", "sin", "cos", "arctan")
    }
    unary |= {"arctan": "atan({0})", "absolute": "fabs({0})", "negative": "-{0}", "square": "{0} * {0}"}
    unary |= {"reciprocal": "T(1) / {0}", "sign": "nnbp_sign({0})"}
    binary = {"add": "{0} + {1}", "subtract": "{0} - {1}", "multiply": "{0} * {1}", "divide": "{0} / {1}"}
    binary |= {"maximum": "nnbp_max({0}, {1})", "minimum": "nnbp_min({0}, {1})", "power": "pow({0}, {1})"}
    compare = {"greater": ">", "greater_equal": ">=", "less": "<", "less_equal": "<=", "equal": "==", "not_equal": "!="}
    table = [Primitive(name, getattr(np, name), c) for name, c in (unary | binary).items()]
    table += [Primitive(name, getattr(np, name), f"{{0}} {c} {{1}}", boolean=True) for name, c in compare.items()]
    table.append(Primitive("where", None, "{0} ? {1} : {2}"))
    return {primitive.name: primitive for primitive in table}


PRIMITIVES = _primitives()
"""Every primitive that a formula may use, by the name of its NumPy function."""


class Symbol(NDArrayOperatorsMixin):
    """A symbolic value: an input of a formula, a constant, or the result of a primitive applied to symbols."""

    __slots__ = ("arguments", "constant", "name", "primitive")

    def __init__(
        self,
        primitive: Primitive | None = None,
        arguments: tuple[Symbol, ...] = (),
        *,
        name: str | None = None,
        constant: float | None = None,
    ) -> None:
        self.primitive, self.arguments, self.name, self.constant = primitive, arguments, name, constant

    @property
    def is_boolean(self) -> bool:
        """Whether this is the result of a comparison."""
        return self.primitive is not None and self.primitive.boolean

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Symbol:
        primitive = PRIMITIVES.get(ufunc.__name__)
        if method != "__call__" or kwargs or primitive is None:
            _refuse(f"np.{ufunc.__name__}" + (f".{method}" if method != "__call__" else ""), kwargs)
        return _apply(primitive, *inputs)

    def __array_function__(self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Symbol:
        if function is not np.where or len(args) != 3 or kwargs:
            _refuse(f"np.{function.__name__}", kwargs)
        condition, if_true, if_false = (_symbol(argument) for argument in args)
        if condition.constant is not None:
            return if_true if condition.constant else if_false
        if not condition.is_boolean:
            condition = _apply(PRIMITIVES["not_equal"], condition, 0.0)
        return _apply(PRIMITIVES["where"], condition, if_true, if_false)

    def __pow__(self, exponent: Any) -> Symbol:
        if isinstance(exponent, int | float) and exponent in _EXACT_POWERS:
            return _apply(PRIMITIVES[_EXACT_POWERS[exponent]], self)
        return _apply(PRIMITIVES["power"], self, exponent)

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "A formula cannot branch on its values: it is traced once and runs on whole arrays. Received a symbol "
            "where Python needs True or False (an `if`, `and`, `or` or `max`); write np.where, np.maximum or "
            "np.minimum instead."
        )

    def __float__(self) -> NoReturn:
        raise TypeError(
            "A formula works on whole arrays; received a symbol where Python needs one number. Use NumPy's "
            "functions (np.exp, not math.exp)."
        )


def _refuse(function: str, options: dict[str, Any]) -> NoReturn:
    if "out" in options:
        raise TypeError(
            f"A formula computes new values and changes none in place; received {function} with out=, which `z += 1` "
            "also uses. Write `z = z + 1`."
        )
    raise TypeError(
        f"A formula may only use elementwise NumPy functions, one value in and one value out; received {function}"
        f"{''.join(f' with {option}=' for option in options)}. Supported functions: {', '.join(sorted(PRIMITIVES))}."
    )


def _symbol(value: Any) -> Symbol:
    if isinstance(value, Symbol):
        return value
    if isinstance(value, int | float | np.floating | np.integer | np.bool):
        return Symbol(constant=float(value))
    raise TypeError(
        f"A formula consists of its arguments and of numbers; received {type(value).__name__}. "
        "Give arrays as arguments of the formula."
    )


# Powers with a dedicated primitive, which is faster and rounds once.
_EXACT_POWERS = {2: "square", 0.5: "sqrt", -1: "reciprocal"}
# Primitives that give the same result for truth values as for the numbers 0 and 1.
_ON_COMPARISONS = {"multiply", "maximum", "minimum", "where"}
_LEFT_NEUTRAL = {"add": 0.0, "multiply": 1.0}
_RIGHT_NEUTRAL = {"add": 0.0, "subtract": 0.0, "multiply": 1.0, "divide": 1.0}


def _apply(primitive: Primitive, *arguments: Any) -> Symbol:
    """The result of a primitive; constants are folded, and operations without effect (``x * 1``, ``x + 0``) dropped."""
    symbols = tuple(map(_symbol, arguments))
    constants = [symbol.constant for symbol in symbols]
    if primitive.ufunc is not None and None not in constants:
        return Symbol(constant=float(primitive.ufunc(*constants)))
    comparisons = [symbol.is_boolean for symbol in symbols]
    if all(comparisons) and not (primitive.boolean or primitive.name in _ON_COMPARISONS):
        raise TypeError(
            "NumPy does not treat comparisons as numbers (True + True is True), so a formula does not, "
            f"either; received np.{primitive.name} of comparisons alone. Convert them to numbers first: "
            "np.where(condition, 1.0, 0.0)."
        )
    # `1.0 * (z > 0)` turns a comparison into a number, so it must not be dropped.
    if len(symbols) == 2 and not any(comparisons):
        if constants[1] is not None and constants[1] == _RIGHT_NEUTRAL.get(primitive.name):
            return symbols[0]
        if constants[0] is not None and constants[0] == _LEFT_NEUTRAL.get(primitive.name):
            return symbols[1]
    return Symbol(primitive, symbols)


# Operands are compared and hashed all the time while formulas are traced and compiled, which tuples do in C. Their
# last field makes them differ from those of another kind.


class Input(NamedTuple):
    """An operand that is the formula's input at this position."""

    position: int
    kind: str = "input"


class Constant(NamedTuple):
    """An operand that is a number; the sign, 1 or −1, tells −0.0 from 0.0, which are equal."""

    number: float
    sign: float = 1.0


class Value(NamedTuple):
    """An operand that is the result of the instruction at this position."""

    position: int
    kind: str = "value"


Operand = Input | Constant | Value


class Instruction(NamedTuple):
    """One primitive applied to operands; its result is the `Value` with the instruction's index in the list."""

    primitive: Primitive
    operands: tuple[Operand, ...]


@dataclass(frozen=True)
class Formula:
    """A traced formula: named inputs, instructions in executable order, and the operands that are its results.

    Equal subexpressions are computed once. Formulas are hashable, and equal if their inputs, instructions and results
    are, so a backend may cache what it has compiled.
    """

    inputs: tuple[str, ...]
    instructions: tuple[Instruction, ...]
    results: tuple[Operand, ...]

    def uses(self, name: str) -> bool:
        """Whether the formula reads the input with this name."""
        wanted = Input(self.inputs.index(name))
        return wanted in self.results or wanted in self._last_uses

    def last_use(self, operand: Operand) -> int:
        """Index of the last instruction that reads the operand; -1 if none does."""
        return self._last_uses.get(operand, -1)

    @cached_property
    def _last_uses(self) -> dict[Operand, int]:
        return {operand: i for i, step in enumerate(self.instructions) for operand in step.operands}

    def c_source(self) -> tuple[list[str], list[str]]:
        """The formula in C: lines ``const T v0 = …;``, which use the inputs' names, and one expression per result."""
        text = partial(self._text, constant=_c_number)
        lines = []
        for i, step in enumerate(self.instructions):
            kind = "bool" if step.primitive.boolean else "T"
            # A comparison used as a number is 0 or 1; outside the condition of `where` it needs a cast.
            takes = [
                f"T({text(operand)})"
                if self._is_boolean(operand) and not (step.primitive.ufunc is None and k == 0)
                else text(operand)
                for k, operand in enumerate(step.operands)
            ]
            lines.append(f"const {kind} v{i} = {step.primitive.c.format(*takes)};")
        return lines, [f"T({text(result)})" for result in self.results]

    def _is_boolean(self, operand: Operand) -> bool:
        return isinstance(operand, Value) and self.instructions[operand.position].primitive.boolean

    def __str__(self) -> str:
        lines = [
            f"v{i} = {step.primitive.name}({', '.join(map(self._text, step.operands))})"
            for i, step in enumerate(self.instructions)
        ]
        return "\n".join([*lines, "-> " + ", ".join(map(self._text, self.results))])

    def _text(self, operand: Operand, constant: Callable[[float], str] = repr) -> str:
        match operand:
            case Input(index):
                return self.inputs[index]
            case Value(index):
                return f"v{index}"
            case Constant(number):
                return constant(number)


def _c_number(number: float) -> str:
    if math.isfinite(number):
        return f"T({number!r})"
    return "T(NAN)" if math.isnan(number) else ("T(INFINITY)" if number > 0 else "-T(INFINITY)")


def trace(function: Callable[..., Any], *inputs: str) -> Formula:
    """The formula of ``function(*inputs)``, which returns one value or a tuple of values.

    Args:
        function: elementwise NumPy code on its arguments, without branches on their values.
        inputs: one name per argument.

    Raises:
        TypeError: the function uses something that is not elementwise, or branches on a value.
    """
    outcome = function(*[Symbol(name=name) for name in inputs])
    results: Sequence[Any] = outcome if isinstance(outcome, tuple) else (outcome,)
    recording = _Recording(inputs)
    # The symbols must stay alive until the end because the recording knows them by their identity.
    symbols = [_symbol(result) for result in results]
    operands = tuple(map(recording.operand, symbols))
    return Formula(inputs, tuple(recording.instructions), operands)


class _Recording:
    """The instructions that compute symbols, each once."""

    def __init__(self, inputs: Sequence[str]) -> None:
        self.instructions: list[Instruction] = []
        self._inputs = inputs
        self._known: dict[Instruction, Value] = {}
        self._seen: dict[int, Operand] = {}

    def operand(self, symbol: Symbol) -> Operand:
        """What stands for a symbol, after the instructions that it needs."""
        found = self._seen.get(id(symbol))
        if found is None:
            found = self._seen[id(symbol)] = self._found(symbol)
        return found

    def _found(self, symbol: Symbol) -> Operand:
        if symbol.primitive is not None:
            step = Instruction(symbol.primitive, tuple(map(self.operand, symbol.arguments)))
            if step not in self._known:
                self._known[step] = Value(len(self.instructions))
                self.instructions.append(step)
            return self._known[step]
        if symbol.constant is not None:
            return Constant(symbol.constant, math.copysign(1.0, symbol.constant))
        return Input(self._inputs.index(symbol.name))
