"""The assertions for other people's test suites."""

from __future__ import annotations

import numpy as np
import pytest
from strict_backend import OtherRoundingBackend

import nnbp
from nnbp import testing
from nnbp.graph.ops import Foreign, Gemm
from nnbp.nn import losses
from nnbp.nn.activations import Activation
from nnbp.nn.losses import Loss


def test_right_gradients_pass_and_give_the_report():
    net, X, y = testing.example_problem([3, 4, 2], activation="gelu", device="cpu")
    report = testing.assert_gradients(net, X, y, np.ones(len(X)), tolerance=1e-7)
    assert report.passed
    assert report.tolerance == 1e-7


def test_wrong_gradients_fail_with_the_table(monkeypatch):
    net, X, y = testing.example_problem([3, 4, 2], activation="tanh", device="cpu")
    monkeypatch.setattr(nnbp.Tanh, "df", lambda self, z, a: 1.0 - a)
    with pytest.raises(AssertionError, match="disagree on Network") as caught:
        testing.assert_gradients(net, X, y)
    assert "max relative" in str(caught.value)
    assert "FAILED" in str(caught.value)


def test_devices_that_agree_pass():
    net, X, y = testing.example_problem([3, 4, 2], device="cpu")
    report = testing.assert_devices_agree(net, X, y, devices=("cpu", OtherRoundingBackend()), steps=3)
    assert report.passed
    assert report.updates == 3


def test_devices_that_disagree_fail_with_the_table():
    class Careless(OtherRoundingBackend):
        def lowered(self, operation):
            found = super().lowered(operation)
            if not isinstance(operation, Gemm):
                return found
            out = self.host(operation.out)
            return [*found, Foreign(np.multiply, (out, 1.001, out))]

    net, X, y = testing.example_problem([3, 4, 2], device="cpu")
    with pytest.raises(AssertionError, match="devices disagree on Network") as caught:
        testing.assert_devices_agree(net, X, y, devices=("cpu", Careless()))
    assert "dW1" in str(caught.value)


@pytest.mark.parametrize("loss", list(Loss.registry))
def test_example_targets_are_what_the_loss_accepts(loss):
    y = testing.example_targets(loss, 12, 3, seed=5)
    assert np.array_equal(y, testing.example_targets(loss, 12, 3, seed=5))
    encoded = losses.get(loss).encode(y, 3)
    assert len(encoded) == 12


def test_classes_all_occur():
    assert set(testing.example_targets("cross_entropy", 12, 5)) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("output", [name for name in Activation.registry if name != "exponential"])
def test_examples_stay_where_a_logarithm_is_defined(output):
    net, X, y = testing.example_problem([3, 4, 2], loss="poisson", output_activation=output, device="cpu")
    assert (net.forward(X) > 0).all()
    assert np.isfinite(net.loss(X, y))


def test_examples_are_reproducible_and_have_biases():
    one, two = (testing.example_problem([3, 4, 2], device="cpu", seed=4) for _ in range(2))
    assert np.array_equal(one[0].parameters, two[0].parameters)
    assert np.array_equal(one[1], two[1])
    assert all((b != 0).all() for b in one[0].biases)
