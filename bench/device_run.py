"""A run on a GPU, which has so much time and no more: the most important first, and what is known is written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nnbp.formatting import json_text

from . import crossover, device_plot, device_report, plot, steps
from .cases import SEED, Case
from .device_cases import FIRST
from .environment import load
from .process import WorkerError
from .runner import Options, Tell, line
from .team import REFERENCE, Team

__all__ = ["PROFILED", "Clock", "detailed", "run"]

PROFILED = (REFERENCE, "torch_graph")
"""Peers whose kernels are looked at."""

_PATIENCE = 120.0
"""Seconds that an answer of a worker may take: the slowest is that of a compiler."""

_UNKNOWN = 25.0
"""Seconds that a case is thought to take, before one has been measured."""

_RESERVE_SHARE = 0.1
"""Of the time of a run, which is left to the details."""

_CROSSOVER_SHARE = 0.15
"""Of the time of a run."""


class Clock:
    """The time of a run, and what cases have taken of it.

    Args:
        budget: seconds.
        now: tells seconds.
    """

    def __init__(self, budget: float, now: Callable[[], float] = time.monotonic) -> None:
        self.now, self.end, self.reserve = now, now() + budget, _RESERVE_SHARE * budget
        self.spent: list[float] = []

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - self.now()

    def enough(self) -> bool:
        """Whether there is time for another case, and a reserve after it; cases are taken to be like the last three."""
        if not self.spent:
            return self.left >= _UNKNOWN
        return self.left >= 1.25 * max(self.spent[-3:]) + self.reserve

    def timed(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Does a case's work, and notes how long that took."""
        started = self.now()
        found = work()
        self.spent.append(self.now() - started)
        return found


def run(options: Options, folder: Path, tell: Tell) -> dict[str, Any]:
    """Measures what there is time for, and writes results.json and table.md after each case, the pictures at the end.

    Args:
        options: what; with a device and a budget.
        folder: for the files.
        tell: hears of the progress.

    Returns:
        the results, as plain JSON values. Cases for which there was no time are in ``skipped``.
    """
    assert options.budget is not None, "a run on a GPU has a budget"
    clock = Clock(options.budget)
    folder.mkdir(parents=True, exist_ok=True)
    started, load_before = time.strftime("%Y-%m-%d %H:%M:%S%z"), load()
    with Team(
        options.peers, options.threads, options.pythons, device=options.device, patience=_PATIENCE, deadline=clock.end
    ) as team:
        facts = team.describe()
        for name, peer in facts.items():
            if peer["missing"] is not None:
                tell(f"{peer['label']} ({name}) is left out: {peer['missing']}")
        environment = team.ask(None, "environment", device=options.device)
        tell(f"peers: {', '.join(facts[name]['label'] for name in team.present)}")
        results: dict[str, Any] = {
            "format": 1,
            "started": started,
            "finished": None,
            "options": {
                "rounds": options.rounds, "seconds": options.seconds, "threads": options.threads,
                "check_epochs": 1, "device": options.device, "budget": options.budget,
            },
            "environment": environment | {"load_before": load_before, "load_after": None},
            "peers": facts, "cases": [], "crossover": [], "details": [], "skipped": [],
        }  # fmt: skip
        keep(folder, results)
        first = [case for case in options.cases if case.title in FIRST]
        rest = [case for case in options.cases if case.title not in FIRST]
        _cases(team, options, first, results, clock, folder, tell)
        tell("crossover of the CPU and the GPU")
        until = clock.left - _CROSSOVER_SHARE * options.budget
        results["crossover"] = crossover.measure(
            team, options.rounds, options.seconds / 4, lambda: clock.left > max(until, 0.0)
        )
        # A run that is killed from here on has pictures, too.
        _draw(folder, results, tell)
        _cases(team, options, rest, results, clock, folder, tell)
        tell("kernels of a step, and what shuffles cost")
        results["details"] = _details(team, detailed(options.cases), options.seconds, clock)
    results["finished"] = time.strftime("%Y-%m-%d %H:%M:%S%z")
    results["environment"]["load_after"] = load()
    _draw(folder, results, tell)
    return results


