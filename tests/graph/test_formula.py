"""Formulas: what tracing makes of NumPy code, what it refuses, and that the compiled chain computes the same bits."""

from __future__ import annotations

import importlib
import math
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nnbp.errors import ShapeError
from nnbp.graph.backend import backend_class
from nnbp.graph.formula import PRIMITIVES, Formula, trace
from nnbp.graph.ops import Map

backend = backend_class("numpy")()
chains = importlib.import_module("nnbp.backends.cpu.chains")


def compute(formula: Formula, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    with backend.active():
        backend.compile([Map(formula, inputs, outputs)])()


def lines(function: Callable[..., Any], *names: str) -> list[str]:
    return str(trace(function, *names)).splitlines()


def test_the_sign_of_zero_counts() -> None:
    both = trace(lambda z: (np.maximum(z * 0.0, -1.0), np.maximum(z * -0.0, -1.0)), "z")
    positive, negative = (trace(lambda z, zero=zero: np.where(z > 0.0, z, zero), "z") for zero in (0.0, -0.0))
    assert positive != negative
    z = np.array([[-3.0, 2.0]])
    first, second = np.empty_like(z), np.empty_like(z)
    compute(both, [z], [first, second])
    assert np.signbit(first).tolist() == [[True, False]]
    assert np.signbit(second).tolist() == [[False, True]]
    compute(positive, [z], [first])
    compute(negative, [z], [second])
    assert not np.signbit(first).any()
    assert np.signbit(second).tolist() == [[True, False]]


def test_equal_subexpressions_are_computed_once() -> None:
    formula = trace(lambda z, b: (np.tanh(z + b), 1.0 - np.tanh(z + b) ** 2), "z", "b")
    assert str(formula).splitlines() == [
        "v0 = add(z, b)",
        "v1 = tanh(v0)",
        "v2 = square(v1)",
        "v3 = subtract(1.0, v2)",
        "-> v1, v3",
    ]


def test_formulas_of_the_same_computation_are_equal_and_hash_alike() -> None:
    one, two = (trace(lambda z: np.exp(-z) + 2, "z") for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert one != trace(lambda z: np.exp(-z) + 3, "z")


@pytest.mark.parametrize(
    "function",
    [
        lambda z: z * 1.0,
        lambda z: 1 * z,
        lambda z: z / 1,
        lambda z: z + 0.0,
        lambda z: 0 + z,
        lambda z: z - 0,
        lambda z: np.where(True, z, np.exp(z)),
        lambda z: np.where(0.0, np.exp(z), z),
    ],
)
def test_what_changes_nothing_is_left_out(function: Callable[[Any], Any]) -> None:
    assert lines(function, "z") == ["-> z"]


@pytest.mark.parametrize("function", [lambda z: z * 0, lambda z: 0 - z, lambda z: 1 / z, lambda z: z - 1])
def test_what_changes_something_stays(function: Callable[[Any], Any]) -> None:
    assert len(lines(function, "z")) == 2


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (lambda z: z**2, "v0 = square(z)"),
        (lambda z: z**0.5, "v0 = sqrt(z)"),
        (lambda z: z**-1, "v0 = reciprocal(z)"),
        (lambda z: z**3, "v0 = power(z, 3.0)"),
        (lambda z: 2**z, "v0 = power(2.0, z)"),
        (lambda z: np.power(z, z), "v0 = power(z, z)"),
        (lambda z: abs(z), "v0 = absolute(z)"),
        (lambda z: -z, "v0 = negative(z)"),
        (lambda z: z / np.float32(3), "v0 = divide(z, 3.0)"),
        (lambda z: z <= np.float64(3), "v0 = less_equal(z, 3.0)"),
    ],
)
def test_an_operation_by_its_name(function: Callable[[Any], Any], line: str) -> None:
    assert lines(function, "z") == [line, "-> v0"]


