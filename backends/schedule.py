"""Which parts of a step run on which thread.

The operations of a step are put into phases. Within a phase every operation is cut along its last axis, thread k does
the k-th part of each, in order, and no part needs what another thread does; between phases the threads wait for each
other. A forward and backward pass of a batch, say, is one phase: its columns are samples, and no sample needs another.
The products delta xᵀ, which sum over samples, are the next, the update of theta the last. That follows from the arrays
that the operations read and write alone; no layer knows of it.

Parts are fixed by shapes and the number of threads, so the same number of threads gives the same bits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np

from nnbp.backend import Array, Calls

from .chains import Registers
from .operations import Operation, Other
from .threads import Workers, blas, run

__all__ = ["MOST_THREADS", "Phase", "parts", "phases", "plan"]

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
    """Operations that no thread has to wait within."""

    operations: list[Operation] = field(default_factory=list)

    def load(self, threads: int) -> float:
        """Microseconds that the busiest thread, the first, works."""
        return sum(op.work / len(parts(op, threads)) for op in self.operations)


def parts(operation: Operation, threads: int) -> list[slice]:
    """The columns that each thread does, the same for all operations of as many columns."""
    columns = operation.columns
    if columns < threads * _NARROWEST:
        return [slice(0, columns)]
    # Multiples of 16: float32 rows that begin on a line of the cache are cut between two lines. Rounded up, as the
    # first thread is at work already while the others are still being woken.
    ends = [-(-columns * k // (threads * 16)) * 16 for k in range(threads)] + [columns]
    return [slice(*pair) for pair in pairwise(ends)]


def phases(operations: Sequence[Operation], threads: int) -> list[Phase]:
    """The phases of operations that shall look as if they had run one after the other."""
    found: list[Phase] = []
    places: list[int] = []
    # Arrays can overlap only where they are views of the same memory: few pairs of a step's operations have to be
    # looked at.
    known: defaultdict[int, list[int]] = defaultdict(list)
    last_other = -1
    for i, operation in enumerate(operations):
        owners = {_owner(array) for array in (*operation.reads, *operation.writes)}
        if isinstance(operation, Other):
            place, last_other = len(found), i
        else:
            place = places[last_other] + 1 if last_other >= 0 else 0
            for j in {j for owner in owners for j in known[owner]}:
                if places[j] >= place and (meet := _meet(operations[j], operation, threads)) is not None:
                    place = places[j] if meet else places[j] + 1
        places.append(place)
        for owner in owners:
            known[owner].append(i)
        if place == len(found):
            found.append(Phase())
        found[place].operations.append(operation)
    return found


def _owner(array: Array) -> int:
    """The array of which this one is a view, by its id; 0 for memory that is not NumPy's, of which nothing is known."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return id(array) if array.base is None else 0


def _meet(before: Operation, after: Operation, threads: int) -> bool | None:
    """None where two operations have nothing to do with each other; else whether their parts fit each other."""
    pairs = [(x, y) for x in before.writes for y in (*after.reads, *after.writes)]
    pairs += [(x, y) for x in before.reads for y in after.writes]
    pairs = [(x, y) for x, y in pairs if np.may_share_memory(x, y)]
    if not pairs:
        return None
    mine, own = parts(before, threads), parts(after, threads)
    if len(mine) == len(own) == 1:
        # Both are the first thread's alone, which does them in order.
        return True
    return mine == own and all(before.cuts(x) and after.cuts(y) and _same_columns(x, y) for x, y in pairs)


def _same_columns(x: Array, y: Array) -> bool:
    """Whether column j of one array is column j of the other."""
    return bool(x.ctypes.data == y.ctypes.data and x.shape == y.shape and x.strides == y.strides)


def plan(calls: Calls, workers: Workers) -> Callable[[], None]:
    """A function that runs the calls in the fastest way that is known for them: on one thread, or on several."""
    operations = [
        function if isinstance(function, Operation) else Other(function, arguments) for function, arguments in calls
    ]
    most = min(blas().threads, MOST_THREADS)
    largest = max((operation.product for operation in operations), default=0.0)
    work = sum(operation.work for operation in operations)
    if most == 1 or (not largest and work < _ALONE):
        return partial(run, _whole(operations))
    number, expected = 1, work
    if largest >= _LARGE:
        speedup = 1 + _BLAS_SHARE * (most - 1)
        number, expected = most, work - (1 - 1 / speedup) * sum(op.product for op in operations)
    if work >= _ALONE:
        found = phases(operations, most)
        counts = [most if phase.load(most) + _HANDOVER < phase.load(1) else 1 for phase in found]
        loads = [phase.load(n) + (_HANDOVER if n > 1 else 0.0) for phase, n in zip(found, counts, strict=True)]
        if sum(loads) < expected:
            registers = [Registers() for _ in range(most)]
            lists = [_lists(phase, n, registers) for phase, n in zip(found, counts, strict=True)]
            return partial(_run_phases, most, lists, workers)
    return partial(_run_with, number, _whole(operations))


def _whole(operations: Sequence[Operation]) -> Calls:
    registers = Registers()
    return [call for op in operations for call in op.calls(slice(0, op.columns), registers)]


def _lists(phase: Phase, threads: int, registers: Sequence[Registers]) -> list[Calls]:
    lists: list[Calls] = [[] for _ in range(threads)]
    for operation in phase.operations:
        for calls, part, own in zip(lists, parts(operation, threads), registers, strict=False):
            calls += operation.calls(part, own)
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
