"""`nnbp parity`: the same networks on two devices, for every built-in activation, loss and optimizer."""

from __future__ import annotations

import argparse
from typing import NamedTuple

from nnbp.cli.common import Exit, add_options, arguments_checked, count
from nnbp.cli.gradcheck import CHECK_FAILED, layer_sizes, verdict
from nnbp.formatting import json_text, table
from nnbp.graph.ops import PRECISIONS
from nnbp.nn.activations import Activation
from nnbp.nn.losses import Loss
from nnbp.optim.optimizers import Optimizer
from nnbp.testing import example_problem
from nnbp.testing.parity import ParityReport, compare_devices


class Case(NamedTuple):
    """One network, and how it is trained."""

    activation: str = "tanh"
    loss: str = "cross_entropy"
    optimizer: str = "adam"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the command `parity` to the command line."""
    parser = subparsers.add_parser(
        "parity",
        help="compare what two devices compute",
        description=(
            "Compares forward pass, every delta and gradient, and the parameters after some updates, on two devices or "
            "more: with every built-in activation, loss and optimizer in turn, or with those that are named. Exit code "
            "1 if they disagree, 6 if a device does not work."
        ),
    )
    parser.add_argument(
        "--devices", type=_devices, default=["cpu", "cuda"], metavar="D,D", help="to compare (default cpu,cuda)"
    )
    parser.add_argument("--dtype", type=_dtypes, metavar="T", help="default float64,float32")
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="of the products of float32; the CPU computes in float32 all the same"
    )
    parser.add_argument("--layers", type=layer_sizes, default=[16, 32, 4], metavar="N,N,…", help="default 16,32,4")
    parser.add_argument("--samples", type=count, default=50, metavar="M", help="number of samples (default 50)")
    parser.add_argument("--steps", type=count, default=10, metavar="N", help="number of updates (default 10)")
    parser.add_argument("--optimizer", metavar="NAME", help="of the updates (default: every one)")
    add_options(parser, "--activation", "--loss", "--seed", "--json")
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Compares and prints the reports; 0, or 1 if devices disagree. A device that does not work is an error: 6."""
    with arguments_checked():
        cases = [
            (case, _compare(arguments, case, dtype)) for case in _cases(arguments) for dtype in _dtypes_of(arguments)
        ]
    passed = all(report.passed for _, report in cases)
    if arguments.json:
        reports = [{"case": case._asdict(), **report.as_dict()} for case, report in cases]
        print(json_text({"passed": passed, "reports": reports}))
    elif len(_cases(arguments)) == 1:
        print("\n\n".join(str(report) for _, report in cases))
    else:
        print(_table(cases))
    return Exit.DONE if passed else CHECK_FAILED


def _compare(arguments: argparse.Namespace, case: Case, dtype: str) -> ParityReport:
    net, X, y = example_problem(
        arguments.layers, activation=case.activation, loss=case.loss, samples=arguments.samples, seed=arguments.seed,
        weight_decay=0.01, dtype=dtype, precision=arguments.precision, device="cpu",
    )  # fmt: skip
    return compare_devices(net, X, y, devices=arguments.devices, steps=arguments.steps, optimizer=case.optimizer)


def _cases(arguments: argparse.Namespace) -> list[Case]:
    """Every activation, every loss and every optimizer once, or the one network that is named."""
    named = {key: getattr(arguments, key) for key in Case._fields if getattr(arguments, key) is not None}
    if named:
        return [Case(**named)]
    hidden = [name for name in Activation.built_in() if name != "softmax"]
    cases = [Case(activation=name) for name in hidden]
    cases += [Case(loss=name) for name in Loss.built_in()]
    cases += [Case(optimizer=name) for name in Optimizer.built_in()]
    return list(dict.fromkeys(cases))


def _dtypes_of(arguments: argparse.Namespace) -> list[str]:
    """Both dtypes, if none is named; a lower precision is one of float32."""
    return arguments.dtype or (["float64", "float32"] if arguments.precision is None else ["float32"])


def _table(cases: list[tuple[Case, ParityReport]]) -> str:
    rows = [("activation", "loss", "optimizer", "dtype", "pass", "bound", "trained", "bound", "")]
    for case, report in cases:
        failed = "" if report.passed else "FAILED"
        rows.append((*case, report.arithmetic, *_worst(report, "pass"), *_worst(report, "training"), failed))
    first = cases[0][1]
    pair = f"{first.devices[0]} with {', '.join(first.devices[1:])}"
    end = f"{verdict(cases, 'comparisons')} of {pair}, {first.updates} updates each"
    return "\n".join([*table(rows, left=(0, 1, 2, 3, 8), ruled=True), end])


def _worst(report: ParityReport, stage: str) -> tuple[str, str]:
    """Relative error and bound of the row that comes nearest to its bound."""
    row = max((row for row in report.rows if row.stage == stage), key=lambda row: row.max_relative_error / row.bound)
    return f"{row.max_relative_error:.1e}", f"{row.bound:.1e}"


def _devices(text: str) -> list[str]:
    devices = _listed(text)
    if len(devices) < 2 or not all(devices):
        raise argparse.ArgumentTypeError(f"expected at least two devices, such as cpu,cuda; received {text!r}.")
    return devices


def _dtypes(text: str) -> list[str]:
    dtypes = _listed(text)
    if not set(dtypes) <= {"float32", "float64"}:
        raise argparse.ArgumentTypeError(f"expected float32, float64 or both, with a comma; received {text!r}.")
    return dtypes


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")]
