"""`nnbp COMMAND …`: finds the command's file, runs it, and turns errors into one paragraph and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module

from nnbp.cli.common import Exit, exit_code, say, terminable
from nnbp.registry import suggest
from nnbp.version import __version__

COMMANDS = ("train", "predict", "evaluate", "export", "gradcheck", "parity", "explain", "doctor")
"""The commands, in the order of the help page. Each is a file of this folder with `add_arguments` and `run`, and with
HELP and DESCRIPTION for the help pages."""

_EPILOG = """\
first steps:
  nnbp train digits                            train on scikit-learn's handwritten digits
  nnbp train people.csv --target income        train on a table of your own
  nnbp predict runs/people-1 new.csv           predict with the trained model

exit codes:
  0 done   2 usage   3 data   4 model file   5 diverged   6 resources   129 SIGHUP   130 Ctrl-C   143 SIGTERM
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the words after `nnbp`; None takes them from the command line.

    Returns:
        the exit code; see `nnbp.cli.common.Exit`.
    """
    _open_closed_streams()
    words = sys.argv[1:] if argv is None else list(argv)
    odd = next((word for word in words if not _is_utf8(word)), None)
    if odd is not None:
        say("nnbp", f"error: arguments are text in UTF-8, names of files too; received {odd!r}. Rename the file.")
        return Exit.USAGE
    named = next((word for word in words if not word.startswith("-")), None)
    parser = _parser(named)
    if not words:
        parser.print_help(sys.stderr)
        return Exit.USAGE
    if named is not None and named not in COMMANDS:
        say("nnbp", f"error: there is no command {named!r}{suggest(named, COMMANDS)}. There are {', '.join(COMMANDS)}.")
        return Exit.USAGE
    try:
        arguments = parser.parse_args(words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Exit.USAGE
    # Whoever wants to repeat a run finds these words in its folder.
    arguments.words = words
    return execute(f"nnbp {arguments.command}", arguments.run, arguments)


def execute(name: str, run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Runs a command with its parsed arguments, and turns errors into one paragraph and an exit code.

    Args:
        name: stands before the paragraph.
        run: the command.
        arguments: its arguments; `arguments.debug` shows the traceback of an error as well.

    Returns:
        the exit code.
    """
    try:
        with terminable():
            code = run(arguments)
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        # The reader of a pipe went away, as `head` does; what Python would still flush at exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE
    except (Exception, KeyboardInterrupt) as error:
        if arguments.debug:
            traceback.print_exc()
        say(name, _error_text(error))
        return exit_code(error)


def _open_closed_streams() -> None:
    """Standard streams that are closed lead nowhere.

    The first file that is opened would get their number otherwise, and with it what C libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _is_utf8(word: str) -> bool:
    """Whether files can hold an argument; Python keeps bytes that are no text in halves of surrogate pairs."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parser(named: str | None) -> argparse.ArgumentParser:
    """The parser of the command line; only the named command's file is imported, or all for the help page."""
    parser = argparse.ArgumentParser(
        prog="nnbp",
        description="Trains and checks backpropagation networks on NumPy or CuPy.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nnbp {__version__}")
    parser.set_defaults(debug=False)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", required=True)
    for name in [named] if named in COMMANDS else COMMANDS:
        command = import_module(f"nnbp.cli.{name}")
        page = subparsers.add_parser(name, help=command.HELP, description=command.DESCRIPTION)
        command.add_arguments(page)
        page.add_argument("--debug", action="store_true", help="show the traceback of an error")
        page.set_defaults(run=command.run)
    return parser


def _error_text(error: BaseException) -> str:
    """The paragraph that tells of an error, with its notes."""
    notes = getattr(error, "__notes__", ())
    return ". ".join([_cause(error).rstrip("."), *notes]) if notes else _cause(error)


def _cause(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return f"{str(error) or 'ended by Ctrl-C'}."
    if isinstance(error, MemoryError):
        return f"out of memory: {str(error) or 'no more to be had'}. Use fewer rows, fewer units or smaller batches."
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if exit_code(error) == Exit.BUG:
        return f"unexpected {type(error).__name__}: {text}. A mistake in nnbp: please report what --debug shows."
    return f"error: {text}"
