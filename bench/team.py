"""The workers of a run: one a peer, started when first asked, replaced when one has died."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from .process import Worker, WorkerError

__all__ = ["REFERENCE", "Team", "rotated"]

REFERENCE = "nnbp"
"""The peer that the others are compared with."""

_REST = 0.05
"""Seconds before a measurement, in which the threads that others have left waiting for work fall asleep."""


class Team:
    """The workers of the peers, and one without a peer.

    Args:
        peers: names or files.
        threads: of each.
        pythons: the interpreter of a peer, where it is another one.
    """

    def __init__(self, peers: Sequence[str], threads: int, pythons: Mapping[str, str]) -> None:
        self.peers, self.threads, self.pythons = list(peers), threads, dict(pythons)
        self._workers: dict[str | None, Worker] = {}
        self.facts: dict[str, dict[str, Any]] = {}

    def describe(self) -> dict[str, dict[str, Any]]:
        """What each peer is; one that cannot be asked is missing."""
        for peer in self.peers:
            try:
                self.facts[peer] = self.ask(peer, "describe")
            except WorkerError as error:
                self.facts[peer] = {"label": peer, "missing": str(error), "versions": {}, "own_order": False}
            if self.facts[peer]["missing"] is not None:
                self.dismiss(peer)
        return self.facts

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
        return Worker(peer, threads=self.threads, python=self.python(peer))

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
