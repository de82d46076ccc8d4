"""Diagnostics of a trained model: calibration, ROC, permutation importance, rows predicted worst, and its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnbp import metrics
from nnbp.engine.results import Gradients
from nnbp.explorer.explanation import spread
from nnbp.nn.health import dead_and_saturated
from nnbp.tabular.model import TableModel
from nnbp.tabular.table import Source, Texts

ROWS = 1000
"""The most rows that the diagnostics use, evenly spread."""

COLUMNS, REPEATS, FEW = 200, 5, 40
"""The most columns whose importance is measured; permutations of each, but two if there are more than FEW columns."""

WORK, ENOUGH = 2e10, (100, 15)
"""The most multiplications for the importance of columns, about a second on two cores. If a network needs more, it is
measured on fewer columns, at least 15, then on fewer rows, at least 100, and only then on even fewer columns."""

BINS = 10
WORST, CELLS = 10, 4
"""The number of rows shown, and of cells in each."""


class Importance(NamedTuple):
    """The fall of a score if a column is permuted: mean and standard deviation."""

    column: str
    mean: float
    deviation: float


class Permutations(NamedTuple):
    """The importance of columns, the largest first.

    Attributes:
        score: the name of the metric.
        columns: the columns that were measured.
        rows: the number of rows.
        repeats: the number of permutations of each column.
        unmeasured: the number of columns that were not measured.
    """

    score: str
    columns: list[Importance]
    rows: int
    repeats: int
    unmeasured: int


class WorstRow(NamedTuple):
    """A row with a large cost: its place in the file, its target and prediction, the cost, and some cells by column."""

    place: int
    truth: str
    predicted: str
    cost: float
    cells: dict[str, str]


class LayerFacts(NamedTuple):
    """A layer on some rows: a (m, n), delta = ∂C/∂z (m, n), ∂J/∂θ of its parameters, its dead and saturated units.

    Units are numbered from 1 through all layers, the inputs first, as in the notes and in the explorer.
    """

    name: str
    a: NDArray[Any]
    delta: NDArray[Any]
    gradient: NDArray[Any]
    dead: list[int]
    saturated: list[int]


@dataclass(frozen=True, eq=False)
class Insight:
    """The diagnostics of a model on some rows of a table.

    Attributes:
        rows: the number of rows.
        held_out: whether they were held out from training.
        truth, predicted: (m,), class indices or values.
        probabilities: (m, k), or None for regression.
        unit: whether the places of rows count lines ("line") or rows ("row").
        importance: None if the model has no preprocessing, or if there is only one row.
        worst: the rows with the largest cost, −ln p(truth) or |truth − predicted|.
        layers: the layers that have an activation.
    """

    rows: int
    held_out: bool
    truth: NDArray[Any]
    predicted: NDArray[Any]
    probabilities: NDArray[Any] | None
    unit: str
    importance: Permutations | None
    worst: list[WorstRow]
    layers: list[LayerFacts]


def inspect(model: TableModel, source: Source, *, held_out: bool) -> Insight:
    """The diagnostics of a model on at most 1000 rows of a table with its target."""
    source = source.take(spread(len(source), ROWS))
    y, (X, _) = model.target.encode(source), model.features(source)
    network, labels = model.network, model.target.labels
    gradients = network.gradients(X, y)
    truth = y if labels else model.target.decode(y)
    predicted = model.decoded(network.predict(X)) if not labels else np.asarray(network.predict(X))
    probabilities = np.asarray(network.predict_proba(X)) if labels else None
    influence = np.abs(gradients.dX).mean(axis=0) * X.std(axis=0)
    # One row cannot be permuted, and has no R².
    permuted = model.preprocessor is not None and len(X) > 1
    importance = _importance(model, X, truth, influence) if permuted else None
    important = [] if importance is None else [item.column for item in importance.columns]
    cost = np.abs(truth - predicted)
    if probabilities is not None:
        tiny = np.finfo(probabilities.dtype).tiny
        cost = -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], tiny))
    return Insight(
        len(source), held_out, truth, predicted, probabilities, source.unit, importance,
        _worst(model, source, truth, predicted, cost, important), _layers(model, X, gradients),
    )  # fmt: skip


def affordable(parameters: int, rows: int, columns: int) -> tuple[int, int, int]:
    """The numbers of rows, columns and permutations with which the importance is measured within `WORK`.

    >>> affordable(38_410, 359, 64), affordable(5_121_025, 1000, 10_000), affordable(10**9, 1000, 10)
    ((359, 64, 2), (130, 15, 2), (100, 1, 5))
    """
    repeats = REPEATS if columns <= FEW else 2
    budget, (least_rows, least_columns) = WORK / (parameters * repeats), ENOUGH
    rows = min(rows, max(least_rows, int(budget / min(columns, least_columns))))
    return rows, min(columns, COLUMNS, max(1, int(budget / rows))), repeats


def _importance(model: TableModel, X: NDArray[Any], truth: NDArray[Any], influence: NDArray[Any]) -> Permutations:
    """Permutation importance, as in `sklearn.inspection`; Breiman, "Random forests", 2001, section 10.

    If there are too many columns, it measures columns of text, which have no derivative, and then those with the
    largest mean |∂C/∂x| times standard deviation.
    """
    assert model.preprocessor is not None, "the caller has checked"
    columns = model.preprocessor.columns
    rows, most, repeats = affordable(int(model.network.parameters.size), len(X), len(columns))
    order = sorted(range(len(columns)), key=lambda k: -np.inf if columns[k].categories else -influence[k])
    chosen, rng = spread(len(X), rows), np.random.default_rng(0)
    X, truth = X[chosen], truth[chosen]
    score = "accuracy" if model.target.labels else "r2"

    def measured(X: NDArray[Any]) -> float:
        predicted = model.network.predict(X)
        return metrics.get(score)(truth, predicted if model.target.labels else model.decoded(predicted))

    whole, found = measured(X), []
    for k in sorted(order[:most]):
        changed, falls = X.copy(), []
        for _ in range(repeats):
            changed[:, k] = rng.permutation(X[:, k])
            falls.append(whole - measured(changed))
        found.append(Importance(columns[k].name, float(np.mean(falls)), float(np.std(falls))))
    found.sort(key=lambda item: -item.mean)
    return Permutations(score, found, len(X), repeats, len(columns) - len(found))


def _worst(
    model: TableModel, source: Source, truth: NDArray[Any], predicted: NDArray[Any], cost: NDArray[Any],
    columns: Sequence[str],
) -> list[WorstRow]:  # fmt: skip
    names = {}
    if model.preprocessor is not None:
        given = model.preprocessor.names_in(source, [])
        names = {column.name: name for column, name in zip(model.preprocessor.columns, given, strict=True)}
    shown = [names[column] for column in columns[:CELLS] if column in names]
    labels = model.target.labels

    def text(value: Any) -> str:
        return str(labels[int(value)]) if labels else f"{value:.4g}"

    def cell(name: str, row: int) -> str:
        column: Any = source[name]
        text = column[row] if isinstance(column, Texts) else f"{column[row]:.6g}"
        return "–" if text in ("", "nan") else text

    return [
        WorstRow(
            int(source.places[row]), text(truth[row]), text(predicted[row]), float(cost[row]),
            {name: cell(name, row) for name in shown},
        )
        for row in map(int, np.argsort(-cost, kind="stable")[:WORST])
    ]  # fmt: skip


def _layers(model: TableModel, X: NDArray[Any], gradients: Gradients) -> list[LayerFacts]:
    network = model.network
    trace, places = network.trace(X), network.model.activated
    own = network.model.parameters.views(gradients.flat)
    first = 1 + (network.model.sizes[places[0]])
    facts = []
    for l, (k, d) in enumerate(zip(places, gradients.delta, strict=True), start=1):
        z, a, layer = trace.z[l], trace.a[l], network.layers[k]
        f = layer.activation
        assert f is not None, "these layers have an activation"
        bad: tuple[Any, Any] = ([], []) if l == len(places) else dead_and_saturated(f, z, a)
        dead, saturated = ([first + int(i) for i in units] for units in bad)
        gradient = np.concatenate([np.zeros(0), *map(np.ravel, own[k].values())])
        facts.append(LayerFacts(f"layer {l}: {a.shape[1]} {f.name}", a, d, gradient, dead, saturated))
        first += a.shape[1]
    return facts


class Calibration(NamedTuple):
    """The mean predicted probability, observed frequency and number of rows of each nonempty bin; and the ECE."""

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    rows: NDArray[np.int64]
    error: float


def calibration(truth: NDArray[Any], probabilities: NDArray[Any]) -> Calibration:
    """Calibration in ten bins of equal width: of the probability of class 1 of two, else of the predicted class.

    The expected calibration error (ECE) is Σ n_b / m |observed_b − predicted_b|; Guo, Pleiss, Sun & Weinberger, "On
    calibration of modern neural networks", ICML 2017.

    Args:
        truth: class indices (m,).
        probabilities: (m, k).
    """
    p, hit = probabilities[:, 1], truth == 1
    if probabilities.shape[1] > 2:
        p, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    p = p.astype(np.float64)
    place = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    count = np.bincount(place, minlength=BINS)
    used = count > 0
    predicted, observed = (np.bincount(place, w, BINS)[used] / count[used] for w in (p, hit.astype(np.float64)))
    error = float(count[used] / len(truth) @ np.abs(observed - predicted))
    return Calibration(predicted, observed, count[used], error)


def roc(positive: NDArray[np.bool], score: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """The ROC curve: false and true positive rates as the threshold falls, and the area under the curve, `roc_auc`.

    Like `sklearn.metrics.roc_curve`, but collinear points are kept.

    Args:
        positive: (m,), whether a sample is of the class; there must be samples of both kinds.
        score: (m,), larger for samples that are more likely of the class.
    """
    order = np.argsort(-score, kind="stable")
    true, false = np.cumsum(positive[order]), np.cumsum(~positive[order])
    # Samples with equal scores cross the threshold together.
    last = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    x, y = (np.append(0.0, total[last] / total[-1]) for total in (false, true))
    return x, y, metrics.get("roc_auc")(positive.astype(np.int64), score)
