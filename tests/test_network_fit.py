"""Network.fit and partial_fit: what they check before anything changes, their defaults, the validation split."""

from __future__ import annotations

import gc
import pickle
import warnings
import weakref
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from strict_backend import StrictBackend

import nnbp
import nnbp.metrics
from nnbp import DataError, Dense, DivergenceError, Dropout, Network, NnbpError, ShapeError
from nnbp.engine.epoch import Epoch


def network(*sizes: int, **options: Any) -> Network:
    return Network(list(sizes or (3, 4, 2)), **{"device": "cpu", "seed": 0, "activation": "tanh", **options})


def classifier(**options: Any) -> Network:
    return network(loss="cross_entropy", **options)


X = np.random.default_rng(0).normal(size=(20, 3))
Y = np.random.default_rng(1).normal(size=(20, 2))
LABELS = np.random.default_rng(2).integers(0, 2, 20)
QUIET: dict[str, Any] = {"progress": False, "epochs": 2}


def named(name: str) -> Any:
    """A metric of this name."""

    def metric(y: Any, p: Any) -> float:
        return 0.0

    metric.__name__ = name
    return metric


# fit: its arguments.


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"epochs": 0}, ValueError, "epochs is a whole number, at least 1; received 0"),
        ({"epochs": 1.0}, ValueError, "epochs"),
        ({"batch_size": 0}, ValueError, "batch_size is a whole number, at least 1; received 0"),
        ({"batch_size": "auto"}, ValueError, "batch_size.*received 'auto'"),
        ({"optimizer": "adma"}, ValueError, "did you mean 'adam'"),
        ({"optimizer": None}, ValueError, "optimizer.*received None"),
        ({"learning_rate": -1}, ValueError, "learning_rate.*received -1"),
        ({"learning_rate": "fast"}, ValueError, "learning_rate.*received 'fast'"),
        ({"learning_rate": np.nan}, ValueError, "learning_rate.*received nan"),
        ({"schedule": "cosin"}, ValueError, "did you mean 'cosine'"),
        ({"validation_data": (X,)}, ValueError, r"validation_data is \(X, y\).*received tuple of 1"),
        ({"validation_data": X}, ValueError, r"validation_data is \(X, y\).*received ndarray"),
        ({"validation_data": (X[:, :2], LABELS)}, ShapeError, r"here \(m, 3\)"),
        ({"validation_data": (X, LABELS + 5)}, DataError, "Class indices"),
        ({"validation_split": 1.0}, ValueError, r"validation_split.*received 1\.0"),
        ({"validation_split": -0.1}, ValueError, r"validation_split.*received -0\.1"),
        ({"validation_split": 0.1, "validation_data": (X, LABELS)}, ValueError, "not both"),
        ({"sample_weight": [1, 2]}, ShapeError, r"sample_weight has one number per sample, \(20,\)"),
        ({"sample_weight": -np.ones(20)}, DataError, "at least 0"),
        ({"class_weight": "auto"}, ValueError, "'balanced' or None; received 'auto'"),
        ({"class_weight": {"a": 1}}, DataError, "received 'a'"),
        ({"early_stopping": 0}, ValueError, "patience.*at least 1"),
        ({"early_stopping": "yes"}, ValueError, "early_stopping.*received 'yes'"),
        ({"callbacks": [3]}, TypeError, "callback.*received 3"),
        ({"metrics": ["acuracy"]}, ValueError, "did you mean 'accuracy'"),
        ({"metrics": [lambda y, p: 0.0], "sample_weight": np.ones(20)}, TypeError, "sample_weight=None"),
        ({"metrics": "mse"}, ShapeError, "y_pred of mse has the shape of y_true"),
        (
            {"metrics": ["accuracy", "f1_macro", "accuracy"]},
            ValueError,
            "no other's; received .* f1_macro, acc",
        ),
        ({"metrics": [named("loss")]}, ValueError, "name of its own in a history.*received metrics named loss"),
        ({"metrics": named("val_loss")}, ValueError, "not beginning with val_.*received metrics named val_loss"),
        ({"early_stopping": nnbp.EarlyStopping(monitor="val_loss")}, ValueError, "received monitor='val_loss'"),
        ({"callbacks": [nnbp.EarlyStopping(monitor="mae")]}, ValueError, "here loss; received monitor='mae'"),
        ({"schedule": "cosine", "optimizer": "rprop"}, ValueError, r"rprop sets its steps itself; received .*Cosine\("),
        ({"schedule": lambda epoch: 0.5, "optimizer": "lbfgs"}, ValueError, "lbfgs sets its steps itself"),
        ({"progress": "bar"}, ValueError, "progress.*received 'bar'"),
        ({"clip_norm": 0}, ValueError, "clip_norm is a positive bound.*received 0"),
        ({"clip_norm": -1.0}, ValueError, r"clip_norm.*received -1\.0"),
        ({"clip_norm": "1"}, ValueError, "clip_norm.*received '1'"),
        ({"clip_norm": 1.0, "optimizer": "lbfgs"}, ValueError, "lbfgs.*clip_norm.*received both"),
    ],
)
def test_arguments_of_fit_are_checked_before_anything_changes(arguments: Any, error: Any, said: str) -> None:
    net = classifier()
    before, order = net.parameters.copy(), net.model.order_generator.bit_generator.state
    with pytest.raises(error, match=said):
        net.fit(X, LABELS, **{**QUIET, **arguments})
    np.testing.assert_array_equal(net.parameters, before)
    assert net.model.order_generator.bit_generator.state == order


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "roc_auc"])
def test_metrics_of_classes_do_not_go_with_values(metric: str) -> None:
    net = network()
    before = net.parameters.copy()
    for use in (lambda: net.fit(X, Y, metrics=metric, **QUIET), lambda: net.evaluate(X, Y, metrics=[metric])):
        with pytest.raises(ValueError, match=f"metric {metric} is for classes.*Use r2, rmse, or train with loss="):
            use()
    np.testing.assert_array_equal(net.parameters, before)


