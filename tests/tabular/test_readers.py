"""Reading built-in sets and files: what comes out, and what each mistake in a file is told as."""

import io
import sys
import tracemalloc
import zipfile
from functools import cache

import numpy as np
import pytest
from damage import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnbp.errors import DataError, MissingDependencyError
from nnbp.tabular import readers
from nnbp.tabular.readers import BUILTIN, load_source
from nnbp.tabular.table import MISSING


def write(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "shape", "label"),
    [
        ("digits", (1797, 64), 0),
        ("iris", (150, 4), "setosa"),
        ("wine", (178, 13), "class_0"),
        ("breast_cancer", (569, 30), "malignant"),
        ("diabetes", (442, 10), 151.0),
    ],
)
def test_builtin_sets(name, shape, label):
    pytest.importorskip("sklearn")
    source = load_source(name)
    assert (len(source), len(source.columns)) == shape
    assert source.target[0] == label
    assert source.target_name == BUILTIN[name]
    assert source.named


def test_a_builtin_set_with_another_target():
    pytest.importorskip("sklearn")
    source = load_source("iris", target="petal width (cm)")
    assert source.target[0] == 0.2
    assert "species" in source.columns


def test_builtin_sets_need_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "scikit-learn>=1.6"'):
        load_source("iris")


def test_parquet_needs_pyarrow(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r'reading Parquet needs pyarrow.*pip install "pyarrow>=17"'):
        load_source(write(tmp_path, b"", "t.parquet"), target="y")


def test_unknown_sources(tmp_path):
    with pytest.raises(DataError, match=r"unknown source 'digit' \(did you mean 'digits'\?\).* \.csv"):
        load_source("digit")
    with pytest.raises(DataError, match="there is no such file"):
        load_source(tmp_path / "none.csv", target="y")


def test_csv_of_numbers_and_text(tmp_path):
    path = write(tmp_path, '\ufeffage, town,y\r\n\r\n31,"Oslo, N",a\r\n ?,NA,b\r\n', "t.CSV")
    source = load_source(path, target="y")
    assert list(source.columns) == ["age", "town"]
    assert source["town"].tolist() == ["Oslo, N", ""]
    assert source.target.tolist() == ["a", "b"]
    assert source.places.tolist() == [3, 4]
    np.testing.assert_array_equal(source.numbers("age"), [31, np.nan])


def test_tsv(tmp_path):
    source = load_source(write(tmp_path, "a\ty\n1,5\tx\n", "t.tsv"), target="y")
    assert source["a"].tolist() == ["1,5"]


def test_many_rows_are_read_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("nnbp.tabular.readers.CHUNK", 7)
    path = write(tmp_path, "a,y\n" + "".join(f"{i},{i % 3}\n" for i in range(50)))
    source = load_source(path, target="y")
    np.testing.assert_array_equal(source.numbers("a"), np.arange(50))
    np.testing.assert_array_equal(source.places, np.arange(50) + 2)


def test_lines_are_those_of_the_file_whatever_is_quoted_or_blank(tmp_path):
    path = write(tmp_path, 'a,y\n"1\n2\n3",x\n\n   \n4,y\n5,z\n')
    assert load_source(path, target="y").places.tolist() == [2, 7, 8]


def test_the_target_may_be_absent_for_prediction(tmp_path):
    path = write(tmp_path, "a,b\n1,2\n")
    assert load_source(path, target="y", target_required=False).target is None
    assert load_source(path, target="b", target_required=False).target.tolist() == ["2"]
    with pytest.raises(DataError, match=r"no column 'y'; the target must be one of the columns 'a', 'b'"):
        load_source(path, target="y")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv: the file is empty; line 1 must name the columns"),
        ("\n\n", "t.csv: the file is empty"),
        ("a,b\n\n", "t.csv: the table has no rows"),
        ("a,b,a\n1,2,3\n", "t.csv, line 1: columns 1 and 3 are both named 'a'"),
        ("\n,b\n1,2\n", "t.csv, line 2: column 1 has no name.*index=False"),
        ("a,b\n1,2\n\n1,2,3\n", "t.csv, line 4: 3 fields, but the header names 2 columns .*too many is '3'"),
        ("a,b\n1,2\n7\n", "t.csv, line 3: 1 field, but the header names 2 columns .*nothing for column 'b'"),
        ('a,b\n"1\n2",3\n4\n', "t.csv, line 4: 1 field,"),
        ('a,b\n1,2\n"3,4\n5,6\n', "t.csv, line 3: the row that begins here is no valid CSV"),
        ('a,b\n1,"2"x\n', "t.csv, line 2: the row that begins here is no valid CSV"),
        ("a;b\n1;2;3\n", "t.csv, line 1: one column, named 'a;b': .* separated by ';'"),
        ("5.1,3.5\n4.9,3.0\n", "t.csv, line 1: every column has a number for a name .*no header"),
        (b"a,b\n1,2\n3,caf\xe9\n", r"t.csv, line 3: byte 6 \(0xe9\) is not UTF-8.*iconv"),
        (b"a,b\n1,2\n3,caf\xc3", r"t.csv, line 3: byte 6 \(0xc3\) is not UTF-8"),
    ],
)
def test_what_is_wrong_with_a_csv_is_told_with_its_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load_source(write(tmp_path, text), target="b")


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=6)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8))
def test_a_csv_gives_back_what_was_written(tmp_path_factory, rows):
    import csv

    path = tmp_path_factory.mktemp("csv") / "t.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    expected = [tuple("" if cell.strip() in MISSING else cell.strip() for cell in row) for row in rows]
    source = load_source(path, target="b", keep_text=None)
    assert list(zip(source["a"].tolist(), source.target.tolist(), strict=True)) == expected


