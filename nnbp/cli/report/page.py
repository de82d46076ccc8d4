"""report.html: one run on one self-contained page, without scripts."""

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
from nnbp.cli.report.insight import BINS, Importance, Insight, LayerFacts, Permutations, WorstRow, calibration
from nnbp.errors import MissingDependencyError
from nnbp.formatting import counted, describe_rows, describe_training, metric_rows, number
from nnbp.metrics import confusion_matrix
from nnbp.nn.health import SATURATED
from nnbp.tabular.model import Evaluation
from nnbp.training.curve import curve, inline_svg

_CLASSES_IN_A_WIDE_TABLE = 25
_CLASSES_IN_A_TABLE = 200
_CONFUSIONS_LISTED = 20
_COLUMNS = 15
_LONGEST, _LONGEST_LABEL = 40, 20
_DRAWN = 1_000_000
"""The most values of a histogram, evenly spread."""

_ABOUT_THE_CURVE = (
    "The training loss is the mean over an epoch while it ran, with dropout if there is any; all else is measured "
    "after the epoch. Both losses include weight decay."
)


def render(
    result: Mapping[str, Any],
    history: Mapping[str, Sequence[float]],
    config: Mapping[str, Mapping[str, Any]],
    environment: Mapping[str, Any],
    evaluation: Evaluation | None = None,
    insight: Insight | None = None,
) -> str:
    """The page as HTML. If matplotlib is missing, the page says so in place of the figures.

    Args:
        result: the results that `nnbp train --json` prints.
        history: one value per epoch by name; may be empty.
        config: as in config.toml.
        environment: as in environment.json.
        evaluation: of the held-out rows, or None if there are none.
        insight: the diagnostics of the model, or None if there is no model.
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
        rows.append(("accuracy of always predicting the most frequent class", number(result["baseline_accuracy"])))
    tiles = "".join(f'<div class="tile"><b>{value}</b><span>{escape(name)}</span></div>' for name, value in rows)
    held_out = counted(result["rows"]["held_out"], "held-out row")
    return f'<div class="tiles">{tiles}</div>\n<p class="dim">on {held_out}, not used in training</p>'


def _curve(history: Mapping[str, Sequence[float]], best_epoch: int | None) -> str:
    if not history:
        return "<p>No epoch was completed.</p>"
    label = f"Training curve: loss {history['loss'][-1]:.4g} after {len(history['loss'])} epochs"
    picture = _picture(label, curve, history, best_epoch)
    return f'{picture}\n<p class="dim">{_ABOUT_THE_CURVE}</p>'


def _picture(label: str, draw: Callable[..., Any], *values: Any) -> str:
    """A figure that a function of `curves` draws, as SVG; the function's name is the prefix of its ids."""
    try:
        return f'<div class="wide" tabindex="0">{inline_svg(draw(*values), label, draw.__name__)}</div>'
    except MissingDependencyError as error:
        return f"<p>No picture: {escape(str(error))}</p>"