def test_metric_of_two_classes_is_refused_for_three_before_anything_changes() -> None:
    net = network(3, 3, loss="cross_entropy")
    before = net.parameters.copy()
    with pytest.raises(DataError, match="roc_auc is defined for two classes"):
        net.fit(X, np.arange(20) % 3, metrics=["roc_auc"], **QUIET)
    np.testing.assert_array_equal(net.parameters, before)


def test_one_metric_needs_no_list() -> None:
    metric = named("mine")
    for given, name in ((metric, "mine"), (nnbp.metrics.RMSE(), "rmse"), ("mae", "mae")):
        assert list(network().fit(X, Y, metrics=given, **QUIET)) == ["loss", name]
        assert list(network().evaluate(X, Y, metrics=given)) == ["loss", name]


@pytest.mark.parametrize("optimizer", ["rprop", "lbfgs"])
def test_rules_that_set_their_steps_take_the_constant_schedule(optimizer: str) -> None:
    rates: list[float] = []
    options = {
        "schedule": "constant",
        "learning_rate": 0.05,
        "callbacks": lambda state: rates.append(state.learning_rate),
    }
    network().fit(X, Y, optimizer=optimizer, **options, **QUIET)
    assert rates == [0.05, 0.05]


@pytest.mark.parametrize(
    ("A", "y", "error", "said"),
    [
        (X[0], LABELS, ShapeError, r"X\.reshape\(1, -1\)"),
        (X[:, :2], LABELS, ShapeError, r"here \(m, 3\); received shape \(20, 2\)"),
        (X[:0], LABELS[:0], ShapeError, "at least one sample"),
        (X.astype(str), LABELS, nnbp.DTypeError, "X holds real numbers"),
        (np.where(X > 1, np.nan, X), LABELS, DataError, r"received nan in row \d+, column \d"),
        (X * 1e300, LABELS, DataError, r"float32; received -?inf"),
        (X, LABELS[:5], ShapeError, r"one target per sample, 20 here; received shape \(5,\)"),
        (X, 1, ShapeError, r"received shape \(\)"),
        (X, LABELS + 1, DataError, "from 0 to 1.*received 2"),
        (X, LABELS.astype(str), nnbp.DTypeError, r"np\.unique"),
        (X, np.where(LABELS, np.nan, 0.0), DataError, r"Targets are finite numbers.*float32; received nan in row \d+"),
        (X, LABELS * 1e39, DataError, r"Targets are finite numbers.*float32; received 1e\+39 in row \d+.*scale large"),
        (X, np.eye(3)[LABELS], ShapeError, r"rows \(m, 2\).*\(20, 3\)"),
    ],
)
def test_data_of_fit_are_checked(A: Any, y: Any, error: Any, said: str) -> None:
    net = classifier()
    before = net.parameters.copy()
    for use in (net.fit, net.partial_fit):
        with pytest.raises(error, match=said):
            use(A, y, **(QUIET if use == net.fit else {}))
    np.testing.assert_array_equal(net.parameters, before)


