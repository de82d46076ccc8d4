"""The comparison of devices: what it measures, the bounds that it holds to, and what it refuses."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from strict_backend import OtherRoundingBackend, StrictBackend

import nnbp
from nnbp.device import select
from nnbp.errors import DeviceUnavailableError
from nnbp.graph.ops import PRECISIONS, Foreign, Gemm
from nnbp.testing import example_problem
from nnbp.testing.parity import compare_devices


class FaultyBackend(StrictBackend):
    """A device whose products are wrong in some way."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def lowered(self, operation):
        found = super().lowered(operation)
        return [*found, Foreign(self.fault, (found[0].out,))] if isinstance(operation, Gemm) else found


class TensorFloatBackend(StrictBackend):
    """A device that multiplies factors of so many bits after the point: rounded to them, or cut off.

    TF32 has 10 and bfloat16 7.
    """

    def __init__(self, bits=10, cut=False):
        super().__init__()
        self.dropped = np.uint32(23 - bits)
        self.half = np.uint32(0 if cut else 1 << (22 - bits))

    def lowered(self, operation):
        found = super().lowered(operation)
        if not isinstance(operation, Gemm):
            return found

        def rounded(x):
            bits = (np.ascontiguousarray(x).view(np.uint32) + self.half) >> self.dropped << self.dropped
            return bits.view(np.float32)

        def multiply(x, y, into):
            into[...] = rounded(x) @ rounded(y)

        return [Foreign(multiply, (*found[0].reads, found[0].out))]


def rows_of(report):
    return {row.name: row for row in report.rows}


def test_the_same_device_twice_agrees_bit_for_bit():
    net, X, y = example_problem([5, 7, 6, 3], activation="tanh", loss="cross_entropy", samples=20, device="cpu")
    report = compare_devices(net, X, y, devices=("cpu", "cpu"))
    assert report.passed
    assert report.max_relative_error == 0.0
    names = ["z1", "a1", "z2", "a2", "z3", "a3", "J", "delta3", "delta2", "delta1"]
    names += ["dW1", "dW2", "dW3", "db1", "db2", "db3", "dX"]
    names += [f"{name} trained" for name in ("W1", "W2", "W3", "b1", "b2", "b3")] + ["J by epoch"]
    assert [row.name for row in report.rows] == names
    assert [row.stage for row in report.rows] == ["pass"] * 17 + ["training"] * 7
    row = rows_of(report)["dW1"]
    assert (row.shape, row.max_absolute_error, row.max_ulp_error) == ((7, 5), 0.0, 0.0)
    assert row.cosine == pytest.approx(1.0)
    assert report.devices == ("cpu (numpy)", "cpu (numpy)")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_other_roundings_are_within_the_bounds(dtype):
    net, X, y = example_problem([8, 16, 3], activation="tanh", loss="huber", samples=25, device="cpu", dtype=dtype)
    report = compare_devices(net, X, y, devices=("cpu", OtherRoundingBackend()))
    assert report.passed
    assert 0 < report.max_relative_error < (1e-5 if dtype == "float32" else 1e-13)
    bounds = {row.bound for row in report.rows}
    if dtype == "float64":
        assert bounds == {1e-12, 1e-10}
    else:
        assert all(8 * 2.0**-23 * math.sqrt(16) <= bound < 1e-4 for bound in bounds)


def test_the_errors_are_measured_as_stated():
    """One entry of the output is off by a known amount."""

    def off(out):
        if out.shape == (2, 4):
            out[1, 2] += 0.5

    net, X, y = example_problem([3, 2], samples=4, device="cpu", dtype="float64")
    report = compare_devices(net, X, y, devices=("cpu", FaultyBackend(off)))
    row, p = rows_of(report)["z1"], net.trace(X).z[1]
    assert not row.passed
    assert row.max_absolute_error == pytest.approx(0.5, rel=1e-12)
    assert row.max_relative_error == pytest.approx(0.5 / np.abs(p).max(), rel=1e-12)
    q = p.copy()
    q[2, 1] += 0.5
    assert row.max_ulp_error == pytest.approx(0.5 / np.spacing(max(abs(q[2, 1]), abs(p[2, 1]))), rel=1e-9)
    assert row.cosine == pytest.approx((p * q).sum() / np.linalg.norm(p) / np.linalg.norm(q), rel=1e-12)
    assert "FAILED" in str(report)


