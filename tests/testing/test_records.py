"""Records: a device is judged by what another one has computed, without that one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import PlantedBackend
from strict_backend import OtherRoundingBackend, StrictBackend
from training_cases import loss_for

import nnbp
from nnbp import Activation, BatchNorm, Dense, LayerNorm, ModelFileError, Network, Standardize
from nnbp.optim.optimizers import Optimizer
from nnbp.serialization.model_file import ModelFile, State, read, write
from nnbp.testing import compare_with, example_problem, record
from nnbp.testing.parity import compare_devices

PRECISIONS = ["float64", "float32", "tf32", "bf16"]


def problem(arithmetic: str = "float32", **options: Any) -> tuple[Network, Any, Any]:
    reduced = arithmetic in ("tf32", "bf16")
    return example_problem(
        [5, 8, 7, 3], **{"activation": "gelu", "loss": "cross_entropy", "samples": 20, "device": "cpu", **options},
        dtype="float32" if reduced else arithmetic, precision=arithmetic if reduced else None,
    )  # fmt: skip


@pytest.mark.parametrize("arithmetic", PRECISIONS)
def test_a_record_is_what_was_computed(arithmetic: str, tmp_path: Path) -> None:
    """Bit for bit, if the same device is judged by it; and the network is as it was."""
    net, X, y = problem(arithmetic)
    before = np.array(net.parameters)
    record(net, X, y, tmp_path / "record", np.linspace(0, 2, 20), steps=7, optimizer="adam", learning_rate=0.01)
    assert np.array(net.parameters).tobytes() == before.tobytes()
    report = compare_with(tmp_path / "record", device="cpu")
    assert {row.verdict for row in report.rows} == {"equal"}
    assert report.devices == ("cpu (recorded)", "cpu")
    assert (report.arithmetic, report.updates, report.optimizer.partition("(")[0]) == (arithmetic, 10, "Adam"), (
        "two epochs"
    )
    assert Network.load(tmp_path / "record", device="cpu").forward(X).tobytes() == net.forward(X).tobytes()


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("arithmetic", PRECISIONS)
def test_the_judgement_is_that_of_devices_side_by_side(arithmetic: str, isolate: bool, tmp_path: Path) -> None:
    net, X, y = problem(arithmetic)
    device = OtherRoundingBackend()
    record(net.copy(device=device), X, y, tmp_path / "record", optimizer="sgd")
    found = compare_with(tmp_path / "record", device="cpu", isolate=isolate)
    expected = compare_devices(net, X, y, devices=(device, "cpu"), optimizer="sgd", isolate=isolate)
    assert found.passed
    assert found.devices == ("strict:0 (recorded)", "cpu")
    pairs = zip(found.rows, expected.rows, strict=True)
    assert all((one.name, one.verdict, one.max_absolute_error) == (other.name, other.verdict, other.max_absolute_error)
               for one, other in pairs)  # fmt: skip


@pytest.mark.parametrize("optimizer", Optimizer.built_in())
def test_every_optimizer_is_recorded(optimizer: str, tmp_path: Path) -> None:
    net, X, y = problem("float64", loss=loss_for(optimizer))
    record(net, X, y, tmp_path / "record", steps=4, optimizer=optimizer)
    assert compare_with(tmp_path / "record", device=StrictBackend()).passed


def test_the_faulty_device_and_layer_are_named(tmp_path: Path) -> None:
    """Whether it is the recorded device or the one that is judged."""
    net, X, y = problem()
    faulty = PlantedBackend("delta", 2, 3)
    record(net, X, y, tmp_path / "sound")
    report = compare_with(tmp_path / "sound", device=faulty, isolate=True)
    assert str(report).endswith("faulty: delta2 on planted")
    record(net.copy(device=faulty), X, y, tmp_path / "faulty")
    report = compare_with(tmp_path / "faulty", device="cpu", isolate=True)
    assert str(report).endswith("faulty: delta2 on planted (recorded)")
    assert not compare_with(tmp_path / "faulty", device="cpu").passed


def test_nondeterminism_of_the_recorded_device_is_known(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def unsteady(out: Any) -> None:
        out[0, 0] += rng.normal()

    net, X, y = problem()
    record(net.copy(device=PlantedBackend("dW", 3, 3, unsteady)), X, y, tmp_path / "record")
    report = compare_with(tmp_path / "record", device="cpu")
    assert {row.name: row.verdict for row in report.rows if row.stage == "pass" and not row.passed} == {
        "dW3": "nondeterministic"
    }


def test_layers_with_statistics_and_kinds_of_targets(tmp_path: Path) -> None:
    layers = [4, Standardize(), Dense(5, "identity"), BatchNorm("relu"), Dense(6, "tanh"), LayerNorm(), Dense(2)]
    X = np.random.default_rng(0).normal(3, 2, size=(40, 4))
    for loss, y in (("cross_entropy", np.arange(40) % 2), ("huber", X[:, :2]), ("binary_cross_entropy", X[:, :2] > 3)):
        net = Network(layers, loss=loss, device="cpu", seed=0)
        net.fit(X, y, epochs=2, progress=False)
        record(net, X, y, tmp_path / "record", optimizer="sgd", steps=3)
        assert {row.verdict for row in compare_with(tmp_path / "record", device="cpu").rows} == {"equal"}


def test_classes_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for base in (Activation, Optimizer):
        monkeypatch.setattr(base, "registry", dict(base.registry))

    class Bounded(Activation):
        name = "bounded of records"

        def f(self, z: Any) -> Any:
            return z / (1 + abs(z))

    class Halving(Optimizer):
        name = "halving of records"
        default_rate = 0.5

        def update(self, theta: Any, g: Any, eta: Any) -> Any:
            return theta * 0.9 - eta * g

    net, X, y = problem("float64", activation=Bounded())
    record(net, X, y, tmp_path / "record", optimizer=Halving())
    report = compare_with(tmp_path / "record", device="cpu", custom=[Bounded, Halving])
    assert {row.verdict for row in report.rows} == {"equal"}
    with pytest.raises(ModelFileError, match="bounded of records"):
        compare_with(tmp_path / "record", device="cpu")
    with pytest.raises(ModelFileError, match="halving of records"):
        compare_with(tmp_path / "record", device="cpu", custom=[Bounded])


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    net, X, y = problem()
    net.save(tmp_path / "model")
    with pytest.raises(ModelFileError, match=r"is a model file but not a record\. nnbp\.testing\.record and"):
        compare_with(tmp_path / "model", device="cpu")
    record(net, X, y, tmp_path / "record")
    data = bytearray((tmp_path / "record").read_bytes())
    data[-100] ^= 1
    (tmp_path / "record").write_bytes(bytes(data))
    with pytest.raises(ModelFileError, match="checksum"):
        compare_with(tmp_path / "record", device="cpu")
    with pytest.raises(TypeError, match="net is a Network"):
        record("net", X, y, tmp_path / "record")  # type: ignore[arg-type]


def test_another_process_judges_it(tmp_path: Path) -> None:
    net, X, y = problem()
    record(net, X, y, tmp_path / "record")
    code = "import nnbp, sys; print(nnbp.testing.compare_with(sys.argv[1], device='cpu').passed)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "record")], check=True, capture_output=True, text=True
    )
    assert done.stdout == "True\n"


def test_it_is_small(tmp_path: Path) -> None:
    """A record has the arrays, the parameters and a few thousand characters beside them."""
    net, X, y = problem("float64")
    record(net, X, y, tmp_path / "record")
    arrays = sum(
        row.shape == () or int(np.prod(row.shape))
        for row in nnbp.compare_devices(net, X, y, devices=("cpu", "cpu")).rows
    )
    assert (tmp_path / "record").stat().st_size < 8 * (arrays + X.size + y.size + net.parameters.size) + 20_000


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": -1}, {"epochs": "a"}, {"epochs": 10**12}, {"batch_size": 0}, {"optimizer": {"name": "x"}},
        {"optimizer": {"name": "adam", "foo": 1}}, {"optimizer": 3}, {"precision": "x"}, {"learning_rate": "a"},
        {"learning_rate": -1.0}, {"unsteady": {"z1": "x"}}, {"unsteady": None}, {"sequences": None}, {"shapes": None},
        {"shapes": {"X": [20, 6]}}, {"shapes": {"computed.z1": None}}, {"shapes": {"trained.W1 trained": None}},
        {"shapes": {"computed.z1": [8, 20]}}, {"shapes": {"computed.more": [1]}}, {"shapes": {"y": [4, 5]}},
    ],
    ids=str,
)  # fmt: skip
def test_a_record_that_somebody_has_made_up_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    """With a right checksum."""
    net, X, y = problem("float32")
    record(net, X, y, tmp_path / "record")
    file = read(tmp_path / "record")
    assert file.state is not None
    arrays = {**file.state.arrays, "computed.more": np.zeros(1)}
    values = json.loads(json.dumps(file.state.values))
    shapes = {**values["shapes"], **(changes.get("shapes") or {})}
    changes = {**changes, "shapes": None if changes.get("shapes", 1) is None else shapes}
    if changes["shapes"]:
        changes["shapes"] = {name: shape for name, shape in shapes.items() if shape is not None}
    state = State({**values, **changes}, arrays)
    write(tmp_path / "record", ModelFile(file.architecture, file.arrays, file.extra, state))
    with pytest.raises(nnbp.NnbpError, match=r"record|random sequences|one target per sample"):
        compare_with(tmp_path / "record", device="cpu")
