"""One run: what is measured on each device, in which order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from nnbp.cli.run_folder import environment
from nnbp.device.select import devices

from ..cases import FIRST, Case, grid
from ..peer import REFERENCE
from . import contests
from .team import Clock, Team
from .turns import attempt

_PROFILED = (REFERENCE, "torch_graph")
"""Peers whose kernels are looked at."""

_GRID_SHARE = 0.15
"""Of the time of a run."""

Results = dict[str, Any]
"""Plain JSON values."""


@dataclass(frozen=True)
class Options:
    """What to measure on a device.

    Attributes:
        device: cpu, or cuda:0.
        cases: of training steps.
        peers: names or files of peers; nnbp is among them.
        rounds: measurements of each.
        seconds: of one measurement.
        threads: of every library.
        budget: seconds for all of it; infinite if time is not limited.
        import_runs: of each module.
        pythons: the interpreters of peers that have one of their own.
    """

    device: str
    cases: Sequence[Case]
    peers: Sequence[str]
    rounds: int
    seconds: float
    threads: int
    budget: float
    import_runs: int
    pythons: Mapping[str, str] = field(default_factory=dict)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(plans: Sequence[Options], keep: Callable[[Results], object], tell: Callable[[str], None]) -> Results:
    """Measures everything.

    Args:
        plans: what to measure, one per device.
        keep: receives the results so far after each part of a run that may be cut short.
        tell: hears of the progress.

    Returns:
        the results. A peer that is not installed is in them with the reason, one that fails with its error, and cases
        that there was no time for in ``skipped``.
    """
    results: Results = {
        "format": 2,
        "started": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        "finished": None,
        "environment": _environment([plan.device for plan in plans]),
        "options": {plan.device: asdict(plan) | {"cases": len(plan.cases)} for plan in plans},
        "peers": {},
        **{name: [] for name in ("cases", "skipped", "predictions", "fits", "parts", "grid", "shuffled", "kernels")},
        "imports": {},
    }
    for plan in plans:
        clock = Clock(plan.budget)
        with Team(plan.peers, plan.threads, plan.pythons, device=plan.device, clock=clock) as team:
            _Device(plan, team, clock, results, keep, tell).measure()
    results["finished"] = time.strftime("%Y-%m-%d %H:%M:%S%z")
    results["environment"]["load_after"] = _load()
    keep(results)
    return results


def _environment(names: Sequence[str]) -> dict[str, Any]:
    """The machine, its GPUs of these names, and its libraries."""
    found = environment("cpu", (), cpu=devices()[0].description, usable_cores=usable_cores(), load_before=_load())
    # These are about a process of nnbp.
    del found["command"], found["device"], found["blas"]["threads"], found["blas"]["threads_from"]
    return found | {"gpus": {info.name: info.facts() for info in devices()[1:] if info.name in names}}


def _load() -> list[float] | None:
    """Load averages over 1, 5 and 15 minutes, if the system knows them."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None


