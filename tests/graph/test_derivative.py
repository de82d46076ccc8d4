"""Derivatives of formulas: of every primitive, and of every activation and loss, whose own they must equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnbp.graph.derivative import derivative
from nnbp.graph.formula import PRIMITIVES, trace
from nnbp.nn.activations import Activation
from nnbp.nn.losses import Loss
from nnbp.registry import is_built_in

GRID = np.unique(np.concatenate([np.linspace(-6, 6, 2401), np.linspace(-700, 700, 1401), [-1e-9, 0.0, 1e-9]]))

ACTIVATIONS = [cls for cls in Activation.registry.values() if cls.df is not Activation.df and is_built_in(cls)]
LOSSES = [
    cls for cls in Loss.registry.values()
    if cls.dcost is not Loss.dcost and cls.cost is not Loss.cost and is_built_in(cls)
]  # fmt: skip


def differences(f: Any, x: Any, step: float = 1e-4) -> Any:
    """Central differences with an error of order step⁴."""
    wide, narrow = ((f(x + s) - f(x - s)) / (2 * s) for s in (step, step / 2))
    return (4 * narrow - wide) / 3


@pytest.mark.parametrize("name", [name for name, primitive in PRIMITIVES.items() if not primitive.boolean])
def test_every_primitive_against_differences(name: str) -> None:
    """In each of its operands, at points where it has a derivative."""
    x, y = np.array([0.3, 1.7, 2.6]), np.array([1.1, 0.4, 3.9])
    if name == "where":
        functions = [lambda x, y: np.where(x > 1, x * y, y / x)]
    elif PRIMITIVES[name].ufunc.nin == 1:
        functions = [lambda x, y: getattr(np, name)(x) * y]
    else:
        function = getattr(np, name)
        functions = [lambda x, y: function(x, y), lambda x, y: function(y, x)]
    for f in functions:
        np.testing.assert_allclose(derivative(f, x, y), differences(lambda x, f=f: f(x, y), x), rtol=1e-9)


@given(st.floats(-20, 20), st.floats(-20, 20))
def test_sums_products_and_chains(x: float, y: float) -> None:
    at = np.array([x])
    np.testing.assert_allclose(derivative(lambda x, y: np.sin(x * y) + x**2, at, y), np.cos(at * y) * y + 2 * at)
    np.testing.assert_allclose(derivative(lambda x, y: np.tanh(np.sin(x)), at, y),
                               np.cos(at) / np.cosh(np.sin(at)) ** 2, atol=1e-15)  # fmt: skip


@pytest.mark.parametrize("cls", ACTIVATIONS, ids=lambda cls: cls.name)
def test_derivatives_of_activations_equal_their_own(cls: type[Activation]) -> None:
    """Everywhere but at named kinks, also where z is large; the exponential overflows on both sides alike."""
    f = cls()
    z = GRID[~np.isin(GRID, f.kinks)]
    with np.errstate(all="ignore"):
        own = f.df(z, f.f(z)) * np.ones_like(z)
        np.testing.assert_allclose(derivative(f.f, z) * np.ones_like(z), own, rtol=1e-12, atol=4e-15)


@pytest.mark.parametrize("cls", LOSSES, ids=lambda cls: cls.name)
def test_derivatives_of_losses_equal_their_own(cls: type[Loss]) -> None:
    loss = cls()
    h, y = np.meshgrid(np.linspace(0.01, 8, 801), np.linspace(0, 8, 33))
    apart = (
        np.all([np.abs(h - y - kink) > 1e-9 for kink in loss.kinks], axis=0) if loss.kinks else np.full(h.shape, True)
    )
    h, y = h[apart], y[apart]
    np.testing.assert_allclose(derivative(loss.cost, h, y), loss.dcost(h, y), rtol=1e-13, atol=4e-15)


@pytest.mark.parametrize(
    ("f", "middle"),
    [(lambda z: np.maximum(z, 0.0), 0.5), (lambda z: np.minimum(z, 3.0 * z), 2.0), (abs, 0.0)],
)
def test_a_kink_has_the_mean_of_both_sides(f: Any, middle: float) -> None:
    assert derivative(f, np.array([0.0])) == middle


def test_formulas_that_bend_in_two_halves_are_smooth_in_the_middle() -> None:
    """σ(z) = e^min(z, 0) / (1 + e^−|z|) has two kinks at 0 that cancel: its derivative there is ¼."""
    assert derivative(lambda z: np.exp(np.minimum(z, 0.0)) / (1.0 + np.exp(-np.abs(z))), np.array([0.0])) == 0.25


def test_where_ignores_the_branch_that_is_not_chosen() -> None:
    """Its slope may be infinite or NaN there."""
    with np.errstate(all="ignore"):
        found = derivative(lambda z: np.where(z > 0, np.log(z), z), np.array([-1.0, 0.0, 2.0]))
    np.testing.assert_array_equal(found, [1.0, 1.0, 0.5])


def test_constants_have_slope_0() -> None:
    assert derivative(lambda x, y: y * 2.0, np.ones(2), np.ones(2)) == 0.0
    assert derivative(lambda x: np.sign(x), np.ones(2)) == 0.0
    assert derivative(lambda x: x, np.ones(2)) == 1.0


def test_a_derivative_is_a_formula() -> None:
    """It is traced like any other, without operations that have no effect; so there are derivatives of derivatives."""
    formula = trace(lambda z: derivative(lambda z: np.tanh(z) * 2.0 + 1.0, z), "z")
    assert [step.primitive.name for step in formula.instructions] == ["tanh", "multiply", "subtract", "multiply"]
    x = np.linspace(-2, 2, 9)
    np.testing.assert_allclose(derivative(lambda z: derivative(np.sin, z), x), -np.sin(x), rtol=1e-15)


def test_dtype_is_kept() -> None:
    x = np.linspace(0.5, 2, 9, dtype=np.float32)
    for f in (lambda z: z / (1 + abs(z)), lambda z: z**3, lambda z: np.tanh(2.0 * z), np.sqrt):
        assert derivative(f, x).dtype == np.float32


def test_a_function_that_is_no_formula_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot branch on its values"):
        derivative(lambda z: z if z > 0 else 0.0, np.ones(3))
