"""Training: epochs, validation, the best weights, and the error if the loss becomes NaN or infinite."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from nnbp.engine.dataset import Dataset
from nnbp.engine.epoch import Epoch
from nnbp.engine.model import Model
from nnbp.engine.updater import OptimizerState, Updater
from nnbp.errors import DivergenceError
from nnbp.graph.ops import Array
from nnbp.metrics import Metric
from nnbp.optim.optimizers import Optimizer
from nnbp.optim.schedules import Constant, Schedule
from nnbp.training.callbacks import Callback, History, TrainingState, attending
from nnbp.validation import not_negative


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; all values are checked and resolved.

    Raises:
        ValueError: the optimizer supports no schedule or no clipping, or the bound on the norm is not positive.
    """

    epochs: int
    batch_size: int | None
    optimizer: Optimizer
    schedule: Schedule
    shuffle: bool = True
    clip_norm: float | None = None
    callbacks: Sequence[Callback] = ()

    def __post_init__(self) -> None:
        if not (self.optimizer.scheduled or isinstance(self.schedule, Constant)):
            raise ValueError(
                f"A schedule changes the learning rate of every step, and {self.optimizer.name} sets its steps itself; "
                f"received schedule {self.schedule!r}. Leave it out, or use adam."
            )
        if self.clip_norm is None:
            return
        if not_negative("clip_norm", self.clip_norm) == 0:
            raise ValueError(
                f"clip_norm is a positive bound on the gradient's norm, or None; received {self.clip_norm!r}."
            )
        if not self.optimizer.clippable:
            raise ValueError(
                f"{self.optimizer.name} builds its model of J on the gradient as it is, and clip_norm changes it; "
                "received both. Leave clip_norm out, or use adam."
            )


@dataclass(frozen=True)
class Evaluation:
    """Metrics on a data set.

    Args:
        data: the data set.
        truth: targets in the form that metrics take.
        predict: a function of inputs and a metric's `needs` that returns the outputs.
        metrics: the metrics to measure.

    Raises:
        ValueError: a metric has the name of another value.
    """

    data: Dataset
    truth: NDArray[Any]
    predict: Callable[[Array, str], NDArray[Any]]
    metrics: Sequence[Metric] = ()

    def __post_init__(self) -> None:
        names = [metric.name for metric in self.metrics]
        for name in names:
            if name == "loss" or name.startswith("val_") or names.count(name) > 1:
                raise ValueError(
                    "A metric has a name of its own in a history: not loss, not beginning with val_, and no other's; "
                    f"received metrics named {', '.join(names)}. Rename it; the name of a function is its __name__."
                )

    def values(self, prefix: str = "") -> dict[str, float]:
        """The value of every metric, by name."""
        outputs = {needs: self.predict(self.data.X, needs) for needs in {metric.needs for metric in self.metrics}}
        return {prefix + each.name: each(self.truth, outputs[each.needs], self.data.weights) for each in self.metrics}