@dataclass
class _Device:
    """A run on one device, which adds what it measures to the results."""

    plan: Options
    team: Team
    clock: Clock
    results: Results
    keep: Callable[[Results], object]
    tell: Callable[[str], None]

    def measure(self) -> None:
        facts = self.team.facts
        self.results["peers"][self.plan.device] = facts
        for name, peer in facts.items():
            if peer["missing"] is not None:
                self.tell(f"{peer['label']} ({name}) is left out: {peer['missing']}")
        labels = ", ".join(facts[name]["label"] for name in self.team.present)
        self.tell(f"{self.plan.device}: {labels}")
        if self.plan.device == "cpu":
            self.steps(self.plan.cases)
            self.others_of_a_cpu()
        else:
            # The most important first, as the time is limited.
            self.steps([case for case in self.plan.cases if case.title in FIRST])
            self.grid()
            self.steps([case for case in self.plan.cases if case.title not in FIRST])
            self.parts_of_a_gpu()
        self.keep(self.results)

    def steps(self, cases: Sequence[Case]) -> None:
        """Training steps, as far as there is time."""
        for number, case in enumerate(cases, 1):
            if self.clock.enough():
                left = "" if self.plan.device == "cpu" else f", {self.clock.left:.0f} s left"
                self.tell(f"{number}/{len(cases)} training steps of {case.title} on {case.device}{left}")
                row = self.clock.timed(partial(self.contest, case))
                # Workers whose time has run out were ended, which says nothing about them.
                if self.clock.left > 0:
                    self.results["cases"].append(row)
                    self.tell(f"    {_line(row, self.team.facts)}")
                    self.keep(self.results)
                    continue
            self.results["skipped"].append([case.title, case.device])

    def contest(self, case: Case, seconds: float = 1.0, **options: Any) -> dict[str, Any]:
        """The row of a case; `seconds` are a multiple of those of a measurement."""
        return contests.steps(self.team, case, self.plan.rounds, seconds * self.plan.seconds, **options)

    def others_of_a_cpu(self) -> None:
        """What a CPU shows beside training steps."""
        order = sorted(self.plan.cases, key=lambda case: case.work)
        self.tell("predictions")
        self.results["predictions"] = contests.predictions(self.team, self.plan.rounds, self.plan.seconds / 4)
        self.tell("parts of nnbp's step")
        for case in dict.fromkeys([order[0], order[-1]]):
            self.results["parts"].append({"case": case.dump(), "title": case.title, **attempt(self.parts, case)})
        self.tell("memory and time of whole fits")
        largest = replace(order[-1], activation="relu", optimizer="adam")
        self.results["fits"] = contests.fits(self.team, largest)
        self.tell("imports")
        self.results["imports"] = contests.imports(self.team, self.plan.import_runs)

    def parts(self, case: Case) -> dict[str, Any]:
        """The parts of nnbp's step."""
        self.team.ask(REFERENCE, "prepare", case=case.dump(), epochs=1)
        parts: dict[str, Any] = self.team.ask(REFERENCE, "parts", seconds=2 * self.plan.seconds)
        return parts

    def grid(self) -> None:
        """nnbp's steps over widths and batches, on the CPU and on the GPU, for a share of the time."""
        self.tell(f"where {self.plan.device} is faster than the CPU")
        until = self.clock.left - _GRID_SHARE * self.plan.budget
        for pair in zip(grid("cpu"), grid(self.plan.device), strict=True):
            if self.clock.left > max(until, 0.0):
                rows = [self.contest(case, 1 / 4, alone=True) for case in pair]
                self.results["grid"] += rows
        self.keep(self.results)

    def parts_of_a_gpu(self) -> None:
        """Of some cases, what a new order in every epoch adds to nnbp's step, and the kernels of a step."""
        self.tell("what shuffles cost, and kernels of a step")
        cases = [case for case in self.detailed() if self.clock.left > 0]
        for case in cases:
            if self.clock.left > 0:
                row = self.contest(replace(case, shuffle=True), alone=True)
                self.results["shuffled"].append(row)
        rows: list[Results] = [{"case": case.dump(), "title": case.title, "peers": {}} for case in cases]
        self.results["kernels"] = rows
        for peer in [name for name in _PROFILED if name in self.team.present]:
            with self.team.alone(peer) as worker:
                for row in rows:
                    if self.clock.left > 0:
                        row["peers"][peer] = attempt(worker.ask, "kernels", case=row["case"])

    def detailed(self) -> list[Case]:
        """A small case, one in the middle, and the largest with all its precisions."""
        order = sorted(self.plan.cases, key=lambda case: case.work)
        last = order[-1]
        largest = [case for case in order if (case.network, case.optimizer) == (last.network, last.optimizer)]
        return list(dict.fromkeys([order[0], order[len(order) // 2], *largest]))


def _line(row: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """What a case has shown, in one line."""
    parts = []
    for name, values in row["peers"].items():
        label = facts[name]["label"]
        if "error" in values:
            parts.append(f"{label} FAILED: {values['error']}")
            continue
        remark = "" if values.get("agrees", True) else f" (its loss differs by {values['difference']:.1e})"
        parts.append(f"{label} {values['microseconds']:,.0f} µs{remark}")
    return ", ".join(parts)


def sound(results: Results) -> bool:
    """Whether nnbp ran in every case, and every peer that shares its order of batches computed the same."""
    rows = results["cases"]
    ran = all("error" not in row["peers"].get(REFERENCE, {"error": ""}) for row in rows)
    return ran and all(values.get("agrees", True) for row in rows for values in row["peers"].values())
