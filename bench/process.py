"""The near end of a worker: starts it, asks it, ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import IO, Any, Self

__all__ = ["THREAD_VARIABLES", "Worker", "WorkerError"]

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

_PATIENCE = 2.0
"""Seconds that a worker has to end by itself."""

_TAIL = 3
"""Lines of a dead worker's last words."""


class WorkerError(RuntimeError):
    """A worker answered with an error, or died."""


class Worker:
    """A worker process.

    Args:
        peer: name or file of the peer, None for none.
        threads: of its libraries.
        python: the interpreter.
        patience: seconds that an answer may take, after which the process is ended; None waits for ever.
        deadline: the same as a moment of `time.monotonic`, for all answers.

    Raises:
        WorkerError: there is no such interpreter.
    """

    def __init__(
        self,
        peer: str | None = None,
        *,
        threads: int,
        python: str = sys.executable,
        patience: float | None = None,
        deadline: float | None = None,
    ) -> None:
        self.peer, self.python, self.patience, self.deadline = peer, python, patience, deadline
        command = [python, str(Path(__file__).with_name("start.py")), str(threads), *([peer] if peer else [])]
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 -- `close` closes it
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._words,
                env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))},
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

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        """Sends a command and waits for the answer.

        Raises:
            WorkerError: the answer is an error, or the worker has died.
        """
        assert self._process.stdin is not None, "a worker reads from a pipe"
        assert self._process.stdout is not None, "a worker writes into a pipe"
        with suppress(BrokenPipeError):
            print(json.dumps({"do": do, **what}), file=self._process.stdin, flush=True)
        left, asked = self._left(), time.monotonic()
        line = self._line(self._process.stdout, left)
        if not line:
            code = self._process.wait()
            if left is not None and time.monotonic() - asked >= left:
                raise WorkerError(f"the process had {left:.0f} s to {do}, and was ended when they had passed")
            raise WorkerError(f"the process ended with code {code} while it was to {do}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _line(self, pipe: IO[str], left: float | None) -> str:
        """The next line of the answers; none where the process dies, or is killed as it takes too long."""
        if left is None:
            return pipe.readline()
        timer = Timer(left, self.kill)
        timer.daemon = True
        timer.start()
        try:
            return pipe.readline()
        finally:
            timer.cancel()

    def _left(self) -> float | None:
        """Seconds that the next answer may take."""
        ends = [] if self.patience is None else [self.patience]
        if self.deadline is not None:
            ends.append(max(0.0, self.deadline - time.monotonic()))
        return min(ends) if ends else None

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
        """Ends the process and all that it has started, at once; who waits for its answer hears of it."""
        if os.name == "posix":
            # The group lives as long as any process of it.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        self.close()
