"""`nnbp evaluate MODEL SOURCE`: how well a model predicts a table whose target is known."""

from __future__ import annotations

import argparse
from itertools import chain
from typing import Any

from nnbp.cli.options import add_shared
from nnbp.cli.output import describe_target, note, two_columns
from nnbp.cli.predict import load
from nnbp.formatting import counted, json_text, metric_rows, number
from nnbp.tabular.readers import BUILTIN

HELP = "compare predictions with a table whose target is known"
DESCRIPTION = (
    "Predicts a table whose target is known and prints the metrics. A table that the model was trained on has rows "
    "that it knows: what `nnbp train` says of its held-out rows is the fairer number."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `nnbp evaluate`."""
    add_shared(parser, "model", "source", "--device", "--json")
    parser.add_argument("--target", metavar="COLUMN", help="the column of the truth (default: that of the training)")


def run(arguments: argparse.Namespace) -> int:
    """Evaluates and prints; 0."""
    path, model = load("nnbp evaluate", arguments)
    target, labels = arguments.target, model.target.labels
    if target is None and model.preprocessor is not None and arguments.source not in BUILTIN:
        target = model.target.name
    blocks = model.blocks(arguments.source, target, required=True)
    source = next(blocks)
    evaluation = model.compare_blocks(chain([source], blocks))
    note("nnbp evaluate", evaluation.messages)
    document: dict[str, Any] = {
        "model": str(path),
        "source": source.name,
        "target": source.target_name,
        "task": model.target.task,
        "labels": labels,
        "rows": len(evaluation.truth),
        "device": model.network.device,
        "notes": evaluation.messages,
        "metrics": evaluation.metrics,
    }
    rows = [
        ("Model", str(path)),
        ("Data", f"{source.name}, {counted(len(evaluation.truth), 'row')}"),
        ("Target", describe_target(str(source.target_name), labels)),
        ("Device", model.network.device),
        ("", ""),
        *metric_rows(evaluation.metrics),
    ]
    if labels:
        baseline = model.baseline(evaluation.truth)
        document["baseline_accuracy"] = baseline
        rows.append(("most frequent class", f"{number(baseline)} (accuracy of always naming it)"))
    print(json_text(document) if arguments.json else two_columns(rows))
    return 0
