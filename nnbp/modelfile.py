"""Model files: a network as one safetensors file that can be read without trusting it.

The tensors W1, b1, W2, … lie in the file as they are. Everything else is one JSON text under the metadata key ``nnbp``:

    {"format_version": 1, "nnbp_version": "…", "architecture": {…}, "extra": {…}, "sha256": "…"}

Reading runs nothing and follows no reference: a name stands for one of nnbp's own classes, or for one that the caller
lists. All of the header is checked before the parameters are read, so a false size costs no memory. The checksum
covers every value in the file; it finds damage, and is no signature.

Format of the container: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from nnbp import activations, initializers, layers, losses
from nnbp.activations import Activation
from nnbp.architecture import Architecture
from nnbp.errors import ModelFileError
from nnbp.initializers import Initializer
from nnbp.layers import Layer
from nnbp.losses import Loss
from nnbp.registry import unknown_name

__all__ = ["FORMAT_VERSION", "ModelFile", "build_layers", "read", "write"]

FORMAT_VERSION = 1

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_HEADER_LIMIT = 2**24
_DEPTH_LIMIT = 32
_LARGEST_INTEGER = 10**99
_DTYPES = {"float32": "F32", "float64": "F64"}
_FIELDS = ("n_in", "layers", "loss", "weight_decay", "dtype", "seed")
_CONTENT = ("format_version", "nnbp_version", "architecture", "extra", "sha256")

_READ_FIX = "The file is damaged or was edited: take a fresh copy, or save the network again."
_WRITE_FIX = "Nothing was written: correct this and save again."
_OS_FIXES = {
    errno.ENOENT: "Create its folder first.",
    errno.EACCES: "Change its permissions, or choose a path that you may use.",
    errno.EPERM: "Change its permissions, or choose a path that you may use.",
    errno.EROFS: "Choose a path on a disk that can be written.",
    errno.ENOSPC: "Free some space, or choose another disk.",
    errno.EDQUOT: "Free some space, or choose another disk.",
}


@dataclass(frozen=True, eq=False)
class ModelFile:
    """What a model file holds.

    Args:
        architecture: n_in; layers, a list of {"kind", "config"} with the config of `Layer.config`, activations decided;
            loss, {"name", …its arguments}; weight_decay; dtype, "float32" or "float64"; seed.
        arrays: W1 (n_out, n_in), b1 (n_out,), W2, … on the host, of that dtype. The number counts the layers that learn.
        extra: plain JSON of the caller's, under keys of its choice.
    """

    architecture: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    extra: dict[str, Any] = field(default_factory=dict)


def write(path: Path, model_file: ModelFile) -> None:
    """Writes a model file whole or not at all: on any failure the old file is as it was, and nothing is left beside it.

    A new file gets the mode that the umask leaves, an existing one keeps its own; a symbolic link stays, and what it points
    to is replaced. The data are on the disk when this returns.

    Args:
        path: of the file; its folder has to exist.
        model_file: what to write. Activations, losses and initializers may be classes of your own.

    Raises:
        ModelFileError: what was given cannot be written, or could not be read again; or the path cannot be written.
    """
    with _explained(f"Cannot write the model file {_shown(os.fsdecode(path))}", _WRITE_FIX):
        target, mode = _target(os.fsdecode(path))
        _replace(target, _encode(model_file), mode)


def read(path: Path, custom: Sequence[type] = ()) -> ModelFile:
    """The content of a model file, every value as it was written.

    Args:
        path: of the file.
        custom: the classes of your own (of Activation, Loss, Initializer) that names in the file may stand for.

    Raises:
        ModelFileError: it is no nnbp model, or damaged, or from a newer nnbp, or it names a class that is not known here.
        TypeError: `custom` holds something else than such classes.
    """
    known = _Known(custom)
    with _explained(f"Cannot read the model file {_shown(os.fsdecode(path))}", _READ_FIX):
        status = _status(os.fsdecode(path))
        if status is None:
            raise _Refusal("there is no such file.", "Check the path and the current folder.")
        if not stat.S_ISREG(status.st_mode):
            raise _Refusal(f"a model file is a regular file; this is {_sort_of(status)}.", "Give the path of the file itself.")
        with open(path, "rb") as file:
            return _decode(file, known)


def build_layers(architecture: Mapping[str, Any], custom: Sequence[type] = ()) -> tuple[list[Layer], Loss]:
    """The layers and the loss that an architecture describes; see `ModelFile` and `read` for the arguments.

    Raises:
        ModelFileError: it describes no network that nnbp can have.
        TypeError: `custom` holds something else than classes of activations, losses and initializers.
    """
    known = _Known(custom)
    with _explained("Cannot build the network", "Take the architecture as `read` returned it."):
        return _build(dict(architecture), known)


class _Refusal(Exception):
    """Why a model file is refused; the fix, where it is not the same as for most."""

    def __init__(self, why: str, fix: str = "") -> None:
        super().__init__(why)
        self.fix = fix


@contextmanager
def _explained(what: str, fix: str) -> Iterator[None]:
    try:
        yield
    except _Refusal as refusal:
        raise ModelFileError(f"{what}: {refusal} {refusal.fix or fix}") from refusal.__cause__
    except OSError as error:
        advice = _OS_FIXES.get(error.errno or 0, "Check the path and the disk.")
        raise ModelFileError(f"{what}: the operating system says {error.strerror or str(error)!r}. {advice}") from error


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


# ---- names and classes


def _classes(module: ModuleType, base: type, attribute: str) -> dict[str, Any]:
    """nnbp's own classes by name; not those of the registries, where anyone can put any class under any name."""
    own = [item for item in vars(module).values() if isinstance(item, type) and item.__module__ == module.__name__]
    return {item.__dict__[attribute]: item for item in own if issubclass(item, base) and attribute in item.__dict__}


