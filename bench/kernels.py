"""What a GPU runs in a training step: kernels by name, how often and how long, as PyTorch's profiler sees them.

The profiler reports every kernel of the process, also those that other libraries launch, alone or in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .cases import Case, Problem
from .peer import Peer

__all__ = ["kernels", "per_step", "recorded"]

_SHOWN = 12
"""Kernels that are told by name, those that take longest."""

_STEPS = 100
"""Steps that are looked at, at least."""

Events = Mapping[str, tuple[int, float]]
"""Of every kernel how often it ran and its microseconds, all together."""


def kernels(kind: type[Peer], case: Case, threads: int) -> dict[str, Any]:
    """Kernels of a step: ``count``, ``microseconds``, and ``names``, as `per_step` has them; on a CPU, PyTorch's calls.

    Args:
        kind: the peer; its interpreter has to have PyTorch.
        case: the network.
        threads: of the host.
    """
    import torch

    peer = kind(Problem.random(case), threads)
    peer.fit(1)
    activity = torch.profiler.ProfilerActivity.CUDA if case.on_gpu else torch.profiler.ProfilerActivity.CPU
    device = torch.autograd.DeviceType.CUDA if case.on_gpu else torch.autograd.DeviceType.CPU

    def seen(epochs: int) -> Events:
        peer.wait()
        with torch.profiler.profile(activities=[activity]) as run:
            peer.fit(epochs)
            peer.wait()
        averages = [event for event in run.key_averages() if event.device_type == device]
        return {
            event.key: (event.count, event.self_device_time_total if case.on_gpu else event.self_cpu_time_total)
            for event in averages
        }

    epochs = -(-_STEPS // case.batches)
    return per_step(seen(1), seen(1 + epochs), epochs * case.batches)


def per_step(short: Events, long: Events, steps: int) -> dict[str, Any]:
    """What the longer of two fits ran more, a step.

    Args:
        short, long: what ran in them.
        steps: between them.

    Returns:
        ``count`` of kernels and their ``microseconds``; ``names``: name, count and microseconds of those that take
        longest.
    """
    rows = []
    for name, (count, spent) in long.items():
        before = short.get(name, (0, 0.0))
        if count > before[0]:
            rows.append((name, (count - before[0]) / steps, (spent - before[1]) / steps))
    rows.sort(key=lambda row: -row[2])
    return {
        "count": _sum(row[1] for row in rows),
        "microseconds": _sum(row[2] for row in rows),
        "names": [list(row) for row in rows[:_SHOWN]],
    }


def _sum(values: Iterable[float]) -> float:
    return float(sum(values))


def recorded(kind: type[Peer], case: Case, threads: int) -> dict[str, Any]:
    """How many operations nnbp has recorded for its step, ``operations``; on a GPU several may be one kernel."""
    peer: Any = kind(Problem.random(case), threads)
    backend = peer.net.model.backend
    keep, lengths = backend.compile, [0]

    def compile(operations: list[Any], *others: Any) -> Any:
        lengths.append(len(operations))
        return keep(operations, *others)

    backend.compile = compile
    peer.fit(1)
    # The training step is the longest list that is compiled.
    return {"operations": max(lengths)}
