"""Training: epochs, validation, the best weights, and the error if the loss becomes NaN or infinite."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from nnbp.engine.curvature import Curvature
from nnbp.engine.dataset import Dataset
from nnbp.engine.epoch import Epoch
from nnbp.engine.model import Model
from nnbp.engine.ranks import ALONE, Ranks
from nnbp.engine.updater import OptimizerState, Updater
from nnbp.errors import DeviceMemoryError, DivergenceError
from nnbp.graph.ops import Array
from nnbp.metrics import Metric
from nnbp.optim.optimizers import Objective, Optimizer
from nnbp.optim.schedules import Constant, Schedule
from nnbp.training.callbacks import Callback, History, TrainingState, attending
from nnbp.validation import not_negative

if TYPE_CHECKING:
    from nnbp.serialization.model_file import State
    from nnbp.training.checkpoint import CheckpointWriter


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
        ranks: those that have a part of the data set each.

    Raises:
        ValueError: a metric has the name of another value.
    """

    data: Dataset
    truth: NDArray[Any]
    predict: Callable[[Array, str], NDArray[Any]]
    metrics: Sequence[Metric] = ()
    ranks: Ranks = ALONE

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
        if not self.metrics:
            return {}
        ranks, weights = self.ranks, self.data.weights
        needed = sorted({metric.needs for metric in self.metrics})
        outputs = {needs: ranks.gathered(self.predict(self.data.X, needs)) for needs in needed}
        truth, w = ranks.gathered(self.truth), None if weights is None else ranks.gathered(weights)
        return ranks.first(lambda: {prefix + each.name: each(truth, outputs[each.needs], w) for each in self.metrics})


