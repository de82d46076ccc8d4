"""Which parts of a step run on which thread.

The tasks of a step are put into phases. Within a phase every task is cut along its last axis, thread k does
the k-th part of each, in order, and no part needs what another thread does; between phases the threads wait for each
other. A forward and backward pass of a batch, say, is one phase: its columns are samples, and no sample needs another.
The products delta xᵀ, which sum over samples, are the next, the update of theta the last. That follows from the arrays
that the tasks read and write alone; no layer knows of it.

Parts are fixed by shapes and the number of threads, so the same number of threads gives the same bits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np

from nnbp.graph.ops import Array, meetings, same

from .chains import Calls, Registers
from .tasks import Task
from .threads import Workers, blas, run

MOST_THREADS = 8
"""Threads at most: each has to take Python's lock for every call. Measured with two; the bound is a guess."""

_NARROWEST = 64
"""Columns of a part, about, at least: narrower products are slow ones."""

_HANDOVER = 120.0
"""Microseconds that a phase on several threads costs: to wake them, to wait for the last. Measured: 70 to 200."""

_ALONE = 1500.0
"""Microseconds of a step for which no worker is woken."""

_LARGE = 250.0
"""Microseconds of a product that gains from BLAS's own threads. They wait for each other in busy loops: where another
program has the core, a step takes longer with them than alone, and the more so the smaller its products are."""

_BLAS_SHARE = 0.8
"""What a thread of BLAS's own adds, as a share of one."""


@dataclass
class Phase:
    """Tasks that no thread has to wait within."""

    tasks: list[Task] = field(default_factory=list)

    def load(self, threads: int) -> float:
        """Microseconds that the busiest thread, the first, works."""
        return sum(task.work / len(parts(task, threads)) for task in self.tasks)


def parts(task: Task, threads: int) -> list[slice]:
    """The columns that each thread does, the same for all tasks of as many columns."""
    columns = task.columns
    if columns < threads * _NARROWEST:
        return [slice(0, columns)]
    # Multiples of 16: float32 rows that begin on a line of the cache are cut between two lines. Rounded up, as the
    # first thread is at work already while the others are still being woken.
    ends = [-(-columns * k // (threads * 16)) * 16 for k in range(threads)] + [columns]
    return [slice(*pair) for pair in pairwise(ends)]


def phases(tasks: Sequence[Task], threads: int) -> list[Phase]:
    """The phases of tasks that must look as if they had run one after the other."""
    found: list[Phase] = []
    places: list[int] = []
    # Arrays can overlap only if they are views of the same memory: few pairs of a step's tasks have to be
    # looked at.
    known: defaultdict[int, list[int]] = defaultdict(list)
    last_call = -1
    for i, task in enumerate(tasks):
        owners = {_owner(array) for array in (*task.reads, *task.writes)}
        if not owners:
            place, last_call = len(found), i
        else:
            place = places[last_call] + 1 if last_call >= 0 else 0
            for j in {j for owner in owners for j in known[owner]}:
                if places[j] >= place and (meet := _meet(tasks[j], task, threads)) is not None:
                    place = places[j] if meet else places[j] + 1
        places.append(place)
        for owner in owners:
            known[owner].append(i)
        if place == len(found):
            found.append(Phase())
        found[place].tasks.append(task)
    return found


def _owner(array: Array) -> int:
    """The array of which this one is a view, by its id; 0 for memory that is not NumPy's, of which nothing is known."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return id(array) if array.base is None else 0


def _meet(before: Task, after: Task, threads: int) -> bool | None:
    """None if two tasks have nothing to do with each other; else whether their parts fit each other."""
    pairs = list(meetings(before, after))
    if not pairs:
        return None
    mine, own = parts(before, threads), parts(after, threads)
    if len(mine) == len(own) == 1:
        # Both are the first thread's alone, which does them in order.
        return True
    return mine == own and all(before.cuts(x) and after.cuts(y) and same(x, y) for x, y in pairs)


def plan(tasks: Sequence[Task], workers: Workers) -> Callable[[], None]:
    """A function that runs the tasks in the fastest way that is known for them: on one thread, or on several."""
    most = min(blas().threads, MOST_THREADS)
    largest = max((task.product for task in tasks), default=0.0)
    work = sum(task.work for task in tasks)
    if most == 1 or (not largest and work < _ALONE):
        return partial(run, _whole(tasks))
    number, expected = 1, work
    if largest >= _LARGE:
        speedup = 1 + _BLAS_SHARE * (most - 1)
        number, expected = most, work - (1 - 1 / speedup) * sum(task.product for task in tasks)
    if work >= _ALONE:
        found = phases(tasks, most)
        counts = [most if phase.load(most) + _HANDOVER < phase.load(1) else 1 for phase in found]
        loads = [phase.load(n) + (_HANDOVER if n > 1 else 0.0) for phase, n in zip(found, counts, strict=True)]
        if sum(loads) < expected:
            registers = [Registers() for _ in range(most)]
            lists = [_lists(phase, n, registers) for phase, n in zip(found, counts, strict=True)]
            return partial(_run_phases, most, lists, workers)
    return partial(_run_with, number, _whole(tasks))


def _whole(tasks: Sequence[Task]) -> Calls:
    registers = Registers()
    return [call for task in tasks for call in task.calls(slice(0, task.columns), registers)]


def _lists(phase: Phase, threads: int, registers: Sequence[Registers]) -> list[Calls]:
    lists: list[Calls] = [[] for _ in range(threads)]
    for task in phase.tasks:
        for calls, part, own in zip(lists, parts(task, threads), registers, strict=False):
            calls += task.calls(part, own)
    return lists


def _run_with(threads: int, calls: Calls) -> None:
    blas().use(threads)
    run(calls)


def _run_phases(threads: int, phases: Sequence[Sequence[Calls]], workers: Workers) -> None:
    # Where fewer threads are allowed by now, the same parts run one after the other: the bits stay.
    together = blas().threads >= threads
    blas().use(1)
    for lists in phases:
        if together and len(lists) > 1:
            workers.run(lists)
        else:
            for calls in lists:
                run(calls)
