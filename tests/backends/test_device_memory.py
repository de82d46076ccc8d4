"""A device that is full: whatever did not fit, the network is as it was before, and smaller work goes on."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from emulated_cupy import CUDARuntimeError, Device, Memory, OutOfMemoryError, emulated_backend_class
from kernel_samples import needs_compiler
from numpy.typing import NDArray
from strict_backend import StrictArray, StrictBackend

from nnbp import LBFGS, Dense, DeviceMemoryError, Network


class LibraryError(Exception):
    """What an array library says when its memory is short."""


class Refusing(StrictBackend):
    """A device on which one array, the n-th from now on, finds no room.

    Attributes:
        arrays: how many were made since it was last set to 0.
        refused: n.
        alive: the arrays that were made by `empty`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.arrays, self.refused = 0, -1
        self.alive: list[weakref.ref[NDArray[Any]]] = []

    def allocates(self, what: str) -> None:
        super().allocates(what)
        self.arrays += 1
        if self.arrays == self.refused:
            raise LibraryError(what)

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> StrictArray:
        array = super().empty(shape, dtype)
        self.alive.append(weakref.ref(array._host))
        return array

    @property
    def bytes(self) -> int:
        """Of the arrays that `empty` made and that somebody still holds."""
        return sum(host.nbytes for made in self.alive if (host := made()) is not None)

    @contextmanager
    def active(self) -> Iterator[None]:
        with super().active():
            try:
                yield
            except LibraryError as error:
                raise DeviceMemoryError("no room") from error


def data(m: int = 23) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(m, 4)).astype(np.float32), rng.integers(0, 3, m)


def network(backend: Any, **options: Any) -> Network:
    return Network([4, Dense(5, "tanh"), Dense(3)], loss="cross_entropy", device=backend, seed=0, **options)


X, y = data()
USES: dict[str, Callable[[Network], object]] = {
    "forward": lambda net: net.forward(X),
    "trace": lambda net: net.trace(X),
    "loss": lambda net: net.loss(X, y),
    "gradients": lambda net: net.gradients(X, y, np.ones(len(X))),
    "per_sample_gradients": lambda net: net.per_sample_gradients(X, y),
    "predict": lambda net: net.predict(X),
    "predict_proba": lambda net: net.predict_proba(X),
    "evaluate": lambda net: net.evaluate(X, y),
    "fit": lambda net: net.fit(X, y, epochs=1, batch_size=8, clip_norm=1.0, metrics=["accuracy"], progress=False),
    "fit with validation": lambda net: net.fit(X, y, epochs=1, validation_split=0.3, progress=False),
    "fit with lbfgs": lambda net: net.fit(X, y, epochs=1, optimizer=LBFGS(max_iter=2), progress=False),
    "partial_fit": lambda net: net.partial_fit(X, y, sample_weight=np.ones(len(X))),
    "partial_fit as before": lambda net: net.partial_fit(X[:9], y[:9], batch_size=3, learning_rate=0.01),
    "to": lambda net: net.to(net._backend),
    "copy": lambda net: net.copy(),
    "set_parameters": lambda net: net.set_parameters(*([a.get() for a in p] for p in (net.weights, net.biases))),
}  # fmt: skip


def learn(net: Network) -> Network:
    return net.partial_fit(X[:9], y[:9], batch_size=3)


@pytest.mark.parametrize("use", USES)
def test_whichever_array_finds_no_room_the_network_is_as_before(use: str) -> None:
    backend = Refusing()
    trained = learn(network(backend))
    trained.forward(X[:7])
    before, twin = trained.forward(X), learn(trained.copy())
    dry = trained.copy()
    backend.arrays = 0
    USES[use](dry)
    needed = backend.arrays
    assert needed
    for n in range(1, needed + 1):
        net = trained.copy()
        backend.arrays, backend.refused = 0, n
        with pytest.raises(DeviceMemoryError):
            USES[use](net)
        backend.refused = -1
        np.testing.assert_array_equal(net.forward(X), before)
        if not use.startswith("fit") or net._ongoing is not None:
            # What the optimizer remembers is as before, too.
            np.testing.assert_array_equal(learn(net).forward(X), twin.forward(X))
        net.fit(X, y, epochs=1, batch_size=2, progress=False)
        assert np.isfinite(net.forward(X)).all()


@pytest.mark.parametrize("use", ["fit", "partial_fit"])
def test_what_does_not_fit_leaves_the_sizes_open(use: str) -> None:
    backend = Refusing()
    backend.arrays = 0
    USES[use](Network(loss="cross_entropy", device=backend, seed=0))
    # The last arrays come when the training has begun.
    for n in range(1, backend.arrays - 25):
        net = Network(loss="cross_entropy", device=backend, seed=0)
        backend.arrays, backend.refused = 0, n
        with pytest.raises(DeviceMemoryError):
            USES[use](net)
        backend.refused = -1
        assert net._passes is None
        net.fit(np.ones((4, 6)), [0, 1, 1, 0], epochs=1, progress=False)


def test_the_state_of_an_optimizer_outlives_a_fit_that_finds_no_room() -> None:
    backend = Refusing()
    net = learn(network(backend))
    twin = learn(net.copy())
    backend.arrays, backend.refused = 0, 5
    with pytest.raises(DeviceMemoryError):
        USES["fit"](net)
    np.testing.assert_array_equal(learn(net).forward(X), twin.forward(X))


def test_an_epoch_that_finds_no_room_leaves_the_parameters_of_the_one_before() -> None:
    backend, kept = Refusing(), []

    def fill(state: Any) -> None:
        kept.append(state.network.forward(X))
        backend.arrays, backend.refused = 0, 1

    net = network(backend)
    with pytest.raises(DeviceMemoryError):
        net.fit(X, y, epochs=5, batch_size=8, callbacks=[fill], progress=False)
    backend.refused = -1
    assert len(kept) == 1
    np.testing.assert_array_equal(net.forward(X), kept[0])


def test_what_had_room_is_free_again_while_the_error_is_handled() -> None:
    backend = Refusing()
    net = network(backend)
    held = backend.bytes
    for use in ("fit", "gradients", "partial_fit"):
        backend.arrays, backend.refused = 0, 20
        try:
            USES[use](net)
        except DeviceMemoryError:
            assert backend.bytes == held, "the half of an executor is still there"
        else:
            pytest.fail("it found room")


@needs_compiler
def test_the_errors_of_cupy_become_one_that_says_what_to_do() -> None:
    backend = emulated_backend_class()()
    said = r"memory of cuda:0; received an operation .* allocating 7 bytes, but 16\.0 of 16\.0 MiB are free.*batch_size"
    with pytest.raises(DeviceMemoryError, match=said), backend.active():
        raise OutOfMemoryError("Out of memory allocating 7 bytes")
    assert Device.depth == 0
    for text in ("cudaErrorMemoryAllocation: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"):
        foreign = type("CUDARuntimeError", (RuntimeError,), {"__module__": "cupy_backends.cuda.api.runtime"})
        with pytest.raises(DeviceMemoryError), backend.active():
            raise foreign(text)
        with pytest.raises(RuntimeError, match=text), backend.active():
            raise RuntimeError(text)
    with pytest.raises(CUDARuntimeError, match="another"), backend.active():
        raise CUDARuntimeError("another")
    nested = DeviceMemoryError("as it was")
    with pytest.raises(DeviceMemoryError, match="as it was"), backend.active(), backend.active():
        raise nested


@needs_compiler
def test_what_cupy_keeps_is_free_and_its_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = emulated_backend_class()()
    monkeypatch.setattr(Memory, "kept", 2**20)
    assert backend.memory() == (2**24, 2**24)
    monkeypatch.setattr(Memory, "pool_limit", 2**22)
    monkeypatch.setattr(Memory, "used", 2**21)
    assert backend.memory() == (2**21, 2**22)
    monkeypatch.setattr(Memory, "used", 2**23)
    assert backend.memory()[0] == 0


@needs_compiler
@pytest.mark.parametrize("use", ["forward", "gradients", "predict", "evaluate", "fit", "partial_fit", "copy"])
def test_a_full_gpu_leaves_the_network_as_it_was(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = emulated_backend_class()()
    trained = learn(network(backend))
    before = trained.forward(X)
    monkeypatch.setattr(Memory, "allocations", 0)
    USES[use](trained.copy())
    needed = Memory.allocations
    assert needed
    # Every seventh, for the time that it takes; those of `empty` find room at the second attempt.
    for n in range(1, needed + 1, 7):
        net = trained.copy()
        Memory.allocations = 0
        monkeypatch.setattr(Memory, "refused", n)
        try:
            USES[use](net)
        except DeviceMemoryError:
            np.testing.assert_array_equal(net.forward(X), before)
        monkeypatch.setattr(Memory, "refused", None)
        net.fit(X, y, epochs=1, batch_size=4, progress=False)
        assert np.isfinite(net.forward(X)).all()


def test_a_full_device_keeps_nothing_from_earlier_calls() -> None:
    backend = Refusing()
    net = network(backend)
    for m in (3, 4, 5):
        net.gradients(X[:m], y[:m])
    net.partial_fit(X, y)
    before = backend.bytes
    backend.arrays, backend.refused = 0, 3
    with pytest.raises(DeviceMemoryError):
        net.gradients(X, y)
    backend.refused = -1
    assert backend.bytes < before / 2
    net.gradients(X, y)
