"""The operations of a step: which arrays they read and write, when their order matters, and the errors they raise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnbp.errors import DTypeError, ShapeError
from nnbp.graph.backend import backend_class
from nnbp.graph.formula import trace
from nnbp.graph.ops import Advance, Foreign, Gather, Gemm, Map, Reduce, Uniform, conflict, overlap, same

ADD = trace(lambda a, b: a + b, "a", "b")
FIRST = trace(lambda a, b: a + 1.0, "a", "b")
m = np.zeros((2, 3))
i64, f32 = np.zeros(1, np.int64), np.zeros((2, 3), np.float32)
STREAM = backend_class("numpy")().random_stream((1, 2))

REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "operands that do not broadcast": (
        lambda: Map(ADD, [m, m[:, :2]], [m]), ShapeError, r"broadcast to one shape; received \[\(2, 3\), \(2, 2\)",
    ),
    "an output that is too small": (
        lambda: Map(FIRST, [m, m], [m[:1]]), ShapeError, r"broadcast to, \(2, 3\); received outputs \[\(1, 3\)\]",
    ),
    "factors that do not fit": (
        lambda: Gemm(m, m, m), ShapeError, r"received the shapes \(2, 3\), \(2, 3\) and \(2, 3\)",
    ),
    "a product of vectors": (lambda: Gemm(m[0], m[0], m[0]), ShapeError, r"takes a \(n, k\) and b \(k, m\)"),
    "a product that does not fit": (lambda: Gemm(m, m.T, m), ShapeError, "and writes out"),
    "a sum along the other axis": (
        lambda: Reduce("sum", m, 0, m[:, :1]), ShapeError, r"The sum along axis 0 .* shapes \(2, 3\) and \(2, 1\)",
    ),
    "a maximum of nothing": (
        lambda: Reduce("maximum", m[:0], 0, m[:1]), ShapeError, "a maximum is of at least one number",
    ),
    "a maximum over samples": (lambda: Reduce("maximum", m, 1, m[:, :1].copy()), ValueError, "along axis 0"),
    "sums with gaps": (lambda: Reduce("sum", m, 1, m[:, :1]), ShapeError, "one after the other; received strides"),
    "rows of another width": (
        lambda: Gather(m, i64, i64, 1, m[:, :2]), ShapeError, r"the shapes \(2, 3\), \(1,\), \(1,\) and \(2, 2\)",
    ),
    "indices of 32 bits": (
        lambda: Gather(m, i64.astype(np.int32), i64, 1, m), DTypeError, "received int32 and int64",
    ),
    "random numbers in float64": (lambda: Uniform(STREAM, m), DTypeError, "always float32"),
    "random numbers with gaps": (lambda: Uniform(STREAM, f32.T), ShapeError, "C-contiguous"),
    "random numbers beyond the last column": (
        lambda: Uniform(STREAM, f32, 2, 4), ShapeError, "of 4 columns; received 3 of them from 2 on",
    ),
    "a counter in float64": (lambda: Advance(m[0, :1]), DTypeError, "int64; received float64"),
    "several counters": (lambda: Advance(np.zeros(2, np.int64)), ShapeError, r"one number, \(1,\)"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_an_operation_that_cannot_be_is_refused_where_it_is_made(what):
    make, error, words = REFUSED[what]
    with pytest.raises(error, match=words):
        make()


def test_a_formula_reads_only_the_inputs_that_it_uses():
    a, b, out = (np.zeros((2, 3)) for _ in range(3))
    assert list(map(id, Map(ADD, [a, b], [out]).reads)) == [id(a), id(b)]
    assert list(map(id, Map(FIRST, [a, b], [out]).reads)) == [id(a)]


SLICES = st.builds(slice, st.integers(0, 6), st.integers(0, 6), st.sampled_from([1, 2, 3]))


@given(SLICES, SLICES)
def test_arrays_that_share_an_element_overlap_and_those_apart_do_not(one, other):
    memory = np.zeros((6, 4))
    x, y = memory[one], memory[other]
    if np.shares_memory(x, y):
        assert overlap(x, y)
        assert overlap(y, x)
    rows = [range(6)[part] for part in (one, other)]
    if not (rows[0] and rows[1]) or rows[0][-1] < rows[1][0] or rows[1][-1] < rows[0][0]:
        assert not overlap(x, y)
    assert not overlap(x, np.zeros((6, 4)))
    assert same(x, memory[one])
    assert same(x[::-1], memory[one][::-1])
    assert not same(memory, memory.T)


@given(st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_the_order_matters_if_one_writes_what_the_other_uses(places):
    pool = [np.zeros((2, 2)) for _ in range(4)]
    a, b, out, c, d, into = (pool[k] for k in places)
    before, after = Map(ADD, [a, b], [out]), Gemm(c, d, into)
    expected = out is c or out is d or out is into or into is a or into is b
    assert conflict(before, after) is expected
    assert conflict(after, before) is expected


def test_the_order_of_a_foreign_call_always_matters():
    alone = Map(ADD, [m, m], [np.zeros((2, 3))])
    assert conflict(Foreign(print), alone)
    assert conflict(alone, Foreign(print))


def test_draws_of_a_stream_and_steps_of_a_counter_stay_in_order():
    draws = [Uniform(STREAM, np.zeros((2, 3), np.float32)) for _ in range(2)]
    assert conflict(*draws)
    gather = Gather(m, i64, i64, 1, np.zeros((2, 3)))
    assert conflict(gather, Advance(i64))
    assert conflict(Advance(i64), gather)
