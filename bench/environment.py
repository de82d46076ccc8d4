"""What a run depended on: machine, versions, BLAS and its threads, and how busy the machine was."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

__all__ = ["environment", "load"]


def environment(threads: int, device: str = "cpu") -> dict[str, Any]:
    """Facts about this process's machine and libraries; asked in a worker, where BLAS has the run's threads.

    Args:
        threads: of each library.
        device: where the run takes place; a GPU is then among the facts.
    """
    from nnbp.cli.run_folder import environment as facts
    from nnbp.device.select import devices

    # Only when it is imported does nnbp tell BLAS's threads.
    import_module("threadpoolctl")
    found = facts("cpu", ["bench"], cpu=devices()[0].description, threads=threads)
    del found["command"]
    if device != "cpu":
        found["gpu"] = {info.name: info.facts() for info in devices()}.get(device, device)
    found["usable_cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return found


def load() -> list[float] | None:
    """Load averages over 1, 5 and 15 minutes, where the system tells them."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None
