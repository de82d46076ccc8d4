"""Every public function with every kind of odd argument: the right result, or an error that says what was received.

Functions and parameters are discovered. A parameter of a new name needs an entry in `RIGHT`; whether a number, True or
None may be accepted follows from its annotation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import nnbp
from nnbp import DivergenceError, Network, NnbpError, metrics, schedules, testing
from nnbp.engine.dataset import Dataset
from nnbp.formatting import shown
from nnbp.optim.schedules import Schedule
from nnbp.testing.gradients import GradientReport
from nnbp.testing.parity import ParityReport

Array = NDArray[Any]

X = np.array([[0, 1], [1, 1], [1, 0], [0, 0], [1, 1], [0, 1]], float)
Y = np.array([0, 1, 0, 1, 1, 0], float)
W = np.array([1, 1, 0, 1, 1, 1], float)
"""Zeros and ones, which every dtype has."""


def network() -> Network:
    return Network([2, 3, 1], loss="binary_cross_entropy", device="cpu", seed=0)


ARRAYS: dict[str, Any] = {
    "X": X, "y": Y, "y_true": Y, "y_pred": Y, "sample_weight": W, "class_weight": np.array([0.0, 1.0]),
    "validation_data": [X, Y, W], "calibration": [np.tile(X, (2, 1)), np.tile(Y, 2)],
    "weights": [X[:3], np.ones((1, 3))], "biases": [W[:3], W[:1]],
}  # fmt: skip
"""Parameters that are arrays, or lists of arrays, with right values."""

RIGHT: dict[str, Any] = {
    "layers": [2, 3, 1], "sizes": [2, 3, 1], "units": 3, "samples": 6, "outputs": 1, "k": 2, "every": 2, "gamma": 0.5,
    "epochs": 2, "loss": "binary_cross_entropy", "device": "cpu", "devices": ("cpu", "cpu"), "progress": False,
    "spec": "constant", "path": "abc", "folder": "abc", "steps": 2, "entries": 2, "net": network(),
}  # fmt: skip
"""Right values of other parameters: of those without a default, or with one that does not suit a test."""


def entry_points() -> dict[str, Callable[..., Any]]:
    """Every public function, class and method by name."""
    found: dict[str, Callable[..., Any]] = {}
    for name in nnbp.__all__:
        item = getattr(nnbp, name)
        if isinstance(item, type):
            described = issubclass(item, Exception) or dataclasses.is_dataclass(item) or inspect.isabstract(item)
            found |= {} if described else {name: item}
        elif inspect.isfunction(item):
            found[name] = item
    found |= {f"schedules.{cls.__name__}": cls for cls in Schedule.built_in().values()}
    found |= {f"metrics.{name}": cls() for name, cls in metrics.Metric.built_in().items()}
    # Of compare, tests/testing/test_comparison.py has the arguments: functions, and any arrays.
    found |= {f"testing.{name}": getattr(testing, name) for name in testing.__all__ if name != "compare"}
    found |= {"schedules.get": schedules.get, "metrics.confusion_matrix": metrics.confusion_matrix}
    found["fit_many"] = fit_many
    found["explain"] = explain
    # They take what nnbp itself has read or computed.
    inner = "from_file", "to_file", "input_dtype"
    found["Network.predict_interval"] = predict_interval
    inner = *inner, "predict_interval"
    methods = [name for name in vars(Network) if name[0] != "_" and callable(getattr(Network, name))]
    return found | {f"Network.{name}": method(name) for name in methods if name not in inner}


def fit_many(X: Any, y: Any) -> Any:
    """`nnbp.fit_many` with new networks; tests/training/test_parallel.py has other lists than these."""
    networks = [network(), network()]
    return nnbp.fit_many(networks, X, y, epochs=1, progress=False), networks


def predict_interval(X: Any, calibration: Any, level: float = 0.9) -> Any:
    """The method of a network of values; the other methods are those of one of classes."""
    net = Network([2, 3, 1], device="cpu", seed=0)
    return net.predict_interval(X, calibration=calibration, level=level), net


def explain(net: Network, X: Any, y: Any, path: str, **options: Any) -> str:
    """The page of `nnbp.explain` for a network, which needs targets."""
    # Other tests, which run at the same time, rely on there being no file with the right path of `RIGHT`.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        return Path(nnbp.explain(net, X, y, path, **options)).read_text(encoding="utf-8")


explain.__signature__ = inspect.signature(nnbp.explain).replace(  # type: ignore[attr-defined]
    parameters=[
        each
        for each in inspect.signature(nnbp.explain).parameters.values()
        if each.name not in ("names", "labels")  # any strings; tests/explorer/test_explanation.py has others
    ]
)


def method(name: str) -> Callable[..., Any]:
    """A function that calls the method of a new network, and returns what it returns and the network."""

    def call(**arguments: Any) -> Any:
        net = network()
        return getattr(net, name)(**arguments), net

    call.__signature__ = inspect.signature(getattr(network(), name))  # type: ignore[attr-defined]
    return call


FUNCTIONS = entry_points()


def parameters(label: str) -> list[inspect.Parameter]:
    found = inspect.signature(FUNCTIONS[label]).parameters.values()
    return [each for each in found if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]


def called(label: str, **changes: Any) -> Any:
    """The result of a function for the right arguments, some of them replaced."""
    needed = [each.name for each in parameters(label) if each.name in {*RIGHT, "X", "y"} or each.default is each.empty]
    right = {name: RIGHT[name] if name in RIGHT else ARRAYS[name] for name in needed}
    return FUNCTIONS[label](**right | changes)


@pytest.fixture(autouse=True, scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The file that `RIGHT["path"]` names."""
    with contextlib.chdir(tmp_path_factory.mktemp("files")):
        # A record is a model file, too.
        testing.record(network(), X, Y, "abc")
        yield


