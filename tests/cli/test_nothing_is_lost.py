"""Whatever happens to the terminal or the disk, a training that has ended leaves its model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnbp
from nnbp.cli import train
from nnbp.cli.common import UsageError, terminable
from nnbp.cli.main import main
from nnbp.cli.run_folder import MetricsFile

X = np.random.default_rng(0).normal(size=(40, 2))
posix = pytest.mark.skipif(os.name != "posix", reason="the shell and its signals are those of POSIX")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text("a,b,y\n" + "".join(f"{a:.3f},{b:.3f},{int(a > 0)}\n" for a, b in X), encoding="utf-8")
    return path


def words(table: Path, *more: str) -> list[str]:
    run = str(table.parent / "run")
    return ["train", str(table), "--target", "y", "--epochs", "4", "--device", "cpu", "--out", run, *more]


class Broken:
    """A stream without isatty to which nothing can be written."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    "stream",
    [None, Broken(BrokenPipeError()), Broken(OSError(28, "No space left on device")), Broken(ValueError("closed"))],
    ids=["none", "pipe", "full", "closed"],
)
@pytest.mark.parametrize("progress", ["auto", "lines"])
def test_a_fit_outlives_standard_error(
    progress: str, stream: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    net = nnbp.Network([2, 3, 1], device="cpu", seed=0)
    assert net.fit(X, X[:, 0], epochs=3, progress=progress).epochs == 3
    assert capsys.readouterr().out == "", "progress does not move to standard output"


@posix
@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "code"),
    [("2>&-", 0), (">&- 2>&- <&-", 0), ("2>/dev/full", 0), (">/dev/full", 6), ("2>&1 | head -1", 0), ("| true", 0)],
)
def test_a_command_outlives_its_streams(redirection: str, code: int, table: Path) -> None:
    if "/dev/full" in redirection and not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    command = " ".join([sys.executable, "-m", "nnbp", *words(table)])
    ended = subprocess.run(["sh", "-c", f"{command} {redirection}"], check=False, timeout=120, capture_output=True)
    assert ended.returncode == code
    assert b"Traceback" not in ended.stderr
    assert b"error" not in ended.stderr or code
    run = table.parent / "run"
    for name in ("config.toml", "environment.json", "metrics.csv", "model.safetensors", "report.html"):
        assert (run / name).stat().st_size, name
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


@posix
@pytest.mark.slow
@pytest.mark.parametrize(("ignored", "code"), [(False, 129), (True, 0)])
def test_a_closed_terminal_ends_a_training_that_leaves_its_model(ignored: bool, code: int, table: Path) -> None:
    epochs = "200" if ignored else "100000"
    command = [sys.executable, "-m", "nnbp", *words(table, "--epochs", epochs, "--patience", "0")]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL),
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert "epoch" in process.stderr.readline(), "training has begun"
        process.send_signal(signal.SIGHUP)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert ignored or "ended by SIGHUP" in said
    for name in ("model.safetensors", "report.html"):
        assert (table.parent / "run" / name).stat().st_size


def test_a_disk_that_is_full_for_a_while_costs_nothing(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def full(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if self.name == "metrics.csv" and mode == "a":
            raise OSError(28, "No space left on device")
        return opened(self, mode, *args, **options)

    monkeypatch.setattr(Path, "open", full)
    assert main(words(table)) == 0
    run = table.parent / "run"
    assert (run / "model.safetensors").exists()
    assert len((run / "metrics.csv").read_text(encoding="utf-8").splitlines()) == 5, "the head and all four epochs"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("mine")])
