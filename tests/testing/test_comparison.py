"""Any two functions are compared by a bound that is found on the spot."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnbp
from nnbp import Network
from nnbp.testing import compare, example_problem

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(30, 40)), RNG.normal(size=(40, 20))
DTYPES = ["float32", "float64"]


def in_blocks(a: Any, b: Any) -> Any:
    """A product in another order."""
    return sum(a[:, k : k + 7] @ b[k : k + 7] for k in range(0, a.shape[1], 7))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_computed_otherwise_passes(dtype: str) -> None:
    report = compare(np.matmul, in_blocks, A.astype(dtype), B.astype(dtype))
    (row,) = report.rows
    assert (row.name, row.verdict, row.shape) == ("result", "rounding", (30, 20))
    assert report.passed
    assert row.bound < (1e-4 if dtype == "float32" else 1e-13)
    assert str(report).splitlines()[-1].startswith("PASSED: p by matmul, q by in_blocks; largest relative error ")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fault_does_not(dtype: str) -> None:
    def careless(a: Any, b: Any) -> Any:
        product = a @ b
        product[3, 4] *= 1 + (1e-2 if dtype == "float32" else 1e-8)
        return product

    report = compare(np.matmul, careless, A.astype(dtype), B.astype(dtype))
    assert not report.passed
    assert report.culprit is not None
    assert report.culprit.verdict == "fault"
    assert "FAILED" in str(report)


def test_lower_precision_does_not_pass_for_rounding() -> None:
    def halves(a: Any, b: Any) -> Any:
        return a.astype(np.float16).astype(np.float32) @ b.astype(np.float16).astype(np.float32)

    assert not compare(np.matmul, halves, A.astype(np.float32), B.astype(np.float32)).passed


@given(st.integers(0, 2**31), st.integers(1, 50), st.floats(0, 1e6))
@settings(max_examples=60, deadline=None)
def test_cancellation_widens_the_bound(seed: int, n: int, mean: float) -> None:
    """The textbook's two formulas of a variance differ more, the larger the mean is; the stable one is the measure."""
    x = np.random.default_rng(seed).normal(mean, 1, n + 1).astype(np.float32)
    report = compare(lambda x: np.var(x), lambda x: np.mean((x - np.mean(x)) ** 2), x)
    (row,) = report.rows
    assert row.verdict != "fault"
    assert report.passed or row.bound >= 0.1


def test_amplified_rounding_decides_nothing() -> None:
    """The variance by E[x²] − E[x]² of numbers with a large mean is all rounding: nothing would be a fault."""
    x = np.random.default_rng(0).normal(1e4, 1, 50).astype(np.float32)

    def careless(x: Any) -> Any:
        return np.mean(x * x) - np.mean(x) ** 2

    report = compare(careless, np.var, x)
    (row,) = report.rows
    assert (row.verdict, row.passed, report.passed) == ("undecided", False, False)
    assert str(report).splitlines()[-1].startswith("undecided: result; p amplifies rounding so much")
    assert compare(careless, np.var, x, bound=row.bound).passed, "a given bound is meant"


class Two(NamedTuple):
    low: Any
    high: Any


def test_several_results_have_names() -> None:
    x = A.astype(np.float32)
    rows = compare(lambda x: (x + 1, x * 2), lambda x: [1 + x, 2 * x], x).rows
    assert [row.name for row in rows] == ["[0]", "[1]"]
    rows = compare(lambda x: Two(x.min(0), x.max(0)), lambda x: {"low": x.min(0), "high": x.max(0)}, x).rows
    assert [(row.name, row.verdict) for row in rows] == [("low", "equal"), ("high", "equal")]


def test_dictionaries_need_a_bound() -> None:
    p, q = {"x": A}, {"x": A * (1 + 1e-6)}
    assert compare(p, q, bound=1e-5).passed
    assert not compare(p, q, bound=1e-7).passed
    with pytest.raises(ValueError, match=r"received a dictionary\. Give a bound"):
        compare(p, q)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(
        ValueError, match=r"same names and shapes, none of them empty; received .*\(30, 40\).* and .*\(30,\)"
    ):
        compare(lambda x: x, lambda x: x[:, 0], A)
    with pytest.raises(ValueError, match="none of them empty"):
        compare({}, {}, bound=0.1)
    with pytest.raises(TypeError, match="functions, or dictionaries of arrays; received array"):
        compare(A, A)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bound, on the relative error,"):
        compare(lambda x: x, lambda x: x, A, bound=-1)


