"""A data set, as the engine trains and measures on it."""

from __future__ import annotations

from dataclasses import dataclass

from nnbp.graph.ops import Array

__all__ = ["Dataset"]


@dataclass(frozen=True)
class Dataset:
    """A data set: X (m, n_in), encoded targets y (m, columns), weights w (m, 1) or None.

    All are on the device in the network's dtype, or all on the host, of any dtype.
    """

    X: Array
    y: Array
    w: Array | None = None

    def __len__(self) -> int:
        return len(self.X)

    @property
    def arrays(self) -> list[Array]:
        """Those that there are, in order."""
        return [array for array in (self.X, self.y, self.w) if array is not None]