def test_errors_are_of_nnbp_and_of_python() -> None:
    for error, base in ((ShapeError, ValueError), (nnbp.DTypeError, TypeError), (DataError, ValueError)):
        assert issubclass(error, NnbpError)
        assert issubclass(error, base)
    assert issubclass(DivergenceError, NnbpError)
    assert issubclass(nnbp.DeviceUnavailableError, NnbpError)
    assert issubclass(nnbp.ModelFileError, NnbpError)


def test_class_weight_belongs_to_classes() -> None:
    with pytest.raises(ValueError, match=r"class_weight belongs to classes.*squared_error.*Use sample_weight"):
        network().fit(X, Y, class_weight={0: 1.0}, **QUIET)
    with pytest.raises(ShapeError, match="class_weight goes by the one class"):
        network(loss="binary_cross_entropy").fit(X, Y > 0, class_weight="balanced", **QUIET)


def test_defaults_of_fit() -> None:
    """Adam with its own learning rate, batches of 32, shuffled."""
    A = np.random.default_rng(0).normal(size=(50, 3))
    y = A[:, :2]
    plain, said = network(), network()
    plain.fit(A, y, **QUIET)
    said.fit(A, y, optimizer=nnbp.Adam(1e-3), batch_size=32, shuffle=True, schedule="constant", **QUIET)
    np.testing.assert_array_equal(plain.parameters, said.parameters)


def test_fit_defaults_to_a_hundred_epochs() -> None:
    assert network().fit(X, Y, progress=False).epochs == 100


def test_fit_goes_on_from_where_the_network_stands() -> None:
    net = network()
    first = net.fit(X, Y, progress=False, epochs=30)
    second = net.fit(X, Y, progress=False, epochs=30)
    assert second["loss"][0] < first["loss"][0]


def test_validation_split_is_drawn_with_the_seed_and_kept_from_training() -> None:
    net, same, other = network(), network(), network(seed=1)
    (kept, aside), again, differs = (
        each._adapter.split(each._adapter.read(X, Y)[1], 0.25, each.seed) for each in (net, same, other)
    )
    assert kept.weights is None
    A, y, V, v = kept.X, kept.targets, aside.X, aside.targets
    assert (len(A), len(V)) == (15, 5)
    np.testing.assert_array_equal(again[1].targets, v)
    assert not np.array_equal(differs[1].targets, v)
    everything = np.concatenate([y, v])
    np.testing.assert_array_equal(np.sort(everything[:, 0]), np.sort(Y[:, 0]))
    history = net.fit(X, Y, validation_split=0.25, **QUIET)
    by_hand = same.fit(A, y, validation_data=(V, v), **QUIET)
    assert history["val_loss"] == by_hand["val_loss"]


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_validation_split_leaves_samples_on_both_sides(share: float) -> None:
    assert "val_loss" in network().fit(X, Y, validation_split=share, **QUIET)
    with pytest.raises(ValueError, match="at least 2 samples; received 1"):
        network().fit(X[:1], Y[:1], validation_split=share, **QUIET)


