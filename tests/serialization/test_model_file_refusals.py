"""What model files may not hold: each rule of nnbp.serialization.model_file, and what the message says."""

from __future__ import annotations

import copy
import errno
import os
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from modelfile_samples import forged, same, small

from nnbp.errors import ModelFileError
from nnbp.serialization import model_file as model_file_module
from nnbp.serialization.model_file import ModelFile, State, build_layers, read, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model"


# ---- what is refused: architectures


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    architecture = copy.deepcopy(small().architecture)
    change(architecture)
    return architecture


def dense(architecture: dict[str, Any], index: int = 0) -> dict[str, Any]:
    config: dict[str, Any] = architecture["layers"][index]["config"]
    return config


ARCHITECTURES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (
        lambda a: a.pop("seed"),
        "the architecture has the keys n_in, layers, loss, weight_decay, dtype, seed and no others",
    ),
    (lambda a: a.update(file="x"), "the architecture has the keys"),
    (lambda a: a.update(n_in=0), "n_in is a whole number, at least 1; received 0"),
    (lambda a: a.update(n_in=True), "n_in is a whole number, at least 1; received True"),
    (lambda a: a.update(n_in=4.0), "n_in is a whole number, at least 1; received 4.0"),
    (lambda a: a.update(seed=-1), "seed is a whole number, at least 0; received -1"),
    (lambda a: a.update(seed=None), "seed is a whole number, at least 0; received None"),
    (lambda a: a.update(weight_decay=-0.5), "weight_decay is a number, finite and at least 0; received -0.5"),
    (lambda a: a.update(weight_decay=True), "weight_decay is a number, finite and at least 0; received True"),
    (lambda a: a.update(weight_decay="0"), "weight_decay is a number, finite and at least 0; received '0'"),
    (lambda a: a.update(weight_decay=float("nan")), "architecture.weight_decay' is nan"),
    (lambda a: a.update(dtype="float16"), "the dtype is float32 or float64; received 'float16'"),
    (lambda a: a.update(dtype=["float32"]), "the dtype is float32 or float64; received ['float32']"),
    (lambda a: a.update(layers={}), "layers is a list; received {}"),
    (lambda a: a.update(layers=[]), "Add the output layer."),
    (lambda a: a["layers"].pop(), "A network ends in a Dense layer"),
    (lambda a: a["layers"].append(7), "a layer has the keys kind, config and no others; received 7"),
    (lambda a: a["layers"][0].update(kind="dens"), "Unknown kind of layer: it is one of batch_norm, dense, dropout"),
    (lambda a: a["layers"][0].update(kind="dens"), "received 'dens' (did you mean 'dense'?). "),
    (lambda a: a["layers"][0].update(kind=["dense"]), "Unknown kind of layer"),
    (
        lambda a: a["layers"][0].update(config=[]),
        "a dense layer has all its arguments in its config, activation too; received []",
    ),
    (lambda a: dense(a).pop("activation"), "a dense layer has all its arguments in its config"),
    (lambda a: dense(a).pop("units"), "the dense layer does not take the arguments"),
    (lambda a: dense(a).update(bias=False), "unexpected keyword argument 'bias'"),
    (
        lambda a: dense(a).update(units=0),
        "The number of units of a Dense layer is a whole number, at least 1; received 0",
    ),
    (lambda a: dense(a).update(units=True), "at least 1; received True"),
    (lambda a: dense(a).update(units=3.0), "at least 1; received 3.0"),
    (lambda a: dense(a).update(units="3"), "at least 1; received '3'"),
    (lambda a: dense(a).update(activation="elu"), "the activation is an object with a name; received 'elu'"),
    (
        lambda a: dense(a).update(activation={"name": 3}),
        "the activation is an object with a name; received {'name': 3}",
    ),
    (lambda a: dense(a)["activation"].update(name="eluu"), "received 'eluu' (did you mean 'elu'?)"),
    (lambda a: dense(a)["activation"].update(name="eluu"), "a class of your own, pass it as custom=[…]"),
    (lambda a: dense(a)["activation"].update(alpha=0), "The alpha of elu is a number, finite and above 0; received 0"),
    (
        lambda a: dense(a)["activation"].update(alpha="1"),
        "the activation 'elu' does not take the arguments {'alpha': '1'}",
    ),
    (lambda a: dense(a)["activation"].update(alpha=True), "does not take the arguments {'alpha': True}"),
    (lambda a: dense(a)["activation"].update(alpha=float("inf")), "alpha' is inf"),
    (lambda a: dense(a)["activation"].update(beta=1), "unexpected keyword argument 'beta'"),
    (lambda a: dense(a)["activation"].pop("alpha"), "the activation 'elu', of {}, says {'alpha': 1.0}"),
    (lambda a: dense(a).update(initializer="he_norml"), "did you mean 'he_normal'?"),
    (lambda a: dense(a).update(initializer=["he_normal"]), "the initializer is an object with a name"),
    (lambda a: dense(a, 1).update(rate=1.0), "at least 0 and below 1; received 1.0"),
    (lambda a: a["loss"].update(name="hubert"), "Unknown loss: it is one of absolute_error, binary_cross_entropy"),
    (lambda a: a.update(loss="huber"), "the loss is an object with a name; received 'huber'"),
    (
        lambda a: a.update(loss={"name": "huber", "threshold": -1.0}),
        "The threshold of huber is a number, finite and above 0; received -1.0",
    ),
    (lambda a: a.update(loss={"name": "binary_cross_entropy"}), "with the output activation sigmoid; received softmax"),
    (lambda a: dense(a).update(activation={"name": "softmax"}), "softmax is for the output layer"),
    (lambda a: dense(a, 2).update(units=1), "cross_entropy compares at least 2 classes"),
]


