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

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from nnbp.errors import DTypeError, ShapeError
from nnbp.graph.ops import Array, Map, same

SCALARS = {np.dtype(np.float32): "float", np.dtype(np.float64): "double", np.dtype(np.uint16): "nnbp_bf16"}
"""Element types in C. NumPy has no bfloat16, so its bits are stored as uint16; kernels only write them."""

Empty: TypeAlias = Callable[[tuple[int, ...], DTypeLike], Array]
"""A function that allocates an array of a shape and a dtype."""

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


def elementwise(item: Map) -> Launch:
    """One kernel for a formula, with broadcasting; for scalars, vectors and matrices.

    It computes in the widest dtype of the outputs, or in float32 if they are bfloat16. Each thread reads all inputs of
    an element before it writes the outputs, so inputs and outputs may be the same arrays. Inputs that the formula does
    not use are not read.

    Raises:
        ShapeError: there are more than two axes.
        DTypeError: an operand is neither float32 nor float64.
    """
    out = item.outputs[0]
    if out.ndim > 2:
        raise ShapeError(
            f"An elementwise formula has at most two axes on a GPU; received an output of shape {tuple(out.shape)}."
        )
    # If the outputs are stored column by column, the loop runs in that order, too.
    turned = out.flags.f_contiguous and not out.flags.c_contiguous
    rows, columns = (1, 1, *(out.shape[::-1] if turned else out.shape))[-2:]
    parameters = Parameters(columns, flat="i", turned=turned)
    size = parameters.integers["n"] = rows * columns
    scalars, steps, _, stores = parameters.formula(item, rows)
    lines = [
        f'extern "C" __global__ void elementwise({parameters.signature()})',
        "{",
        *(f"    {line}" for line in scalars),
        "    NNBP_LOOP(i, n)",
        "    {",
        "        const I row = i / columns, column = i - row * columns;",
        *(f"        {line}" for line in [*steps, *stores]),
        "    }",
        "}",
    ]
    return parameters.launch("elementwise", lines, size)


def arithmetic(outputs: Iterable[Array]) -> np.dtype[Any]:
    """The dtype that a kernel with these outputs computes in."""
    return np.result_type(np.float32, *(out.dtype for out in outputs if out.dtype != np.uint16))


class Parameters:
    """The parameters of a generated kernel: one pointer per array, and the integers that its indices need.

    Attributes:
        integers: by name.

    Args:
        columns: that the kernel goes through.
        flat: index in C of an element of an array that has all rows and columns, without gaps.
        turned: whether the columns of the kernel are the rows of the arrays.
    """

    def __init__(self, columns: int, flat: str = "row * columns + column", *, turned: bool = False) -> None:
        self.integers = {"columns": columns}
        self._arrays: dict[str, Array] = {}
        self._written: set[str] = set()
        self._flat, self._turned, self._farthest = flat, turned, columns

    def pointer(self, array: Array, *, written: bool = False) -> str:
        """The name of the pointer to an array.

        Raises:
            DTypeError: the array is neither float32 nor float64; it may be bfloat16 if the kernel writes it.
        """
        if not (written and array.dtype == np.uint16):
            _check_dtype(array, "an elementwise formula")
        name = next((name for name, known in self._arrays.items() if same(known, array)), f"p{len(self._arrays)}")
        self._arrays.setdefault(name, array)
        if written:
            self._written.add(name)
        return name

    def element(self, array: Array, rows: int, *, written: bool = False) -> str:
        """The element of an array at `row` and `column`, in C; the kernel goes through so many rows."""
        name = self.pointer(array, written=written)
        row, column = strides(array)[::-1] if self._turned else strides(array)
        columns = self.integers["columns"]
        self._farthest = max(self._farthest, abs(row) * rows + abs(column) * columns)
        # The layouts that steps use need no extra integers, so matrices of all sizes share a kernel. A single row or
        # column is flat if the kernel goes through no more than that: of equal keys the last one counts.
        places = {(0, 0): "0", (0, 1): "column", (1, 0): "row", (columns * (rows > 1), int(columns > 1)): self._flat}
        if (row, column) not in places:
            self.integers |= {f"r{name}": row, f"c{name}": column}
        return f"{name}[{places.get((row, column), f'row * r{name} + column * c{name}')}]"

    def formula(self, item: Map, rows: int) -> tuple[list[str], list[str], list[str], list[str]]:
        """A formula in C at `row` and `column`.

        Returns:
            lines that read the inputs that have the same value for all elements; lines that read the others and
            compute; the results; lines that store them.
        """
        # The variables are renamed because the formula's names may be reserved words in C.
        formula = replace(item.formula, inputs=tuple(f"x{k}" for k in range(len(item.inputs))))
        scalars: list[str] = []
        loads: list[str] = []
        for k, x in enumerate(item.inputs):
            if formula.uses(f"x{k}"):
                element = self.element(x, rows)
                (scalars if element.endswith("[0]") else loads).append(f"const T x{k} = T({element});")
        steps, results = formula.c_source()
        outputs = zip(item.outputs, results, strict=False)
        stores = [f"{self.element(out, rows, written=True)} = {result};" for out, result in outputs]
        return scalars, [*loads, *steps], results, stores

    def signature(self) -> str:
        """The parameter list of the kernel's signature."""
        pointers = [
            f"{'' if name in self._written else 'const '}{SCALARS[array.dtype]}* {name}"
            for name, array in self._arrays.items()
        ]
        return ", ".join([*pointers, *(f"I {name}" for name in self.integers)])

    def launch(self, name: str, lines: Sequence[str], *sizes: int) -> Launch:
        """The launch of a kernel that consists of these lines; for the sizes see `Launch`."""
        dtype = arithmetic(self._arrays[name] for name in self._written)
        farthest = max(self._farthest, *self.integers.values())
        arguments = (*self._arrays.values(), *self.integers.values())
        return _launch(name, "\n".join([*lines, ""]), dtype, arguments, farthest, *sizes)


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
    same_dtype("gather", out, source)
    arguments = (source, order, counter, out, *map(np.int64, (stride, len(source), row_stride)), columns, out.size)
    return _launch("gather", _text("gather"), out.dtype, arguments, out.size, out.size)


