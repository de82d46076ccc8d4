"""Units that hardly learn: f'(z) is 0 or nearly 0 for all samples, and so is delta."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.nn.activations import Activation

SATURATED = 0.05
"""A unit is saturated if |f'(z)| is below this share of `largest_slope`."""


def largest_slope(f: Activation) -> float:
    """max |f'(z)| for |z| <= 2, the usual range of z."""
    z = np.linspace(-2.0, 2.0, 401)
    return float(np.abs(f.df(z, f.f(z)) * np.ones_like(z)).max())


def dead_and_saturated(f: Activation, z: NDArray[Any], a: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The indices of the units of a layer that are dead, and of those that are saturated.

    A unit is dead if f'(z) = 0 for all samples. It is saturated if |f'(z)| < 0.05 · max |f'| for all samples, with the
    maximum for |z| <= 2, and it is not dead.

    Args:
        f: the activation, elementwise.
        z, a: (m, n), the sums and outputs of the layer, on the host.

    >>> from nnbp.nn.activations import ReLU, Sigmoid
    >>> z = np.array([[-1.0, 2.0, 9.0], [-3.0, -1.0, -8.0]])
    >>> [found.tolist() for found in dead_and_saturated(ReLU(), z, ReLU().f(z))]
    [[0], []]
    >>> [found.tolist() for found in dead_and_saturated(Sigmoid(), z, Sigmoid().f(z))]
    [[], [2]]
    """
    slopes = np.abs(f.df(z, a) * np.ones_like(z)).max(axis=0)
    return np.flatnonzero(slopes == 0), np.flatnonzero((slopes > 0) & (slopes < SATURATED * largest_slope(f)))
