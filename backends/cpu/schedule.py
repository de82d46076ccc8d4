"""The schedule: which thread runs which parts of a step.

The tasks of a step are grouped into phases. Within a phase every task is cut along its last axis, thread k runs the
k-th part of each task in order, and no part depends on another thread's work; between phases the threads wait for each
other. The forward and backward pass of a batch is one phase, for example: its columns are samples, which do not depend
on each other. The products delta xᵀ, which sum over samples, are the next phase, and the update of theta is the last.
All of this is derived from the arrays that the tasks read and write; layers are not involved.

The parts depend only on shapes and the number of threads, so the same number of threads gives the same bits.
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
from .program import Program, library
from .tasks import Task
from .threads import Workers, blas

MOST_THREADS = 8
"""Maximum number of threads: each must take Python's lock for every call. Measured with two; the bound is a guess."""

_NARROWEST = 64
"""Approximate minimum number of columns per part: narrower products are slow."""

_HANDOVER = 120.0
"""Cost of a phase on several threads in microseconds: waking them, waiting for the last. Measured: 70 to 200."""

_ALONE = 1500.0
"""For steps shorter than this, in microseconds, no workers are woken."""

_LARGE = 250.0
"""Minimum time in microseconds of a product that gains from BLAS's own threads. They wait for each other in busy loops:
if another program uses the core, a step takes longer with them than without, above all if its products are small."""

_BLAS_SHARE = 0.8
"""Speedup from each additional BLAS thread, as a share of one thread."""


@dataclass
class Phase:
    """Tasks that can run without any thread waiting for another."""

    tasks: list[Task] = field(default_factory=list)

    def load(self, threads: int) -> float:
        """Microseconds of work for the busiest thread, which is the first."""
        return sum(task.work / len(parts(task, threads)) for task in self.tasks)


def parts(task: Task, threads: int) -> list[slice]:
    """The columns for each thread, the same for all tasks with as many columns."""
    columns = task.columns
    if columns < threads * _NARROWEST:
        return [slice(0, columns)]
    # Multiples of 16, so that float32 rows that begin on a cache line are cut between two lines. Rounded up because the
    # first thread is already working while the others are being woken.
    ends = [-(-columns * k // (threads * 16)) * 16 for k in range(threads)] + [columns]
    return [slice(*pair) for pair in pairwise(ends)]


def phases(tasks: Sequence[Task], threads: int) -> list[Phase]:
    """The phases of a list of tasks; the results must be those of running the tasks one after the other."""
    found: list[Phase] = []
    places: list[int] = []
    # Arrays can overlap only if they are views of the same memory, so few pairs of tasks need to be compared.
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
    """The id of the array that this one is a view of; 0 for memory that NumPy does not own, which may be shared."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return id(array) if array.base is None else 0


def _meet(before: Task, after: Task, threads: int) -> bool | None:
    """None if two tasks are independent; else whether each part of one depends only on the same part of the other."""
    pairs = list(meetings(before, after))
    if not pairs:
        return None
    mine, own = parts(before, threads), parts(after, threads)
    if len(mine) == len(own) == 1:
        # Both run on the first thread only, which runs them in order.
        return True
    return mine == own and all(before.cuts(x) and after.cuts(y) and same(x, y) for x, y in pairs)


def plan(tasks: Sequence[Task], workers: Workers) -> Callable[[int], None]:
    """A function that runs the tasks a number of times, as is expected to be fastest: on one thread or on several."""
    most = min(blas().threads, MOST_THREADS)
    largest = max((task.product for task in tasks), default=0.0)
    work = sum(task.work for task in tasks)
    if most == 1 or (not largest and work < _ALONE):
        return _whole(tasks)
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


def _whole(tasks: Sequence[Task]) -> Program:
    registers = Registers()
    return _program([call for task in tasks for call in task.calls(slice(0, task.columns), registers)])


def _program(calls: Calls) -> Program:
    found = library()
    return Program(calls, None if isinstance(found, str) else found)


def _lists(phase: Phase, threads: int, registers: Sequence[Registers]) -> list[Program]:
    lists: list[Calls] = [[] for _ in range(threads)]
    for task in phase.tasks:
        for calls, part, own in zip(lists, parts(task, threads), registers, strict=False):
            calls += task.calls(part, own)
    return [_program(calls) for calls in lists]


def _run_with(threads: int, program: Program, times: int) -> None:
    blas().use(threads)
    program(times)


def _run_phases(threads: int, phases: Sequence[Sequence[Program]], workers: Workers, times: int) -> None:
    # If fewer threads are allowed by now, the same parts run one after the other, so the bits do not change.
    together = blas().threads >= threads
    blas().use(1)
    for _ in range(times):
        for programs in phases:
            if together and len(programs) > 1:
                workers.run(programs)
            else:
                for program in programs:
                    program()
