"""Model files to test with, and tools to take one apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from nnbp.nn.activations import ELU
from nnbp.nn.layers import Dense, Dropout, Layer, named
from nnbp.nn.losses import CrossEntropy, Loss
from nnbp.serialization.model_file import ModelFile


def described(
    layers: list[Layer], loss: Loss, n_in: int, dtype: str = "float64", weight_decay: float = 0.0, seed: int = 0
) -> dict[str, Any]:
    return {
        "n_in": n_in,
        "layers": [{"kind": layer.kind, "config": layer.config()} for layer in layers],
        "loss": named(loss),
        "weight_decay": weight_decay,
        "dtype": dtype,
        "seed": seed,
    }


def shapes_of(layers: list[Layer], n_in: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        if isinstance(layer, Dense):
            k = len(shapes) // 2 + 1
            shapes |= {f"W{k}": (layer.units, n_in), f"b{k}": (layer.units,)}
            n_in = layer.units
    return shapes


def small(dtype: str = "float64", scale: float = 1.0) -> ModelFile:
    layers = [Dense(3, ELU(0.5), initializer="he_normal"), Dropout(0.25), Dense(2, "softmax")]
    rng = np.random.default_rng(1)
    arrays = {name: (scale * rng.normal(size=shape)).astype(dtype) for name, shape in shapes_of(layers, 4).items()}
    extra = {"table": {"columns": ["age", "größe"], "mean": [0.1, 1e-300], "labels": [True, None, 3]}}
    return ModelFile(described(layers, CrossEntropy(), 4, dtype, 1e-4, 2**80), arrays, extra)


def same(one: ModelFile, other: ModelFile) -> bool:
    return (
        json.dumps(one.architecture, sort_keys=True) == json.dumps(other.architecture, sort_keys=True)
        and json.dumps(one.extra, sort_keys=True) == json.dumps(other.extra, sort_keys=True)
        and list(one.arrays) == list(other.arrays)
        and all(
            (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
            for a, b in zip(one.arrays.values(), other.arrays.values(), strict=True)
        )
    )


def parts(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["nnbp"]), data[8 + length :]


def forged(data: bytes, change: Callable[[dict[str, Any], dict[str, Any]], object], text: str | None = None) -> bytes:
    """A file whose header or description is changed, the checksum not mended."""
    header, content, body = parts(data)
    change(header, content)
    header["__metadata__"]["nnbp"] = json.dumps(content) if text is None else text
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + body
