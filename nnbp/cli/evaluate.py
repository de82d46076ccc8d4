"""`nnbp evaluate MODEL SOURCE`: how well a model predicts a table whose target is known."""

from __future__ import annotations

import argparse
from typing import Any

from nnbp.cli.common import add_options
from nnbp.cli.output import describe_target, note, print_rows
from nnbp.cli.predict import load
from nnbp.cli.run_folder import find_model
from nnbp.formatting import counted, json_text, metric_rows, number
from nnbp.tabular.readers import BUILTIN, load_source


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the command `evaluate` to the command line."""
    parser = subparsers.add_parser(
        "evaluate",
        help="compare predictions with a table whose target is known",
        description=(
            "Predicts a table whose target is known and prints the metrics. A table that the model was trained on has "
            "rows that it knows: what `nnbp train` says of its held-out rows is the fairer number."
        ),
    )
    add_options(parser, "model", "source", "--device", "--json")
    parser.add_argument("--target", metavar="COLUMN", help="the column of the truth (default: that of the training)")
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Evaluates and prints; 0."""
    model = load("nnbp evaluate", arguments)
    target = arguments.target
    if target is None and model.preprocessor is not None and arguments.source not in BUILTIN:
        target = model.target.name
    source = load_source(arguments.source, target=target)
    evaluation = model.evaluate(source)
    note("nnbp evaluate", evaluation.messages)
    path = str(find_model(arguments.model))
    document: dict[str, Any] = {
        "model": path,
        "source": source.name,
        "target": source.target_name,
        "task": model.target.task,
        "labels": list(model.target.labels),
        "rows": len(source),
        "device": model.network.device,
        "notes": evaluation.messages,
        "metrics": evaluation.metrics,
    }
    rows = [
        ("Model", path),
        ("Data", f"{source.name}, {counted(len(source), 'row')}"),
        ("Target", describe_target(str(source.target_name), model.target.labels)),
        ("Device", model.network.device),
        ("", ""),
        *metric_rows(evaluation.metrics),
    ]
    if model.target.labels:
        document["baseline_accuracy"] = model.baseline(evaluation.truth)
        rows.append(
            ("most frequent class", f"{number(model.baseline(evaluation.truth))} (accuracy of always naming it)")
        )
    if arguments.json:
        print(json_text(document))
    else:
        print_rows(rows)
    return 0