def test_where_takes_comparisons_as_they_are_and_numbers_as_unlike_zero() -> None:
    assert lines(lambda z: np.where(z > 1, z, 0), "z")[:2] == ["v0 = greater(z, 1.0)", "v1 = where(v0, z, 0.0)"]
    assert lines(lambda z: np.where(z, z, 0), "z")[:2] == ["v0 = not_equal(z, 0.0)", "v1 = where(v0, z, 0.0)"]


def test_a_comparison_times_one_is_a_number() -> None:
    z = np.array([[-1.0, 2.0, 3.0]])
    out = np.empty_like(z)
    compute(trace(lambda z: 1.0 * (z > 0) + (z > 2) * 1.0, "z"), [z], [out])
    np.testing.assert_array_equal(out, [[0.0, 1.0, 2.0]])


def test_products_and_bounds_of_comparisons_are_and_and_or() -> None:
    z = np.array([[-1.0, 0.5, 3.0]])
    both, either = np.empty_like(z), np.empty_like(z)
    formula = trace(lambda z: ((z > 0) * (z < 1), np.maximum(z < 0, z > 1)), "z")
    compute(formula, [z], [both, either])
    np.testing.assert_array_equal(both, [[0.0, 1.0, 0.0]])
    np.testing.assert_array_equal(either, [[1.0, 0.0, 1.0]])


def changes_in_place(z: Any) -> Any:
    z += 1
    return z


@pytest.mark.parametrize(
    ("function", "received", "fix"),
    [
        (lambda z: z if z > 0 else 0 * z, "if", "np.where"),
        (lambda z: max(z, 0.0), "max", "np.maximum"),
        (lambda z: math.exp(z), "one number", "np.exp, not math.exp"),
        (lambda z: np.sum(z), "np.sum", "absolute, add, arctan"),
        (lambda z: np.add.reduce(z), r"np\.add\.reduce", "elementwise"),
        (lambda z: np.floor(z), "np.floor", "absolute, add, arctan"),
        (lambda z: np.exp(z, dtype=np.float32), "np.exp with dtype=", "elementwise"),
        (lambda z: np.where(z), "np.where", "elementwise"),
        (changes_in_place, "np.add with out=", "z = z [+] 1"),
        (lambda z: z + np.ones(3), "ndarray", "arrays as arguments"),
        (lambda z: z + "1", "str", "and of numbers"),
        (lambda z: None, "NoneType", "and of numbers"),
        (lambda z: (z > 0) + (z < 1), "np.add of comparisons", "np.where"),
        (lambda z: np.exp(z > 0), "np.exp of comparisons", "np.where"),
    ],
)
def test_a_refusal_names_what_was_received_and_the_fix(function: Callable[[Any], Any], received: str, fix: str) -> None:
    with pytest.raises(TypeError, match=received) as caught:
        trace(function, "z")
    assert caught.match(fix)


def test_uses_tells_whether_an_input_is_read() -> None:
    formula = trace(lambda z, a, b: (1 - a * a, b), "z", "a", "b")
    assert [formula.uses(name) for name in "zab"] == [False, True, True]


def test_last_use_is_the_last_instruction_that_reads_a_value() -> None:
    formula = trace(lambda z: np.exp(z) + np.tanh(z), "z")
    assert [formula.last_use(step) for step in [*formula.instructions[0].operands, *formula.results]] == [1, -1]


def test_source_in_c_turns_comparisons_into_numbers_outside_of_where() -> None:
    formula = trace(lambda z: np.where(z > 0, z, -math.inf) * (z < 2) - 0.5, "z")
    declarations, results = formula.c_source()
    assert declarations == [
        "const bool v0 = z > T(0.0);",
        "const T v1 = v0 ? z : -T(INFINITY);",
        "const bool v2 = z < T(2.0);",
        "const T v3 = v1 * T(v2);",
        "const T v4 = v3 - T(0.5);",
    ]
    assert results == ["T(v4)"]


CONSTANTS = [-1.5, 0.5, 1.0, 3.0]
EXPONENTS = [2, 0.5, -1, 3, 2.0]


@dataclass(frozen=True)
class Step:
    """One step of a random program: an operation, and where its operands come from."""

    operation: str
    operands: tuple[int, int, int]
    constant: int
    which: int


