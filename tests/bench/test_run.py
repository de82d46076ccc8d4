"""A run on a CPU and a GPU, on a double of the workers; its page, its picture and the table of the README."""

import json
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest

from bench import cases
from bench.cases import Case
from bench.measure import run as runs
from bench.measure.run import Options
from bench.report import facts, page, picture

KERNELS = {"count": 7.0, "microseconds": 8.0, "names": [["sgemm", 3.0, 6.0], ["tanh", 4.0, 2.0]]}
ANSWERS = {
    "step": 1.1e-4, "limit": 5.5e-5, "kernels": KERNELS,
    "infer": 2e-5, "parts": {"kinds": {"products": 3e-6, "update": 1e-6}, "operations": 25},
    "memory": {"seconds": 1.0, "bytes": 3_000_000, "bound": 61_000_000},
}  # fmt: skip


class FakeTeam:
    """Workers that answer at once: nnbp's step takes 110 µs, that of another peer twice as long."""

    def __init__(self, peers, threads, pythons, *, device, clock):
        self.threads = threads
        missing = dict.fromkeys(peers) | {"gone": "gone is not installed: python -m pip install gone"}
        self.facts = {
            name: {"label": name.title(), "missing": why, "versions": {name: "1"}, "own_order": False}
            for name, why in missing.items()
        }
        self.present = list(peers)

    def ask(self, peer, do, **what):
        if do == "prepare":
            return 0.5 if peer != "numpy_loop" else float("nan")
        if do == "step" and peer != "nnbp":
            return 2.2e-4
        return ANSWERS[do]

    def each(self, peers, ask):
        return {peer: ask(peer) for peer in peers}

    @contextmanager
    def alone(self, peer):
        yield SimpleNamespace(ask=partial(self.ask, peer))

    def python(self, peer):
        return "python"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.fixture
def done(monkeypatch):
    """The results of a run, and those that were kept on the way."""
    monkeypatch.setattr(runs, "Team", FakeTeam)
    monkeypatch.setattr("bench.measure.turns.time.sleep", lambda seconds: None)
    monkeypatch.setattr("bench.measure.contests._import", lambda *arguments: 0.1)
    monkeypatch.setattr(cases, "_GRID_WIDTHS", (4, 8))
    monkeypatch.setattr(cases, "_GRID_BATCHES", (8,))
    small, kept, said = (Case((3, 5, 2), 8, "tanh", "sgd", 4), [], [])
    on_gpu = [Case((3, 5, 2), 8, "relu", "adam", 4, p, "cuda:0", shuffle=False) for p in cases.PRECISIONS]
    plans = [
        Options("cpu", [small], ["nnbp", "numpy_loop"], 3, 0.1, 2, float("inf"), 2),
        Options("cuda:0", on_gpu, ["nnbp", "torch_graph"], 3, 0.1, 16, 450.0, 2),
    ]
    results = runs.run(plans, lambda found: kept.append(json.loads(json.dumps(found))), said.append)
    return SimpleNamespace(results=results, kept=kept, said=said, plans=plans)