def test_after_any_failure_the_place_of_the_model_is_said(
    error: BaseException, table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(train, "render", fail)
    assert main(words(table)) != 0
    said = capsys.readouterr().err
    assert f". The model is saved: {table.parent / 'run' / 'model.safetensors'}" in said
    assert (table.parent / "run" / "model.safetensors").exists()


@posix
@pytest.mark.parametrize(
    ("first", "code"), [(None, 0), (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_more_signals_than_one_lose_nothing(
    first: signal.Signals | None, code: int, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come while `fit` ends and while the results are saved."""
    assert threading.current_thread() is threading.main_thread()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    render = train.render

    def disturb(*_: Any) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)

    def disturbed(*arguments: Any) -> str:
        disturb()
        return render(*arguments)

    class Disturbed(MetricsFile):
        def on_epoch_end(self, state: Any) -> None:
            super().on_epoch_end(state)
            if first is not None and state.epoch == 2:
                signal.raise_signal(first)

        def on_train_end(self, state: Any) -> None:
            if first is not None:
                disturb()

    monkeypatch.setattr(train, "render", disturbed)
    monkeypatch.setattr(train, "MetricsFile", Disturbed)
    assert main(words(table)) == code
    run = table.parent / "run"
    assert (run / "report.html").stat().st_size
    assert (run / "model.safetensors").stat().st_size
    assert len((run / "metrics.csv").read_text(encoding="utf-8").splitlines()) == (5 if first is None else 3)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers


@posix
def test_a_run_without_room_for_its_model_fails_before_it_trains(table: Path) -> None:
    def little_room() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    command = [sys.executable, "-m", "nnbp", *words(table)]
    ended = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True, preexec_fn=little_room)
    assert (ended.returncode, "epoch" in ended.stderr) == (6, False)
    assert "File too large" in ended.stderr


def test_a_doubtful_result_is_said_and_saved(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Here, warnings are errors, as PYTHONWARNINGS=error makes them."""
    assert (
        main(
            words(
                table,
                "--optimizer",
                "sgd",
                "--learning-rate",
                "1e-9",
                "--epochs",
                "120",
                "--patience",
                "0",
                "--json",
                "--quiet",
            )
        )
        == 0
    )
    out, said = capsys.readouterr()
    doubt = json.loads(out)["warning"]
    assert said == f"nnbp train: warning: {doubt}\n"
    assert "learning rate" in doubt


@posix
@pytest.mark.parametrize(("before", "ends"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_sighup_is_heard_unless_it_is_ignored(before: Any, ends: bool) -> None:
    kept = signal.signal(signal.SIGHUP, before)
    try:
        with terminable():
            if ends:
                with pytest.raises(KeyboardInterrupt, match="SIGHUP"):
                    signal.raise_signal(signal.SIGHUP)
            else:
                signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, kept)


def test_of_two_runs_with_one_folder_one_is_refused(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nnbp.cli.run_folder import create

    found: list[Any] = []
    begin = threading.Barrier(8)

    def make() -> None:
        begin.wait()
        try:
            with create(str(table.parent / "one"), "t.csv", {}) as path:
                found.append(path)
        except UsageError as error:
            found.append(str(error))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [item for item in found if isinstance(item, Path)] == [table.parent / "one"]
    assert all("no run overwrites another" in item for item in found if isinstance(item, str))


def test_predictions_never_overwrite_what_they_are_made_of(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(table, "--quiet")) == 0
    run, before = table.parent / "run", table.read_bytes()
    link = table.parent / "link.csv"
    link.symlink_to(table)
    for output in (table, link, run / "model.safetensors"):
        assert main(["predict", str(run), str(table), "--device", "cpu", "--output", str(output)]) == 2
        assert "would overwrite" in capsys.readouterr().err
    assert table.read_bytes() == before
    out = table.parent / "new.csv"
    out.write_text("old", encoding="utf-8")
    assert main(["predict", str(run), str(table), "--device", "cpu", "--output", str(out)]) == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == 41
    assert {path.name for path in table.parent.iterdir()} == {"t.csv", "link.csv", "new.csv", "run"}
    assert json.loads((run / "environment.json").read_text(encoding="utf-8"))["command"][0] == "nnbp"


@pytest.mark.parametrize(("name", "rate"), [("Adam", 0.002), ("adam", 0.002), ("sgd", None)])
def test_adam_by_any_spelling_has_its_default(name: str, rate: float | None, table: Path) -> None:
    assert main(words(table, "--optimizer", name, "--quiet")) == 0
    config = tomllib.loads((table.parent / "run" / "config.toml").read_text(encoding="utf-8"))
    assert config["training"].get("learning_rate") == rate
