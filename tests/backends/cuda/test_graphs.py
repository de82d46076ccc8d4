"""Steps as CUDA graphs: what is recorded, how often it is launched, and what happens where nothing can be."""

from __future__ import annotations

import gc
import warnings
import weakref
from typing import Any

import emulated_cupy
import numpy as np
import pytest
from emulated_cupy import ExternalStream, Graph, Memory, Stream, emulated_backend_class
from kernel_samples import needs_compiler

from nnbp import Dense, Dropout, Network
from nnbp.errors import DeviceMemoryError, NnbpError
from nnbp.graph.backend import backend_class
from nnbp.graph.formula import trace
from nnbp.graph.ops import Foreign, Gemm, Map

DOUBLE = trace(lambda x: 2.0 * x, "x")


def open_emulated(**options: Any) -> Any:
    return emulated_backend_class()(**options)


@pytest.fixture(params=[pytest.param("emulated", marks=needs_compiler), pytest.param("cupy", marks=pytest.mark.gpu)])
def opened(request):
    return open_emulated if request.param == "emulated" else backend_class("cupy")


def test_the_backend_makes_graphs_unless_told_otherwise(opened):
    assert opened()._usage.graphs
    assert not opened(graphs=False)._usage.graphs


@needs_compiler
def test_what_runs_once_at_a_time_is_launched_twice_and_recorded_from_then_on():
    backend = open_emulated()
    x = backend.upload(np.ones((1, 1)), np.float64)
    before = Graph.launched
    once = backend.compile([Map(DOUBLE, [x], [x])])
    for k, launched in enumerate((0, 0, 1, 2), start=1):
        once()
        assert (Graph.launched - before, backend.download(x)[0, 0]) == (launched, 2.0**k)


@needs_compiler
@pytest.mark.parametrize(("times", "graphs"), [(1, 0), (2, 1), (16, 15), (17, 1), (40, 2 + 7)])
def test_many_steps_are_few_graphs(times, graphs):
    backend = open_emulated(persistent=None)
    x = backend.upload(np.ones((1, 1)), np.float64)
    before = Graph.launched
    backend.compile([Map(DOUBLE, [x], [x])], times)()
    assert backend.download(x)[0, 0] == 2.0**times
    assert Graph.launched - before == graphs


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[weakref.ref[Any]]]:
    """The graphs that are captured and the workspaces that are taken from now on."""
    found: dict[str, list[weakref.ref[Any]]] = {"graphs": [], "workspaces": []}
    begin, keep = Graph.__init__, emulated_cupy._empty

    def captured(self: Graph, kept: Any) -> None:
        begin(self, kept)
        found["graphs"].append(weakref.ref(self))

    def empty(shape: Any, dtype: Any) -> Any:
        array = keep(shape, dtype)
        if array.nbytes == 2**22:
            found["workspaces"].append(weakref.ref(array))
        return array

    monkeypatch.setattr(Graph, "__init__", captured)
    monkeypatch.setattr(emulated_cupy.modules()["cupy"], "empty", empty)
    return found


def product_of(backend: Any) -> Any:
    x = backend.upload(np.ones((2, 2)), np.float64)
    return backend.compile([Gemm(x, x, backend.empty((2, 2), np.float64))])


@needs_compiler
def test_the_streams_used_last_keep_graphs_and_workspaces_and_the_others_release_them(made):
    backend = open_emulated()
    run = product_of(backend)
    for _ in range(3):
        for stream in [Stream() for _ in range(7)]:
            with stream, backend.active():
                run()
                run()
    alive = {name: sum(item() is not None for item in items) for name, items in made.items()}
    assert alive == {"graphs": 4, "workspaces": 4}


@needs_compiler
def test_every_stream_has_a_workspace_and_a_graph_of_its_own(made):
    backend = open_emulated()
    run, streams = product_of(backend), [Stream() for _ in range(3)]
    for _ in range(5):
        for stream in streams:
            with stream, backend.active():
                run()
    assert [len(items) for items in made.values()] == [3, 3], "the stream that captures needs no workspace"


@needs_compiler
def test_objects_for_one_stream_share_what_belongs_to_it(made):
    """As when another library's stream is wrapped for every call."""
    backend, stream = open_emulated(), Stream()
    run = product_of(backend)
    for _ in range(8):
        with ExternalStream(stream.ptr), backend.active():
            run()
    assert [len(items) for items in made.values()] == [1, 1]


@needs_compiler
def test_a_graph_keeps_the_workspace_that_is_recorded_in_it(made):
    backend = open_emulated()
    run = product_of(backend)
    with backend.active():
        for _ in range(3):
            run()
        for stream in [Stream() for _ in range(7)]:
            with stream:
                product_of(backend)()
    first = made["workspaces"][0]
    assert first() is not None
    del run
    assert first() is None


@needs_compiler
def test_a_full_card_is_no_layer_that_cannot_be_recorded(monkeypatch):
    backend = open_emulated()
    run, end = product_of(backend), Stream.end_capture

    def no_room(self: Stream) -> Any:
        end(self)
        raise emulated_cupy.OutOfMemoryError("cudaErrorMemoryAllocation: out of memory")

    with backend.active():
        run()
        run()
    monkeypatch.setattr(Stream, "end_capture", no_room)
    with pytest.raises(DeviceMemoryError), backend.active():
        run()
    monkeypatch.setattr(Stream, "end_capture", end)
    before = Graph.launched
    with backend.active():
        run()
    assert Graph.launched == before + 1, "the step is recorded as soon as there is room"


