"""The benchmark's arithmetic and pages, on known numbers."""

import json

import numpy as np
import pytest

from bench import cases, limits, memory, plot, profile, report, steps, team, timing
from bench.cases import Case, Problem
from nnbp import Network

CASE = Case((3, 5, 2), 8, "tanh", "sgd", 4)


def found(**rounds):
    return {name: {"loss": 0.5, "rounds": times} for name, times in rounds.items()}


def results(*, missing=None, failing=None):
    """Results of two cases with nnbp, a peer twice and four times as slow, and perhaps one that is not installed."""
    made = []
    for number, optimizer in enumerate(("sgd", "adam"), 1):
        case = Case((3, 5, 2), 8, "tanh", optimizer, 4)
        values = found(nnbp=[10.0, 12.0, 11.0], slow=[20.0 * number, 24.0 * number, 22.0 * number])
        if failing:
            values["slow"] = {"error": failing}
        made.append(steps.summary(case, values, {"blas": [5.5] * 3, "one": [6.0] * 3}, set()))
    peers = {
        "nnbp": {"label": "nnbp", "missing": None, "versions": {"nnbp": "1"}},
        "slow": {"label": "Slow", "missing": None, "versions": {"slow": "2"}},
    }
    if missing:
        peers["gone"] = {"label": "Gone", "missing": missing, "versions": {}}
    blas = {"name": "blas", "version": "3"}
    row = {"nnbp": {"microseconds": 5.0, "ratio": 1.0}, "slow": {"microseconds": 20.0, "ratio": 4.0}}
    fit = {"seconds": 1.0, "bytes": 3_000_000, "bound": 61_000_000}
    return {
        "started": "2020-01-02 03:04:05+0000",
        "options": {"rounds": 3, "threads": 2, "check_epochs": 3},
        "environment": {
            "cpu": "A processor", "cores": 2, "platform": "Linux", "python": "3.11", "blas": blas,
            "load_before": None, "load_after": None,
        },
        "peers": peers,
        "cases": made,
        "inference": [{"sizes": [3, 2], "batch": 10_000, "peers": row}],
        "profiles": [{"title": "t", "kinds": {"products": 3e-6, "update": 1e-6}, "step": 5e-6}],
        "memory": [{"title": "t", "data": "digits", "epochs": 2, "peers": {"nnbp": fit, "slow": {"error": "x"}}}],
        "imports": {"numpy": {"seconds": 0.1, "runs": [0.1]}},
    }  # fmt: skip


def test_a_step_is_the_difference_of_two_fits():
    assert timing.per_step(1.5, 2.5, 100) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="--seconds"):
        timing.per_step(1.0, 1.0, 10)


def test_ratios_are_of_rounds_and_their_median_counts():
    assert timing.ratio([2.0, 30.0, 6.0], [1.0, 2.0, 2.0]) == 3.0
    assert timing.geometric_mean([1.0, 2.0, 4.0]) == pytest.approx(2.0)
    assert timing.median_seconds(lambda: None, 0.001) < 0.001
    assert timing.seconds_per_call(lambda: None, 0.001) < 0.001


def test_summary_has_medians_ratios_share_and_agreement():
    values = found(nnbp=[10.0, 20.0, 12.0], other=[30.0, 40.0, 24.0], own=[10.0] * 3)
    values["other"]["loss"], values["own"]["loss"] = 0.5004, 9.0
    values["broken"] = {"error": "no"}
    made = steps.summary(CASE, values, {"blas": [6.0] * 3, "one": [5.0] * 3}, {"own"})
    assert made["limit"]["way"] == "one"
    assert made["limit"]["share"] == pytest.approx(5 / 12)
    other = made["peers"]["other"]
    assert (other["microseconds"], other["minimum"], other["ratio"]) == (30.0, 24.0, 2.0)
    assert other["agrees"]
    assert other["difference"] == pytest.approx(8e-4)
    assert "agrees" not in made["peers"]["own"]
    assert made["peers"]["broken"] == {"error": "no"}
    assert steps.fastest(made) == ("own", pytest.approx(10 / 12))
    values["other"]["loss"] = float("nan")
    assert steps.summary(CASE, values, {"one": [5.0] * 3}, set())["peers"]["other"]["agrees"] is False


def test_everyone_is_first_in_turn():
    assert list(team.rotated("abc", 4)) == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


def test_cases_are_found_by_parts_of_their_titles():
    assert len(cases.chosen(None)) == 14
    assert [case.title for case in cases.chosen("4-16-3@32, 2048-10@1024 relu")] == [
        "4-16-3@32 tanh sgd", "4-16-3@32 relu adam", "1024-2048-2048-10@1024 relu adam",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="4-16-3@32 tanh sgd"):
        cases.chosen("no such network")
    assert Case.load(json.loads(json.dumps(CASE.dump()))) == CASE


