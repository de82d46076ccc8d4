"""BatchNorm and LayerNorm: values, gradients, and what becomes of the running mean and variance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strict_backend import StrictBackend

import nnbp
from nnbp import BatchNorm, Checkpoint, Dense, Dropout, LayerNorm, Network, check_gradients

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, size=(70, 4))
Y = RNG.integers(0, 3, 70)
LAYERS = [BatchNorm, LayerNorm]
OPTIONS: dict[str, Any] = {"epochs": 3, "batch_size": 32, "optimizer": "adam", "learning_rate": 0.01, "progress": False}


def network(kind: Any, activation: str = "tanh", **options: Any) -> Network:
    layers = [4, Dense(5, "identity"), kind(activation), Dropout(0.2), Dense(6, "tanh"), kind(), Dense(3)]
    return Network(layers, **{"loss": "cross_entropy", "dtype": "float64", "device": "cpu", "seed": 1, **options})


def everything(net: Network) -> bytes:
    """All that a network has learnt, as a model file would hold it."""
    values: bytes = np.asarray(net.model.parameters.values).tobytes()
    return values


# ---- values


@given(st.integers(1, 9), st.integers(2, 40), st.floats(-1e3, 1e3), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_layer_norm_of_each_sample(n: int, m: int, center: float, seed: int) -> None:
    x = np.random.default_rng(seed).normal(center, 2.0, size=(m, n))
    net = Network([n, LayerNorm(epsilon=1e-3), Dense(2)], dtype="float64", device="cpu", seed=0)
    x_hat = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-3)
    expected = x_hat @ np.array(net.weights[0]).T + np.array(net.biases[0])
    np.testing.assert_allclose(net.forward(x), expected, rtol=1e-9, atol=1e-9)


def test_a_large_mean_takes_no_digits() -> None:
    x = RNG.normal(size=(20, 64))
    net = Network([64, LayerNorm(), Dense(3)], device="cpu", seed=0)
    moved = net.forward((x + 4096).astype(np.float32))
    np.testing.assert_allclose(moved, net.forward(x.astype(np.float32)), atol=2e-3)


def test_before_training_batch_norm_only_divides() -> None:
    net = Network([4, BatchNorm(epsilon=1e-5), Dense(2)], dtype="float64", device="cpu", seed=0)
    expected = X / np.sqrt(1 + 1e-5) @ np.array(net.weights[0]).T
    np.testing.assert_allclose(net.forward(X), expected, rtol=1e-12)


def arrays_of(module: Any) -> list[NDArray[Any]]:
    """W, b, gamma, beta, mean and variance of each module, in the order of a network's."""
    found = []
    for own in module:
        names = ["weight", "bias", "running_mean", "running_var"]
        found += [getattr(own, name).detach().numpy() for name in names if getattr(own, name, None) is not None]
    return found


@pytest.mark.parametrize("kind", LAYERS)
def test_training_is_that_of_pytorch(kind: Any) -> None:
    """Values, gradients and running statistics over steps of gradient descent, with a smaller last batch."""
    torch = pytest.importorskip("torch")
    from nnbp.torch import to_module

    layers = [4, Dense(5, "identity"), kind("tanh"), Dense(6, "tanh"), kind(), Dense(3)]
    net = Network(layers, loss="cross_entropy", dtype="float64", device="cpu", seed=1)
    twin = to_module(net).train()[:-1]
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    net.fit(X, Y, epochs=5, batch_size=32, optimizer="sgd", learning_rate=0.1, shuffle=False, progress=False)
    for _ in range(5):
        for first in range(0, len(X), 32):
            optimizer.zero_grad()
            h = twin(torch.tensor(X[first : first + 32]))
            torch.nn.functional.cross_entropy(h, torch.tensor(Y[first : first + 32])).backward()
            optimizer.step()
    views = net.model.parameters.views(net.model.parameters.values)
    ours = [np.array(array) for own in views for array in own.values()]
    for mine, theirs in zip(ours, arrays_of(twin), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-12)
    twin.eval()
    logits = twin(torch.tensor(X))
    expected = torch.softmax(logits, 1).detach().numpy()
    np.testing.assert_allclose(net.predict_proba(X), expected, rtol=1e-10, atol=1e-12)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(Y))
    loss.backward()
    assert net.loss(X, Y) == pytest.approx(loss.item(), rel=1e-12)


