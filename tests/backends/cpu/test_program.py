"""Programs: calls walked in C give the bits of the same calls run as Python, and nothing else happens."""

from __future__ import annotations

import gc
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nnbp import SGD, Adam, AdamW, Dense, Dropout, Network, RMSprop, Rprop
from nnbp.graph.backend import backend_class
from nnbp.graph.formula import PRIMITIVES, Formula, trace
from nnbp.graph.ops import Foreign, Map
from nnbp.nn.activations import Activation

backend = backend_class("numpy")()
chains = importlib.import_module("nnbp.backends.cpu.chains")
program = importlib.import_module("nnbp.backends.cpu.program")
schedule = importlib.import_module("nnbp.backends.cpu.schedule")
streams = importlib.import_module("nnbp.backends.cpu.streams")
tasks = importlib.import_module("nnbp.backends.cpu.tasks")
Program = program.Program

reason = program.walker()
compiled = pytest.mark.skipif(isinstance(reason, str), reason=f"the compiled part is not used: {reason}")
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def compare(calls: Any, *memory: NDArray[Any], times: int = 1, native: bool = True) -> None:
    """Checks that calls leave the same bits in all of this memory, walked in C and run as Python.

    Args:
        calls: the calls, whose arrays are views of `memory`.
        memory: arrays with what lies around those views, which must stay as it is.
        times: how often the calls run.
        native: whether every call must have a record; if False, some may run as Python.
    """
    walked = Program(calls, program.walker())
    assert walked.is_native or not native, calls
    before = [array.copy() for array in memory]
    with np.errstate(all="ignore"):
        Program(calls, None)(times)
    expected = [array.copy() for array in memory]
    for array, values in zip(memory, before, strict=True):
        array[...] = values
    with np.errstate(all="ignore"):
        walked(times)
    for array, values in zip(memory, expected, strict=True):
        # The sign of a NaN made of two NaNs depends on the order in which NumPy goes through the axes.
        if array.dtype.kind == "f":
            for one in (array, values):
                one[np.isnan(one)] = np.nan
        assert array.tobytes() == values.tobytes(), (calls, array, values)


def viewed(values: NDArray[Any], layout: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """A view with these values and the memory that it is part of, filled with NaN around it."""
    rows, columns = values.shape
    fill = np.nan if values.dtype.kind == "f" else 0
    memory = np.full((2 * rows + 2, 2 * columns + 2), fill, values.dtype)
    match layout:
        case "plain":
            memory = np.full(values.size + 2, fill, values.dtype)
            view = memory[1:-1].reshape(rows, columns)
        case "transposed":
            memory = np.full(values.size + 2, fill, values.dtype)
            view = memory[1:-1].reshape(columns, rows).T
        case "rows":
            view = memory[1 : rows + 1, 1 : columns + 1]
        case "columns":
            memory = np.full((2 * columns + 2, 2 * rows + 2), fill, values.dtype)
            view = memory[1 : columns + 1, 1 : rows + 1].T
        case "stepped":
            view = memory[1 : 2 * rows + 1 : 2, 1 : 2 * columns + 1 : 2]
        case _:
            view = memory[rows:0:-1, columns:0:-1]  # which NumPy may go through from its end
    view[...] = values
    return view, memory


LAYOUTS = ["plain", "transposed", "rows", "columns", "stepped", "reversed"]
SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, 3e38, 88.5, -104.0]


def numbers(seed: int, shape: tuple[int, int], dtype: Any) -> NDArray[Any]:
    """Random numbers, some of them the special ones."""
    rng = np.random.default_rng(seed)
    chosen = np.where(rng.random(shape) < 0.3, rng.choice(SPECIAL, shape), rng.normal(size=shape) * 3)
    with np.errstate(over="ignore"):
        return np.asarray(chosen, dtype)


def test_the_compiled_part_is_used_if_it_is_required() -> None:
    if os.environ.get("NNBP_REQUIRE_NATIVE") != "1":
        pytest.skip("NNBP_REQUIRE_NATIVE=1 does not ask for it")
    assert not isinstance(reason, str), reason


# ---- Formulas


