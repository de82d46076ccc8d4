"""`nnbp.onnx.export`: two runtimes that know nothing of nnbp compute what nnbp computes, and no file lies."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnbp
from nnbp import Activation, BatchNorm, Dense, Dropout, Layer, LayerNorm, Loss, Network, Standardize, TableModel
from nnbp.graph.formula import PRIMITIVES
from nnbp.graph.ops import Foreign, Reduce
from nnbp.nn.layers import OneHot
from nnbp.onnx import FLOAT32_ONLY, FORMULAS, OPERATORS, export
from nnbp.testing import example_problem

onnx = pytest.importorskip("onnx")
onnx_reference = pytest.importorskip("onnx.reference")
onnxruntime = pytest.importorskip("onnxruntime")

HIDDEN = [name for name in Activation.built_in() if name != "softmax"]
BOUNDED = [name for name in HIDDEN if name != "exponential"]  # of an exponential overflows
CLOSE = {"float32": 1e-5, "float64": 1e-13}


def by_onnxruntime(path: Path, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds), strict=True))


def by_reference(path: Path, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
    evaluator = onnx_reference.ReferenceEvaluator(str(path))
    with np.errstate(over="ignore"):
        return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))


RUNTIMES = [by_onnxruntime, by_reference]


def assert_same(net: Network, path: Path, X: np.ndarray) -> None:
    """Both runtimes give what the network gives, for other numbers of samples than the export saw."""
    onnx.checker.check_model(str(path), full_check=True)
    close = {"rtol": 0, "atol": CLOSE[net.dtype.name]}
    for run in RUNTIMES:
        for rows in (X, X[:1]):
            found = run(path, {"X": rows})
            if net.loss_function.classification:
                assert [*found] == ["label", "probabilities"]
                np.testing.assert_allclose(found["probabilities"], net.predict_proba(rows), **close)
                np.testing.assert_array_equal(found["label"], net.predict(rows))
            else:
                expected = net.predict(rows)
                assert found["value"].shape == expected.shape
                np.testing.assert_allclose(found["value"], expected, rtol=close["atol"], atol=close["atol"])


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("name", HIDDEN)
def test_every_activation_is_exported(name: str, dtype: str, tmp_path: Path) -> None:
    """In float64 too: GELU needs no Erf, nor ELU and Softplus operators of their names, which onnxruntime lacks."""
    net, X, _ = example_problem([4, 9, 3], activation=name, loss="cross_entropy", dtype=dtype, samples=30, device="cpu")
    done = export(net, tmp_path / "net.onnx")
    assert done.inputs == ("X",)
    made = onnx.load(str(tmp_path / "net.onnx"))
    assert (made.ir_version, made.opset_import[0].version) == (8, 17), "runtimes of 2022 read the file"
    assert done.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert done.error < CLOSE[dtype]
    assert_same(net, tmp_path / "net.onnx", (3 * X).astype(dtype))


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("kind", [BatchNorm, LayerNorm])
def test_normalization_is_exported_with_its_running_statistics(kind: Any, dtype: str, tmp_path: Path) -> None:
    layers = [4, kind(), Dense(9, "identity"), kind("relu"), Dense(3)]
    net = Network(layers, loss="cross_entropy", dtype=dtype, device="cpu", seed=0)
    X, y = np.random.default_rng(0).normal(1, 3, size=(60, 4)), np.arange(60) % 3
    net.fit(X, y, epochs=2, progress=False)
    export(net, tmp_path / "net.onnx")
    assert_same(net, tmp_path / "net.onnx", X.astype(dtype))


@pytest.mark.parametrize("name", Loss.built_in())
@pytest.mark.parametrize("outputs", [1, 3])
def test_every_loss_gives_its_outputs(name: str, outputs: int, tmp_path: Path) -> None:
    outputs = max(outputs, 2) if name == "cross_entropy" else outputs
    net, X, _ = example_problem([4, 5, outputs], loss=name, device="cpu")
    export(net, tmp_path / "net.onnx")
    assert_same(net, tmp_path / "net.onnx", X.astype(np.float32))


def test_every_primitive_of_formulas_has_a_counterpart() -> None:
    assert {*OPERATORS, *FORMULAS} == set(PRIMITIVES)


def own(monkeypatch: pytest.MonkeyPatch, formula: Any, name: str = "own") -> Activation:
    """An activation of a user's with this formula; the test's end takes it back."""
    monkeypatch.setattr(Activation, "registry", dict(Activation.registry))
    return type("Own", (Activation,), {"name": name, "f": lambda self, z: formula(z)})()


def one_to_one(activation: Activation, dtype: str) -> Network:
    """A network with one output, f(x)."""
    net = Network([1, 1], output_activation=activation, dtype=dtype, device="cpu")
    net.set_parameters([[[1.0]]], [[0.0]])
    return net


LOWEST = {"log": 0.01, "sqrt": 0.01, "power": 0.01, "log1p": -0.9}


def called(name: str) -> Any:
    """A function of z with one primitive of formulas, of z alone or of z and 0.5 − z, that is finite everywhere."""
    if name == "where":
        return lambda z: np.where(z > 0.25, z, -2.0)
    function, low = getattr(np, name), LOWEST.get(name, -np.inf)
    return lambda z: 2.0 * function(*[np.maximum(z, low), 0.5 - z][: function.nin])


CASES = [(name, dtype) for name in PRIMITIVES for dtype in CLOSE if dtype == "float32" or name not in FLOAT32_ONLY]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_every_primitive_computes_what_numpy_does(
    name: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    f = called(name)
    export(one_to_one(own(monkeypatch, f), dtype), tmp_path / "net.onnx")
    z = np.array([*np.linspace(-4.0, 4.0, 42), 0.25, 1e-6, 3e-12, 60.0], dtype)
    expected = f(z)
    for run in RUNTIMES:
        found = run(tmp_path / "net.onnx", {"X": z[:, None]})["value"]
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=10 * np.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("name", FORMULAS)
def test_what_onnx_lacks_is_right_at_the_limits(name: str) -> None:
    z = np.array([-1.0, 0.0, 1e-300, 1e-17, -1e-9, 1e30, np.inf])
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(FORMULAS[name](z), getattr(np, name)(z), rtol=1e-15)
    if name == "expm1":
        assert FORMULAS[name](np.float64(-1e4)) == -1.0


def test_comparisons_and_constants_in_a_formula_are_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k, formula in enumerate([lambda z: z > 0.5, lambda z: z * (z > 0) + (z < -1), lambda z: 1.0, lambda z: z != 1]):
        net = one_to_one(own(monkeypatch, formula, f"own{k}"), "float32")
        export(net, tmp_path / "net.onnx")
        assert_same(net, tmp_path / "net.onnx", np.array([[-2.0], [0.25], [1.0], [7.0]], np.float32))


# ---- layers


def test_layers_are_those_of_prediction(tmp_path: Path) -> None:
    """Dropout is gone, and Standardize subtracts in float64: a mean of 10⁹ leaves the digits after the point."""
    X = 1e9 + np.random.default_rng(0).normal(size=(50, 3))
    layers = [Standardize(), Dropout(0.3), Dense(6, "tanh"), Dropout(0.5), Dense(1)]
    net = Network(layers, device="cpu", seed=0)
    net.fit(X, X[:, 0] - 1e9, epochs=3, progress=False)
    export(net, tmp_path / "net.onnx")
    assert_same(net, tmp_path / "net.onnx", X)
    operators = {node.op_type for node in onnx.load(str(tmp_path / "net.onnx")).graph.node}
    assert not {op for op in operators if "Random" in op or "Dropout" in op}


@pytest.mark.parametrize("before", [[], [Standardize()]])
def test_one_hot_columns_are_taken_out_of_any_matrix(before: list[Any], tmp_path: Path) -> None:
    X = np.random.default_rng(0).integers(-1, 4, (40, 5)).astype(np.float64)
    net = Network([*before, OneHot([3, 0, 0, 2, 4]), Dense(4), Dense(2)], device="cpu", seed=1)
    net.fit(X, X[:, :2], epochs=2, progress=False)
    export(net, tmp_path / "net.onnx")
    assert_same(net, tmp_path / "net.onnx", X if before else X.astype(np.float32))


def test_a_layer_of_a_user_is_exported_by_its_operations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of a sample's features is 0 and their largest number 1, whatever the size of the batch."""

    class Node(nnbp.nn.layers.Node):
        def __init__(self, op: Any, x: Any) -> None:
            self.a, row, n = op.empty(x.shape[0]), op.empty(1), x.shape[0]
            op.record(Reduce("sum", x, 0, row))
            op.map(lambda x, total: x - total / n, [self.a], x=x, total=row)
            op.record(Reduce("maximum", self.a, 0, row))
            op.map(lambda a, largest: a / largest, [self.a], a=self.a, largest=row)

        def backward(self, op: Any, da: Any, *, want_dx: bool) -> Any:
            return None

    monkeypatch.setattr(Layer, "registry", dict(Layer.registry))
    members = {
        "kind": "own", "outputs": lambda self, n_in: n_in, "config": lambda self: {},
        "connect": lambda self, op, x, theta, gradient, stream, keep_z: Node(op, x),
    }  # fmt: skip
    net = Network([4, type("Own", (Layer,), members)(), Dense(2)], loss="cross_entropy", device="cpu", seed=0)
    export(net, tmp_path / "net.onnx")
    assert_same(net, tmp_path / "net.onnx", np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32))