def test_batches_come_in_the_order_that_a_network_draws():
    problem = Problem.random(CASE, seed=5)
    order = Network(list(CASE.sizes), seed=5, device="cpu").model.order_generator
    mine = problem.orders()
    for _ in range(3):
        assert np.array_equal(mine.permutation(problem.X.shape[0]), order.permutation(problem.X.shape[0]))


def test_the_limit_has_the_products_of_a_step():
    samples, sums = limits.phases(Case((3, 5, 4, 2), 8, "tanh", "sgd", 4))
    assert [out.shape for *_, out in samples] == [(5, 8), (4, 8), (2, 8), (4, 8), (5, 8)]
    assert [out.shape for *_, out in sums] == [(2, 4), (4, 5), (5, 3)]
    spent = limits.limit(CASE, 2, 0.003)
    assert set(spent) == set(limits.WAYS)
    assert min(spent.values()) > 0


def test_cut_products_are_the_whole_ones():
    case = Case((40, 50, 60), 70, "tanh", "sgd", 4)
    for phase in limits.phases(case):
        limits._multiply(phase)
        whole = [out.copy() for *_, out in phase]
        for *_, out in phase:
            out[...] = np.nan
        for k in range(3):
            limits._multiply(limits._columns(phase, k, 3))
        for (*_, out), expected in zip(phase, whole, strict=True):
            np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_the_bound_counts_parameters_slots_gradient_and_activations():
    case = Case((3, 5, 2), 8, "tanh", "adam", 4)
    parameters = 3 * 5 + 5 + 5 * 2 + 2
    assert case.parameters == parameters
    assert memory.bound(case, 100) == 100 + 4 * parameters * 4 + 8 * (3 + 14) * 4 + 60_000_000


@pytest.mark.parametrize(("activation", "optimizer"), [("tanh", "sgd"), ("relu", "adam")])
def test_the_profile_of_a_step_names_all_kinds_and_adds_up(activation, optimizer):
    spent = profile.profile(Case((6, 8, 7, 3), 16, activation, optimizer, 20), 1, 0.02)
    assert set(spent["kinds"]) == set(profile.KINDS)
    assert all(value > 0 for value in spent["kinds"].values())
    assert sum(spent["kinds"].values()) <= spent["step"]


def test_the_report_shows_every_section():
    page = report.report(results(missing="gone is not installed: python -m pip install gone"), picture=True)
    assert "| 3-5-2 @ 8, tanh, sgd " in page
    row = next(line for line in page.splitlines() if line.startswith("| geometric mean"))
    assert row.split("|")[3].strip() == f"{8**0.5:.2f}"
    assert "- not measured: Gone: gone is not installed: python -m pip install gone" in page
    assert "50%" in page
    assert "20.0 (4.00)" in page
    assert "75.0%" in page
    assert "![Ratios by network](speed.svg)" in page
    assert "speed.svg" not in report.report(results(), picture=False)


def test_the_report_names_a_peer_that_failed():
    page = report.report(results(failing="RuntimeError: no\ncompiler"), picture=False)
    assert "- failed: Slow in 3-5-2@8 tanh sgd: RuntimeError: no compiler" in page


def test_tables_have_as_many_cells_in_every_row():
    page = report.report(results(), picture=False)
    for block in page.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1
        assert len({len(line) for line in lines}) <= 1


def test_the_readme_gets_its_table_between_the_markers_and_keeps_the_rest(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        report.into_readme(path, results())
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"before\n{report.BEGIN}\n| network @ batch")
        assert text.endswith(f"{report.END}\nafter\n")
        assert "old" not in text
        assert text.count("geometric mean") == 1
    path.write_text(f"{report.END} {report.BEGIN}", encoding="utf-8")
    with pytest.raises(ValueError, match="bench:begin"):
        report.into_readme(path, results())


def test_the_picture_is_drawn_and_its_labels_do_not_meet(tmp_path):
    pytest.importorskip("matplotlib")
    paths = plot.draw(results(failing=None), tmp_path)
    assert [path.name for path in paths] == ["speed.svg", "speed.png"]
    assert "Slow" in paths[0].read_text(encoding="utf-8")
    heights = plot.spread([1.0, 1.1, 5.0, 0.9, 1.05], 0.5)
    assert np.all(np.diff(sorted(heights)) >= 0.5 - 1e-9)
    assert np.argsort(heights).tolist() == [3, 0, 4, 1, 2]
    assert heights[2] == 5.0
