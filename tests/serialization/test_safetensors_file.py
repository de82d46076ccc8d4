"""The container: what is no such file is refused by a rule of ours, and a file is replaced whole or not at all."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from nnbp.errors import ModelFileError
from nnbp.serialization import safetensors_file
from nnbp.serialization.safetensors_file import (
    ArraySpec,
    Container,
    RefusedError,
    check_json,
    explained,
    open_regular,
    pack,
    parse,
    replace,
)

ARRAYS = {"W1": np.arange(6, dtype=np.float32).reshape(2, 3), "b1": np.array([-0.0, 7.0], np.float32)}
SPECS = {"W1": ArraySpec((2, 3), "float32"), "b1": ArraySpec((2,), "float32")}
DATA = pack('{"a": 1}', ARRAYS)


def header_of(data: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header


def with_header(text: str | bytes, body: bytes = ARRAYS["W1"].tobytes() + ARRAYS["b1"].tobytes()) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return len(raw).to_bytes(8, "little") + raw + body


def edited(change: Callable[[dict[str, Any]], object]) -> bytes:
    header = header_of(DATA)
    change(header)
    return with_header(json.dumps(header))


def opened(path: Path, data: bytes) -> dict[str, Any]:
    path.write_bytes(data)
    with path.open("rb") as file:
        return Container(file).arrays(SPECS)


def refusal(path: Path, data: bytes) -> str:
    with pytest.raises(RefusedError) as caught:
        opened(path, data)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model"


def test_pack_and_read(path: Path) -> None:
    path.write_bytes(DATA)
    with path.open("rb") as file:
        opened = Container(file)
        assert opened.text == '{"a": 1}'
        arrays = opened.arrays(SPECS)
    assert list(arrays) == ["W1", "b1"]
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == np.float32
        assert arrays[name].shape == array.shape
        assert arrays[name].tobytes() == array.tobytes()
        assert arrays[name].flags.writeable
    theirs = safetensors.numpy.load_file(path)
    assert all(np.array_equal(theirs[name], array) for name, array in ARRAYS.items())


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, **ARRAYS)  # type: ignore[arg-type]
    return file.getvalue()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, ARRAYS["W1"])
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (npz(), "a NumPy .npz file"),
        (npy(), "a NumPy .npy file"),
        (pickle.dumps({"W1": [1.0]}, 2), "a pickle"),
        (pickle.dumps({"W1": [1.0]}, 5), "a pickle"),
        (b"PK\x03\x04" + bytes(26) + b"archive/data.pkl" + bytes(64), "a PyTorch file"),
        (b"PK\x03\x04" + bytes(26) + b"model.json" + bytes(64), "a zip archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
        (b"\x08\x07\x12\x07pytorch\x1a\x032.0:\x10" + bytes(64), "an ONNX model"),
    ],
)
def test_other_formats_are_named(path: Path, data: bytes, kind: str) -> None:
    message = refusal(path, data)
    assert message.startswith("it is not a safetensors file, it looks like ")
    assert kind in message


def test_a_header_that_begins_like_a_pickle_is_none(path: Path) -> None:
    """A header of 0x0280 bytes makes the first two bytes of the file those of a pickle of protocol 2."""
    header = json.dumps(header_of(DATA)).encode()
    data = with_header(header.ljust(0x0280))
    assert data[:2] == b"\x80\x02"
    assert opened(path, data)["b1"].tolist() == [0.0, 7.0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"a = 1\n", "it is not a safetensors file."),
        (with_header(" " + json.dumps(header_of(DATA))), "it is not a safetensors file."),
        ((2**23 + 1).to_bytes(8, "little") + b"{" + bytes(64), "at most 8388608 bytes; this one declares 8388609"),
        ((2**63).to_bytes(8, "little") + b"{}", "this one declares 9223372036854775808"),
        (DATA[:100], "it is truncated: the header declares 152 bytes, 92 follow"),
        (DATA[:-1], "it is truncated: the arrays have 32 bytes, the file has 31 for them"),
        (DATA + b"\0", "something follows the last array: the arrays have 32 bytes, the file has 33 for them"),
        (with_header(b'{"\xff": 1}'), "UTF-8; received invalid start byte at byte 10"),
        (with_header("{]"), "the header is not JSON that can be read"),
        (with_header('{"W1": ' * 5000), "the header is not JSON that can be read"),
        (with_header('{"a": ' * 40 + "1" + "}" * 40), "at most 32 deep"),
        (with_header('{"b1": 1, "b1": 1}'), "a key stands once in its JSON object; the header has one twice: ['b1',"),
        (with_header('{"b1": NaN}'), "numbers are finite; 'the header.b1' is nan"),
        (with_header('{"b1": 1e999}'), "numbers are finite; 'the header.b1' is inf"),
        (with_header(f'{{"b1": {10**100}}}'), "whole numbers have at most 99 digits; 'the header.b1' has more"),
        (with_header(f'{{"b1": {"9" * 5000}}}'), "the header is not JSON that can be read"),
        (safetensors.numpy.save(ARRAYS), "of another program: it has no metadata 'nnbp'"),
        (safetensors.numpy.save(ARRAYS, {"format": "pt"}), "of another program: it has no metadata 'nnbp'"),
        (safetensors.numpy.save(ARRAYS, {"nnbp": "{}", "x": ""}), "the metadata has the keys nnbp and no others"),
        (edited(lambda h: h["__metadata__"].update(nnbp=[1])), "the metadata 'nnbp' are a text; received [1]"),
        (edited(lambda h: h.pop("b1")), "missing: ['b1'], unknown: []"),
        (edited(lambda h: h.update({" b1": h.pop("b1")})), "missing: ['b1'], unknown: [' b1']"),
        (edited(lambda h: h.update({"../b1": h["b1"]})), "missing: [], unknown: ['../b1']"),
        (edited(lambda h: h.update(b1=3)), "the entry of b1 has the keys dtype, shape, data_offsets and no others"),
        (edited(lambda h: h["b1"].update(file="x")), "the entry of b1 has the keys"),
        (edited(lambda h: h["b1"].update(dtype="F64")), "b1 is F32; received 'F64'"),
        (edited(lambda h: h["b1"].update(dtype=["F32"])), "b1 is F32; received ['F32']"),
        (edited(lambda h: h["W1"].update(shape=[3, 2])), "the shape of W1 here is [2, 3]; received [3, 2]"),
        (edited(lambda h: h["b1"].update(shape=[2.0])), "the shape of b1 here is [2]; received [2.0]"),
        (edited(lambda h: h["b1"].update(shape=[10**30])), "the shape of b1 here is [2]"),
        (edited(lambda h: h["b1"].update(data_offsets=[24, 28])), "the data_offsets of b1 enclose its 8 bytes;"),
        (edited(lambda h: h["b1"].update(data_offsets=[24.0, 32.0])), "the data_offsets of b1"),
        (edited(lambda h: h["b1"].update(data_offsets=[24])), "the data_offsets of b1"),
        (edited(lambda h: h["b1"].update(data_offsets="ab")), "the data_offsets of b1"),
        (edited(lambda h: h["b1"].update(data_offsets=[0, 8])), "arrays follow each other without gaps"),
        (edited(lambda h: h["b1"].update(data_offsets=[32, 40])), "without gaps; b1 begins at 32, not at 24"),
        (edited(lambda h: h["b1"].update(data_offsets=[-8, 0])), "without gaps; b1 begins at -8, not at 0"),
        (with_header('{"a": [' + "0," * 2**18 + "0]}"), "at most 262144 commas and brackets; received 262146"),
    ],
    ids=lambda item: item[:60] if isinstance(item, str) else "file",
)  # fmt: skip
def test_refused(path: Path, data: bytes, message: str) -> None:
    assert message in refusal(path, data)


def test_a_false_size_costs_no_memory(path: Path) -> None:
    size = 2**40
    data = edited(lambda h: h["b1"].update(shape=[size], data_offsets=[24, 24 + 4 * size]))
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with path.open("rb") as file, pytest.raises(RefusedError, match="it is truncated"):
            Container(file).arrays({"W1": ArraySpec((2, 3), "float32"), "b1": ArraySpec((size,), "float32")})
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_pack_refuses_what_it_could_not_read() -> None:
    for text, message in (("x" * 2**23, "8388608 bytes; this one has"), ("[" * 2**18, "262144 commas and brackets")):
        with pytest.raises(RefusedError, match=f"at most {message}") as caught:
            pack(text, ARRAYS)
        assert caught.value.fix == "Put less into `extra`."


@pytest.mark.parametrize("value", [None, True, 1, -(10**99), 0.1, "é\ud800", [], {}, {"": [[{"a": [1, "b"]}]]}])
def test_plain_json_comes_back(value: object) -> None:
    check_json(value, "it")
    assert parse(json.dumps(value), "it") == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1.0, float("nan")]}, "numbers are finite; 'it.a[1]' is nan"),
        ([float("-inf")], "numbers are finite; 'it[0]' is -inf"),
        ({"a": (1, 2)}, "JSON values are dict, list, str, int, float, bool, None; 'it.a' is (1, 2)"),
        ({"a": np.int64(3)}, "'it.a' is np.int64(3)"),
        ({1: "a"}, "the keys of JSON objects are strings; 'it' has 1"),
        ([10**5000], "whole numbers have at most 99 digits; 'it[0]' has more"),
    ],
)
def test_not_plain_json(value: object, message: str) -> None:
    with pytest.raises(RefusedError) as caught:
        check_json(value, "it")
    assert message in str(caught.value)


def test_messages_stay_short() -> None:
    assert len(safetensors_file.shown("x" * 10**6)) == 200


def test_explained() -> None:
    with pytest.raises(ModelFileError, match=r"^This: because\. Usual fix\.$"), explained("This", "Usual fix."):
        raise RefusedError("because.")
    with pytest.raises(ModelFileError, match=r"^This: because\. Own fix\.$"), explained("This", "Usual fix."):
        raise RefusedError("because.", "Own fix.")
    with pytest.raises(ModelFileError, match=r"'No space left on device'. Free some space"), explained("This", ""):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(ModelFileError, match=r"says 'odd'. Check the path and the disk"), explained("This", ""):
        raise OSError("odd")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.mkdir(), "a model file is a regular file; this is a folder"),
        (lambda path: os.mkfifo(path), "this is a device, a pipe or a socket"),
    ],
)
def test_open_regular_refuses(path: Path, make: Callable[[Path], object], message: str) -> None:
    make(path)
    with pytest.raises(RefusedError, match=message), open_regular(str(path)):
        pass


def test_a_path_that_can_be_none() -> None:
    with pytest.raises(RefusedError, match=r"this can be no path: .*embedded null"):
        replace("a\0b", b"")


# ---- replacing a file


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("umask")
def test_mode_is_that_of_the_umask_and_then_stays(path: Path) -> None:
    replace(str(path), b"one")
    assert mode_of(path) == 0o640
    path.chmod(0o600)
    replace(str(path), b"two")
    assert (mode_of(path), path.read_bytes()) == (0o600, b"two")


def test_a_symbolic_link_goes_on_pointing(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "target"
    path.symlink_to(target)
    for data in (b"one", b"two"):  # the first time the link points at nothing
        replace(str(path), data)
        assert path.is_symlink()
        assert (target.read_bytes(), target.is_symlink()) == (data, False)
    assert [entry.name for entry in target.parent.iterdir()] == ["target"]


def test_paths_that_cannot_be_replaced(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="symbolic links"):
        replace(str(loop), b"")
    with pytest.raises(RefusedError, match="this is a folder"):
        replace(str(tmp_path), b"")
    with pytest.raises(RefusedError, match="this is a device"):
        replace(os.devnull, b"")
    with pytest.raises(RefusedError, match="an existing folder; there is no") as caught:
        replace(str(tmp_path / "none" / "model"), b"")
    assert caught.value.fix == "Create it first."


@pytest.mark.parametrize("failing", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    replace(str(path), b"old")

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(type(error)):
        replace(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["model"]


def test_all_is_flushed_before_the_old_file_goes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, os.replace

    def logged_fsync(handle: int) -> None:
        status = os.fstat(handle)
        events.append("folder" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes")
        fsync(handle)

    def logged_replace(source: str, target: str) -> None:
        events.append("replace")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "replace", logged_replace)
    replace(str(path), b"12345")
    assert events == ["5 bytes", "replace", "folder"]


def test_a_folder_that_cannot_be_flushed_is_no_failure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def only_files(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "no folders")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", only_files)
    replace(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["model"]
