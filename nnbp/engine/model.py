"""The model: a network whose sizes are known, on a backend, with its layers, loss, parameters and random sequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.graph.backend import Backend
from nnbp.graph.builder import Builder
from nnbp.graph.ops import Array, Gemm, Precision
from nnbp.nn.layers import Dense, Layer
from nnbp.nn.losses import Loss
from nnbp.nn.parameters import Parameters

# The second word of the seed says which of a network's random sequences it is for.
_WEIGHTS, _ORDER, _MASKS = range(3)


class Model:
    """Layers, loss and parameters on a backend.

    Everything runs in ``backend.active()``, in one thread at a time: the gradient is shared.

    Attributes:
        sizes: of the input and of every layer.
        n_out: number of outputs.
        parameters: theta, its gradient, and how they are divided into W and b.
        streams: the random stream of each layer, or None.
        order_generator: draws the order of the samples.

    Args:
        backend: holds all arrays.
        layers: all layers after the input, with their activations resolved; the last one is Dense.
        loss: C.
        n_in: number of inputs.
        weight_decay: λ.
        dtype: float32 or float64.
        seed: of the initial weights, the shuffles and the dropout masks.
        precision: of the layers' products, if it is not that of the dtype.
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
        self.backend, self.layers, self.loss, self.n_in = backend, tuple(layers), loss, n_in
        self.weight_decay, self.dtype, self.precision = float(weight_decay), np.dtype(dtype), precision
        self.sizes = list(accumulate(self.layers, lambda n, layer: layer.outputs(n), initial=n_in))
        self.n_out = self.sizes[-1]
        fan_ins = list(zip(self.layers, self.sizes, strict=False))
        self.parameters = Parameters(backend, [layer.parameters(n) for layer, n in fan_ins], self.dtype)
        self.streams = [layer.stream(backend, _key(seed, k)) for k, layer in enumerate(self.layers)]
        self.order_generator = np.random.default_rng(np.random.SeedSequence((seed, _ORDER)))
        generator = np.random.default_rng(np.random.SeedSequence((seed, _WEIGHTS)))
        flat = np.empty(self.parameters.size, self.dtype)
        for views, (layer, n) in zip(self.parameters.views(flat), fan_ins, strict=True):
            for name, values in layer.initial(generator, n).items():
                views[name][...] = values
        self.parameters.theta[...] = backend.upload(flat, self.dtype)

    @property
    def dense(self) -> list[int]:
        """Indices of the dense layers."""
        return [k for k, layer in enumerate(self.layers) if isinstance(layer, Dense)]

    def builder(self, samples: int, *, training: bool) -> Builder:
        """A builder for batches of this many samples."""
        return Builder(self.backend, self.dtype, samples, training=training, precision=self.precision)

    def objective(self, total: float, weight: float, decay: float | None = None) -> float:
        """J = Σ wₙCⁿ / Σ wₙ + λ/2 ΣW², from its sums; the decay is that of the current parameters unless given."""
        return total / weight + (self.decay() if decay is None else decay)

    def decay(self) -> float:
        """λ/2 ΣW²."""
        return 0.5 * self.weight_decay * self._square_of_weights() if self.weight_decay else 0.0

    def norm(self) -> float:
        """Euclidean norm of all parameters; not finite if one of them, or Σθ² in their dtype, is not finite."""
        return math.sqrt(self._square_of_theta())

    @cached_property
    def _square_of_weights(self) -> Callable[[], float]:
        return self._square(self.parameters.theta[: self.parameters.decayed])

    @cached_property
    def _square_of_theta(self) -> Callable[[], float]:
        return self._square(self.parameters.theta)

    def _square(self, vector: Array) -> Callable[[], float]:
        """A function that computes Σ vector², compiled once because every epoch needs it."""
        out = self.backend.empty((1, 1), self.dtype)
        run = self.backend.compile([Gemm(vector.reshape(1, -1), vector.reshape(-1, 1), out)])

        def square() -> float:
            run()
            return float(self.backend.download(out)[0, 0])

        return square

    def on_device(self, array: Array | NDArray[Any]) -> Array:
        """The array on the device, in the model's dtype."""
        return array if self.backend.owns(array) else self.backend.upload(array, self.dtype)

    def copied(self, array: Array) -> Array:
        """A new array with the same values."""
        copy = self.backend.empty(array.shape, array.dtype)
        copy[...] = array
        return copy


def _key(seed: int, layer: int) -> tuple[int, int]:
    words = np.random.SeedSequence((seed, _MASKS, layer)).generate_state(2, np.uint64)
    return int(words[0]), int(words[1])
