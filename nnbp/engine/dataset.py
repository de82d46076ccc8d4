"""A data set that has been checked: the arrays that the engine computes on, and the targets as they were given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.engine.prefetch import Feed
from nnbp.graph.ops import Array


@dataclass(frozen=True)
class Unread:
    """An array (m, columns) of samples that are never in memory together: its shape and dtype."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set. X, y and w are either all on the device, in the network's dtype, or all on the host.

    Attributes:
        X: (m, n_in).
        y: (m, columns), encoded targets.
        w: (m, 1), sample weights, or None.
        targets: the targets as they were given, on the host; only data that the data adapter has read have them.
        weights: (m,), sample weights on the host, or None.
        shift: the power of two by which they are the weights as given.
        feed: reads the samples if they are never in memory together; the arrays are `Unread` then.
        sum, digest: Σ wₙ and a hash of all samples, if there is a feed.
    """

    X: Array
    y: Array
    w: Array | None = None
    targets: Any = None
    weights: NDArray[np.float64] | None = None
    feed: Feed | None = None
    sum: float | None = None
    digest: str | None = None
    shift: int = 0

    def __len__(self) -> int:
        return len(self.X)

    @property
    def arrays(self) -> list[Array]:
        """X, y and w, in this order, without w if it is None."""
        return [array for array in (self.X, self.y, self.w) if array is not None]

    @cached_property
    def weight(self) -> float:
        """Σ wₙ, or m without weights."""
        if self.sum is not None:
            return self.sum
        return float(len(self)) if self.weights is None else float(np.sum(self.weights, dtype=np.float64))

    @property
    def counted(self) -> int:
        """Number of samples whose weight is not 0."""
        return len(self) if self.weights is None else int(np.count_nonzero(self.weights))