def bound(formula: Formula, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    return chains.bind(formula, inputs, outputs, chains.Registers(native=True))


def applied(name: str) -> Formula:
    """The formula that applies one primitive to its inputs."""
    primitive = PRIMITIVES[name]
    if primitive.ufunc is None:
        return trace(lambda a, b, c: np.where(a > b, b, c), "a", "b", "c")
    names = "abc"[: primitive.ufunc.nin]
    return trace(lambda *values: primitive.ufunc(*values), *names)  # type: ignore[misc]


@compiled
@pytest.mark.parametrize("layout", ["plain", "columns"])
@DTYPES
@pytest.mark.parametrize("name", PRIMITIVES)
def test_each_primitive_on_several_tiles(name: str, dtype: str, layout: str) -> None:
    formula = applied(name)
    shape = (3, 40_001)
    given = [viewed(numbers(k, shape, dtype), layout) for k in range(len(formula.inputs))]
    out, memory = viewed(np.zeros(shape, dtype), layout)
    compare(bound(formula, [view for view, _ in given], [out]), memory)


@st.composite
def formulas(draw: st.DrawFn) -> tuple[int, Formula]:
    """A formula of a few primitives on one to three inputs, with one or two results."""
    inputs = draw(st.integers(1, 3))
    steps = draw(
        st.lists(
            st.tuples(st.sampled_from(sorted(PRIMITIVES)), st.lists(st.integers(0, 99), min_size=3, max_size=3)),
            min_size=1, max_size=7,
        )
    )  # fmt: skip
    constant, results = draw(st.floats(-2, 2, width=16)), draw(st.integers(1, 2))

    def function(*symbols: Any) -> Any:
        values, flags = [*symbols, constant], []
        for name, chosen in steps:
            primitive = PRIMITIVES[name]
            # At least one operand is a symbol: constants alone would be folded, with a warning of NumPy's.
            operands = [symbols[chosen[0] % inputs], *(values[k % len(values)] for k in chosen[1:])]
            if primitive.ufunc is None:
                condition = flags[chosen[0] % len(flags)] if flags else operands[0]
                values.append(np.where(condition, operands[1], operands[2]))
            elif primitive.boolean:
                flags.append(primitive.ufunc(*operands[:2]))
                # A comparison counts as the number 0 or 1 in a product.
                values.append(flags[-1] * operands[2])
            elif primitive.ufunc.nin == 1:
                values.append(primitive.ufunc(values[chosen[1] % len(values)] * operands[0]))
            else:
                values.append(primitive.ufunc(*operands[:2]))
        last = [value if isinstance(value, type(symbols[0])) else symbols[0] for value in values[-results:]]
        return last[0] if results == 1 else tuple(last)

    with np.errstate(all="ignore"):
        return inputs, trace(function, *"abc"[:inputs])


@compiled
@settings(max_examples=400, deadline=None)
@given(formulas(), st.data())
def test_any_formula(drawn: tuple[int, Formula], data: st.DataObject) -> None:
    """Broadcasting, transposed and sliced views, mixed dtypes, results in the place of an input, tiles of any size."""
    inputs, formula = drawn
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    rows, columns = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 40))
    given, memory = [], []
    layouts = data.draw(st.sampled_from([LAYOUTS, LAYOUTS[:-1], LAYOUTS[:-1]]))
    for _ in range(inputs):
        shape = data.draw(st.sampled_from([(rows, columns)] * 3 + [(1, columns), (rows, 1), (1, 1)]))
        own = data.draw(st.sampled_from([dtype] * 4 + ["float32", "float64"]))
        values = numbers(data.draw(st.integers(0, 99)), shape, own)
        view, whole = viewed(values, data.draw(st.sampled_from(layouts)))
        given.append(view)
        memory.append(whole)
    outputs = []
    for k in range(len(formula.results)):
        if k == 0 and given[0].shape == (rows, columns) and given[0].dtype == dtype and data.draw(st.booleans()):
            outputs.append(given[0])
            continue
        view, whole = viewed(np.zeros((rows, columns), dtype), data.draw(st.sampled_from(layouts)))
        outputs.append(view)
        memory.append(whole)
    with mock.patch.object(chains, "TILE_IN_C", data.draw(st.sampled_from([1, 4, 30, 1000]))):
        calls = bound(formula, given, outputs)
    compare(calls, *memory, times=data.draw(st.integers(1, 3)), native="reversed" not in layouts)


