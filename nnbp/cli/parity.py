"""`nnbp parity`: every built-in activation, loss and optimizer on two devices, or on one device and in a record."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nnbp.cli.checks import HIDDEN, conclude, verdict
from nnbp.cli.common import Exit, UsageError, arguments_checked
from nnbp.cli.options import add_shared, count, devices, dtypes, layer_sizes, name_of
from nnbp.errors import ModelFileError
from nnbp.formatting import counted, json_text, shown, table
from nnbp.graph.ops import PRECISIONS
from nnbp.network import Network
from nnbp.nn.losses import Loss
from nnbp.optim.optimizers import Optimizer
from nnbp.testing import compare_with, example_problem, record
from nnbp.testing.parity import ParityReport, compare_devices

HELP = "compare what two devices compute"
DESCRIPTION = (
    "Compares the forward pass, every delta and gradient, and the parameters after some updates, on two devices or "
    "more: with every built-in activation, loss and optimizer in turn, or with those that are named. --record writes "
    "the results of one device; --against judges a device by them, on any machine. Exit code 1 if they disagree, 6 if "
    "a device does not work."
)

_SUFFIX = ".safetensors"


class Case(NamedTuple):
    """One network, and how it is trained."""

    activation: str = "tanh"
    loss: str = "cross_entropy"
    optimizer: str = "adam"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `nnbp parity`."""
    add = parser.add_argument
    add("--devices", type=devices, metavar="D,D", help="to compare (default cpu,cuda)")
    where = parser.add_mutually_exclusive_group()
    what = "write the results of --device to this file, or to one file for each network in this folder"
    where.add_argument("--record", metavar="PATH", help=what)
    where.add_argument("--against", metavar="PATH", help="judge --device by this record, or folder of records")
    add("--isolate", action="store_true", help="judge each layer by itself, to name the faulty layer")
    add_shared(parser, "--device")
    add("--dtype", type=dtypes, metavar="T", help="default float64,float32")
    precision = "of products of float32 matrices; the CPU still computes in float32"
    add("--precision", choices=PRECISIONS, help=precision)
    add("--layers", type=layer_sizes, default=[16, 32, 4], metavar="N,N,…", help="default 16,32,4")
    add("--samples", type=count, default=50, metavar="M", help="number of samples (default 50)")
    add("--steps", type=count, default=10, metavar="N", help="number of updates (default 10)")
    add("--optimizer", type=name_of(Optimizer), metavar="NAME", help="of the updates (default: every one)")
    add_shared(parser, "--activation", "--loss", "--seed", "--json")


def run(arguments: argparse.Namespace) -> int:
    """Compares and prints the reports; 0, or 1 if devices disagree. A device that does not work is an error: 6."""
    if arguments.devices is not None and (arguments.record or arguments.against):
        raise UsageError("--record and --against are for one device: give --device instead of --devices.")
    if arguments.record and arguments.isolate:
        raise UsageError("--isolate is for judging devices: give it with --against, or with --devices.")
    named = [
        f"--{name}" for name in ("activation", "loss", "optimizer", "dtype", "precision") if getattr(arguments, name)
    ]
    if arguments.against and named:
        raise UsageError(f"The records determine the networks: leave out {', '.join(named)}, or name one record.")
    if arguments.record:
        return _record(arguments)
    with arguments_checked():
        if arguments.against:
            compared = list(_judged(arguments))
        else:
            compared = [(case, _compare(arguments, case, dtype)) for case, dtype in _networks(arguments)]
    page = _table(compared) if len(compared) > 2 else "\n\n".join(str(report) for _, report in compared)
    return conclude(arguments, [({"case": case._asdict()}, report) for case, report in compared], page)


def _networks(arguments: argparse.Namespace) -> list[tuple[Case, str]]:
    """The networks and their dtypes."""
    # A lower precision applies to float32 only.
    dtypes = arguments.dtype or (["float64", "float32"] if arguments.precision is None else ["float32"])
    return [(case, dtype) for case in _cases(arguments) for dtype in dtypes]


def _cases(arguments: argparse.Namespace) -> list[Case]:
    """Every activation, every loss and every optimizer once, or the one named network."""
    named = {key: getattr(arguments, key) for key in Case._fields if getattr(arguments, key) is not None}
    if named:
        return [_case(**named)]
    cases = [_case(activation=name) for name in HIDDEN]
    cases += [_case(loss=name) for name in Loss.built_in()]
    cases += [_case(optimizer=name) for name in Optimizer.built_in()]
    return list(dict.fromkeys(cases))