def test_reduced_precision_is_found():
    net, X, y = example_problem([16, 32, 4], activation="tanh", loss="cross_entropy", samples=50, device="cpu")
    report = compare_devices(net, X, y, devices=("cpu", TensorFloatBackend()))
    failed = {row.name for row in report.rows if not row.passed}
    assert {"z1", "z2", "dW1", "dW2", "dX"} <= failed


BITS = {"tf32": 10, "bf16": 7}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("precision", "cut"), [("tf32", False), ("tf32", True), ("bf16", False)])
def test_the_precision_that_was_asked_for_is_within_the_bounds(precision, cut, optimizer):
    for activation, loss in (("tanh", "cross_entropy"), ("silu", "squared_error"), ("gelu", "huber")):
        net, X, y = example_problem(
            [16, 32, 4], activation=activation, loss=loss, samples=50, device="cpu", precision=precision
        )
        devices = ("cpu", TensorFloatBackend(BITS[precision], cut))
        report = compare_devices(net, X, y, devices=devices, steps=50, optimizer=optimizer)
        assert report.passed, f"{activation}, {loss}\n{report}"
        assert report.precision == report.arithmetic == precision
        assert rows_of(report)["z1"].max_relative_error > 2.0 ** -(BITS[precision] + 4), "the device was more precise"
        assert all(row.bound < 8 * 2.0 ** -BITS[precision] for row in report.rows if row.stage == "pass")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("precision", "bits"), [("tf32", 7), ("bf16", 4)])
def test_a_precision_lower_than_asked_for_is_found(precision, bits, optimizer):
    net, X, y = example_problem([16, 32, 4], samples=50, device="cpu", precision=precision)
    report = compare_devices(net, X, y, devices=("cpu", TensorFloatBackend(bits)), optimizer=optimizer)
    failed = {row.name for row in report.rows if not row.passed}
    assert failed & {"z1", "z2", "dW1", "dW2", "dX"}


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_gpu_multiplies_as_precisely_as_asked_for(precision):
    net, X, y = example_problem([64, 256, 64, 10], activation="tanh", samples=128, device="cpu", precision=precision)
    report = compare_devices(net, X, y, steps=50, optimizer="adam")
    assert report.passed, str(report)
    assert rows_of(report)["z1"].max_relative_error > 2.0 ** -(BITS[precision] + 4), "the products are those of float32"


def test_a_wrong_product_is_found_at_every_precision():
    def off(out):
        out *= 1.05

    for precision in PRECISIONS:
        net, X, y = example_problem([16, 32, 4], activation="tanh", samples=50, device="cpu", precision=precision)
        report = compare_devices(net, X, y, devices=("cpu", FaultyBackend(off)))
        assert not rows_of(report)["z1"].passed


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("factor", [1.01, 1.0001])
def test_a_wrong_product_is_found_whichever_device_is_named_first(first, factor):
    """Its own errors do not widen the bound that it is held to."""

    def fault(product):
        product *= factor

    net, X, y = example_problem([5, 7, 6, 3], activation="tanh", loss="cross_entropy", samples=20, device="cpu")
    devices = (FaultyBackend(fault), "cpu") if first else ("cpu", FaultyBackend(fault))
    report = compare_devices(net, X, y, devices=devices)
    assert not report.passed
    assert not any(row.passed for row in report.rows if row.name.startswith("dW"))


