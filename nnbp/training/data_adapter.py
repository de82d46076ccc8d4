"""The data adapter: it turns user data into device arrays of the network's sizes and dtype, or raises a clear error.

Data that do not fit on the device stay on the host and are sent batch by batch; they are checked in the same way.
Nothing here changes a network: one that takes its sizes from the data is built only after all data have been checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnbp.engine.dataset import Dataset
from nnbp.engine.ranks import ALONE, Ranks
from nnbp.errors import DataError, NnbpError, ShapeError
from nnbp.graph.backend import Backend, Streaming
from nnbp.graph.ops import Array
from nnbp.nn.architecture import Architecture
from nnbp.validation import (
    Lazy,
    Mapped,
    balanced,
    class_weights,
    finite,
    host,
    is_mapped,
    matrix,
    on_device,
    sample_weights,
    samples_on_host,
    unscaled_weights,
    weight_shift,
)

# The second word of the seed for drawing validation samples; see the other words in `nnbp.engine.model`.
_SPLIT = 3

_SHARE = 0.8
"""The share of a device's free memory that a data set may use, together with the buffers of training."""

_SMALL = 2**20
"""A data set of at most this many bytes is uploaded without asking how much memory is free."""

_BESIDE = 5
"""Vectors as long as theta in training (theta, its gradient, the first, the last, the best), and arrays per layer."""

SAMPLE = 10_000
"""J before and after a fit is taken on so many samples at most."""


def sizes_unknown() -> NnbpError:
    """The error for any use but training of a network whose sizes are unknown."""
    return NnbpError(
        "The sizes of this network are taken from the data, and it has seen none yet. Call fit(X, y) first, or "
        "give the sizes: Network([n_in, 100, n_out])."
    )