# Odd arguments.


def odd() -> dict[str, Any]:
    """Arguments by their kind."""
    kinds: dict[str, Any] = {
        "None": None, "True": True, "0": 0, "-1": -1, "1.5": 1.5, "nan": np.nan, "inf": np.inf, "2**70": 2**70,
        "10**5000": 10**5000, "abc": "abc", "bytes": b"abc", "1j": 1j, "[]": [], "{}": {}, "set": {1, 2},
        "object": object(), "class": int, "function": lambda *arguments: "x", "generator": None,
        "ragged": [[1, 2], [3]], "0-d": np.array(1.0), "3-d": np.ones((2, 2, 2)), "empty": np.zeros((0, 2)),
        "complex": np.full((6, 2), 1j), "texts": np.array(["a"] * 6), "dates": np.array(["2020-01-01"] * 6, "M8[D]"),
        "objects": np.array([[object(), 1]] * 6), "fields": np.zeros(6, [("a", float)]),
        "nans": np.full((6, 2), np.nan), "masked": np.ma.masked_array(X, X > 0), "large": np.full((6, 2), 1e300),
    }  # fmt: skip
    if find_spec("scipy"):
        from scipy.sparse import csr_array

        kinds["sparse"] = csr_array(X)
    if find_spec("pandas"):
        import pandas

        kinds["frame of texts"] = pandas.DataFrame({"a": ["x"] * 6, "b": [1] * 6})
        kinds["missing"] = pandas.array([1, None] * 3, "Int64")
    return kinds


ODD = odd()

ALSO_RIGHT = {
    ("path", "abc"), ("path", "bytes"), ("folder", "abc"), ("folder", "bytes"), ("monitor", "abc"), ("extra", "{}"),
    ("class_weight", "{}"), ("custom", "[]"),
    ("custom", "empty"), ("callbacks", "[]"), ("callbacks", "empty"), ("callbacks", "function"), ("metrics", "[]"),
    ("metrics", "empty"), ("spec", "function"), ("y_pred", "nans"),
    ("y_pred", "missing"), ("y_pred", "large"),
}  # fmt: skip
"""Arguments that are odd only elsewhere. A metric of predictions that are not finite is nan."""

NOT_FINITE = {
    "Network.forward", "Network.trace", "Network.loss", "Network.gradients", "Network.per_sample_gradients",
    "check_gradients", "testing.assert_gradients",
}  # fmt: skip
"""Functions that pass NaN in X on to what they return, or compute in float64."""