def _cases(
    team: Team,
    options: Options,
    cases: Sequence[Case],
    results: dict[str, Any],
    clock: Clock,
    folder: Path,
    tell: Tell,
) -> None:
    """Measures cases one after the other, and adds each to the results and the files."""
    for case in cases:
        if not clock.enough():
            results["skipped"].append(case.title)
            continue
        number = len(results["cases"]) + len(results["skipped"]) + 1
        tell(f"{number}/{len(options.cases)} training steps of {case.title}; {clock.left:.0f} s left")
        found = clock.timed(partial(steps.measure, team, case, options.rounds, options.seconds))
        if clock.left <= 0:
            # Its workers have been ended, and not for what they did.
            results["skipped"].append(case.title)
            continue
        results["cases"].append(found)
        tell(f"    {line(found, results['peers'])}")
        keep(folder, results)


def detailed(cases: Sequence[Case]) -> list[Case]:
    """The cases that are looked at more closely: a small one, one in the middle, the largest with its precisions."""
    order = sorted(cases, key=lambda case: case.work)
    largest = [case for case in cases if case.network == order[-1].network and case.optimizer == order[-1].optimizer]
    return list(dict.fromkeys([order[0], order[len(order) // 2], *largest]))


def _details(team: Team, cases: Sequence[Case], seconds: float, clock: Clock) -> list[dict[str, Any]]:
    """Kernels of a step by peer, recorded operations, and nnbp's step with samples that are shuffled."""
    found: dict[str, dict[str, Any]] = {case.title: {"title": case.title, "kernels": {}} for case in cases}
    for peer in [name for name in PROFILED if name in team.present]:
        with team.fresh(peer) as worker:
            for case in cases:
                if clock.left > 0:
                    found[case.title]["kernels"][peer] = _answer(worker.ask, "kernels", case=case.dump())
                    if peer == REFERENCE:
                        found[case.title]["recorded"] = _answer(worker.ask, "recorded", case=case.dump())
    for case in cases:
        if clock.left > 0 and REFERENCE in team.present:
            shuffled = replace(case, shuffle=True)
            try:
                team.ask(REFERENCE, "prepare", case=shuffled.dump(), seed=SEED)
                epochs = team.ask(REFERENCE, "calibrate", seconds=seconds)["epochs"]
                seconds_a_step = steps.step_seconds(partial(team.time, REFERENCE), epochs, case.batches)
                found[case.title]["shuffled"] = seconds_a_step * 1e6
            except (WorkerError, ValueError) as error:
                found[case.title]["shuffled_error"] = str(error)
    return list(found.values())


def _answer(ask: Callable[..., dict[str, Any]], do: str, **what: Any) -> dict[str, Any]:
    try:
        return ask(do, **what)
    except WorkerError as error:
        return {"error": str(error)}


def keep(folder: Path, results: Mapping[str, Any]) -> None:
    """Writes results.json and table.md in place of those that are there: a run that is killed keeps what it had."""
    text = json_text(results)
    drawn = (folder / "speed.svg").exists(), (folder / "crossover.svg").exists()
    page = device_report.report(results, *drawn)
    for name, words in (("results.json", text + "\n"), ("table.md", page)):
        part = folder / f".{name}.part"
        part.write_text(words, encoding="utf-8")
        os.replace(part, folder / name)


def _draw(folder: Path, results: Mapping[str, Any], tell: Tell) -> None:
    """The pictures, and table.md with them."""
    try:
        if results["cases"]:
            plot.draw(device_report.arranged(results), folder)
        if crossover.batches(results["crossover"]):
            device_plot.draw(results, folder)
    except ImportError as error:
        # Said once, at the end.
        if results["finished"] is not None:
            tell(f"no picture: {error}. To have one: python -m pip install matplotlib")
    keep(folder, results)
