"""Matrix products by cuBLAS, through NVIDIA's own bindings: CuPy's cannot be captured in a CUDA graph."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nnbp.errors import ShapeError
from nnbp.graph.ops import Array, Precision

from .codegen import strides

# Values of cublasComputeType_t and of cudaDataType_t.
_COMPUTE_32F, _COMPUTE_32F_FAST_TF32 = 68, 77
_R_32F, _R_16BF = 0, 14
_DEFAULT_ALGORITHM = -1


class Layout(NamedTuple):
    """Arguments of cuBLAS: transposition flags (0 or 1), sizes, and leading dimensions of b, a and out."""

    transb: int
    transa: int
    m: int
    n: int
    k: int
    ldb: int
    lda: int
    ldc: int


def layout(a: Array, b: Array, out: Array) -> Layout:
    """The arguments with which cuBLAS computes ``out = a @ b``; a (n, k), b (k, m), out (n, m) with contiguous rows.

    cuBLAS stores matrices column by column, so it computes outᵀ = bᵀ aᵀ, with b as the first operand.

    Raises:
        ShapeError: an array is too large, or is stored neither row by row nor column by column.
    """
    (n, k), m = a.shape, b.shape[1]
    if max(n, k, m) >= 2**31:
        raise ShapeError(f"cuBLAS takes at most 2^31 - 1 rows and columns; received {a.shape} and {b.shape}.")
    (transa, lda), (transb, ldb), ldc = _leading(a), _leading(b), _by_rows(out)
    if ldc is None:
        raise ShapeError(
            f"A product is written row by row; received out of shape {out.shape} with strides {out.strides} in bytes. "
            "Give a C-contiguous array."
        )
    return Layout(transb, transa, m, n, k, ldb, lda, ldc)


class Cublas:
    """cuBLAS on one device, with its own handle.

    Attributes:
        bytes: size of the workspace that a product may use. NVIDIA's documentation recommends 32 MiB for Hopper and
            4 MiB for other cards.

    Args:
        capability: compute capability of the card, 90 for Hopper.

    Raises:
        ImportError: nvmath-python cannot be imported.
    """

    def __init__(self, capability: int) -> None:
        try:
            from nvmath.bindings import cublas
        except ImportError as error:
            raise ImportError(
                f"nvmath-python, which calls cuBLAS for products, cannot be imported ({error}). `nnbp doctor` shows "
                "the command that installs it."
            ) from error
        self._cublas: Any = cublas
        self._handle: int = cublas.create()
        # Not at interpreter exit, when CUDA may have been shut down already.
        weakref.finalize(self, cublas.destroy, self._handle).atexit = False
        self.bytes = 2**25 if capability >= 90 else 2**22
        # α = 1 and β = 0 for every product; cuBLAS reads them on the host at each call.
        self._scales = {np.dtype(t): np.array([1, 0], t) for t in (np.float32, np.float64)}

    def use(self, stream: int, workspace: int) -> None:
        """Sends all following products to a stream, with the address of a workspace.

        Without a workspace cuBLAS allocates memory when it is called, which is not allowed during graph capture.
        """
        # In this order, because setting the stream resets the workspace.
        self._cublas.set_stream(self._handle, stream)
        self._cublas.set_workspace(self._handle, workspace, self.bytes)

    def bind(
        self, a: Array, b: Array, out: Array, precision: Precision | None
    ) -> tuple[Callable[..., None], tuple[Any, ...]]:
        """The call for ``out = a @ b``; for "bf16", a and b contain bfloat16 stored as uint16."""
        scales = self._scales[out.dtype]
        alpha, beta = scales.ctypes.data, scales.ctypes.data + scales.itemsize
        transb, transa, m, n, k, ldb, lda, ldc = layout(a, b, out)
        head = self._handle, transb, transa, m, n, k, alpha
        if precision is None:
            function = self._cublas.sgemm if out.dtype == np.float32 else self._cublas.dgemm
            return function, (*head, b.data.ptr, ldb, a.data.ptr, lda, beta, out.data.ptr, ldc)
        kind, compute = (_R_32F, _COMPUTE_32F_FAST_TF32) if precision == "tf32" else (_R_16BF, _COMPUTE_32F)
        factors = b.data.ptr, kind, ldb, a.data.ptr, kind, lda
        return self._cublas.gemm_ex, (*head, *factors, beta, out.data.ptr, _R_32F, ldc, compute, _DEFAULT_ALGORITHM)


def _by_rows(array: Array) -> int | None:
    """Leading dimension of a matrix that is stored row by row; None if it is not."""
    rows, columns = map(int, array.shape)
    row, column = strides(array)
    if rows * columns == 0:
        return max(1, columns)
    if columns > 1 and column != 1:
        return None
    return columns if rows == 1 else row if row >= columns else None


def _leading(array: Array) -> tuple[int, int]:
    """0 and the leading dimension if the matrix is stored row by row; 1 and that of its transpose if by columns."""
    for transposed, stored in enumerate((array, array.T)):
        leading = _by_rows(stored)
        if leading is not None:
            return transposed, leading
    raise ShapeError(
        "Factors of a product are stored row by row or column by column; received shape "
        f"{tuple(array.shape)} with strides {array.strides} in bytes. Copy it with xp.ascontiguousarray."
    )
