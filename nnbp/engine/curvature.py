"""The Gauss–Newton matrix of J, for losses C = ½ ‖h − y‖²: an approximation of ∇²J without second derivatives of h.

G = Σ wₙ JₙᵀJₙ / Σ wₙ, plus λ on the diagonal of the parameters that decay; Jₙ = ∂h/∂θ is the Jacobian of sample n,
(n_out, P). G lacks the terms of ∇²J in which h − y multiplies a second derivative of h. One backward pass per output k
starts with √(wₙ / Σw) in place of ∂C/∂h_k and 0 for the other outputs; it gives row k of every scaled Jacobian, as
`Network.per_sample_gradients` does. Samples are processed in parts, so the rows are never all in memory.

Source: Nocedal & Wright, "Numerical optimization", 2nd edition, section 10.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.engine.dataset import Dataset
from nnbp.engine.executor import Batch, Executor
from nnbp.engine.model import Model
from nnbp.engine.passes import pieces
from nnbp.graph.ops import Array

_ROWS = 2**21
"""The approximate number of elements of the Jacobians that are in memory at a time."""


class Curvature:
    """G of a data set at the current parameters; runs in ``backend.active()``.

    Jacobians are in the network's dtype, their products and G, (P, P), in float64.

    Args:
        model: the network's model.
        data: the data set.
    """

    def __init__(self, model: Model, data: Dataset) -> None:
        self.model, self.data = model, data
        self._size = max(1, _ROWS // model.parameters.size)
        self._parts: dict[int, _Part] = {}

    def __call__(self) -> Array:
        model = self.model
        size, decayed = model.parameters.size, model.parameters.decayed
        total = model.backend.empty((size, size), np.float64)
        total[...] = 0.0
        gradient = model.copied(model.parameters.gradient)
        for rows in pieces(len(self.data), self._size):
            part = self._part(rows.stop - rows.start)
            for J in part.rows(self.data.X[rows], self._roots(rows)):
                wide = J if J.dtype == np.float64 else J.astype(np.float64)
                total += wide.T @ wide
        # The backward passes have overwritten ∇J.
        model.parameters.gradient[...] = gradient
        if decayed and model.weight_decay:
            total.reshape(-1)[: decayed * (size + 1) : size + 1] += model.weight_decay
        return total

    def _part(self, samples: int) -> _Part:
        if samples not in self._parts:
            self._parts[samples] = _Part(self.model, samples, self.model.input_dtype(self.data.X))
        return self._parts[samples]

    def _roots(self, rows: slice) -> NDArray[np.float64]:
        """√(wₙ / Σw) of each of some samples."""
        data = self.data
        w = np.ones(rows.stop - rows.start) if data.weights is None else data.weights[rows]
        return np.sqrt(w / data.weight)


class _Part:
    """The Jacobians of a fixed number of samples: their buffers and recorded passes."""

    def __init__(self, model: Model, samples: int, dtype: np.dtype[Any]) -> None:
        self.model, self.x = model, model.backend.empty((samples, model.n_in), dtype)
        self.executor = Executor(model, Batch(self.x), keep_z=True)
        op, output = model.builder(samples, training=False), self.executor.output
        operations = op.begin()
        self.seed = op.empty(model.n_out)
        self.executor.record_back(op, output.f.backward(op, output.z, output.h, self.seed))
        self.run_backward = model.backend.compile(operations)
        self.J = model.backend.empty((samples, model.parameters.size), model.dtype)
        self.views = model.parameters.views(self.J)

    def rows(self, X: Array, roots: NDArray[np.float64]) -> Iterator[Array]:
        """√(wₙ / Σw) ∂h_k/∂θ of each sample, (m, P), for each output k; all are written to the same array."""
        model = self.model
        self.x[...] = model.on_device(X, self.x.dtype)
        self.executor.run_forward()
        root = model.backend.upload(roots.reshape(1, -1), model.dtype)
        for k in range(model.n_out):
            self.seed[...] = 0.0
            self.seed[k : k + 1] = root
            self.run_backward()
            for node, own in zip(self.executor.nodes, self.views, strict=True):
                node.per_sample(model.backend.xp, own)
            yield self.J
