"""What the report says of a trained model beyond its metrics: calibration, ROC, importance of columns, layers, rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnbp import metrics
from nnbp.engine.results import Gradients
from nnbp.nn.health import dead_and_saturated
from nnbp.tabular.model import TableModel
from nnbp.tabular.table import Source, Texts

ROWS = 1000
"""The most rows that are looked at, evenly spread."""

COLUMNS, REPEATS, FEW = 200, 5, 40
"""The most columns whose importance is measured, and how often each is permuted: twice if there are more than FEW."""

WORK, ENOUGH = 2e10, (100, 15)
"""The most products of all predictions for the importance, about a second on two cores; a network that is too large for
that is measured on fewer columns, and before they are fewer than 15, on fewer rows, but at least 100."""

BINS = 10
WORST, CELLS = 10, 4
"""Rows that are shown, and cells of each."""


class Importance(NamedTuple):
    """By how much a score falls if a column is permuted: mean and standard deviation."""

    column: str
    mean: float
    deviation: float


class Permutations(NamedTuple):
    """The importance of columns, the largest first.

    Attributes:
        score: the name of the metric that falls.
        columns: those that were measured.
        rows, repeats: on how many rows, and how often each column was permuted.
        unmeasured: the number of other columns.
    """

    score: str
    columns: list[Importance]
    rows: int
    repeats: int
    unmeasured: int


class WorstRow(NamedTuple):
    """A row with a large cost: where it stands, its truth and prediction, the cost, and some of its cells by column."""

    place: int
    truth: str
    predicted: str
    cost: float
    cells: dict[str, str]


class LayerFacts(NamedTuple):
    """A layer on some rows: a (m, n), delta = ∂C/∂z (m, n), the ∂J/∂θ of its parameters, its dead and saturated units.

    Units are counted from 1 through all layers, the inputs first, as in the notes and in the explorer.
    """

    name: str
    a: NDArray[Any]
    delta: NDArray[Any]
    gradient: NDArray[Any]
    dead: list[int]
    saturated: list[int]


@dataclass(frozen=True, eq=False)
class Insight:
    """A model on some rows of a table.

    Attributes:
        rows: the number of rows. held_out: whether training did not see them.
        truth, predicted: class indices or values (m,).
        probabilities: (m, k), or None for values.
        unit: what the places of rows count, "line" or "row".
        importance: of the columns; None if the model has no preprocessing, or if there is one row.
        worst: the rows with the largest cost, −ln p(truth) or |truth − predicted|.
        layers: those that have an activation.
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
    """Looks at a model on at most 1000 rows of a table with its target."""
    source = source.take(_some_rows(len(source)))
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


def _some_rows(samples: int, most: int = ROWS) -> NDArray[np.int64]:
    """Indices of at most 1000 rows, or another number, evenly spread."""
    return np.unique(np.linspace(0, samples - 1, min(samples, most)).round().astype(np.int64))


def affordable(parameters: int, rows: int, columns: int) -> tuple[int, int, int]:
    """On how many rows, of how many columns, and how often each, the importance can be measured: see `WORK`.

    >>> affordable(38_410, 359, 64), affordable(5_121_025, 1000, 10_000), affordable(10**9, 1000, 10)
    ((359, 64, 2), (130, 15, 2), (100, 1, 5))
    """
    repeats = REPEATS if columns <= FEW else 2
    budget, (least_rows, least_columns) = WORK / (parameters * repeats), ENOUGH
    rows = min(rows, max(least_rows, int(budget / min(columns, least_columns))))
    return rows, min(columns, COLUMNS, max(1, int(budget / rows))), repeats


def _importance(model: TableModel, X: NDArray[Any], truth: NDArray[Any], influence: NDArray[Any]) -> Permutations:
    """Breiman, "Random forests", 2001, section 10; as `sklearn.inspection.permutation_importance`.

    If not all columns can be measured, those with the largest mean |∂C/∂x| · deviation are, and before them columns of
    text, which have no derivative.
    """
    assert model.preprocessor is not None, "the caller has looked"
    columns = model.preprocessor.columns
    rows, most, repeats = affordable(int(model.network.parameters.size), len(X), len(columns))
    order = sorted(range(len(columns)), key=lambda k: -np.inf if columns[k].categories else -influence[k])
    chosen, rng = _some_rows(len(X), rows), np.random.default_rng(0)
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
    """Mean predicted probability, observed share, and number of rows of each bin that has any; and the ECE."""

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    rows: NDArray[np.int64]
    error: float


def calibration(truth: NDArray[Any], probabilities: NDArray[Any]) -> Calibration:
    """Calibration in ten bins of equal width: of the probability of class 1 of two, else of the predicted class.

    The expected calibration error is Σ n_b / m |observed_b − predicted_b|; Guo, Pleiss, Sun & Weinberger, "On
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
    """The rates of false and of true positives as the threshold falls, and the area under them, `roc_auc`.

    As `sklearn.metrics.roc_curve`, without leaving out points on a line.

    Args:
        positive: (m,), whether the sample is of the class; there are some that are and some that are not.
        score: (m,), high for samples of the class.
    """
    order = np.argsort(-score, kind="stable")
    true, false = np.cumsum(positive[order]), np.cumsum(~positive[order])
    # Samples with the same score pass the threshold together.
    last = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    x, y = (np.append(0.0, total[last] / total[-1]) for total in (false, true))
    return x, y, metrics.get("roc_auc")(positive.astype(np.int64), score)
