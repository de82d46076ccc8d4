"""`fit(batches=)` and memory maps: data larger than memory, with the results of data in memory."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnbp
from nnbp import Network
from nnbp.errors import DataError, ShapeError
from nnbp.training.stream import Stream

RNG = np.random.default_rng(0)
X = RNG.normal(size=(203, 4)).astype(np.float32)
Y = X[:, 0] * X[:, 1]
W = RNG.uniform(0, 2, size=203)


def cut(*arrays: Any, sizes: Any = (50, 1, 80)) -> Callable[[], Iterator[Any]]:
    """A function that reads arrays in blocks of these sizes, in turn."""

    def batches() -> Iterator[Any]:
        first, number = 0, 0
        while first < len(arrays[0]):
            size = sizes[number % len(sizes)]
            yield tuple(array[first : first + size] for array in arrays)
            first, number = first + size, number + 1

    return batches


def network(*layers: Any, **options: Any) -> Network:
    return Network([4, *(layers or (nnbp.Dense(8, "tanh"), nnbp.Dense(1)))], seed=0, **{"device": "cpu", **options})


def stream(net: Network, batches: Any, buffer: int = 0) -> Stream:
    return Stream(batches, buffer, net._adapter)


# ---- the same results


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_stream_gives_the_bits_of_arrays_in_the_same_order(weighted: bool, dtype: str, backend: Any) -> None:
    layers = nnbp.Dense(8, "tanh"), nnbp.Dropout(0.2), nnbp.Dense(1)
    one = network(*layers, device=backend, dtype=dtype, weight_decay=0.01)
    two = one.copy()
    arrays = (X, Y, W) if weighted else (X, Y)
    options: dict[str, Any] = {"epochs": 4, "validation_data": (X[:30], Y[:30]), "progress": False, "clip_norm": 1.0}
    history = one.fit(X, Y, sample_weight=W if weighted else None, shuffle=False, **options)
    assert two.fit(batches=cut(*arrays), **options) == history
    assert np.array_equal(one.forward(X), two.forward(X))


@pytest.mark.filterwarnings("ignore::nnbp.ConvergenceWarning")
@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 90), min_size=1, max_size=4), batch=st.integers(1, 210))
def test_blocks_of_any_size_give_the_same_bits(sizes: list[int], batch: int) -> None:
    one, two = network(), network()
    one.fit(X, Y, shuffle=False, epochs=2, batch_size=batch, progress=False)
    two.fit(batches=cut(X, Y, sizes=sizes), epochs=2, batch_size=batch, progress=False)
    # A batch of all samples is not gathered in memory, and so takes the same products of another layout.
    assert np.allclose(one.parameters, two.parameters, rtol=0, atol=0 if batch < 203 else 1e-6)


def test_sizes_statistics_and_classes_are_taken_from_the_first_epoch() -> None:
    labels = (X[:, 0] > 0) + (X[:, 1] > 1).astype(int)
    order = np.argsort(-labels)  # the largest class in the first block, from which the number of classes is taken
    Z, labels = 5 + 3 * X[order], labels[order]
    one = Network(
        [nnbp.Standardize(), nnbp.Dense(6, "relu"), nnbp.Dense(3)], loss="cross_entropy", device="cpu", seed=0
    )
    two = one.copy()
    one.fit(Z, labels, shuffle=False, epochs=3, progress=False)
    two.fit(batches=cut(Z, labels), epochs=3, progress=False)
    assert np.allclose(one.predict_proba(Z), two.predict_proba(Z), atol=1e-5)
    sized = Network(loss="cross_entropy", device="cpu", seed=0)
    sized.fit(batches=cut(Z, labels), epochs=1, progress=False)
    assert sized.model.sizes == [4, 100, 3]


def test_metrics_are_measured_on_a_sample_and_on_validation_data() -> None:
    history = network().fit(batches=cut(X, Y), validation_data=(X, Y), metrics=["r2"], epochs=2, progress=False)
    # All samples, because there are fewer than 10,000.
    assert history["r2"] == history["val_r2"]


def test_the_sample_is_spread_over_all_samples() -> None:
    m = 50_000
    rows = np.arange(m, dtype=np.float64).reshape(-1, 1)
    net = Network([1, 1], device="cpu", dtype="float64", seed=0)
    sample = stream(net, cut(rows, rows[:, 0], sizes=[700])).sample
    assert len(sample) == 10_000
    assert len(np.unique(sample.X)) == 10_000
    assert np.array_equal(sample.X, sample.y)
    assert abs(sample.X.mean() - m / 2) < 0.02 * m


# ---- the shuffle buffer


@settings(max_examples=50, deadline=None)
@given(buffer=st.integers(1, 60), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3), seed=st.integers(0, 9))
def test_shuffling_gives_every_sample_once_whatever_the_blocks(buffer: int, sizes: list[int], seed: int) -> None:
    rows = np.arange(97, dtype=np.float64).reshape(-1, 1)
    net = Network([1, 1], device="cpu", dtype="float64", seed=0)

    def order(sizes: list[int]) -> Any:
        feed = stream(net, cut(rows, rows[:, 0], sizes=sizes), buffer)
        feed.shuffle(np.random.default_rng(seed))
        feed.begin()
        into = [np.empty((97, 1)), np.empty((97, 1))]
        feed.take([array[:31] for array in into])
        feed.take([array[31:] for array in into])
        assert np.array_equal(*into)
        return into[0][:, 0]

    found = order(sizes)
    assert Counter(found) == Counter(rows[:, 0])
    # A sample comes at most a buffer early.
    assert (found - np.arange(97) < buffer).all()
    assert np.array_equal(found, order([13])), "the order depends on the buffer and the seed, and not on the blocks"


def test_each_epoch_has_another_order_and_each_seed_the_same() -> None:
    def trained(seed: int, buffer: int) -> Any:
        net = Network([4, 6, 1], activation="tanh", device="cpu", seed=seed)
        net.set_parameters([np.full((6, 4), 0.1), np.full((1, 6), 0.1)], [np.zeros(6), np.zeros(1)])
        net.fit(batches=cut(X, Y), shuffle_buffer=buffer, epochs=2, progress=False)
        return np.array(net.parameters)

    assert np.array_equal(trained(0, 64), trained(0, 64))
    assert not np.array_equal(trained(0, 64), trained(1, 64))
    assert np.array_equal(trained(0, 0), trained(1, 0))


def test_a_stopped_stream_resumes_with_the_same_bytes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"batches": cut(X, Y), "shuffle_buffer": 64, "epochs": 6, "progress": False}
    whole = network(nnbp.Dense(8, "tanh"), nnbp.Dropout(0.1), nnbp.Dense(1))
    stopped, resumed = whole.copy(), whole.copy()
    whole.fit(**options)

    def stop(state: nnbp.TrainingState) -> None:
        if state.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.fit(**options, checkpoint=nnbp.Checkpoint(tmp_path), callbacks=[stop])
    history = resumed.fit(**options, checkpoint=nnbp.Checkpoint(tmp_path), resume=True)
    assert history == whole.history
    assert np.array_equal(resumed.parameters, whole.parameters)
    changed = {**options, "batches": cut(X, Y + 1)}
    with pytest.raises(ValueError, match="data"):
        whole.copy().fit(**changed, checkpoint=nnbp.Checkpoint(tmp_path), resume=True)


# ---- memory


def peak(run: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_no_more_than_a_block_and_the_buffer_are_in_memory() -> None:
    n, size = 64, 2_000

    def batches() -> Iterator[Any]:
        rng = np.random.default_rng(0)
        for _ in range(100):
            block = rng.normal(size=(size, n)).astype(np.float32)
            yield block, block[:, 0]

    net = Network([n, 8, 1], device="cpu", seed=0)
    whole = 100 * size * n * 4
    used = peak(lambda: net.fit(batches=batches, shuffle_buffer=2_000, epochs=2, batch_size=256, progress=False))
    # The sample of 10,000 rows, a few blocks, and the buffers of a step.
    assert used < 10_000 * n * 4 + 16 * size * n * 4 + 4_000_000 < whole / 2


@pytest.mark.parametrize("dtype", ["float64", "int16"])
def test_a_memory_map_of_another_dtype_is_not_copied(dtype: str, tmp_path: Path) -> None:
    rows = np.memmap(tmp_path / "X", dtype, "w+", shape=(300_000, 40))
    rows[...] = np.random.default_rng(0).integers(-3, 4, size=rows.shape)
    y = np.array(rows[:, 0], np.float32)
    one, two = (Network([40, 4, 1], device="cpu", seed=0) for _ in range(2))
    used = peak(lambda: one.fit(rows, y, epochs=1, batch_size=256, progress=False))
    assert used < rows.size * 4 * 0.6, "a copy in float32 and more"
    two.fit(np.array(rows, np.float32), y, epochs=1, batch_size=256, progress=False)
    assert np.array_equal(one.parameters, two.parameters)
    assert np.array_equal(one.predict(rows[:5000]), two.predict(rows[:5000]))


# ---- what is refused


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, TypeError, r"received none of them. Call fit\(X, y\)"),
        ({"X": X}, TypeError, "y holds"),
        ({"X": X, "y": Y, "shuffle_buffer": 5}, ValueError, "shuffle_buffer .* received 5"),
        ({"batches": cut(X, Y), "X": X}, ValueError, "received X, too"),
        ({"batches": cut(X, Y), "sample_weight": W}, ValueError, "received sample_weight, too"),
        ({"batches": cut(X, Y), "class_weight": "balanced"}, ValueError, "received class_weight, too"),
        ({"batches": cut(X, Y), "validation_split": 0.1}, ValueError, "received validation_split, too"),
        ({"batches": cut(X, Y), "batch_size": None}, ValueError, "batch_size=None"),
        ({"batches": cut(X, Y), "optimizer": "lbfgs"}, ValueError, "optimizer lbfgs"),
        ({"batches": cut(X, Y), "shuffle_buffer": -1}, ValueError, "shuffle_buffer"),
        ({"batches": cut(X, Y)()}, TypeError, "received <generator .* Pass the function itself"),
        ({"batches": lambda: 3}, TypeError, "received 3 from it. Write a generator function"),
        ({"batches": lambda: iter([X])}, TypeError, r"Each block of batches\(\) is \(X, y\)"),
        ({"batches": lambda: iter([])}, DataError, "returned no block"),
        ({"batches": cut(X, Y, np.zeros(203))}, DataError, "weights of all blocks are 0|above 0"),
        ({"batches": lambda: iter([(X, Y), (X, Y, W)])}, DataError, "received block 1 with them"),
        ({"batches": lambda: iter([(X, Y), (X[:, :3], Y)])}, ShapeError, r"\(m, 4\)"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_change_nothing(arguments: Any, error: Any, message: str) -> None:
    net = network()
    before = net.parameters.copy()
    with pytest.raises(error, match=message):
        net.fit(**arguments, progress=False)
    assert np.array_equal(net.parameters, before)
    assert net.history is None


def test_a_bad_number_is_found_by_its_block_and_sample_before_training_begins() -> None:
    bad = X.copy()
    bad[60, 2] = np.nan
    net = network()
    before = net.parameters.copy()
    with pytest.raises(DataError, match="received nan in row 60, column 2") as caught:
        net.fit(batches=cut(bad, Y), progress=False)
    assert "This is block 2 of batches(), which begins with sample 51" in "".join(caught.value.__notes__)
    assert np.array_equal(net.parameters, before)


@pytest.mark.parametrize("later", [150, 230])
def test_another_number_of_samples_in_a_later_epoch_is_an_error(later: int) -> None:
    calls = []

    def batches() -> Any:
        calls.append(1)
        count = 203 if len(calls) < 4 else later
        return cut(np.resize(X, (count, 4)), np.resize(Y, count))()

    net, two = network(), network()
    with pytest.raises(DataError, match=rf"203 in the first one; received (at least )?{later}"):
        net.fit(batches=batches, epochs=9, progress=False)
    # The parameters of the last complete epoch stay: two of them, after the one that was read to check the samples.
    two.fit(batches=cut(X, Y), epochs=2, progress=False)
    assert np.array_equal(net.parameters, two.parameters)


def test_an_iterator_that_is_used_up_is_an_error_that_says_so() -> None:
    blocks = cut(X, Y)()
    with pytest.raises(DataError, match="a generator function, and not a generator"):
        network().fit(batches=lambda: blocks, progress=False)


def test_a_block_much_larger_than_the_buffer_is_not_copied_again_and_again() -> None:
    """So that a buffer of 100 samples, and blocks of 200,000, take as long as other buffers."""
    rows = np.arange(200_000, dtype=np.float64).reshape(-1, 1)
    net = Network([1, 1], device="cpu", dtype="float64", seed=0)
    feed = stream(net, cut(rows, rows[:, 0], sizes=[200_000]), 100)
    feed.shuffle(np.random.default_rng(0))
    feed.begin()
    into = [np.empty((100_000, 1)), np.empty((100_000, 1))]
    assert peak(lambda: feed.take(into)) < 1_000_000
