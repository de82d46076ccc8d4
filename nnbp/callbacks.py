"""Callbacks: what happens at the end of an epoch, and the history that training leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

__all__ = [
    "Callback",
    "EarlyStopping",
    "FunctionCallback",
    "History",
    "TrainingState",
    "early_stopping",
    "listed",
]


class History(Mapping[str, list[float]]):
    """One value an epoch of everything that was measured: ``history["loss"]``, ``history["val_loss"]``, …

    ``"loss"`` is J over the epoch: the mean of the costs of the batches as training met them, with the weight
    decay at the
    epoch's start, so that with the whole data set as one batch it is J before the epoch's update. ``"val_loss"`` is J
    of the validation data after the epoch; metrics are taken after the epoch.

    Attributes:
        best_epoch: epoch (from 1) whose weights the network holds, where validation chose them, else None.
        stopped: why training ended before its last epoch, or None.
        seconds: duration of training.
    """

    def __init__(self) -> None:
        self.values_by_name: dict[str, list[float]] = {}
        self.best_epoch: int | None = None
        self.stopped: str | None = None
        self.seconds = 0.0

    def append(self, values: Mapping[str, float]) -> None:
        """Adds an epoch."""
        for name, value in values.items():
            self.values_by_name.setdefault(name, []).append(value)

    @property
    def epochs(self) -> int:
        """Number of epochs that were run."""
        return len(self.values_by_name.get("loss", ()))

    def __getitem__(self, name: str) -> list[float]:
        if name not in self.values_by_name:
            raise KeyError(f"The history holds {', '.join(self.values_by_name) or 'nothing yet'}; received {name!r}.")
        return self.values_by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_name)

    def __len__(self) -> int:
        return len(self.values_by_name)

    def __repr__(self) -> str:
        last = ", ".join(f"{name}={values[-1]:.6g}" for name, values in self.values_by_name.items())
        return f"History({self.epochs} epochs, {self.seconds:.3g} s{', ' + last if last else ''})"


@dataclass
class TrainingState:
    """What a callback sees; setting `stop` to a reason ends training after this epoch.

    Attributes:
        network: the network in training.
        epoch: number of epochs done.
        epochs: number of epochs planned.
        logs: values of this epoch by name.
        history: values of all epochs.
        learning_rate: of the epoch's last step.
    """

    network: Any
    epochs: int
    history: History
    epoch: int = 0
    logs: dict[str, float] = field(default_factory=dict)
    learning_rate: float = 0.0
    stop: str | None = None


class Callback:
    """Base of callbacks; a plain function of the state serves as well and is called at the end of every epoch."""

    def on_train_begin(self, state: TrainingState) -> None:
        """Before the first epoch."""

    def on_epoch_end(self, state: TrainingState) -> None:
        """After every epoch, when its values are in `state.logs` and in the history."""

    def on_train_end(self, state: TrainingState) -> None:
        """After the last epoch, also when training fails."""


class FunctionCallback(Callback):
    """A plain function of the state, called after every epoch."""

    def __init__(self, function: Callable[[TrainingState], object]) -> None:
        self._function = function

    def on_epoch_end(self, state: TrainingState) -> None:
        self._function(state)


class EarlyStopping(Callback):
    """Ends training when a value has not become better for `patience` epochs.

    Args:
        patience: epochs without a better value.
        min_delta: by how much a value has to be lower to count as better.
        monitor: name of the value; None is ``"val_loss"`` where there is validation, else ``"loss"``.
    """

    def __init__(self, patience: int = 10, min_delta: float = 0.0, monitor: str | None = None) -> None:
        if patience < 1 or not min_delta >= 0:
            raise ValueError(
                "EarlyStopping takes patience, epochs without a better value, at least 1, and min_delta, at least 0; "
                f"received patience={patience!r}, min_delta={min_delta!r}."
            )
        self.patience, self.min_delta, self.monitor = patience, min_delta, monitor
        self.best, self.since = math.inf, 0

    def on_train_begin(self, state: TrainingState) -> None:
        self.best, self.since = math.inf, 0

    def on_epoch_end(self, state: TrainingState) -> None:
        name = self.monitor or ("val_loss" if "val_loss" in state.logs else "loss")
        if name not in state.logs:
            raise ValueError(
                f"EarlyStopping monitors {name!r}, but an epoch yields {', '.join(state.logs)}. Name one of these, or "
                "give validation data or metrics."
            )
        value = state.logs[name]
        if value < self.best - self.min_delta:
            self.best, self.since = value, 0
            return
        self.since += 1
        if self.since >= self.patience:
            state.stop = f"{name} has not gone below {self.best:.6g} for {self.patience} epochs"


def early_stopping(spec: object) -> EarlyStopping | None:
    """The EarlyStopping that this stands for: itself, its patience, True for the default; None or False for none.

    Raises:
        ValueError: for anything else.
    """
    if spec is None or spec is False or isinstance(spec, EarlyStopping):
        return spec or None
    if spec is True:
        return EarlyStopping()
    if not isinstance(spec, Integral):
        raise ValueError(
            f"early_stopping is an EarlyStopping, its patience in epochs, True, False or None; received {spec!r}."
        )
    return EarlyStopping(int(spec))


def listed(callbacks: Iterable[Any]) -> list[Callback]:
    """Callbacks as objects.

    Raises:
        TypeError: one is neither a Callback nor a function.
    """
    found = [callbacks] if callable(callbacks) or isinstance(callbacks, Callback) else list(callbacks)
    for item in found:
        if not isinstance(item, Callback) and (isinstance(item, type) or not callable(item)):
            raise TypeError(
                f"A callback is a Callback object, or a function of the TrainingState; received {item!r}. Write "
                "callbacks=[Mine()]."
            )
    return [item if isinstance(item, Callback) else FunctionCallback(item) for item in found]
