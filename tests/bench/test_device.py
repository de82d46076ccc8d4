"""The benchmark of a GPU: its cases, its clock, its pages and a whole run of it, on fakes and on the CPU."""

import json
import time
from dataclasses import replace
from threading import Barrier, BrokenBarrierError

import numpy as np
import pytest
from fake_cupy import FakeCupy

from bench import (
    cases,
    crossover,
    device_cases,
    device_limits,
    device_plot,
    device_report,
    device_run,
    kernels,
    plot,
    report,
    steps,
)
from bench.__main__ import main
from bench.cases import Case, Problem
from bench.process import Worker, WorkerError
from bench.runner import Options
from bench.team import Team
from nnbp.device.probe import refresh

TINY = Case((4, 6, 3), 8, "relu", "adam", 4, shuffle=False)


@pytest.fixture(autouse=True)
def _forgets_fakes():
    """What a fake CuPy has shown is not what other tests shall see."""
    yield
    refresh()


FAKE = """
import time
import numpy as np
from bench.peer import Peer

class Fake(Peer):
    label = "Fake"
    modules = ("numpy",)
    distributions = ("numpy",)
    devices = ("cpu", "cuda")
    def reset(self):
        pass
    def fit(self, epochs):
        time.sleep({seconds} * epochs)
    def loss(self):
        return {loss}
    def predict(self, X):
        return np.zeros(len(X), int)
"""


def fake(folder, *, seconds=0.002, loss="1.0"):
    path = folder / "fake.py"
    path.write_text(FAKE.format(seconds=seconds, loss=loss), encoding="utf-8")
    return str(path)


def measured(case, nnbp, share, **others):
    """A case in which nnbp takes so long, others so many times as long, and the products such a share."""
    found = {"nnbp": {"loss": 0.5, "rounds": [nnbp] * 3}}
    found |= {name: {"loss": 0.5, "rounds": [nnbp * times] * 3} for name, times in others.items()}
    return steps.summary(case, found, {"torch": [nnbp * share] * 3}, set())


def results():
    """Results of a run on a GPU, in the order in which cases are measured."""
    wide = Case((4096, 4096, 10), 8192, "relu", "adam", 8, device="cuda:0")
    small = Case((4, 16, 3), 32, "tanh", "sgd", 64, device="cuda:0")
    peers = {name: {"label": name.title(), "missing": None, "versions": {name: "1"}} for name in ("nnbp", "eager")}
    facts = {"cpu": "A processor", "cores": 16, "platform": "Linux", "python": "3.12", "gpu": "A card, 80.0 GiB"}
    kernel = {"count": 7.0, "microseconds": 8.0, "names": [["sgemm", 3.0, 6.0], ["tanh", 4.0, 2.0]]}
    return {
        "started": "2020-01-02 03:04:05+0000",
        "finished": "2020-01-02 03:09:05+0000",
        "options": {"rounds": 3, "threads": 16, "check_epochs": 1, "device": "cuda:0", "budget": 450.0},
        "environment": facts | {"blas": {"name": "blas", "version": "3"}, "load_before": None, "load_after": None},
        "peers": peers,
        "cases": [
            measured(replace(wide, precision="bf16"), 100.0, 0.8, eager=1.5),
            measured(wide, 1000.0, 0.9, eager=2.0),
            measured(small, 10.0, 0.1, eager=0.5),
        ],
        "crossover": [
            crossover.cell(Case((w, w, w, 10), m, "relu", "adam", 8), [a], [b])
            for w, m, a, b in [(16, 32, 10, 20), (64, 32, 30, 20), (16, 512, 50, 20), (64, 512, 400, 20)]
        ]
        + [{"width": 256, "batch": 32, "error": "it fell over"}],
        "details": [
            {"title": small.title, "recorded": {"operations": 7}, "kernels": {"nnbp": kernel}, "shuffled": 12.0},
            {"title": wide.title, "kernels": {"nnbp": {"error": "no CUPTI"}}},
        ],
        "skipped": ["4-16-3@32 relu adam"],
    }


