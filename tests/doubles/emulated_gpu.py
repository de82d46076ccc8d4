"""An emulated H100 as the GPU of a run of pytest: ``PYTHONPATH=tests/doubles python -m pytest -p emulated_gpu -m gpu``.

So the tests marked gpu run without one, but for those that need PyTorch or JAX on the card. Nothing happens unless the
module is given to pytest as a plugin: what passes on the emulation must never pass for evidence of a GPU.
"""

from __future__ import annotations

import sys

import pytest
from emulated_cupy import Device, Memory, modules


def pytest_configure() -> None:
    """CuPy is the emulation from here on."""
    sys.modules.update(modules())
    Device.compute_capability = "90"
    Device.attributes["MultiProcessorCount"] = 132
    # A workspace of cuBLAS takes 32 MiB.
    Memory.limit = Memory.free = 2**28


def pytest_report_header() -> str:
    """Says so at the head of the run."""
    return "GPU: an emulation; CuPy, CUDA and the card are not tested"


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """And at its end."""
    terminalreporter.write_line("The GPU of this run was an emulation.")
