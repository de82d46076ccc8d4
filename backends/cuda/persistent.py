"""Many training steps as one launch, for networks so small that launching a step takes longer than computing it.

The kernels of a step become functions of one persistent kernel. Its blocks wait for each other before a function that
reads or writes the output of another, and run all steps without the host. On Hopper and later GPUs there are up to
eight blocks, a cluster, which has a hardware barrier; on other GPUs there is one block. Products are computed by
``kernels/product.cu`` instead of cuBLAS.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnbp.graph.ops import Advance, Foreign, Gather, Gemm, Operation, Uniform, conflict

from . import codegen, codegen_fused
from .codegen import Empty, Launch
from .fusion import Group, fused
from .lowering import launches

_STEPS = 1024
"""Maximum number of steps per launch, so that the device is free for other work from time to time."""

_CLUSTER = 8
"""Blocks per cluster, the most that every undivided GPU with clusters allows."""

_WORK = 2**17
"""Work per block up to which a step is faster as one kernel than as a graph: multiplications in products, plus
`_ELEMENT` per element of other operations. Chosen from what `bench.persistent` measured on an H200, eight blocks: three
networks of the four within the limit were 1.1 to 1.5 times as fast as one kernel, and all eight beyond it slower."""

_LEAST = 2**16
"""Minimum work, in the same unit, per additional block, since barriers take longer with more blocks. An estimate."""

_ELEMENT = 8

_ARGUMENTS = 500
"""Maximum number of arguments of a kernel, from the limit of 4 KiB."""

_SHARED = 34816
"""Bytes of shared memory per block, as many as a product in float64 needs."""

_TYPES = {"float32": "float", "float64": "double", "int32": "int", "int64": "long long", "uint64": "unsigned long long"}

_BLOCKS_WAIT = "__cluster_barrier_arrive(); __cluster_barrier_wait();"
_THREADS_WAIT = "__syncthreads();"


def most_blocks(capability: int, multiprocessors: int) -> int:
    """The number of blocks that can wait for each other on a card; the compute capability of Hopper is 90.

    A partition of a card with few multiprocessors may have no room for a cluster of the usual size.
    """
    return _CLUSTER if capability >= 90 and multiprocessors >= 2 * _CLUSTER else 1


def persistent_steps(operations: Sequence[Operation], times: int, most: int, empty: Empty) -> list[Launch] | None:
    """Launches that run the operations `times` times in all.

    The result is None if the operations are too much work, or if some of them are not generated kernels.

    Args:
        operations: as returned by `lowered`.
        times: number of runs.
        most: number of blocks that can wait for each other.
        empty: allocates an array for partial sums.
    """
    work = sum(map(_work, operations))
    if any(isinstance(item, Foreign) for item in operations) or work > _WORK * most:
        return None
    blocks = min(most, 2 ** max(0, (work // _LEAST).bit_length() - 1))
    wait = _BLOCKS_WAIT if blocks > 1 else _THREADS_WAIT
    kernel = _Kernel()
    since: list[Operation | Group] = []
    for operation in fused(operations):
        if any(conflict(before, operation) for before in since):
            kernel.lines.append(wait)
            since = []
        since.append(operation)
        for k, item in enumerate(launches(operation, empty)):
            if k:
                kernel.lines.append(wait)
                since = [operation]
            if isinstance(item, Gemm):
                item = codegen.product(item.a, item.b, item.out, blocks, codegen_fused.THREADS)
            assert isinstance(item, Launch), "only kernels are left"
            kernel.call(item)
    # The next step reads the results of this one.
    kernel.lines.append(wait)
    if len(kernel.arguments) >= _ARGUMENTS:
        return None
    source = kernel.source(blocks)
    return [
        Launch("steps", source, (np.int32(min(_STEPS, left)), *kernel.arguments), blocks, codegen_fused.THREADS, 1)
        for left in range(times, 0, -_STEPS)
    ]


def _work(operation: Operation) -> int:
    match operation:
        case Gemm(a=a, out=out):
            return int(out.size * a.shape[1])
        case Gather() | Uniform() | Advance():
            return _ELEMENT * sum(int(out.size) for out in operation.writes)
        case _:
            return _ELEMENT * sum(int(array.size) for array in (*operation.reads, *operation.writes))


class _Kernel:
    """A kernel under construction.

    Attributes:
        lines: the body of the loop over the steps.
        arguments: the arguments after the number of steps.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.arguments: list[Any] = []
        self._names: dict[str, str] = {}

    def call(self, launch: Launch) -> None:
        """Adds a call of a kernel as a function, which all launches of the same source share."""
        place = self._names.setdefault(launch.source, f"part{len(self._names)}")
        names = [f"a{len(self.arguments) + k}" for k in range(len(launch.arguments))]
        self.lines.append(f"{place}::{launch.name}({', '.join(names)});")
        self.arguments += launch.arguments

    def source(self, blocks: int) -> str:
        """The whole source, in CUDA C++."""
        functions = [f"namespace {place} {{\n{_as_function(source)}\n}}\n" for source, place in self._names.items()]
        cluster = f" __cluster_dims__({blocks}, 1, 1)" if blocks > 1 else ""
        parameters = [
            f"{_TYPES[x.dtype.name]}{'' if isinstance(x, np.generic) else '*'} a{k}"
            for k, x in enumerate(self.arguments)
        ]
        return "\n".join(
            [
                "#undef NNBP_SHARED",
                "#define NNBP_SHARED(type, name, count) \\",
                '    static_assert(sizeof(type) * (count) <= sizeof shared_by_all, "they share too much"); \\',
                "    type* const name = reinterpret_cast<type*>(shared_by_all)",
                f"__shared__ __align__(16) unsigned char shared_by_all[{_SHARED}];",
                *functions,
                f'extern "C" __launch_bounds__({codegen_fused.THREADS}){cluster}',
                f"__global__ void steps({', '.join(['int times', *parameters])})",
                "{",
                "#pragma unroll 1",
                "    for (int step = 0; step < times; ++step) {",
                *(f"        {line}" for line in self.lines),
                "    }",
                "}",
                "#undef NNBP_SHARED\n",
            ]
        )


def _as_function(source: str) -> str:
    # Not inlined: copies of functions that are called several times would only slow down compilation.
    found, kernels = re.subn(r'extern "C" .*?__global__ void', "__device__ __noinline__ void", source)
    assert kernels == 1, "a source has one kernel, and functions that it calls"
    return found
