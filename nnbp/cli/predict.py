"""`nnbp predict MODEL SOURCE`: labels or values of every row of a table, by the model file alone."""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from nnbp.cli import run_folder
from nnbp.cli.common import UsageError, noted, say
from nnbp.cli.options import add_shared
from nnbp.cli.output import note
from nnbp.cli.run_folder import find_model
from nnbp.errors import DeviceFallbackWarning
from nnbp.formatting import json_text, printable
from nnbp.tabular.model import TableModel, noticed
from nnbp.tabular.table import Source

HELP = "predict every row of a table"
DESCRIPTION = (
    "Predicts every row of a table and prints a CSV table: where the row stands in the source, and the label, or the "
    "value in its own unit. Columns are matched by name, in any order; the target may be absent. Labels are written as "
    "they are: a spreadsheet takes one such as =1+1 for a formula."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `nnbp predict`."""
    add_shared(parser, "model", "source", "--device", "--json")
    parser.add_argument("--output", metavar="FILE", help="write the CSV table to this file instead")
    parser.add_argument("--proba", action="store_true", help="add the probability of every class")


def run(arguments: argparse.Namespace) -> int:
    """Predicts and prints; 0."""
    path, model = load("nnbp predict", arguments)
    if arguments.output is not None and any(same_file(arguments.output, other) for other in (path, arguments.source)):
        raise UsageError(f"--output would overwrite {arguments.output}, which the prediction reads. Name another file.")
    if arguments.proba and not model.target.labels:
        raise UsageError("--proba is for classes, and this model predicts a quantity. Leave it out.")
    name, unit, messages = arguments.source, "row", list[str]()
    places, outputs, chances = [], [], []
    for block in read_rows(model, arguments.source):
        X, notes = model.features(block)
        messages = noticed(messages, notes)
        name, unit = block.name, block.unit
        places.append(block.places)
        outputs.append(model.decoded(model.network.predict(X)))
        if arguments.proba:
            chances.append(model.network.predict_proba(X))
    rows, values = np.concatenate(places), np.concatenate(outputs)
    probabilities = np.concatenate(chances) if chances else None
    note("nnbp predict", messages)
    if arguments.output is not None:
        text = io.StringIO(newline="")
        _write(text, unit, rows, model, values, probabilities)
        _put(arguments.output, text.getvalue())
    if arguments.json:
        document = {
            "model": str(path),
            "source": name,
            "target": model.target.name,
            "task": model.target.task,
            "device": model.network.device,
            "notes": messages,
            unit: rows.tolist(),
            "predictions": values,
        }
        if probabilities is not None:
            document |= {"labels": model.target.labels, "probabilities": probabilities}
        print(json_text(document))
    elif arguments.output is None:
        _write(sys.stdout, unit, rows, model, values, probabilities)
    else:
        say("nnbp predict", f"{len(rows)} rows of {name} predicted; they are in {arguments.output}.")
    return 0


def load(command: str, arguments: argparse.Namespace) -> tuple[Path, TableModel]:
    """The model file that the arguments name, and its model on their device; says so if the CPU stands in for a GPU."""
    path = find_model(arguments.model)
    model, fallback = noted(DeviceFallbackWarning, lambda: TableModel.load(path, device=arguments.device))
    if fallback:
        note(command, [fallback])
    return path, model


def read_rows(model: TableModel, name: str) -> Iterator[Source]:
    """The table of this name, read for a model, in blocks if it is large; the target may be absent."""
    return model.blocks(name, None if model.preprocessor is None else model.target.name, required=False)


def same_file(path: str, other: str | Path) -> bool:
    """Whether both are paths of one file that is there."""
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)


def _put(path: str, text: str) -> None:
    """Writes a file at once and whole; what is no regular file, such as a pipe, is written to."""
    if os.path.isfile(path) or (os.path.isdir(os.path.dirname(path) or ".") and not os.path.exists(path)):
        run_folder.write(Path(path), text)
    else:
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)


def _write(
    file: TextIO, unit: str, places: NDArray[Any], model: TableModel, values: NDArray[Any],
    probabilities: NDArray[Any] | None,
) -> None:  # fmt: skip
    """Writes the table: the places of the rows, the predictions, and the probabilities if there are any."""
    rows = csv.writer(file, lineterminator="\n")
    tables = [places[:, None], values.reshape(len(values), -1)]
    width = tables[1].shape[1]
    names = ["prediction"] if width == 1 else [f"prediction {k}" for k in range(1, width + 1)]
    if probabilities is not None:
        names += [f"p({label})" for label in model.target.labels]
        tables.append(probabilities)
    lines = ([cell for row in parts for cell in row] for parts in zip(*tables, strict=True))
    table = chain([[unit, *names]], lines)
    # A file or a pipe gets the labels as they are.
    rows.writerows(([printable(str(cell)) for cell in line] for line in table) if file.isatty() else table)
