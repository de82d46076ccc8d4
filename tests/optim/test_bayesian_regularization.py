"""Bayesian regularization: the evidence by dense linear algebra and by scikit-learn, and what fits promise."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnbp
from nnbp import BayesianRegularization, Dense, Network
from nnbp.optim.bayesian_regularization import FREE
from nnbp.optim.optimizers import Objective

RULE = "bayesian_regularization"
FIELDS = ("effective_parameters", "noise", "loss")


def network(*sizes: int, seed: int = 0, **options: Any) -> Network:
    layers = [Dense(units, "tanh", initializer="nguyen_widrow") for units in sizes[1:-1]]
    options = {"dtype": "float64", "device": "cpu", **options}
    return Network([sizes[0], *layers, Dense(sizes[-1])], seed=seed, **options)


def sine(m: int = 41, noise: float = 0.2, seed: int = 0) -> tuple[Any, Any]:
    x = np.linspace(-1.7, 1.7, m).reshape(-1, 1)
    return x, np.sin(np.pi / 1.7 * x) + np.random.default_rng(seed).normal(0.0, noise, x.shape)


def plane(m: int, outputs: int, seed: int = 1) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(m, 4)) * [1.0, 2.0, 0.5, 1.0]
    truth = rng.normal(size=(4, outputs)) * [[1.0], [0.1], [0.5], [0.0]]
    return X, X @ truth + 2.0 + 0.7 * rng.normal(size=(m, outputs))


def fit(net: Network, X: Any, y: Any, **options: Any) -> Any:
    return net.fit(X, y, **{"optimizer": RULE, "epochs": 200, "progress": False, **options})


# ---- the evidence


def test_a_linear_network_ends_where_bayesian_ridge_does() -> None:
    """Whose γ has no intercept: α₁ = −½ takes one sample off N for it."""
    sklearn = pytest.importorskip("sklearn")
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, y = plane(30, 1)
    net = network(4, 1)
    history = fit(net, X, y, epochs=500)
    with sklearn.config_context(skip_parameter_validation=True):
        ridge = linear_model.BayesianRidge(
            alpha_1=-0.5, alpha_2=0.0, lambda_1=0.0, lambda_2=0.0, max_iter=10_000, tol=1e-14
        ).fit(X, y[:, 0])
    np.testing.assert_allclose(net.weights[0][0], ridge.coef_, rtol=1e-3)
    np.testing.assert_allclose(net.biases[0][0], ridge.intercept_, rtol=1e-3)
    assert history["noise"][-1] == pytest.approx(ridge.alpha_**-0.5, rel=1e-4)
    # J has λ = α / (β m).
    residuals = np.mean((net.forward(X) - y) ** 2) / 2
    decay = 2.0 * (history["loss"][-1] - residuals) / np.sum(net.weights[0] ** 2)
    assert decay == pytest.approx(ridge.lambda_ / ridge.alpha_ / 30, rel=1e-2)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_linear_network_of_two_outputs_ends_at_the_fixed_point_of_the_evidence(weighted: bool) -> None:
    """By iterating the formulas on the normal equations, with weights whose mean is 1."""
    X, y = plane(25, 2)
    w = np.random.default_rng(2).uniform(0.2, 3.0, 25) if weighted else np.ones(25)
    net = network(4, 2)
    history = fit(net, X, y, epochs=500, sample_weight=w)

    share = w / w.mean()
    inputs = np.hstack([X, np.ones((25, 1))])
    gram = np.kron(np.eye(2), inputs.T @ (share[:, None] * inputs))
    moments = (inputs.T @ (share[:, None] * y)).T.ravel()
    decays = np.tile([True] * 4 + [False], 2)
    alpha = beta = 1.0
    for _ in range(2000):
        A = beta * gram + alpha * np.diag(decays)
        theta = np.linalg.solve(A, beta * moments)
        gamma = 10 - alpha * np.diag(np.linalg.inv(A))[decays].sum()
        errors = y - inputs @ theta.reshape(2, 5).T
        beta = (50 - gamma) / np.sum(share[:, None] * errors**2)
        alpha = (gamma - 2) / np.sum(theta[decays] ** 2)
    np.testing.assert_allclose(net.weights[0], theta.reshape(2, 5)[:, :4], rtol=1e-3)
    np.testing.assert_allclose(net.biases[0], theta.reshape(2, 5)[:, 4], rtol=1e-3)
    assert history["effective_parameters"][-1] == pytest.approx(gamma, rel=1e-3)
    assert history["noise"][-1] == pytest.approx(beta**-0.5, rel=1e-4)


def test_every_epoch_has_the_evidence_of_its_parameters() -> None:
    """γ, σ and J of each epoch, from residuals and differences of a network with two matrices of different λ."""
    rng = np.random.default_rng(3)
    X, w = rng.normal(size=(30, 2)), rng.uniform(0.0, 2.0, 30)
    y = np.tanh(X) + 0.3 * rng.normal(size=(30, 2))
    w[:3] = 0.0
    net = network(2, 3, 2)
    points = [np.array(net.parameters)]
    history = fit(net, X, y, epochs=12, sample_weight=w, callbacks=[lambda state: points.append(net.parameters.copy())])

    probe, share = network(2, 3, 2), np.repeat(np.sqrt(w / w.sum()), 2)
    matrices, sizes = (slice(0, 6), slice(6, 12)), np.array([6, 6])

    def outputs(theta: Any) -> Any:
        probe.parameters[...] = theta
        return np.array(probe.forward(X))

    decays = np.array([0.01, 0.01])
    for epoch, theta in enumerate(points[:-1]):
        errors = share * (outputs(theta) - y).ravel()
        steps = 1e-6 * np.eye(17)
        jacobian = np.stack([(outputs(theta + d) - outputs(theta - d)).ravel() / 2e-6 for d in steps], axis=1)
        jacobian *= share[:, None]
        G = jacobian.T @ jacobian
        prior = np.concatenate([np.repeat(decays, sizes), np.full(5, FREE * np.diag(G).max())])
        unknown = prior * np.diag(np.linalg.inv(G + np.diag(prior)))
        gamma = 17 - unknown.sum()
        # 27 samples count.
        variance = 27 * errors @ errors / (2 * 27 - gamma)
        squares = np.array([np.sum(theta[rows] ** 2) for rows in matrices])
        if epoch:
            known = sizes - np.array([unknown[rows].sum() for rows in matrices])
            decays = known * variance / (27 * squares)
        J = errors @ errors / 2 + decays @ squares / 2
        found = [history[name][epoch] for name in FIELDS]
        np.testing.assert_allclose(found, [gamma, math.sqrt(variance), J], rtol=1e-6)
        after = share * (outputs(points[epoch + 1]) - y).ravel()
        ends = np.array([np.sum(points[epoch + 1][rows] ** 2) for rows in matrices])
        assert after @ after / 2 + decays @ ends / 2 < J, "the step lowers J with the decay of its epoch"
    assert abs(math.log(decays[0] / decays[1])) > 0.5


def test_scaled_weights_change_nothing_and_a_weight_of_0_leaves_a_sample_out() -> None:
    X, y = sine()
    w = np.random.default_rng(1).uniform(0.5, 2.0, len(X))
    w[::5] = 0.0
    nets = [network(1, 5, 1) for _ in range(3)]
    histories = [
        fit(nets[0], X, y, epochs=15, sample_weight=w),
        fit(nets[1], X, y, epochs=15, sample_weight=1000.0 * w),
        fit(nets[2], X[w > 0], y[w > 0], epochs=15, sample_weight=w[w > 0]),
    ]
    for net, history in zip(nets[1:], histories[1:], strict=True):
        np.testing.assert_allclose(net.parameters, nets[0].parameters, rtol=1e-6)
        for name in FIELDS:
            np.testing.assert_allclose(history[name], histories[0][name], rtol=1e-8)


def test_the_noise_of_a_sine_is_found() -> None:
    net = network(1, 8, 1)
    history = fit(net, *sine(400, 0.3), epochs=500)
    assert history["noise"][-1] == pytest.approx(0.3, rel=0.1)
    assert 4 < history["effective_parameters"][-1] < 14


def test_noise_is_fitted_less_than_with_early_stopping() -> None:
    """Mean error of the true function, over ten data sets of 41 samples."""
    errors: dict[str, list[float]] = {RULE: [], "levenberg_marquardt": []}
    truth = sine(401, 0.0)
    for seed in range(10):
        for name, found in errors.items():
            net = network(1, 10, 1, seed=seed)
            more = {} if name == RULE else {"validation_split": 0.2, "early_stopping": 10}
            fit(net, *sine(seed=seed), optimizer=name, **more)
            found.append(float(np.sqrt(np.mean((net.forward(truth[0]) - truth[1]) ** 2))))
    assert np.mean(errors[RULE]) < np.mean(errors["levenberg_marquardt"])


def test_float32_ends_near_float64() -> None:
    ends = [fit(network(1, 3, 1, dtype=dtype), *sine(101), epochs=500) for dtype in ("float64", "float32")]
    for name in FIELDS:
        assert ends[1][name][-1] == pytest.approx(ends[0][name][-1], rel=1e-2)
    assert ends[1].stopped is not None


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_gpu_finds_the_same_evidence(dtype: str) -> None:
    X, y = plane(60, 2)
    w = np.random.default_rng(2).uniform(0.0, 2.0, 60)
    on = [network(4, 5, 2, dtype=dtype, device=device, fallback=False) for device in ("cpu", "cuda")]
    histories = [fit(net, X, y, epochs=10, sample_weight=w) for net in on]
    for name in FIELDS:
        np.testing.assert_allclose(histories[1][name], histories[0][name], rtol=1e-8 if dtype == "float64" else 1e-3)


# ---- fits


def test_training_ends_once_nothing_moves_and_leaves_the_last_parameters() -> None:
    X, y = sine()
    net, points = network(1, 10, 1), []
    history = fit(net, X, y, epochs=1000, callbacks=[lambda state: points.append(net.parameters.copy())])
    assert history.stopped == "γ and J have hardly changed in 5 steps"
    assert history.epochs < 1000
    for name, share in (("effective_parameters", 1e-3), ("loss", 1e-4)):
        last = np.array(history[name][-6:])
        assert (np.abs(np.diff(last)) <= share * last[:-1]).all()
    assert np.array_equal(net.parameters, points[-1])
    # The network's J has no decay.
    assert net.loss(X, y) == pytest.approx(np.mean((net.forward(X) - y) ** 2) / 2)
    assert net.loss(X, y) < history["loss"][-1]
    assert net.weight_decay == 0.0


@pytest.mark.parametrize("validated", [False, True])
def test_a_fit_that_resumes_ends_with_the_same_bits(validated: bool, tmp_path: Path) -> None:
    X, y = sine()
    options: dict[str, Any] = {"epochs": 25}
    if validated:
        options |= {"validation_data": sine(17, seed=9), "early_stopping": nnbp.EarlyStopping(8, monitor="noise")}
    whole, stopped, resumed = (network(1, 8, 1) for _ in range(3))
    history = fit(whole, X, y, **options)
    assert (history.best_epoch is not None) == validated
    assert list(history) == ["loss", *["val_loss"] * validated, "effective_parameters", "noise"]

    def stop(state: nnbp.TrainingState) -> None:
        if state.epoch == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(stopped, X, y, **options, checkpoint=nnbp.Checkpoint(tmp_path), callbacks=[stop])
    again = fit(resumed, X, y, **options, checkpoint=nnbp.Checkpoint(tmp_path), resume=True)
    assert again == history
    assert list(again) == list(history)
    assert again.stopped == history.stopped
    assert np.array_equal(resumed.parameters, whole.parameters)


def test_the_end_and_the_warning_come_from_a_checkpoint(tmp_path: Path) -> None:
    """Steps that hardly changed anything are counted on, and a fit that resumes at its end warns again."""
    nets = [network(1, 10, 1) for _ in range(3)]
    history = fit(nets[0], *sine(), epochs=1000)
    assert history.stopped is not None
    checkpoint = nnbp.Checkpoint(tmp_path / "ends", every=history.epochs - 2)
    fit(nets[1], *sine(), epochs=history.epochs - 2, checkpoint=checkpoint)
    again = fit(nets[2], *sine(), epochs=1000, checkpoint=checkpoint, resume=True)
    assert (again.epochs, again.stopped) == (history.epochs, history.stopped)
    for _ in range(2):
        with pytest.warns(nnbp.ConvergenceWarning, match="effective parameters"):
            fit(network(4, 1), *few(), epochs=40, checkpoint=nnbp.Checkpoint(tmp_path / "few"), resume=True)


def few() -> tuple[Any, Any]:
    """As many targets as a network with 4 inputs and an output has parameters, and no noise."""
    X = np.random.default_rng(0).normal(size=(5, 4))
    return X, X.sum(axis=1, keepdims=True)


def test_too_few_samples_for_the_network_are_a_warning() -> None:
    with pytest.warns(
        nnbp.ConvergenceWarning, match=r"effective parameters for 5 targets.*Give more samples, or fewer"
    ):
        fit(network(4, 1), *few())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(network(4, 1), *plane(30, 1))


def test_a_network_that_has_learnt_the_noise_forgets_it_without_a_warning() -> None:
    """Its cost rises on purpose."""
    X, y = sine()
    net = network(1, 12, 1)
    fit(net, X, y, optimizer="levenberg_marquardt", epochs=300)
    before = net.loss(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(net, X, y)
    assert net.loss(X, y) > 1.3 * before


@pytest.mark.filterwarnings("ignore::nnbp.ConvergenceWarning")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["constant", "zero", "no noise", "only noise", "no inputs", "two samples", "straight"])
def test_degenerate_data_end_with_finite_values(name: str, dtype: str) -> None:
    x, y = sine(41, 0.0)
    noise = np.random.default_rng(0).normal(size=y.shape)
    X, target = {
        "constant": (x, 0.0 * y + 1.0), "zero": (x, 0.0 * y), "no noise": (x, y), "only noise": (x, noise),
        "no inputs": (0.0 * x, noise), "two samples": (x[::40], y[::40]), "straight": (x, 2.0 * x + 1.0),
    }[name]  # fmt: skip
    net = network(1, 8, 1, dtype=dtype)
    history = fit(net, X, target, epochs=150)
    assert np.isfinite([history[field] for field in FIELDS]).all()
    assert np.isfinite(net.parameters).all()
    gamma = np.array(history["effective_parameters"])
    assert (gamma > 0.0).all()
    assert (gamma <= min(len(X), net.parameters.size) + 1e-6).all()
    if name == "no inputs":
        assert gamma[-1] == pytest.approx(1.0, abs=1e-3), "one bias of the output"


def test_units_that_reach_no_output_are_no_effective_parameters() -> None:
    net = network(1, 3, 1)
    net.set_parameters([np.ones((3, 1)), np.zeros((1, 3))], [np.array([-1.0, 0.0, 1.0]), np.zeros(1)])
    history = fit(net, *sine(), epochs=1)
    assert 1.0 <= history["effective_parameters"][0] <= 4.0 + 1e-9, "b of the output, and at most 3 weights"


def test_callbacks_and_early_stopping_see_the_values() -> None:
    seen: list[nnbp.TrainingState] = []
    stopping = nnbp.EarlyStopping(3, monitor="effective_parameters")
    history = fit(network(1, 5, 1), *sine(), early_stopping=stopping, callbacks=[seen.append], metrics=["r2"])
    assert list(seen[-1].logs) == ["loss", "r2", "effective_parameters", "noise"]
    assert set(seen[-1].greater_is_better) == {"loss", "r2", "effective_parameters", "noise"}
    assert history.stopped is not None
    assert "effective_parameters has not improved" in history.stopped


def test_a_metric_of_the_same_name_is_refused() -> None:
    def noise(y: Any, p: Any) -> float:
        return 0.0

    with pytest.raises(
        ValueError, match=r"bayesian_regularization adds effective_parameters, noise; received a metric"
    ):
        fit(network(1, 3, 1), *sine(), metrics=[noise])


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        (Network([2, 1], weight_decay=0.1, device="cpu", seed=0), {}, r"weight_decay=0\.1\. Make it with"),
        (Network([2, 1], loss="huber", device="cpu", seed=0), {}, "bayesian_regularization is for sums of squares"),
        (Network([2, nnbp.Dropout(0.1), 1], device="cpu", seed=0), {}, "received the layers dropout, dense"),
        (Network([2, Dense(2), nnbp.BatchNorm(), 1], device="cpu", seed=0), {}, "dense, batch_norm, dense"),
        (Network([2, 4000, 1], device="cpu", seed=0), {}, r"bayesian_regularization solves.* network of 16,001"),
        (Network([2, 1], device="cpu", seed=0), {"learning_rate": 0.1}, "bayesian_regularization chooses"),
        (Network([2, 1], device="cpu", seed=0), {"clip_norm": 1.0}, "clip_norm"),
        (Network([2, 1], device="cpu", seed=0), {"schedule": "cosine"}, "schedule"),
    ],
)  # fmt: skip
def test_what_it_cannot_train_is_refused_with_what_can(net: Network, options: Any, message: str) -> None:
    before = net.parameters.copy()
    with pytest.raises(ValueError, match=message):
        fit(net, np.eye(2), [0.0, 1.0], **options)
    assert np.array_equal(net.parameters, before)


def test_partial_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="bayesian_regularization needs all of it"):
        network(1, 2, 1).partial_fit(*sine(), optimizer=RULE)


@pytest.mark.parametrize("name", ["damping", "tolerance_grad", "tolerance_change"])
def test_arguments_have_a_range(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} of BayesianRegularization"):
        BayesianRegularization(**{name: -1.0})


def test_within_the_tolerance_of_the_gradient_the_parameters_stay() -> None:
    net = network(1, 3, 1)
    before = net.parameters.copy()
    history = fit(net, *sine(), optimizer=BayesianRegularization(tolerance_grad=math.inf), epochs=3)
    assert np.array_equal(net.parameters, before)
    assert history.epochs == 3


def test_a_step_that_finds_nothing_lower_does_not_shorten_the_next_one() -> None:
    start = np.array([0.5, 0.0])
    theta, gradient, wall = start.copy(), np.zeros(2), [True]

    def evaluate() -> float:
        gradient[...] = theta - 1.0
        return 0.5 * float(gradient @ gradient) + float(wall[0] and (theta != start).any())

    objective = Objective(
        theta, gradient, evaluate, lambda: np.eye(2), np, float, matrices=(slice(0, 1),), samples=9, outputs=1
    )
    rule = BayesianRegularization()
    memory = rule.memory()
    rule.step(objective, memory)
    assert np.array_equal(theta, start)
    assert memory.ended is None
    wall[0] = False
    rule.step(objective, memory)
    assert theta[1] == pytest.approx(1.0, abs=0.05)
