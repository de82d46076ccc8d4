"""Run folders: where a training run leaves its results, so that it can be read, used and repeated."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nnbp.cli.common import UsageError
from nnbp.device.host import blas
from nnbp.device.probe import cupy_distributions
from nnbp.errors import ModelFileError
from nnbp.requirements import optional
from nnbp.serialization.safetensors_file import lock, replace, sweep
from nnbp.training.callbacks import Callback, TrainingState
from nnbp.version import installed

CONFIG = "config.toml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.csv"
MODEL = "model.safetensors"
REPORT = "report.html"
CHECKPOINTS = "checkpoints"

_PACKAGES = ("nnbp", "numpy", "safetensors", "scikit-learn", "pandas", "pyarrow", "matplotlib", "tqdm")


def check(out: str | None) -> None:
    """Raises what `create` would, before a long reading of the data rather than after it."""
    optional("tomli_w", "writing the configuration of a run")
    if out is not None and Path(out).exists() and not (Path(out).is_dir() and not any(Path(out).iterdir())):
        raise _taken(out)


def _taken(out: str | None) -> UsageError:
    return UsageError(
        f"a run needs a new or empty folder, because no run overwrites another; {out} is neither. Change --out."
    )


@contextmanager
def create(out: str | None, source: str, config: Mapping[str, Mapping[str, Any]]) -> Iterator[Path]:
    """Makes a folder of its own for a run, with config.toml in it, which is locked until the block ends.

    Temporary files that killed runs left in folders beside it are removed.

    Args:
        out: where; None is the first of runs/<source>-1, -2, … that is free.
        source: what is trained on, a file's path or the name of a set.
        config: tables of settings. Those that are None are left out, because TOML has no null.

    Raises:
        UsageError: `out` exists and is not an empty folder: no run overwrites another.
        MissingDependencyError: tomli-w, which writes the configuration, is not installed.
    """
    tables = {name: {key: value for key, value in table.items() if value is not None} for name, table in config.items()}
    text = optional("tomli_w", "writing the configuration of a run").dumps(tables)
    path = _next_free(source) if out is None else Path(out)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise FileExistsError
        # Of two runs that begin at the same time, one makes this file.
        file = (path / CONFIG).open("xb")
    except FileExistsError:
        raise _taken(out) from None
    for other in path.parent.glob(f"*/{CONFIG}"):
        sweep(str(other.parent))
        sweep(str(other.parent / CHECKPOINTS))
    with file:
        with suppress(OSError):
            lock(file)
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())
        yield path


@contextmanager
def reopen(path: str) -> Iterator[Path]:
    """Locks the folder of a run that has been interrupted until the block ends.

    Raises:
        UsageError: this is none, or the run is not over, or it has ended.
    """
    folder = Path(path)
    if not (folder / CHECKPOINTS).is_dir() and (folder / REPORT).exists():
        raise UsageError(f"the run {path} has ended, so there is nothing to resume. Train anew.")
    if not (folder / CONFIG).is_file():
        raise UsageError(f"{path} is no folder of a run: it has no {CONFIG}. Train anew.")
    with (folder / CONFIG).open("r+b") as file:
        try:
            lock(file)
        except BlockingIOError:
            raise UsageError(f"the run {path} is still running; only an interrupted run is resumed.") from None
        except OSError:
            pass  # There are no locks here.
        sweep(path)
        yield folder


def command(path: str) -> tuple[list[str], str]:
    """The words of the command that made a run folder, and the folder that it was given in.

    Raises:
        UsageError: this is no run folder.
    """
    try:
        facts = json.loads((Path(path) / ENVIRONMENT).read_text(encoding="utf-8"))
        words, folder = facts["command"], str(facts["folder"])
        if words[:2] != ["nnbp", "train"] or not all(isinstance(word, str) for word in words):
            raise ValueError("its command is another one")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is no folder of a run that can be resumed: {ENVIRONMENT} cannot be read ({error}). Train anew."
        ) from error
    return list(words), folder


def forget_checkpoints(folder: Path) -> None:
    """Removes the checkpoints of a run that has ended."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _next_free(source: str) -> Path:
    """Makes the first of the folders runs/<source>-1, -2, … that is not there."""
    stem = re.sub(r"[^\w.-]+", "-", Path(source).stem).strip("-.") or "run"
    number = 1
    while True:
        path = Path("runs", f"{stem}-{number}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1


@contextmanager
def reserved(folder: Path, nbytes: int) -> Iterator[None]:
    """Occupies disk space during the block, in a file without a name, of which nothing is left if the process dies."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(nbytes))
        file.flush()
        yield


def write(path: Path, text: str) -> None:
    """Writes a file at once and whole, in place of one that is there."""
    replace(str(path), text.encode("utf-8"))


class MetricsFile(Callback):
    """metrics.csv, one row per epoch, written when the epoch ends: what was measured is there whatever happens next.

    A disk that is full for the moment does not end the training; `complete` writes all rows once more.

    Args:
        path: of the file, which is there from now on; if training resumes, the rows of its past epochs stay.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._rows = path, io.StringIO()
        path.touch()
        self._before = path.read_text(encoding="utf-8")

    def on_train_resume(self, state: TrainingState) -> None:
        lines = self._before.splitlines(keepends=True)
        # A crash of the machine may have cut a line off, which the next one follows.
        names = ["epoch", *map(str, range(1, state.epoch + 1))]
        whole = {line.partition(",")[0]: line for line in lines if line.endswith("\n")}
        self._rows.write("".join(whole[name] for name in names if name in whole))
        with suppress(OSError):
            self.complete()

    def on_epoch_end(self, state: TrainingState) -> None:
        begin = self._rows.tell()
        rows = csv.writer(self._rows, lineterminator="\n")
        if state.epoch == 1:
            rows.writerow(["epoch", *state.logs, "learning_rate"])
        rows.writerow([state.epoch, *(float(value) for value in (*state.logs.values(), state.learning_rate))])
        mode = "w" if state.epoch == 1 else "a"
        with suppress(OSError), self._path.open(mode, encoding="utf-8", newline="") as file:
            self._rows.seek(begin)
            file.write(self._rows.read())

    def complete(self) -> None:
        """Puts the file with all rows in place, whole."""
        write(self._path, self._rows.getvalue())


def find_model(path: str | Path) -> Path:
    """The model file that a user means: the file itself, or that of a run folder.

    Raises:
        ModelFileError: there is none; the message names run folders that are near.
    """
    given = Path(path)
    if given.is_file():
        return given
    if given.is_dir():
        if (given / MODEL).is_file():
            return given / MODEL
        inner = sorted(given.glob(f"*/{MODEL}"), key=lambda model: model.stat().st_mtime, reverse=True)
        others = ", ".join(str(model.parent) for model in inner[:3])
        hint = "Its training ended before the first epoch did."
        if inner:
            hint = f"It has run folders that do: {others}."
        elif _is_running(given):
            hint = "Its training is still running."
        raise ModelFileError(f"{path}: this folder holds no {MODEL}. {hint}")
    raise ModelFileError(
        f"{path}: there is no such file or folder (looked up from {Path.cwd()}). Give a run folder or a model file."
    )


def environment(device: str, words: Sequence[str], **more: Any) -> dict[str, Any]:
    """What a run depended on beside its configuration: versions, machine, BLAS and its threads, device, command."""
    return {
        "command": ["nnbp", *words],
        "folder": os.getcwd(),
        "device": device,
        **more,
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := installed(name))} | cupy_distributions(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "blas": blas(),
    }


def _is_running(folder: Path) -> bool:
    try:
        with (folder / CONFIG).open("r+b") as file:
            lock(file)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False
