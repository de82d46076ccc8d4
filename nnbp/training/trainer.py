"""Training: epochs, validation, the best weights, and how training ends if the loss becomes NaN or infinite."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
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
from nnbp.optim.lbfgs import LBFGS
from nnbp.optim.optimizers import Optimizer
from nnbp.optim.schedules import Constant, Schedule
from nnbp.training.callbacks import Callback, EarlyStopping, History, TrainingState, attending
from nnbp.validation import not_negative


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; all values are checked and resolved.

    Raises:
        ValueError: the optimizer takes no schedule, or no clipping; the bound on the norm is not positive.
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
        if self.clip_norm is None:
            return
        if not_negative("clip_norm", self.clip_norm) == 0:
            raise ValueError(
                f"clip_norm is a positive bound on the gradient's norm, or None; received {self.clip_norm!r}."
            )
        if isinstance(self.optimizer, LBFGS):
            raise ValueError(
                "lbfgs builds its model of J on the gradient as it is, and clip_norm changes it; received both. "
                "Leave clip_norm out, or use adam."
            )


@dataclass(frozen=True)
class Evaluation:
    """Metrics on a data set.

    Args:
        data: the data set.
        truth: targets as metrics see them.
        predict: what a metric needs, of inputs.
        metrics: to measure.

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
        """Every metric."""
        outputs = {needs: self.predict(self.data.X, needs) for needs in {metric.needs for metric in self.metrics}}
        return {prefix + each.name: each(self.truth, outputs[each.needs], self.data.weights) for each in self.metrics}


