"""scikit-learn's `MLPClassifier` and `MLPRegressor`, trained by nnbp: `from nnbp.sklearn import MLPClassifier`.

Arguments, defaults and attributes have scikit-learn's names and meaning. The initial parameters and the split of
`early_stopping` are those that scikit-learn draws for the same `random_state`, so a training in which the order of the
samples plays no part (`shuffle=False`, or one batch) is scikit-learn's up to rounding. What differs:

- The order of the samples in an epoch is a draw of nnbp's own.
- λ = `alpha` · (batches in an epoch) / Σw. It is scikit-learn's `alpha` / Σw of the batch if all batches have the same
  Σw; otherwise all steps share equally what scikit-learn's steps decay together.
- Of several outputs, `loss_` is the sum, whose gradient training follows. scikit-learn follows the same gradient, but
  reports the mean over the outputs (scikit-learn#8349). Of `loss="poisson"`, terms of y alone are left out.
- `lbfgs` is `nnbp.LBFGS`, with a strong Wolfe line search. It has a `loss_curve_`, and heeds `early_stopping`.
- A training that diverges keeps good parameters; without `early_stopping` it is an error, as in scikit-learn.
- `partial_fit` after `fit` begins with a new state of the optimizer; its `loss_` is that before the pass.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnbp import errors
from nnbp.errors import DataError, DivergenceError
from nnbp.network import Network
from nnbp.nn import activations, losses
from nnbp.nn.activations import Activation
from nnbp.nn.layers import Dropout, Layer
from nnbp.nn.losses import Loss
from nnbp.optim import optimizers
from nnbp.optim.lbfgs import LBFGS
from nnbp.optim.optimizers import Adam, Optimizer
from nnbp.optim.schedules import Schedule
from nnbp.requirements import optional
from nnbp.training.callbacks import Callback, History, TrainingState
from nnbp.training.parallel import fit_many

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import accuracy_score, r2_score
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier as _Theirs
    from sklearn.preprocessing import LabelBinarizer
    from sklearn.utils import check_random_state
    from sklearn.utils._param_validation import Interval
    from sklearn.utils.class_weight import compute_sample_weight
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data
except ImportError:
    optional("sklearn", "nnbp.sklearn")  # says how to install it
    raise

__all__ = ["MLPClassifier", "MLPRegressor", "from_estimator"]

_OUTPUT = {"logistic": "sigmoid", "exp": "exponential"}
"""Output activations of which scikit-learn's name is another than nnbp's."""

_ROUNDING = 2.220446049250313e-09
"""SciPy's L-BFGS-B ends when an iteration lowers the loss by no more than this share of it."""

_EXHAUSTED = "max_fun evaluations of the loss were made"

_Data = tuple[Any, Any, Any]
"""X, y (m, n_outputs), and the weights or None."""

_Parameters = tuple[list[Any], list[Any]]
"""W, (n_in, n_out), and b of every layer."""


def _host(array: Any) -> Any:
    """The array on the host; an array of NumPy as it is."""
    return array.get() if hasattr(array, "__cuda_array_interface__") else array


def _seen(array: Any) -> Any:
    """A parameter for the estimator: an array of NumPy as it is, or else a copy that cannot be changed."""
    host = _host(array)
    if host is not array:
        host.flags.writeable = False
    return host


def _flat(y: Any) -> Any:
    """A single column of targets, (m, 1), as (m,), with scikit-learn's warning; other targets as they are."""
    return column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y


def _rows(data: _Data, rows: Any) -> _Data:
    """Some rows of X, y and the weights."""
    X, y, weights = data
    return X[rows], y[rows], None if weights is None else weights[rows]


def _assign(self: Any, **arguments: Any) -> None:
    """Keeps the arguments of `__init__` as they are, which scikit-learn asks of estimators."""
    vars(self).update(arguments)


# The optimizers. Each begins a kind of its own, so that no name leads to it: it belongs to one training.


