"""Optimizers: PyTorch's, step for step, on the compiled path; dtypes, arguments, names, and a class of a user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nnbp.graph.backend import backend_class
from nnbp.graph.builder import Builder
from nnbp.graph.ops import Array
from nnbp.optim import optimizers
from nnbp.optim.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop, Rprop

backend = backend_class("numpy")()

STEPS, SIZE = 50, 37

VARIATIONS: dict[str, list[tuple[Optimizer, dict[str, Any]]]] = {
    "sgd": [
        (SGD(0.05), {"lr": 0.05}),
        (SGD(0.05, momentum=0.9), {"lr": 0.05, "momentum": 0.9}),
        (SGD(0.05, momentum=0.8, nesterov=True), {"lr": 0.05, "momentum": 0.8, "nesterov": True}),
    ],
    "rmsprop": [
        (RMSprop(), {}),
        (RMSprop(0.003, 0.9, 1e-6), {"lr": 0.003, "alpha": 0.9, "eps": 1e-6}),
        (RMSprop(momentum=0.7), {"momentum": 0.7}),
        (RMSprop(centered=True), {"centered": True}),
        (RMSprop(momentum=0.7, centered=True), {"momentum": 0.7, "centered": True}),
    ],
    "adam": [(Adam(), {}), (Adam(0.02, 0.8, 0.95, 1e-3), {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3})],
    "adamw": [(AdamW(), {}), (AdamW(0.02, weight_decay=0.3), {"lr": 0.02, "weight_decay": 0.3})],
    "rprop": [
        (Rprop(), {}),
        (Rprop(0.1, 0.4, 1.5, 0.03, 0.2), {"lr": 0.1, "etas": (0.4, 1.5), "step_sizes": (0.03, 0.2)}),
    ],
}
"""Optimizers by their registered name, and the arguments of PyTorch's."""

THEIRS = {"sgd": "SGD", "rmsprop": "RMSprop", "adam": "Adam", "adamw": "AdamW", "rprop": "Rprop"}

CASES = [pytest.param(name, *case, id=repr(case[0])) for name, cases in VARIATIONS.items() for case in cases]


# Found when this module is read: later, examples in docstrings and other tests have added theirs.
FIRST_ORDER = [
    name
    for name, cls in Optimizer.registry.items()
    if cls.__module__.startswith("nnbp.") and cls.update is not Optimizer.update
]


class Bound:
    """An optimizer's step, bound to vectors as a training step binds it."""

    def __init__(self, optimizer: Optimizer, start: NDArray[Any], dtype: str = "float64") -> None:
        self.optimizer, self.t = optimizer, 0
        self.theta: Array = np.array(start, dtype).reshape(1, -1)
        self.g: Array = np.zeros_like(self.theta)
        self.slots = {name: np.full_like(self.theta, optimizer.initial(name)) for name in optimizer.slots}
        self.rates = {name: np.zeros((1, 1), dtype) for name in optimizer.rates(np.ones(1), np.ones(1))}
        self.recorder = Builder(backend, dtype, 1, training=True)
        optimizer.record(self.recorder, self.theta, self.g, self.slots, self.rates)
        self.run = backend.compile(self.recorder.operations)

    def step(self, g: NDArray[Any]) -> None:
        self.t += 1
        self.g[...] = g
        rates = self.optimizer.rates(np.array([float(self.t)]), np.array([self.optimizer.rate]))
        for name, rate in self.rates.items():
            rate[...] = rates[name]
        self.run()


