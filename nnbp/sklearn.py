"""scikit-learn's `MLPClassifier` and `MLPRegressor`, trained by nnbp: `from nnbp.sklearn import MLPClassifier`.

Arguments, defaults and attributes have scikit-learn's names and meaning. The initial parameters and the split of
`early_stopping` are those that scikit-learn draws for the same `random_state`. If the order of the samples does not
matter (`shuffle=False`, or one batch), training gives scikit-learn's results up to rounding. The differences:

- nnbp draws its own order of the samples in an epoch.
- λ = `alpha` · (batches in an epoch) / Σw. It is scikit-learn's `alpha` / Σw of the batch if all batches have the same
  Σw; otherwise all steps have equal shares of the total decay of scikit-learn's steps.
- For several outputs, `loss_` is the sum, and training follows its gradient. scikit-learn follows the same gradient,
  but reports the mean over the outputs (scikit-learn#8349). For `loss="poisson"`, `loss_` omits the terms that depend
  only on y.
- `lbfgs` is `nnbp.LBFGS`, with a strong Wolfe line search. It has a `loss_curve_`, and supports `early_stopping`.
- Training that diverges keeps good parameters; without `early_stopping` it is an error, as in scikit-learn.
- `partial_fit` after `fit` begins with a new state of the optimizer; its `loss_` is the loss before the pass.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from nnbp import errors
from nnbp.errors import DataError, DivergenceError
from nnbp.network import Network
from nnbp.nn import activations, losses
from nnbp.nn.activations import Activation
from nnbp.nn.layers import Dropout, Layer
from nnbp.nn.losses import Loss
from nnbp.optim import optimizers
from nnbp.optim.optimizers import Optimizer
from nnbp.optim.schedules import Schedule
from nnbp.requirements import optional
from nnbp.training.callbacks import Callback, TrainingState
from nnbp.training.parallel import fit_many
from nnbp.training.sklearn_rules import Data, Parameters, Search, Training
from nnbp.validation import host

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

_OUTPUT = {"sigmoid": "logistic", "exponential": "exp"}
"""scikit-learn's names for output activations, if they differ from nnbp's. They are aliases in nnbp."""


def _seen(array: Any) -> Any:
    """A parameter for the estimator: a NumPy array as it is, or else a read-only copy."""
    seen = host(array, "parameters")
    if seen is not array:
        seen.flags.writeable = False
    return seen


def _flat(y: Any) -> Any:
    """A single column of targets, (m, 1), as (m,), with scikit-learn's warning; other targets unchanged."""
    return column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y


def _rows(data: Data, rows: Any) -> Data:
    """Some rows of X, y and the weights."""
    X, y, weights = data
    return X[rows], y[rows], None if weights is None else weights[rows]


def _assign(self: Any, **arguments: Any) -> None:
    """Keeps the arguments of `__init__` as they are, as scikit-learn requires of estimators."""
    vars(self).update(arguments)


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
    ``mlp.classes_[net.predict(X)]`` are labels. For an ensemble, it is the first network.

    Args:
        mlp: the estimator.
        device, seed: of the network.
        weight_decay: λ. `alpha` is not copied, because λ depends on the samples: it is `alpha` / Σw of a batch.

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
    return _network(mlp, (mlp.coefs_, mlp.intercepts_), device=device, seed=seed, weight_decay=weight_decay)


