"""Where nnbp's training step spends its time: the calls of NumPy by kind, as the step runs, on all its threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .cases import Case, Problem
from .peers.nnbp import Nnbp

__all__ = ["KINDS", "kinds", "profile"]

KINDS = ("products", "activation", "softmax and cost", "bias gradients", "gather", "update", "the rest")

_LEAST_EPOCHS = 2

Clock = Callable[[], float]


def profile(case: Case, threads: int, seconds: float) -> dict[str, Any]:
    """Seconds of a step by kind, summed over threads, and of the step as a whole, over about so many seconds.

    What is measured is a public `fit`. Only the backend's `capture`, which receives the step as a list of operations,
    is stood in for, so that every operation tells its time; that costs about 0.2 µs a call.
    """
    peer = Nnbp(Problem.random(case), threads)
    started = time.perf_counter()
    peer.fit(_LEAST_EPOCHS)
    epochs = max(_LEAST_EPOCHS, round(_LEAST_EPOCHS * seconds / (time.perf_counter() - started)))
    backend = peer.net.model.backend
    theta, layers, keep = peer.net.model.parameters.theta, len(case.sizes) - 1, backend.capture
    steps: list[tuple[list[str], list[list[float]]]] = []

    def capture(calls: list[Any], times: int = 1, runs: int = 1) -> Callable[[], None]:
        # The training step is the longest list; others are single products.
        found = kinds(calls, theta, layers) if len(calls) > layers else ["the rest"] * len(calls)
        cells: list[list[float]] = []
        steps.append((found, cells))
        return keep([_timed(call, kind, cells) for call, kind in zip(calls, found, strict=True)], times)

    backend.capture = capture  # type: ignore[method-assign]
    started = time.perf_counter()
    peer.fit(epochs)
    wall = time.perf_counter() - started
    found, cells = max(steps, key=lambda step: len(step[0]))
    count = epochs * case.batches
    totals = dict.fromkeys(KINDS, 0.0)
    for index, spent in cells:
        totals[KINDS[int(index)]] += spent / count
    return {"kinds": totals, "step": wall / count, "operations": len(found)}


def kinds(calls: list[Any], theta: Any, layers: int) -> list[str]:
    """The kind of each operation of a recorded training step.

    The first products, one a layer, are the way forward; from the last of them to the next product the loss works;
    between the others, activations.
    """
    operations = [call[0] for call in calls]
    products = [i for i, operation in enumerate(operations) if _is_gemm(operation) and not _is_sum(operation)]
    forward, last = products[:layers], products[-1]

    def kind(i: int, operation: Any) -> str:
        if i in products:
            return "products"
        writes = getattr(operation, "writes", ())
        if any(np.may_share_memory(array, theta) for array in writes):
            return "update"
        if type(operation).__name__ == "Gather":
            return "gather"
        if forward[-1] < i < products[layers]:
            return "softmax and cost"
        if _is_gemm(operation) and i > products[layers]:
            return "bias gradients"
        return "activation" if forward[0] < i < last else "the rest"

    return [kind(i, operation) for i, operation in enumerate(operations)]


def _is_gemm(operation: Any) -> bool:
    return type(operation).__name__ == "Gemm"


def _is_sum(gemm: Any) -> bool:
    return 1 in gemm.writes[0].shape


def _timed(call: tuple[Any, tuple[Any, ...]], kind: str, cells: list[list[float]]) -> tuple[Any, tuple[Any, ...]]:
    """The call, with its parts telling their time to cells of their own: threads run them side by side."""
    operation = call[0]
    if not hasattr(operation, "calls"):
        return _clocked([call], kind, cells)
    parts = operation.calls
    operation.calls = lambda *given: [_clocked(parts(*given), kind, cells)]
    return call


def _clocked(calls: list[Any], kind: str, cells: list[list[float]]) -> tuple[Any, tuple[Any, ...]]:
    cell = [float(KINDS.index(kind)), 0.0]
    cells.append(cell)
    return _run, (calls, cell, time.perf_counter)


def _run(calls: list[Any], cell: list[float], clock: Clock) -> None:
    started = clock()
    for function, arguments in calls:
        function(*arguments)
    cell[1] += clock() - started
