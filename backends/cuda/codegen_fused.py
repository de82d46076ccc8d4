"""Kernels for several operations at once: on the columns of matrices, and sums along their rows.

Each kernel is made from the formulas of its operations. A column is a sample, and a loss never combines samples: so
softmax, the cost and its derivative are one kernel. Each of its blocks owns some columns, and its threads wait for each
other between operations. An operation reads from memory the results that an earlier one has written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnbp.graph.formula import trace
from nnbp.graph.ops import Array, Map, Reduce

from . import codegen
from .codegen import SCALARS, Launch, Operand, arithmetic, header

IDENTITY = trace(lambda x: x, "x")

_WIDTHS = (32, 8)
"""Columns per block: for matrices with many columns or few rows, and for others, whose rows more threads share."""

_TALL = 128
"""Minimum number of rows for which blocks of few columns are worthwhile."""

_MANY = 2048
"""Minimum number of columns for which blocks of many columns keep a card busy."""

_MOST = 512
"""Maximum threads per block that owns columns."""

_WARP = 32
"""Minimum number of threads that share a row."""

_SUMMANDS = 4096
"""Minimum number of terms that a block sums if several blocks share a row."""

_BLOCKS = 512
"""Approximate number of blocks that a sum is divided among."""

THREADS = 256
"""Threads per block that sums rows, and per block of a persistent kernel; a power of 2."""

_FOLD = {"sum": "{0} + {1}", "maximum": "nnbp_max({0}, {1})"}
_NEUTRAL = {"sum": "T(0)", "maximum": "-T(INFINITY)"}


class _Parameters:
    """The parameters of a kernel: one pointer per array, and the integers that its indices need."""

    def __init__(self, count: int) -> None:
        self.columns = count
        self.arrays: dict[tuple[Any, ...], tuple[str, Array]] = {}
        self.integers: dict[str, int] = {"columns": count}
        self._written: set[str] = set()
        self.farthest = count

    def element(self, array: Array, rows: int, *, written: bool = False) -> str:
        """The element of an array at `row` and `column`, in C."""
        name, array = self.pointer(array, written=written)
        x = Operand(name, array, *codegen.strides(array))
        self.farthest = max(self.farthest, abs(x.row) * rows + abs(x.column) * self.columns)
        # The layouts that steps use need no extra integers, so matrices of all sizes share a kernel.
        index = "row * columns + column" if (x.row, x.column) == (self.columns, 1) else x.place
        if index == x.strided:
            self.integers |= {f"r{name}": x.row, f"c{name}": x.column}
        return f"{name}[{index}]"

    def pointer(self, array: Array, *, written: bool = False) -> tuple[str, Array]:
        """The name of the pointer to an array, and the first array object that used this pointer."""
        key = array.data.ptr, array.dtype, tuple(array.shape), tuple(array.strides)
        name, first = self.arrays.setdefault(key, (f"p{len(self.arrays)}", array))
        if written:
            self._written.add(name)
        return name, first

    def number(self, name: str, value: int) -> str:
        """Adds an integer parameter and returns its name."""
        self.integers[name] = value
        return name

    def signature(self) -> str:
        """The parameter list of the kernel's signature."""
        pointers = [
            f"{'' if name in self._written else 'const '}{SCALARS[array.dtype]}* {name}"
            for name, array in self.arrays.values()
        ]
        return ", ".join([*pointers, *(f"I {name}" for name in self.integers)])

    def arguments(self) -> tuple[Any, ...]:
        """The arguments, in the order of the signature."""
        integer = np.int64 if self.wide else np.int32
        return (*(array for _, array in self.arrays.values()), *map(integer, self.integers.values()))

    @property
    def wide(self) -> bool:
        """Whether the indices need 64 bits."""
        return max(self.farthest, *self.integers.values()) > codegen.NARROW


def _formula(parameters: _Parameters, item: Map, rows: int) -> tuple[list[str], list[str], list[str]]:
    """Lines of C that compute a formula at `row` and `column`, its results, and lines that store them."""
    formula = replace(item.formula, inputs=tuple(f"x{k}" for k in range(len(item.inputs))))
    lines = [
        f"const T x{k} = T({parameters.element(x, rows)});" for k, x in enumerate(item.inputs) if formula.uses(f"x{k}")
    ]
    steps, results = formula.c_source()
    stores = [
        f"{parameters.element(out, rows, written=True)} = {result};"
        for out, result in zip(item.outputs, results, strict=False)
    ]
    return [*lines, *steps], results, stores


