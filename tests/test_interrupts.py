"""An interrupt at any line leaves BLAS's number of threads, NumPy's error state and the network's lock as they were."""

from __future__ import annotations

import gc
import linecache
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from nnbp.backends.cpu import threads
from threadpoolctl import ThreadpoolController

import nnbp
from nnbp.engine import exclusive

# The lines that change one of the three; the whole package in `.ci/full`.
PLACES = (exclusive.__file__, threads.__file__)
if os.environ.get("NNBP_TEST_INTERRUPTS") == "all":
    PLACES = tuple(str(Path(module.__file__).parent) for module in (nnbp, threads))

BLAS = ThreadpoolController().select(user_api="blas").lib_controllers

# Wide enough for products that BLAS shares among threads.
X = np.random.default_rng(0).normal(size=(400, 300)).astype(np.float32)
Y = np.arange(400) % 3

CALLS: dict[str, Callable[[nnbp.Network], Any]] = {
    "predict": lambda net: net.predict(X),
    "loss": lambda net: net.loss(X, Y),
    "gradients": lambda net: net.gradients(X, Y),
    "partial_fit": lambda net: net.partial_fit(X, Y),
    "fit": lambda net: net.fit(X, Y, epochs=1, batch_size=200, validation_split=0.2, progress=False),
    "lbfgs": lambda net: net.fit(X, Y, epochs=1, optimizer=nnbp.LBFGS(max_iter=2), progress=False),
}


class Interruptions:
    """A trace function that raises KeyboardInterrupt at one line of `PLACES`.

    Two kinds of lines are left out, since Python looks for signals only at the start of a function, after a call and
    before a jump back: ``try:``, which does nothing, and the end of a ``with`` block, traced at the line of the
    statement; if the block ends in a call, the signal arrives inside of it.

    Args:
        at: the number of the line among those that are passed, from 0 on. A line counts twice at most.
    """

    def __init__(self, at: int) -> None:
        self._at, self.passed = at, 0
        self._visits: Counter[tuple[str, int]] = Counter()
        self._entered: set[tuple[FrameType, int]] = set()

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        file, line = frame.f_code.co_filename, frame.f_lineno
        if not file.startswith(PLACES):
            return None
        if event != "line" or self._is_unreachable(frame, file, line):
            return self
        self._visits[file, line] += 1
        if self._visits[file, line] <= 2:
            self.passed += 1
            if self.passed > self._at:
                raise KeyboardInterrupt
        return self

    def _is_unreachable(self, frame: FrameType, file: str, line: int) -> bool:
        text = linecache.getline(file, line).strip()
        if text.startswith("with "):
            again = (frame, line) in self._entered
            self._entered.add((frame, line))
            return again
        return text == "try:"


@contextmanager
def traced(by: Interruptions) -> Iterator[None]:
    before = sys.gettrace()
    # An interrupt in a finalizer is lost, whoever comes by when it runs.
    gc.disable()
    sys.settrace(by)
    try:
        yield
    finally:
        sys.settrace(before)
        gc.enable()


def number_of_threads() -> list[int]:
    return [library.get_num_threads() for library in BLAS]


@pytest.fixture
def two_threads() -> Iterator[None]:
    with ThreadpoolController().limit(limits=2, user_api="blas"):
        yield


def is_free(net: nnbp.Network) -> bool:
    """Whether another thread can use the network."""
    other = threading.Thread(target=net.predict, args=(X[:1],), daemon=True)
    other.start()
    other.join(20)
    return not other.is_alive()


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_at_any_line_leaves_the_process_as_it_was(name: str, two_threads: None) -> None:
    call = CALLS[name]

    def network() -> nnbp.Network:
        return nnbp.Network([300, 200, 3], loss="cross_entropy", device="cpu", seed=0)

    call(network())
    before = number_of_threads(), np.geterr()
    for at in count():
        net, interruptions = network(), Interruptions(at)
        try:
            with traced(interruptions):
                call(net)
        except KeyboardInterrupt:
            assert (number_of_threads(), np.geterr()) == before, f"line {at}"
            assert is_free(net), f"line {at}"
        else:
            break
    assert interruptions.passed == at > 20, "the call has passed all its lines"
