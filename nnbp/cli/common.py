"""What the commands share: exit codes, errors, signals, and the words on standard error."""

from __future__ import annotations

import shutil
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from enum import IntEnum
from typing import Any, TypeVar

from nnbp import errors
from nnbp.formatting import printable
from nnbp.training.progress import is_terminal

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
    HUNG_UP = 129
    BROKEN_PIPE = 141
    TERMINATED = 143


class UsageError(Exception):
    """The arguments of the command do not make sense together."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: what ends a command as Ctrl-C does, with another exit code."""

    def __str__(self) -> str:
        return "ended by SIGTERM"


class HungUp(Terminated):
    """SIGHUP arrived: the terminal was closed."""

    def __str__(self) -> str:
        return "ended by SIGHUP"


_CODES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Exit], ...] = (
    (HungUp, Exit.HUNG_UP),
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
    """Prints one paragraph on standard error, after the name of the command; broken into lines in a terminal only.

    If standard error is closed, full or a broken pipe, nothing is said.
    """
    text = f"{command}: {printable(text)}"
    if is_terminal(sys.stderr):
        width = max(40, shutil.get_terminal_size().columns - 1)
        text = textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
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
    raise Terminated if number == signal.SIGTERM else HungUp


# Windows has no SIGHUP.
_HANG_UP = getattr(signal, "SIGHUP", None)


def terminable() -> AbstractContextManager[None]:
    """SIGTERM and SIGHUP raise `Terminated`, so that a command can save what it has; under nohup SIGHUP is ignored."""
    handlers: dict[int, Any] = {signal.SIGTERM: _terminate}
    if _HANG_UP is not None and signal.getsignal(_HANG_UP) != signal.SIG_IGN:
        handlers[_HANG_UP] = _terminate
    return _handling(handlers)


def undisturbed() -> AbstractContextManager[None]:
    """No signal that asks to end is heard: for the moments in which results are saved."""
    asking = (signal.SIGINT, signal.SIGTERM, _HANG_UP)
    return _handling({number: signal.SIG_IGN for number in asking if number is not None})
