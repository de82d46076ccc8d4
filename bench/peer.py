"""A peer: one library's way to train the network of a problem, from NumPy to NumPy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .cases import Problem

__all__ = ["Peer"]


class Peer(ABC):
    """A library at work on a problem. Adding one is a file in `peers/` with a subclass; its name is the file's.

    Attributes:
        label: as people know it.
        modules: what it imports.
        distributions: what pip installs for it, of which the versions are recorded.
        own_order: whether it draws batches and initial weights itself, so that its loss may differ.
        devices: kinds of devices that it runs on, cpu and cuda.

    Args:
        problem: data, initial weights, batch orders.
        threads: how many it may use.
    """

    label: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]
    distributions: ClassVar[tuple[str, ...]]
    own_order: ClassVar[bool] = False
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    def __init__(self, problem: Problem, threads: int) -> None:
        self.problem, self.case, self.threads = problem, problem.case, threads
        self.order = problem.orders()

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot run here, and the command that mends it; None where it can."""
        absent = [name for name in cls.modules if find_spec(name) is None]
        if not absent:
            return None
        return f"{', '.join(absent)} is not installed: python -m pip install {' '.join(cls.distributions)}"

    @classmethod
    def lacks(cls, device: str) -> str | None:
        """Why it cannot run on a device, where its library is there; None where it can."""
        kind = device.partition(":")[0]
        return None if kind in cls.devices else f"it runs on {' and '.join(cls.devices)}, not on {kind}"

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Versions of its distributions."""
        found = {}
        for name in (*cls.distributions, "numpy"):
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
        return found

    @classmethod
    def load(cls) -> None:
        """Imports what it needs."""
        for name in cls.modules:
            import_module(name)

    def epoch_order(self) -> NDArray[np.int64]:
        """The order of the samples in the next epoch: drawn, or as they are where the case is not shuffled."""
        samples = len(self.problem.X)
        return self.order.permutation(samples) if self.case.shuffle else np.arange(samples)

    def wait(self) -> None:  # noqa: B027 -- most have nothing to wait for
        """Waits until the device has done all that it was asked to; a CPU has, when a call returns."""

    @abstractmethod
    def reset(self) -> None:
        """Goes back to the initial weights and a new optimizer; batches go on as they come."""

    @abstractmethod
    def fit(self, epochs: int) -> None:
        """Trains from where it stands, and adds up the loss of each epoch as a training that is watched does."""

    @abstractmethod
    def loss(self) -> float:
        """Mean cross-entropy on the data."""

    @abstractmethod
    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        """Class indices (m,) of X (m, n_in)."""