def test_a_part_that_is_overwritten_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    activation = own(monkeypatch, lambda z: z)

    def forward(self: Any, op: Any, z: Any, b: Any, a: Any) -> tuple[()]:
        op.map(lambda z, b: z + b, [a], z=z, b=b)
        op.map(lambda z: -z, [a[:1]], z=z[:1])
        return ()

    monkeypatch.setattr(type(activation), "forward", forward)
    net = Network([2, 3], output_activation=activation, device="cpu")
    refused(tmp_path / "net.onnx", "overwrites a part of an array", net)


def test_errors_of_values_are_relative_to_the_largest(tmp_path: Path) -> None:
    net, X, _ = example_problem([20, 50, 2], activation="tanh", device="cpu", samples=100)
    net.weights[-1][...] *= 1e6
    assert 0 < export(net, tmp_path / "net.onnx", data=X).error < 1e-5


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_random_networks(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    n_in, dtype = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([*CLOSE]))
    layers: list[Any] = data.draw(st.sampled_from([[], [Standardize()], [Dropout(0.2)]]))
    if data.draw(st.booleans()):
        layers = [*layers, OneHot(data.draw(st.lists(st.integers(0, 3), min_size=n_in, max_size=n_in)))]
    for units in data.draw(st.lists(st.integers(1, 6), max_size=3)):
        layers = [*layers, Dense(units, data.draw(st.sampled_from(BOUNDED))), Dropout(0.1)]
    loss = data.draw(st.sampled_from([*Loss.built_in()]))
    layers = [n_in, *layers, Dense(data.draw(st.integers(2 if loss == "cross_entropy" else 1, 4)))]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    net = Network(layers, loss=loss, dtype=dtype, device="cpu", seed=0)
    X = np.rint(rng.normal(1.0, 1.0, (20, n_in))).astype(net.dtype)
    X[0] = 5.0
    outputs = net.model.n_out
    y = rng.integers(0, 2, 20) if loss == "cross_entropy" else rng.integers(0, 2, (20, outputs)).astype(float)
    net.prepare(X, y)
    path = tmp_path_factory.mktemp("random") / "net.onnx"
    export(net, path)
    (entry,) = onnx.load(str(path)).graph.input
    wide = np.float64 if entry.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE else np.float32
    assert_same(net, path, X.astype(wide))


