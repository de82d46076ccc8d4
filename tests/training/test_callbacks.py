"""Callbacks: when they are called and with what, the history, and early stopping."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest

from nnbp import Callback, DivergenceError, EarlyStopping, MissingDependencyError, Network, NnbpError
from nnbp.training.callbacks import FunctionCallback, History, TrainingState, early_stopping, listed


class Spy(Callback):
    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def on_train_begin(self, state: TrainingState) -> None:
        self.calls.append(("begin", state.epoch))

    def on_epoch_end(self, state: TrainingState) -> None:
        self.calls.append(("epoch", state.epoch))

    def on_train_end(self, state: TrainingState) -> None:
        self.calls.append(("end", state.epoch))


def fit(**options: Any) -> tuple[Network, History]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 2))
    net = Network([2, 3, 1], device="cpu", seed=0)
    return net, net.fit(X, X[:, 0], **{"epochs": 3, "progress": False, **options})


def test_order_of_calls() -> None:
    spy = Spy()
    fit(callbacks=[spy])
    assert spy.calls == [("begin", 0), ("epoch", 1), ("epoch", 2), ("epoch", 3), ("end", 3)]


def test_function_is_called_after_every_epoch() -> None:
    seen: list[dict[str, Any]] = []

    def note(state: TrainingState) -> None:
        seen.append({**state.logs, "epoch": state.epoch, "of": state.epochs, "history": state.history["loss"][-1]})

    _, history = fit(callbacks=[note], validation_split=0.2, metrics=["mae"])
    assert [entry["epoch"] for entry in seen] == [1, 2, 3]
    assert set(seen[0]) == {"loss", "mae", "val_loss", "val_mae", "epoch", "of", "history"}
    assert [entry["loss"] for entry in seen] == [entry["history"] for entry in seen] == history["loss"]


def test_state_shows_the_network_and_the_rate() -> None:
    seen: list[Any] = []
    net, _ = fit(callbacks=[lambda state: seen.append((state.network, state.learning_rate))], learning_rate=0.25)
    assert all(network is net for network, _ in seen)
    assert [rate for _, rate in seen] == [0.25] * 3


def test_callback_may_end_training() -> None:
    def stop(state: TrainingState) -> None:
        if state.epoch == 2:
            state.stop = "enough"

    _, history = fit(callbacks=[stop], epochs=50)
    assert history.epochs == 2
    assert history.stopped == "enough"


def test_end_is_called_when_training_fails() -> None:
    spy = Spy()

    def fail(state: TrainingState) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fit(callbacks=[spy, fail])
    assert spy.calls == [("begin", 0), ("epoch", 1), ("end", 1)]


def test_end_is_called_when_training_diverges() -> None:
    spy = Spy()
    with pytest.raises(DivergenceError):
        fit(callbacks=[spy], optimizer="sgd", learning_rate=1e30)
    assert spy.calls[-1][0] == "end"


class Failing(Spy):
    """Fails at one of its calls."""

    def __init__(self, at: str, error: BaseException) -> None:
        super().__init__()
        self.at, self.error = at, error

    def _fail(self, at: str) -> None:
        if at == self.at:
            raise self.error

    def on_train_begin(self, state: TrainingState) -> None:
        super().on_train_begin(state)
        self._fail("begin")

    def on_epoch_end(self, state: TrainingState) -> None:
        super().on_epoch_end(state)
        self._fail("epoch")

    def on_train_end(self, state: TrainingState) -> None:
        super().on_train_end(state)
        self._fail("end")


def test_who_has_begun_is_ended_when_another_fails_to_begin() -> None:
    first, second, third = Spy(), Failing("begin", RuntimeError("mine")), Spy()
    with pytest.raises(RuntimeError, match="mine"):
        fit(callbacks=[first, second, third])
    assert first.calls == [("begin", 0), ("end", 0)]
    assert second.calls == [("begin", 0)]
    assert third.calls == []


def test_who_fails_to_end_does_not_keep_others_from_it() -> None:
    first, second = Failing("end", RuntimeError("mine")), Spy()
    with pytest.raises(RuntimeError, match="mine"):
        fit(callbacks=[first, second])
    assert second.calls[-1] == ("end", 3)


@pytest.mark.parametrize("error", [RuntimeError("first"), KeyboardInterrupt(), StopIteration("first")])
def test_first_error_is_raised_and_those_of_the_end_are_noted_on_it(error: BaseException) -> None:
    last = Spy()
    with pytest.raises(type(error)) as caught:
        fit(callbacks=[Failing("epoch", error), Failing("end", ValueError("second")), last])
    assert caught.value is error
    assert error.__notes__ == ["After it, on_train_end of Failing failed: ValueError('second')"]
    assert last.calls[-1] == ("end", 1)


def test_numpy_warns_in_what_is_the_users() -> None:
    """The engine computes with NumPy's warnings off; callbacks, metrics and schedules are not the engine."""
    states: list[dict[str, str]] = []

    def metric(y: Any, p: Any) -> float:
        states.append(np.geterr())
        return 0.0

    def schedule(epoch: float) -> float:
        states.append(np.geterr())
        return 1.0

    class Look(Callback):
        def on_train_begin(self, state: TrainingState) -> None:
            states.append(np.geterr())

        def on_train_end(self, state: TrainingState) -> None:
            states.append(np.geterr())

    with np.errstate(over="raise", invalid="print"):
        here = np.geterr()
        fit(callbacks=[Look(), lambda state: states.append(np.geterr())], metrics=[metric], schedule=schedule)
    assert len(states) > 9
    assert all(state == here for state in states)


