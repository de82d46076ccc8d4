"""report.html: one run on one page that needs nothing else, no network and no script."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.cli.report.curves import confidence, scatter
from nnbp.cli.report.insight import Importance, Insight, LayerFacts, WorstRow, calibration
from nnbp.errors import MissingDependencyError
from nnbp.formatting import counted, describe_rows, describe_training, metric_rows, number
from nnbp.metrics import confusion_matrix
from nnbp.tabular.model import Evaluation
from nnbp.training.curve import curve, inline_svg

_CLASSES_IN_A_TABLE = 25
_CONFUSIONS_LISTED = 20
_CLASSES_IN_A_PICTURE = 200
_COLUMNS = 15
_LONGEST = 40

_ABOUT_THE_CURVE = (
    "The training loss is the mean over an epoch as it ran, with dropout if there is any; all else is measured after "
    "the epoch. Both losses contain the weight decay."
)


def render(
    result: Mapping[str, Any],
    history: Mapping[str, Sequence[float]],
    config: Mapping[str, Mapping[str, Any]],
    environment: Mapping[str, Any],
    evaluation: Evaluation | None = None,
    insight: Insight | None = None,
) -> str:
    """The page as HTML. If matplotlib is missing, it says so in place of the pictures.

    Args:
        result: what `nnbp train --json` prints.
        history: one value per epoch by name; may be empty.
        config: as in config.toml.
        environment: as in environment.json.
        evaluation: of the held-out rows, or None if there are none.
        insight: what more there is to say of the model, or None if there is no model.
    """
    sections = [("Training curve", _curve(history, result["best_epoch"]))]
    if evaluation is not None:
        sections.append(_comparison(evaluation.truth, evaluation.predicted, result))
    if insight is not None:
        sections += _insights(insight, result)
    folded = [("Configuration", _facts(config)), ("Environment", _facts(environment))]
    heading = f"{result['source']}: predicting {result['target']}"
    if result["labels"]:
        heading += f", {counted(len(result['labels']), 'class', 'classes')}"
    lead = [
        describe_rows(result),
        f"{result['network']}, {counted(result['parameters'], 'parameter')}",
        f"{describe_training(result)}; on {result['device']}",
    ]
    warnings = [str(result["stopped"])] if result["status"] != "done" else []
    warnings += [str(result[key]) for key in ("warning", "device_fallback") if result[key]]
    template = Template(files("nnbp.cli.report").joinpath("templates/run.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"{result['source']} · nnbp"),
        heading=escape(heading),
        lead=_lines(f'<p class="dim">{escape(line)}</p>' for line in lead),
        notice=_lines(f'<p class="warn">{escape(text[:1].upper() + text[1:])}</p>' for text in warnings),
        tiles=_tiles(result),
        sections=_lines(
            [f"<section>\n<h2>{escape(name)}</h2>\n{body}\n</section>" for name, body in sections]
            + [f"<details>\n<summary><h2>{escape(name)}</h2></summary>\n{body}\n</details>" for name, body in folded]
        ),
    )


_lines = "\n".join


def _tiles(result: Mapping[str, Any]) -> str:
    rows = metric_rows(result["metrics"])
    if not rows:
        return ""
    if "baseline_accuracy" in result:
        rows.append(("accuracy of always naming one class", number(result["baseline_accuracy"])))
    tiles = "".join(f'<div class="tile"><b>{value}</b><span>{escape(name)}</span></div>' for name, value in rows)
    held_out = counted(result["rows"]["held_out"], "held-out row")
    return f'<div class="tiles">{tiles}</div>\n<p class="dim">on {held_out}, which training never saw</p>'


def _curve(history: Mapping[str, Sequence[float]], best_epoch: int | None) -> str:
    if not history:
        return "<p>No epoch ended.</p>"
    label = f"Training curve: loss {history['loss'][-1]:.4g} after {len(history['loss'])} epochs"
    picture = _picture(label, curve, history, best_epoch)
    return f'{picture}\n<p class="dim">{_ABOUT_THE_CURVE}</p>'


def _picture(label: str, draw: Callable[..., Any], *values: Any) -> str:
    """What a function of `curves` draws of the values; the prefix of its ids is the function's name."""
    try:
        return f'<div class="wide" tabindex="0">{inline_svg(draw(*values), label, draw.__name__)}</div>'
    except MissingDependencyError as error:
        return f"<p>No picture: {escape(str(error))}</p>"


