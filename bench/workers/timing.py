"""The time of a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

_WARM_UP = 3

_BLOCKS = 5
"""Of calls in a measurement, about."""


def _nothing() -> None:
    """A CPU has done its work when a call returns."""


def seconds_per_call(run: Callable[[], object], seconds: float, wait: Callable[[], object] = _nothing) -> float:
    """Time of a call: the median over blocks of as many calls as take a tenth to a fifth of the measurement.

    Args:
        run: the call. A device may only have been asked when it returns.
        seconds: of the measurement, about.
        wait: waits until all that was asked for is done; called once per block, so that it weighs little.
    """

    def block(calls: int) -> float:
        started = time.perf_counter()
        for _ in range(calls):
            run()
        wait()
        return time.perf_counter() - started

    block(_WARM_UP)
    calls = 1
    while (spent := block(calls)) < seconds / _BLOCKS / 2:
        calls *= 2
    times = [spent, *(block(calls) for _ in range(max(2, round(seconds / spent) - 1)))]
    return median(times) / calls
