"""The NumPy backend: that it keeps the protocol, and that every bound call computes what the protocol says."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nnbp.graph.backend import Backend, backend_class
from nnbp.graph.formula import trace
from nnbp.graph.ops import Advance, Foreign, Gather, Gemm, Map, Operation, Reduce, Uniform

backend = backend_class("numpy")()
module = importlib.import_module(type(backend).__module__)


def run(operations: Sequence[Operation]) -> None:
    backend.compile(operations)()


def reference(key: tuple[int, int], count: int) -> NDArray[np.float32]:
    """The first numbers of the stream, as the protocol defines it."""
    philox = np.random.Philox(key=np.array(key, np.uint64))
    return np.random.Generator(philox).random(count, np.float32)


def test_it_is_a_backend_on_the_cpu() -> None:
    assert isinstance(backend, Backend)
    assert (backend.name, backend.device, backend.xp) == ("numpy", "cpu", np)
    assert type(backend) is module.NumpyBackend


def test_an_object_that_lacks_a_member_is_no_backend() -> None:
    class Half:
        name, device, xp = "half", "cpu", np

    assert not isinstance(Half(), Backend)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("shape", [5, (2, 3), (0, 4)])
def test_empty(shape: Any, dtype: str) -> None:
    array = backend.empty(shape, dtype)
    assert array.shape == (shape if isinstance(shape, tuple) else (shape,))
    assert array.dtype == dtype
    assert array.flags.c_contiguous
    assert backend.owns(array)


def test_upload_makes_a_contiguous_array_of_the_dtype_and_copies_only_then() -> None:
    host = np.arange(6.0).reshape(2, 3)
    assert backend.upload(host, np.float64) is host
    for array in (backend.upload(host.T, np.float64), backend.upload(host, np.float32)):
        assert array.flags.c_contiguous
        assert not np.shares_memory(array, host)
    np.testing.assert_array_equal(backend.upload(host.T, np.float32), host.T)
    np.testing.assert_array_equal(backend.download(backend.upload(host, np.float32)), host)


def test_download_takes_a_single_number_too() -> None:
    assert float(backend.download(np.dot(np.ones(3), np.ones(3)))) == 3.0


@pytest.mark.parametrize("thing", [[1.0], 1.0, None, "x", np.float64(1)])
def test_owns_arrays_alone(thing: object) -> None:
    assert not backend.owns(thing)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
def test_gemm_takes_transposed_views(transpose_a: bool, transpose_b: bool, dtype: str) -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(4, 6)).astype(dtype), generator.normal(size=(6, 5)).astype(dtype)
    left = np.ascontiguousarray(a.T).T if transpose_a else a
    right = np.ascontiguousarray(b.T).T if transpose_b else b
    out = np.full((4, 5), np.nan, dtype)
    product = backend.compile([Gemm(left, right, out)])
    assert np.isnan(out).all(), "compiling computes nothing"
    product()
    wanted = np.einsum("nk,km->nm", a.astype(np.float64), b.astype(np.float64))
    np.testing.assert_allclose(out, wanted, rtol=1e-4 if dtype == "float32" else 1e-12, atol=1e-5)
    a[...] = 0.0
    left[...] = 0.0
    product()
    np.testing.assert_array_equal(out, 0.0, err_msg="it reads what its operands hold when it runs")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (3, 40)])
def test_maximum_rows(shape: tuple[int, int], dtype: str) -> None:
    a = np.random.default_rng(1).normal(size=shape).astype(dtype)
    out = np.empty((1, shape[1]), dtype)
    run([Reduce("maximum", a, 0, out)])
    np.testing.assert_array_equal(out, a.max(axis=0, keepdims=True))


@pytest.mark.parametrize("columns", [1, 3])
def test_gather_takes_the_rows_of_each_batch_and_of_the_remainder(columns: int) -> None:
    source = np.arange(10.0 * columns).reshape(10, columns)
    order = np.random.default_rng(2).permutation(10)
    counter = np.zeros(1, np.int64)
    full, rest = np.empty((4, columns)), np.empty((2, columns))
    batch, remainder = ([Gather(source, order, counter, 4, out)] for out in (full, rest))
    for step in range(2):
        counter[0] = step
        run(batch)
        np.testing.assert_array_equal(full, source[order[4 * step : 4 * step + 4]])
    run(remainder)
    np.testing.assert_array_equal(rest, source[order[4:6]], err_msg="the stride need not be the rows that are taken")
    counter[0] = 2
    run(remainder)
    np.testing.assert_array_equal(rest, source[order[8:]])


KEYS = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))


@settings(max_examples=60, deadline=None)
@given(KEYS, st.lists(st.integers(0, 41), max_size=6))
def test_a_stream_goes_on_where_it_was_in_pieces_of_any_size(key: tuple[int, int], pieces: list[int]) -> None:
    stream = backend.random_stream(key)
    received = [backend.empty((1, size), np.float32) for size in pieces]
    for out in received:
        run([Uniform(stream, out)])
    assert stream.position == sum(pieces)
    joined = np.concatenate([np.zeros(0, np.float32), *(out[0] for out in received)])
    np.testing.assert_array_equal(joined, reference(key, sum(pieces)))


@settings(max_examples=60, deadline=None)
@given(KEYS, st.integers(0, 200), st.integers(0, 200))
def test_a_stream_can_be_set_to_any_position(key: tuple[int, int], first: int, position: int) -> None:
    stream = backend.random_stream(key)
    run([Uniform(stream, backend.empty(first, np.float32))])
    stream.position = position
    assert stream.position == position
    out = backend.empty((3, 7), np.float32)
    run([Uniform(stream, out)])
    np.testing.assert_array_equal(out.ravel(), reference(key, position + 21)[position:])
    assert stream.position == position + 21


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 20), st.integers(1, 5), st.integers(1, 9), st.integers(0, 300), st.integers(0, 300))
def test_columns_of_random_numbers_are_those_of_the_whole_matrix(
    position: int, rows: int, columns: int, before: int, behind: int
) -> None:
    total = before + columns + behind
    stream, out = backend.random_stream((3, 4)), backend.empty((rows, columns), np.float32)
    stream.position = position
    run([Uniform(stream, out, before, total)])
    whole = reference((3, 4), position + rows * total)[position:].reshape(rows, total)
    np.testing.assert_array_equal(out, whole[:, before : before + columns])
    assert stream.position == position + rows * total


def test_a_position_far_out_is_reached_at_once() -> None:
    stream = backend.random_stream((1, 2))
    stream.position = 8 * 10**15 + 3
    far = np.random.Philox(key=np.array((1, 2), np.uint64)).advance(10**15)
    expected = np.random.Generator(far).random(13, np.float32)[3:]
    out = backend.empty(10, np.float32)
    run([Uniform(stream, out)])
    np.testing.assert_array_equal(out, expected)


def test_streams_of_two_keys_differ() -> None:
    out = backend.empty((2, 50), np.float32)
    for row, key in zip(out, [(1, 2), (2, 1)], strict=True):
        run([Uniform(backend.random_stream(key), row)])
    assert not np.array_equal(out[0], out[1])
    assert ((out >= 0) & (out < 1)).all()


def test_operations_run_in_order_every_time() -> None:
    x = np.ones((1, 3))
    step = backend.compile([Map(trace(lambda x: x + 1.0, "x"), [x], [x]), Map(trace(lambda x: x * 3.0, "x"), [x], [x])])
    np.testing.assert_array_equal(x, 1.0)
    step()
    np.testing.assert_array_equal(x, 6.0)
    step()
    backend.synchronize()
    np.testing.assert_array_equal(x, 21.0)


def test_operations_run_as_often_as_asked_and_a_counter_advances() -> None:
    x, counter = np.ones((1, 3)), np.zeros(1, np.int64)
    backend.compile([Map(trace(lambda x: 2.0 * x, "x"), [x], [x]), Advance(counter, 3)], times=5)()
    np.testing.assert_array_equal(x, 32.0)
    assert counter[0] == 15


def test_operations_without_elements_do_nothing() -> None:
    nothing, out = np.ones((0, 3)), np.full((0, 3), np.nan)
    run([Map(trace(lambda x: 2.0 * x, "x"), [nothing], [out]), Gemm(np.ones((0, 2)), np.ones((2, 3)), out)])


def test_two_formulas_may_share_registers() -> None:
    a, b = np.linspace(-1, 1, 12).reshape(3, 4), np.linspace(1, 2, 8).reshape(2, 4)
    out_a, out_b = np.empty_like(a), np.empty_like(b)
    one = [Map(trace(lambda x: np.exp(x) * np.tanh(x) + x, "x"), [a], [out_a])]
    two = [Map(trace(lambda x: np.log(x) - np.sqrt(x) * x, "x"), [b], [out_b])]
    for operations in (one, two, one):
        run(operations)
    np.testing.assert_array_equal(out_a, np.exp(a) * np.tanh(a) + a)
    np.testing.assert_array_equal(out_b, np.log(b) - np.sqrt(b) * b)


def test_active_silences_floating_point_warnings_and_only_inside() -> None:
    z = np.array([[-1.0, 0.0, 1e4]])
    out = np.empty_like(z)

    def compute() -> None:
        out[...] = np.log(z) * np.exp(z) / z

    # A function of a user's own layer runs as Python.
    operations = [Foreign(compute, ())]
    with warnings.catch_warnings(), backend.active():
        warnings.simplefilter("error")
        run(operations)
    np.testing.assert_array_equal(out, [[np.nan, -np.inf, np.inf]])
    with pytest.warns(RuntimeWarning, match="divide by zero|invalid value|overflow"):
        run(operations)
