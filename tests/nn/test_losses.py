"""Losses: each against central differences, PyTorch and itself compiled; stability; checks of targets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnbp.backends.cpu.backend import NumpyBackend
from numpy.typing import NDArray

import nnbp
from nnbp.errors import DataError, ShapeError
from nnbp.graph.builder import Builder
from nnbp.nn import activations, losses
from nnbp.nn.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    Loss,
    Output,
    Poisson,
    Quantile,
    SquaredError,
)

BUILT_IN = {name: cls for name, cls in Loss.registry.items() if cls.__module__ == losses.__name__}
CLASSES = {"binary_cross_entropy", "cross_entropy"}
PLAIN = [*(BUILT_IN[name]() for name in sorted(set(BUILT_IN) - CLASSES)), Huber(0.3), Quantile(0.9)]
ALL = [*PLAIN, BinaryCrossEntropy(), CrossEntropy()]

each = pytest.mark.parametrize("loss", ALL, ids=repr)
each_plain = pytest.mark.parametrize("loss", PLAIN, ids=repr)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


def pairs(loss: Loss, m: int = 400, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Outputs and targets in the domain of the loss, away from its kinks."""
    rng = np.random.default_rng(seed)
    h, y = rng.normal(0, 2, m), rng.normal(0, 2, m)
    if loss.name == "poisson":
        h, y = np.exp(h), rng.poisson(2.0, m).astype(np.float64)
    for kink in loss.kinks:
        near = np.abs(h - y - kink) < 1e-3
        h[near] += 0.1
    return h, y


def targets(loss: Loss, m: int, n: int, rng: np.random.Generator) -> NDArray[Any]:
    if loss.name == "cross_entropy":
        return rng.integers(0, n, m)
    if loss.name == "binary_cross_entropy":
        return rng.integers(0, 2, (m, n))
    return rng.poisson(2.0, (m, n)).astype(float) if loss.name == "poisson" else rng.normal(0, 2, (m, n))


def record(loss: Loss, z: NDArray[Any], y: NDArray[Any], f: str | None = None) -> tuple[NDArray[Any], ...]:
    """h, C (m,) and ∂C/∂z of the recorded loss on z (n, m)."""
    activation = activations.get(f or loss.output_activation)
    op = Builder(NumpyBackend(), z.dtype, z.shape[1], training=False)
    z, h, cost = z.copy(), op.empty(len(z)), op.empty(1)
    rows = activation.forward(op, z, np.zeros((len(z), 1), z.dtype), h)
    out = Output(activation, z, h, rows)
    wanted = loss.record_targets(op, y, len(z))
    loss.record_cost(op, out, wanted, cost)
    delta = loss.record_delta(op, out, wanted, np.ones((1, z.shape[1]), z.dtype))
    op.backend.compile(op.operations)()
    return h, cost[0], delta


def test_registry_holds_the_contract() -> None:
    wanted = [
        "squared_error",
        "absolute_error",
        "huber",
        "quantile",
        "poisson",
        "binary_cross_entropy",
        "cross_entropy",
    ]
    assert set(wanted) <= set(Loss.registry)
    assert {name for name in wanted if losses.get(name).classification} == CLASSES
    outputs = {name: losses.get(name).output_activation for name in wanted}
    assert outputs["squared_error"] == "identity"
    assert outputs["binary_cross_entropy"] == "sigmoid"
    assert outputs["cross_entropy"] == "softmax"


@each_plain
def test_derivative_is_that_of_the_formula(loss: Loss) -> None:
    h, y = pairs(loss)
    step = 1e-5 * np.minimum(1.0, np.abs(h))
    numeric = (loss.cost(h + step, y) - loss.cost(h - step, y)) / (2 * step)
    np.testing.assert_allclose(loss.dcost(h, y) + 0 * h, numeric, rtol=1e-6, atol=1e-6)


@each
@pytest.mark.parametrize("n", [1, 2, 5])
def test_delta_is_the_derivative_of_the_recorded_cost(loss: Loss, n: int) -> None:
    if loss.name == "cross_entropy" and n == 1:
        n = 3
    rng = np.random.default_rng(n)
    z = rng.normal(size=(n, 30))
    y = loss.encode(targets(loss, 30, n, rng), n).T.astype(np.float64)
    _, cost, delta = record(loss, z, y)
    assert cost.shape == (30,)
    for i in range(n):
        step = np.zeros((n, 1))
        step[i] = 1e-5
        numeric = (record(loss, z + step, y)[1] - record(loss, z - step, y)[1]) / 2e-5
        np.testing.assert_allclose(delta[i], numeric, rtol=1e-6, atol=1e-8)


