"""The recorder: what it records is what NumPy computes, in the order in which it was told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnbp.backends.cpu.backend import NumpyBackend
from numpy.typing import NDArray

from nnbp.graph.builder import Builder
from nnbp.graph.ops import Gather, Reduce, Uniform


def recorder(samples: int = 7, dtype: Any = np.float64, training: bool = False) -> Builder:
    return Builder(NumpyBackend(), dtype, samples, training=training)


def run(op: Builder) -> None:
    op.backend.compile(op.operations)()


def test_buffers_are_kept_and_have_the_dtype_of_the_plan() -> None:
    op = recorder(dtype=np.float32)
    a, b, c = op.empty(3), op.empty(3, 2), op.empty(2, dtype=np.int64)
    assert [x.shape for x in (a, b, c)] == [(3, 7), (3, 2), (2, 7)]
    assert [x.dtype for x in (a, b, c)] == [np.float32, np.float32, np.int64]
    assert all(kept is made for kept, made in zip(op.buffers, (a, b, c), strict=True))


def test_constant_is_a_device_array_of_the_dtype() -> None:
    op = recorder(dtype=np.float32)
    made = op.constant([[1, 2], [3, 4]])
    assert made.dtype == np.float32
    assert op.backend.owns(made)
    np.testing.assert_array_equal(made, [[1, 2], [3, 4]])
    assert op.constant([1], np.int64).dtype == np.int64


def test_begin_starts_another_list() -> None:
    op = recorder()
    x = op.constant(np.ones((2, 7)))
    first = op.begin()
    op.map(lambda x: x + 1.0, [x], x=x)
    second = op.begin()
    op.map(lambda x: x * 10.0, [x], x=x)
    assert first
    assert second
    assert op.operations is second
    op.backend.compile(second)()
    op.backend.compile(first)()
    np.testing.assert_array_equal(x, 11)


def test_recording_computes_nothing() -> None:
    op = recorder()
    x, out = op.constant(np.ones((2, 7))), op.empty(2)
    out[...] = -1
    op.map(lambda x: x + 1.0, [out], x=x)
    np.testing.assert_array_equal(out, -1)
    run(op)
    np.testing.assert_array_equal(out, 2)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**31), st.booleans())
@settings(max_examples=30, deadline=None)
def test_products_and_sums(n: int, k: int, m: int, seed: int, transposed: bool) -> None:
    rng = np.random.default_rng(seed)
    op = recorder(m)
    W: NDArray[Any] = rng.normal(size=(k, n)).T if transposed else rng.normal(size=(n, k))
    x = rng.normal(size=(k, m))
    out = op.empty(n)
    assert op.gemm(W, x, out) is out
    columns, rows, largest = op.empty(n, 1), op.empty(1), op.empty(1)
    op.record(Reduce("sum", out, 1, columns))
    op.record(Reduce("sum", out, 0, rows))
    op.record(Reduce("maximum", out, 0, largest))
    run(op)
    np.testing.assert_array_equal(out, W @ x)
    np.testing.assert_allclose(columns, out.sum(axis=1, keepdims=True), atol=1e-13)
    np.testing.assert_allclose(rows, out.sum(axis=0, keepdims=True), atol=1e-13)
    np.testing.assert_array_equal(largest, out.max(axis=0, keepdims=True))


@given(st.integers(1, 6), st.integers(1, 50), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_map_broadcasts_rows_and_columns(n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    op = recorder(m)
    z, b, row = rng.normal(size=(n, m)), rng.normal(size=(n, 1)), rng.normal(size=(1, m))
    out, other = op.empty(n), op.empty(n)
    op.map(lambda z, b, row: (np.tanh(z + b) * row, np.where(z > row, z, b)), [out, other], z=z, b=b, row=row)
    run(op)
    np.testing.assert_array_equal(out, np.tanh(z + b) * row)
    np.testing.assert_array_equal(other, np.where(z > row, z, b + 0 * z))


def test_output_may_be_an_input() -> None:
    op = recorder(5000)
    x0 = np.random.default_rng(0).normal(size=(9, 5000))
    x = x0.copy()
    op.map(lambda x: x * x + np.exp(x) - x, [x], x=x)
    run(op)
    np.testing.assert_array_equal(x, x0 * x0 + np.exp(x0) - x0)


def test_swap_through_one_formula() -> None:
    op = recorder(6)
    x, y = op.constant(np.ones((2, 6))), op.constant(np.full((2, 6), 2.0))
    op.map(lambda x, y: (y + 0.5, x + 0.25), [x, y], x=x, y=y)
    run(op)
    np.testing.assert_array_equal(x, 2.5)
    np.testing.assert_array_equal(y, 1.25)


def test_gather_takes_the_rows_of_a_batch() -> None:
    op = recorder(2)
    source, order = np.arange(15.0).reshape(5, 3), np.array([4, 2, 0, 1, 3])
    counter, out = np.array([1]), op.empty(2, 3)
    op.record(Gather(source, order, counter, 2, out))
    run(op)
    np.testing.assert_array_equal(out, source[[0, 1]])
    counter[0] = 0
    run(op)
    np.testing.assert_array_equal(out, source[[4, 2]])


def test_uniform_draws_on() -> None:
    op = recorder(8, np.float32)
    stream = op.backend.random_stream((1, 2))
    out = op.record(Uniform(stream, op.empty(3)))
    expected = np.random.Generator(np.random.Philox(key=np.array([1, 2], np.uint64))).random(48, np.float32)
    run(op)
    np.testing.assert_array_equal(out.ravel(), expected[:24])
    run(op)
    np.testing.assert_array_equal(out.ravel(), expected[24:])
    assert stream.position == 48


def test_formula_that_branches_is_refused() -> None:
    op = recorder()
    x = op.empty(1)
    with pytest.raises(TypeError, match=r"np\.where"):
        op.map(lambda x: x if x > 0 else 0.0, [x], x=x)
    with pytest.raises(TypeError, match="elementwise"):
        op.map(lambda x: np.cumsum(x), [x], x=x)
