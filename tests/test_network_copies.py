"""Copies of a network, its moves between devices, and threads that use one."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import RLock, Thread
from typing import Any

import numpy as np
import pytest
from strict_backend import StrictBackend

from nnbp import Dense, DeviceMemoryError, Dropout, DTypeError, Network, NnbpError
from nnbp.graph.backend import backend_class


def network(*sizes: int, **options: Any) -> Network:
    return Network(list(sizes or (3, 4, 2)), **{"device": "cpu", "seed": 0, **options})


def data(m: int = 20, n_out: int = 2) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(m, 3)), rng.normal(size=(m, n_out))


def trained(**options: Any) -> Network:
    layers = [3, Dense(8, "gelu"), Dropout(0.3), Dense(2)]
    net = Network(layers, device="cpu", seed=4, weight_decay=1e-3, dtype="float64", **options)
    net.fit(*data(), epochs=2, batch_size=8, progress=False)
    return net


@pytest.mark.parametrize(
    "twin_of",
    [
        lambda net: pickle.loads(pickle.dumps(net)),
        copy.copy,
        copy.deepcopy,
        lambda net: net.copy(),
        lambda net: net.copy().to("cpu"),
    ],
    ids=["pickle", "copy", "deepcopy", "net.copy", "to"],
)
def test_a_copy_goes_on_as_the_original_would(twin_of: Any) -> None:
    """Parameters, order of samples, dropout masks and the optimizer of partial_fit go along, bit for bit."""
    net = trained()
    X, y = data()
    net.partial_fit(X, y, batch_size=5)
    twin = twin_of(net)
    assert not np.shares_memory(twin.parameters, net.parameters)
    for attribute in ("weight_decay", "dtype", "seed", "device", "loss_function"):
        assert getattr(twin, attribute) == getattr(net, attribute)
    np.testing.assert_array_equal(twin.forward(X), net.forward(X))
    for each in (net, twin):
        each.partial_fit(X, y, batch_size=5)
        each.fit(X, y, epochs=2, batch_size=8, progress=False)
    np.testing.assert_array_equal(twin.parameters, net.parameters)


def test_a_copy_is_a_network_of_its_own() -> None:
    net = trained()
    twin, before = net.copy(), net.parameters.copy()
    twin.fit(*data(), epochs=1, progress=False)
    np.testing.assert_array_equal(net.parameters, before)


def test_copy_of_a_network_without_sizes() -> None:
    net = pickle.loads(pickle.dumps(Network(device="cpu", seed=3)))
    twin = Network(device="cpu", seed=3)
    for each in (net, twin):
        each.fit(*data(), epochs=1, progress=False)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_to_returns_the_network_itself() -> None:
    net = trained()
    before = net.forward(data()[0])
    assert net.to("cpu") is net
    np.testing.assert_array_equal(net.forward(data()[0]), before)


class Full(StrictBackend):
    """A device without room."""

    def empty(self, shape: Any, dtype: Any) -> Any:
        raise DeviceMemoryError("no room")


def test_a_move_that_fails_changes_nothing() -> None:
    net = trained()
    X, y = data()
    net.partial_fit(X, y)
    twin = net.copy()
    for device, error in ((Full(), DeviceMemoryError), ("gpu", ValueError), (5, TypeError)):
        with pytest.raises(error):
            net.to(device)  # type: ignore[arg-type]
    assert net.device == "cpu"
    for each in (net, twin):
        each.partial_fit(X, y)
    np.testing.assert_array_equal(net.forward(X), twin.forward(X))


def test_a_copy_is_on_the_same_backend() -> None:
    backend = StrictBackend()
    net = Network([3, 2], device=backend, seed=0)
    for twin in (
        net.copy(),
        copy.copy(net),
        copy.deepcopy(net),
        net.copy(device=backend, dtype="float64"),
        net.to(backend),
    ):
        assert twin._backend is backend
        assert twin.device == "strict:0"


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that brings the backend "mine"."""
    (tmp_path / "mine_backend.py").write_text(
        "from strict_backend import StrictBackend\n\n\n"
        "class Mine(StrictBackend):\n"
        "    name = 'mine'\n\n"
        "    def __init__(self, index=0):\n"
        "        super().__init__()\n"
        "        self.device = f'card:{index}'\n"
    )
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nnbp.backends]\nmine = mine_backend:Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    backend_class.cache_clear()


@pytest.mark.usefixtures("registered")
def test_a_backend_of_another_package_goes_by_its_name() -> None:
    X = data()[0]
    net = Network([3, 4, 2], device="mine:1", seed=0)
    assert (net._backend.name, net.device, Network([3, 2], device="mine").device) == ("mine", "card:1", "card:0")
    back = pickle.loads(pickle.dumps(net))
    assert (back._backend.name, back.device) == ("mine", "card:1")
    np.testing.assert_array_equal(back.forward(X), net.forward(X))
    assert network().to("mine").device == "card:0"
    for device in ("mine:", "mine:x", "mine:1:1", "yours"):
        with pytest.raises(ValueError, match="Backends of other packages here: mine"):
            Network([3, 2], device=device)


def test_a_backend_that_no_package_brings_is_not_pickled() -> None:
    net = Network([3, 2], device=StrictBackend(), seed=0)
    with pytest.raises(NnbpError, match=r"entry point in the group 'nnbp.backends'.*'strict'.*to\('cpu'\)"):
        pickle.dumps(net)
    assert pickle.loads(pickle.dumps(net.copy().to("cpu"))).device == "cpu"


