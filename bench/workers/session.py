"""A worker: one library in a process of its own. Commands and answers are lines of JSON on its standard streams."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from .. import peer as peers
from ..cases import Case, Problem
from ..peer import Peer
from . import kernels, limits, memory
from .timing import seconds_per_call

_ATTEMPTS = 3


class Session:
    """The commands. Each takes and returns plain JSON values; times are in seconds.

    Args:
        threads: how many a library may use.
        name: name or file of the peer; "" for a session that measures the limit.
    """

    def __init__(self, threads: int, name: str = "") -> None:
        self.threads, self.name = threads, name
        self.peer: Any = None
        self.epochs = 0
        """How much longer the long fit of `step` is; 0 until the first one."""

    @property
    def kind(self) -> type[Peer]:
        """The class of the peer."""
        return peers.load(self.name)

    def describe(self, device: str) -> dict[str, Any]:
        """What the peer is, its versions, and why it cannot run on a device if it cannot."""
        kind = self.kind
        return {
            "label": kind.label,
            "missing": kind.missing(device),
            "versions": kind.versions(),
            "own_order": kind.own_order,
            "python": sys.version.split()[0],
        }

    def prepare(self, case: dict[str, Any], epochs: int) -> float:
        """Makes the problem and the peer that the following commands are about, and trains for a few epochs.

        Returns:
            the loss on the data then.
        """
        self.peer, self.epochs = None, 0
        # Peers hold themselves, in functions of theirs, and earlier ones must not fill the memory of a GPU.
        gc.collect()
        self.peer = self.kind(Problem.random(Case.load(case)), self.threads)
        self.peer.fit(epochs)
        return float(self.peer.loss())

    def step(self, seconds: float) -> float:
        """Time of a training step: (T(long fit) − T(short fit)) / (steps between); the set-up of a fit cancels out.

        Args:
            seconds: that the long fit is to be longer, about. The first call finds out how many epochs that takes,
                which is a warm-up at the same time.

        Raises:
            ValueError: the long fit took no longer, several times.
        """
        if not self.epochs:
            self.epochs = self._calibrated(seconds)
        steps: int = self.epochs * self.peer.case.batches
        for _ in range(_ATTEMPTS):
            short, long = self._fit(1), self._fit(1 + self.epochs)
            # Another program may have slowed the short fit down beyond the long one.
            if long > short:
                return (long - short) / steps
        raise ValueError(
            f"A fit of {steps} more steps takes longer; it took {long:.3g} s, the short one {short:.3g} s. The "
            "machine is busy, or the fits are too short: give more --seconds."
        )

    def _calibrated(self, seconds: float) -> int:
        epochs = 1
        while True:
            short, long = self._fit(1), self._fit(1 + epochs)
            if long - short >= seconds / 4:
                return max(1, round(epochs * seconds / (long - short)))
            epochs *= 2

    def _fit(self, epochs: int) -> float:
        self.peer.reset()
        self.peer.wait()
        started = time.perf_counter()
        self.peer.fit(epochs)
        self.peer.wait()
        return time.perf_counter() - started

    def infer(self, batch: int, seconds: float) -> float:
        """Time of a prediction of so many rows."""
        X = self.peer.problem.queries(batch)
        return seconds_per_call(lambda: self.peer.predict(X), seconds)

    def limit(self, case: dict[str, Any], way: str, seconds: float) -> float:
        """Time of the products of a step alone; see `bench.workers.limits`."""
        return limits.limit(Case.load(case), way, self.threads, seconds)

    def parts(self, seconds: float) -> dict[str, Any]:
        """What nnbp's step consists of; see `bench.peers.nnbp`."""
        parts: dict[str, Any] = self.peer.parts(seconds)
        return parts

    def kernels(self, case: dict[str, Any]) -> dict[str, Any]:
        """What a GPU runs in a step of the peer; see `bench.workers.kernels`."""
        return kernels.kernels(self.kind, Case.load(case), self.threads)

    def memory(self, case: dict[str, Any], epochs: int) -> dict[str, Any]:
        """Memory and time of a whole fit; see `bench.workers.memory`."""
        return memory.whole_fit(self.kind, Case.load(case), epochs, self.threads)

    def reply(self, do: str, **what: Any) -> dict[str, Any]:
        """Does a command: its ``answer``, or its ``error``."""
        try:
            return {"answer": getattr(self, do)(**what)}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}


def main(arguments: Sequence[str]) -> int:
    """Answers until there are no more commands.

    Args:
        arguments: number of threads, and the peer if there is one.
    """
    session = Session(int(arguments[0]), *arguments[1:])
    _take_cores(session.threads)
    # What libraries print must not stand among the answers.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            print(json.dumps(session.reply(**json.loads(line))), file=answers, flush=True)
    return 0


def _take_cores(threads: int) -> None:
    """Leaves this process as many cores as threads: some libraries take no other advice."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if threads < len(cores):
            os.sched_setaffinity(0, cores[:threads])