def test_the_cases_are_the_cpus_and_two_larger_ones_the_most_important_first():
    found = device_cases.gpu_cases("cuda:1")
    titles = [case.title for case in found]
    assert len(set(titles)) == len(found) == 34
    assert {case.title for case in cases.CASES} <= set(titles)
    assert set(titles[: len(device_cases.FIRST)]) == set(device_cases.FIRST)
    kinds = [case.optimizer for case in found]
    assert kinds == sorted(kinds), "Adam comes before SGD"
    large = {case.network for case in found if case.precision == "bf16"}
    assert large == {case.network for case in found if case.precision == "tf32"}
    assert "4096-4096-4096-10@8192" in large
    assert "4-16-3@32" not in large
    assert {case.device for case in found} == {"cuda:1"}
    assert all(case.samples % case.distinct == 0 and case.distinct % case.batch == 0 for case in found)
    assert all(Case.load(json.loads(json.dumps(case.dump()))) == case for case in found)
    assert cases.chosen("64-64-10@64 relu, bf16", found)[-1].precision == "bf16"
    grid = device_cases.crossover("cuda:0")
    assert [case.network for case in grid] == [case.network for case in device_cases.crossover("cpu")]
    assert {case.device for case in grid} == {"cuda:0"}


def test_rows_that_repeat_are_whole_batches_of_the_drawn_ones():
    problem = Problem.random(replace(TINY, distinct=16))
    assert problem.X.shape == (32, 4)
    assert np.array_equal(problem.X[:16], problem.X[16:])
    assert np.array_equal(problem.y[:16], problem.y[16:])
    assert not np.array_equal(problem.X[:8], problem.X[8:16])


def test_peers_are_asked_at_the_same_time_but_on_a_cpu():
    def met(barrier):
        def ask(peer):
            try:
                barrier.wait(timeout=0.2 if device == "cpu" else 10)
            except BrokenBarrierError:
                return False
            return True

        return ask

    for device in ("cpu", "cuda:0"):
        with Team(["a", "b"], 1, {}, device=device) as team:
            assert set(team.each(["a", "b"], met(Barrier(2))).values()) == {device != "cpu"}


def test_a_worker_that_takes_too_long_is_ended_and_says_so(tmp_path):
    with Worker(fake(tmp_path, seconds=60), threads=1, patience=3.0) as worker:
        worker.ask("prepare", case=TINY.dump(), seed=0)
        with pytest.raises(WorkerError, match="3 s to check"):
            worker.ask("check", epochs=1)
    with Worker(fake(tmp_path), threads=1, deadline=time.monotonic() - 1) as late, pytest.raises(WorkerError):
        late.ask("describe")


def test_the_clock_starts_no_case_that_it_has_no_time_for():
    now = [0.0]
    clock = device_run.Clock(100.0, lambda: now[0])

    def work(seconds):
        now[0] += seconds
        return {}

    assert clock.enough()
    clock.timed(lambda: work(8.0))
    assert clock.left == 92.0
    # A case like the first takes 10 seconds at most, and 10 are kept for the details.
    now[0] = 80.0
    assert clock.enough()
    now[0] = 80.1
    assert not clock.enough()
    now[0] = 8.0
    clock.timed(lambda: work(40.0))
    assert not clock.enough(), "a case may take as long as the longest of the last three"
    assert not device_run.Clock(10.0).enough(), "before the first it is not known how long one takes"


