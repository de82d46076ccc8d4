"""Lowering: a step in the operations that a GPU supports, and their launches; `fusion.py` joins them in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nnbp.graph.formula import trace
from nnbp.graph.ops import Advance, Array, Foreign, Gather, Gemm, Map, Operation, Reduce, Uniform, overlap, same

from . import codegen
from .codegen import Empty, Launch, same_dtype
from .codegen_fused import IDENTITY, columns, row_sums
from .cublas import layout
from .fusion import Group, position

_ZERO = trace(lambda: 0.0)


def lowered(operations: Sequence[Operation], capability: int) -> list[Operation]:
    """The operations in a form that a GPU supports, without those that have no elements.

    Args:
        operations: of a step.
        capability: compute capability of the card, 90 for Hopper.

    Raises:
        DTypeError, ShapeError: kernels do not support the dtype or layout of an operand of a product or a sum.
    """
    found: list[Operation] = []
    for operation in operations:
        if not all(out.size for out in operation.writes):
            continue
        match operation:
            case Gemm(a, b, out):
                same_dtype("gemm", out, a, b)
                if layout(a, b, out).k == 0:
                    operation = Map(_ZERO, (), (out,))
                elif capability < 80:
                    # Cards before Ampere have no units for lower precisions.
                    operation = replace(operation, precision=None)
            case Reduce(fold, a, _, out):
                same_dtype(f"a {fold}", out, a)
        found.append(operation)
        if isinstance(operation, Uniform):
            # A separate launch advances the stream, because every thread of this one must read the old position.
            found.append(Advance(operation.stream.state, operation.count))
    return found


def narrowed(operations: Sequence[Operation], empty: Empty) -> list[Operation]:
    """The operations, with bfloat16 products that read rounded copies of their factors.

    A factor is rounded again only if it has been written in between.
    """
    found: list[Operation] = []
    stored: list[Array] = []
    copies: list[Array] = []
    valid: set[int] = set()

    def rounded(factor: Array) -> Array:
        by_columns = factor.flags.f_contiguous and not factor.flags.c_contiguous
        array = factor.T if by_columns else factor
        place = position(stored, array)
        if place is None:
            place = len(stored)
            stored.append(array)
            copies.append(empty(array.shape, np.uint16))
        if place not in valid:
            found.append(Map(IDENTITY, (array,), (copies[place],)))
            valid.add(place)
        return copies[place].T if by_columns else copies[place]

    for operation in operations:
        if isinstance(operation, Gemm) and operation.precision == "bf16":
            operation = replace(operation, a=rounded(operation.a), b=rounded(operation.b))
        found.append(operation)
        if isinstance(operation, Foreign):
            valid.clear()
        valid -= {k for k in valid for out in operation.writes if overlap(stored[k], out)}
    return found


def launches(operation: Operation | Group, empty: Empty) -> Sequence[Launch | Gemm | Foreign]:
    """The launches of an operation, in order; `empty` allocates arrays for partial sums."""
    match operation:
        case Map():
            return [codegen.elementwise(operation)]
        case Group((Map() as item, Reduce(axis=1) as total)):
            summand = [same(out, total.a) for out in item.outputs].index(True)
            return row_sums(item, summand, total.out, empty)
        case Group(items):
            return [columns(items)]
        case Reduce(axis=0):
            return [columns([operation])]
        case Reduce(a=a, out=out):
            return row_sums(Map(IDENTITY, (a,), ()), 0, out, empty)
        case Gather(source, order, counter, stride, out):
            return [codegen.gather(source, order, counter, stride, out)]
        case Uniform(stream, out, offset):
            return [codegen.uniform(stream.state, stream.key, out, offset, operation.columns)]
        case Advance(counter, count):
            return [codegen.advance(counter, count)]
        case Gemm(a, b, out) if out.size == 1 and a.dtype == out.dtype:
            # A dot product, which cuBLAS's matrix kernels would compute in a single block.
            product = trace(lambda x, y: x * y, "x", "y")
            return row_sums(Map(product, (a, b.T), ()), 0, out, empty)
        case _:
            return [operation]