def columns(items: Sequence[Map | Reduce]) -> Launch:
    """One kernel for operations on matrices with the same number of columns, none of which combines columns.

    Args:
        items: formulas on (n, m) or (1, m) matrices, and folds along axis 0; n may differ, m may not. If an operation
            writes to memory that another one uses, both must use the same array, or a row (1, m).
    """
    count = int(items[0].writes[0].shape[-1])
    parameters, phases, most = _Parameters(count), [], 1
    for k, item in enumerate(items):
        rows = int(item.a.shape[0] if isinstance(item, Reduce) else item.outputs[0].shape[0])
        most = max(most, rows)
        bound = parameters.number(f"n{k}", rows)
        loop = f"for (I row = line; row < {bound}; row += lines)"
        if isinstance(item, Map):
            steps, _, stores = _formula(parameters, item, rows)
            body = [f"if (inside) {loop} {{", *(f"    {line}" for line in [*steps, *stores]), "}"]
        else:
            fold, a = _FOLD[item.fold], parameters.element(item.a, rows)
            out = parameters.element(item.out, 1, written=True)
            body = [
                f"T value = {_NEUTRAL[item.fold]};",
                f"if (inside) {loop} value = {fold.format('value', a)};",
                "shared[threadIdx.x] = value;",
                "__syncthreads();",
                "if (inside && line == 0) {",
                "    const I row = 0;",
                "    for (int k = 1; k < lines; ++k)",
                f"        value = {fold.format('value', 'shared[k * wide + lane]')};",
                f"    {out} = value;",
                "}",
            ]
        # Some of the threads write a row, and all of them read it.
        phases += ["{", *(f"    {line}" for line in body), "}", "__syncthreads();"]
    wide = _WIDTHS[most >= _TALL and count < _MANY]
    parameters.number("wide", wide)
    source = "\n".join(
        [
            f'extern "C" __launch_bounds__({_MOST}) __global__ void columns({parameters.signature()})',
            "{",
            f"    NNBP_SHARED(T, shared, {_MOST});",
            "    const int line = int(threadIdx.x) / int(wide), lane = int(threadIdx.x) - line * int(wide);",
            "    const int lines = int(blockDim.x) / int(wide);",
            "    for (I base = I(blockIdx.x) * wide; base < columns; base += wide * I(gridDim.x)) {",
            "        const I column = base + lane;",
            "        const bool inside = column < columns;",
            *(f"        {line}" for line in phases),
            "    }",
            "}\n",
        ]
    )
    dtype = arithmetic([array for item in items for array in item.writes])
    lines = min(_MOST // wide, 2 ** (most - 1).bit_length())
    whole = header(dtype, parameters.wide) + source
    return Launch("columns", whole, parameters.arguments(), count, wide * lines, wide)


def row_sums(item: Map, summand: int, out: Array, empty: Callable[[tuple[int, ...], DTypeLike], Array]) -> list[Launch]:
    """``out[i, 0] = Σ_j r[i, j]``, where r is the result `summand` of a formula whose outputs are written as well.

    Several blocks share a sum of many terms, and a second kernel adds their partial sums, always in the same order.

    Args:
        item: the formula; its first results are its outputs.
        summand: index of the result to sum.
        out: (n, 1), contiguous.
        empty: allocates an array for the partial sums.
    """
    rows, count = map(int, np.broadcast_shapes(*(tuple(x.shape) for x in (*item.inputs, *item.outputs))))
    parts = max(1, min(-(-count // _SUMMANDS), -(-_BLOCKS // max(1, rows))))
    if parts == 1:
        return [_row_sums(item, summand, out, (rows, count, 1))]
    partial = empty((rows, parts), out.dtype)
    rest = Map(IDENTITY, (partial,), ())
    return [_row_sums(item, summand, partial, (rows, count, parts)), _row_sums(rest, 0, out, (rows, parts, 1))]


def _row_sums(item: Map, summand: int, out: Array, sizes: tuple[int, int, int]) -> Launch:
    rows, count, parts = sizes
    parameters = _Parameters(count)
    steps, results, stores = _formula(parameters, item, rows)
    sums, _ = parameters.pointer(out, written=True)
    tasks = rows * parts
    width = -(-count // parts)
    # A block sums several short rows at a time.
    threads = min(THREADS, max(_WARP, 2 ** (width - 1).bit_length()))
    for name, value in (("tasks", tasks), ("parts", parts), ("width", width), ("threads", threads)):
        parameters.number(name, value)
    source = "\n".join(
        [
            f'extern "C" __launch_bounds__({THREADS}) __global__ void row_sums({parameters.signature()})',
            "{",
            f"    NNBP_SHARED(T, shared, {THREADS});",
            "    const I abreast = I(blockDim.x) / threads, place = I(threadIdx.x) / threads;",
            "    const I thread = I(threadIdx.x) - place * threads;",
            "    for (I base = I(blockIdx.x) * abreast; base < tasks; base += abreast * I(gridDim.x)) {",
            "        const I task = base + place;",
            "        T sum = T(0);",
            "        if (task < tasks) {",
            "            const I row = task / parts, first = (task - row * parts) * width;",
            "            const I end = first + width < columns ? first + width : columns;",
            "            for (I column = first + thread; column < end; column += threads) {",
            *(f"                {line}" for line in [*steps, *stores, f"sum += {results[summand]};"]),
            "            }",
            "        }",
            "        shared[threadIdx.x] = sum;",
            "        __syncthreads();",
            "        for (I half = threads / 2; half > 0; half /= 2) {",
            "            if (thread < half) shared[threadIdx.x] += shared[threadIdx.x + half];",
            "            __syncthreads();",
            "        }",
            f"        if (thread == 0 && task < tasks) {sums}[task] = shared[threadIdx.x];",
            "        __syncthreads();",
            "    }",
            "}\n",
        ]
    )
    dtype = arithmetic([*item.outputs, out])
    whole = header(dtype, parameters.wide) + source
    return Launch("row_sums", whole, parameters.arguments(), tasks, THREADS, THREADS // threads)
