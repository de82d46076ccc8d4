"""The workers of a device: one per peer, started when first asked, replaced when one has died."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

from .process import Worker, WorkerError

T = TypeVar("T")

_PATIENCE = 120.0
"""Seconds that an answer may take if time is limited: the slowest is that of a compiler."""

_UNKNOWN = 25.0
"""Seconds that a case is expected to take before one has been measured."""

_RESERVE = 0.1
"""Share of the time that is left for what follows the cases."""


class Clock:
    """The time that there is, and what cases have taken of it.

    Args:
        budget: seconds; infinite if time is not limited.
        now: returns seconds.
    """

    def __init__(self, budget: float = math.inf, now: Callable[[], float] = time.monotonic) -> None:
        self.now, self.end, self.reserve = now, now() + budget, _RESERVE * budget
        self._spent: list[float] = []

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - self.now()

    def enough(self) -> bool:
        """Whether there is time for another case, and a reserve after it; it may take as long as the last three did."""
        if not self._spent:
            return self.left >= _UNKNOWN
        return self.left >= 1.25 * max(self._spent[-3:]) + self.reserve

    def timed(self, work: Callable[[], T]) -> T:
        """Does the work of a case, and notes how long that took."""
        started = self.now()
        found = work()
        self._spent.append(self.now() - started)
        return found


class Team:
    """The workers of the peers, and "", one without a peer.

    Args:
        peers: names or files.
        threads: of each.
        pythons: the interpreters of peers that have one of their own.
        device: that all work on.
        clock: when it has run out, workers are ended.

    Attributes:
        facts: what each peer is; one that cannot be asked, or cannot run on the device, has a reason in ``missing``.
        present: the peers that can run.
    """

    def __init__(
        self,
        peers: Sequence[str],
        threads: int,
        pythons: Mapping[str, str] | None = None,
        *,
        device: str = "cpu",
        clock: Clock | None = None,
    ) -> None:
        self.threads, self.pythons, self.device = threads, dict(pythons or {}), device
        self._clock = clock or Clock()
        self._workers: dict[str, Worker] = {}
        try:
            self.facts = self.each(peers, self._described)
        except BaseException:
            self.close()
            raise
        self.present = [peer for peer in peers if self.facts[peer]["missing"] is None]

    def _described(self, peer: str) -> dict[str, Any]:
        try:
            facts: dict[str, Any] = self.ask(peer, "describe", device=self.device)
        except WorkerError as error:
            facts = {"label": peer, "missing": str(error), "versions": {}, "own_order": False}
        if facts["missing"] is not None:
            self._dismiss(peer)
        return facts

    def each(self, peers: Sequence[str], ask: Callable[[str], T]) -> dict[str, T]:
        """What each peer's worker gives: one after the other on a CPU, which they share, else all at the same time."""
        if self.device == "cpu" or not peers:
            return {peer: ask(peer) for peer in peers}
        with ThreadPoolExecutor(len(peers)) as pool:
            try:
                return dict(zip(peers, pool.map(ask, peers), strict=True))
            except BaseException:
                # The pool waits for its threads, and they for answers.
                for worker in list(self._workers.values()):
                    worker.kill()
                raise

    def ask(self, peer: str, do: str, **what: Any) -> Any:
        """Asks a peer's worker.

        Raises:
            WorkerError: it answered with an error, died, or had no time left.
        """
        worker = self._workers.get(peer)
        if worker is None or not worker.alive:
            self._dismiss(peer)
            worker = self._workers[peer] = self.alone(peer)
        return worker.ask(do, **what)

    def alone(self, peer: str) -> Worker:
        """A new worker that does nothing else, for the caller to close."""
        return Worker(peer, threads=self.threads, python=self.python(peer), limit=self._limit)

    def python(self, peer: str) -> str:
        """The interpreter of a peer."""
        return self.pythons.get(peer, sys.executable)

    def _limit(self) -> float:
        left = self._clock.left
        return left if left == math.inf else max(0.0, min(_PATIENCE, left))

    def _dismiss(self, peer: str) -> None:
        worker = self._workers.pop(peer, None)
        if worker is not None:
            worker.close()

    def close(self) -> None:
        """Ends all workers."""
        for peer in list(self._workers):
            self._dismiss(peer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
