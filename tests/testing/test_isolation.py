"""Isolated layers: a fault is named by the layer that has it and no other, and sound devices have none."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from planted import KINDS, PlantedBackend, RoundedFactors
from strict_backend import OtherRoundingBackend

import nnbp
from nnbp import BatchNorm, Dense, Dropout, LayerNorm, Network, Standardize
from nnbp.graph.backend import Backend, backend_class
from nnbp.graph.ops import Foreign, Gemm
from nnbp.nn.activations import Activation
from nnbp.nn.losses import Loss
from nnbp.testing import example_problem
from nnbp.testing.parity import compare_devices

SIZES = [6, 8, 9, 7, 8, 10, 6, 9, 8, 7, 3]
LAYERS = len(SIZES) - 1
SOUND = int(os.environ.get("NNBP_TEST_SOUND_NETWORKS", "40"))


def deep(precision: Any = None, **options: Any) -> tuple[Network, Any, Any]:
    activations = ["tanh", "relu", "gelu", "sigmoid", "elu", "tanh", "silu", "softplus", "leaky_relu"]
    return example_problem(
        SIZES, activation=activations, loss="cross_entropy", samples=12, weight_decay=0.01, device="cpu",
        precision=precision, **options,
    )  # fmt: skip


def culprit(kind: str, layer: int) -> str:
    """The array that shows the fault."""
    if kind == "dx":
        return "dX" if layer == 1 else f"delta{layer - 1}"
    return f"{kind}{layer}"


@pytest.mark.parametrize("arithmetic", ["float64", "float32", "tf32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_named_and_no_other(kind: str, arithmetic: str) -> None:
    """In every one of ten layers."""
    precision = arithmetic if arithmetic in ("tf32", "bf16") else None
    net, X, y = deep(precision, dtype="float64" if arithmetic == "float64" else "float32")
    rounded = RoundedFactors(precision) if precision else None
    for layer in range(1, LAYERS + 1):
        device = PlantedBackend(kind, layer, LAYERS, backend=rounded)
        report = compare_devices(net, X, y, devices=("cpu", device), isolate=True, steps=1)
        failed = [(row.name, row.device, row.verdict) for row in report.rows if not row.passed]
        assert failed == [(culprit(kind, layer), "planted", "fault")], str(report)
        assert report.culprit is not None
        assert report.culprit.ratio > 1


def test_without_isolation_all_that_follow_differ() -> None:
    net, X, y = deep()
    report = compare_devices(net, X, y, devices=("cpu", PlantedBackend("z", 4, LAYERS)), steps=1)
    assert report.culprit is not None
    assert report.culprit.name == "z4"
    failed = {row.name for row in report.rows if not row.passed}
    assert {"z4", "a4", "z5", "delta10", "dW1"} <= failed
    assert not failed & {"z1", "a1", "z2", "z3", "a3"}
    assert "first beyond its bound: z4 on planted" in str(report)


def test_a_report_names_the_faults() -> None:
    net, X, y = deep()
    report = compare_devices(net, X, y, devices=("cpu", PlantedBackend("dW", 7, LAYERS)), isolate=True)
    assert "FAILED: every layer of cpu, planted by itself, p in float64; float32" in str(report)
    assert str(report).endswith("faulty: dW7 on planted")
    assert report.as_dict()["culprit"] == "dW7"


def random_network(seed: int) -> tuple[Network, Any, Any]:
    rng = np.random.default_rng(seed)
    hidden = [name for name in Activation.built_in() if name not in ("softmax", "exponential")]
    sizes = rng.integers(1, 20, int(rng.integers(2, 6))).tolist()
    loss = str(rng.choice([*Loss.built_in()]))
    sizes[-1] += loss == "cross_entropy"
    return example_problem(
        sizes, activation=[str(rng.choice(hidden)) for _ in sizes[1:-1]], loss=loss, samples=int(rng.integers(1, 30)),
        seed=seed, weight_decay=float(rng.choice([0.0, 0.1])), dtype=str(rng.choice(["float32", "float64"])),
        device="cpu",
    )  # fmt: skip


@pytest.mark.parametrize("part", range(4))
def test_sound_devices_have_no_faults(part: int) -> None:
    """NNBP_TEST_SOUND_NETWORKS random networks, on the CPU and on a device that rounds otherwise."""
    for seed in range(part, SOUND, 4):
        net, X, y = random_network(seed)
        w = np.random.default_rng(seed).uniform(0, 2, len(X)) if seed % 3 == 0 else None
        for isolate in (True, False):
            report = compare_devices(net, X, y, w, devices=("cpu", OtherRoundingBackend()), isolate=isolate, steps=2)
            assert report.passed, f"seed {seed}\n{report}"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["absolute_error", "quantile", "huber"])
def test_sums_that_cancel_are_no_faults(loss: str, dtype: str) -> None:
    """The deltas of as many samples above their targets as below them add up to 0, or to what rounding leaves."""
    for seed in range(25):
        rng = np.random.default_rng(seed)
        m, units = int(rng.choice([2, 4, 10, 20, 50])), int(rng.integers(1, 9))
        net = Network([3, units, 1], loss=loss, activation="relu", dtype=dtype, device="cpu", seed=seed)
        X = rng.normal(size=(m, 3))
        y = net.forward(X)[:, 0] + np.where(np.arange(m) % 2, 1, -1) * rng.uniform(0.5, 2, m)
        for isolate in (True, False):
            devices = "cpu", OtherRoundingBackend()
            report = compare_devices(net, X, y, devices=devices, isolate=isolate, steps=2, optimizer="sgd")
            assert report.passed, f"seed {seed}\n{report}"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [BatchNorm, LayerNorm])
def test_normalization_layers_are_judged_too(kind: Any, dtype: str) -> None:
    layers = [Standardize(), Dense(6, "identity"), kind("relu"), Dropout(0.2), Dense(5, "tanh"), kind(), Dense(3)]
    net = Network(layers, loss="cross_entropy", dtype=dtype, device="cpu", seed=0)
    X, y = np.random.default_rng(0).normal(2, 3, size=(30, 4)), np.arange(30) % 3
    net.fit(X, y, epochs=2, progress=False)
    for isolate in (True, False):
        devices = "cpu", OtherRoundingBackend()
        report = compare_devices(net, X, y, devices=devices, isolate=isolate, optimizer="sgd")
        assert report.passed, str(report)
        names = [row.name for row in report.rows]
        assert {"z2", "a2", "delta2", "dgamma2", "dbeta2", "z5", "dW5"} <= set(names)
        trained = {"gamma2 trained", "mean2 trained"} if kind is BatchNorm else {"gamma2 trained"}
        assert isolate or trained <= set(names)


def test_a_fault_of_a_normalization_is_named() -> None:
    """One that multiplies gamma's gradient, by the name that its array has in a model file."""
    net = Network([4, Dense(5, "identity"), LayerNorm("tanh"), Dense(3)], loss="cross_entropy", device="cpu", seed=0)
    X, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 3

    class Wrong(OtherRoundingBackend):
        def lowered(self, operation: Any) -> Any:
            found = super().lowered(operation)
            gamma = type(operation).__name__ == "Reduce" and operation.out.shape == (5, 1) and self.count % 3 == 0
            self.count += type(operation).__name__ == "Reduce" and operation.out.shape == (5, 1)
            spoil = nnbp.graph.ops.Foreign(lambda: np.multiply(operation.out._host, 1.1, out=operation.out._host))
            return [*found, spoil] if gamma else found

        count = 0

    report = compare_devices(net, X, y, devices=("cpu", Wrong()), isolate=True, steps=1)
    assert [row.name for row in report.rows if not row.passed] == ["dgamma2"], str(report)