def test_callback_sees_weights_of_the_epoch() -> None:
    seen: list[Any] = []
    net, _ = fit(callbacks=[lambda state: seen.append(state.network.parameters.copy())])
    assert not np.array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[-1], net.parameters)


def test_listed_makes_objects() -> None:
    spy = Spy()
    found = listed([spy, print])
    assert found[0] is spy
    assert isinstance(found[1], FunctionCallback)
    assert isinstance(listed(print)[0], FunctionCallback)
    assert listed(spy) == [spy]


@pytest.mark.parametrize("wrong", [[3], ["adam"], [None], [Spy]])
def test_listed_refuses_what_cannot_be_called(wrong: Any) -> None:
    with pytest.raises(TypeError, match="function of the TrainingState; received"):
        listed(wrong)


# The history.


def test_history_is_a_mapping_of_lists() -> None:
    _, history = fit(metrics=["mae"])
    assert list(history) == ["loss", "mae"]
    assert len(history) == 2
    assert "mae" in history
    assert "val_loss" not in history
    assert history.epochs == len(history["loss"]) == len(history["mae"]) == 3
    assert all(type(value) is float for value in history["loss"])
    assert history.seconds > 0
    assert history.best_epoch is None
    assert history.stopped is None
    assert repr(history).startswith("History(3 epochs, ")


def test_history_says_what_it_holds() -> None:
    with pytest.raises(KeyError, match="holds loss; received 'val_loss'"):
        fit()[1]["val_loss"]
    with pytest.raises(KeyError, match="nothing yet"):
        History()["loss"]
    assert repr(History()) == "History(0 epochs, 0 s)"


# Early stopping.


def state(**logs: float) -> TrainingState:
    return TrainingState(None, 100, History(), logs=logs, greater_is_better=dict.fromkeys(logs, False))


def feed(stopping: EarlyStopping, values: list[float], name: str = "loss", greater: bool = False) -> int | None:
    """The epoch after which training stops."""
    for epoch, value in enumerate([math.nan, *values]):
        now = state(**{name: value})
        now.greater_is_better = {name: greater}
        if epoch == 0:
            stopping.on_train_begin(now)
            continue
        stopping.on_epoch_end(now)
        if now.stop:
            return epoch
    return None


def test_patience_counts_epochs_without_a_lower_value() -> None:
    assert feed(EarlyStopping(2), [3, 2, 2, 2]) == 4
    assert feed(EarlyStopping(2), [3, 2, 2.5, 1, 1.5, 1.2]) == 6
    assert feed(EarlyStopping(2), [5, 4, 3, 2, 1]) is None
    assert feed(EarlyStopping(1), [1, 1]) == 2


def test_min_delta_is_how_much_lower_counts() -> None:
    assert feed(EarlyStopping(2, min_delta=0.5), [3, 2.8, 2.6]) == 3
    assert feed(EarlyStopping(2, min_delta=0.5), [3, 2.4, 1.8]) is None


def test_nan_does_not_count_as_better() -> None:
    assert feed(EarlyStopping(2), [1, math.nan, math.nan]) == 3


def test_training_begins_anew() -> None:
    stopping = EarlyStopping(2)
    assert feed(stopping, [1, 1, 1]) == 3
    assert feed(stopping, [9, 8, 7]) is None


def test_validation_is_watched_where_there_is_some() -> None:
    stopping = EarlyStopping(1)
    now = state(loss=3.0, val_loss=1.0)
    stopping.on_epoch_end(now)
    assert stopping.best == 1.0
    now = state(loss=2.0, val_loss=1.5)
    stopping.on_epoch_end(now)
    assert now.stop == "val_loss has not improved on 1 for 1 epoch"


def test_other_values_can_be_watched() -> None:
    assert feed(EarlyStopping(1, monitor="mae"), [2, 1, 1], "mae") == 3
    with pytest.raises(ValueError, match=r"every epoch has, here loss, val_loss; received monitor='mae'\. Name one"):
        EarlyStopping(1, monitor="mae").on_train_begin(state(loss=1.0, val_loss=1.0))


def test_metric_that_rises_becomes_better() -> None:
    assert feed(EarlyStopping(2, 0.0, "val_accuracy"), [0.1, 0.2, 0.3, 0.4], "val_accuracy", greater=True) is None
    assert feed(EarlyStopping(2, monitor="val_accuracy"), [0.5, 0.6, 0.4, 0.3, 0.2], "val_accuracy", greater=True) == 4
    assert feed(EarlyStopping(2, 0.2, "val_accuracy"), [0.1, 0.2, 0.3, 0.4], "val_accuracy", greater=True) == 3


