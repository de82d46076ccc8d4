"""Activations: each against central differences, PyTorch and itself compiled; accuracy and stability."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnbp.backends.cpu.backend import NumpyBackend
from numpy.typing import NDArray

import nnbp
from nnbp.errors import GradientError
from nnbp.graph.builder import Builder
from nnbp.nn import activations
from nnbp.nn.activations import ELU, GELU, Activation, LeakyReLU, Softmax

BUILT_IN = {name: cls for name, cls in Activation.registry.items() if cls.__module__ == activations.__name__}
ELEMENTWISE = sorted(set(BUILT_IN) - {"softmax"})
OBJECTS = [*(BUILT_IN[name]() for name in ELEMENTWISE), LeakyReLU(0.3), ELU(0.5), ELU(2.5)]
DTYPES = [np.float32, np.float64]

each = pytest.mark.parametrize("f", OBJECTS, ids=repr)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Classes that a test defines leave the registry with it."""
    before = dict(Activation.registry)
    yield
    Activation.registry.clear()
    Activation.registry.update(before)


def grid(f: Activation, dtype: Any = np.float64) -> NDArray[Any]:
    """Points on both sides of 0, dense and far, away from kinks."""
    z = np.concatenate([np.linspace(-12, 12, 1001), [-60.0, -30.0, 30.0, 60.0], [-1e-5, 1e-5, -1e-3, 1e-3]])
    for kink in f.kinks:
        z = z[np.abs(z - kink) > 1e-6]
    return z.astype(dtype)


