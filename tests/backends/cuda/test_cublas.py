"""How matrices lie in memory for cuBLAS, tried on a BLAS that sees addresses alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_samples import blas
from nnbp.backends.cuda import cublas
from nnbp.backends.cuda.cublas import layout
from numpy.lib.stride_tricks import as_strided

from nnbp.errors import ShapeError


def run_gemm(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    transb, transa, m, n, k, ldb, lda, ldc = layout(a, b, out)
    address_a, address_b, address_out = (x.__array_interface__["data"][0] for x in (a, b, out))
    blas(out.dtype, transb, transa, m, n, k, address_b, ldb, address_a, lda, address_out, ldc)


FACTORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rows": lambda x: x.copy(),
    "columns": lambda x: x.T.copy().T,
    "part of more rows": lambda x: np.hstack([x, x])[:, : x.shape[1]],
    "part of more columns": lambda x: np.vstack([x, x]).T.copy().T[: len(x)],
}


@given(
    sizes=st.tuples(*[st.integers(1, 5)] * 3),
    layout_a=st.sampled_from(sorted(FACTORS)),
    layout_b=st.sampled_from(sorted(FACTORS)),
    padded=st.booleans(),
)
def test_gemm_takes_every_layout_that_blas_can(sizes, layout_a, layout_b, padded):
    n, k, m = sizes
    rng = np.random.default_rng(5)
    a, b = FACTORS[layout_a](rng.normal(size=(n, k))), FACTORS[layout_b](rng.normal(size=(k, m)))
    out = np.zeros((n, m + 2 * padded))[:, :m]
    run_gemm(a, b, out)
    np.testing.assert_allclose(out, a @ b, 1e-14, 1e-14)


@pytest.mark.parametrize(("n", "k", "m"), [(1, 6, 1), (4, 6, 1), (1, 6, 4), (6, 1, 4), (3, 3, 1)])
def test_gemm_takes_vectors_with_any_stride(n, k, m):
    rng = np.random.default_rng(6)
    grid = rng.normal(size=(24, 24))
    a = grid[:1, : 2 * k : 2] if n == 1 else grid[: 3 * n : 3, :k].copy()[:, :1] if k == 1 else grid[:n, :k]
    b = grid[: 2 * k : 2, 3:4] if m == 1 else grid[:k, :m]
    out = np.zeros((n, m))
    run_gemm(a, b, out)
    np.testing.assert_allclose(out, a @ b, 1e-14)


def test_what_blas_cannot_take_is_refused_with_the_fix():
    m = np.zeros((4, 4))
    with pytest.raises(ShapeError, match=r"xp\.ascontiguousarray"):
        layout(m[::2, ::2], m[:2, :2], m[:2, :2])
    with pytest.raises(ShapeError, match="Give a C-contiguous array"):
        layout(m[:2], m, m[:, :2].copy().T)
    wide = as_strided(np.zeros(1, np.float32), (1, 2**31), (0, 0))
    with pytest.raises(ShapeError, match="at most"):
        layout(np.zeros((1, 1), np.float32), wide, wide)


@pytest.mark.cupy
def test_the_numbers_are_those_of_nvidias_bindings():
    """The emulation has the same numbers as the code, and would not notice a wrong one."""
    bindings = pytest.importorskip("nvmath.bindings.cublas")
    compute, kind = bindings.ComputeType, pytest.importorskip("nvmath").CudaDataType
    assert (cublas._COMPUTE_32F, cublas._COMPUTE_32F_FAST_TF32) == (compute.COMPUTE_32F, compute.COMPUTE_32F_FAST_TF32)
    assert (cublas._R_32F, cublas._R_16BF) == (kind.CUDA_R_32F, kind.CUDA_R_16BF)
    assert bindings.GemmAlgo.DFALT == cublas._DEFAULT_ALGORITHM
    assert (bindings.Operation.N, bindings.Operation.T) == (0, 1)
