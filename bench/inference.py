"""Predictions: class indices of 1, 128 and 10,000 rows, from NumPy to NumPy."""

from __future__ import annotations

from statistics import median
from typing import Any

from .cases import INFERENCE, INFERENCE_BATCHES, SEED, Case
from .process import WorkerError
from .team import REFERENCE, Team, rotated
from .timing import ratio

__all__ = ["measure"]


def measure(team: Team, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Median time of a call in µs, for every network, number of rows and peer.

    Args:
        team: the peers.
        rounds: how often each is measured.
        seconds: of a measurement.
    """
    return [row for case in INFERENCE for row in _network(team, case, rounds, seconds)]


def _network(team: Team, case: Case, rounds: int, seconds: float) -> list[dict[str, Any]]:
    errors = {}
    for peer in team.present:
        try:
            team.ask(peer, "prepare", case=case.dump(), seed=SEED)
            team.ask(peer, "check", epochs=1)
        except WorkerError as error:
            errors[peer] = str(error)
    rows = []
    for batch in INFERENCE_BATCHES:
        found: dict[str, dict[str, Any]] = {
            peer: {"error": errors[peer]} if peer in errors else {"rounds": []} for peer in team.present
        }
        for order in rotated(team.present, rounds):
            for peer in order:
                if "error" in found[peer]:
                    continue
                try:
                    spent = team.time(peer, "infer", batch=batch, seconds=seconds)
                    found[peer]["rounds"].append(spent["seconds"] * 1e6)
                except WorkerError as error:
                    found[peer] = {"error": str(error)}
        rows.append({"sizes": list(case.sizes), "batch": batch, "peers": _summary(found)})
    return rows


def _summary(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    reference = found.get(REFERENCE, {})
    for values in found.values():
        if "error" in values:
            continue
        values["microseconds"] = median(values["rounds"])
        if reference.get("rounds"):
            values["ratio"] = ratio(values["rounds"], reference["rounds"])
    return found
