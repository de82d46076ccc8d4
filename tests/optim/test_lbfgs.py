"""L-BFGS: PyTorch's iterates, step for step; any array library; and an end to every line search."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strict_backend import StrictBackend

from nnbp.optim.lbfgs import LBFGS, LBFGSMemory
from nnbp.optim.optimizers import Objective

Vector = NDArray[np.float64]
Problem = Callable[[Vector], tuple[float, Vector]]


def rosenbrock(x: Vector) -> tuple[float, Vector]:
    """Σ 100 (x₂ − x₁²)² + (1 − x₁)² over neighbours, and its gradient."""
    rise, rest = x[1:] - x[:-1] ** 2, 1 - x[:-1]
    g = np.zeros_like(x)
    g[1:] += 200 * rise
    g[:-1] += -400 * x[:-1] * rise - 2 * rest
    return float(np.sum(100 * rise**2 + rest**2)), g


def network(theta: Vector) -> tuple[float, Vector]:
    """J of a 3-5-2 tanh network on twenty samples with weight decay λ = 0.1, and its gradient."""
    generator = np.random.default_rng(3)
    X, y = generator.normal(size=(3, 20)), generator.normal(size=(2, 20))
    W1, W2, b1, b2 = (part.reshape(shape) for part, shape in zip(
        np.split(theta, [15, 25, 30]), [(5, 3), (2, 5), (5, 1), (2, 1)], strict=True
    ))  # fmt: skip
    a = np.tanh(W1 @ X + b1)
    delta2 = (W2 @ a + b2 - y) / 20
    delta1 = W2.T @ delta2 * (1 - a * a)
    parts = (delta1 @ X.T + 0.1 * W1, delta2 @ a.T + 0.1 * W2, delta1.sum(1), delta2.sum(1))
    decay = 0.05 * (np.sum(W1**2) + np.sum(W2**2))
    return float(10 * np.sum(delta2**2) + decay), np.concatenate([part.ravel() for part in parts])


def linear(x: Vector) -> tuple[float, Vector]:
    """Σ x: no curvature is learnt, and every line search runs off to where it is stopped."""
    return float(np.sum(x)), np.ones_like(x)


START = {
    rosenbrock: np.array([-1.2, 1.0]),
    network: np.random.default_rng(0).normal(0, 0.5, 32),
    # Powers of two, with which everything is exact.
    linear: np.array([64.0, -2.0, 0.5, 1.0]),
}


class Run:
    """L-BFGS on a problem, with the evaluations counted."""

    def __init__(self, optimizer: LBFGS, problem: Problem, start: Vector) -> None:
        self.optimizer, self.problem = optimizer, problem
        self.theta, self.gradient = start.copy(), np.full_like(start, np.nan)
        self.memory, self.evaluations = optimizer.memory(), 0

    def evaluate(self) -> float:
        self.evaluations += 1
        loss, self.gradient[...] = self.problem(self.theta)
        return loss

    def step(self) -> float:
        with np.errstate(all="ignore"):
            objective = Objective(self.theta, self.gradient, self.evaluate, lambda: None, np, float)
            return self.optimizer.step(objective, self.memory)


def assert_equal_to_torch(optimizer: LBFGS, problem: Problem, steps: int, start: Vector) -> None:
    """J before each step, theta after it, to 1e-7, and what it took: further steps would show how rounding grows."""
    torch = pytest.importorskip("torch")
    run = Run(optimizer, problem, start)
    theta = torch.tensor(start)
    options = optimizer.config()
    theirs = torch.optim.LBFGS(
        [theta], lr=optimizer.rate, line_search_fn=options.pop("line_search"),
        **{name: value for name, value in options.items() if name != "learning_rate"},
    )  # fmt: skip
    count = 0

    def closure() -> float:
        nonlocal count
        count += 1
        loss, g = problem(theta.numpy().copy())
        theta.grad = torch.from_numpy(g)
        return loss

    for step in range(steps):
        expected = float(theirs.step(closure))
        assert run.step() == pytest.approx(expected, rel=1e-7, abs=1e-7), f"step {step}"
        np.testing.assert_allclose(run.theta, theta.numpy(), rtol=1e-7, atol=1e-7, err_msg=f"step {step}")
    assert run.evaluations == count
    assert run.memory.n_iter == theirs.state_dict()["state"][0]["n_iter"]


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_iter": 4},
        {"max_iter": 1},
        {"history_size": 2, "max_iter": 7},
        {"learning_rate": 0.1},
        {"max_eval": 9, "tolerance_change": 1e-4},
        {"tolerance_grad": 0.5},
        {"max_iter": 12, "max_eval": 400, "tolerance_change": 0.0, "tolerance_grad": 0.0},
    ],
    ids=repr,
)
@pytest.mark.parametrize("problem", [rosenbrock, network], ids=["rosenbrock", "network"])
def test_equal_to_torch_step_for_step(problem: Problem, options: dict[str, Any], search: str | None) -> None:
    if search is None and problem is rosenbrock:
        # Without a search L-BFGS diverges from afar here.
        options = {"learning_rate": 1e-3} | options
    assert_equal_to_torch(LBFGS(line_search=search, **options), problem, 6, START[problem])


# The first ten, and some that alone meet a branch of the line search.
@pytest.mark.parametrize(
    ("seed", "flat"),
    [*((k, True) for k in (*range(10), 20, 59, 110, 135)), *((k, False) for k in (*range(10), 25, 129, 340))],
)
def test_equal_to_torch_on_hills_where_the_line_search_has_work(seed: int, flat: bool) -> None:
    generator = np.random.default_rng(seed)
    frequency, phase = generator.uniform(0.5, 6, 3), generator.uniform(0, 6, 3)
    # With a loss that is flatter than its gradient says, the conditions are hard to fulfil.
    scale = 10 ** generator.uniform(-4, 0) if flat else 1.0

    def hills(x: Vector) -> tuple[float, Vector]:
        e = x - 1
        angle = frequency * x + phase
        return scale * float(np.sum(0.05 * e**2 + np.sin(angle))), 0.1 * e + frequency * np.cos(angle)

    # More evaluations would meet intervals so narrow that rounding decides.
    optimizer = LBFGS(10 ** generator.uniform(-2, 1), max_iter=2, max_eval=8, line_search="strong_wolfe")
    assert_equal_to_torch(optimizer, hills, 1, generator.normal(0, 2, 3))


@pytest.mark.parametrize("max_iter", [1, 4, 20])
def test_equal_to_torch_where_the_cubic_has_no_minimum(max_iter: int) -> None:
    assert_equal_to_torch(LBFGS(max_iter=max_iter, line_search="strong_wolfe"), linear, 1, START[linear])


def test_a_search_that_begins_at_zero_ends_there() -> None:
    run = Run(LBFGS(learning_rate=0.0, line_search="strong_wolfe"), network, START[network])
    run.step()
    np.testing.assert_array_equal(run.theta, START[network])
    assert run.evaluations <= 26


def test_rosenbrock_is_solved() -> None:
    run = Run(LBFGS(line_search="strong_wolfe"), rosenbrock, np.linspace(-1.2, 1.0, 10))
    losses = [run.step() for _ in range(10)]
    np.testing.assert_allclose(run.theta, np.ones(10), atol=1e-4)
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == rosenbrock(np.linspace(-1.2, 1.0, 10))[0], "a step returns J before it"


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.floats(0, 3), st.integers(0, 10_000))
def test_any_quadratic_is_solved(size: int, spread: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(generator.normal(size=(size, size)))
    A = Q * 10 ** generator.uniform(0, spread, size) @ Q.T
    wanted = generator.normal(size=size)

    def problem(x: Vector) -> tuple[float, Vector]:
        e = x - wanted
        return float(0.5 * e @ A @ e), A @ e

    run = Run(LBFGS(line_search="strong_wolfe", max_iter=100, tolerance_change=1e-16), problem, np.zeros(size))
    for _ in range(5):
        run.step()
    np.testing.assert_allclose(run.theta, wanted, atol=1e-5)


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_a_minimum_is_left_alone_after_one_evaluation(search: str | None) -> None:
    run = Run(LBFGS(line_search=search), rosenbrock, np.ones(4))
    assert run.step() == 0.0
    assert run.evaluations == 1
    np.testing.assert_array_equal(run.theta, np.ones(4))
    assert run.memory == LBFGSMemory()


@pytest.mark.parametrize(("max_iter", "max_eval"), [(20, None), (20, 7), (3, 50), (1, 1)])
@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_evaluations_and_iterations_are_bounded(search: str | None, max_iter: int, max_eval: int | None) -> None:
    optimizer = LBFGS(0.01, max_iter, max_eval, line_search=search)
    run = Run(optimizer, rosenbrock, START[rosenbrock])
    run.step()
    bound = max_iter * 5 // 4 if max_eval is None else max_eval
    assert run.evaluations <= bound + (search is not None)
    assert run.memory.n_iter <= max_iter


def test_history_is_bounded() -> None:
    run = Run(LBFGS(history_size=3, line_search="strong_wolfe"), rosenbrock, START[rosenbrock])
    run.step()
    memory = run.memory
    assert len(memory.changes) == 3
    assert all(float(y @ s) > 0 for s, y, _ in memory.changes)


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_float32_stays_float32(search: str | None) -> None:
    def problem(x: Any) -> tuple[float, Any]:
        loss, g = rosenbrock(x.astype(np.float64))
        return loss, g.astype(np.float32)

    start: Any = START[rosenbrock].astype(np.float32)
    run = Run(LBFGS(1e-2, line_search=search), problem, start)
    for _ in range(3):
        run.step()
    memory = run.memory
    kept = [run.theta, memory.d, memory.gradient, *(array for s, y, _ in memory.changes for array in (s, y))]
    assert {array.dtype.name for array in kept if array is not None} == {"float32"}
    assert len(memory.changes) > 2
    assert rosenbrock(run.theta.astype(np.float64))[0] < rosenbrock(START[rosenbrock])[0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("after", [0, 1, 2, 5, 12])
def test_a_loss_that_is_not_finite_ends_the_step_and_is_returned(after: int, bad: float) -> None:
    """Without a line search, or at the start."""
    count, search = 0, "strong_wolfe" if after == 0 else None

    def problem(x: Vector) -> tuple[float, Vector]:
        nonlocal count
        count += 1
        loss, g = network(x)
        return (loss, g) if count <= after else (bad, np.full_like(g, bad))

    run = Run(LBFGS(line_search=search, tolerance_change=0.0), problem, START[network])
    returned = run.step()
    assert not math.isfinite(returned)
    assert run.evaluations == after + 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("slope", [False, True])
def test_the_line_search_comes_back_from_where_J_is_not_finite(slope: bool, bad: float) -> None:
    """J, or only its gradient, is not finite at more than a hundredth of the first step."""

    def problem(x: Vector) -> tuple[float, Vector]:
        loss, g = network(x)
        if np.abs(x - START[network]).max() < 1e-2 * first:
            return loss, g
        return loss if slope else bad, np.full_like(g, bad)

    loss, g = network(START[network])
    first = float(np.abs(g).max() / max(1.0, np.abs(g).sum()))
    run = Run(LBFGS(), problem, START[network])
    for _ in range(3):
        assert run.step() <= loss
    assert np.isfinite(run.theta).all()
    assert network(run.theta)[0] < loss
    assert np.abs(run.theta - START[network]).max() < 1e-2 * first


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_an_array_library_that_is_not_numpy_computes_the_same_bits(search: str | None) -> None:
    device = StrictBackend()
    optimizer = LBFGS(line_search=search)
    host = Run(optimizer, network, START[network])
    with device.active():
        theta, gradient = (device.upload(values, np.float64) for values in (START[network], np.zeros(32)))
        memory = optimizer.memory()

        def evaluate() -> float:
            loss, g = network(device.download(theta))
            gradient[...] = device.upload(g, np.float64)
            return loss

        def read(array: Any) -> float:
            return float(device.download(array))

        objective = Objective(theta, gradient, evaluate, lambda: None, device.xp, read)
        for _ in range(3):
            loss = optimizer.step(objective, memory)
            assert type(loss) is float
            assert loss == host.step()
        np.testing.assert_array_equal(device.download(theta), host.theta)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate of LBFGS"),
        ({"tolerance_grad": "0"}, "tolerance_grad of LBFGS is a number, at least 0; received '0'"),
        ({"max_iter": 0}, "max_iter of LBFGS is a whole number, at least 1; received 0"),
        ({"max_eval": 0}, "max_eval of LBFGS"),
        ({"max_iter": 2.5}, "max_iter of LBFGS"),
        ({"history_size": 0}, "history_size of LBFGS"),
        ({"tolerance_grad": -1e-9}, "tolerance_grad of LBFGS is a number, at least 0"),
        ({"tolerance_change": math.nan}, "tolerance_change of LBFGS is a number, at least 0; received nan"),
        ({"line_search": "wolfe"}, "None or 'strong_wolfe'; received 'wolfe'"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LBFGS(**options)


def test_config_makes_an_equal_object() -> None:
    optimizer = LBFGS(0.5, 7, 9, 1e-5, 1e-6, 4, "strong_wolfe")
    assert LBFGS(**optimizer.config()).config() == optimizer.config()
    assert LBFGS().rate == 1.0
    assert LBFGS.full_batch
