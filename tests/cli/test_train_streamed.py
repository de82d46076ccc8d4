"""`nnbp train` on a Parquet file that is read block by block: the run folder, its use, and resuming it."""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnbp.cli import train
from nnbp.cli.main import main
from nnbp.cli.run_folder import MetricsFile
from nnbp.tabular import model
from nnbp.training.callbacks import Callback, TrainingState

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("tomli_w")

FILES = {"config.toml", "environment.json", "metrics.csv", "model.safetensors", "report.html"}


@pytest.fixture(autouse=True)
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table in ten row groups, sorted by its first column, which the classes follow from."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = np.sort(rng.normal(size=3000))
    town = rng.choice(["Rome", "Oslo"], 3000)
    columns = {
        "x": x, "hole": pa.array(rng.normal(size=3000), mask=rng.random(3000) < 0.2), "town": town,
        "price": 3 * x + (town == "Oslo"), "y": np.where(x + (town == "Oslo") > 0.5, "high", "low"),
    }  # fmt: skip
    parquet.write_table(pa.table(columns), "t.parquet", row_group_size=300)
    return tmp_path / "t.parquet"


def trained(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    given = ["train", "t.parquet", "--device", "cpu", "--hidden", "8", *words, "--json", "--quiet"]
    assert main(given) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_streamed_file_leaves_a_whole_run_folder_that_predicts_and_evaluates(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = trained(capsys, "--target", "y", "--drop", "price", "--stream", "--epochs", "20")
    run = Path(found["run"])
    assert {path.name for path in run.iterdir()} == FILES
    assert sum(found["rows"].values()) == 3000
    assert found["rows"]["held_out"] / 3000 == pytest.approx(0.2, abs=0.03)
    assert found["metrics"]["accuracy"] > 0.97
    assert tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["data"]["streamed"] is True
    rows = list(csv.DictReader((run / "metrics.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == found["epochs"]
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} < set(rows[0])
    assert "held-out rows" in (run / "report.html").read_text(encoding="utf-8")
    assert main(["evaluate", str(run), "t.parquet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"] > 0.97
    assert main(["predict", str(run), "t.parquet", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["predictions"]) == 3000
    assert main(["explain", str(run)]) == 0


def test_a_quantity_is_learnt_from_a_streamed_file_as_well_as_in_memory(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--target", "price", "--drop", "y", "--learning-rate", "0.01", "--dropout", "0", "--epochs", "15"]
    scores = [trained(capsys, *words, stream) for stream in ("--stream", "--no-stream")]
    assert min(score["metrics"]["r2"] for score in scores) > 0.99


def test_without_held_out_rows_all_of_the_file_is_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    found = trained(
        capsys, "--target", "y", "--stream", "--epochs", "1", "--test-fraction", "0", "--validation-fraction", "0"
    )
    assert found["rows"] == {"train": 3000, "validation": 0, "held_out": 0}
    assert "most of which were used in training" in Path(found["report"]).read_text(encoding="utf-8")


def test_a_large_file_is_streamed_without_being_asked_and_standard_error_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "t.parquet", "--target", "y", "--device", "cpu", "--epochs", "1"]
    assert main(words) == 0
    assert "block by block" not in capsys.readouterr().err
    monkeypatch.setattr(train, "LARGE_TABLE", 100_000)
    assert main(words) == 0
    assert "t.parquet (3000 rows in 10 row groups, 0.00012 GB) is read block by block" in capsys.readouterr().err
    assert main([*words, "--no-stream"]) == 0
    assert "block by block" not in capsys.readouterr().err


def test_a_large_file_is_predicted_and_evaluated_block_by_block_with_the_same_results(
    capsys: pytest.CaptureFixture[str], table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(capsys, "--target", "y", "--drop", "price", "--stream", "--epochs", "2", "--out", "run")
    whole = parquet.read_table(table)
    found: dict[str, list[Any]] = {"predict": [], "evaluate": []}
    for limit in (2**29, 0):
        monkeypatch.setattr(model, "LARGE_TABLE", limit)
        for command, results in found.items():
            parquet.write_table(
                whole if command == "evaluate" else whole.drop(["y", "price"]), table, row_group_size=900
            )
            assert main([command, "run", "t.parquet", *(["--proba"] * (command == "predict")), "--json"]) == 0
            results.append(json.loads(capsys.readouterr().out))
    assert found["evaluate"][0]["metrics"] == pytest.approx(found["evaluate"][1]["metrics"], rel=1e-6)
    first, second = found["predict"]
    assert first["row"] == second["row"] == list(range(3000))
    assert first["predictions"] == second["predictions"]
    np.testing.assert_allclose(first["probabilities"], second["probabilities"], rtol=1e-5)


def left(run: str) -> tuple[bytes, bytes]:
    return (Path(run) / "model.safetensors").read_bytes(), (Path(run) / "metrics.csv").read_bytes()


def test_an_interrupted_run_on_a_streamed_file_ends_in_the_bytes_of_one_that_was_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--target", "y", "--stream", "--epochs", "6", "--patience", "0"]
    trained(capsys, *words, "--out", "whole")
    assert trained(capsys, *words, "--out", "again")["epochs"] == 6
    assert left("again") == left("whole")
    write = MetricsFile.on_epoch_end

    def end(self: Callback, state: TrainingState) -> None:
        write(self, state)  # type: ignore[arg-type]
        if state.epoch == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsFile, "on_epoch_end", end)
        trained(capsys, *words, "--out", "run", code=130)
    assert main(["train", "--resume", "run", "--quiet"]) == 0
    assert left("run") == left("whole")


def test_a_run_is_not_resumed_on_another_file(
    capsys: pytest.CaptureFixture[str], table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsFile, "on_epoch_end", _interrupt)
        trained(capsys, "--target", "y", "--stream", "--out", "run", code=130)
    whole = parquet.read_table(table)
    parquet.write_table(whole.slice(1), table, row_group_size=300)
    assert main(["train", "--resume", "run"]) == 3
    assert "only with the same data and configuration; received another" in capsys.readouterr().err


def _interrupt(self: Callback, state: TrainingState) -> None:
    if state.epoch == 2:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("t.parquet", "--stream", "--optimizer", "lbfgs"), 2, "Choose one that takes batches, such as adam, or read"),
        (("t.parquet", "--stream", "--decimal", ","), 2, "Store such columns as numbers, or read it whole"),
        (("digits", "--stream"), 2, "only Parquet files are read block by block; received digits, and --stream"),
        (("t.parquet", "--stream", "--loss", "squared_error"), 3, "column 'y': expected a finite number"),
        (("none.parquet", "--stream"), 3, "none.parquet: there is no such file"),
    ],
)
def test_what_cannot_be_streamed_is_said_and_leaves_no_folder(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str
) -> None:
    assert main(["train", *words, "--target", "y"]) == code
    assert said in capsys.readouterr().err
    assert not Path("runs").exists()
