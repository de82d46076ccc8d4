"""Memory and time of one whole fit, in a process that does nothing else."""

from __future__ import annotations

import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from ..cases import Case, Problem
from ..peer import Peer

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


def whole_fit(peer: type[Peer], case: Case, epochs: int, threads: int) -> dict[str, Any]:
    """Makes the network and trains it.

    Args:
        peer: the library.
        case: the network.
        epochs: passes through the data.
        threads: how many it may use.

    Returns:
        ``seconds``; ``bytes``, the peak of memory above imports and data, None if it is unknown; ``bound``.
    """
    for name in peer.modules:
        import_module(name)
    problem = Problem.random(case)
    with suppress(OSError):
        # Linux's record of the peak begins anew, so that imports do not count.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    started = time.perf_counter()
    peer(problem, threads).fit(epochs)
    seconds = time.perf_counter() - started
    peak = _status("VmHWM")
    return {
        "seconds": seconds,
        "bytes": None if before is None or peak is None else max(0, peak - before),
        "bound": bound(case, problem.X.nbytes + problem.y.nbytes),
    }


def _status(name: str) -> int | None:
    """Bytes of this process as Linux counts them; None on another system."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    return None
