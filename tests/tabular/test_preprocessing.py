"""Tables to features and back: as scikit-learn does it, whole through JSON, exact about mistakes."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnbp.errors import DataError, ModelFileError
from nnbp.tabular.preprocessing import BoolColumn, NumberColumn, TablePreprocessor, TargetEncoder, TextColumn
from nnbp.tabular.readers import load_source
from nnbp.tabular.table import PLAIN, Source, train_test_split


def column(cells, keep_text=False):
    """Text cells from a list of strings, any other array as it is."""
    text = isinstance(cells[0], str)
    return PLAIN.column([np.array(cells)], keep_text=keep_text) if text else np.asarray(cells)


def source(columns, target=None, keep_text=(), **more):
    """A table in memory, whose first row is line 2."""
    made = {name: column(cells, name in keep_text) for name, cells in columns.items()}
    places = np.arange(len(next(iter(made.values())))) + 2
    y = {} if target is None else {"target": column(target, keep_text=True), "target_name": "y"}
    return Source("t.csv", made, places, unit="line", **y, **more)


def fitted(columns):
    return TablePreprocessor.fit(source(columns))


def wide(X, preprocessor):
    """X with a column for each category."""
    parts = zip(X.T, preprocessor.one_hot, strict=True)
    return np.hstack([np.equal(x[:, None], np.arange(k)) if k else x[:, None] for x, k in parts])


NUMBER = st.one_of(st.floats(-1e6, 1e6), st.just(np.nan), st.sampled_from([0.0, 1.0, 2.0]))
WORD = st.sampled_from(["", "a", "b", "é", "long words", "x0"])


@st.composite
def tables(draw):
    """Two tables of the same columns, numbers and texts with gaps: one to fit and one to transform."""
    kinds = draw(st.lists(st.sampled_from([NUMBER, WORD]), min_size=1, max_size=5))
    pair = []
    for m in (draw(st.integers(1, 8)), draw(st.integers(1, 8))):
        columns = [draw(st.lists(kind, min_size=m, max_size=m)) for kind in kinds]
        # A text column holds some text, or it would be one of numbers.
        pair.append({f"c{j}": ["word", *c[1:]] if isinstance(c[0], str) else c for j, c in enumerate(columns)})
    return pair


def by_sklearn(fit, new):
    """The features of `new` by a ColumnTransformer fitted on `fit`, in the order of the columns."""
    pytest.importorskip("sklearn")
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    def matrix(table):
        return np.column_stack([np.array(column, dtype=object) for column in table.values()])

    transformers = []
    for j, column in enumerate(fit.values()):
        if isinstance(column[0], str):
            step = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        else:
            step = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
        transformers.append((str(j), step, [j]))
    return ColumnTransformer(transformers, sparse_threshold=0).fit(matrix(fit)).transform(matrix(new))


@given(tables())
@settings(deadline=None, max_examples=60)
def test_numpy_transform_equals_scikit_learns(pair):
    preprocessor = fitted(pair[0])
    for table in pair:
        X, _ = preprocessor.transform(source(table))
        assert X.dtype == np.float64
        features = wide(X, preprocessor)
        np.testing.assert_allclose(features, by_sklearn(pair[0], table), rtol=1e-12, atol=1e-12)
        assert features.shape == (len(next(iter(table.values()))), len(preprocessor.feature_names))


@given(tables())
@settings(deadline=None, max_examples=60)
def test_json_gives_back_the_very_same(pair):
    preprocessor = fitted(pair[0])
    again = TablePreprocessor.from_json(json.loads(json.dumps(preprocessor.to_json())))
    assert again == preprocessor
    assert np.array_equal(again.transform(source(pair[1]))[0], preprocessor.transform(source(pair[1]))[0])


@given(tables(), st.randoms())
@settings(deadline=None, max_examples=40)
def test_the_order_of_the_columns_does_not_matter(pair, random):
    preprocessor = fitted(pair[0])
    shuffled = source(dict(random.sample(list(pair[1].items()), len(pair[1]))))
    assert np.array_equal(preprocessor.transform(shuffled)[0], preprocessor.transform(source(pair[1]))[0])


def test_what_is_learnt_from_a_table():
    preprocessor = fitted(
        {
            "age": ["30", "", "50", "40"],
            "town": ["Rome", "Oslo", "NA", "Oslo"],
            "member": ["true", "FALSE", "", "true"],
            "flag": np.array([True, False, False, False]),
            "same": [3.0, 3.0, np.nan, 3.0],
            "empty": ["", "", "?", ""],
        }
    )
    assert preprocessor.columns == (
        NumberColumn("age", 40.0, 40.0, np.sqrt(50)),
        TextColumn("town", ("", "Oslo", "Rome")),
        BoolColumn("member", True),
        BoolColumn("flag", False),
        NumberColumn("same", 3.0, 3.0, 1.0),
        NumberColumn("empty", 0.0, 0.0, 1.0),
    )
    towns = ("town=(missing)", "town=Oslo", "town=Rome")
    assert preprocessor.feature_names == ("age", *towns, "member", "flag", "same", "empty")


def test_a_column_keeps_its_kind_whatever_a_new_table_holds():
    preprocessor = fitted({"n": ["1", "2", "3"], "t": ["1", "b", "c"], "b": ["true", "false", "true"]})
    X, messages = preprocessor.transform(source({"n": ["", "2"], "t": ["1", "1"], "b": ["", "False"]}, keep_text="t"))
    np.testing.assert_array_equal(X, [[0, 0, 1], [0, 0, 0]])
    assert messages == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"n": ["1", "x"]}, "t.csv, line 3, column 'n': expected a finite number; received 'x'"),
        ({"n": ["1", "inf"]}, "t.csv, line 3, column 'n': expected a finite number; received 'inf'"),
        ({"n": [1.0, -np.inf]}, "t.csv, line 3, column 'n': expected a finite number; received '-inf'"),
        (
            {"n": [1.0, 1e308]},
            r"t.csv, line 3, column 'n': expected a number that can be standardised .*; received '1e\+308'",
        ),
        ({"b": ["no", "true"]}, "t.csv, line 2, column 'b': expected true or false; received 'no'"),
        ({"t": [1.0, 2.0]}, "t.csv, line 2, column 't': expected text, as at training; received 1.0"),
    ],
)
def test_a_bad_cell_of_a_new_table_is_named(columns, message):
    preprocessor = fitted({"n": [0.0, 1e-9], "t": ["a", "b"], "b": ["true", "false"]})
    rest = {"n": ["1", "1"], "t": ["a", "b"], "b": ["true", "true"]}
    with pytest.raises(DataError, match=message):
        preprocessor.transform(source(rest | columns))


def test_a_bad_cell_at_training_is_named():
    with pytest.raises(DataError, match=r"line 13, column 'n': .* as in 11 of the 12 known cells.* received '1,5'"):
        fitted({"t": ["a"] * 12, "n": ["1.5"] * 11 + ["1,5"]})
    with pytest.raises(DataError, match="line 2, column 'n': expected a finite number; received 'inf'"):
        fitted({"n": ["inf", "1"]})
    with pytest.raises(DataError, match=r"line 3, column 'n': 1e\+300 is so large that the variance"):
        fitted({"n": [0.0, 1e300]})


def test_tables_that_give_no_features():
    with pytest.raises(DataError, match=r"t\.csv: nothing but the target"):
        TablePreprocessor.fit(source({"y": ["a", "b"]}).with_target("y", required=True))
    with pytest.raises(DataError, match="column 'id': 1001 different texts in 2002 rows"):
        fitted({"id": [f"id{i}" for i in range(1001)] * 2})
    with pytest.raises(DataError, match="nothing but the target and the columns left out, 'id'; another"):
        fitted({"id": [f"id{i}" for i in range(40)]})


def test_unknown_categories_are_zeros_and_told_once():
    preprocessor = fitted({"town": ["Rome", "Oslo"]})
    X, messages = preprocessor.transform(source({"town": ["Oslo", "Lima", "", "Lima"]}))
    np.testing.assert_array_equal(X, [[0], [-1], [-1], [-1]])
    assert not wide(X[1:], preprocessor).any()
    (message,) = messages
    assert message.startswith("t.csv, line 3, column 'town': here first, and in 3 of 4 rows")
    assert "('(missing)', 'Lima')" in message


def test_extra_columns_are_ignored_and_named():
    preprocessor = fitted({"a": [1.0, 2.0]})
    X, messages = preprocessor.transform(source({"id": ["x", "y"], "a": [1.0, 2.0]}))
    np.testing.assert_array_equal(X, [[-1], [1]])
    assert messages == ["t.csv: columns that training did not have are ignored: 'id'."]


def test_missing_columns_are_listed_with_what_is_close():
    preprocessor = fitted({"sepal length": [1.0, 2.0], "b": [1.0, 2.0], "c": [1.0, 2.0]})
    with pytest.raises(DataError, match=r"missing: 'sepal length' \(did you mean 'sepal_length'\?\), 'c'\."):
        preprocessor.transform(source({"sepal_length": [1.0], "b": [1.0]}))


def test_matrices_are_matched_by_number():
    named, unnamed = source({"a": [1.0, 2.0], "b": [5.0, 7.0]}), source({"0": [2.0], "7": [6.0]}, named=False)
    np.testing.assert_array_equal(TablePreprocessor.fit(named).transform(unnamed)[0], [[1, 0]])
    from_matrix = TablePreprocessor.fit(source({"0": [1.0, 2.0], "1": [5.0, 7.0]}, named=False))
    np.testing.assert_array_equal(from_matrix.transform(named)[0], [[-1, -1], [1, 1]])
    with pytest.raises(DataError, match=r"t\.csv: 1 columns of features, but the model was trained on 2"):
        from_matrix.transform(source({"0": [1.0]}, named=False))


def test_preprocessing_needs_numpy_alone():
    code = (
        "import sys\n"
        "for name in ('sklearn', 'pandas', 'pyarrow', 'scipy'): sys.modules[name] = None\n"
        "import numpy as np\n"
        "from nnbp.tabular.table import Source\n"
        "from nnbp.tabular.preprocessing import TablePreprocessor\n"
        "table = Source('t', {'a': np.array([4.0, 6.0])}, np.arange(2))\n"
        "made = TablePreprocessor.fit(table)\n"
        "print(made.transform(table)[0].ravel().tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[-1.0, 1.0]\n"


GOOD = {
    "named": True,
    "columns": [
        {"kind": "number", "name": "n", "median": 0.5, "mean": 0, "scale": 2.0},
        {"kind": "text", "name": "t", "categories": ["", "a"]},
        {"kind": "bool", "name": "b", "fill": True},
    ],
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((), []), ((), None), (("named",), 1), (("columns",), {}), (("columns",), []), (("columns", 0), "n"),
        (("columns", 0, "kind"), "date"), (("columns", 0, "kind"), ["number"]), (("columns", 0, "name"), 3),
        (("columns", 0, "name"), "t"), (("columns", 0, "mean"), "0"), (("columns", 0, "mean"), True),
        (("columns", 0, "mean"), float("nan")), (("columns", 0, "mean"), 10**400),
        (("columns", 0, "median"), float("inf")), (("columns", 0, "scale"), 0.0), (("more",), 1),
        (("columns", 0, "more"), 1), (("columns", 0, "scale"), -1), (("columns", 1, "categories"), []),
        (("columns", 1, "categories"), "ab"), (("columns", 1, "categories"), ["a", "a"]),
        (("columns", 1, "categories"), [["a"]]), (("columns", 2, "fill"), 1),
    ],
)  # fmt: skip
def test_odd_json_is_refused(path, value):
    assert len(TablePreprocessor.from_json(GOOD).feature_names) == 4
    whole = {"": copy.deepcopy(GOOD)}
    inner, last = whole, ""
    for key in path:
        inner, last = inner[last], key
    inner[last] = value
    with pytest.raises(ModelFileError, match=r"^preprocessing.*is .*; received "):
        TablePreprocessor.from_json(whole[""])


@pytest.mark.parametrize(("j", "key"), [(j, key) for j, column in enumerate(GOOD["columns"]) for key in column])
def test_missing_fields_of_json_are_refused(j, key):
    data = copy.deepcopy(GOOD)
    del data["columns"][j][key]
    with pytest.raises(ModelFileError, match=f"column {j} is an object"):
        TablePreprocessor.from_json(data)


def target(cells, task=None):
    table = source({"a": np.zeros(len(cells))}, target=cells)
    return TargetEncoder.fit(table, task), table


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["b", "a", "b"], ("a", "b")),  # a class with one sample is fine
        (["true", "False", "true"], (False, True)),
        (np.array([True, False]), (False, True)),
        (["2", "0", "2", "0"], (0, 2)),
        (np.array([5.0, -1.0, 5.0]), (-1, 5)),
        (np.repeat(np.arange(20), 2), tuple(range(20))),
        (np.array([0.5, 1.0, 1.0]), ()),
        (np.arange(3), ()),
        (np.repeat(np.arange(21), 2), ()),
        (["1.5", "2", "3"], ()),
    ],
)
def test_the_task_follows_from_the_cells(cells, labels):
    encoder, table = target(cells)
    assert encoder.labels == labels
    assert [type(label) for label in encoder.labels] == [type(label) for label in labels]
    assert encoder.task == ("classification" if labels else "regression")
    assert TargetEncoder.from_json(json.loads(json.dumps(encoder.to_json()))) == encoder
    if labels:
        indices = encoder.encode(table)
        assert indices.dtype == np.int64
        expected = [str(cell).lower().removesuffix(".0") for cell in cells]
        assert [str(label).lower() for label in encoder.decode(indices)] == expected


def test_the_task_may_be_given():
    assert target(np.arange(60) // 2, "classification")[0].labels == tuple(range(30))
    assert target(["1", "2", "1", "2"], "regression")[0].labels == ()
    encoder, table = target(["1", "2", "3", "X"], "classification")
    assert encoder.labels == ("1", "2", "3", "X")
    assert encoder.encode(table).tolist() == [0, 1, 2, 3]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
@settings(deadline=None, max_examples=60)
def test_values_are_standardised_and_come_back(values):
    encoder, table = target(np.array(values), "regression")
    scaled = encoder.encode(table)
    size = max(1.0, np.abs(values).max())
    np.testing.assert_allclose(encoder.decode(scaled), values, atol=1e-12 * size)
    assert abs(scaled.mean()) * encoder.scale <= 1e-9 * size
    assert encoder.decode(scaled[:, None]).shape == (len(values), 1)


def test_a_constant_value_is_no_division_by_zero():
    encoder, table = target(np.full(3, 0.1), "regression")
    assert encoder.scale == 1.0
    np.testing.assert_allclose(encoder.encode(table), 0, atol=1e-15)


@pytest.mark.parametrize(
    ("cells", "task", "message"),
    [
        (["a", "", "b", "NA"], None, "line 3, column 'y': the target is missing here and in 2 rows"),
        ([1.0, 2.0, np.nan], "regression", "line 4, column 'y': the target is missing here and in 1 rows"),
        (["a", "a"], None, r"t.csv, column 'y': every row is of the class 'a'.*--task regression"),
        ([1, 1], None, r"t.csv, column 'y': every row is of the class 1;"),
        (["1.5", "2.5"], "classification", "line 2, column 'y': expected a class, .*; received '1.5'"),
        (["1", "a", "b"], "regression", "line 3, column 'y': expected a finite number; received 'a'"),
        (["1.5", "2.5", "x2"], None, r"line 4, column 'y': .* as in 2 of the 3 known cells.* received 'x2'"),
        (["1.5", "inf"], None, "line 3, column 'y': expected a finite number; received 'inf'"),
    ],
)
def test_what_is_wrong_with_a_target_is_told(cells, task, message):
    with pytest.raises(DataError, match=message):
        target(cells, task)


def test_what_is_wrong_with_the_target_of_a_new_table_is_told():
    encoder, _ = target(["a", "b"])
    with pytest.raises(
        DataError, match=r"line 3, column 'y': expected one of the labels of training, 'a', 'b'; received 'c'"
    ):
        encoder.encode(source({"a": [0.0, 0.0]}, target=["a", "c"]))
    with pytest.raises(DataError, match="line 3, column 'y': the target is missing here and in 1 rows"):
        encoder.encode(source({"a": [0.0, 0.0]}, target=["a", ""]))
    with pytest.raises(DataError, match=r"t\.csv: there is no target here"):
        encoder.encode(source({"a": [0.0]}))


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["a"]}, {"labels": ["a", "a"]}, {"labels": ["a", 1]}, {"labels": [0, True]},
        {"labels": "ab"}, {"labels": [1.0, 2.0]}, {"labels": [1, 2**70]}, {"labels": [["a"], ["b"]]},
        {"name": None}, {"mean": None}, {"scale": 0.0}, {"scale": float("inf")}, {"more": 1},
    ],
)  # fmt: skip
def test_odd_json_of_a_target_is_refused(change):
    data = {"name": "y", "labels": ["a", "b"], "mean": 0.0, "scale": 1.0}
    assert TargetEncoder.from_json(data).labels == ("a", "b")
    with pytest.raises(ModelFileError, match=r"^target.*is .*; received "):
        TargetEncoder.from_json(data | change)


def test_the_digits_from_the_set_to_features_and_back():
    digits = load_source("digits")
    encoder = TargetEncoder.fit(digits)
    y = encoder.encode(digits)
    train, test = train_test_split(len(digits), 0.2, 0, y)
    preprocessor = TablePreprocessor.fit(digits.take(train))
    X, messages = preprocessor.transform(digits)
    assert messages == []
    assert encoder.labels == tuple(range(10))
    assert np.isfinite(X).all()
    assert X.shape == (1797, 64)
    np.testing.assert_allclose(X[train].mean(axis=0), 0, atol=1e-12)
    deviations = X[train].std(axis=0)
    assert set(deviations.round(12)) == {0, 1}  # some pixels at the rim are always 0
    assert len(test) == 359
    np.testing.assert_array_equal(encoder.decode(y), digits.target)


def test_the_same_table_is_the_same_in_every_file(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    iris = load_source("iris")
    matrix = np.column_stack(list(iris.columns.values()))
    species = iris.target.tolist()
    rows = [",".join([*map(repr, row), name]) for row, name in zip(matrix.tolist(), species, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join([",".join([*iris.columns, "species"]), *rows]))
    parquet.write_table(pa.table({**iris.columns, "species": species}), tmp_path / "t.parquet")
    np.savez(tmp_path / "t.npz", X=matrix, y=np.array(species))
    expected = TablePreprocessor.fit(iris).transform(iris)[0]
    for name, key in (("t.csv", "species"), ("t.parquet", "species"), ("t.npz", "y")):
        table = load_source(tmp_path / name, target=key)
        encoder = TargetEncoder.fit(table)
        np.testing.assert_array_equal(TablePreprocessor.fit(table).transform(table)[0], expected)
        np.testing.assert_array_equal(TablePreprocessor.fit(iris).transform(table)[0], expected)
        assert encoder.decode(encoder.encode(table)).tolist() == species
