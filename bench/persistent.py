"""Small networks on a GPU: steps that are one persistent kernel beside the same steps as a graph of kernels.

nnbp chooses by the work of a step, see `nnbp.backends.cuda.persistent`; this measures both ways on either side of the
choice. Run it as ``python -m bench.persistent``; it prints a table in Markdown.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from itertools import product
from typing import Any

from nnbp.device.select import open_backend
from nnbp.errors import DeviceUnavailableError
from nnbp.graph.backend import Backend, backend_class

from .cases import Case, Problem
from .measure.turns import in_turn
from .peers.nnbp import Nnbp
from .workers.session import Session

WAYS = {"graph": None, "one kernel": 1}
"""The number of steps from which the backend makes one kernel; None is never."""

_SIZES = ((4, 16, 3), (64, 64, 10), (64, 128, 128, 10), (784, 128, 10))
_BATCHES = (16, 64, 256)

_ROUNDS = 5

_SECONDS = 0.05
"""Of a measurement, about."""


def cases(device: str) -> Iterator[Case]:
    """The networks, with ReLU and Adam."""
    for sizes, batch in product(_SIZES, _BATCHES):
        yield Case(sizes, batch, "relu", "adam", 256, device=device, shuffle=False, distinct=batch)


def measured(case: Case, opened: Callable[[int | None], Backend], seconds: float = _SECONDS) -> str:
    """A line of the table, both ways of a network in turn; `opened` makes a backend of a value of `WAYS`."""
    with _taken_always():
        clocks = {way: _clock(case, opened(least), seconds) for way, least in WAYS.items()}
        found = in_turn(clocks, _ROUNDS, reference="one kernel", rest=0.0)
    errors = [values["error"] for values in found.values() if "error" in values]
    if errors:
        return f"| {case.title} | failed: {errors[0]} | | |"
    graph, one_kernel = (found[way]["microseconds"] for way in WAYS)
    return f"| {case.title} | {graph:.1f} | {one_kernel:.1f} | {graph / one_kernel:.2f} |"


def _clock(case: Case, backend: Backend, seconds: float) -> Callable[[], float]:
    """Measures the seconds of a step on a backend."""

    class OnBackend(Nnbp):
        def device(self, name: str) -> Any:
            return backend

    session = Session(1)
    session.peer = OnBackend(Problem.random(case), 1)
    return partial(session.step, seconds)


@contextmanager
def _taken_always() -> Iterator[None]:
    """Whatever the work of a step, it may be one kernel."""
    persistent: Any = import_module("nnbp.backends.cuda.persistent")
    most = persistent._WORK
    persistent._WORK = sys.maxsize
    try:
        yield
    finally:
        persistent._WORK = most


def main() -> None:
    """Measures and prints, on the GPU that there is; without one it says why not, and exits with 1."""
    try:
        device = open_backend("cuda", fallback=False).device
    except DeviceUnavailableError as error:
        sys.exit(f"bench.persistent: error: {error}")
    index = int(device.partition(":")[2])
    print("| step | µs as a graph | µs as one kernel | ratio |")
    print("| --- | ---: | ---: | ---: |")
    for case in cases(device):
        # What is there is kept if the time is over before the end.
        print(measured(case, lambda least: backend_class("cupy")(index, persistent=least)), flush=True)


if __name__ == "__main__":
    main()
