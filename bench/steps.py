"""Training steps: every peer and the limit in turn, round after round, and whether all compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from .cases import SEED, Case
from .limits import WAYS
from .process import WorkerError
from .team import REFERENCE, Team, rotated
from .timing import geometric_mean, per_step, ratio

__all__ = ["CHECK_EPOCHS", "TOLERANCES", "fastest", "means", "measure", "ratios", "summary"]

CHECK_EPOCHS = 3
"""Epochs after which the losses are compared."""

_ATTEMPTS = 3

TOLERANCES = {"sgd": 1e-3, "adam": 2e-2}
"""Relative difference of a peer's loss from nnbp's. Adam divides by the size of gradients: where that is near 0,
rounding decides the direction of a step."""


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
    found: dict[str, dict[str, Any]] = {}
    epochs: dict[str, int] = {}
    for peer in team.present:
        try:
            team.ask(peer, "prepare", case=case.dump(), seed=SEED)
            found[peer] = {"loss": team.ask(peer, "check", epochs=CHECK_EPOCHS)["loss"], "rounds": []}
            epochs[peer] = team.ask(peer, "calibrate", seconds=seconds)["epochs"]
        except WorkerError as error:
            found[peer] = {"error": str(error)}
    ways: dict[str, list[float]] = {way: [] for way in WAYS}
    for order in rotated([*team.present, None], rounds):
        for peer in order:
            if peer is None:
                spent = team.time(None, "limit", case=case.dump(), seconds=seconds / 2)
                for way, value in spent.items():
                    ways[way].append(value * 1e6)
            elif "error" not in found[peer]:
                try:
                    found[peer]["rounds"].append(_step(team, peer, epochs[peer], case.batches) * 1e6)
                except (WorkerError, ValueError) as error:
                    found[peer] = {"error": str(error)}
    own = {peer for peer, facts in team.facts.items() if facts["own_order"]}
    return summary(case, found, {way: values for way, values in ways.items() if values}, own)


def _step(team: Team, peer: str, epochs: int, batches: int) -> float:
    """Seconds of a step; where another program slowed the short fit down beyond the long one, it is measured again."""
    for _ in range(_ATTEMPTS):
        times = team.time(peer, "measure", epochs=epochs)
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
            tolerance = TOLERANCES[case.optimizer]
            # A loss that is no number agrees with none.
            peers[peer] |= {"difference": difference, "tolerance": tolerance, "agrees": difference <= tolerance}
    way = min(ways, key=lambda name: median(ways[name]))
    limit: dict[str, Any] = {"way": way, "microseconds": median(ways[way]), "rounds": dict(ways)}
    if "error" not in reference:
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
