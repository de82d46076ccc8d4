"""The derivative of a formula, by one rule per primitive.

A formula is a list of instructions (`nnbp.graph.formula`). Its derivative follows it from its input to its result: with
each value comes its slope, the sum of s · ∂value/∂operand over the operands, where s is the operand's slope. Values and
slopes are NumPy code, too. So the derivative computes on arrays, and is itself traced and compiled like any formula.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nnbp.graph.formula import PRIMITIVES, Constant, Input, Operand, Value, trace

Rule = Callable[..., Any]
"""From a slope s, the value v and the operands: s · ∂v/∂operand."""


def _larger(s: Any, x: Any, y: Any) -> Any:
    """s where x > y, and half of it where they are equal, as the mean of the derivatives on both sides."""
    return np.where(x > y, s, np.where(x < y, 0.0, 0.5 * s))


_RULES: dict[str, tuple[Rule, ...]] = {
    "add": (lambda s, v, x, y: s, lambda s, v, x, y: s),
    "subtract": (lambda s, v, x, y: s, lambda s, v, x, y: -s),
    "multiply": (lambda s, v, x, y: s * y, lambda s, v, x, y: s * x),
    "divide": (lambda s, v, x, y: s / y, lambda s, v, x, y: -s * v / y),
    "power": (lambda s, v, x, y: s * y * x ** (y - 1.0), lambda s, v, x, y: s * v * np.log(x)),
    "maximum": (lambda s, v, x, y: _larger(s, x, y), lambda s, v, x, y: _larger(s, y, x)),
    "minimum": (lambda s, v, x, y: _larger(s, y, x), lambda s, v, x, y: _larger(s, x, y)),
    "negative": (lambda s, v, x: -s,),
    "absolute": (lambda s, v, x: s * np.sign(x),),
    "square": (lambda s, v, x: s * (2.0 * x),),
    "sqrt": (lambda s, v, x: s * 0.5 / v,),
    "reciprocal": (lambda s, v, x: -s * (v * v),),
    "exp": (lambda s, v, x: s * v,),
    "expm1": (lambda s, v, x: s * np.exp(x),),
    "log": (lambda s, v, x: s / x,),
    "log1p": (lambda s, v, x: s / (1.0 + x),),
    "tanh": (lambda s, v, x: s * (1.0 - v * v),),
    "sin": (lambda s, v, x: s * np.cos(x),),
    "cos": (lambda s, v, x: -s * np.sin(x),),
    "arctan": (lambda s, v, x: s / (1.0 + x * x),),
    "where": (
        lambda s, v, c, x, y: None,
        lambda s, v, c, x, y: np.where(c, s, 0.0),
        lambda s, v, c, x, y: np.where(c, 0.0, s),
    ),
}
"""A rule per operand. Comparisons and `sign` have none: they are constant wherever they have a derivative."""


def derivative(function: Callable[..., Any], x: Any, *others: Any, result: Any = None) -> Any:
    """∂function(x, …)/∂x at x, element by element.

    Where the function has a kink, the result is the mean of the derivatives on both sides, if its formula has the kink
    in `np.maximum`, `np.minimum` or `abs`; `np.where` takes the side that its condition chooses.

    Args:
        function: a formula with one result; see `nnbp.graph.formula.trace`.
        x: an array, or a symbol of another formula.
        others: further arguments of the function, which are held constant.
        result: function(x, …), if it is known; it is not computed again then.

    Raises:
        TypeError: the function is no formula.

    >>> derivative(lambda z: z / (1 + abs(z)), np.array([-1.0, 0.0, 3.0]))
    array([0.25  , 1.    , 0.0625])
    """
    inputs = (x, *others)
    formula = trace(function, *(f"x{i}" for i in range(len(inputs))))
    values: list[Any] = []
    slopes: list[Any] = []

    def value(operand: Operand) -> Any:
        match operand:
            case Input(index):
                return inputs[index]
            case Constant(number):
                return number
            case _:
                return values[operand.position]

    def slope(operand: Operand) -> Any:
        """None stands for 0 everywhere."""
        match operand:
            case Input(index):
                return 1.0 if index == 0 else None
            case Constant():
                return None
            case _:
                return slopes[operand.position]

    for primitive, operands in formula.instructions:
        arguments = [value(operand) for operand in operands]
        known = result is not None and formula.results[0] == Value(len(values))
        values.append(result if known else (primitive.ufunc or np.where)(*arguments))
        total = None
        for rule, operand in zip(_RULES.get(primitive.name, ()), operands, strict=False):
            if (s := slope(operand)) is not None:
                part = rule(s, values[-1], *arguments)
                total = part if total is None else total + part
        slopes.append(total)
    found = slope(formula.results[0])
    return 0.0 if found is None else found


assert set(_RULES) <= set(PRIMITIVES), "a rule belongs to a primitive"
