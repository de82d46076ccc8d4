"""Threads: the number of BLAS threads, which is set for the duration of a job, and our own workers."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import product
from typing import Any, NamedTuple, TypeAlias, final

import numpy as np

Job: TypeAlias = Callable[[], None]
"""What a worker is given: a function without arguments."""


@final
class Blas:
    """The number of threads that NumPy's BLAS uses.

    The number is global to the process: `run` sets it for a job, and restores it when no job is running any more. Jobs
    that need one thread run at the same time in any number of threads; a job that needs more runs alone.
    """

    def __init__(self) -> None:
        self._libraries: list[Any] = []
        if find_spec("threadpoolctl") is not None:
            from threadpoolctl import ThreadpoolController

            # Created once: it searches all libraries of the process, which takes milliseconds.
            found = ThreadpoolController().select(user_api="blas").lib_controllers
            self._libraries = [library for library in found if "numpy" in library.filepath] or found
        self._numbers = [_number_of(library) for library in self._libraries]
        self._start_anew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._start_anew)

    def _start_anew(self) -> None:
        # Re-entrant because a signal handler may use the network of the thread that it interrupts.
        self._lock, self._turn = threading.RLock(), threading.RLock()
        self._ended = threading.Condition(self._lock)
        self._running: set[int] = set()
        self._waiting: set[int] = set()
        self._before: int | None = None
        self._now: int | None = None

    @property
    def path(self) -> str | None:
        """The file of NumPy's BLAS, or None if it is unknown."""
        return self._libraries[0].filepath if self._libraries else None

    @property
    def threads(self) -> int:
        """The number of threads that BLAS uses outside a job; 1 if it is unknown."""
        with self._lock:
            return self._before or self._read()

    @property
    def is_alone(self) -> bool:
        """Whether one job at most is running."""
        return len(self._running) <= 1

    def run(self, number: int, job: Job) -> None:
        """Runs a job with this number of threads, limited to the number outside of jobs.

        It waits until no job is running that needs another number, or that needs several threads. An interrupt, at
        whatever line, leaves the number as it was before the job.
        """
        me = threading.get_ident()
        if me in self._running:
            # A signal handler, or a user's layer, has interrupted a job of this thread.
            job()
            return
        try:
            try:
                self._enter(number, me)
                job()
            finally:
                self._leave(me)
        finally:
            if me in self._running or me in self._waiting:
                # An interrupt has ended the first call before it was done.
                self._leave(me)

    def _enter(self, number: int, me: int) -> None:
        """Waits, if necessary, in a queue, which jobs that come later do not pass."""
        with self._lock:
            if not self._waiting and self._admits(number):
                self._admit(number, me)
                return
            self._waiting.add(me)
        with self._turn, self._lock:
            while not self._admits(number):
                self._ended.wait()
            self._admit(number, me)
            self._waiting.discard(me)

    def _admits(self, number: int) -> bool:
        return not self._running or number == self._now == 1

    def _admit(self, number: int, me: int) -> None:
        self._running.add(me)
        if number != self._now:
            before = self._before or self._read()
            if min(number, before) != before or self._before is not None:
                self._before = before
                self._set(min(number, before))
            self._now = number

    def _leave(self, me: int) -> None:
        """Ends a job. `run` repeats it if an interrupt ends it: what it looks at is changed last."""
        with self._lock:
            if self._running <= {me}:
                if self._before is not None:
                    self._set(self._before)
                self._before = self._now = None
                self._ended.notify_all()
            self._waiting.discard(me)
            self._running.discard(me)

    def _read(self) -> int:
        return max((int(number.get()) for number in self._numbers), default=1)

    def _set(self, value: int) -> None:
        for number in self._numbers:
            number.set(value)


class _Number(NamedTuple):
    """How to read and to set the number of threads of one library."""

    get: Callable[[], int]
    set: Callable[[int], object]


def _number_of(library: Any) -> _Number:
    """OpenBLAS's own functions, which take a tenth of the time of threadpoolctl's; the latter for other libraries."""
    # They keep Python's lock: to get it back from another thread would take far longer than they do.
    functions = ctypes.PyDLL(library.filepath)
    for prefix, suffix in product(("scipy_", ""), ("64_", "_64", "")):
        names = (f"{prefix}openblas_{word}_num_threads{suffix}" for word in ("get", "set"))
        get, set_ = (getattr(functions, name, None) for name in names)
        if get and set_:
            return _Number(get, set_)
    return _Number(library.get_num_threads, partial(_set_through, library))