PLACES: dict[str, Callable[[NDArray[Any]], tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]] = {
    "apart": lambda memory: (memory[:3, :7], memory[3:6, :7], memory[6:9, :7]),
    "over the first": lambda memory: (memory[:3, :7], memory[3:6, :7], memory[:3, :7]),
    "over the second": lambda memory: (memory[:3, :7], memory[3:6, :7], memory[3:6, :7]),
    "both the same": lambda memory: (memory[:3, :7], memory[:3, :7], memory[3:6, :7]),
    "the other way round": lambda memory: (memory[3:6, :7], memory[:3, :7], memory[6:9, :7]),
    "between each other": lambda memory: (memory[0::3, :7], memory[1::3, :7], memory[2::3, :7]),
    "one after the other": lambda memory: (memory[0::3, 1:8], memory[2::3, 1:8], memory[1::3, 1:8]),
    "a row": lambda memory: (memory[:3, :7], memory[3:4, :7], memory[6:9, :7]),
    "one number": lambda memory: (memory[:3, :7], memory[5:6, 2:3], memory[6:9, :7]),
    "columns": lambda memory: (memory[:3, :1], memory[:3, 1:2], memory[3:6, :7]),
}
"""Where two inputs and an output lie in one array."""


@compiled
@DTYPES
def test_arrays_of_one_formula_lie_anywhere(dtype: str) -> None:
    """What is kept of one program serves another only if its arrays lie to each other as those of the first did."""
    formula = trace(lambda x, y: np.where(x > y, 2.0 * np.exp(x) - y, y * (x + y) / 3.0), "x", "y")
    for seed in range(3):
        for place in PLACES.values():
            memory = numbers(seed, (9, 8), dtype)
            *inputs, output = place(memory)
            compare(bound(formula, inputs, [output]), memory)
            # Arrays that do not share memory, of the same shapes and strides.
            apart = [memory.copy() for _ in range(3)]
            *inputs, output = (place(own)[k] for k, own in enumerate(apart))
            compare(bound(formula, inputs, [output]), *apart)


@compiled
def test_programs_live_on_when_their_like_are_gone() -> None:
    formula = trace(lambda x, y: np.tanh(x) * 0.5 + np.where(x > y, y, 3.0), "x", "y")
    rng = np.random.default_rng(0)
    with mock.patch.object(program, "_MOST_LAYOUTS", 1):
        made = []
        for columns in (5, 5, 9, 5, 4000, 9):
            x, y, out = rng.normal(size=(2, columns)), rng.normal(size=(1, columns)), np.empty((2, columns))
            made.append((x, y, out, Program(bound(formula, [x, y], [out]), program.walker())))
    gc.collect()
    for x, y, out, run in made:
        run()
        np.testing.assert_array_equal(out, np.tanh(x) * 0.5 + np.where(x > y, y, 3.0))


# ---- Products