@pytest.mark.parametrize(("change", "message"), ARCHITECTURES, ids=[message[:60] for _, message in ARCHITECTURES])
def test_architectures_refused(path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    architecture = changed(change)
    with pytest.raises(ModelFileError) as caught:
        build_layers(architecture)
    assert str(caught.value).startswith("Cannot build the network: ")
    assert message in str(caught.value)
    with pytest.raises(ModelFileError, match=r"^Cannot write the model file") as caught:
        write(path, ModelFile(architecture, small().arrays))
    assert message in str(caught.value)
    assert list(path.parent.iterdir()) == []
    write(path, small())
    path.write_bytes(forged(path.read_bytes(), lambda header, content: change(content["architecture"])))
    with pytest.raises(ModelFileError, match=r"^Cannot read the model file") as caught:
        read(path)
    assert message in str(caught.value)


# ---- what is refused: arrays and extra


def with_array(name: str, value: Any) -> ModelFile:
    model_file = small()
    return ModelFile(model_file.architecture, {**model_file.arrays, name: value})


@pytest.mark.parametrize(
    ("model_file", "message"),
    [
        (ModelFile(small().architecture, {}), "missing: ['W1', 'b1', 'W2', 'b2'], unknown: []"),
        (with_array("W3", np.zeros(2)), "missing: [], unknown: ['W3']"),
        (
            with_array("b1", np.zeros(3, np.float32)),
            "b1 is a NumPy array of dtype float64; received ndarray of float32",
        ),
        (with_array("b1", np.zeros(3, int)), "b1 is a NumPy array of dtype float64; received ndarray of int64"),
        (with_array("b1", [0.0] * 3), "b1 is a NumPy array of dtype float64; received list of no dtype"),
        (with_array("W2", np.zeros((3, 2))), "the shape of W2 here is [2, 3]; received [3, 2]"),
        (with_array("b2", np.zeros((2, 1))), "the shape of b2 here is [2]; received [2, 1]"),
        (with_array("b1", np.array([0, 1, np.nan])), "parameters are finite; b1[2] is nan. Take a network whose"),
        (with_array("W1", np.full((3, 4), -np.inf)), "parameters are finite; W1[0, 0] is -inf"),
        (with_array("W2", np.array([[0, 1, 2], [3, -np.inf, 4]])), "parameters are finite; W2[1, 1] is -inf"),
        (with_array("W2", np.array([[0, 1, np.inf], [3, -1, 4]])), "parameters are finite; W2[0, 2] is inf"),
        (ModelFile(small().architecture, small().arrays, [1]), "extra is an object; received [1]"),  # type: ignore[arg-type]
        (ModelFile(small().architecture, small().arrays, {"a": (1,)}), "'extra.a' is (1,). Nothing was written"),
        (ModelFile(small().architecture, small().arrays, {"a": "b" * 2**24}), "Put less into `extra`."),
    ],
    ids=lambda item: item[:60] if isinstance(item, str) else "model",
)
def test_not_written(path: Path, model_file: ModelFile, message: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        write(path, model_file)
    assert message in str(caught.value)
    assert list(path.parent.iterdir()) == []


def test_parameters_that_are_not_finite_are_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(model_file_module, "_check_values", lambda arrays, layers, architecture: None)
        write(path, with_array("W1", np.full((3, 4), np.nan)))
    with pytest.raises(ModelFileError, match=re.escape("parameters are finite; W1[0, 0] is nan")):
        read(path)


# ---- what is refused: files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, c: c.update(format_version=3, new=1), "its format has version 3, this nnbp reads up to 2; nnbp '0."),
        (lambda h, c: c.update(format_version=3, new=1), "Load it with that nnbp, or a later one"),
        (lambda h, c: c.update(format_version="1"), "the format version is a whole number, at least 1; received '1'"),
        (lambda h, c: c.update(format_version=0), "the format version is a whole number, at least 1; received 0"),
        (lambda h, c: c.update(format_version=True), "the format version is a whole number, at least 1; received True"),
        (
            lambda h, c: c.update(import_me="os"),
            "the description of the network has the keys format_version, nnbp_version,",
        ),
        (lambda h, c: c.pop("sha256"), "the description of the network has the keys"),
        (lambda h, c: c.update(architecture=[]), "the architecture has the keys"),
        (lambda h, c: c.update(extra=[]), "extra is an object; received []"),
        (lambda h, c: c["extra"].update(b=1), "its checksum does not fit its content; received '"),
        (lambda h, c: c["architecture"].update(seed=3), "its checksum does not fit its content"),
        (lambda h, c: c.update(sha256=3), "its checksum does not fit its content; received 3"),
        (lambda h, c: c["architecture"].update(n_in=5), "the shape of W1 here is [3, 5]; received [3, 4]"),
        (
            lambda h, c: c["architecture"].update(n_in=10**30),
            "The number of inputs is a whole number, at most 2147483647; received 1000",
        ),
        (lambda h, c: dense(c["architecture"]).update(units=2), "the shape of W1 here is [2, 4]; received [3, 4]"),
        (lambda h, c: c["architecture"]["layers"].pop(0), "unknown: ['W2', 'b2']"),
        (lambda h, c: c["architecture"].update(dtype="float32"), "W1 is F32; received 'F64'"),
        (lambda h, c: h.update(W3=h.pop("W2")), "missing: ['W2'], unknown: ['W3']"),
    ],
)
def test_files_refused(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object], message: str) -> None:
    write(path, small())
    path.write_bytes(forged(path.read_bytes(), change))
    with pytest.raises(ModelFileError) as caught:
        read(path)
    assert str(caught.value).startswith(f"Cannot read the model file {str(path)!r}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["arrays"].update(best=["float32", 10**30]), "the shape of state.best here is [1000"),
        (lambda state: state["arrays"].update(best=["float16", 5]), "is described by dtype and length; received"),
        (lambda state: state["arrays"].update(best=["float32", -1]), "the length of state.best is a whole number"),
        (lambda state: state["arrays"].update(best=5), "is described by dtype and length; received 5"),
        (lambda state: state["arrays"].update(other=["float32", 1]), "missing: ['state.other']"),
        (lambda state: state["arrays"].clear(), "unknown: ['state.best']"),
        (lambda state: state.update(values=[1]), "the values of the state is an object; received [1]"),
        (lambda state: state.update(arrays=[1]), "the arrays of the state is an object; received [1]"),
        (lambda state: state.pop("values"), "the state has the keys values, arrays"),
    ],
)
def test_states_refused(path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    state = State({"epoch": 3}, {"best": np.array([np.nan, 1, 2, 3, np.inf], np.float32)})
    write(path, replace(small(), state=state))
    again = read(path).state
    assert again is not None
    assert again.values == state.values
    np.testing.assert_array_equal(again.arrays["best"], state.arrays["best"])
    path.write_bytes(forged(path.read_bytes(), lambda h, c: change(c["state"])))
    with pytest.raises(ModelFileError) as caught:
        read(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the description of the network is not JSON that can be read"),
        ("[1]", "the description of the network has the keys"),
        ("[" * 10**5, "the description of the network is not JSON that can be read: "),
        ("[" * 50 + "]" * 50, "JSON is nested at most 32 deep"),
        ('{"a": 1, "a": 1}', "a key stands once in its JSON object; the description of the network has one twice"),
        ('{"a": Infinity}', "numbers are finite; 'the description of the network.a' is inf"),
    ],
    ids=lambda item: item[:40],
)
def test_descriptions_refused(path: Path, text: str, message: str) -> None:
    write(path, small())
    path.write_bytes(forged(path.read_bytes(), lambda header, content: None, text))
    with pytest.raises(ModelFileError) as caught:
        read(path)
    assert message in str(caught.value)
    assert "take a fresh copy, or save the network again" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "text", "message"),
    [
        (lambda h, c: c["extra"].update({"k" * 10**6: [1] * 10**6}), None, "at most 262144 commas and brackets"),
        (lambda h, c: c["extra"].update({"k" * 10**6: [1] * 10**5}), None, "its checksum does not fit its content"),
        (lambda h, c: None, "[" + "[]," * 10**6 + "1]", "at most 262144 commas and brackets"),
        (lambda h, c: None, '{"k' + "k" * 10**6 + '": [' + "1," * 10**5 + "NaN]}", "numbers are finite; 'the desc"),
        (
            lambda h, c: c["architecture"].update(layers=[c["architecture"]["layers"][1]] * 5000),
            None,
            "at most 4096 lay",
        ),
        (lambda h, c: c["architecture"].update(seed="s" * 10**6), None, "seed is a whole number"),
        (lambda h, c: dense(c["architecture"]).update({"s" * 10**6: 1}), None, "does not take the arguments"),
        (
            lambda h, c: dense(c["architecture"]).update({"\x1b[31m": 1}),
            None,
            r"unexpected keyword argument '\x1b[31m'",
        ),
        (lambda h, c: c["architecture"]["layers"][0].update(kind=["s" * 10**6]), None, "Unknown kind of layer"),
        (lambda h, c: h.update({"s" * 10**6: 1}), None, "unknown: ['sss"),
        (lambda h, c: None, '{"a": 1' + ', "a": 1' * 10**5 + "}", "has one twice"),
    ],
    ids=lambda item: item[:30] if isinstance(item, str) else None,
)
def test_a_hostile_file_costs_little_and_has_a_short_message(
    path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object], text: str | None, message: str
) -> None:
    write(path, small())
    path.write_bytes(forged(path.read_bytes(), change, text))
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError) as caught:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000


@given(data=st.data())
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_told_as_damage(path: Path, data: st.DataObject) -> None:
    write(path, small())
    whole = path.read_bytes()
    path.write_bytes(data.draw(damaged(whole)))
    if path.read_bytes() != whole:
        with pytest.raises(ModelFileError, match=r"^Cannot read the model file"):
            read(path)


def test_no_file(path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"there is no such file. Check the path; the current folder is"):
        read(path)
    with pytest.raises(ModelFileError, match=r"this is a folder. Give the path of a file"):
        read(path.parent)
    with pytest.raises(ModelFileError, match=r"an existing folder; there is no .* Create it first"):
        write(path / "model", small())
    with pytest.raises(ModelFileError, match="this is a folder"):
        write(path.parent, small())


def test_a_file_that_the_system_refuses(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    write(path, small())
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(
        ModelFileError, match=r"'Permission denied'. Change the permissions, or choose a path"
    ) as caught:
        write(path, small(scale=2.0))
    assert isinstance(caught.value.__cause__, PermissionError)
    assert same(read(path), small())
