"""Units that hardly learn, because f' is 0 or nearly 0 at z for all samples: no delta gets through them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.nn.activations import Activation

SATURATED = 0.05
"""A unit is saturated if |f'(z)| is below this share of `largest_slope`."""


def largest_slope(f: Activation) -> float:
    """max |f'(z)| for |z| <= 2, where the z of a layer mostly lie."""
    z = np.linspace(-2.0, 2.0, 401)
    return float(np.abs(f.df(z, f.f(z)) * np.ones_like(z)).max())


def dead_and_saturated(f: Activation, z: NDArray[Any], a: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The indices of the units of a layer that are dead, and of those that are saturated.

    A unit is dead if f'(z) = 0 for all samples, and saturated if 0 < |f'(z)| < 0.05 · max |f'| for all samples, with
    the maximum for |z| <= 2.

    Args:
        f: the activation, elementwise.
        z, a: (m, n), sums and outputs of the layer on the host.

    >>> from nnbp.nn.activations import ReLU, Sigmoid
    >>> z = np.array([[-1.0, 2.0, 9.0], [-3.0, -1.0, -8.0]])
    >>> [found.tolist() for found in dead_and_saturated(ReLU(), z, ReLU().f(z))]
    [[0], []]
    >>> [found.tolist() for found in dead_and_saturated(Sigmoid(), z, Sigmoid().f(z))]
    [[], [2]]
    """
    slopes = np.abs(f.df(z, a) * np.ones_like(z)).max(axis=0)
    return np.flatnonzero(slopes == 0), np.flatnonzero((slopes > 0) & (slopes < SATURATED * largest_slope(f)))
