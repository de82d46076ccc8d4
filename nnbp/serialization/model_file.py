"""Model files: a network as one safetensors file that can be read without trusting it.

The arrays W1, b1, W2, … lie in the file as they are. Everything else is one JSON text under the metadata key ``nnbp``:

    {"format_version": 2, "nnbp_version": "…", "architecture": {…}, "extra": {…}, "state": {…}, "sha256": "…"}

Reading runs nothing and follows no reference: a name stands for one of nnbp's own classes, or for one that the caller
lists. The checksum covers every value in the file; it finds damage, and is no signature.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.formatting import brief, shown
from nnbp.nn.activations import Activation
from nnbp.nn.architecture import Architecture
from nnbp.nn.initializers import Initializer
from nnbp.nn.layers import Layer, Statistics
from nnbp.nn.losses import Loss
from nnbp.registry import Named, unknown_name
from nnbp.serialization.safetensors_file import (
    DTYPES,
    ArraySpec,
    Container,
    RefusedError,
    canonical,
    check_json,
    check_names,
    explained,
    keyed,
    open_regular,
    pack,
    parse,
    replace,
)
from nnbp.validation import file_path, not_negative, whole_number
from nnbp.version import __version__

FORMAT_VERSION = 2
LAYERS_LIMIT = 4096

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_READ_FIX = "The file is damaged or was edited: take a fresh copy, or save the network again."
_WRITE_FIX = "Nothing was written: correct this and save again."


@dataclass(frozen=True, eq=False)
class State:
    """What a network or a training run has beside its parameters.

    Args:
        values: JSON values by name.
        arrays: vectors by name, of dtype float32 or float64.
    """

    values: dict[str, Any]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ModelFile:
    """What a model file holds.

    Args:
        architecture: n_in; layers, a list of {"kind", "config"} with the config of `Layer.config`, activations decided;
            loss, {"name", …its arguments}; weight_decay; dtype, "float32" or "float64"; seed.
        arrays: W1 (n_out, n_in), b1 (n_out,), W2, … on the host, of that dtype; the number counts layers that learn.
            The mean0 (n_in,) and deviation0 (n_in,) of a Standardize layer, before the first of these, are float64.
        extra: JSON values of the caller's, under keys of its choice.
        state: where random sequences stand, and in a checkpoint the rest of training; None in files of version 1. Its
            arrays lie in the file as state.NAME.
    """

    architecture: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    extra: dict[str, Any] = field(default_factory=dict)
    state: State | None = None


def write(path: AnyPath, model_file: ModelFile) -> None:
    """Writes a model file whole or not at all: on any failure the old file is as it was, and nothing is left beside it.

    A new file gets the mode that the umask leaves, an existing one keeps its own; a symbolic link stays, and what it
    points to is replaced.

    Args:
        path: of the file; its folder has to exist.
        model_file: what to write. Activations, losses and initializers may be classes of your own.

    Raises:
        ModelFileError: the content breaks a rule, so that `read` would refuse it; or the path cannot be written.
    """
    where = file_path(path)
    with explained(f"Cannot write the model file {shown(where)}", _WRITE_FIX):
        replace(where, _encode(model_file))


def read(path: AnyPath, custom: Sequence[type] = ()) -> ModelFile:
    """The content of a model file, every value as it was written.

    Args:
        path: of the file.
        custom: the classes of your own (of Activation, Loss, Initializer) that names in the file may stand for.

    Raises:
        ModelFileError: it is no nnbp model, or damaged, or of a newer nnbp, or it names a class that is not known here.
        TypeError: `custom` holds something else than such classes.
    """
    known, where = _Known(custom), file_path(path)
    with explained(f"Cannot read the model file {shown(where)}", _READ_FIX), open_regular(where) as file:
        return _decode(Container(file), known)


def build_layers(architecture: Mapping[str, Any], custom: Sequence[type] = ()) -> tuple[list[Layer], Loss]:
    """The layers and the loss that an architecture describes; see `ModelFile` and `read` for the arguments.

    Raises:
        ModelFileError: it describes no network that nnbp can have.
        TypeError: `custom` holds something else than classes of activations, losses and initializers.
    """
    known = _Known(custom)
    with explained("Cannot build the network", "Take the architecture as `read` returned it."):
        return _build(dict(architecture), known)


def numbered(layers: Iterable[Layer], n_in: int) -> Iterator[tuple[int, Layer, int]]:
    """Each layer with the number that its arrays have in a file, before it, and its number of inputs after it."""
    number = 0
    for layer in layers:
        number += bool(layer.parameters(n_in))
        yield number, layer, n_in
        n_in = layer.outputs(n_in)


def statistics_in(arrays: Mapping[str, NDArray[Any]], layers: Iterable[Layer], n_in: int) -> list[Statistics]:
    """The statistics of each layer, out of the arrays of a file."""
    return [
        {name: arrays[f"{name}{number}"] for name in layer.statistics(n)} for number, layer, n in numbered(layers, n_in)
    ]


def _encode(model_file: ModelFile) -> bytes:
    architecture = model_file.architecture
    # What is defined here is what the user has; only a reader has to allow names.
    defined = [item for base in _OWN for item in base.registry.values()]
    layers, _ = _build(architecture, _Known(defined))
    state = model_file.state
    described = None if state is None else _described(state)
    specs = {**_specs(layers, architecture), **_state_specs(described)}
    _check_object(model_file.extra, "extra")
    check_json(model_file.extra, "extra")
    check_json(described, "state")
    given = {**model_file.arrays, **({} if state is None else _in_file(state.arrays))}
    check_names(given, specs)
    arrays = {}
    for name, (shape, dtype) in specs.items():
        array: Any = given[name]
        if not isinstance(array, np.ndarray) or array.dtype.newbyteorder("=") != dtype:
            raise RefusedError(
                f"{name} is a NumPy array of dtype {dtype}; received {type(array).__name__} of "
                f"{getattr(array, 'dtype', 'no dtype')}."
            )
        if array.shape != shape:
            raise RefusedError(f"the shape of {name} here is {list(shape)}; received {list(array.shape)}.")
        # safetensors writes the memory of an array as it lies, whatever its strides say.
        arrays[name] = np.ascontiguousarray(array, dtype=dtype)
    _check_values({name: arrays[name] for name in model_file.arrays}, layers, architecture)
    content = {
        "format_version": FORMAT_VERSION,
        "nnbp_version": __version__,
        "architecture": architecture,
        "extra": model_file.extra,
        "state": described,
    }
    return pack(json.dumps({**content, "sha256": _digest(content, arrays)}), arrays)


def _decode(container: Container, known: _Known) -> ModelFile:
    content = parse(container.text, "the description of the network")
    version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise RefusedError(
            f"its format has version {version}, this nnbp reads up to {FORMAT_VERSION}; nnbp "
            f"{shown(content.get('nnbp_version'))} wrote it.",
            "Load it with that nnbp, or a later one",
        )
    keys = ["format_version", "nnbp_version", "architecture", "extra", "sha256"]
    if type(version) is bool or version != 1:
        keys.append("state")
    content = keyed(content, keys, "the description of the network")
    whole_number("the format version", version, 1)
    _check_object(content["extra"], "extra")
    architecture = content["architecture"]
    layers, _ = _build(architecture, known)
    own, kept = _specs(layers, architecture), _state_specs(content.get("state"))
    arrays = container.arrays({**own, **kept})
    digest = content.pop("sha256")
    if digest != _digest(content, arrays):
        raise RefusedError(f"its checksum does not fit its content; received {shown(digest)}.")
    state = content.get("state")
    if state is not None:
        # Of a history, NaN and infinity are values, too.
        state = State(state["values"], {name.removeprefix(_STATE): arrays.pop(name) for name in kept})
    _check_values(arrays, layers, architecture)
    return ModelFile(architecture, arrays, content["extra"], state)


_STATE = "state."


def _in_file(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a state under the names that they have in a file."""
    return {f"{_STATE}{name}": array for name, array in arrays.items()}