def derivative(f: Activation, z: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(f.df(z, f.f(z)), z.dtype) + np.zeros_like(z)


def test_registry_holds_the_contract() -> None:
    wanted = ["identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "softplus", "silu", "gelu", "softmax"]
    assert set(wanted) <= set(Activation.registry)
    assert all(activations.get(name).name == name for name in wanted)


@each
def test_derivative_is_that_of_the_formula(f: Activation) -> None:
    # The largest value of exponential is 1e26: the error is taken relative to f', or to 1 where f' is small.
    z = grid(f)
    h = 1e-5 * np.maximum(1.0, np.abs(z))
    for kink in f.kinks:
        h = np.minimum(h, 0.5 * np.abs(z - kink))
    numeric = (f.f(z + h) - f.f(z - h)) / ((z + h) - (z - h))
    ours = derivative(f, z)
    error = np.abs(ours - numeric) / np.maximum(1.0, np.abs(numeric))
    assert error[np.abs(z) < 13].max() < 5e-9


@each
@given(st.floats(-30, 30))
@settings(max_examples=30, deadline=None)
def test_derivative_at_any_point(f: Activation, value: float) -> None:
    if any(abs(value - kink) < 1e-4 for kink in f.kinks):
        return
    z = np.array([value])
    h = 1e-5
    numeric = (f.f(z + h) - f.f(z - h)) / (2 * h)
    np.testing.assert_allclose(derivative(f, z), numeric, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    ("f", "call"),
    [
        ("identity", lambda t, z: z * 1.0),
        ("sigmoid", lambda t, z: t.sigmoid(z)),
        ("tanh", lambda t, z: t.tanh(z)),
        ("relu", lambda t, z: t.relu(z)),
        ("leaky_relu", lambda t, z: t.nn.functional.leaky_relu(z, 0.01)),
        (LeakyReLU(0.3), lambda t, z: t.nn.functional.leaky_relu(z, 0.3)),
        ("elu", lambda t, z: t.nn.functional.elu(z)),
        (ELU(2.5), lambda t, z: t.nn.functional.elu(z, 2.5)),
        ("softplus", lambda t, z: t.nn.functional.softplus(z, threshold=1000)),
        ("silu", lambda t, z: t.nn.functional.silu(z)),
        ("gelu", lambda t, z: t.nn.functional.gelu(z)),
        ("exponential", lambda t, z: t.exp(z)),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value) if isinstance(value, Activation) else "",
)
def test_equal_to_pytorch(f: Any, call: Any) -> None:
    torch = pytest.importorskip("torch")
    f = activations.get(f)
    points = np.append(grid(f), f.kinks)
    z = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    a = call(torch, z)
    a.sum().backward()
    np.testing.assert_allclose(f.f(points), a.detach().numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(derivative(f, points), z.grad.numpy(), rtol=1e-11, atol=1e-14)


def test_every_activation_is_compared_to_pytorch() -> None:
    [mark] = [m for m in test_equal_to_pytorch.pytestmark if m.name == "parametrize"]  # type: ignore[attr-defined]
    compared = {activations.get(f).name for f, _ in mark.args[1]}
    assert compared == set(ELEMENTWISE)


@each
@each_dtype
def test_compiled_equals_plain_numpy_bit_for_bit(f: Activation, dtype: Any) -> None:
    # 40,000 elements are three tiles of the NumPy backend.
    z = np.random.default_rng(0).normal(0, 4, (5, 8000)).astype(dtype)
    op = Builder(NumpyBackend(), dtype, 8000, training=False)
    a, da = op.empty(5), op.empty(5)
    op.map(f.f, [a], z=z)
    op.map(f.df, [da], z=z, a=a)
    op.backend.compile(op.operations)()
    with np.errstate(all="ignore"):
        plain = np.asarray(f.f(z))
        assert plain.dtype == dtype
        assert a.tobytes() == plain.tobytes()
        assert np.array_equal(da, derivative(f, z))
    assert da.dtype == dtype


@each
@each_dtype
def test_forward_and_backward_in_place_and_beside(f: Activation, dtype: Any) -> None:
    """z += b, a = f(z), delta = f'(z) da: the same whether z is kept or overwritten by a."""
    rng = np.random.default_rng(1)
    z0, da0 = (rng.normal(0, 3, (4, 50)).astype(dtype) for _ in range(2))
    b = rng.normal(size=(4, 1)).astype(dtype)
    results = []
    for keep in (True, False):
        if not keep and f.needs_z:
            continue
        op = Builder(NumpyBackend(), dtype, 50, training=False)
        z, da = z0.copy(), da0.copy()
        a = op.empty(4) if keep else z
        f.forward(op, z, b, a)
        delta = f.backward(op, z, a, da)
        assert delta is da
        op.backend.compile(op.operations)()
        if keep:
            assert np.array_equal(z, z0 + b)
        results.append((a.copy(), da.copy()))
    assert np.array_equal(results[0][0], f.f(z0 + b))
    np.testing.assert_allclose(results[0][1], da0 * derivative(f, z0 + b), rtol=1e-6)
    assert all(np.array_equal(p, q) for p, q in zip(results[0], results[-1], strict=True))


# Error of float32 in units in the last place of the float64 value: bounds just above what was measured. The exponent of
# gelu's tail is near 60 at z = -11, and its rounding error is multiplied by as much.
ULP = {"exponential": 3, "sigmoid": 3, "tanh": 2, "softplus": 3, "elu": 2, "silu": 3, "gelu": 160}


@each
def test_float32_accuracy_in_ulp(f: Activation) -> None:
    z = grid(f, np.float32)
    z = z[np.abs(z) < 13]
    exact = np.asarray(f.f(z.astype(np.float64)))
    ulp = np.abs(f.f(z) - exact) / np.spacing(np.abs(exact).astype(np.float32))
    # A float32 constant such as the slope 0.01 is rounded: identity, relu and leaky_relu stay within one unit.
    assert ulp.max() <= ULP.get(f.name, 1)


@each
def test_float32_accuracy_of_the_derivative(f: Activation) -> None:
    """f' from a is exact to a few ε of float32 in absolute terms: near saturation 1 − a² has no relative accuracy."""
    z = grid(f, np.float32)
    z = z[np.abs(z) < 13]
    exact = derivative(f, z.astype(np.float64))
    error = np.abs(derivative(f, z) - exact) / np.maximum(1.0, np.abs(exact))
    assert error.max() <= 8 * np.finfo(np.float32).eps


LIMITS: dict[str, tuple[float, float, float, float]] = {
    # f(-∞), f(∞) / z or f(∞), f'(-∞), f'(∞)
    "identity": (-math.inf, math.inf, 1, 1),
    "sigmoid": (0, 1, 0, 0),
    "tanh": (-1, 1, 0, 0),
    "relu": (0, math.inf, 0, 1),
    "leaky_relu": (-math.inf, math.inf, 0.01, 1),
    "elu": (-1, math.inf, 0, 1),
    "softplus": (0, math.inf, 0, 1),
    "silu": (0, math.inf, 0, 1),
    "gelu": (0, math.inf, 0, 1),
}


@pytest.mark.parametrize("name", sorted(set(ELEMENTWISE) - {"exponential"}))
@each_dtype
def test_no_overflow_and_exact_limits(name: str, dtype: Any) -> None:
    """No warning at ±1e4 nor at the ends of the dtype, and there f and f' are their limits exactly."""
    f = activations.get(name)
    low, high, dlow, dhigh = (dtype(value) for value in LIMITS[name])
    for size in (1e4, float(np.finfo(dtype).max) / 4):
        with np.errstate(all="raise", under="ignore"):
            z = np.array([-size, size], dtype)
            a, slope = f.f(z), derivative(f, z)
        expected = [z[0] * dlow if np.isinf(low) else low, z[1] if np.isinf(high) else high]
        np.testing.assert_array_equal(a, np.array(expected, dtype))
        np.testing.assert_array_equal(slope, np.array([dlow, dhigh], dtype))


def test_every_activation_has_its_limits_tested() -> None:
    assert set(LIMITS) | {"exponential"} == set(ELEMENTWISE)


def test_exponential_reaches_zero_and_overflows_to_infinity() -> None:
    f = activations.get("exponential")
    with np.errstate(over="ignore", under="ignore"):
        np.testing.assert_array_equal(f.f(np.array([-1e4, 0.0, 1e4])), [0.0, 1.0, np.inf])


def test_gelu_is_exact() -> None:
    z = np.concatenate([np.linspace(-8, 8, 2001), [-20.0, -37.0, 37.0]])
    exact = np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in z])
    ours = GELU().f(z)
    assert np.abs(ours - exact).max() <= 1e-14
    # In relative terms too, far out in the lower tail, where ½ (1 + erf) has nothing left.
    near = (np.abs(exact) > 1e-290) & (z != 0)
    assert np.max(np.abs(ours - exact)[near] / np.abs(exact)[near]) < 1e-12


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "identity"])
def test_symmetry(name: str) -> None:
    f, z = activations.get(name), np.linspace(0, 40, 401)
    middle = 2 * f.f(np.zeros(1))
    np.testing.assert_allclose(f.f(-z), middle - f.f(z), atol=2e-16)


