"""`python -m bench` as people type it."""

import json

import pytest

from bench import report, runner
from bench.__main__ import main

SHORT = ["--quick", "--cases", "4-16-3@32 tanh", "--peers", "numpy_loop", "--rounds", "1", "--seconds", "0.02"]


def test_a_run_writes_its_folder_and_the_readme_and_prints_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text(f"a\n{report.BEGIN}\n{report.END}\nb\n", encoding="utf-8")
    assert main([*SHORT, "--readme", "README.md", "--out", "made"]) == 0
    out, err = capsys.readouterr()
    folder = tmp_path / "made"
    assert out.strip() == (folder / "table.md").read_text(encoding="utf-8").strip()
    assert "training steps of 4-16-3@32 tanh sgd" in err
    assert err.endswith("bench: written to made\n")
    assert "| 4-16-3 @ 32, tanh, sgd" in readme.read_text(encoding="utf-8")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert list(results["peers"]) == ["nnbp", "numpy_loop"]
    (case,) = results["cases"]
    assert case["peers"]["numpy_loop"]["agrees"]
    assert case["peers"]["nnbp"]["microseconds"] > 0
    assert results["environment"]["threads"] == results["options"]["threads"]
    assert len(results["inference"]) == 6
    assert [fit["peers"]["nnbp"]["seconds"] > 0 for fit in results["memory"]] == [True, True]
    assert {"numpy", "nnbp"} <= set(results["imports"])
    assert "error" not in results["profiles"][0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cases", "nothing"], "4-16-3@32 tanh sgd"),
        (["--peers", "nobody"], "numpy_loop"),
        (["--python", "jax_jit"], "PEER=PATH"),
        (["--python", "nobody=python"], "PEER=PATH"),
        (["--rounds", "0"], "a whole number, at least 1"),
    ],
)
def test_wrong_words_are_usage_errors(capsys, words, said):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


def test_a_readme_without_markers_is_told_before_anything_runs(tmp_path, capsys):
    path = tmp_path / "README.md"
    path.write_text("nothing", encoding="utf-8")
    assert main([*SHORT, "--readme", str(path)]) == 2
    assert report.BEGIN in capsys.readouterr().err


def test_no_run_overwrites_another(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    first = runner.folder_for(None, "cuda")
    first.mkdir()
    second = runner.folder_for(None, "cuda")
    assert (first.parent, second.name) == (tmp_path, f"{first.name}-2")
    (tmp_path / "results.json").write_text("{}", encoding="utf-8")
    assert main([*SHORT, "--out", str(tmp_path)]) == 6
    assert "Name a new one: --out" in capsys.readouterr().err
