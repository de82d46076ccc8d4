"""What the explorer shows: the numbers of nnbp, units numbered as in the notes, names of columns and classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nnbp
from nnbp import Activation, Loss, Network
from nnbp.errors import DataError, NnbpError, ShapeError
from nnbp.explorer.explanation import Column, explained, slope, spread, stated
from nnbp.nn.layers import OneHot
from nnbp.testing import example_problem


def test_the_numbers_are_those_of_trace_and_gradients() -> None:
    net, X, y = example_problem([3, 4, 2], activation="sigmoid", weight_decay=0.1, dtype="float64", device="cpu")
    found = explained(net, X, y)
    trace, gradients = net.trace(X), net.gradients(X, y)
    for p, q in zip(found.trace.a[1:] + found.trace.z[1:], trace.a[1:] + trace.z[1:], strict=True):
        np.testing.assert_array_equal(p, q)
    np.testing.assert_array_equal(found.gradients.flat, gradients.flat)
    np.testing.assert_allclose(found.cost.mean() + 0.05 * sum((W**2).sum() for W in net.weights), net.loss(X, y))
    assert found.gradients.loss == gradients.loss


def test_units_are_numbered_as_in_the_notes() -> None:
    """Inputs 1 to 3, hidden units 4 to 7, outputs 8 and 9 (docs/notes.md, 2.2)."""
    found = explained(*example_problem([3, 4, 2], device="cpu"))
    assert (found.sizes, found.first_units) == ([3, 4, 2], [1, 4, 8])


def test_a_network_in_float32_is_explained_in_float64_and_stays_as_it_is() -> None:
    net, X, y = example_problem([3, 4, 2], device="cpu")
    before = net.parameters.copy()
    found = explained(net, X, y)
    assert found.network is not net
    assert found.trace.a[1].dtype == found.network.parameters.dtype == np.float64
    assert net.parameters.dtype == np.float32
    np.testing.assert_array_equal(net.parameters, before)


def test_layers_before_the_first_units_make_the_inputs() -> None:
    net = Network([nnbp.Standardize(), 4, 1], device="cpu", seed=0)
    X = np.random.default_rng(0).normal(5, 3, (30, 2))
    net.fit(X, X[:, 0], epochs=1, progress=False)
    found = explained(net, X, X[:, 0], rows=30)
    np.testing.assert_allclose(found.inputs, (X - X.mean(0)) / X.std(0), rtol=1e-12)
    np.testing.assert_array_equal(found.X, X)
    assert found.sizes == [2, 4, 1]


def test_classes_become_a_target_for_each_output() -> None:
    net, X, _ = example_problem([3, 4, 3], loss="cross_entropy", device="cpu")
    found = explained(net, X, [0, 1, 2, 0, 1, 2, 0, 1], labels=["a", "b", "c"])
    np.testing.assert_array_equal(found.y[:3], np.eye(3))
    assert found.output_names == ("a", "b", "c")


def test_many_samples_are_thinned_out_evenly() -> None:
    assert spread(3, 20).tolist() == [0, 1, 2]
    assert spread(1, 20).tolist() == [0]
    assert spread(100, 3).tolist() == [0, 50, 99]
    found = explained(*example_problem([3, 4, 2], samples=90, device="cpu"), rows=4)
    assert (found.samples, found.rows.tolist()) == (90, [0, 30, 59, 89])
    assert len(found.X) == len(found.cost) == len(found.trace.a[0]) == 4


def frame(m: int = 60) -> Any:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    table = pandas.DataFrame({"area": rng.normal(80, 20, m), "town": rng.choice(["Rome", "Oslo", "Kyiv"], m)})
    table["price"] = 3.0 * table["area"] + 40.0 * (table["town"] == "Oslo")
    return table


def test_a_table_keeps_its_columns_and_the_unit_of_its_target() -> None:
    table = frame()
    model = nnbp.TableModel.fit(table, "price", hidden=[4], epochs=2, progress=False, device="cpu")
    found = explained(model, table)
    assert found.input_names == ("area", "town=Kyiv", "town=Oslo", "town=Rome")
    area, town = found.columns
    assert (town.name, town.units, town.categories) == ("town", (1, 2, 3), ("Kyiv", "Oslo", "Rome"))
    np.testing.assert_allclose(found.X[:, 0] * area.scale + area.mean, table["area"].iloc[found.rows], rtol=1e-12)
    np.testing.assert_allclose(found.y[:, 0] * found.target.scale + found.target.mean, table["price"].iloc[found.rows])
    assert (found.samples, found.target.name, len(found.rows)) == (60, "price", 20)


def test_a_table_of_classes_names_its_outputs() -> None:
    table = frame()
    for count, names in ((3, ("Kyiv", "Oslo", "Rome")), (2, ("Rome",))):
        part = table if count == 3 else table[table["town"] != "Kyiv"]
        model = nnbp.TableModel.fit(part, "town", hidden=[4], epochs=2, progress=False, device="cpu")
        assert explained(model, part).output_names == names


def test_categories_without_a_table_have_their_indices() -> None:
    net = Network([2, OneHot([0, 2]), 3, 1], device="cpu", seed=0)
    found = explained(net, [[0.5, 1.0]], [0.0])
    assert found.columns == (Column("", (0,)), Column("", (1, 2), ("0", "1")))
    assert found.inputs.tolist() == [[0.5, 0.0, 1.0]]


@pytest.mark.parametrize("name", [*Activation.built_in(), *Loss.built_in()])
def test_formulas_are_stated_without_remarks(name: str) -> None:
    item = Activation.get(name) if name in Activation.built_in() else Loss.get(name)
    text = stated(item)
    assert text.startswith(("f(z)", "C = "))
    assert "docs/" not in text


def test_slopes_are_the_derivatives() -> None:
    assert slope(Activation.get("softmax")) is None
    assert str(slope(Activation.get("sigmoid"))) == "v0 = subtract(1.0, a)\nv1 = multiply(a, v0)\n-> v1"


def test_arguments_that_do_not_fit_are_refused() -> None:
    net, X, y = example_problem([3, 4, 2], device="cpu")
    with pytest.raises(TypeError, match="net must be a Network or a TableModel; received 3"):
        explained(3, X, y)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="needs targets"):
        explained(net, X)
    with pytest.raises(ShapeError, match="names has one name for each of 3 units; received 1"):
        explained(net, X, y, names=["a"])
    with pytest.raises(ShapeError, match="labels has one name for each of 2 units"):
        explained(net, X, y, labels=["a", "b", "c"])
    with pytest.raises(TypeError, match="names is a list of strings, one for each unit; received 1"):
        explained(net, X, y, names=["a", 1, "c"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="rows"):
        explained(net, X, y, rows=0)
    with pytest.raises(ShapeError):
        explained(net, X[:, :2], y)
    with pytest.raises(DataError):
        explained(net, X * np.nan, y)
    with pytest.raises(NnbpError, match=r"at most 300,000 parameters; received one of 404,001"):
        explained(Network([200, 2000, 1], device="cpu", seed=0), np.zeros((1, 200)), [0.0])
    with pytest.raises(NnbpError):
        explained(Network(device="cpu"), X, y)