# ---- tables


def table(m: int = 60) -> Any:
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(3)
    age = rng.integers(18, 80, m).astype(float)
    frame = pandas.DataFrame(
        {
            "age": age,
            "born": pandas.Series(1.7e9 + 3e6 * rng.normal(size=m)),
            "town": rng.choice(["Rome", "Oslo", "Bern", "São Paulo"], m, p=[0.5, 0.3, 0.17, 0.03]),
            "member": rng.choice([True, False], m),
            "label": rng.choice(["a", "b"], m),
            "income": 100.0 * age + rng.normal(size=m),
            "buys": np.where(age > 40, "yes", np.where(age > 30, "perhaps", "no")),
        }
    )
    frame.loc[[3, 7], "age"] = np.nan
    frame.loc[[4, 9], "town"] = None
    frame["member"] = frame["member"].astype(object)
    frame.loc[5, "member"] = None
    return frame


def raw(frame: Any, inputs: Any) -> dict[str, np.ndarray]:
    """The cells of a frame as a caller of a runtime gives them, who knows no more than the inputs."""
    feeds = {}
    for entry in inputs:
        column = frame[entry.name]
        if entry.type.tensor_type.elem_type == onnx.TensorProto.STRING:
            feeds[entry.name] = np.array(column.fillna("").tolist(), dtype=object)[:, None]
        else:
            feeds[entry.name] = column.astype(float).to_numpy()[:, None]
    return feeds


