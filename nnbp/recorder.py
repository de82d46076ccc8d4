"""The recorder: layers and losses tell it, in order, what a step does, and it keeps the bound calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnbp.backend import Array, Backend, Calls, Precision
from nnbp.expression import trace

__all__ = ["Recorder"]


class Recorder:
    """Records a computation on batches of m samples.

    Matrices are (features, samples). What is recorded goes to the end of ``calls``; `begin` starts a new list, so that
    one recording yields a forward part and a backward part.

    Args:
        backend: where the buffers live and the calls are bound.
        dtype: float32 or float64, of every buffer unless said otherwise.
        samples: m, the width of a batch.
        training: whether layers that behave differently in training (dropout) do so.
        precision: of the layers' products, where it is not that of the dtype.
    """

    def __init__(
        self, backend: Backend, dtype: DTypeLike, samples: int, *, training: bool, precision: Precision | None = None
    ) -> None:
        self.backend, self.dtype, self.samples, self.training = backend, np.dtype(dtype), samples, training
        self.precision = precision
        self.calls: Calls = []
        self.buffers: list[Array] = []

    def begin(self) -> Calls:
        """Starts a new list of calls and returns it."""
        self.calls = []
        return self.calls

    def empty(self, rows: int, columns: int | None = None, dtype: DTypeLike | None = None) -> Array:
        """A buffer of the plan, (rows, m) unless told otherwise."""
        buffer = self.backend.empty((rows, self.samples if columns is None else columns), dtype or self.dtype)
        self.buffers.append(buffer)
        return buffer

    def constant(self, values: Any, dtype: DTypeLike | None = None) -> Array:
        """A device array with these values."""
        return self.backend.upload(np.asarray(values, dtype or self.dtype), dtype or self.dtype)

    def map(self, function: Callable[..., Any], outputs: Sequence[Array], **inputs: Array) -> None:
        """``outputs = function(**inputs)``, elementwise, broadcast; the function is traced, see `nnbp.expression`."""
        formula = trace(function, *inputs)
        self.calls += self.backend.elementwise(formula, list(inputs.values()), list(outputs))

    def gemm(self, a: Array, b: Array, out: Array) -> Array:
        """``out = a @ b``, in the precision of the network."""
        self.calls += self.backend.gemm(a, b, out, self.precision)
        return out

    def dot(self, a: Array, b: Array, out: Array) -> Array:
        """``out = a @ b`` of a row (1, m) and a column (m, 1), in the precision of the dtype."""
        self.calls += self.backend.gemm(a, b, out)
        return out

    def maximum_rows(self, a: Array, out: Array) -> Array:
        """``out[0, j] = max_i a[i, j]``."""
        self.calls += self.backend.maximum_rows(a, out)
        return out

    def sum_rows(self, a: Array, out: Array) -> Array:
        """``out[0, j] = Σ_i a[i, j]``."""
        self.calls += self.backend.sum(a, 0, out)
        return out

    def sum_columns(self, a: Array, out: Array) -> Array:
        """``out[i, 0] = Σ_j a[i, j]``."""
        self.calls += self.backend.sum(a, 1, out)
        return out

    def gather(self, source: Array, order: Array, counter: Array, stride: int, out: Array) -> Array:
        """``out[i] = source[order[counter * stride + i]]``."""
        self.calls += self.backend.gather(source, order, counter, stride, out)
        return out

    def advance(self, counter: Array, count: int = 1) -> None:
        """``counter += count``."""
        self.calls += self.backend.advance(counter, count)

    def uniform(self, stream: Any, out: Array) -> Array:
        """Fills out with the next numbers of the stream."""
        self.calls += self.backend.uniform(stream, out)
        return out
