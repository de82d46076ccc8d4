"""Executors and the step made of them: nothing allocates, every buffer has the network's dtype, calls never change."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nnbp import SGD, Adam, Dense, Dropout, Network, RMSprop
from nnbp.engine.dataset import Dataset
from nnbp.engine.epoch import Epoch
from nnbp.engine.executor import Batch, Executor
from nnbp.engine.updater import OptimizerState, Updater
from nnbp.graph.ops import Operation
from nnbp.nn.activations import Activation
from nnbp.nn.layers import DenseNode

HIDDEN = sorted(name for name, cls in Activation.registry.items() if cls.__module__ == "nnbp.nn.activations")
HIDDEN.remove("softmax")
M = 50_000
"""Samples of a batch."""

VECTOR = 4 * M
"""Bytes of one number a sample in float32: more than anything that a step may hold for a moment. What it does hold is
NumPy's iterator buffers (8192 elements: 34 or 67 kB) in two threads, and masks of a tile (64 kB)."""


def network(*hidden: Any, loss: str = "cross_entropy", n_out: int = 3, **options: Any) -> Network:
    options = {"device": "cpu", "seed": 0, **options}
    return Network([6, *hidden, Dense(n_out)], loss=loss, **options)


def data(net: Network, m: int, weights: bool, n_out: int = 3) -> Dataset:
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_out, (m, 1))
    if net.loss_function.name != "cross_entropy":
        y = rng.integers(0, 2, (m, n_out))
    w = rng.uniform(0.5, 2, (m, 1)).astype(net.dtype) if weights else None
    return Dataset(rng.normal(size=(m, 6)).astype(net.dtype), y.astype(net.dtype), w)


