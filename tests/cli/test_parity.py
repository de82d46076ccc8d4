"""`nnbp parity`: every activation, loss and optimizer on two devices, and the exit code."""

from __future__ import annotations

import json

import pytest
from strict_backend import OtherRoundingBackend

from nnbp.cli.main import main
from nnbp.device import select
from nnbp.errors import DeviceUnavailableError
from nnbp.graph.ops import Foreign, Gemm
from nnbp.nn.activations import Activation
from nnbp.nn.losses import Loss
from nnbp.optim.optimizers import Optimizer


@pytest.fixture
def second_device(monkeypatch):
    """A "cuda" that only rounds otherwise."""

    def opened(name, *, fallback=True):
        assert not fallback or name == "cpu"
        return OtherRoundingBackend() if name == "cuda" else select.open_backend(name)

    monkeypatch.setattr("nnbp.testing.parity.open_backend", opened)


def test_every_activation_loss_and_optimizer(second_device, capsys):
    assert main(["parity", "--layers", "4,6,3", "--samples", "10", "--steps", "2"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    shown = [set(column) for column in zip(*(line.split()[:4] for line in lines[2:-1]), strict=True)]
    for found, registry in zip(shown, (Activation.registry, Loss.registry, Optimizer.registry), strict=False):
        built_in = {name for name, cls in registry.items() if cls.__module__.startswith("nnbp.")}
        assert found == built_in - {"softmax"}
    assert shown[3] == {"float32", "float64"}
    assert lines[-1] == f"PASSED: {len(lines) - 3} comparisons of cpu with strict:0, 2 updates each"
    assert err == ""


def test_one_network_gets_its_whole_table(second_device, capsys):
    assert (
        main(["parity", "--optimizer", "rprop", "--activation", "gelu", "--loss", "huber", "--dtype", "float64"]) == 0
    )
    out = capsys.readouterr().out
    assert "delta2" in out
    assert "float64, 10 updates by Rprop" in out


def test_products_of_a_lower_precision(second_device, capsys):
    arguments = ["parity", "--layers", "4,6,3", "--samples", "10", "--steps", "2", "--precision", "tf32"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[3] for line in lines[2:-1]} == {"tf32"}
    assert main([*arguments, "--loss", "huber", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert (report["dtype"], report["precision"]) == ("float32", "tf32")


def test_json(second_device, capsys):
    assert main(["parity", "--loss", "poisson", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is True
    assert [report["dtype"] for report in document["reports"]] == ["float64", "float32"]
    assert document["reports"][0]["case"] == {"activation": "tanh", "loss": "poisson", "optimizer": "adam"}


def test_devices_that_disagree_are_exit_code_1(monkeypatch, second_device, capsys):
    right = OtherRoundingBackend.lowered

    def careless(self, operation):
        found = right(self, operation)
        return [*found, Foreign(scale, (operation.out._host,))] if isinstance(operation, Gemm) else found

    def scale(product):
        product *= 1.001

    monkeypatch.setattr(OtherRoundingBackend, "lowered", careless)
    assert main(["parity", "--layers", "4,6,3", "--samples", "10", "--steps", "2", "--dtype", "float32"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert all("FAILED: z1 on strict:0" in line for line in lines[2:-1])
    assert lines[-1].startswith("FAILED: ")


def test_the_cpu_with_itself_if_that_is_asked_for(capsys):
    assert main(["parity", "--devices", "cpu,cpu", "--activation", "tanh"]) == 0
    assert "largest relative error 0\n" in capsys.readouterr().out


def test_a_device_that_is_not_there_is_exit_code_6(monkeypatch, capsys):
    def refuse(name, *, fallback):
        raise DeviceUnavailableError("No GPU works for device='cuda': no driver. To fix it: install one.")

    monkeypatch.setattr("nnbp.testing.parity.open_backend", refuse)
    assert main(["parity"]) == 6
    out, err = capsys.readouterr()
    assert out == ""
    assert "To fix it: install one." in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--devices", "cpu"], "two devices"),
        (["--devices", "cpu,gpu"], "received 'gpu'"),
        (["--dtype", "float16"], "float32, float64"),
        (["--precision", "fp8"], "tf32"),
        (["--precision", "tf32", "--dtype", "float64"], "float64"),
        (["--steps", "0"], "a whole number, at least 1"),
        (["--optimizer", "adamm", "--devices", "cpu,cpu"], "did you mean 'adam"),
    ],
)
def test_wrong_arguments_are_exit_code_2(arguments, words, capsys):
    assert main(["parity", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.gpu
def test_the_gpu_itself(capsys):
    assert main(["parity"]) == 0
    assert "PASSED" in capsys.readouterr().out


# Records.


ONE = ["--activation", "gelu", "--loss", "huber", "--optimizer", "sgd", "--dtype", "float32", "--samples", "9"]


def test_a_record_and_the_judgement_by_it(capsys, tmp_path):
    path = str(tmp_path / "record")
    assert main(["parity", *ONE, "--device", "cpu", "--record", path]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: 1 network on cpu, ")
    assert main(["parity", "--against", path, "--device", "cpu"]) == 0
    assert "PASSED: p on cpu (recorded), q on cpu; float32, 10 updates by SGD" in capsys.readouterr().out
    assert main(["parity", "--against", path, "--device", "cpu", "--isolate", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert report["isolate"] is True
    assert report["devices"] == ["cpu (recorded)", "cpu"]


def test_a_folder_of_records(capsys, tmp_path, monkeypatch):
    folder = str(tmp_path / "records")
    assert main(["parity", "--layers", "3,4,2", "--samples", "5", "--record", folder, "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["networks"] == len(list((tmp_path / "records").iterdir())) > 30
    assert found["bytes"] < 1_000_000
    monkeypatch.setattr("nnbp.Tanh.f", lambda self, z: z / (1 + abs(z)))
    monkeypatch.setattr("nnbp.Tanh.df", lambda self, z, a: (1 - abs(a)) ** 2)
    assert main(["parity", "--against", folder, "--device", "cpu", "--isolate"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("FAILED: ")
    assert all(("FAILED: a1 on cpu (recorded)" in line) == line.startswith("tanh") for line in lines[2:-1])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--record", "FILE/x"], 4, "are files in a folder"),
        (["--against", "ABSENT"], 4, "no such file"),
        (["--against", "FOLDER"], 4, "which has none"),
        (["--against", "FILE"], 4, "Cannot read the model file"),
        (["--against", "FILE", "--devices", "cpu,cuda"], 2, "give --device instead"),
        (["--against", "FILE", "--record", "FILE"], 2, "not allowed with"),
        (["--against", "FILE", "--loss", "huber"], 2, "leave out --loss"),
        (["--record", "FILE", "--isolate"], 2, "--isolate is for judging devices"),
    ],
)
def test_what_goes_wrong_with_records(words, code, message, capsys, tmp_path):
    (tmp_path / "file").write_text("no record")
    places = {"FILE": tmp_path / "file", "FOLDER": tmp_path, "ABSENT": tmp_path / "absent"}
    for name, place in places.items():
        words = [word.replace(name, str(place)) for word in words]
    assert main(["parity", *words]) == code
    assert message in " ".join(capsys.readouterr().err.split())
