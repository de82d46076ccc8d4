"""OneHot: categories that stay indices until a batch is made."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strict_backend import StrictBackend

from nnbp import Dense, Network, ShapeError, Standardize, check_gradients
from nnbp.nn.layers import OneHot

RNG = np.random.default_rng(0)
CATEGORIES = [0, 3, 0, 0, 2, 1]
CODES = np.column_stack(
    [
        RNG.normal(size=60),
        RNG.integers(-1, 4, 60),
        RNG.normal(size=60),
        RNG.normal(size=60),
        RNG.integers(0, 2, 60),
        np.zeros(60),
    ]
)
y = RNG.normal(size=60)


def wide(X: NDArray[Any], categories: list[int]) -> NDArray[np.float64]:
    parts = [np.equal(x[:, None], np.arange(k)) if k else x[:, None] for x, k in zip(X.T, categories, strict=True)]
    return np.hstack(parts).astype(np.float64)


def networks(device: Any = "cpu", **options: Any) -> tuple[Network, Network]:
    """A network that takes indices, and one that takes a column for each category; both have the same weights."""
    rest = [Dense(7, "tanh"), Dense(1)]
    options = {"dtype": "float64", "device": device, "seed": 3, **options}
    return Network([6, OneHot(CATEGORIES), *rest], **options), Network([9, *rest], **options)


@pytest.mark.parametrize("device", ["cpu", "strict", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_network_computes_what_it_does_on_a_column_for_each_category(device: str) -> None:
    narrow, dense = networks(StrictBackend() if device == "strict" else device)
    options: dict[str, Any] = {"epochs": 3, "batch_size": 16, "progress": False, "validation_split": 0.2}
    histories = narrow.fit(CODES, y, **options), dense.fit(wide(CODES, CATEGORIES), y, **options)
    np.testing.assert_allclose(histories[0]["val_loss"], histories[1]["val_loss"], 1e-12)
    np.testing.assert_allclose(*(net.model.backend.download(net.parameters) for net in (narrow, dense)), 1e-10, 1e-12)
    np.testing.assert_allclose(narrow.forward(CODES), dense.forward(wide(CODES, CATEGORIES)), 1e-10)


def test_the_derivative_by_a_category_is_0() -> None:
    narrow, dense = networks()
    by_index, by_column = narrow.gradients(CODES, y), dense.gradients(wide(CODES, CATEGORIES), y)
    np.testing.assert_allclose(by_index.dW[0], by_column.dW[0], 1e-12, 1e-15)
    np.testing.assert_allclose(by_index.dX[:, [0, 2, 3]], by_column.dX[:, [0, 4, 5]], 1e-12)
    assert not by_index.dX[:, [1, 4, 5]].any()
    assert check_gradients(narrow, CODES, y).passed


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(1, 5), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_any_mixture_of_quantities_and_categories(categories: list[int], samples: int, seed: int) -> None:
    X = np.random.default_rng(seed).integers(-1, 6, (samples, len(categories))).astype(float)
    net = Network([len(categories), OneHot(categories), Dense(2)], device="cpu", dtype="float64")
    np.testing.assert_allclose(net.forward(X), wide(X, categories) @ net.weights[0].T + net.biases[0], 1e-12, 1e-12)


def test_it_is_part_of_the_model_file_and_of_copies(tmp_path: Path) -> None:
    net = Network([6, OneHot(CATEGORIES), 4, 1], device="cpu", seed=0)
    net.save(tmp_path / "m")
    for again in (Network.load(tmp_path / "m", device="cpu"), pickle.loads(pickle.dumps(net)), net.copy()):
        np.testing.assert_array_equal(again.forward(CODES), net.forward(CODES))
    assert "OneHot" in net.summary() or "one_hot" in net.summary()


def test_it_may_follow_a_layer_that_keeps_the_categories() -> None:
    net = Network([Standardize(), OneHot([0, 0]), Dense(1)], device="cpu", seed=0)
    net.fit(CODES[:, [0, 2]], y, epochs=1, progress=False)
    assert np.isfinite(net.gradients(CODES[:, [0, 2]], y).dX).all()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ShapeError, match="received 6 numbers for 5 inputs"):
        Network([5, OneHot(CATEGORIES), 1], device="cpu")
    for wrong in (3, "abc", [1.5], [-1], [None]):
        with pytest.raises((TypeError, ValueError), match=r"OneHot|categories"):
            OneHot(wrong)  # type: ignore[arg-type]