@compiled
@settings(max_examples=600, deadline=None)
@given(st.data())
def test_any_product(data: st.DataObject) -> None:
    """Vectors, matrices and single numbers; `out` full of NaN, because BLAS may read what it multiplies by 0."""
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    n, k, m = (data.draw(st.sampled_from([1, 1, 2, 3, 5, 8, 17, 33, 70])) for _ in range(3))
    function = data.draw(st.sampled_from([np.dot, np.matmul]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    factors = [
        viewed(rng.normal(size=shape).astype(dtype), data.draw(st.sampled_from(LAYOUTS)))[0]
        for shape in ((n, k), (k, m))
    ]
    # NumPy's dot takes no other `out` than a whole array.
    layout = "plain" if function is np.dot else data.draw(st.sampled_from(LAYOUTS))
    out, memory = viewed(np.full((n, m), np.nan, dtype), layout)
    compare([(function, (*factors, out))], memory, times=data.draw(st.integers(1, 2)), native=False)


@compiled
@pytest.mark.parametrize("axes", list(product(range(3), repeat=3)))
def test_one_number_each(axes: tuple[int, int, int]) -> None:
    """NumPy's loop of `power` divides by an exponent of -1 if its stride is 0, with another last bit."""
    a, b, out = (np.ones((1,) * n, np.float32) for n in axes)
    a[...], b[...] = 3.0278475, -1.0
    if out.ndim >= max(a.ndim, b.ndim):
        compare([(np.power, (a, b, out))], a, b, out)


@compiled
@pytest.mark.parametrize("function", [np.dot, np.matmul])
@DTYPES
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
def test_products_of_a_layer_run_in_c(transpose_a: bool, transpose_b: bool, dtype: str, function: Any) -> None:
    rng = np.random.default_rng(0)
    for n, k, m in [(4, 16, 32), (16, 4, 1), (1, 9, 5), (1, 7, 1), (128, 100, 130)]:
        a = rng.normal(size=(k, n) if transpose_a else (n, k)).astype(dtype)
        b = rng.normal(size=(m, k) if transpose_b else (k, m)).astype(dtype)
        out = np.full((n, m), np.nan, dtype)
        compare([(function, (a.T if transpose_a else a, b.T if transpose_b else b, out))], out)


@compiled
@DTYPES
def test_product_with_its_own_transpose(dtype: str) -> None:
    """NumPy calls syrk, which rounds otherwise than gemm."""
    for shape in [(40, 30), (5, 1), (1, 5)]:
        a, out = np.random.default_rng(0).normal(size=shape).astype(dtype), np.empty((shape[0],) * 2, dtype)
        for function in (np.dot, np.matmul):
            compare([(function, (a, a.T, out))], out, native=False)


# ---- Copies, selections, maxima


@compiled
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_copy(data: st.DataObject) -> None:
    """Truth values and casts to another precision, with broadcasting; with a mask, or with a mask's opposite."""
    to = data.draw(st.sampled_from(["float32", "float64"]))
    shape = rows, columns = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 40))
    seed = data.draw(st.integers(0, 99))
    own = data.draw(st.sampled_from([shape, (1, columns), (rows, 1), (1, 1)]))
    out, memory = viewed(numbers(seed, shape, to), data.draw(st.sampled_from(LAYOUTS)))
    masked = data.draw(st.sampled_from(["no", "where", "unless"]))
    source = to if masked != "no" else data.draw(st.sampled_from(["float32", "float64", "bool"]))
    values = numbers(seed + 1, own, "float64")
    with np.errstate(all="ignore"):
        values = values > 0 if source == "bool" else values.astype(source)
    values, _ = viewed(values, data.draw(st.sampled_from(LAYOUTS)))
    mask, _ = viewed(np.random.default_rng(seed).random(own[:1] + shape[1:]) < 0.5, data.draw(st.sampled_from(LAYOUTS)))
    match masked:
        case "no":
            call: Any = (np.copyto, (out, values))
        case "where":
            call = (np.copyto, (out, values, "same_kind", mask))
        case _:
            call = (chains.copy_unless, (out, values, mask))
    compare([call], memory, native=False)


@compiled
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_maximum_over_rows(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    shape = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 40))
    values = numbers(data.draw(st.integers(0, 99)), shape, dtype)
    a, _ = viewed(values, data.draw(st.sampled_from(LAYOUTS)))
    out, memory = viewed(np.zeros((1, shape[1]), dtype), data.draw(st.sampled_from(["plain", "rows", "reversed"])))
    # Which zero is the maximum of 0 and -0 depends on the order of the comparisons, which is NumPy's affair.
    a[a == 0] = 0
    compare([(np.maximum.reduce, (a, 0, None, out, True))], memory, native=False)


# ---- Batches and random numbers


@compiled
@pytest.mark.parametrize("columns", [1, 5])
@DTYPES
def test_gather_takes_batch_after_batch_as_the_counter_says(dtype: str, columns: int) -> None:
    source, memory = viewed(numbers(0, (11, columns), dtype), "rows")
    order = np.random.default_rng(0).permutation(11)
    counter, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    out = np.full((4, columns), np.nan, dtype)
    log = np.zeros((4, columns), dtype)
    calls = [
        (tasks.gather, (source, order, counter, 4, 0, out[:2])),
        (tasks.gather, (source, order, counter, 4, 2, out[2:])),
        (np.add, (log, out, log)),
        (np.add, (counter, one, counter)),
    ]
    compare(calls, out, log, counter, memory, times=2)
    assert counter[0] == 2


