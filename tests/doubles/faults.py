"""Faults of files, in the manner of SQLite's tests: each operation on files in turn fails, or is the process's last."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EINTR)


class Faults:
    """Counts operations on files that write: open, write, fsync, rename, mkdir.

    Args:
        at: the number of the operation, from 0, that has the fault; None is none.
        fault: raises an error, or ends the process.

    Attributes:
        operations: what has been done so far.
    """

    def __init__(self, at: int | None = None, fault: Callable[[], None] = lambda: None) -> None:
        self.at, self.fault = at, fault
        self.operations: list[str] = []

    def count(self, name: str) -> None:
        self.operations.append(name)
        if len(self.operations) - 1 == self.at:
            self.fault()


class _File:
    """A file that was opened for writing."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self._file, self._faults = file, faults

    def write(self, data: Any) -> Any:
        self._faults.count("write")
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)


@contextmanager
def faults(at: int | None = None, fault: Callable[[], None] = lambda: None) -> Iterator[Faults]:
    """In this block, operations on files are counted, and one of them has a fault."""
    found = Faults(at, fault)
    plain_open, plain_os_open = io.open, os.open

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not set(mode) & set("wxa+"):
            return plain_open(file, mode, *args, **kwargs)
        found.count("open")
        return _File(plain_open(file, mode, *args, **kwargs), found)

    def os_opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_CREAT:
            found.count("open")
        return plain_os_open(path, flags, *args, **kwargs)

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            found.count(name)
            return function(*args, **kwargs)

        return call

    patches: list[tuple[Any, str, Any]] = [(builtins, "open", opened), (io, "open", opened), (os, "open", os_opened)]
    for name, word in (("fsync", "fsync"), ("replace", "rename"), ("mkdir", "mkdir")):
        patches.append((os, name, counted(word, getattr(os, name))))
    before = [(module, name, getattr(module, name)) for module, name, _ in patches]
    for module, name, function in patches:
        setattr(module, name, function)
    try:
        yield found
    finally:
        for module, name, function in before:
            setattr(module, name, function)


def raising(number: int) -> Callable[[], None]:
    """A fault: the system's error of this number."""

    def fault() -> None:
        raise OSError(number, os.strerror(number))

    return fault


def kill() -> None:
    """A fault: the process ends at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(run: Callable[[], object]) -> int:
    """Runs a function in a forked process; the signal that ended the process, or 0."""
    child = os.fork()
    if not child:
        try:
            run()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def strays(folder: Any) -> list[str]:
    """Temporary files in a folder and below."""
    return sorted(name for _, _, names in os.walk(folder) for name in names if name.endswith(".tmp"))