def rows_of(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_a_run_keeps_what_it_has_after_each_case_and_ends_with_all_sections(done):
    assert [len(found["cases"]) for found in done.kept][:1] == [1]
    assert done.kept[0]["finished"] is None
    assert "has not come to its end" in page.page(done.kept[0])
    text = page.page(done.results, ["speed.svg"])
    assert "has not come to its end" not in text
    assert "![Speed](speed.svg)" in text
    assert "- not measured: Gone on cpu: gone is not installed: python -m pip install gone" in text
    rows = rows_of(text)
    for row in [
        ["3-5-2@8 tanh sgd", "cpu", "110", "2.00", "–", "2.00", "50%"],
        ["3-5-2@8 relu adam bf16", "cuda:0", "110", "–", "2.00", "2.00", "50%"],
        ["geometric mean", "cpu", "", "2.00", "–", "2.00", ""],
        ["geometric mean bf16", "cuda:0", "", "–", "2.00", "2.00", ""],
        ["3-5-2@8 tanh sgd", "cpu", "110", "220", "–", "55.0 (blas)"],
        ["3-5-2@8 tanh sgd", "cpu", "nan DIFFERS", "–", "0.001"],
        ["3-5-2@8 relu adam tf32", "cuda:0", "–", "0.0e+00", "0.02"],
        ["64-64-10, 10,000 rows", "cpu", "20.0 (1.00)", "20.0 (1.00)", "– (–)"],
        ["numpy", "100"],
        ["3-5-2@8 tanh sgd", "products", "3.0", "75.0%"],
        ["8@8", "110", "110", "1.00"],
        ["3-5-2@8 relu adam", "110", "110"],
        ["3-5-2@8 relu adam", "Nnbp", "7.0", "8.0", "110", "7%"],
    ]:
        assert row in rows, row
    assert "The GPU wins at batch 8: 4 and wider." in text
    for block in text.split("\n\n"):
        assert len({line.count("|") for line in block.splitlines() if line.startswith("|")}) <= 1
    assert not runs.sound(done.results), "a loss was NaN"


def test_what_failed_or_was_left_out_is_named(done):
    results = done.results
    results["skipped"] = [["4-16-3@32 relu adam", "cuda:0"]]
    results["cases"][0]["peers"]["nnbp"] = {"error": "RuntimeError: no\ncompiler"}
    results["cases"][0]["limit"] = {"blas": {"error": "no BLAS"}}
    results["parts"] = [{"case": results["cases"][0]["case"], "title": "3-5-2@8", "error": "no time"}]
    results["imports"] = {"numpy": {"error": "import numpy failed"}}
    text = page.page(results)
    assert "- no time was left for 4-16-3@32 relu adam on cuda:0" in text
    assert "- failed: Nnbp in 3-5-2@8 tanh sgd on cpu, cases: RuntimeError: no compiler" in text
    assert "- failed: the products alone, blas in 3-5-2@8 tanh sgd on cpu, cases: no BLAS" in text
    assert "- failed: nnbp in 3-5-2@8 on cpu, parts: no time" in text
    assert "- failed: import numpy failed" in text
    assert ["3-5-2@8 tanh sgd", "cpu", "–", "2.00", "–", "2.00", "–"] in rows_of(text)


def test_a_gpu_without_time_leaves_cases_out(done):
    results = runs.run([done.plans[1].__class__(**vars(done.plans[1]) | {"budget": 1.0})], print, print)
    assert results["cases"] == []
    assert len(results["skipped"]) == 3


def test_thresholds_are_widths_from_which_on_the_gpu_always_wins():
    def speedups(*ratios):
        return {8: {2**k: (ratio, 1.0) for k, ratio in enumerate(ratios)}}

    assert facts.thresholds(speedups(0.5, 2.0, 0.9, 1.5, 3.0)) == {8: 8}
    assert facts.thresholds(speedups(2.0, 0.5)) == {8: None}
    assert facts.thresholds(speedups(1.0)) == {8: 1}


def test_the_readme_gets_its_table_between_the_markers_and_keeps_the_rest(done, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        page.into_readme(path, done.results)
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"before\n{page.BEGIN}\n| network @ batch")
        assert text.endswith(f"{page.END}\nafter\n")
        assert "old" not in text
        assert text.count("| geometric mean ") == 4
    path.write_text(f"{page.END} {page.BEGIN}", encoding="utf-8")
    with pytest.raises(ValueError, match="bench:begin"):
        page.into_readme(path, done.results)


def test_files_are_replaced_and_the_picture_is_drawn(done, tmp_path):
    pytest.importorskip("matplotlib")
    page.write(tmp_path, done.kept[0])
    picture.draw(tmp_path, done.results)
    text = page.write(tmp_path, done.results)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "table.md", "speed.svg", "speed.png"}
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == text
    assert json.loads((tmp_path / "results.json").read_text())["cases"][0]["peers"]["numpy_loop"]["loss"] is None
    drawn = (tmp_path / "speed.svg").read_text(encoding="utf-8")
    assert all(words in drawn for words in ("Torch_Graph", "cuda:0, bf16, ReLU, Adam", "cpu, fp32, tanh, SGD"))
