"""Checkpoints: training that is stopped and resumed ends in the bytes of training that nothing has disturbed."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from strict_backend import StrictBackend

import nnbp
from nnbp import Checkpoint, DataError, EarlyStopping, History, ModelFileError, Network
from nnbp.optim.optimizers import Optimizer
from nnbp.optim.schedules import Schedule, WarmUp
from nnbp.serialization import model_file
from nnbp.training.callbacks import Callback, TrainingState

RNG = np.random.default_rng(0)
X = RNG.normal([5.0, -3.0, 0.1], [2.0, 1.0, 0.3], (30, 3))
LABELS = (X[:, 0] > 5).astype(int) + (X[:, 1] > -3)
VALUES = np.column_stack([X[:, 0] - X[:, 1], np.sin(X[:, 2])])

pytestmark = pytest.mark.filterwarnings("ignore::nnbp.ConvergenceWarning")


class StoppedError(Exception):
    """The process has ended."""


def stop_after(epoch: int) -> Any:
    def stop(state: TrainingState) -> None:
        if state.epoch > epoch:
            raise StoppedError

    return stop


def network(rng: np.random.Generator, **options: Any) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of a network."""
    classes = rng.random() < 0.5
    layers: list[Any] = [nnbp.Standardize()] if rng.random() < 0.3 else []
    layers.append(nnbp.Dense(int(rng.integers(2, 6)), str(rng.choice(["tanh", "relu", "silu"]))))
    if rng.random() < 0.5:
        layers.append(nnbp.Dropout(0.3))
    layers.append(nnbp.Dense(3 if classes else 2))
    loss = "cross_entropy" if classes else "squared_error"
    dtype, decay = str(rng.choice(["float32", "float64"])), float(rng.choice([0, 1e-3]))
    return layers, {"loss": loss, "dtype": dtype, "weight_decay": decay, "seed": int(rng.integers(100)), **options}


def training(rng: np.random.Generator, classes: bool) -> dict[str, Any]:
    """Arguments of fit, with every optimizer for any loss and every schedule."""
    names = [name for name, rule in Optimizer.built_in().items() if not rule.squares_only]
    optimizer = str(rng.choice(sorted(names)))
    rule = Optimizer.find(optimizer)
    options: dict[str, Any] = {
        "epochs": int(rng.integers(2, 9)),
        "batch_size": int(rng.choice([7, 10, 30])),
        "optimizer": optimizer,
        "shuffle": bool(rng.random() < 0.8),
        "progress": False,
    }
    if optimizer == "sgd":
        options["learning_rate"] = 0.01
    if rule.scheduled and rng.random() < 0.6:
        names = sorted(Schedule.built_in())
        options["schedule"] = str(rng.choice(names))
        if rng.random() < 0.2:
            options["schedule"] = WarmUp(1.5, Schedule.find("reduce_on_plateau")(patience=0))
    if rule.clippable and rng.random() < 0.3:
        options["clip_norm"] = 0.5
    if rng.random() < 0.5:
        options["validation_split"] = 0.3
    if rng.random() < 0.3:
        options["early_stopping"] = int(rng.integers(1, 4))
    if rng.random() < 0.3:
        options["sample_weight"] = np.linspace(0.5, 2, 30)
    if classes and rng.random() < 0.3:
        options["class_weight"] = "balanced"
    if rng.random() < 0.3:
        options["metrics"] = ["accuracy" if classes else "r2"]
    return options


def result(net: Network, history: History) -> tuple[Any, ...]:
    host = net.model.backend.download(net.parameters)
    return host.tobytes(), repr(dict(history)), history.best_epoch, history.stopped


def check(seed: int, folder: Path, device: Any = None) -> None:
    rng = np.random.default_rng(seed)
    device = device or ("cpu" if seed % 3 else StrictBackend())
    layers, arguments = network(rng, device=device)
    classes = arguments["loss"] == "cross_entropy"
    y, options = LABELS if classes else VALUES, training(rng, classes)
    whole = Network(layers, **arguments)
    expected = whole.fit(X, y, **options)
    options |= {"checkpoint": Checkpoint(folder, every=int(rng.integers(1, 4)), keep=int(rng.integers(1, 3)))}
    history = None
    for epoch in sorted({int(rng.integers(1, options["epochs"])) for _ in range(int(rng.integers(1, 4)))}):
        net = Network(layers, **arguments)
        try:
            history = net.fit(X, y, **options, resume=True, callbacks=[stop_after(epoch)])
        except StoppedError:
            assert len(options["checkpoint"].paths) in range(1, options["checkpoint"].keep + 1)
    net = Network(layers, **arguments)
    history = net.fit(X, y, **options, resume=True)
    assert result(net, history) == result(whole, expected), (seed, options)
    # What follows is the same, too, and a training that has ended goes on to no more than its end.
    again = Network(layers, **arguments)
    assert result(again, again.fit(X, y, **options, resume=True)) == result(whole, expected)
    for each in (again, whole):
        each.fit(X, y, epochs=1, progress=False)
    assert result(again, history)[0] == result(whole, history)[0]


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_resumed_training_ends_in_the_same_bytes(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + 20):
        check(seed, tmp_path / str(seed))


