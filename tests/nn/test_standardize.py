"""Standardize: mean and deviation of the inputs at the first fit, and what a network computes with them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelfile_samples import parts
from numpy.typing import NDArray
from strict_backend import StrictBackend

from nnbp import (
    DataError,
    Dense,
    Dropout,
    ModelFileError,
    Network,
    NnbpError,
    Standardize,
    check_gradients,
    compare_devices,
    textbook,
)
from nnbp.engine import model as model_module
from nnbp.serialization import model_file, safetensors_file

RNG = np.random.default_rng(0)
X = RNG.normal([5.0, -300.0, 0.01, 7.0], [2.0, 40.0, 1e-3, 0.0], (60, 4))
y = RNG.normal(size=60)


def network(*layers: Any, **options: Any) -> Network:
    layers = layers or (Standardize(), Dense(5, "tanh"), Dense(1))
    return Network(list(layers), **{"dtype": "float64", "device": "cpu", "seed": 1, **options})


def fitted(inputs: Any = X, targets: Any = y, **options: Any) -> Network:
    net = network(**options)
    net.fit(inputs, targets, epochs=2, batch_size=16, progress=False)
    return net


def standardised(inputs: NDArray[Any], of: NDArray[Any] = X) -> NDArray[np.float64]:
    mean, deviation = of.mean(axis=0), of.std(axis=0)
    constant = np.ptp(of, axis=0) == 0
    return np.where(constant, 0.0, (inputs - mean) / np.where(constant, 1.0, deviation))


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("device", ["cpu", "strict"])
def test_a_network_computes_on_inputs_of_mean_0_and_deviation_1(device: str, dtype: str, rtol: float) -> None:
    net = fitted(dtype=dtype, device="cpu" if device == "cpu" else StrictBackend())
    W, b = ([net.model.backend.download(array) for array in arrays] for arrays in (net.weights, net.biases))
    z, a = textbook.forward(standardised(X), W, b, [textbook.tanh, lambda z: z])
    trace = net.trace(X)
    np.testing.assert_allclose(net.forward(X), a[-1], rtol, rtol)
    np.testing.assert_allclose(trace.z[1], z[0], rtol, rtol)
    np.testing.assert_allclose(trace.a[0], X, rtol)


def test_training_is_that_of_a_network_without_it_on_standardised_inputs() -> None:
    net, other = network(), Network([4, 5, 1], activation="tanh", dtype="float64", device="cpu", seed=1)
    for each, inputs in ((net, X), (other, standardised(X))):
        each.fit(inputs, y, epochs=3, batch_size=7, optimizer="sgd", learning_rate=0.05, progress=False)
    np.testing.assert_allclose(net.parameters, other.parameters, 1e-11, 1e-13)


@pytest.mark.parametrize("block", [1, 40, 2**20])
@pytest.mark.parametrize("kind", ["host", "float32", "device", "memmap", "fortran"])
def test_statistics_of_inputs_of_every_kind(
    kind: str, block: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(model_module, "_BLOCK", block)
    backend, given = StrictBackend(), X
    if kind == "memmap":
        np.save(tmp_path / "X.npy", X)
        given = np.load(tmp_path / "X.npy", mmap_mode="r")
    elif kind != "host":
        given = {"float32": X.astype(np.float32), "fortran": np.asfortranarray(X), "device": None}[kind]
    with backend.active():
        inputs = backend.upload(X, np.float64) if kind == "device" else given
    net = network(device=backend)
    net.fit(inputs, y, epochs=1, progress=False)
    found = net.model.host_statistics()[0]
    values = X if given is None else np.asarray(given, np.float64)
    np.testing.assert_allclose(found["mean"], values.mean(axis=0), 1e-13)
    np.testing.assert_allclose(found["deviation"], values.std(axis=0), 1e-12, 1e-15)


@pytest.mark.parametrize("first", [0.0, 1e12])
@pytest.mark.parametrize("block", [64, 2**20])
def test_statistics_of_a_large_mean_and_a_small_deviation(
    first: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the first sample, from which distances are taken, lies far from all others."""
    monkeypatch.setattr(model_module, "_BLOCK", block)
    values = 1e8 + RNG.normal(size=(1000, 1))
    values[0] += first
    net = network()
    net.fit(values, np.zeros(1000), epochs=1, progress=False)
    exact = values.astype(np.longdouble)
    found = net.model.host_statistics()[0]
    np.testing.assert_allclose(found["mean"], exact.mean(axis=0).astype(float), 1e-15 if first == 0 else 1e-12)
    np.testing.assert_allclose(found["deviation"], exact.std(axis=0).astype(float), 1e-10)


