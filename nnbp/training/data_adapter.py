"""The data adapter: what a network is given becomes device arrays of its sizes and dtype, or a clear error.

Data that the device has no room for stay on the host, to be sent there batch by batch; they are checked all the same.
Nothing here changes a network: one that takes its sizes from the data is built when all that it was given was good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nnbp.engine.dataset import Dataset
from nnbp.errors import DataError, NnbpError, ShapeError
from nnbp.graph.backend import Backend, Streaming
from nnbp.graph.ops import Array
from nnbp.metrics import Metric
from nnbp.nn.architecture import Architecture
from nnbp.nn.losses import Loss
from nnbp.training.trainer import Measured
from nnbp.validation import class_weights, finite, finite_on_host, host, matrix, sample_weights

__all__ = ["DataAdapter", "sizes_unknown"]

# The word of the seed for drawing validation samples; see the words in `nnbp.engine.model`.
_SPLIT = 3

_SHARE = 0.8
"""The share of a device's free memory that a data set may have, together with what training takes beside it."""

_SMALL = 2**20
"""Bytes of a data set that is not worth the question how much memory is free."""

_BESIDE = 4
"""Copies of theta that training keeps (it, its gradient, the last good one, the best), and arrays of a layer."""


def sizes_unknown() -> NnbpError:
    """The error for a network without sizes that is asked for anything but training."""
    return NnbpError(
        "The sizes of this network are taken from the data, and it has seen none yet. Call fit(X, y) first, or "
        "give the sizes: Network([n_in, 100, n_out])."
    )


