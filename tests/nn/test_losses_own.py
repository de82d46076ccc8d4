"""Losses of one's own: one class with its formula and its derivative."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import nnbp
from nnbp.errors import GradientError
from nnbp.nn.losses import Loss


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Classes that a test defines leave the registry with it."""
    before = dict(Loss.registry)
    yield
    Loss.registry.clear()
    Loss.registry.update(before)


class LogCosh(Loss):
    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def cost(self, h: Any, y: Any) -> Any:
        r = np.abs(h - y)
        return r + np.log1p(np.exp(-2.0 * r)) - math.log(2.0)

    def dcost(self, h: Any, y: Any) -> Any:
        return self.factor * np.tanh(h - y)


def test_own_loss_trains() -> None:
    class Named(LogCosh):
        name = "log_cosh"

    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = X[:, 0] - 2 * X[:, 1]
    net = nnbp.Network([2, 1], loss="log_cosh", dtype="float64", device="cpu", seed=0)
    net.fit(X, y, epochs=300, learning_rate=0.05, batch_size=None, progress=False)
    np.testing.assert_allclose(net.weights[0], [[1, -2]], atol=1e-2)


def test_wrong_derivative_says_by_how_much() -> None:
    class Named(LogCosh):
        name = "wrong"

    with pytest.raises(GradientError, match=r"Named\(factor=1\.1\).*dcost\(h, y\).*relative error 0\.0\d+"):
        nnbp.Network([2, 1], loss=Named(1.1), device="cpu")


def test_loss_without_formula_says_what_to_define() -> None:
    class Empty(Loss):
        name = "empty"

    with pytest.raises(NotImplementedError, match=r"define cost\(self, h, y\)"):
        Empty().cost(0.0, 0.0)
    with pytest.raises(NotImplementedError, match=r"define cost\(self, h, y\)"):
        Empty().dcost(0.0, 0.0)