class Scaling:
    """The CPU itself, with products in float32 that are wrong by a fifth."""

    def __init__(self) -> None:
        cpu = backend_class("numpy")()
        vars(self).update({name: getattr(cpu, name) for name in dir(Backend) if name[0] != "_" and name != "compile"})
        vars(self).update(cpu=cpu, name=cpu.name, device="cpu", xp=cpu.xp)

    def compile(self, operations: Any, times: int = 1, runs: int = 1) -> Any:
        found = []
        for operation in operations:
            found.append(operation)
            if isinstance(operation, Gemm) and operation.out.dtype == np.float32:
                found.append(Foreign(np.multiply, (operation.out, np.float32(1.2), operation.out)))
        return self.cpu.compile(found, times, runs)


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("precision", [None, "tf32", "bf16"])
def test_a_faulty_cpu_does_not_widen_its_own_bound(precision: Any, isolate: bool) -> None:
    """Nor if it comes first, or is the only kind of device."""
    net, X, y = deep(precision)
    for devices in ((Scaling(), "cpu"), ("cpu", Scaling())):
        assert not compare_devices(net, X, y, devices=devices, isolate=isolate).passed
    if isolate:
        assert not compare_devices(net, X, y, devices=(Scaling(), Scaling()), isolate=True).passed


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("samples", [1, 2, 8])
def test_networks_that_fit_their_data_are_sound(samples: int, dtype: str) -> None:
    """h − y cancels."""
    for seed in range(10):
        X, y = np.random.default_rng(seed).normal(size=(samples, 3)), np.random.default_rng(seed).normal(size=samples)
        net = Network([3, 20, 1], activation="tanh", dtype=dtype, device="cpu", seed=seed)
        net.fit(X, y, optimizer="lbfgs", epochs=100, progress=False)
        for isolate in (True, False):
            devices = "cpu", OtherRoundingBackend()
            report = compare_devices(net, X, y, devices=devices, isolate=isolate, steps=2, optimizer="sgd")
            assert report.passed, f"seed {seed}\n{report}"