def test_needs_z_says_whether_the_derivative_reads_z() -> None:
    assert {name for name in ELEMENTWISE if activations.get(name).needs_z} == {"leaky_relu", "silu", "gelu"}
    assert not Softmax().needs_z


def test_a_derived_derivative_uses_a_where_it_can() -> None:
    class OwnTanh(Activation):
        def f(self, z: Any) -> Any:
            return np.tanh(z)

    class OwnSoftplus(Activation):
        def f(self, z: Any) -> Any:
            return np.log1p(np.exp(z))

    z = np.linspace(-3, 3, 7)
    np.testing.assert_array_equal(OwnTanh().df(z, np.tanh(z)), 1.0 - np.tanh(z) ** 2)
    assert not OwnTanh().needs_z
    assert OwnSoftplus().needs_z


@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_softmax_forward_and_backward(n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    z0, da0, b = rng.normal(0, 5, (n, m)), rng.normal(size=(n, m)), rng.normal(size=(n, 1))
    op = Builder(NumpyBackend(), np.float64, m, training=False)
    z, a, da = z0.copy(), op.empty(n), da0.copy()
    Softmax().forward(op, z, b, a)
    delta = Softmax().backward(op, z, a, da)
    op.backend.compile(op.operations)()
    np.testing.assert_allclose(a.sum(axis=0), 1, rtol=1e-14)
    np.testing.assert_allclose(a.T, Softmax().f((z0 + b).T), rtol=1e-13)
    for j in range(m):
        jacobian = np.diag(a[:, j]) - np.outer(a[:, j], a[:, j])
        np.testing.assert_allclose(delta[:, j], jacobian @ da0[:, j], atol=1e-13)


@each_dtype
def test_softmax_at_logits_of_1e4(dtype: Any) -> None:
    net = nnbp.Network([3, 3], loss="cross_entropy", dtype=dtype, device="cpu", seed=0)
    net.set_parameters([1e4 * np.eye(3)], [np.zeros(3)])
    with np.errstate(all="raise", under="ignore"):
        h = net.forward([[1.0, -1.0, 0.0], [-1.0, -1.0, -1.0], [1.0, 1.0, -1.0]])
    np.testing.assert_array_equal(h, np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]], dtype))