class Captured:
    """The epoch of a network, with the operations that its steps were compiled from."""

    def __init__(
        self,
        net: Network,
        m: int,
        batch: int,
        *,
        optimizer: Any = None,
        weights: bool = False,
        clip: float | None = None,
    ) -> None:
        engine, backend = net.model, net.model.backend
        self.compiled: list[list[Operation]] = []
        keep = backend.compile

        def compile(operations: Sequence[Operation], times: int = 1, runs: int = 1) -> Callable[[], None]:
            run = keep(operations, times, runs)
            self.compiled.append(list(operations))
            return run

        patch = pytest.MonkeyPatch()
        patch.setattr(backend, "compile", compile)
        rule = optimizer or Adam()
        self.steps = -(-m // batch)
        self.updater = Updater(engine, rule, self.steps, clip, OptimizerState())
        n_out = engine.n_out
        self.training_pass = Epoch(engine, data(net, m, weights, n_out), batch, training=True, update=self.updater)
        patch.undo()

    def epoch(self) -> None:
        self.updater.begin(np.full(self.steps, 1e-3))
        self.training_pass.run()


def peak_of(function: Callable[[], None]) -> tuple[int, int]:
    """Bytes that live after a call beside those before it, and the most that lived within: the least of ten calls.

    What a call allocates shows every time; what another thread of the process allocates meanwhile does not.
    """
    tracemalloc.start()
    try:
        found = []
        for _ in range(10):
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            function()
            after, peak = tracemalloc.get_traced_memory()
            found.append((after - before, peak - before))
    finally:
        tracemalloc.stop()
    lives, peaks = zip(*found, strict=True)
    return min(lives), min(peaks)


VARIANTS: dict[str, dict[str, Any]] = {
    **{f"hidden {name}": {"hidden": [Dense(4, name)]} for name in HIDDEN},
    "dropout": {"hidden": [Dropout(0.2), Dense(4, "relu"), Dropout(0.5)]},
    "weights": {"weights": True},
    "clipping": {"clip": 0.1},
    "decay": {"weight_decay": 0.1},
    "sgd": {"optimizer": SGD(0.1, momentum=0.9, nesterov=True)},
    "rmsprop": {"optimizer": RMSprop(centered=True, momentum=0.5)},
    "squared error": {"loss": "squared_error"},
    "huber": {"loss": "huber"},
    "binary": {"loss": "binary_cross_entropy", "n_out": 1},
    "everything": {
        "hidden": [Dense(4, "gelu"), Dropout(0.5), Dense(5, "leaky_relu")],
        "weights": True,
        "clip": 0.1,
        "weight_decay": 0.1,
    },
}


@pytest.fixture(params=VARIANTS, ids=str)
def variant(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"hidden": [Dense(4, "tanh")], **VARIANTS[request.param]}


def captured(variant: dict[str, Any], m: int, batch: int, **more: Any) -> Captured:
    options = {**variant, **more}
    training_pass = {name: options.pop(name) for name in ("optimizer", "weights", "clip") if name in options}
    return Captured(network(*options.pop("hidden"), **options), m, batch, **training_pass)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_allocates_nothing(variant: dict[str, Any], dtype: str) -> None:
    """After warm-up two steps of M samples leave nothing behind, and hold no temporary of even one number a sample."""
    run = captured(variant, 2 * M, M, dtype=dtype)
    run.epoch()
    run.updater.begin(np.full(2, 1e-3))
    with np.errstate(all="ignore"):
        run.training_pass.run()
        lives, peak = peak_of(run.training_pass.run)
    assert peak < VECTOR
    assert lives < 1000


def test_measure_sees_a_temporary() -> None:
    """The test of the test: one number a sample is found, though it is freed at once."""
    a = np.zeros(M, np.float32)
    lives, peak = peak_of(lambda: np.copyto(a, a * 2))
    assert peak >= VECTOR
    assert lives < 1000


def test_whole_batch_and_remainder_allocate_nothing() -> None:
    for m, batch in ((M, M), (5 * M // 2, M)):
        run = captured(VARIANTS["everything"], m, batch)
        run.epoch()
        run.training_pass.run()
        lives, peak = peak_of(run.training_pass.run)
        assert peak < VECTOR
        assert lives < 1000


def arrays(run: Captured) -> Iterator[NDArray[Any]]:
    """Every array that an operation of a step reads or writes."""
    for operation in itertools.chain(*run.compiled):
        yield from operation.reads
        yield from operation.writes


def test_every_buffer_of_a_float32_step_is_float32(variant: dict[str, Any]) -> None:
    run = captured(variant, 50, 20)
    assert len(run.compiled) == 2
    seen = list(arrays(run))
    assert len(seen) > 50
    # The one float64 number is the running sum of the losses.
    wide = [array for array in seen if array.dtype == np.float64]
    assert all(array.size == 1 for array in wide)
    kinds = {array.dtype for array in seen if array.size > 1}
    assert kinds <= {np.dtype(np.float32), np.dtype(np.bool), np.dtype(np.int64)}
    assert np.dtype(np.float32) in kinds


def test_every_buffer_of_a_float64_step_is_float64(variant: dict[str, Any]) -> None:
    run = captured(variant, 50, 20, dtype="float64")
    floats = {array.dtype for array in arrays(run) if array.dtype.kind == "f"}
    # The uniform numbers of dropout are float32 in every network.
    dropout = any(isinstance(layer, Dropout) for layer in variant["hidden"])
    assert floats == {np.dtype(np.float64)} | ({np.dtype(np.float32)} if dropout else set())


def test_steps_run_the_same_list_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once built, an epoch asks its backend for nothing: no buffer, nothing to compile, no look at a value."""
    run = captured(VARIANTS["everything"], 50, 20)
    before = list(run.compiled)
    backend = run.training_pass.model.backend

    def refuse(*_: Any) -> None:
        pytest.fail("a step asked the backend for something new")

    for name in ("empty", "upload", "download", "random_stream", "compile"):
        monkeypatch.setattr(backend, name, refuse)
    run.training_pass.run()
    run.training_pass.run()
    assert run.compiled == before


def test_repeated_runs_give_the_same_bits() -> None:
    net = network(Dense(4, "gelu"))
    X, y = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32), np.zeros((9, 1), np.float32)
    executor = Executor(net.model, Batch(X, y), gradients=True)
    found = []
    for _ in range(3):
        executor.run_forward()
        executor.run_backward()
        found.append((executor.h.tobytes(), executor.total.tobytes(), net.model.parameters.gradient.tobytes()))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("weighted", [False, True])
def test_cost_share_weight_and_loss(weighted: bool) -> None:
    """C of each sample, w / Σw, Σw, and Σ share · C: J without the decay."""
    net = network(Dense(4, "tanh"), loss="squared_error", dtype="float64", weight_decay=0.5)
    rng = np.random.default_rng(0)
    X, y, w = rng.normal(size=(7, 6)), rng.normal(size=(7, 3)), rng.uniform(1, 3, (7, 1))
    executor = Executor(net.model, Batch(X, y, w if weighted else None))
    executor.run_forward()
    cost = 0.5 * ((net.forward(X) - y) ** 2).sum(axis=1)
    weight = w[:, 0] if weighted else np.ones(7)
    np.testing.assert_allclose(executor.cost[0], cost, rtol=1e-13)
    np.testing.assert_allclose(np.broadcast_to(executor.share[0], 7), weight / weight.sum(), rtol=1e-14)
    assert executor.weight[0, 0] == pytest.approx(weight.sum(), rel=1e-14)
    assert executor.total[0, 0] == pytest.approx(weight @ cost, rel=1e-13)


def test_batch_whose_weights_are_all_zero_has_no_gradient() -> None:
    net = network(Dense(4, "tanh"), dtype="float64")
    X = np.ones((3, 6))
    executor = Executor(net.model, Batch(X, np.zeros((3, 1)), np.zeros((3, 1))), gradients=True)
    net.model.parameters.gradient[...] = np.nan
    executor.run_forward()
    executor.run_backward()
    assert executor.total[0, 0] == 0
    np.testing.assert_array_equal(net.model.parameters.gradient, 0)


def test_what_nobody_wants_is_not_recorded() -> None:
    net = network(Dense(4, "tanh"))
    X, y = np.ones((5, 6), np.float32), np.zeros((5, 1), np.float32)
    bare = Executor(net.model, Batch(X))
    with_loss = Executor(net.model, Batch(X, y))
    full = Executor(net.model, Batch(X, y), gradients=True, want_dx=True)
    assert bare.backward == with_loss.backward == []
    assert len(bare.forward) < len(with_loss.forward) == len(full.forward)
    assert bare.dx is None
    assert full.dx.shape == (6, 5)
    # Without ∂J/∂x the way back ends at the first layer that learns.
    assert len(Executor(net.model, Batch(X, y), gradients=True).backward) < len(full.backward)


def test_z_is_kept_where_asked() -> None:
    net = network(Dense(4, "tanh"))
    X = np.ones((5, 6), np.float32)
    kept, lean = (Executor(net.model, Batch(X), keep_z=keep) for keep in (True, False))
    assert isinstance(kept.nodes[0], DenseNode)
    assert isinstance(lean.nodes[0], DenseNode)
    assert kept.nodes[0].z is not kept.nodes[0].a
    assert lean.nodes[0].z is lean.nodes[0].a


def test_buffers_are_features_by_samples() -> None:
    net = network(Dense(4, "tanh"))
    executor = Executor(net.model, Batch(np.ones((5, 6), np.float32)))
    assert executor.nodes[0].a.shape == (4, 5)
    assert executor.h.shape == (3, 5)
    assert all(node.a.flags.c_contiguous for node in executor.nodes)


def test_inputs_are_only_read() -> None:
    net = network(Dropout(0.5), Dense(4, "tanh"), Dropout(0.5))
    X, y, w = np.ones((5, 6), np.float32), np.zeros((5, 1), np.float32), np.ones((5, 1), np.float32)
    for array in (X, y, w):
        array.flags.writeable = False
    executor = Executor(net.model, Batch(X, y, w), training=True, gradients=True, want_dx=True)
    executor.run_forward()
    executor.run_backward()
    assert np.isfinite(net.model.parameters.gradient).all()
    assert (X == 1).all()