@each_plain
def test_cost_is_summed_over_outputs(loss: Loss) -> None:
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(4, 20)), loss.encode(targets(loss, 20, 4, rng), 4).T.astype(np.float64)
    h, cost, _ = record(loss, z, y)
    np.testing.assert_allclose(cost, loss.cost(h, y).sum(axis=0), rtol=1e-12)


def torch_cost(name: str, functional: Any, torch: Any, z: Any, y: Any) -> Any:
    match name:
        case "squared_error":
            return 0.5 * functional.mse_loss(z, y, reduction="none").sum(1)
        case "absolute_error":
            return functional.l1_loss(z, y, reduction="none").sum(1)
        case "huber":
            return functional.huber_loss(z, y, reduction="none", delta=0.7).sum(1)
        case "quantile":
            return torch.maximum(0.8 * (y - z), -0.2 * (y - z)).sum(1)
        case "poisson":
            return functional.poisson_nll_loss(z, y, reduction="none").sum(1)
        case "binary_cross_entropy":
            return functional.binary_cross_entropy_with_logits(z, y, reduction="none").sum(1)
    return functional.cross_entropy(z, y[:, 0].long(), reduction="none")


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_equal_to_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    loss = {"huber": Huber(0.7), "quantile": Quantile(0.8)}.get(name) or losses.get(name)
    rng = np.random.default_rng(4)
    z0 = rng.normal(0, 3, (50, 4))
    y = loss.encode(targets(loss, 50, 4, rng), 4).astype(np.float64)
    z = torch.tensor(z0, requires_grad=True)
    cost = torch_cost(name, torch.nn.functional, torch, z, torch.tensor(y))
    cost.sum().backward()
    _, ours, delta = record(loss, np.ascontiguousarray(z0.T), np.ascontiguousarray(y.T))
    np.testing.assert_allclose(ours, cost.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(delta.T, z.grad.numpy(), rtol=1e-11, atol=1e-14)


@each_plain
@each_dtype
def test_compiled_equals_plain_numpy_bit_for_bit(loss: Loss, dtype: Any) -> None:
    h, y = (v.astype(dtype).reshape(4, -1) for v in pairs(loss, 4 * 8000))
    op = Builder(NumpyBackend(), dtype, h.shape[1], training=False)
    cost, slope = op.empty(4), op.empty(4)
    op.map(loss.cost, [cost], h=h, y=y)
    op.map(loss.dcost, [slope], h=h, y=y)
    op.backend.compile(op.operations)()
    plain = loss.cost(h, y)
    assert plain.dtype == cost.dtype == slope.dtype == dtype
    assert cost.tobytes() == plain.tobytes()
    # Plain NumPy makes float64 of a Python number times a mask; the compiled formula stays in its dtype.
    assert np.array_equal(slope, np.asarray(loss.dcost(h, y), dtype))


@each
def test_float32_accuracy(loss: Loss) -> None:
    """C and ∂C/∂z in float32 are within 8 ε of their values in float64, relative to 1 + what they are made of."""
    rng = np.random.default_rng(2)
    z = rng.normal(0, 3, (4, 500)).astype(np.float32)
    y = loss.encode(targets(loss, 500, 4, rng), 4).T.astype(np.float32)
    _, cost, delta = record(loss, z, y)
    _, exact_cost, exact_delta = record(loss, z.astype(np.float64), y.astype(np.float64))
    assert cost.dtype == delta.dtype == np.float32
    eps = np.finfo(np.float32).eps
    assert np.max(np.abs(cost - exact_cost) / (1 + np.abs(exact_cost))) < 8 * eps
    away = np.ones(delta.shape, bool) if not loss.kinks else np.abs(z - y) > 1e-3
    assert np.max((np.abs(delta - exact_delta) / (1 + np.abs(exact_delta)))[away]) < 8 * eps


@each_dtype
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_binary_cross_entropy_at_extreme_logits(dtype: Any, size: float) -> None:
    z = np.array([[-size, -size, size, size, 0.0]], dtype)
    y = np.array([[0, 1, 0, 1, 1]], dtype)
    with np.errstate(all="raise", under="ignore"):
        h, cost, delta = record(BinaryCrossEntropy(), z, y)
    np.testing.assert_array_equal(h[0], [0, 0, 1, 1, 0.5])
    np.testing.assert_array_equal(cost, np.array([0, size, size, 0, math.log(2)], dtype))
    np.testing.assert_array_equal(delta[0], [0, -1, 1, 0, -0.5])


@each_dtype
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_cross_entropy_at_extreme_logits(dtype: Any, size: float) -> None:
    """With one logit that far above the others, C is the distance of logits, exactly."""
    z = np.array([[size, size, -size], [-size, -size, size], [0, 0, 0]], dtype)
    with np.errstate(all="raise", under="ignore"):
        h, cost, delta = record(CrossEntropy(), z, np.array([[0, 1, 2]], dtype))
    np.testing.assert_array_equal(h.T, [[1, 0, 0], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(cost, np.array([0, 2 * size, size], dtype))
    np.testing.assert_array_equal(delta.T, [[0, 0, 0], [1, -1, 0], [0, 1, -1]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_through_a_network_at_logits_of_1e4(dtype: str) -> None:
    net = nnbp.Network([2, 2], loss="cross_entropy", dtype=dtype, device="cpu", seed=0)
    net.set_parameters([[[1e4, 0], [0, 1e4]]], [[0, 0]])
    X = [[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]
    with np.errstate(all="raise", under="ignore"):
        assert net.loss(X[:2], [0, 1]) == 0
        assert net.loss(X[:1], [1]) == 2e4
        assert net.loss(X[2:], [0]) == pytest.approx(math.log(2), rel=1e-6)
        np.testing.assert_array_equal(net.gradients(X, [1, 1, 0]).delta[0], [[1, -1], [0, 0], [-0.5, 0.5]])


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=6), st.floats(-1e4, 1e4))
@settings(max_examples=40, deadline=None)
def test_cross_entropy_ignores_a_common_shift(logits: list[float], shift: float) -> None:
    z = np.array(logits)[:, None]
    y = np.zeros((1, 1))
    _, cost, delta = record(CrossEntropy(), z, y)
    _, shifted, moved = record(CrossEntropy(), z + shift, y)
    np.testing.assert_allclose(shifted, cost, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(moved, delta, atol=1e-10)
    np.testing.assert_allclose(delta.sum(), 0, atol=1e-14)


def test_class_indices_equal_one_hot_rows() -> None:
    rng = np.random.default_rng(0)
    net = nnbp.Network([3, 4], loss="cross_entropy", dtype="float64", device="cpu", seed=0)
    X, y = rng.normal(size=(12, 3)), rng.integers(0, 4, 12)
    assert net.loss(X, y) == net.loss(X, np.eye(4)[y]) == net.loss(X, y[:, None])
    np.testing.assert_array_equal(net.gradients(X, y).flat, net.gradients(X, np.eye(4)[y]).flat)


def test_soft_targets() -> None:
    """Rows of probabilities: C = −Σ y ln h."""
    net = nnbp.Network([3, 3], loss="cross_entropy", dtype="float64", device="cpu", seed=0)
    X, y = np.eye(3), np.array([[0.2, 0.3, 0.5], [1, 0, 0], [0.1, 0.9, 0]])
    expected = -np.mean(np.sum(y * np.log(net.forward(X)), axis=1))
    assert net.loss(X, y) == pytest.approx(expected, rel=1e-13)


POSITIVE = ["sigmoid", "softplus", "softmax", "exponential"]


@pytest.mark.parametrize(
    ("loss", "output"),
    [(loss, f) for loss in (SquaredError(), Huber(0.3)) for f in ["identity", "tanh", *POSITIVE]]
    + [(Poisson(), f) for f in POSITIVE],
)
def test_any_output_activation(loss: Loss, output: str) -> None:
    """∂C/∂z with an output activation that is not the canonical one goes through f' (or softmax's Jacobian)."""
    rng = np.random.default_rng(6)
    z, y = rng.normal(size=(3, 10)), np.abs(rng.normal(size=(3, 10)))
    delta = record(loss, z, y, output)[2]
    for i in range(3):
        step = np.zeros((3, 1))
        step[i] = 1e-6
        numeric = (record(loss, z + step, y, output)[1] - record(loss, z - step, y, output)[1]) / 2e-6
        np.testing.assert_allclose(delta[i], numeric, rtol=1e-6, atol=1e-8)


def test_minimum_of_the_quantile_loss_is_the_quantile() -> None:
    y = np.random.default_rng(0).exponential(size=999)
    grid = np.linspace(0, 5, 5001)
    means = [Quantile(0.8).cost(h, y).mean() for h in grid]
    assert grid[np.argmin(means)] == pytest.approx(np.quantile(y, 0.8), abs=2e-2)


def test_derivative_at_a_kink_is_zero() -> None:
    zero = np.zeros(1)
    assert AbsoluteError().dcost(zero, zero) == 0
    assert Quantile(0.9).dcost(zero, zero) == 0


# Targets.


@pytest.mark.parametrize(
    ("loss", "y", "outputs", "error", "said"),
    [
        ("squared_error", np.zeros((5, 3)), 2, ShapeError, r"\(m,\) or \(m, 2\).*received shape \(5, 3\)"),
        ("squared_error", np.zeros(5), 2, ShapeError, r"received shape \(5,\).*output layer \(2\)"),
        ("squared_error", np.zeros((5, 1, 1)), 1, ShapeError, r"received shape \(5, 1, 1\)"),
        ("cross_entropy", np.array([0, 1, 3]), 3, DataError, r"from 0 to 2.*received .*3.* in row 2"),
        ("cross_entropy", np.array([0, -1]), 3, DataError, r"received .*-1.* in row 1.*Number the classes from 0"),
        ("cross_entropy", np.array([0.5, 1]), 3, DataError, r"whole numbers.*received .*0\.5.* in row 0"),
        ("cross_entropy", np.ones((2, 3)), 3, DataError, r"sum 1; received .* in row 0.*one-hot"),
        ("cross_entropy", np.array([[1.5, -0.5]]), 2, DataError, r"none below 0.*row 0"),
        ("cross_entropy", np.zeros((4, 2)), 3, ShapeError, r"class indices \(m,\) or rows \(m, 3\).*\(4, 2\)"),
        ("binary_cross_entropy", np.array([0, 2]), 1, DataError, r"\[0, 1\]; received .*2.* in row 1.*0 and 1"),
        ("binary_cross_entropy", np.array([-1, 1]), 1, DataError, r"received .*-1.* in row 0"),
        ("poisson", np.array([1, 0, -2]), 1, DataError, r"at least 0; received .*-2.* in row 2"),
    ],
)
def test_targets_out_of_the_domain(loss: str, y: Any, outputs: int, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        losses.get(loss).encode(y, outputs)


@each
def test_targets_are_not_changed(loss: Loss) -> None:
    y = targets(loss, 20, 4, np.random.default_rng(0))
    kept = y.copy()
    y.flags.writeable = False
    encoded = loss.encode(y, 4)
    assert encoded.shape == ((20, 1) if loss.name == "cross_entropy" else (20, 4))
    assert np.array_equal(y, kept)


# What predict and predict_proba make of outputs.


def test_decisions() -> None:
    one, two = np.array([[0.2], [0.5], [0.9]]), np.array([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]])
    assert SquaredError().decide(np, one).shape == (3,)
    assert SquaredError().decide(np, two) is two
    np.testing.assert_array_equal(BinaryCrossEntropy().decide(np, one), [0, 1, 1])
    np.testing.assert_array_equal(BinaryCrossEntropy().decide(np, two), [[0, 1], [1, 1], [1, 0]])
    np.testing.assert_array_equal(CrossEntropy().decide(np, two), [1, 0, 0])
    np.testing.assert_array_equal(BinaryCrossEntropy().probabilities(np, one), np.hstack([1 - one, one]))
    assert BinaryCrossEntropy().probabilities(np, two) is two
    assert CrossEntropy().probabilities(np, two) is two
    with pytest.raises(TypeError, match=r"squared_error is for values.*predict"):
        SquaredError().probabilities(np, one)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Huber(0), "threshold of huber is a number, finite and above 0; received 0"),
        (lambda: Huber("1"), "a number, .* received '1'"),  # type: ignore[arg-type]
        (lambda: Quantile(1.0), r"above 0 and below 1; received 1\.0"),
        (lambda: losses.get("hinge"), "received 'hinge'"),
        (lambda: losses.get("cross_entropi"), "did you mean 'cross_entropy'"),
    ],
)
def test_arguments_out_of_range(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_objects_equal_by_their_arguments() -> None:
    assert Huber(2.0) == Huber(2.0) != Huber(1.0)
    assert len({Quantile(), Quantile(0.5), SquaredError()}) == 2
    assert repr(Quantile(0.9)) == "Quantile(q=0.9)"
