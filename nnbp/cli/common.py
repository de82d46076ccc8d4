"""What the commands share: exit codes, errors in the arguments, signals, and kinds of arguments."""

from __future__ import annotations

import argparse
import math
import shutil
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
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

__all__ = [
    "Exit",
    "Terminated",
    "UsageError",
    "arguments_checked",
    "count",
    "exit_code",
    "fraction",
    "noted_fallback",
    "positive",
    "say",
    "terminable",
    "undisturbed",
    "whole",
]

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


_CODES: tuple[tuple[type[BaseException], Exit], ...] = (
    (Terminated, Exit.TERMINATED),
    (KeyboardInterrupt, Exit.INTERRUPTED),
    (UsageError, Exit.USAGE),
    (DataError, Exit.DATA),
    (ShapeError, Exit.DATA),
    (DTypeError, Exit.DATA),
    (ModelFileError, Exit.MODEL_FILE),
    (DivergenceError, Exit.DIVERGED),
    (DeviceUnavailableError, Exit.RESOURCES),
    (MissingDependencyError, Exit.RESOURCES),
    (MemoryError, Exit.RESOURCES),
    (OSError, Exit.RESOURCES),
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
    reasons = [str(item.message) for item in caught if item.category is DeviceFallbackWarning]
    for item in caught:
        if item.category is not DeviceFallbackWarning:
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)
    return made, reasons[0] if reasons else None


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


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises `Terminated`, so that a command can save what it has."""
    with _handling({signal.SIGTERM: _terminate}):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Neither Ctrl-C nor SIGTERM is heard: for the moments in which results are saved."""
    with _handling({signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_IGN}):
        yield


def _number(text: str, kind: Callable[[str], float], good: Callable[[float], bool], rule: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not good(value):
        raise argparse.ArgumentTypeError(f"expected {rule}, got {text!r}")
    return value


def count(text: str) -> int:
    """The argument of a number of things, at least 1."""
    return int(_number(text, int, lambda value: value >= 1, "a whole number, 1 or more"))


def whole(text: str) -> int:
    """The argument of a number of things, perhaps none."""
    return int(_number(text, int, lambda value: value >= 0, "a whole number, 0 or more"))


def positive(text: str) -> float:
    """The argument of a finite number above 0."""
    return _number(text, float, lambda value: 0 < value < math.inf, "a number above 0")


def fraction(text: str) -> float:
    """The argument of a share, at least 0 and below 1."""
    return _number(text, float, lambda value: 0 <= value < 1, "a fraction, 0 or more and below 1")
