"""Where nnbp's training step spends its time: the calls of NumPy by kind, as the step runs, on all its threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from nnbp.graph.ops import Gather, Gemm, Operation, Reduce

from .cases import Case, Problem
from .peers.nnbp import Nnbp

__all__ = ["KINDS", "kinds", "profile"]

KINDS = ("products", "activation", "softmax and cost", "bias gradients", "gather", "update", "the rest")

_LEAST_EPOCHS = 2

Clock = Callable[[], float]


def profile(case: Case, threads: int, seconds: float) -> dict[str, Any]:
    """Seconds of a step by kind, summed over threads, and of the step as a whole, over about so many seconds.

    A public `fit` is measured. Only the backend's `compile` is stood in for: it puts a clock around each part of an
    operation, which costs about 0.2 µs.
    """
    peer = Nnbp(Problem.random(case), threads)
    started = time.perf_counter()
    peer.fit(_LEAST_EPOCHS)
    epochs = max(_LEAST_EPOCHS, round(_LEAST_EPOCHS * seconds / (time.perf_counter() - started)))
    backend = peer.net.model.backend
    theta, layers, keep = peer.net.model.parameters.theta, len(case.sizes) - 1, backend.compile
    steps: list[tuple[list[str], list[list[float]]]] = []

    def compile(operations: Sequence[Operation], times: int = 1, runs: int = 1) -> Callable[[], None]:
        # The training step is the longest list; others are single products.
        if len(operations) <= layers:
            return keep(operations, times, runs)
        found, cells = kinds(operations, theta, layers), list[list[float]]()
        steps.append((found, cells))
        tasks = [_timed(task(operation), kind, cells) for operation, kind in zip(operations, found, strict=True)]
        run = plan(tasks, workers)

        def run_all() -> None:
            for _ in range(times):
                run()

        return run_all

    task, plan = import_module("nnbp.backends.cpu.tasks").task, import_module("nnbp.backends.cpu.schedule").plan
    workers = import_module("nnbp.backends.cpu.threads").Workers()
    backend.compile = compile  # type: ignore[method-assign]
    started = time.perf_counter()
    peer.fit(epochs)
    wall = time.perf_counter() - started
    found, cells = max(steps, key=lambda step: len(step[0]))
    count = epochs * case.batches
    totals = dict.fromkeys(KINDS, 0.0)
    for index, spent in cells:
        totals[KINDS[int(index)]] += spent / count
    return {"kinds": totals, "step": wall / count, "operations": len(found)}


def kinds(operations: Sequence[Operation], theta: Any, layers: int) -> list[str]:
    """The kind of each operation of a training step.

    The first products, one per layer, are the forward pass; from the last of them to the next product the loss works;
    between the others, activations.
    """
    products = [i for i, operation in enumerate(operations) if isinstance(operation, Gemm) and operation.out.size > 1]
    forward, last = products[:layers], products[-1]

    def kind(i: int, operation: Operation) -> str:
        if i in products:
            return "products"
        if any(np.may_share_memory(array, theta) for array in operation.writes):
            return "update"
        if isinstance(operation, Gather):
            return "gather"
        if forward[-1] < i < products[layers]:
            return "softmax and cost"
        if isinstance(operation, Reduce) and i > products[layers]:
            return "bias gradients"
        return "activation" if forward[0] < i < last else "the rest"

    return [kind(i, operation) for i, operation in enumerate(operations)]


def _timed(task: Any, kind: str, cells: list[list[float]]) -> Any:
    """The task, with its parts telling their time to cells of their own: threads run them side by side."""
    parts = task.calls
    task.calls = lambda *given: [_clocked(parts(*given), kind, cells)]
    return task


def _clocked(calls: list[Any], kind: str, cells: list[list[float]]) -> tuple[Any, tuple[Any, ...]]:
    cell = [float(KINDS.index(kind)), 0.0]
    cells.append(cell)
    return _run, (calls, cell, time.perf_counter)


def _run(calls: list[Any], cell: list[float], clock: Clock) -> None:
    started = clock()
    for function, arguments in calls:
        function(*arguments)
    cell[1] += clock() - started
