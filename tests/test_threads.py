"""Threads: workers that run lists of calls side by side, and the number of threads of BLAS."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import threading
import time

import pytest

module = importlib.import_module("nnbp.backends.threads")
Workers, blas = module.Workers, module.blas


def test_lists_run_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=20)
    Workers().run([[(meeting.wait, ())]] * 3)
    assert not meeting.broken


def test_each_list_runs_in_order_and_run_waits_for_all() -> None:
    done: list[list[int]] = [[], []]
    workers = Workers()
    for _ in range(5):
        workers.run([[(done[k].append, (i,)) for i in range(4)] + [(time.sleep, (0.001 * k,))] for k in range(2)])
    assert done == [[0, 1, 2, 3] * 5] * 2


@pytest.mark.parametrize("where", [0, 1])
def test_an_error_in_any_thread_reaches_the_caller_after_all_have_ended(where: int) -> None:
    def fail() -> None:
        raise KeyError("from a list")

    workers, ended = Workers(), []
    lists = [[(time.sleep, (0.01,)), (ended.append, (k,))] for k in range(2)]
    lists[where] = [(fail, ())]
    with pytest.raises(KeyError, match="from a list"):
        workers.run(lists)
    assert ended == [1 - where]
    workers.run([[(ended.append, (k,))] for k in range(2)])
    assert len(ended) == 3, "the workers are as good as before"


def test_busy_workers_make_no_difference() -> None:
    workers, inside, go_on, done = Workers(), threading.Event(), threading.Event(), []
    first = threading.Thread(target=workers.run, args=([[(inside.set, ()), (go_on.wait, (20,))], []],))
    first.start()
    assert inside.wait(20)
    workers.run([[(done.append, (0,))], [(done.append, (1,))]])
    assert done == [0, 1]
    go_on.set()
    first.join()


def test_threads_end_with_their_workers() -> None:
    before = set(threading.enumerate())
    workers = Workers()
    workers.run([[], [], []])
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
    workers.run([[], []])
    child = os.fork()
    if child == 0:
        try:
            workers.run([[(done.append, (k,))] for k in range(2)])
        finally:
            os._exit(0 if sorted(done) == [0, 1] else 1)
    deadline = time.monotonic() + 20
    while (state := os.waitpid(child, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < deadline, "the child waits for a thread that it does not have"
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(state[1]) == 0


@pytest.mark.skipif(not blas()._libraries, reason="the threads of this BLAS cannot be set")
def test_what_is_used_is_put_back_at_the_end_of_the_outermost_block() -> None:
    one = blas()
    before = one._read()
    with one:
        one.use(before + 1)
        with one:
            one.use(1)
            assert one._read() == 1
            assert one.threads == before, "what BLAS may use by itself, not what it was told for now"
        assert one._read() == 1
    assert one._read() == before
    one.use(before + 1)
    assert one._read() == before, "outside of a block nothing is changed"


@pytest.mark.skipif(not blas()._libraries, reason="the threads of this BLAS cannot be set")
def test_any_thread_can_use_a_number() -> None:
    one, found = blas(), []

    def use(number: int) -> None:
        with one:
            one.use(number)
            found.append(one._read())

    before = one._read()
    for number in (1, before + 1, 1):
        use(number)
        thread = threading.Thread(target=use, args=(number,))
        thread.start()
        thread.join()
    assert found == [1, 1, before + 1, before + 1, 1, 1]
    assert one._read() == before


def test_without_threadpoolctl_nothing_is_known_and_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    one = module.Blas()
    assert one.threads == 1
    with one:
        one.use(3)
    assert "threadpoolctl" in sys.modules or one.threads == 1
