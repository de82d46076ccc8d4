"""What the commands share: exit codes, errors, signals, and the words on standard error."""

from __future__ import annotations

import shutil
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import IntEnum
from typing import Any, TypeVar

from nnbp import errors
from nnbp.formatting import printable

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
    ((errors.DataError, errors.ShapeError, errors.DTypeError), Exit.DATA),
    (errors.ModelFileError, Exit.MODEL_FILE),
    (errors.DivergenceError, Exit.DIVERGED),
    ((errors.DeviceUnavailableError, errors.MissingDependencyError, MemoryError, OSError), Exit.RESOURCES),
)


def exit_code(error: BaseException) -> Exit:
    """The exit code that an error stands for; `Exit.BUG` for one that nobody expected."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.BUG)


def say(command: str, text: str) -> None:
    """Prints one paragraph on standard error, after the name of the command; broken into lines in a terminal only."""
    text = f"{command}: {printable(text)}"
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
        warnings.simplefilter("always", errors.DeviceFallbackWarning)
        made = make()
    reason = None
    for item in caught:
        if item.category is errors.DeviceFallbackWarning:
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