def test_a_float32_network_subtracts_before_it_rounds() -> None:
    """Rounded to float32 first, 1e8 + N(0, 1) would be a multiple of 8."""
    noise = RNG.normal(size=(300, 2))
    nets = [fitted(offset + noise, noise[:, 0], dtype="float32") for offset in (0.0, 1e8)]
    plain, far = (net.trace(offset + noise) for net, offset in zip(nets, (0.0, 1e8), strict=True))
    np.testing.assert_allclose(far.z[1], plain.z[1], atol=1e-5)
    assert far.z[1].dtype == np.float32
    np.testing.assert_allclose(nets[1].predict(1e8 + noise), nets[0].predict(noise), atol=1e-5)
    np.testing.assert_allclose(nets[1].loss(1e8 + noise, noise[:, 0]), nets[0].loss(noise, noise[:, 0]), 1e-4)


def test_a_constant_feature_is_0_whatever_it_becomes_later() -> None:
    net = fitted(X + np.array([0, 0, 0, 0.1]))
    assert net.model.host_statistics()[0]["deviation"][3] == 0.0
    other = X + np.array([0, 0, 0, 1e6])
    np.testing.assert_array_equal(net.predict(other), net.predict(X))
    assert not net.gradients(other, y).dX[:, 3].any()
    # 0.1 + 0.2 and 0.3 differ by a rounding error.
    column = np.where(np.arange(60) % 2, 0.1 + 0.2, 0.3)
    assert np.ptp(column) > 0
    assert fitted(np.column_stack([X, column])).model.host_statistics()[0]["deviation"][4] == 0.0


def test_a_sample_of_weight_w_counts_like_w_samples() -> None:
    weights = np.arange(60) % 3
    weighted, repeated = network(), network()
    spoiled = np.where(weights[:, None] == 0, 1e9, X)
    weighted.fit(spoiled, y, sample_weight=weights, epochs=1, progress=False)
    repeated.fit(np.repeat(X, weights, axis=0), np.repeat(y, weights), epochs=1, progress=False)
    for name, values in repeated.model.host_statistics()[0].items():
        np.testing.assert_allclose(weighted.model.host_statistics()[0][name], values, 1e-12, 1e-15)


def test_the_statistics_are_those_of_the_training_data_of_the_first_fit() -> None:
    net = network()
    net.fit(X[:40], y[:40], validation_data=(X[40:] * 100, y[40:]), epochs=1, progress=False)
    net.fit(X * 50, y, epochs=1, progress=False)
    net.partial_fit(X * 70, y)
    np.testing.assert_allclose(net.model.host_statistics()[0]["mean"], X[:40].mean(axis=0), 1e-13)


def test_a_first_partial_fit_takes_those_of_its_samples() -> None:
    net = network()
    net.partial_fit(X[:20], y[:20]).partial_fit(X[20:40], y[20:40])
    np.testing.assert_allclose(net.model.host_statistics()[0]["mean"], X[:20].mean(axis=0), 1e-13)


def test_partial_fit_takes_inputs_of_another_dtype_as_they_are() -> None:
    even = 2.0**24 + 2 * RNG.integers(-9, 9, (60, 4))
    net = network(dtype="float32")
    net.partial_fit(even.astype(np.float32), y)
    twin = net.copy()
    for each in (net, twin):
        each.partial_fit(even + 0.5, y)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


