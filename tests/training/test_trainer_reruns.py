"""Training runs: the same seed gives the same bits, and an epoch looks at the device once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from training_cases import decay_for

from nnbp import Dense, Dropout, Network, Optimizer


def network(*sizes: int, **options: Any) -> Network:
    options = {"activation": "tanh", "dtype": "float64", "device": "cpu", "seed": 1, **options}
    return Network(list(sizes or (3, 4, 2)), **options)


def data(m: int) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(m, 3)), rng.normal(size=(m, 2))


def fit(net: Network, X: Any, y: Any, **options: Any) -> Any:
    return net.fit(X, y, **{"epochs": 3, "progress": False, **options})


# One epoch, one look at the device.


def downloads(epochs: int, batch: int | None, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Counter[str]:
    net, count = network(), Counter[str]()
    backend = net.model.backend

    def counted(name: str, call: Any) -> Any:
        def counting(*arguments: Any) -> Any:
            count[name] += 1
            return call(*arguments)

        return counting

    for name in ("download", "synchronize", "upload"):
        monkeypatch.setattr(backend, name, counted(name, getattr(backend, name)))
    X, y = data(24)
    fit(net, X, y, epochs=epochs, batch_size=batch, **options)
    return count


def test_loss_is_read_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an epoch downloads and uploads does not grow with its steps."""
    with monkeypatch.context() as patch:
        counts = {(e, b): downloads(e, b, patch) for e in (2, 3) for b in (1, 8, 24)}
    an_epoch = {b: counts[3, b] - counts[2, b] for b in (1, 8, 24)}
    # The sum of the losses, and the norm of the parameters that shows whether all are finite.
    assert {b: count["download"] for b, count in an_epoch.items()} == {1: 2, 8: 2, 24: 2}
    assert an_epoch[1] == an_epoch[8]
    assert an_epoch[1]["upload"] <= 2
    assert an_epoch[1]["synchronize"] == 0


# The same run again.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", sorted(Optimizer.registry))
def test_same_seed_same_bits(optimizer: str, dtype: str) -> None:
    def run() -> tuple[bytes, list[float]]:
        rule = Optimizer.registry[optimizer]
        layers = [3, Dense(8, "gelu"), Dropout(0.3), Dense(4, "tanh"), Dropout(0.1), Dense(2)]
        if rule.squares_only:
            layers = [layer for layer in layers if not isinstance(layer, Dropout)]
        net = Network(layers, weight_decay=decay_for(optimizer, 1e-3), dtype=dtype, device="cpu", seed=5)
        X, y = data(50)
        clip = 1.0 if rule.clippable else None
        history = fit(net, X, y, optimizer=optimizer, batch_size=16, validation_split=0.2, clip_norm=clip)
        return net.parameters.tobytes(), history["loss"] + history["val_loss"]

    assert run() == run()


def test_other_seed_other_run() -> None:
    X, y = data(30)
    runs = []
    for seed in (1, 2):
        net = network(seed=seed)
        net.set_parameters([np.ones_like(W) for W in net.weights], [np.zeros_like(b) for b in net.biases])
        fit(net, X, y, batch_size=8)
        runs.append(net.parameters.copy())
    assert not np.array_equal(*runs)


def test_epochs_shuffle_anew() -> None:
    """Two calls of one epoch are one call of two: the order generator goes on, SGD remembers nothing."""
    X, y = data(30)
    one, two = network(), network()
    fit(one, X, y, epochs=2, batch_size=8, optimizer="sgd")
    for _ in range(2):
        fit(two, X, y, epochs=1, batch_size=8, optimizer="sgd")
    np.testing.assert_array_equal(one.parameters, two.parameters)
