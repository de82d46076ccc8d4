"""Mean and variance of samples that are read in blocks, or by several processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Moments = tuple[Any, Any, Any]
"""Of some samples x with weights w: the mean μ, Σ w (x − μ)², and Σ w; of one number, or (n,) of n features."""


def merged(a: Moments, b: Moments) -> Moments:
    """The moments of the samples of both, neither without weight.

    With δ = μb − μa: μ = μa + δ wb / w and Σ = Σa + Σb + δ² wa wb / w. Source: Chan, Golub & LeVeque, "Algorithms for
    computing the sample variance", The American Statistician 37, 1983, equation 2.1.
    """
    (mean, square, weight), (other, others, own) = a, b
    total, delta = weight + own, other - mean
    square = square + others + delta * delta * (weight * (own / total))
    return mean + delta * (own / total), square, total


def moments(blocks: Iterable[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Moments:
    """The moments of blocks of samples (m, n) with weights (m,) above 0; there is one block at least.

    They are taken of distances from the first sample, which are exactly 0 for a constant feature.
    """
    first: Any = None
    found: Any = None
    for x, w in blocks:
        first = x[0].copy() if first is None else first
        distance, weight, own = x - first, w[:, None], float(w.sum())
        center = (weight * distance).sum(axis=0) / own
        block = center, (weight * (distance - center) ** 2).sum(axis=0), own
        found = block if found is None else merged(found, block)
    mean, square, total = found
    return first + mean, square, total
