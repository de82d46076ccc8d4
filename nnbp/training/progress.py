"""Progress on standard error: a bar in a terminal, else lines of text."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec

from nnbp.training.callbacks import Callback, TrainingState
from nnbp.validation import one_of

_SECONDS_BETWEEN_LINES = 5.0


class Progress(Callback):
    """Lines of text: one for the first epoch, one every few seconds, and one for the last epoch."""

    def on_train_begin(self, state: TrainingState) -> None:
        self._printed = -_SECONDS_BETWEEN_LINES
        self._started = time.perf_counter()
        self._shown = 0

    def on_epoch_end(self, state: TrainingState) -> None:
        now = time.perf_counter() - self._started
        if now - self._printed >= _SECONDS_BETWEEN_LINES:
            self._line(state, now)
            self._printed = now

    def on_train_end(self, state: TrainingState) -> None:
        if state.epoch > self._shown:
            self._line(state, time.perf_counter() - self._started)

    def _line(self, state: TrainingState, seconds: float) -> None:
        self._shown = state.epoch
        width = len(str(state.epochs))
        print(
            f"epoch {state.epoch:{width}}/{state.epochs}  {_values(state.logs)}  {seconds:.1f} s",
            file=sys.stderr,
            flush=True,
        )


class _Bar(Callback):
    """A tqdm progress bar."""

    def on_train_begin(self, state: TrainingState) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(total=state.epochs, unit="epoch", desc="training", dynamic_ncols=True)

    def on_epoch_end(self, state: TrainingState) -> None:
        # Only the losses: with more values, a terminal of 80 columns would have no room for the bar.
        losses = {name: value for name, value in state.logs.items() if name in ("loss", "val_loss")}
        self._bar.set_postfix_str(_values(losses), refresh=False)
        self._bar.update(1)

    def on_train_end(self, state: TrainingState) -> None:
        self._bar.close()


def _values(logs: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in logs.items())


def reporter(progress: bool | str) -> Callback | None:
    """The callback that shows progress, or None.

    Args:
        progress: "auto" or True is a bar if standard error is a terminal (or in a notebook) and tqdm is installed, else
            lines of text; "lines" is always lines; False is no output.

    Raises:
        ValueError: `progress` is none of these.
    """
    if one_of("progress", progress, "auto", "lines", True, False) is False:
        return None
    if progress != "lines" and find_spec("tqdm") is not None and (sys.stderr.isatty() or "ipykernel" in sys.modules):
        return _Bar()
    return Progress()
