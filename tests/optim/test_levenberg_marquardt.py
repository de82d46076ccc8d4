"""Levenberg–Marquardt: NIST's nonlinear regressions, fits that SciPy cannot improve, and what it refuses."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnbp
from nnbp import Dense, LevenbergMarquardt, Network
from nnbp.optim.levenberg_marquardt import Damping
from nnbp.optim.optimizers import Objective

SETS: dict[str, Any] = json.loads((Path(__file__).parent / "references" / "strd.json").read_text())
"""Statistical Reference Datasets of the National Institute of Standards and Technology: nonlinear regression."""

FUNCTIONS = {name: getattr(np, name) for name in ("exp", "log", "sin", "cos", "arctan", "sqrt", "pi")}


class Regression:
    """J = ½ mean (f(x; b) − y)² of one of NIST's models, with derivatives by complex steps."""

    def __init__(self, name: str, start: str) -> None:
        found = SETS[name]
        text = found["model"].replace("^", "**").replace("[", "(").replace("]", ")")
        match = re.search(r"(log\(y\)|y)\s*=\s*(.*?)\s*\+\s*e\b(?!xp)", text, re.S)
        assert match is not None
        self.code = compile(" ".join(match[2].split()), name, "eval")
        self.y, x = np.array(found["y"], float), np.array(found["x"], float)
        if match[1] != "y":
            self.y = np.log(self.y)
        columns = {"x": x} if x.ndim == 1 else {f"x{k + 1}": column for k, column in enumerate(x.T)}
        self.names = {**FUNCTIONS, **columns}
        self.theta = np.array(found[start], float)
        self.gradient = np.zeros_like(self.theta)
        self.certified = np.array(found["certified"], float)
        self.objective = Objective(self.theta, self.gradient, self.evaluate, self.curvature, np, float)

    def f(self, b: Any) -> Any:
        with np.errstate(all="ignore"):
            values = {f"b{k + 1}": value for k, value in enumerate(b)}
            return eval(self.code, {**self.names, **values}) + 0.0 * self.y

    def jacobian(self) -> Any:
        columns = []
        for k, value in enumerate(self.theta):
            b, step = self.theta.astype(complex), 1e-30 * max(1.0, abs(value))
            b[k] += 1j * step
            columns.append(self.f(b).imag / step)
        return np.column_stack(columns)

    def evaluate(self) -> float:
        with np.errstate(all="ignore"):
            r = self.f(self.theta) - self.y
            self.gradient[...] = self.jacobian().T @ r / len(r)
            J = float(r @ r) / 2 / len(r)
        return J if math.isfinite(J) else math.inf

    def curvature(self) -> Any:
        J = self.jacobian()
        return J.T @ J / len(self.y)


@pytest.mark.parametrize("start", ["start1", "start2"])
@pytest.mark.parametrize("name", SETS)
def test_the_step_solves_nists_regressions_to_six_digits(name: str, start: str) -> None:
    problem = Regression(name, start)
    rule = LevenbergMarquardt(tolerance_grad=0.0)
    memory, before = rule.memory(), math.inf
    with np.errstate(all="ignore"):
        for _ in range(10_000):
            J = rule.step(problem.objective, memory)
            assert before >= J, "every step lowers J"
            before = J
            if memory.ended is not None:
                break
    assert memory.ended == "no step lowers J"
    assert np.max(np.abs(problem.theta / problem.certified - 1.0)) < 1e-6


def test_there_are_27_sets() -> None:
    assert len(SETS) == 27


# ---- networks


def sine(m: int = 41) -> tuple[Any, Any]:
    x = np.linspace(-1.7, 1.7, m).reshape(-1, 1)
    return x, np.sin(np.pi / 1.7 * x)


def network(*sizes: int, seed: int = 0, initializer: str | None = None, **options: Any) -> Network:
    layers = [Dense(units, "tanh", initializer=initializer) for units in sizes[1:-1]]
    options = {"dtype": "float64", "device": "cpu", **options}
    return Network([sizes[0], *layers, Dense(sizes[-1])], seed=seed, **options)


