"""What the CuPy backend hands to CUDA: kernels, made from formulas or from ``kernels/*.cu``, and the layout of a GEMM.

Nothing here needs CuPy: an array is whatever has shape, strides (in bytes), dtype and flags, as NumPy's have. So the
tests run the very same launches, compiled as C++, on NumPy arrays.

Kernels are compiled with NVRTC's defaults. One of them is ``-fmad=true``: a product and a sum become one operation that
rounds once, so results differ from NumPy's in the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from nnbp.backend import Array
from nnbp.errors import DTypeError, ShapeError
from nnbp.expression import Formula

__all__ = ["Launch", "advance", "elementwise", "gather", "gemm", "maximum_rows", "uniform"]

_SCALARS = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}

# Up to here 32-bit indices do: the step of a grid's loop can be added to any of them without overflow.
_NARROW = 2**30


@dataclass(frozen=True)
class Launch:
    """A kernel and what it is launched with.

    Attributes:
        name: of the function in the source.
        source: all of it, in CUDA C++.
        arguments: arrays, which are passed as pointers, and NumPy integers of the width that the kernel takes.
        size: turns of the kernel's loop; any number of threads may share them.
    """

    name: str
    source: str
    arguments: tuple[Any, ...]
    size: int


def elementwise(formula: Formula, inputs: Sequence[Array], outputs: Sequence[Array]) -> Launch:
    """One kernel for ``outputs = formula(inputs)``, with broadcasting; for scalars, vectors and matrices.

    It computes in the widest dtype of the outputs. Each thread reads all inputs of an element before it writes the
    outputs, so these may be the same arrays. Inputs that the formula does not use are not read.

    Raises:
        ShapeError: the shapes do not broadcast to that of the outputs, or have more than two axes.
        DTypeError: an operand is neither float32 nor float64.
    """
    rows, columns = _index_space(inputs, outputs)
    for array in [*inputs, *outputs]:
        _scalar(array, "an elementwise formula")
    # The variables have names of our own: those of the formula may be words of C.
    formula = replace(formula, inputs=tuple(f"x{k}" for k in range(len(inputs))))
    operands = [_Operand(f"p{k}", x, *_strides(x)) for k, x in enumerate(inputs) if formula.uses(f"x{k}")]
    operands += [_Operand(f"q{k}", x, *_strides(x)) for k, x in enumerate(outputs)]

    # Where the outputs are stored column by column, so goes the loop.
    swapped = [replace(x, row=x.column, column=x.row) for x in operands]
    first = -len(outputs)
    if operands[first].index(rows, columns) != "i" and swapped[first].index(columns, rows) == "i":
        operands, rows, columns = swapped, columns, rows

    size = rows * columns
    indices = {x.name: x.index(rows, columns) for x in operands}
    integers = {"n": size}
    if any(index not in ("i", "0") for index in indices.values()):
        integers["columns"] = columns
    for x in operands:
        if indices[x.name] == x.strided:
            integers |= {f"r{x.name}": x.row, f"c{x.name}": x.column}
    wide = max(size, *(abs(x.row) * rows + abs(x.column) * columns for x in operands)) > _NARROW
    dtype = np.result_type(*(out.dtype for out in outputs))
    source = _header(dtype, wide) + _elementwise_source(formula, operands, indices, list(integers))
    arguments = (*(x.array for x in operands), *map(np.int64 if wide else np.int32, integers.values()))
    return Launch("elementwise", source, arguments, size)


@dataclass(frozen=True)
class _Operand:
    """An array under an elementwise kernel, and how many elements lie from row to row and from column to column."""

    name: str
    array: Array
    row: int
    column: int

    @property
    def strided(self) -> str:
        """The index of its element in any layout."""
        return f"row * r{self.name} + column * c{self.name}"

    def index(self, rows: int, columns: int) -> str:
        """The index of its element, in C, as simple as the layout allows; i counts the elements row by row."""
        if (rows == 1 or self.row == columns) and (columns == 1 or self.column == 1):
            return "i"
        return {(0, 0): "0", (0, 1): "column", (1, 0): "row"}.get((self.row, self.column), self.strided)


def _elementwise_source(
    formula: Formula, operands: Sequence[_Operand], indices: Mapping[str, str], integers: Sequence[str]
) -> str:
    parameters: list[str] = []
    once: list[str] = []
    loads: list[str] = []
    for x in operands:
        is_input = x.name[0] == "p"
        parameters.append(f"{'const ' if is_input else ''}{_SCALARS[x.array.dtype]}* {x.name}")
        if is_input:
            # What is the same for all elements is read once.
            place = once if indices[x.name] == "0" else loads
            place.append(f"const T x{x.name[1:]} = T({x.name}[{indices[x.name]}]);")
    if "columns" in integers:
        loads.insert(0, "const I row = i / columns, column = i - row * columns;")
    steps, results = formula.c_source()
    stores = [f"q{k}[{indices[f'q{k}']}] = {result};" for k, result in enumerate(results)]
    return "\n".join(
        [
            f'extern "C" __global__ void elementwise({", ".join([*parameters, *(f"I {name}" for name in integers)])})',
            "{",
            *(f"    {line}" for line in once),
            "    NNBP_LOOP(i, n)",
            "    {",
            *(f"        {line}" for line in [*loads, *steps, *stores]),
            "    }",
            "}\n",
        ]
    )


def maximum_rows(a: Array, out: Array) -> Launch:
    """The kernel for ``out[0, j] = max_i a[i, j]``; a (n, m) with n >= 1, out (1, m), NaN comes through.

    Raises:
        ShapeError, DTypeError: otherwise.
    """
    if a.ndim != 2 or len(a) == 0 or out.shape != (1, a.shape[1]):
        raise ShapeError(
            "maximum_rows takes a matrix (n, m), n >= 1, and writes a row (1, m); received shapes "
            f"{tuple(a.shape)} and {tuple(out.shape)}."
        )
    _same_dtype(a, out, "maximum_rows")
    rows, columns = a.shape
    wide = max(_reach(a), _reach(out)) > _NARROW
    integer = np.int64 if wide else np.int32
    integers = (rows, columns, *_strides(a), _strides(out)[1])
    return Launch("maximum_rows", _file("maximum_rows", a.dtype, wide), (a, out, *map(integer, integers)), columns)


def gather(source: Array, order: Array, counter: Array, stride: int, out: Array) -> Launch:
    """The kernel for ``out[i] = source[order[counter[0] * stride + i]]``.

    Args:
        source: (N, k), float32 or float64, rows contiguous.
        order: (N,), int64, contiguous.
        counter: (1,), int64.
        stride: rows of a batch.
        out: (m, k), C-contiguous, of the dtype of the source.

    Raises:
        ShapeError, DTypeError: otherwise.
    """
    columns = source.shape[1] if source.ndim == 2 else 0
    if (
        columns == 0 or len(source) == 0 or out.ndim != 2 or out.shape[1] != columns
        or order.ndim != 1 or counter.shape != (1,)
    ):  # fmt: skip
        shapes = ", ".join(str(tuple(x.shape)) for x in (source, order, counter, out))
        raise ShapeError(
            "gather takes a source (N, k), an order (N,) and a counter (1,), and writes rows (m, k); received shapes "
            f"{shapes}."
        )
    row_stride, column_stride = _strides(source)
    if (columns > 1 and column_stride != 1) or not (order.flags.c_contiguous and out.flags.c_contiguous):
        raise ShapeError(
            "gather copies contiguous rows by a contiguous order into a C-contiguous array; received strides "
            f"{source.strides}, {order.strides}, {out.strides} in bytes. Copy them with xp.ascontiguousarray."
        )
    _same_dtype(source, out, "gather")
    if order.dtype != np.int64 or counter.dtype != np.int64:
        raise DTypeError(f"order and counter of gather are int64; received {order.dtype} and {counter.dtype}.")
    wide = out.size > _NARROW
    integer = np.int64 if wide else np.int32
    integers = (*map(np.int64, (stride, len(source), row_stride)), integer(columns), integer(out.size))
    return Launch("gather", _file("gather", out.dtype, wide), (source, order, counter, out, *integers), out.size)


def uniform(position: Array, key: tuple[int, int], out: Array) -> Launch:
    """The kernel that fills out with the stream of a key from position[0] on; `advance` moves the position afterwards.

    Raises:
        DTypeError: out is not float32.
        ShapeError: out is not C-contiguous.
    """
    if out.dtype != np.float32:
        raise DTypeError(f"The random numbers are float32, in any step; received an array of {out.dtype}.")
    if not out.flags.c_contiguous:
        raise ShapeError(f"The random numbers fill a C-contiguous array; received strides {out.strides} in bytes.")
    wide = out.size > _NARROW
    integer = np.int64 if wide else np.int32
    arguments = (position, out, integer(out.size), np.uint64(key[0]), np.uint64(key[1]))
    # One turn is a block of eight numbers; the position may lie within the first.
    return Launch("uniform", _file("uniform", out.dtype, wide), arguments, -(-out.size // 8) + 1 if out.size else 0)


def advance(position: Array, count: int) -> Launch:
    """The kernel for ``position[0] += count``."""
    return Launch("advance", _file("advance", np.dtype(np.float32), False), (position, np.int64(count)), 1)


def gemm(a: Array, b: Array, out: Array) -> tuple[int, int, int, int, int, int, int, int]:
    """How cuBLAS computes ``out = a @ b``; a (n, k), b (k, m), out (n, m), rows of out contiguous.

    cuBLAS stores matrices column by column, so that out is outᵀ = bᵀ aᵀ to it, and b its first operand.

    Returns:
        transb, transa (0 as stored, 1 transposed), m, n, k, and the leading dimensions of b, a and out.

    Raises:
        ShapeError: the shapes do not fit, or an array is neither stored row by row nor column by column.
        DTypeError: the arrays are not all float32 or all float64.
    """
    shapes = [tuple(x.shape) for x in (a, b, out)]
    if any(len(shape) != 2 for shape in shapes) or shapes != [
        (shapes[2][0], shapes[0][1]), (shapes[0][1], shapes[2][1]), shapes[2]
    ]:  # fmt: skip
        raise ShapeError(
            "A product takes a (n, k) and b (k, m) and writes out (n, m); received the shapes "
            f"{shapes[0]}, {shapes[1]} and {shapes[2]}."
        )
    _same_dtype(a, out, "gemm")
    _same_dtype(b, out, "gemm")
    (n, k), m = a.shape, b.shape[1]
    if max(n, k, m) >= 2**31:
        raise ShapeError(f"cuBLAS takes at most 2^31 - 1 rows and columns; received {shapes[0]} and {shapes[1]}.")
    (transa, lda), (transb, ldb), ldc = _leading(a), _leading(b), _by_rows(out)
    if ldc is None:
        raise ShapeError(
            f"A product is written row by row; received out of shape {shapes[2]} with strides {out.strides} in bytes. "
            "Give a C-contiguous array."
        )
    return transb, transa, m, n, k, ldb, lda, ldc


def _index_space(inputs: Sequence[Array], outputs: Sequence[Array]) -> tuple[int, int]:
    """Rows and columns that all operands broadcast to."""
    shapes = [tuple(x.shape) for x in [*inputs, *outputs]]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise ShapeError(f"The operands of an elementwise formula broadcast to one shape; received {shapes}.") from None
    if len(shape) > 2 or any(out.shape != shape for out in outputs):
        raise ShapeError(
            f"Every output of an elementwise formula has the shape that its operands broadcast to, {shape}, and not "
            f"more than two axes; received outputs {[tuple(out.shape) for out in outputs]}."
        )
    rows, columns = (1, 1, *shape)[-2:]
    return rows, columns


def _strides(array: Array) -> tuple[int, int]:
    """Elements from row to row and from column to column; 0 along an axis of length one."""
    shape = (1, 1, *array.shape)[-2:]
    steps = (0, 0, *array.strides)[-2:]
    row, column = (0 if size == 1 else step // array.dtype.itemsize for size, step in zip(shape, steps, strict=True))
    return row, column


def _reach(array: Array) -> int:
    """Bound on the distance of an element of a matrix from the first."""
    row, column = _strides(array)
    rows, columns = map(int, array.shape)
    return rows * abs(row) + columns * abs(column)


def _by_rows(array: Array) -> int | None:
    """Leading dimension of a matrix that is stored row by row; None where it is not."""
    rows, columns = map(int, array.shape)
    row, column = _strides(array)
    if rows * columns == 0:
        return max(1, columns)
    if columns > 1 and column != 1:
        return None
    return columns if rows == 1 else row if row >= columns else None


def _leading(array: Array) -> tuple[int, int]:
    """0 and the leading dimension of a matrix that is stored row by row, 1 and that of one stored column by column."""
    for transposed, stored in enumerate((array, array.T)):
        leading = _by_rows(stored)
        if leading is not None:
            return transposed, leading
    raise ShapeError(
        "Factors of a product are stored row by row or column by column; received shape "
        f"{tuple(array.shape)} with strides {array.strides} in bytes. Copy it with xp.ascontiguousarray."
    )


def _scalar(array: Array, operation: str) -> str:
    """The type of an array's elements in C."""
    if array.dtype not in _SCALARS:
        raise DTypeError(
            f"The operands of {operation} are float32 or float64; received {array.dtype}. Cast it with .astype."
        )
    return _SCALARS[array.dtype]


def _same_dtype(array: Array, out: Array, operation: str) -> None:
    _scalar(out, operation)
    if array.dtype != out.dtype:
        raise DTypeError(
            f"The operands of {operation} have one dtype; received {array.dtype} for an output of {out.dtype}. "
            "Cast it with .astype."
        )


@cache
def _text(name: str) -> str:
    return Path(__file__).with_name("kernels").joinpath(f"{name}.cu").read_text(encoding="utf-8")


def _header(dtype: np.dtype[Any], wide: bool) -> str:
    return f"typedef {_SCALARS[dtype]} T;\ntypedef {'long long' if wide else 'int'} I;\n{_text('prelude')}\n"


def _file(name: str, dtype: np.dtype[Any], wide: bool) -> str:
    """The source of a kernel file for this dtype."""
    return _header(dtype, wide) + _text(name)