def _described(state: State) -> dict[str, Any]:
    arrays = {name: [array.dtype.name, len(array)] for name, array in state.arrays.items()}
    return {"values": state.values, "arrays": arrays}


def _state_specs(described: object) -> dict[str, ArraySpec]:
    """Shape and dtype of the arrays of a state, as a file describes it."""
    if described is None:
        return {}
    parts = keyed(described, ("values", "arrays"), "the state")
    _check_object(parts["values"], "the values of the state")
    _check_object(parts["arrays"], "the arrays of the state")
    specs = {}
    for name, spec in parts["arrays"].items():
        if not (isinstance(spec, list) and len(spec) == 2 and isinstance(spec[0], str) and spec[0] in DTYPES):
            raise RefusedError(f"an array of the state is described by dtype and length; received {shown(spec)}.")
        specs[name] = ArraySpec((whole_number(f"the length of state.{name}", spec[1], 1),), spec[0])
    return _in_file(specs)


def _digest(content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of the content without its digest, then of the arrays in the order of their names, little-endian."""
    digest = hashlib.sha256(canonical(content).encode())
    for name in sorted(arrays):
        digest.update(arrays[name].astype(arrays[name].dtype.newbyteorder("<"), copy=False).data)
    return digest.hexdigest()


# ---- names and classes


import_module("nnbp.nn.normalization")  # layers that `import nnbp` leaves to the first use
_LAYERS = Layer.built_in()
_OWN: dict[type[Named], dict[str, Any]] = {base: base.built_in() for base in (Activation, Loss, Initializer)}
"""nnbp's own classes by name; not the registries, in which anyone can put any class under any name later on."""


class _Known:
    """The closed set of classes that names may stand for: nnbp's own and the given ones."""

    def __init__(self, custom: Iterable[object]) -> None:
        self.custom: dict[Any, dict[str, Any]] = {base: {} for base in _OWN}
        for item in custom:
            base = next((base for base in _OWN if isinstance(item, type) and issubclass(item, base)), None)
            name = getattr(item, "name", None)
            if base is None or not isinstance(name, str):
                raise TypeError(
                    "`custom` lists classes of activations, losses and initializers, each with a `name`; received "
                    f"{shown(item)}. Pass the class: custom=[MyActivation]."
                )
            self.custom[base][name] = item

    def make(self, base: Any, description: Any) -> Any:
        """The object of {"name": …, its arguments}."""
        word, own = base.__name__.lower(), _OWN[base]
        if not isinstance(description, dict) or not isinstance(description.get("name"), str):
            raise RefusedError(f"the {word} is an object with a name; received {shown(description)}.")
        name = description["name"]
        given = self.custom[base].get(name)
        if name not in own and given is None:
            raise RefusedError(
                str(unknown_name(word, {**own, **self.custom[base]}, name[:80])),
                f"If this {word} is a class of your own, pass it as custom=[…]; else a newer nnbp may have it.",
            )
        if name in own and given not in (None, own[name]):
            raise RefusedError(
                f"a model file holds only the name of its {word}, and {name!r} is the name of two: one of nnbp, and "
                f"{given.__module__}.{given.__qualname__}.",
                "Give your class another name.",
            )
        arguments = {key: value for key, value in description.items() if key != "name"}
        return _constructed(f"{word} {name!r}", given or own[name], arguments)

    def layer(self, description: Any) -> Layer:
        """The layer of {"kind", "config"}."""
        parts = keyed(description, ("kind", "config"), "a layer")
        kind, config = parts["kind"], parts["config"]
        if not isinstance(kind, str) or kind not in _LAYERS:
            received = kind[:80] if isinstance(kind, str) else shown(kind)
            raise RefusedError(str(unknown_name("kind of layer", _LAYERS, received)), "A newer nnbp may have it.")
        if not isinstance(config, dict) or (kind == "dense" and "activation" not in config):
            raise RefusedError(
                f"a {kind} layer has all its arguments in its config, activation too; received {shown(config)}."
            )
        arguments = dict(config)
        if "activation" in config:
            arguments["activation"] = self.make(Activation, config["activation"])
        if "initializer" in config:
            arguments["initializer"] = self.make(Initializer, {"name": config["initializer"]})
        layer: Layer = _constructed(f"{kind} layer", _LAYERS[kind], arguments, config)
        return layer


def _constructed(what: str, cls: Any, arguments: dict[str, Any], config: dict[str, Any] | None = None) -> Any:
    """An object that says of itself what was said of it: no argument is unknown, missing or out of its range."""
    said = arguments if config is None else config
    try:
        item = cls(**arguments)
        own = item.config()
        same = canonical(own) == canonical(said)
    # The class may be the user's: anything can go wrong in it.
    except Exception as error:
        raise RefusedError(f"the {what} does not take the arguments {shown(said)}: {brief(error)}") from error
    if not same:
        raise RefusedError(
            f"config() returns what the constructor takes; the {what}, of {shown(said)}, says {shown(own)}."
        )
    return item


# ---- the architecture


def _build(architecture: dict[str, Any], known: _Known) -> tuple[list[Layer], Loss]:
    check_json(architecture, "architecture")
    fields = ("n_in", "layers", "loss", "weight_decay", "dtype", "seed")
    parts = keyed(architecture, fields, "the architecture")
    if parts["dtype"] not in list(DTYPES):
        raise RefusedError(f"the dtype is {' or '.join(DTYPES)}; received {shown(parts['dtype'])}.")
    if not isinstance(parts["layers"], list):
        raise RefusedError(f"layers is a list; received {shown(parts['layers'])}.")
    if len(parts["layers"]) > LAYERS_LIMIT:
        raise RefusedError(f"a network has at most {LAYERS_LIMIT} layers; received {len(parts['layers'])}.")
    built = [known.layer(item) for item in parts["layers"]]
    loss: Loss = known.make(Loss, parts["loss"])
    whole_number("n_in", parts["n_in"], 1)
    whole_number("seed", parts["seed"], 0)
    not_negative("weight_decay", parts["weight_decay"])
    # Which layers and loss go together is said there. All activations are decided, so none is taken from "relu".
    Architecture([parts["n_in"], *built], "relu", None, loss)
    return built, loss


def _names(layer: Layer, n_in: int) -> list[str]:
    """The names of a layer's arrays."""
    return [*(spec.name for spec in layer.parameters(n_in)), *layer.statistics(n_in)]


def _specs(layers: list[Layer], architecture: dict[str, Any]) -> dict[str, ArraySpec]:
    """Shape and dtype of every array by its name: W1, b1, W2, …"""
    specs: dict[str, ArraySpec] = {}
    for number, layer, n_in in numbered(layers, architecture["n_in"]):
        own = {spec.name: ArraySpec(spec.shape, architecture["dtype"]) for spec in layer.parameters(n_in)}
        own |= {name: ArraySpec(a.shape, a.dtype.name) for name, a in layer.statistics(n_in).items()}
        specs |= {f"{name}{number}": spec for name, spec in own.items()}
    return specs


def _check_object(value: object, what: str) -> None:
    if not isinstance(value, dict):
        raise RefusedError(f"{what} is an object; received {shown(value)}.")


def _check_values(arrays: Mapping[str, NDArray[Any]], layers: list[Layer], architecture: dict[str, Any]) -> None:
    for name, array in arrays.items():
        for at in (array.argmin(), array.argmax()):  # NaN is both
            value = array.flat[at]
            if not np.isfinite(value):
                place = [int(i) for i in np.unravel_index(at, array.shape)]
                raise RefusedError(
                    f"parameters are finite; {name}{place} is {value}.",
                    "Take a network whose training did not diverge.",
                )
    for number, layer, n_in in numbered(layers, architecture["n_in"]):
        learnt = {spec.name for spec in layer.parameters(n_in) if spec.learnt}
        layer.check_statistics({name: arrays[f"{name}{number}"] for name in _names(layer, n_in) if name not in learnt})
