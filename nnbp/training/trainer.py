"""Training: epochs, validation, the best weights, and what to do when the loss is no number any more."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.engine.dataset import Dataset
from nnbp.engine.epoch import Epoch
from nnbp.engine.model import Model
from nnbp.engine.updater import OptimizerState, Updater
from nnbp.errors import DivergenceError
from nnbp.graph.ops import Array
from nnbp.metrics import Metric
from nnbp.optim.lbfgs import LBFGS
from nnbp.optim.optimizers import Optimizer
from nnbp.optim.schedules import Constant, Schedule
from nnbp.training.callbacks import Callback, EarlyStopping, History, TrainingState, attending

__all__ = ["Measured", "Ongoing", "Trainer", "TrainingOptions", "prepared", "train"]

_KEPT = 2**20
"""Elements, of data and layers, that a call of `Ongoing` may leave prepared for the next one."""


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; all values are checked and resolved.

    Raises:
        ValueError: there is a schedule, and the optimizer takes none.
    """

    epochs: int
    batch_size: int | None
    optimizer: Optimizer
    schedule: Schedule
    shuffle: bool = True
    clip_norm: float | None = None
    early_stopping: EarlyStopping | None = None
    callbacks: Sequence[Callback] = ()

    def __post_init__(self) -> None:
        if not (self.optimizer.scheduled or isinstance(self.schedule, Constant)):
            raise ValueError(
                f"A schedule changes the learning rate of every step, and {self.optimizer.name} sets its steps itself; "
                f"received schedule {self.schedule!r}. Leave it out, or use adam."
            )


@dataclass(frozen=True)
class Measured:
    """A data set with the targets, weights and predictions that metrics need, on the host.

    Raises:
        ValueError: a metric has the name of another value.
    """

    data: Dataset
    y: NDArray[Any]
    w: NDArray[Any] | None
    predict: Callable[[Array, str], NDArray[Any]]
    metrics: Sequence[Metric]

    def __post_init__(self) -> None:
        names = [metric.name for metric in self.metrics]
        for name in names:
            if name == "loss" or name.startswith("val_") or names.count(name) > 1:
                raise ValueError(
                    "A metric has a name of its own in a history: not loss, not beginning with val_, and no other's; "
                    f"received metrics named {', '.join(names)}. Rename it; the name of a function is its __name__."
                )

    def values(self, prefix: str) -> dict[str, float]:
        """Every metric."""
        outputs: dict[str, NDArray[Any]] = {}
        found = {}
        for metric in self.metrics:
            if metric.needs not in outputs:
                outputs[metric.needs] = self.predict(self.data.X, metric.needs)
            found[prefix + metric.name] = metric(self.y, outputs[metric.needs], self.w)
        return found


