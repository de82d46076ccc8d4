"""Kernels of several operations, compiled as C++ and run on the CPU, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from emulated_cupy import EmulatedArray
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernel_samples import needs_compiler, run_all
from nnbp.backends.cuda import codegen, codegen_fused
from nnbp.backends.cuda.codegen_fused import columns, row_sums

from nnbp.graph.formula import trace
from nnbp.graph.ops import Map, Reduce

DTYPES = [np.float32, np.float64]


def array(shape: tuple[int, int], dtype: Any = np.float64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype).view(EmulatedArray)


def empty(shape: tuple[int, ...], dtype: Any) -> Any:
    return np.full(shape, np.nan, dtype).view(EmulatedArray)


LAYOUTS = {
    "rows": lambda x: x.copy(),
    "columns": lambda x: x.T.copy().T,
    "padded": lambda x: np.hstack([x, x]).view(EmulatedArray)[:, : x.shape[1]],
    "reversed": lambda x: x[:, ::-1].copy()[:, ::-1],
}


def softmax_with_cost(z: Any, b: Any, y: Any, largest: Any, total: Any, cost: Any, a: Any, delta: Any) -> list[Any]:
    """Softmax, cross-entropy and delta, as the layers and losses record them."""
    return [
        Map(trace(lambda z, b: z + b, "z", "b"), (z, b), (z,)),
        Reduce("maximum", z, 0, largest),
        Map(trace(lambda z, m: np.exp(z - m), "z", "m"), (z, largest), (a,)),
        Reduce("sum", a, 0, total),
        Map(trace(lambda a, s: a / s, "a", "s"), (a, total), (a,)),
        Map(trace(lambda z, y, m, s: y * ((m - z) + np.log(s)), *"zyms"), (z, y, largest, total), (delta,)),
        Reduce("sum", delta, 0, cost),
        Map(trace(lambda h, y: h - y, "h", "y"), (a, y), (delta,)),
    ]


@needs_compiler
@settings(max_examples=12, deadline=None, phases=[Phase.generate])
@given(
    n=st.sampled_from([1, 2, 3, 10, 16, 17, 40, 200]),
    m=st.sampled_from([1, 5, 31, 32, 33, 150]),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from(DTYPES),
)
def test_softmax_cost_and_delta_in_one_kernel(n, m, layout, dtype):
    z, y = LAYOUTS[layout](array((n, m), dtype)), np.eye(n, dtype=dtype)[:, np.arange(m) % n].view(EmulatedArray)
    b, rows = array((n, 1), dtype, 1), [empty((1, m), dtype) for _ in range(3)]
    a, delta = LAYOUTS[layout](empty((n, m), dtype)), empty((n, m), dtype)
    shifted = np.asarray(z + b).astype(np.float64)
    run_all([columns(softmax_with_cost(z, b, y, *rows, a, delta))])
    e = np.exp(shifted - shifted.max(0))
    h = e / e.sum(0)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-13}
    np.testing.assert_allclose(z, shifted, **close)
    np.testing.assert_array_equal(rows[0][0], np.asarray(z).max(0))
    np.testing.assert_allclose(rows[1][0], e.sum(0), **close)
    np.testing.assert_allclose(rows[2][0], -np.log((h * y).sum(0)), **close)
    np.testing.assert_allclose(a, h, **close)
    np.testing.assert_allclose(delta, h - y, **close)


@needs_compiler
def test_a_fold_passes_nan_on_and_a_sum_over_no_rows_is_zero():
    a, row = array((5, 40)), empty((1, 40), np.float64)
    a[3, 7] = np.nan
    run_all([columns([Reduce("maximum", a, 0, row)])])
    np.testing.assert_array_equal(row[0], np.asarray(a).max(0))
    run_all([columns([Reduce("sum", a[:0], 0, row)])])
    np.testing.assert_array_equal(row, 0.0)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 700), (5, 33), (4, 9000), (700, 3)])
def test_a_sum_along_the_rows_with_its_terms(dtype, shape):
    a, da, delta = array(shape, dtype), array(shape, dtype, 1), empty(shape, dtype)
    row = array((1, shape[1]), dtype, 2)
    out = empty((shape[0], 1), dtype)
    f = trace(lambda da, a, c: da * (1.0 - a * a) * c, "da", "a", "c")
    launches = row_sums(Map(f, (da, a, row), (delta,)), 0, out, empty)
    assert len(launches) == (2 if shape[1] > codegen_fused._SUMMANDS else 1)
    run_all(launches)
    expected = np.asarray(da * (1 - a * a) * row)
    close = {"rtol": 2e-6, "atol": 2e-6} if dtype == np.float32 else {"rtol": 1e-14, "atol": 1e-14}
    np.testing.assert_allclose(delta, expected, **close)
    # Terms of both signs may cancel: the error of a sum goes with the sum of their sizes.
    bound = np.abs(expected).sum(1, dtype=np.float64) * np.finfo(dtype).eps * 16 + 1e-30
    assert (np.abs(out[:, 0] - expected.sum(1, dtype=np.float64)) <= bound).all()


@needs_compiler
def test_the_sum_of_products_of_two_vectors():
    x, y, out = array((1, 20_000)), array((1, 20_000), seed=1), empty((1, 1), np.float64)
    launches = row_sums(Map(trace(lambda x, y: x * y, "x", "y"), (x, y), ()), 0, out, empty)
    assert len(launches) == 2
    assert launches[0].size == 5, "blocks that share the row"
    run_all(launches)
    np.testing.assert_allclose(out, x @ y.T, 1e-12)


@needs_compiler
def test_wide_indices_compute_the_same(monkeypatch):
    results = []
    for limit in (2**30, 0):
        monkeypatch.setattr(codegen, "NARROW", limit)
        a, row, out = array((4, 50)), empty((1, 50), np.float64), empty((4, 1), np.float64)
        launches = [columns([Reduce("sum", a, 0, row)])]
        launches += row_sums(Map(trace(lambda a: a * 2.0, "a"), (a,), (a,)), 0, out, empty)
        assert all(("typedef long long I" in launch.source) == (limit == 0) for launch in launches)
        run_all(launches)
        results.append((a, row, out))
    for narrow, wide in zip(*results, strict=True):
        np.testing.assert_array_equal(narrow, wide)


def test_other_sizes_need_no_other_kernel():
    def softmax(n, m):
        rows = [empty((1, m), np.float64) for _ in range(3)]
        arrays = array((n, m)), array((n, 1)), array((n, m)), *rows, array((n, m)), array((n, m))
        return columns(softmax_with_cost(*arrays))

    first = softmax(10, 64)
    assert softmax(7, 100).source == first.source
    assert (first.size, first.turns, first.block) == (64, 32, 512)
    assert softmax(3, 100).block == 128
    tall = softmax(200, 100)
    assert tall.source == first.source
    assert (tall.turns, tall.block) == (8, 512), "more threads for a column of many rows, and more blocks"
    assert softmax(200, 4000).turns == 32


@needs_compiler
def test_bfloat16_is_rounded_to_the_nearest_with_ties_to_even():
    exact = np.array([0.0, -0.0, 1.0, -2.5, np.inf, -np.inf, 2.0**-126, 3.0e38], np.float32)
    rng = np.random.default_rng(3)
    drawn = rng.integers(0, 2**32, 400, dtype=np.uint64).astype(np.uint32).view(np.float32)
    ties = (np.arange(0x3F80, 0x3F90, dtype=np.uint32) << 16 | 0x8000).view(np.float32)
    x = np.concatenate([exact, drawn, ties, [np.float32(np.nan)]]).astype(np.float32).reshape(1, -1)
    out = np.zeros(x.shape, np.uint16)
    run_all([codegen.elementwise(Map(trace(lambda x: x, "x"), [x], [out]))])
    back = (out.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(x))
    good = np.isfinite(x)
    below, bits = x.view(np.uint32) >> 16, x.view(np.uint32) & 0xFFFF
    up = (bits > 0x8000) | ((bits == 0x8000) & (below % 2 == 1))
    expected = (((below + up).astype(np.uint32)) << 16).view(np.float32)
    np.testing.assert_array_equal(back[good], expected[good])
    np.testing.assert_array_equal(back[~good & ~np.isnan(x)], x[~good & ~np.isnan(x)])
