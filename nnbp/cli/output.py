"""Results as people and as machines read them on standard output."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from nnbp.cli.common import say
from nnbp.device.probe import probe
from nnbp.formatting import counted, describe_rows, describe_training, metric_rows, number, printable
from nnbp.network import Network
from nnbp.nn.layers import Dense, Dropout, OneHot


def note(command: str, messages: Sequence[str]) -> None:
    """Says on standard error what was ignored or not known in a table."""
    for message in messages:
        say(command, f"note: {message}")


def two_columns(rows: Sequence[tuple[str, str]], width: int | None = None) -> str:
    """Names and texts in two columns.

    Args:
        rows: names and texts; a name alone is a title.
        width: from which lines are broken, if it leaves room for text; None is that of a terminal.
    """
    rows = [(printable(name), printable(text)) for name, text in rows]
    margin = max(len(name) for name, _ in rows) + 2
    if width is None:
        width = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else 0
    wrapper = textwrap.TextWrapper(width, subsequent_indent=" " * margin)
    wrapper.break_long_words = wrapper.break_on_hyphens = False
    lines = [f"{name:{margin}}{text}".rstrip() for name, text in rows]
    return "\n".join(wrapper.fill(line) if len(line) > width > margin + 20 else line for line in lines)


def describe_target(name: str, labels: Sequence[Any]) -> str:
    """'species', 3 classes."""
    return f"{name!r}, {counted(len(labels), 'class', 'classes')}" if labels else f"{name!r}, a quantity"


def describe_layers(network: Network) -> str:
    """64 → 256 relu → dropout 0.5 → 10 softmax."""
    parts = [str(network.model.n_in)]
    for layer in network.layers:
        match layer:
            case Dense(units=units, f=f):
                parts.append(f"{units} {f.name}")
            case Dropout(rate=rate):
                parts.append(f"dropout {rate:g}")
            case OneHot(categories=categories):
                parts.append(f"one-hot {layer.outputs(len(categories))}")
            case _:
                parts.append(layer.kind)
    return " → ".join(parts)


def training_rows(result: Mapping[str, Any], asked: str) -> list[tuple[str, str]]:
    """The rows that `nnbp train` prints.

    Args:
        result: what `nnbp train --json` prints.
        asked: the device that was asked for.
    """
    columns = counted(result["columns"], "column")
    if result["features"] != result["columns"]:
        columns += f" ({counted(result['features'], 'feature')})"
    rows = [
        ("Data", describe_rows(result)),
        ("Target", f"{describe_target(result['target'], result['labels'])}, from {columns}"),
        ("Network", f"{result['network']}; {counted(result['parameters'], 'parameter')}, {result['dtype']}"),
        ("Device", _device(result, asked)),
        ("Training", describe_training(result)),
    ]
    if result["stopped"] and result["status"] == "done":
        rows.append(("", f"stopped early: {result['stopped']}"))
    if result["metrics"]:
        metrics = dict(metric_rows(result["metrics"]))
        if "baseline_accuracy" in result:
            metrics["accuracy"] += (
                f" (always predicting the most frequent class: {number(result['baseline_accuracy'])})"
            )
        rows += [("", ""), ("Held out", counted(result["rows"]["held_out"], "row"))]
        rows += [(f"  {name}", value) for name, value in metrics.items()]
    rows += [("", ""), ("Run folder", result["run"]), ("Report", result["report"])]
    if result["model"]:
        rows.append(("Next", f"nnbp predict {shlex.quote(result['run'])} {shlex.quote(result['path'])}"))
    return rows


def _device(result: Mapping[str, Any], asked: str) -> str:
    """The device, and the reason if it is the CPU in place of a GPU."""
    if result["device_fallback"]:
        return f"{result['device']}. {result['device_fallback']}"
    if asked == "auto" and result["device"] == "cpu":
        return f"cpu (no GPU works here: {probe(0).message}; see nnbp doctor)"
    return str(result["device"])