class Trainer:
    """A training run: its epochs, and the parameters that it keeps.

    All device memory that training takes in every epoch is taken here: if it does not suffice, nothing has changed.
    Metrics are tried here, too, and not when the weights have changed.

    The engine's part of an epoch runs in the backend's context, and the user's part (metrics, schedules, callbacks)
    outside of it, so that NumPy warns there as it does elsewhere.

    Args:
        model: the network; training changes its parameters in place.
        train: what to learn from.
        validation: what to choose the best weights by, or None.
        options: how.
        state: what the optimizer remembers; a new one unless training goes on.
        piece: samples of the validation data that go through the network at once.

    Raises:
        DeviceMemoryError: the device has no room for it.
        Exception: a metric does not go with the data.
    """

    def __init__(
        self,
        model: Model,
        train: Evaluation,
        validation: Evaluation | None,
        options: TrainingOptions,
        *,
        state: OptimizerState | None = None,
        piece: int = 1,
    ) -> None:
        self.model, self.train, self.validation, self.options = model, train, validation, options
        self.state = OptimizerState() if state is None else state
        optimizer, samples = options.optimizer, len(train.data)
        size = samples if options.batch_size is None or optimizer.full_batch else min(options.batch_size, samples)
        self.lbfgs = optimizer if isinstance(optimizer, LBFGS) else None
        self.updater = None
        self.best_loss = math.inf
        with model.backend.active():
            if self.lbfgs is None:
                self.updater = Updater(model, optimizer, -(-samples // size), options.clip_norm, self.state)
            else:
                self.memory = self.lbfgs.memory()
            runs = options.epochs
            self.training_pass = Epoch(model, train.data, size, training=True, update=self.updater, runs=runs)
            self.check = None if validation is None else Epoch(model, validation.data, piece, runs=runs)
            self.good = model.copied(model.parameters.theta)
            self.best = None if validation is None else model.copied(model.parameters.theta)
            # Asked for after every epoch; the first time they take memory, and so does cuBLAS.
            model.norm(), model.decay()
        self._measured()

    def _measured(self) -> tuple[dict[str, float], dict[str, float]]:
        """Every metric of the training data, and of the validation data."""
        return self.train.values(), {} if self.validation is None else self.validation.values("val_")

    def _greater_is_better(self) -> dict[str, bool]:
        """The names of an epoch's values, and whether a larger one is a better one."""
        found = {"loss": False, **{metric.name: metric.greater_is_better for metric in self.train.metrics}}
        return found if self.validation is None else found | {f"val_{name}": found[name] for name in found}

    def run(self, network: Any) -> History:
        """Trains the model.

        Whatever ends the training, a loss that is not finite, Ctrl-C or an error in a metric or a callback, the
        parameters are then those of the best epoch if there is validation, else those of the last whole one.

        Args:
            network: what callbacks get to see as the network.

        Raises:
            DivergenceError: a loss or a parameter becomes NaN or infinite.
        """
        history, options = History(), self.options
        status = TrainingState(network, options.epochs, history, greater_is_better=self._greater_is_better())
        callbacks = [*([options.early_stopping] if options.early_stopping else []), *options.callbacks]
        with attending(callbacks, status):
            started = time.perf_counter()
            warned, whole = False, False
            try:
                for number in range(options.epochs):
                    self._epoch(number, status)
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
                self._leave(whole)
        return history

    def run_once(self) -> None:
        """One epoch, from the parameters as they are now."""
        whole = False
        with self.model.backend.active():
            self.good[...] = self.model.parameters.theta
        try:
            self._epoch(0, TrainingState(None, 1, History(), greater_is_better=self._greater_is_better()))
            whole = True
        finally:
            self._leave(whole)

    def take(self, data: Dataset) -> bool:
        """Takes the values of another data set of the same layout in place of its own; False if the layout differs."""
        own, arrays = self.train.data.arrays, data.arrays
        if [array.shape for array in own] != [array.shape for array in arrays]:
            return False
        for array, new in zip(own, arrays, strict=True):
            array[...] = new
        # The weights on the host go along: their sum is that of the samples.
        taken = replace(self.train.data, weights=data.weights)
        self.train = replace(self.train, data=taken)
        return True

    def _epoch(self, number: int, status: TrainingState) -> None:
        """One epoch; its values go to the status and to the history."""
        loss, norm, status.learning_rate = self._learn(number)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise _divergence(number + 1, loss, status.learning_rate, status.history)
        measured, of_validation = self._measured()
        logs = {"loss": loss, **measured}
        if self.validation is not None:
            logs |= {"val_loss": self._validation_loss(self.validation), **of_validation}
        status.epoch, status.logs = number + 1, logs
        status.history.append(logs)
        theta = self.model.parameters.theta
        with self.model.backend.active():
            self.good[...] = theta
            if -math.inf < logs.get("val_loss", math.nan) < self.best_loss:
                assert self.best is not None, "a validation loss comes of validation data"
                self.best[...] = theta
                self.best_loss, status.history.best_epoch = logs["val_loss"], number + 1

    def _leave(self, whole: bool) -> None:
        """Leaves the network with the parameters that validation chose, else, after half an epoch, those before it."""
        chosen = self.best if self.best_loss < math.inf else None
        kept = self.good if chosen is None and not whole else chosen
        if kept is not None:
            with self.model.backend.active():
                self.model.parameters.theta[...] = kept

    def _learn(self, number: int) -> tuple[float, float, float]:
        """The updates of an epoch: J over it, the norm of the parameters after it, its last step's learning rate."""
        model, one_pass = self.model, self.training_pass
        eta = self.options.schedule.rates(self.options.optimizer.rate, number, one_pass.steps)
        with model.backend.active():
            if self.options.shuffle:
                one_pass.shuffle(model.order_generator)
            if self.lbfgs is not None:
                theta, gradient = model.parameters.theta, model.parameters.gradient
                loss = self.lbfgs.step(theta, gradient, self._evaluate, model.backend.xp, self.memory, self._read)
            else:
                assert self.updater is not None, "every optimizer but LBFGS works through an updater"
                # J of the epoch is made of costs before each update, and of the decay before the first.
                decay = model.decay()
                self.updater.begin(eta)
                one_pass.run()
                loss = model.objective(one_pass.total, self.train.data.weight, decay)
            return loss, model.norm(), float(eta[-1])

    def _evaluate(self) -> float:
        self.training_pass.run()
        return self.model.objective(self.training_pass.total, self.train.data.weight)

    def _read(self, array: Array) -> float:
        return float(self.model.backend.download(array))

    def _validation_loss(self, validation: Evaluation) -> float:
        """J of the validation data."""
        assert self.check is not None, "there is a pass for checking if there is validation"
        with self.model.backend.active():
            self.check.run()
            return self.model.objective(self.check.total, validation.data.weight)


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
