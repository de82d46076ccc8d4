"""The host: its processor, memory and BLAS, as far as the system and NumPy tell them."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def processor() -> str:
    """The model of the processor, as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> tuple[int | None, int | None]:
    """Total and available memory in bytes, as far as the system tells them."""
    with suppress(OSError, KeyError, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return 1024 * kilobytes["MemTotal"], 1024 * kilobytes["MemAvailable"]
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    return None, None


def blas() -> dict[str, Any]:
    """The library that NumPy multiplies matrices with, and its number of threads, None if that is not known."""
    config: dict[str, Any] = dict(np.show_config(mode="dicts"))
    built = config.get("Build Dependencies", {}).get("blas", {})
    threads, source = None, "threadpoolctl is not installed"
    with suppress(ImportError):
        from threadpoolctl import threadpool_info

        pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        threads, source = (max(pools), "threadpoolctl") if pools else (None, "threadpoolctl does not know this BLAS")
    return {
        "name": built.get("name", "unknown"),
        "version": built.get("version", ""),
        "threads": threads,
        "threads_from": source,
        "environment": {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
    }
