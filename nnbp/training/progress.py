"""Progress on standard error: a bar in a terminal, else lines of text. Its loss never ends training."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from nnbp.formatting import duration
from nnbp.training.callbacks import Callback, TrainingState
from nnbp.validation import one_of

_SECONDS_BETWEEN_LINES = 5.0


class Progress(Callback):
    """Lines of text: one for the first epoch, one every few seconds, and one for the last epoch.

    Args:
        unit: what the state counts as epochs.
    """

    def __init__(self, unit: str = "epoch") -> None:
        self.unit = unit

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
        # Programs without a console have no standard error, and print would take standard output instead.
        if sys.stderr is not None:
            line = f"{self.unit} {state.epoch:{width}}/{state.epochs}  {_values(state.logs)}  {seconds:.1f} s"
            print(line, file=sys.stderr, flush=True)


class Countdown:
    """Says every few seconds how much of a long piece of work is done, and about how long the rest takes.

    Args:
        what: what is done.
        total: the amount of work.
        tell: receives each line; None says nothing.
        repeats: how often the same work is to be done, for the time that is left.
    """

    def __init__(self, what: str, total: int, tell: Callable[[str], None] | None, repeats: int = 1) -> None:
        self._what, self._total, self._tell, self._repeats = what, total, tell, repeats
        self._done = 0
        self._began = self._told = time.perf_counter()

    def advance(self, amount: int) -> None:
        """Notes that so much more is done."""
        self._done += amount
        now = time.perf_counter()
        if self._tell is not None and now - self._told >= _SECONDS_BETWEEN_LINES and self._done < self._total:
            left = (now - self._began) / self._done * (self._total * self._repeats - self._done)
            rest = f"all {self._repeats} passes that are left" if self._repeats > 1 else "the rest"
            self._tell(f"{self._what}: {self._done / self._total:.0%}, about {duration(left)} for {rest}")
            self._told = now


class _Bar(Callback):
    """A tqdm progress bar."""

    def __init__(self, unit: str) -> None:
        self.unit = unit

    def on_train_begin(self, state: TrainingState) -> None:
        with warnings.catch_warnings():
            # A notebook without widgets shows the bar as text, which needs no warning.
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm

        self._bar = tqdm(total=state.epochs, unit=self.unit, desc="training", dynamic_ncols=True)

    def on_train_resume(self, state: TrainingState) -> None:
        self._bar.update(state.epoch)

    def on_epoch_end(self, state: TrainingState) -> None:
        # Only the losses: with more values, a terminal of 80 columns would have no room for the bar.
        losses = {name: value for name, value in state.logs.items() if name in ("loss", "val_loss")}
        self._bar.set_postfix_str(_values(losses), refresh=False)
        self._bar.update(1)

    def on_train_end(self, state: TrainingState) -> None:
        self._bar.close()


class _Expendable(Callback):
    """Calls a callback until it fails to write: standard error may be closed, full, or a pipe that nobody reads."""

    def __init__(self, callback: Callback) -> None:
        self._callback: Callback | None = callback

    def on_train_begin(self, state: TrainingState) -> None:
        self._call("on_train_begin", state)

    def on_train_resume(self, state: TrainingState) -> None:
        self._call("on_train_resume", state)

    def on_epoch_end(self, state: TrainingState) -> None:
        self._call("on_epoch_end", state)

    def on_train_end(self, state: TrainingState) -> None:
        self._call("on_train_end", state)

    def _call(self, name: str, state: TrainingState) -> None:
        if self._callback is not None:
            try:
                getattr(self._callback, name)(state)
            except (OSError, ValueError, AttributeError):
                # A closed file is a ValueError, and what stands in for a stream may lack a method.
                self._callback = None


def _values(logs: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in logs.items())


def reporter(progress: bool | str, unit: str = "epoch") -> Callback | None:
    """The callback that shows progress, or None.

    Args:
        progress: "auto" or True is a bar if standard error is a terminal (or in a notebook) and tqdm is installed, else
            lines of text; "lines" is always lines; False is no output.
        unit: what the state that the callback receives counts as epochs.

    Raises:
        ValueError: `progress` is none of these.
    """
    if one_of("progress", progress, "auto", "lines", True, False) is False:
        return None
    bar = progress != "lines" and find_spec("tqdm") is not None and (is_terminal(sys.stderr) or _in_notebook())
    return _Expendable(_Bar(unit) if bar else Progress(unit))


def is_terminal(stream: Any) -> bool:
    """Whether a stream, which may be None, closed, or have nothing but `write`, is a terminal."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook; one that runs notebooks by a library is not."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")
