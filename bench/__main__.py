"""`python -m bench` in a checkout: times nnbp beside other libraries, each in a process of its own."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nnbp.cli.common import Exit, arguments_checked, say
from nnbp.cli.main import execute
from nnbp.cli.options import count, positive
from nnbp.device.select import open_backend, parse_device
from nnbp.formatting import json_text

from .cases import cases, chosen
from .measure.run import Options, run, sound, usable_cores
from .peer import REFERENCE, check_name, names
from .report import page, picture

CHECK_FAILED = 1
"""Exit code of a run in which nnbp failed, or a peer computed something else than nnbp."""

RESULTS = Path(__file__).parent / "results"
"""The folder of all results."""

_CORES = usable_cores()

# A GPU keeps its clock, and its time is dear.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {"rounds": 7, "seconds": 0.5, "threads": min(2, _CORES), "budget": math.inf},
    "cuda": {"rounds": 3, "seconds": 0.15, "threads": _CORES, "budget": 450.0},
}
_QUICK = {"rounds": 3, "seconds": 0.1}
_QUICK_CASES = "4-16-3@32,64-64-10@64"
_IMPORT_RUNS, _QUICK_IMPORT_RUNS = 9, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark.

    Args:
        argv: the arguments; None takes them from the command line.

    Returns:
        the exit code: `CHECK_FAILED`, or one of `nnbp.cli.common.Exit`.
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Exit.USAGE
    return execute("bench", _run, arguments)


def _default(name: str) -> str:
    """The default values of an option, as --help shows them."""
    cpu, cuda = (_DEFAULTS[kind][name] for kind in ("cpu", "cuda"))
    return f"default {cpu:g} here, on a GPU {cuda:g}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=(
            "Times training steps, predictions, whole fits and imports of nnbp beside PyTorch, JAX, scikit-learn and a "
            "NumPy loop, each in a process of its own, in turn. Writes results.json, table.md and speed.svg to a new "
            "folder; after each network, it has the results so far. A library that is not installed is named and left "
            "out. The exit code is 1 if one computes something else than nnbp. On a GPU it times training steps at "
            "several precisions, the most important first, and finds the sizes from which the GPU wins over the CPU."
        ),
    )
    add = parser.add_argument
    add("--device", default="cpu", metavar="D", help="cpu, cuda or cuda:1, or two with a comma: cpu,cuda (default cpu)")
    add(
        "--budget", type=positive, metavar="S",
        help=f"seconds on a GPU; what they are too few for is left out (default {_DEFAULTS['cuda']['budget']:g})",
    )  # fmt: skip
    add("--cases", metavar="TEXT", help="parts of the titles of the cases wanted, with commas: 64-64-10,adam")
    add("--peers", metavar="A,B,…", help="names, or .py files of your own (default: all; nnbp always runs)")
    add("--rounds", type=count, metavar="N", help=f"measurements of each ({_default('rounds')})")
    add("--seconds", type=positive, metavar="S", help=f"of one measurement, about ({_default('seconds')})")
    add("--threads", type=count, metavar="N", help=f"of each library ({_default('threads')})")
    add("--out", metavar="DIR", help="a new folder (default bench/results/DEVICE-DATE)")
    add("--readme", metavar="FILE", help="put the table between the two bench markers of this file")
    add("--json", action="store_true", help="print the results as one JSON object")
    add("--quick", action="store_true", help="a first look: two small networks, few and short rounds")
    add("--python", action="append", default=[], metavar="PEER=PATH", help="the interpreter that has a peer")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    """Measures, writes and prints; 0, or 1 if a library does not compute the same as nnbp."""
    readme = None if arguments.readme is None else Path(arguments.readme)
    with arguments_checked():
        devices = _devices(arguments.device)
        plans = [_options(arguments, device) for device in devices]
        if arguments.budget is not None and devices == ["cpu"]:
            raise ValueError("--budget is for a run on a GPU; on the CPU, --cases and --rounds make a run shorter.")
        if readme is not None:
            page.around_markers(readme)
    for device in devices:
        # Before anything starts: if it does not work, this says why, and what would mend it.
        open_backend(device, fallback=False)
    folder = folder_for(arguments.out, "-".join(device.partition(":")[0] for device in devices))
    tell = partial(say, "bench")
    results = run(plans, partial(page.write, folder), tell)
    try:
        picture.draw(folder, results)
    except ImportError as error:
        tell(f"no picture: {error}. To have one: python -m pip install matplotlib")
    text = page.write(folder, results)
    if readme is not None:
        page.into_readme(readme, results)
    print(json_text(results) if arguments.json else text)
    tell(f"written to {folder}")
    return Exit.DONE if sound(results) else CHECK_FAILED


def _devices(text: str) -> list[str]:
    """The devices of a run: cpu, or a GPU by its number.

    Raises:
        ValueError: the text names something else, or two of a kind.
    """
    specs = [parse_device(name.strip()) for name in text.split(",")]
    kinds = [spec.kind for spec in specs]
    if not set(kinds) <= set(_DEFAULTS) or len(set(kinds)) < len(kinds):
        raise ValueError(
            f"--device is cpu, cuda or cuda:N, one that is known before the run, or cpu,cuda; received {text!r}."
        )
    return ["cpu" if spec.kind == "cpu" else f"cuda:{spec.index or 0}" for spec in specs]


def _options(arguments: argparse.Namespace, device: str) -> Options:
    """What the arguments ask for on a device.

    Raises:
        ValueError: they name a case, a peer or an interpreter that does not exist.
    """
    wanted = names(device) if arguments.peers is None else [name.strip() for name in arguments.peers.split(",")]
    for name in wanted:
        check_name(name)
    # All are compared with nnbp.
    wanted = list(dict.fromkeys([REFERENCE, *wanted]))
    pythons = {}
    for text in arguments.python:
        name, sign, path = text.partition("=")
        if not sign or name not in wanted:
            raise ValueError(
                f"--python is PEER=PATH with a peer that runs, one of {', '.join(wanted)}; received {text!r}."
            )
        pythons[name] = path
    numbers = _DEFAULTS[device.partition(":")[0]] | (_QUICK if arguments.quick else {})
    given = {name: getattr(arguments, name) for name in numbers if getattr(arguments, name) is not None}
    if device == "cpu":
        given.pop("budget", None)
    text = arguments.cases if arguments.cases is not None or not arguments.quick else _QUICK_CASES
    return Options(
        device=device,
        cases=chosen(text, cases(device)),
        peers=wanted,
        import_runs=_QUICK_IMPORT_RUNS if arguments.quick else _IMPORT_RUNS,
        pythons=pythons,
        **numbers | given,
    )


def folder_for(out: str | None, kind: str) -> Path:
    """The folder of a run's results: one that is not there yet, or empty.

    Args:
        out: its path; None is a new one in `RESULTS`.
        kind: the first word of its name then, followed by the date.

    Raises:
        FileExistsError: `out` holds files already.
    """
    if out is not None:
        path = Path(out)
        if path.is_dir() and any(path.iterdir()):
            raise FileExistsError(
                f"the folder {out} is not empty, and no run overwrites another. Name a new one: --out"
            )
        return path
    path = free = RESULTS / f"{kind}-{time.strftime('%Y-%m-%d')}"
    number = 2
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free


if __name__ == "__main__":
    sys.exit(main())
