"""One run: what is measured, in which order, and what is written at its end."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import imports, inference, peers, plot, report, steps
from .cases import DIGITS, Case
from .environment import load
from .process import WorkerError
from .team import REFERENCE, Team

__all__ = ["RESULTS", "Options", "Tell", "folder_for", "line", "run", "sound", "usable_cores", "write"]

RESULTS = Path(__file__).parent / "results"
"""The folder of all results."""

_DIGITS_EPOCHS = 30
_LARGE_EPOCHS = 3

Tell = Callable[[str], None]
"""Hears of the progress of a run."""


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        cases: of training steps.
        peers: names or files of peers; nnbp is among them.
        rounds: measurements of each.
        seconds: of one measurement.
        threads: of every library.
        import_runs: of each module.
        pythons: a peer's interpreter, where it is another one.
        device: cpu, or cuda:0; `bench.device_run` is for the latter.
        budget: seconds of a run on a GPU.
    """

    cases: Sequence[Case]
    peers: Sequence[str] = field(default_factory=peers.names)
    rounds: int = 7
    seconds: float = 0.5
    threads: int = 2
    import_runs: int = 9
    pythons: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    budget: float | None = None


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def folder_for(out: str | None, kind: str = "cpu") -> Path:
    """The folder of a run's results: one that is not there yet, or empty.

    Args:
        out: its path; None is cpu-<date> in `RESULTS`.
        kind: cpu or cuda, of the device.

    Raises:
        FileExistsError: `out` holds files already.
    """
    if out is not None:
        path = Path(out)
        if path.is_dir() and any(path.iterdir()):
            raise FileExistsError(
                f"the folder {out} is not empty, and no run overwrites another. Name a new one: --out"
            )
        return path
    date = time.strftime("%Y-%m-%d")
    path = RESULTS / f"{kind}-{date}"
    number, free = 2, path
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free


def run(options: Options, tell: Tell) -> dict[str, Any]:
    """Measures everything.

    Args:
        options: what.
        tell: hears of the progress.

    Returns:
        the results, as plain JSON values. A peer that is not installed is in them with the reason, one that fails with
        its error.
    """
    started, load_before = time.strftime("%Y-%m-%d %H:%M:%S%z"), load()
    with Team(options.peers, options.threads, options.pythons) as team:
        facts = team.describe()
        for name, peer in facts.items():
            if peer["missing"] is not None:
                tell(f"{peer['label']} ({name}) is left out: {peer['missing']}")
        environment = team.ask(None, "environment")
        tell(f"peers: {', '.join(facts[name]['label'] for name in team.present)}")
        cases = []
        for number, case in enumerate(options.cases, 1):
            tell(f"{number}/{len(options.cases)} training steps of {case.title}")
            cases.append(steps.measure(team, case, options.rounds, options.seconds))
            tell(f"    {line(cases[-1], facts)}")
        tell("predictions")
        predictions = inference.measure(team, options.rounds, options.seconds / 4)
        tell("profiles of nnbp's step")
        ends = sorted(options.cases, key=lambda case: case.work)
        profiles = _profiles(team, [ends[0], ends[-1]], 2 * options.seconds)
        tell("memory and time of whole fits")
        memory = _memory(team, ends[-1])
        tell("imports")
        imported = _imports(team, options.import_runs)
    return {
        "format": 1,
        "started": started,
        "finished": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        "options": {
            "rounds": options.rounds,
            "seconds": options.seconds,
            "threads": options.threads,
            "check_epochs": steps.CHECK_EPOCHS,
        },
        "environment": environment | {"load_before": load_before, "load_after": load()},
        "peers": facts,
        "cases": cases,
        "inference": predictions,
        "profiles": profiles,
        "memory": memory,
        "imports": imported,
    }


def line(case: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """What a case has shown, in one line."""
    parts = []
    for name, values in case["peers"].items():
        label = facts[name]["label"]
        if "error" in values:
            parts.append(f"{label} FAILED: {values['error']}")
            continue
        remark = "" if values.get("agrees", True) else f" (its loss differs by {values['difference']:.1e})"
        parts.append(f"{label} {values['microseconds']:,.0f} µs{remark}")
    if "microseconds" in case["limit"]:
        parts.append(f"products alone {case['limit']['microseconds']:,.0f} µs")
    return ", ".join(parts)


def _profiles(team: Team, cases: Sequence[Case], seconds: float) -> list[dict[str, Any]]:
    found = []
    for case in dict.fromkeys(cases):
        try:
            spent = team.time(None, "profile", case=case.dump(), seconds=seconds)
        except WorkerError as error:
            spent = {"error": str(error)}
        found.append({"title": case.title, **spent})
    return found


def _memory(team: Team, largest: Case) -> list[dict[str, Any]]:
    """The fit on digits by every peer, and on the largest case, with Adam, by nnbp."""
    large = Case(largest.sizes, largest.batch, "relu", "adam", largest.batches)
    with tempfile.TemporaryDirectory() as folder:
        path, name = Path(folder, "data.npz"), "scikit-learn's digits"
        X, y = _digits()
        if X is None:
            rng = np.random.default_rng(0)
            X, y, name = rng.standard_normal((1797, 64)), rng.integers(0, 10, 1797), "random data in digits' shape"
        np.savez(path, X=np.asarray(X, np.float32), y=np.asarray(y, np.int64))
        found = [_fit(team, DIGITS, _DIGITS_EPOCHS, str(path), team.present, name)]
    found.append(_fit(team, large, _LARGE_EPOCHS, None, [p for p in team.present if p == REFERENCE], "random data"))
    return found


def _fit(team: Team, case: Case, epochs: int, data: str | None, names: Sequence[str], what: str) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            with team.fresh(name) as worker:
                found[name] = worker.ask("memory", case=case.dump(), epochs=epochs, data=data)
        except WorkerError as error:
            found[name] = {"error": str(error)}
    return {"title": case.title, "data": what, "epochs": epochs, "peers": found}


def _digits() -> tuple[Any, Any]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        return None, None
    X, y = load_digits(return_X_y=True)
    return X / 16, y


def _imports(team: Team, runs: int) -> dict[str, Any]:
    modules = {"numpy": team.python(REFERENCE)}
    for name in team.present:
        # A peer from a file of one's own needs no name of its own here.
        if not name.endswith(".py"):
            modules |= {module: team.python(name) for module in peers.load(name).modules if module not in modules}
    try:
        return imports.measure(modules, runs)
    except WorkerError as error:
        return {"error": str(error)}


def sound(results: Mapping[str, Any]) -> bool:
    """Whether nnbp ran in every case, and every peer that shall computed the same."""
    cases = results["cases"]
    ran = all("error" not in case["peers"].get(REFERENCE, {"error": ""}) for case in cases)
    return ran and all(values.get("agrees", True) for case in cases for values in case["peers"].values())


def write(folder: Path, results: Mapping[str, Any], tell: Tell) -> str:
    """Writes results.json, table.md and the picture, all or nothing; returns the text of table.md.

    Args:
        folder: where; made if it is not there.
        results: of `run`.
        tell: hears why there is no picture, if there is none.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".bench-") as name:
        made = Path(name, "made")
        made.mkdir()
        text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
        (made / "results.json").write_text(text + "\n", encoding="utf-8")
        try:
            plot.draw(results, made)
            picture = True
        except ImportError as error:
            tell(f"no picture: {error}. To have one: python -m pip install matplotlib")
            picture = False
        page = report.report(results, picture)
        (made / "table.md").write_text(page, encoding="utf-8")
        if folder.is_dir():
            folder.rmdir()
        made.rename(folder)
    return page