class Trainer:
    """A training run: its epochs, and the parameters that it keeps.

    The constructor allocates all device memory that an epoch needs, so running out of memory changes nothing. It also
    evaluates every metric once, so that a metric that fails does so before the weights change.

    The engine's part of an epoch runs in the backend's context. User code (metrics, schedules, callbacks) runs outside
    of it, so that NumPy's warnings work there as usual.

    Args:
        model: the network; training changes its parameters in place.
        train: the data to learn from, with metrics.
        validation: the data by which the best weights are chosen, or None.
        options: how to train.
        state: the optimizer's state if training continues; None is a new one.
        piece: maximum number of validation samples that go through the network at once.
        objective: computes J of the current parameters on samples of the training data, for `run`.

    Attributes:
        before, after: J on these samples before and after `run`.

    Raises:
        DeviceMemoryError: the device does not have enough memory.
        Exception: a metric does not fit the data.
    """

    before = after = math.nan

    def __init__(
        self,
        model: Model,
        train: Evaluation,
        validation: Evaluation | None,
        options: TrainingOptions,
        *,
        state: OptimizerState | None = None,
        piece: int = 1,
        objective: Callable[[], float] = lambda: math.nan,
    ) -> None:
        self.objective = objective
        self.model, self.train, self.validation, self.options = model, train, validation, options
        self.state = OptimizerState() if state is None else state
        optimizer, samples = options.optimizer, len(train.data)
        size = samples if options.batch_size is None or optimizer.full_batch else min(options.batch_size, samples)
        theta, gradient, backend = model.parameters.theta, model.parameters.gradient, model.backend
        self.search = optimizer.search(
            theta, gradient, self._evaluate, backend.xp, lambda x: float(backend.download(x))
        )
        self.updater = None
        self.best_loss = math.inf
        with backend.active():
            if self.search is None:
                self.updater = Updater(model, optimizer, -(-samples // size), options.clip_norm, self.state)
            runs = options.epochs
            self.training_pass = Epoch(model, train.data, size, training=True, update=self.updater, runs=runs)
            self.check = None if validation is None else Epoch(model, validation.data, piece, runs=runs)
            # The parameters before training, at the end of the last epoch, and at that of the best one so far.
            self.initial = self.last = self.best = model.copied(theta)
            # Both are needed after every epoch. Their first call allocates memory, in cuBLAS too, so it is made here.
            model.norm(), model.decay()
        self._measured()

    def _measured(self) -> tuple[dict[str, float], dict[str, float]]:
        """The values of all metrics on the training data, and on the validation data."""
        return self.train.values(), {} if self.validation is None else self.validation.values("val_")

    def _greater_is_better(self) -> dict[str, bool]:
        """The names of an epoch's values, and whether larger values are better."""
        found = {"loss": False, **{metric.name: metric.greater_is_better for metric in self.train.metrics}}
        return found if self.validation is None else found | {f"val_{name}": found[name] for name in found}

    def begin(self, network: Any, history: History) -> None:
        """Calls `on_train_begin` of the callbacks; nothing has changed yet. `run` must follow.

        Args:
            network: the network that callbacks receive.
            history: receives the values of every epoch.
        """
        names = self._greater_is_better()
        with self.model.backend.active():
            self._rooms = [self.initial, self.model.copied(self.initial), self.model.copied(self.initial)]
        self.before = self.objective()
        self._status = TrainingState(network, self.options.epochs, history, greater_is_better=names)
        self._attended = ExitStack()
        self._attended.enter_context(attending(self.options.callbacks, self._status))

    def run(self) -> None:
        """Trains the model.

        Whatever ends training (even Ctrl-C, or an error in a metric or a callback), the network keeps the parameters of
        the best epoch if there is validation, else those of the last complete epoch. If training diverges, it keeps the
        initial parameters or those of the epoch with the lowest loss, whichever have the lower J. An optimizer that
        searches keeps the best that it has met.

        Raises:
            DivergenceError: a loss or a parameter becomes NaN or infinite.
        """
        status, options = self._status, self.options
        history = status.history
        with self._attended:
            started = time.perf_counter()
            warned, whole, diverged = False, False, False
            try:
                for number in range(options.epochs):
                    self._epoch(number, status)
                    self._keep(number, status)
                    observed = status.logs.get("val_loss", status.logs["loss"])
                    if not (warned or math.isfinite(observed)):
                        warned = True
                        # Points to the caller of `Network.fit`, past `fit` itself and the wrapper that takes its lock.
                        warnings.warn(_passed_over(number + 1, observed), RuntimeWarning, stacklevel=4)
                    options.schedule.observe(observed)
                    for callback in options.callbacks:
                        callback.on_epoch_end(status)
                    if status.stop:
                        history.stopped = status.stop
                        break
                whole = True
                self._leave(whole=True)
                self.after = self.objective()
                if self.after in (math.inf, -math.inf):
                    raise _divergence(self.epochs, self.after, self.rate, history)
            except DivergenceError:
                diverged = True
                raise
            finally:
                history.seconds = time.perf_counter() - started
                if diverged or not whole:
                    self._leave(whole=False, diverged=diverged)

    def run_once(self) -> None:
        """Runs one epoch from the current parameters."""
        with self.model.backend.active():
            self.initial[...] = self.model.parameters.theta
        try:
            self._epoch(0, TrainingState(None, 1, History(), greater_is_better=self._greater_is_better()))
        except BaseException:
            self._leave(whole=False)
            raise

    def take(self, data: Dataset, batch_size: int | None, state: OptimizerState) -> bool:
        """Replaces the training data; returns False if the shapes, the batch size or the optimizer's state differ."""
        if self.options.batch_size != batch_size or self.state is not state:
            return False
        own, arrays = self.train.data.arrays, data.arrays
        if [(array.shape, array.dtype) for array in own] != [(array.shape, array.dtype) for array in arrays]:
            return False
        for array, new in zip(own, arrays, strict=True):
            array[...] = new
        # The host's weights are replaced as well, because J divides by their sum.
        taken = replace(self.train.data, weights=data.weights)
        self.train = replace(self.train, data=taken)
        return True

    def _epoch(self, number: int, status: TrainingState) -> None:
        """Runs one epoch and adds its values to the status and the history."""
        loss, norm, status.learning_rate = self._learn(number)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise _divergence(number + 1, loss, status.learning_rate, status.history)
        measured, of_validation = self._measured()
        logs = {"loss": loss, **measured}
        if self.validation is not None:
            assert self.check is not None, "there is a validation pass if there are validation data"
            with self.model.backend.active():
                logs["val_loss"] = self._objective(self.check, self.validation.data)
            logs |= of_validation
        status.epoch, status.logs = number + 1, logs
        status.history.append(logs)

    def _keep(self, number: int, status: TrainingState) -> None:
        """Copies the parameters at the end of an epoch, and notes whether they are the best so far."""
        searches = self.search is not None and self.validation is None
        taken = (self.best, self.last if searches else self.initial)
        room = next(room for room in self._rooms if all(room is not other for other in taken))
        with self.model.backend.active():
            room[...] = self.model.parameters.theta
        before, self.last = self.last, room
        loss = status.logs.get("val_loss", status.logs["loss"])
        if -math.inf < loss < self.best_loss:
            # What a search returns is J before its step.
            self.best_loss, self.best = loss, before if searches else room
            if self.validation is not None:
                status.history.best_epoch = number + 1

    def _leave(self, *, whole: bool, diverged: bool = False) -> None:
        """Restores the parameters that training leaves, unless they are the present ones."""
        if self.validation is not None and self.best_loss < math.inf:
            kept = self.best
        elif self.search is not None:
            kept = self._lower(self.best, self.last)
        elif diverged:
            kept = self._lower(self.initial, self.best)
        elif whole:
            return
        else:
            kept = self.last
        self._restore(kept)

    def _restore(self, kept: Array) -> None:
        with self.model.backend.active():
            self.model.parameters.theta[...] = kept

    def _lower(self, first: Array, second: Array) -> Array:
        """Whichever of two vectors of parameters has the lower J."""
        if first is second:
            return first
        found = []
        for each in (first, second):
            self._restore(each)
            found.append(self.objective())
        return second if found[1] < found[0] or not math.isfinite(found[0]) else first

    @property
    def epochs(self) -> int:
        """The number of complete epochs."""
        return len(self._status.history.get("loss", ()))

    @property
    def steps(self) -> int:
        """The number of steps, or of evaluations of a search, about."""
        return self.epochs * (self.training_pass.steps if self.search is None else 20)

    @property
    def rate(self) -> float:
        """The last learning rate."""
        return self._status.learning_rate

    @property
    def decay(self) -> float:
        """The part of J that belongs to the weights."""
        with self.model.backend.active():
            return self.model.decay()

    def _learn(self, number: int) -> tuple[float, float, float]:
        """Runs the updates of an epoch and returns J over it, the final norm of theta and the last learning rate."""
        model, one_pass = self.model, self.training_pass
        eta = self.options.schedule.rates(self.options.optimizer.rate, number, one_pass.steps)
        with model.backend.active():
            if self.options.shuffle:
                one_pass.shuffle(model.order_generator)
            if self.search is not None:
                loss = self.search()
            else:
                assert self.updater is not None, "an optimizer that does not search works through an updater"
                # J of the epoch consists of the costs before each update and the decay before the first one.
                decay = model.decay()
                self.updater.begin(eta)
                one_pass.run()
                loss = model.objective(one_pass.total, self.train.data.weight, decay)
            return loss, model.norm(), float(eta[-1])

    def _evaluate(self) -> float:
        """J of the training data, and its gradient."""
        return self._objective(self.training_pass, self.train.data)

    def _objective(self, one_pass: Epoch, data: Dataset) -> float:
        """Runs a pass over a data set and returns J of the current parameters."""
        one_pass.run()
        return self.model.objective(one_pass.total, data.weight)


def _passed_over(epoch: int, loss: float) -> str:
    # Not an error: the training loss and the parameters are finite, and the next validation loss may be finite again.
    return (
        f"The validation loss of epoch {epoch} is {loss}, and only finite losses can choose the best weights. Epochs "
        "like this are skipped; if all are, the last weights are kept. Look for extreme values in the validation data, "
        "standardise them like the training data, or lower the learning rate."
    )


def _divergence(epoch: int, loss: float, rate: float, history: History) -> DivergenceError:
    what = f"a loss of {loss}" if not math.isfinite(loss) else "parameters that are too large or not finite"
    kept = "the initial ones"
    if history.best_epoch is not None:
        kept = f"those of epoch {history.best_epoch}"
    elif losses := history.get("loss"):
        kept += f", or those of epoch {1 + losses.index(min(losses))} if their J is lower"
    error = DivergenceError(
        f"Training diverged: epoch {epoch} ended with {what}, and the loss and the sum of squares of the parameters "
        f"must be finite in the network's dtype. The network keeps good parameters, {kept}. Lower the learning rate "
        f"(it was {rate:g}), give clip_norm=1.0, or standardise the inputs and targets."
    )
    error.history = history
    return error