class Named(Network):
    """A network that keeps something of its own."""

    def __init__(self, name: str, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.name = name


@pytest.mark.parametrize("twin_of", [lambda net: pickle.loads(pickle.dumps(net)), copy.copy, Network.copy])
def test_copies_keep_what_users_hang_on_a_network(twin_of: Any) -> None:
    net = Named("first", [3, 4, 2], device="cpu", seed=0)
    net.tag, net.itself = [1, 2], net  # type: ignore[attr-defined]
    twin = twin_of(net)
    assert type(twin) is Named
    assert (twin.name, twin.tag) == ("first", [1, 2])
    assert twin.itself is (net if twin_of is copy.copy else twin)
    assert (twin.tag is net.tag) == (twin_of is copy.copy)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(twin.parameters, net.parameters)
    assert net.to("cpu").tag == [1, 2]  # type: ignore[attr-defined]


# Threads.


@pytest.fixture
def _fast_switches() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_fast_switches")
@pytest.mark.parametrize("use", ["forward", "predict", "gradients", "loss"])
def test_threads_may_use_one_network(use: str) -> None:
    net = network(3, 50, 50, 2, activation="tanh", loss="cross_entropy")
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(4, 3)), rng.integers(0, 2, 4)) for _ in range(4)]

    def run(batch: Any) -> Any:
        found = getattr(net, use)(*batch[: 1 if use in ("forward", "predict") else 2])
        return found.flat if use == "gradients" else found

    alone = [run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(60):
            for found, expected in zip(pool.map(run, batches), alone, strict=True):
                np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("_fast_switches")
def test_copies_compute_at_the_same_time_on_one_backend() -> None:
    net = network(3, 50, 50, 2, activation="gelu")
    nets = [net, *(net.copy() for _ in range(3))]
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=(400, 3)) for _ in nets]
    alone = [each.forward(X) for each, X in zip(nets, batches, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(30):
            for found, expected in zip(pool.map(Network.forward, nets, batches), alone, strict=True):
                np.testing.assert_array_equal(found, expected)


def test_another_thread_waits_until_training_ends() -> None:
    net = network(3, 4, 2)
    X, y = data()
    found: list[Any] = []
    threads: list[Thread] = []

    def callback(state: Any) -> None:
        state.network.predict(X)  # the thread that trains does not wait for itself
        if not threads:
            threads.append(Thread(target=lambda: found.append(net.forward(X))))
            threads[0].start()
            threads[0].join(0.05)
        assert not found

    net.fit(X, y, epochs=3, progress=False, callbacks=[callback])
    threads[0].join()
    np.testing.assert_array_equal(found[0], net.forward(X))


def test_networks_share_no_state() -> None:
    """Two networks trained by turns equal two trained one after the other."""
    X, y = data()
    turns = [network(seed=k) for k in range(2)]
    for _ in range(2):
        for net in turns:
            net.fit(X, y, epochs=1, batch_size=4, optimizer="sgd", progress=False)
    for k, net in enumerate(turns):
        alone = network(seed=k)
        for _ in range(2):
            alone.fit(X, y, epochs=1, batch_size=4, optimizer="sgd", progress=False)
        np.testing.assert_array_equal(net.parameters, alone.parameters)


def test_global_random_state_is_neither_used_nor_changed() -> None:
    state = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]  # noqa: NPY002
    trained()
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize("dtype", [None, "float32", "float64"])
def test_a_copy_on_another_device_and_in_another_dtype_goes_on_as_this_network_does(dtype: Any) -> None:
    net = Network([3, 4, 2], device="cpu", seed=0, precision="tf32")
    X, y = np.random.default_rng(0).normal(size=(20, 3)), np.random.default_rng(1).normal(size=(20, 2))
    net.partial_fit(X, y)
    net.lock = RLock()  # type: ignore[attr-defined]  # cannot be copied
    backend = StrictBackend()
    twin = net.copy(device=backend, dtype=dtype)
    assert twin._backend is backend
    assert twin.dtype == np.dtype(dtype or "float32")
    assert twin.precision == (None if dtype == "float64" else "tf32")
    assert twin.lock is net.lock  # type: ignore[attr-defined]
    np.testing.assert_array_equal(backend.download(twin.parameters), net.parameters)
    net.partial_fit(X, y)
    twin.partial_fit(X, y)
    np.testing.assert_allclose(backend.download(twin.parameters), net.parameters, rtol=1e-5, atol=1e-6)


def test_a_copy_goes_to_a_device_that_works_or_nowhere() -> None:
    net = Network([3, 2], device="cpu", seed=0)
    with pytest.raises(ValueError, match="A device is one of"):
        net.copy(device="gpu")
    with pytest.raises(DTypeError, match="float32 or float64"):
        net.copy(dtype="int32")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_that_is_forked_during_training_uses_the_network() -> None:
    net = Network([2, 3, 1], device="cpu", seed=0)
    begun, over = threading.Event(), threading.Event()

    def hold(state: Any) -> None:
        begun.set()
        over.wait(20)

    X = np.eye(2)
    thread = Thread(target=lambda: net.fit(X, [0, 1], epochs=1, progress=False, callbacks=[hold]))
    thread.start()
    assert begun.wait(20)
    child = os.fork()
    if not child:
        # The thread that trains, and holds the network's lock, is not in this process.
        signal.alarm(10)
        net.predict(X)
        os._exit(7)
    over.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