_LAYERS = _classes(layers, Layer, "kind")
_NAMED: dict[Any, tuple[str, dict[str, Any]]] = {
    Activation: ("activation", _classes(activations, Activation, "name")),
    Loss: ("loss", _classes(losses, Loss, "name")),
    Initializer: ("initializer", _classes(initializers, Initializer, "name")),
}


class _Known:
    """The closed set of classes that names may stand for: nnbp's own and the given ones."""

    def __init__(self, custom: Iterable[object]) -> None:
        self.custom: dict[Any, dict[str, Any]] = {base: {} for base in _NAMED}
        for item in custom:
            base = next((base for base in _NAMED if isinstance(item, type) and issubclass(item, base)), None)
            name = getattr(item, "name", None)
            if base is None or not isinstance(name, str):
                raise TypeError(
                    "`custom` lists classes of activations, losses and initializers, each with a `name`; received "
                    f"{_shown(item)}. Pass the class: custom=[MyActivation]."
                )
            self.custom[base][name] = item

    def make(self, base: Any, description: Any) -> Any:
        """The object of {"name": …, its arguments}."""
        word, own = _NAMED[base]
        if not isinstance(description, dict) or not isinstance(description.get("name"), str):
            raise _Refusal(f"the {word} is an object with a name; received {_shown(description)}.")
        name, given = description["name"], self.custom[base].get(description["name"])
        if name not in own and given is None:
            raise _Refusal(
                str(unknown_name(word, {**own, **self.custom[base]}, name)),
                f"If this {word} is a class of your own, pass it: custom=[…]; else a newer nnbp may have it.",
            )
        if name in own and given not in (None, own[name]):
            raise _Refusal(
                f"{name!r} is an {word} of nnbp's own and of the class {given.__qualname__}, too, and a model file holds "
                "only the name.",
                "Give your class another name.",
            )
        arguments = {key: value for key, value in description.items() if key != "name"}
        return _constructed(f"{word} {name!r}", given or own[name], arguments)

    def layer(self, description: Any) -> Layer:
        """The layer of {"kind", "config"}."""
        parts = _object(description, ("kind", "config"), "a layer")
        kind, config = parts["kind"], parts["config"]
        if not isinstance(kind, str) or kind not in _LAYERS:
            raise _Refusal(str(unknown_name("kind of layer", _LAYERS, kind)), "A newer nnbp may have it.")
        if not isinstance(config, dict) or (kind == "dense" and "activation" not in config):
            raise _Refusal(f"the config of a {kind} layer is its arguments, activation decided; received {_shown(config)}.")
        made = dict(config)
        if "activation" in config:
            made["activation"] = self.make(Activation, config["activation"])
        if "initializer" in config:
            made["initializer"] = self.make(Initializer, {"name": config["initializer"]})
        layer: Layer = _constructed(f"{kind} layer", _LAYERS[kind], made)
        return layer


def _constructed(what: str, cls: Any, arguments: dict[str, Any]) -> Any:
    """An object that gives back these very arguments; an argument out of range, missing or unknown is refused."""
    try:
        item = cls(**arguments)
        again = item.config() if hasattr(item, "config") else {}
        plain = {key: _described(value) for key, value in arguments.items()}
        same = _canonical(again) == _canonical(plain)
    # The class may be the user's, so anything can go wrong in it.
    except Exception as error:
        raise _Refusal(f"the {what} does not take {_shown(arguments)}: {error}") from error
    if not same:
        raise _Refusal(
            f"the {what} was made with {_shown(plain)}, and says that it has {_shown(again)}.",
            "If it is a class of your own, its config() has to return the arguments of its constructor; else the file is "
            "damaged or was edited.",
        )
    return item


