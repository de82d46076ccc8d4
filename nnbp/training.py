"""Training: epochs of sweeps, validation, the best weights, and what to do when the loss is no number any more."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.backend import Array
from nnbp.callbacks import Callback, EarlyStopping, FunctionCallback, History, TrainingState
from nnbp.errors import DivergenceError
from nnbp.lbfgs import LBFGS
from nnbp.metrics import Metric
from nnbp.model import CHUNK, Model
from nnbp.optimizers import Optimizer
from nnbp.schedules import Schedule
from nnbp.sweep import Data, OptimizerState, Sweep, Updater

__all__ = ["Measured", "TrainingOptions", "train"]


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; all values are checked and resolved."""

    epochs: int
    batch_size: int | None
    optimizer: Optimizer
    schedule: Schedule
    shuffle: bool = True
    clip_norm: float | None = None
    early_stopping: EarlyStopping | None = None
    callbacks: Sequence[Callback | Callable[[TrainingState], None]] = ()


@dataclass(frozen=True)
class Measured:
    """A data set with the targets, weights and predictions that metrics need, on the host."""

    data: Data
    y: NDArray[Any]
    w: NDArray[Any] | None
    predict: Callable[[Array, str], NDArray[Any]]
    metrics: Sequence[Metric]

    def values(self, prefix: str) -> dict[str, float]:
        """Every metric."""
        outputs: dict[str, NDArray[Any]] = {}
        found = {}
        for metric in self.metrics:
            if metric.needs not in outputs:
                outputs[metric.needs] = self.predict(self.data.X, metric.needs)
            found[prefix + metric.name] = metric(self.y, outputs[metric.needs], self.w)
        return found


class _Trainer:
    """The sweeps of a training run and what it keeps."""

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
        if self.lbfgs is None:
            self.updater = Updater(model.engine, optimizer, -(-samples // size), options.clip_norm, state)
        else:
            self.memory = self.lbfgs.memory()
        self.sweep = Sweep(model.engine, train.data, size, training=True, update=self.updater)
        self.check = None if validation is None else Sweep(model.engine, validation.data, CHUNK)
        self.best, self.best_loss = self._theta(), math.inf

    def _theta(self) -> Array:
        theta = self.model.parameters.theta
        copy = self.model.backend.empty(theta.shape, theta.dtype)
        copy[...] = theta
        return copy

    def restore(self, theta: Array) -> None:
        """Puts kept parameters back."""
        self.model.parameters.theta[...] = theta

    def epoch(self, number: int) -> tuple[float, float]:
        """One epoch: J over it, and the learning rate of its last step."""
        base, schedule, steps = self.options.optimizer.rate, self.options.schedule, self.sweep.steps
        eta = np.array([schedule.rate(base, number + step / steps) for step in range(steps)])
        if self.options.shuffle:
            self.sweep.shuffle(self.model.order_generator)
        decay = self.model.decay()
        if self.lbfgs is not None:
            parameters = self.model.parameters
            loss = self.lbfgs.step(
                parameters.theta,
                parameters.gradient,
                self._evaluate,
                self.model.backend.xp,
                self.memory,
                self._read,
            )
        else:
            assert self.updater is not None, "every optimizer but LBFGS works through an updater"
            self.updater.begin(eta)
            self.sweep.run()
            loss = self.sweep.total / _weight(self.train) + decay
        return loss, float(eta[-1])

    def _evaluate(self) -> float:
        self.sweep.run()
        return self.sweep.total / _weight(self.train) + self.model.decay()

    def _read(self, array: Array) -> float:
        return float(self.model.backend.download(array))

    def validation_loss(self) -> float:
        """J of the validation data."""
        assert self.check is not None, "there is a validation loss only where there is validation"
        assert self.validation is not None, "a sweep for checking goes over validation data"
        self.check.run()
        return self.check.total / _weight(self.validation) + self.model.decay()

    def keep_best(self, loss: float) -> bool:
        """Keeps the parameters when this validation loss is the lowest so far."""
        if not loss < self.best_loss:
            return False
        self.best_loss = loss
        self.best[...] = self.model.parameters.theta
        return True


def _weight(measured: Measured) -> float:
    return float(len(measured.data)) if measured.w is None else float(np.sum(measured.w, dtype=np.float64))


def train(
    model: Model,
    data: Measured,
    validation: Measured | None,
    options: TrainingOptions,
    *,
    network: Any = None,
    state: OptimizerState | None = None,
) -> History:
    """Trains a model.

    Args:
        model: the network; its parameters are changed in place.
        data: what to learn from.
        validation: what to choose the best weights by, or None.
        options: how.
        network: what callbacks get to see as the network.
        state: of the optimizer, to go on with.

    Raises:
        DivergenceError: a loss or a parameter is no finite number any more; the parameters are those of the last
        epoch in which
            all were.
    """
    with model.backend.active():
        run = _Trainer(model, data, validation, options, state or OptimizerState())
        good = run._theta()
        history = History()
        status = TrainingState(network, options.epochs, history)
        callbacks = [*([options.early_stopping] if options.early_stopping else []), *options.callbacks]
        objects = [item if isinstance(item, Callback) else FunctionCallback(item) for item in callbacks]
        started = time.perf_counter()
        for callback in objects:
            callback.on_train_begin(status)
        try:
            for number in range(options.epochs):
                loss, status.learning_rate = run.epoch(number)
                if not (math.isfinite(loss) and math.isfinite(model.norm())):
                    run.restore(good)
                    raise _divergence(number + 1, loss, status.learning_rate, history)
                good[...] = model.parameters.theta
                status.epoch = number + 1
                status.logs = {"loss": loss, **data.values("")}
                if validation is not None:
                    status.logs |= {"val_loss": run.validation_loss(), **validation.values("val_")}
                    if run.keep_best(status.logs["val_loss"]):
                        history.best_epoch = number + 1
                history.append(status.logs)
                options.schedule.observe(status.logs.get("val_loss", loss))
                for callback in objects:
                    callback.on_epoch_end(status)
                if status.stop:
                    history.stopped = status.stop
                    break
        finally:
            history.seconds = time.perf_counter() - started
            if history.best_epoch is not None:
                run.restore(run.best)
            for callback in objects:
                callback.on_train_end(status)
    return history


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
