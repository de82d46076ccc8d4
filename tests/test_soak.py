"""A process that trains, saves and loads for long: memory, open files and threads stay as they are."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnbp import Network

SHARE = float(os.environ.get("NNBP_TEST_SOAK", "0"))
"""The share of the whole test that is run; `.ci/full` runs all of it."""

pytestmark = [
    pytest.mark.skipif(not SHARE, reason="NNBP_TEST_SOAK=1 asks for it"),
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux"),
    pytest.mark.filterwarnings("ignore::nnbp.ConvergenceWarning"),
]

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 8)).astype(np.float32)
y = RNG.integers(0, 3, 200)


def network() -> Network:
    return Network([8, 16, 3], loss="cross_entropy", device="cpu", seed=0)


def steps(folder: Path) -> None:
    network().fit(X, y, epochs=1000, batch_size=1, progress=False)


def fits(folder: Path) -> None:
    network().fit(X, y, epochs=2, validation_split=0.2, progress=False)


NET = network()


def partial_fits(folder: Path) -> None:
    NET.partial_fit(X[:32], y[:32])


def saves(folder: Path) -> None:
    NET.save(folder / "m")
    Network.load(folder / "m", device="cpu").predict(X[:1])


def used() -> tuple[int, int, int]:
    """Resident memory in bytes, open files, threads."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.mark.parametrize(
    ("work", "times"), [(steps, 1), (fits, 500), (partial_fits, 10_000), (saves, 5000)], ids=lambda item: str(item)[:20]
)
def test_nothing_grows(work: Callable[[Path], Any], times: int, tmp_path: Path) -> None:
    times = max(1, round(times * SHARE))
    for _ in range(max(1, times // 10)):
        work(tmp_path)
    before = used()
    for _ in range(times):
        work(tmp_path)
    after = used()
    assert after[0] - before[0] < 2**22, "memory"
    assert after[1:] == before[1:], "open files and threads"