def test_parquet_round_trip(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from decimal import Decimal

    from pyarrow import parquet

    columns = {
        "f": pa.array([1.5, None, float("nan")]),
        "i": pa.array([1, 2, 2**60]),
        "gaps": pa.array([1, None, 3]),
        "money": pa.array([Decimal("1.25"), None, Decimal("3.50")]),
        "b": pa.array([True, False, True]),
        "bgaps": pa.array([True, None, False]),
        "s": pa.array(["x", None, " NA "]),
        "c": pa.array(["u", "v", None]).dictionary_encode(),
        "none": pa.nulls(3),
        "y": pa.array(["p", "q", "p"], pa.large_string()),
    }
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    source = load_source(tmp_path / "t.parquet", target="y")
    assert list(source.columns) == list(columns)[:-1]
    np.testing.assert_array_equal(source.numbers("f"), [1.5, np.nan, np.nan])
    assert source["i"].tolist() == [1, 2, 2**60]
    np.testing.assert_array_equal(source.numbers("gaps"), [1, np.nan, 3])
    np.testing.assert_array_equal(source.numbers("money"), [1.25, np.nan, 3.5])
    assert source["b"].dtype == bool
    assert source["bgaps"].tolist() == ["true", "", "false"]
    assert source.texts("s").tolist() == ["x", "", ""]
    assert source.texts("c").tolist() == ["u", "v", ""]
    assert np.isnan(source.numbers("none")).all()
    assert source.target.tolist() == ["p", "q", "p"]


def test_parquet_by_pandas_leaves_out_its_index(tmp_path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pd.DataFrame({"a": [1.0, 2.0], "y": ["u", "v"]}, index=[5, 9]).to_parquet(tmp_path / "t.pq")
    assert list(load_source(tmp_path / "t.pq", target="y").columns) == ["a"]


def test_what_is_wrong_with_a_parquet_file(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    with pytest.raises(DataError, match=r"t\.parquet: this is no readable Parquet file"):
        load_source(write(tmp_path, b"PAR1 and no more", "t.parquet"), target="y")
    day = pa.array([1, 2], pa.date32())
    parquet.write_table(pa.table({"day": day}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"d\.parquet, column 'day': cells of type date32"):
        load_source(tmp_path / "d.parquet", target="day")
    parquet.write_table(pa.Table.from_arrays([day, day], ["a", "a"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: columns 1 and 2 are both named 'a'"):
        load_source(tmp_path / "a.parquet", target="a")
    parquet.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"e\.parquet: the table has no rows"):
        load_source(tmp_path / "e.parquet", target="a")


def test_npy_round_trip(tmp_path):
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "t.npy", matrix)
    last = load_source(tmp_path / "t.npy")
    assert (list(last.columns), last.target_name, last.named) == (["0", "1", "2"], "3", False)
    np.testing.assert_array_equal(last.target, matrix[:, 3])
    first = load_source(tmp_path / "t.npy", target="-4")
    assert (list(first.columns), first.target_name) == (["1", "2", "3"], "0")
    for j in first.columns:
        np.testing.assert_array_equal(first[j], matrix[:, int(j)])


@pytest.mark.parametrize(
    ("target", "n_features", "columns"),
    [("0", 3, ["1", "2", "3"]), ("0", 4, ["0", "1", "2", "3"]), (None, None, ["0", "1", "2", "3"]),
     (None, 3, ["0", "1", "2"]), ("4", 4, ["0", "1", "2", "3"]), ("9", None, ["0", "1", "2", "3"])],
)  # fmt: skip
def test_npy_for_prediction_with_and_without_the_target(tmp_path, target, n_features, columns):
    np.save(tmp_path / "t.npy", np.zeros((2, 4)))
    source = load_source(tmp_path / "t.npy", target=target, target_required=False, n_features=n_features)
    assert list(source.columns) == columns
    assert (source.target is None) == (len(columns) == 4)


def test_npz_round_trip(tmp_path):
    X, y = np.arange(6.0).reshape(3, 2), np.array(["a", "b", "NA"])
    np.savez(tmp_path / "t.npz", X=X, y=y, z=np.ones((3, 1)))
    source = load_source(tmp_path / "t.npz")
    np.testing.assert_array_equal(np.column_stack([source["0"], source["1"]]), X)
    assert source.target.tolist() == ["a", "b", ""]
    assert load_source(tmp_path / "t.npz", target="z").target.tolist() == [1, 1, 1]
    assert load_source(tmp_path / "t.npz", target="species", target_required=False).target_name == "y"
    np.savez(tmp_path / "x.npz", features=X)
    assert load_source(tmp_path / "x.npz", target_required=False).target is None
    assert list(load_source(tmp_path / "x.npz", target_required=False).columns) == ["0", "1"]


@pytest.mark.parametrize(
    ("arrays", "target", "message"),
    [
        ({"X": np.ones((3, 2))}, None, r"no array 'y'; it has 'X'\. .*--target KEY"),
        ({"X": np.ones((3, 2)), "label": np.ones(3)}, "labl", r"no array 'labl'.*did you mean 'label'"),
        ({"y": np.ones(3)}, None, r"no array 'X'"),
        ({"X": np.ones(3), "y": np.ones(3)}, None, r"X has shape \(3,\) .*; it must be \(samples, features\)"),
        ({"X": np.ones((3, 0)), "y": np.ones(3)}, None, r"X has shape \(3, 0\)"),
        ({"X": np.ones((3, 2)), "y": np.ones((3, 4))}, None, r"y has shape \(3, 4\).*argmax"),
        ({"X": np.ones((3, 2)), "y": np.ones(2)}, None, r"X has 3 rows and y has 2"),
        ({"X": np.ones((3, 2), complex), "y": np.ones(3)}, None, r"X has dtype complex128"),
        ({"X": np.ones((3, 2)), "y": np.array([{}, 1, 2])}, None, "y has dtype object; it must hold .*not objects"),
    ],
)
def test_what_is_wrong_with_an_npz(tmp_path, arrays, target, message):
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(DataError, match=r"^t\.npz: .*" + message):
        load_source(tmp_path / "t.npz", target=target)


@pytest.mark.parametrize(
    ("target", "message"), [("y", "the index of a column .*not 'y'"), ("4", "no column 4 .*there are 4")]
)
def test_what_is_wrong_with_the_target_of_an_npy(tmp_path, target, message):
    np.save(tmp_path / "t.npy", np.zeros((2, 4)))
    with pytest.raises(DataError, match=message):
        load_source(tmp_path / "t.npy", target=target)


@pytest.mark.parametrize("name", ["t.npy", "t.npz"])
@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04 cut", b"\x93NUMPY\x01\x00"])
def test_damaged_numpy_files(tmp_path, name, content):
    with pytest.raises(DataError, match=name):
        load_source(write(tmp_path, content, name))


def test_numpy_files_with_the_wrong_ending(tmp_path):
    np.savez(tmp_path / "t.npz", X=np.ones((2, 2)))
    (tmp_path / "t.npz").rename(tmp_path / "t.npy")
    with pytest.raises(DataError, match=r"an NPZ file; give it the ending \.npz"):
        load_source(tmp_path / "t.npy")
    np.save(tmp_path / "u.npy", np.ones((2, 2)))
    (tmp_path / "u.npy").rename(tmp_path / "u.npz")
    with pytest.raises(DataError, match=r"an NPY file; give it the ending \.npy"):
        load_source(tmp_path / "u.npz")


# ---- files from strangers


def npy(array, shape=None, descr=None):
    """An NPY file of the array, whose header may claim another shape and dtype."""
    header = np.lib.format.header_data_from_array_1_0(array)
    header |= {"shape": shape or array.shape, "descr": descr or header["descr"]}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + array.tobytes()


def npz(path, compression=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def refusal_without_work(path, **options):
    """What is said of a file that is refused before much memory is taken."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=path.name) as caught:
            load_source(path, **options)
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size + 2**22
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 700
    return str(caught.value)


@pytest.mark.parametrize(
    ("shape", "descr", "message"),
    [
        ((10**11, 1), None, "is 800000000000 bytes; 64 are in the file"),
        ((9, 1), None, "is 72 bytes; 64 are in the file"),
        ((2**62, 4), None, "64 are in the file"),
        ((-4, -2), None, "none of them 0"),
        ((10**15, 1), "<U0", "none of them 0"),
        ((1, 10**7), "|i1", "at most 1000000 columns; this one has 10000000"),
        ((2,) * 3000, None, "it must be (samples, features)"),
        ((4, 2), [("a", "<f4"), ("b", "<f4")], "it must hold numbers, bools or strings"),
    ],
)
def test_an_npy_header_that_claims_what_is_not_there(tmp_path, shape, descr, message):
    data = npy(np.ones((4, 2)), shape, descr)
    assert message in refusal_without_work(write(tmp_path, data, "t.npy"))
    path = npz(tmp_path / "t.npz", X=data, y=npy(np.ones(4)))
    assert message in refusal_without_work(path)


@pytest.mark.parametrize("header", [b"[" * 9000, b"-" * 9000 + b"1", b"{'shape': (" + b"1," * 900, b"\x1b[31m" * 900])
def test_an_npy_header_that_is_none(tmp_path, header):
    data = np.lib.format.magic(1, 0) + len(header).to_bytes(2, "little") + header
    assert "no readable NumPy file" in refusal_without_work(write(tmp_path, data, "t.npy"))


def test_a_header_of_another_version_is_read_and_a_long_one_is_not(tmp_path):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.eye(3), version=(3, 0))
    assert len(load_source(write(tmp_path, file.getvalue(), "t.npy"))) == 3
    python2 = npy(np.eye(3)).replace(b"(3, 3), }", b"(3L, 3L),}")
    assert len(load_source(write(tmp_path, python2, "t.npy"))) == 3
    data = np.lib.format.magic(2, 0) + (2**32 - 1).to_bytes(4, "little") + b"(" * 2**20
    assert "array header" in refusal_without_work(write(tmp_path, data, "t.npy"))


def test_of_an_npz_only_X_and_y_are_read(tmp_path):
    other = npy(np.zeros(2**23))
    path = npz(tmp_path / "t.npz", X=npy(np.eye(2)), y=npy(np.ones((2, 1))), other=other, note=b"no array")
    tracemalloc.start()
    source = load_source(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22
    assert source.target.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("name", "members"), [("X", {"y": np.zeros(2)}), ("y", {"X": np.zeros((2, 1))}), ("X", {})], ids=str
)
def test_an_npz_that_expands_without_measure(tmp_path, name, members):
    rest = {key: npy(array) for key, array in members.items()}
    huge = npy(np.zeros((2**21 + 1, 1)))
    path = npz(tmp_path / "t.npz", **{name: huge}, **rest)
    message = refusal_without_work(path, target_required=False)
    assert f"{name} takes 16777224 bytes of memory; from a compressed file of" in message
    assert "at most 16777216 are read" in message


def test_a_large_npz_without_compression_is_read(tmp_path):
    path = npz(tmp_path / "t.npz", zipfile.ZIP_STORED, X=npy(np.zeros((2**21 + 1, 1))))
    assert len(load_source(path, target_required=False)) == 2**21 + 1


def test_an_npz_of_bytes_that_NumPy_would_not_write(tmp_path):
    X, y = npy(np.eye(2)), npy(np.ones(2))
    path = npz(tmp_path / "t.npz", zipfile.ZIP_BZIP2, X=X, y=y)
    assert "X is compressed by another method than Deflate" in refusal_without_work(path)
    data = bytearray(npz(path, zipfile.ZIP_STORED, X=X, y=y).read_bytes())
    for magic, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + flag] |= 1
    assert "encrypted" in refusal_without_work(write(tmp_path, bytes(data), "t.npz"))
    many = {f"{k:0500}": b"" for k in range(2000)}
    assert "its directory has" in refusal_without_work(npz(path, zipfile.ZIP_STORED, **many))


def test_a_parquet_file_that_expands_without_measure(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pa.table({"y": np.zeros(2**21 + 1)})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert "a table of 2097153 rows and 1 columns takes 16777224" in refusal_without_work(
        tmp_path / "t.parquet", target="y"
    )
    text = pa.table({"y": ["a" * 2**20] * 17})
    parquet.write_table(text, tmp_path / "s.parquet", compression="zstd", use_dictionary=False)
    assert "a table of 17 rows and 1 columns takes 178" in refusal_without_work(tmp_path / "s.parquet", target="y")
    parquet.write_table(table, tmp_path / "u.parquet", compression=None, use_dictionary=False)
    assert len(load_source(tmp_path / "u.parquet", target="y")) == 2**21 + 1


@cache
def samples(suffix):
    """Small files, as bytes."""
    cells = np.arange(12.0).reshape(4, 3)
    if suffix == "npy":
        return npy(cells), npy(np.array([["a", "é"], ["b", "c"]]))
    file, found = io.BytesIO(), []
    if suffix == "npz":
        for save in (np.savez, np.savez_compressed):
            save(file, X=cells, y=np.array(["a", "b", "b", "a"]))
            found.append(file.getvalue())
    else:
        pd = pytest.importorskip("pandas")
        frame = pd.DataFrame({"y": cells[:, 0], "t": ["x", "yé", None, "z"], "b": [True, False] * 2})
        for compression in ("gzip", None):
            frame.to_parquet(file, compression=compression)
            found.append(file.getvalue())
    return found


@pytest.mark.parametrize("suffix", ["npy", "npz", "parquet"])
@given(data=st.data())
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_told_as_damage(tmp_path, suffix, data):
    path = write(tmp_path, data.draw(st.sampled_from(samples(suffix)).flatmap(damaged)), f"t.{suffix}")
    try:
        load_source(path, target="y" if suffix == "parquet" else None)
    except DataError as error:
        message = str(error)
        assert message.startswith("t.")
        assert len(message) < 900


def loaded(path, monkeypatch, *, arrow):
    """What a file holds, or the error, with pyarrow or without it."""
    with monkeypatch.context() as patch:
        if arrow:
            # Small files are not worth the import.
            patch.setattr(readers, "LARGE", 0)
            patch.setattr(readers, "WIDE", 0)
        else:
            patch.setitem(sys.modules, "pyarrow", None)
        try:
            source = load_source(path, target_required=False)
        except DataError as error:
            return str(error)
    return {name: column.tolist() for name, column in source.columns.items()}, source.places.tolist()


@given(
    st.lists(st.sampled_from([*'",;\n\r a1é\ufeff', '""', "\r\n", "2.5", "NA", "1_0"])),
    st.sampled_from(["a,b\n", "a\n", "a;b\r\n", '"a","b"\n', "\n", ""]),
)
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pyarrow_reads_what_the_module_csv_reads(tmp_path, monkeypatch, parts, header):
    pytest.importorskip("pyarrow")
    path = tmp_path / "t.csv"
    path.write_bytes((header + "".join(parts)).encode())
    np.testing.assert_equal(loaded(path, monkeypatch, arrow=True), loaded(path, monkeypatch, arrow=False))


def test_a_large_csv_is_read_the_same_with_and_without_pyarrow(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    path = tmp_path / "t.csv"
    rows = [f'{k / 7!r},"town ""{k % 9}""",{k % 3},{"" if k % 5 else "NA"}{"" if k % 4 else k}' for k in range(40_000)]
    path.write_text("\n".join(["a,b,y,c", *rows]) + "\n")
    assert path.stat().st_size > readers.LARGE
    by_arrow = load_source(path, target="y")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    by_csv = load_source(path, target="y")
    for name in ("a", "b", "y", "c"):
        np.testing.assert_array_equal(by_arrow[name].tolist(), by_csv[name].tolist())
    assert by_arrow["b"][7] == 'town "7"'
    np.testing.assert_array_equal(by_arrow.places, np.arange(2, 40_002))
    np.testing.assert_array_equal(by_csv.places, by_arrow.places)


def test_a_long_text_of_a_parquet_file_is_kept_once(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    texts, m = ["x" * 2**17, "y"], 10_000
    table = pa.table({"a": pa.DictionaryArray.from_arrays(np.arange(m) % 2, texts), "y": range(m)})
    parquet.write_table(table, tmp_path / "t.parquet", store_schema=False)
    tracemalloc.start()
    try:
        before = pa.total_allocated_bytes()
        source = load_source(tmp_path / "t.parquet", target="y")
        assert tracemalloc.get_traced_memory()[1] < 2**25
        assert pa.total_allocated_bytes() - before < 2**23
    finally:
        tracemalloc.stop()
    assert source["a"].distinct.tolist() == texts
    np.testing.assert_array_equal(source["a"].codes, np.arange(m) % 2)