@compiled
@pytest.mark.parametrize("start", [2, -1, 2**40])
def test_gather_beyond_the_order_is_an_error_and_reads_nothing(start: int) -> None:
    source, order = np.ones((11, 2)), np.arange(11)
    counter, one, out = np.zeros(1, np.int64), np.ones(1, np.int64), np.zeros((4, 2))
    run = Program([(tasks.gather, (source, order, counter, 4, 0, out)), (np.add, (counter, one, counter))], reason)
    assert run.is_native
    with pytest.raises(IndexError, match="order of the samples: a counter was not reset"):
        run(3)
    assert counter[0] == 2, "it stops there"
    counter[0], out[...] = start, -1.0
    with pytest.raises(IndexError):
        run()
    assert (out == -1).all()
    counter[0] = 1
    run()
    assert (out == 1).all(), "the program is as good as before"


@compiled
def test_numbers_drawn_in_c_are_those_of_the_stream_and_count() -> None:
    key = (3, 2**63 + 5)
    expected = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64))).random(400, np.float32)
    stream = streams.PhiloxStream(key)
    a, b = np.empty((3, 5), np.float32), np.empty(8, np.float32)
    run = Program([(streams.fill, (stream, a)), (streams.fill, (stream, b))], reason)
    assert run.is_native
    for k in range(3):
        run()
        np.testing.assert_array_equal(np.append(a, b), expected[23 * k : 23 * k + 23])
        assert stream.position == 23 * k + 23
    streams.fill(stream, b)
    np.testing.assert_array_equal(b, expected[69:77], err_msg="Python goes on where C stopped")
    for position in (0, 1, 7, 8, 50, 123):
        stream.position = position
        run(2)
        np.testing.assert_array_equal(np.append(a, b), expected[position + 23 : position + 46])
        assert stream.position == position + 46


# ---- Programs


@compiled
def test_calls_without_a_record_run_in_their_place_every_time() -> None:
    x, seen = np.zeros(3), []
    one = np.ones(3)
    calls = [
        (np.add, (x, one, x)), (lambda: seen.append(x[0]), ()), (np.multiply, (x, x, x)),
        (np.add, (x, 1, x)), (np.divide, (x, one, x)),
    ]  # fmt: skip
    run = Program(calls, reason)
    assert not run.is_native
    run(3)
    assert seen == [1.0, 3.0, 11.0]
    assert (x == 122).all()


@compiled
def test_foreign_calls_run_as_numpy_whatever_their_arguments_are() -> None:
    """NumPy copies what overlaps, and takes shapes and options that no operation of the engine has."""
    x, total = np.arange(6.0), np.zeros(())
    backend.compile([
        Foreign(np.add, (x[:-1], x[1:], x[1:])),
        Foreign(np.dot, (x, x, total)),
        Foreign(partial(np.multiply, x, 2.0, out=x)),
        Foreign(np.copyto, (x[:1], [7])),
    ])()  # fmt: skip
    np.testing.assert_array_equal(x, [7, 2, 6, 10, 14, 18])
    assert total == 165


