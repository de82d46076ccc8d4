"""Processes that heed Ctrl-C, however the tests were started."""

from __future__ import annotations

import sys
from collections.abc import Iterable

__all__ = ["interruptible"]

# A shell lets its background jobs ignore SIGINT, and their children inherit that. A fork with `preexec_fn` would be a
# warning in a process that has imported JAX. Python ignores SIGPIPE, which the command would inherit as well.
_HEED = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGPIPE):
    signal.signal(number, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def interruptible(command: Iterable[object]) -> list[str]:
    """The command line that runs a command, in the same process, with the default handler of SIGINT. POSIX only."""
    return [sys.executable, "-c", _HEED, *map(str, command)]
