"""How a training ends early: interruptions, errors of the user's code, divergence; what is left then."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from training_cases import data, fit, network

from nnbp import LBFGS, SGD, DivergenceError
from nnbp.engine.epoch import Epoch
from nnbp.engine.model import Model
from nnbp.training.callbacks import TrainingState
from nnbp.training.trainer import Trainer


def test_best_weights_are_restored_after_an_interruption() -> None:
    net = network(2, 30, 1)
    thetas: list[NDArray[Any]] = []

    def interrupt(state: TrainingState) -> None:
        thetas.append(state.network.parameters.copy())
        if state.epoch == 40:
            raise KeyboardInterrupt

    losses: list[float] = []
    with pytest.raises(KeyboardInterrupt):
        fit(
            net, *data(12, 2, 1), epochs=60, validation_data=data(12, 2, 1, seed=4), learning_rate=0.05,
            callbacks=[lambda s: losses.append(s.logs["val_loss"]), interrupt],
        )  # fmt: skip
    np.testing.assert_array_equal(net.parameters, thetas[int(np.argmin(losses))])


class Interrupted:
    """A pass that Ctrl-C ends after a number of steps, in the middle of one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        run, self.left = Epoch.run, after

        def interrupted(training_pass: Epoch) -> None:
            run(training_pass)
            self.left -= 1
            if self.left < 0:
                training_pass.model.parameters.theta[::2] = np.nan
                raise KeyboardInterrupt

        monkeypatch.setattr(Epoch, "run", interrupted)


