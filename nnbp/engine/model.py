"""A network whose sizes are known, on a backend: J, its gradients, the trace, per-sample gradients.

Everything here takes and returns arrays of the backend; `nnbp.network.Network` is what users hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.engine.executor import Batch, Engine, Executor
from nnbp.graph.backend import Backend
from nnbp.graph.ops import Array, Gemm, Precision
from nnbp.nn.layers import Dense, DenseNode, Layer
from nnbp.nn.losses import Loss
from nnbp.nn.parameters import Parameters

__all__ = ["GradientArrays", "Model", "TraceArrays", "pieces"]

PIECE = 2**22
"""Elements that the layers of one inference executor hold, about; larger inputs go through it piece by piece."""

_EXECUTORS_KEPT = 4

# What each of a network's random sequences is for: the second word of its seed.
_WEIGHTS, _ORDER, _MASKS = range(3)


class TraceArrays:
    """z and a of a forward pass, (m, n) each: a[0] is X, z[l] and a[l] of the l-th dense layer, l = 1, 2, …"""

    def __init__(self, z: list[Array], a: list[Array]) -> None:
        self.z, self.a = z, a


class GradientArrays:
    """What `Model.gradients` returns; see `nnbp.network.Gradients`."""

    def __init__(self, loss: float, flat: Array, delta: list[Array], dX: Array) -> None:
        self.loss, self.flat, self.delta, self.dX = loss, flat, delta, dX


class Model:
    """Layers, loss and parameters on a backend.

    Everything runs in ``backend.active()``, in one thread at a time: executors and the gradient are shared.

    Attributes:
        sizes: of the input and of every layer.
        piece: samples that go through an inference executor at once.

    Args:
        backend: where everything lives.
        layers: all layers after the input, activations decided, a Dense one last.
        loss: C.
        n_in: number of inputs.
        weight_decay: λ.
        dtype: float32 or float64.
        seed: of the initial weights, the shuffles and the dropout masks.
        precision: of the layers' products, where it is not that of the dtype.
    """

    def __init__(
        self,
        backend: Backend,
        layers: Sequence[Layer],
        loss: Loss,
        *,
        n_in: int,
        weight_decay: float,
        dtype: Any,
        seed: int,
        precision: Precision | None = None,
    ) -> None:
        self.backend, self.layers, self.loss, self.n_in, self.seed = backend, tuple(layers), loss, n_in, seed
        self.dtype = np.dtype(dtype)
        self.sizes = [n_in]
        for layer in self.layers:
            self.sizes.append(layer.outputs(self.sizes[-1]))
        self.n_out = self.sizes[-1]
        self.piece = max(1, PIECE // sum(self.sizes))
        fan_ins = list(zip(self.layers, self.sizes, strict=False))
        parameters = Parameters(backend, [layer.parameters(n) for layer, n in fan_ins], self.dtype)
        masks = [self._seed_words(_MASKS, k) for k in range(len(self.layers))]
        streams = [layer.stream(backend, key) for layer, key in zip(self.layers, masks, strict=True)]
        self.engine = Engine(
            backend,
            self.dtype,
            self.layers,
            loss,
            float(weight_decay),
            n_in,
            self.n_out,
            parameters,
            streams,
            precision,
        )
        self.order_generator = np.random.default_rng(np.random.SeedSequence((seed, _ORDER)))
        self._executors: dict[int, Executor] = {}
        self._one = backend.empty((), self.dtype)
        self._one[...] = 1.0
        generator = np.random.default_rng(np.random.SeedSequence((seed, _WEIGHTS)))
        self.load([layer.initial(generator, n) for layer, n in fan_ins])

    def _seed_words(self, purpose: int, index: int) -> tuple[int, int]:
        words = np.random.SeedSequence((self.seed, purpose, index)).generate_state(2, np.uint64)
        return int(words[0]), int(words[1])

    @property
    def parameters(self) -> Parameters:
        """theta, its gradient, and how they are cut into W and b."""
        return self.engine.parameters

    @property
    def dense(self) -> list[int]:
        """Indices of the dense layers."""
        return [k for k, layer in enumerate(self.layers) if isinstance(layer, Dense)]

    def load(self, values: Sequence[dict[str, NDArray[Any]]]) -> None:
        """Sets the parameters from host arrays, one dictionary a layer."""
        flat = np.empty(self.parameters.size, self.dtype)
        for views, arrays in zip(self.parameters.views(flat), values, strict=True):
            for name, view in views.items():
                view[...] = arrays[name]
        self.parameters.theta[...] = self.backend.upload(flat, self.dtype)

    def decay(self) -> float:
        """λ/2 ΣW²."""
        return 0.5 * self.engine.weight_decay * self._square_of_weights() if self.engine.weight_decay else 0.0

    def norm(self) -> float:
        """Euclidean norm of all parameters; not finite as soon as one of them, or Σθ² in their dtype, is not."""
        return math.sqrt(self._square_of_theta())

    @cached_property
    def _square_of_weights(self) -> Callable[[], float]:
        return self._square(self.parameters.theta[: self.parameters.decayed])

    @cached_property
    def _square_of_theta(self) -> Callable[[], float]:
        return self._square(self.parameters.theta)

    def _square(self, vector: Array) -> Callable[[], float]:
        """What computes Σ vector², bound once: every epoch asks for it."""
        out = self.backend.empty((1, 1), self.dtype)
        run = self.backend.compile([Gemm(vector.reshape(1, -1), vector.reshape(-1, 1), out)])

        def square() -> float:
            run()
            return float(self.backend.download(out)[0, 0])

        return square

    def _inference_executor(self, samples: int) -> Executor:
        """An executor for so many samples; a few are kept, and their results are overwritten by the next run."""
        executor = self._executors.pop(samples, None)
        if executor is None:
            executor = Executor(self.engine, Batch(self.backend.empty((samples, self.n_in), self.dtype)))
            while len(self._executors) >= _EXECUTORS_KEPT or (
                self._executors and sum(self._executors) + samples > 2 * self.piece
            ):
                del self._executors[next(iter(self._executors))]
        self._executors[samples] = executor
        return executor

    def forward(self, X: Array) -> Array:
        """h of every sample: X (m, n_in) → (m, n_out)."""
        if len(X) <= self.piece:
            return self._piece(X)
        out = self.backend.empty((len(X), self.n_out), self.dtype)
        for rows in pieces(len(X), self.piece):
            out[rows] = self._piece(X[rows])
        return out

    def outputs(self, X: Array | NDArray[Any]) -> Iterator[tuple[int, Array]]:
        """h, and the number of its first sample: of all samples where X is on the device, else piece after piece."""
        if self.backend.owns(X):
            yield 0, self.forward(X)
            return
        for rows in pieces(len(X), self.piece):
            yield rows.start, self._piece(self._uploaded(X[rows]))

    def _uploaded(self, array: Array | NDArray[Any]) -> Array:
        return array if self.backend.owns(array) else self.backend.upload(array, self.dtype)

    def _piece(self, X: Array) -> Array:
        executor = self._inference_executor(len(X))
        # Not by assignment: where the two addresses differ by 16 bytes modulo a page, as those of arrays of whole pages
        # do that follow each other, glibc's copy takes ten times as long on some processors (AMD's Zen 3).
        self.backend.xp.multiply(X, self._one, executor.batch.x)
        executor.run_forward()
        return self._rows(executor.h)

    def trace(self, X: Array) -> TraceArrays:
        """z and a of every dense layer."""
        executor = Executor(self.engine, Batch(X), keep_z=True)
        executor.run_forward()
        nodes = _dense_nodes(executor)
        return TraceArrays(
            [self._rows(node.z) for node in nodes],
            [self.copied(X), *(self._rows(node.a) for node in nodes)],
        )

    def costs(self, X: Array | NDArray[Any], y: Array | NDArray[Any]) -> NDArray[np.float64]:
        """C of every sample, on the host; X and y are on the device or on the host."""
        out = np.empty(len(X))
        for rows in pieces(len(X), self.piece):
            executor = Executor(self.engine, Batch(self._uploaded(X[rows]), self._uploaded(y[rows])))
            executor.run_forward()
            out[rows] = self.backend.download(executor.cost)[0]
        return out

    def loss_of(self, X: Array | NDArray[Any], y: Array | NDArray[Any], w: NDArray[np.float64] | None = None) -> float:
        """J; X and y are on the device or on the host, w (m,) on the host."""
        return float(np.average(self.costs(X, y), weights=w)) + self.decay()

    def gradients(self, X: Array, y: Array, w: Array | None = None) -> GradientArrays:
        """∇J by backpropagation, and ∂C/∂z, ∂C/∂x of every sample.

        The way back is gone twice: with each sample's share of the mean, as a training step does, for the gradient
        of J; and with share 1 for what belongs to the samples.
        """
        executor = Executor(self.engine, Batch(X, y, w), gradients=True, want_dx=True)
        executor.run_forward()
        executor.run_backward()
        flat = self.copied(self.parameters.gradient)
        total, weight = (float(self.backend.download(x)[0, 0]) for x in (executor.total, executor.weight))
        loss = total / (weight or 1.0) + self.decay()
        executor.share[...] = 1.0
        executor.run_backward()
        delta = [self._rows(node.delta) for node in _dense_nodes(executor)]
        return GradientArrays(loss, flat, delta, self._rows(executor.dx))

    def per_sample_gradients(self, X: Array, y: Array) -> Array:
        """(m, P): row n is the gradient of C of sample n, its parts delta xᵀ and delta of every layer."""
        out = self.backend.empty((len(X), self.parameters.size), self.dtype)
        views = self.parameters.views(out)
        executor = Executor(self.engine, Batch(X, y), gradients=True)
        executor.run_forward()
        executor.share[...] = 1.0
        executor.run_backward()
        for k, node in zip(self.dense, _dense_nodes(executor), strict=True):
            delta = self._rows(node.delta)
            self.backend.xp.multiply(delta[:, :, None], self._rows(node.x)[:, None, :], out=views[k]["W"])
            views[k]["b"][...] = delta
        return out

    def copied(self, array: Array) -> Array:
        """A new array with the same values."""
        copy = self.backend.empty(array.shape, array.dtype)
        copy[...] = array
        return copy

    def _rows(self, matrix: Array) -> Array:
        """A new (m, n) array from an (n, m) buffer."""
        return self.copied(matrix.T)


def _dense_nodes(executor: Executor) -> list[DenseNode]:
    return [node for node in executor.nodes if isinstance(node, DenseNode)]


def pieces(samples: int, size: int) -> Iterator[slice]:
    """Slices that cut so many samples into pieces of at most `size`."""
    return (slice(start, min(start + size, samples)) for start in range(0, samples, size))
