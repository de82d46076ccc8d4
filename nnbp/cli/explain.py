"""`nnbp explain [MODEL] [SOURCE]`: the forward and backward pass of a network as one page, or as text."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from nnbp.cli.common import UsageError, arguments_checked
from nnbp.cli.options import add_shared, count, decay, name_of, positive, whole
from nnbp.cli.output import note, two_columns
from nnbp.cli.run_folder import ENVIRONMENT, find_model
from nnbp.cli.train import begun
from nnbp.explorer.explanation import Explanation, explained
from nnbp.explorer.page import LANGUAGES, render
from nnbp.explorer.text import walk
from nnbp.formatting import counted, json_text
from nnbp.nn.activations import Activation
from nnbp.nn.losses import Loss
from nnbp.serialization.safetensors_file import replace
from nnbp.tabular.model import TableModel
from nnbp.tabular.readers import load_source
from nnbp.testing import example_problem

HELP = "show the forward and backward pass of a network"
DESCRIPTION = (
    "Writes one page for the browser that shows, step by step and in numbers, how a network computes its outputs for "
    "some rows, their cost, delta and gradient, and what one step of gradient descent changes. Without MODEL, it shows "
    "a small example network, 3-4-2 as in the notes. The page needs no network connection."
)
PAGE = "explorer.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `nnbp explain`."""
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="a run folder or a model file (default: an example network)")
    add("source", nargs="?", metavar="SOURCE", help="the rows, with the target (default: the table of the run)")
    add("--target", metavar="COLUMN", help="the target column (default: that of the training)")
    add("--rows", type=count, default=20, metavar="M", help="rows to show, evenly spread (default 20)")
    add("--learning-rate", type=positive, default=0.1, metavar="η", help="learning rate of the update (default 0.1)")
    add("--language", choices=LANGUAGES, default="en", help="English or Chinese (default en)")
    add("--output", metavar="FILE", help=f"the page (default: {PAGE}, in the run folder if MODEL is one)")
    add("--text", action="store_true", help="print the same steps for the first of the rows instead")
    add = parser.add_argument_group("example network, without MODEL").add_argument
    add("--sizes", type=count, nargs="+", metavar="N", help="sizes of all layers (default 3 4 2)")
    add("--activation", type=name_of(Activation), metavar="NAME", help="its activation (default sigmoid)")
    add("--loss", type=name_of(Loss), metavar="NAME", help="its loss (default squared_error)")
    add("--weight-decay", type=decay, metavar="λ", help="its weight decay λ (default 0.01)")
    add("--seed", type=whole, metavar="N", help="seed of its parameters and data (default 0)")
    add_shared(parser, "--json")


def run(arguments: argparse.Namespace) -> int:
    """Writes the page, or prints the text; 0."""
    if arguments.text and (arguments.output or arguments.json):
        raise UsageError("--text prints the steps instead of writing a page. Leave out --output and --json.")
    with arguments_checked():
        explanation = _example(arguments) if arguments.model is None else _of_model(arguments)
        if arguments.text:
            print(walk(explanation, learning_rate=arguments.learning_rate, language=arguments.language))
            return 0
        page = render(explanation, learning_rate=arguments.learning_rate, language=arguments.language)
    path = Path(arguments.output or (Path(arguments.model or "") / PAGE if _is_run(arguments) else PAGE))
    replace(str(path), page.encode("utf-8"))
    shown = f"{len(explanation.rows)} of {counted(explanation.samples, 'row')}"
    sizes = " – ".join(map(str, explanation.sizes))
    if arguments.json:
        print(json_text({"page": str(path), "sizes": explanation.sizes, "rows": explanation.rows}))
    else:
        print(two_columns([("Network", sizes), ("Rows", shown), ("Page", f"{path} (open it in a browser)")]))
    return 0


def _is_run(arguments: argparse.Namespace) -> bool:
    return arguments.model is not None and Path(arguments.model).is_dir()


def _example(arguments: argparse.Namespace) -> Explanation:
    """A random network with a few samples, rounded to two decimals so that the numbers are easy to follow."""
    sizes = arguments.sizes or [3, 4, 2]
    activation = arguments.activation or "sigmoid"
    loss = arguments.loss or "squared_error"
    seed = arguments.seed or 0
    decay = 0.01 if arguments.weight_decay is None else arguments.weight_decay
    notes = arguments.loss is None and arguments.activation is None
    net, X, y = example_problem(
        sizes, loss=loss, samples=5, seed=seed, activation=activation, weight_decay=decay, dtype="float64",
        device="cpu", output_activation="sigmoid" if notes else None,
    )  # fmt: skip
    if notes:
        # Targets that a sigmoid can reach.
        y = np.random.default_rng(seed).uniform(0.1, 0.9, y.shape).round(2)
    net.parameters[...] = net.parameters.round(2)
    return explained(net, X.round(2), y, rows=arguments.rows)


def _of_model(arguments: argparse.Namespace) -> Explanation:
    given = [name for name in ("sizes", "activation", "loss", "weight_decay", "seed")
             if getattr(arguments, name) is not None]  # fmt: skip
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"only the example network has {names}; received a MODEL as well. Leave out {names}.")
    model = TableModel.load(find_model(arguments.model), device="cpu")
    name, target = arguments.source, arguments.target
    if name is None:
        if not _is_run(arguments) or not (Path(arguments.model) / ENVIRONMENT).is_file():
            raise UsageError("a model file does not contain the rows to show. Give SOURCE, a table with the target.")
        first = begun(arguments.model)
        name, target = first.source, target or first.target
    elif target is None and model.preprocessor is not None:
        target = model.target.name
    source = load_source(name, target=target, reading=model.reading, keep_text=model.texts)
    if model.preprocessor is not None:
        note("nnbp explain", model.features(source)[1])
    return explained(model, source, rows=arguments.rows)