def _insights(insight: Insight, result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and bodies of the sections with the diagnostics of a model."""
    seen = "held-out row" if insight.held_out else "row"
    all_rows = result["rows"]["held_out"] if insight.held_out else sum(result["rows"].values())

    def some(count: int) -> str:
        rows = counted(count, seen) if count == all_rows else f"{count} of the {counted(all_rows, seen)}, evenly spread"
        return rows if insight.held_out else f"{rows}, most of which were used in training"

    rows, sections = some(insight.rows), []
    if insight.probabilities is not None and insight.rows > 1:
        found = calibration(insight.truth, insight.probabilities)
        label = f"Calibration, with an expected calibration error of {found.error:.3f}, and ROC curves"
        picture = _picture(label, confidence, found, insight.truth, insight.probabilities, result["labels"])
        sections.append(("Calibration and ROC", f"{picture}\n{_about_confidence(result['labels'], rows)}"))
    if insight.importance is not None:
        sections.append(("Importance of columns", _importance(insight.importance, some(insight.importance.rows))))
    worst = _worst(insight.worst, insight.unit, bool(result["labels"]))
    sections.append(("Rows predicted worst", f"{worst}\n{_dim(f'Of {rows}.')}"))
    sections.append(("Layers", _layers(insight.layers, rows)))
    sections.append(("Step by step", _explorer(result["run"])))
    return sections


def _dim(text: str) -> str:
    return f'<p class="dim">{text}</p>'


def _about_confidence(labels: Sequence[Any], rows: str) -> str:
    binary = len(labels) == 2
    of = f"of {escape(_cut(str(labels[1])))}" if binary else "of the predicted class"
    against = "" if binary else ", each class against all others"
    return _dim(
        f"On {rows}. Calibration: {BINS} bins of the probability {of}, and the share of rows in each that are of this "
        "class; the numbers at the top count the rows. The expected calibration error (ECE) is the mean distance to "
        f"the dashed line, weighted by rows (Guo et al., 2017). ROC: as the threshold falls{against}; the numbers are "
        "the areas under the curves (AUC), at best 1, and 0.5 by chance."
    )


def _explorer(run: str) -> str:
    command = f"<code>{escape(f'nnbp explain {shlex.quote(run)}')}</code>"
    page = '<a href="explorer.html">explorer.html</a>'
    return (
        "<p>How the network computes a row, its cost and its gradient, in numbers and pictures: run "
        f"{command}, then open {page}, which it writes next to this page.</p>"
    )


def _importance(found: Permutations, rows: str) -> str:
    shown = found.columns[:_COLUMNS]
    largest = max([1e-12, *(item.mean for item in shown)])

    def row(item: Importance) -> str:
        width = 100 * max(0.0, item.mean) / largest
        bar = f'<span class="bar" style="width: {width:.1f}%"></span>'
        spread = f"{item.mean:.4f} ± {item.deviation:.4f}"
        return f'<tr><th scope="row">{escape(_cut(item.column))}</th><td class="bars">{bar}</td><td>{spread}</td></tr>'

    name = dict(metric_rows({found.score: 0.0})).popitem()[0]
    about = f"The fall of {name} if the values of a column are permuted, {found.repeats} times, on {rows}."
    if left := len(found.columns) - len(shown):
        about += f" Not shown: {counted(left, 'less important column')}."
    if found.unmeasured:
        # Columns of text are measured first.
        unmeasured = counted(found.unmeasured, "column")
        about += f" Not measured, to save time: {unmeasured} with the smallest mean |∂C/∂x| times standard deviation."
    return f"{_table(map(_head, ('column', f'fall of {name}', 'mean ± deviation')), map(row, shown))}\n{_dim(about)}"


def _worst(worst: Sequence[WorstRow], unit: str, classes: bool) -> str:
    cost = "−ln p(true)" if classes else "|true − predicted|"
    columns = list(worst[0].cells) if worst else []
    rows = []
    for item in worst:
        wrong = ' class="wrong"' if classes and item.predicted != item.truth else ""
        cells = [f"{item.cost:.4g}", *item.cells.values()]
        rows.append(
            f'<tr><th scope="row">{item.place}</th><td>{escape(_cut(item.truth))}</td>'
            f"<td{wrong}>{escape(_cut(item.predicted))}</td>"
            + "".join(f"<td>{escape(_cut(cell))}</td>" for cell in cells)
            + "</tr>"
        )
    return _table([_head(escape(_cut(name))) for name in (unit, "true", "predicted", cost, *columns)], rows)


def _layers(layers: Sequence[LayerFacts], rows: str) -> str:
    lines = [
        f'<tr><th scope="row">{escape(layer.name)}</th><td>{_histogram(layer.a, "hit")}</td>'
        f"<td>{_histogram(layer.delta, 'miss')}</td><td>{_histogram(layer.gradient, 'miss')}</td></tr>"
        for layer in layers
    ]
    table = _table(map(_head, ("layer", "outputs a", "delta = ∂C/∂z", "gradient ∂J/∂θ")), lines)
    about = (
        f"On {rows}; a and delta over all rows and units, the gradient over the layer's parameters θ. The height of a "
        "bar is the logarithm of its count. A hidden unit is dead if f'(z) = 0 for every row, so it does not learn; it "
        f"is saturated if |f'(z)| is below {SATURATED:.0%} of its maximum for |z| ≤ 2 for every row, so it hardly "
        "learns. Units are numbered from 1 through all layers, the inputs first."
    )
    return f"{table}\n{_units(layers)}\n{_dim(about)}"


def _histogram(values: NDArray[Any], colour: str) -> str:
    """A histogram whose bars have their range and count as tooltips: much faster than matplotlib's."""
    if not values.size:
        return "–"
    counts, edges = np.histogram(values.ravel()[:: -(-values.size // _DRAWN)].astype(np.float64), 40)
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
        for units, name in ((layer.dead, "dead"), (layer.saturated, "saturated")):
            if units:
                listed = ", ".join(map(str, units[:20])) + (", …" if len(units) > 20 else "")
                number = f"{len(units)} of {layer.a.shape[1]} units"
                verb = "is" if len(units) == 1 else "are"
                lines.append(f'<p class="warn">{escape(layer.name)}: {number} {verb} {name}: {listed}.</p>')
    return _lines(lines or ["<p>No hidden unit is dead or saturated.</p>"])


def _cut(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _comparison(truth: NDArray[Any], predicted: NDArray[Any], result: Mapping[str, Any]) -> tuple[str, str]:
    """Name and body of the section that compares predictions with the truth."""
    labels = [str(label) for label in result["labels"]]
    if not labels:
        label = "Predicted against true values of the held-out rows"
        return "Predicted against true", _picture(label, scatter, truth, predicted, str(result["target"]))
    confusion = confusion_matrix(truth, predicted, len(labels))
    table = _confusion_table(confusion, labels) if len(labels) <= _CLASSES_IN_A_TABLE else ""
    if len(labels) > _CLASSES_IN_A_WIDE_TABLE:
        table += f"\n<p>The most frequent confusions:</p>\n{_confusions(confusion, labels)}"
    return "Confusion matrix", table


def _confusion_table(confusion: NDArray[np.int64], labels: Sequence[str]) -> str:
    """Counts of all pairs of classes; if there are many, the columns are narrow and both headers stay visible."""
    many = len(labels) > _CLASSES_IN_A_WIDE_TABLE
    hits, by_true, by_predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    short = [escape(_cut(label, _LONGEST_LABEL if many else _LONGEST)) for label in labels]
    rows = []
    for i, (row, total) in enumerate(zip(confusion, by_true, strict=True)):
        cells = []
        for j, count in enumerate(row.tolist()):
            title = f"true {labels[i]}, predicted {labels[j]}" if many else ""
            zero = "<td></td>" if many else '<td class="zero">0</td>'
            cells.append(_cell(count, count / total, i == j, title) if count else zero)
        rows.append(f'<tr><th scope="row">{short[i]}</th>{"".join(cells)}{_rate(hits[i], total)}</tr>')
    precision = "".join(map(_rate, hits, by_predicted))
    rows.append(f'<tr><th scope="row">precision</th>{precision}<td></td></tr>')
    caption = "<caption>Held-out rows by true and predicted class.</caption>\n"
    head = ['<th class="corner">true ↓ predicted →</th>', *map(_head, [*short, "recall"])]
    return _table(head, rows, caption, "wide many" if many else "wide")


def _rate(hits: int, total: int) -> str:
    return f"<td>{hits / total:.3f}</td>" if total else "<td>–</td>"


def _cell(count: int, share: float, hit: bool, title: str) -> str:
    # A single confusion among many rows must be visible, too.
    strength = 0.12 + 0.5 * share if hit else 0.25 + 0.5 * share
    told = f' title="{escape(title)}"' if title else ""
    return f'<td style="background: rgb(var(--{"hit" if hit else "miss"}) / {strength:.2f})"{told}>{count}</td>'


def _confusions(confusion: NDArray[np.int64], labels: Sequence[str]) -> str:
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS_LISTED]
    rows = [
        f"<tr><td>{escape(_cut(labels[i]))}</td><td>{escape(_cut(labels[j]))}</td>"
        f"<td>{wrong[i, j]} of {confusion[i].sum()}</td></tr>"
        for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[i, j]
    ]
    if not rows:
        return "<p>Every held-out row was predicted correctly.</p>"
    return _table(map(_head, ("true", "predicted", "rows")), rows)


def _head(name: str) -> str:
    return f'<th scope="col">{name}</th>'


def _table(head: Iterable[str], rows: Iterable[str], caption: str = "", kind: str = "wide") -> str:
    body = f"<thead><tr>{''.join(head)}</tr></thead>\n<tbody>\n{_lines(rows)}\n</tbody>"
    return f'<div class="{kind}" tabindex="0"><table>\n{caption}{body}</table></div>'


def _facts(facts: Mapping[str, Any]) -> str:
    """A table of names and values: single values first, then groups; values that are not set are left out."""
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