def test_objects_equal_by_their_arguments() -> None:
    assert LeakyReLU(0.1) == LeakyReLU(0.1)
    assert LeakyReLU(0.1) != LeakyReLU(0.2)
    assert LeakyReLU(0.1) != ELU(0.1)
    assert len({ELU(1.0), ELU(1.0), ELU(2.0)}) == 2
    assert repr(ELU(2.0)) == "ELU(alpha=2.0)"
    assert ELU(**ELU(2.0).config()) == ELU(2.0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LeakyReLU(1.0), r"slope of leaky_relu.*received 1\.0"),
        (lambda: LeakyReLU(-0.1), r"slope of leaky_relu.*received -0\.1"),
        (lambda: LeakyReLU(math.nan), r"slope of leaky_relu.*received nan"),
        (lambda: LeakyReLU("0.1"), r"slope of leaky_relu is a number.*received '0\.1'"),  # type: ignore[arg-type]
        (lambda: ELU(None), r"alpha of elu is a number.*received None"),  # type: ignore[arg-type]
        (lambda: ELU(0.0), r"alpha of elu.*received 0\.0"),
        (lambda: activations.get("tahn"), r"received 'tahn'.*did you mean 'tanh'"),
    ],
)
def test_arguments_out_of_range(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_own_activation_works_and_is_found_by_name() -> None:
    class Softsign(Activation):
        name = "softsign"

        def f(self, z: Any) -> Any:
            return z / (1 + abs(z))

        def df(self, z: Any, a: Any) -> Any:
            return (1 - abs(a)) ** 2

    net = nnbp.Network([2, 5, 1], activation="softsign", dtype="float64", device="cpu", seed=0)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(8, 2)), rng.normal(size=8)
    gradient, theta = net.gradients(X, y).flat, net.parameters
    for k in range(len(theta)):
        before = theta[k]
        theta[k] = before + 1e-6
        above = net.loss(X, y)
        theta[k] = before - 1e-6
        below = net.loss(X, y)
        theta[k] = before
        assert gradient[k] == pytest.approx((above - below) / 2e-6, abs=1e-8)


def test_wrong_derivative_says_by_how_much() -> None:
    class Wrong(Activation):
        name = "wrong"

        def f(self, z: Any) -> Any:
            return np.tanh(z)

        def df(self, z: Any, a: Any) -> Any:
            return 1.05 - a * a

    with pytest.raises(GradientError, match=r"Wrong\(\).*df\(z, a\).*relative error 0\.0\d+, allowed 1e-06"):
        nnbp.Network([2, 3, 1], activation=Wrong(), device="cpu")


def test_activation_without_formula_says_what_to_define() -> None:
    class Empty(Activation):
        name = "empty"

    with pytest.raises(NotImplementedError, match=r"define f\(self, z\)"):
        Empty().f(0.0)
    with pytest.raises(NotImplementedError, match=r"define f\(self, z\)"):
        Empty().df(0.0, 0.0)
