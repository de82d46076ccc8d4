"""Callbacks, which run at the end of an epoch, and the history that training returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from html import escape
from numbers import Integral
from typing import Any, ClassVar
from zlib import crc32

from nnbp.errors import MissingDependencyError
from nnbp.formatting import counted, shown
from nnbp.requirements import optional
from nnbp.training.curve import curve, inline_svg
from nnbp.validation import instance, items, not_negative, whole_number


class History(dict[str, list[float]]):
    """One value per epoch of every measured quantity: ``history["loss"]``, ``history["val_loss"]``, …

    ``"loss"`` is J over the epoch: the mean cost of the batches as training computed them, plus the weight decay at the
    start of the epoch. If the whole data set is one batch, it is therefore J before the epoch's update. ``"val_loss"``
    is J of the validation data after the epoch; metrics are measured after the epoch, too. Some optimizers add values
    of their own.

    Attributes:
        best_epoch: the epoch, counted from 1, whose weights the network holds if validation chose them, else None.
        stopped: the reason why training ended before its last epoch, or None.
        seconds: duration of training.
    """

    def __init__(self) -> None:
        super().__init__()
        self.best_epoch: int | None = None
        self.stopped: str | None = None
        self.seconds = 0.0

    def append(self, values: Mapping[str, float]) -> None:
        """Adds an epoch."""
        for name, value in values.items():
            self.setdefault(name, []).append(value)

    def logs(self) -> list[dict[str, float]]:
        """The values of each epoch by name."""
        return [dict(zip(self, values, strict=True)) for values in zip(*self.values(), strict=True)]

    @property
    def epochs(self) -> int:
        """Number of completed epochs."""
        return len(self.get("loss", ()))

    def plot(self) -> list[Any]:
        """Draws the loss and each metric by epoch, of training and validation; the best epoch is marked.

        A notebook shows the picture; in a script, call `matplotlib.pyplot.show()` or
        ``history.plot()[0].figure.savefig("curve.png")``.

        Returns:
            the axes, one for the loss and one for each metric.

        Raises:
            MissingDependencyError: matplotlib is not installed.
            ValueError: no epoch has ended.
        """
        if not self.epochs:
            raise ValueError("A history has a curve after its first epoch; received one without epochs. Train first.")
        figure = optional("matplotlib.pyplot", "drawing").figure()
        return list(curve(self, self.best_epoch, figure).axes)

    def __missing__(self, name: str) -> list[float]:
        raise KeyError(f"The history holds {', '.join(self) or 'nothing yet'}; received {name!r}.")

    def _repr_html_(self) -> str | None:
        """The curve and the last values, for notebooks; a table if there is no matplotlib, the text if no epoch."""
        if not self.epochs:
            return None
        label = f"Training curve of {counted(self.epochs, 'epoch')}"
        try:
            # The ids of two pictures of a notebook differ.
            picture = inline_svg(curve(self, self.best_epoch), label, f"h{crc32(repr(self).encode()):x}")
        except MissingDependencyError:
            from nnbp.html import table

            rows = [("", "first epoch", "last epoch")]
            rows += [(name, f"{values[0]:.6g}", f"{values[-1]:.6g}") for name, values in self.items()]
            return table(rows, left=[0], lines=[repr(self)])
        return f"{picture}\n<p>{escape(repr(self))}</p>"

    def __repr__(self) -> str:
        last = ", ".join(f"{name}={values[-1]:.6g}" for name, values in self.items())
        return f"History({self.epochs} epochs, {self.seconds:.3g} s{', ' + last if last else ''})"


@dataclass
class TrainingState:
    """The state that is passed to callbacks; setting `stop` to a reason ends training after this epoch.

    Attributes:
        network: the network in training.
        epochs: number of epochs planned.
        history: values of all epochs.
        epoch: number of epochs completed.
        logs: values of this epoch by name.
        learning_rate: of the epoch's last step; for rprop and lbfgs, which choose their own step sizes, the one that
            they were given.
        stop: the reason to end training, or None.
        greater_is_better: the names of the values that every epoch has, and whether larger values are better.
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
    """Base class of callbacks; a function of the state also works, and is called at the end of every epoch."""

    each_rank: ClassVar[bool] = False
    """Whether it is called on every rank of ``fit(comm=…)``, and not on rank 0 alone."""

    def on_train_begin(self, state: TrainingState) -> None:
        """Called before the first epoch; an error raised here ends training before anything has changed."""

    def on_train_resume(self, state: TrainingState) -> None:
        """Called after `on_train_begin` if training resumes from a checkpoint: the history has the past epochs."""

    def on_epoch_end(self, state: TrainingState) -> None:
        """Called after every epoch, when its values are in `state.logs` and in the history."""

    def on_train_end(self, state: TrainingState) -> None:
        """Called after the last epoch, even if training fails, but not if this object's `on_train_begin` failed."""


