"""Results as people and as machines read them on standard output."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from nnbp.cli.common import say
from nnbp.formatting import counted, describe_rows, describe_training, metric_rows, number


def note(command: str, messages: Sequence[str]) -> None:
    """Says on standard error what was ignored or not known in a table."""
    for message in messages:
        say(command, f"note: {message}")


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Prints names and texts in two columns."""
    width = max(len(name) for name, _ in rows) + 2
    terminal = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else 0
    for name, text in rows:
        line = f"{name:{width}}{text}".rstrip()
        if len(line) > terminal > width + 20:
            wrapper = textwrap.TextWrapper(terminal, subsequent_indent=" " * width)
            wrapper.break_long_words = wrapper.break_on_hyphens = False
            line = wrapper.fill(line)
        print(line)


def describe_target(name: str, labels: Sequence[Any]) -> str:
    """'species', 3 classes."""
    return f"{name!r}, {counted(len(labels), 'class', 'classes')}" if labels else f"{name!r}, a quantity"


def training_rows(result: Mapping[str, Any], device: str) -> list[tuple[str, str]]:
    """The rows that `nnbp train` prints."""
    columns = counted(result["columns"], "column")
    if result["features"] != result["columns"]:
        columns += f" ({counted(result['features'], 'feature')})"
    rows = [
        ("Data", describe_rows(result)),
        ("Target", f"{describe_target(result['target'], result['labels'])}, from {columns}"),
        ("Network", f"{result['network']}; {counted(result['parameters'], 'parameter')}, {result['dtype']}"),
        ("Device", device),
        ("Training", describe_training(result)),
    ]
    if result["stopped"] and result["status"] == "done":
        rows.append(("", f"stopped early: {result['stopped']}"))
    if result["metrics"]:
        rows.append(("", ""))
        rows.append(("Held out", counted(result["rows"]["held_out"], "row")))
        rows += [(f"  {name}", value) for name, value in metric_rows(result["metrics"])]
        if "baseline_accuracy" in result:
            base = number(result["baseline_accuracy"])
            rows[-len(result["metrics"])] = (
                "  accuracy",
                f"{number(result['metrics']['accuracy'])} (always naming the most frequent class: {base})",
            )
    rows += [("", ""), ("Run folder", result["run"]), ("Report", result["report"])]
    if result["model"]:
        rows.append(("Next", f"nnbp predict {shlex.quote(result['run'])} {shlex.quote(result['path'])}"))
    return rows
