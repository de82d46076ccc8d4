"""Threads: workers that run jobs side by side, and the number of threads of BLAS."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

module = importlib.import_module("nnbp.backends.cpu.threads")
Workers, blas = module.Workers, module.blas


def in_order(*functions: Callable[[], Any]) -> Callable[[], None]:
    """A job that calls the functions one after the other."""

    def job() -> None:
        for function in functions:
            function()

    return job


def test_jobs_run_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=20)
    Workers().run([meeting.wait] * 3)
    assert not meeting.broken


def test_run_waits_for_all_jobs() -> None:
    done: list[list[int]] = [[], []]
    workers = Workers()
    for i in range(5):
        workers.run([in_order(partial(time.sleep, 0.001 * k), partial(done[k].append, i)) for k in range(2)])
        assert done == [list(range(i + 1))] * 2


@pytest.mark.parametrize("where", [0, 1, 2, 3])
def test_an_error_in_any_thread_reaches_the_caller_after_all_have_ended(where: int) -> None:
    def fail() -> None:
        raise KeyError("from a job")

    workers = Workers()
    for _ in range(3):
        ended: list[int] = []
        jobs = [in_order(partial(time.sleep, 0.01 * k), partial(ended.append, k)) for k in range(4)]
        jobs[where] = fail
        with pytest.raises(KeyError, match="from a job"):
            workers.run(jobs)
        assert sorted(ended) == sorted({0, 1, 2, 3} - {where})
    workers.run([partial(ended.append, k) for k in range(4)])
    assert len(ended) == 7, "the workers are as good as before"


def test_an_interrupt_while_waiting_is_raised_when_all_have_ended() -> None:
    class Interrupted(BaseException):
        pass

    def handler(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        workers, main = Workers(), threading.main_thread().ident
        for _ in range(3):
            ended: list[int] = []
            assert main is not None
            kill = partial(signal.pthread_kill, main, signal.SIGUSR1)
            slow = in_order(partial(time.sleep, 0.02), kill, partial(time.sleep, 0.05), partial(ended.append, 1))
            with pytest.raises(Interrupted):
                workers.run([in_order(), slow])
            assert ended == [1]
        workers.run([partial(ended.append, k) for k in range(2)])
        assert len(ended) == 3
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_idle_workers_hold_nothing() -> None:
    class Thing:
        def __call__(self) -> None: ...

    workers, thing = Workers(), Thing()
    alive = weakref.ref(thing)
    workers.run([in_order(), thing])
    del thing
    assert alive() is None


def test_threads_that_ask_first_at_the_same_time_find_one_blas() -> None:
    code = """
import threading
from nnbp.backends.cpu.threads import blas
meeting, found = threading.Barrier(8), []
def ask():
    meeting.wait()
    found.append(blas())
threads = [threading.Thread(target=ask) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len({id(one) for one in found}))
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["1"]


def test_busy_workers_make_no_difference() -> None:
    workers, inside, go_on, done = Workers(), threading.Event(), threading.Event(), []
    first = threading.Thread(target=workers.run, args=([in_order(inside.set, partial(go_on.wait, 20)), in_order()],))
    first.start()
    assert inside.wait(20)
    workers.run([partial(done.append, 0), partial(done.append, 1)])
    assert done == [0, 1]
    go_on.set()
    first.join()


def test_threads_end_with_their_workers() -> None:
    before = set(threading.enumerate())
    workers = Workers()
    workers.run([in_order()] * 3)
    started = set(threading.enumerate()) - before
    assert len(started) == 2
    del workers
    gc.collect()
    for thread in started:
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_workers_live_on_in_a_forked_process() -> None:
    workers, done = Workers(), []
    workers.run([in_order()] * 2)
    child = os.fork()
    if child == 0:
        try:
            workers.run([partial(done.append, k) for k in range(2)])
        finally:
            os._exit(0 if sorted(done) == [0, 1] else 1)
    deadline = time.monotonic() + 20
    while (state := os.waitpid(child, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < deadline, "the child waits for a thread that it does not have"
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(state[1]) == 0


settable = pytest.mark.skipif(not blas()._libraries, reason="the threads of this BLAS cannot be set")


@pytest.fixture
def three() -> Iterator[Any]:
    """BLAS, with three threads."""
    one = blas()
    before = one._read()
    one._set(3)
    yield one
    one._set(before)


def threads_in_a_job(one: Any, number: int) -> int:
    """The number of threads that a job has that asks for a number."""
    found: list[int] = []
    one.run(number, lambda: found.append(one._read()))
    return found[0]


@settable
def test_the_number_is_restored_after_a_job(three: Any) -> None:
    assert threads_in_a_job(three, 2) == 2
    assert three._read() == 3
    allowed: list[int] = []
    three.run(1, lambda: allowed.append(three.threads))
    assert allowed == [3], "what BLAS may use by itself, not what it was told for now"
    assert threads_in_a_job(three, 4) == 3, "nobody gets more than what is allowed"
    assert three._read() == 3


@settable
def test_any_thread_can_use_a_number(three: Any) -> None:
    found: list[int] = []

    def use(number: int) -> None:
        found.append(threads_in_a_job(three, number))

    for number in (1, 2):
        use(number)
        thread = threading.Thread(target=use, args=(number,))
        thread.start()
        thread.join()
    assert found == [1, 1, 2, 2]
    assert three._read() == 3


@settable
def test_jobs_of_one_thread_run_together_and_those_of_several_alone(three: Any) -> None:
    """Their products would have other bits if the number changed in the middle."""
    wrong, most, now = [], [0], []

    def job(number: int) -> None:
        now.append(number)
        most[0] = max(most[0], len(now))
        time.sleep(0.001)
        if three._read() != number or (number > 1 and len(now) > 1):
            wrong.append((number, list(now)))
        now.remove(number)

    def work(numbers: Sequence[int]) -> None:
        for number in numbers:
            three.run(number, partial(job, number))

    orders = [[1, 1, 2, 1], [2, 1, 1, 3], [1, 3, 1, 1], [1, 1, 1, 1]]
    threads = [threading.Thread(target=work, args=(order * 10,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert wrong == []
    assert most[0] > 1
    assert three._read() == 3


@settable
def test_a_job_of_several_threads_is_not_passed_for_ever(three: Any) -> None:
    done = threading.Event()

    def short_ones() -> None:
        while not done.is_set():
            three.run(1, partial(time.sleep, 0.002))

    others = [threading.Thread(target=short_ones) for _ in range(3)]
    for thread in others:
        thread.start()
    three.run(2, done.set)
    assert done.is_set()
    for thread in others:
        thread.join(20)
        assert not thread.is_alive()


@settable
def test_a_job_inside_of_a_job_does_not_wait_for_it(three: Any) -> None:
    found: list[int] = []
    three.run(1, lambda: found.append(threads_in_a_job(three, 2)))
    with pytest.raises(KeyError):
        three.run(2, partial({}.pop, "missing"))
    assert threads_in_a_job(three, 3) == 3
    assert found == [1]


def test_without_threadpoolctl_nothing_is_known_and_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    one, before = module.Blas(), blas()._read()
    found: list[int] = []
    assert one.threads == 1
    one.run(3, lambda: found.append(blas()._read()))
    assert found == [before]
