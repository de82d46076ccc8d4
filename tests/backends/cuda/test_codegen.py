"""Kernels and GEMM layouts for CUDA, run on the CPU: the very sources that a GPU is given, compiled by g++."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from compiled_kernels import nvrtc_compile
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernel_samples import library_formulas, needs_compiler, operation_formulas, run_all
from nnbp.backends.cuda import codegen

from nnbp.errors import DTypeError, ShapeError
from nnbp.graph.formula import trace
from nnbp.graph.ops import Map

SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, 1e-8, -30.0, 700.0, np.inf, -np.inf, np.nan])

# Rounded correctly by both, so equal to the last bit; the others come from two libraries of mathematics.
ROUNDED = {"exp", "expm1", "log", "log1p", "tanh", "sin", "cos", "arctan", "power"}


@pytest.fixture(autouse=True)
def _quiet():
    with np.errstate(all="ignore"):
        yield


def assert_close(actual: Any, expected: Any, ulp: float = 0.0) -> None:
    """Equal, NaN to NaN, or within some units in the last place of the expected values."""
    actual, expected = np.broadcast_arrays(actual, expected)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    near = np.abs(actual - expected) <= ulp * np.spacing(np.abs(expected))
    assert (same | near).all(), (actual[~(same | near)], expected[~(same | near)])


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_operation_computes_as_numpy_does(dtype):
    values = np.concatenate([SPECIAL, np.random.default_rng(0).normal(0, 3, 20)]).astype(dtype)
    arrays = [x.ravel() for x in np.meshgrid(values, values, SPECIAL[:5].astype(dtype))]
    launches, cases = [], []
    for name, formula in operation_formulas().items():
        inputs = arrays[: len(formula.inputs)]
        out = np.empty_like(arrays[0])
        launches.append(codegen.elementwise(Map(formula, inputs, [out])))
        function = getattr(np, name) if name != "where" else lambda a, b, c: np.where(a > b, b, c)
        cases.append((name, function(*inputs), out))
    run_all(launches)
    for name, expected, out in cases:
        assert_close(out, expected, ulp=4 if name in ROUNDED else 0)


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_formulas_of_the_library_compute_as_numpy_does(dtype):
    rng = np.random.default_rng(1)
    tolerance = 2e-5 if dtype == np.float32 else 1e-13
    launches, cases = [], []
    for name, (function, arguments) in library_formulas().items():
        # Values that are at home in all formulas: rates, targets and second moments are positive.
        inputs = [rng.uniform(0.05, 0.95, (4, 6)).astype(dtype) for _ in arguments]
        if "z" in arguments[:1]:
            inputs[0] = rng.normal(0, 4, (4, 6)).astype(dtype)
        expected = function(*inputs)
        expected = expected if isinstance(expected, tuple) else (expected,)
        outputs = [np.empty((4, 6), dtype) for _ in expected]
        launches.append(codegen.elementwise(Map(trace(function, *arguments), inputs, outputs)))
        cases.append((name, expected, outputs))
    run_all(launches)
    assert len(cases) > 25
    for name, expected, outputs in cases:
        for e, out in zip(expected, outputs, strict=True):
            scale = max(1.0, float(np.abs(e).max()))
            np.testing.assert_allclose(out, np.broadcast_to(e, out.shape), tolerance, tolerance * scale, err_msg=name)


# Formulas of operations that round correctly, and in which the sign of a zero decides nothing: of max(0, -0) NumPy
# itself returns the one or the other.
STEPS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b, c: a + b,
    "subtract": lambda a, b, c: a - b,
    "multiply": lambda a, b, c: a * b,
    "divide": lambda a, b, c: a / (abs(b) + 0.5),
    "reciprocal": lambda a, b, c: np.reciprocal(abs(a) + 0.5),
    "maximum": lambda a, b, c: np.maximum(a, b),
    "minimum": lambda a, b, c: np.minimum(a, b),
    "sqrt": lambda a, b, c: np.sqrt(abs(a)),
    "square": lambda a, b, c: a**2,
    "negative": lambda a, b, c: -a,
    "sign": lambda a, b, c: np.sign(a),
    "greater": lambda a, b, c: (a > b) * c,
    "equal": lambda a, b, c: (a == b) * c,
    "where": lambda a, b, c: np.where(a < b, c, b),
    "where a number": lambda a, b, c: np.where(a, b, c),
}
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rows": lambda x: x.copy(),
    "columns": lambda x: x.T.copy().T,
    "strided": lambda x: np.repeat(np.repeat(x, 2, axis=-1), 3, axis=0)[::3, ::2] if x.ndim == 2 else x.copy(),
    "padded": lambda x: np.concatenate([x, x], axis=-1)[..., : x.shape[-1]] if x.ndim else x.copy(),
    "reversed": lambda x: x[::-1].copy()[::-1] if x.ndim else x.copy(),
}
SHAPES = [(3, 5), (3, 1), (1, 5), (1, 1), (5,), ()]

steps = st.tuples(st.sampled_from(sorted(STEPS)), st.lists(st.integers(0, 40), min_size=3, max_size=3))
dtypes = st.sampled_from([np.float32, np.float64])
operands = st.tuples(st.sampled_from(SHAPES), st.sampled_from(sorted(LAYOUTS)), dtypes)
cases = st.fixed_dictionaries(
    {
        "steps": st.lists(steps, min_size=1, max_size=8),
        "constants": st.lists(st.sampled_from([0.1, -1.5, 3.0, 1e-8, np.inf]), min_size=1, max_size=2),
        "inputs": st.lists(operands, min_size=1, max_size=4),
        "layout": st.sampled_from(["rows", "columns", "strided", "padded"]),
        "in_place": st.booleans(),
        "seed": st.integers(0, 99),
    }
)


def formula_of(case: dict[str, Any], dtype: Any) -> Callable[..., Any]:
    """The function of arrays that a drawn case stands for; its results are the last two values."""
    constants = [dtype(number) for number in case["constants"]]

    def function(*inputs: Any) -> Any:
        values = list(inputs)
        for name, (a, b, c) in case["steps"]:
            # An operation has a value as its first operand; of constants alone NumPy would make an array.
            second, third = ([*values, *constants][k % len([*values, *constants])] for k in (b, c))
            values.append(STEPS[name](values[a % len(values)], second, third))
        return values[-1], values[-2]

    return function


@needs_compiler
@settings(max_examples=8, deadline=None, phases=[Phase.generate])  # a smaller failure would take minutes of g++
@given(drawn=st.lists(cases, min_size=20, max_size=20), dtype=dtypes)
def test_drawn_formulas_in_drawn_layouts_are_numpys_to_the_last_bit(drawn, dtype):
    launches, expectations = [], []
    for case in drawn:
        rng = np.random.default_rng(case["seed"])
        # The first input has the full shape and the dtype of the step, so that an output can take its place.
        inputs = [((3, 5), case["layout"], dtype), *case["inputs"]]
        pool = np.concatenate([SPECIAL, rng.normal(size=20)])
        values = [rng.choice(pool, shape).astype(kind) for shape, _, kind in inputs]
        arrays = [LAYOUTS[layout](x) for x, (_, layout, _) in zip(values, inputs, strict=True)]
        function = formula_of(case, dtype)
        expected = function(*(x.astype(dtype) for x in values))
        spare = LAYOUTS[case["layout"]](np.zeros((3, 5), dtype))
        outputs = [arrays[0] if case["in_place"] else LAYOUTS["rows"](spare), spare]
        formula = trace(function, *(f"input{k}" for k in range(len(inputs))))
        launches.append(codegen.elementwise(Map(formula, arrays, outputs)))
        expectations.append((expected, outputs))
    run_all(launches)
    for expected, outputs in expectations:
        for e, out in zip(expected, outputs, strict=True):
            assert_close(out, e)


@needs_compiler
def test_wide_indices_compute_the_same(monkeypatch):
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(4, 7)), rng.normal(size=(4, 1))
    source, order = rng.normal(size=(6, 3)), np.array([5, 0, 3, 1])
    results = []
    for limit in (2**30, 0):
        monkeypatch.setattr(codegen, "NARROW", limit)
        outputs = [np.empty((4, 7)), np.empty((2, 3)), np.empty((3, 3), np.float32)]
        launches = [
            codegen.elementwise(Map(trace(lambda a, b: a * b, "a", "b"), [a, b], outputs[:1])),
            codegen.gather(source, order, np.array([1]), 2, outputs[1]),
            codegen.uniform(np.array([5]), (1, 2), outputs[2], 0, outputs[2].shape[-1]),
        ]
        assert all(("typedef long long I" in launch.source) == (limit == 0) for launch in launches)
        run_all(launches)
        results.append(outputs)
    for narrow, wide in zip(*results, strict=True):
        np.testing.assert_array_equal(narrow, wide)
    np.testing.assert_array_equal(results[0][0], a * b)


def test_a_kernel_reads_what_it_needs_the_simplest_way():
    m, row, column, one = np.ones((3, 4)), np.ones((1, 4)), np.ones((3, 1)), np.ones((1, 1))

    def kernel(*inputs, out=m):
        formula = trace(lambda *x: sum(x[1:], x[0] + 1.0), *(f"double{k}" for k in range(len(inputs))))
        return codegen.elementwise(Map(formula, inputs, [out]))

    flat = kernel(m, one)
    assert "p0[i]" in flat.source
    assert flat.source.index("p1[0]") < flat.source.index("NNBP_LOOP(i, n)\n    {"), "a scalar is read before the loop"
    assert len(flat.arguments) == 4, "one pointer to what is read and written, and no strides"
    assert "p0[column]" in kernel(row).source
    assert "p0[row]" in kernel(column).source
    assert "p0[i]" in kernel(row, out=row.copy()).source
    assert "p0[i]" in kernel(column, out=column.copy()).source
    assert "p0[i]" in kernel(m.T.copy().T, out=m.T.copy().T).source
    unused = codegen.elementwise(Map(trace(lambda z, a: a + 1.0, "z", "a"), [m, row], [m]))
    assert "const T x1 = T(p0[column]);" in unused.source
    assert "x0" not in unused.source
    # Kernels that differ in names of arguments alone are one.
    other = trace(lambda p, q: p + 1.0 + q, "p", "q")
    assert codegen.elementwise(Map(other, [m, one], [m])).source == flat.source


@pytest.mark.cupy
def test_a_kernel_divides_only_for_rows_and_columns():
    """Each element of a flat kernel would wait for a division whose result it does not need."""
    m, row = np.ones((3, 4), np.float32), np.ones((1, 4), np.float32)
    product = trace(lambda x, y: x * y, "x", "y")

    def divides(y):
        ptx = nvrtc_compile(codegen.elementwise(Map(product, [m, y], [m])).source, "-arch=compute_80", ptx=True)
        return b"div.s32" in ptx or b"rem.s32" in ptx

    assert not divides(m.copy())
    assert divides(row)


@needs_compiler
@pytest.mark.parametrize("key", [(0, 0), (1, 2), (2**64 - 1, 0x123456789ABCDEF0)])
def test_the_random_stream_is_numpys_bit_for_bit(key):
    expected = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64))).random(400, np.float32)
    position, outputs, launches = np.zeros(1, np.int64), [], []
    # Lengths that begin and end within blocks of eight, within words, and in the middle of a block.
    for length in (1, 2, 5, 8, 3, 13, 64, 7, 1, 100):
        outputs.append(np.empty((1, length), np.float32))
        launches += [
            codegen.uniform(position, key, outputs[-1], 0, outputs[-1].shape[-1]), codegen.advance(position, length)
        ]  # fmt: skip
    run_all(launches)
    drawn = np.concatenate(outputs, axis=1)[0]
    np.testing.assert_array_equal(drawn, expected[: len(drawn)])
    assert position[0] == len(drawn) == 204


@needs_compiler
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**61), st.integers(1, 40))
def test_the_random_stream_can_be_entered_anywhere(position, length):
    bits = np.random.Philox(key=np.array([3, 4], np.uint64))
    bits.advance(position // 8)
    expected = np.random.Generator(bits).random(position % 8 + length, np.float32)[position % 8 :]
    out = np.empty(length, np.float32)
    run_all([codegen.uniform(np.array([position]), (3, 4), out, 0, out.shape[-1])])
    np.testing.assert_array_equal(out, expected)


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gather(dtype):
    rng = np.random.default_rng(4)
    source, order = rng.normal(size=(11, 3)).astype(dtype), rng.permutation(11)
    for array in (source, np.hstack([source, source])[:, :3], source[:, :1]):
        for counter in (0, 2):
            out = np.empty((4, array.shape[1]), dtype)
            run_all([codegen.gather(array, order, np.array([counter]), 3, out)])
            np.testing.assert_array_equal(out, array[order[3 * counter : 3 * counter + 4]])


@needs_compiler
def test_gather_stays_within_its_source():
    source, out = np.arange(6.0).reshape(3, 2), np.empty((3, 2))
    run_all([codegen.gather(source, np.array([-5, 1, 99]), np.array([0]), 3, out)])
    np.testing.assert_array_equal(out, source)


def test_what_a_kernel_cannot_take_is_refused_with_the_fix():
    one, i64, m = trace(lambda a: a + 1.0, "a"), np.zeros(1, np.int64), np.zeros((2, 3))
    with pytest.raises(ShapeError, match=r"at most two axes on a GPU; received an output of shape \(1, 2, 3\)"):
        codegen.elementwise(Map(one, [m[None]], [m[None]]))
    with pytest.raises(DTypeError, match=r"received int64. Cast it with .astype"):
        codegen.elementwise(Map(one, [m.astype(np.int64)], [m]))
    with pytest.raises(ShapeError, match="contiguous rows"):
        codegen.gather(np.zeros((3, 2)).T, i64, i64, 1, m)
    with pytest.raises(DTypeError, match="received float64 for an output of float32"):
        codegen.gather(m, i64, i64, 1, m.astype(np.float32))
