"""Run folders: none overwrites another, and the model of one is found."""

import json
import os
import shutil
import tomllib
from pathlib import Path

import pytest

from nnbp.cli.common import UsageError
from nnbp.cli.main import main
from nnbp.cli.run_folder import CONFIG, MODEL, MetricsFile, create, environment, find_model
from nnbp.errors import MissingDependencyError, ModelFileError
from nnbp.training.callbacks import History, TrainingState

pytest.importorskip("tomli_w")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def created(out, source, config=None):
    with create(out, source, config or {}) as path:
        return path


def test_each_run_gets_the_next_free_number():
    assert [created(None, "digits") for _ in range(3)] == [Path(f"runs/digits-{k}") for k in (1, 2, 3)]
    shutil.rmtree("runs/digits-2")
    assert created(None, "digits") == Path("runs/digits-2")


@pytest.mark.parametrize(
    ("source", "name"), [("data/my people.csv", "my-people-1"), ("../..", "run-1"), ("größe.parquet", "größe-1")]
)
def test_the_folder_is_named_after_its_source(source, name):
    assert created(None, source) == Path("runs", name)


def test_a_named_folder_must_be_new_or_empty():
    Path("a/b").mkdir(parents=True)
    folder = created("a/b", "iris")
    assert [path.name for path in folder.iterdir()] == ["config.toml"], "which is the first file, and claims the folder"
    Path("file").touch()
    for out in ("a/b", "file"):
        with pytest.raises(UsageError, match=f"new or empty folder.* {out} is neither"):
            created(out, "iris")
    assert Path("file").is_file()


def test_a_folder_that_is_taken_is_told_before_the_data_are_read(capsys):
    created("taken", "iris")
    assert main(["train", "not-there.parquet", "--target", "y", "--out", "taken"]) == 2
    assert "taken is neither. Change --out." in capsys.readouterr().err


def test_the_configuration_is_toml_without_what_is_not_set():
    settings = {"network": {"hidden": [8], "seed": 0, "dropout": None}, "training": {"schedule": None}}
    text = (created(None, "iris", settings) / CONFIG).read_text(encoding="utf-8")
    assert tomllib.loads(text) == {
        "network": {"hidden": [8], "seed": 0},
        "training": {},
    }


def test_without_tomli_w_the_error_comes_before_any_training(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tomli_w", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "tomli-w>=1"'):
        created(None, "iris")
    assert not Path("runs").exists()


def test_metrics_are_on_the_disk_when_their_epoch_ends():
    path = Path("metrics.csv")
    state = TrainingState(None, 2, History())
    rows = MetricsFile(path)
    assert path.read_text(encoding="utf-8") == ""
    state.epoch, state.logs, state.learning_rate = 1, {"loss": 0.1, "val_loss": 0.25}, 0.001
    rows.on_epoch_end(state)
    assert path.read_text(encoding="utf-8") == "epoch,loss,val_loss,learning_rate\n1,0.1,0.25,0.001\n"
    state.epoch, state.logs = 2, {"loss": 0.05, "val_loss": 0.2}
    rows.on_epoch_end(state)
    assert path.read_text(encoding="utf-8").splitlines()[2] == "2,0.05,0.2,0.001"
    path.write_text("epoch,lo", encoding="utf-8")
    rows.complete()
    assert path.read_text(encoding="utf-8").splitlines() == [
        "epoch,loss,val_loss,learning_rate", "1,0.1,0.25,0.001", "2,0.05,0.2,0.001"
    ]  # fmt: skip


def test_the_environment_is_json_with_versions_machine_and_command():
    facts = environment("cpu", ["train", "iris"], fallback="no GPU")
    assert json.loads(json.dumps(facts)) == facts
    assert facts["command"] == ["nnbp", "train", "iris"]
    assert facts["device"] == "cpu"
    assert facts["fallback"] == "no GPU"
    assert facts["packages"]["nnbp"]
    assert facts["blas"]["name"]


def test_a_model_is_found_by_its_file_and_by_its_folder():
    Path("run").mkdir()
    Path("run", MODEL).touch()
    assert find_model("run") == find_model(Path("run", MODEL)) == Path("run", MODEL)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")
def test_an_error_says_whether_the_training_of_a_folder_goes_on():
    with create("run", "iris", {}), pytest.raises(ModelFileError, match=r"no model.*still running"):
        find_model("run")
    with pytest.raises(ModelFileError, match=r"no model.*ended before"):
        find_model("run")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")
def test_temporary_files_of_killed_runs_go_when_another_begins_beside_them():
    killed = created("runs/a", "iris") / ".nnbp-0123456789abcdef.tmp"
    others = [Path("runs/b/.nnbp-0123456789abcdef.tmp"), killed.with_name("notes.tmp")]
    others[0].parent.mkdir()
    for path in (killed, *others):
        path.touch()
    created("runs/c", "iris")
    assert not killed.exists()
    assert all(path.exists() for path in others), "what is no run's is left alone"


def test_where_no_model_is_the_error_names_those_that_are_near():
    for k, name in enumerate(("a", "b")):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, MODEL).touch()
        os.utime(Path("runs", name, MODEL), (k, k))
    with pytest.raises(ModelFileError, match=f"{Path('runs/b')}, {Path('runs/a')}".replace("\\", "\\\\")):
        find_model("runs")
    Path("bare").mkdir()
    with pytest.raises(ModelFileError, match=r"holds no model\.safetensors"):
        find_model("bare")
    with pytest.raises(ModelFileError, match="no such file or folder"):
        find_model("nothing")