def test_a_run_writes_after_each_case_and_names_what_it_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(device_cases, "CROSSOVER_WIDTHS", (4, 8))
    monkeypatch.setattr(device_cases, "CROSSOVER_BATCHES", (8,))
    folder, said, seen = tmp_path / "made", [], []

    def tell(text):
        said.append(text)
        if (folder / "results.json").exists():
            kept = json.loads((folder / "results.json").read_text(encoding="utf-8"))
            seen.append(len(kept["cases"]))
            assert kept["finished"] is None
            assert "has not come to its end" in (folder / "table.md").read_text(encoding="utf-8")

    both = [TINY, replace(TINY, activation="tanh", optimizer="sgd")]
    loop = fake(tmp_path, loss="float('nan')")
    options = Options(both, ["nnbp", loop], rounds=2, seconds=0.08, threads=1, budget=300.0)
    made = device_run.run(options, folder, tell)
    kept = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert {0, 1, 2} <= set(seen)
    assert [case["title"] for case in kept["cases"]] == [case.title for case in both]
    assert kept["cases"][0]["peers"][loop]["loss"] is None
    assert kept["cases"][0]["peers"][loop]["agrees"] is False
    assert len(made["crossover"]) == 2
    assert all(cell["speedup"] > 0 for cell in made["crossover"])
    assert all(each["recorded"]["operations"] > 5 and each["shuffled"] > 0 for each in made["details"])
    assert kept["finished"] is not None
    assert not list(folder.glob("*.part"))
    short = device_run.run(replace(options, budget=12.0), tmp_path / "short", said.append)
    assert short["cases"] == []
    assert short["skipped"] == [case.title for case in both]
    assert "No time was left for 4-6-3@8" in (tmp_path / "short" / "table.md").read_text(encoding="utf-8")


def test_without_a_gpu_the_others_are_measured_and_what_failed_has_its_reason(tmp_path):
    case = replace(TINY, device="cuda:0")
    loop = fake(tmp_path)
    with Team([loop], 1, {}, device="cuda:0", patience=60.0) as team:
        assert team.describe()[loop]["missing"] is None
        made = steps.measure(team, case, 2, 0.02)
        own = Team(["numpy_loop"], 1, {}, device="cuda:0")
        with own:
            assert "not on cuda" in own.describe()["numpy_loop"]["missing"]
    assert len(made["peers"][loop]["rounds"]) == 2
    assert made["limit"]["error"]


def test_the_page_has_goals_crossover_kernels_and_what_was_left_out():
    page = device_report.report(results(), speed=True, crossover=True)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    assert ["fp32", "1 of 2", "0.50", "1.00", "90%"] in rows
    assert ["bf16", "1 of 1", "1.50", "1.50", "80% (missed)"] in rows
    assert ["batch 32", "10.0 / 20.0 = 0.50", "30.0 / 20.0 = 1.50", "failed"] in rows
    assert "The GPU wins at batch 32: 64 and wider, batch 512: 16 and wider." in page
    assert "Failed: 256, batch 32: it fell over" in page
    assert ["4-16-3@32 tanh sgd", "Nnbp", "7.0", "8.0", "10.0", "80%"] in rows
    assert "Not profiled: Nnbp in 4096-4096-10@8192 relu adam: no CUPTI" in page
    assert ["4-16-3@32 tanh sgd", "7", "10.0", "12.0"] in rows
    assert "No time was left for 4-16-3@32 relu adam." in page
    assert "A card, 80.0 GiB; A processor, 16 threads" in page
    for block in page.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1
    assert [case["case"]["precision"] for case in device_report.arranged(results())["cases"]] == ["fp32"] * 2 + ["bf16"]
    assert "has not come to its end" in device_report.report(results() | {"finished": None}, False, False)


def test_thresholds_are_widths_from_which_on_the_gpu_always_wins():
    def cells(*speedups):
        return [{"width": 2**k, "batch": 8, "speedup": speedup} for k, speedup in enumerate(speedups)]

    assert crossover.thresholds(cells(0.5, 2.0, 0.9, 1.5, 3.0)) == {8: 8}
    assert crossover.thresholds(cells(2.0, 0.5)) == {8: None}
    assert crossover.thresholds(cells(1.0)) == {8: 1}


