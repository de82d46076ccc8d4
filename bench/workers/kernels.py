"""What a GPU runs in a training step: kernels by name, how often and how long, as PyTorch's profiler sees them.

The profiler reports every kernel of the process, including those that other libraries launch, alone or in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..cases import Case, Problem
from ..peer import Peer

_SHOWN = 12
"""Kernels that are listed by name, those that take longest."""

_STEPS = 100
"""Steps that are looked at, at least."""

Events = Mapping[str, tuple[int, float]]
"""Of every kernel how often it ran, and its microseconds altogether."""


def kernels(kind: type[Peer], case: Case, threads: int) -> dict[str, Any]:
    """Kernels of a step of a case on a GPU, as `per_step` returns them.

    Args:
        kind: the peer; its interpreter must have PyTorch.
        case: the network.
        threads: of the host.
    """
    # Before the peer loads CUDA libraries of its own, as both bring some under the same names.
    import torch

    device = torch.autograd.DeviceType.CUDA
    peer = kind(Problem.random(case), threads)
    peer.fit(1)

    def seen(epochs: int) -> Events:
        peer.wait()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as run:
            peer.fit(epochs)
            peer.wait()
        events = [event for event in run.key_averages() if event.device_type == device]
        return {event.key: (event.count, event.self_device_time_total) for event in events}

    epochs = -(-_STEPS // case.batches)
    return per_step(seen(1), seen(1 + epochs), epochs * case.batches)


def per_step(short: Events, long: Events, steps: int) -> dict[str, Any]:
    """What the longer of two fits ran more, per step.

    Args:
        short, long: what ran in them.
        steps: between them.

    Returns:
        ``count`` of kernels and their ``microseconds``; ``names``: name, count and microseconds of those that take
        longest.
    """
    rows = []
    for name, (count, spent) in long.items():
        before, spent_before = short.get(name, (0, 0.0))
        if count > before:
            rows.append((name, (count - before) / steps, (spent - spent_before) / steps))
    rows.sort(key=lambda row: -row[2])
    return {
        "count": sum((row[1] for row in rows), 0.0),
        "microseconds": sum((row[2] for row in rows), 0.0),
        "names": rows[:_SHOWN],
    }