def _described(value: Any) -> Any:
    if isinstance(value, Initializer):
        return value.name
    return layers.named(value) if isinstance(value, Activation) else value


# ---- the architecture


def _build(architecture: dict[str, Any], known: _Known) -> tuple[list[Layer], Loss]:
    _check_plain(architecture, "architecture", 0)
    parts = _object(architecture, _FIELDS, "the architecture")
    for name, least in (("n_in", 1), ("seed", 0)):
        if type(parts[name]) is not int or parts[name] < least:
            raise _Refusal(f"{name} is a whole number, at least {least}; received {_shown(parts[name])}.")
    if type(parts["weight_decay"]) not in (int, float) or parts["weight_decay"] < 0:
        raise _Refusal(f"weight_decay is a number, at least 0; received {_shown(parts['weight_decay'])}.")
    if parts["dtype"] not in list(_DTYPES):
        raise _Refusal(f"the dtype is {' or '.join(_DTYPES)}; received {_shown(parts['dtype'])}.")
    if not isinstance(parts["layers"], list):
        raise _Refusal(f"layers is a list; received {_shown(parts['layers'])}.")
    built = [known.layer(item) for item in parts["layers"]]
    loss: Loss = known.make(Loss, parts["loss"])
    try:
        # The rules of which layers and loss go together stand there; all activations are decided, so "relu" is not used.
        Architecture([parts["n_in"], *built], "relu", None, loss)
    except ValueError as error:
        raise _Refusal(str(error)) from error
    return built, loss


def _shapes(n_in: int, built: Sequence[Layer]) -> dict[str, tuple[int, ...]]:
    """The shape of every array by its name: W1, b1, W2, …"""
    shapes: dict[str, tuple[int, ...]] = {}
    number = 0
    for layer in built:
        specs = layer.parameters(n_in)
        number += bool(specs)
        shapes |= {f"{spec.name}{number}": spec.shape for spec in specs}
        n_in = layer.outputs(n_in)
    return shapes


def _check_names(received: Collection[Any], shapes: Mapping[str, Any]) -> None:
    missing = [name for name in shapes if name not in received]
    odd = [name for name in received if name not in shapes]
    if missing or odd:
        raise _Refusal(
            f"the arrays of this architecture are {_shown(list(shapes))}; missing: {_shown(missing)}, unknown: {_shown(odd)}."
        )


def _check_finite(name: str, array: NDArray[Any]) -> None:
    if not np.isfinite(array).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise _Refusal(
            f"parameters are finite; {name}{list(place)} is {array[place]}.", "Take a network whose training did not diverge."
        )


# ---- plain JSON


def _check_plain(value: object, where: str, depth: int) -> None:
    """Refuses what JSON cannot hold or does not return as it was: NaN, tuples, keys that are not strings, deep nests."""
    if depth > _DEPTH_LIMIT:
        raise _Refusal(f"JSON is nested at most {_DEPTH_LIMIT} deep; {_shown(where)} goes deeper.")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise _Refusal(f"the keys of plain JSON are strings; {_shown(where)} has {_shown(key)}.")
            _check_plain(item, f"{where}.{key}", depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]", depth + 1)
    elif isinstance(value, int):
        if abs(value) > _LARGEST_INTEGER:
            raise _Refusal(f"whole numbers have at most 99 digits; {_shown(where)} has more.")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _Refusal(f"numbers are finite; {_shown(where)} is {value}.")
    elif value is not None and not isinstance(value, str):
        raise _Refusal(
            f"plain JSON is dict, list, str, int, float, bool, None; {_shown(where)} is {type(value).__name__}: {_shown(value)}."
        )


def _parse(text: str, what: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise _Refusal(f"a key of JSON stands once in its object; {what} has one twice, among {_shown([k for k, _ in pairs])}.")
        return found

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _Refusal(f"{what} is not JSON: {error}.") from error
    _check_plain(value, what, 0)
    return value


def _object(value: object, keys: Sequence[str], what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(keys):
        raise _Refusal(f"{what} is an object with the keys {', '.join(keys)}, these and no others; received {_shown(value)}.")
    return value


def _canonical(value: object) -> str:
    """One text for equal values: 1 and 1.0 differ, the order of keys does not matter."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(_canonical({key: content[key] for key in _CONTENT if key != "sha256"}).encode())
    for name in sorted(arrays):
        digest.update(arrays[name].astype(arrays[name].dtype.newbyteorder("<"), copy=False).data)
    return digest.hexdigest()
