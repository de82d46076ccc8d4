"""Times, and what is made of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from statistics import median

__all__ = ["geometric_mean", "median_seconds", "per_step", "ratio", "seconds_per_call"]


def per_step(short: float, long: float, steps: int) -> float:
    """Time of a step: (T(long fit) − T(short fit)) / (steps between), in the unit of T; set-up cancels out.

    Raises:
        ValueError: the long fit took no longer than the short one.
    """
    if not long > short:
        raise ValueError(
            f"A fit of {steps} more steps takes longer; it took {long:.3g} s, the short one {short:.3g} s. The machine "
            "is busy, or the fits are too short: give more --seconds."
        )
    return (long - short) / steps


def ratio(times: Sequence[float], reference: Sequence[float]) -> float:
    """How many times as long as the reference: the median of the ratios of each round."""
    return median(time / other for time, other in zip(times, reference, strict=True))


def geometric_mean(values: Sequence[float]) -> float:
    """(Π values)^(1/n)."""
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def seconds_per_call(function: Callable[[], object], seconds: float) -> float:
    """Mean time of a call, over about so many seconds, after a first call."""
    function()
    calls, elapsed = 1, 0.0
    while True:
        started = time.perf_counter()
        for _ in range(calls):
            function()
        elapsed = time.perf_counter() - started
        if elapsed >= seconds / 2:
            return elapsed / calls
        calls = max(calls + 1, math.ceil(calls * min(10.0, 0.8 * seconds / max(elapsed, 1e-9))))


def median_seconds(function: Callable[[], object], seconds: float, least: int = 5) -> float:
    """Median time of a call, each timed by itself, over so many seconds and at least so many calls, after a first."""
    function()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return median(times)