class FunctionCallback(Callback):
    """A function of the state that is called after every epoch."""

    def __init__(self, function: Callable[[TrainingState], object]) -> None:
        self._function = function

    def on_epoch_end(self, state: TrainingState) -> None:
        self._function(state)


class EarlyStopping(Callback):
    """Ends training when a value has not improved for `patience` epochs.

    A loss improves when it falls; the direction of a metric is given by its `greater_is_better`.

    Args:
        patience: number of epochs without an improvement, at least 1.
        min_delta: the smallest change that counts as an improvement.
        monitor: name of the value; None is ``"val_loss"`` if there is validation, else ``"loss"``.

    Raises:
        ValueError: an argument is out of range; or, at the start of training, no value has this name.
    """

    def __init__(self, patience: int = 10, min_delta: float = 0.0, monitor: str | None = None) -> None:
        self.patience = whole_number("The patience of EarlyStopping, epochs without a better value,", patience, 1)
        self.min_delta = not_negative("min_delta of EarlyStopping, by how much a value has to be better,", min_delta)
        rule = "the name of a value, such as 'val_loss', or None"
        self.monitor = None if monitor is None else instance("monitor of EarlyStopping", monitor, str, rule)
        self.best, self.since = math.nan, 0

    def on_train_begin(self, state: TrainingState) -> None:
        self._watched(state)
        self.best, self.since = math.nan, 0

    def on_train_resume(self, state: TrainingState) -> None:
        for logs in state.history.logs():
            self.on_epoch_end(replace(state, logs=logs))

    def on_epoch_end(self, state: TrainingState) -> None:
        name = self._watched(state)
        value, best = state.logs[name], self.best
        gain = value - best if state.greater_is_better[name] else best - value
        if math.isfinite(value) and (math.isnan(best) or gain > self.min_delta):
            self.best, self.since = value, 0
            return
        self.since += 1
        if self.since >= self.patience:
            what = "been a number" if math.isnan(best) else f"improved on {best:.6g}"
            state.stop = f"{name} has not {what} for {counted(self.patience, 'epoch')}"

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
    """The EarlyStopping for a specification: itself, its patience, True for the default; None or False for none.

    Raises:
        ValueError: the specification is none of these.
    """
    if spec is None or spec is False or isinstance(spec, EarlyStopping):
        return spec or None
    if spec is True:
        return EarlyStopping()
    if not isinstance(spec, Integral):
        raise ValueError(
            f"early_stopping is an EarlyStopping, its patience in epochs, True, False or None; received {shown(spec)}."
        )
    return EarlyStopping(int(spec))


def listed(callbacks: Any) -> list[Callback]:
    """The callbacks as Callback objects: of one or several; None is none.

    Raises:
        ValueError: this is no list.
        TypeError: an item is neither a Callback nor a function.
    """
    if callable(callbacks) or isinstance(callbacks, Callback):
        callbacks = [callbacks]
    rule = "a list of Callback objects and functions of the TrainingState"
    found = [] if callbacks is None else items("callbacks", callbacks, rule)
    for item in found:
        if not isinstance(item, Callback) and (isinstance(item, type) or not callable(item)):
            raise TypeError(
                f"A callback is a Callback object, or a function of the TrainingState; received {shown(item)}. Write "
                "callbacks=[Mine()]."
            )
    return [item if isinstance(item, Callback) else FunctionCallback(item) for item in found]


@contextmanager
def attending(callbacks: Sequence[Callback], state: TrainingState) -> Iterator[None]:
    """Begins the callbacks, and on exit ends every one that has begun, even after an error in the block or in another.

    The first error is raised; later errors are added to it as notes.
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
