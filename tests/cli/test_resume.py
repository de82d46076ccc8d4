"""nnbp train --resume: a run that was killed goes on, and ends in the bytes of one that was not."""

from __future__ import annotations

import fcntl
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from nnbp import ConvergenceWarning
from nnbp.cli.common import Terminated, noted
from nnbp.cli.main import main
from nnbp.cli.run_folder import MetricsFile
from nnbp.training.callbacks import Callback, TrainingState

X = np.random.default_rng(0).normal(size=(200, 2))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    rows = "".join(f"{a:.3f},{b:.3f},{'high' if a > 0 else 'low'}\n" for a, b in X)
    path.write_text(f"a,b,y\n{rows}", encoding="utf-8")
    return path


def words(table: Path, run: str, *more: str) -> list[str]:
    out = str(table.parent / run)
    return ["train", str(table), "--target", "y", "--device", "cpu", "--quiet", "--patience", "0", "--out", out, *more]


def left(table: Path, run: str) -> tuple[bytes, bytes]:
    folder = table.parent / run
    return (folder / "model.safetensors").read_bytes(), (folder / "metrics.csv").read_bytes()


@contextmanager
def interrupted(error: type[BaseException], epoch: int) -> Iterator[None]:
    """A training in this block ends at this epoch."""
    write: Callable[[Callback, TrainingState], None] = MetricsFile.on_epoch_end

    def end(self: Callback, state: TrainingState) -> None:
        write(self, state)
        if state.epoch == epoch:
            raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsFile, "on_epoch_end", end)
        yield


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no signals")
def test_a_killed_run_goes_on(table: Path) -> None:
    assert main(words(table, "whole", "--epochs", "400")) == 0
    folder, moments = table.parent / "run", random.Random(1)
    command = [sys.executable, "-m", "nnbp"]
    process = subprocess.Popen([*command, *words(table, "run", "--epochs", "400", "--checkpoint-every", "1")])
    deadline = time.monotonic() + 60
    while not (folder / "checkpoints").is_dir():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for _ in range(3):
        time.sleep(moments.uniform(0.0, 0.1))
        process.kill()
        process.wait()
        process = subprocess.Popen([*command, "train", "--resume", str(folder), "--quiet"])
        time.sleep(moments.uniform(0.8, 1.0))
    assert process.wait() in (0, 2)
    assert left(table, "run") == left(table, "whole")
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.toml", "environment.json", "metrics.csv", "model.safetensors", "report.html"
    ]  # fmt: skip


def test_an_interrupted_run_goes_on_from_its_last_epoch(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(table, "whole", "--epochs", "6")) == 0
    with interrupted(Terminated, 3):
        assert main(words(table, "run", "--epochs", "6")) == 143
    run = table.parent / "run"
    assert f"To resume: nnbp train --resume {run}" in capsys.readouterr().err
    assert len(list((run / "checkpoints").iterdir())) == 1
    assert main(["train", "--resume", str(run), "--json"]) == 0
    assert left(table, "run") == left(table, "whole")
    assert not (run / "checkpoints").exists()
    assert main(["train", "--resume", str(run)]) == 2
    assert "has ended, so there is nothing to resume" in capsys.readouterr().err


def test_other_data_are_refused(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with interrupted(KeyboardInterrupt, 2):
        assert main(words(table, "run", "--epochs", "4")) == 130
    table.write_text(table.read_text().replace("high", "top"), encoding="utf-8")
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:-3], *lines[-2:]]), encoding="utf-8")
    assert main(["train", "--resume", str(table.parent / "run")]) == 3
    assert "only with the same data and configuration; received another" in capsys.readouterr().err


def test_a_run_in_progress_is_not_resumed(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with interrupted(KeyboardInterrupt, 2):
        main(words(table, "run", "--epochs", "4"))
    with (table.parent / "run" / "config.toml").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert main(["train", "--resume", str(table.parent / "run")]) == 2
    assert "is still running" in capsys.readouterr().err


def test_what_cannot_be_resumed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, said in (
        (["train"], "there is nothing to train on"),
        (["train", "--resume", str(tmp_path)], "is no folder of a run that can be resumed"),
        (["train", "--resume", str(tmp_path), "--epochs", "3"], "received others: epochs"),
        (["train", "digits", "--checkpoint-every", "soon"], "seconds such as '30s'"),
    ):
        assert main(given) == 2
        assert said in capsys.readouterr().err


def test_a_run_is_resumed_from_any_folder(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table.parent)
    given = ["train", table.name, *words(table, "run", "--epochs", "4")[2:]]
    with interrupted(KeyboardInterrupt, 2):
        assert main(given) == 130
    before = (table.parent / "run" / "environment.json").read_bytes()
    (table.parent / "inner").mkdir()
    monkeypatch.chdir(table.parent / "inner")
    assert main(["train", "--resume", str(table.parent / "run")]) == 0
    assert (table.parent / "run" / "environment.json").read_bytes() == before


def test_warnings_of_a_training_are_shown_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    def make() -> None:
        warnings.warn("there is no checkpoint", UserWarning, stacklevel=1)
        raise KeyboardInterrupt

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *rest, **more: print(message, file=sys.stderr)
        with pytest.raises(KeyboardInterrupt):
            noted(ConvergenceWarning, make)
    assert capsys.readouterr().err == "there is no checkpoint\n"