# ---- verdicts


def test_the_same_bits_are_equal_and_others_are_rounding() -> None:
    net, X, y = deep()
    same = compare_devices(net, X, y, devices=("cpu", "cpu"))
    assert {row.verdict for row in same.rows} == {"equal"}
    other = compare_devices(net, X, y, devices=("cpu", OtherRoundingBackend()))
    assert "rounding" in {row.verdict for row in other.rows}
    assert all(0 <= row.ratio <= 1 for row in other.rows)


def test_a_device_that_differs_from_itself_is_nondeterministic() -> None:
    rng = np.random.default_rng(0)

    def unsteady(out: Any) -> None:
        out[0, 0] += rng.normal()

    net, X, y = deep()
    report = compare_devices(net, X, y, devices=("cpu", PlantedBackend("dW", 3, LAYERS, unsteady)), steps=1)
    verdicts = {row.name: row.verdict for row in report.rows if not row.passed}
    assert verdicts["dW3"] == "nondeterministic"


def test_samples_at_a_kink_are_left_out_and_the_verdict_says_so() -> None:
    """On one device z is on the other side of a kink for one sample; its part is subtracted from the sums."""

    def over(out: Any) -> None:
        if out.shape == (1, 9):
            out[0, 4] -= 3e-7

    net = Network([2, 1, 1], activation="relu", device="cpu", seed=0)
    net.set_parameters([[[1.0, 0.0]], [[1.0]]], [[0.0], [0.0]])
    X = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    X[4] = [1e-7, 0.5]
    y = np.ones(9)
    report = compare_devices(net, X, y, devices=("cpu", PlantedBackend("z", 1, 2, over)), steps=1, learning_rate=0.0)
    assert report.passed, str(report)
    assert report.kinks == 1
    verdicts = {row.name: row.verdict for row in report.rows}
    assert verdicts["dW1"] == verdicts["delta1"] == "a kink"
    rows = {row.name: row for row in report.rows}
    assert rows["delta1"].shape == (8, 1)
    assert rows["dW1"].max_relative_error < 1e-6
