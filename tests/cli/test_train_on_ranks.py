"""`mpiexec -n 2 nnbp train`: ranks that train on their own row groups of one file, and leave one run folder."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi import ended, needs_mpi, start

from nnbp.cli.main import main
from nnbp.engine import ranks

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("tomli_w")
pytestmark = needs_mpi


@pytest.fixture(autouse=True)
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table in seven row groups; some towns are in the last one alone."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x, town = rng.normal(size=2000), np.repeat(["Rome", "Oslo", "Lima", "Bonn"], 500)
    hole = pa.array(rng.normal(size=2000) + 5, mask=rng.random(2000) < 0.2)
    y = np.where(x + np.isin(town, ["Oslo", "Bonn"]) > 0.5, "high", "low")
    parquet.write_table(pa.table({"x": x, "hole": hole, "town": town, "y": y}), "t.parquet", row_group_size=300)


def train(count: int, *words: str) -> tuple[int, str, str]:
    given = ["train", "t.parquet", "--target", "y", "--device", "cpu", "--hidden", "8", *words]
    return ended(start(count, "-m", "nnbp", *given))


def results(count: int, *words: str) -> dict[str, Any]:
    code, out, err = train(count, "--json", "--quiet", *words)
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_ranks_leave_one_run_folder_like_that_of_one_process() -> None:
    words = ["--epochs", "15", "--learning-rate", "0.02", "--patience", "0", "--dropout", "0"]
    together, alone = results(2, *words), results(1, *words, "--stream")
    assert [path.name for path in sorted(Path("runs").iterdir())] == ["t-1", "t-2"]
    for name in ("rows", "labels", "columns", "features", "parameters", "epochs"):
        assert together[name] == alone[name]
    assert together["metrics"]["accuracy"] > 0.97
    assert together["metrics"]["log_loss"] == pytest.approx(alone["metrics"]["log_loss"], abs=0.05)
    config = [Path(found["run"], "config.toml").read_text(encoding="utf-8") for found in (together, alone)]
    assert config[0] == config[1], "the settings do not depend on the number of ranks"
    assert main(["evaluate", together["run"], "t.parquet", "--json"]) == 0


def test_a_run_that_was_killed_resumes_with_the_same_bytes() -> None:
    words = ["--epochs", "30", "--patience", "0", "--checkpoint-every", "1"]
    results(2, *words, "--out", "whole")
    given = ["train", "t.parquet", "--target", "y", "--device", "cpu", "--hidden", "8", "--quiet", "--out", "run"]
    killed = start(2, "-m", "nnbp", *given, *words)
    deadline = time.monotonic() + 30
    while len(list(Path("run").glob("checkpoints/checkpoint-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.terminate()
    ended(killed)
    assert list(Path("run").glob("checkpoints/checkpoint-*"))
    code, _, err = ended(start(2, "-m", "nnbp", "train", "--resume", "run", "--quiet"))
    assert code == 0, err
    model = [Path(run, "model.safetensors").read_bytes() for run in ("whole", "run")]
    assert model[0] == model[1]


def test_ctrl_c_ends_all_ranks_after_the_epoch_with_a_whole_run_folder() -> None:
    words = ["train", "t.parquet", "--target", "y", "--device", "cpu", "--hidden", "8", "--out", "run"]
    asked = start(2, "-m", "nnbp", *words, "--epochs", "2000", "--patience", "0", "--checkpoint-every", "1", "--json")
    deadline = time.monotonic() + 30
    while len(list(Path("run").glob("checkpoints/checkpoint-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    asked.send_signal(signal.SIGINT)
    code, out, err = ended(asked)
    assert code == 130, err
    result = json.loads(out[out.index("{") :])
    assert (result["status"], result["stopped"]) == ("interrupted", "ended by Ctrl-C")
    assert 2 <= result["epochs"] < 2000
    assert {"model.safetensors", "report.html", "metrics.csv"} < {path.name for path in Path("run").iterdir()}
    assert "aborted" not in err


@pytest.mark.parametrize(
    ("count", "words", "code", "said"),
    [
        (2, ["--target", "z"], 3, "no column 'z'"),
        (2, ["--optimizer", "lbfgs"], 2, "--optimizer lbfgs"),
        (8, [], 3, "received 7 row groups for 8 ranks"),
        (2, ["--hidden", "none", "--learning-rate", "1e30", "--optimizer", "sgd", "--epochs", "3"], 5, "diverged"),
    ],
)
def test_an_error_is_told_once(count: int, words: list[str], code: int, said: str) -> None:
    found, _, err = train(count, "--quiet", *words)
    assert found == code, err
    assert said in err
    assert err.count("nnbp train: ") == 1


def test_other_sources_are_for_one_process() -> None:
    code, _, err = ended(start(2, "-m", "nnbp", "train", "iris"))
    assert code == 2
    assert "several processes read a Parquet file" in err


def test_processes_that_mpiexec_has_not_started_are_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ranks._SIZES:
        monkeypatch.delenv(name, raising=False)
    assert ranks.launched() is ranks.ALONE
    monkeypatch.setenv("PMI_SIZE", "1")
    assert ranks.launched() is ranks.ALONE
