"""The workers of a run: one a peer, started when first asked, replaced when one has died."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from .process import Worker, WorkerError

__all__ = ["REFERENCE", "Team", "rotated"]

REFERENCE = "nnbp"
"""The peer that the others are compared with."""

_REST = 0.05
"""Seconds before a measurement, in which the threads that others have left waiting for work fall asleep."""


T = TypeVar("T")


class Team:
    """The workers of the peers, and one without a peer.

    Args:
        peers: names or files.
        threads: of each.
        pythons: the interpreter of a peer, where it is another one.
        device: that all work on.
        patience, deadline: of every worker; see `Worker`.
    """

    def __init__(
        self,
        peers: Sequence[str],
        threads: int,
        pythons: Mapping[str, str],
        *,
        device: str = "cpu",
        patience: float | None = None,
        deadline: float | None = None,
    ) -> None:
        self.peers, self.threads, self.pythons, self.device = list(peers), threads, dict(pythons), device
        self.patience, self.deadline = patience, deadline
        self._workers: dict[str | None, Worker] = {}
        self.facts: dict[str, dict[str, Any]] = {}

    def describe(self) -> dict[str, dict[str, Any]]:
        """What each peer is; one that cannot be asked is missing."""

        def asked(peer: str) -> dict[str, Any]:
            try:
                return self.ask(peer, "describe", device=self.device)
            except WorkerError as error:
                return {"label": peer, "missing": str(error), "versions": {}, "own_order": False}

        self.facts = self.each(self.peers, asked)
        for peer in self.peers:
            if self.facts[peer]["missing"] is not None:
                self.dismiss(peer)
        return self.facts

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

    @property
    def present(self) -> list[str]:
        """The peers that can run."""
        return [peer for peer in self.peers if self.facts[peer]["missing"] is None]

    def ask(self, peer: str | None, do: str, **what: Any) -> dict[str, Any]:
        """Asks a peer's worker.

        Raises:
            WorkerError: it answered with an error, or died.
        """
        worker = self._workers.get(peer)
        if worker is None or not worker.alive:
            self.dismiss(peer)
            worker = self._workers[peer] = self.fresh(peer)
        return worker.ask(do, **what)

    def time(self, peer: str | None, do: str, **what: Any) -> dict[str, Any]:
        """Asks for a measurement, after a short rest."""
        time.sleep(_REST)
        return self.ask(peer, do, **what)

    def fresh(self, peer: str | None) -> Worker:
        """A new worker of a peer, for the caller to close."""
        return Worker(
            peer, threads=self.threads, python=self.python(peer), patience=self.patience, deadline=self.deadline
        )

    def python(self, peer: str | None) -> str:
        """The interpreter of a peer."""
        return self.pythons.get(peer, sys.executable) if peer is not None else sys.executable

    def dismiss(self, peer: str | None) -> None:
        """Ends a peer's worker, if there is one."""
        worker = self._workers.pop(peer, None)
        if worker is not None:
            worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for peer in list(self._workers):
            self.dismiss(peer)


def rotated(peers: Sequence[Any], rounds: int) -> Iterator[list[Any]]:
    """The order of each round: everyone is first, second, … in turn."""
    for number in range(rounds):
        at = number % len(peers) if peers else 0
        yield [*peers[at:], *peers[:at]]
