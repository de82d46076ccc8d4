"""The near end of a worker: starts it, asks it, ends it."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import TIMEOUT_MAX, Timer
from typing import Any, Self

_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

_START = Path(__file__).parents[1] / "workers" / "start.py"

_PATIENCE = 2.0
"""Seconds that a worker has to end by itself."""

_TAIL = 3
"""Lines of a dead worker's last words."""


class WorkerError(RuntimeError):
    """A worker answered with an error, or died."""


class Worker:
    """A worker process.

    Args:
        peer: name or file of the peer; "" for none.
        threads: of its libraries.
        python: the interpreter.
        limit: returns the seconds that the next answer may take, after which the process is ended.

    Raises:
        WorkerError: there is no such interpreter.
    """

    def __init__(
        self,
        peer: str = "",
        *,
        threads: int,
        python: str = sys.executable,
        limit: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._limit = limit
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 -- `close` closes it
        try:
            self._process = subprocess.Popen(
                [python, _START, str(threads), *([peer] if peer else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._words,
                env={**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))},
                text=True,
                encoding="utf-8",
                # Ctrl-C is for us alone: we end the workers, and what they have started.
                start_new_session=True,
            )
        except OSError as error:
            self._words.close()
            raise WorkerError(
                f"the interpreter {python} cannot be started ({error.strerror}); a worker needs one that runs. Check "
                "the path in --python PEER=PATH"
            ) from error

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, do: str, **what: Any) -> Any:
        """Sends a command, a method of `bench.workers.session.Session` with its arguments, and waits for the answer.

        Raises:
            WorkerError: the answer is an error, or the worker has died.
        """
        assert self._process.stdin is not None, "a worker reads from a pipe"
        assert self._process.stdout is not None, "a worker writes into a pipe"
        limit, asked = self._limit(), time.monotonic()
        timer = Timer(min(limit, TIMEOUT_MAX), self.kill)
        timer.daemon = True
        timer.start()
        try:
            with suppress(BrokenPipeError):
                print(json.dumps({"do": do, **what}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            code = self._process.wait()
            if time.monotonic() - asked >= limit:
                raise WorkerError(f"the process had {limit:.0f} s to {do}, and was ended when they had passed")
            raise WorkerError(f"the process ended with code {code} while it was to {do}: {self._last_words()}")
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply["answer"]

    def _last_words(self) -> str:
        self._words.seek(0)
        lines = self._words.read().decode(errors="replace").strip().splitlines()
        return " / ".join(line.strip() for line in lines[-_TAIL:]) or "it said nothing"

    def close(self) -> None:
        """Ends the process and all that it has started."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        self.kill()
        self._process.wait()
        self._words.close()

    def kill(self) -> None:
        """Ends the process and all that it has started, at once; whoever waits for its answer hears of it."""
        if os.name == "posix":
            # The group lives as long as any process of it.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            self.kill()
        self.close()
