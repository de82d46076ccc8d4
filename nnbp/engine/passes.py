"""Forward and backward passes of a model over any number of samples: h, J, the trace, gradients.

Each pass uses an executor, which is kept for the next call with the same number of samples. Larger data are processed
in pieces of a fixed size. All arrays belong to the backend unless stated otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from nnbp.engine.dataset import Dataset
from nnbp.engine.executor import Batch, Executor
from nnbp.engine.model import Model
from nnbp.engine.results import Gradients, Trace
from nnbp.graph.ops import Array
from nnbp.nn.layers import ActivatedNode

PIECE = 2**22
"""Approximate number of elements in the layers of one executor; larger inputs are processed in pieces."""

_KEPT = 4
"""The maximum number of executors that are kept."""


class _Kind(NamedTuple):
    """The key of an executor: its number of samples, columns of the targets (0 for none), and what it computes.

    `wide` is the dtype of X if it is not that of the network.
    """

    samples: int
    targets: int = 0
    weighted: bool = False
    trace: bool = False
    checked: bool = False
    gradients: bool = False
    want_dx: bool = False
    wide: np.dtype[Any] | None = None


def _as_it_is(array: Array) -> Array:
    return array


class Passes:
    """The passes of a model. They run in ``backend.active()`` and in one thread at a time, since they share executors.

    Attributes:
        piece: maximum number of samples that an executor processes at once.

    Args:
        model: the network.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.piece = max(1, PIECE // sum(model.sizes))
        self._executors: dict[_Kind, Executor] = {}
        self._one = model.backend.empty((), model.dtype)
        self._one[...] = 1.0

    def _loaded(self, kind: _Kind, X: Array, y: Array | None = None, w: Array | None = None) -> Executor:
        """An executor with these samples; if it is kept, the next run of the same kind overwrites its results."""
        dtype, on_device = self.model.input_dtype(X), self.model.on_device
        if kind.samples > self.piece:
            y, w = (None if array is None else on_device(array, self.model.dtype) for array in (y, w))
            return self._made(kind, Batch(on_device(X, dtype), y, w))
        if dtype is not self.model.dtype:
            kind = kind._replace(wide=dtype)
        executor = self._kept(kind)
        batch = executor.batch
        for array, buffer in ((X, batch.x), (y, batch.y), (w, batch.w)):
            if buffer is not None:
                # Not by assignment: glibc's copy takes ten times as long on some processors (AMD's Zen 3) if the two
                # addresses differ by 16 bytes modulo a page, as they do for consecutive arrays of whole pages.
                self.model.backend.xp.multiply(on_device(array, buffer.dtype), self._one, buffer)
        return executor

    def clear(self) -> None:
        """Releases the cached executors and their memory."""
        self._executors.clear()

    def forget(self) -> None:
        """Forgets the statistics that the first layer has taken from data."""
        self.model.observed = False
        self.clear()

    def _kept(self, kind: _Kind) -> Executor:
        executor, kept = self._executors.pop(kind, None), self._executors
        if executor is None:
            while kept and (len(kept) >= _KEPT or sum(k.samples for k in kept) + kind.samples > 2 * self.piece):
                del kept[next(iter(kept))]
            empty, m, dtype = self.model.backend.empty, kind.samples, self.model.dtype
            y = empty((m, kind.targets), dtype) if kind.targets else None
            w = empty((m, 1), dtype) if kind.weighted else None
            x = empty((m, self.model.n_in), dtype if kind.wide is None else kind.wide)
            executor = self._made(kind, Batch(x, y, w))
        kept[kind] = executor
        return executor

    def _made(self, kind: _Kind, batch: Batch) -> Executor:
        return Executor(
            self.model, batch, gradients=kind.gradients, keep_z=kind.trace, check=kind.checked, want_dx=kind.want_dx
        )

    def outputs(self, X: Array | NDArray[Any], *, checked: bool = False) -> Iterator[tuple[int, Array, bool]]:
        """The index of the first sample, h (k, n_out), and whether all is known to be finite, of each piece in turn.

        Args:
            X: (m, n_in), on the device or on the host.
            checked: whether to look at x, and at h if the loss decides classes; if not, nothing is known.
        """
        for first in range(0, len(X), self.piece):
            part = X if len(X) <= self.piece else X[first : first + self.piece]
            executor = self._loaded(_Kind(len(part), 0, False, False, checked), part)
            executor.run_forward()
            sound = checked and math.isfinite(self.model.backend.download(executor.check).item())
            yield first, self._rows(executor.h), sound

    def trace(self, X: Array, back: Callable[[Array], Any] = _as_it_is) -> Trace:
        """z and a of every layer that has an activation; `back` converts each array."""
        executor = self._loaded(_Kind(len(X), trace=True), X)
        executor.run_forward()
        nodes = self._activated(executor)
        z, a = (
            [back(self._rows(array)) for array in arrays] for arrays in zip(*((n.z, n.a) for n in nodes), strict=True)
        )
        return Trace([None, *z], [back(self.model.copied(X)), *a])

    def loss(self, data: Dataset) -> float:
        """J of a data set on the device or on the host."""
        total = 0.0
        for rows in pieces(len(data), self.piece):
            part = [None if array is None else array[rows] for array in (data.X, data.y, data.w)]
            executor = self._loaded(_Kind(rows.stop - rows.start, data.y.shape[1], data.w is not None), *part)
            executor.run_forward()
            total += float(self.model.backend.download(executor.total)[0, 0])
        return self.model.objective(total, data.weight)

    def gradients(self, data: Dataset, back: Callable[[Array], Any] = _as_it_is, *, own_cost: bool = True) -> Gradients:
        """∇J by backpropagation, and ∂C/∂z and ∂C/∂x of every sample; `back` converts each array.

        The backward pass runs twice: for the gradient of J with each sample's share of the mean, as in a training step,
        and for the derivatives of each sample's own cost with share 1. Without `own_cost` it runs once, and gives ∂J/∂z
        and ∂J/∂x instead of the latter.
        """
        model = self.model
        kind = _Kind(len(data), data.y.shape[1], data.w is not None, gradients=True, want_dx=True)
        executor = self._loaded(kind, data.X, data.y, data.w)
        # The call before may have left other shares, or have been interrupted; those of weighted samples are computed.
        executor.share[...] = 1.0 / len(data)
        executor.run_forward()
        executor.run_backward()
        flat = back(model.copied(model.parameters.gradient))
        loss = model.objective(float(model.backend.download(executor.total)[0, 0]), data.weight)
        if own_cost:
            self._one_share_each(executor)
        delta = [back(self._rows(node.delta)) for node in self._activated(executor)]
        views = model.parameters.views(flat)
        dW, db = ([views[k][name] for k in model.dense] for name in ("W", "b"))
        return Gradients(loss, dW, db, delta, back(self._rows(executor.dx)), flat)

    def per_sample_gradients(self, data: Dataset) -> Array:
        """(m, P): row n is the gradient of C for sample n."""
        model = self.model
        out = model.backend.empty((len(data), model.parameters.size), model.dtype)
        views = model.parameters.views(out)
        executor = self._loaded(_Kind(len(data), data.y.shape[1], gradients=True), data.X, data.y)
        executor.run_forward()
        self._one_share_each(executor)
        for node, own in zip(executor.nodes, views, strict=True):
            node.per_sample(model.backend.xp, own)
        return out

    def _one_share_each(self, executor: Executor) -> None:
        """Runs the backward pass with share 1 for every sample."""
        executor.share[...] = 1.0
        executor.run_backward()

    def _activated(self, executor: Executor) -> list[ActivatedNode]:
        return [cast(ActivatedNode, executor.nodes[k]) for k in self.model.activated]

    def _rows(self, matrix: Array) -> Array:
        """A new (m, n) array from an (n, m) buffer."""
        return self.model.copied(matrix.T)


def pieces(samples: int, size: int) -> Iterator[slice]:
    """Slices that divide `samples` samples into pieces of at most `size`."""
    return (slice(start, min(start + size, samples)) for start in range(0, samples, size))
