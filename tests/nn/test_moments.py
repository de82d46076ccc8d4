"""Means and variances of samples that come in blocks or from several processes."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnbp.nn.moments import merged, moments


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 9), min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_moments_of_blocks_and_of_parts_are_those_of_all_samples(seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    blocks = [(rng.normal(5, 2, (m, 3)), rng.uniform(0.1, 3, m)) for m in sizes]
    X, w = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    mean = np.average(X, axis=0, weights=w)
    expected = mean, w @ (X - mean) ** 2, w.sum()
    for found in (moments(blocks), reduce(merged, [moments([block]) for block in blocks])):
        for value, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-10, atol=1e-10)


def test_numbers_that_differ_in_their_last_digits_keep_their_deviation() -> None:
    """Seconds since 1970, to a millisecond, on four ranks."""
    x = 1.6e9 + 1e-3 * np.random.default_rng(0).normal(size=(1000, 1))
    _, square, total = reduce(merged, [moments([(part, np.ones(len(part)))]) for part in np.split(x, 4)])
    assert np.sqrt(square / total)[0] == pytest.approx((x - x[0]).std(), rel=1e-6)


def test_a_constant_feature_has_no_deviation_at_all() -> None:
    x = np.full((10, 1), 0.1)
    _, square, _ = moments([(x[:4], np.ones(4)), (x[4:], np.ones(6))])
    assert square[0] == 0.0
