"""The container of a model file: a strict JSON text and arrays in a safetensors file, replaced whole or not at all.

Nothing here knows of networks. safetensors itself lets duplicate keys, odd names and NaN through, writes arrays that
are not contiguous wrong, raises four kinds of errors, and holds a file in memory three times to read it; so the header
is checked here, by rules of our own, and then the arrays are read from their places. Sizes and counts are checked
before they cost time or memory.

Format: https://github.com/huggingface/safetensors, "Format": 8 bytes of length, a JSON header, the arrays.
"""

from __future__ import annotations

import errno
import glob
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from nnbp.errors import ModelFileError
from nnbp.formatting import shown

KEY = "nnbp"
HEADER_LIMIT = 2**23
VALUES_LIMIT = 2**18
"""Values in a JSON text, counted before it is parsed, by commas and brackets."""
DEPTH_LIMIT = 32
LARGEST_INTEGER = 10**99
DTYPES = {"float32": "F32", "float64": "F64"}

_SIGNATURES = (
    (b"\x89HDF\r\n\x1a\n", "HDF5 (a Keras .h5 file)"),
    (b"\x93NUMPY", "a NumPy .npy file"),
    *((bytes([0x80, protocol]), "a pickle (PyTorch, joblib, scikit-learn)") for protocol in range(2, 6)),
    # Protocol buffers: field 1, a small ir_version; then the producer (2), the graph (7) or the operator sets (8).
    *((bytes([0x08, version, field]), "an ONNX model") for version in range(3, 32) for field in (0x12, 0x3A, 0x42)),
)

_OTHER_FIX = "Give the path of a file that nnbp wrote."
_OS_FIXES = {
    errno.ENOENT: "Create its folder first.",
    errno.EACCES: "Change the permissions, or choose a path that you may use.",
    errno.EPERM: "Change the permissions, or choose a path that you may use.",
    errno.EROFS: "Choose a path on a disk that can be written.",
    errno.ENOSPC: "Free some space, or choose another disk.",
}


class RefusedError(Exception):
    """Why a file or a value is refused; and the fix, if it is another than for most."""

    def __init__(self, why: str, fix: str = "") -> None:
        super().__init__(why)
        self.fix = fix


@contextmanager
def explained(what: str, fix: str) -> Iterator[None]:
    """Turns errors into a ModelFileError that says what failed, why, and the fix.

    A ValueError is that of a rule which values in a file share with arguments: `nnbp.validation`, `Architecture`.
    """
    try:
        yield
    except RefusedError as refusal:
        raise ModelFileError(f"{what}: {refusal} {refusal.fix or fix}") from refusal.__cause__
    except ValueError as error:
        raise ModelFileError(f"{what}: {error} {fix}") from error
    except OSError as error:
        advice = _OS_FIXES.get(error.errno or 0, "Check the path and the disk.")
        raise ModelFileError(f"{what}: the operating system says {error.strerror or str(error)!r}. {advice}") from error


# ---- strict JSON


Place = str | tuple["Place", str | int]
"""Where a value stands in a JSON text: the text, or an object or array and the key or index there."""