def _case(**named: str) -> Case:
    """A case, whose loss is one that its optimizer can train unless it is named."""
    rule = Optimizer.registry[named.get("optimizer", Case().optimizer)]
    return Case(**{"loss": "squared_error", **named} if rule.squares_only else named)


def _problem(arguments: argparse.Namespace, case: Case, dtype: str, device: str) -> tuple[Network, Any, Any]:
    decay = 0.0 if Optimizer.registry[case.optimizer].sets_decay else 0.01
    return example_problem(
        arguments.layers, activation=case.activation, loss=case.loss, samples=arguments.samples, seed=arguments.seed,
        weight_decay=decay, dtype=dtype, precision=arguments.precision, device=device,
    )  # fmt: skip


def _compare(arguments: argparse.Namespace, case: Case, dtype: str) -> ParityReport:
    net, X, y = _problem(arguments, case, dtype, "cpu")
    return compare_devices(
        net, X, y, devices=arguments.devices or ("cpu", "cuda"), steps=arguments.steps, optimizer=case.optimizer,
        isolate=arguments.isolate,
    )  # fmt: skip


def _record(arguments: argparse.Namespace) -> int:
    """Writes a record of each network; 0."""
    networks, path = _networks(arguments), Path(arguments.record)
    places = [path]
    if len(networks) > 1:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelFileError(
                f"Records of {len(networks)} networks are files in a folder; received {shown(str(path))}, which cannot "
                f"be created: {error.strerror}. Name another folder, or one network by --activation, --loss, "
                "--optimizer and --dtype."
            ) from error
        places = [path / f"{'-'.join((*case, arguments.precision or dtype))}{_SUFFIX}" for case, dtype in networks]
    with arguments_checked():
        for (case, dtype), place in zip(networks, places, strict=True):
            net, X, y = _problem(arguments, case, dtype, arguments.device)
            record(net, X, y, place, steps=arguments.steps, optimizer=case.optimizer)
    size = sum(place.stat().st_size for place in places)
    found = {"record": str(path), "networks": len(places), "bytes": size, "device": net.device}
    said = f"{path}: {counted(len(places), 'network')} on {net.device}, {size / 1e3:,.0f} kB"
    print(json_text(found) if arguments.json else said)
    return Exit.DONE


def _judged(arguments: argparse.Namespace) -> Iterator[tuple[Case, ParityReport]]:
    """The report on each record."""
    path = Path(arguments.against)
    places = sorted(path.glob(f"*{_SUFFIX}")) if path.is_dir() else [path]
    if not places:
        raise ModelFileError(
            f"A folder of records has files NAME{_SUFFIX}; received {shown(str(path))}, which has none. Write them "
            "with nnbp parity --record."
        )
    for place in places:
        words = place.name.removesuffix(_SUFFIX).split("-")
        case = Case(*words[:3]) if len(words) == 4 else Case(place.name, "", "")
        yield case, compare_with(place, device=arguments.device, isolate=arguments.isolate)


def _table(compared: list[tuple[Case, ParityReport]]) -> str:
    rows = [("activation", "loss", "optimizer", "dtype", "pass", "bound", "trained", "bound", "")]
    for case, report in compared:
        failed = "" if report.culprit is None else f"FAILED: {report.culprit.name} on {report.culprit.device}"
        rows.append((*case, report.arithmetic, *_worst(report, "pass"), *_worst(report, "training"), failed))
    first = compared[0][1]
    pair = f"{first.devices[0]} with {', '.join(first.devices[1:])}"
    done = "each layer by itself" if first.isolate else f"{first.updates} updates each"
    end = f"{verdict(compared, 'comparisons')} of {pair}, {done}"
    return "\n".join([*table(rows, left=(0, 1, 2, 3, 8), ruled=True), end])


def _worst(report: ParityReport, stage: str) -> tuple[str, str]:
    """The relative error and the bound of the row with the largest ratio of the two."""
    rows = [row for row in report.rows if row.stage == stage]
    if not rows:
        return "–", "–"
    row = max(rows, key=lambda row: row.ratio)
    return f"{row.max_relative_error:.1e}", f"{row.bound:.1e}"
