"""`nnbp parity`: the same networks on two devices, for every built-in activation, loss and optimizer."""

from __future__ import annotations

import argparse
from typing import NamedTuple

from nnbp.cli.checks import HIDDEN, conclude, verdict
from nnbp.cli.common import arguments_checked
from nnbp.cli.options import add_shared, count, devices, dtypes, layer_sizes, name_of
from nnbp.formatting import table
from nnbp.graph.ops import PRECISIONS
from nnbp.nn.losses import Loss
from nnbp.optim.optimizers import Optimizer
from nnbp.testing import example_problem
from nnbp.testing.parity import ParityReport, compare_devices

HELP = "compare what two devices compute"
DESCRIPTION = (
    "Compares forward pass, every delta and gradient, and the parameters after some updates, on two devices or more: "
    "with every built-in activation, loss and optimizer in turn, or with those that are named. Exit code 1 if they "
    "disagree, 6 if a device does not work."
)


class Case(NamedTuple):
    """One network, and how it is trained."""

    activation: str = "tanh"
    loss: str = "cross_entropy"
    optimizer: str = "adam"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `nnbp parity`."""
    add = parser.add_argument
    add("--devices", type=devices, default=["cpu", "cuda"], metavar="D,D", help="to compare (default cpu,cuda)")
    add("--dtype", type=dtypes, metavar="T", help="default float64,float32")
    precision = "of the products of float32; the CPU computes in float32 all the same"
    add("--precision", choices=PRECISIONS, help=precision)
    add("--layers", type=layer_sizes, default=[16, 32, 4], metavar="N,N,…", help="default 16,32,4")
    add("--samples", type=count, default=50, metavar="M", help="number of samples (default 50)")
    add("--steps", type=count, default=10, metavar="N", help="number of updates (default 10)")
    add("--optimizer", type=name_of(Optimizer), metavar="NAME", help="of the updates (default: every one)")
    add_shared(parser, "--activation", "--loss", "--seed", "--json")


def run(arguments: argparse.Namespace) -> int:
    """Compares and prints the reports; 0, or 1 if devices disagree. A device that does not work is an error: 6."""
    cases = _cases(arguments)
    # A lower precision is one of float32.
    dtypes = arguments.dtype or (["float64", "float32"] if arguments.precision is None else ["float32"])
    with arguments_checked():
        compared = [(case, _compare(arguments, case, dtype)) for case in cases for dtype in dtypes]
    page = _table(compared) if len(cases) > 1 else "\n\n".join(str(report) for _, report in compared)
    return conclude(arguments, [({"case": case._asdict()}, report) for case, report in compared], page)


def _cases(arguments: argparse.Namespace) -> list[Case]:
    """Every activation, every loss and every optimizer once, or the one network that is named."""
    named = {key: getattr(arguments, key) for key in Case._fields if getattr(arguments, key) is not None}
    if named:
        return [Case(**named)]
    cases = [Case(activation=name) for name in HIDDEN]
    cases += [Case(loss=name) for name in Loss.built_in()]
    cases += [Case(optimizer=name) for name in Optimizer.built_in()]
    return list(dict.fromkeys(cases))


def _compare(arguments: argparse.Namespace, case: Case, dtype: str) -> ParityReport:
    net, X, y = example_problem(
        arguments.layers, activation=case.activation, loss=case.loss, samples=arguments.samples, seed=arguments.seed,
        weight_decay=0.01, dtype=dtype, precision=arguments.precision, device="cpu",
    )  # fmt: skip
    return compare_devices(net, X, y, devices=arguments.devices, steps=arguments.steps, optimizer=case.optimizer)


def _table(compared: list[tuple[Case, ParityReport]]) -> str:
    rows = [("activation", "loss", "optimizer", "dtype", "pass", "bound", "trained", "bound", "")]
    for case, report in compared:
        failed = "" if report.passed else "FAILED"
        rows.append((*case, report.arithmetic, *_worst(report, "pass"), *_worst(report, "training"), failed))
    first = compared[0][1]
    pair = f"{first.devices[0]} with {', '.join(first.devices[1:])}"
    end = f"{verdict(compared, 'comparisons')} of {pair}, {first.updates} updates each"
    return "\n".join([*table(rows, left=(0, 1, 2, 3, 8), ruled=True), end])


def _worst(report: ParityReport, stage: str) -> tuple[str, str]:
    """Relative error and bound of the row that comes nearest to its bound."""
    row = max((row for row in report.rows if row.stage == stage), key=lambda row: row.max_relative_error / row.bound)
    return f"{row.max_relative_error:.1e}", f"{row.bound:.1e}"