def programs_of(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list of all programs that are made from here on."""
    made: list[Any] = []

    def make(*arguments: Any) -> Any:
        made.append(Program(*arguments))
        return made[-1]

    monkeypatch.setattr(schedule, "Program", make)
    return made


OPTIMIZERS = [SGD(0.1), SGD(0.1, momentum=0.9, nesterov=True), Adam(), AdamW(), RMSprop(centered=True), Rprop()]
HIDDEN = sorted(name for name, cls in Activation.registry.items() if cls.__module__ == "nnbp.nn.activations")
ORDINARY: dict[str, dict[str, Any]] = {
    **{f"hidden {name}": {"activation": name} for name in HIDDEN if name != "softmax"},
    **{f"{type(rule).__name__} {k}": {"optimizer": rule} for k, rule in enumerate(OPTIMIZERS)},
    **{loss: {"loss": loss} for loss in ("squared_error", "huber", "cross_entropy", "binary_cross_entropy")},
    "dropout": {"layers": [5, Dropout(0.2), Dense(9, "relu"), Dropout(0.5), Dense(3)]},
    "clipping": {"clip_norm": 0.1},
    "weights": {"sample_weight": np.linspace(0.5, 2, 50)},
    "decay": {"weight_decay": 0.1},
    "one unit": {"layers": [5, 1, 3]},
}


@compiled
@DTYPES
@pytest.mark.parametrize("case", ORDINARY)
def test_steps_of_ordinary_networks_have_no_call_in_python(
    case: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "layers": [5, 8, 3],
        "activation": "tanh",
        "loss": "squared_error",
        "weight_decay": 0.0,
        **ORDINARY[case],
    }
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (50, 3)).astype(dtype)
    if options["loss"] == "cross_entropy":
        y = rng.integers(0, 3, 50)
    fit = {name: options.pop(name) for name in ("optimizer", "clip_norm", "sample_weight") if name in options}
    made = programs_of(monkeypatch)
    layers = options.pop("layers")
    if any(isinstance(layer, Dense) for layer in layers):
        del options["activation"]
    net = Network(layers, dtype=dtype, seed=0, device="cpu", **options)
    batch = 50 if isinstance(fit.get("optimizer"), Rprop) else 16
    net.fit(rng.normal(size=(50, 5)), y, epochs=2, batch_size=batch, progress=False, **fit)
    net.predict(rng.normal(size=(50, 5)))
    assert made
    assert all(one.is_native for one in made), [call for one in made if not one.is_native for call in one._parts]


TRAININGS = """
import hashlib, importlib, warnings, numpy as np
from nnbp import ConvergenceWarning, SGD, Adam, Dense, Dropout, Network, RMSprop
library = importlib.import_module("nnbp.backends.cpu.program").walker()
print("python" if isinstance(library, str) else "native")
warnings.simplefilter("ignore", ConvergenceWarning)
rng = np.random.default_rng(0)
X = rng.normal(size=(3000, 20))
y = rng.integers(0, 4, 3000)
cases = [
    ([20, Dense(16, "tanh"), Dense(4)], Adam(), 32, 300, {}),
    ([20, Dropout(0.2), Dense(33, "gelu"), Dropout(0.5), Dense(17, "leaky_relu"), Dense(4)], RMSprop(), 100, 330,
     {"clip_norm": 0.5, "sample_weight": np.linspace(0.1, 2, 330)}),
    ([20, Dense(1, "softplus"), Dense(4)], SGD(0.1, momentum=0.9), 1, 50, {}),
    ([20, Dense(200, "silu"), Dense(200, "elu"), Dense(4)], Adam(), 1500, 3000, {}),
]
for dtype in ("float32", "float64"):
    for layers, optimizer, batch, m, options in cases:
        net = Network(layers, loss="cross_entropy", weight_decay=0.01, dtype=dtype, seed=1, device="cpu")
        history = net.fit(X[:m], y[:m], epochs=2, batch_size=batch, optimizer=optimizer, progress=False, **options)
        found = np.array(net.parameters).tobytes() + net.forward(X).tobytes() + repr(history["loss"]).encode()
        print(hashlib.sha256(found).hexdigest())
"""


@compiled
@pytest.mark.slow
@pytest.mark.parametrize(("threads", "other"), [("1", "0"), ("2", "1")])
def test_whole_trainings_have_the_bits_of_numpys_calls_or_of_as_many_threads(threads: str, other: str) -> None:
    """On several threads, only C shares the work of a step."""
    found = []
    for native in ("1", other):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": threads, "NNBP_NATIVE": native}
        command = [sys.executable, "-W", "error", "-c", TRAININGS]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
        found.append(done.stdout.split())
    assert (found[0][0], found[1][0]) == ("native", "python" if other == "0" else "native")
    assert found[0][1:] == found[1][1:]
    assert len(set(found[0])) == 9


@compiled
def test_floating_point_errors_are_neither_reported_nor_left_behind() -> None:
    x, out = np.array([[-1.0, 0.0, 1e200]]), np.empty((1, 3))
    run = backend.compile([Map(trace(lambda x: np.log(x) / x * np.exp(x * x), "x"), [x], [out])])
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        before = np.geterr()
        run()
        assert np.geterr() == before
        np.testing.assert_array_equal(np.multiply(x, 2.0), 2 * x)
        with pytest.raises(FloatingPointError):
            np.log(x)
    assert np.isnan(out[0, 0])


# ---- Signals, threads, processes


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, even where tests run in a process that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(function: Callable[[], object]) -> float:
    """Seconds from Ctrl-C, a tenth of a second after the start of a function, to KeyboardInterrupt."""
    sent: list[float] = []

    def send() -> None:
        sent.append(time.monotonic())
        signal.raise_signal(signal.SIGINT)

    timer = threading.Timer(0.1, send)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        function()
    timer.join()
    return time.monotonic() - sent[0]


@compiled
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("size", [1, 1000, 1_000_000])
def test_a_long_walk_ends_soon_after_ctrl_c(size: int) -> None:
    x, one, counter, step = np.zeros(size), np.ones(size), np.zeros(1, np.int64), np.ones(1, np.int64)
    run = Program([(np.add, (x, one, x)), (np.add, (counter, step, counter))], reason)
    assert run.is_native
    assert interrupted(partial(run, 2**40)) < 5
    assert counter[0] > 10
    assert (x == x[0]).all()
    assert x[0] - counter[0] in (0, 1), "it stops between two calls"


@compiled
def test_a_walk_goes_on_where_it_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a budget of nothing every look at the clock is a pause."""
    monkeypatch.setattr(program, "BUDGET", 0)
    x, y = np.zeros(150_000), np.zeros(150_000)
    one = np.ones(150_000)
    Program([(np.add, (x, one, x)), (np.add, (y, x, y)), (np.subtract, (x, one, x)), (np.add, (x, one, x))], reason)(7)
    assert (x == 7).all()
    assert (y == 28).all()


@compiled
@pytest.mark.filterwarnings("ignore::nnbp.ConvergenceWarning")
@pytest.mark.usefixtures("interruptible")
def test_a_network_works_on_after_ctrl_c() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20_000, 4)), rng.integers(0, 3, 20_000)
    net = Network([4, 16, 3], loss="cross_entropy", seed=0, device="cpu")
    for _ in range(2):
        assert interrupted(lambda: net.fit(X, y, epochs=10**6, batch_size=16, learning_rate=1e-3, progress=False)) < 10
    assert np.isfinite(net.parameters).all()
    history = net.fit(X, y, epochs=1, batch_size=16, learning_rate=1e-3, progress=False)
    assert np.isfinite(history["loss"][-1])


