"""Data that stay on the host: the same results, bit for bit, as of data that are on the device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated_cupy import Memory, emulated_backend_class
from kernel_samples import needs_compiler
from numpy.typing import NDArray
from strict_backend import StrictArray, StrictBackend

from nnbp import DataError, Dense, Dropout, DTypeError, EarlyStopping, Network, Standardize, fit_many, validation
from nnbp.engine import passes
from nnbp.graph.backend import Backend, Streaming, backend_class
from nnbp.training import data_adapter


class Hidden:
    """A transfer whose host arrays hold nothing any more when they have been sent."""

    def __init__(self, backend: Small, rows: int, columns: Sequence[int], dtypes: Sequence[Any]) -> None:
        self.backend, self.half = backend, 0
        arrays = list(zip(columns, dtypes, strict=True))
        self.windows = [backend.empty((2 * rows, n), dtype) for n, dtype in arrays]
        self.staging = [np.full((rows, n), np.nan, dtype) for n, dtype in arrays]

    def rows(self) -> list[NDArray[Any]]:
        return self.staging

    def send(self, samples: int) -> int:
        half, rows = self.half, len(self.staging[0])
        for window, host in zip(self.windows, self.staging, strict=True):
            window[half * rows : half * rows + samples] = self.backend.upload(host[:samples], host.dtype)
            host.fill(np.nan)
        self.half = 1 - half
        self.backend.sent += 1
        return half


class Watched(StrictBackend):
    """A device without members for streaming.

    Attributes:
        largest: bytes of the largest array of numbers that was uploaded.
    """

    largest = 0

    def upload(self, host: NDArray[Any], dtype: Any) -> StrictArray:
        if np.dtype(dtype).kind == "f":
            self.largest = max(self.largest, np.asarray(host, dtype).nbytes)
        return super().upload(host, dtype)


class Small(Watched):
    """A device of so many free bytes.

    Attributes:
        sent: batches that were streamed.
    """

    def __init__(self, free: int = 0) -> None:
        super().__init__()
        self.free, self.sent = free, 0

    def memory(self) -> tuple[int, int]:
        return self.free, 2**20

    def transfer(self, rows: int, columns: Sequence[int], dtypes: Sequence[Any]) -> Hidden:
        return Hidden(self, rows, columns, dtypes)


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small data sets are asked about, too, and go through inference executors piece by piece."""
    monkeypatch.setattr(data_adapter, "_SMALL", 0)
    monkeypatch.setattr(validation, "_BLOCK_ON_HOST", 40)
    monkeypatch.setattr(passes, "PIECE", 200)


def network(backend: Any, **options: Any) -> Network:
    layers = [6, Dense(7, "tanh"), Dropout(0.3), Dense(3)]
    return Network(layers, **{"loss": "cross_entropy", "weight_decay": 1e-3, "device": backend, "seed": 3, **options})


def data(m: int = 61, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, 6)).astype(np.float32), rng.integers(0, 3, m)


X, y = data()
W = np.random.default_rng(5).uniform(0, 2, len(X))

FITS: dict[str, dict[str, Any]] = {
    "shuffled, a smaller last batch": {"batch_size": 8},
    "batches that divide the data": {"batch_size": 1},
    "not shuffled": {"batch_size": 16, "shuffle": False},
    "weights": {"batch_size": 10, "sample_weight": W},
    "weights of classes": {"batch_size": 10, "class_weight": "balanced", "clip_norm": 0.1},
    "validation data": {"batch_size": 8, "validation_data": data(47, 9), "metrics": ["accuracy"]},
    "a share for validation": {"batch_size": 8, "validation_split": 0.4, "sample_weight": W, "optimizer": "sgd"},
    "early stopping": {
        "batch_size": 8, "validation_data": data(40, 9), "early_stopping": EarlyStopping(patience=1), "epochs": 30,
        "learning_rate": 0.1,
    },
    "the whole data set": {"batch_size": None},
    "lbfgs": {"optimizer": "lbfgs"},
    "a batch larger than the data": {"batch_size": 100},
    "metrics": {"batch_size": 8, "metrics": ["accuracy", "log_loss"], "schedule": "cosine"},
}  # fmt: skip
WHOLE = {"the whole data set", "lbfgs", "a batch larger than the data"}


def fitted(backend: Backend, options: dict[str, Any], **network_options: Any) -> tuple[Network, Any]:
    net = network(backend, **network_options)
    return net, net.fit(X, y, **{"epochs": 3, "progress": False, **options})


@pytest.mark.filterwarnings("ignore::nnbp.ConvergenceWarning")
@pytest.mark.parametrize("name", FITS)
def test_training_is_that_of_data_on_the_device(name: str) -> None:
    small = Small()
    (here, streamed), (there, resident) = fitted(small, FITS[name]), fitted(StrictBackend(), FITS[name])
    assert dict(streamed) == dict(resident)
    assert streamed.best_epoch == resident.best_epoch
    np.testing.assert_array_equal(here.parameters.get(), there.parameters.get())
    if name not in WHOLE:
        assert small.sent
        assert small.largest < X.nbytes, "no data set was uploaded as a whole"