def test_a_batch_of_no_samples_is_refused():
    net, X, y = example_problem([3, 4, 2], samples=6, device="cpu")
    with pytest.raises(ValueError, match="batch_size is a whole number, at least 1; received 0"):
        compare_devices(net, X, y, devices=("cpu", "cpu"), batch_size=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_no_number_or_nothing_fails(value, dtype):
    net, X, y = example_problem([3, 4, 2], activation="tanh", device="cpu", dtype=dtype)
    report = compare_devices(net, X, y, devices=("cpu", FaultyBackend(lambda out: out.fill(value))))
    rows = rows_of(report)
    assert not any(rows[name].passed for name in ("z1", "z2", "dW1", "dW2", "W1 trained", "J by epoch"))
    assert (rows["z1"].max_relative_error == np.inf) == (value != 0)
    json.dumps(report.as_dict(), allow_nan=False)


def test_training_that_diverges_everywhere_is_an_error():
    net, X, y = example_problem([3, 4, 2], activation="relu", device="cpu")
    with pytest.raises(nnbp.DivergenceError):
        compare_devices(net, X, y, devices=("cpu", "cpu"), optimizer="sgd", learning_rate=1e30)


def test_samples_on_both_sides_of_a_kink_are_left_out():
    """z of one sample is a rounding error away from relu's kink: its delta is 0 on one device, not on the other."""

    def nudge(out):
        out[np.abs(out) < 1e-7] = -1e-9

    net = nnbp.Network([2, 3, 1], activation="relu", device="cpu", seed=0)
    X = np.random.default_rng(0).normal(size=(10, 2))
    W = [np.abs(w) + 0.1 for w in net.weights]
    net.set_parameters(W, [np.full(3, 0.0), np.zeros(1)])
    X[4] = 1e-9
    report = compare_devices(net, X, np.ones(10), devices=("cpu", FaultyBackend(nudge)))
    assert report.kinks == 1
    rows = rows_of(report)
    assert rows["delta1"].shape == (9, 3)
    assert rows["z1"].shape == (10, 3)
    assert rows["delta1"].passed
    assert rows["dW1"].passed
    assert "1 samples left out" in str(report)


def test_all_samples_may_be_on_both_sides_of_a_kink():
    """Then nothing is left of deltas and gradients, and a sound device passes."""

    def other_side(out):
        if out.shape == (3, 1):
            out[0] -= 1e-6

    net = nnbp.Network([2, 3, 1], activation="relu", device="cpu", seed=0)
    W, x = [np.abs(w) + 0.1 for w in net.weights], np.array([[0.7, 0.9]])
    net.set_parameters(W, [np.array([5e-7 - W[0][0] @ x[0], 0, 0]), np.zeros(1)])
    report = compare_devices(net, x, [1.0], devices=("cpu", FaultyBackend(other_side)), steps=1)
    rows = rows_of(report)
    assert report.kinks == 1
    assert rows["delta1"].shape == (0, 3)
    assert (rows["delta1"].verdict, rows["dW1"].verdict) == ("a kink", "a kink")
    assert all(row.passed for row in report.rows if row.stage == "pass"), str(report)


def test_the_kinks_of_a_loss_count_too():
    def nudge(out):
        out += 1e-7

    net, X, _ = example_problem([3, 2], loss="absolute_error", device="cpu", dtype="float32")
    y = net.forward(X).astype(np.float64) + np.where(np.arange(8) == 5, 5e-8, 1.0)[:, None]
    assert compare_devices(net, X, y, devices=("cpu", FaultyBackend(nudge))).kinks >= 1


@pytest.mark.parametrize(
    ("samples", "steps", "options", "updates"),
    [
        (50, 10, {}, 10),
        (7, 10, {}, 10),
        (7, 3, {}, 3),
        (1, 4, {}, 4),
        (50, 10, {"batch_size": 16}, 12),
        (50, 3, {"batch_size": 64}, 3),
        (50, 5, {"optimizer": "rprop"}, 5),
        (50, 7, {"optimizer": "lbfgs"}, 7),
        (50, 6, {"optimizer": nnbp.LBFGS(max_iter=2)}, 6),
    ],
)
def test_the_number_of_updates(samples, steps, options, updates):
    net, X, y = example_problem([3, 4, 2], activation="tanh", samples=samples, device="cpu", dtype="float64")
    report = compare_devices(net, X, y, devices=("cpu", StrictBackend()), steps=steps, **options)
    assert report.updates == updates
    assert report.max_relative_error == 0.0
    assert (report.rows[-1].name, report.rows[-1].stage) == ("J by epoch", "training")


def test_the_network_is_left_as_it_is():
    net = nnbp.Network([3, nnbp.Dense(6, "relu"), nnbp.Dropout(0.5), nnbp.Dense(2)], device="cpu", seed=1)
    X, y = np.random.default_rng(0).normal(size=(9, 3)), np.ones((9, 2))
    before = net.parameters.copy()
    order = net.model.order_generator.bit_generator.state
    report = compare_devices(net, X, y, np.arange(9.0), devices=("cpu", StrictBackend()), learning_rate=0.1)
    assert report.passed
    assert np.array_equal(net.parameters, before)
    assert net.model.order_generator.bit_generator.state == order
    assert [s.position for s in net.model.streams if s is not None] == [0]


def test_sizes_may_come_from_the_data():
    X = np.random.default_rng(0).normal(size=(9, 3))
    report = compare_devices(nnbp.Network(device="cpu", seed=0), X, X[:, 0], devices=("cpu", StrictBackend()), steps=2)
    assert rows_of(report)["dW1"].shape == (100, 3)


def test_more_than_two_devices():
    net, X, y = example_problem([3, 4, 2], device="cpu")
    report = compare_devices(net, X, y, devices=("cpu", StrictBackend(), OtherRoundingBackend()), steps=2)
    assert report.devices == ("cpu", "strict:0 (strict)", "strict:0 (other)")
    assert {row.device for row in report.rows} == set(report.devices[1:])
    assert "strict:0 (other)" in str(report).splitlines()[3]


def test_a_device_that_does_not_work_is_an_error(monkeypatch):
    net, X, y = example_problem([3, 4, 2], device="cpu")

    def refuse(device, *, fallback):
        assert not fallback
        raise DeviceUnavailableError("no GPU works")

    monkeypatch.setattr("nnbp.testing.parity.open_backend", refuse)
    with pytest.raises(DeviceUnavailableError, match="no GPU works"):
        compare_devices(net, X, y)


def test_two_names_of_one_device_are_an_error(monkeypatch):
    net, X, y = example_problem([3, 4, 2], device="cpu")
    numpy = select.open_backend("cpu")
    monkeypatch.setattr("nnbp.testing.parity.open_backend", lambda device, *, fallback: numpy)
    with pytest.raises(DeviceUnavailableError, match="'cpu' and 'auto' are both cpu"):
        compare_devices(net, X, y, devices=("cpu", "auto"))


def test_wrong_arguments_are_refused():
    net, X, y = example_problem([3, 4, 2], device="cpu")
    for devices in ("cpu", ("cpu",), ()):
        with pytest.raises(ValueError, match="at least two"):
            compare_devices(net, X, y, devices=devices)
    for options in ({"steps": 0}, {"batch_size": -1}, {"optimizer": "adamm"}):
        with pytest.raises(ValueError, match="received"):
            compare_devices(net, X, y, devices=("cpu", "cpu"), **options)
    with pytest.raises(nnbp.ShapeError):
        compare_devices(net, X[:, :1], y, devices=("cpu", "cpu"))


def test_the_report_as_text_and_as_json():
    net, X, y = example_problem([3, 4, 2], device="cpu")
    report = compare_devices(net, X, y, devices=("cpu", StrictBackend()), steps=2, optimizer="sgd")
    lines = str(report).splitlines()
    assert lines[0].split()[:2] == ["array", "shape"]
    assert lines[-1].startswith("PASSED: p on cpu, q on strict:0; float32, 2 updates by SGD;")
    document = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert document["passed"] is True
    assert document["optimizer"].startswith("SGD(")
    assert document["rows"][0] == {
        "stage": "pass", "name": "z1", "device": "strict:0", "shape": [8, 4], "max_absolute_error": 0.0,
        "max_relative_error": 0.0, "max_ulp_error": 0.0, "cosine": pytest.approx(1.0),
        "bound": report.rows[0].bound, "passed": True, "verdict": "equal",
    }  # fmt: skip