def _network(mlp: Any, parameters: Parameters, **options: Any) -> Network:
    """A network with the layers of an estimator and these parameters."""
    coefs, intercepts = parameters
    units = [len(b) for b in intercepts]
    # scikit-learn's estimators have no dropout.
    rates = _each("dropout", getattr(mlp, "dropout", 0.0), len(units) - 1)
    layers: list[int | Layer] = [len(coefs[0])]
    for size, rate in zip(units, rates, strict=False):
        layers += [size, Dropout(rate)] if rate else [size]
    output = mlp.out_activation_
    binary = isinstance(mlp.loss, str) and (mlp.loss, output) == ("log_loss", "logistic")
    network = Network(
        [*layers, units[-1]],
        activation=_each("activation", mlp.activation, len(rates)),
        loss="binary_cross_entropy" if binary else mlp.loss,
        output_activation=output,
        dtype=coefs[0].dtype,
        **options,
    )
    network.set_parameters([W.T for W in coefs], intercepts)
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
    """The base of both estimators."""

    _parameter_constraints = {
        name: rule
        for name, rule in _Theirs._parameter_constraints.items()
        # nnbp checks these, as they may have more values.
        if name not in ("activation", "solver", "loss")
    } | {"n_networks": [Interval(Integral, 1, None, closed="left")]}

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Trains from the start, or, with `warm_start`, from the end of the last training.

        Args:
            X: (m, n_features): an array, a frame, or a sparse matrix, which becomes dense batch by batch. `lbfgs` has
                one batch, so all of X becomes dense at once.
            y: (m,) or (m, n_outputs).
            sample_weight: (m,), at least 0.

        Returns:
            the estimator.

        Raises:
            ValueError: an argument or the data do not fit.
            DataError: training diverged, and no validation had chosen parameters before.

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
        # After a change between lbfgs and another solver, the former training is not continued.
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

    def _split(self, rng: Any, X: Any, y: Any, weights: Any) -> tuple[Data, Data | None]:
        """The samples to learn from, and the held-out samples."""
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
        self, trainings: list[Training], rng: Any, data: Data, held_out: Data | None, *, incremental: bool
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
            # scikit-learn's warning, below, replaces it; and a search over `alpha` tries networks that are meant to be
            # constant.
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

    def _initialize(self, rng: Any, X: Any, y: Any) -> list[Parameters]:
        """Draws and returns the initial parameters of every network, as scikit-learn does."""
        hidden = np.atleast_1d(self.hidden_layer_sizes).tolist()
        if any(size <= 0 for size in hidden):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
        sizes = [X.shape[1], *hidden, y.shape[1]]
        self.n_layers_, self.n_outputs_ = len(sizes), y.shape[1]
        output = self._loss().output_activation
        self.out_activation_ = _OUTPUT.get(output, output)
        f = [activations.get(spec).name for spec in _each("activation", self.activation, len(hidden))]
        # The output layer uses the factor of the last hidden layer, as in scikit-learn.
        factors = [2.0 if name == "sigmoid" else 6.0 for name in [*f, *f[-1:]] or ["identity"]]
        dtype = np.float32 if X.dtype == np.float32 else np.float64

        def draw() -> Parameters:
            coefs, intercepts = [], []
            for (n_in, n_out), factor in zip(pairwise(sizes), factors, strict=True):
                bound = math.sqrt(factor / (n_in + n_out))
                coefs.append(rng.uniform(-bound, bound, (n_in, n_out)).astype(dtype, copy=False))
                intercepts.append(rng.uniform(-bound, bound, n_out).astype(dtype, copy=False))
            return coefs, intercepts

        return [draw() for _ in range(self.n_networks)]

    def _begin(self, parameters: list[Parameters], rng: Any) -> None:
        """Makes networks with these parameters."""
        seeds = rng.randint(2**31 - 1, size=len(parameters)).tolist()
        made = [
            _network(self, each, device=self.device, seed=seed) for each, seed in zip(parameters, seeds, strict=True)
        ]
        self._trainings = [self._kind()(network) for network in made]
        self._publish()

    def _kind(self) -> type[Training]:
        return Search if self.solver == "lbfgs" else Training

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

    def _current(self) -> list[Training]:
        """The trainings; parameters that a user has assigned are first copied to the first network."""
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
        """X, and y if it is given, checked. A CuPy X stays on its device, and the network checks it there."""
        if hasattr(X, "__cuda_array_interface__"):
            y = tuple(host(each, "y") if hasattr(each, "__cuda_array_interface__") else np.asarray(each) for each in y)
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
    """scikit-learn's `MLPClassifier`, trained by nnbp. The module docstring lists the differences.

    Args:
        hidden_layer_sizes: units of each hidden layer.
        activation: of the hidden layers: a name or an object of nnbp, or a sequence with one for each layer.
        solver: "adam", "sgd" or "lbfgs" as in scikit-learn, or any other optimizer of nnbp. A name takes
            `learning_rate_init`; an object has its own learning rate. `lbfgs` also supports `early_stopping`.
        loss: "log_loss", or a classification loss, nnbp's or your own.
        class_weight: a dictionary from label to weight, or "balanced"; multiplies `sample_weight`.
        dropout: the share of a hidden layer's outputs that are set to 0 in training; a number, or one for each layer.
        schedule: a schedule of nnbp for the learning rate, by name or as an object.
        callbacks: callbacks of nnbp; they may end training by `state.stop`. `partial_fit` uses neither the callbacks
            nor the schedule.
        n_networks: the number of networks, from different seeds, whose probabilities are averaged.
        device: "auto" (a working GPU, else the CPU), "cpu", "cuda", …

    The other arguments, and the attributes, are scikit-learn's.

    Attributes:
        networks_: the trained networks, `nnbp.Network`; attributes of one network are those of the first.
        loss_curve_, n_iter_: of every solver.
        validation_loss_curve_: with `early_stopping`, the loss on the held-out samples after each epoch; else None.

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
        """Trains for one epoch on these samples; the optimizer continues from the previous call.

        Args:
            X, y, sample_weight: as for `fit`.
            classes: all labels, for the first call.
        """
        if isinstance(self.class_weight, str):
            raise ValueError(
                "class_weight='balanced' counts the classes of all samples, but partial_fit sees a part of them. Give "
                "a dictionary: sklearn.utils.class_weight.compute_class_weight computes its values."
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
                f"The loss of a classifier must be for classes; received {loss.name}, which is for values. Use "
                "log_loss, or MLPRegressor."
            )
        return loss

    def _decided(self, h: Any) -> Any:
        """The labels for outputs (m, n_outputs)."""
        h = host(h, "h")
        return self._label_binarizer.inverse_transform(h.ravel() if h.shape[1] == 1 else h)

    def _score_of(self, network: Network, X: Any, y: Any, weights: Any) -> float:
        """The validation score of a network."""
        h = host(network.forward(X), "h")
        if not np.isfinite(h).all():
            return math.nan
        truth = self._label_binarizer.inverse_transform(y.ravel() if y.shape[1] == 1 else y)
        return float(accuracy_score(truth, self._decided(h), sample_weight=weights))

    def predict(self, X: Any) -> Any:
        """The labels of samples: (m,), or (m, n_outputs) if each has several labels."""
        return self._decided(self._outputs(X))

    def predict_proba(self, X: Any) -> Any:
        """The probabilities of the classes, (m, n_classes), in the order of `classes_`; a CuPy X gives a CuPy array."""
        h = self._outputs(X)
        # NumPy's function passes CuPy arrays to CuPy's function.
        return np.concatenate([1.0 - h, h], axis=1) if h.shape[1] == 1 else h

    def predict_log_proba(self, X: Any) -> Any:
        """The logarithms of `predict_proba`."""
        return np.log(self.predict_proba(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, _MLP):  # type: ignore[misc]
    """scikit-learn's `MLPRegressor`, trained by nnbp. The module docstring lists the differences.

    Args:
        loss: "squared_error" or "poisson" as in scikit-learn, or another loss, nnbp's or your own.

    All other arguments and attributes are as for `MLPClassifier`. There is no `class_weight`.

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
        """Trains for one epoch on these samples; the optimizer continues from the previous call."""
        return self._fit(X, y, sample_weight, incremental=True)

    def _checked(self, X: Any, y: Any, *, incremental: bool, reset: bool) -> tuple[Any, Any, Any]:
        X, y = self._valid(X, y, multi_output=True, y_numeric=True, reset=reset)
        return X, _flat(y).reshape(len(y), -1), None

    def _loss(self) -> Loss:
        return losses.get(self.loss)

    def _score_of(self, network: Network, X: Any, y: Any, weights: Any) -> float:
        """The validation score of a network."""
        h = host(network.forward(X), "h")
        return float(r2_score(y, h, sample_weight=weights)) if np.isfinite(h).all() else math.nan

    def predict(self, X: Any) -> Any:
        """The values of samples: (m,), or (m, n_outputs) for several outputs; a CuPy X gives a CuPy array."""
        h = self._outputs(X)
        return h[:, 0] if h.shape[1] == 1 else h
