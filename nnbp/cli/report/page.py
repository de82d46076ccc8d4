"""report.html: one run on one page that needs nothing else, no network and no script."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.cli.report.curves import curve, inline_svg, scatter
from nnbp.errors import MissingDependencyError
from nnbp.formatting import counted, metric_rows, number, parts_of_data, training
from nnbp.metrics import confusion_matrix

__all__ = ["RunReport", "render"]

_CLASSES_IN_A_TABLE = 25
_CONFUSIONS_LISTED = 20

_ABOUT_THE_CURVE = (
    "The training loss is the mean over an epoch as it ran, with dropout where there is any; all else is measured "
    "after the epoch. Both losses contain the weight decay."
)


@dataclass(frozen=True)
class RunReport:
    """What a page tells of a run.

    Attributes:
        result: what `nnbp train --json` prints.
        history: one value an epoch by name; may be empty.
        config: as in config.toml.
        environment: as in environment.json.
        labels: of the classes; empty for a quantity.
        truth, predicted: of the held-out rows: class indices, or values (m,); None where there are none.
    """

    result: Mapping[str, Any]
    history: Mapping[str, Sequence[float]]
    config: Mapping[str, Mapping[str, Any]]
    environment: Mapping[str, Any]
    labels: Sequence[str]
    truth: NDArray[Any] | None = None
    predicted: NDArray[Any] | None = None


def render(report: RunReport) -> str:
    """The page as HTML. Where matplotlib is missing, it says so in place of the pictures."""
    result = report.result
    sections = [_section("Training curve", _curve(report))]
    if report.truth is not None and report.predicted is not None:
        name, body = _comparison(report, report.truth, report.predicted)
        sections.append(_section(name, body))
    sections.append(_section("Configuration", _facts(report.config)))
    # What is one value stands on top, then the groups.
    plain = {key: value for key, value in report.environment.items() if not isinstance(value, Mapping)}
    groups = {key: value for key, value in report.environment.items() if isinstance(value, Mapping)}
    sections.append(_section("Environment", _facts({"": plain, **groups})))
    template = Template(files("nnbp.cli.report").joinpath("templates/run.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"{result['source']} · nnbp"),
        heading=escape(_heading(result)),
        lead=_lead(result),
        notice=_notice(result),
        tiles=_tiles(result),
        sections="\n".join(sections),
    )


def _heading(result: Mapping[str, Any]) -> str:
    what = f"{result['source']}: predicting {result['target']}"
    return f"{what}, {counted(len(result['labels']), 'class', 'classes')}" if result["labels"] else what


def _lead(result: Mapping[str, Any]) -> str:
    lines = [parts_of_data(result), f"{result['network']}, {counted(result['parameters'], 'parameter')}"]
    lines.append(f"{training(result)}; on {result['device']}")
    return "\n".join(f'<p class="dim">{escape(line)}</p>' for line in lines)


def _notice(result: Mapping[str, Any]) -> str:
    words = [str(result["stopped"])] if result["status"] != "done" else []
    words += [str(result["device_fallback"])] if result["device_fallback"] else []
    return "\n".join(f'<p class="warn">{escape(text[:1].upper() + text[1:])}</p>' for text in words)


def _tiles(result: Mapping[str, Any]) -> str:
    rows = metric_rows(result["metrics"])
    if "baseline_accuracy" in result:
        rows.append(("accuracy of always naming one class", number(result["baseline_accuracy"])))
    tiles = [f'<div class="tile"><b>{value}</b><span>{escape(name)}</span></div>' for name, value in rows]
    if not tiles:
        return ""
    held_out = counted(result["rows"]["held_out"], "held-out row")
    return f'<div class="tiles">{"".join(tiles)}</div>\n<p class="dim">on {held_out}, which training never saw</p>'


def _section(name: str, body: str) -> str:
    return f"<section>\n<h2>{escape(name)}</h2>\n{body}\n</section>"


def _curve(report: RunReport) -> str:
    if not report.history:
        return "<p>No epoch ended.</p>"
    best = report.result["best_epoch"]
    words = f"Training curve: loss {report.history['loss'][-1]:.4g} after {len(report.history['loss'])} epochs"
    picture = _picture(lambda: inline_svg(curve(report.history, best), words, "curve"))
    return f'{picture}\n<p class="dim">{_ABOUT_THE_CURVE}</p>'


def _picture(draw: Any) -> str:
    try:
        return f'<div class="wide">{draw()}</div>'
    except MissingDependencyError as error:
        return f"<p>No picture: {escape(str(error))}</p>"


def _comparison(report: RunReport, truth: NDArray[Any], predicted: NDArray[Any]) -> tuple[str, str]:
    if not report.labels:
        target = str(report.result["target"])
        label = "Predicted against true values of the held-out rows"
        return "Predicted against true", _picture(
            lambda: inline_svg(scatter(truth, predicted, target), label, "scatter")
        )
    confusion = confusion_matrix(truth, predicted, len(report.labels))
    if len(report.labels) > _CLASSES_IN_A_TABLE:
        return "Most frequent confusions", _confusions(confusion, report.labels)
    return "Confusion matrix", _confusion_table(confusion, report.labels)


def _confusion_table(confusion: NDArray[np.int64], labels: Sequence[str]) -> str:
    recall = np.diag(confusion) / np.maximum(confusion.sum(axis=1), 1)
    precision = np.diag(confusion) / np.maximum(confusion.sum(axis=0), 1)
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in labels)
    lines = [f'<tr><th class="corner">true ↓ predicted →</th>{head}<th scope="col">recall</th></tr>']
    body = []
    for i, label in enumerate(labels):
        row = confusion[i]
        cells = "".join(_cell(int(n), float(n / max(row.sum(), 1)), i == j) for j, n in enumerate(row))
        rate = f"{recall[i]:.3f}" if row.sum() else "–"
        body.append(f'<tr><th scope="row">{escape(label)}</th>{cells}<td>{rate}</td></tr>')
    rates = [f"{precision[j]:.3f}" if confusion[:, j].sum() else "–" for j in range(len(labels))]
    body.append(f'<tr><th scope="row">precision</th>{"".join(f"<td>{rate}</td>" for rate in rates)}<td></td></tr>')
    return (
        '<div class="wide"><table>\n<caption>Held-out rows by their class and by what was predicted.</caption>\n'
        f"<thead>{lines[0]}</thead>\n<tbody>\n" + "\n".join(body) + "\n</tbody></table></div>"
    )


def _cell(count: int, share: float, hit: bool) -> str:
    if not count:
        return '<td class="zero">0</td>'
    # A single confusion among many rows is to be seen, too.
    strength = 0.12 + 0.5 * share if hit else 0.25 + 0.5 * share
    return f'<td style="background: rgb(var(--{"hit" if hit else "miss"}) / {strength:.2f})">{count}</td>'


def _confusions(confusion: NDArray[np.int64], labels: Sequence[str]) -> str:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS_LISTED]
    pairs = [(i, j) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[i, j]]
    if not pairs:
        return "<p>Every held-out row was predicted right.</p>"
    rows = "\n".join(
        f"<tr><td>{escape(labels[i])}</td><td>{escape(labels[j])}</td><td>{wrong[i, j]} of "
        f"{confusion[i].sum()}</td></tr>"
        for i, j in pairs
    )
    head = '<tr><th scope="col">true</th><th scope="col">predicted</th><th scope="col">rows</th></tr>'
    return f'<div class="wide"><table><thead>{head}</thead>\n<tbody>\n{rows}\n</tbody></table></div>'


def _facts(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables of names and values, one part a group; what is not set is left out."""
    lines: list[str] = []
    for group, values in groups.items():
        shown = [(name, value) for name, value in values.items() if value is not None and value != {}]
        if group and shown:
            lines.append(f'<tr class="part"><th colspan="2" scope="colgroup">{escape(group)}</th></tr>')
        lines += [
            f'<tr><th scope="row">{escape(name.replace("_", " "))}</th><td>{escape(_plain(value))}</td></tr>'
            for name, value in shown
        ]
    return '<table class="facts"><tbody>\n' + "\n".join(lines) + "\n</tbody></table>"


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, Iterable):
        words = list(value)
        if all(isinstance(item, str) for item in words):
            return " ".join(words)
        return ", ".join(map(_plain, words)) or "none"
    return json.dumps(value)