@pytest.mark.parametrize("sizes", [(), (4,)])
@pytest.mark.parametrize(
    "use",
    [
        lambda net: net.predict(X), lambda net: net.forward(X), lambda net: net.trace(X), lambda net: net.loss(X, y),
        lambda net: net.gradients(X, y), lambda net: net.evaluate(X, y), lambda net: net.per_sample_gradients(X, y),
    ],
)  # fmt: skip
def test_before_a_fit_the_statistics_are_unknown(sizes: tuple[int, ...], use: Callable[[Network], Any]) -> None:
    net = network(*sizes, Standardize(), Dense(3), Dense(1))
    with pytest.raises(NnbpError, match=r"mean and deviation of its inputs .* first fit.* Call fit\(X, y\) first"):
        use(net)
    net.fit(X, y, epochs=1, progress=False)
    use(net)


def test_a_failed_prediction_does_not_decide_the_number_of_inputs() -> None:
    net = network()
    with pytest.raises(NnbpError, match="first fit"):
        net.predict(X)
    net.fit(X[:, :2], y, epochs=1, progress=False)


def test_a_network_that_was_not_fitted_is_copied_but_not_saved(tmp_path: Path) -> None:
    net = network(4, Standardize(), Dense(1))
    for twin in (net, net.copy(), net.copy(dtype="float32"), pickle.loads(pickle.dumps(net)), net.to(StrictBackend())):
        with pytest.raises(NnbpError, match="first fit"):
            twin.predict(X)
        with pytest.raises(NnbpError, match="first fit"):
            twin.save(tmp_path / "net.nnbp")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sizes", [(), (4,)])
def test_a_fit_that_fails_leaves_them_unknown(sizes: tuple[int, ...]) -> None:
    def broken(truth: Any, values: Any) -> float:
        raise RuntimeError("the metric")

    net = network(*sizes, Standardize(), Dense(1))
    with pytest.raises(RuntimeError, match="the metric"):
        net.fit(X * 9, y, metrics=[broken], progress=False)
    with pytest.raises(NnbpError, match="first fit"):
        net.predict(X)
    net.fit(X, y, epochs=1, progress=False)
    np.testing.assert_allclose(net.model.host_statistics()[0]["mean"], X.mean(axis=0), 1e-13)


@pytest.mark.parametrize(
    ("inputs", "received"), [(np.full((5, 2), 3.0), "from 0.0 to 0.0"), (np.array([[1e200], [-1e200]]), "nan|inf")]
)
def test_inputs_without_a_usable_deviation_are_refused(inputs: NDArray[Any], received: str) -> None:
    net = network()
    with pytest.raises(DataError, match=rf"deviation of each feature, which is finite.*received.*({received})"):
        net.partial_fit(inputs, np.zeros(len(inputs)))
    net.fit(X, y, epochs=1, progress=False)


def test_it_is_the_first_layer() -> None:
    for layers in ([4, Dense(3), Standardize(), Dense(1)], [Dropout(0.1), Standardize(), Dense(1)]):
        with pytest.raises(
            ValueError, match=r"Standardize\(\) is for the inputs .* received it after D.* to the front"
        ):
            Network(layers, device="cpu")
    assert [layer.kind for layer in network(4, Standardize(), 3, 1).layers] == ["standardize", "dense", "dense"]


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-9, 0.0), (1.0, 1e8), (1e12, 0.0)])
def test_gradients_of_features_of_any_size_are_right(scale: float, offset: float) -> None:
    inputs = RNG.normal(size=(20, 3)) * scale + offset
    report = check_gradients(fitted(inputs, y[:20], dtype="float32"), inputs[:6], y[:6])
    assert report.passed, str(report)


def test_gradients_pass_through_it() -> None:
    plain = Network([4, 5, 1], activation="tanh", dtype="float64", device="cpu")
    net = fitted()
    plain.parameters[...] = net.parameters
    inputs, deviation = standardised(X), X.std(axis=0)
    found, expected = net.gradients(X, y), plain.gradients(inputs, y)
    np.testing.assert_allclose(found.flat, expected.flat, 1e-10, 1e-13)
    np.testing.assert_allclose(found.dX[:, :3], expected.dX[:, :3] / deviation[:3], 1e-10)
    np.testing.assert_allclose(net.per_sample_gradients(X, y), plain.per_sample_gradients(inputs, y), 1e-10, 1e-13)


