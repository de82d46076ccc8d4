"""Faults of the disk and of the process at every operation on files: what was there before is there, or what is new."""

from __future__ import annotations

import os
import random
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import ERRORS, faults, in_child, kill, raising, strays

from nnbp import Checkpoint, ModelFileError, Network
from nnbp.cli.main import main
from nnbp.serialization import model_file

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    # A forked child of a process with threads: it computes in threads of its own, which nnbp starts anew.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::nnbp.ConvergenceWarning"),
]

KILLS = int(os.environ.get("NNBP_TEST_KILLS", "20"))
"""Processes that are killed at random moments; `.ci/full` kills more."""

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
Y = RNG.normal(size=(40, 2))
EPOCHS: dict[str, Any] = {"epochs": 3, "batch_size": 10, "progress": False}


def network(seed: int = 0) -> Network:
    return Network([3, 4, 2], device="cpu", seed=seed)


def operations(run: Callable[[], object]) -> int:
    with faults() as found:
        run()
    assert {"open", "write", "fsync", "rename"} <= set(found.operations)
    return len(found.operations)


# ---- save


@pytest.fixture
def path(tmp_path: Path) -> Path:
    network(0).save(tmp_path / "m")
    return tmp_path / "m"


def test_a_save_that_fails_leaves_the_old_file(path: Path, tmp_path: Path) -> None:
    new, old = network(1), path.read_bytes()
    new.save(tmp_path / "new")
    whole = (tmp_path / "new").read_bytes()
    count = operations(lambda: new.save(path))
    for at in range(count):
        for number in ERRORS:
            path.write_bytes(old)
            with faults(at, raising(number)):
                try:
                    new.save(path)
                    failed = False
                except ModelFileError:
                    failed = True
            assert path.read_bytes() == (old if failed else whole)
            assert not strays(tmp_path)


def test_a_save_that_is_killed_leaves_the_old_file_or_the_new_one(path: Path, tmp_path: Path) -> None:
    new, old = network(1), path.read_bytes()
    new.save(tmp_path / "new")
    whole = (tmp_path / "new").read_bytes()
    for at in range(operations(lambda: new.save(path))):
        path.write_bytes(old)

        def saving(at: int = at) -> None:
            with faults(at, kill):
                new.save(path)

        assert in_child(saving) == -signal.SIGKILL
        assert path.read_bytes() in (old, whole)
        new.save(path)
        assert path.read_bytes() == whole
        assert not strays(tmp_path)


# ---- checkpoints


def trained(folder: Path | None = None) -> bytes:
    net = network()
    if folder is not None:
        net.fit(X, Y, **EPOCHS, checkpoint=Checkpoint(folder), resume=True)
    else:
        net.fit(X, Y, **EPOCHS)
    return net.parameters.tobytes()


def test_a_checkpoint_that_fails_ends_no_training(tmp_path: Path) -> None:
    expected = trained()
    for at in range(operations(lambda: trained(tmp_path / "count"))):
        folder = tmp_path / str(at)
        with warnings.catch_warnings(), faults(at, raising(ERRORS[at % len(ERRORS)])):
            warnings.simplefilter("ignore", UserWarning)
            assert trained(folder) == expected
        assert not strays(folder)
        assert trained(folder) == expected


def test_a_limit_of_the_size_of_files_ends_no_training(tmp_path: Path) -> None:
    """Beyond the limit the system sends SIGXFSZ, which Python ignores, and write fails in the middle of a file."""
    expected = trained()

    def training() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        with pytest.warns(UserWarning, match=r"There is no checkpoint of epoch \d: .*File too large"):
            assert trained(tmp_path) == expected
        assert not list(tmp_path.iterdir())

    assert in_child(training) == 0
    assert trained(tmp_path) == expected


def test_training_that_is_killed_at_a_checkpoint_goes_on(tmp_path: Path) -> None:
    expected = trained()
    for at in range(operations(lambda: trained(tmp_path / "count"))):
        folder = tmp_path / str(at)

        def training(at: int = at, folder: Path = folder) -> None:
            with faults(at, kill):
                trained(folder)

        assert in_child(training) == -signal.SIGKILL
        assert trained(folder) == expected
        if len(Checkpoint(folder).paths) > 1:
            assert not strays(folder)