def test_the_pictures_of_a_run_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    assert {path.name for path in device_plot.draw(results(), tmp_path)} == {"crossover.svg", "crossover.png"}
    assert "batch 512" in (tmp_path / "crossover.svg").read_text(encoding="utf-8")
    plot.draw(device_report.arranged(results()), tmp_path)
    text = (tmp_path / "speed.svg").read_text(encoding="utf-8")
    assert "ReLU, Adam, bf16" in text
    assert "A card" in text


def test_kernels_of_a_step_are_those_that_the_longer_fit_has_more():
    short = {"sgemm": (10, 100.0), "once": (1, 50.0)}
    long = {"sgemm": (40, 400.0), "once": (1, 50.0), "tanh": (20, 10.0)}
    found = kernels.per_step(short, long, 10)
    assert found == {"count": 5.0, "microseconds": 31.0, "names": [["sgemm", 3.0, 30.0], ["tanh", 2.0, 1.0]]}


def test_lower_precision_has_wider_bounds():
    for precision, agrees in [("fp32", False), ("tf32", True), ("bf16", True)]:
        case = Case((3, 5, 2), 8, "tanh", "sgd", 4, precision=precision)
        found = {"nnbp": {"loss": 1.0, "rounds": [1.0]}, "other": {"loss": 1.01, "rounds": [1.0]}}
        assert steps.summary(case, found, {}, set())["peers"]["other"]["agrees"] is agrees


def test_products_are_asked_for_many_times_before_the_device_is_waited_for():
    asked, pending = [0], [0]

    def run():
        asked[0] += 1
        pending[0] += 1

    def wait():
        time.sleep(1e-4 * pending[0])
        pending[0] = 0

    assert device_limits.seconds_waited(run, wait, 0.1) == pytest.approx(1e-4, rel=0.5)
    assert pending == [0]


def test_the_products_alone_run_at_each_precision():
    pytest.importorskip("torch")
    for precision in cases.PRECISIONS:
        run, wait = device_limits._torch(replace(TINY, precision=precision))
        run()
        wait()


def test_without_a_gpu_the_command_says_what_would_mend_it(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    FakeCupy(installed=False, wheels={}, driver=13000).install(monkeypatch)
    assert main(["--device", "cuda"]) == 6
    out, err = capsys.readouterr()
    assert out == ""
    assert "CuPy is not installed" in err
    assert 'python -m pip install "cupy-cuda13x[ctk]>=14"' in err
    assert list(tmp_path.iterdir()) == []


def test_the_command_hands_cases_budget_and_cores_to_the_run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    FakeCupy().install(monkeypatch)
    given = []

    def run(options, folder, tell):
        given.append(options)
        device_run.keep(folder, results())
        return results()

    monkeypatch.setattr(device_run, "run", run)
    (tmp_path / "made").mkdir()
    assert main(["--device", "cuda", "--out", "made", "--budget", "99"]) == 0
    (options,) = given
    assert (options.device, options.budget, len(options.cases)) == ("cuda:0", 99.0, 34)
    assert options.peers == ["nnbp", "jax_jit", "torch_compile", "torch_eager", "torch_graph"]
    assert capsys.readouterr().out.startswith("# Speed of nnbp beside other libraries, on a GPU")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--budget", "100"], "--budget is for a run on a GPU"),
        (["--device", "auto"], "cpu, cuda or cuda:N"),
        (["--device", "mars"], "mars"),
        (["--device", "cuda", "--peers", "numpy_loop"], "torch_graph"),
        (["--peers", "torch_graph"], "A peer on cpu"),
        (["--device", "cuda", "--cases", "nothing"], "bf16"),
    ],
)
def test_words_that_do_not_go_together_are_usage_errors(capsys, words, said):
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_each_device_has_its_own_place_in_the_readme(tmp_path):
    path = tmp_path / "README.md"
    begin, end = report.markers("cuda:0")
    path.write_text(f"{report.BEGIN}\n{report.END}\n{begin}\n{end}\n", encoding="utf-8")
    report.into_readme(path, results())
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"{report.BEGIN}\n{report.END}\n{begin}\n| network @ batch")
    assert "A card" in text
