"""A worker: one library in a process of its own. Commands and answers are lines of JSON on its standard streams."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from . import peers
from .cases import Case, Problem
from .peer import Peer
from .timing import median_seconds

__all__ = ["Session", "main"]


class Session:
    """The commands. Each takes and returns plain JSON values; times are in seconds.

    Args:
        threads: how many a library may use.
        peer: name or file of the peer; None where there is none, for the limit and the environment.
    """

    def __init__(self, threads: int, peer: str | None) -> None:
        self.threads, self.name = threads, peer
        self.peer: Peer | None = None

    @property
    def kind(self) -> type[Peer]:
        """The class of the peer."""
        assert self.name is not None, "a command about a peer goes to a worker that has one"
        return peers.load(self.name)

    @property
    def ready(self) -> Peer:
        """The peer at its problem."""
        assert self.peer is not None, "a case is prepared before it is measured"
        return self.peer

    def describe(self, device: str = "cpu") -> dict[str, Any]:
        """What the peer is, its versions, and why it cannot run on a device if it cannot."""
        kind = self.kind
        return {
            "label": kind.label,
            "missing": kind.missing() or kind.lacks(device),
            "versions": kind.versions(),
            "own_order": kind.own_order,
            "python": sys.version.split()[0],
        }

    def prepare(self, case: dict[str, Any], seed: int) -> dict[str, Any]:
        """Makes the problem and the peer; what was prepared before is forgotten first."""
        self.peer = None
        # Peers hold themselves, in functions of theirs; a GPU's memory shall not fill up with earlier cases.
        gc.collect()
        self.peer = self.kind(Problem.random(Case.load(case), seed), self.threads)
        return {}

    def check(self, epochs: int) -> dict[str, Any]:
        """Trains for a few epochs from the initial weights: the loss on the data then."""
        self.ready.fit(epochs)
        return {"loss": self.ready.loss()}

    def calibrate(self, seconds: float) -> dict[str, Any]:
        """Epochs that take about so many seconds beside the set-up of a fit, at least 1; a warm-up at the same time."""
        epochs = 1
        while True:
            times = self.measure(epochs)
            spent = times["long"] - times["short"]
            if spent >= seconds / 4:
                return {"epochs": max(1, round(epochs * seconds / spent))}
            epochs *= 2

    def measure(self, epochs: int) -> dict[str, Any]:
        """Times of a short fit, one epoch, and of one that is so many epochs longer."""
        return {"short": self._fit(1), "long": self._fit(1 + epochs)}

    def _fit(self, epochs: int) -> float:
        self.ready.reset()
        self.ready.wait()
        started = time.perf_counter()
        self.ready.fit(epochs)
        self.ready.wait()
        return time.perf_counter() - started

    def infer(self, batch: int, seconds: float) -> dict[str, Any]:
        """Median time of a prediction of so many rows."""
        X = self.ready.problem.queries(batch)
        return {"seconds": median_seconds(lambda: self.ready.predict(X), seconds)}

    def limit(self, case: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Times of the products of a step alone; see `bench.limits` and `bench.device_limits`."""
        loaded = Case.load(case)
        if loaded.on_gpu:
            from .device_limits import limit as device_limit

            return device_limit(loaded, seconds)
        from .limits import limit

        return limit(loaded, self.threads, seconds)

    def profile(self, case: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Shares of nnbp's step; see `bench.profile`."""
        from .profile import profile

        return profile(Case.load(case), self.threads, seconds)

    def kernels(self, case: dict[str, Any]) -> dict[str, Any]:
        """What the device runs in a step of the peer; see `bench.kernels`."""
        from .kernels import kernels

        return kernels(self.kind, Case.load(case), self.threads)

    def recorded(self, case: dict[str, Any]) -> dict[str, Any]:
        """How many operations nnbp's step has; see `bench.kernels`."""
        from .kernels import recorded

        return recorded(self.kind, Case.load(case), self.threads)

    def memory(self, case: dict[str, Any], epochs: int, data: str | None) -> dict[str, Any]:
        """Memory and time of a whole fit; see `bench.memory`."""
        from .memory import whole_fit

        return whole_fit(self.kind, Case.load(case), epochs, self.threads, data)

    def environment(self, device: str = "cpu") -> dict[str, Any]:
        """Facts about the machine; see `bench.environment`."""
        from .environment import environment

        return environment(self.threads, device)

    def answer(self, do: str, **what: Any) -> dict[str, Any]:
        """Does a command; an error is an answer, too."""
        commands: tuple[Callable[..., dict[str, Any]], ...] = (
            self.describe, self.prepare, self.check, self.calibrate, self.measure, self.infer, self.limit,
            self.profile, self.kernels, self.recorded, self.memory, self.environment,
        )  # fmt: skip
        try:
            return {command.__name__: command for command in commands}[do](**what)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}


def main(arguments: Sequence[str]) -> int:
    """Answers until there are no more commands.

    Args:
        arguments: number of threads, and the peer if there is one.
    """
    threads = int(arguments[0])
    _take_cores(threads)
    session = Session(threads, arguments[1] if len(arguments) > 1 else None)
    # What libraries print must not stand among the answers.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            print(json.dumps(session.answer(**json.loads(line))), file=answers, flush=True)
    return 0


def _take_cores(threads: int) -> None:
    """Leaves this process as many cores as threads: some libraries take no other advice."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if threads < len(cores):
            os.sched_setaffinity(0, cores[:threads])
