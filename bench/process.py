"""The near end of a worker: starts it, asks it, ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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

    Raises:
        WorkerError: there is no such interpreter.
    """

    def __init__(self, peer: str | None = None, *, threads: int, python: str = sys.executable) -> None:
        self.peer, self.python = peer, python
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
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise WorkerError(f"the process ended with code {code} while it was to {do}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

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
        self._kill()
        self._process.wait()
        self._words.close()

    def _kill(self) -> None:
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
            self._kill()
        self.close()