def uniform(position: Array, key: tuple[int, int], out: Array, offset: int, total: int) -> Launch:
    """The kernel that fills out from a key's stream, starting at position[0]; `advance` then moves the position.

    Args:
        position, key: of the stream.
        out: (rows, columns), or a whole matrix in any shape.
        offset, total: see `nnbp.graph.ops.Uniform`.
    """
    columns = out.size if total == out.shape[-1] else out.shape[-1]
    rows = out.size // columns
    arguments = (position, out, rows, columns, np.int64(offset), np.int64(total), np.uint64(key[0]), np.uint64(key[1]))
    # One iteration is a block of eight numbers; a row may begin inside the first block.
    blocks = rows * ((columns + 14) // 8)
    return _launch("uniform", _text("uniform"), out.dtype, arguments, out.size, blocks)


def advance(position: Array, count: int) -> Launch:
    """The kernel for ``position[0] += count``."""
    return _launch("advance", _text("advance"), np.dtype(np.float32), (position, np.int64(count)), 1, 1)


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
    arguments = (a, b, out, n, k, m, *steps, np.int32(high), np.int32(wide))
    tiles = -(-n // high) * -(-m // wide)
    return _launch("product", _text("product"), out.dtype, arguments, 2 * span, tiles, threads, 1)


def strides(array: Array) -> tuple[int, int]:
    """Distance in elements between rows and between columns; 0 along an axis of length one."""
    shape = (1, 1, *array.shape)[-2:]
    steps = (0, 0, *array.strides)[-2:]
    row, column = (0 if size == 1 else step // array.dtype.itemsize for size, step in zip(shape, steps, strict=True))
    return row, column


def same_dtype(operation: str, out: Array, *arrays: Array) -> None:
    """Raises a DTypeError unless the operands of an operation have one dtype, that of a kernel's arithmetic."""
    _check_dtype(out, operation)
    for array in arrays:
        if array.dtype != out.dtype:
            raise DTypeError(
                f"The operands of {operation} have one dtype; received {array.dtype} for an output of {out.dtype}. "
                "Cast it with .astype."
            )


def _check_dtype(array: Array, operation: str) -> None:
    if array.dtype == np.uint16 or array.dtype not in SCALARS:
        raise DTypeError(
            f"The operands of {operation} are float32 or float64; received {array.dtype}. Cast it with .astype."
        )


def _launch(
    name: str, source: str, dtype: np.dtype[Any], arguments: Sequence[Any], farthest: int, *sizes: int
) -> Launch:
    """The launch of a kernel, with 32-bit indices if they suffice.

    Args:
        name: of the function in the source.
        source: without the types T and I, and without the prelude.
        dtype: the type T.
        arguments: see `Launch`; a Python integer has the width of an index, I.
        farthest: index.
        sizes: see `Launch`.
    """
    wide = farthest > NARROW
    types = f"typedef {SCALARS[dtype]} T;\ntypedef {'long long' if wide else 'int'} I;\n"
    index = np.int64 if wide else np.int32
    bound = tuple(index(value) if isinstance(value, int) else value for value in arguments)
    return Launch(name, f"{types}{_text('prelude')}\n{source}", bound, *sizes)


@cache
def _text(name: str) -> str:
    return Path(__file__).with_name("kernels").joinpath(f"{name}.cu").read_text(encoding="utf-8")