@pytest.mark.parametrize("after", [0, 1, 9])
def test_interruption_in_an_epoch_leaves_the_parameters_before_it(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    net = network()
    thetas = [net.parameters.copy()]
    Interrupted(monkeypatch, after)
    spy = thetas.append
    with pytest.raises(KeyboardInterrupt):
        fit(net, *data(12), epochs=60, callbacks=[lambda s: spy(s.network.parameters.copy())])
    np.testing.assert_array_equal(net.parameters, thetas[-1])
    assert np.isfinite(net.parameters).all()


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
@pytest.mark.parametrize("after", [0, 1, 9, 45, None])
def test_a_search_leaves_the_best_parameters_that_it_has_met(
    monkeypatch: pytest.MonkeyPatch, search: str | None, after: int | None
) -> None:
    """Interrupted in the middle of an evaluation, or at the end of the last step."""
    net = network()
    X, y = data(12)
    met = [(net.loss(X, y), net.parameters.copy())]
    evaluate = Trainer._evaluate

    def noting(self: Trainer) -> float:
        theta = net.parameters.copy()
        met.append((evaluate(self), theta))
        return met[-1][0]

    monkeypatch.setattr(Trainer, "_evaluate", noting)
    if after is not None:
        Interrupted(monkeypatch, after)
    with nullcontext() if after is None else pytest.raises(KeyboardInterrupt):
        # A rate at which J also grows if nothing searches along the line.
        fit(net, X, y, epochs=3, optimizer=LBFGS(5.0, line_search=search))
    best = min(range(len(met)), key=lambda k: met[k][0])
    np.testing.assert_array_equal(net.parameters, met[best][1])
    assert net.loss(X, y) <= met[0][0]


def test_a_search_leaves_its_last_parameters_if_they_are_the_best() -> None:
    """Without a line search a step ends in parameters whose J it has not evaluated."""
    net, ends = network(), []
    fit(
        net, *data(12), epochs=3, optimizer=LBFGS(0.1, max_iter=4, line_search=None),
        callbacks=[lambda s: ends.append(s.network.parameters.copy())],
    )  # fmt: skip
    np.testing.assert_array_equal(net.parameters, ends[-1])


def test_interruption_in_an_epoch_leaves_the_best_parameters_where_there_is_validation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = network(2, 30, 1)
    thetas: list[NDArray[Any]] = []
    losses: list[float] = []
    Interrupted(monkeypatch, 80)

    def note(state: TrainingState) -> None:
        thetas.append(state.network.parameters.copy())
        losses.append(state.logs["val_loss"])

    with pytest.raises(KeyboardInterrupt):
        fit(net, *data(12, 2, 1), epochs=60, validation_data=data(12, 2, 1, seed=4), learning_rate=0.05, callbacks=note)
    assert len(losses) == 40, "an epoch has a pass over the training data, and one over the validation data"
    np.testing.assert_array_equal(net.parameters, thetas[int(np.argmin(losses))])


def test_error_of_a_metric_or_a_callback_leaves_the_parameters_of_a_whole_epoch() -> None:
    calls = 0

    def metric(y: Any, p: Any) -> float:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise RuntimeError("mine")
        return 0.0

    def spoil(state: TrainingState) -> None:
        kept.append(state.network.parameters.copy())
        state.network.parameters[...] = np.nan
        raise RuntimeError("mine")

    kept: list[NDArray[Any]] = []
    net = network()
    with pytest.raises(RuntimeError, match="mine"):
        fit(net, *data(12), metrics=metric, callbacks=[lambda s: kept.append(s.network.parameters.copy())])
    assert len(kept) == 1, "the first call is before the first epoch"
    np.testing.assert_array_equal(net.parameters, kept[-1])
    with pytest.raises(RuntimeError, match="mine"):
        fit(net, *data(12), callbacks=spoil)
    np.testing.assert_array_equal(net.parameters, kept[-1])


@pytest.mark.parametrize("options", [{}, {"validation_data": data(5)}, {"optimizer": "lbfgs"}])
def test_three_vectors_of_parameters_are_kept(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before training, after the last epoch and after the best one; no epoch adds another."""
    copies: list[NDArray[Any]] = []
    take, net = Model.copied, network()
    monkeypatch.setattr(Model, "copied", lambda self, array: copies.append(take(self, array)) or copies[-1])  # type: ignore[func-returns-value]
    fit(net, *data(12), epochs=7, **options)
    assert len([copy for copy in copies if copy.size == net.parameters.size]) == 3


# A validation loss that is no finite number.


def test_validation_loss_that_is_not_finite_is_said_once_and_passed_over() -> None:
    (X, y), (V, v) = data(12), data(5, seed=9)
    net = network(dtype="float32", activation="identity")
    with pytest.warns(RuntimeWarning, match=r"validation loss of epoch 1 is inf, .*if all are, the last") as caught:
        history = net.fit(X, y, validation_data=(V * 1e30, v), epochs=3, progress=False)
    assert len(caught) == 1
    assert caught[0].filename == __file__, "the warning is about the call of fit"
    assert history["val_loss"] == [math.inf] * 3
    assert history.best_epoch is None
    twin = network(dtype="float32", activation="identity")
    fit(twin, X, y)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_epochs_of_a_finite_validation_loss_are_chosen_from(monkeypatch: pytest.MonkeyPatch) -> None:
    net, thetas, found = network(), [], iter([math.nan, 3.0, -math.inf, 4.0])
    monkeypatch.setattr(Trainer, "_held_out", lambda self, check, data: next(found))
    with pytest.warns(RuntimeWarning, match="validation loss of epoch 1 is nan"):
        history = fit(
            net, *data(12), epochs=4, validation_data=data(5),
            callbacks=[lambda s: thetas.append(s.network.parameters.copy())],
        )  # fmt: skip
    assert history.best_epoch == 2
    np.testing.assert_array_equal(net.parameters, thetas[1])


# Divergence.


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("rates", "better"), [([30.0], False), ([1e-3] * 5 + [100.0], False), ([0.1] * 5 + [0.0, 100.0], True)], ids=repr
)
def test_divergence_keeps_the_initial_or_the_best_parameters(rates: list[float], better: bool, seed: int) -> None:
    """From the first step on; with the lowest loss before the first bad step, or before one that changes nothing."""
    net = network(3, 1, dtype="float32", seed=seed)
    X, y = data(20, 3, 1)
    thetas, before = [net.parameters.copy()], net.loss(X, y)
    with pytest.raises(DivergenceError, match=r"epoch \d+ ended with .*Lower the learning rate \(it was") as caught:
        fit(
            net, X, y, epochs=200, batch_size=None, optimizer=SGD(1.0),
            schedule=lambda epoch: rates[min(int(epoch), len(rates) - 1)],
            callbacks=[lambda s: thetas.append(s.network.parameters.copy())],
        )  # fmt: skip
    history = caught.value.history
    assert net.history is history
    assert 2 < len(thetas) < 200
    assert history.epochs == len(thetas) - 1
    best = 1 + int(np.argmin(history["loss"]))
    after, theta = net.loss(X, y), net.parameters.copy()
    net.parameters[...] = thetas[best]
    assert (net.loss(X, y) < before) == better
    np.testing.assert_array_equal(theta, thetas[best if better else 0])
    kept = f"the parameters of epoch {best}" if better else "the initial parameters"
    assert f"The network keeps {kept}, whose J is {after:.4g}. Lower" in str(caught.value)


def test_divergence_in_the_first_epoch_keeps_the_initial_parameters() -> None:
    net = network(3, 1, dtype="float32")
    before = net.parameters.copy()
    with pytest.raises(DivergenceError, match="The network keeps the initial parameters, whose J is"):
        fit(net, *data(20, 3, 1), optimizer=SGD(1e30))
    np.testing.assert_array_equal(net.parameters, before)


def test_network_trains_on_after_divergence() -> None:
    net, twin = network(3, 1, dtype="float32"), network(3, 1, dtype="float32")
    X, y = data(20, 3, 1)
    with pytest.raises(DivergenceError):
        fit(net, X, y, batch_size=None, optimizer=SGD(1e30))
    np.testing.assert_array_equal(fit(net, X, y, batch_size=None)["loss"], fit(twin, X, y, batch_size=None)["loss"])


def test_parameters_that_are_not_finite_are_divergence_though_the_loss_is() -> None:
    """With one epoch of one batch the loss is that before the update."""
    net = network(3, 1, dtype="float32")
    with pytest.raises(DivergenceError, match="parameters that are too large or not finite, and"):
        fit(net, *data(20, 3, 1), epochs=1, batch_size=None, optimizer=SGD(1e39))