def test_no_warning_reaches_the_caller() -> None:
    """Saturated units, huge inputs and a run that diverges: the engine computes with NumPy's warnings off."""
    net = Network([3, 8, 2], loss="cross_entropy", activation="sigmoid", device="cpu", seed=0)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        net.fit(X * 1e6, LABELS, **QUIET)
        net.predict(X * 1e30)
        net.loss(X * 1e30, LABELS)
        net.gradients(X * 1e30, LABELS)
        net.evaluate(X * 1e30, LABELS)


# partial_fit.


def test_partial_fit_goes_on() -> None:
    """Two calls with Adam are two epochs of fit without shuffling."""
    one, other = network(), network()
    for _ in range(2):
        assert one.partial_fit(X, Y, batch_size=8) is one
    other.fit(X, Y, batch_size=8, shuffle=False, **QUIET)
    np.testing.assert_array_equal(one.parameters, other.parameters)


@pytest.mark.parametrize("backend", ["numpy", "strict"])
def test_partial_fit_prepares_again_only_what_changes(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other samples and weights are taken up, whatever was prepared for those before them."""
    made: list[Epoch] = []
    prepare = Epoch.__init__
    monkeypatch.setattr(
        Epoch, "__init__", lambda self, *args, **options: made.append(self) or prepare(self, *args, **options)
    )
    device = StrictBackend() if backend == "strict" else "cpu"
    net, anew = (Network([3, Dense(6, "tanh"), Dropout(0.3), 2], device=device, seed=1) for _ in range(2))
    w = np.linspace(0.1, 2.0, 20)
    calls: list[tuple[slice, Any, int | None]] = [
        (slice(0, 8), None, 4), (slice(8, 16), None, 4), (slice(0, 8), w[:8], 4), (slice(8, 16), w[8:16], 4),
        (slice(0, 5), None, None), (slice(5, 10), None, None), (slice(5, 10), None, 2), (slice(0, 5), None, 2),
    ]  # fmt: skip
    for rows, weights, size in calls:
        net.partial_fit(X[rows], Y[rows], batch_size=size, sample_weight=weights)
    assert len(made) == len(calls) / 2
    monkeypatch.setattr("nnbp.network._KEPT", 0)
    given = X.copy()
    for rows, weights, size in calls:
        anew.partial_fit(X[rows], Y[rows], batch_size=size, sample_weight=weights)
    assert len(made) == len(calls) * 3 / 2
    for mine, other in zip(net.copy().to("cpu").weights, anew.copy().to("cpu").weights, strict=True):
        np.testing.assert_array_equal(mine, other)
    np.testing.assert_array_equal(X, given)


def test_partial_fit_keeps_nothing_of_the_caller_alive() -> None:
    net, large = network(), np.zeros((1000, 2), np.float32)
    net.partial_fit(X, large[:20], sample_weight=np.ones(20))
    net.partial_fit(X, large[:20], sample_weight=np.ones(20))
    alive = weakref.ref(net), weakref.ref(large)
    gc.disable()
    try:
        del large
        assert alive[1]() is None
        del net
        assert alive[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("first", ["set_parameters", "to", "pickle"])
def test_partial_fit_goes_on_from_changed_parameters_and_places(first: str) -> None:
    net, twin = network(), network()
    net.partial_fit(X, Y)
    net.partial_fit(X, Y)
    for _ in range(2):
        twin.partial_fit(X, Y)
        twin._prepared = None
    for each in (net, twin):
        if first == "set_parameters":
            each.set_parameters([2 * W for W in each.weights], each.biases)
        elif first == "to":
            each.to("cpu")
    if first == "pickle":
        net, twin = (pickle.loads(pickle.dumps(each)) for each in (net, twin))
    for each in (net, twin):
        each.partial_fit(-X, Y)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_partial_fit_begins_anew_with_another_rule_or_after_fit() -> None:
    def after(*steps: Any) -> NDArray[Any]:
        net = network(dtype="float64")
        for step in steps:
            step(net)
        return net.parameters.copy()

    def part(net: Network) -> None:
        net.partial_fit(X, Y, learning_rate=0.01)

    def other_rate(net: Network) -> None:
        net.partial_fit(X, Y, learning_rate=0.0)

    def still_fit(net: Network) -> None:
        net.fit(X, Y, epochs=1, learning_rate=0.0, progress=False)

    on = after(part, part)
    assert not np.array_equal(after(part, other_rate, part), on)
    np.testing.assert_array_equal(after(part, other_rate, part), after(part, still_fit, part))


def test_partial_fit_refuses_rules_of_the_full_batch() -> None:
    for rule in ("rprop", "lbfgs"):
        with pytest.raises(ValueError, match=f"{rule} needs all of it"):
            network().partial_fit(X, Y, optimizer=rule)


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"sample_weight": [1.0]}, {"learning_rate": -1.0}])
def test_partial_fit_that_is_refused_forgets_nothing(arguments: Any) -> None:
    net, twin = network(), network()
    for each in (net, twin):
        each.partial_fit(X, Y, optimizer="rmsprop")
    with pytest.raises(ValueError, match="received"):
        net.partial_fit(X, Y, **arguments)
    for each in (net, twin):
        each.partial_fit(X, Y, optimizer="rmsprop")
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_partial_fit_recovers_from_divergence() -> None:
    """What the optimizer remembered of the bad batch is forgotten with it."""
    net, twin = network(), network()
    for each in (net, twin):
        each.partial_fit(X, Y)
    before = net.parameters.copy()
    with pytest.raises(DivergenceError):
        net.partial_fit(X, np.full((20, 2), 1e38))
    assert net._ongoing is None
    np.testing.assert_array_equal(net.parameters, before)
    twin.fit(X, Y, epochs=1, learning_rate=0.0, progress=False)
    for each in (net, twin):
        each.partial_fit(X, Y)
    assert not np.array_equal(net.parameters, before)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_partial_fit_learns_with_weights() -> None:
    net = network()
    w = np.zeros(20)
    w[0] = 1
    for _ in range(60):
        net.partial_fit(X, Y, learning_rate=0.05, sample_weight=w, batch_size=None)
    np.testing.assert_allclose(net.forward(X[:1]), Y[:1], atol=0.05)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_class_weights_as_an_array_are_those_by_class(loss: str) -> None:
    """An array with one weight per class, as `sklearn.utils.class_weight.compute_class_weight` returns it."""
    labels, n_out = (LABELS, 3) if loss == "cross_entropy" else (LABELS % 2, 1)
    weights = np.array([0.5, 2.0, 3.0][: max(2, n_out)])
    found = []
    for class_weight in (weights, dict(enumerate(weights.tolist()))):
        net = Network([3, 4, n_out], loss=loss, device="cpu", seed=0)
        net.fit(X, labels, epochs=2, class_weight=class_weight, validation_split=0.25, progress=False)
        found.append(net.parameters)
    np.testing.assert_array_equal(*found)
    with pytest.raises(
        ShapeError, match=rf"one weight for each class, \({len(weights)},\) here; received shape \(4,\)"
    ):
        net.fit(X, labels, class_weight=np.ones(4))


def test_soft_targets_are_evaluated_without_the_accuracy_that_they_do_not_have() -> None:
    soft = np.linspace(0, 1, len(X))
    net = Network([3, 4, 1], loss="bce", device="cpu", seed=0)
    net.fit(X, soft, epochs=1, progress=False)
    assert net.evaluate(X, soft) == {"loss": net.loss(X, soft)}
    assert net.evaluate(X, soft, metrics=["mse"])["mse"] == pytest.approx(
        np.mean((net.forward(X)[:, 0] - soft) ** 2), rel=1e-5
    )
    with pytest.raises(DataError, match=r"y_true of accuracy holds whole numbers; received 0\.05.* class indices, not"):
        net.evaluate(X, soft, metrics=["accuracy"])
    assert set(net.evaluate(X, soft > 0.5)) == {"loss", "accuracy"}