def test_scipy_finds_nothing_lower_from_where_it_ended() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = np.tanh(X[:, :1]) * X[:, 1:2] + 0.1 * rng.normal(size=(60, 2))
    w = rng.uniform(0.5, 2.0, 60)
    net = network(3, 5, 2, weight_decay=1e-3)
    history = net.fit(X, y, sample_weight=w, optimizer="levenberg_marquardt", epochs=2000, progress=False)
    assert history.stopped is not None
    J, start, n = net.loss(X, y, w), np.array(net.parameters), net.model.parameters.decayed

    def residuals(theta: Any) -> Any:
        net.parameters[...] = theta
        errors = np.sqrt(w / w.sum())[:, None] * (net.forward(X) - y)
        return np.concatenate([errors.ravel(), np.sqrt(1e-3) * theta[:n]])

    found = optimize.least_squares(residuals, start, xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert J - found.cost < 1e-7 * J


def test_float32_ends_near_float64() -> None:
    x, y = sine()
    ends = []
    for dtype in ("float64", "float32"):
        net = network(1, 5, 1, dtype=dtype, weight_decay=1e-3)
        net.fit(x, y, optimizer="levenberg_marquardt", epochs=300, progress=False)
        ends.append(net.copy(dtype="float64").loss(x, y))
    assert ends[1] == pytest.approx(ends[0], rel=1e-4)


def test_nguyen_widrow_fits_a_sine_in_ten_epochs() -> None:
    """1-5-1 to a mean squared error of 0.002: half of 30 seeds in 10 epochs, and all in 50."""
    x, y = sine()
    epochs = [epochs_to(network(1, 5, 1, seed=seed, initializer="nguyen_widrow"), x, y, 0.002) for seed in range(30)]
    assert np.median(epochs) <= 10
    assert max(epochs) <= 50


def test_nguyen_widrow_halves_the_epochs() -> None:
    x, y = sine(101)
    found = {
        name: np.median([epochs_to(network(1, 10, 1, seed=seed, initializer=name), x, y, 1e-6) for seed in range(15)])
        for name in ("nguyen_widrow", "glorot_uniform")
    }
    assert found["nguyen_widrow"] <= found["glorot_uniform"] / 2


def epochs_to(net: Network, x: Any, y: Any, error: float, most: int = 300) -> int:
    def stop(state: nnbp.TrainingState) -> None:
        if 2 * state.logs["loss"] <= error:
            state.stop = "there"

    return net.fit(x, y, optimizer="levenberg_marquardt", epochs=most, callbacks=[stop], progress=False).epochs


def test_the_history_falls_and_says_why_training_ended() -> None:
    x, y = sine()
    net = network(1, 4, 1, weight_decay=1e-4)
    history = net.fit(x, y, optimizer="levenberg_marquardt", epochs=500, progress=False)
    assert (np.diff(history["loss"]) <= 0).all()
    assert history.stopped in ("no derivative of J is larger than 1e-07", "no step lowers J")
    assert history.epochs < 500
    assert net.loss(x, y) <= history["loss"][-1]


def test_validation_early_stopping_and_checkpoints_work(tmp_path: Path) -> None:
    x, y = sine()
    noisy = y + 0.3 * np.random.default_rng(0).normal(size=y.shape)
    options: dict[str, Any] = {
        "optimizer": "levenberg_marquardt", "epochs": 30, "progress": False, "validation_data": (x[::4], y[::4]),
        "early_stopping": 5,
    }  # fmt: skip
    whole, stopped, resumed = (network(1, 8, 1) for _ in range(3))
    history = whole.fit(x, noisy, **options)
    assert history.best_epoch is not None

    def stop(state: nnbp.TrainingState) -> None:
        if state.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.fit(x, noisy, **options, checkpoint=nnbp.Checkpoint(tmp_path), callbacks=[stop])
    again = resumed.fit(x, noisy, **options, checkpoint=nnbp.Checkpoint(tmp_path), resume=True)
    assert again == history
    assert np.array_equal(resumed.parameters, whole.parameters)


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        (Network([2, 1], loss="huber", device="cpu", seed=0), {}, r"squared_error'; received the loss huber\. Use"),
        (Network([2, nnbp.Dropout(0.1), 1], device="cpu", seed=0), {}, "received the layers dropout, dense"),
        (Network([2, Dense(2), nnbp.BatchNorm(), 1], device="cpu", seed=0), {}, "dense, batch_norm, dense"),
        (Network([2, 4000, 1], device="cpu", seed=0), {}, r"at most 8,192 parameters; received a network of 16,001"),
        (Network([2, 1], device="cpu", seed=0), {"learning_rate": 0.1}, "received learning_rate=0.1"),
        (Network([2, 1], device="cpu", seed=0), {"clip_norm": 1.0}, "clip_norm"),
        (Network([2, 1], device="cpu", seed=0), {"schedule": "cosine"}, "schedule"),
    ],
)  # fmt: skip
def test_what_it_cannot_train_is_refused_with_what_can(net: Network, options: Any, message: str) -> None:
    before = net.parameters.copy()
    with pytest.raises(ValueError, match=message):
        net.fit(np.eye(2), [0.0, 1.0], optimizer="levenberg_marquardt", **options, progress=False)
    assert np.array_equal(net.parameters, before)


def test_partial_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="levenberg_marquardt needs all of it"):
        network(1, 2, 1).partial_fit(*sine(), optimizer="levenberg_marquardt")


@pytest.mark.parametrize("name", ["damping", "tolerance_grad", "tolerance_change"])
def test_arguments_have_a_range(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} of LevenbergMarquardt"):
        LevenbergMarquardt(**{name: -1.0})


@pytest.mark.parametrize("J", [math.nan, math.inf, 1.0])
def test_an_objective_that_never_falls_ends_the_step(J: float) -> None:
    """No endless loop: μ grows until it is infinite, or the step is too short."""
    values = iter([1.0, *[J] * 10_000])
    theta, gradient = np.zeros(2), np.ones(2)
    memory, rule = Damping(), LevenbergMarquardt()
    objective = Objective(theta, gradient, lambda: next(values), lambda: np.eye(2), np, float)
    with np.errstate(all="ignore"):
        assert rule.step(objective, memory) == 1.0
    assert memory.ended == "no step lowers J"
    assert np.array_equal(theta, np.zeros(2))


def test_a_singular_curvature_is_damped() -> None:
    net = network(1, 3, 1)
    net.set_parameters([np.zeros((3, 1)), np.ones((1, 3))], [np.zeros(3), np.zeros(1)])
    x, y = sine()
    history = net.fit(x, y, optimizer="levenberg_marquardt", epochs=50, progress=False)
    assert history["loss"][-1] < history["loss"][0] / 2
