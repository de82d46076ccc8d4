"""Threads: those of BLAS, whose number is set for the time of a step, and workers of our own."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, final

import numpy as np

from nnbp.backend import Calls

__all__ = ["Blas", "Workers", "blas"]


@final
class Blas:
    """The number of threads that NumPy's BLAS uses.

    It belongs to the process: what is set by `use` is put back when the last `with blas():` ends.
    """

    def __init__(self) -> None:
        self._libraries: list[Any] = []
        self._lock, self._users = threading.Lock(), 0
        self._before: int | None = None
        self._now: int | None = None
        if find_spec("threadpoolctl") is not None:
            from threadpoolctl import ThreadpoolController

            # Made once: it looks through all libraries of the process, which takes milliseconds.
            found = ThreadpoolController().select(user_api="blas").lib_controllers
            self._libraries = [library for library in found if "numpy" in library.filepath] or found

    @property
    def threads(self) -> int:
        """How many threads BLAS may use by itself; 1 where it does not tell."""
        with self._lock:
            return self._before or self._read()

    def use(self, number: int) -> None:
        """Sets the number, inside a `with` block."""
        if number == self._now:
            return
        with self._lock:
            if self._users:
                self._before = self._before or self._read()
                self._now = number
                self._set(number)

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._before is not None:
                self._set(self._before)
                self._before = self._now = None

    def _read(self) -> int:
        return max((int(library.get_num_threads()) for library in self._libraries), default=1)

    def _set(self, number: int) -> None:
        for library in self._libraries:
            _release(library)
            library.set_num_threads(number)
            _release(library)


def _release(library: Any) -> None:
    """Lets any thread set the number.

    Newer versions of threadpoolctl listen to the first thread that sets it, and silently to no other. Here, the lock of
    `Blas` keeps threads out of each other's way; and nobody else is kept from setting it afterwards.
    """
    if hasattr(library, "clear_controlling_thread"):
        library.clear_controlling_thread(force=True)


@cache
def blas() -> Blas:
    """The BLAS of this process."""
    return Blas()


def run(calls: Calls) -> None:
    """Runs calls in order."""
    for function, arguments in calls:
        function(*arguments)


@final
class _Worker:
    """A thread that runs what it is handed. Two bare locks wake it and tell that it is done: nothing is faster here."""

    def __init__(self) -> None:
        self._go, self._done = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._done.acquire()
        self._calls: Calls | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._loop, name="nnbp worker", daemon=True).start()

    def start(self, calls: Calls | None) -> None:
        """Runs the calls; None ends the thread."""
        self._calls = calls
        self._go.release()

    def wait(self) -> None:
        """Waits until they have run; raises what they raised."""
        self._done.acquire()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _loop(self) -> None:
        # A thread has floating-point settings of its own.
        with np.errstate(all="ignore"):
            while True:
                self._go.acquire()
                if self._calls is None:
                    return
                try:
                    run(self._calls)
                except BaseException as error:
                    self._error = error
                self._done.release()


@final
class Workers:
    """Threads that run lists of calls side by side with the caller's own."""

    def __init__(self) -> None:
        self._workers: list[_Worker] = []
        self._busy = threading.Lock()
        self._process = os.getpid()
        weakref.finalize(self, _end, self._workers)

    def run(self, lists: Sequence[Calls]) -> None:
        """Runs the lists at the same time and returns when all are done; lists may not depend on each other.

        Where the workers are busy for another thread, the lists run one after the other, with the same result.
        """
        if not self._busy.acquire(blocking=False):
            for calls in lists:
                run(calls)
            return
        try:
            if self._process != os.getpid():
                # Threads do not live on in a forked process.
                self._workers.clear()
                self._process = os.getpid()
            while len(self._workers) < len(lists) - 1:
                self._workers.append(_Worker())
            started = self._workers[: len(lists) - 1]
            for worker, calls in zip(started, lists[1:], strict=True):
                worker.start(calls)
            try:
                run(lists[0])
            finally:
                for worker in started:
                    worker.wait()
        finally:
            self._busy.release()


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.start(None)
