"""Code generation: the kernels of the CuPy backend, made from formulas or from ``kernels/*.cu``.

Nothing here needs CuPy: an array is any object with shape, strides (in bytes), dtype and flags like NumPy's. So the
tests can run the very same launches, compiled as C++, on NumPy arrays.

CuPy compiles the kernels by NVRTC, with ``-fmad=true`` and ``-ftz=true``. The first fuses a product and a sum into one
operation that rounds once, so results differ from NumPy's in the last bit. The second affects only float32, and not
cuBLAS: a number below 2⁻¹²⁶ in magnitude (a denormal) is 0, whether a kernel reads it or computes it. So exp(−88) is 0,
and so is the softplus of −88 (the logarithm of one); the logarithm of a denormal is −∞; and the product of two
gradients below 2⁻⁶³, whose sign Rprop uses, has no sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from nnbp.errors import DTypeError, ShapeError
from nnbp.graph.formula import Formula
from nnbp.graph.ops import Array

SCALARS = {np.dtype(np.float32): "float", np.dtype(np.float64): "double", np.dtype(np.uint16): "nnbp_bf16"}
"""Element types in C. NumPy has no bfloat16, so its bits are stored as uint16; kernels only write them."""

# Up to this value 32-bit indices suffice: adding the step of a grid-stride loop to any of them cannot overflow.
NARROW = 2**30


_TILES = ((64, 64), (64, 32), (32, 64), (32, 32), (32, 16), (16, 32), (16, 16))
"""Rows and columns of the tile of a result that a block computes at a time, in products without cuBLAS."""


@dataclass(frozen=True)
class Launch:
    """A kernel with its arguments and launch sizes.

    Attributes:
        name: of the function in the source.
        source: the whole source, in CUDA C++.
        arguments: arrays, which are passed as pointers, and NumPy integers of the width that the kernel takes.
        size: iterations of the kernel's loop; any number of blocks may share them.
        block: threads per block; most kernels work with any number, the others require this one.
        turns: iterations of the loop that one block does at a time.
    """

    name: str
    source: str
    arguments: tuple[Any, ...]
    size: int
    block: int = 128
    turns: int = 128


def elementwise(formula: Formula, inputs: Sequence[Array], outputs: Sequence[Array]) -> Launch:
    """One kernel for ``outputs = formula(inputs)``, with broadcasting; for scalars, vectors and matrices.

    It computes in the widest dtype of the outputs, or in float32 if they are bfloat16. Each thread reads all inputs of
    an element before it writes the outputs, so inputs and outputs may be the same arrays. Inputs that the formula does
    not use are not read.

    Raises:
        ShapeError: there are more than two axes.
        DTypeError: an operand is neither float32 nor float64.
    """
    rows, columns = _index_space(outputs[0])
    for array in [*inputs, *(out for out in outputs if out.dtype != np.uint16)]:
        _scalar(array, "an elementwise formula")
    # The variables are renamed because the formula's names may be reserved words in C.
    formula = replace(formula, inputs=tuple(f"x{k}" for k in range(len(inputs))))
    operands = [Operand(f"p{k}", x, *strides(x)) for k, x in enumerate(inputs) if formula.uses(f"x{k}")]
    operands += [Operand(f"q{k}", x, *strides(x)) for k, x in enumerate(outputs)]

    # If the outputs are stored column by column, the loop runs in that order, too.
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
    wide = max(size, *(abs(x.row) * rows + abs(x.column) * columns for x in operands)) > NARROW
    dtype = arithmetic(outputs)
    source = header(dtype, wide) + _elementwise_source(formula, operands, indices, list(integers))
    arguments = (*(x.array for x in operands), *map(np.int64 if wide else np.int32, integers.values()))
    return Launch("elementwise", source, arguments, size)


def arithmetic(outputs: Sequence[Array]) -> np.dtype[Any]:
    """The dtype that a kernel with these outputs computes in."""
    return np.result_type(np.float32, *(out.dtype for out in outputs if out.dtype != np.uint16))


@dataclass(frozen=True)
class Operand:
    """An array in an elementwise kernel, with the distance in elements between its rows and between its columns."""

    name: str
    array: Array
    row: int
    column: int

    @property
    def strided(self) -> str:
        """The index of an element, valid for any layout."""
        return f"row * r{self.name} + column * c{self.name}"

    @property
    def place(self) -> str:
        """The index of an element in C if a scalar, a row or a column is enough, else `strided`."""
        return {(0, 0): "0", (0, 1): "column", (1, 0): "row"}.get((self.row, self.column), self.strided)

    def index(self, rows: int, columns: int) -> str:
        """The index of an element, as simple as the layout allows; i counts the elements row by row."""
        whole = (rows == 1 or self.row == columns) and (columns == 1 or self.column == 1)
        return "i" if whole else self.place


def _elementwise_source(
    formula: Formula, operands: Sequence[Operand], indices: Mapping[str, str], integers: Sequence[str]
) -> str:
    parameters: list[str] = []
    once: list[str] = []
    loads: list[str] = []
    for x in operands:
        is_input = x.name[0] == "p"
        parameters.append(f"{'const ' if is_input else ''}{SCALARS[x.array.dtype]}* {x.name}")
        if is_input:
            # A value that is the same for all elements is read once.
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


def gather(source: Array, order: Array, counter: Array, stride: int, out: Array) -> Launch:
    """The kernel for ``out[i] = source[order[counter[0] * stride + i]]``; see `nnbp.graph.ops.Gather`.

    Raises:
        ShapeError: the rows of the source, the order or out are not contiguous.
        DTypeError: out and source have different dtypes.
    """
    columns = source.shape[1]
    row_stride, column_stride = strides(source)
    if (columns > 1 and column_stride != 1) or not (order.flags.c_contiguous and out.flags.c_contiguous):
        raise ShapeError(
            "gather copies contiguous rows by a contiguous order into a C-contiguous array; received strides "
            f"{source.strides}, {order.strides}, {out.strides} in bytes. Copy them with xp.ascontiguousarray."
        )
    same_dtype(source, out, "gather")
    wide = out.size > NARROW
    integer = np.int64 if wide else np.int32
    integers = (*map(np.int64, (stride, len(source), row_stride)), integer(columns), integer(out.size))
    return Launch("gather", _file("gather", out.dtype, wide), (source, order, counter, out, *integers), out.size)


def uniform(position: Array, key: tuple[int, int], out: Array) -> Launch:
    """The kernel that fills out from a key's stream, starting at position[0]; `advance` then moves the position."""
    wide = out.size > NARROW
    integer = np.int64 if wide else np.int32
    arguments = (position, out, integer(out.size), np.uint64(key[0]), np.uint64(key[1]))
    # One iteration is a block of eight numbers; the position may lie inside the first block.
    return Launch("uniform", _file("uniform", out.dtype, wide), arguments, -(-out.size // 8) + 1 if out.size else 0)


def advance(position: Array, count: int) -> Launch:
    """The kernel for ``position[0] += count``."""
    return Launch("advance", _file("advance", np.dtype(np.float32), False), (position, np.int64(count)), 1)


def product(a: Array, b: Array, out: Array, blocks: int, threads: int) -> Launch:
    """The kernel for ``out = a @ b``, for matrices too small for cuBLAS.

    Args:
        a, b: (n, k) and (k, m), in any layout.
        out: (n, m), with contiguous rows.
        blocks: number of blocks that should all have work to do.
        threads: threads per block.
    """
    (n, k), m = map(int, a.shape), int(b.shape[1])
    sizes = [(h, w) for h, w in _TILES if h * w <= 16 * threads]
    high, wide = next(((h, w) for h, w in sizes if -(-n // h) * -(-m // w) >= blocks), sizes[-1])
    steps = (*strides(a), *strides(b), strides(out)[0])
    span = max(n * k, k * m, n * m, *(abs(step) * max(n, k, m) for step in steps))
    integer = np.int64 if 2 * span > NARROW else np.int32
    arguments = (a, b, out, *map(integer, (n, k, m, *steps)), np.int32(high), np.int32(wide))
    tiles = -(-n // high) * -(-m // wide)
    return Launch("product", _file("product", out.dtype, integer is np.int64), arguments, tiles, threads, 1)


def _index_space(out: Array) -> tuple[int, int]:
    """Rows and columns that all operands broadcast to."""
    if out.ndim > 2:
        raise ShapeError(
            f"An elementwise formula has at most two axes on a GPU; received an output of shape {tuple(out.shape)}."
        )
    rows, columns = (1, 1, *out.shape)[-2:]
    return rows, columns


def strides(array: Array) -> tuple[int, int]:
    """Distance in elements between rows and between columns; 0 along an axis of length one."""
    shape = (1, 1, *array.shape)[-2:]
    steps = (0, 0, *array.strides)[-2:]
    row, column = (0 if size == 1 else step // array.dtype.itemsize for size, step in zip(shape, steps, strict=True))
    return row, column


def _scalar(array: Array, operation: str) -> str:
    """The type of an array's elements in C."""
    if array.dtype == np.uint16 or array.dtype not in SCALARS:
        raise DTypeError(
            f"The operands of {operation} are float32 or float64; received {array.dtype}. Cast it with .astype."
        )
    return SCALARS[array.dtype]


def same_dtype(array: Array, out: Array, operation: str) -> None:
    _scalar(out, operation)
    if array.dtype != out.dtype:
        raise DTypeError(
            f"The operands of {operation} have one dtype; received {array.dtype} for an output of {out.dtype}. "
            "Cast it with .astype."
        )


@cache
def _text(name: str) -> str:
    return Path(__file__).with_name("kernels").joinpath(f"{name}.cu").read_text(encoding="utf-8")


def header(dtype: np.dtype[Any], wide: bool) -> str:
    return f"typedef {SCALARS[dtype]} T;\ntypedef {'long long' if wide else 'int'} I;\n{_text('prelude')}\n"


def _file(name: str, dtype: np.dtype[Any], wide: bool) -> str:
    """The source of a kernel file for this dtype."""
    return header(dtype, wide) + _text(name)