def _set_through(library: Any, number: int) -> None:
    """Sets the number, and lets any thread set it afterwards.

    Newer versions of threadpoolctl accept a number only from the first thread that sets one and silently ignore others.
    Here the lock of `Blas` prevents races, and other code can still set the number afterwards.
    """
    library.set_num_threads(number)
    if hasattr(library, "clear_controlling_thread"):
        library.clear_controlling_thread(force=True)
        library.set_num_threads(number)
        library.clear_controlling_thread(force=True)


_blas: list[Blas] = []
_making = threading.Lock()


def blas() -> Blas:
    """The Blas object of this process, shared by all threads."""
    if not _blas:
        with _making:
            if not _blas:
                _blas.append(Blas())
    return _blas[0]


@final
class _Worker:
    """A thread that runs the jobs it is given. Two bare locks wake it and signal completion, the fastest way here.

    Requests and completions are counted, so that an interrupt at any point cannot leave them out of step for long.
    """

    def __init__(self) -> None:
        self._go, self._done = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._done.acquire()
        self._asked = self._did = 0
        self._job: Job | None = None
        self._error: BaseException | None = None
        self._ending = False
        threading.Thread(target=self._loop, name="nnbp worker", daemon=True).start()

    def start(self, job: Job) -> None:
        """Starts the job, or does nothing if an interrupt comes before."""
        self._job = job
        try:
            self._asked += 1
            self._go.release()
        except BaseException:
            # The thread may have been asked and not woken. If it was woken already, it wakes once more for nothing.
            if self._go.locked():
                self._go.release()
            raise

    def finish(self) -> BaseException | None:
        """Waits until the job is done, even if interrupted; returns the error that was raised meanwhile, if any."""
        interrupt: BaseException | None = None
        while self._did != self._asked:
            try:
                self._done.acquire()
            except BaseException as raised:
                interrupt = interrupt or raised
        error, self._error = self._error, None
        return interrupt or error

    def end(self) -> None:
        """Ends the thread."""
        self._ending = True
        self._go.release()

    def _loop(self) -> None:
        # Each thread has its own floating-point error state.
        with np.errstate(all="ignore"):
            while True:
                self._go.acquire()
                if self._ending:
                    return
                if self._did == self._asked:
                    continue
                asked, job = self._asked, self._job
                # An idle worker must not keep arrays alive.
                self._job = None
                try:
                    if job is not None:
                        job()
                except BaseException as error:
                    self._error = error
                del job
                self._did = asked
                if self._done.locked():
                    self._done.release()


@final
class Workers:
    """Threads that run jobs in parallel with the calling thread."""

    def __init__(self) -> None:
        self._workers: list[_Worker] = []
        self._busy = threading.Lock()
        self._process = os.getpid()
        weakref.finalize(self, _end, self._workers)

    def run(self, jobs: Sequence[Job]) -> None:
        """Runs the jobs in parallel and returns when all are done; they must not depend on each other.

        If the workers are busy for another thread, the jobs run one after the other, with the same result.
        """
        if self._process != os.getpid():
            # Neither the threads nor the holder of the lock exist in a forked process.
            self._workers.clear()
            self._busy, self._process = threading.Lock(), os.getpid()
        if self._busy.locked():
            for job in jobs:
                job()
            return
        with self._busy:
            while len(self._workers) < len(jobs) - 1:
                self._workers.append(_Worker())
            failed: list[BaseException] = []
            try:
                try:
                    for worker, job in zip(self._workers, jobs[1:], strict=False):
                        worker.start(job)
                    jobs[0]()
                finally:
                    failed = self._finished()
            finally:
                # An interrupt may have ended the first call before all were done.
                failed = self._finished() or failed
            if failed:
                raise failed[0]

    def _finished(self) -> list[BaseException]:
        """Waits for all workers; returns the errors of their jobs."""
        return [error for worker in self._workers if (error := worker.finish()) is not None]


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.end()
