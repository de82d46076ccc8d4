"""A network with its table in one model file."""

import tracemalloc

import numpy as np
import pytest

from nnbp import Network
from nnbp.errors import ModelFileError
from nnbp.tabular.model import TableModel
from nnbp.tabular.preprocessing import NumberColumn, TablePreprocessor, TargetEncoder, TextColumn
from nnbp.tabular.table import Source

COLUMNS = TablePreprocessor((NumberColumn("a", 0.0, 1.0, 2.0), NumberColumn("b", 0.0, 0.0, 1.0)))


def table(y=None) -> Source:
    columns = {"a": np.array([1.0, 3.0, np.nan]), "b": np.array([0.0, 1.0, -1.0])}
    return Source("t", columns, np.arange(3), target=y, target_name=None if y is None else "y")


def test_it_comes_back_from_its_file_with_all_that_belongs_to_it(tmp_path):
    net = Network([2, 3, 3], loss="cross_entropy", device="cpu", seed=0)
    model = TableModel(net, COLUMNS, TargetEncoder("y", ("x", "y", "z")), {"source": "t"})
    model.save(tmp_path / "m")
    again = TableModel.load(tmp_path / "m", device="cpu")
    assert again.preprocessor == COLUMNS
    assert again.target == model.target
    assert again.about == {"source": "t"}
    X, messages = again.features(table())
    labels = again.decoded(again.network.predict(X))
    assert labels.tolist() == [("x", "y", "z")[k] for k in net.predict([[0, 0], [1, 1], [-0.5, -1]])]
    assert messages == []
    np.testing.assert_allclose(again.network.predict_proba(X).sum(axis=1), 1, rtol=1e-6)


def test_values_are_in_the_unit_of_the_target(tmp_path):
    net = Network([2, 1], device="cpu", seed=0)
    net.set_parameters([[[1.0, 0.0]]], [[0.0]])
    model = TableModel(net, COLUMNS, TargetEncoder("y", (), 100.0, 10.0))
    values = model.decoded(model.network.predict(model.features(table())[0]))
    assert values.tolist() == [100.0, 110.0, 95.0]
    found = model.compare(table(np.array([100.0, 110.0, 98.0])))
    assert found.metrics["mae"] == pytest.approx(1.0)
    assert found.truth.tolist() == [100.0, 110.0, 98.0]
    assert np.isnan(model.baseline(found.truth))


@pytest.mark.parametrize(
    ("sizes", "loss", "target"),
    [
        ([3, 3], "cross_entropy", TargetEncoder("y", ("x", "y", "z"))),
        ([2, 4], "cross_entropy", TargetEncoder("y", ("x", "y", "z"))),
        ([2, 1], "squared_error", TargetEncoder("y", ("x", "y"))),
        ([2, 2], "cross_entropy", TargetEncoder("y")),
    ],
)
def test_a_table_that_does_not_fit_its_network_is_refused(tmp_path, sizes, loss, target):
    TableModel(Network(sizes, loss=loss, device="cpu", seed=0), COLUMNS, target).save(tmp_path / "m")
    with pytest.raises(ModelFileError, match="does not fit its network"):
        TableModel.load(tmp_path / "m")


def test_names_of_features_too_long_to_be_put_together_cost_nothing(tmp_path):
    columns = TablePreprocessor((TextColumn("k" * 10**6, tuple(f"c{k}" for k in range(1000))),))
    TableModel(Network([1, 2], loss="cross_entropy", device="cpu"), columns, TargetEncoder("y", (0, 1))).save(
        tmp_path / "m"
    )
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match="its table has 1000 features"):
            TableModel.load(tmp_path / "m")
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


def test_without_a_table_there_is_nothing_to_save(tmp_path):
    model = TableModel(Network([2, 1], device="cpu", seed=0), None, TargetEncoder("y"))
    with pytest.raises(ValueError, match=r"Network\.save"):
        model.save(tmp_path / "m")
