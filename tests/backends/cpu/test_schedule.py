"""The schedule: which operations share a phase, and that several threads compute what one computes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nnbp import Dense, Dropout, Network
from nnbp.engine.dataset import Dataset
from nnbp.engine.epoch import Epoch
from nnbp.engine.updater import OptimizerState, Updater
from nnbp.graph.backend import backend_class
from nnbp.graph.formula import trace
from nnbp.graph.ops import Foreign, Gemm, Map, Operation, Reduce, Uniform
from nnbp.optim.optimizers import Adam

NumpyBackend = backend_class("numpy")
Registers = importlib.import_module("nnbp.backends.cpu.chains").Registers
schedule = importlib.import_module("nnbp.backends.cpu.schedule")
task = importlib.import_module("nnbp.backends.cpu.tasks").task


class FakeBlas:
    """A BLAS with a number of threads of our choice, which notes what it is asked for."""

    def __init__(self, number: int) -> None:
        self.threads, self.asked, self.is_alone = number, set(), True

    def run(self, number: int, job: Callable[[], None]) -> None:
        self.asked.add(number)
        job()


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], FakeBlas]:
    """Makes every step worth so many threads, however small it is."""

    def make(number: int) -> FakeBlas:
        blas = FakeBlas(number)
        monkeypatch.setattr(schedule, "blas", lambda: blas)
        costs = schedule.Costs(call=1.0, wake=0.0, phase=-1.0, least=-1.0, share=9.0)
        monkeypatch.setattr(schedule, "_COSTS", costs)
        monkeypatch.setattr(schedule, "_NARROWEST", 16)
        return blas

    return make


def step_of(net: Network, m: int, batch: int, clip_norm: float | None = 1.0) -> tuple[Epoch, Updater]:
    """A training epoch of a network."""
    rng = np.random.default_rng(0)
    engine = net.model
    updater = Updater(engine, Adam(), -(-m // batch), clip_norm, OptimizerState())
    X = rng.normal(size=(m, engine.n_in)).astype(engine.dtype)
    y = rng.integers(0, engine.n_out, (m, 1)).astype(engine.dtype)
    epoch = Epoch(
        engine, Dataset(X, y, rng.uniform(0, 2, (m, 1)).astype(engine.dtype)), batch, training=True, update=updater
    )
    return epoch, updater


def network(**options: Any) -> Network:
    layers = [12, Dense(40, "tanh"), Dropout(0.2), Dense(33, "relu"), Dense(4)]
    return Network(layers, loss="cross_entropy", weight_decay=0.01, device=NumpyBackend(), seed=1, **options)


def kinds(phase: Any) -> list[str]:
    return [type(task).__name__ for task in phase.tasks]


def test_samples_are_one_phase_and_sums_over_them_the_next_with_the_update() -> None:
    net = Network([12, Dense(40, "tanh"), Dense(4)], loss="cross_entropy", device=NumpyBackend(), seed=1)
    engine, rng = net.model, np.random.default_rng(0)
    X, y = rng.normal(size=(512, 12)).astype(np.float32), np.zeros((512, 1), np.float32)
    steps: list[Sequence[Operation]] = []
    keep = net.model.backend.compile
    net.model.backend.compile = lambda operations, *counts: steps.append(operations) or keep(operations, *counts)  # type: ignore[method-assign]
    Epoch(engine, Dataset(X, y), 256, training=True, update=Updater(engine, Adam(), 2, None, OptimizerState()))
    tasks = list(map(task, steps[0]))
    samples, sums, *rest = schedule.phases(tasks, schedule.Cut(tasks, 2))
    # Every task whose columns are samples, and what does not depend on them (the rates of the step).
    assert sum(task.length == 256 for task in samples.tasks) == sum(task.length == 256 for task in tasks)
    assert all(task.length == 256 or kind == "Gather" for task, kind in zip(samples.tasks, kinds(samples), strict=True))
    # The sum of the costs, ∂C/∂W and ∂C/∂b of both layers, the running total, and the update.
    assert kinds(sums) == ["Gemm"] * 5 + ["Elementwise"] * 2
    shapes = [op.writes[0].shape for op in sums.tasks]
    assert shapes == [(1, 1), (4, 40), (4, 1), (40, 12), (40, 1), (1, 1), (1, 684)]
    assert [kinds(phase) for phase in rest] == [["Call"]], "the step counter, of which nothing is known, stays last"


@pytest.mark.skipif(isinstance(schedule.walker(), str), reason="the compiled part is not used")
@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_on_several_threads_is_training_on_one(
    number: int, dtype: str, several: Callable[[int], FakeBlas]
) -> None:
    """Dropout, weights, clipping, decay and a smaller last batch; products may round otherwise, nothing else may."""

    def trained() -> NDArray[Any]:
        net = network(dtype=dtype)
        epoch, updater = step_of(net, 330, 128)
        for _ in range(3):
            updater.begin(np.full(epoch.steps, 0.01))
            with net.model.backend.active():
                epoch.run()
        return np.append(np.array(net.parameters), epoch.total)

    alone = trained()
    blas = several(number)
    found = [trained() for _ in range(3)]
    assert blas.asked == {1}, "with workers of our own, BLAS works on one thread"
    np.testing.assert_allclose(found[0], alone, rtol=2e-3 if dtype == "float32" else 1e-9, atol=1e-4)
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()


@pytest.mark.parametrize("number", [2, 3, 8])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_thread_updates_what_it_computed(number: int, decay: float) -> None:
    """The parts of ∂C/∂W, ∂C/∂b, the decay and the update lie at the same places of theta and its gradient."""
    net = Network([30, 50, 7], loss="cross_entropy", weight_decay=decay, device=NumpyBackend(), seed=1)
    steps: list[Sequence[Operation]] = []
    keep = net.model.backend.compile
    net.model.backend.compile = lambda operations, *counts: steps.append(operations) or keep(operations, *counts)  # type: ignore[method-assign]
    step_of(net, 512, 256, clip_norm=None)
    tasks, gradient = list(map(task, steps[0])), net.model.parameters.gradient
    cut = schedule.Cut(tasks, number)
    owners = np.full(gradient.size, -1)
    writers = [own for own in tasks if own.writes and np.shares_memory(own.writes[0], gradient)]
    assert len(writers) == 4 + (decay > 0)
    for own in [*writers, next(own for own in tasks if own.length == gradient.size)]:
        start, unit = own.place.start, own.place.unit
        for k, part in enumerate(cut.parts(own)):
            where = owners[start + part.start * unit : start + part.stop * unit]
            assert np.isin(where, [-1, k]).all()
            where[:] = k
    counts = np.bincount(owners, minlength=number)
    assert (owners >= 0).all()
    assert counts.max() - counts.min() <= 30 + 16 + 30, "as even as rows of 30 numbers allow"
    (together,) = [phase for phase in schedule.phases(tasks, cut) if writers[0] in phase.tasks]
    assert all(own in together.tasks for own in writers)


FORMULAS = [
    trace(lambda a, b: a + b, "a", "b"),
    trace(lambda a, b: np.tanh(a) * b, "a", "b"),
    trace(lambda a, b: np.where(a > b, a, 0.5 * b), "a", "b"),
]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_order_of_operations_keeps_its_meaning(data: st.DataObject) -> None:
    """Random programs on a few shared arrays, of which every pair may depend on each other in any way."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    square = [rng.normal(size=(48, 48)) / 10 for _ in range(4)]
    arrays = [*square, *(x.T for x in square), square[0].reshape(1, -1), square[1].reshape(1, -1)]
    rows = [rng.normal(size=(1, 48)) for _ in range(2)]
    program: list[Operation] = []
    for _ in range(data.draw(st.integers(2, 9))):
        kind = data.draw(st.sampled_from(["gemm", "flat", "map", "map", "maximum", "other"]))
        i, j = data.draw(st.integers(0, 7)), data.draw(st.integers(0, 7))
        out = data.draw(st.sampled_from([k for k in range(4) if k not in (i % 4, j % 4)]))
        formula = data.draw(st.sampled_from(FORMULAS))
        if kind == "gemm":
            program.append(Gemm(arrays[i], arrays[j], square[out]))
        elif kind == "flat":
            program.append(Map(formula, [arrays[8], arrays[9]], [arrays[8 + i % 2]]))
        elif kind == "map":
            first = square[out] if data.draw(st.booleans()) else arrays[i]
            program.append(Map(formula, [first, rows[j % 2]], [square[out]]))
        elif kind == "maximum":
            program.append(Reduce("maximum", square[out], 0, rows[j % 2]))
        else:
            program.append(Foreign(np.negative, (square[out], square[out])))
    start = [x.copy() for x in [*square, *rows]]
    tasks = list(map(task, program))
    results = []
    for number in (1, 3):
        for x, before in zip([*square, *rows], start, strict=True):
            x[...] = before
        registers = [Registers(native=False) for _ in range(number)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(schedule, "_NARROWEST", 16)
            cut = schedule.Cut(tasks, number)
            lists = [schedule._programs(phase, cut, registers) for phase in schedule.phases(tasks, cut)]
        # The worst that threads may do: the last one is through with a phase before the first begins.
        with np.errstate(all="ignore"):
            for phase in lists:
                for part in reversed(phase):
                    part()
        results.append([x.copy() for x in [*square, *rows]])
    for one, many in zip(*results, strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("columns", [1, 31, 64, 100, 1000])
@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_parts_cover_all_columns_once_and_are_no_slivers(columns: int, number: int) -> None:
    a = np.ones((2, columns))
    own = task(Map(FORMULAS[0], [a, a], [np.empty_like(a)]))
    found = schedule.Cut([own], number).parts(own)
    assert [i for part in found for i in range(columns)[part]] == list(range(columns))
    assert len(found) in (1, number)
    assert len(found) == 1 or min(part.stop - part.start for part in found) >= 16


def test_small_products_leave_blas_alone_and_medium_ones_take_one_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blas = FakeBlas(2)
    monkeypatch.setattr(schedule, "blas", lambda: blas)
    backend = NumpyBackend()

    def product(n: int) -> None:
        a = np.ones((n, n), np.float32)
        backend.compile([Gemm(a, a, np.empty_like(a))])()

    product(16)
    assert blas.asked == set(), "BLAS itself gives such a product to one thread"
    product(128)
    assert blas.asked == {1}


def test_draws_of_one_stream_stay_in_their_order(several: Callable[[int], FakeBlas]) -> None:
    several(2)
    backend = NumpyBackend()
    stream, x, a, c = backend.random_stream((1, 2)), np.ones((1, 64)), np.empty((1, 64)), np.empty((4, 64), np.float32)
    first = np.empty((4, 64), np.float32)
    # The first draw has to wait for what reads its place, the second for nothing but the first.
    increment = Map(trace(lambda u: u + 1.0, "u"), [first], [first])
    backend.compile([Map(FORMULAS[0], [x, x], [a]), increment, Uniform(stream, first), Uniform(stream, c)])()
    wanted = np.random.Generator(np.random.Philox(key=np.array([1, 2], np.uint64))).random((8, 64), np.float32)
    np.testing.assert_array_equal(np.concatenate([first, c]), wanted)


def test_arrays_over_memory_that_is_not_numpys_are_taken_to_overlap_where_they_do() -> None:
    memory = bytearray(8 * 256 * 2)
    one, other = (np.frombuffer(memory).reshape(2, 256) for _ in range(2))
    first = Map(FORMULAS[0], [one, one], [one])
    tasks = [task(first), task(Map(FORMULAS[0], [other[:, ::-1], other], [np.empty((2, 256))]))]
    found = schedule.phases(tasks, schedule.Cut(tasks, 2))
    assert [len(phase.tasks) for phase in found] == [1, 1]


def test_a_step_that_cannot_be_cut_takes_the_threads_of_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    blas = FakeBlas(2)
    monkeypatch.setattr(schedule, "blas", lambda: blas)
    W, x = np.ones((4000, 4000), np.float32), np.ones((4000, 20), np.float32)
    backend = NumpyBackend()
    backend.compile([Gemm(W, x, np.empty((4000, 20), np.float32))])
    run = backend.compile([Gemm(W, x, np.empty((4000, 20), np.float32))] * 3)
    run()
    assert blas.asked == {2}