@dataclass(frozen=True, eq=False)
class DataAdapter:
    """Checks and converts the data that a network is given. Its methods run in ``backend.active()``.

    Attributes:
        backend: creates the arrays.
        dtype: of the network.
        architecture: has the loss, and derives the size of the output layer from targets.
        n_in, n_out: numbers of inputs and outputs; None if they are to be taken from the data.
    """

    backend: Backend
    dtype: np.dtype[Any]
    architecture: Architecture
    n_in: int | None
    n_out: int | None

    def matrix(self, X: Any) -> Array | NDArray[Any]:
        """X (m, n_in), left on the device or on the host; its values may be NaN or infinite."""
        X = on_device(self.backend, X)
        if is_mapped(X) and X.ndim == 2 and X.dtype.kind in "fiub" and X.dtype != self.input_dtype(X):
            X = Mapped(X)
        X = X if self.backend.owns(X) else samples_on_host(X)
        dtype = self.input_dtype(X) if self.backend.owns(X) else self.dtype
        return matrix(self.backend, X, dtype, self.n_in)

    def input_dtype(self, X: Array | NDArray[Any]) -> np.dtype[Any]:
        """The dtype in which the network reads X."""
        return self.architecture.first.input_dtype(X.dtype, self.dtype)

    def finite(self, X: Array | NDArray[Any], first: int = 0) -> None:
        """Raises DataError if a value of X is NaN or infinite in the network's dtype; row 0 has the number `first`."""
        finite(self.backend, X, "X", self.dtype, first=first)

    def read(self, X: Any, y: Any, sample_weight: Any = None) -> tuple[Self, Dataset]:
        """This adapter with unknown sizes taken from the data, and the checked data set; X stays where it was."""
        array = self.matrix(X)
        targets = self._targets(y, len(array))
        known = self
        if self.n_in is None or self.n_out is None:
            n_out = self.architecture.outputs_of(targets) if self.n_out is None else self.n_out
            known = replace(self, n_in=array.shape[1], n_out=n_out)
        assert known.n_out is not None, "targets have been seen"
        y = self.architecture.loss.encode(targets, known.n_out)
        return known, _with_weights(Dataset(array, y, None, targets), sample_weight)

    def _targets(self, y: Any, samples: int) -> NDArray[Any]:
        """The targets on the host, one per sample, finite in the network's dtype."""
        values = host(y, "y", classes=self.architecture.loss.classification)
        if values.ndim == 0 or len(values) != samples:
            raise ShapeError(f"y has one target per sample, {samples} here; received shape {values.shape}.")
        with np.errstate(over="ignore"):
            good = np.isfinite(values.astype(self.dtype, copy=False))
        if not good.all():
            row = int(np.argwhere(~good)[0][0])
            raise DataError(
                f"Targets are finite numbers in the network's dtype, {self.dtype}; received {values[row]} in row "
                f"{row}. Drop samples without a target; scale large ones."
            )
        return values

    def resident(self, data: Dataset) -> Dataset:
        """The data set on the device."""
        upload, dtype = self.backend.upload, self.dtype
        X = data.X if self.backend.owns(data.X) else upload(np.asarray(data.X), self.input_dtype(data.X))
        w = None if data.w is None else upload(data.w, dtype)
        return replace(data, X=X, y=upload(data.y, dtype), w=w)

    def placed(self, data: Dataset, training: tuple[int | None, int] | None = None) -> Dataset:
        """The data set on the device, unless X is on the host and does not fit on the device, or is large and sparse.

        Args:
            data: a data set that `read` returned.
            training: the batch size and the number of vectors that the optimizer keeps, if training must fit as well.
        """
        return self.resident(data) if self.backend.owns(data.X) or self._fits(data, training) else data

    def _fits(self, data: Dataset, training: tuple[int | None, int] | None) -> bool:
        # The order takes one index per sample.
        X, *others = data.arrays
        size: int = self.input_dtype(X).itemsize * X.size + 8 * len(data)
        size += self.dtype.itemsize * sum(array.size for array in others)
        if size <= _SMALL:
            return True
        if isinstance(X, Lazy):
            return False
        if not isinstance(self.backend, Streaming):
            return True
        if training is not None:
            size += self._beside(len(data), *training)
        free, _ = self.backend.memory()
        return size <= _SHARE * free

    def _beside(self, samples: int, batch_size: int | None, slots: int) -> int:
        """Approximate bytes that training needs besides its data: buffers of a step, and vectors as long as theta."""
        assert self.n_in is not None, "data have been seen"
        assert self.n_out is not None, "data have been seen"
        layers = self.architecture.layers(self.n_out)
        sizes = list(accumulate(layers, lambda n, layer: layer.outputs(n), initial=self.n_in))
        parameters = sum(spec.size for layer, n in zip(layers, sizes, strict=False) for spec in layer.parameters(n))
        batch = samples if batch_size is None else min(batch_size, samples)
        return self.dtype.itemsize * (_BESIDE * batch * sum(sizes) + (_BESIDE + slots) * parameters)

    def weighted(
        self,
        data: Dataset,
        class_weight: Mapping[int, float] | ArrayLike | str | None,
        reference: Dataset,
        ranks: Ranks = ALONE,
    ) -> Dataset:
        """The data set with its weights multiplied by class weights; "balanced" counts the classes in the reference.

        Each of the ranks has a part of both.
        """
        if class_weight is None:
            return data
        loss = self.architecture.loss
        if not loss.classification:
            raise ValueError(
                f"class_weight belongs to classes, and the loss {loss.name} is for values; received "
                f"{class_weight!r}. Use sample_weight."
            )
        classes = max(2, self.n_out or 0)
        known = loss.truth(reference.targets)
        if isinstance(class_weight, str) and class_weight == "balanced" and not ranks.alone:
            class_weight = balanced(ranks.allgather(np.unique(known, return_counts=True)))
        w = class_weights(class_weight, loss.truth(data.targets), known, classes)
        return _with_weights(data, w if data.weights is None or w is None else data.weights * w)

    def split(self, data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
        """The samples for training, and the share of samples that is set aside for validation."""
        m = len(data)
        if m < 2:
            raise ValueError(f"validation_split needs at least 2 samples; received {m}.")
        aside = min(max(1, round(m * share)), m - 1)
        order = np.random.default_rng(np.random.SeedSequence((seed, _SPLIT))).permutation(m)
        return self._rows(data, np.sort(order[aside:])), self._rows(data, np.sort(order[:aside]))

    def sample(self, data: Dataset, ranks: Ranks = ALONE) -> Dataset:
        """The data set, or `SAMPLE` samples of a larger one, drawn with replacement from those that have a weight.

        All ranks together have as many.
        """
        most = max(1, SAMPLE // ranks.size)
        if len(data) <= most:
            return data
        counted = np.arange(len(data)) if data.weights is None else np.flatnonzero(data.weights)
        # Always the same ones, whatever the seed: they serve no more than to judge.
        return self._rows(data, np.sort(np.random.default_rng(0).choice(counted, most)))

    def _rows(self, data: Dataset, rows: NDArray[np.int64]) -> Dataset:
        X = data.X[self.backend.upload(rows, np.int64) if self.backend.owns(data.X) else rows]
        part = Dataset(X, data.y[rows], None, data.targets[rows], shift=data.shift)
        return part if data.weights is None else _with_weights(part, data.weights[rows])


def _with_weights(data: Dataset, sample_weight: Any) -> Dataset:
    """The data set with these weights, which are checked; as it is if they are None."""
    if sample_weight is None:
        return data
    given = unscaled_weights(sample_weight, len(data))
    weights = sample_weights(given, len(data))
    assert weights is not None, "there are some"
    return _reweighted(data, weights, data.shift + weight_shift(float(given.max())))


def in_proportion(data: Dataset, ranks: Ranks) -> Dataset:
    """The data set with weights on a scale that is the same on all ranks."""
    shift = min(ranks.allgather(data.shift))
    return data if data.weights is None else _reweighted(data, np.ldexp(data.weights, shift - data.shift), shift)


def _reweighted(data: Dataset, weights: NDArray[np.float64], shift: int) -> Dataset:
    return replace(data, w=weights.reshape(-1, 1), weights=weights, shift=shift)
