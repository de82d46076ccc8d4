"""Parameters: one flat vector, what decays first, and the arrays of the layers as views of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnbp.backends.cpu.backend import NumpyBackend

from nnbp.nn.parameters import Parameters, ParameterSpec


def dense(n_out: int, n_in: int) -> list[ParameterSpec]:
    return [ParameterSpec("W", (n_out, n_in), True), ParameterSpec("b", (n_out,), False)]


@pytest.fixture
def parameters() -> Parameters:
    return Parameters(NumpyBackend(), [dense(2, 3), [], dense(1, 2)], np.float32)


def test_weights_come_first_then_biases(parameters: Parameters) -> None:
    """theta = [W¹, W², b¹, b²]."""
    parameters.theta[...] = np.arange(11)
    first, none, last = parameters.views(parameters.theta)
    np.testing.assert_array_equal(first["W"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(last["W"], [[6, 7]])
    np.testing.assert_array_equal(first["b"], [8, 9])
    np.testing.assert_array_equal(last["b"], [10])
    assert none == {}
    assert (parameters.size, parameters.decayed) == (11, 8)


def test_views_share_memory_and_are_contiguous(parameters: Parameters) -> None:
    parameters.theta[...] = 0
    for layer in parameters.views(parameters.theta):
        for view in layer.values():
            assert np.shares_memory(view, parameters.theta)
            assert view.flags.c_contiguous
            view += 1
    np.testing.assert_array_equal(parameters.theta, np.ones(11))


def test_dtype_and_separate_gradient(parameters: Parameters) -> None:
    assert parameters.theta.dtype == parameters.gradient.dtype == np.float32
    assert parameters.theta.shape == parameters.gradient.shape == (11,)
    assert not np.shares_memory(parameters.theta, parameters.gradient)


def test_views_of_rows(parameters: Parameters) -> None:
    """A matrix (m, P) is cut into arrays with m in front: the gradients of single samples."""
    rows = np.arange(33.0).reshape(3, 11)
    first, _, last = parameters.views(rows)
    assert first["W"].shape == (3, 2, 3)
    assert last["b"].shape == (3, 1)
    np.testing.assert_array_equal(first["W"][1], rows[1, :6].reshape(2, 3))
    assert np.shares_memory(first["W"], rows)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_every_element_belongs_to_one_array(shapes: list[tuple[int, int]]) -> None:
    made = Parameters(NumpyBackend(), [dense(*shape) for shape in shapes], np.float64)
    made.theta[...] = 0
    for layer, shape in zip(made.views(made.theta), shapes, strict=True):
        assert layer["W"].shape == shape
        assert layer["b"].shape == shape[:1]
        for view in layer.values():
            view += 1
    np.testing.assert_array_equal(made.theta, 1)
    assert made.decayed == sum(n * k for n, k in shapes)


def test_size_of_a_spec() -> None:
    assert ParameterSpec("W", (4, 3), True).size == 12
    assert ParameterSpec("b", (), False).size == 1