ENDLESS = {("epochs", "2**70"), ("epochs", "10**5000"), ("steps", "2**70"), ("steps", "10**5000")}
"""Not tried: they ask for a training that does not end."""

WORDS = {
    "y": "y|target|targets|class", "layers": "layers?|network|inputs", "sizes": "sizes|network|inputs|units",
    "weights": "weights|W", "biases": "biases|b", "validation_data": "validation_data|X",
    "calibration": "calibration|X", "devices": "devices?",
    "callbacks": "callbacks?", "metrics": "metrics?", "output_activation": "activation", "spec": "schedule",
    "early_stopping": "early_?stopping", "class_weight": "class_weight|weight",
    "sample_weight": "sample_weight|sample weights",
}  # fmt: skip
"""How errors call a parameter if not by its name alone."""


def may_be_taken(label: str, parameter: inspect.Parameter, kind: str) -> bool:
    name, takes = parameter.name, str(parameter.annotation)
    return (
        (name, kind) in ALSO_RIGHT
        or (kind == "None" and ("None" in takes or parameter.default is None))
        or (kind == "True" and "bool" in takes)
        or (kind in ("0", "2**70", "10**5000") and re.search("int|float", takes) is not None)
        or (kind in ("1.5", "inf") and "float" in takes)
        or (name == "X" and kind == "sparse")
        or (name == "X" and kind in ("nans", "large") and label in NOT_FINITE)
    )


def complaint(label: str, parameter: inspect.Parameter, kind: str) -> str | None:
    """What is wrong with the outcome of a call, if anything is."""
    value = (k for k in range(3)) if kind == "generator" else ODD[kind]
    before = shown(value)
    try:
        called(label, **{parameter.name: value})
    except DivergenceError:
        return None
    except (NnbpError, ValueError, TypeError) as error:
        said = str(error)
        if "received" not in said:
            return f"the error does not say what was received: {error!r}"
        if not re.search(rf"\b({WORDS.get(parameter.name, parameter.name)})\b", said, re.IGNORECASE):
            return f"the error does not name the argument: {said}"
    except Exception as error:
        return f"the error is not one of nnbp: {error!r}"
    else:
        if not may_be_taken(label, parameter, kind):
            return "the argument was taken"
    return None if shown(value) == before else f"the argument was changed to {value!r}"


@pytest.mark.filterwarnings("ignore::nnbp.ConvergenceWarning")
@pytest.mark.parametrize("label", FUNCTIONS)
def test_odd_arguments_are_refused_with_what_was_received(label: str) -> None:
    called(label)
    complaints = [
        f"{parameter.name}={kind}: {found}"
        for parameter in parameters(label)
        for kind in ODD
        if (parameter.name, kind) not in ENDLESS and (found := complaint(label, parameter, kind))
    ]
    assert not complaints, "\n".join(complaints)


# The same numbers in other arrays.


def presentations() -> dict[str, Callable[[Array], Any]]:
    """What makes arrays of other kinds, with the same numbers, of an array of zeros and ones."""
    kinds: dict[str, Callable[[Array], Any]] = {
        dtype: lambda a, dtype=dtype: a.astype(dtype)
        for dtype in ("float32", "float16", "longdouble", "bool", "uint8", "int64", "uint64", ">f4", ">f8", ">i2", "O")
    }
    kinds |= {
        "lists": lambda a: a.tolist(),
        "tuples": lambda a: tuple(map(tuple, a.tolist())) if a.ndim > 1 else tuple(a.tolist()),
        "arrays in a list": list,
        "memoryview": memoryview,
        "column": lambda a: a.reshape(len(a), -1),
        # By a view: the constructor warns that the class may go.
        "matrix": lambda a: a.reshape(len(a), -1).view(np.matrix),
        "matrix of float32": lambda a: a.reshape(len(a), -1).astype(np.float32).view(np.matrix),
        "Fortran order": np.asfortranarray,
        "every second": lambda a: np.repeat(a, 2, axis=0)[::2],
        "backwards": lambda a: a[::-1].copy()[::-1],
        "not aligned": not_aligned,
        "read-only": read_only,
        "memory map": memory_map,
        "masked array without a mask": np.ma.masked_array,
        "masked array of float32": lambda a: np.ma.masked_array(a.astype(np.float32), mask=False),
        "objects": objects,
    }  # fmt: skip
    if find_spec("pandas"):
        import pandas

        for dtype in ("float64", "boolean", "Int64", "Float32", "category"):
            kinds[f"pandas {dtype}"] = lambda a, dtype=dtype: pandas_of(pandas, a, dtype)
        kinds["pandas bool and float"] = lambda a: pandas_of(pandas, a, "float64", "bool")
        kinds["pandas Int64 and Float32"] = lambda a: pandas_of(pandas, a, "Int64", "Float32")
    if find_spec("pyarrow"):
        import pyarrow

        kinds["arrow"] = lambda a: arrow_of(pyarrow, a, float, int)
        kinds["arrow bool and float"] = lambda a: arrow_of(pyarrow, a, bool, float)
    if find_spec("polars"):
        import polars

        kinds["polars"] = lambda a: polars.Series(a) if a.ndim == 1 else polars.DataFrame(a)
    return kinds