@pytest.mark.filterwarnings("ignore::nnbp.ConvergenceWarning")
@pytest.mark.parametrize("backend", [Watched, lambda: Small(2**20)], ids=["host", "device"])
@pytest.mark.parametrize("name", FITS)
def test_sparse_data_train_as_dense_data_and_are_dense_batch_by_batch(name: str, backend: Any) -> None:
    scipy = pytest.importorskip("scipy.sparse")
    dense = np.where(X > 0, X, 0)
    options = {**FITS[name], "epochs": 3, "progress": False}
    held_out = options.pop("validation_data", None)
    watched, results = backend(), []
    for device, form in ((watched, scipy.csc_array), (StrictBackend(), np.asarray)):
        own = {} if held_out is None else {"validation_data": (form(held_out[0]), held_out[1])}
        net = network(device)
        history = net.fit(form(dense), y, **options, **own)
        outputs = [net.forward(form(dense)), net.predict(form(dense)), net.evaluate(form(dense), y, sample_weight=W)]
        if name not in WHOLE and device is watched:
            assert watched.largest < X.nbytes, "no data set was made dense as a whole"
        gradients = net.gradients(form(dense), y).flat
        results.append([dict(history), net.parameters.get(), *outputs, gradients, net.trace(form(dense)).a[0]])
    for sparse, expected in zip(*results, strict=True):
        np.testing.assert_equal(sparse, expected)


def test_sparse_data_of_many_networks_and_their_values() -> None:
    scipy = pytest.importorskip("scipy.sparse")
    pairs = [[network("cpu", seed=seed) for seed in (1, 2)] for _ in range(2)]
    for networks, form in zip(pairs, (scipy.csr_matrix, np.asarray), strict=True):
        fit_many(networks, form(X), y, epochs=2, batch_size=8, progress=False)
    for sparse, dense in zip(*pairs, strict=True):
        np.testing.assert_array_equal(sparse.parameters, dense.parameters)
    spoiled = X.astype(np.float64)
    spoiled[50, 4] = 1e300
    with pytest.raises(DataError, match="in row 50, column 4"):
        network("cpu").fit(scipy.csr_array(spoiled), y)
    with pytest.raises(DTypeError, match="received dtype complex64"):
        network("cpu").fit(scipy.csr_array(X * 1j), y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "kind", ["float64", "float32", "int16", "fortran", "strided", "list", "memmap", "big-endian", "bool"]
)
def test_data_of_any_kind(kind: str, dtype: str, tmp_path: Path) -> None:
    wide = (np.random.default_rng(1).normal(size=(61, 12)) * 1e3).astype(np.float64)
    given: Any = {
        "float64": wide[:, :6].copy(), "float32": wide[:, :6].astype(np.float32), "int16": wide[:, :6].astype(np.int16),
        "fortran": np.asfortranarray(wide[:, :6].astype(np.float32)), "strided": wide[::-1, ::2],
        "list": wide[:, :6].tolist(), "big-endian": wide[:, :6].astype(">f4"), "bool": wide[:, :6] > 0,
        "memmap": None,
    }[kind]  # fmt: skip
    if kind == "memmap":
        np.save(tmp_path / "X.npy", wide[:, :6].astype(np.float32))
        given = np.load(tmp_path / "X.npy", mmap_mode="r")
    found = []
    for backend in (Small(), StrictBackend()):
        net = network(backend, dtype=dtype)
        net.fit(given, y, batch_size=7, epochs=2, progress=False)
        found.append((net.parameters.get(), net.predict(given), net.forward(given), net.loss(given, y)))
    for streamed, resident in zip(*found, strict=True):
        np.testing.assert_array_equal(streamed, resident)


