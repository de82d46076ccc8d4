"""What is trained on a GPU: the CPU's networks and two larger ones, at three precisions where products are large.

Epochs are long, so that the host's part of an epoch and its wait for the device weigh nothing, and their samples are
not shuffled: drawing an order on the host may take longer than the steps of many of these epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from .cases import PRECISIONS, SHAPES, Case

__all__ = ["CROSSOVER_BATCHES", "CROSSOVER_WIDTHS", "FIRST", "KINDS", "crossover", "gpu_cases", "ordered"]

_DRAWN = 2**23
"""Numbers that are drawn for the data of a case; where it has more, they repeat."""

_EPOCH = 2**27
"""Numbers in the data of an epoch, at most."""

_STEPS = (8, 1024)
"""Steps of an epoch, at least and at most."""

_LARGER = (((64, 64, 64, 16), 65536, 0), ((4096, 4096, 4096, 10), 8192, 0))

_ALL_PRECISIONS = {"784-512-512-10@1024", "1024-2048-2048-10@1024", "64-64-64-16@65536", "4096-4096-4096-10@8192"}

KINDS = (("relu", "adam"), ("tanh", "sgd"))
"""Of training, the more important one first."""

FIRST = (
    "4096-4096-4096-10@8192 relu adam",
    "4096-4096-4096-10@8192 relu adam tf32",
    "4096-4096-4096-10@8192 relu adam bf16",
    "64-64-10@64 relu adam",
    "784-512-512-10@1024 relu adam",
    "784-512-512-10@1024 relu adam tf32",
    "784-128-10@128 relu adam",
    "64-64-64-16@65536 relu adam",
    "64-64-64-16@65536 relu adam bf16",
)
"""Titles of the cases that are measured before all else."""

CROSSOVER_WIDTHS, CROSSOVER_BATCHES = (16, 64, 256, 1024, 2048), (16, 128, 1024, 8192)

_CROSSOVER_WORK = 2**35

# The numbers of an epoch, and the bounds of its steps: a CPU's are few, as its steps may take long.
_CROSSOVER_EPOCHS = {"cpu": (2**22, (2, 128)), "cuda": (2**25, (8, 512))}


def _case(
    sizes: tuple[int, ...],
    batch: int,
    activation: str,
    optimizer: str,
    precision: str,
    epoch: int = _EPOCH,
    bounds: tuple[int, int] = _STEPS,
) -> Case:
    numbers = batch * sizes[0]
    # The rows that are drawn go into the samples without a rest: both are powers of 2 times the batch.
    steps = _power(min(max(epoch // numbers, bounds[0]), bounds[1]))
    drawn = batch * min(steps, _power(_DRAWN // numbers))
    return Case(sizes, batch, activation, optimizer, steps, precision=precision, shuffle=False, distinct=drawn)


def _power(number: int) -> int:
    """The largest power of 2 that is no more, at least 1."""
    return 1 << max(0, number.bit_length() - 1)


def gpu_cases(device: str) -> tuple[Case, ...]:
    """All cases on a device in the order of measurement: `FIRST`, then one kind of training, then the other.

    >>> [case.title for case in gpu_cases("cuda:0")][:2]
    ['4096-4096-4096-10@8192 relu adam', '4096-4096-4096-10@8192 relu adam tf32']
    """
    found = []
    for (activation, optimizer), (sizes, batch, _) in product(KINDS, (*SHAPES, *_LARGER)):
        case = replace(_case(sizes, batch, activation, optimizer, "fp32"), device=device)
        several = PRECISIONS if case.network in _ALL_PRECISIONS else PRECISIONS[:1]
        found += [replace(case, precision=precision) for precision in several]
    return ordered(found)


def ordered(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The cases with those of `FIRST` before the others."""
    return tuple(sorted(cases, key=lambda case: FIRST.index(case.title) if case.title in FIRST else len(FIRST)))


def crossover(device: str) -> tuple[Case, ...]:
    """The grid of widths and batches: w-w-w-10 with ReLU and Adam, but for cells that would take a CPU many seconds."""
    epoch, bounds = _CROSSOVER_EPOCHS[device.partition(":")[0]]
    grid = (
        replace(_case((width,) * 3 + (10,), batch, *KINDS[0], "fp32", epoch, bounds), device=device)
        for width, batch in product(CROSSOVER_WIDTHS, CROSSOVER_BATCHES)
    )
    return tuple(case for case in grid if case.work <= _CROSSOVER_WORK)