def objects(a: Array) -> Array:
    """Numbers of several types in one array."""
    made = np.empty(a.size, object)
    for k, (value, kind) in enumerate(zip(a.flat, cycle([bool, int, float, np.float32, Fraction, Decimal]))):
        made[k] = kind(value)
    return made.reshape(a.shape)


def not_aligned(a: Array) -> Array:
    made = np.frombuffer(b"-" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape)
    assert not made.flags.aligned
    return made


def read_only(a: Array) -> Array:
    made = a.astype(np.float32)
    made.setflags(write=False)
    return made


def memory_map(a: Array) -> Array:
    name = f"{len(list(Path().iterdir()))}.npy"
    np.save(name, a)
    return np.load(name, mmap_mode="r")


def pandas_of(pandas: Any, a: Array, *dtypes: str) -> Any:
    columns = [pandas.Series(column).astype(dtype) for column, dtype in zip(np.atleast_2d(a.T), cycle(dtypes))]
    return columns[0] if a.ndim == 1 else pandas.DataFrame(dict(enumerate(columns)))


def arrow_of(pyarrow: Any, a: Array, *kinds: type) -> Any:
    columns = [pyarrow.array(column.astype(kind)) for column, kind in zip(np.atleast_2d(a.T), cycle(kinds))]
    return columns[0] if a.ndim == 1 else pyarrow.table({str(k): column for k, column in enumerate(columns)})


def plain(result: Any) -> Any:
    """A result as lists, tuples and numbers, which can be compared."""
    match result:
        case np.ndarray() | np.generic():
            return str(result.dtype), result.tolist()
        case Network():
            return plain(result.parameters)
        case Mapping():
            return {name: plain(value) for name, value in result.items()}
        case list() | tuple():
            return [plain(value) for value in result]
        case float():
            # The log loss of predictions in float32 is computed in it.
            return round(result, 6)
        case Dataset():
            return plain(result.arrays)
        case GradientReport() | ParityReport():
            return result.as_dict()
        case _ if dataclasses.is_dataclass(result):
            return {field.name: plain(getattr(result, field.name)) for field in dataclasses.fields(result)}
    return result


def same(name: str, make: Callable[[Array], Any]) -> Any:
    """The right value of a parameter in arrays of another kind."""
    right = ARRAYS[name]
    return list(map(make, right)) if isinstance(right, list) else make(right)


# The assertions hand their arrays on.
@pytest.mark.parametrize(
    "label",
    [each for each in FUNCTIONS if {p.name for p in parameters(each)} & {*ARRAYS} and "assert" not in each],
)
def test_arrays_of_other_kinds_give_the_same_result_and_stay_as_they_are(label: str) -> None:
    for name in [each.name for each in parameters(label) if each.name in ARRAYS]:
        expected = plain(called(label, **{name: same(name, np.array)}))
        for kind, make in presentations().items():
            given = same(name, make)
            before = repr(given)
            try:
                found = plain(called(label, **{name: given}))
            except nnbp.ShapeError:
                # These are vectors: b (n_out,), and one weight for each class.
                assert name in ("biases", "class_weight")
                assert kind.startswith(("column", "matrix"))
            else:
                assert found == expected, (name, kind)
            assert repr(given) == before, (name, kind)
