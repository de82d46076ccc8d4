"""Peers in processes of their own: they compute the same, and what fails or is missing is named."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from interruptible import interruptible

from bench import imports, inference, peers, steps
from bench.cases import Case
from bench.process import Worker, WorkerError
from bench.team import Team

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and process groups of POSIX")
TINY = Case((4, 6, 3), 8, "tanh", "sgd", 4)

FAKE = """
import time
import numpy as np
from bench.peer import Peer

class Fake(Peer):
    label = "Fake"
    modules = ({module!r},)
    distributions = ("fake-distribution",)
    def __init__(self, problem, threads):
        super().__init__(problem, threads)
        {at_start}
    def reset(self):
        print("a library that talks")
    def fit(self, epochs):
        time.sleep(0.002 * epochs)
    def loss(self):
        return {loss}
    def predict(self, X):
        return np.zeros(len(X), int)
"""


def fake(folder, *, module="numpy", at_start="pass", loss="1.0"):
    path = folder / "fake.py"
    path.write_text(FAKE.format(module=module, at_start=at_start, loss=loss), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", peers.names())
@pytest.mark.parametrize(
    "case",
    [TINY, Case((5, 8, 7, 3), 16, "relu", "adam", 3)],
    ids=lambda case: case.title,
)
def test_every_installed_peer_agrees_with_the_loop(name, case):
    with Worker("numpy_loop", threads=1) as loop, Worker(name, threads=1) as worker:
        facts = worker.ask("describe")
        if facts["missing"] is not None:
            pytest.skip(facts["missing"])
        if name == "torch_compile" and case is not TINY:
            pytest.skip("compiling takes long, and one case shows it")
        losses = []
        for each in (loop, worker):
            each.ask("prepare", case=case.dump(), seed=0)
            losses.append(each.ask("check", epochs=3)["loss"])
        if facts["own_order"]:
            assert 0 < losses[1] < 5
        else:
            assert losses[1] == pytest.approx(losses[0], rel=1e-5)
        assert worker.ask("infer", batch=2, seconds=0.001)["seconds"] > 0


def test_the_time_of_a_step_comes_through_a_real_process(tmp_path):
    with Worker(fake(tmp_path), threads=1) as worker:
        assert worker.ask("describe")["label"] == "Fake"
        worker.ask("prepare", case=TINY.dump(), seed=0)
        assert worker.ask("calibrate", seconds=0.05)["epochs"] >= 1
        times = worker.ask("measure", epochs=10)
        assert times["long"] - times["short"] >= 0.019
        fit = worker.ask("memory", case=TINY.dump(), epochs=1, data=None)
        assert fit["seconds"] >= 0.002
        assert fit["samples"] == 32
        if sys.platform == "linux":
            assert 0 <= fit["bytes"] < fit["bound"]


def test_a_missing_peer_is_named_with_what_mends_it(tmp_path):
    with Team(["nnbp", fake(tmp_path, module="no_such_module_here")], 1, {}) as team:
        facts = team.describe()
        assert team.present == ["nnbp"]
        said = facts[team.peers[1]]["missing"]
    assert said == "no_such_module_here is not installed: python -m pip install fake-distribution"


def test_an_interpreter_that_is_not_there_makes_its_peer_missing(tmp_path):
    with Team(["nnbp", "numpy_loop"], 1, {"numpy_loop": str(tmp_path / "python")}) as team:
        assert "--python PEER=PATH" in team.describe()["numpy_loop"]["missing"]


@pytest.mark.parametrize(
    ("at_start", "said"),
    [
        ("raise RuntimeError('no compiler')", "RuntimeError: no compiler"),
        ("import os, sys; print('last words', file=sys.stderr, flush=True); os._exit(7)", "code 7 .* last words"),
    ],
)
def test_a_peer_that_fails_is_recorded_and_the_rest_goes_on(tmp_path, at_start, said):
    path = fake(tmp_path, at_start=at_start)
    with Team(["nnbp", path], 1, {}) as team:
        team.describe()
        made = steps.measure(team, TINY, 2, 0.02)
        rows = inference.measure(team, 1, 0.001)
        with pytest.raises(WorkerError, match=said):
            team.ask(path, "prepare", case=TINY.dump(), seed=0)
    assert "error" in made["peers"][path]
    assert len(made["peers"]["nnbp"]["rounds"]) == 2
    assert made["peers"]["nnbp"]["ratio"] == 1.0
    assert made["limit"]["share"] > 0
    assert all(row["peers"]["nnbp"]["microseconds"] > 0 and "error" in row["peers"][path] for row in rows)


def test_another_loss_is_no_agreement(tmp_path):
    path = fake(tmp_path, loss="7.0")
    with Team(["nnbp", path], 1, {}) as team:
        team.describe()
        made = steps.measure(team, TINY, 1, 0.02)
    assert made["peers"][path]["agrees"] is False
    assert made["peers"]["nnbp"]["agrees"] is True


@POSIX
def test_a_worker_ends_with_all_that_it_started(tmp_path):
    start = "import subprocess; self.child = subprocess.Popen(['sleep', '60'])"
    with Worker(fake(tmp_path, at_start=start), threads=1) as worker:
        worker.ask("prepare", case=TINY.dump(), seed=0)
        pid = worker._process.pid
    # What was killed may take a moment to be gone.
    for _ in range(100):
        if not group_lives(pid):
            break
        time.sleep(0.05)
    assert not group_lives(pid)


def group_lives(pid):
    """Whether a process group has members left."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_peer_is_a_name_or_a_file_with_one_class(tmp_path):
    assert peers.names()[0] == "nnbp"
    with pytest.raises(ValueError, match="numpy_loop"):
        peers.load("nobody")
    empty = tmp_path / "empty.py"
    empty.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="has 0"):
        peers.load(str(empty))


def test_what_runs_elsewhere_imports_nothing_of_nnbp():
    start = Path(peers.__file__).parent.parent / "start.py"
    code = (
        f"import runpy, sys, io; sys.stdin = io.StringIO(''); sys.argv = [r'{start}', '1', 'numpy_loop']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "found = [name for name in sys.modules if name.startswith('nnbp')]\n"
        "print(found, 'bench.worker' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[] True"


def test_imports_are_timed_in_fresh_interpreters():
    spent = imports.measure({"json": sys.executable, "csv": sys.executable}, 2)
    assert all(len(values["runs"]) == 2 and values["seconds"] > 0 for values in spent.values())
    with pytest.raises(WorkerError, match="no_such_module_here"):
        imports.measure({"no_such_module_here": sys.executable}, 1)


@POSIX
def test_ctrl_c_ends_the_workers_and_leaves_nothing(tmp_path):
    words = ["--cases", "4-16-3@32 tanh", "--peers", "numpy_loop", "--seconds", "5", "--out", tmp_path / "made"]
    with subprocess.Popen(
        interruptible([sys.executable, "-m", "bench", *words]), cwd=Path(peers.__file__).parents[2],
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
