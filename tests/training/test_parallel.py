"""fit_many: the bits of one fit after the other, errors and interrupts, copies of what a network may not share."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnbp import (
    Callback,
    Dense,
    Dropout,
    EarlyStopping,
    Network,
    ShapeError,
    Standardize,
    TrainingState,
    fit_many,
)
from nnbp.device.host import cores
from nnbp.graph.backend import backend_class

FOREVER = 10**8
"""Epochs that nobody waits for."""

pytestmark = pytest.mark.filterwarnings("ignore::nnbp.ConvergenceWarning")

several_cores = pytest.mark.skipif(cores() < 2, reason="there is one core alone")


def data(m: int, n_in: int, n_out: int, dtype: str = "float64") -> tuple[Any, Any]:
    rng = np.random.default_rng(m)
    return rng.normal(size=(m, n_in)).astype(dtype), rng.integers(0, n_out, m)


def networks(count: int, *sizes: int, **options: Any) -> list[Network]:
    options = {"loss": "cross_entropy", "device": "cpu", **options}
    return [Network(list(sizes or (4, 9, 3)), seed=seed, **options) for seed in range(count)]


def assert_same(side_by_side: list[Network], one_by_one: list[Network]) -> None:
    for first, second in zip(side_by_side, one_by_one, strict=True):
        assert first.parameters.tobytes() == second.parameters.tobytes()
        assert first.history == second.history
        assert first.history is not None
        assert second.history is not None
        assert first.history.stopped == second.history.stopped


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(["sgd", "rmsprop", "adam", "adamw", "rprop", "lbfgs"]),
    st.sampled_from(["float32", "float64"]),
    st.integers(2, 61),
    st.sampled_from([None, 1, 7, 32]),
    st.booleans(),
)
def test_the_bits_are_those_of_one_fit_after_the_other(
    optimizer: str, dtype: str, samples: int, batch_size: int | None, validated: bool
) -> None:
    X, y = data(samples, 4, 3)
    y[:2] = 0, 2
    layers = [4, Standardize(), Dense(9, "tanh"), Dropout(0.3), Dense(3)]
    many = [Network(layers, loss="cross_entropy", device="cpu", dtype=dtype, seed=seed) for seed in range(3)]
    many += networks(1, dtype="float32") + networks(1, dtype="float64")
    one_by_one = [net.copy() for net in many]
    options = {"optimizer": optimizer, "batch_size": batch_size, "learning_rate": 0.01, "epochs": 3, "progress": False}
    if validated:
        options["validation_data"] = data(9, 4, 3)
    # A second time, because orders and dropout masks go on where they were.
    for _ in range(2):
        histories = fit_many(many, X, y, **options)
        assert [history is net.history for history, net in zip(histories, many, strict=True)] == [True] * len(many)
        for net in one_by_one:
            net.fit(X, y, **options)
        assert_same(many, one_by_one)


def test_steps_on_one_thread_and_on_several_of_blas_do_not_disturb_each_other() -> None:
    """Their products would have other bits if BLAS took another number of threads in the middle."""
    X, y = data(1100, 784, 10, "float32")
    many = [net for shape in [(784, 128, 10), (784, 20, 10), (784, 300, 10)] for net in networks(3, *shape)]
    one_by_one = [net.copy() for net in many]
    options = {"epochs": 4, "batch_size": 128, "progress": False, "validation_data": (X[:200], y[:200])}
    fit_many(many, X, y, **options)
    for net in one_by_one:
        net.fit(X, y, **options)
    assert_same(many, one_by_one)


@several_cores
def test_networks_are_trained_at_the_same_time() -> None:
    together = threading.Barrier(2)
    X, y = data(20, 4, 3)
    fit_many(networks(2), X, y, epochs=2, progress=False, callbacks=[lambda state: together.wait(30)])


def test_the_data_are_converted_once() -> None:
    X = np.random.default_rng(0).normal(size=(200_000, 40))
    y = X[:, 0]
    tracemalloc.start()
    fit_many(networks(3, 40, 1, loss="squared_error"), X, y, epochs=1, batch_size=2000, progress=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Orders and targets are each network's own.
    assert peak < 1.8 * X.size * 4


class Stopper(Callback):
    """Ends training some epochs after its own begin."""

    def on_train_begin(self, state: TrainingState) -> None:
        self.left = 2 + state.network.seed

    def on_epoch_end(self, state: TrainingState) -> None:
        time.sleep(0.001)
        self.left -= 1
        if not self.left:
            state.stop = "enough"


def test_each_network_has_callbacks_of_its_own() -> None:
    X, y = data(30, 4, 3)
    histories = fit_many(networks(6), X, y, epochs=50, progress=False, callbacks=[Stopper()])
    assert [history.epochs for history in histories] == [2, 3, 4, 5, 6, 7]
    assert {history.stopped for history in histories} == {"enough"}
    stopping = EarlyStopping(2, min_delta=0.02)
    options = {"epochs": 60, "learning_rate": 0.1, "early_stopping": stopping, "progress": False}
    many, one_by_one = networks(6), networks(6)
    fit_many(many, X, y, **options)
    for net in one_by_one:
        net.fit(X, y, **options)
    assert_same(many, one_by_one)
    assert len({net.history.epochs for net in many if net.history}) > 1


@pytest.mark.parametrize("failing", [0, 3])
def test_an_error_names_its_network_and_ends_the_others(failing: int) -> None:
    many = networks(cores() + 4)
    X, y = data(30, 4, 3)

    def fail(state: TrainingState) -> None:
        if state.network is many[failing] and state.epoch == 3:
            raise RuntimeError("no more")
        # So that networks before the failing one end.
        if state.network in many[:failing] and state.epoch == 5:
            state.stop = "done"

    with pytest.raises(RuntimeError, match="no more") as raised:
        fit_many(many, X, y, epochs=FOREVER, progress=False, callbacks=[fail])
    assert f"networks[{failing}]" in "".join(raised.value.__notes__)
    for net in many:
        reason = None if net.history is None or net is many[failing] else net.history.stopped
        assert reason in (None, "done", f"the training of networks[{failing}] failed")
    history = many[failing].history
    assert history is not None
    assert history.epochs == 3
    # One after the other, all would have begun.
    assert many[-1].history is None


def test_data_that_fit_no_network_are_the_error_of_one() -> None:
    many = networks(3)
    with pytest.raises(ShapeError, match=r"here \(m, 4\)") as raised:
        fit_many(many, np.ones((5, 3)), np.zeros(5, int), progress=False)
    # Of the first one that a thread reaches.
    assert re.search(r"networks\[\d\]", "".join(raised.value.__notes__))
    assert [net.history for net in many] == [None] * 3


def test_ctrl_c_ends_all_after_their_epochs() -> None:
    many = networks(cores() + 2)
    X, y = data(30, 4, 3)
    begun = threading.Barrier(cores())

    def interrupt(state: TrainingState) -> None:
        if state.epoch == 2 and begun.wait(30) == 0:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit_many(many, X, y, epochs=FOREVER, progress=False, callbacks=[interrupt])
    histories = [net.history for net in many if net.history is not None]
    assert len(histories) == cores()
    for history in histories:
        assert history.epochs >= 2
        assert history.stopped == "fit_many was interrupted by KeyboardInterrupt"


def test_wrong_lists() -> None:
    X, y = data(5, 4, 3)
    net, other = networks(2)
    with pytest.raises(ValueError, match=r"the same as networks\[0\] and networks\[2\]"):
        fit_many([net, other, net], X, y)
    with pytest.raises(TypeError, match=r"networks\[1\] is a network; received 'tanh'"):
        fit_many([net, "tanh"], X, y)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="networks is a list of networks"):
        fit_many(net, X, y)  # type: ignore[arg-type]
    assert fit_many([], X, y, progress=False) == []


def test_progress_counts_networks(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = data(20, 4, 3)
    fit_many(networks(3), X, y, epochs=2, progress="lines")
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("network 1/3  loss ")
    assert last.startswith("network 3/3  loss ")


class OtherDevice:
    """A CPU that says that it is something else."""

    def __init__(self) -> None:
        cpu = backend_class("numpy")()
        vars(self).update({name: getattr(cpu, name) for name in dir(cpu) if not name.startswith("__")})
        self.device = "other:0"


class Counter(Callback):
    """Counts how many networks of another device are in training."""

    now = most = 0

    def on_train_begin(self, state: TrainingState) -> None:
        if state.network.device != "cpu":
            Counter.now += 1
            Counter.most = max(Counter.most, Counter.now)

    def on_epoch_end(self, state: TrainingState) -> None:
        time.sleep(0.002)

    def on_train_end(self, state: TrainingState) -> None:
        Counter.now -= state.network.device != "cpu"


def test_networks_of_another_device_take_turns() -> None:
    X, y = data(20, 4, 3)
    device = OtherDevice()
    many = networks(3) + networks(4, device=device) + networks(2)
    one_by_one = [net.copy() for net in many]
    fit_many(many, X, y, epochs=5, progress=False, callbacks=[Counter()])
    assert Counter.most == 1
    for net in one_by_one:
        net.fit(X, y, epochs=5, progress=False)
    assert_same(many, one_by_one)


@pytest.mark.slow
def test_a_thousand_networks_have_the_bits_that_each_has_alone() -> None:
    X, y = data(60, 4, 3)
    many = networks(1000, 4, 5, 3)
    alone = [many[k].copy() for k in (0, 1, 499, 500, 998, 999)]
    fit_many(many, X, y, epochs=3, progress=False)
    for net in alone:
        net.fit(X, y, epochs=3, progress=False)
    assert_same([many[k] for k in (0, 1, 499, 500, 998, 999)], alone)
    assert len({net.parameters.tobytes() for net in many}) == 1000


@pytest.mark.slow
def test_processes_of_joblib_train_their_shares_with_the_same_bits() -> None:
    joblib = pytest.importorskip("joblib")
    X, y = data(60, 4, 3)
    many = networks(12)
    alone = [net.copy() for net in many]

    def train(part: list[Network]) -> list[Network]:
        import warnings

        import nnbp

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nnbp.fit_many(part, X, y, epochs=3, progress=False)
        return part

    with joblib.parallel_config("loky", n_jobs=2):
        parts = joblib.Parallel()(joblib.delayed(train)(many[k::2]) for k in range(2))
    for net in alone:
        net.fit(X, y, epochs=3, progress=False)
    for k, net in enumerate(alone):
        assert parts[k % 2][k // 2].parameters.tobytes() == net.parameters.tobytes()