def test_a_table_of_texts_and_gaps_gives_labels_and_probabilities(tmp_path: Path) -> None:
    frame = table().drop(columns="income")
    model = TableModel.fit(frame, "buys", epochs=20, progress=False, device="cpu")
    done = export(model, tmp_path / "table.onnx")
    made = onnx.load(str(tmp_path / "table.onnx"))
    assert done.inputs == model.feature_names == ("age", "born", "town", "member", "label")
    assert done.outputs == ("label_", "probabilities"), "a column has the name"
    assert json.loads({entry.key: entry.value for entry in made.metadata_props}["labels"]) == ["no", "perhaps", "yes"]
    feeds = raw(frame, made.graph.input)
    for run in RUNTIMES:
        found = run(tmp_path / "table.onnx", feeds)
        np.testing.assert_allclose(found["probabilities"], model.predict_proba(frame), rtol=0, atol=1e-5)
        assert found["label_"].tolist() == model.predict(frame).tolist()


def test_values_are_in_their_own_unit(tmp_path: Path) -> None:
    frame = table().drop(columns="buys")
    model = TableModel.fit(frame, "income", epochs=20, progress=False, device="cpu")
    done = export(model, tmp_path / "table.onnx", data=frame.head(30))
    assert done.outputs == ("value",)
    assert done.samples == 30
    feeds = raw(frame, onnx.load(str(tmp_path / "table.onnx")).graph.input)
    for run in RUNTIMES:
        found = run(tmp_path / "table.onnx", feeds)["value"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, model.predict(frame), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*a category that training did not have")
def test_unknown_and_missing_texts_count_as_in_predict(tmp_path: Path) -> None:
    frame = table()[["town", "age", "buys"]]
    model = TableModel.fit(frame, "buys", missing=["unknown"], epochs=5, progress=False, device="cpu")
    export(model, tmp_path / "table.onnx")
    odd = frame.iloc[[0] * 6].assign(town=["NA", "unknown", "", "Atlantis", "oslo", "Oslo"])
    feeds = raw(odd, onnx.load(str(tmp_path / "table.onnx")).graph.input)
    for run in RUNTIMES:
        found = run(tmp_path / "table.onnx", feeds)["probabilities"]
        np.testing.assert_allclose(found, model.predict_proba(odd), rtol=0, atol=1e-5)
        assert [np.isclose(found, row).all(axis=1).argmax() for row in found] == [0, 0, 0, 3, 3, 5]


@pytest.mark.parametrize("labels", [np.array([3, 5, 9]), np.array([True, False]), np.array(["a", "ü"])])
def test_labels_keep_their_type(labels: np.ndarray, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": np.arange(40.0), "y": labels[np.arange(40) // 8 % len(labels)]})
    model = TableModel.fit(frame, "y", epochs=3, progress=False, device="cpu", dtype="float64")
    export(model, tmp_path / "table.onnx")
    for run in RUNTIMES:
        found = run(tmp_path / "table.onnx", {"x": frame[["x"]].to_numpy()})["label"]
        assert found.tolist() == model.predict(frame).tolist()
        assert type(found.tolist()[0]) is type(labels.tolist()[0])


def test_a_table_model_without_preprocessing_is_its_network(tmp_path: Path) -> None:
    net, X, _ = example_problem([3, 4, 2], loss="cross_entropy", device="cpu")
    net.save(tmp_path / "net.safetensors")
    export(TableModel.load(tmp_path / "net.safetensors", device="cpu"), tmp_path / "net.onnx")
    assert_same(net, tmp_path / "net.onnx", X.astype(np.float32))


# ---- what is refused


def refused(path: Path, message: str, model: Any, **options: Any) -> None:
    """The export says why, and the file that was there is as it was."""
    path.write_bytes(b"old")
    with pytest.raises(nnbp.ModelFileError, match=message):
        export(model, path, **options)
    assert path.read_bytes() == b"old"
    assert [*path.parent.iterdir()] == [path]


def test_a_function_that_onnxruntime_lacks_in_float64_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = one_to_one(own(monkeypatch, np.arctan), "float64")
    refused(tmp_path / "net.onnx", r"np\.arctan is Atan in ONNX, which onnxruntime, or an older one, does not", net)
    export(net.copy(dtype="float32"), tmp_path / "net.onnx")
    graph = onnx.load(str(tmp_path / "net.onnx")).graph
    for item in [*graph.input, *graph.output]:
        item.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for item in graph.initializer:
        if item.data_type == onnx.TensorProto.FLOAT:
            item.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(item).astype(np.float64), item.name))
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(Exception, match="Could not find an implementation for Atan"):
        onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])


