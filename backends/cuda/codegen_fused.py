"""Kernels for several operations at once: on the columns of matrices, and sums along their rows.

Each kernel is made from the formulas of its operations. A column is a sample, and a loss never combines samples: so
softmax, the cost and its derivative are one kernel. Each of its blocks owns some columns, and its threads wait for each
other between operations. An operation reads from memory the results that an earlier one has written.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnbp.graph.formula import trace
from nnbp.graph.ops import Array, Map, Reduce

from .codegen import Empty, Launch, Parameters

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


def columns(items: Sequence[Map | Reduce]) -> Launch:
    """One kernel for operations on matrices with the same number of columns, none of which combines columns.

    Args:
        items: formulas on (n, m) or (1, m) matrices, and folds along axis 0; n may differ, m may not. If an operation
            writes to memory that another one uses, both must use the same array, or a row (1, m).
    """
    count = int(items[0].writes[0].shape[-1])
    parameters, phases, most = Parameters(count), [], 1
    for k, item in enumerate(items):
        rows = int(item.a.shape[0] if isinstance(item, Reduce) else item.outputs[0].shape[0])
        most = max(most, rows)
        parameters.integers[f"n{k}"] = rows
        loop = f"for (I row = line; row < n{k}; row += lines)"
        if isinstance(item, Map):
            scalars, steps, _, stores = parameters.formula(item, rows)
            body = [f"if (inside) {loop} {{", *(f"    {line}" for line in [*scalars, *steps, *stores]), "}"]
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
    wide = parameters.integers["wide"] = _WIDTHS[most >= _TALL and count < _MANY]
    source = [
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
        "}",
    ]
    lines = min(_MOST // wide, 2 ** (most - 1).bit_length())
    return parameters.launch("columns", source, count, wide * lines, wide)


def row_sums(item: Map, summand: int, out: Array, empty: Empty) -> list[Launch]:
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
    sums = out if parts == 1 else empty((rows, parts), out.dtype)
    tasks, width = rows * parts, -(-count // parts)
    # A block sums several short rows at a time.
    threads = min(THREADS, max(_WARP, 2 ** (width - 1).bit_length()))
    parameters = Parameters(count)
    parameters.integers |= {"tasks": tasks, "parts": parts, "width": width, "threads": threads}
    scalars, steps, results, stores = parameters.formula(item, rows)
    pointer = parameters.pointer(sums, written=True)
    source = [
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
        *(f"                {line}" for line in [*scalars, *steps, *stores, f"sum += {results[summand]};"]),
        "            }",
        "        }",
        "        shared[threadIdx.x] = sum;",
        "        __syncthreads();",
        "        for (I half = threads / 2; half > 0; half /= 2) {",
        "            if (thread < half) shared[threadIdx.x] += shared[threadIdx.x + half];",
        "            __syncthreads();",
        "        }",
        f"        if (thread == 0 && task < tasks) {pointer}[task] = shared[threadIdx.x];",
        "        __syncthreads();",
        "    }",
        "}",
    ]
    launch = parameters.launch("row_sums", source, tasks, THREADS, THREADS // threads)
    return [launch] if parts == 1 else [launch, *row_sums(Map(IDENTITY, (sums,), ()), 0, out, empty)]
