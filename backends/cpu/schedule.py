"""The schedule: which thread runs which parts of a step.

The tasks of a step are grouped into phases. Within a phase every task is cut, thread k runs the k-th part of each task
in order, and no part depends on another thread's work; between phases the threads wait for each other. The forward and
backward pass of a batch is one phase, for example: it is cut along the samples, which do not depend on each other. The
products delta xᵀ, which sum over samples, are the next, together with the update: both are cut where the vectors theta
and gradient are cut, so that each thread computes and uses its own part of the gradient. All of this is derived from
the arrays that the tasks read and write; layers are not involved.

The parts depend only on shapes and the number of threads, so the same number of threads gives the same bits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import final

from nnbp.graph.ops import meetings, same

from .chains import Calls, Registers
from .program import Library, Phases, Program, walker
from .tasks import Place, Task, owner
from .threads import Workers, blas

MOST_THREADS = 8
"""Maximum number of threads. Measured with two; the bound is a guess."""

_NARROWEST = 64
"""Approximate minimum number of columns per part: narrower products are slow."""


@dataclass(frozen=True)
class Costs:
    """What work on several threads costs, in microseconds, and when it is worth it.

    Attributes:
        call: a call apart from the work that it does.
        wake: waking the threads, once per run; they stay awake between phases.
        phase: beginning a phase together, waiting for the last thread, reading what another core has written.
        least: steps of less work stay on one thread.
        share: of the time on one thread that phases may be expected to take: cores may share more than is known here.
    """

    call: float
    wake: float
    phase: float
    least: float
    share: float


_COSTS = Costs(call=0.03, wake=100.0, phase=60.0, least=200.0, share=0.7)

_BRIEF = 20.0
"""Maximum time in microseconds of a run that keeps Python's lock: to get it back from another thread takes longer."""

_LARGE = 250.0
"""Minimum time in microseconds of a product that gains from BLAS's own threads. They wait for each other in busy loops:
if another program uses the core, a step takes longer with them than without, above all if its products are small."""

_BLAS_SHARE = 0.8
"""Speedup from each additional BLAS thread, as a share of one thread."""


