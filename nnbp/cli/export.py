"""`nnbp export MODEL FILE`: a model as an ONNX file, which other runtimes and languages run without nnbp."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from nnbp import onnx
from nnbp.cli.common import UsageError
from nnbp.cli.options import add_shared, positive
from nnbp.cli.output import note, two_columns
from nnbp.cli.predict import read_rows, same_file
from nnbp.cli.run_folder import find_model
from nnbp.formatting import counted, json_text, number
from nnbp.tabular.model import TableModel
from nnbp.tabular.table import listed

HELP = "write a model as an ONNX file"
DESCRIPTION = (
    "Writes an ONNX file (opset 17) that predicts as the model does: from the columns of a table, one input each, to "
    "labels and probabilities, or to values. The file is written only if a runtime computes the same results as nnbp: "
    "onnxruntime if it is installed, else the reference evaluator of onnx."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `nnbp export`."""
    add_shared(parser, "model")
    parser.add_argument("file", metavar="FILE", help="the file to write, such as model.onnx")
    parser.add_argument("--data", metavar="SOURCE", help="compare on the rows of this table (default: generated rows)")
    largest = "largest error (default 1e-5, or 1e-10 for float64)"
    parser.add_argument("--tolerance", type=positive, metavar="E", help=largest)
    add_shared(parser, "--json")


def run(arguments: argparse.Namespace) -> int:
    """Exports the model and prints how the file was checked; 0."""
    path = find_model(arguments.model)
    if any(same_file(arguments.file, other) for other in (path, arguments.data or path)):
        raise UsageError(f"FILE would overwrite {arguments.file}, which the export reads. Name another file.")
    model = TableModel.load(path, device="cpu")
    source = None if arguments.data is None else next(read_rows(model, arguments.data))
    data: Any = source
    if source is not None:
        X, messages = model.features(source)
        note("nnbp export", messages)
        data = X if model.preprocessor is None else source
    done = onnx.export(model, arguments.file, data=data, tolerance=arguments.tolerance)
    if arguments.json:
        print(json_text({"model": str(path), "labels": model.labels, **asdict(done)}))
        return 0
    checked = f"{counted(done.samples, 'row')}, largest error {number(done.error)}, allowed {done.tolerance:g}"
    rows = [
        ("Model", str(path)),
        ("File", done.path),
        ("Inputs", listed(done.inputs)),
        ("Outputs", listed(done.outputs)),
        ("Checked", f"{done.runtime}: {checked}"),
    ]
    print(two_columns(rows))
    return 0