class Trainer:
    """A training run: its epochs, and the parameters that it keeps.

    The constructor allocates all device memory that an epoch needs, so running out of memory changes nothing. It also
    evaluates every metric once, so that a metric that fails does so before the weights change.

    The engine's part of an epoch runs in the backend's context. User code (metrics, schedules, callbacks) runs outside
    of it, so that NumPy's warnings work there as usual.

    Args:
        model: the network; training changes its parameters in place.
        train: the data to learn from, with metrics; or a sample of them, if `data` are given.
        validation: the data by which the best weights are chosen, or None.
        options: how to train.
        state: the optimizer's state if training continues; None is a new one.
        piece: maximum number of validation samples that go through the network at once.
        objective: computes J of the current parameters on samples of the training data, for `run`.
        data: the data to learn from; None is those of `train`.
        ranks: those that train the model together, each on its own data. Rank 0 has the callbacks and the checkpoints.

    Attributes:
        before, after: J on these samples before and after `run`.
        checkpoints: writes checkpoints, if it is set before `run`.

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
        data: Dataset | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.objective, self.ranks = objective, ranks
        self.data = train.data if data is None else data
        self.model, self.train, self.validation, self.options = model, train, validation, options
        self.state = OptimizerState() if state is None else state
        optimizer, samples = options.optimizer, len(self.data)
        size = samples if options.batch_size is None or optimizer.full_batch else min(options.batch_size, samples)
        for layer in model.layers:
            if size < layer.least_batch:
                raise ValueError(
                    f"{layer!r} learns from how the samples of a batch differ, so a batch has at least "
                    f"{layer.least_batch}; received batches of {size}. Give more samples, or batch_size=32."
                )
            if layer.least_batch > 1 and not ranks.alone:
                raise ValueError(
                    f"{layer!r} learns from how the samples of a batch differ, and each rank sees its own alone; "
                    f"received comm with {ranks.size} ranks. Use LayerNorm."
                )
        if not (optimizer.adds_up or ranks.alone):
            raise ValueError(
                f"{optimizer.name} takes more from the samples than their gradients, which ranks add up; received comm "
                f"with {ranks.size} ranks. Use lbfgs."
            )
        theta, gradient, backend = model.parameters.theta, model.parameters.gradient, model.backend
        self.memory = optimizer.memory()
        optimizer.check(model)
        for metric in train.metrics:
            if metric.name in self.memory.logs():
                raise ValueError(
                    f"A metric has a name of its own in a history, and {optimizer.name} adds "
                    f"{', '.join(self.memory.logs())}; received a metric named {metric.name}. Rename it."
                )
        self.search = optimizer.search(
            Objective(
                theta,
                gradient,
                self._evaluate,
                self._curvature,
                backend.xp,
                # All ranks decide by the same number, even if their processors round differently.
                lambda x: ranks.share(float(backend.download(x)))[0],
                model.parameters.matrices,
                self.data.counted,
                model.n_out,
            ),
            self.memory,
        )
        self.updater = None
        self.best_loss, self.best_epoch = math.inf, 0
        self.checkpoints: CheckpointWriter | None = None
        self._warned = False
        self._weight = sum(ranks.share(self.data.weight))
        with backend.active():
            if self.search is None:
                steps = sum(part.times for part in ranks.steps(samples, size))
                self.updater = Updater(model, optimizer, steps, options.clip_norm, self.state)
            runs = options.epochs
            self.training_pass = Epoch(
                model, self.data, size, training=True, update=self.updater, runs=runs, ranks=ranks
            )
            self.check = None if validation is None else Epoch(model, validation.data, piece, runs=runs)
            # The parameters at the end of the last epoch. Those before training and the best follow in `begin`.
            self.last = self.initial = self.best = model.copied(model.parameters.values)
            # Both are needed after every epoch. Their first call allocates memory, in cuBLAS too, so it is made here.
            model.norm(), model.decay()
        self._measured()

    def _measured(self) -> tuple[dict[str, float], dict[str, float]]:
        """The values of all metrics on the training data, and on the validation data."""
        return self.train.values(), {} if self.validation is None else self.validation.values("val_")

    def _greater_is_better(self) -> dict[str, bool]:
        """The names of an epoch's values, and whether larger values are better."""
        found = {"loss": False, **{metric.name: metric.greater_is_better for metric in self.train.metrics}}
        if self.validation is not None:
            found |= {f"val_{name}": found[name] for name in found}
        return found | dict.fromkeys(self.memory.logs(), False)

    def begin(self, network: Any, history: History) -> None:
        """Calls `on_train_begin` of the callbacks; nothing has changed yet. `run` must follow.

        Args:
            network: the network that callbacks receive.
            history: receives the values of every epoch.
        """
        names = self._greater_is_better()
        with self.model.backend.active():
            self.initial, self.best = self.model.copied(self.last), self.model.copied(self.last)
        self.before = self.objective()
        self._status = TrainingState(network, self.options.epochs, history, greater_is_better=names)
        self._attended = ExitStack()
        self._attended.enter_context(attending(self.options.callbacks, self._status))

    def run(self, go_on: Callable[[], None] | None = None) -> None:
        """Trains the model, from a checkpoint if `go_on` calls `restore`.

        Whatever ends training (even Ctrl-C, or an error in a metric or a callback), the network keeps the parameters of
        the best epoch if there is validation, the best that an optimizer that searches has met, or else those of the
        last complete epoch. If training diverges, see `_divergence`.

        Raises:
            DivergenceError: a loss or a parameter becomes NaN or infinite.
        """
        status, options = self._status, self.options
        history = status.history
        with self._attended:
            self._started = time.perf_counter()
            try:
                if go_on is not None:
                    with self.ranks.together():
                        go_on()
                        self._started -= history.seconds
                        for callback in options.callbacks:
                            callback.on_train_resume(status)
                for number in range(status.epoch, options.epochs):
                    if status.stop:
                        break
                    learnt = self._learn(number)
                    with self.ranks.together():
                        self._epoch(number, status, *learnt)
                        self._keep(status)
                        observed = _observed(status.logs)
                        if not (self._warned or math.isfinite(observed)):
                            self._warned = True
                            # Points to the caller of `Network.fit`, past `fit` itself and the wrapper of its lock.
                            warnings.warn(_passed_over(number + 1, observed), RuntimeWarning, stacklevel=4)
                        options.schedule.observe(observed)
                        for callback in options.callbacks:
                            callback.on_epoch_end(status)
                        self._follow(status)
                        if self.checkpoints is not None:
                            self.checkpoints.note(partial(self._state, status), history)
                history.stopped = status.stop
                if self._searches:
                    # A search without line search ends with a step whose end it has not evaluated.
                    with self.model.backend.active():
                        self._evaluate()
                with self.ranks.together():
                    self._finish(status)
            except DivergenceError:
                raise
            except BaseException as error:
                # If the device is full, it is as if this epoch had not begun.
                full = self._searches and isinstance(error, DeviceMemoryError)
                self._restore(self.best if self._chosen and not full else self.last)
                if self.checkpoints is not None:
                    self.checkpoints.flush(history)
                raise
            finally:
                history.seconds = time.perf_counter() - self._started

    def _state(self, status: TrainingState) -> tuple[Array, State]:
        """The parameters at the end of the last epoch, and all that training needs to resume, but for the history.

        All arrays are copies on the device, or are never changed.
        """
        from nnbp.serialization.model_file import State

        history, model = status.history, self.model
        with model.backend.active():
            last, best = model.copied(self.last), model.copied(self.best)
            vectors = {f"slot.{name}": model.copied(slot) for name, slot in self.state.slots.items()}
            sequences = model.sequences()
        memory, remembered = self.memory.state()
        values = {
            "epoch": status.epoch, "steps": self.state.steps, "learning_rate": status.learning_rate,
            "before": _json(self.before), "best_loss": _json(self.best_loss), "best_epoch": self.best_epoch,
            "restored": history.best_epoch, "stop": status.stop, "warned": self._warned,
            "seconds": time.perf_counter() - self._started, "sequences": sequences, "memory": memory,
        }  # fmt: skip
        arrays = {"initial": self.initial, "best": best, **vectors}
        return last, State(values, arrays | {f"memory.{name}": array for name, array in remembered.items()})

    def restore(self, state: State) -> None:
        """Goes on from a state of the same training, whose parameters the model has already."""
        values, status, model = state.values, self._status, self.model
        past = History()
        for name in self._greater_is_better():
            past[name] = state.arrays[f"history.{name}"].tolist()
        with model.backend.active():
            arrays = {
                name: model.backend.upload(array, model.dtype)
                for name, array in state.arrays.items()
                if not name.startswith("history.")
            }
            self.initial[...], self.best[...] = arrays["initial"], arrays["best"]
            for name, slot in self.state.slots.items():
                slot[...] = arrays[f"slot.{name}"]
            model.set_sequences(values["sequences"])
        own = {name.removeprefix("memory."): array for name, array in arrays.items()}
        self.memory.restore(values["memory"], own)
        self.state.steps, self.best_epoch, self._warned = values["steps"], values["best_epoch"], values["warned"]
        self.before, best = (math.inf if x is None else x for x in (values["before"], values["best_loss"]))
        status.learning_rate, seconds, restored = values["learning_rate"], values["seconds"], values["restored"]
        for logs in past.logs():
            self.options.schedule.observe(_observed(logs))
        status.epoch, status.logs, status.stop = values["epoch"], past.logs()[-1], values["stop"]
        with model.backend.active():
            self.last[...] = model.parameters.values
        # If anything fails before, the network and its history are as they were.
        self.best_loss = best
        status.history.update(past)
        status.history.best_epoch, status.history.seconds = restored, seconds

    def run_once(self) -> None:
        """Runs the updates of one epoch from the current parameters; nothing is measured. For ``backend.active()``."""
        self.last[...] = self.model.parameters.values
        try:
            loss, norm, rate = self._learn(0)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise self._divergence(1, loss, TrainingState(None, 1, History(), learning_rate=rate))
        except BaseException:
            self._restore(self.last)
            raise

    def take(self, data: Dataset, batch_size: int | None, state: OptimizerState) -> bool:
        """Replaces the training data; returns False if the shapes, the batch size or the optimizer's state differ."""
        if self.options.batch_size != batch_size or self.state is not state:
            return False
        own, arrays = self.data.arrays, data.arrays
        if [(array.shape, array.dtype) for array in own] != [(array.shape, array.dtype) for array in arrays]:
            return False
        for array, new in zip(own, arrays, strict=True):
            array[...] = new
        if data.weights is not None:
            # The host's weights are replaced as well, because J divides by their sum.
            self.data = replace(self.data, weights=data.weights)
            self._weight = self.data.weight
        return True

    def _epoch(self, number: int, status: TrainingState, loss: float, norm: float, rate: float) -> None:
        """Adds the values of an epoch, of which the loss is known, to the status and the history."""
        status.learning_rate = rate
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._divergence(number + 1, loss, status)
        measured, of_validation = self._measured()
        logs = {"loss": loss, **measured}
        if self.validation is not None:
            assert self.check is not None, "there is a validation pass if there are validation data"
            with self.model.backend.active():
                logs["val_loss"] = self._held_out(self.check, self.validation.data)
            logs |= of_validation
        logs |= self.memory.logs()
        status.epoch, status.logs = number + 1, logs
        status.stop = status.stop or self.memory.ended
        status.history.append(logs)

    def _keep(self, status: TrainingState) -> None:
        """Keeps the parameters at the end of an epoch."""
        with self.model.backend.active():
            self.last[...] = self.model.parameters.values
        # A search notes the best ones whenever it evaluates J.
        better = not self._searches and self._note(_observed(status.logs), status.epoch)
        if better and self.validation is not None:
            status.history.best_epoch = status.epoch

    def _follow(self, status: TrainingState) -> None:
        """Takes over what callbacks have done on rank 0: the reason to stop, and changes of the parameters.

        So all ranks have the same parameters after every epoch, even if their processors round differently.
        """
        status.stop = self.ranks.first(lambda: status.stop)
        with self.model.backend.active():
            self.ranks.take_first(self.model.parameters.values, self.model.backend)

    @property
    def _searches(self) -> bool:
        """Whether the best parameters are those with the lowest J that a search has met."""
        comparable = self.search is not None and not self.options.optimizer.sets_decay
        return comparable and self.validation is None

    @property
    def _chosen(self) -> bool:
        """Whether training leaves its best parameters, not its last."""
        return (self._searches or self.validation is not None) and self.best_loss < math.inf

    def _note(self, loss: float, epoch: int) -> bool:
        """Keeps the current parameters as the best if their loss is the lowest so far; returns whether it is."""
        if not -math.inf < loss < self.best_loss:
            return False
        with self.model.backend.active():
            self.best[...] = self.model.parameters.values
        self.best_loss, self.best_epoch = loss, epoch
        return True

    def _restore(self, kept: Array) -> None:
        with self.model.backend.active():
            self.model.parameters.values[...] = kept

    def _finish(self, status: TrainingState) -> None:
        """Leaves the best parameters or the last ones, and takes J."""
        if self._chosen:
            self._restore(self.best)
        self.after = self.objective()
        if not math.isfinite(self.after):
            raise self._divergence(status.epoch, self.after, status)

    def _divergence(self, epoch: int, loss: float, status: TrainingState) -> DivergenceError:
        """Restores the best or the initial parameters, and returns the error that says which.

        Parameters that validation has chosen are kept as long as their J is finite; else the lower J decides.
        """
        history = status.history
        self._restore(self.best)
        J, kept = self.objective(), f"the parameters of epoch {self.best_epoch}"
        if not math.isfinite(J) or (history.best_epoch is None and self.before <= J):
            self._restore(self.initial)
            J, kept, history.best_epoch = self.before, "the initial parameters", None
        if not math.isnan(J):
            kept += f", whose J is {J:.4g}"
        what = f"a loss of {loss}" if not math.isfinite(loss) else "parameters that are too large or not finite"
        error = DivergenceError(
            f"Training diverged: epoch {epoch} ended with {what}, and the loss and the sum of squares of the "
            f"parameters must be finite in the network's dtype. The network keeps {kept}. Lower the learning rate (it "
            f"was {status.learning_rate:g}), give clip_norm=1.0, or standardise the inputs and targets."
        )
        error.history = history
        return error

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
                one_pass.shuffle(self.ranks.generator(model.order_generator))
            if self.search is not None:
                loss = self.search()
                if len(model.parameters.values) > len(model.parameters.theta):
                    # The running statistics are those of the point that was evaluated last.
                    one_pass.run()
            else:
                assert self.updater is not None, "an optimizer that does not search works through an updater"
                # J of the epoch consists of the costs before each update and the decay before the first one.
                decay = model.decay()
                self.updater.begin(eta)
                one_pass.run()
                loss = model.objective(one_pass.total, self._weight, decay)
            return loss, model.norm(), float(eta[-1])

    def _evaluate(self) -> float:
        """J of the training data, and its gradient, for a search."""
        self.training_pass.run()
        loss = self.model.objective(self.training_pass.total, self._weight)
        if self._searches:
            self._note(loss, self.epochs + 1)
        return loss

    def _held_out(self, check: Epoch, data: Dataset) -> float:
        """J of the validation data."""
        check.run()
        return self.ranks.mean(self.model.objective(check.total, data.weight), data.weight)

    @cached_property
    def _curvature(self) -> Callable[[], Array]:
        """G at the current parameters, for a search."""
        return Curvature(self.model, self.data)


def _observed(logs: Mapping[str, float]) -> float:
    """The loss that a schedule observes."""
    return logs.get("val_loss", logs["loss"])


def _json(number: float) -> float | None:
    """A number as JSON has it; None if it is not finite."""
    return number if math.isfinite(number) else None


def _passed_over(epoch: int, loss: float) -> str:
    # Not an error: the training loss and the parameters are finite, and the next validation loss may be finite again.
    return (
        f"The validation loss of epoch {epoch} is {loss}, and only finite losses can choose the best weights. Epochs "
        "like this are skipped; if all are, the last weights are kept. Look for extreme values in the validation data, "
        "standardise them like the training data, or lower the learning rate."
    )
