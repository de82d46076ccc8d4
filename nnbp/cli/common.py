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
from typing import Any, TextIO, TypeVar

from nnbp import errors
from nnbp.formatting import printable
from nnbp.training.callbacks import Callback, TrainingState
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


def noted(wanted: type[Warning], make: Callable[[], T]) -> tuple[T, str | None]:
    """What `make` makes, and the text of the warning of this category that it gave, if it did."""
    texts: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", wanted)
        show = warnings.showwarning

        def showwarning(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
            line: str | None = None,
        ) -> None:  # fmt: skip
            if category is wanted:
                texts.append(str(message))
            else:
                # At once: `make` may take hours, or fail.
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = showwarning
        made = make()
    return made, texts[-1] if texts else None


_ENDINGS: dict[int, type[KeyboardInterrupt]] = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
if hasattr(signal, "SIGHUP"):  # Windows has none.
    _ENDINGS[signal.SIGHUP] = HungUp


def _end(number: int, frame: Any) -> None:
    # Another Ctrl-C, or a terminal that is closed meanwhile, asks for what happens already.
    for other in _ENDINGS:
        if signal.getsignal(other) is _end:
            signal.signal(other, _continue)
    raise _ENDINGS[number]


def _continue(number: int, frame: Any) -> None:
    """Goes on in spite of a signal."""


@contextmanager
def _handling(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Another handler of the signals that ask to end; those that are ignored, as SIGHUP under nohup, stay ignored."""
    before = {}
    # Only the main thread of a program may have handlers.
    if threading.current_thread() is threading.main_thread():
        heard = [number for number in _ENDINGS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


def terminable() -> AbstractContextManager[None]:
    """SIGTERM and SIGHUP raise `Terminated` as Ctrl-C raises KeyboardInterrupt, and only the first of them is heard."""
    return _handling(_end)


def uninterrupted() -> AbstractContextManager[None]:
    """No signal that asks to end is heard, but in blocks that are `terminable`: results are saved in peace."""
    return _handling(_continue)


class AskedToEnd(Callback):
    """Ends the training of several ranks after the epoch in which a signal came on one of them; a second one, at once.

    In the middle of an epoch the other ranks would wait for this one. It ends by an error, which no checkpoint keeps.

    Attributes:
        error: what the signal would have raised, or None.
    """

    each_rank = True

    def __init__(self) -> None:
        self.error: KeyboardInterrupt | None = None

    def listening(self) -> AbstractContextManager[None]:
        """The block in which signals are heard."""
        return _handling(self._hear)

    def _hear(self, number: int, frame: Any) -> None:
        if self.error is not None:
            raise self.error
        self.error = _ENDINGS[number]()

    def on_epoch_end(self, state: TrainingState) -> None:
        if self.error is not None:
            raise errors.NnbpError(f"a signal asked for the end ({self.error!r})")
