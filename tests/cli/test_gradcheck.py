"""`nnbp gradcheck`: every activation with every loss, and exit code 1 where a derivative is wrong."""

from __future__ import annotations

import json

import pytest

import nnbp
from nnbp.cli.main import main
from nnbp.nn.activations import Activation
from nnbp.nn.losses import Loss


def test_every_activation_with_every_loss(capsys):
    assert main(["gradcheck", "--layers", "2,2,2", "--samples", "4"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    built_in = [name for name, cls in Activation.registry.items() if cls.__module__.startswith("nnbp.")]
    losses = [name for name, cls in Loss.registry.items() if cls.__module__.startswith("nnbp.")]
    pairs = {tuple(line.split()[:2]) for line in lines[2:-1]}
    assert pairs == {(f, loss) for f in built_in if f != "softmax" for loss in losses}
    assert lines[-1].startswith(f"PASSED: {len(pairs)} networks; largest relative error ")
    assert err == ""


def test_one_network_gets_its_whole_table(capsys):
    assert main(["gradcheck", "--activation", "relu", "--loss", "quantile", "--layers", "4,8,5,3", "--seed", "2"]) == 0
    out = capsys.readouterr().out
    assert "(5, 8)" in out
    assert "PASSED: " in out


def test_json(capsys):
    assert main(["gradcheck", "--activation", "tanh", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is True
    assert {report["activation"] for report in document["reports"]} == {"tanh"}
    assert all(report["rows"][0]["shape"] == [8, 4] for report in document["reports"])


def test_names_in_any_spelling(capsys):
    assert main(["gradcheck", "--activation", "Swish", "--loss", "MSE", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert report["activation"] == "silu"


def test_a_wrong_derivative_is_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(nnbp.GELU, "df", lambda self, z, a: z)
    assert main(["gradcheck", "--loss", "huber"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:-1] if line.endswith("FAILED")] == ["gelu"]
    assert lines[-1].startswith("FAILED: 1 of ")


def test_the_tolerance_is_the_users(capsys):
    assert main(["gradcheck", "--activation", "tanh", "--tolerance", "1e-16"]) == 1
    assert "allowed 1e-16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layers", "4"], "two layers"),
        (["--layers", "4,0,2"], "two layers"),
        (["--layers", "4,x"], "two layers"),
        (["--layers", "4,1", "--loss", "cross_entropy"], "at least 2 classes"),
        (["--activation", "tahn"], "did you mean 'tanh'"),
        (["--loss", "hubber"], "did you mean 'huber'"),
        (["--samples", "0"], "a whole number, at least 1"),
        (["--weight-decay", "-1"], "weight-decay"),
        (["--activation", "softmax"], "output layer"),
    ],
)
def test_wrong_arguments_are_exit_code_2(arguments, words, capsys):
    assert main(["gradcheck", *arguments]) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert out == ""
