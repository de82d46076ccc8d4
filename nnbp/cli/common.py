"""What the commands share: exit codes, errors in the arguments, signals, and kinds of arguments."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import IntEnum
from functools import partial
from typing import Any, TypeVar

from nnbp.errors import (
    DataError,
    DeviceFallbackWarning,
    DeviceUnavailableError,
    DivergenceError,
    DTypeError,
    MissingDependencyError,
    ModelFileError,
    ShapeError,
)
from nnbp.validation import not_negative, number, whole_number

T = TypeVar("T")


class Exit(IntEnum):
    """Exit codes of `nnbp`."""

    DONE = 0
    BUG = 1
    USAGE = 2
    DATA = 3
    MODEL_FILE = 4
    DIVERGED = 5
    RESOURCES = 6
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


class UsageError(Exception):
    """The arguments of the command do not make sense together."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: what ends a command as Ctrl-C does, with another exit code."""

    def __str__(self) -> str:
        return "ended by SIGTERM"


_CODES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Exit], ...] = (
    (Terminated, Exit.TERMINATED),
    (KeyboardInterrupt, Exit.INTERRUPTED),
    (UsageError, Exit.USAGE),
    ((DataError, ShapeError, DTypeError), Exit.DATA),
    (ModelFileError, Exit.MODEL_FILE),
    (DivergenceError, Exit.DIVERGED),
    ((DeviceUnavailableError, MissingDependencyError, MemoryError, OSError), Exit.RESOURCES),
)


def exit_code(error: BaseException) -> Exit:
    """The exit code that an error stands for; `Exit.BUG` for one that nobody expected."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.BUG)


def say(command: str, text: str) -> None:
    """Prints one paragraph on standard error, after the name of the command; broken into lines in a terminal only."""
    text = f"{command}: {text}"
    if sys.stderr.isatty():
        width = max(40, shutil.get_terminal_size().columns - 1)
        text = textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
    print(text, file=sys.stderr, flush=True)


@contextmanager
def arguments_checked() -> Iterator[None]:
    """Turns what the library says of wrong arguments into a `UsageError`; its own kinds of errors pass."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if exit_code(error) != Exit.BUG:
            raise
        raise UsageError(str(error)) from error


def noted_fallback(make: Callable[[], T]) -> tuple[T, str | None]:
    """What `make` makes, and why the CPU stands in for the GPU that was asked for, if it does."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DeviceFallbackWarning)
        made = make()
    reason = None
    for item in caught:
        if item.category is DeviceFallbackWarning:
            reason = str(item.message)
        else:
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)
    return made, reason


@contextmanager
def _handling(handlers: dict[int, Any]) -> Iterator[None]:
    """Other handlers for some signals; only the main thread of a program may have any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, frame: Any) -> None:
    raise Terminated


def terminable() -> AbstractContextManager[None]:
    """SIGTERM raises `Terminated`, so that a command can save what it has."""
    return _handling({signal.SIGTERM: _terminate})


def undisturbed() -> AbstractContextManager[None]:
    """Neither Ctrl-C nor SIGTERM is heard: for the moments in which results are saved."""
    return _handling({signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_IGN})


def _argument(read: Callable[[str], Any], check: Callable[[str, Any], T]) -> Callable[[str], T]:
    """A type of arguments of the command line: `read` makes a value of the text, `check` checks it by a name."""

    def argument(text: str) -> T:
        try:
            value = read(text)
        except ValueError:
            value = text
        try:
            return check("the value", value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return argument


count = _argument(int, partial(whole_number, low=1))
whole = _argument(int, partial(whole_number, low=0))
positive = _argument(float, partial(number, interval="(0, inf)"))
fraction = _argument(float, partial(number, interval="[0, 1)"))
decay = _argument(float, not_negative)


def separated(read: Callable[[str], T], right: Callable[[list[T]], bool], expected: str) -> Callable[[str], list[T]]:
    """A type of arguments with commas between their items.

    Args:
        read: makes an item of its text, or raises ValueError.
        right: whether the items will do; there is at least one.
        expected: what the error says of the right ones.
    """

    def argument(text: str) -> list[T]:
        try:
            items = [read(item.strip()) for item in text.split(",")]
        except ValueError:
            items = []
        if not items or not right(items):
            raise argparse.ArgumentTypeError(f"expected {expected}; received {text!r}.")
        return items

    return argument


layer_sizes = separated(
    int, lambda sizes: len(sizes) >= 2 and min(sizes) >= 1, "sizes of at least two layers, such as 4,8,3"
)

_OPTIONS: dict[str, dict[str, Any]] = {
    "model": {"metavar": "MODEL", "help": "a run folder or a model file"},
    "source": {"metavar": "SOURCE", "help": "the name of a set, or a CSV, TSV, Parquet, NPY or NPZ file"},
    "--device": {"default": "auto", "metavar": "D", "help": "auto, cpu, cuda or cuda:N (default auto)"},
    "--json": {"action": "store_true", "help": "print one JSON object"},
    "--activation": {"metavar": "NAME", "help": "of the hidden layers (default: every one)"},
    "--loss": {"metavar": "NAME", "help": "the loss (default: every one)"},
    "--seed": {"type": whole, "default": 0, "metavar": "N", "help": "of parameters and data (default 0)"},
}


def add_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds options that several commands have."""
    for name in names:
        parser.add_argument(name, **_OPTIONS[name])
