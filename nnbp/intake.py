"""Intake: what a network is given becomes device arrays of its sizes and dtype, or a clear error.

Nothing here changes a network: one that takes its sizes from the data is built when all that it was given was good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nnbp.architecture import Architecture
from nnbp.backend import Array, Backend
from nnbp.errors import DataError, NnbpError, ShapeError
from nnbp.inputs import class_weights, features, finite, host, sample_weights
from nnbp.losses import Loss
from nnbp.metrics import Metric
from nnbp.sweep import Data
from nnbp.training import Measured

__all__ = ["Intake", "sizes_unknown"]

# The word of the seed for drawing validation samples; see the words in `nnbp.model`.
_SPLIT = 3


def sizes_unknown() -> NnbpError:
    """The error for a network without sizes that is asked for anything but training."""
    return NnbpError(
        "The sizes of this network are taken from the data, and it has seen none yet. Call fit(X, y) first, or "
        "give the sizes: Network([n_in, 100, n_out])."
    )


@dataclass(frozen=True)
class Intake:
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

    def features(self, X: Any) -> Array:
        """X on the device, (m, n_in); its values may be any."""
        return features(self.backend, X, self.dtype, self.n_in)

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

    def sized(self, X: Any, y: Any) -> tuple[Self, Array, NDArray[Any]]:
        """This intake with the sizes that were open taken from X and y; X on the device, y on the host."""
        array = self.features(X)
        values = self.targets(y, len(array))
        n_out = self.architecture.outputs_of(values) if self.n_out is None else self.n_out
        return replace(self, n_in=array.shape[1], n_out=n_out), array, values

    def data(self, X: Any, y: Any, weights: Any = None) -> tuple[Data, NDArray[Any], NDArray[np.float64] | None]:
        """A data set on the device; its targets and weights on the host."""
        if self.n_out is None:
            raise sizes_unknown()
        array = self.features(X)
        values = self.targets(y, len(array))
        encoded = self.loss.encode(values, self.n_out)
        w = sample_weights(weights, len(array))
        return Data(array, self.backend.upload(encoded, self.dtype), self._column(w)), values, w

    def _column(self, w: NDArray[np.float64] | None) -> Array | None:
        return None if w is None else self.backend.upload(w.reshape(-1, 1), self.dtype)

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
    ) -> Measured:
        """A data set with what its metrics need.

        Args:
            X, y, weights: the data; X has to be finite.
            predict: what metrics see, of X on the device.
            class_weight: times the sample weights.
            reference: labels that the class weight "balanced" counts; None is y.
            metrics: to measure.
        """
        data, values, w = self.data(X, y, weights)
        finite(self.backend, data.X, "X")
        truth = self.loss.truth(values)
        if class_weight is not None and not self.loss.classification:
            raise ValueError(
                f"class_weight belongs to classes, and the loss {self.loss.name} is for values; received "
                f"{class_weight!r}. Use sample_weight."
            )
        by_class = class_weights(class_weight, truth, truth if reference is None else reference)
        if by_class is not None:
            w = sample_weights(by_class if w is None else w * by_class, len(by_class))
            data = Data(data.X, data.y, self._column(w))
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
        data, values, w = self.data(X, y, weights)
        m = len(data)
        aside = min(max(1, round(m * share)), m - 1)
        if m < 2:
            raise ValueError(f"validation_split needs at least 2 samples; received {m}.")
        order = np.random.default_rng(np.random.SeedSequence((seed, _SPLIT))).permutation(m)
        parts = []
        for rows in (np.sort(order[aside:]), np.sort(order[:aside])):
            part = data.X[self.backend.upload(rows, np.int64)]
            parts.append((part, values[rows], None if w is None else w[rows]))
        return (*parts[0], parts[1])