NETWORKS: dict[str, dict[str, Any]] = {
    "classes": {"loss": "cross_entropy"},
    "values": {"loss": "huber"},
    "weights decay": {"loss": "squared_error", "weight_decay": 0.01},
    "TF32": {"loss": "cross_entropy", "precision": "tf32"},
    "bfloat16": {"loss": "cross_entropy", "precision": "bf16"},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_graph_computes_what_its_launches_compute_bit_for_bit(opened, name):
    """With everything that a training step may have in it, and a remainder, validation and predictions beside it."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(75, 6)).astype(np.float32)
    y = rng.integers(0, 3, 75) if NETWORKS[name]["loss"] == "cross_entropy" else rng.normal(size=(75, 3))
    found = []
    for graphs in (True, False):
        layers = [6, Dense(8, "tanh"), Dropout(0.25), Dense(5, "gelu"), Dense(3)]
        net = Network(layers, seed=0, device=opened(graphs=graphs), **NETWORKS[name])
        history = net.fit(
            X, y, epochs=4, batch_size=8, clip_norm=0.5, schedule="cosine", validation_split=0.2,
            sample_weight=rng.random(75) * 0 + 1.5, early_stopping=3, progress=False,
        )  # fmt: skip
        outputs = [net.forward(X[:7]) for _ in range(3)]
        found.append([*history["loss"], *history["val_loss"], *net.model.backend.download(net.parameters), *outputs])
    for recorded, launched in zip(*found, strict=True):
        np.testing.assert_array_equal(recorded, launched)


@pytest.mark.parametrize("what", ["reads a value", "takes memory"])
def test_what_cannot_be_recorded_is_launched_and_said_once(opened, what):
    backend = opened()
    x = backend.upload(np.ones((2, 2)), np.float64)

    def layer() -> None:
        backend.download(x) if what == "reads a value" else backend.empty((2, 2), np.float64)

    step = [Map(DOUBLE, [x], [x]), Foreign(layer), Map(DOUBLE, [x], [x])]
    with backend.active():
        first, second = backend.compile(step, 2), backend.compile(step, 2)
        with pytest.warns(RuntimeWarning, match="launched kernel by kernel.* cannot be recorded"):
            first()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            first()
            second()
        assert backend.download(x)[0, 0] == 4.0**6
        graph = backend.compile([Map(DOUBLE, [x], [x])], 2)
        graph()
        assert graph._graphs, "another step can be recorded all the same"


@needs_compiler
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeWarning])
def test_a_capture_ends_whatever_ends_it(error):
    """Ctrl-C, and a warning that is an error."""
    backend = open_emulated()
    x = backend.upload(np.ones((1, 1)), np.float64)

    def stops() -> None:
        if Stream.current().kept is not None:
            raise KeyboardInterrupt if error is KeyboardInterrupt else ValueError

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error):
            backend.compile([Map(DOUBLE, [x], [x]), Foreign(stops)], 2)()
    run = backend.compile([Map(DOUBLE, [x], [x])], 2)
    run()
    assert run._graphs
    assert gc.isenabled()


@needs_compiler
def test_nothing_is_collected_while_a_graph_is_made():
    backend, collects = open_emulated(), []
    with backend.active():
        backend.compile([Foreign(lambda: collects.append(gc.isenabled()))], 2)()
    assert collects == [True, False]


@needs_compiler
def test_a_stream_waits_for_the_others_that_the_backend_was_used_on():
    """A network has one set of buffers: those that another stream still reads are not to be written."""
    backend, waits = open_emulated(), []
    first, second = Stream(), Stream()
    for stream in (first, second):
        stream.wait_event = lambda event, stream=stream: waits.append((stream, event.recorded))
    for stream in (first, first, second, second, first):
        with stream, backend.active():
            pass
    assert waits == [(second, first), (first, second)]
    waits.clear()
    with first, backend.active(), second, backend.active():
        pass
    with second, backend.active():
        pass
    assert waits == [(second, first), (second, first)], "the first went on after the second had begun"


@needs_compiler
def test_a_stream_of_each_thread_is_refused(monkeypatch):
    backend, stream = open_emulated(), Stream()
    stream.ptr = 2
    with stream, pytest.raises(NnbpError, match="streams that all threads share"), backend.active():
        pass


@needs_compiler
def test_backends_of_a_device_share_a_handle_and_its_workspaces():
    backend, other = open_emulated(), open_emulated(graphs=False)
    assert backend._streams is other._streams


@needs_compiler
def test_a_workspace_that_has_no_room_is_the_error_of_all_memory(monkeypatch):
    backend = open_emulated()
    backend._streams._workspaces.clear()
    x = backend.upload(np.ones((2, 2)), np.float64)
    run = backend.compile([Gemm(x, x, backend.empty((2, 2), np.float64))])
    monkeypatch.setattr(Memory, "limit", 2**10)
    with pytest.raises(DeviceMemoryError, match=r"4\.0 MiB"):
        run()


@needs_compiler
def test_a_backend_goes_when_nobody_holds_it():
    """Its graphs and workspaces are memory of the device, which is not to wait for Python's collector of cycles."""
    backend = open_emulated()
    x = backend.upload(np.ones((2, 2)), np.float64)
    run = backend.compile([Gemm(x, x, backend.empty((2, 2), np.float64))])
    run()
    run()
    gone = weakref.ref(backend)
    gc.disable()
    try:
        del backend, run
        assert gone() is None
    finally:
        gc.enable()


@needs_compiler
def test_arrays_of_a_recording_stay_alive():
    backend = open_emulated()
    x = backend.upload(np.ones((2, 2)), np.float64)
    out = backend.empty((2, 2), np.float64)
    run = backend.compile([Gemm(x, backend.upload(np.eye(2), np.float64), out)])
    kept = [array for _, arguments in run.calls for array in arguments[2]]
    assert any(array is out for array in kept)
    assert len(kept) == 3
