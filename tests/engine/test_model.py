"""The model: its sizes and parameters, the two sums of all of them, and what its seed decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nnbp.backends.cpu.backend import NumpyBackend

from nnbp import Dense, Dropout, Network
from nnbp.engine.model import Model
from nnbp.graph.ops import Uniform
from nnbp.nn.layers import Layer
from nnbp.nn.losses import SquaredError


def model(*layers: Layer, **options: Any) -> Model:
    options = {"n_in": 3, "weight_decay": 0.0, "dtype": "float64", "seed": 0, **options}
    loss = options.pop("loss", SquaredError())
    return Model(NumpyBackend(), layers or (Dense(4, "tanh"), Dense(2, "identity")), loss, **options)


def test_sizes_go_through_the_layers() -> None:
    made = model(Dropout(0.1), Dense(5, "relu"), Dropout(0.5), Dense(2, "identity"))
    assert made.sizes == [3, 3, 5, 5, 2]
    assert (made.n_out, made.dense) == (2, [1, 3])
    assert made.parameters.size == 3 * 5 + 5 * 2 + 5 + 2


def test_decay_and_norm() -> None:
    made = model(weight_decay=0.3)
    views = made.parameters.views(made.parameters.theta)
    for k, view in enumerate(views):
        view["b"][...] = 5.0 + k
    squares = sum((view["W"] ** 2).sum() for view in views)
    assert made.decay() == pytest.approx(0.15 * squares, rel=1e-14)
    assert made.norm() == pytest.approx(np.linalg.norm(made.parameters.theta), rel=1e-14)
    assert model().decay() == 0.0
    made.parameters.theta[-1] = np.nan
    assert np.isnan(made.norm())
    made.parameters.theta[-1] = 1e200
    with made.backend.active():
        assert made.norm() == np.inf


# The seed.


def test_seed_decides_the_weights() -> None:
    first, same, other = model(seed=3), model(seed=3), model(seed=4)
    np.testing.assert_array_equal(first.parameters.theta, same.parameters.theta)
    assert not np.array_equal(first.parameters.theta, other.parameters.theta)


def test_float32_weights_are_the_rounded_float64_ones() -> None:
    single, double = model(dtype="float32"), model()
    np.testing.assert_array_equal(single.parameters.theta, double.parameters.theta.astype(np.float32))


def test_dropout_layers_have_streams_of_their_own() -> None:
    made = model(Dropout(0.5), Dense(4, "tanh"), Dropout(0.5), Dense(2, "identity"))
    streams = [stream for stream in made.streams if stream is not None]
    assert len(streams) == 2
    drawn = []
    for stream in streams:
        out = np.empty((2, 8), np.float32)
        made.backend.compile([Uniform(stream, out)])()
        drawn.append(out)
    assert not np.array_equal(*drawn)


def test_network_and_model_see_the_same_parameters() -> None:
    net = Network([3, 4, 2], device="cpu", seed=0)
    net.weights[0][...] = 7
    assert (net.model.parameters.theta[:12] == 7).all()