def test_a_call_of_a_function_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def special(z: Any) -> None:
        """Nothing."""

    activation = own(monkeypatch, lambda z: z)
    monkeypatch.setattr(type(activation), "forward", lambda self, op, z, b, a: op.record(Foreign(special, (z,))) or ())
    refused(
        tmp_path / "net.onnx", r"special, which a layer calls, has no counterpart", one_to_one(activation, "float32")
    )


def test_a_loss_that_decides_by_itself_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loss, "registry", dict(Loss.registry))
    members = {
        "name": "hinge", "classification": True, "cost": lambda self, h, y: np.maximum(0.0, 1.0 - y * h),
        "decide": lambda self, xp, h: xp.sign(h[:, 0]), "probabilities": lambda self, xp, h: h,
    }  # fmt: skip
    net = Network([2, 1], loss=type("Hinge", (Loss,), members)(), device="cpu")
    refused(tmp_path / "net.onnx", "the loss hinge decides classes by its own function", net)


def test_no_file_is_left_that_disagrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, _, _ = example_problem([3, 4, 2], activation="tanh", loss="cross_entropy", device="cpu")
    monkeypatch.setitem(OPERATORS, "tanh", ("Sin",))
    refused(tmp_path / "net.onnx", "received outputs that differ by", net)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_values_are_compared_by_how_much_they_vary(
    offset: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large mean of the target hides no fault."""
    pandas = pytest.importorskip("pandas")
    x = np.random.default_rng(0).uniform(-3, 3, size=400)
    frame = pandas.DataFrame({"x": x, "target": offset + 3 * np.sin(2 * x)})
    model = TableModel.fit(frame, "target", seed=0, device="cpu", epochs=20, progress=False)
    export(model, tmp_path / "net.onnx")
    monkeypatch.setitem(OPERATORS, "maximum", ("Min",))
    refused(tmp_path / "net.onnx", "received outputs that differ by", model)


def test_infinite_outputs_hide_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Network([2, 1], loss="poisson", device="cpu", seed=0)
    net.weights[0][...] = 40.0
    assert np.isinf(net.predict([[3.0, 3.0]])).all()
    X = np.vstack([np.random.default_rng(0).normal(size=(50, 2)), [[3.0, 3.0]]])
    export(net, tmp_path / "net.onnx", data=X, tolerance=1e-4)
    net.weights[0][...] = 60.0
    X[:, 1] = np.random.default_rng(1).uniform(-1, 0.3, size=51)
    monkeypatch.setitem(OPERATORS, "exp", ("Exp", "Sqrt"))
    refused(tmp_path / "net.onnx", "received outputs that differ by", net, data=X, tolerance=1e-4)


def test_outputs_that_are_not_finite_cannot_be_compared(tmp_path: Path) -> None:
    net = Network([2, 1], loss="poisson", device="cpu", seed=0)
    net.weights[0][...] = 60.0
    refused(tmp_path / "net.onnx", "not finite for most of them", net, data=np.full((4, 2), 3.0))


def test_labels_are_compared_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATORS, "greater_equal", ("Less",))
    net, _, _ = example_problem([3, 4, 1], loss="binary_cross_entropy", device="cpu")
    refused(tmp_path / "net.onnx", "predict the same labels", net)


def test_the_tolerance_and_the_data_are_the_users(tmp_path: Path) -> None:
    net, X, _ = example_problem([3, 40, 2], activation="gelu", loss="cross_entropy", device="cpu", samples=500)
    refused(tmp_path / "net.onnx", "the same, up to 1e-09", net, data=X, tolerance=1e-9)
    assert export(net, tmp_path / "net.onnx", data=X.tolist(), tolerance=1e-6).samples == 500
    with pytest.raises(nnbp.ShapeError):
        export(net, tmp_path / "net.onnx", data=X[:, :2])
    with pytest.raises(ValueError, match="tolerance"):
        export(net, tmp_path / "net.onnx", tolerance=-1)
    with pytest.raises(TypeError, match="a Network or a TableModel; received 'net'"):
        export("net", tmp_path / "net.onnx")  # type: ignore[arg-type]


def test_a_network_that_has_seen_no_data_says_so(tmp_path: Path) -> None:
    with pytest.raises(nnbp.NnbpError, match="Call fit"):
        export(Network(device="cpu"), tmp_path / "net.onnx")
    with pytest.raises(nnbp.NnbpError, match="Call fit"):
        export(Network([2, Standardize(), Dense(1)], device="cpu"), tmp_path / "net.onnx")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(nnbp.ModelFileError, match=r"Cannot export to .*there is no"):
        export(Network([2, 1], device="cpu"), tmp_path / "absent" / "net.onnx")


def test_without_onnxruntime_the_reference_evaluator_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, _, _ = example_problem([3, 4, 2], loss="cross_entropy", device="cpu")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert export(net, tmp_path / "net.onnx").runtime == f"the reference evaluator of onnx {onnx.__version__}"
    monkeypatch.setitem(OPERATORS, "maximum", ("Min",))
    refused(tmp_path / "net.onnx", "the reference evaluator .* differ by", net)


def test_without_onnx_the_command_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(nnbp.MissingDependencyError, match=r'python -m pip install "onnx>='):
        export(Network([2, 1], device="cpu"), tmp_path / "net.onnx")
    assert not [*tmp_path.iterdir()]
