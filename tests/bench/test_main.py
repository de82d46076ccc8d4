"""`python -m bench` as people type it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fake_cupy import FakeCupy
from interruptible import interruptible

import bench.__main__ as command
from bench.report import page
from nnbp.device.probe import refresh

SHORT = ["--quick", "--cases", "4-16-3@32 tanh", "--peers", "numpy_loop", "--rounds", "1", "--seconds", "0.02"]


@pytest.fixture(autouse=True)
def _forgets_fakes():
    """What a fake CuPy has shown is not what other tests are to see."""
    yield
    refresh()


def test_a_run_writes_its_folder_and_the_readme_and_prints_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text(f"a\n{page.BEGIN}\n{page.END}\nb\n", encoding="utf-8")
    assert command.main([*SHORT, "--readme", "README.md", "--out", "made"]) == 0
    out, err = capsys.readouterr()
    folder = tmp_path / "made"
    assert out.strip() == (folder / "table.md").read_text(encoding="utf-8").strip()
    assert "training steps of 4-16-3@32 tanh sgd" in err
    assert err.endswith("bench: written to made\n")
    assert "| 4-16-3@32 tanh sgd | cpu " in readme.read_text(encoding="utf-8")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert list(results["peers"]["cpu"]) == ["nnbp", "numpy_loop"]
    (case,) = results["cases"]
    assert case["peers"]["numpy_loop"]["agrees"]
    assert case["peers"]["nnbp"]["microseconds"] > 0
    assert len(results["predictions"]) == 6
    assert [fit["peers"]["nnbp"]["seconds"] > 0 for fit in results["fits"]] == [True, True]
    assert {"numpy", "nnbp"} <= set(results["imports"])
    assert "error" not in results["parts"][0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cases", "nothing"], "4-16-3@32 tanh sgd"),
        (["--peers", "nobody"], "numpy_loop"),
        (["--python", "jax_jit"], "PEER=PATH"),
        (["--python", "nobody=python"], "PEER=PATH"),
        (["--rounds", "0"], "a whole number, at least 1"),
        (["--budget", "100"], "--budget is for a run on a GPU"),
        (["--device", "auto"], "cpu, cuda or cuda:N"),
        (["--device", "cuda,cuda:1"], "cpu,cuda"),
        (["--device", "mars"], "mars"),
        (["--device", "cuda", "--cases", "nothing"], "bf16"),
        (["--readme", __file__], "does not have both"),
    ],
)
def test_wrong_words_are_usage_errors(capsys, words, said):
    assert command.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


def test_no_run_overwrites_another(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    first = command.folder_for(None, "cuda")
    first.mkdir()
    second = command.folder_for(None, "cuda")
    assert (first.parent, second.name) == (tmp_path, f"{first.name}-2")
    assert command.main([*SHORT, "--out", str(tmp_path)]) == 6
    assert "Name a new one: --out" in capsys.readouterr().err


def test_without_a_gpu_the_command_says_what_would_mend_it(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    FakeCupy(installed=False, wheels={}, driver=13000).install(monkeypatch)
    assert command.main(["--device", "cuda"]) == 6
    out, err = capsys.readouterr()
    assert out == ""
    assert "CuPy is not installed" in err
    assert 'python -m pip install "cupy-cuda13x[ctk]>=14"' in err
    assert list(tmp_path.iterdir()) == []


def test_the_command_hands_each_device_its_cases_budget_and_cores(monkeypatch, tmp_path):
    FakeCupy().install(monkeypatch)
    given = []

    def run(plans, keep, tell):
        given.extend(plans)
        raise OSError("enough")

    monkeypatch.setattr(command, "run", run)
    words = ["--device", "cpu,cuda", "--out", str(tmp_path), "--budget", "99", "--rounds", "2", "--peers", "jax_scan"]
    assert command.main(words) == 6
    cpu, gpu = given
    assert (cpu.device, cpu.budget, len(cpu.cases), cpu.rounds, cpu.seconds) == ("cpu", float("inf"), 14, 2, 0.5)
    assert (gpu.device, gpu.budget, len(gpu.cases), gpu.rounds, gpu.seconds) == ("cuda:0", 99.0, 34, 2, 0.15)
    assert gpu.peers == ["nnbp", "jax_scan"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_ends_the_workers_and_leaves_nothing_half_done(tmp_path):
    words = ["--cases", "4-16-3@32 tanh", "--peers", "numpy_loop", "--seconds", "5", "--out", tmp_path / "made"]
    with subprocess.Popen(
        interruptible([sys.executable, "-m", "bench", *words]), cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        try:
            assert run.stderr is not None
            while "training steps" not in (line := run.stderr.readline()):
                assert line, "the run ended before it began"
            run.send_signal(signal.SIGINT)
            out, err = run.communicate(timeout=30)
        finally:
            run.kill()
    assert run.returncode == 130
    assert "ended by Ctrl-C" in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []
