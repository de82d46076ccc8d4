"""Checkpoints: what training needs to resume after its process has ended, as model files in a folder.

A checkpoint is a model file whose network has the parameters at the end of an epoch. Its `State` has the rest: the
optimizer's vectors, the initial and the best parameters, the history, and where the random sequences stand. What
follows from the history, such as the state of a schedule, is not stored: it observes the history again.
"""

from __future__ import annotations

import hashlib
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np

from nnbp.device.host import blas, processor
from nnbp.engine.dataset import Dataset
from nnbp.engine.model import Model
from nnbp.errors import DataError, DeviceMemoryError, ModelFileError
from nnbp.formatting import shown
from nnbp.serialization import model_file
from nnbp.serialization.model_file import ModelFile, State
from nnbp.training.callbacks import History
from nnbp.validation import file_path, whole_number
from nnbp.version import __version__

_NAME = "checkpoint-{:08d}.safetensors"
_NAMES = "checkpoint-*.safetensors"
_NEEDED = {"epoch": int, "facts": dict, "environment": dict}

_BLOCK = 2**20
"""Elements of the data that are hashed at once."""

_SHARE = 200
"""The time between two states that are kept, as a multiple of what keeping one takes."""


class Checkpoint:
    """Where and how often `Network.fit` writes checkpoints.

    If training is interrupted by Ctrl-C or an error, the latest state that was kept is written. It is that of the last
    epoch, or an earlier one if copying the state after every epoch would take more than 0.5 % of the time.

    Each is a model file, so `Network.load` opens it, too. ``fit(…, checkpoint=checkpoint, resume=True)`` resumes from
    the newest one in the folder, or begins if there is none; with the same data and configuration it ends with the same
    bits as uninterrupted training. `epochs` may be larger than before, unless a schedule given by name
    depends on it. Objects among the callbacks are told by `on_train_resume`.

    Args:
        folder: made if it is not there; of one training run alone.
        every: a number of epochs, or seconds such as "30s": at the end of the first epoch after that time.
        keep: how many of the newest checkpoints stay in the folder.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, folder: str | PathLike[str], every: int | str = 1, keep: int = 2) -> None:
        self.folder = Path(file_path(folder, "folder", "a folder"))
        seconds = re.fullmatch(r"(\d+(?:\.\d+)?)\s*s", every) if isinstance(every, str) else None
        if isinstance(every, str) and seconds is None:
            raise ValueError(
                f"every of Checkpoint is a number of epochs, or seconds such as '30s'; received {shown(every)}."
            )
        self.every = every if seconds else whole_number("every of Checkpoint, a number of epochs,", every, 1)
        self.seconds = float(seconds[1]) if seconds else None
        self.keep = whole_number("keep of Checkpoint", keep, 1)

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.folder)!r}, every={self.every!r}, keep={self.keep})"

    def inner(self, name: str) -> Self:
        """The same in a folder inside of this one."""
        return type(self)(self.folder / name, self.every, self.keep)

    @property
    def paths(self) -> list[Path]:
        """The checkpoints in the folder, the newest first."""
        return sorted(self.folder.glob(_NAMES), reverse=True)


class CheckpointWriter:
    """Writes the checkpoints of one training run.

    Args:
        checkpoint: where, and how often.
        facts: what training depends on, JSON values by name.
        model: the network in training.
        file: makes the model file of parameters and a state.
    """

    def __init__(
        self, checkpoint: Checkpoint, facts: dict[str, Any], model: Model, file: Callable[[Any, State], ModelFile]
    ) -> None:
        self.checkpoint, self.facts, self.model, self._file = checkpoint, facts, model, file
        self._latest: tuple[Any, State] | None = None
        self._written = 0
        self._environment = environment(model)
        # When a checkpoint was written, when a state was kept, and what that took.
        self._time = self._kept = time.monotonic()
        self._cost = 0.0

    def newest(self, custom: Sequence[type]) -> tuple[ModelFile, State] | None:
        """The newest checkpoint and its state, or None.

        Raises:
            DataError: it is of other data or another configuration.
            ModelFileError: there are some, and none can be read.

        Warns:
            UserWarning: it is of another machine or version, or a newer one cannot be read.
        """
        found = self._readable(custom)
        if found is None:
            return None
        file, state = found
        values = state.values
        known, then, now = values["facts"], values["environment"], self._environment
        for name, value in self.facts.items():
            if known.get(name) != value:
                raise DataError(
                    "Training resumes from a checkpoint only with the same data and configuration; received another "
                    f"{name}: {shown(known.get(name))} then, and {shown(value)} now. Use another folder to begin anew."
                )
        changes = [f"{name} {then.get(name)!r} then, {now[name]!r} now" for name in now if then.get(name) != now[name]]
        if changes:
            warnings.warn(
                f"The last bits may differ from those of uninterrupted training: {'; '.join(changes)}.",
                UserWarning, stacklevel=7,
            )  # fmt: skip
        self._written = values["epoch"]
        return file, state

    def _readable(self, custom: Sequence[type]) -> tuple[ModelFile, State] | None:
        """The newest checkpoint that can be read; a warning names each that cannot."""
        paths = self.checkpoint.paths
        for path in paths:
            try:
                file = model_file.read(path, custom)
                state = State({}) if file.state is None else file.state
                if any(type(state.values.get(name)) is not kind for name, kind in _NEEDED.items()):
                    raise ModelFileError(f"{path} is a model file and no checkpoint. Move it out of the folder.")
                return file, state
            except ModelFileError as error:
                if path == paths[-1]:
                    raise
                warnings.warn(f"{error} Training resumes from the one before it.", UserWarning, stacklevel=8)
        return None

    def note(self, state: Callable[[], tuple[Any, State]], history: History) -> None:
        """Keeps the state at the end of an epoch, for an interrupt, and writes it if a checkpoint is due.

        If epochs are so short that keeping the state would take a share of the time, it is kept less often.
        """
        now, every, seconds = time.monotonic(), self.checkpoint.every, self.checkpoint.seconds
        due = history.epochs % int(every) == 0 if seconds is None else now - self._time >= seconds
        if due or now - self._kept >= _SHARE * self._cost:
            try:
                self._latest = state()
            except DeviceMemoryError as error:
                self._latest = None
                warnings.warn(f"There is no checkpoint of epoch {history.epochs}: {error}", UserWarning, stacklevel=2)
            self._kept = time.monotonic()
            self._cost = self._kept - now
        if due:
            self.flush(history)

    def flush(self, history: History) -> None:
        """Writes the latest checkpoint unless it is written. A failure is a warning: training is worth more."""
        if self._latest is None or self._latest[1].values["epoch"] == self._written:
            return
        parameters, state = self._latest
        epoch, folder = state.values["epoch"], self.checkpoint.folder
        values = {**state.values, "facts": self.facts, "environment": self._environment}
        # An epoch that has not ended may have added to the history.
        past = {f"history.{name}": np.array(known[:epoch], np.float64) for name, known in history.items()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = self._file(parameters, State(values, state.arrays | past))
            model_file.write(folder / _NAME.format(epoch), file)
            # Later ones could not be read, or training would have gone on from them.
            own, paths = folder / _NAME.format(epoch), self.checkpoint.paths
            kept = [path for path in paths if path <= own][: self.checkpoint.keep]
            for path in paths:
                if path not in kept:
                    path.unlink(missing_ok=True)
        except (ModelFileError, OSError) as error:
            warnings.warn(f"There is no checkpoint of epoch {epoch}: {error}", UserWarning, stacklevel=2)
        self._written, self._time = epoch, time.monotonic()


def digest(model: Model, data: Dataset | None) -> str | None:
    """SHA-256 of a data set as the network reads it; None for none."""
    if data is None:
        return None
    if data.digest is not None:
        return data.digest
    total = hashlib.sha256()
    for array in data.arrays:
        # The dtype of what the device reads, whether the data fit there or stay on the host.
        dtype = model.input_dtype(array) if array is data.X else model.dtype
        rows = max(1, _BLOCK // max(1, array.shape[1]))
        for first in range(0, len(array), rows):
            block = array[first : first + rows]
            host = model.backend.download(block) if model.backend.owns(block) else np.asarray(block)
            total.update(np.ascontiguousarray(host, dtype).data)
    return total.hexdigest()


def environment(model: Model) -> Mapping[str, Any]:
    return {
        "nnbp": __version__,
        "numpy": np.__version__,
        "backend": f"{model.backend.name} on {model.backend.device}",
        "processor": processor(),
        "threads": blas()["threads"],
    }
