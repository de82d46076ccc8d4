"""`nnbp bench`: times nnbp beside other libraries, each in a process of its own."""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path
from typing import Any

from nnbp.cli.common import Exit, arguments_checked, count, positive, say

__all__ = ["CHECK_FAILED", "add_parser", "run"]

CHECK_FAILED = 1
"""Exit code of a run in which nnbp failed, or a peer computed something else than nnbp."""

_ROUNDS, _SECONDS, _IMPORT_RUNS = 7, 0.5, 9
_QUICK_ROUNDS, _QUICK_SECONDS, _QUICK_IMPORT_RUNS = 3, 0.1, 3
_QUICK_CASES = "4-16-3@32,64-64-10@64"
_THREADS = 2


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds the command `bench` to the command line."""
    parser = subparsers.add_parser(
        "bench",
        help="time nnbp beside PyTorch, JAX, scikit-learn and a NumPy loop",
        description=(
            "Times training steps, predictions, whole fits and imports of nnbp beside other libraries, each in a "
            "process of its own, in turn. Writes results.json, table.md and speed.svg to a new folder. A library that "
            "is not installed is named and left out. Exit code 1 where one computes something else than nnbp."
        ),
    )
    parser.add_argument(
        "--cases", metavar="TEXT", help="parts of the titles of the cases wanted, with commas: 64-64-10,adam"
    )
    parser.add_argument(
        "--peers", metavar="A,B,…", help="names, or .py files of your own (default: all; nnbp always runs)"
    )
    parser.add_argument("--rounds", type=count, metavar="N", help=f"measurements of each (default {_ROUNDS})")
    parser.add_argument(
        "--seconds", type=positive, metavar="S", help=f"of one measurement, about (default {_SECONDS:g})"
    )
    parser.add_argument(
        "--threads", type=count, metavar="N", help=f"of each library (default {_THREADS}, or as many as cores)"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="a new folder (default bench/results/cpu-DATE, or bench-DATE without a folder bench)",
    )
    parser.add_argument("--readme", metavar="FILE", help="put the table between the two bench markers of this file")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")
    parser.add_argument("--quick", action="store_true", help="a first look: two small networks, few and short rounds")
    parser.add_argument(
        "--python", action="append", default=[], metavar="PEER=PATH", help="the Python interpreter that has a peer"
    )
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Measures, writes and prints; 0, or 1 where something does not compute what it should."""
    runner, report = import_module("nnbp.bench.runner"), import_module("nnbp.bench.report")
    readme = None if arguments.readme is None else Path(arguments.readme)
    with arguments_checked():
        options = _options(arguments, runner)
        if readme is not None:
            report.around_markers(readme)
    folder: Path = runner.folder_for(arguments.out)

    def tell(text: str) -> None:
        say("nnbp bench", text)

    results = runner.run(options, tell)
    page = runner.write(folder, results, tell)
    if readme is not None:
        report.into_readme(readme, results)
    print(json.dumps(results, indent=1, ensure_ascii=False) if arguments.json else page)
    tell(f"written to {folder}")
    return Exit.DONE if runner.sound(results) else CHECK_FAILED


def _options(arguments: argparse.Namespace, runner: Any) -> Any:
    """What the words ask for.

    Raises:
        ValueError: they name a case, a peer or an interpreter that there is not.
    """
    peers, cases, reference = (import_module(f"nnbp.bench.{name}") for name in ("peers", "cases", "team"))
    quick = arguments.quick
    names = peers.names() if arguments.peers is None else [name.strip() for name in arguments.peers.split(",")]
    for name in names:
        peers.known(name)
    # nnbp is what all are compared with.
    names = list(dict.fromkeys([reference.REFERENCE, *names]))
    pythons = {}
    for text in arguments.python:
        name, sign, path = text.partition("=")
        if not sign or name not in names:
            raise ValueError(
                f"--python is PEER=PATH with a peer that runs, one of {', '.join(names)}; received {text!r}."
            )
        pythons[name] = path
    text = arguments.cases if arguments.cases is not None or not quick else _QUICK_CASES
    return runner.Options(
        cases=cases.chosen(text),
        peers=names,
        rounds=arguments.rounds or (_QUICK_ROUNDS if quick else _ROUNDS),
        seconds=arguments.seconds or (_QUICK_SECONDS if quick else _SECONDS),
        threads=arguments.threads or min(_THREADS, runner.usable_cores()),
        import_runs=_QUICK_IMPORT_RUNS if quick else _IMPORT_RUNS,
        pythons=pythons,
    )
