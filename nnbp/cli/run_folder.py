"""Run folders: where a training leaves what it did, so that it can be read, used and repeated."""

from __future__ import annotations

import csv
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnbp.device.host import blas
from nnbp.device.probe import cupy_distributions
from nnbp.errors import ModelFileError
from nnbp.requirements import optional
from nnbp.serialization.safetensors_file import replace
from nnbp.training.callbacks import Callback, History, TrainingState
from nnbp.version import installed

CONFIG = "config.toml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.csv"
MODEL = "model.safetensors"
REPORT = "report.html"

_PACKAGES = ("nnbp", "numpy", "safetensors", "scikit-learn", "pandas", "pyarrow", "matplotlib", "tqdm")


def create(out: str | None, source: str) -> Path:
    """Makes a folder of its own for a run.

    Args:
        out: where; None is the first of runs/<source>-1, -2, … that is free.
        source: what is trained on, a file's path or the name of a set.

    Raises:
        FileExistsError: `out` is there already and not empty: no run overwrites another.
        MissingDependencyError: tomli-w, which writes the configuration, is not installed.
    """
    _toml_writer()
    if out is not None:
        path = Path(out)
        path.mkdir(parents=True, exist_ok=True)
        try:
            if any(path.iterdir()):
                raise FileExistsError
            # Of two runs that begin at the same time, one makes this file.
            (path / CONFIG).touch(exist_ok=False)
        except FileExistsError:
            raise FileExistsError(
                f"the run folder {out} is not empty, and no run overwrites another. Name a new one: --out."
            ) from None
        return path
    stem = re.sub(r"[^\w.-]+", "-", Path(source).stem).strip("-.") or "run"
    number = 1
    while True:
        path = Path("runs", f"{stem}-{number}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1


def write_config(path: Path, config: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes config.toml; TOML has no word for nothing, so settings that are None are left out."""
    tables = {name: {key: value for key, value in table.items() if value is not None} for name, table in config.items()}
    write(path, _toml_writer().dumps(tables))


def write(path: Path, text: str) -> None:
    """Writes a file at once and whole, in place of one that is there."""
    replace(str(path), text.encode("utf-8"))


class MetricsFile(Callback):
    """metrics.csv, one row per epoch, written when the epoch ends: what was measured is there whatever happens next.

    Args:
        path: of the file, which is there from now on.

    Attributes:
        history: that of the training, also if an interruption keeps `fit` from returning it.
        error: what kept the file from being written; training goes on without it.
    """

    error: OSError | None = None

    def __init__(self, path: Path) -> None:
        self._path, self.history = path, History()
        path.write_text("", encoding="utf-8")

    def on_train_begin(self, state: TrainingState) -> None:
        self.history = state.history

    def on_epoch_end(self, state: TrainingState) -> None:
        head = [["epoch", *state.logs, "learning_rate"]] if state.epoch == 1 else []
        row = [state.epoch, *(float(value) for value in (*state.logs.values(), state.learning_rate))]
        if self.error is None:
            try:
                with self._path.open("a", encoding="utf-8", newline="") as file:
                    csv.writer(file, lineterminator="\n").writerows([*head, row])
            except OSError as error:
                self.error = error


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
        hint = f"It has run folders that do: {others}." if inner else "Did the training end before its first epoch did?"
        raise ModelFileError(f"{path}: this folder holds no {MODEL}. {hint}")
    raise ModelFileError(
        f"{path}: there is no such file or folder (looked up from {Path.cwd()}). Give a run folder or a model file."
    )


def environment(device: str, words: Sequence[str], **more: Any) -> dict[str, Any]:
    """What a run depended on beside its configuration: versions, machine, BLAS and its threads, device, command."""
    return {
        "command": ["nnbp", *words],
        "device": device,
        **more,
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := installed(name))} | cupy_distributions(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "blas": blas(),
    }


def _toml_writer() -> Any:
    return optional("tomli_w", "writing the configuration of a run")
