"""`nnbp train`: what it prints, what it leaves, and that whatever ends it, nothing is lost."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from interruptible import interruptible

from nnbp import Network
from nnbp.cli.common import Terminated
from nnbp.cli.main import main
from nnbp.nn.initializers import HeUniform
from nnbp.tabular.model import TableModel
from nnbp.training.callbacks import Callback, TrainingState

pytest.importorskip("sklearn")
pytest.importorskip("tomli_w")

FILES = {"config.toml", "environment.json", "metrics.csv", "model.safetensors", "report.html"}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def people(tmp_path) -> Path:
    """A table with numbers, text, missing cells and text labels."""
    rng = np.random.default_rng(0)
    lines = ["age,city,income,buys"]
    for k in range(60):
        age, city = rng.integers(20, 70), ("Bern", "Wien", "Rom")[k % 3]
        lines.append(f"{'' if k == 7 else age},{city},{rng.integers(20, 90)}.5,{'yes' if age > 45 else 'no'}")
    path = tmp_path / "people.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def trained(capsys, *words: str) -> tuple[int, dict]:
    code = main(["train", *words, "--json", "--quiet"])
    return code, json.loads(capsys.readouterr().out)


def test_it_leaves_a_run_folder_and_prints_one_json_object(capsys):
    code, result = trained(capsys, "iris", "--epochs", "20")
    assert code == 0
    assert result["status"] == "done"
    assert result["run"] == str(Path("runs/iris-1"))
    assert {path.name for path in Path(result["run"]).iterdir()} == FILES
    assert result["rows"] == {"train": 108, "validation": 12, "held_out": 30}
    assert set(result["metrics"]) == {"accuracy", "balanced_accuracy", "f1_macro", "log_loss"}
    assert result["baseline_accuracy"] == pytest.approx(1 / 3)
    assert result["labels"] == ["setosa", "versicolor", "virginica"]
    assert result["device"] == "cpu" or result["device"].startswith("cuda")


def test_what_it_leaves_says_all_that_the_run_depended_on(capsys):
    _, result = trained(capsys, "iris", "--epochs", "5", "--seed", "3", "--hidden", "8,4", "--schedule", "cosine")
    run = Path(result["run"])
    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    assert config["network"]["hidden"] == [8, 4]
    assert config["network"]["seed"] == 3
    assert config["training"]["schedule"] == "cosine"
    assert config["network"]["weight_decay"] == pytest.approx(1 / 108)
    facts = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    assert facts["command"][:3] == ["nnbp", "train", "iris"]
    assert facts["packages"]["numpy"] == np.__version__
    rows = list(csv.DictReader((run / "metrics.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert set(rows[0]) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"}
    assert float(rows[0]["learning_rate"]) > float(rows[4]["learning_rate"]) > 0


def test_the_model_file_alone_has_the_table_and_gives_the_held_out_result_again(capsys, people):
    _, result = trained(capsys, "people.csv", "--target", "buys", "--epochs", "30")
    model = TableModel.load(result["model"], device="cpu")
    assert model.target.labels == ("no", "yes")
    assert model.preprocessor.feature_names == ("age", "city=Bern", "city=Rom", "city=Wien", "income")
    assert result["network"].endswith("1 sigmoid")
    assert "roc_auc" in result["metrics"]
    assert result["features"] == 5
    assert result["columns"] == 3


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(capsys):
    files = []
    for seed in ("0", "0", "1"):
        _, result = trained(capsys, "wine", "--epochs", "4", "--seed", seed, "--device", "cpu")
        files.append(Path(result["model"]).read_bytes())
    assert files[0] == files[1] != files[2]


def test_the_words_on_standard_output_say_what_came_out_and_what_to_do_next(capsys):
    assert main(["train", "diabetes", "--epochs", "8"]) == 0
    out, err = capsys.readouterr()
    assert "diabetes: 319 rows to train on, 35 to validate, 88 held out" in out
    assert "'progression', a quantity, from 10 columns" in out
    assert "R²" in out
    assert f"nnbp predict {Path('runs/diabetes-1')} diabetes" in out
    assert err.startswith("epoch 1/8  loss ")


def test_quiet_says_nothing_on_standard_error(capsys):
    assert main(["train", "iris", "--epochs", "2", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_columns_of_one_unit_are_standardised_together(capsys):
    _, result = trained(capsys, "digits", "--epochs", "1", "--hidden", "4")
    columns = TableModel.load(result["model"], device="cpu").preprocessor.columns
    assert len({(column.mean, column.scale) for column in columns}) == 1
    assert "dropout 0.2" in result["network"]
    assert 'initializer = "he_uniform"' in (Path(result["run"]) / "config.toml").read_text(encoding="utf-8")
    assert Network.load(result["model"], device="cpu").layers[1].initializer == HeUniform()
    _, result = trained(capsys, "wine", "--epochs", "1")
    assert "initializer" not in (Path(result["run"]) / "config.toml").read_text(encoding="utf-8")
    columns = TableModel.load(result["model"], device="cpu").preprocessor.columns
    assert len({(column.mean, column.scale) for column in columns}) == 13


@pytest.mark.slow
def test_digits_by_default_are_read_well(capsys):
    code, result = trained(capsys, "digits", "--epochs", "40")
    assert code == 0
    assert result["metrics"]["accuracy"] >= 0.97


def test_counts_are_trained_as_they_are_with_poisson(capsys, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=80)
    np.savez(tmp_path / "counts.npz", X=x[:, None], y=rng.poisson(np.exp(x)))
    code, result = trained(capsys, "counts.npz", "--loss", "poisson", "--hidden", "none", "--epochs", "40")
    assert code == 0
    assert result["task"] == "regression"
    model = TableModel.load(result["model"], device="cpu")
    assert (model.target.mean, model.target.scale) == (0.0, 1.0)
    assert result["metrics"]["r2"] > 0


def test_without_parts_set_aside_all_rows_are_trained_on(capsys):
    _, result = trained(capsys, "iris", "--test-fraction", "0", "--validation-fraction", "0", "--epochs", "2")
    assert result["rows"] == {"train": 150, "validation": 0, "held_out": 0}
    assert result["metrics"] == {}
    assert result["best_epoch"] is None


def test_no_run_overwrites_another(capsys):
    _, first = trained(capsys, "iris", "--epochs", "1")
    _, second = trained(capsys, "iris", "--epochs", "1")
    assert (Path(first["run"]).name, Path(second["run"]).name) == ("iris-1", "iris-2")
    before = Path(first["model"]).read_bytes()
    assert main(["train", "iris", "--epochs", "1", "--out", first["run"]]) == 2
    assert "no run overwrites another" in capsys.readouterr().err
    assert Path(first["model"]).read_bytes() == before


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("a,b,y\n1,2,0\n3,oops,1\n5,6,0\n7,8,1\n", ("--target", "y"), "line 3, column 'b': expected a finite number"),
        ("a,b,y\n1,2,0\n3,4\n", ("--target", "y"), "line 3: 2 fields, but the header names 3"),
        ("a,b,y\n1,2,0\n3,4,1\n", (), "no target was named"),
        ("a,b,y\n1,2,0\n3,4,1\n", ("--target", "z"), "no column 'z'"),
        ("a,y\n1,0\n2,\n3,1\n", ("--target", "y"), "line 3, column 'y': the target is missing"),
        ("", ("--target", "y"), "the file is empty"),
    ],
)
def test_bad_data_exit_with_3_and_say_where(capsys, tmp_path, text, words, said):
    (tmp_path / "bad.csv").write_text(text)
    assert main(["train", "bad.csv", *words]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--activation", "rellu"), "did you mean 'relu'?"),
        (("--optimizer", "adm"), "did you mean 'adam'?"),
        (("--schedule", "cosin"), "'cosine'"),
        (("--loss", "cross"), "cross_entropy"),
        (("--device", "gpu"), 'Write "cuda"'),
        (("--loss", "squared_error", "--task", "classification"), "squared_error is for quantities"),
    ],
)
def test_names_that_do_not_exist_are_usage_errors_and_leave_no_folder(capsys, words, said):
    assert main(["train", "iris", *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_gpu_that_is_required_and_absent_exits_with_6(capsys, monkeypatch):
    monkeypatch.setenv("NNBP_REQUIRE_GPU", "1")
    assert main(["train", "iris", "--device", "cuda:99"]) == 6
    assert "NNBP_REQUIRE_GPU" in capsys.readouterr().err


def test_the_cpu_in_place_of_a_gpu_is_said_everywhere(capsys, monkeypatch):
    monkeypatch.delenv("NNBP_REQUIRE_GPU", raising=False)
    _, result = trained(capsys, "iris", "--device", "cuda:99", "--epochs", "2")
    assert result["device"] == "cpu"
    assert "The CPU stands in for it" in result["device_fallback"]
    facts = json.loads((Path(result["run"]) / "environment.json").read_text(encoding="utf-8"))
    assert facts["fallback"] == result["device_fallback"]
    assert "The CPU stands in for it" in (Path(result["run"]) / "report.html").read_text(encoding="utf-8")


DIVERGING = ("diabetes", "--optimizer", "sgd", "--activation", "identity", "--dropout", "0", "--learning-rate")


@pytest.mark.parametrize("fraction", ["0.2", "0"])
def test_divergence_exits_with_5_and_keeps_good_weights(capsys, fraction):
    words = (*DIVERGING, "0.75", "--schedule", "warm_up", "--epochs", "300", "--validation-fraction", fraction)
    code = main(["train", *words, "--json", "--quiet"])
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert code == 5
    assert result["status"] == "diverged"
    assert result["epochs"] > 0
    assert "Training diverged" in err
    assert "The parameters that it kept are saved" in err
    assert result["run"] in err
    assert set(os.listdir(result["run"])) == FILES
    assert np.isfinite(TableModel.load(result["model"], device="cpu").network.parameters).all()


def test_divergence_in_the_first_epoch_leaves_the_folder_without_a_model(capsys):
    assert main(["train", *DIVERGING, "1e9", "--json", "--quiet"]) == 5
    out, err = capsys.readouterr()
    assert "there is no model" in err
    assert set(os.listdir(json.loads(out)["run"])) == FILES - {"model.safetensors"}


class _Stop(Callback):
    def __init__(self, epoch: int, error: BaseException) -> None:
        self.epoch, self.error = epoch, error

    def on_epoch_end(self, state: TrainingState) -> None:
        if state.epoch == self.epoch:
            raise self.error


@pytest.mark.parametrize(
    ("error", "code", "word"), [(KeyboardInterrupt(), 130, "Ctrl-C"), (Terminated(), 143, "SIGTERM")]
)
@pytest.mark.parametrize("fraction", ["0", "0.2"])
def test_an_interruption_keeps_the_best_weights_and_completes_the_folder(
    capsys, monkeypatch, error, code, word, fraction
):
    fit = Network.fit

    def interrupted(self, *args, callbacks, **kwargs):
        return fit(self, *args, callbacks=[*callbacks, _Stop(4, error)], **kwargs)

    monkeypatch.setattr(Network, "fit", interrupted)
    assert main(["train", "iris", "--json", "--validation-fraction", fraction]) == code
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["epochs"] == 4
    assert set(os.listdir(result["run"])) == FILES | {"checkpoints"}
    assert f"ended by {word}." in err
    assert f"those of epoch {result['best_epoch']} of 4" in err if fraction != "0" else "of epoch 4 are saved" in err
    assert "accuracy" in result["metrics"]
    assert TableModel.load(result["model"], device="cpu").target.labels == ("setosa", "versicolor", "virginica")


def test_an_interruption_in_the_middle_of_an_update_leaves_the_weights_of_the_last_whole_epoch(capsys, monkeypatch):
    kept = []

    class Spoil(Callback):
        def on_epoch_end(self, state: TrainingState) -> None:
            kept.append(np.array(state.network.parameters))
            state.network.parameters[...] = np.nan
            raise KeyboardInterrupt

    fit = Network.fit
    monkeypatch.setattr(
        Network, "fit", lambda self, *a, callbacks, **k: fit(self, *a, callbacks=[*callbacks, Spoil()], **k)
    )
    assert main(["train", "iris", "--json", "--validation-fraction", "0", "--device", "cpu"]) == 130
    result = json.loads(capsys.readouterr().out)
    saved = TableModel.load(result["model"], device="cpu").network.parameters
    np.testing.assert_array_equal(saved, kept[0])


def test_an_interruption_before_the_first_epoch_ends_leaves_no_model_and_says_so(capsys, monkeypatch):
    def at_once(self, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Network, "fit", at_once)
    assert main(["train", "iris", "--json"]) == 130
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["model"] is None
    assert "there is no model" in err
    assert set(os.listdir(result["run"])) == FILES - {"model.safetensors"}


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_real_process_with_its_work_saved(tmp_path, number, code):
    words = [sys.executable, "-m", "nnbp", "train", "iris", "--epochs", "1000000", "--patience", "0", "--json"]
    run = tmp_path / "runs" / "iris-1"
    with subprocess.Popen(
        interruptible(words), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 60
        metrics = run / "metrics.csv"
        while not (metrics.exists() and metrics.read_text(encoding="utf-8").count("\n") > 5):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert json.loads(out)["run"] == str(Path("runs/iris-1"))
    assert "Traceback" not in err
    assert set(os.listdir(run)) == FILES | {"checkpoints"}
    assert TableModel.load(run / "model.safetensors", device="cpu").network.model.n_in == 4


def test_the_folder_is_made_before_training_so_that_its_files_grow_with_it(capsys, monkeypatch):
    seen = []

    class Look(Callback):
        def on_epoch_end(self, state: TrainingState) -> None:
            if state.epoch == 3:
                seen.append(Path("runs/iris-1/metrics.csv").read_text(encoding="utf-8").count("\n"))

    fit = Network.fit
    monkeypatch.setattr(
        Network, "fit", lambda self, *a, callbacks, **k: fit(self, *a, callbacks=[*callbacks, Look()], **k)
    )
    trained(capsys, "iris", "--epochs", "3")
    assert seen == [4]


def test_a_schedule_that_the_optimizer_does_not_take_is_a_usage_error_before_there_is_a_folder(capsys):
    assert main(["train", "iris", "--optimizer", "lbfgs", "--schedule", "cosine"]) == 2
    assert "lbfgs sets its steps itself" in capsys.readouterr().err
    assert not Path("runs").exists()