def trained(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(200, 5)), rng.integers(0, 3, 200)
    net = Network([5, Dropout(0.1), Dense(12, "tanh"), Dense(3)], loss="cross_entropy", seed=seed, device="cpu")
    net.fit(X, y, epochs=8, batch_size=16, learning_rate=0.01, progress=False)
    return np.array(net.parameters).tobytes()


@compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_goes_on_with_programs_and_makes_new_ones() -> None:
    x, one = np.zeros(5), np.ones(5)
    run = Program([(np.add, (x, one, x))], reason)
    run(2)
    expected = trained(1)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run(3)
            status = 0 if (x == 5).all() and trained(1) == expected else 2
        finally:
            os._exit(status)
    deadline = time.monotonic() + 60
    while (state := os.waitpid(child, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < deadline, "the child hangs"
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(state[1]) == 0
    assert (x == 2).all()


@compiled
def test_threads_run_programs_side_by_side() -> None:
    expected = [trained(seed) for seed in range(4)]
    # Nothing is known about loops yet, so that all threads ask for them at the same time.
    program.walker.cache_clear()
    found: dict[int, bytes] = {}
    threads = [threading.Thread(target=lambda seed=seed: found.update({seed: trained(seed)})) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(4)] == expected


@compiled
def test_a_walk_leaves_python_to_other_threads() -> None:
    x, one = np.zeros(1000), np.ones(1000)
    thread = threading.Thread(target=Program([(np.add, (x, one, x))], reason), args=(1_000_000,))
    thread.start()
    turns = 0
    while thread.is_alive():
        turns += 1
    assert turns > 100


# ---- Phases


def counting(threads: int) -> tuple[Any, NDArray[Any], NDArray[Any]]:
    """Phases in which every thread adds 1 to its own column, and the first one then the columns' sum to a total."""
    columns, total, one, ones = np.zeros((threads, 3)), np.zeros(3), np.ones(3), np.ones((1, threads))
    sums = np.zeros((1, 3))
    first = [Program([(np.add, (column, one, column))], reason) for column in columns]
    second = [Program([(np.matmul, (ones, columns, sums)), (np.add, (total, sums[0], total))], reason)]
    return program.Phases([first, second], reason), columns, total


@compiled
@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("budget", [0, program.BUDGET])
def test_a_phase_begins_when_the_one_before_has_ended(
    threads: int, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no budget it pauses at every look at the clock. More helpers come than there are parts, or none."""
    monkeypatch.setattr(program, "BUDGET", budget)
    for helpers in (0, 1, threads + 1):
        phases, columns, total = counting(threads)
        for run in range(1, 4):
            phases.invite()
            found = [threading.Thread(target=phases.help) for _ in range(helpers)]
            for helper in found:
                helper.start()
            phases(1000)
            for helper in found:
                helper.join(30)
                assert not helper.is_alive()
            times = run * 1000
            assert (columns == times).all()
            assert (total == threads * times * (times + 1) / 2).all()


@compiled
def test_a_helper_that_nobody_needs_returns() -> None:
    phases, *_ = counting(2)
    phases.help()
    phases.invite()
    # As if an interrupt came before the phases begin.
    phases.help()


@compiled
def test_a_batch_outside_of_the_order_is_an_error_in_a_helper_too() -> None:
    source, order, counter = np.ones((4, 2)), np.arange(4), np.array([7])
    gathers = [Program([(tasks.gather, (source, order, counter, 2, 0, np.empty((2, 2))))], reason) for _ in range(20)]
    phases = program.Phases([gathers], reason)
    phases.invite()
    helper = threading.Thread(target=phases.help)
    helper.start()
    with pytest.raises(IndexError):
        phases(3)
    helper.join(30)
    assert not helper.is_alive()
    counter[0] = 0
    phases(3)


@compiled
@pytest.mark.usefixtures("interruptible")
def test_phases_end_soon_after_ctrl_c() -> None:
    phases, columns, _ = counting(2)
    phases.invite()
    helper = threading.Thread(target=phases.help)
    helper.start()
    assert interrupted(partial(phases, 2**40)) < 5
    helper.join(30)
    assert not helper.is_alive()
    columns[...] = 0
    phases(10)
    assert (columns == 10).all(), "the next run begins anew"


# ---- Without the compiled part


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library is looked for anew, in the test and after it."""
    monkeypatch.delenv("NNBP_NATIVE", raising=False)
    program.walker.cache_clear()
    yield
    program.walker.cache_clear()


def without(matching: str) -> None:
    """Checks that the reason is given, that `doctor` could show it, and that networks train as ever."""
    assert re.search(matching, program.walker())
    assert backend.compiled() == program.walker()
    assert trained(1) == trained(1)


@pytest.mark.usefixtures("anew")
def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNBP_NATIVE", "0")
    without("switched off by NNBP_NATIVE=0")


@pytest.mark.usefixtures("anew")
def test_without_a_library_calls_run_as_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "__file__", str(tmp_path / "program.py"))
    without("no C compiler worked when nnbp was installed: add one and repeat the installation")


@compiled
@pytest.mark.usefixtures("anew")
def test_an_outdated_or_broken_library_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (built,) = Path(program.__file__).parent.glob("_native.*")
    monkeypatch.setattr(program, "__file__", str(tmp_path / "program.py"))
    shutil.copy(built, tmp_path)
    assert backend.compiled() is None, "without its source, as in a wheel, it is taken as it is"
    program.walker.cache_clear()
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "walker.c").write_text("int changed;\n")
    without("older than its source: repeat the installation")
    program.walker.cache_clear()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / built.name).write_text("no library")
    monkeypatch.setattr(program, "__file__", str(tmp_path / "broken" / "program.py"))
    without(built.name)


@compiled
@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize(
    ("loops", "matching"),
    [
        ({}, "does not hand out its inner loops"),
        ({"_resolve_dtypes_and_context": lambda dtypes: ((np.dtype("f4"),) * 3, np.random.Philox().capsule),
          "_get_strided_loop": lambda *_, **__: None}, "does not hand out its inner loops: .*name"),
        ({"_resolve_dtypes_and_context": np.add._resolve_dtypes_and_context,
          "_get_strided_loop": np.add._get_strided_loop}, "hands out other inner loops than are expected"),
    ],
    ids=["none", "renamed", "other"],
)  # fmt: skip
def test_an_unknown_numpy_is_left_alone(loops: dict[str, Any], matching: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ufunc:
        def __init__(self) -> None:
            self.__name__ = "multiply"
            self.__dict__.update(loops)

    names = {name: getattr(np, name) for name in dir(np) if not name.startswith("_")}
    unknown = SimpleNamespace(**names | {"multiply": Ufunc(), "ufunc": Ufunc, "__version__": "9.0"})
    with monkeypatch.context() as patch:
        patch.setattr(program, "np", unknown)
        assert "NumPy 9.0 " in str(program.walker())
    without(matching)
