"""Metrics: how good predictions are, in the terms people report; computed on host arrays in float64.

Each equals scikit-learn's function of the same meaning. Common to all of them:

- a sample of weight 0 counts as absent (there, too, but for the classes that F1 is averaged over);
- several outputs are averaged with equal weight; `max_error` is the largest over them all;
- a prediction that is not finite makes the metric nan, so that a diverging training shows in its history;
- if a metric is not defined it is nan, without a warning: `r2` for one sample, `roc_auc` for one class.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnbp.errors import DataError, ShapeError
from nnbp.formatting import shown
from nnbp.registry import Named
from nnbp.validation import LARGEST_SIZE, host, items, refuse, sample_weights, whole_number

Array = NDArray[Any]
Needs = Literal["labels", "values", "probabilities"]


class Metric(Named, ABC, kind="metric"):
    """A number for predictions: a subclass gives `score` and the attributes, and `get` knows it by its name.

    Attributes:
        name: the name in a history and for `get`.
        greater_is_better: whether a larger value is a better one.
        needs: what y_pred is. "labels": class indices; "values": the network's output; "probabilities": those
            of all classes, (m, k), or of class 1 of two, (m,).

    Example:
        >>> get("accuracy")([0, 1, 1, 2], [0, 1, 2, 2])
        0.75
        >>> get("rmse")([0.0, 0.0], [3.0, 1.0], sample_weight=[1.0, 0.0])
        3.0
    """

    name: str
    greater_is_better: bool
    needs: Needs

    @abstractmethod
    def score(self, truth: Array, prediction: Array, weight: Array) -> float:
        """The metric of checked arrays.

        Args:
            truth: "values": (m, k) float64; else (m,) int64.
            prediction: "labels": (m,) int64; "values": (m, k) float64; "probabilities": (m, k >= 2) floating.
            weight: (m,) float64, all above 0.
        """

    def __call__(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """The metric of predictions `y_pred` for the truth `y_true`.

        Args:
            y_true: class indices (m,), or values (m,) or (m, k) if `needs` is "values".
            y_pred: what `needs` says.
            sample_weight: (m,), at least 0, not all 0; None is equal weights.

        Raises:
            ShapeError: the shapes do not fit each other, or there is no sample.
            DTypeError: something is not numbers.
            DataError: a label is no whole number, a target is not finite, or the weights cannot be used.
        """
        truth = (_table if self.needs == "values" else _labels)(f"y_true of {self.name}", y_true)
        prediction = (_labels if self.needs == "labels" else _table)(f"y_pred of {self.name}", y_pred)
        _check_same_shape(self.name, truth, prediction[:, 0] if self.needs == "probabilities" else prediction)
        if self.needs == "probabilities" and prediction.shape[1] == 1:
            prediction = np.hstack([1 - prediction, prediction])
        elif self.needs == "values":
            truth, prediction = truth.astype(np.float64), prediction.astype(np.float64)
        refuse(f"y_true of {self.name} is finite", truth, ~np.isfinite(truth), "Impute it or leave it out.")
        weight = sample_weights(sample_weight, len(truth))
        if weight is None:
            weight = np.ones(len(truth))
        truth, prediction, weight = (array[weight > 0] for array in (truth, prediction, weight))
        if not np.isfinite(prediction).all():
            return math.nan
        with np.errstate(over="ignore", invalid="ignore"):
            return float(self.score(truth, prediction, weight))


@final
class Accuracy(Metric):
    """Σ wₙ [hₙ = yₙ] / Σ wₙ. Source: `sklearn.metrics.accuracy_score`."""

    name, greater_is_better, needs = "accuracy", True, "labels"
    aliases = ("acc", "accuracy_score", "categorical_accuracy", "sparse_categorical_accuracy", "binary_accuracy")

    def score(self, truth: Array, prediction: Array, weight: Array) -> float:
        return float(np.average(truth == prediction, weights=weight))


@final
class BalancedAccuracy(Metric):
    """The mean recall of the classes in y_true. Source: `sklearn.metrics.balanced_accuracy_score`."""

    name, greater_is_better, needs = "balanced_accuracy", True, "labels"
    aliases = ("balanced_accuracy_score",)

    def score(self, truth: Array, prediction: Array, weight: Array) -> float:
        _, index = np.unique(truth, return_inverse=True)
        hits = np.bincount(index, weight * (truth == prediction))
        return float(np.mean(hits / np.bincount(index, weight)))


@final
class F1Macro(Metric):
    """The mean, over the classes that occur in y_true or y_pred, of F1 = 2 TP / (2 TP + FP + FN).

    Source: `sklearn.metrics.f1_score(average="macro")`.
    """

    name, greater_is_better, needs = "f1_macro", True, "labels"
    aliases = ("macro_f1",)

    def score(self, truth: Array, prediction: Array, weight: Array) -> float:
        _, index = np.unique(np.concatenate([truth, prediction]), return_inverse=True)
        hits = np.bincount(index, np.tile(weight * (truth == prediction), 2))
        return float(np.mean(hits / np.bincount(index, np.tile(weight, 2))))


@final
class LogLoss(Metric):
    """-Σ wₙ log pₙ[yₙ] / Σ wₙ, p cut to [ε, 1 - ε] with ε of the dtype of y_pred (2.2e-16 in float64).

    Column c of the probabilities is class index c. Source: `sklearn.metrics.log_loss`, which computes in the
    dtype of y_pred and only warns of rows that do not sum to 1.
    """

    name, greater_is_better, needs = "log_loss", False, "probabilities"

    def score(self, truth: Array, prediction: Array, weight: Array) -> float:
        _refuse_labels("y_true of log_loss", truth, prediction.shape[1])
        eps = float(np.finfo(prediction.dtype).eps)
        p = prediction.astype(np.float64)
        wrong = (p.min(axis=1) < 0) | (abs(p.sum(axis=1) - 1.0) > math.sqrt(eps))
        refuse("The rows of y_pred of log_loss are probabilities", p, wrong, "Pass net.predict_proba(X).")
        return float(np.average(-np.log(p[np.arange(len(p)), truth].clip(eps, 1.0 - eps)), weights=weight))


@final
class RocAuc(Metric):
    """The probability that a sample of class 1 has a higher score than one of class 0; ties count half.

    Two classes only, the larger label is the positive one; nan if y_true has one class. Of (m, 2) the
    second column is the score. Source: `sklearn.metrics.roc_auc_score`; Hanley & McNeil, Radiology 143, 1982.
    """

    name, greater_is_better, needs = "roc_auc", True, "probabilities"
    aliases = ("roc_auc_score", "auc")

    def score(self, truth: Array, prediction: Array, weight: Array) -> float:
        classes = np.unique(truth)
        if len(classes) > 2 or prediction.shape[1] > 2:
            raise DataError(
                f"roc_auc is defined for two classes; received {len(classes)} classes in y_true and "
                f"{prediction.shape[1]} columns in y_pred. Use log_loss or f1_macro for more."
            )
        if len(classes) < 2:
            return math.nan
        _, rank = np.unique(prediction[:, 1], return_inverse=True)
        positive = np.bincount(rank, weight * (truth == classes[1]))
        negative = np.bincount(rank, weight * (truth == classes[0]))
        below = np.cumsum(negative) - 0.5 * negative
        return float(positive @ below / (positive.sum() * negative.sum()))


@final
class MSE(Metric):
    """Σ wₙ (hₙ - yₙ)² / Σ wₙ, the mean over outputs. Source: `sklearn.metrics.mean_squared_error`."""

    name, greater_is_better, needs = "mse", False, "values"
    aliases = ("mean_squared_error",)

    def score(self, truth: Array, prediction: Array, weight: Array) -> float:
        return float(np.average((prediction - truth) ** 2, axis=0, weights=weight).mean())


@final
class RMSE(Metric):
    """√(Σ wₙ (hₙ - yₙ)² / Σ wₙ), the mean over outputs. Source: `sklearn.metrics.root_mean_squared_error`."""

    name, greater_is_better, needs = "rmse", False, "values"
    aliases = ("root_mean_squared_error",)

    def score(self, truth: Array, prediction: Array, weight: Array) -> float:
        return float(np.sqrt(np.average((prediction - truth) ** 2, axis=0, weights=weight)).mean())


@final
class MAE(Metric):
    """Σ wₙ |hₙ - yₙ| / Σ wₙ, the mean over outputs. Source: `sklearn.metrics.mean_absolute_error`."""

    name, greater_is_better, needs = "mae", False, "values"
    aliases = ("mean_absolute_error",)

    def score(self, truth: Array, prediction: Array, weight: Array) -> float:
        return float(np.average(abs(prediction - truth), axis=0, weights=weight).mean())


@final
class R2(Metric):
    """1 - Σ wₙ (hₙ - yₙ)² / Σ wₙ (yₙ - ȳ)², the mean over outputs.

    An output with a constant target scores 1 if every prediction is exact, else 0; fewer than two samples
    give nan. Source: `sklearn.metrics.r2_score`, where a target is constant if Σ wₙ (yₙ - ȳ)² comes out as 0,
    which rounding in ȳ can prevent; here, if all its values are equal.
    """

    name, greater_is_better, needs = "r2", True, "values"
    aliases = ("r2_score",)

    def score(self, truth: Array, prediction: Array, weight: Array) -> float:
        if len(truth) < 2:
            return math.nan
        residual = weight @ (prediction - truth) ** 2
        spread = weight @ (truth - np.average(truth, axis=0, weights=weight)) ** 2
        constant = (spread == 0) | (truth == truth[0]).all(axis=0)
        ratio = residual / np.where(constant, 1.0, spread)
        return float(np.where(constant, residual == 0, 1.0 - ratio).mean())


@final
class MaxError(Metric):
    """max |hₙ - yₙ| over samples and outputs; weights only leave out the samples of weight 0.

    Source: `sklearn.metrics.max_error`, which takes one output and no weights.
    """

    name, greater_is_better, needs = "max_error", False, "values"

    def score(self, truth: Array, prediction: Array, weight: Array) -> float:
        return float(abs(prediction - truth).max())


@final
class _Function(Metric):
    """A function of the user's, f(y_true, y_pred) or f(y_true, y_pred, sample_weight=…)."""

    def __init__(self, function: Callable[..., float], needs: Needs) -> None:
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)
        self.greater_is_better = bool(getattr(function, "greater_is_better", True))
        self.needs = needs

    def score(self, truth: Array, prediction: Array, weight: Array) -> float:
        return self(truth, prediction, weight)

    def __call__(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        if sample_weight is None:
            return self._number(self.function(y_true, y_pred))
        try:
            inspect.signature(self.function).bind(y_true, y_pred, sample_weight=sample_weight)
        except TypeError as error:
            raise TypeError(
                f"The metric {self.name} takes weights as the keyword sample_weight; received {self.function!r}. Add "
                "the parameter sample_weight=None to it."
            ) from error
        return self._number(self.function(y_true, y_pred, sample_weight=sample_weight))

    def _number(self, returned: Any) -> float:
        with suppress(TypeError, ValueError):
            return float(returned)
        raise TypeError(f"The metric {self.name} returns a number; received {shown(returned)}. Correct the function.")


def get(spec: str | Metric | Callable[..., float], classification: bool = False) -> Metric:
    """The metric that `spec` stands for.

    Args:
        spec: a name of `Metric.registry`, a Metric, which is returned as it is, or a function of
            (y_true, y_pred), and of sample_weight=… if weights are used. Larger is better, unless the
            function's attribute `greater_is_better` says otherwise.
        classification: what a function is given, as by `predict`: "labels" if true, else "values".

    Raises:
        ValueError: no metric has that name (the message has the names and the closest one), or an attribute is missing.
        TypeError: spec is none of the above.
    """
    if isinstance(spec, Metric):
        missing = [name for name in ("name", "greater_is_better", "needs") if not hasattr(spec, name)]
        if missing:
            raise ValueError(
                f"The class of the metric {type(spec).__name__} has name, greater_is_better and needs; received none "
                f"of {', '.join(missing)}. Write: name, greater_is_better, needs = 'bias', False, 'values'."
            )
        return spec
    if isinstance(spec, str):
        return Metric.find(spec)()
    if isinstance(spec, type) or not callable(spec):
        raise TypeError(
            f"A metric is a name, a Metric object or a function of (y_true, y_pred); received {shown(spec)}. Pass for "
            "example 'accuracy' or Accuracy()."
        )
    return _Function(spec, "labels" if classification else "values")


def listed(specs: Any, classification: bool) -> list[Metric]:
    """Metrics as objects: of one or several that `get` knows, or None for the `defaults`.

    Raises:
        ValueError: one is of classes, and the loss is not.
    """
    specs = defaults(classification) if specs is None else specs
    several = not (isinstance(specs, str) or callable(specs))
    specs = items("metrics", specs, "a list of names, Metric objects and functions") if several else [specs]
    found = [get(spec, classification) for spec in specs]
    for metric in found:
        if metric.needs != "values" and not classification:
            raise ValueError(
                f"The metric {metric.name} is for classes, and needs a loss for classes; received a loss for values. "
                f"Use {', '.join(defaults(False))}, or train with loss='cross_entropy'."
            )
    return found


def are_labels(truth: Array) -> bool:
    """Whether targets are class indices, one per sample: neither several labels nor probabilities."""
    return truth.ndim == 1 and bool((truth == np.floor(truth)).all())


def defaults(classification: bool) -> tuple[str, ...]:
    """The names of the metrics that are reported if none is asked for."""
    return ("accuracy",) if classification else ("r2", "rmse")


def confusion_matrix(y_true: ArrayLike, y_pred: ArrayLike, k: int) -> NDArray[np.int64]:
    """C[i, j] = the number of samples of class i that were predicted as class j; shape (k, k), int64.

    Args:
        y_true, y_pred: class indices (m,), each in 0..k-1.
        k: the number of classes.

    Raises:
        ShapeError: the shapes differ, or there is no sample.
        DataError: an index is not in 0..k-1.

    Example:
        >>> confusion_matrix([0, 1, 1], [0, 1, 0], 2)
        array([[1, 0],
               [1, 1]])
    """
    k = whole_number("k, the number of classes,", k, 1, LARGEST_SIZE)
    truth, prediction = (_labels(name, labels) for name, labels in (("y_true", y_true), ("y_pred", y_pred)))
    _check_same_shape("a confusion matrix", truth, prediction)
    _refuse_labels("y_true", truth, k)
    _refuse_labels("y_pred", prediction, k)
    return np.bincount(truth * k + prediction, minlength=k * k).reshape(k, k).astype(np.int64)


def _samples(name: str, values: ArrayLike, *, classes: bool) -> Array:
    """An array of real numbers that holds at least one sample."""
    array = host(values, name, classes=classes)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ShapeError(
            f"{name} has one or two dimensions and at least one sample; received shape {array.shape}. Pass one row per "
            "sample."
        )
    return array


def _labels(name: str, values: ArrayLike) -> Array:
    """Class indices as (m,) int64; (m, 1) is taken for (m,)."""
    array = _samples(name, values, classes=True)
    if array.ndim == 2 and array.shape[1] > 1:
        raise ShapeError(
            f"{name} holds class indices, (m,); received shape {array.shape}. For one-hot rows or probabilities pass "
            "their argmax(axis=1)."
        )
    array = array.reshape(-1)
    if array.dtype.kind == "f":
        wrong = ~np.isfinite(array) | (array != np.floor(array))
        refuse(f"{name} holds whole numbers", array, wrong, "Pass class indices, not probabilities.")
    return array.astype(np.int64)


def _table(name: str, values: ArrayLike) -> Array:
    """Numbers as (m, k), (m,) taken for (m, 1); float32 stays, all else becomes float64."""
    array = _samples(name, values, classes=False)
    return array.astype(np.float32 if array.dtype == np.float32 else np.float64).reshape(len(array), -1)


def _check_same_shape(name: str, truth: Array, other: Array) -> None:
    if truth.shape != other.shape:
        raise ShapeError(
            f"y_pred of {name} has the shape of y_true, {truth.shape} here; received shape {other.shape}. Pass one "
            "entry for each sample and output."
        )


def _refuse_labels(name: str, labels: Array, k: int) -> None:
    """DataError with the first label that is not in 0..k-1, if there is one."""
    fix = "Pass class indices, and as many classes or columns of probabilities as there are."
    refuse(f"{name} holds class indices in 0..{k - 1}", labels, (labels < 0) | (labels >= k), fix)
