"""Small networks on a GPU: steps that are one persistent kernel beside the same steps as a graph of kernels.

nnbp chooses by the work of a step, see `nnbp.backends.cuda.persistent`; this measures both ways on either side of the
choice. Run it as ``python -m bench.persistent``; it prints a table in Markdown.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import product
from statistics import median
from typing import Any, NamedTuple

from nnbp.device.select import open_backend
from nnbp.errors import DeviceUnavailableError
from nnbp.graph.backend import Backend, backend_class

from .cases import Case, Problem
from .peers.nnbp import Nnbp
from .timing import per_step
from .worker import Session

__all__ = ["Row", "cases", "main", "measured", "report"]

_SIZES = ((4, 16, 3), (64, 64, 10), (64, 128, 128, 10), (784, 128, 10))
_BATCHES = (16, 64, 256)

_ROUNDS = 5

_SECONDS = 0.05
"""Of a measurement, about."""

Opened = Callable[[int | None], Backend]
"""A backend that makes one kernel from so many steps on; None is never."""


class Row(NamedTuple):
    """A network, and the microseconds of its step as a graph of kernels and as one kernel."""

    title: str
    graph: float
    one_kernel: float


def cases(device: str) -> Iterator[Case]:
    """The networks, with ReLU and Adam."""
    for sizes, batch in product(_SIZES, _BATCHES):
        yield Case(sizes, batch, "relu", "adam", 256, device=device, shuffle=False, distinct=batch)


def measured(case: Case, opened: Opened, seconds: float = _SECONDS) -> Row:
    """Both ways of a network, in turn, round after round; the medians."""
    times: list[list[float]] = [[], []]
    with _taken_always():
        sessions = [_session(case, opened(least)) for least in (None, 1)]
        epochs = [session.calibrate(seconds)["epochs"] for session in sessions]
        for _ in range(_ROUNDS):
            for session, count, found in zip(sessions, epochs, times, strict=True):
                spent = session.measure(count)
                # A round in which the machine was busy with something else says nothing.
                with suppress(ValueError):
                    found.append(per_step(spent["short"], spent["long"], count * case.batches))
    return Row(case.title, *(1e6 * median(found or [math.nan]) for found in times))


def report(rows: Iterable[Row]) -> Iterator[str]:
    """The lines of the table, each as soon as its row is there."""
    yield "| step | µs as a graph | µs as one kernel | ratio |"
    yield "| --- | ---: | ---: | ---: |"
    for row in rows:
        yield f"| {row.title} | {row.graph:.1f} | {row.one_kernel:.1f} | {row.graph / row.one_kernel:.2f} |"


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


def _session(case: Case, backend: Backend) -> Session:
    class OnBackend(Nnbp):
        def device(self, name: str) -> Any:
            return backend

    session = Session(1, None)
    session.peer = OnBackend(Problem.random(case), 1)
    return session


def main() -> None:
    """Measures and prints, on the GPU that there is; without one it says why not, and exits with 1."""
    try:
        device = open_backend("cuda", fallback=False).device
    except DeviceUnavailableError as error:
        sys.exit(f"bench.persistent: error: {error}")
    index = int(device.partition(":")[2])
    rows = (measured(case, lambda least: backend_class("cupy")(index, persistent=least)) for case in cases(device))
    for text in report(rows):
        # What is there is kept where the time is over before the end.
        print(text, flush=True)


if __name__ == "__main__":
    main()