def _insights(insight: Insight, result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and bodies of the sections on a model beyond its metrics."""
    rows = counted(insight.rows, "held-out row" if insight.held_out else "row")
    rows += "" if insight.held_out else ", most of which training saw"
    sections = []
    if insight.probabilities is not None and insight.rows > 1:
        found = calibration(insight.truth, insight.probabilities)
        label = f"Calibration, with an expected error of {found.error:.3f}, and ROC curves"
        picture = _picture(label, confidence, found, insight.truth, insight.probabilities, result["labels"])
        sections.append(("Calibration and ROC", f'{picture}\n<p class="dim">On {rows}.</p>'))
    if insight.importance:
        sections.append(("Importance of columns", _importance(insight, rows)))
    worst = _worst(insight.worst, insight.unit, bool(result["labels"]))
    sections.append(("Rows predicted worst", f'{worst}\n<p class="dim">Of {rows}.</p>'))
    sections.append(("Layers", _layers(insight.layers)))
    sections.append(("Step by step", _explorer(result["run"])))
    return sections


def _explorer(run: str) -> str:
    command = f"<code>{escape(f'nnbp explain {shlex.quote(run)}')}</code>"
    page = '<a href="explorer.html">explorer.html</a>'
    return (
        f"<p>How the network computes a row, its cost and its gradient: {command} writes {page} beside this page.</p>"
    )


def _importance(insight: Insight, rows: str) -> str:
    shown, largest = insight.importance[:_COLUMNS], max(insight.importance[0].mean, 1e-12)

    def row(item: Importance) -> str:
        width = 100 * max(0.0, item.mean) / largest
        bar = f'<span class="bar" style="width: {width:.1f}%"></span>'
        spread = f"{item.mean:.4f} ± {item.deviation:.4f}"
        return f'<tr><th scope="row">{escape(_cut(item.column))}</th><td class="bars">{bar}</td><td>{spread}</td></tr>'

    name = dict(metric_rows({insight.score: 0.0})).popitem()[0]
    left = len(insight.importance) - len(shown) + insight.unmeasured
    more = f" {counted(left, 'column')} with less influence not shown." if left else ""
    about = f"By how much the {name} falls on {rows}, if the column is permuted.{more}"
    head = map(_head, ("column", f"fall of {name}", "mean ± deviation"))
    return _table(head, map(row, shown)) + f'\n<p class="dim">{about}</p>'


def _worst(worst: Sequence[WorstRow], unit: str, classes: bool) -> str:
    cost = "−ln p(true)" if classes else "|true − predicted|"
    columns = list(worst[0].cells) if worst else []
    head = [unit, "true", "predicted", cost, *columns]
    rows = []
    for item in worst:
        cells = [item.truth, item.predicted, f"{item.cost:.4g}", *item.cells.values()]
        rows.append(
            f'<tr><th scope="row">{item.place}</th>'
            + "".join(f"<td>{escape(_cut(cell))}</td>" for cell in cells)
            + "</tr>"
        )
    return _table([_head(escape(_cut(name))) for name in head], rows)


def _layers(layers: Sequence[LayerFacts]) -> str:
    rows = [
        f'<tr><th scope="row">{escape(layer.name)}</th><td>{_histogram(layer.a, "hit")}</td>'
        f"<td>{_histogram(layer.delta, 'miss')}</td></tr>"
        for layer in layers
    ]
    table = _table(map(_head, ("layer", "outputs a", "delta = ∂C/∂z")), rows)
    about = "Over all units and rows; the height of a bar is the logarithm of its count. "
    about += "Units are counted from 1 through all layers, the inputs first."
    return f'{table}\n<p class="dim">{about}</p>\n{_units(layers)}'


def _histogram(values: NDArray[Any], colour: str) -> str:
    """Bars that say their range and count when they are pointed at: much faster than matplotlib's."""
    counts, edges = np.histogram(np.asarray(values, np.float64), 40)
    heights = 10 * np.log1p(counts) / np.log1p(counts.max())
    bars = "".join(
        f'<rect x="{k}" y="{10 - height:.2f}" width="0.9" height="{height:.2f}" style="fill: rgb(var(--{colour}))">'
        f"<title>{edges[k]:.3g} to {edges[k + 1]:.3g}: {count}</title></rect>"
        for k, (count, height) in enumerate(zip(counts, heights, strict=True))
        if count
    )
    low, high = f"{edges[0]:.3g}", f"{edges[-1]:.3g}"
    return (
        f'<svg class="bins" role="img" aria-label="Histogram from {low} to {high}" viewBox="0 0 40 10" '
        f'preserveAspectRatio="none">{bars}</svg><span class="ends"><span>{low}</span><span>{high}</span></span>'
    )


def _units(layers: Sequence[LayerFacts]) -> str:
    lines = []
    for layer in layers:
        for units, name, meaning in (
            (layer.dead, "dead", "f'(z) is 0 for every row, so they do not learn"),
            (layer.saturated, "saturated", "|f'(z)| is below 5 % of its maximum for every row, so they hardly learn"),
        ):
            if units:
                listed = ", ".join(map(str, units[:20])) + (", …" if len(units) > 20 else "")
                number = f"{len(units)} of {layer.a.shape[1]} units"
                lines.append(f'<p class="warn">{escape(layer.name)}: {number} are {name} ({meaning}): {listed}.</p>')
    return _lines(lines or ["<p>No unit is dead or saturated.</p>"])


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _comparison(truth: NDArray[Any], predicted: NDArray[Any], result: Mapping[str, Any]) -> tuple[str, str]:
    """Name and body of the section that compares predictions with the truth."""
    labels = [escape(str(label)) for label in result["labels"]]
    if not labels:
        label = "Predicted against true values of the held-out rows"
        return "Predicted against true", _picture(label, scatter, truth, predicted, str(result["target"]))
    confusion = confusion_matrix(truth, predicted, len(labels))
    if len(labels) > _CLASSES_IN_A_TABLE:
        return "Confusions", _heat_map(confusion, labels) + _confusions(confusion, labels)
    return "Confusion matrix", _confusion_table(confusion, labels)


def _confusion_table(confusion: NDArray[np.int64], labels: Sequence[str]) -> str:
    hits, by_true, by_predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    head = [*labels, "recall"]
    body = [[*map(_cell, row, row / max(total, 1), np.arange(len(row)) == i), _rate(hits[i], total)]
            for i, (row, total) in enumerate(zip(confusion, by_true, strict=True))]  # fmt: skip
    body.append([*map(_rate, hits, by_predicted), "<td></td>"])
    names = [*labels, "precision"]
    rows = [f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>' for name, cells in zip(names, body, strict=True)]
    caption = "<caption>Held-out rows by their class and by what was predicted.</caption>\n"
    return _table(['<th class="corner">true ↓ predicted →</th>', *map(_head, head)], rows, caption)


def _heat_map(confusion: NDArray[np.int64], labels: Sequence[str]) -> str:
    """A confusion matrix of many classes as a picture; each cell that is not 0 says its count when it is pointed at."""
    n = len(labels)
    if n > _CLASSES_IN_A_PICTURE:
        return ""
    cells = []
    for i, j in zip(*np.nonzero(confusion), strict=True):
        count, kind = int(confusion[i, j]), "hit" if i == j else "miss"
        share = 0.3 + 0.7 * count / confusion[i].max()
        cells.append(
            f'<rect x="{j}" y="{i}" width="1" height="1" style="fill: rgb(var(--{kind}) / {share:.2f})">'
            f"<title>true {labels[i]}, predicted {labels[j]}: {count}</title></rect>"
        )
    return (
        f'<svg class="heat" role="img" aria-label="Confusion matrix of {n} classes" '
        f'viewBox="-0.5 -0.5 {n + 1} {n + 1}">\n'
        f'<rect class="frame" x="0" y="0" width="{n}" height="{n}"/>{"".join(cells)}</svg>\n'
        '<p class="dim">Rows: the true class, from the top; columns: the predicted one. Blue cells are right, orange '
        "ones are wrong; point at a cell for its classes and count. The most frequent confusions:</p>\n"
    )


def _rate(hits: int, total: int) -> str:
    return f"<td>{hits / total:.3f}</td>" if total else "<td>–</td>"


def _cell(count: int, share: float, hit: bool) -> str:
    if not count:
        return '<td class="zero">0</td>'
    # A single confusion among many rows is to be seen, too.
    strength = 0.12 + 0.5 * share if hit else 0.25 + 0.5 * share
    return f'<td style="background: rgb(var(--{"hit" if hit else "miss"}) / {strength:.2f})">{count}</td>'


def _confusions(confusion: NDArray[np.int64], labels: Sequence[str]) -> str:
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS_LISTED]
    rows = [
        f"<tr><td>{labels[i]}</td><td>{labels[j]}</td><td>{wrong[i, j]} of {confusion[i].sum()}</td></tr>"
        for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[i, j]
    ]
    if not rows:
        return "<p>Every held-out row was predicted right.</p>"
    return _table(map(_head, ("true", "predicted", "rows")), rows)


def _head(name: str) -> str:
    return f'<th scope="col">{name}</th>'


def _table(head: Iterable[str], rows: Iterable[str], caption: str = "") -> str:
    body = f"<thead><tr>{''.join(head)}</tr></thead>\n<tbody>\n{_lines(rows)}\n</tbody>"
    return f'<div class="wide" tabindex="0"><table>\n{caption}{body}</table></div>'


def _facts(facts: Mapping[str, Any]) -> str:
    """A table of names and values: single values, then the groups; values that are not set are left out."""
    lines: list[str] = []
    for name, fact in sorted(facts.items(), key=lambda item: isinstance(item[1], Mapping)):
        group = fact if isinstance(fact, Mapping) else {name: fact}
        shown = [(name, value) for name, value in group.items() if value is not None and value != {}]
        if group is fact and shown:
            lines.append(f'<tr class="part"><th colspan="2" scope="colgroup">{escape(name)}</th></tr>')
        lines += [
            f'<tr><th scope="row">{escape(name.replace("_", " "))}</th><td>{escape(_text(value))}</td></tr>'
            for name, value in shown
        ]
    return f'<table class="facts"><tbody>\n{_lines(lines)}\n</tbody></table>'


def _text(value: Any) -> str:
    match value:
        case str():
            return value
        case float():
            return f"{value:.6g}"
        case Mapping():
            return ", ".join(f"{key}={item}" for key, item in value.items())
        case list() | tuple():
            separator = " " if all(isinstance(item, str) for item in value) else ", "
            return separator.join(map(_text, value)) or "none"
        case _:
            return json.dumps(value)