@pytest.mark.parametrize("greater", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_value_that_is_not_finite_never_counts_as_better(bad: float, greater: bool) -> None:
    assert feed(EarlyStopping(2), [bad, bad, bad], greater=greater) == 2
    assert feed(EarlyStopping(2), [bad, 1.0, bad, bad], greater=greater) == 4
    stopping, now = EarlyStopping(1), state(loss=bad)
    stopping.on_train_begin(now)
    stopping.on_epoch_end(now)
    assert now.stop == "loss has not been a number for 1 epoch"


def test_direction_of_a_metric_is_its_own() -> None:
    """In a training: at learning rate 0 nothing changes, so that only what rises by itself is better."""
    rising, falling = iter(range(100)), iter(range(100, 0, -1))

    def score(y: Any, p: Any) -> float:
        return float(next(rising))

    def error(y: Any, p: Any) -> float:
        return float(next(falling))

    error.greater_is_better = False  # type: ignore[attr-defined]
    seen: list[TrainingState] = []
    for name in ("score", "error"):
        stopping = EarlyStopping(2, monitor=name)
        options = {"metrics": [score, error], "early_stopping": stopping, "callbacks": [seen.append]}
        assert fit(learning_rate=0.0, epochs=9, **options)[1].epochs == 9
    assert seen[-1].greater_is_better == {"loss": False, "score": True, "error": False}


def test_stopping_ends_fit() -> None:
    _, history = fit(learning_rate=0.0, epochs=50, early_stopping=4)
    assert history.epochs == 5
    assert history.stopped is not None
    assert "4 epochs" in history.stopped
    assert fit(learning_rate=0.0, epochs=50, early_stopping=True)[1].epochs == 11
    assert fit(learning_rate=0.0, epochs=5, early_stopping=False)[1].epochs == 5


def test_what_stands_for_early_stopping() -> None:
    own = EarlyStopping(3)
    assert early_stopping(own) is own
    assert early_stopping(None) is None
    assert early_stopping(False) is None
    for spec, patience in ((True, 10), (7, 7), (np.int64(7), 7)):
        made = early_stopping(spec)
        assert made is not None
        assert made.patience == patience


@pytest.mark.parametrize("wrong", ["yes", 2.5, [3]])
def test_what_does_not(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"its patience in epochs.*received"):
        early_stopping(wrong)


@pytest.mark.parametrize("wrong", [0, -1, "3", 2.5, None, True])
def test_patience_out_of_range(wrong: Any) -> None:
    with pytest.raises(ValueError, match=rf"patience.*whole number, at least 1; received {wrong!r}"):
        EarlyStopping(wrong)


@pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf, "0.1", None])
def test_min_delta_out_of_range(wrong: Any) -> None:
    with pytest.raises(ValueError, match=rf"min_delta.*at least 0; received {wrong!r}"):
        EarlyStopping(min_delta=wrong)


def test_name_that_no_epoch_has_is_refused_before_the_first_one() -> None:
    spy = Spy()
    with pytest.raises(ValueError, match=r"here loss, mae; received monitor='val_loss'"):
        fit(callbacks=[spy, EarlyStopping(3, monitor="val_loss")], metrics="mae")
    assert spy.calls == [("begin", 0), ("end", 0)]


@pytest.mark.parametrize("how", ["a value that nothing measures", "an error of its own"])
def test_a_callback_that_refuses_to_begin_leaves_everything_as_it_was(how: str) -> None:
    class Refusing(Callback):
        def on_train_begin(self, state: TrainingState) -> None:
            raise ValueError("not with me")

    refusing = EarlyStopping(monitor="nope") if how[:7] == "a value" else Refusing()
    X, y = np.random.default_rng(0).normal(size=(12, 3)), np.arange(12) % 2
    net, twin = (Network([3, 4, 2], loss="cross_entropy", device="cpu", seed=0) for _ in range(2))
    unsized = Network(loss="cross_entropy", device="cpu", seed=0)
    for each in (net, twin):
        each.partial_fit(X, y)
    for each in (net, unsized):
        with pytest.raises(ValueError, match=r"nope|not with me"):
            each.fit(X, y, epochs=1, callbacks=[refusing], progress=False)
    with pytest.raises(NnbpError, match="taken from the data"):
        _ = unsized.model
    for each in (net, twin):
        each.partial_fit(X, y)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_a_history_draws_its_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    history = History()
    with pytest.raises(ValueError, match="after its first epoch; received one without epochs"):
        history.plot()
    for loss in (1.0, 0.5):
        history.append({"loss": loss, "f1_macro": 0.1, "val_loss": loss, "val_f1_macro": 0.2})
    history.best_epoch = 2
    axes = history.plot()
    assert [panel.get_title(loc="left") for panel in axes] == ["loss", "f1_macro"]
    assert pyplot.get_fignums(), "pyplot shows it"
    assert {line.get_label() for line in axes[0].lines} >= {"training", "validation", "best epoch: 2"}
    pyplot.close("all")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingDependencyError, match="matplotlib"):
        history.plot()