class Trainer:
    """The epochs of a training run and the parameters that it keeps.

    All device memory that training takes in every epoch is taken here: where it does not suffice, nothing has changed.

    The engine's part of an epoch runs in the backend's context, and what is the user's (metrics, schedules, callbacks)
    outside of it, so that NumPy warns there as it does elsewhere.
    """

    def __init__(
        self,
        model: Model,
        train: Measured,
        validation: Measured | None,
        options: TrainingOptions,
        state: OptimizerState,
    ) -> None:
        self.model, self.train, self.validation, self.options = model, train, validation, options
        optimizer, samples = options.optimizer, len(train.data)
        size = samples if options.batch_size is None or optimizer.full_batch else min(options.batch_size, samples)
        self.lbfgs = optimizer if isinstance(optimizer, LBFGS) else None
        self.updater = None
        self.weight = _weight(train)
        self.best_loss = math.inf
        with model.backend.active():
            if self.lbfgs is None:
                self.updater = Updater(model.engine, optimizer, -(-samples // size), options.clip_norm, state)
            else:
                self.memory = self.lbfgs.memory()
            runs = options.epochs
            self.training_pass = Epoch(model.engine, train.data, size, training=True, update=self.updater, runs=runs)
            self.check = None if validation is None else Epoch(model.engine, validation.data, model.piece, runs=runs)
            self.good = self._theta()
            self.best = None if validation is None else self._theta()
            # Asked for after every epoch; the first time they take memory, and so does cuBLAS.
            model.norm(), model.decay()

    def _theta(self) -> Array:
        theta = self.model.parameters.theta
        copy = self.model.backend.empty(theta.shape, theta.dtype)
        copy[...] = theta
        return copy

    def measure(self) -> dict[str, float]:
        """Every metric."""
        return self.train.values("") | ({} if self.validation is None else self.validation.values("val_"))

    def greater_is_better(self) -> dict[str, bool]:
        """The names of an epoch's values, and whether a larger one is a better one."""
        found = {"loss": False, **{metric.name: metric.greater_is_better for metric in self.train.metrics}}
        return found if self.validation is None else found | {f"val_{name}": found[name] for name in found}

    def epoch(self, number: int, status: TrainingState) -> None:
        """One epoch; its values go to the status and to the history."""
        loss, norm, status.learning_rate = self._learn(number)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise _divergence(number + 1, loss, status.learning_rate, status.history)
        logs = {"loss": loss, **self.train.values("")}
        if self.validation is not None:
            logs |= {"val_loss": self._validation_loss(self.validation), **self.validation.values("val_")}
        status.epoch, status.logs = number + 1, logs
        status.history.append(logs)
        theta = self.model.parameters.theta
        with self.model.backend.active():
            self.good[...] = theta
            if -math.inf < logs.get("val_loss", math.nan) < self.best_loss:
                assert self.best is not None, "a validation loss comes of validation data"
                self.best[...] = theta
                self.best_loss, status.history.best_epoch = logs["val_loss"], number + 1

    def leave(self, whole: bool) -> None:
        """Leaves the network with the parameters that validation chose, else, after half an epoch, those before it."""
        chosen = self.best if self.best_loss < math.inf else None
        kept = self.good if chosen is None and not whole else chosen
        if kept is not None:
            with self.model.backend.active():
                self.model.parameters.theta[...] = kept

    def _learn(self, number: int) -> tuple[float, float, float]:
        """The updates of an epoch: J over it, the norm of the parameters after it, its last step's learning rate."""
        eta = self.options.schedule.rates(self.options.optimizer.rate, number, self.training_pass.steps)
        with self.model.backend.active():
            if self.options.shuffle:
                self.training_pass.shuffle(self.model.order_generator)
            if self.lbfgs is not None:
                theta, gradient = self.model.parameters.theta, self.model.parameters.gradient
                xp = self.model.backend.xp
                loss = self.lbfgs.step(theta, gradient, self._evaluate, xp, self.memory, self._read)
            else:
                assert self.updater is not None, "every optimizer but LBFGS works through an updater"
                decay = self.model.decay()
                self.updater.begin(eta)
                self.training_pass.run()
                loss = self.training_pass.total / self.weight + decay
            return loss, self.model.norm(), float(eta[-1])

    def _evaluate(self) -> float:
        self.training_pass.run()
        return self.training_pass.total / self.weight + self.model.decay()

    def _read(self, array: Array) -> float:
        return float(self.model.backend.download(array))

    def _validation_loss(self, validation: Measured) -> float:
        """J of the validation data."""
        assert self.check is not None, "there is a pass for checking where there is validation"
        with self.model.backend.active():
            self.check.run()
            return self.check.total / _weight(validation) + self.model.decay()

    def once(self) -> None:
        """One epoch, from the parameters as they are now."""
        whole = False
        with self.model.backend.active():
            self.good[...] = self.model.parameters.theta
        try:
            self.epoch(0, TrainingState(None, 1, History(), greater_is_better=self.greater_is_better()))
            whole = True
        finally:
            self.leave(whole)


class Ongoing:
    """Training that goes on with new samples at every call.

    What a call has prepared serves the next one, where that brings as many samples: preparing a step of a small network
    takes many times as long as the step.

    Attributes:
        optimizer, state: the rule, and what it remembers.
    """

    def __init__(self, optimizer: Optimizer, state: OptimizerState | None = None) -> None:
        self.optimizer, self.state = optimizer, state or OptimizerState()
        self._trainer: Trainer | None = None
        self._layout: tuple[object, ...] = ()

    def prepare(self, model: Model, measured: Measured, batch_size: int | None) -> Trainer:
        """What makes one pass over a data set, in its order, by its method `once`; nothing has changed until then.

        Raises:
            DeviceMemoryError: the device has no room for it.
        """
        trainer, arrays = self._trainer, measured.data.arrays
        layout = model, batch_size, model.backend.owns(measured.data.X), *(array.shape for array in arrays)
        if trainer is not None and layout == self._layout:
            for array, new in zip(trainer.train.data.arrays, arrays, strict=True):
                array[...] = new
        else:
            # What was prepared before is let go first: a device may have no room for both.
            self._trainer = trainer = None
            samples = len(measured.data)
            held = sum(array.size for array in arrays) + min(batch_size or samples, samples) * sum(model.sizes)
            kept = held < _KEPT and model.backend.owns(measured.data.X)
            data = Dataset(*map(model.copied, arrays)) if kept else measured.data
            # Nothing of the caller's is kept: neither its arrays nor, through the predictions, the network.
            unmeasured = Measured(data, np.empty(0), None, lambda X, needs: np.empty(0), ())
            options = TrainingOptions(1, batch_size, self.optimizer, Constant(), shuffle=False)
            trainer = Trainer(model, unmeasured, None, options, self.state)
            self._trainer, self._layout = trainer if kept else None, layout
        trainer.weight = _weight(measured)
        return trainer


def _weight(measured: Measured) -> float:
    return float(len(measured.data)) if measured.w is None else float(np.sum(measured.w, dtype=np.float64))


def prepared(model: Model, data: Measured, validation: Measured | None, options: TrainingOptions) -> Trainer:
    """What `train` runs; the model has not changed yet.

    Args:
        model: the network; training changes its parameters in place.
        data: what to learn from.
        validation: what to choose the best weights by, or None.
        options: how.

    Raises:
        DeviceMemoryError: the device has no room for it.
        Exception: a metric does not go with the data.
    """
    run = Trainer(model, data, validation, options, OptimizerState())
    # Metrics are tried now, and not when the weights have changed.
    run.measure()
    return run


def train(run: Trainer, network: Any) -> History:
    """Trains a model.

    Args:
        run: what was prepared.
        network: what callbacks get to see as the network.

    Raises:
        DivergenceError: a loss or a parameter is no finite number any more.

    Whatever ends the training, this, Ctrl-C or an error in a metric or a callback, the parameters are then those of
    the best epoch where there is validation, else those of the last whole one.
    """
    history, options = History(), run.options
    status = TrainingState(network, options.epochs, history, greater_is_better=run.greater_is_better())
    callbacks = [*([options.early_stopping] if options.early_stopping else []), *options.callbacks]
    with attending(callbacks, status):
        started = time.perf_counter()
        warned, whole = False, False
        try:
            for number in range(options.epochs):
                run.epoch(number, status)
                observed = status.logs.get("val_loss", status.logs["loss"])
                if not (warned or math.isfinite(observed)):
                    warned = True
                    # The caller of `Network.fit`: above it are the method, and the lock that it takes.
                    warnings.warn(_passed_over(number + 1, observed), RuntimeWarning, stacklevel=4)
                options.schedule.observe(observed)
                for callback in callbacks:
                    callback.on_epoch_end(status)
                if status.stop:
                    history.stopped = status.stop
                    break
            whole = True
        finally:
            history.seconds = time.perf_counter() - started
            run.leave(whole)
    return history


def _passed_over(epoch: int, loss: float) -> str:
    # No error: the training loss and the parameters are finite, and another epoch's validation loss may well be.
    return (
        f"The validation loss of epoch {epoch} is {loss}, and the best weights are chosen by finite ones: epochs like "
        "this are passed over, and if all are, the last weights stay. Look for extreme values in the validation data, "
        "standardise them as the training data, or lower the learning rate."
    )


def _divergence(epoch: int, loss: float, rate: float, history: History) -> DivergenceError:
    what = f"a loss of {loss}" if not math.isfinite(loss) else "parameters too large or no numbers"
    last = epoch - 1 if history.best_epoch is None else history.best_epoch
    kept = f"those of epoch {last}" if last else "the initial ones"
    error = DivergenceError(
        f"Training diverged: epoch {epoch} ended with {what}, and the loss and the sum of squares of the parameters "
        f"have to be finite in the network's dtype. The network keeps good parameters, {kept}. Lower the learning rate "
        f"(it was {rate:g}), give clip_norm=1.0, or standardise the inputs and targets."
    )
    error.history = history
    return error
