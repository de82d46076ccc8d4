"""The protocol of all measurements: everyone in turn, round after round, and medians over the rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from ..peer import REFERENCE
from .process import WorkerError

FAILURES = (WorkerError, ValueError)
"""What a measurement raises that has failed; the others go on."""

_REST = 0.05
"""Seconds before a measurement, in which the threads that others have left waiting for work fall asleep."""


def attempt(function: Callable[..., Any], *args: Any, **options: Any) -> dict[str, Any]:
    """What a function returns, a dictionary; or its ``error``."""
    try:
        found: dict[str, Any] = function(*args, **options)
    except FAILURES as error:
        return {"error": str(error)}
    return found


def in_turn(
    clocks: Mapping[str, Callable[[], float]], rounds: int, *, reference: str = REFERENCE, rest: float = _REST
) -> dict[str, dict[str, Any]]:
    """Measures everyone once a round; each is first, second, … in turn. One that fails is left out of later rounds.

    Args:
        clocks: of each a function that measures and returns seconds.
        rounds: measurements of each.
        reference: the one that the others are compared with, if it is there.
        rest: seconds before a measurement.

    Returns:
        of each its ``rounds`` and their ``microseconds``, the median, and ``minimum``; ``ratio``, how many times as
        long as the reference: the median of the ratios of each round. Or its ``error``.
    """
    found: dict[str, dict[str, Any]] = {name: {"rounds": []} for name in clocks}
    names = list(clocks)
    for number in range(rounds):
        first = number % max(1, len(names))
        for name in [*names[first:], *names[:first]]:
            if "error" not in found[name]:
                time.sleep(rest)
                try:
                    found[name]["rounds"].append(clocks[name]() * 1e6)
                except FAILURES as error:
                    found[name] = {"error": str(error)}
    own = found.get(reference, {}).get("rounds")
    for values in found.values():
        if "error" not in values:
            times = values["rounds"]
            values |= {"microseconds": median(times), "minimum": min(times)}
            if own is not None:
                values["ratio"] = median(each / other for each, other in zip(times, own, strict=True))
    return found
