"""What an import costs, each in a fresh interpreter, in turn."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from statistics import median
from typing import Any

from .process import WorkerError
from .team import rotated

__all__ = ["measure"]

_CODE = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def measure(modules: Mapping[str, str], rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds of ``import module`` for each module.

    Args:
        modules: module → the interpreter that has it.
        rounds: runs of each, after one that leaves bytecode and the file cache behind.
    """
    found: dict[str, list[float]] = {module: [] for module in modules}
    with tempfile.TemporaryDirectory() as folder:
        # All have bytecode, as where people import, also where the environment forbids to write it beside the sources.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = folder
        for module, python in modules.items():
            _import(module, python, environment)
        for order in rotated(list(modules), rounds):
            for module in order:
                found[module].append(_import(module, modules[module], environment))
    return {module: {"seconds": median(times), "runs": times} for module, times in found.items()}


def _import(module: str, python: str, environment: Mapping[str, str]) -> float:
    command = [python, "-c", _CODE.format(module)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise WorkerError(f"import {module} failed in {python}: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout)