def test_training_that_is_killed_at_random_moments_goes_on(tmp_path: Path) -> None:
    options = {**EPOCHS, "epochs": 200}
    whole = network()
    whole.fit(X, Y, **options)
    moments, killed, folder = random.Random(0), 0, tmp_path / "0"
    while killed < KILLS:
        child = os.fork()
        if not child:
            try:
                network().fit(X, Y, **options, checkpoint=Checkpoint(folder), resume=True)
                os._exit(0)
            except BaseException:
                os._exit(1)
        time.sleep(moments.uniform(0.0, 0.05))
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        newest = [model_file.read(path).state for path in Checkpoint(folder).paths[:1]]
        if code == 0 or any(state is not None and state.values["epoch"] == options["epochs"] for state in newest):
            net = network()
            net.fit(X, Y, **options, checkpoint=Checkpoint(folder), resume=True)
            np.testing.assert_array_equal(net.parameters, whole.parameters)
            folder = tmp_path / str(killed)
    net = network()
    net.fit(X, Y, **options, checkpoint=Checkpoint(folder), resume=True)
    np.testing.assert_array_equal(net.parameters, whole.parameters)


# ---- nnbp train


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Without its curves a report takes a hundredth of the time.
    monkeypatch.setattr("nnbp.cli.report.page._picture", lambda *args: "")
    path = tmp_path / "t.csv"
    rows = "".join(f"{a:.3f},{b:.3f},{a - b:.3f}\n" for a, b, _ in X)
    path.write_text(f"a,b,y\n{rows}", encoding="utf-8")
    return path


def words(table: Path, run: Path) -> list[str]:
    return [
        "train", str(table), "--target", "y", "--epochs", "3", "--device", "cpu", "--quiet", "--hidden", "4",
        "--checkpoint-every", "1", "--out", str(run),
    ]  # fmt: skip


def model(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def test_a_run_that_fails_leaves_its_model_or_nothing(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = operations(lambda: main(words(table, tmp_path / "whole")))
    expected, trained = model(tmp_path / "whole"), 0
    for at in range(count):
        run = tmp_path / f"run{at}"
        with warnings.catch_warnings(), faults(at, raising(ERRORS[at % len(ERRORS)])) as found:
            warnings.simplefilter("ignore", UserWarning)
            code = main(words(table, run))
        said = capsys.readouterr().err
        assert code in (0, 4, 6), said
        assert found.at is not None
        if code == 0 or "model is saved" in said:
            assert model(run) == expected
            trained += 1
        assert not strays(run)
    assert trained > count // 2


def test_a_run_that_is_killed_goes_on_or_is_begun_anew(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = operations(lambda: main(words(table, tmp_path / "whole")))
    expected = model(tmp_path / "whole")
    for at in range(count):
        run = tmp_path / f"run{at}"

        def training(at: int = at, run: Path = run) -> None:
            with faults(at, kill):
                main(words(table, run))

        assert in_child(training) == -signal.SIGKILL
        code = main(["train", "--resume", str(run), "--quiet"])
        said = capsys.readouterr().err
        if code == 2 and "has ended" not in said:
            # Nothing was trained yet, or even the folder was not.
            assert "is no folder of a run" in said
            run = tmp_path / f"again{at}"
            code = main(words(table, run))
        assert code in (0, 2), said
        assert model(run) == expected
        assert not strays(run)


def test_two_writers_and_a_reader(path: Path, tmp_path: Path) -> None:
    nets = [network(1), network(2)]
    files = []
    for net in nets:
        net.save(tmp_path / "whole")
        files.append((tmp_path / "whole").read_bytes())
    nets[0].save(path)
    children = []
    for net in nets:
        child = os.fork()
        if not child:
            try:
                for _ in range(100):
                    net.save(path)
                os._exit(0)
            except BaseException:
                os._exit(1)
        children.append(child)
    seen = set()
    while children:
        seen.add(path.read_bytes())
        Network.load(path, device="cpu")
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended in children:
            assert os.waitstatus_to_exitcode(status) == 0
            children.remove(ended)
    assert seen <= set(files)
    assert not strays(tmp_path)