@final
class Cut:
    """How tasks are cut for a number of threads.

    Args:
        tasks: all tasks of a step.
        threads: the number of threads.
    """

    def __init__(self, tasks: Sequence[Task], threads: int) -> None:
        self.threads = threads
        places = dict.fromkeys(task.place for task in tasks if task.place is not None)
        self._ends = {place.vector: self._ends_of(place.vector, list(places)) for place in places}

    def parts(self, task: Task) -> list[slice]:
        """The part for each thread, or the whole task for the first one."""
        ends = None
        if self.threads > 1 and task.place is not None:
            vector, start, length, unit = task.place
            inside = [min(max(end - start, 0), length * unit) for end in self._ends[vector]]
            if all(end % unit == 0 for end in inside):
                ends = [end // unit for end in inside]
        elif task.length >= self.threads * _NARROWEST and self.threads > 1:
            ends = self._even(task.length)
        return [slice(0, task.length)] if ends is None else [slice(*pair) for pair in pairwise(ends)]

    def _even(self, length: int) -> list[int]:
        # Multiples of 16, so that float32 rows that begin on a cache line are cut between two lines. Rounded up because
        # the first thread is already working while the others are being woken.
        return [-(-length * k // (self.threads * 16)) * 16 for k in range(self.threads)] + [length]

    def _ends_of(self, vector: int, places: Sequence[Place]) -> list[int]:
        """Where a vector is cut: in equal parts, but between the rows of a matrix in it."""
        if vector < self.threads * _NARROWEST:
            return [0] + [vector] * self.threads
        ends = self._even(vector)
        for k, end in enumerate(ends):
            for place in places:
                inside = end - place.start
                if place.vector == vector and place.unit > 1 and 0 < inside < place.length * place.unit:
                    ends[k] = place.start + round(inside / place.unit) * place.unit
                    break
        return ends


@dataclass
class Phase:
    """Tasks that can run without any thread waiting for another."""

    tasks: list[Task] = field(default_factory=list)

    def load(self, cut: Cut) -> float:
        """Microseconds of work for the busiest thread."""
        loads = [0.0] * cut.threads
        for task in self.tasks:
            for k, part in enumerate(cut.parts(task)):
                loads[k] += _time(task) * (part.stop - part.start) / task.length
        return max(loads)


def phases(tasks: Sequence[Task], cut: Cut) -> list[Phase]:
    """The phases of a list of tasks; the results must be those of running the tasks one after the other."""
    found: list[Phase] = []
    places: list[int] = []
    # Arrays can overlap only if they are views of the same memory, so few pairs of tasks need to be compared.
    known: defaultdict[int, list[int]] = defaultdict(list)
    last_call = -1
    for i, task in enumerate(tasks):
        owners = {owner(array) for array in (*task.reads, *task.writes)}
        if not owners:
            place, last_call = len(found), i
        else:
            place = places[last_call] + 1 if last_call >= 0 else 0
            for j in {j for memory in owners for j in known[memory]}:
                if places[j] >= place and (meet := _meet(tasks[j], task, cut)) is not None:
                    place = places[j] if meet else places[j] + 1
        places.append(place)
        for memory in owners:
            known[memory].append(i)
        if place == len(found):
            found.append(Phase())
        found[place].tasks.append(task)
    return found


def _meet(before: Task, after: Task, cut: Cut) -> bool | None:
    """None if two tasks are independent; else whether each part of one depends only on the same part of the other."""
    pairs = list(meetings(before, after))
    if not pairs:
        return None
    mine, own = cut.parts(before), cut.parts(after)
    if len(mine) == len(own) == 1:
        # Both run on the first thread only, which runs them in order.
        return True
    if len(mine) != len(own):
        return False
    if before.place is not None and after.place is not None:
        # Vectors are cut at the same places for all tasks.
        return all(
            before.cuts(x) and after.cuts(y) and before.place.holds(x) and after.place.holds(y) for x, y in pairs
        )
    return mine == own and all(before.cuts(x) and after.cuts(y) and same(x, y) for x, y in pairs)


def plan(tasks: Sequence[Task], workers: Workers, times: int) -> Callable[[], None]:
    """A function that runs the tasks `times` times, as is expected to be fastest: on one thread or on several.

    Without the compiled part only BLAS uses several threads: waking Python's takes longer than they save.
    """
    most = min(blas().threads, MOST_THREADS)
    largest = max((task.product for task in tasks), default=0.0)
    work = sum(_time(task) for task in tasks)
    number, expected = 1, work
    if largest >= _LARGE:
        speedup = 1 + _BLAS_SHARE * (most - 1)
        number, expected = most, work - (1 - 1 / speedup) * sum(task.product for task in tasks)
    library = walker()
    if most > 1 and work >= _COSTS.least and not isinstance(library, str):
        phases = _phases(tasks, most, library, _COSTS.share * expected - _COSTS.wake / times)
        if phases is not None:
            return partial(_run_together, most, phases, workers, times)
    run = _whole(tasks).repeated(times, briefly=times * work < _BRIEF)
    return partial(blas().run, number, run) if most > 1 and largest else run


def _phases(tasks: Sequence[Task], threads: int, library: Library, limit: float) -> Phases | None:
    """The tasks on several threads, if a step takes fewer microseconds than the limit and calls nothing of Python."""
    # At best, all the work is shared equally in one phase.
    if sum(_time(task) for task in tasks) / threads + _COSTS.phase >= limit:
        return None
    cut, whole = Cut(tasks, threads), Cut(tasks, 1)
    groups = phases(tasks, cut)
    together, alone = ([group.load(own) for group in groups] for own in (cut, whole))
    if sum(min(a + _COSTS.phase, b) for a, b in zip(together, alone, strict=True)) >= limit:
        return None
    cuts = [cut if a + _COSTS.phase < b else whole for a, b in zip(together, alone, strict=True)]
    registers = [_registers() for _ in range(threads)]
    programs = [_programs(group, own, registers) for group, own in zip(groups, cuts, strict=True)]
    if not all(program.is_native for group in programs for program in group):
        return None
    return Phases(programs, library)


def _time(task: Task) -> float:
    """Estimated microseconds of a task on one thread."""
    return task.work + task.steps * _COSTS.call


def _whole(tasks: Sequence[Task]) -> Program:
    registers = _registers()
    return _program([call for task in tasks for call in task.calls(None, registers)])


def _registers() -> Registers:
    return Registers(native=not isinstance(walker(), str))


def _program(calls: Calls) -> Program:
    found = walker()
    return Program(calls, None if isinstance(found, str) else found)


def _programs(phase: Phase, cut: Cut, registers: Sequence[Registers]) -> list[Program]:
    lists: list[Calls] = [[] for _ in range(cut.threads)]
    for task in phase.tasks:
        for calls, part, own in zip(lists, cut.parts(task), registers, strict=False):
            calls += task.calls(part, own)
    return [_program(calls) for calls in lists]


def _run_together(threads: int, phases: Phases, workers: Workers, times: int) -> None:
    def job() -> None:
        if _may_use(threads):
            phases.invite()
            workers.run([partial(phases, times), *[phases.help] * (threads - 1)])
        else:
            phases(times)

    blas().run(1, job)


def _may_use(threads: int) -> bool:
    """Whether so many threads are allowed by now, and no other thread is in a step. If not, one thread runs the same
    parts, so the bits do not change."""
    return blas().threads >= threads and blas().is_alone