@dataclass(frozen=True)
class Program:
    """A random formula in NumPy code: it runs on arrays and on symbols alike."""

    steps: tuple[Step, ...]
    results: tuple[int, ...]

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        values: list[Any] = list(inputs)
        conditions: list[Any] = []
        for step in self.steps:
            a, b = (values[k % len(values)] for k in step.operands[:2])
            condition = conditions[step.operands[2] % len(conditions)] if conditions else a
            number = CONSTANTS[step.constant % len(CONSTANTS)]
            if step.operation == "**":
                values.append(a ** EXPONENTS[step.constant % len(EXPONENTS)])
                continue
            if step.operation == "condition * a":
                values.append(condition * a)
                continue
            if step.operation == "where":
                values.append(np.where(condition, *[(a, b), (number, b), (a, number)][step.which]))
                continue
            ufunc: Any = PRIMITIVES[step.operation].ufunc
            operands = [(a, b), (a, number), (number, a)][step.which] if ufunc.nin == 2 else (a,)
            (conditions if PRIMITIVES[step.operation].boolean else values).append(ufunc(*operands))
        return tuple(values[-1 - k % len(values)] for k in self.results)


small = st.integers(0, 50)
steps = st.builds(
    Step,
    st.sampled_from([*PRIMITIVES, "**", "condition * a"]),
    st.tuples(small, small, small),
    small,
    st.integers(0, 2),
)
programs = st.builds(
    Program, st.lists(steps, min_size=1, max_size=12).map(tuple), st.lists(small, min_size=1, max_size=3).map(tuple)
)
SPECIAL = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-40, 100.0]


def values_of(seed: int, k: int, shape: tuple[int, int], dtype: str) -> NDArray[Any]:
    generator = np.random.default_rng((seed, k))
    array = generator.normal(0, 2, shape)
    special = generator.random(shape) < 0.1
    array[special] = generator.choice(SPECIAL, int(special.sum()))
    return array.astype(dtype)


def assert_same_bits(received: NDArray[Any], expected: NDArray[Any]) -> None:
    """Equal bit for bit, but for the payload of NaN."""
    assert received.dtype == expected.dtype
    unknown = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(received), unknown)
    bits = f"u{expected.dtype.itemsize}"
    np.testing.assert_array_equal(received[~unknown].view(bits), expected[~unknown].view(bits))


@settings(max_examples=400, deadline=None)
@given(
    program=programs,
    dtype=st.sampled_from(["float32", "float64"]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 40)),
    broadcast=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=3),
    tile=st.sampled_from([1, 7, 64, 1000]),
    aliases=st.permutations(range(4)),
    seed=st.integers(0, 1000),
)
def test_compiled_equals_plain_numpy_bit_for_bit(
    program: Program,
    dtype: str,
    size: tuple[int, int],
    broadcast: list[tuple[bool, bool]],
    tile: int,
    aliases: list[int],
    seed: int,
) -> None:
    shapes = [tuple(1 if one else n for one, n in zip(ones, size, strict=True)) for ones in broadcast]
    inputs = [values_of(seed, k, (shape[0], shape[1]), dtype) for k, shape in enumerate(shapes)]
    with np.errstate(all="ignore"):
        expected = [np.array(result) for result in program(*inputs)]
    assert all(array.dtype == dtype for array in expected), "the plain formula has to keep the dtype"
    formula = trace(program, *(f"x{k}" for k in range(len(inputs))))
    shape = np.broadcast_shapes(*shapes)
    # Some outputs take the place of an input, any of those that have the full shape.
    outputs = [
        inputs[k] if k < len(inputs) and inputs[k].shape == shape else np.full(shape, -7.0, dtype)
        for k, _ in zip(aliases, expected, strict=False)
    ]
    with mock.patch.multiple(chains, TILE_IN_C=tile, TILE_IN_PYTHON=tile):
        compute(formula, inputs, outputs)
    for received, wanted in zip(outputs, expected, strict=True):
        assert_same_bits(received, np.broadcast_to(wanted, shape))


