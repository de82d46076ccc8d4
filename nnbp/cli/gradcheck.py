"""`nnbp gradcheck`: backpropagation against central differences, for every built-in activation and loss."""

from __future__ import annotations

import argparse
from itertools import product

import numpy as np

from nnbp.cli.checks import HIDDEN, conclude, verdict
from nnbp.cli.common import arguments_checked
from nnbp.cli.options import add_shared, count, decay, layer_sizes, positive
from nnbp.formatting import table
from nnbp.nn.losses import Loss
from nnbp.testing import example_problem
from nnbp.testing.gradients import ALONG, FAULT, TOLERANCE, GradientReport, check_gradients

HELP = "check backpropagation against central differences"
DESCRIPTION = (
    "Checks the gradients of small random networks against central differences in float64: of every built-in hidden "
    "activation with every loss, or of those that are named. Exit code 1 if one is wrong."
)

Case = tuple[dict[str, str], GradientReport]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `nnbp gradcheck`."""
    add = parser.add_argument
    add("--layers", type=layer_sizes, default=[4, 8, 3], metavar="N,N,…", help="sizes of all layers (default 4,8,3)")
    add("--weight-decay", type=decay, default=0.1, metavar="λ", help="λ of J (default 0.1)")
    add("--samples", type=count, default=8, metavar="M", help="number of samples (default 8)")
    error = f"largest relative error (default {TOLERANCE:g}, or {ALONG:g} with --chance)"
    add("--tolerance", type=positive, metavar="E", help=error)
    along = f"check along random directions, as many as leave this chance to miss an error of {FAULT:g} in an array"
    add("--chance", type=positive, metavar="P", help=along)
    add_shared(parser, "--activation", "--loss", "--seed", "--json")


def run(arguments: argparse.Namespace) -> int:
    """Checks and prints the reports; 0, or 1 if a gradient is wrong."""
    with arguments_checked():
        cases = _cases(arguments)
    page = _table(cases) if len(cases) > 1 else str(cases[0][1])
    return conclude(arguments, cases, page)


def _cases(arguments: argparse.Namespace) -> list[Case]:
    hidden = HIDDEN if arguments.activation is None else [arguments.activation]
    kinds = Loss.built_in() if arguments.loss is None else [arguments.loss]
    # Weights from 0 to 2, so that a sample that counts nothing is among them.
    w = np.linspace(0.0, 2.0, arguments.samples) if arguments.samples > 1 else None
    cases = []
    for activation, loss in product(hidden, kinds):
        net, X, y = example_problem(
            arguments.layers, activation=activation, loss=loss, samples=arguments.samples, seed=arguments.seed,
            weight_decay=arguments.weight_decay, dtype="float64", device="cpu",
        )  # fmt: skip
        report = check_gradients(net, X, y, w, tolerance=arguments.tolerance, chance=arguments.chance)
        cases.append(({"activation": activation, "loss": loss}, report))
    return cases


def _table(cases: list[Case]) -> str:
    rows = [("activation", "loss", "checked", "max relative", "worst in", "kinks")]
    for case, report in cases:
        around, on = (sum(getattr(row, name) for row in report.rows) for name in ("stepped_around", "at_kink"))
        notes = [f"{around} stepped around"] if around else []
        notes += [f"{on} not judged"] if on else []
        notes += [] if report.passed else ["FAILED"]
        checked = sum(row.checked for row in report.rows)
        worst = max(report.rows, key=lambda row: row.max_relative_error)
        error = f"{report.max_relative_error:.1e}"
        rows.append((case["activation"], case["loss"], str(checked), error, worst.name, ", ".join(notes)))
    largest = max(report.max_relative_error for _, report in cases)
    end = f"{verdict(cases, 'networks')}; largest relative error {largest:.2g}, allowed {cases[0][1].tolerance:g}"
    return "\n".join([*table(rows, left=(0, 1, 4, 5), ruled=True), end])
