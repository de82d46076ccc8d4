"""scikit-learn's training of multilayer perceptrons: its optimizers, and its rules for the end of training.

A `Training` holds a network, and is a callback of each of its fits. It records the attributes that the estimators of
`nnbp.sklearn` show.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.errors import DivergenceError
from nnbp.optim.lbfgs import LBFGS
from nnbp.optim.optimizers import Adam, Objective, Optimizer
from nnbp.training.callbacks import Callback, History, TrainingState
from nnbp.validation import host

_ROUNDING = 2.220446049250313e-09
"""SciPy's L-BFGS-B ends when an iteration lowers the loss by no more than this share of the loss."""

_EXHAUSTED = "max_fun evaluations of the loss were made"

Data = tuple[Any, Any, Any]
"""X, y (m, n_outputs), and the weights or None."""

Parameters = tuple[list[Any], list[Any]]
"""W and b of every layer."""


# The optimizers. Each has its own kind, so that no name selects it: it belongs to one training.


class _SGD(Optimizer, kind="optimizer"):
    """scikit-learn's sgd: v ← μ v − η g; θ ← θ + v, with `nesterov` θ ← θ + μ v − η g. v includes η."""

    name = "sgd"
    default_rate = 1e-3
    slots = ("v",)

    def __init__(self, training: Training, learning_rate: float, momentum: float, nesterov: bool) -> None:
        super().__init__(learning_rate)
        self.momentum, self.nesterov, self._training = momentum, nesterov, training

    def rates(self, t: NDArray[np.float64], eta: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {"eta": eta * self._training.factor}

    def update(self, theta: Any, g: Any, v: Any, eta: Any) -> Any:
        v = self.momentum * v - eta * g
        return theta + (self.momentum * v - eta * g if self.nesterov else v), v


class _Adam(Adam, kind="optimizer"):
    """scikit-learn's adam: ε is added to √v before the bias of v is corrected."""

    name = "adam"

    def rates(self, t: NDArray[np.float64], eta: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {"step": super().rates(t, eta)["step"]}

    def update(self, theta: Any, g: Any, m: Any, v: Any, step: Any) -> Any:  # type: ignore[override]
        return super().update(theta, g, m, v, step, self.epsilon / math.sqrt(1.0 - self.beta2))


class _LBFGS(Optimizer, kind="optimizer"):
    """L-BFGS whose steps are single iterations. Its training evaluates J, to count evaluations and end the search."""

    name = "lbfgs"
    default_rate = 1.0
    full_batch = searches = True
    scheduled = clippable = False

    def __init__(self, training: Search, tol: float) -> None:
        super().__init__()
        self._training = training
        # SciPy's line search makes at most 20 evaluations, and its history has 10 changes.
        self._rule = LBFGS(max_iter=1, max_eval=20, tolerance_grad=tol, tolerance_change=0.0, history_size=10)

    def memory(self) -> Any:
        return self._rule.memory()

    def search(self, objective: Objective, memory: Any) -> Callable[[], float]:
        evaluated = partial(self._training.evaluated, objective.theta, objective.gradient, objective.evaluate)
        iterate = self._rule.search(replace(objective, evaluate=evaluated), memory)

        def step() -> float:
            before = iterate()
            evaluated()  # at the chosen point, if it is not the last point tried
            return before

        return step


class Training(Callback):
    """A network and its training by scikit-learn's rules for the record, the end of training, and the rate of sgd.

    `fit_many` takes it in place of the network. The attributes that end in an underscore are the estimator's.

    Attributes:
        factor: the factor of sgd's rate.
        since: epochs since the loss or the score last improved by more than `tol`.
        owner, samples, held_out: during training, the estimator, the number of samples that it learns from, and the
            held-out samples: (X, y, weights), or None.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self.factor, self.since, self.n_iter_, self.t_ = 1.0, 0, 0, 0
        self.loss_, self.loss_curve_ = math.inf, list[float]()
        # With validation, the first is None; without it, the others are.
        self.best_loss_: Any = None
        self.validation_scores_: Any = None
        self.validation_loss_curve_: Any = None
        self.best_validation_score_: Any = None
        self.best: Parameters | None = None
        self.history: History | None = None
        self.owner: Any = None
        self.samples = 0
        self.held_out: Data | None = None

    def begin(self, owner: Any, samples: int, held_out: Data | None) -> None:
        """Takes the estimator and its data for a training; the records continue."""
        self.owner, self.samples, self.held_out = owner, samples, held_out
        if held_out is None:
            self.best_loss_ = math.inf if self.best_loss_ is None else self.best_loss_
        elif self.best_validation_score_ is None:
            self.best_loss_, self.best_validation_score_ = None, -math.inf
            self.validation_scores_, self.validation_loss_curve_ = [], []

    def end(self) -> None:
        """Drops the estimator and its data."""
        self.owner = self.held_out = None

    @property
    def device(self) -> str:
        """The device of the network."""
        return str(self.network.device)

    def input_dtype(self, X: NDArray[Any]) -> np.dtype[Any]:
        """The dtype in which the network reads X."""
        dtype: np.dtype[Any] = self.network.input_dtype(X)
        return dtype

    def rule(self) -> dict[str, Any]:
        """The optimizer, as arguments of the network's methods."""
        owner = self.owner
        solver, rate = owner.solver, owner.learning_rate_init
        if solver == "sgd":
            return {"optimizer": _SGD(self, rate, owner.momentum, owner.nesterovs_momentum)}
        if solver == "adam":
            return {"optimizer": _Adam(rate, owner.beta_1, owner.beta_2, owner.epsilon)}
        return {"optimizer": solver, "learning_rate": rate if isinstance(solver, str) else None}

    def fit(self, X: Any, y: Any, *, callbacks: Sequence[Callback] = (), **options: Any) -> History:
        """Trains the network. With validation, training that diverges keeps good parameters and gives a warning."""
        from sklearn.exceptions import ConvergenceWarning

        self.factor = 1.0
        try:
            self.network.fit(X, y, callbacks=[*callbacks, self], **self.rule(), **options)
        except DivergenceError as error:
            if self.held_out is None:
                raise
            self.validation_scores_.append(math.nan)
            warnings.warn(str(error), ConvergenceWarning, stacklevel=2)
        finally:
            self.history = self.network.history
        assert self.history is not None, "it has trained"
        return self.history

    def step(self, X: Any, y: Any, sample_weight: Any, **options: Any) -> None:
        """Trains the network for one epoch; the optimizer continues from its state."""
        loss = self.network.loss(X, y, sample_weight)
        self.network.partial_fit(X, y, sample_weight=sample_weight, **self.rule(), **options)
        self.on_epoch_end(TrainingState(self.network, 1, History(), epoch=1, logs={"loss": loss}))

    def on_epoch_end(self, state: TrainingState) -> None:
        self.n_iter_ = state.epoch
        self.loss_ = self.reached(state)
        self.loss_curve_.append(self.loss_)
        self.tell("Iteration %d, loss = %.8f", self.n_iter_, self.loss_)
        improved = self._learned() if self.held_out is None else self._validated(state, self.held_out)
        self.since = 0 if improved else self.since + 1
        self.judge(state)

    def reached(self, state: TrainingState) -> float:
        """The loss of an epoch."""
        return state.logs["loss"]

    def _learned(self) -> bool:
        """Whether the loss has improved by `tol`."""
        best = self.best_loss_
        self.best_loss_ = min(best, self.loss_)
        return bool(self.loss_ <= best - self.owner.tol)

    def _validated(self, state: TrainingState, held_out: Data) -> bool:
        """Whether the validation score has improved by `tol`; keeps the parameters with the best score."""
        score, best = float(self.owner._score_of(self.network, *held_out)), self.best_validation_score_
        self.validation_scores_.append(score)
        self.validation_loss_curve_.append(state.logs["val_loss"])
        self.tell("Validation score: %f", score)
        if score > best:
            self.best_validation_score_ = score
            self.best = _parameters(self.network)
        # As in scikit-learn, a NaN score does not end training.
        return not score < best + self.owner.tol

    def judge(self, state: TrainingState) -> None:
        """Ends the training or lowers the rate after an epoch, if the rules say so."""
        owner = self.owner
        self.t_ += self.samples
        if owner.solver == "sgd" and owner.learning_rate == "invscaling":
            self.factor = (self.t_ + 1) ** -owner.power_t
        if self.since <= owner.n_iter_no_change:
            return
        subject = "Training loss" if self.held_out is None else "Validation score"
        message = (
            f"{subject} did not improve more than tol={owner.tol:f} for {owner.n_iter_no_change} consecutive epochs."
        )
        if not (owner.solver == "sgd" and owner.learning_rate == "adaptive"):
            state.stop = message
            self.tell("%s Stopping.", message)
        elif self.factor * owner.learning_rate_init <= 1e-6:
            state.stop = f"{message} Learning rate too small."
            self.tell("%s Stopping.", state.stop)
        else:
            self.factor /= 5.0
            self.since = 0
            self.tell("%s Setting learning rate to %f", message, self.factor * owner.learning_rate_init)

    def doubt(self) -> str | None:
        """Why the training may be too short."""
        if self.history is None or self.history.stopped is not None:
            return None
        return (
            f"Stochastic Optimizer: Maximum iterations ({self.owner.max_iter}) reached and the optimization hasn't "
            "converged yet."
        )

    def on_train_end(self, state: TrainingState) -> None:
        if self.held_out is not None and self.best is not None:
            self.network.set_parameters(*self.best)

    def tell(self, text: str, *values: Any) -> None:
        """Prints a message if the estimator is verbose."""
        if self.owner.verbose:
            print(text % values)


class Search(Training):
    """A training by L-BFGS, which ends by the rules of SciPy's L-BFGS-B.

    Attributes:
        calls: the number of evaluations of J.
        point: theta, gradient and J of the last evaluation.
    """

    calls = 0
    point: tuple[Any, Any, float] | None = None

    def rule(self) -> dict[str, Any]:
        return {"optimizer": _LBFGS(self, self.owner.tol)}

    def fit(self, X: Any, y: Any, **options: Any) -> History:
        self.calls = 0
        try:
            return super().fit(X, y, **options)
        finally:
            self.point = None

    def evaluated(self, theta: Any, gradient: Any, evaluate: Callable[[], float]) -> float:
        """J and its gradient. An iteration begins at the end point of the previous one, for which both are known."""
        if self.point is None or bool((theta != self.point[0]).any()):
            self.calls += 1
            loss = evaluate()
            self.point = theta.copy(), gradient.copy(), loss
        else:
            gradient[...] = self.point[1]
        return self.point[2]

    def reached(self, state: TrainingState) -> float:
        assert self.point is not None, "an iteration evaluates J"
        return self.point[2]

    def judge(self, state: TrainingState) -> None:
        before, after = state.logs["loss"], self.loss_
        if before - after <= _ROUNDING * max(abs(before), abs(after), 1.0):
            state.stop = "the loss no longer falls"
        elif self.calls >= self.owner.max_fun:
            state.stop = _EXHAUSTED

    def doubt(self) -> str | None:
        stopped = None if self.history is None else self.history.stopped
        if stopped is not None and stopped != _EXHAUSTED:
            return None
        return (
            f"lbfgs failed to converge after {self.n_iter_} iterations and {self.calls} evaluations of the loss. "
            "Increase max_iter or max_fun, or scale the data."
        )


def _parameters(network: Any) -> Parameters:
    """Copies of W and b of every layer, on the host."""
    return [np.array(host(W, "W")) for W in network.weights], [np.array(host(b, "b")) for b in network.biases]
