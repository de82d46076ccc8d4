"""report.html: one run on one page that needs nothing else, no network and no script."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.cli.report.curves import inline_svg, scatter
from nnbp.errors import MissingDependencyError
from nnbp.formatting import counted, describe_rows, describe_training, metric_rows, number
from nnbp.metrics import confusion_matrix
from nnbp.tabular.model import Evaluation
from nnbp.training.curve import curve

_CLASSES_IN_A_TABLE = 25
_CONFUSIONS_LISTED = 20

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
) -> str:
    """The page as HTML. If matplotlib is missing, it says so in place of the pictures.

    Args:
        result: what `nnbp train --json` prints.
        history: one value per epoch by name; may be empty.
        config: as in config.toml.
        environment: as in environment.json.
        evaluation: of the held-out rows, or None if there are none.
    """
    sections = [("Training curve", _curve(history, result["best_epoch"]))]
    if evaluation is not None:
        sections.append(_comparison(evaluation.truth, evaluation.predicted, result))
    sections += [("Configuration", _facts(config)), ("Environment", _facts(environment))]
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
        sections=_lines(f"<section>\n<h2>{escape(name)}</h2>\n{body}\n</section>" for name, body in sections),
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
        return f'<div class="wide">{inline_svg(draw(*values), label, draw.__name__)}</div>'
    except MissingDependencyError as error:
        return f"<p>No picture: {escape(str(error))}</p>"


def _comparison(truth: NDArray[Any], predicted: NDArray[Any], result: Mapping[str, Any]) -> tuple[str, str]:
    """Name and body of the section that compares predictions with the truth."""
    labels = [escape(str(label)) for label in result["labels"]]
    if not labels:
        label = "Predicted against true values of the held-out rows"
        return "Predicted against true", _picture(label, scatter, truth, predicted, str(result["target"]))
    confusion = confusion_matrix(truth, predicted, len(labels))
    if len(labels) > _CLASSES_IN_A_TABLE:
        return "Most frequent confusions", _confusions(confusion, labels)
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
    return f'<div class="wide"><table>\n{caption}{body}</table></div>'


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