def test_inputs_are_not_changed_and_integers_stay() -> None:
    x, k = A.astype(np.float32), np.arange(40)
    before = x.copy()

    def in_place(x: Any, k: Any) -> Any:
        assert k.dtype == np.int64
        x += 1
        return x[:, k]

    assert compare(in_place, lambda x, k: (x + 1)[:, k], x, k).passed
    assert x.tobytes() == before.tobytes()


def test_dtypes_are_compared_and_not_cast() -> None:
    report = compare({"x": np.array([1, 2])}, {"x": np.array([1.9, 2.9])}, bound=0.1)
    assert not report.passed
    assert not compare({"x": np.array([1], np.uint8)}, {"x": np.array([257])}, bound=0.1).passed
    assert "inf" in str(compare({"x": np.array([1])}, {"x": np.array([2])}, bound=0.0))


def test_infinities_at_the_same_places_are_equal() -> None:
    x = np.array([-1.0, 2.0])
    assert compare(lambda x: np.where(x > 0, x, -np.inf), lambda x: np.where(x > 0, x, -np.inf), x).passed
    assert not compare(lambda x: np.where(x > 0, x, -np.inf), lambda x: x, x).passed


def test_the_order_of_names_does_not_matter() -> None:
    assert compare(lambda x: {"z": x, "a": 2 * x}, lambda x: {"a": 2 * x, "z": x}, A).passed


# ---- nnbp's networks and those of other libraries


def of_nnbp(net: Network) -> Any:
    def computed(X: Any, y: Any) -> Any:
        own = net.copy(dtype=X.dtype)
        g = own.gradients(X, y)
        return {
            "h": own.forward(X),
            "J": np.asarray(g.loss, X.dtype),
            "dX": g.dX / len(X),
            "W1": g.dW[0],
            "b2": g.db[1],
        }

    return computed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["tanh", "gelu", "relu"])
def test_networks_of_pytorch_compute_the_same(activation: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    from nnbp.torch import to_module

    net, X, y = example_problem(
        [5, 7, 3], activation=activation, loss="cross_entropy", samples=20, device="cpu", dtype=dtype
    )

    def theirs(X: Any, y: Any) -> Any:
        module, inputs = to_module(net), torch.tensor(X, requires_grad=True)
        cost = torch.nn.functional.cross_entropy(module[:-1](inputs), torch.tensor(y))
        cost.backward()
        W, b = module[0].weight.grad, module[2].bias.grad
        return {"h": module(inputs), "J": cost, "dX": inputs.grad, "W1": W, "b2": b}

    report = compare(of_nnbp(net), theirs, X.astype(dtype), y)
    assert report.passed, str(report)
    assert not compare(of_nnbp(net), lambda X, y: {**theirs(X, y), "b2": theirs(X, y)["b2"] * 1.01},
                       X.astype(dtype), y).passed  # fmt: skip


def test_networks_of_jax_compute_the_same() -> None:
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    net, X, y = example_problem([5, 7, 3], activation="tanh", loss="cross_entropy", samples=20, device="cpu")
    W, b = ([np.array(array) for array in arrays] for arrays in (net.weights, net.biases))

    def J(W1: Any, b2: Any, X: Any, y: Any) -> Any:
        z = jnp.tanh(X @ W1.T + b[0]) @ W[1].T + b2
        return -jnp.mean(jax.nn.log_softmax(z)[jnp.arange(len(y)), y]), jax.nn.softmax(z)

    def theirs(X: Any, y: Any) -> Any:
        (cost, h), (dW, db, dX) = jax.value_and_grad(J, argnums=(0, 1, 2), has_aux=True)(W[0], b[1], X, y)
        return {"h": h, "J": cost, "dX": dX, "W1": dW, "b2": db}

    report = compare(of_nnbp(net), theirs, X.astype(np.float32), y)
    assert report.passed, str(report)
    assert {row.name for row in report.rows} == {"h", "J", "dX", "W1", "b2"}
    assert nnbp.testing.compare is compare
