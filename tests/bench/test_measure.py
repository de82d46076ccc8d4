"""Peers in processes of their own, in turn: what is measured of them, and what becomes of one that fails."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from threading import Barrier, BrokenBarrierError
from types import SimpleNamespace

import pytest

from bench.cases import Case
from bench.measure import contests
from bench.measure.process import Worker, WorkerError
from bench.measure.team import Clock, Team
from bench.measure.turns import in_turn
from bench.workers import start
from bench.workers.session import Session

TINY = Case((4, 6, 3), 8, "tanh", "sgd", 4)


def test_everyone_is_measured_in_turn_and_compared_round_by_round():
    calls = []
    times = {"nnbp": [1.0, 2.0, 2.0], "other": [2.0, 30.0, 6.0], "broken": [1.0]}

    def clock(name):
        def measure():
            calls.append(name)
            if not times[name]:
                raise WorkerError("it fell over")
            return times[name].pop(0) / 1e6

        return measure

    found = in_turn({name: clock(name) for name in times}, 3, rest=0.0)
    assert calls == ["nnbp", "other", "broken", "other", "broken", "nnbp", "nnbp", "other"]
    assert found["nnbp"]["ratio"] == 1.0
    assert (found["other"]["microseconds"], found["other"]["minimum"], found["other"]["ratio"]) == (6.0, 2.0, 3.0)
    assert found["broken"] == {"error": "it fell over"}


def test_a_step_is_the_difference_of_two_fits_and_a_disturbed_one_is_measured_again(monkeypatch):
    session, spent = Session(1), iter([2.0, 1.0, 1.5, 2.5, *[1.0] * 6])
    session.peer, session.epochs = SimpleNamespace(case=TINY), 25
    monkeypatch.setattr(session, "_fit", lambda epochs: next(spent))
    assert session.step(0.1) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="--seconds"):
        session.step(0.1)


def test_a_case_has_times_ratios_limit_and_agreement_and_a_peer_that_fails_is_recorded(fake_peer):
    path = fake_peer(at_start="raise RuntimeError('no compiler')")
    with Team(["nnbp", "numpy_loop", "sklearn_mlp", path], 2) as team:
        made = contests.steps(team, TINY, 2, 0.02)
        rows = contests.predictions(team, 1, 0.001)
    assert made["peers"][path] == {"error": "RuntimeError: no compiler"}
    assert made["peers"]["nnbp"]["ratio"] == 1.0
    assert len(made["peers"]["numpy_loop"]["rounds"]) == 2
    assert made["peers"]["numpy_loop"]["agrees"]
    assert "agrees" not in made["peers"].get("sklearn_mlp", {}), "it has an order of its own"
    assert set(made["limit"]) == {"blas", "one", "columns"}
    assert all(times["ratio"] > 0 for times in made["limit"].values())
    assert all(row["peers"]["nnbp"]["microseconds"] > 0 and "error" in row["peers"][path] for row in rows)


@pytest.mark.parametrize(
    ("loss", "precision", "agrees"),
    [(1.01, "fp32", False), (1.01, "tf32", True), (1.09, "bf16", True), (1.2, "bf16", False), ("nan", "bf16", False)],
)
def test_losses_agree_within_the_tolerance_of_a_precision(loss, precision, agrees):
    found = {"nnbp": {"loss": 1.0}, "other": {"loss": float(loss)}}
    contests.compare_losses(replace(TINY, precision=precision), found, ["nnbp", "other"])
    assert found["other"]["agrees"] is agrees


def test_without_a_gpu_the_others_are_measured_and_what_failed_has_its_reason(fake_peer):
    path = fake_peer()
    with Team([path, "numpy_loop"], 1, device="cuda:0", clock=Clock(60.0)) as team:
        assert "not on cuda" in team.facts["numpy_loop"]["missing"]
        made = contests.steps(team, replace(TINY, device="cuda:0"), 2, 0.02)
    assert list(made["peers"]) == [path]
    assert made["peers"][path]["microseconds"] > 0
    assert all(way["error"] for way in made["limit"].values())


def test_a_worker_that_dies_or_takes_too_long_says_why(fake_peer):
    path = fake_peer(at_start="import os, sys; print('last words', file=sys.stderr, flush=True); os._exit(7)")
    with Worker(path, threads=1) as worker, pytest.raises(WorkerError, match=r"code 7 .* last words"):
        worker.ask("prepare", case=TINY.dump(), epochs=1)
    path = fake_peer(seconds=60)
    with Worker(path, threads=1, limit=lambda: 3.0) as worker, pytest.raises(WorkerError, match="3 s to prepare"):
        worker.ask("prepare", case=TINY.dump(), epochs=1)


@pytest.mark.skipif(os.name == "nt", reason="process groups of POSIX")
def test_a_worker_ends_with_all_that_it_started(fake_peer, tmp_path):
    path = tmp_path / "pid"
    start = f"import subprocess; open({str(path)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))"
    with Worker(fake_peer(at_start=start), threads=1) as worker:
        worker.ask("prepare", case=TINY.dump(), epochs=1)
    # What was killed may take a moment to be gone.
    with suppress(ProcessLookupError):
        for _ in range(100):
            os.kill(int(path.read_text()), 0)
            time.sleep(0.05)
        pytest.fail("a process that the peer has started runs on")


def test_a_peer_that_cannot_run_is_missing_with_what_mends_it(fake_peer, tmp_path):
    path = fake_peer(module="no_such_module_here")
    with Team(["nnbp", "numpy_loop", path], 1, {"numpy_loop": str(tmp_path / "python")}) as team:
        assert team.present == ["nnbp"]
        said = "no_such_module_here is not installed: python -m pip install fake-distribution"
        assert team.facts[path]["missing"] == said
        assert "--python PEER=PATH" in team.facts["numpy_loop"]["missing"]


def test_peers_are_asked_at_the_same_time_but_on_a_cpu():
    for device in ("cpu", "cuda:0"):
        barrier = Barrier(2)

        def met(peer, barrier=barrier, device=device):
            try:
                barrier.wait(timeout=0.2 if device == "cpu" else 10)
            except BrokenBarrierError:
                return False
            return True

        with Team([], 1, device=device) as team:
            assert set(team.each(["a", "b"], met).values()) == {device != "cpu"}


def test_the_clock_starts_no_case_that_it_has_no_time_for():
    now = [0.0]
    clock = Clock(100.0, lambda: now[0])

    def work(seconds):
        now[0] += seconds

    assert clock.enough()
    clock.timed(lambda: work(8.0))
    assert clock.left == 92.0
    # A case like the first takes 10 seconds at most, and 10 are kept for what follows.
    now[0] = 80.0
    assert clock.enough()
    now[0] = 80.1
    assert not clock.enough()
    now[0] = 8.0
    clock.timed(lambda: work(40.0))
    assert not clock.enough(), "a case may take as long as the longest of the last three"
    assert not Clock(10.0).enough(), "before the first it is not known how long one takes"
    assert Clock().enough()


def test_what_runs_elsewhere_imports_nothing_of_nnbp():
    code = (
        f"import runpy, sys, io; sys.stdin = io.StringIO(''); sys.argv = [r'{start.__file__}', '1', 'numpy_loop']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "found = [name for name in sys.modules if name.startswith('nnbp')]\n"
        "print(found, 'bench.workers.session' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[] True"
