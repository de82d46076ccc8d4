"""A peer: one library's way to train the network of a problem, from NumPy to NumPy; and how peers are found."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .cases import Problem

REFERENCE = "nnbp"
"""The peer that the others are compared with."""

_FOLDER = Path(__file__).parent / "peers"


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
    def missing(cls, device: str) -> str | None:
        """Why it cannot run here on a device, and the command that mends it; None if it can."""
        absent = [name for name in cls.modules if find_spec(name) is None]
        if absent:
            return f"{', '.join(absent)} is not installed: python -m pip install {' '.join(cls.distributions)}"
        kind = device.partition(":")[0]
        return cls.lacks(device) if kind in cls.devices else f"it runs on {' and '.join(cls.devices)}, not on {kind}"

    @classmethod
    def lacks(cls, device: str) -> str | None:
        """Why the installed library cannot run on a device of its kinds; None if it can."""
        return None

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

    def epoch_order(self) -> NDArray[np.int64]:
        """The order of the samples in the next epoch: drawn, or as they are if the case is not shuffled."""
        samples = len(self.problem.X)
        return self.order.permutation(samples) if self.case.shuffle else np.arange(samples)

    def wait(self) -> None:  # noqa: B027 -- most have nothing to wait for
        """Waits until the device has done all its work; a CPU has when a call returns."""

    @abstractmethod
    def reset(self) -> None:
        """Goes back to the initial weights and a new optimizer; batches go on as they come."""

    @abstractmethod
    def fit(self, epochs: int) -> None:
        """Trains from where it stands, and reads the loss of each epoch as a training that is watched does."""

    @abstractmethod
    def loss(self) -> float:
        """Mean cross-entropy on the data."""

    @abstractmethod
    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        """Class indices (m,) of X (m, n_in)."""


def names(device: str | None = None) -> list[str]:
    """Names of all peers, or of those that run on such a device; nnbp first."""
    found = sorted(path.stem for path in _FOLDER.glob("[!_]*.py"))
    able = [name for name in found if device is None or device.partition(":")[0] in load(name).devices]
    return sorted(able, key=lambda name: name != REFERENCE)


def check_name(name: str) -> None:
    """Passes the name of a peer, or the path of a file that is there and ends in .py.

    Raises:
        ValueError: it is neither.
    """
    if name not in names() and not _is_file(name):
        raise ValueError(f"A peer is one of {', '.join(names())}, or a file that ends in .py; received {name!r}.")


def load(name: str) -> type[Peer]:
    """The class of a peer.

    Args:
        name: of a file in `peers/`; or the path of a file of one's own, which ends in .py and imports `Peer` from
            `bench.peer`.

    Raises:
        ValueError: there is not exactly one such class in the file.
    """
    module = _from_file(Path(name)) if _is_file(name) else import_module(f".peers.{name}", __package__)
    found = [
        item
        for item in vars(module).values()
        if inspect.isclass(item) and issubclass(item, Peer) and item.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ValueError(f"The file of a peer has one subclass of Peer; {module.__file__} has {len(found)}.")
    return found[0]


def _is_file(name: str) -> bool:
    return name.endswith(".py") and Path(name).is_file()


def _from_file(path: Path) -> ModuleType:
    spec = spec_from_file_location(f"bench_peer_{path.stem}", path)
    assert spec is not None, "a file has a spec"
    assert spec.loader is not None, "a file's spec has a loader"
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