@pytest.mark.gpu
def test_resumed_training_on_a_gpu_ends_in_the_same_bytes(tmp_path: Path) -> None:
    for seed in range(2000, 2020):
        check(seed, tmp_path / str(seed), "cuda")


def test_resumed_training_without_the_compiled_part(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, warnings; sys.path[:0] = ['tests/doubles', 'tests/training']\n"
        "warnings.simplefilter('ignore')\n"
        "import test_checkpoint\n"
        f"for seed in range(1000, 1010): test_checkpoint.check(seed, pathlib.Path({str(tmp_path)!r}, str(seed)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "NNBP_NATIVE": "0"})


OPTIONS: dict[str, Any] = {"epochs": 4, "batch_size": 10, "progress": False}


class Told(Callback):
    """Notes its calls, and the epochs that there were by the state and by the history."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def on_train_begin(self, state: TrainingState) -> None:
        self.calls.append(("begin", state.epoch, state.history.epochs))

    def on_train_resume(self, state: TrainingState) -> None:
        self.calls.append(("resume", state.epoch, state.history.epochs))

    def on_epoch_end(self, state: TrainingState) -> None:
        self.calls.append(("end", state.epoch, state.history.epochs))

    def on_train_end(self, state: TrainingState) -> None:
        self.calls.append(("over", state.epoch, state.history.epochs))


def fitted(folder: Path, **options: Any) -> Network:
    net = Network([3, 4, 2], device="cpu", seed=1)
    net.fit(X, VALUES, **{**OPTIONS, "checkpoint": Checkpoint(folder), **options})
    return net


def test_a_checkpoint_is_a_model_file(tmp_path: Path) -> None:
    net = fitted(tmp_path)
    paths = Checkpoint(tmp_path).paths
    assert [path.name for path in paths] == ["checkpoint-00000004.safetensors", "checkpoint-00000003.safetensors"]
    loaded = Network.load(paths[0], device="cpu")
    np.testing.assert_array_equal(loaded.parameters, net.parameters)
    assert not list(tmp_path.glob(".*"))


def test_more_epochs_go_on_from_the_end(tmp_path: Path) -> None:
    whole = Network([3, 4, 2], device="cpu", seed=1)
    expected = whole.fit(X, VALUES, **{**OPTIONS, "epochs": 7})
    fitted(tmp_path)
    net = Network([3, 4, 2], device="cpu", seed=1)
    history = net.fit(X, VALUES, **{**OPTIONS, "epochs": 7}, checkpoint=Checkpoint(tmp_path), resume=True)
    assert result(net, history) == result(whole, expected)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"batch_size": 9}, "batch_size: '10' then, and '9' now"),
        ({"optimizer": "sgd"}, "optimizer: .*Adam.* then, and .*SGD"),
        ({"learning_rate": 0.5}, "optimizer"),
        ({"schedule": "cosine"}, "schedule"),
        ({"clip_norm": 1.0}, "clip_norm"),
        ({"shuffle": False}, "shuffle"),
        ({"validation_split": 0.2}, "number of samples"),
        ({"validation_data": (X, VALUES)}, "validation data"),
        ({"sample_weight": np.linspace(1, 2, 30)}, "data"),
        ({"metrics": ["r2"]}, "metrics"),
    ],
)
def test_another_configuration_is_refused(change: dict[str, Any], what: str, tmp_path: Path) -> None:
    fitted(tmp_path)
    net = Network([3, 4, 2], device="cpu", seed=1)
    before = net.parameters.copy()
    with pytest.raises(DataError, match=f"received another {what}"):
        net.fit(X, VALUES, **{**OPTIONS, **change}, checkpoint=Checkpoint(tmp_path), resume=True)
    np.testing.assert_array_equal(net.parameters, before)


def test_other_data_or_another_network_are_refused(tmp_path: Path) -> None:
    fitted(tmp_path)
    other = X.copy()
    other[7, 1] += 1e-6
    for net, inputs in ((Network([3, 4, 2], device="cpu", seed=1), other), (Network([3, 5, 2], device="cpu"), X)):
        with pytest.raises(DataError, match=r"received another (data|network)"):
            net.fit(inputs, VALUES, **OPTIONS, checkpoint=Checkpoint(tmp_path), resume=True)


def test_another_machine_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted(tmp_path)
    monkeypatch.setattr(np, "__version__", "9.9")
    net = Network([3, 4, 2], device="cpu", seed=1)
    with pytest.warns(UserWarning, match=r"may differ .* numpy '.*' then, '9\.9' now\.$") as caught:
        net.fit(X, VALUES, **{**OPTIONS, "epochs": 5}, checkpoint=Checkpoint(tmp_path), resume=True)
    assert [item.filename for item in caught] == [__file__]


def test_without_a_checkpoint_training_begins(tmp_path: Path) -> None:
    expected = fitted(tmp_path / "a")
    np.testing.assert_array_equal(fitted(tmp_path / "b", resume=True).parameters, expected.parameters)
    with pytest.raises(ValueError, match="received checkpoint=None"):
        Network([3, 4, 2], device="cpu").fit(X, VALUES, resume=True)


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    expected = fitted(tmp_path)
    newest, older = Checkpoint(tmp_path).paths
    data = bytearray(newest.read_bytes())
    data[-5] ^= 1
    newest.write_bytes(data)
    with pytest.warns(UserWarning, match="00000004.*Training resumes from the one before it"):
        np.testing.assert_array_equal(fitted(tmp_path, resume=True).parameters, expected.parameters)
    for path in (newest, older):
        path.write_bytes(b"x" * 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ModelFileError, match="00000003"):
            fitted(tmp_path, resume=True)


def test_a_model_file_is_no_checkpoint(tmp_path: Path) -> None:
    Network([3, 4, 2], device="cpu").save(tmp_path / "checkpoint-00000001.safetensors")
    with pytest.raises(ModelFileError, match="is a model file and no checkpoint"):
        fitted(tmp_path, resume=True)


@pytest.mark.parametrize(
    "part", ["epoch", "facts", "environment", "steps", "sequences", "initial", "slot.m", "history.loss"]
)
def test_a_forged_checkpoint_is_refused(part: str, tmp_path: Path) -> None:
    fitted(tmp_path)
    path, older = Checkpoint(tmp_path).paths
    older.unlink()
    file = model_file.read(path)
    assert file.state is not None
    for kept in (file.state.values, file.state.arrays):
        kept.pop(part, None)
    model_file.write(path, file)
    net, told = Network([3, 4, 2], device="cpu", seed=1), Told()
    before = net.parameters.copy()
    with pytest.raises(ModelFileError, match=r"lacks what this training needs|is a model file and no checkpoint"):
        net.fit(X, VALUES, **OPTIONS, checkpoint=Checkpoint(tmp_path), resume=True, callbacks=[told])
    np.testing.assert_array_equal(net.parameters, before)
    assert [word for word, *_ in told.calls] in ([], ["begin", "over"])
    assert net.history is None or net.history.epochs == 0


def test_an_interrupt_leaves_the_last_epoch(tmp_path: Path) -> None:
    def interrupt(state: TrainingState) -> None:
        if state.epoch == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path, checkpoint=Checkpoint(tmp_path, every="1000 s"), callbacks=[interrupt])
    # The epochs are so short that the state of some is not kept.
    (path,) = Checkpoint(tmp_path).paths
    assert path.name in {f"checkpoint-0000000{epoch}.safetensors" for epoch in (1, 2, 3)}
    expected = fitted(tmp_path / "other")
    np.testing.assert_array_equal(fitted(tmp_path, resume=True).parameters, expected.parameters)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_ends_no_training(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.warns(UserWarning, match="There is no checkpoint of epoch 4"):
        fitted(tmp_path / "inner", checkpoint=Checkpoint(tmp_path / "inner", every=4))


def test_a_folder_that_is_a_file_ends_no_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="There is no checkpoint of epoch 4"):
        fitted(tmp_path, checkpoint=Checkpoint(tmp_path / "file", every=4))


def test_callbacks_are_told_of_the_epochs_so_far(tmp_path: Path) -> None:
    fitted(tmp_path)
    net, told = Network([3, 4, 2], device="cpu", seed=1), Told()
    net.fit(X, VALUES, **{**OPTIONS, "epochs": 5}, checkpoint=Checkpoint(tmp_path), resume=True, callbacks=[told])
    assert told.calls == [("begin", 0, 0), ("resume", 4, 4), ("end", 5, 5), ("over", 5, 5)]


def test_networks_that_are_trained_side_by_side_have_folders_of_their_own(tmp_path: Path) -> None:
    networks = [Network([3, 4, 2], device="cpu", seed=seed) for seed in range(3)]
    nnbp.fit_many(networks, X, VALUES, **OPTIONS, checkpoint=Checkpoint(tmp_path))
    for index, net in enumerate(networks):
        loaded = Network.load(Checkpoint(tmp_path / str(index)).paths[0], device="cpu")
        np.testing.assert_array_equal(loaded.parameters, net.parameters)


def test_saved_and_loaded_networks_train_as_if_they_had_not_been(tmp_path: Path) -> None:
    for seed in range(5):
        layers, arguments = network(np.random.default_rng(seed), device="cpu")
        y = LABELS if arguments["loss"] == "cross_entropy" else VALUES
        net = Network([*layers[:-1], nnbp.Dropout(0.2), layers[-1]], **arguments)
        net.fit(X, y, epochs=2, progress=False)
        net.save(tmp_path / "m")
        loaded = Network.load(tmp_path / "m", device="cpu")
        for each in (net, loaded):
            each.fit(X, y, epochs=2, progress=False)
        np.testing.assert_array_equal(loaded.parameters, net.parameters)


@pytest.mark.parametrize(
    "sequences", [{}, {"order": {}, "masks": [None, None]}, {"order": {"bit_generator": "MT19937"}, "masks": []}, 3]
)
def test_a_model_file_whose_sequences_are_forged_is_refused(sequences: Any, tmp_path: Path) -> None:
    Network([3, 4, 2], device="cpu").save(tmp_path / "m")
    file = model_file.read(tmp_path / "m")
    assert file.state is not None
    file.state.values["sequences"] = sequences
    model_file.write(tmp_path / "m", file)
    with pytest.raises(ModelFileError, match="damaged or was edited"):
        Network.load(tmp_path / "m", device="cpu")


@pytest.mark.parametrize("every", [0, -1, 1.5, "x", "30", "30 m", None, True])
def test_odd_intervals_are_refused(every: Any, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match="every of Checkpoint"):
        Checkpoint(tmp_path, every=every)


def test_checkpoint_says_what_it_is(tmp_path: Path) -> None:
    assert repr(Checkpoint("a", "2.5s", 3)) == "Checkpoint('a', every='2.5s', keep=3)"
    with pytest.raises((TypeError, ValueError), match=r"checkpoint is an nnbp\.Checkpoint or None"):
        Network([3, 2], device="cpu").fit(X, VALUES, checkpoint=tmp_path)  # type: ignore[arg-type]


def test_early_stopping_remembers(tmp_path: Path) -> None:
    stopping = EarlyStopping(2, min_delta=10.0)
    net = fitted(tmp_path, epochs=9, early_stopping=stopping)
    assert net.history is not None
    assert net.history.epochs == 3
    again = fitted(tmp_path, epochs=9, early_stopping=EarlyStopping(2, min_delta=10.0), resume=True)
    assert again.history is not None
    assert (again.history.epochs, again.history.stopped) == (3, net.history.stopped)


def test_a_folder_with_checkpoints_of_another_training_is_refused(tmp_path: Path) -> None:
    fitted(tmp_path)
    with pytest.raises(ValueError, match="has checkpoints of another training; received resume=False"):
        fitted(tmp_path)


def test_networks_go_on_after_one_of_them_has_failed(tmp_path: Path) -> None:
    def fail(state: TrainingState) -> None:
        if state.network is networks[1] and state.epoch == 3:
            raise StoppedError

    options = {**OPTIONS, "epochs": 50, "checkpoint": Checkpoint(tmp_path), "resume": True}
    networks = [Network([3, 4, 2], device="cpu", seed=seed) for seed in range(2)]
    with pytest.raises(StoppedError):
        nnbp.fit_many(networks, X, VALUES, **options, callbacks=[fail])
    networks = [Network([3, 4, 2], device="cpu", seed=seed) for seed in range(2)]
    histories = nnbp.fit_many(networks, X, VALUES, **options)
    for seed, (net, history) in enumerate(zip(networks, histories, strict=True)):
        whole = Network([3, 4, 2], device="cpu", seed=seed)
        assert result(net, history) == result(whole, whole.fit(X, VALUES, **{**OPTIONS, "epochs": 50}))


def test_an_interrupt_of_the_last_checkpoint_leaves_the_best_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []

    def interrupt(state: TrainingState) -> None:
        kept.append(state.network.parameters.copy())
        if state.epoch == 3:
            monkeypatch.setattr(model_file, "write", again)
            raise KeyboardInterrupt

    def again(*arguments: Any) -> None:
        raise KeyboardInterrupt

    net = Network([3, 4, 2], device="cpu", seed=1)
    # Of a learning rate that is too high, the first epoch is the best.
    options = {**OPTIONS, "optimizer": "sgd", "learning_rate": 0.05, "validation_data": (X[:5], -50 * VALUES[:5])}
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, VALUES, **options, checkpoint=Checkpoint(tmp_path, "900s"), callbacks=[interrupt])
    assert net.history is not None
    assert net.history.best_epoch is not None
    np.testing.assert_array_equal(net.parameters, kept[net.history.best_epoch - 1])
    assert net.history.best_epoch < 3
