"""Progress: plain lines on standard error, a bar on a terminal, silence where asked."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import numpy as np
import pytest

from nnbp import DivergenceError, Network
from nnbp.training import progress
from nnbp.training.progress import Countdown, reporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def fit(**options: Any) -> None:
    X = np.random.default_rng(0).normal(size=(20, 2))
    Network([2, 1], device="cpu", seed=0).fit(X, X[:, 0], **{"epochs": 120, **options})


@pytest.mark.parametrize("choice", ["auto", "lines", True])
def test_plain_lines_where_there_is_no_terminal(choice: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fit(progress=choice, validation_split=0.2)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    pattern = r"epoch +(\d+)/120  loss \S+  val_loss \S+  \d+\.\d s"
    epochs = [re.fullmatch(pattern, line) for line in lines]
    assert all(epochs)
    # A short training has two lines: its first epoch and its last.
    assert [int(match[1]) for match in epochs if match] == [1, 120]


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    fit(progress=False)
    assert capsys.readouterr() == ("", "")


def test_one_epoch_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    fit(progress="lines", epochs=1)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = iter(np.arange(0.0, 1000.0, 2.0))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(now)))
    fit(progress="lines", epochs=10)
    lines = capsys.readouterr().err.splitlines()
    shown = [int(line.split("/")[0].split()[1]) for line in lines]
    assert shown[0] == 1
    assert shown[-1] == 10
    assert 3 <= len(shown) <= 6


def test_last_epoch_is_shown_when_training_stops_early(capsys: pytest.CaptureFixture[str]) -> None:
    fit(progress="lines", learning_rate=0.0, early_stopping=3)
    assert capsys.readouterr().err.splitlines()[-1].startswith("epoch   4/120")


def test_lines_end_when_training_diverges(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DivergenceError):
        fit(progress="lines", optimizer="sgd", learning_rate=1e30)
    assert capsys.readouterr().err == ""


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fit(progress="auto")
    text = terminal.getvalue()
    assert "training" in text
    assert "120/120" in text
    assert "loss" in text


def test_lines_on_a_terminal_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fit(progress="lines")
    assert terminal.getvalue().startswith("epoch   1/120")


def test_lines_on_a_terminal_without_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fit(progress="auto")
    assert terminal.getvalue().startswith("epoch   1/120")


def test_silence_is_nothing() -> None:
    assert reporter(False) is None


@pytest.mark.parametrize("wrong", ["bar", "", None, 2])
def test_anything_else_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="'auto', 'lines', True or False; received"):
        reporter(wrong)


@pytest.mark.parametrize(
    ("repeats", "left"), [(1, "24 s for the rest"), (5, "2 min 24 s for all 5 passes that are left")]
)
def test_a_countdown_says_how_much_is_done_and_how_long_the_rest_takes(
    monkeypatch: pytest.MonkeyPatch, repeats: int, left: str
) -> None:
    now, lines = [100.0], list[str]()
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    countdown = Countdown("reading t.parquet", 1000, lines.append, repeats)
    for _ in range(10):
        now[0] += 3.0
        countdown.advance(100)
    assert lines[0] == f"reading t.parquet: 20%, about {left}"
    # A line every six seconds, and none for what is done.
    assert [line.split()[2] for line in lines] == ["20%,", "40%,", "60%,", "80%,"]
    Countdown("in silence", 10, None).advance(5)