def check_json(value: object, where: Place, depth: int = 0) -> None:
    """Refuses what JSON cannot hold or gives back changed: NaN, tuples, keys that are not strings; and deep nests."""
    if depth > DEPTH_LIMIT:
        raise RefusedError(f"JSON is nested at most {DEPTH_LIMIT} deep; {_shown_place(where)} goes deeper.")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise RefusedError(f"the keys of JSON objects are strings; {_shown_place(where)} has {shown(key)}.")
            check_json(item, (where, key), depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_json(item, (where, index), depth + 1)
    elif isinstance(value, int):
        if abs(value) > LARGEST_INTEGER:
            raise RefusedError(f"whole numbers have at most 99 digits; {_shown_place(where)} has more.")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise RefusedError(f"numbers are finite; {_shown_place(where)} is {value}.")
    elif value is not None and not isinstance(value, str):
        raise RefusedError(
            f"JSON values are dict, list, str, int, float, bool, None; {_shown_place(where)} is {shown(value)}."
        )


def _shown_place(where: Place) -> str:
    keys: list[str | int] = []
    while isinstance(where, tuple):
        where, key = where
        keys.insert(0, key)
    return shown(where + "".join(f".{key}" if isinstance(key, str) else f"[{key}]" for key in keys))


def check_count(text: str, what: str, fix: str = "") -> None:
    """Refuses a JSON text of more than about `VALUES_LIMIT` values; those in strings count as well."""
    count = text.count(",") + text.count("[") + text.count("{")
    if count > VALUES_LIMIT:
        raise RefusedError(f"{what} has at most {VALUES_LIMIT} commas and brackets; received {count}.", fix)


def parse(text: str, what: str) -> Any:
    """The value of a JSON text that follows `check_count` and `check_json` and has no key twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise RefusedError(
                f"a key stands once in its JSON object; {what} has one twice: {shown([k for k, _ in pairs])}."
            )
        return found

    check_count(text, what)
    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"{what} is not JSON that can be read: {error}.") from error
    check_json(value, what)
    return value


def keyed(value: object, keys: Sequence[str], what: str) -> dict[str, Any]:
    """The value, if it is an object with these keys and no others."""
    if not isinstance(value, dict) or set(value) != set(keys):
        raise RefusedError(f"{what} has the keys {', '.join(keys)} and no others; received {shown(value)}.")
    return value


def canonical(value: object) -> str:
    """One text for equal values: 1 and 1.0 differ, the order of keys does not matter."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


# ---- safetensors


def check_names(received: Mapping[Any, object], expected: Mapping[str, object]) -> None:
    """Refuses missing and odd names of arrays."""
    missing = [name for name in expected if name not in received]
    odd = [name for name in received if name not in expected]
    if missing or odd:
        raise RefusedError(
            f"the arrays of this network are {shown(list(expected))}; missing: {shown(missing)}, unknown: {shown(odd)}."
        )


def pack(text: str, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a file with this JSON text and these arrays, which are C-contiguous.

    One metadata key, because the library writes several in a random order.
    """
    fix = "Put less into `extra`."
    data = safetensors.numpy.save(dict(arrays), metadata={KEY: text})
    length = int.from_bytes(data[:8], "little")
    if length > HEADER_LIMIT:
        raise RefusedError(f"the header of a model file has at most {HEADER_LIMIT} bytes; this one has {length}.", fix)
    check_count(data[8 : 8 + length].decode(), "the header of a model file", fix)
    return data


class ArraySpec(NamedTuple):
    """The shape of an array in a file, and its dtype, "float32" or "float64"."""

    shape: tuple[int, ...]
    dtype: str


class Container:
    """An open safetensors file with one metadata key; only its header is read so far.

    Attributes:
        text: the JSON text under the metadata key.

    Raises:
        RefusedError: it is something else, or damaged.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        size = os.fstat(file.fileno()).st_size
        head = file.read(256)
        if not head:
            raise RefusedError("it is empty.")
        if head[8:9] != b"{":
            raise RefusedError(f"it is not a safetensors file{_guess(head)}.", _OTHER_FIX)
        length = int.from_bytes(head[:8], "little")
        if length > HEADER_LIMIT:
            raise RefusedError(
                f"the header of a model file has at most {HEADER_LIMIT} bytes; this one declares {length}."
            )
        self._body_size = size - 8 - length
        if self._body_size < 0:
            raise RefusedError(f"it is truncated: the header declares {length} bytes, {size - 8} follow.")
        file.seek(8)
        try:
            self._entries = parse(file.read(length).decode(), "the header")
        except UnicodeDecodeError as error:
            raise RefusedError(
                f"the header is text in UTF-8; received {error.reason} at byte {error.start + 8}."
            ) from error
        metadata = self._entries.pop("__metadata__", None)
        if not isinstance(metadata, dict) or KEY not in metadata:
            raise RefusedError(
                f"it is a safetensors file of another program: it has no metadata {KEY!r}, which describe the network.",
                _OTHER_FIX,
            )
        self.text = keyed(metadata, [KEY], "the metadata")[KEY]
        if not isinstance(self.text, str):
            raise RefusedError(f"the metadata {KEY!r} are a text; received {shown(self.text)}.")

    def arrays(self, specs: Mapping[str, ArraySpec]) -> dict[str, NDArray[Any]]:
        """Reads the arrays, if they are exactly these and fill the rest of the file."""
        check_names(self._entries, specs)
        spans = []
        for name, (shape, dtype) in specs.items():
            entry = keyed(self._entries[name], ("dtype", "shape", "data_offsets"), f"the entry of {name}")
            if entry["dtype"] != DTYPES[dtype]:
                raise RefusedError(
                    f"the architecture says that {name} is {DTYPES[dtype]}; received {shown(entry['dtype'])}."
                )
            if canonical(entry["shape"]) != canonical(list(shape)):
                raise RefusedError(f"the shape of {name} here is {list(shape)}; received {shown(entry['shape'])}.")
            span = entry["data_offsets"]
            nbytes = math.prod(shape) * np.dtype(dtype).itemsize
            if not isinstance(span, list) or [type(at) for at in span] != [int, int] or span[1] - span[0] != nbytes:
                raise RefusedError(f"the data_offsets of {name} enclose its {nbytes} bytes; received {shown(span)}.")
            spans.append((*span, name))
        end = 0
        for begin, stop, name in sorted(spans):
            if begin != end:
                raise RefusedError(f"arrays follow each other without gaps; {name} begins at {begin}, not at {end}.")
            end = stop
        if end != self._body_size:
            word = "it is truncated" if end > self._body_size else "something follows the last array"
            raise RefusedError(f"{word}: the arrays have {end} bytes, the file has {self._body_size} for them.")
        found = {}
        for _, _, name in sorted(spans):
            shape, dtype = specs[name]
            values = np.fromfile(self._file, np.dtype(dtype).newbyteorder("<"), math.prod(shape))
            found[name] = values.astype(dtype, copy=False).reshape(shape)
        return {name: found[name] for name in specs}


def _guess(head: bytes) -> str:
    if head.startswith(b"PK\x03\x04"):
        kind = "a PyTorch file" if b"data.pkl" in head else "a NumPy .npz file" if b".npy" in head else "a zip archive"
        return f", it looks like {kind}"
    return next((f", it looks like {kind}" for magic, kind in _SIGNATURES if head.startswith(magic)), "")


# ---- files


def _regular(path: str) -> os.stat_result | None:
    """The status of a regular file, None if there is none; anything else is refused."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RefusedError(f"this can be no path: {error}.", "Give the path of a file.") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, a pipe or a socket"
        raise RefusedError(f"a model file is a regular file; this is {kind}.", "Give the path of a file in a folder.")
    return status


def open_regular(path: str) -> BinaryIO:
    """Opens a file for reading, if it is one: a pipe would block, a device need not end."""
    if _regular(path) is None:
        raise RefusedError("there is no such file.", f"Check the path; the current folder is {os.getcwd()!r}.")
    return open(path, "rb")


def replace(path: str, data: bytes) -> None:
    """Puts a file with these data in the place of another: at any moment there is the old one or the new one, whole.

    A new file gets the mode that the umask leaves, an existing one keeps its own; a symbolic link stays, and what it
    points to is replaced.
    """
    status = _regular(path)
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise RefusedError(f"a model file goes into an existing folder; there is no {folder!r}.", "Create it first.")
    sweep(folder)
    file = _temporary(folder)
    try:
        with file:
            if status is not None:
                os.chmod(file.name, stat.S_IMODE(status.st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            # The lock is kept until the file has moved. Windows has no such locks, and moves no open files.
            if os.name == "nt":
                file.close()
            os.replace(file.name, target)
    finally:
        with suppress(OSError):
            os.unlink(file.name)
    # The new file is complete and in place; a file system that cannot flush folders is no reason to say that it is not.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def lock(file: BinaryIO, *, wait: bool = False) -> None:
    """Locks an open file until it is closed, which the end of its process does, too, whatever ends it.

    Raises:
        BlockingIOError: another process has locked it, and `wait` is False.
        OSError: there are no such locks here: on Windows, on some network file systems.
    """
    try:
        import fcntl
    except ImportError as error:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP)) from error
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def sweep(folder: str) -> None:
    """Removes the temporary files that killed processes left in a folder: those that nobody has locked."""
    for path in glob.iglob(os.path.join(glob.escape(folder), f".{KEY}-*.tmp")):
        with suppress(OSError), open(path, "r+b") as file:
            lock(file)
            os.unlink(path)


def _temporary(folder: str) -> BinaryIO:
    """A new file, locked, so that no `sweep` removes it while this process lives."""
    while True:
        file = open(os.path.join(folder, f".{KEY}-{secrets.token_hex(8)}.tmp"), "xb")  # noqa: SIM115
        with suppress(OSError):
            lock(file, wait=True)
        # A sweep may have come between the two lines above.
        if os.path.exists(file.name):
            return file
        file.close()