# ---- gradients


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("activation", ["identity", "gelu", "relu"])
def test_gradients_are_those_of_differences(kind: Any, activation: str) -> None:
    net = network(kind, activation)
    net.fit(X, Y, **OPTIONS)
    report = check_gradients(net, X[:9], Y[:9])
    assert report.passed, str(report)
    each = net.per_sample_gradients(X, Y)
    np.testing.assert_allclose(np.mean(each, axis=0), net.gradients(X, Y).flat, atol=1e-12)


def test_the_gradient_in_training_is_that_of_differences() -> None:
    """One step of gradient descent against central differences of J as a batch sees it."""
    net = Network([4, BatchNorm(), Dense(2)], dtype="float64", device="cpu", seed=2)
    y = RNG.normal(size=(70, 2))
    before = np.array(net.parameters)
    names = net.model.parameters.slices
    W, b = names[1]["W"], names[1]["b"]
    gamma, beta = names[0]["gamma"], names[0]["beta"]

    def J(theta: NDArray[Any]) -> float:
        x_hat = (X - X.mean(axis=0)) / np.sqrt(X.var(axis=0) + 1e-5)
        h = (theta[gamma] * x_hat + theta[beta]) @ theta[W].reshape(2, 4).T + theta[b]
        return float(0.5 * ((h - y) ** 2).sum(axis=1).mean())

    net.fit(X, y, epochs=1, batch_size=None, optimizer="sgd", learning_rate=0.5, progress=False)
    step = (before - np.array(net.parameters)) / 0.5
    shift = 1e-5 * np.eye(len(before))
    numeric = [(J(before + s) - J(before - s)) / 2e-5 for s in shift]
    np.testing.assert_allclose(step, numeric, atol=1e-8)


# ---- what training keeps


def test_the_running_statistics_are_those_of_the_best_epoch() -> None:
    net = network(BatchNorm)
    history = net.fit(X, Y, **{**OPTIONS, "epochs": 12, "learning_rate": 0.1}, validation_data=(X[:30] + 1, Y[:30]))
    assert history.best_epoch is not None
    assert net.loss(X[:30] + 1, Y[:30]) == pytest.approx(min(history["val_loss"]), rel=1e-12)


def test_a_fit_that_diverges_or_is_interrupted_restores_them() -> None:
    net = network(BatchNorm)
    before = everything(net)
    with pytest.raises(nnbp.DivergenceError), np.errstate(all="ignore"):
        net.fit(np.array(X) * 1e300, Y, **OPTIONS)
    assert everything(net) == before
    states = []

    class Interrupting(nnbp.Callback):
        def on_epoch_end(self, state: nnbp.TrainingState) -> None:
            states.append(everything(net))
            if state.epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        net.fit(X, Y, **OPTIONS, callbacks=[Interrupting()])
    assert everything(net) == states[-1] != states[0] != before


def test_files_copies_and_other_dtypes_have_them(tmp_path: Path) -> None:
    net = network(BatchNorm, "relu")
    net.fit(X, Y, **OPTIONS)
    net.save(tmp_path / "model")
    loaded = Network.load(tmp_path / "model", device="cpu")
    assert loaded.layers == net.layers
    for other in (loaded, net.copy()):
        assert everything(other) == everything(net)
        np.testing.assert_array_equal(other.predict_proba(X), net.predict_proba(X))
    np.testing.assert_allclose(net.copy(dtype="float32").predict_proba(X), net.predict_proba(X), atol=1e-5)
    for other in (loaded, net):
        other.fit(X, Y, **OPTIONS)
    assert everything(loaded) == everything(net)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("device", ["cpu", "strict"])
