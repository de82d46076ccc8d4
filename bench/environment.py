"""What a run depended on: machine, versions, BLAS and its threads, and how busy the machine was."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

__all__ = ["environment", "load"]


def environment(threads: int) -> dict[str, Any]:
    """Facts about this process's machine and libraries; asked in a worker, where BLAS has the run's threads."""
    from nnbp.device import devices
    from nnbp.runfolder import environment as facts

    # Only when it is imported does nnbp tell BLAS's threads.
    import_module("threadpoolctl")
    found = facts("cpu", ["bench"], cpu=devices()[0].description, threads=threads)
    del found["command"]
    found["usable_cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return found


def load() -> list[float] | None:
    """Load averages over 1, 5 and 15 minutes, where the system tells them."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None