def noisy_gradients() -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Gradients that do not depend on theta, of all magnitudes, with zeros."""
    generator = np.random.default_rng(5)

    def gradient(theta: NDArray[Any]) -> NDArray[Any]:
        g: NDArray[Any] = generator.normal(size=SIZE) * 10.0 ** generator.uniform(-4, 2, SIZE)
        g[generator.random(SIZE) < 0.1] = 0.0
        return g

    return gradient


def valley() -> Callable[[NDArray[Any]], NDArray[Any]]:
    """The gradient of Σ ½ cᵢ θᵢ² + cos θᵢ with curvatures c of 0.01 to 10."""
    curvature = np.logspace(-2, 1, SIZE)
    return lambda theta: curvature * theta - np.sin(theta)


def test_every_first_order_optimizer_is_compared() -> None:
    assert sorted(FIRST_ORDER) == sorted(VARIATIONS) == sorted(THEIRS)


@pytest.mark.parametrize("make_gradient", [noisy_gradients, valley])
@pytest.mark.parametrize(("name", "ours", "arguments"), CASES)
def test_fifty_steps_equal_to_torch(
    name: str,
    ours: Optimizer,
    arguments: dict[str, Any],
    make_gradient: Callable[[], Callable[[NDArray[Any]], NDArray[Any]]],
) -> None:
    torch = pytest.importorskip("torch")
    assert type(ours) is Optimizer.registry[name]
    start = np.random.default_rng(1).normal(size=SIZE)
    bound = Bound(ours, start)
    theta = torch.tensor(start)
    theirs = getattr(torch.optim, THEIRS[name])([theta], **arguments)
    gradient_ours, gradient_theirs = make_gradient(), make_gradient()
    for step in range(STEPS):
        bound.step(gradient_ours(bound.theta[0]))
        theta.grad = torch.from_numpy(gradient_theirs(theta.numpy().copy()))
        theirs.step()
        np.testing.assert_allclose(
            bound.theta[0], theta.numpy(), rtol=1e-9, atol=1e-9, err_msg=f"after step {step + 1}"
        )
    assert np.abs(bound.theta[0] - start).max() > 1e-2, "the steps have to go somewhere"


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_defaults_are_those_of_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    ours = Optimizer.registry[name]()
    theirs = getattr(torch.optim, THEIRS[name])([torch.zeros(1)]).defaults
    expected = {"learning_rate": theirs["lr"], "epsilon": theirs.get("eps"), **theirs}
    if "betas" in theirs:
        expected["beta1"], expected["beta2"] = theirs["betas"]
    if "etas" in theirs:
        (expected["shrink"], expected["grow"]) = theirs["etas"]
        (expected["smallest"], expected["largest"]) = theirs["step_sizes"]
    config = {**ours.config(), "learning_rate": ours.rate}
    assert config == {key: expected[key] for key in config}


@pytest.mark.parametrize(("name", "ours", "arguments"), CASES)
def test_float32_stays_float32(name: str, ours: Optimizer, arguments: dict[str, Any]) -> None:
    bound = Bound(ours, np.linspace(-1, 1, SIZE), "float32")
    exact = Bound(ours, np.linspace(-1, 1, SIZE), "float64")
    for _ in range(5):
        bound.step(valley()(bound.theta[0].astype(np.float64)))
        exact.step(valley()(exact.theta[0]))
    [update] = bound.recorder.operations
    assert {array.dtype.name for array in (*update.reads, *update.writes)} == {"float32"}
    np.testing.assert_allclose(bound.theta, exact.theta, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "ours", "arguments"), CASES)
def test_rates_are_float64_on_the_host(name: str, ours: Optimizer, arguments: dict[str, Any]) -> None:
    t, eta = np.arange(1.0, 8.0), np.linspace(0.1, 0.01, 7)
    for rate in ours.rates(t, eta).values():
        assert type(rate) is np.ndarray
        assert rate.dtype == np.float64
        assert rate.shape == (7,)
        assert np.isfinite(rate).all()


@pytest.mark.parametrize("cls", [SGD, RMSprop, Adam, AdamW])
def test_the_learning_rate_of_each_step_is_followed(cls: type[Optimizer]) -> None:
    _, still = (cls(rate).rates(np.ones(1), np.full(1, rate)) for rate in (0.1, 0.0))
    bound = Bound(cls(), np.ones(SIZE))
    bound.g[...] = 2.0
    for name, rate in bound.rates.items():
        rate[...] = still[name]
    bound.run()
    np.testing.assert_array_equal(bound.theta, 1.0)


def test_one_step_of_descent_is_theta_less_eta_times_the_gradient() -> None:
    bound = Bound(SGD(0.5), np.array([1.0, -2.0]))
    bound.step(np.array([4.0, 1.0]))
    np.testing.assert_array_equal(bound.theta, [[-1.0, -2.5]])


def test_rprop_needs_the_whole_batch_and_the_others_do_not() -> None:
    assert {name for name in FIRST_ORDER if Optimizer.registry[name].full_batch} == {"rprop"}


@pytest.mark.parametrize("name", list(VARIATIONS))
def test_config_makes_an_equal_object(name: str) -> None:
    for optimizer, _ in VARIATIONS[name]:
        again = type(optimizer)(**optimizer.config())
        assert again.config() == optimizer.config()
        assert repr(again) == repr(optimizer)
        assert repr(optimizer).startswith(f"{type(optimizer).__name__}(learning_rate=")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(-0.1), "learning_rate of .* received -0.1"),
        (lambda: Adam(math.nan), "learning_rate of .* received nan"),
        (lambda: Adam(math.inf), "learning_rate of .* received inf"),
        (lambda: SGD(momentum=1.0), "momentum of SGD is a number, at least 0 and below 1; received 1.0"),
        (lambda: SGD(nesterov=True), "received momentum=0. Give momentum=0.9"),
        (lambda: RMSprop(alpha=-0.1), "alpha of RMSprop"),
        (lambda: RMSprop(epsilon=math.nan), "epsilon of RMSprop"),
        (lambda: RMSprop(momentum=2), "momentum of RMSprop"),
        (lambda: Adam(beta1=1.0), "beta1 of Adam"),
        (lambda: AdamW(beta2=1.5), "beta2 of AdamW"),
        (lambda: AdamW(weight_decay=-1), "weight_decay of AdamW"),
        (lambda: Rprop(shrink=1.0), "shrink of Rprop"),
        (lambda: Rprop(grow=0.9), "grow of Rprop is a number, finite and at least 1"),
        (lambda: Adam("0.1"), "learning_rate of Adam is a number, .* received '0.1'"),  # type: ignore[arg-type]
        (lambda: SGD(True), "received True"),
        (lambda: SGD(momentum="0.9"), "momentum of SGD is a number, .* received '0.9'"),  # type: ignore[arg-type]
        (lambda: Rprop(largest="50"), "largest of Rprop is a number, above 0; received '50'"),  # type: ignore[arg-type]
        (lambda: Rprop(smallest=1.0, largest=0.5), "smallest of Rprop is a number, at least 0 and below 0.5"),
    ],
)
def test_bad_arguments(make: Callable[[], Optimizer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", list(VARIATIONS))
def test_get_takes_a_name_a_class_and_an_object(name: str) -> None:
    cls = Optimizer.registry[name]
    optimizer = cls(0.25)
    assert optimizers.get(optimizer) is optimizer
    assert type(optimizers.get(name)) is type(optimizers.get(cls)) is cls
    assert optimizers.get(name).rate == cls.default_rate
    assert optimizer.rate == 0.25


def test_get_of_a_name_that_is_none_shows_the_closest() -> None:
    with pytest.raises(ValueError, match=r"Unknown optimizer: .*adamw.*; received 'adm' \(did you mean 'adam'\?"):
        optimizers.get("adm")


@pytest.fixture
def registry() -> Iterator[None]:
    """Takes what a test registers out again."""
    before = dict(Optimizer.registry)
    yield
    Optimizer.registry.clear()
    Optimizer.registry.update(before)


@pytest.mark.usefixtures("registry")
def test_a_class_of_a_users_own() -> None:
    class Lookback(Optimizer):
        """Steps along the sum of this gradient and the last, and keeps where theta was."""

        name = "lookback"
        default_rate = 0.5

        slots = ("last", "was")

        def initial(self, slot: str) -> float:
            return 1.0 if slot == "last" else 0.0

        def update(self, theta: Any, g: Any, last: Any, was: Any, eta: Any) -> Any:
            return theta - eta * (g + last), g, theta

    bound = Bound(optimizers.get("lookback"), np.array([1.0, 2.0]))
    bound.step(np.array([3.0, 5.0]))
    np.testing.assert_array_equal(bound.theta, [[-1.0, -1.0]])
    np.testing.assert_array_equal(bound.slots["last"], [[3.0, 5.0]])
    np.testing.assert_array_equal(bound.slots["was"], [[1.0, 2.0]])
    bound.step(np.array([1.0, 1.0]))
    np.testing.assert_array_equal(bound.theta, [[-3.0, -4.0]])
    np.testing.assert_array_equal(bound.slots["was"], [[-1.0, -1.0]])


@pytest.mark.usefixtures("registry")
def test_a_class_without_a_rule_says_so() -> None:
    class Idle(Optimizer):
        default_rate = 1.0

    assert Idle not in Optimizer.registry.values(), "without a name it is a base, and not registered"
    with pytest.raises(NotImplementedError, match=r"Idle has no rule: define update\(self, theta, g"):
        Idle().update(0.0, 0.0)
