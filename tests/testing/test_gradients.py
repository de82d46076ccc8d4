"""The gradient check: it passes what is right, fails what is wrong, and knows a kink from an error."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import nnbp
from nnbp.engine.model import Model
from nnbp.nn.activations import Activation
from nnbp.nn.losses import Loss
from nnbp.testing import example_problem
from nnbp.testing.gradients import check_gradients


def by_name(report):
    return {row.name: row for row in report.rows}


def test_every_array_is_checked_and_agrees():
    net, X, y = example_problem([3, 5, 2], activation="tanh", weight_decay=0.1, device="cpu")
    report = check_gradients(net, X, y)
    assert report.passed
    assert [(row.name, row.shape, row.checked) for row in report.rows] == [
        ("W1", (5, 3), 15),
        ("b1", (5,), 5),
        ("W2", (2, 5), 10),
        ("b2", (2,), 2),
        ("dX", (8, 3), 24),
    ]
    assert 0 < report.max_relative_error < 1e-8
    assert report.loss == pytest.approx(net.copy(device="cpu", dtype="float64").loss(X, y), rel=1e-14)
    assert report.kinks == ()


def test_the_network_is_left_as_it_is():
    layers = [3, nnbp.Dense(6, "relu"), nnbp.Dropout(0.5), nnbp.Dense(2)]
    net = nnbp.Network(layers, device="cpu", seed=3, dtype="float32")
    X, y = np.random.default_rng(0).normal(size=(7, 3)), np.ones((7, 2))
    given = X.copy()
    before, positions = net.parameters.copy(), [s and s.position for s in net.model.streams]
    assert check_gradients(net, X, y).passed
    assert np.array_equal(net.parameters, before)
    assert net.dtype == np.float32
    assert [s and s.position for s in net.model.streams] == positions
    assert np.array_equal(X, given)


def test_sizes_may_come_from_the_data():
    net = nnbp.Network(device="cpu", seed=0, activation="tanh")
    report = check_gradients(net, np.ones((2, 3)), np.ones((2, 1)), entries=20)
    assert report.passed
    assert by_name(report)["W1"].shape == (100, 3)


def test_entries_are_sampled_with_a_fixed_seed():
    net, X, y = example_problem([30, 20, 2], activation="tanh", device="cpu")
    first, again = (check_gradients(net, X, y, entries=7) for _ in range(2))
    assert first == again
    rows = by_name(first)
    assert rows["W1"].checked == 7
    assert rows["b2"].checked == 2
    assert rows["dX"].checked == 7 * len(X)
    assert by_name(check_gradients(net, X, y, entries=None))["W1"].checked == 600


def built_in(registry):
    return [name for name, cls in registry.items() if cls.__module__.startswith("nnbp.")]


@pytest.mark.parametrize("name", built_in(Activation.registry))
def test_a_wrong_derivative_of_an_activation_fails(name, monkeypatch):
    cls = Activation.registry[name]
    right_df, right_backward = cls.df, cls.backward

    def backward(self, op, z, a, da):
        delta = right_backward(self, op, z, a, da)
        op.map(lambda d: d * (1 + 1e-5), [delta], d=delta)
        return delta

    if name == "softmax":
        net, X, y = example_problem([3, 4, 3], activation="tanh", output_activation=name, device="cpu")
        monkeypatch.setattr(cls, "backward", backward)
    else:
        net, X, y = example_problem([3, 4, 2], activation=name, device="cpu")
        monkeypatch.setattr(cls, "df", lambda self, z, a: right_df(self, z, a) * (1 + 1e-5))
    report = check_gradients(net, X, y)
    assert not report.passed
    assert "W1" in [row.name for row in report.rows if not row.passed]
    assert 4.9e-6 < report.max_relative_error < 1.1e-5
    assert "FAILED" in str(report)


@pytest.mark.parametrize("name", built_in(Loss.registry))
def test_a_wrong_derivative_of_a_loss_fails(name, monkeypatch):
    net, X, y = example_problem([3, 4, 3], activation="tanh", loss=name, device="cpu")
    right = Loss.record_delta

    def wrong(self, op, out, y, c):
        delta = right(self, op, out, y, c)
        op.map(lambda d: d * (1 - 1e-5), [delta], d=delta)
        return delta

    monkeypatch.setattr(Loss, "record_delta", wrong)
    report = check_gradients(net, X, y)
    assert not any(row.passed for row in report.rows)
    assert report.max_relative_error == pytest.approx(5e-6, rel=0.02)


def test_a_forgotten_weight_decay_fails(monkeypatch):
    net, X, y = example_problem([3, 4, 2], activation="tanh", weight_decay=0.1, device="cpu")
    monkeypatch.setattr(Model, "record_decay", lambda self, op: None)
    rows = by_name(check_gradients(net, X, y))
    assert not rows["W1"].passed
    assert not rows["W2"].passed
    assert rows["dX"].passed


def test_a_large_weight_decay_does_not_hide_small_derivatives():
    """J is nearly all decay here, so that its rounding error is far larger than what a bias changes."""
    net, X, y = example_problem([3, 4, 2], activation="tanh", weight_decay=1e7, device="cpu")
    report = check_gradients(net, X, y)
    assert report.passed, report


def test_a_derivative_that_is_no_number_fails(monkeypatch):
    net, X, y = example_problem([3, 4, 2], activation="tanh", device="cpu")
    monkeypatch.setattr(nnbp.Tanh, "df", lambda self, z, a: a * np.nan)
    report = check_gradients(net, X, y)
    assert not report.passed
    assert report.max_relative_error == np.inf
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["max_relative_error"] is None


def test_a_loss_that_is_not_finite_is_null_in_json():
    net, X, y = example_problem([3, 2], device="cpu")
    document = dataclasses.replace(check_gradients(net, X, y), loss=np.nan).as_dict()
    assert json.loads(json.dumps(document, allow_nan=False))["loss"] is None


@pytest.mark.parametrize("spec", ["relu", "leaky_relu", nnbp.ELU(0.3), nnbp.ELU(1.0)])
def test_kinks_are_stepped_around(spec):
    """Units whose z is nearer to the kink than the first step: without shrinking it, the difference is wrong."""
    net, X, y = example_problem([2, 3, 1], activation=spec, device="cpu", dtype="float64")
    W, b = ([np.array(item) for item in items] for items in (net.weights, net.biases))
    b[0] = 1e-5 - X[0] @ W[0].T
    net.set_parameters(W, b)
    report = check_gradients(net, X, y)
    assert report.passed
    assert by_name(report)["b1"].stepped_around == 3
    assert report.kinks == (f"{net.layers[0].f.name} at z = 0",)
    assert "around kinks" in str(report)


def test_entries_on_a_kink_are_named_and_not_judged():
    hidden = nnbp.Dense(3, "relu", initializer="he_uniform")
    net = nnbp.Network([2, hidden, 1], loss="absolute_error", device="cpu", seed=0)
    report = check_gradients(net, np.zeros((2, 2)), np.zeros(2))
    rows = by_name(report)
    assert report.passed
    assert rows["b1"].at_kink == 3
    assert rows["b1"].checked == 0
    assert rows["b1"].worst is None
    assert rows["W1"].checked == 6, "x = 0: no z moves with W, and the derivative is 0 on both sides"
    assert set(report.kinks) == {"relu at z = 0", "absolute_error at h = y"}
    assert "on a kink" in str(report)


def test_a_check_that_compared_nothing_does_not_pass():
    net = nnbp.Network([1, 1], loss="absolute_error", device="cpu", seed=0, dtype="float64")
    report = check_gradients(net, [[1.0]], [float(net.forward([[1.0]])[0, 0])])
    assert sum(row.checked for row in report.rows) == 0
    assert not report.passed


def test_the_kink_of_a_loss_and_of_its_second_derivative():
    net, X, _ = example_problem([2, 3, 1], activation="tanh", loss="quantile", device="cpu", dtype="float64")
    near = check_gradients(net, X, net.forward(X) + 1e-5)
    assert near.passed
    assert near.kinks == ("quantile at h = y",)
    # Huber's C″ jumps where |h − y| = 1: no kink, but a large step would be wrong.
    net, X, _ = example_problem([2, 3, 1], activation="tanh", loss="huber", device="cpu", dtype="float64")
    assert check_gradients(net, X, net.forward(X) + 1 + 1e-5).max_relative_error < 1e-6


def test_samples_of_weight_zero_have_no_kinks():
    net, X, y = example_problem([2, 3, 1], activation="relu", device="cpu", dtype="float64")
    W, b = ([np.array(item) for item in items] for items in (net.weights, net.biases))
    b[0] = -X[0] @ W[0].T
    net.set_parameters(W, b)
    w = np.ones(len(X))
    assert by_name(check_gradients(net, X, y, w))["b1"].at_kink == 3
    w[0] = 0.0
    assert by_name(check_gradients(net, X, y, w))["b1"].at_kink == 0


@pytest.mark.parametrize("scale", [1e-4, 1e3])
def test_small_and_large_numbers(scale):
    net, X, y = example_problem([3, 4, 2], activation="tanh", device="cpu", dtype="float64")
    assert check_gradients(net, scale * X, scale * y).passed


def test_tiny_derivatives_do_not_fail_by_rounding():
    """A saturated sigmoid: derivatives of 1e-12 beside a J of 1e4."""
    net, X, y = example_problem([2, 3, 1], activation="sigmoid", device="cpu", dtype="float64")
    W, b = ([np.array(item) for item in items] for items in (net.weights, net.biases))
    b[0] += 28.0
    net.set_parameters(W, b)
    report = check_gradients(net, X, y + 100.0)
    assert report.passed
    assert report.loss > 1e3


def test_the_step_and_the_tolerance():
    net, X, y = example_problem([3, 4, 2], activation="tanh", device="cpu")
    assert check_gradients(net, X, y, step=1e-4).passed
    assert not check_gradients(net, X, y, tolerance=1e-15).passed
    for options in ({"step": 0.0}, {"step": 2.0}, {"tolerance": 0.0}, {"entries": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            check_gradients(net, X, y, **options)


def test_bad_data_are_refused():
    net, X, y = example_problem([3, 4, 2], device="cpu")
    with pytest.raises(nnbp.ShapeError):
        check_gradients(net, X[:, :2], y)
    with pytest.raises(nnbp.DataError, match="finite"):
        check_gradients(net, np.full_like(X, np.nan), y)


def test_the_report_as_text_and_as_json():
    net, X, y = example_problem([3, 4, 2], activation="relu", device="cpu")
    report = check_gradients(net, X, y)
    lines = str(report).splitlines()
    assert lines[0].split()[:3] == ["array", "shape", "checked"]
    assert [line.split()[0] for line in lines[2:7]] == ["W1", "b1", "W2", "b2", "dX"]
    assert lines[7].startswith("PASSED: ")
    document = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert document["passed"] is True
    assert document["rows"][0]["name"] == "W1"
    assert document["rows"][0]["shape"] == [4, 3]


# Along random directions.


@pytest.mark.parametrize("weights", [None, np.linspace(0, 2, 8)])
@pytest.mark.parametrize("loss", Loss.built_in())
@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu"])
def test_right_gradients_pass_along_directions(activation, loss, weights):
    net, X, y = example_problem([4, 9, 3], activation=activation, loss=loss, weight_decay=0.1, device="cpu")
    report = check_gradients(net, X, y, weights, chance=1e-9)
    assert report.passed, str(report)
    assert report.chance <= 1e-9
    assert [row.name for row in report.rows] == ["W1", "b1", "W2", "b2", "dX"]
    assert {row.checked for row in report.rows[:-1]} <= {5, 6}, "five directions leave 3e-11 of a miss"
    assert "is missed with a chance of at most" in str(report)
    assert report.as_dict()["chance"] == report.chance


def spoiled(monkeypatch, name, error):
    """Makes backpropagation wrong in one array."""
    right = nnbp.Network.gradients

    def gradients(self, *arguments):
        found = right(self, *arguments)
        array = found.dX if name == "dX" else {"W1": found.dW[0], "b2": found.db[1], "W2": found.dW[1]}[name]
        error(array)
        return found

    monkeypatch.setattr(nnbp.Network, "gradients", gradients)


@pytest.mark.parametrize("kind", ["everywhere", "one entry", "two entries"])
@pytest.mark.parametrize("name", ["W1", "W2", "b2"])
def test_an_error_of_a_thousandth_of_one_array_is_found(name, kind, monkeypatch):
    def error(array):
        rng, size = np.random.default_rng(7), 1.01e-3 * np.linalg.norm(array)
        e = np.zeros(array.size)
        e[: {"everywhere": len(e), "one entry": 1, "two entries": 2}[kind]] = 1.0
        e *= rng.choice([-1, 1], len(e))
        array += (size * e / np.linalg.norm(e)).reshape(array.shape)

    spoiled(monkeypatch, name, error)
    for seed in range(30):
        net, X, y = example_problem([5, 40, 3], activation="tanh", device="cpu", seed=seed)
        report = check_gradients(net, X, y, chance=1e-6)
        assert [row.name for row in report.rows if not row.passed] == [name]


def test_the_derivatives_of_one_sample_are_judged_by_themselves(monkeypatch):
    def error(array):
        array[3] *= 1.002

    spoiled(monkeypatch, "dX", error)
    net, X, y = example_problem([5, 40, 3], activation="tanh", device="cpu")
    report = check_gradients(net, 1.0 * X, y, chance=1e-6)
    assert [row.name for row in report.rows if not row.passed] == ["dX"]


def test_a_million_parameters():
    net, X, y = example_problem(
        [784, 1000, 200, 10], activation="relu", loss="cross_entropy", samples=20, device="cpu", weight_decay=1e-4
    )
    report = check_gradients(net, X, y, chance=1e-6)
    assert net.parameters.size > 980_000
    assert report.passed
    assert report.chance <= 1e-6
    assert max(row.max_relative_error for row in report.rows) < 1e-8


def test_a_chance_that_cannot_be_reached_fails():
    """Rounding hides the error if J is large beside what an array contributes to it."""
    net, X, y = example_problem([3, 4, 1], activation="tanh", device="cpu")
    report = check_gradients(net, X, y + 1e9, chance=1e-6)
    assert report.chance > 1e-6
    assert all(row.passed for row in report.rows)
    assert not report.passed
    assert f"at most {report.chance:.1g}; asked: 1e-06" in str(report)
    with pytest.raises(ValueError, match="chance, of missing an error,"):
        check_gradients(net, X, y, chance=1.5)


def test_normalization_is_checked_along_directions():
    layers = [4, nnbp.Dense(6, "identity"), nnbp.LayerNorm("tanh"), nnbp.Dense(3)]
    net = nnbp.Network(layers, loss="cross_entropy", device="cpu", seed=0)
    report = check_gradients(net, np.random.default_rng(0).normal(size=(9, 4)), np.arange(9) % 3, chance=1e-6)
    assert report.passed
    assert {"gamma2", "beta2"} <= set(by_name(report)), "a LayerNorm is numbered as a layer"
