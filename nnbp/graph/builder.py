"""The builder: it records the operations of a step, in the order in which layers and losses add them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnbp.graph.backend import Backend
from nnbp.graph.formula import trace
from nnbp.graph.ops import Array, Gemm, Map, Operation, Precision


class Builder:
    """Records a computation on batches of m samples.

    Matrices are (features, samples). Operations are appended to ``operations``; `begin` starts a new list, so that one
    recording can yield a forward part and a backward part.

    Args:
        backend: allocates the buffers.
        dtype: float32 or float64, of every buffer unless stated otherwise.
        samples: m, the width of a batch.
        training: whether layers that behave differently in training, such as dropout, do so.
        searching: whether the batch is all data, for an optimizer that searches: running statistics are those of the
            batch then, as it may be evaluated anywhere.
        precision: of the layers' products, if it is not that of the dtype.
        place: the first sample in a larger batch of which this one is a part, and the number of samples of that batch;
            random numbers go by it.
    """

    def __init__(
        self, backend: Backend, dtype: DTypeLike, samples: int, *, training: bool, searching: bool = False,
        precision: Precision | None = None, place: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        self.backend, self.dtype, self.samples, self.training = backend, np.dtype(dtype), samples, training
        self.searching, self.place = searching, (0, samples) if place is None else place
        self.precision = precision
        self.operations: list[Operation] = []
        self.buffers: list[Array] = []

    def begin(self) -> list[Operation]:
        """Starts a new list of operations and returns it."""
        self.operations = []
        return self.operations

    def empty(self, rows: int, columns: int | None = None, dtype: DTypeLike | None = None) -> Array:
        """A buffer of the step, (rows, m) by default."""
        buffer = self.backend.empty((rows, self.samples if columns is None else columns), dtype or self.dtype)
        self.buffers.append(buffer)
        return buffer

    def constant(self, values: Any, dtype: DTypeLike | None = None) -> Array:
        """A device array with these values."""
        return self.backend.upload(np.asarray(values, dtype or self.dtype), dtype or self.dtype)

    def record(self, operation: Operation) -> Array:
        """Records an operation of `nnbp.graph.ops` and returns the first array that it writes, or None."""
        self.operations.append(operation)
        return operation.writes[0] if operation.writes else None

    def map(self, function: Callable[..., Any], outputs: Sequence[Array], **inputs: Array) -> None:
        """Records ``outputs = function(**inputs)``, elementwise with broadcasting; see `nnbp.graph.formula.trace`."""
        self.record(Map(trace(function, *inputs), tuple(inputs.values()), tuple(outputs)))

    def gemm(self, a: Array, b: Array, out: Array) -> Array:
        """Records ``out = a @ b`` in the precision of the network."""
        return self.record(Gemm(a, b, out, self.precision))
