"""Training steps: every peer and the limit in turn, round after round, and whether all compute the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

from .cases import SEED, Case
from .process import WorkerError
from .team import REFERENCE, Team, rotated
from .timing import geometric_mean, per_step, ratio

__all__ = [
    "CHECK_EPOCHS",
    "LOW_TOLERANCES",
    "TOLERANCES",
    "fastest",
    "means",
    "measure",
    "ratios",
    "step_seconds",
    "summary",
]

CHECK_EPOCHS = 3
"""Epochs after which the losses are compared."""

_ATTEMPTS = 3

TOLERANCES = {"sgd": 1e-3, "adam": 2e-2}
"""Relative difference of a peer's loss from nnbp's. Adam divides by the size of gradients: where that is near 0,
rounding decides the direction of a step."""

LOW_TOLERANCES = {"fp32": 0.0, "tf32": 2e-2, "bf16": 1e-1}
"""The same where products are rounded to 11 or 8 bits: libraries round in different places, and differ as those do."""


def measure(team: Team, case: Case, rounds: int, seconds: float) -> dict[str, Any]:
    """One case: times of a step in every round, of the products alone, and the losses.

    Args:
        team: the peers.
        case: the case.
        rounds: how often each is measured.
        seconds: of a measurement.

    Returns:
        ``case``, ``limit`` and ``peers``, as `summary` has made them.
    """

    def ready(peer: str) -> dict[str, Any]:
        try:
            team.ask(peer, "prepare", case=case.dump(), seed=SEED)
            return {"loss": team.ask(peer, "check", epochs=check_epochs(case))["loss"], "rounds": []}
        except WorkerError as error:
            return {"error": str(error)}

    found = team.each(team.present, ready)
    epochs: dict[str, int] = {}
    for peer in team.present:
        if "error" not in found[peer]:
            try:
                epochs[peer] = team.ask(peer, "calibrate", seconds=seconds)["epochs"]
            except WorkerError as error:
                found[peer] = {"error": str(error)}
    ways: dict[str, list[float]] = {}
    trouble = None
    for order in rotated([*team.present, None], rounds):
        for peer in order:
            if peer is None:
                try:
                    spent = team.time(None, "limit", case=case.dump(), seconds=seconds / 2)
                except WorkerError as error:
                    # What multiplies on a GPU may be missing, and the rest is measured all the same.
                    if not case.on_gpu:
                        raise
                    trouble, spent = str(error), {}
                for way, value in spent.items():
                    ways.setdefault(way, []).append(value * 1e6)
            elif "error" not in found[peer]:
                try:
                    found[peer]["rounds"].append(
                        step_seconds(partial(team.time, peer), epochs[peer], case.batches) * 1e6
                    )
                except (WorkerError, ValueError) as error:
                    found[peer] = {"error": str(error)}
    own = {peer for peer, facts in team.facts.items() if facts["own_order"]}
    made = summary(case, found, ways, own)
    return made if trouble is None else made | {"limit": {"error": trouble}}


def check_epochs(case: Case) -> int:
    """Epochs after which the losses of a case are compared; those of a GPU are long."""
    return 1 if case.on_gpu else CHECK_EPOCHS


def step_seconds(ask: Callable[..., dict[str, Any]], epochs: int, batches: int) -> float:
    """Seconds of a step; where another program slowed the short fit down beyond the long one, it is measured again.

    Args:
        ask: a worker that is at its problem.
        epochs: between the short fit and the long one.
        batches: steps of an epoch.

    Raises:
        ValueError: the short fit took longer every time.
        WorkerError: of the worker.
    """
    for _ in range(_ATTEMPTS):
        times = ask("measure", epochs=epochs)
        if times["long"] > times["short"]:
            break
    return per_step(times["short"], times["long"], epochs * batches)


def summary(
    case: Case, found: Mapping[str, dict[str, Any]], ways: Mapping[str, list[float]], own: set[str]
) -> dict[str, Any]:
    """Medians, ratios to nnbp, agreement of the losses, share of the limit.

    Args:
        case: the case.
        found: ``rounds`` (µs a step) and ``loss`` of each peer, or its ``error``.
        ways: µs of the products alone in each round, each way.
        own: peers whose order of batches is their own: their loss is not compared.
    """
    peers: dict[str, dict[str, Any]] = {}
    reference = found.get(REFERENCE, {"error": "not measured"})
    for peer, values in found.items():
        peers[peer] = dict(values)
        if "error" in values:
            continue
        peers[peer] |= {"microseconds": median(values["rounds"]), "minimum": min(values["rounds"])}
        if "error" in reference:
            continue
        peers[peer]["ratio"] = ratio(values["rounds"], reference["rounds"])
        if peer not in own:
            difference = abs(values["loss"] - reference["loss"]) / abs(reference["loss"])
            tolerance = max(TOLERANCES[case.optimizer], LOW_TOLERANCES[case.precision])
            # A loss that is no number agrees with none.
            peers[peer] |= {"difference": difference, "tolerance": tolerance, "agrees": difference <= tolerance}
    # A way that failed in some round is none.
    whole = {way: times for way, times in ways.items() if len(times) == max(map(len, ways.values()))}
    if not whole:
        return {"case": case.dump(), "title": case.title, "limit": {}, "peers": peers}
    way = min(whole, key=lambda name: median(whole[name]))
    limit: dict[str, Any] = {"way": way, "microseconds": median(ways[way]), "rounds": whole}
    if "error" not in reference and len(reference["rounds"]) == len(ways[way]):
        limit["share"] = ratio(ways[way], reference["rounds"])
    return {"case": case.dump(), "title": case.title, "limit": limit, "peers": peers}


def ratios(cases: list[dict[str, Any]], peer: str) -> list[float]:
    """A peer's ratio in every case where there is one."""
    return [case["peers"][peer]["ratio"] for case in cases if "ratio" in case["peers"].get(peer, {})]


def fastest(case: Mapping[str, Any]) -> tuple[str, float] | None:
    """The fastest peer beside nnbp and its ratio."""
    found = {peer: values["ratio"] for peer, values in case["peers"].items() if peer != REFERENCE and "ratio" in values}
    return min(found.items(), key=lambda item: item[1]) if found else None


def means(cases: list[dict[str, Any]], peers: list[str]) -> dict[str, float]:
    """Geometric mean of each peer's ratios."""
    return {peer: geometric_mean(values) for peer in peers if (values := ratios(cases, peer))}
