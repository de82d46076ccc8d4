"""The model: a network whose sizes are known, on a backend, with its layers, loss, parameters and random sequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, reduce
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.engine.dataset import Dataset
from nnbp.engine.ranks import ALONE, Ranks
from nnbp.errors import NnbpError
from nnbp.graph.backend import Backend
from nnbp.graph.builder import Builder
from nnbp.graph.ops import Array, Gemm, Precision
from nnbp.nn.layers import Dense, Layer, Statistics
from nnbp.nn.losses import Loss
from nnbp.nn.moments import merged, moments
from nnbp.nn.parameters import Parameters

# The second word of the seed says which of a network's random sequences it is for.
_WEIGHTS, _ORDER, _MASKS = range(3)

_BLOCK = 2**20
"""Approximate number of elements of X that statistics are taken of at once."""


def statistics_unknown() -> NnbpError:
    """The error for any use but training of a network that has to see data first."""
    return NnbpError(
        "A network with a Standardize layer takes the mean and deviation of its inputs from the data of the first fit, "
        "and there has been none. Call fit(X, y) first."
    )


class Model:
    """Layers, loss and parameters on a backend.

    Everything runs in ``backend.active()``, in one thread at a time: the gradient is shared.

    Attributes:
        sizes: of the input and of every layer.
        n_out: number of outputs.
        parameters: theta, its gradient, and how they are divided into W and b.
        statistics: of each layer, the arrays that belong to the model and are not trained.
        observed: whether the statistics that are taken from the first fit are known.
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
        self.statistics = [
            {name: backend.upload(values, values.dtype) for name, values in layer.statistics(n).items()}
            for layer, n in fan_ins
        ]
        self.observed = not self.layers[0].observes_inputs
        self.streams = [layer.stream(backend, _key(seed, k)) for k, layer in enumerate(self.layers)]
        self.order_generator = np.random.default_rng(np.random.SeedSequence((seed, _ORDER)))
        generator = np.random.default_rng(np.random.SeedSequence((seed, _WEIGHTS)))
        flat = np.empty(len(self.parameters.values), self.dtype)
        for views, (layer, n) in zip(self.parameters.views(flat), fan_ins, strict=True):
            for name, values in layer.initial(generator, n).items():
                views[name][...] = values
        self.parameters.values[...] = backend.upload(flat, self.dtype)

    @property
    def dense(self) -> list[int]:
        """Indices of the dense layers."""
        return [k for k, layer in enumerate(self.layers) if isinstance(layer, Dense)]

    @property
    def activated(self) -> list[int]:
        """Indices of the layers that have an activation; their nodes have z, a and delta."""
        return [k for k, layer in enumerate(self.layers) if layer.activation is not None]

    def observe(self, data: Dataset, ranks: Ranks = ALONE) -> None:
        """Takes the statistics of the first fit from its data, of which each rank has a part."""
        found = reduce(merged, ranks.allgather(moments(self._blocks(data))))
        self.set_statistics([self.layers[0].observed(found)])

    def _blocks(self, data: Dataset) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """X on the host, block by block, and the weights; without samples of weight 0."""
        if data.feed is not None:
            for X, _, *others in data.feed:
                w = others[0][:, 0].astype(np.float64) if others else np.ones(len(X))
                if (w > 0).any():
                    yield np.asarray(X[w > 0], np.float64), w[w > 0]
            return
        read = self.backend.download if self.backend.owns(data.X) else np.asarray
        weights = np.ones(len(data)) if data.weights is None else data.weights
        size = max(1, _BLOCK // self.n_in)
        for first in range(0, len(data), size):
            w = weights[first : first + size]
            counts = w > 0
            if counts.any():
                yield np.asarray(read(data.X[first : first + size])[counts], np.float64), w[counts]

    def host_statistics(self) -> list[Statistics]:
        """Copies of the statistics of each layer, on the host.

        Raises:
            NnbpError: they are not known yet.
        """
        if not self.observed:
            raise statistics_unknown()
        download = self.backend.download
        return [{name: np.array(download(array)) for name, array in own.items()} for own in self.statistics]

    def set_statistics(self, values: Sequence[Statistics]) -> None:
        """Sets the statistics of the first layers, or of all, from arrays on the host."""
        for own, given in zip(self.statistics, values, strict=False):
            for name, array in given.items():
                own[name][...] = self.backend.upload(array, own[name].dtype)
        self.observed = True

    def sequences(self) -> dict[str, Any]:
        """Where the random sequences stand, as JSON values."""
        masks = [None if stream is None else stream.position for stream in self.streams]
        return {"order": dict(self.order_generator.bit_generator.state), "masks": masks}

    def set_sequences(self, values: Mapping[str, Any]) -> None:
        """Sets the random sequences to where `sequences` found them.

        Raises:
            ValueError: no sequence of this network can stand there.
        """
        try:
            order, masks = values["order"], values["masks"]
            positions = [None if stream is None else int(at) for stream, at in zip(self.streams, masks, strict=True)]
            if any(at is not None and not 0 <= at < 2**63 for at in positions):
                raise ValueError("a position is out of its range")
            self.order_generator.bit_generator.state = order
        except (KeyError, TypeError, OverflowError, AttributeError) as error:
            raise ValueError(f"no random sequences of this network: {error}") from error
        for stream, at in zip(self.streams, positions, strict=True):
            if stream is not None:
                stream.position = at or 0

    def builder(
        self, samples: int, *, training: bool, searching: bool = False, place: tuple[int, int] | None = None
    ) -> Builder:
        """A builder for batches of this many samples."""
        return Builder(
            self.backend, self.dtype, samples, training=training, searching=searching, precision=self.precision,
            place=place,
        )  # fmt: skip

    def objective(self, total: float, weight: float, decay: float | None = None) -> float:
        """J = Σ wₙCⁿ / Σ wₙ + λ/2 ΣW², from its sums; the decay is that of the current parameters unless given."""
        return total / weight + (self.decay() if decay is None else decay)

    def decay(self) -> float:
        """λ/2 ΣW²."""
        return 0.5 * self.weight_decay * self._square_of_weights() if self.weight_decay else 0.0

    def record_decay(self, op: Builder) -> None:
        """Records the derivative of the decay, g ← g + λW."""
        if self.weight_decay:
            W, g = (vector[: self.parameters.decayed] for vector in (self.parameters.theta, self.parameters.gradient))
            op.map(lambda g, W: g + self.weight_decay * W, [g], g=g, W=W)

    def norm(self) -> float:
        """Euclidean norm of all parameters and running statistics; not finite if one of them, or a square, is not."""
        return math.sqrt(self._square_of_values())

    @cached_property
    def _square_of_weights(self) -> Callable[[], float]:
        return self._square(self.parameters.theta[: self.parameters.decayed])

    @cached_property
    def _square_of_values(self) -> Callable[[], float]:
        return self._square(self.parameters.values)

    def _square(self, vector: Array) -> Callable[[], float]:
        """A function that computes Σ vector², compiled once because every epoch needs it."""
        out = self.backend.empty((1, 1), self.dtype)
        run = self.backend.compile([Gemm(vector.reshape(1, -1), vector.reshape(-1, 1), out)])
        # A function that held the model would keep it alive until the collector of cycles comes.
        download = self.backend.download

        def square() -> float:
            run()
            return float(download(out)[0, 0])

        return square

    def input_dtype(self, X: Array | NDArray[Any]) -> np.dtype[Any]:
        """The dtype in which the first layer reads X."""
        return self.layers[0].input_dtype(X.dtype, self.dtype)

    def on_device(self, array: Array | NDArray[Any], dtype: np.dtype[Any]) -> Array:
        """The array on the device; one from the host in this dtype, and dense."""
        return array if self.backend.owns(array) else self.backend.upload(np.asarray(array), dtype)

    def copied(self, array: Array) -> Array:
        """A new array with the same values."""
        copy = self.backend.empty(array.shape, array.dtype)
        copy[...] = array
        return copy


def _key(seed: int, layer: int) -> tuple[int, int]:
    words = np.random.SeedSequence((seed, _MASKS, layer)).generate_state(2, np.uint64)
    return int(words[0]), int(words[1])
