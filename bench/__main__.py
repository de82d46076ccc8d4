"""`python -m bench` in a checkout: times nnbp beside other libraries, each in a process of its own."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from nnbp.cli.common import Exit, arguments_checked, say
from nnbp.cli.main import execute
from nnbp.cli.options import count, positive
from nnbp.device.select import open_backend, parse_device

from . import cases, device_cases, device_run, peers, report, runner
from .team import REFERENCE

__all__ = ["CHECK_FAILED", "main"]

CHECK_FAILED = 1
"""Exit code of a run in which nnbp failed, or a peer computed something else than nnbp."""

_ROUNDS, _SECONDS, _IMPORT_RUNS = 7, 0.5, 9
_QUICK_ROUNDS, _QUICK_SECONDS, _QUICK_IMPORT_RUNS = 3, 0.1, 3
_QUICK_CASES = "4-16-3@32,64-64-10@64"
_THREADS = 2

# A GPU keeps its clock, and its time is dear.
_GPU_ROUNDS, _GPU_SECONDS, _GPU_BUDGET = 3, 0.15, 450.0


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=(
            "Times training steps, predictions, whole fits and imports of nnbp beside PyTorch, JAX, scikit-learn and a "
            "NumPy loop, each in a process of its own, in turn. Writes results.json, table.md and speed.svg to a new "
            "folder. A library that is not installed is named and left out. The exit code is 1 if one computes "
            "something else than nnbp. With --device cuda it times training steps on a GPU at several precisions, and "
            "finds the sizes from which a GPU wins over the CPU, in a given time, the most important first; results "
            "are written after each network."
        ),
    )
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu, cuda or cuda:1 (default cpu)")
    parser.add_argument(
        "--budget", type=positive, metavar="S",
        help=f"seconds of a run on a GPU; what they are too few for is left out (default {_GPU_BUDGET:g})",
    )  # fmt: skip
    parser.add_argument(
        "--cases", metavar="TEXT", help="parts of the titles of the cases wanted, with commas: 64-64-10,adam"
    )
    parser.add_argument(
        "--peers", metavar="A,B,…", help="names, or .py files of your own (default: all; nnbp always runs)"
    )
    parser.add_argument(
        "--rounds", type=count, metavar="N", help=f"measurements of each (default {_ROUNDS}, on a GPU {_GPU_ROUNDS})"
    )
    parser.add_argument(
        "--seconds",
        type=positive,
        metavar="S",
        help=f"of one measurement, about (default {_SECONDS:g}, on a GPU {_GPU_SECONDS:g})",
    )
    parser.add_argument(
        "--threads",
        type=count,
        metavar="N",
        help=f"of each library (default {_THREADS}, or as many as cores; on a GPU as many as cores)",
    )
    parser.add_argument("--out", metavar="DIR", help="a new folder (default bench/results/cpu-DATE or cuda-DATE)")
    parser.add_argument("--readme", metavar="FILE", help="put the table between the two bench markers of this file")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")
    parser.add_argument("--quick", action="store_true", help="a first look: two small networks, few and short rounds")
    parser.add_argument(
        "--python", action="append", default=[], metavar="PEER=PATH", help="the Python interpreter that has a peer"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    """Measures, writes and prints; 0, or 1 if a library does not compute the same as nnbp."""
    readme = None if arguments.readme is None else Path(arguments.readme)
    with arguments_checked():
        options = _options(arguments)
        if readme is not None:
            report.around_markers(readme, options.device)
    on_gpu = options.device != "cpu"
    if on_gpu:
        # Before anything starts: without a working GPU this raises, and says why and what would mend it.
        open_backend(options.device, fallback=False)
    folder = runner.folder_for(arguments.out, "cuda" if on_gpu else "cpu")

    def tell(text: str) -> None:
        say("bench", text)

    if on_gpu:
        results = device_run.run(options, folder, tell)
        page = (folder / "table.md").read_text(encoding="utf-8")
    else:
        results = runner.run(options, tell)
        page = runner.write(folder, results, tell)
    if readme is not None:
        report.into_readme(readme, results)
    print(json.dumps(results, indent=1, ensure_ascii=False) if arguments.json else page)
    tell(f"written to {folder}")
    return Exit.DONE if runner.sound(results) else CHECK_FAILED


def _options(arguments: argparse.Namespace) -> runner.Options:
    """The options that the arguments ask for.

    Raises:
        ValueError: they name a device, a case, a peer or an interpreter that does not exist.
    """
    quick, device = arguments.quick, _device(arguments.device)
    on_gpu = device != "cpu"
    if arguments.budget is not None and not on_gpu:
        raise ValueError("--budget is for a run on a GPU; on the CPU, --cases and --rounds make a run shorter.")
    names = peers.names(device) if arguments.peers is None else [name.strip() for name in arguments.peers.split(",")]
    for name in names:
        peers.known(name, device)
    # All are compared with nnbp.
    names = list(dict.fromkeys([REFERENCE, *names]))
    pythons = {}
    for text in arguments.python:
        name, sign, path = text.partition("=")
        if not sign or name not in names:
            raise ValueError(
                f"--python is PEER=PATH with a peer that runs, one of {', '.join(names)}; received {text!r}."
            )
        pythons[name] = path
    text = arguments.cases if arguments.cases is not None or not quick else _QUICK_CASES
    known = device_cases.gpu_cases(device) if on_gpu else cases.CASES
    rounds, seconds, cores = (
        (_GPU_ROUNDS, _GPU_SECONDS, runner.usable_cores())
        if on_gpu
        else (_ROUNDS, _SECONDS, min(_THREADS, runner.usable_cores()))
    )
    return runner.Options(
        cases=cases.chosen(text, known),
        peers=names,
        rounds=arguments.rounds or (_QUICK_ROUNDS if quick else rounds),
        seconds=arguments.seconds or (_QUICK_SECONDS if quick else seconds),
        threads=arguments.threads or cores,
        import_runs=_QUICK_IMPORT_RUNS if quick else _IMPORT_RUNS,
        pythons=pythons,
        device=device,
        budget=(arguments.budget or _GPU_BUDGET) if on_gpu else None,
    )


def _device(text: str) -> str:
    """The device of a run: cpu, or a GPU by its number.

    Raises:
        ValueError: it is none of them.
    """
    spec = parse_device(text)
    if spec.kind not in ("cpu", "cuda"):
        raise ValueError(f"--device is cpu, cuda or cuda:N, one that is known before the run; received {text!r}.")
    return "cpu" if spec.kind == "cpu" else f"cuda:{spec.index or 0}"


if __name__ == "__main__":
    sys.exit(main())
