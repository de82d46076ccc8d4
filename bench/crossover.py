"""Where a GPU begins to win: steps of nnbp on the CPU beside steps of nnbp on the GPU, over widths and batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

from .cases import SEED, Case
from .device_cases import crossover
from .process import WorkerError
from .steps import step_seconds
from .team import REFERENCE, Team

__all__ = ["batches", "cell", "measure", "thresholds"]

Ask = Callable[..., dict[str, Any]]


def measure(team: Team, rounds: int, seconds: float, enough: Callable[[], bool]) -> list[dict[str, Any]]:
    """The cells of the grid, as `cell` has them.

    Args:
        team: whose nnbp works on the device; the CPU's gets a worker of its own.
        rounds: measurements of each.
        seconds: of one measurement, about.
        enough: whether there is time for another cell.
    """
    found: list[dict[str, Any]] = []
    with team.fresh(REFERENCE) as host:
        for there, here in zip(crossover(team.device), crossover("cpu"), strict=True):
            if not enough():
                break
            try:
                gpu = _microseconds(partial(team.ask, REFERENCE), there, rounds, seconds)
                cpu = _microseconds(host.ask, here, rounds, seconds)
            except (WorkerError, ValueError) as error:
                found.append({"width": there.sizes[0], "batch": there.batch, "error": str(error)})
                continue
            found.append(cell(there, cpu, gpu))
    return found


def cell(case: Case, cpu: Sequence[float], gpu: Sequence[float]) -> dict[str, Any]:
    """One network and batch: µs of a step on both, and ``speedup``, how many times as long the CPU takes."""
    times = {"cpu": median(cpu), "gpu": median(gpu)}
    return {"width": case.sizes[0], "batch": case.batch, **times, "speedup": times["cpu"] / times["gpu"]}


def _microseconds(ask: Ask, case: Case, rounds: int, seconds: float) -> list[float]:
    ask("prepare", case=case.dump(), seed=SEED)
    epochs = ask("calibrate", seconds=seconds)["epochs"]
    return [step_seconds(ask, epochs, case.batches) * 1e6 for _ in range(rounds)]


def batches(cells: Sequence[dict[str, Any]]) -> dict[int, list[tuple[int, float]]]:
    """Of every batch the widths that were measured, and the speedup at each, in order."""
    found: dict[int, list[tuple[int, float]]] = {}
    for each in sorted((c for c in cells if "speedup" in c), key=lambda c: (c["batch"], c["width"])):
        found.setdefault(each["batch"], []).append((each["width"], each["speedup"]))
    return found


def thresholds(cells: Sequence[dict[str, Any]]) -> dict[int, int | None]:
    """Of every batch the smallest measured width from which on the GPU wins at all that were measured; None: never."""
    found: dict[int, int | None] = {}
    for batch, row in batches(cells).items():
        found[batch] = None
        for width, speedup in reversed(row):
            if speedup < 1:
                break
            found[batch] = width
    return found
