"""Many steps as one kernel: the same numbers as from the kernels one by one, and which steps are taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from compiled_kernels import ARCHITECTURES, kernels, nvrtc_compile
from emulated_cupy import Device, EmulatedArray, Memory, emulated_backend_class
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernel_samples import function_of, needs_compiler
from nnbp.backends.cuda import codegen, persistent

from nnbp import BatchNorm, Dense, Dropout, LayerNorm, Network, Standardize
from nnbp.graph.backend import backend_class
from nnbp.graph.formula import trace
from nnbp.graph.ops import Foreign, Gemm, Map
from nnbp.testing.parity import compare_devices

DTYPES = [np.float32, np.float64]
SIZES = st.sampled_from([1, 2, 4, 5, 16, 31, 33, 64, 65, 70])


@pytest.fixture(params=[pytest.param("80", marks=needs_compiler), pytest.param("90", marks=needs_compiler),
                        pytest.param("cupy", marks=pytest.mark.gpu)])  # fmt: skip
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Opens a backend: of a card where one block runs, of one where a cluster does, or of the card that is there."""
    return backend_class("cupy") if request.param == "cupy" else emulated(request.param, monkeypatch)


@pytest.fixture
def opened_90(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Opens a backend of an emulated card that has clusters."""
    return emulated("90", monkeypatch)


def emulated(capability: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    # Threads that take turns take long.
    monkeypatch.setattr(persistent, "_LEAST", 1)
    monkeypatch.setattr("nnbp.backends.cuda.codegen_fused.THREADS", 64)
    monkeypatch.setattr(Device, "compute_capability", capability)
    monkeypatch.setitem(Device.attributes, "MultiProcessorCount", 16)
    # A workspace of cuBLAS is larger on Hopper.
    monkeypatch.setattr(Memory, "limit", 2**26)
    return emulated_backend_class()


def steps_of(backend: Any) -> list[str]:
    """The sources of its kernels that hold whole steps."""
    return [source for name, source in backend._kernels if name == "steps"]


NETWORKS: dict[str, dict[str, Any]] = {
    "classes": {"loss": "cross_entropy"},
    "values": {"loss": "huber", "dtype": "float64"},
    "weights decay": {"loss": "squared_error", "weight_decay": 0.01},
    "bfloat16": {"loss": "cross_entropy", "precision": "bf16"},
}


def problem(name: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(75, 6))
    return X, rng.integers(0, 3, 75) if NETWORKS[name]["loss"] == "cross_entropy" else rng.normal(size=(75, 3))


@pytest.mark.parametrize("name", NETWORKS)
def test_steps_in_one_kernel_are_the_steps(opened, name):
    """With all that a training step may have in it, and a smaller last batch, against the kernels one by one."""
    X, y = problem(name)
    found = []
    for least in (1, None):
        layers = [6, Standardize(), Dense(8, "tanh"), Dropout(0.25), Dense(5, "gelu"), Dense(3)]
        backend = opened(persistent=least)
        net = Network(layers, seed=0, device=backend, **NETWORKS[name])
        history = net.fit(
            X, y, epochs=3, batch_size=16, clip_norm=0.5, schedule="cosine", validation_split=0.2,
            sample_weight=np.linspace(0.5, 2, 75), progress=False,
        )  # fmt: skip
        assert bool(steps_of(backend)) is (least == 1)
        found.append([*history["loss"], *history["val_loss"], *net.model.backend.download(net.parameters)])
        streams = [s.position for s in net.model.streams if s is not None]
        assert streams == [3 * 60 * 8]
    # In bfloat16 the products of small networks are more precise than they were asked to be.
    close = {"rtol": 3e-2, "atol": 1e-2} if name == "bfloat16" else {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(*found, **(close if name != "values" else {"rtol": 1e-11, "atol": 1e-12}))


@pytest.mark.parametrize("kind", [BatchNorm, LayerNorm])
def test_normalization_in_one_kernel_is_that_of_the_steps(opened, kind):
    X, y = problem("classes")
    found = []
    for least in (1, None):
        backend = opened(persistent=least)
        layers = [6, Dense(8, "identity"), kind("tanh"), Dense(5, "gelu"), kind(), Dense(3)]
        net = Network(layers, loss="cross_entropy", dtype="float64", seed=0, device=backend)
        # Adam would enlarge the rounding errors of a gradient that is 0: that of biases before BatchNorm.
        history = net.fit(X, y, epochs=3, batch_size=16, optimizer="sgd", validation_split=0.2, progress=False)
        assert bool(steps_of(backend)) is (least == 1)
        found.append([*history["loss"], *history["val_loss"], *backend.download(net.model.parameters.values)])
    np.testing.assert_allclose(*found, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_a_network_trained_in_one_kernel_agrees_with_the_cpu(opened, optimizer):
    X, y = problem("classes")
    net = Network([6, Dense(9, "silu"), Dense(3)], loss="cross_entropy", dtype="float64", seed=1, device="cpu")
    backend = opened(persistent=1)
    report = compare_devices(net, X, y, devices=("cpu", backend), steps=10, batch_size=20, optimizer=optimizer)
    assert report.passed, str(report)
    assert steps_of(backend)


def test_the_same_bits_every_time(opened):
    X, y = problem("classes")
    found = []
    for graphs in (True, True, False):
        net = Network([6, 9, 3], loss="cross_entropy", seed=1, device=opened(persistent=1, graphs=graphs))
        net.fit(X, y, epochs=3, batch_size=16, progress=False)
        found.append(net.model.backend.download(net.parameters))
    for again in found[1:]:
        np.testing.assert_array_equal(again, found[0])


def test_more_steps_than_one_launch_has(opened, monkeypatch):
    monkeypatch.setattr(persistent, "_STEPS", 7)
    backend = opened(persistent=1)
    x = backend.upload(np.zeros((1, 3)), np.float64)
    step = [Map(trace(lambda x: 2.0 * x + 1.0, "x"), [x], [x])]
    for times in (6, 7, 8, 21, 22):
        x[...] = 0.0
        backend.compile(step, times)()
        np.testing.assert_array_equal(backend.download(x), np.full((1, 3), 2.0**times - 1))


def test_every_call_runs_all_launches_once_before_and_after_they_are_recorded(opened, monkeypatch):
    monkeypatch.setattr(persistent, "_STEPS", 7)
    backend = opened(persistent=1)
    x = backend.upload(np.zeros((1, 3)), np.float64)
    run = backend.compile([Map(trace(lambda x: x + 1.0, "x"), [x], [x])], 16)
    for call in range(1, 6):
        run()
        np.testing.assert_array_equal(backend.download(x), np.full((1, 3), 16.0 * call))


def test_only_many_steps_are_worth_a_kernel_of_their_own(opened):
    backend = opened(persistent=5)
    x = backend.upload(np.ones((1, 3)), np.float64)
    step = [Map(trace(lambda x: 2.0 * x, "x"), [x], [x])]
    backend.compile(step, 4)
    assert not steps_of(backend)
    backend.compile(step, 2, runs=2)
    assert not steps_of(backend)
    backend.compile(step, 2, runs=3)
    assert len(steps_of(backend)) == 1
    backend.compile(step, 5)
    assert len(steps_of(backend)) == 1, "it is the same kernel"


@needs_compiler
def test_a_card_without_room_for_clusters_runs_one_block_and_says_so_once(opened_90, monkeypatch):
    monkeypatch.setattr(Device, "clusters", False)
    X, y = problem("classes")
    backend = opened_90(persistent=1)
    net = Network([6, 9, 3], loss="cross_entropy", dtype="float64", seed=1, device=backend)
    with pytest.warns(RuntimeWarning, match=r"cuda:0 cannot run a cluster of . blocks .*INVALID_CLUSTER_SIZE"):
        net.fit(X, y, epochs=3, batch_size=16, progress=False)
    net.fit(X, y, epochs=2, batch_size=20, progress=False)
    first, *others = [("cluster" in source) for source in steps_of(backend)]
    assert first
    assert len(others) >= 2
    assert not any(others)
    expected = Network([6, 9, 3], loss="cross_entropy", dtype="float64", seed=1, device="cpu")
    expected.fit(X, y, epochs=3, batch_size=16, progress=False)
    expected.fit(X, y, epochs=2, batch_size=20, progress=False)
    np.testing.assert_allclose(backend.download(net.parameters), expected.parameters, rtol=1e-11, atol=1e-12)


@needs_compiler
def test_a_step_too_large_for_one_block_becomes_a_graph_if_there_is_no_room_for_clusters(opened_90, monkeypatch):
    monkeypatch.setattr(Device, "clusters", False)
    monkeypatch.setattr(persistent, "_WORK", 2**8)
    backend = opened_90(persistent=1)
    x = backend.upload(np.eye(8), np.float64)
    out = backend.empty((8, 8), np.float64)
    with pytest.warns(RuntimeWarning, match="cannot run a cluster"):
        backend.compile([Gemm(x, x, out)], 2)()
    np.testing.assert_array_equal(backend.download(out), np.eye(8))
    assert len(steps_of(backend)) == 1


def array(*shape: int) -> EmulatedArray:
    return np.ones(shape, np.float32).view(EmulatedArray)


def launched(*operations: Any, times: int = 1, most: int = 8) -> Any:
    return persistent.persistent_steps(operations, times, most, np.empty)  # type: ignore[arg-type]


def test_what_is_taken():
    small = Gemm(array(4, 5), array(5, 6), array(4, 6))
    (launch,) = launched(small, times=3)
    assert (launch.name, launch.size, launch.arguments[0]) == ("steps", 1, 3)
    assert launched(small, Foreign(print, ())) is None
    wide = Gemm(array(128, 64), array(64, 64), array(128, 64))
    assert launched(wide, most=1) is None
    assert launched(wide) is not None
    assert launched(wide, wide, wide) is None
    assert launched(*[small] * 60) is None, "more arguments than a kernel takes"


def test_more_work_is_shared_by_more_blocks():
    for size, blocks in ((8, 1), (40, 1), (41, 1), (52, 2), (64, 4), (81, 8), (101, 8)):
        (launch,) = launched(Gemm(array(size, size), array(size, size), array(size, size)))
        assert launch.size == blocks, size
        assert (f"__cluster_dims__({blocks}, 1, 1)" in launch.source) is (blocks > 1)


def test_the_number_of_launches():
    small = Gemm(array(4, 5), array(5, 6), array(4, 6))
    for times, expected in ((1023, [1023]), (1024, [1024]), (2050, [1024, 1024, 2])):
        assert [launch.arguments[0] for launch in launched(small, times=times)] == expected


def test_functions_wait_only_for_what_they_read(monkeypatch):
    a, b, c, d = array(4, 4), array(4, 4), array(4, 4), array(4, 4)
    monkeypatch.setattr(persistent, "_LEAST", 1)
    (launch,) = launched(Gemm(a, a, b), Gemm(a, a, c), Gemm(b, c, d))
    loop = launch.source[launch.source.index("for (int step") :]
    order = [word for line in loop.splitlines() for word in ("product(", "__cluster_barrier_wait") if word in line]
    assert order == ["product(", "product(", "__cluster_barrier_wait", "product(", "__cluster_barrier_wait"]
    (alone,) = launched(Gemm(a, a, b), most=1)
    assert "cluster" not in alone.source, "cards without clusters have no such word"


def test_cards_and_their_blocks():
    assert [persistent.most_blocks(capability, 16) for capability in (75, 80, 89, 90, 100, 120)] == [1, 1, 1, 8, 8, 8]
    assert persistent.most_blocks(90, 14) == 1, "a part of a card"


@needs_compiler
@settings(max_examples=40, deadline=None, phases=[Phase.generate])
@given(n=SIZES, k=SIZES, m=SIZES, dtype=st.sampled_from(DTYPES), layouts=st.tuples(*[st.sampled_from("CF")] * 2),
       blocks=st.sampled_from([1, 3, 8]), threads=st.sampled_from([32, 64, 256]))  # fmt: skip
def test_products(n, k, m, dtype, layouts, blocks, threads):
    rng = np.random.default_rng(n + 100 * k + 10_000 * m)
    a, b = (rng.normal(size=shape).astype(dtype, order=order) for shape, order in zip(((n, k), (k, m)), layouts))  # noqa: B905
    whole = np.full((n, m + 3), 7, dtype)
    out = whole[:, 1 : m + 1]
    launch = codegen.product(a, b, out, blocks, threads)
    assert launch.block == threads
    function_of(launch.source, launch.name)((2,), (threads,), launch.arguments)
    exact, size = a.astype(np.float64) @ b, np.abs(a).astype(np.float64) @ np.abs(b)
    assert (np.abs(out - exact) <= k * np.finfo(dtype).eps * size).all()
    assert (whole[:, [0, m + 1, m + 2]] == 7).all(), "it writes beside the result"


def test_tiles_are_enough_for_all_blocks():
    sizes = [codegen.product(array(64, 9), array(9, 64), array(64, 64), blocks, 256).size for blocks in (1, 4, 8)]
    assert sizes == [1, 4, 8]


@needs_compiler
def test_indices_of_64_bits(monkeypatch):
    monkeypatch.setattr(codegen, "NARROW", 0)
    a, b, out = np.ones((5, 3)), np.ones((3, 4)), np.zeros((5, 4))
    launch = codegen.product(a, b, out, 1, 64)
    assert "typedef long long I;" in launch.source
    function_of(launch.source, launch.name)((1,), (64,), launch.arguments)
    np.testing.assert_array_equal(out, np.full((5, 4), 3.0))


@pytest.mark.cupy
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_steps_of_every_kind_of_kernel_compile_for_every_architecture(architecture, dtype):
    m = np.zeros((4, 6), dtype).view(EmulatedArray)
    parts = [x for x in kernels(dtype) if all(argument.dtype != np.uint16 for argument in x.arguments)]
    parts = list({(x.name, "typedef long long I;" in x.source): x for x in parts}.values())
    parts.append(codegen.product(m, m.T, np.zeros((4, 4), dtype), 1, 256))
    kernel = persistent._Kernel()
    for part in parts:
        kernel.call(part)
        kernel.lines.append("__syncthreads();")
    source = kernel.source(persistent.most_blocks(int(architecture), 132))
    assert len(source.split("namespace part")) > 12
    assert b"steps" in nvrtc_compile(source, f"-arch=sm_{architecture}")
