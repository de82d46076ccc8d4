"""Memory and time of one whole fit, in a process that does nothing else."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..cases import Case, Problem
from ..peer import Peer

__all__ = ["ALLOWANCE", "bound", "whole_fit"]

ALLOWANCE = 60_000_000
"""Bytes that a fit may take beside what its arrays need."""

_WIDTH = 4
"""Bytes of a float32 number."""


def bound(case: Case, data: int) -> int:
    """Bytes that a fit may take: data + parameters × (1 + slots + gradient) + activations + 60 MB.

    Activations are the batch's inputs, and of every unit its value and the derivative that belongs to it.
    """
    activations = case.batch * (case.sizes[0] + 2 * sum(case.sizes[1:])) * _WIDTH
    return data + case.parameters * (2 + case.slots) * _WIDTH + activations + ALLOWANCE


def whole_fit(peer: type[Peer], case: Case, epochs: int, threads: int, data: str | None) -> dict[str, Any]:
    """Makes the network and trains it: seconds, and the peak of memory above imports and data, None if unknown.

    Args:
        peer: the library.
        case: the network.
        epochs: passes through the data.
        threads: how many it may use.
        data: an .npz file with X and y; None is the case's own random numbers.
    """
    for name in peer.modules:
        import_module(name)
    if data is None:
        problem = Problem.random(case)
    else:
        with np.load(data) as arrays:
            problem = Problem.of(case, arrays["X"], arrays["y"])
    before = _memory_now()
    started = time.perf_counter()
    peer(problem, threads).fit(epochs)
    seconds = time.perf_counter() - started
    after = _peak()
    return {
        "seconds": seconds,
        "bytes": None if before is None or after is None else max(0, after - before),
        "bound": bound(case, problem.X.nbytes + problem.y.nbytes),
    }


def _memory_now() -> int | None:
    """Resident bytes; the system's record of the peak begins anew where it can, so that imports do not count."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS") or _peak()


def _peak() -> int | None:
    """The most bytes that were resident."""
    found = _status("VmHWM")
    if found is not None:
        return found
    try:
        import resource
    except ImportError:
        return None
    # macOS counts bytes, other systems kilobytes.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _status(name: str) -> int | None:
    """A size of this process, from /proc."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    return None
