"""nnbp on this machine and device against references that another one has recorded: every activation, loss, optimizer.

`python -m pytest tests/testing/test_references.py --nnbp-record` writes them anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_cases import decay_for, loss_for

import nnbp
from nnbp import BatchNorm, Dense, LayerNorm, Network
from nnbp.nn.activations import Activation
from nnbp.nn.losses import Loss
from nnbp.optim.optimizers import Optimizer
from nnbp.testing import compare_with, example_problem

REFERENCES = sorted((Path(__file__).parent / "references").rglob("*.safetensors"))
DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])


def problem(**options: Any) -> Any:
    return example_problem([4, 7, 3], **{"loss": "cross_entropy", "samples": 9, "weight_decay": 0.01, **options})


@DTYPES
@pytest.mark.parametrize("activation", [name for name in Activation.built_in() if name != "softmax"])
def test_activations(activation: str, dtype: str, nnbp_device: str, nnbp_reference: Any) -> None:
    nnbp_reference(*problem(activation=activation, dtype=dtype, device=nnbp_device), steps=4, learning_rate=1e-3)


@DTYPES
@pytest.mark.parametrize("loss", Loss.built_in())
def test_losses(loss: str, dtype: str, nnbp_device: str, nnbp_reference: Any) -> None:
    weights = np.linspace(0, 2, 9)
    nnbp_reference(*problem(loss=loss, dtype=dtype, device=nnbp_device, activation="tanh"), weights, steps=4)


@DTYPES
@pytest.mark.parametrize("optimizer", Optimizer.built_in())
def test_optimizers(optimizer: str, dtype: str, nnbp_device: str, nnbp_reference: Any) -> None:
    options = {"dtype": dtype, "device": nnbp_device, "loss": loss_for(optimizer)}
    options["weight_decay"] = decay_for(optimizer, 0.01)
    nnbp_reference(*problem(activation="gelu", **options), steps=6, optimizer=optimizer)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_precisions(precision: Any, nnbp_device: str, nnbp_reference: Any) -> None:
    nnbp_reference(*problem(precision=precision, device=nnbp_device, activation="tanh"), steps=4)


@pytest.mark.parametrize("kind", [BatchNorm, LayerNorm])
def test_normalization(kind: Any, nnbp_device: str, nnbp_reference: Any) -> None:
    layers = [4, Dense(6, "identity"), kind("tanh"), nnbp.Dropout(0.2), Dense(3)]
    net = Network(layers, loss="cross_entropy", device=nnbp_device, seed=0)
    X, y = np.random.default_rng(0).normal(size=(12, 4)), np.arange(12) % 3
    nnbp_reference(net, X, y, steps=4, optimizer="sgd")


@pytest.mark.gpu
@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent / "references").rglob("*.safetensors")), ids=lambda p: p.stem
)
def test_a_gpu_is_judged_by_all_references(path: Path, isolate: bool) -> None:
    report = compare_with(path, device="cuda", isolate=isolate)
    assert report.passed, str(report)