def test_resumed_training_ends_in_the_same_bytes(tmp_path: Path, optimizer: str, device: str) -> None:
    options = {**OPTIONS, "optimizer": optimizer, "learning_rate": None, "validation_split": 0.2}

    def made() -> Network:
        return network(BatchNorm, device=StrictBackend() if device == "strict" else "cpu")

    def values(net: Network) -> bytes:
        return bytes(net._backend.download(net.model.parameters.values).tobytes())

    whole = made()
    whole.fit(X, Y, **{**options, "epochs": 6})
    begun = made()

    class Stopping(nnbp.Callback):
        def on_epoch_end(self, state: nnbp.TrainingState) -> None:
            if state.epoch == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begun.fit(X, Y, **{**options, "epochs": 6}, checkpoint=Checkpoint(tmp_path), callbacks=[Stopping()])
    resumed = made()
    resumed.fit(X, Y, **{**options, "epochs": 6}, checkpoint=Checkpoint(tmp_path), resume=True)
    assert values(resumed) == values(whole)


def test_networks_side_by_side_have_the_bits_of_one_after_the_other() -> None:
    networks, others = ([network(BatchNorm, seed=seed) for seed in range(3)] for _ in range(2))
    nnbp.fit_many(networks, X, Y, **OPTIONS)
    for one, other in zip(networks, others, strict=True):
        other.fit(X, Y, **OPTIONS)
        assert everything(one) == everything(other)


# ---- batches of one sample


def test_batches_of_one_sample_are_refused() -> None:
    net = network(BatchNorm)
    for train in (lambda: net.fit(X, Y, **{**OPTIONS, "batch_size": 1}), lambda: net.partial_fit(X[:1], Y[:1])):
        with pytest.raises(ValueError, match=r"a batch has at least 2; received batches of 1\. Give more samples"):
            train()
    network(LayerNorm).fit(X, Y, **{**OPTIONS, "batch_size": 1})


def test_a_rest_of_one_sample_leaves_the_running_statistics() -> None:
    net = Network([4, BatchNorm(momentum=1.0), Dense(3)], loss="cross_entropy", dtype="float64", device="cpu", seed=0)
    net.fit(X[:33], Y[:33], **{**OPTIONS, "shuffle": False, "epochs": 1})
    running = net.model.parameters.views(net.model.parameters.values)[0]
    np.testing.assert_allclose(running["mean"], X[:32].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(running["variance"], X[:32].var(axis=0, ddof=1), rtol=1e-12)


@pytest.mark.parametrize("arguments", [{"epsilon": 0.0}, {"momentum": 0.0}, {"momentum": 1.5}])
def test_arguments_out_of_range(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="of BatchNorm"):
        BatchNorm(**arguments)


def test_a_summary_counts_what_is_learnt() -> None:
    lines = Network([4, BatchNorm(), Dense(3)], device="cpu", seed=0).summary().splitlines()
    assert [line.split()[-1] for line in lines[-3:-1]] == ["8", "15"]
    assert lines[-1].startswith("23 parameters")


# ---- searches


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{}, {"validation_split": 0.3}])
def test_a_search_leaves_the_statistics_of_its_data_where_it_has_ended(seed: int, options: Any) -> None:
    """Points that a line search has tried and left do not move them."""
    layers = [4, Dense(5, "identity"), BatchNorm("tanh"), Dense(3)]
    net = Network(layers, loss="cross_entropy", dtype="float64", device="cpu", seed=seed)
    seen: list[NDArray[Any]] = []

    def keep(state: nnbp.TrainingState) -> None:
        seen.append(np.array(state.network.model.parameters.values))

    history = net.fit(X, Y, optimizer="lbfgs", epochs=10, progress=False, callbacks=[keep], **options)
    running = net.model.parameters.views(net.model.parameters.values)[1]
    if not options:
        z = X @ np.array(net.weights[0]).T + np.array(net.biases[0])
        np.testing.assert_allclose(running["mean"], z.mean(axis=0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(running["variance"], z.var(axis=0), rtol=1e-9)
        assert net.loss(X, Y) <= (1 + 1e-9) * min(history["loss"])
    else:
        assert net.history is not None
        best = min(range(len(seen)), key=history["val_loss"].__getitem__)
        assert everything(net) == seen[best].tobytes()


# ---- files


def test_a_file_with_a_negative_variance_is_refused(tmp_path: Path) -> None:
    net = network(BatchNorm)
    net.model.parameters.views(net.model.parameters.values)[1]["variance"][0] = -1.0
    with pytest.raises(nnbp.ModelFileError, match=r"running variance of BatchNorm is at least 0; received -1"):
        net.save(tmp_path / "model")