@pytest.mark.parametrize("shape", [(3, 40_000), (70_000, 1), (1, 70_000), (200, 300)])
def test_arrays_larger_than_a_tile(shape: tuple[int, int]) -> None:
    z, b = values_of(0, 0, shape, "float32"), values_of(0, 1, (shape[0], 1), "float32")
    out = np.empty_like(z)

    def function(z: Any, b: Any) -> Any:
        return np.where(z > b, np.tanh(z + b) * np.exp(b), 0.1 * z)

    with np.errstate(all="ignore"):
        expected = function(z, b)
    formula = trace(function, "z", "b")
    compute(formula, [z, b], [out])
    assert_same_bits(out, expected)
    registers = chains.Registers(native=False)
    operands = [array for _, arguments in chains.bind(formula, [z, b], [out], registers) for array in arguments]
    assert max(array.size for array in operands if isinstance(array, np.ndarray)) <= chains.TILE_IN_PYTHON


def test_inputs_stay_as_they_are() -> None:
    a, b = np.ones((3, 4)), np.full((3, 1), 2.0)
    out = np.empty((3, 4))
    compute(trace(lambda a, b: np.where(a > b, a * b, a - b), "a", "b"), [a, b], [out])
    np.testing.assert_array_equal(a, np.ones((3, 4)))
    np.testing.assert_array_equal(b, np.full((3, 1), 2.0))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda a, b: np.where(a > 0, a, 0.1 * a), [[[-0.1, 2.0]]]),
        (lambda a, b: (b, a), [[[5.0, 7.0]], [[-1.0, 2.0]]]),
        (lambda a, b: (a + b, a), [[[4.0, 9.0]], [[-1.0, 2.0]]]),
        (lambda a, b: (a * b, a + b), [[[-5.0, 14.0]], [[4.0, 9.0]]]),
        (lambda a, b: (3.0, a), [[[3.0, 3.0]], [[-1.0, 2.0]]]),
        (lambda a, b: (a + b, (a + b) * 2.0 * a), [[[4.0, 9.0]], [[-8.0, 36.0]]]),
    ],
    ids=["where keeps its operand", "swap", "old value", "both in place", "constant", "result that is read on"],
)
def test_in_place(function: Callable[..., Any], expected: list[Any]) -> None:
    a, b = np.array([[-1.0, 2.0]]), np.array([[5.0, 7.0]])
    outputs = [a, b][: len(expected)]
    compute(trace(function, "a", "b"), [a, b], outputs)
    for received, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(received, wanted)


def test_no_samples_is_no_work() -> None:
    z = np.empty((3, 0))
    compute(trace(np.exp, "z"), [z], [z])


def test_an_output_that_is_not_the_broadcast_shape() -> None:
    with pytest.raises(ShapeError, match=r"\(3, 4\).*received outputs \[\(3, 1\)\]"):
        [Map(trace(lambda a, b: a + b, "a", "b"), [np.ones((3, 1)), np.ones((1, 4))], [np.ones((3, 1))])]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list(PRIMITIVES))
def test_running_allocates_nothing_of_the_size_of_a_batch(name: str, dtype: str) -> None:
    operation = PRIMITIVES[name]
    count = 2 if operation.ufunc is None else operation.ufunc.nin

    def function(a: Any, b: Any) -> Any:
        x = a * b + 1.5
        if operation.ufunc is None:
            return np.where(x > b, x, a)
        return operation.ufunc(*[x, a][:count]) * x

    a, out = np.ones((20, 50_000), dtype), np.empty((20, 50_000), dtype)
    b = np.full((20, 1), 2.0, dtype)
    formula = trace(function, "a", "b")
    with backend.active():
        run = backend.compile([Map(formula, [a, b], [out])])
        run()
        tracemalloc.start()
        run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    np.testing.assert_array_equal(out, function(a, b))
    assert peak < a.nbytes / 20, f"{peak} bytes for arrays of {a.nbytes}"