class _SGD(Optimizer, kind="optimizer"):
    """scikit-learn's sgd: v ← μ v − η g; θ ← θ + v, with `nesterov` θ ← θ + μ v − η g. η is inside of v."""

    name = "sgd"
    default_rate = 1e-3
    slots = ("v",)

    def __init__(self, training: _Training, learning_rate: float, momentum: float, nesterov: bool) -> None:
        super().__init__(learning_rate)
        self.momentum, self.nesterov, self._training = momentum, nesterov, training

    def rates(self, t: NDArray[np.float64], eta: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {"eta": eta * self._training.factor}

    def update(self, theta: Any, g: Any, v: Any, eta: Any) -> Any:
        v = self.momentum * v - eta * g
        return theta + (self.momentum * v - eta * g if self.nesterov else v), v


class _Adam(Adam, kind="optimizer"):
    """scikit-learn's adam: ε is added to √v, before the bias of v is corrected."""

    name = "adam"

    def rates(self, t: NDArray[np.float64], eta: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return super().rates(t, eta) | {"floor": np.full_like(t, self.epsilon / math.sqrt(1.0 - self.beta2))}


class _LBFGS(Optimizer, kind="optimizer"):
    """L-BFGS whose steps are single iterations. Its training evaluates J, to count and to end it."""

    name = "lbfgs"
    default_rate = 1.0
    full_batch = searches = True
    scheduled = clippable = False

    def __init__(self, training: _Search, tol: float) -> None:
        super().__init__()
        self._training = training
        # SciPy's line search makes 20 evaluations at most, and its history has 10 changes.
        self._rule = LBFGS(max_iter=1, max_eval=20, tolerance_grad=tol, tolerance_change=0.0, history_size=10)

    def memory(self) -> Any:
        return self._rule.memory()

    def search(self, theta: Any, gradient: Any, evaluate: Callable[[], float], *rest: Any) -> Callable[[], float]:
        evaluated = partial(self._training.evaluated, theta, gradient, evaluate)
        iterate = self._rule.search(theta, gradient, evaluated, *rest)

        def step() -> float:
            before = iterate()
            evaluated()  # of the point that was chosen, if it is not the last one that was tried
            return before

        return step


class _Training(Callback):
    """A network and its training by scikit-learn's rules: what is recorded, when it ends, and the rate of sgd.

    `fit_many` takes it in the place of the network. The attributes that end in an underscore are the estimator's.

    Attributes:
        factor: what the rate of sgd is multiplied by.
        since: epochs since the loss or the score has improved by more than `tol`.
        owner, samples, held_out: during a training, the estimator, the number of samples that it learns from, and the
            samples that are set aside: (X, y, weights), or None.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.factor, self.since, self.n_iter_, self.t_ = 1.0, 0, 0, 0
        self.loss_, self.loss_curve_ = math.inf, list[float]()
        self.best_loss_: float | None = None
        self.validation_scores_: list[float] | None = None
        self.validation_loss_curve_: list[float] | None = None
        self.best_validation_score_: float | None = None
        self.best: _Parameters | None = None
        self.history: History | None = None
        self.owner: Any = None
        self.samples = 0
        self.held_out: _Data | None = None

    def begin(self, owner: Any, samples: int, held_out: _Data | None) -> None:
        """Takes what a training needs; what has been recorded is continued."""
        self.owner, self.samples, self.held_out = owner, samples, held_out
        if held_out is None:
            self.best_loss_ = math.inf if self.best_loss_ is None else self.best_loss_
        elif self.best_validation_score_ is None:
            self.best_loss_, self.best_validation_score_ = None, -math.inf
            self.validation_scores_, self.validation_loss_curve_ = [], []

    def end(self) -> None:
        """Leaves the estimator and its data."""
        self.owner = self.held_out = None

    @property
    def device(self) -> str:
        """The device of the network."""
        return self.network.device

    def input_dtype(self, X: NDArray[Any]) -> np.dtype[Any]:
        """The dtype in which the network reads X."""
        return self.network.input_dtype(X)

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
        """Trains the network."""
        self.factor = 1.0
        try:
            return self.network.fit(X, y, callbacks=[*callbacks, self], **self.rule(), **options)
        except DivergenceError as error:
            if self.held_out is None or self.validation_scores_ is None:
                raise
            self.validation_scores_.append(math.nan)
            warnings.warn(str(error), ConvergenceWarning, stacklevel=2)
            history: History = error.history
            return history
        finally:
            self.history = self.network.history

    def step(self, X: Any, y: Any, sample_weight: Any, **options: Any) -> None:
        """Trains the network for one epoch, in which the optimizer goes on."""
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
        """Whether the loss is better by `tol`."""
        assert self.best_loss_ is not None, "`begin` has set it"
        best, tol = self.best_loss_, float(self.owner.tol)
        self.best_loss_ = min(best, self.loss_)
        return self.loss_ <= best - tol

    def _validated(self, state: TrainingState, held_out: _Data) -> bool:
        """Whether the validation score is better by `tol`; the parameters with the best one are kept."""
        assert self.validation_scores_ is not None, "`begin` has set it"
        assert self.validation_loss_curve_ is not None, "`begin` has set it"
        assert self.best_validation_score_ is not None, "`begin` has set it"
        score, best = float(self.owner._score_of(self.network, *held_out)), self.best_validation_score_
        self.validation_scores_.append(score)
        self.validation_loss_curve_.append(state.logs["val_loss"])
        self.tell("Validation score: %f", score)
        if score > best:
            self.best_validation_score_ = score
            self.best = _parameters(self.network)
        # As in scikit-learn a score that is NaN ends nothing.
        return not score < best + float(self.owner.tol)

    def judge(self, state: TrainingState) -> None:
        """Ends the training, or lowers the rate, after an epoch."""
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


class _Search(_Training):
    """A training by L-BFGS, which ends by the rules of SciPy's L-BFGS-B.

    Attributes:
        calls: evaluations of J.
        point: theta, gradient and J of the last one.
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
        """J, and its gradient. An iteration begins at the point where the one before has ended, which is known."""
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
            state.stop = "the loss does not fall any more"
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


def _parameters(network: Network) -> tuple[list[Any], list[Any]]:
    """Copies of W and b of every layer, on the host."""
    return [np.array(_host(W)) for W in network.weights], [np.array(_host(b)) for b in network.biases]


def _each(name: str, value: Any, count: int) -> list[Any]:
    """One value per hidden layer."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise ValueError(
            f"{name} is one value for all hidden layers, or a sequence with one for each; there are {count} hidden "
            f"layers, received {len(values)} values."
        )
    return values


def from_estimator(mlp: Any, *, device: str = "auto", seed: int | None = None, weight_decay: float = 0.0) -> Network:
    """A network with the layers and parameters of a fitted MLPClassifier or MLPRegressor, scikit-learn's or nnbp's.

    Its `forward` gives the probabilities or values that the estimator predicts. `predict` gives class indices:
    ``mlp.classes_[net.predict(X)]`` are labels. Of an ensemble it is the first network.

    Args:
        mlp: the estimator.
        device, seed: of the network.
        weight_decay: λ. `alpha` is not taken over, as λ depends on the samples: it is `alpha` / Σw of a batch.

    Raises:
        NotFittedError: the estimator is not fitted.

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neural_network import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> mlp = MLPClassifier(solver="lbfgs", random_state=0).fit(X, y)
    >>> net = from_estimator(mlp, device="cpu")
    >>> bool(abs(net.predict_proba(X) - mlp.predict_proba(X)).max() < 1e-12)
    True
    """
    check_is_fitted(mlp, "coefs_")
    units = [len(b) for b in mlp.intercepts_]
    # scikit-learn's estimators have no dropout.
    rates = _each("dropout", getattr(mlp, "dropout", 0.0), len(units) - 1)
    layers: list[int | Layer] = [len(mlp.coefs_[0])]
    for size, rate in zip(units, rates, strict=False):
        layers += [size, Dropout(rate)] if rate else [size]
    output = mlp.out_activation_
    binary = isinstance(mlp.loss, str) and (mlp.loss, output) == ("log_loss", "logistic")
    network = Network(
        [*layers, units[-1]],
        activation=_each("activation", mlp.activation, len(rates)),
        loss="binary_cross_entropy" if binary else mlp.loss,
        output_activation=_OUTPUT.get(output, output),
        weight_decay=weight_decay, dtype=mlp.coefs_[0].dtype, device=device, seed=seed,
    )  # fmt: skip
    network.set_parameters([W.T for W in mlp.coefs_], mlp.intercepts_)
    return network


def _can_step(estimator: Any) -> bool:
    """Whether the estimator has `partial_fit`: its solver takes steps on batches."""
    if optimizers.get(estimator.solver).full_batch:
        raise AttributeError(
            f"partial_fit is only available for optimizers that take steps on batches; received solver="
            f"{estimator.solver!r}."
        )
    return True


class _MLP(BaseEstimator):  # type: ignore[misc]
    """What both estimators have."""

    _parameter_constraints = {
        name: rule
        for name, rule in _Theirs._parameter_constraints.items()
        # nnbp checks what else these may be.
        if name not in ("activation", "solver", "loss")
    } | {"n_networks": [Interval(Integral, 1, None, closed="left")]}

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Trains on data from the start, or with `warm_start` from where the last training has ended.

        Args:
            X: (m, n_features): an array, a frame, or a sparse matrix, which is made dense batch by batch. `lbfgs` has
                one batch, so X becomes dense as a whole.
            y: (m,) or (m, n_outputs).
            sample_weight: (m,), at least 0.

        Returns:
            the estimator.

        Raises:
            ValueError: an argument or the data do not fit.
            DataError: training diverged, and no validation has chosen parameters before.

        Warns:
            sklearn.exceptions.ConvergenceWarning: `max_iter` epochs were not enough.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    def _fit(self, X: Any, y: Any, sample_weight: Any, *, incremental: bool) -> Self:
        self._validate_params()
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        reset = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        X, y, by_class = self._checked(X, y, incremental=incremental, reset=reset)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        if by_class is not None:
            weights = by_class if weights is None else weights * by_class
        rng = check_random_state(self.random_state)
        drawn = self._initialize(rng, X, y) if reset else None
        data, held_out = self._split(rng, X, y, weights)
        if drawn is not None:
            self._begin(drawn, rng)
        # After a change between lbfgs and another solver nothing of the former training is continued.
        kind = self._kind()
        trainings = self._trainings = [each if type(each) is kind else kind(each.network) for each in self._current()]
        try:
            self._train(trainings, rng, data, held_out, incremental=incremental)
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=3)
        except DivergenceError as error:
            raise DataError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
                f"preprocessed. {error}"
            ) from error
        finally:
            for training in trainings:
                training.end()
            self._publish()
        return self

    def _split(self, rng: Any, X: Any, y: Any, weights: Any) -> tuple[_Data, _Data | None]:
        """The samples to learn from, and those that are set aside."""
        if not self.early_stopping:
            return (X, y, weights), None
        stratify = y if is_classifier(self) and self.n_outputs_ == 1 else None
        parts = train_test_split(
            np.arange(X.shape[0]), random_state=rng, test_size=self.validation_fraction, stratify=stratify
        )
        if len(parts[1]) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        learnt, held_out = (_rows((X, y, weights), part) for part in parts)
        return learnt, held_out

    def _train(
        self, trainings: list[_Training], rng: Any, data: _Data, held_out: _Data | None, *, incremental: bool
    ) -> None:
        X, y, weights = data
        m = X.shape[0]
        batch, steps = self._batches(m)
        total = m if weights is None else float(np.sum(weights))
        # A network refuses weights whose sum is not positive.
        decay = self.alpha * steps / total if total > 0 else 0.0
        for training in trainings:
            training.begin(self, m, held_out)
            training.network.weight_decay = decay
        if incremental:
            order = rng.permutation(m) if self.shuffle and steps > 1 else slice(None)
            for training in trainings:
                training.step(*_rows(data, order), batch_size=batch)
            return
        options = {
            "epochs": self.max_iter, "batch_size": batch, "shuffle": self.shuffle, "sample_weight": weights,
            "validation_data": None if held_out is None else [part for part in held_out if part is not None],
            "schedule": self.schedule, "callbacks": self.callbacks, "progress": False,
        }  # fmt: skip
        with warnings.catch_warnings():
            # scikit-learn's, below, stands for it; and a search over `alpha` tries networks that are to be constant.
            warnings.simplefilter("ignore", errors.ConvergenceWarning)
            if len(trainings) == 1:
                trainings[0].fit(X, y, **options)
            else:
                fit_many(trainings, X, y, **options)
        if doubts := [doubt for training in trainings if (doubt := training.doubt())]:
            warnings.warn(doubts[0], ConvergenceWarning, stacklevel=4)

    def _batches(self, m: int) -> tuple[int | None, int]:
        """The batch size, and the number of batches in an epoch."""
        if optimizers.get(self.solver).full_batch:
            return None, 1
        if self.batch_size == "auto":
            size = min(200, m)
        else:
            size = min(self.batch_size, m)
            if size < self.batch_size:
                warnings.warn(
                    "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=5
                )
        return size, -(-m // size)

    # The networks. `coefs_` and `intercepts_` are those of the first one.

    def _initialize(self, rng: Any, X: Any, y: Any) -> list[_Parameters]:
        """Draws the initial parameters of every network as scikit-learn does, and returns them."""
        hidden = np.atleast_1d(self.hidden_layer_sizes).tolist()
        if any(size <= 0 for size in hidden):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
        sizes = [X.shape[1], *hidden, y.shape[1]]
        self.n_layers_, self.n_outputs_ = len(sizes), y.shape[1]
        output = self._loss().output_activation
        self.out_activation_ = {name: own for own, name in _OUTPUT.items()}.get(output, output)
        f = [activations.get(spec).name for spec in _each("activation", self.activation, len(hidden))]
        # The output layer has the factor of the last hidden layer, as in scikit-learn.
        factors = [2.0 if name == "sigmoid" else 6.0 for name in [*f, *f[-1:]] or ["identity"]]
        dtype = np.float32 if X.dtype == np.float32 else np.float64

        def draw() -> _Parameters:
            coefs, intercepts = [], []
            for (n_in, n_out), factor in zip(pairwise(sizes), factors, strict=True):
                bound = math.sqrt(factor / (n_in + n_out))
                coefs.append(rng.uniform(-bound, bound, (n_in, n_out)).astype(dtype, copy=False))
                intercepts.append(rng.uniform(-bound, bound, n_out).astype(dtype, copy=False))
            return coefs, intercepts

        drawn = [draw() for _ in range(self.n_networks)]
        self.coefs_, self.intercepts_ = drawn[0]
        return drawn

    def _begin(self, parameters: list[_Parameters], rng: Any) -> None:
        """Makes networks with these parameters."""
        self._trainings = []
        for self.coefs_, self.intercepts_ in parameters:
            network = from_estimator(self, device=self.device, seed=int(rng.randint(2**31 - 1)))
            self._trainings.append(self._kind()(network))
        self._publish()

    def _kind(self) -> type[_Training]:
        return _Search if self.solver == "lbfgs" else _Training

    def _publish(self) -> None:
        """Sets the attributes of the estimator from the first network and its training."""
        network = self._trainings[0].network
        self.networks_ = [training.network for training in self._trainings]
        self.coefs_ = [_seen(W).T for W in network.weights]
        self.intercepts_ = [_seen(b) for b in network.biases]
        self._published = [*self.coefs_, *self.intercepts_]
        for name, value in vars(self._trainings[0]).items():
            if name[-1] == "_":
                setattr(self, name, value)

    def _current(self) -> list[_Training]:
        """The trainings, after parameters that a user has assigned have gone to the first network."""
        if not hasattr(self, "_trainings"):
            self._begin([(self.coefs_, self.intercepts_)], check_random_state(self.random_state))
        given = [*self.coefs_, *self.intercepts_]
        if any(a is not b for a, b in zip(given, self._published, strict=True)):
            self._trainings[0].network.set_parameters([W.T for W in self.coefs_], self.intercepts_)
            self._publish()
        return self._trainings

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if hasattr(self, "_trainings"):
            self._publish()

    # Data.

    def _valid(self, X: Any, *y: Any, **rules: Any) -> Any:
        """X, and y if it is given, checked. X of CuPy stays on its device, where the network checks it."""
        if hasattr(X, "__cuda_array_interface__"):
            y = tuple(np.asarray(_host(each)) for each in y)
            return validate_data(self, X, *y, skip_check_array=True, reset=rules["reset"])
        return validate_data(self, X, *y, accept_sparse="csr", dtype=(np.float64, np.float32), **rules)

    def _outputs(self, X: Any) -> Any:
        """The mean output of the networks, (m, n_outputs)."""
        check_is_fitted(self)
        X = self._valid(X, reset=False)
        networks = [training.network for training in self._current()]
        return sum(network.forward(X) for network in networks) / len(networks)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class MLPClassifier(ClassifierMixin, _MLP):  # type: ignore[misc]
    """scikit-learn's `MLPClassifier`, trained by nnbp. The module says what differs.

    Args:
        hidden_layer_sizes: units of each hidden layer.
        activation: of the hidden layers: a name or an object of nnbp, or a sequence with one for each layer.
        solver: "adam", "sgd" or "lbfgs" as in scikit-learn; or any other optimizer of nnbp. A name takes
            `learning_rate_init`, an object has a learning rate of its own. `lbfgs` heeds `early_stopping`, too.
        loss: "log_loss", or a classification loss of nnbp or of your own.
        class_weight: a dictionary of label and weight, or "balanced"; multiplies `sample_weight`.
        dropout: the share of a hidden layer's outputs that are set to 0 in training; a number, or one for each layer.
        schedule: a schedule of nnbp for the learning rate, by name or as an object.
        callbacks: callbacks of nnbp; they may end training by `state.stop`. `partial_fit` does not call them, nor does
            it use the schedule.
        n_networks: the number of networks, from different seeds, whose probabilities are averaged.
        device: "auto" (a working GPU, else the CPU), "cpu", "cuda", …

    The other arguments, and the attributes, are scikit-learn's.

    Attributes:
        networks_: the trained networks, `nnbp.Network`; attributes of one network are those of the first.
        loss_curve_, n_iter_: of every solver.
        validation_loss_curve_: with `early_stopping`, the loss on the samples that are set aside, after each epoch;
            else None.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True, as_frame=True)
    >>> labels = load_iris().target_names[y]
    >>> mlp = MLPClassifier(solver="lbfgs", random_state=0, device="cpu").fit(X, labels)
    >>> mlp.predict(X[:2]).tolist(), mlp.score(X, labels) > 0.97
    (['setosa', 'setosa'], True)
    """

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str | Activation | Sequence[str | Activation] = "relu",
        *,
        solver: str | Optimizer = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        loss: str | Loss = "log_loss",
        class_weight: Any = None,
        dropout: float | Sequence[float] = 0.0,
        schedule: str | Schedule | Callable[[float], float] | None = None,
        callbacks: Sequence[Callback | Callable[[TrainingState], None]] = (),
        n_networks: int = 1,
        device: str = "auto",
    ) -> None:
        _assign(**locals())

    @available_if(_can_step)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, classes: ArrayLike | None = None
    ) -> Self:
        """Trains for one epoch on these samples; the optimizer goes on from the call before.

        Args:
            X, y, sample_weight: as for `fit`.
            classes: all labels, for the first call.
        """
        if isinstance(self.class_weight, str):
            raise ValueError(
                "class_weight='balanced' counts the classes of all samples, and partial_fit sees a part of them. Give "
                "a dictionary: sklearn.utils.class_weight.compute_class_weight finds its values."
            )
        if _check_partial_fit_first_call(self, classes):
            self._label_binarizer = LabelBinarizer().fit(y if type_of_target(y).startswith("multilabel") else classes)
        return self._fit(X, y, sample_weight, incremental=True)

    def _checked(self, X: Any, y: Any, *, incremental: bool, reset: bool) -> tuple[Any, Any, Any]:
        X, y = self._valid(X, y, multi_output=True, reset=reset)
        y = _flat(y)
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            classes = unique_labels(y)
            if self.warm_start and set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {self.classes_}, `y` has {classes}"
                )
            if len(np.setdiff1d(classes, self.classes_)):
                raise ValueError(
                    f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}."
                )
        by_class = None if self.class_weight is None else compute_sample_weight(self.class_weight, y)
        return X, self._label_binarizer.transform(y).astype(bool), by_class

    def _loss(self) -> Loss:
        softmax = self._label_binarizer.y_type_ == "multiclass"
        if self.loss == "log_loss":
            return losses.get("cross_entropy" if softmax else "binary_cross_entropy")
        loss = losses.get(self.loss)
        if not loss.classification:
            raise ValueError(
                f"The loss of a classifier is for classes; received {loss.name}, which is for values. Use log_loss, or "
                "MLPRegressor."
            )
        return loss

    def _decided(self, h: Any) -> Any:
        """The labels of outputs (m, n_outputs)."""
        h = _host(h)
        return self._label_binarizer.inverse_transform(h.ravel() if h.shape[1] == 1 else h)

    def _score_of(self, network: Network, X: Any, y: Any, weights: Any) -> float:
        """The validation score of a network."""
        h = _host(network.forward(X))
        if not np.isfinite(h).all():
            return math.nan
        truth = self._label_binarizer.inverse_transform(y.ravel() if y.shape[1] == 1 else y)
        return float(accuracy_score(truth, self._decided(h), sample_weight=weights))

    def predict(self, X: Any) -> Any:
        """The labels of samples: (m,), or (m, n_outputs) of several labels each."""
        return self._decided(self._outputs(X))

    def predict_proba(self, X: Any) -> Any:
        """The probabilities of the classes, (m, n_classes), in the order of `classes_`; X of CuPy gives CuPy."""
        h = self._outputs(X)
        # NumPy's function hands arrays of CuPy to CuPy's.
        return np.concatenate([1.0 - h, h], axis=1) if h.shape[1] == 1 else h

    def predict_log_proba(self, X: Any) -> Any:
        """The logarithms of `predict_proba`."""
        return np.log(self.predict_proba(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, _MLP):  # type: ignore[misc]
    """scikit-learn's `MLPRegressor`, trained by nnbp. The module says what differs.

    Args:
        loss: "squared_error" or "poisson" as in scikit-learn, or another loss of nnbp or of your own.

    All other arguments and attributes are as for `MLPClassifier`, which alone has `class_weight`.

    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> mlp = MLPRegressor(loss="huber", learning_rate_init=0.3, random_state=0, device="cpu").fit(X, y)
    >>> mlp.score(X, y) > 0.4
    True
    """

    def __init__(
        self,
        loss: str | Loss = "squared_error",
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str | Activation | Sequence[str | Activation] = "relu",
        *,
        solver: str | Optimizer = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: float | Sequence[float] = 0.0,
        schedule: str | Schedule | Callable[[float], float] | None = None,
        callbacks: Sequence[Callback | Callable[[TrainingState], None]] = (),
        n_networks: int = 1,
        device: str = "auto",
    ) -> None:
        _assign(**locals())

    @available_if(_can_step)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Trains for one epoch on these samples; the optimizer goes on from the call before."""
        return self._fit(X, y, sample_weight, incremental=True)

    def _checked(self, X: Any, y: Any, *, incremental: bool, reset: bool) -> tuple[Any, Any, Any]:
        X, y = self._valid(X, y, multi_output=True, y_numeric=True, reset=reset)
        return X, _flat(y).reshape(len(y), -1), None

    def _loss(self) -> Loss:
        return losses.get(self.loss)

    def _score_of(self, network: Network, X: Any, y: Any, weights: Any) -> float:
        """The validation score of a network."""
        h = _host(network.forward(X))
        return float(r2_score(y, h, sample_weight=weights)) if np.isfinite(h).all() else math.nan

    def predict(self, X: Any) -> Any:
        """The values of samples: (m,), or (m, n_outputs) of several outputs; X of CuPy gives CuPy."""
        h = self._outputs(X)
        return h[:, 0] if h.shape[1] == 1 else h
