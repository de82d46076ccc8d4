"""Callbacks: what happens at the end of an epoch, and the history that training leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from nnbp.validation import not_negative, whole_number


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
        epochs: number of epochs planned.
        history: values of all epochs.
        epoch: number of epochs done.
        logs: values of this epoch by name.
        learning_rate: of the epoch's last step; of rprop and lbfgs, which set their steps themselves, the one they were
            given.
        stop: why to end training.
        greater_is_better: the names of the values that every epoch has, and whether a larger one is a better one.
    """

    network: Any
    epochs: int
    history: History
    epoch: int = 0
    logs: dict[str, float] = field(default_factory=dict)
    learning_rate: float = 0.0
    stop: str | None = None
    greater_is_better: Mapping[str, bool] = field(default_factory=lambda: {"loss": False})


class Callback:
    """Base of callbacks; a plain function of the state serves as well and is called at the end of every epoch."""

    def on_train_begin(self, state: TrainingState) -> None:
        """Before the first epoch; an error that is raised here ends the training before anything has changed."""

    def on_epoch_end(self, state: TrainingState) -> None:
        """After every epoch, when its values are in `state.logs` and in the history."""

    def on_train_end(self, state: TrainingState) -> None:
        """After the last epoch, also when training fails; not after an error in this object's `on_train_begin`."""


class FunctionCallback(Callback):
    """A plain function of the state, called after every epoch."""

    def __init__(self, function: Callable[[TrainingState], object]) -> None:
        self._function = function

    def on_epoch_end(self, state: TrainingState) -> None:
        self._function(state)


class EarlyStopping(Callback):
    """Ends training when a value has not become better for `patience` epochs.

    A loss is better when it is lower; a metric, as its `greater_is_better` says.

    Args:
        patience: epochs without a better value, at least 1.
        min_delta: by how much a value has to be better to count.
        monitor: name of the value; None is ``"val_loss"`` where there is validation, else ``"loss"``.

    Raises:
        ValueError: an argument is out of its range; and at the begin of training, if no value has the name.
    """

    def __init__(self, patience: int = 10, min_delta: float = 0.0, monitor: str | None = None) -> None:
        self.patience = whole_number("The patience of EarlyStopping, epochs without a better value,", patience, 1)
        self.min_delta = not_negative("min_delta of EarlyStopping, by how much a value has to be better,", min_delta)
        self.monitor = monitor
        self.best, self.since = math.nan, 0

    def on_train_begin(self, state: TrainingState) -> None:
        self._watched(state)
        self.best, self.since = math.nan, 0

    def on_epoch_end(self, state: TrainingState) -> None:
        name = self._watched(state)
        value, best = state.logs[name], self.best
        gain = value - best if state.greater_is_better[name] else best - value
        if math.isfinite(value) and (math.isnan(best) or gain > self.min_delta):
            self.best, self.since = value, 0
            return
        self.since += 1
        if self.since >= self.patience:
            than = "a number" if math.isnan(best) else f"better than {best:.6g}"
            state.stop = f"{name} has not become {than} for {self.patience} epochs"

    def _watched(self, state: TrainingState) -> str:
        """The name of the value to watch."""
        names = state.greater_is_better
        name = self.monitor or ("val_loss" if "val_loss" in names else "loss")
        if name not in names:
            raise ValueError(
                f"EarlyStopping monitors a value that every epoch has, here {', '.join(names)}; received "
                f"monitor={name!r}. Name one of these, or give validation data or metrics."
            )
        return name


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


@contextmanager
def attending(callbacks: Sequence[Callback], state: TrainingState) -> Iterator[None]:
    """Begins the callbacks, and ends all that have begun, whatever happens in between, or in the end of one of them.

    The first error is the one that is raised; what goes wrong after it is noted on it.
    """
    begun: list[Callback] = []
    failure: BaseException | None = None
    try:
        for callback in callbacks:
            callback.on_train_begin(state)
            begun.append(callback)
        yield
    except BaseException as error:
        failure = error
    for callback in begun:
        try:
            callback.on_train_end(state)
        except BaseException as error:
            if failure is None:
                failure = error
            else:
                failure.add_note(f"After it, on_train_end of {type(callback).__name__} failed: {error!r}")
    if failure is not None:
        raise failure
