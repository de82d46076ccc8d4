"""The walk in the terminal has the numbers of the network, in the order of the algorithm."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import nnbp
from nnbp import Loss
from nnbp.explorer.explanation import explained
from nnbp.explorer.text import walk
from nnbp.testing import example_problem


def numbers_after(text: str, name: str) -> float:
    found = re.search(rf"^ *{re.escape(name)} .*?(\S+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def test_the_walk_has_z_a_delta_and_the_gradient_of_every_unit() -> None:
    net, X, y = example_problem(
        [3, 4, 2], activation="sigmoid", output_activation="sigmoid", weight_decay=0.1, dtype="float64", device="cpu"
    )
    text = walk(explained(net, X, y), sample=2)
    trace, gradients = net.trace(X), net.gradients(X, y)
    for l, first, last in ((1, 4, ""), (2, 8, "")):
        for i in range(trace.a[l].shape[1]):
            unit = first + i
            assert numbers_after(text, f"z{unit}") == pytest.approx(trace.z[l][2, i], rel=1e-3)
            assert numbers_after(text, f"a{unit} = f(z{unit})") == pytest.approx(trace.a[l][2, i], rel=1e-3), last
            assert numbers_after(text, f"delta{unit}") == pytest.approx(gradients.delta[l - 1][2, i], rel=1e-3)
    assert f"{net.loss(X, y):.4g} → " in text
    parts = ["Input", "Forward", "Cost", "Backward", "Gradient", "Batch", "Update"]
    assert [line for line in text.splitlines() if line in parts] == parts
    error = re.search(r"central differences agree to (\S+)", text)
    assert error is not None
    assert float(error[1]) < 1e-9


def test_the_step_lowers_J() -> None:
    net, X, y = example_problem([3, 4, 2], activation="tanh", dtype="float64", device="cpu")
    found = re.search(r"J before and after: (\S+) → (\S+)", walk(explained(net, X, y), learning_rate=0.01))
    assert found is not None
    assert float(found[2]) < float(found[1])


@pytest.mark.parametrize("loss", Loss.built_in())
def test_every_loss_can_be_walked(loss: str) -> None:
    text = walk(explained(*example_problem([3, 5, 2], activation="tanh", loss=loss, device="cpu")), language="zh")
    assert "中心差分" in text
    assert "nan" not in text


def test_large_layers_are_shortened() -> None:
    text = walk(explained(*example_problem([40, 30, 12], activation="tanh", loss="cross_entropy", device="cpu")))
    assert "32 more terms" in text
    assert "22 more units" in text
    assert len(text.splitlines()) < 500


def test_normalization_can_be_walked() -> None:
    layers: Any = [nnbp.Dense(3, "identity"), nnbp.LayerNorm("relu"), nnbp.Dense(2)]
    net = nnbp.Network([4, *layers], device="cpu", seed=0)
    X = np.random.default_rng(0).normal(size=(3, 4))
    text = walk(explained(net, X, np.zeros((3, 2))))
    assert "layer_norm: x̂ = " in text