def test_inputs_that_are_standardised_are_sent_in_float64() -> None:
    """The network subtracts a large mean before it rounds, on inputs of the host as on those of the device."""
    far, found = 1e8 + np.random.default_rng(1).normal(size=(61, 6)), []
    for backend in (Small(), StrictBackend()):
        net = Network([6, Standardize(), Dense(7, "tanh"), Dense(3)], loss="cross_entropy", device=backend, seed=3)
        history = net.fit(far, y, batch_size=7, epochs=2, sample_weight=W, validation_split=0.2, progress=False)
        found.append((history["loss"], net.parameters.get(), net.predict(far), net.forward(far), net.loss(far, y)))
    for streamed, resident in zip(*found, strict=True):
        np.testing.assert_array_equal(streamed, resident)
    near = Network([6, Standardize(), Dense(7, "tanh"), Dense(3)], loss="cross_entropy", device="cpu", seed=3)
    near.fit(far - 1e8, y, batch_size=7, epochs=2, sample_weight=W, validation_split=0.2, progress=False)
    np.testing.assert_allclose(found[0][1], near.parameters, atol=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_inference_is_that_of_data_on_the_device(loss: str) -> None:
    targets = y if loss == "cross_entropy" else np.random.default_rng(2).normal(size=(len(X), 3))
    small, found = Small(), []
    for backend in (small, StrictBackend()):
        net = network(backend, loss=loss)
        results = [net.forward(X), net.predict(X), net.loss(X, targets, W)]
        results += [net.predict_proba(X)] if loss == "cross_entropy" else []
        results += [net.evaluate(X, targets, sample_weight=W), net.evaluate(X, targets)]
        found.append(results)
    assert small.largest < X.nbytes
    for streamed, resident in zip(*found, strict=True):
        np.testing.assert_equal(streamed, resident)
        assert type(streamed) is type(resident)


def test_partial_fit_streams_and_goes_on() -> None:
    small, found = Small(), []
    for backend in (small, StrictBackend()):
        net = network(backend)
        for part in (slice(0, 40), slice(40, 61), slice(0, 40)):
            net.partial_fit(X[part], y[part], batch_size=6, sample_weight=W[part])
        found.append(net.parameters.get())
    np.testing.assert_array_equal(*found)
    assert small.sent == 7 + 4 + 7
    # What was prepared for data on the device does not serve for data on the host, and the other way round.
    small.free = 2**20
    net = network(small)
    twin = network(StrictBackend())
    for free in (2**20, 0, 2**20, 2**20):
        small.free = free
        for each in (net, twin):
            each.partial_fit(X, y)
    np.testing.assert_array_equal(net.parameters.get(), twin.parameters.get())


def test_sizes_taken_from_data_that_are_streamed() -> None:
    found = []
    for backend in (Small(), StrictBackend()):
        net = Network(device=backend, seed=1)
        net.fit(X, y, epochs=2, batch_size=8, progress=False)
        found.append(net.parameters.get())
    np.testing.assert_array_equal(*found)


def test_data_are_on_the_device_where_it_has_room() -> None:
    # X, y and an index for each sample; the buffers of a step; what there is of theta, with the two slots of Adam.
    data_set = 4 * (X.size + len(X)) + 8 * len(X)
    beside = 4 * (5 * 8 * (6 + 7 + 7 + 3) + (5 + 2) * (6 * 7 + 7 + 7 * 3 + 3))
    for free, streams in ((int((data_set + beside) / 0.8) + 5, False), (int((data_set + beside) / 0.8) - 5, True)):
        backend = Small(free)
        network(backend).fit(X, y, epochs=1, batch_size=8, progress=False)
        assert bool(backend.sent) is streams
        backend = Small(free)
        device_data = backend
        with backend.active():
            on_device = device_data.upload(X, np.float32)
        network(backend).fit(on_device, y, epochs=1, batch_size=8, progress=False)
        assert not backend.sent, "what the caller put there is there"


def test_small_data_do_not_ask_for_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_adapter, "_SMALL", 2**20)
    backend = Small()
    monkeypatch.setattr(backend, "memory", lambda: pytest.fail("asked"))
    network(backend).fit(X, y, epochs=1, progress=False)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("use", ["fit", "partial_fit", "predict", "evaluate"])
def test_a_value_that_is_not_finite_is_named_by_its_row(use: str, bad: float) -> None:
    spoiled = X.astype(np.float64)
    spoiled[50, 4] = bad
    net = network(Small())
    arguments = (spoiled,) if use == "predict" else (spoiled, y)
    with pytest.raises(DataError, match=r"X holds finite numbers .* in row 50, column 4"):
        getattr(net, use)(*arguments)
    forward = net.forward(spoiled)
    assert forward.shape == (61, 3)


def test_an_output_that_is_not_finite_is_named_by_its_row() -> None:
    large = X.copy()
    large[33] = 3e38
    net = network(Small(), activation="identity", loss="cross_entropy")
    net = Network([6, Dense(3)], loss="cross_entropy", device=Small(), seed=0)
    net.set_parameters([np.full((3, 6), 1e3)], [np.zeros(3)])
    with pytest.raises(DataError, match="received nan in row 33"):
        net.predict(large)


def test_a_backend_without_memory_of_its_own_streams_nothing() -> None:
    assert not isinstance(backend_class("numpy")(), Streaming)
    assert not isinstance(StrictBackend(), Streaming)
    assert isinstance(Small(), Streaming)


@needs_compiler
@pytest.mark.parametrize("persistent", [None, 1])
def test_streaming_to_an_emulated_gpu(persistent: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, copies are made as late as the stream of the computation, or the host, waits for them."""
    found = []
    for free in (2**24, 2**13):
        monkeypatch.setattr(Memory, "free", free)
        backend = emulated_backend_class()(persistent=persistent)
        assert isinstance(backend, Streaming)
        net = network(backend)
        history = net.fit(X, y, epochs=2, batch_size=8, sample_weight=W, validation_data=data(47, 9), progress=False)
        found.append((history["loss"], history["val_loss"], net.parameters.get(), net.predict(X), net.evaluate(X, y)))
    for resident, streamed in zip(*found, strict=True):
        np.testing.assert_equal(streamed, resident)
