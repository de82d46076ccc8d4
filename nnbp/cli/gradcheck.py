"""`nnbp gradcheck`: backpropagation against central differences, for every built-in activation and loss."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnbp.cli.common import Exit, add_options, arguments_checked, count, decay, positive
from nnbp.formatting import json_text, table
from nnbp.nn.activations import Activation
from nnbp.nn.losses import Loss
from nnbp.testing import example_problem
from nnbp.testing.gradients import TOLERANCE, GradientReport, check_gradients

CHECK_FAILED = 1
"""Exit code of a check that ran and found something wrong."""

Case = tuple[str, str, GradientReport]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the command `gradcheck` to the command line."""
    parser = subparsers.add_parser(
        "gradcheck",
        help="check backpropagation against central differences",
        description=(
            "Checks the gradients of small random networks against central differences in float64: of every built-in "
            "hidden activation with every loss, or of those that are named. Exit code 1 if one is wrong."
        ),
    )
    parser.add_argument(
        "--layers", type=layer_sizes, default=[4, 8, 3], metavar="N,N,…", help="sizes of all layers (default 4,8,3)"
    )
    parser.add_argument("--weight-decay", type=decay, default=0.1, metavar="λ", help="λ of J (default 0.1)")
    parser.add_argument("--samples", type=count, default=8, metavar="M", help="number of samples (default 8)")
    error = f"largest relative error (default {TOLERANCE:g})"
    parser.add_argument("--tolerance", type=positive, default=TOLERANCE, metavar="E", help=error)
    add_options(parser, "--activation", "--loss", "--seed", "--json")
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Checks and prints the reports; 0, or 1 if a gradient is wrong."""
    with arguments_checked():
        cases = _cases(arguments)
    if arguments.json:
        print(json_text(_document(cases)))
    elif len(cases) == 1:
        print(cases[0][2])
    else:
        print(_table(cases))
    return Exit.DONE if all(report.passed for *_, report in cases) else CHECK_FAILED


def _cases(arguments: argparse.Namespace) -> list[Case]:
    hidden = [name for name in Activation.built_in() if name != "softmax"]
    if arguments.activation is not None:
        hidden = [Activation.find(arguments.activation).name]
    kinds = Loss.built_in() if arguments.loss is None else [Loss.find(arguments.loss).name]
    found = []
    for activation in hidden:
        for loss in kinds:
            net, X, y = example_problem(
                arguments.layers, activation=activation, loss=loss, samples=arguments.samples, seed=arguments.seed,
                weight_decay=arguments.weight_decay, dtype="float64", device="cpu",
            )  # fmt: skip
            # Weights from 0 to 2, so that a sample that counts nothing is among them.
            w = np.linspace(0.0, 2.0, arguments.samples) if arguments.samples > 1 else None
            report = check_gradients(net, X, y, w, tolerance=arguments.tolerance)
            found.append((activation, loss, report))
    return found


def _document(cases: list[Case]) -> dict[str, Any]:
    reports = [{"activation": f, "loss": loss, **report.as_dict()} for f, loss, report in cases]
    return {"passed": all(report.passed for *_, report in cases), "reports": reports}


def _table(cases: list[Case]) -> str:
    rows = [("activation", "loss", "checked", "max relative", "worst in", "kinks")]
    for activation, loss, report in cases:
        around, on = (sum(getattr(row, name) for row in report.rows) for name in ("stepped_around", "at_kink"))
        notes = [f"{around} stepped around"] if around else []
        notes += [f"{on} not judged"] if on else []
        notes += [] if report.passed else ["FAILED"]
        checked = sum(row.checked for row in report.rows)
        worst = max(report.rows, key=lambda row: row.max_relative_error)
        error = f"{report.max_relative_error:.1e}"
        rows.append((activation, loss, str(checked), error, worst.name, ", ".join(notes)))
    largest = max(report.max_relative_error for *_, report in cases)
    end = f"{verdict(cases, 'networks')}; largest relative error {largest:.2g}, allowed {cases[0][2].tolerance:g}"
    return "\n".join([*table(rows, left=(0, 1, 4, 5), ruled=True), end])


def verdict(cases: Sequence[tuple[Any, ...]], name: str) -> str:
    """The first words of the last line: whether all cases passed, each of which ends in its report."""
    failed = sum(not case[-1].passed for case in cases)
    return f"FAILED: {failed} of {len(cases)} {name}" if failed else f"PASSED: {len(cases)} {name}"


def layer_sizes(text: str) -> list[int]:
    """The argument 4,8,3."""
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) < 2 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"expected sizes of at least two layers, such as 4,8,3; received {text!r}.")
    return sizes