def test_checks_of_a_network_before_its_first_fit_take_the_statistics_of_their_data() -> None:
    net = network(4, Standardize(), Dense(3, "tanh"), Dropout(0.5), Dense(1), dtype="float32")
    assert check_gradients(net, X, y).passed
    report = compare_devices(net, X, y, devices=("cpu", StrictBackend()))
    assert report.passed, str(report)
    with pytest.raises(NnbpError, match="first fit"):
        net.predict(X)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_copies_and_files_hold_the_statistics(dtype: str, tmp_path: Path) -> None:
    net = fitted(dtype=dtype)
    net.save(tmp_path / "net.nnbp")
    _, _, body = parts((tmp_path / "net.nnbp").read_bytes())
    assert len(body) == 2 * 4 * 8 + 31 * np.dtype(dtype).itemsize
    loaded = Network.load(tmp_path / "net.nnbp", device="cpu")
    expected = net.predict(X)
    for twin in (loaded, net.copy(), pickle.loads(pickle.dumps(net)), net.copy(device=StrictBackend())):
        np.testing.assert_array_equal(twin.predict(X), expected)
    assert loaded.layers[0] == Standardize()
    np.testing.assert_allclose(net.copy(dtype="float64").predict(X), expected, 1e-5)
    # A copy has statistics of its own, and a network that is loaded keeps those of its file.
    loaded.fit(X * 7, y, epochs=1, progress=False)
    np.testing.assert_array_equal(loaded.model.host_statistics()[0]["mean"], net.model.host_statistics()[0]["mean"])


@pytest.mark.parametrize(
    ("name", "values", "rule"),
    [
        ("mean0", [0.0, np.nan, 0.0, 0.0], "finite"),
        ("deviation0", [1.0, np.inf, 1.0, 1.0], "finite"),
        ("deviation0", [1.0, -1.0, 1.0, 1.0], "deviation of each feature, .* at least 0"),
        ("deviation0", [0.0, 0.0, 0.0, 0.0], "above 0 for one feature"),
        ("deviation0", [1.0, 1.0], "shape"),
        ("mean0", np.zeros(4, np.float32), "float64|F64"),
        ("mean0", None, "missing: .*mean0"),
    ],
)
def test_files_with_bad_statistics_are_refused(
    name: str, values: Any, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.nnbp"
    fitted().save(path)
    file = model_file.read(path)
    file.arrays[name] = np.array(values)
    if values is None:
        del file.arrays[name]
    with pytest.raises(ModelFileError, match=rule):
        model_file.write(path, file)
    # The same in a file that another program has written.
    with monkeypatch.context() as patch:
        patch.setattr(model_file, "_check_values", lambda arrays, layers, architecture: None)
        patch.setattr(model_file, "check_names", lambda received, expected: None)
        patch.setattr(model_file, "_specs", lambda layers, architecture: {
            name: safetensors_file.ArraySpec(array.shape, array.dtype.name) for name, array in file.arrays.items()
        })  # fmt: skip
        model_file.write(path, file)
    with pytest.raises(ModelFileError, match=rule):
        Network.load(path, device="cpu")


def test_the_summary_names_it() -> None:
    lines = [line.split() for line in fitted().summary().splitlines()]
    assert lines[2] == ["standardize", "4"]


@pytest.mark.parametrize("device", ["cpu", "strict"])
def test_lists_are_standardised_before_they_are_rounded(device: str) -> None:
    large = X + 1e8
    nets = [network(dtype="float32", device="cpu" if device == "cpu" else StrictBackend()) for _ in range(2)]
    for net, inputs in zip(nets, (large, large.tolist()), strict=True):
        net.fit(inputs, y, epochs=2, progress=False)
    np.testing.assert_array_equal(nets[0].forward(large), nets[1].forward(large.tolist()))
