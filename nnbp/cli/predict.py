"""`nnbp predict MODEL SOURCE`: labels or values of every row of a table, by the model file alone."""

from __future__ import annotations

import argparse
import csv
import sys
from typing import Any, TextIO

from numpy.typing import NDArray

from nnbp.cli.common import UsageError, add_options, noted_fallback, say
from nnbp.cli.output import note
from nnbp.cli.run_folder import find_model
from nnbp.formatting import json_text
from nnbp.tabular.model import TableModel
from nnbp.tabular.readers import load_source
from nnbp.tabular.table import Source


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the command `predict` to the command line."""
    parser = subparsers.add_parser(
        "predict",
        help="predict every row of a table",
        description=(
            "Predicts every row of a table and prints a CSV table: where the row stands in the source, and the label, "
            "or the value in its own unit. Columns are matched by name, in any order; the target may be absent."
        ),
    )
    add_options(parser, "model", "source", "--device", "--json")
    parser.add_argument("--output", metavar="FILE", help="write the CSV table to this file instead")
    parser.add_argument("--proba", action="store_true", help="add the probability of every class")
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Predicts and prints; 0."""
    model = load("nnbp predict", arguments)
    if arguments.proba and not model.target.labels:
        raise UsageError("--proba is for classes, and this model predicts a quantity. Leave it out.")
    known = model.preprocessor
    columns = len(known.columns) if known is not None else model.network.model.n_in
    target = model.target.name if known is not None else None
    source = load_source(arguments.source, target=target, target_required=False, n_features=columns)
    values, messages = model.predict(source)
    probabilities = model.predict_proba(source) if arguments.proba else None
    note("nnbp predict", messages)
    if arguments.output is not None:
        with open(arguments.output, "w", encoding="utf-8", newline="") as file:
            _write(file, source, model, values, probabilities)
    if arguments.json:
        print(json_text(_document(arguments, source, model, values, probabilities, messages)))
    elif arguments.output is None:
        _write(sys.stdout, source, model, values, probabilities)
    else:
        say("nnbp predict", f"{len(source)} rows of {source.name} predicted; they are in {arguments.output}.")
    return 0


def load(command: str, arguments: argparse.Namespace) -> TableModel:
    """The model that the arguments name, on their device; says so if the CPU stands in for a GPU."""
    model, fallback = noted_fallback(lambda: TableModel.load(find_model(arguments.model), device=arguments.device))
    if fallback:
        say(command, f"note: {fallback}")
    return model


def _write(
    file: TextIO, source: Source, model: TableModel, values: NDArray[Any], probabilities: NDArray[Any] | None
) -> None:
    rows = csv.writer(file, lineterminator="\n")
    tables = [source.places[:, None], values.reshape(len(values), -1)]
    width = tables[1].shape[1]
    names = ["prediction"] if width == 1 else [f"prediction {k}" for k in range(1, width + 1)]
    if probabilities is not None:
        names += [f"p({label})" for label in model.target.labels]
        tables.append(probabilities)
    rows.writerow([source.unit, *names])
    rows.writerows([cell for row in parts for cell in row] for parts in zip(*tables, strict=True))


def _document(
    arguments: argparse.Namespace,
    source: Source,
    model: TableModel,
    values: NDArray[Any],
    probabilities: NDArray[Any] | None,
    messages: list[str],
) -> dict[str, Any]:
    document = {
        "model": str(find_model(arguments.model)),
        "source": source.name,
        "target": model.target.name,
        "task": model.target.task,
        "device": model.network.device,
        "notes": messages,
        source.unit: source.places.tolist(),
        "predictions": values,
    }
    if probabilities is not None:
        document |= {"labels": list(model.target.labels), "probabilities": probabilities}
    return document