@dataclass(frozen=True)
class DataAdapter:
    """What a network takes. Its methods run in ``backend.active()``.

    Attributes:
        backend: where arrays go.
        dtype: the network's.
        architecture: it knows the loss, and the size of the output layer that targets ask for.
        n_in, n_out: numbers of inputs and outputs; None where they are left to the data.
    """

    backend: Backend
    dtype: np.dtype[Any]
    architecture: Architecture
    n_in: int | None
    n_out: int | None

    @property
    def loss(self) -> Loss:
        """C."""
        return self.architecture.loss

    def matrix(self, X: Any) -> Array | NDArray[Any]:
        """X (m, n_in), on the device or on the host, wherever it was; its values may be any."""
        return matrix(self.backend, X, self.dtype, self.n_in)

    def features(self, X: Any) -> Array:
        """X on the device, (m, n_in); its values may be any."""
        return self._uploaded(self.matrix(X))

    def finite(self, X: Array | NDArray[Any]) -> None:
        """Raises DataError where a value of X is NaN or infinite in the network's dtype."""
        if self.backend.owns(X):
            finite(self.backend, X, "X")
        else:
            finite_on_host(X, "X", self.dtype)

    def _uploaded(self, array: Array | NDArray[Any]) -> Array:
        return array if self.backend.owns(array) else self.backend.upload(array, self.dtype)

    def targets(self, y: Any, samples: int) -> NDArray[Any]:
        """Targets on the host: one a sample, finite in the network's dtype."""
        values = host(y, "y")
        if values.ndim == 0 or len(values) != samples:
            raise ShapeError(f"y has one target a sample, {samples} here; received shape {values.shape}.")
        with np.errstate(over="ignore"):
            good = np.isfinite(values.astype(self.dtype, copy=False))
        if not good.all():
            row = int(np.argwhere(~good)[0][0])
            raise DataError(
                f"Targets are finite numbers in the network's dtype, {self.dtype}; received {values[row]} in row "
                f"{row}. Drop samples without a target; scale large ones."
            )
        return values

    def sized(self, X: Any, y: Any) -> tuple[Self, Array | NDArray[Any], NDArray[Any]]:
        """This adapter with the sizes that were open taken from X and y; X wherever it was, y on the host."""
        array = self.matrix(X)
        values = self.targets(y, len(array))
        n_out = self.architecture.outputs_of(values) if self.n_out is None else self.n_out
        return replace(self, n_in=array.shape[1], n_out=n_out), array, values

    def data(self, X: Any, y: Any, weights: Any = None) -> tuple[Dataset, NDArray[Any], NDArray[np.float64] | None]:
        """A data set on the device; its targets and weights on the host."""
        data, values, w = self._checked(X, y, weights)
        return self._resident(data), values, w

    def data_with_room(self, X: Any, y: Any, weights: Any = None) -> tuple[Dataset, NDArray[np.float64] | None]:
        """A data set on the device where that has room for it, else on the host; its weights on the host."""
        data, _, w = self._checked(X, y, weights)
        return self._placed(data, None), w

    def _checked(self, X: Any, y: Any, weights: Any) -> tuple[Dataset, NDArray[Any], NDArray[np.float64] | None]:
        """A data set, of which nothing is uploaded yet; its targets and weights on the host."""
        if self.n_out is None:
            raise sizes_unknown()
        array = self.matrix(X)
        values = self.targets(y, len(array))
        encoded = self.loss.encode(values, self.n_out)
        w = sample_weights(weights, len(array))
        return Dataset(array, encoded, None if w is None else w.reshape(-1, 1)), values, w

    def _resident(self, data: Dataset) -> Dataset:
        """The data set on the device."""
        upload, w = self.backend.upload, data.w
        return Dataset(self._uploaded(data.X), upload(data.y, self.dtype), None if w is None else upload(w, self.dtype))

    def _placed(self, data: Dataset, training: tuple[int | None, int] | None) -> Dataset:
        """The data set on the device, unless X is on the host and has no room there; see `measured`."""
        return self._resident(data) if self.backend.owns(data.X) or self._fits(data, training) else data

    def _fits(self, data: Dataset, training: tuple[int | None, int] | None) -> bool:
        # An index of every sample goes along, for the order.
        size: int = self.dtype.itemsize * sum(array.size for array in data.arrays) + 8 * len(data)
        if size <= _SMALL or not isinstance(self.backend, Streaming):
            return True
        if training is not None:
            size += self._beside(len(data), *training)
        free, _ = self.backend.memory()
        return size <= _SHARE * free

    def _beside(self, samples: int, batch_size: int | None, slots: int) -> int:
        """Bytes that training takes beside its data, about: buffers of a step, and vectors as long as theta."""
        assert self.n_in is not None, "data have been seen"
        assert self.n_out is not None, "data have been seen"
        sizes, parameters = [self.n_in], 0
        for layer in self.architecture.layers(self.n_out):
            parameters += sum(spec.size for spec in layer.parameters(sizes[-1]))
            sizes.append(layer.outputs(sizes[-1]))
        batch = samples if batch_size is None else min(batch_size, samples)
        return self.dtype.itemsize * (_BESIDE * batch * sum(sizes) + (_BESIDE + slots) * parameters)

    def measured(
        self,
        X: Any,
        y: Any,
        weights: Any,
        predict: Callable[[Array, str], NDArray[Any]],
        *,
        class_weight: Mapping[int, float] | str | None = None,
        reference: NDArray[Any] | None = None,
        metrics: Sequence[Metric] = (),
        training: tuple[int | None, int] | None = None,
    ) -> Measured:
        """A data set with what its metrics need; it stays on the host where the device has no room for it.

        Args:
            X, y, weights: the data; X has to be finite.
            predict: what metrics see, of X.
            class_weight: times the sample weights.
            reference: labels that the class weight "balanced" counts; None is y.
            metrics: to measure.
            training: the batch size, and how many vectors the optimizer keeps, where there has to be room for training
                as well.
        """
        data, values, w = self._checked(X, y, weights)
        truth = self.loss.truth(values)
        if class_weight is not None and not self.loss.classification:
            raise ValueError(
                f"class_weight belongs to classes, and the loss {self.loss.name} is for values; received "
                f"{class_weight!r}. Use sample_weight."
            )
        by_class = class_weights(class_weight, truth, truth if reference is None else reference)
        if by_class is not None:
            w = sample_weights(by_class if w is None else w * by_class, len(by_class))
            data = Dataset(data.X, data.y, None if w is None else w.reshape(-1, 1))
        self.finite(data.X)
        data = self._placed(data, training)
        return Measured(data, truth, w, predict, metrics)

    def split(
        self, X: Any, y: Any, weights: Any, validation_data: Any, share: float, seed: int
    ) -> tuple[Any, Any, Any, tuple[Any, Any, Any]]:
        """X, y and weights of the samples that are kept for training, and those of the share that is set aside."""
        if validation_data is not None:
            raise ValueError(
                "Validation data are given or split off, not both; received validation_data and validation_split."
            )
        if not 0 < share < 1:
            raise ValueError(f"validation_split is a share of the samples, at least 0 and below 1; received {share!r}.")
        data, values, w = self._checked(X, y, weights)
        m = len(data)
        aside = min(max(1, round(m * share)), m - 1)
        if m < 2:
            raise ValueError(f"validation_split needs at least 2 samples; received {m}.")
        order = np.random.default_rng(np.random.SeedSequence((seed, _SPLIT))).permutation(m)
        parts = []
        for rows in (np.sort(order[aside:]), np.sort(order[:aside])):
            part = data.X[self.backend.upload(rows, np.int64) if self.backend.owns(data.X) else rows]
            parts.append((part, values[rows], None if w is None else w[rows]))
        return (*parts[0], parts[1])
