"""Tests of a GPU, if none works: skipped with the reason, or failed with it if a GPU is required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnbp.device.select import devices
from nnbp.graph.backend import Backend
from nnbp.network import Network


@pytest.mark.parametrize("required", ["1", ""])
def test_tests_of_a_gpu_are_skipped_or_fail_with_the_reason(required):
    test = "tests/test_conftest.py::test_a_network_is_where_it_was_asked_to_be[cuda]"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-rsf", "-p", "no:cacheprovider", test],
        cwd=Path(__file__).parents[1], env=os.environ | {"NNBP_REQUIRE_GPU": required}, capture_output=True, text=True,
    )  # fmt: skip
    gpus = devices()[1:]
    if any(gpu.works for gpu in gpus):
        assert "1 passed" in run.stdout
        return
    assert (run.returncode, f"1 {'error' if required else 'skipped'}" in run.stdout) == (1 if required else 0, True)
    assert gpus[0].message in run.stdout


def test_importing_the_emulation_of_a_gpu_is_no_gpu():
    """A run of pytest has it if it asks for the plugin, and not because a test imports something."""
    code = "import sys, emulated_gpu; sys.exit('cupy' in sys.modules)"
    folder = str(Path(__file__).with_name("doubles"))
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": folder}, check=True)


def test_a_network_is_where_it_was_asked_to_be(device):
    net = Network([2, 1], device=device, fallback=False, seed=0)
    assert net.device.partition(":")[0] == device


def test_backends_are_open(backend):
    assert isinstance(backend, Backend)
    with backend.active():
        assert backend.owns(backend.empty((2, 3), "float32"))
