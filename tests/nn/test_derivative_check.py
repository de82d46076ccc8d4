"""The check of users' own formulas: right ones pass, wrong ones are told where and by how much."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from nnbp import (
    Activation,
    BinaryCrossEntropy,
    CrossEntropy,
    DataError,
    Huber,
    Loss,
    Network,
    Poisson,
    ReLU,
    check_gradients,
)
from nnbp.errors import GradientError, NnbpError
from nnbp.nn.activations import GELU, Exponential, Identity, Sigmoid, Softmax, Tanh
from nnbp.nn.derivative_check import check_activation, check_loss


class Cube(Activation):
    """f = z³ / 10; f' = 0.3 z², times a factor that makes it wrong. Without a name it stays out of the registry."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def f(self, z: Any) -> Any:
        return 0.1 * z * z * z

    def df(self, z: Any, a: Any) -> Any:
        return 0.3 * self.factor * z * z


class Step(Activation):
    """A ramp with a kink at 1, named or not."""

    def __init__(self, *kinks: float) -> None:
        self.kinks = kinks  # type: ignore[misc]

    def f(self, z: Any) -> Any:
        return np.maximum(z, 1.0)

    def df(self, z: Any, a: Any) -> Any:
        return z > 1.0


class Quartic(Loss):
    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def cost(self, h: Any, y: Any) -> Any:
        return (h - y) ** 4

    def dcost(self, h: Any, y: Any) -> Any:
        return 4.0 * self.factor * (h - y) ** 3


class Constant(Activation):
    def f(self, z: Any) -> Any:
        return 0.0 * z + 2.0

    def df(self, z: Any, a: Any) -> Any:
        return 0.0


class NotANumber(Activation):
    def f(self, z: Any) -> Any:
        return z

    def df(self, z: Any, a: Any) -> Any:
        return np.where(z > 3.9, np.nan, 1.0)


@pytest.mark.parametrize("f", [Cube(), Constant(), Step(1.0), ReLU(), GELU()], ids=lambda f: type(f).__name__)
def test_right_derivatives_pass(f: Activation) -> None:
    assert check_activation(f) is None


def test_right_loss_passes() -> None:
    assert check_loss(Quartic(), Identity()) is None


@pytest.mark.parametrize("factor", [1.1, 1 + 1e-4, 0.0, -1.0])
def test_wrong_activation_is_told_where_and_by_how_much(factor: float) -> None:
    with pytest.raises(GradientError) as caught:
        check_activation(Cube(factor))
    found = re.search(
        r"At z = (\S+) it gives (\S+), central differences give (\S+) \(relative error (\S+),", str(caught.value)
    )
    assert found is not None
    z, given, expected, error = map(float, found.groups())
    assert given == pytest.approx(0.3 * factor * z * z, rel=1e-4)
    assert expected == pytest.approx(0.3 * z * z, rel=1e-4)
    assert error == pytest.approx(abs(given - expected) / (1 + abs(expected)), rel=0.05)
    assert "Correct df" in str(caught.value)


def test_wrong_loss_is_told_where_and_by_how_much() -> None:
    with pytest.raises(GradientError, match=r"dcost\(h, y\) has to be the derivative of cost\(h, y\).* At h = "):
        check_loss(Quartic(1.01), Identity())


def test_error_below_the_tolerance_passes() -> None:
    assert check_activation(Cube(1 + 1e-8)) is None


def test_kink_has_to_be_named() -> None:
    class Near(Step):
        """The kink lies between the two points that the central difference takes."""

        def f(self, z: Any) -> Any:
            return np.maximum(z, 1.0 / 321)

        def df(self, z: Any, a: Any) -> Any:
            return z > 1.0 / 321

    with pytest.raises(GradientError, match="kinks"):
        check_activation(Near())
    assert check_activation(Near(1.0 / 321)) is None


def test_nan_counts_as_wrong() -> None:
    with pytest.raises(GradientError, match="gives nan"):
        check_activation(NotANumber())


# What shows far out only, or on one side.


class Clip(Activation):
    """z within ±6; its kinks are not named, and no point stands on them."""

    def __init__(self, right: bool) -> None:
        self.right = right

    def f(self, z: Any) -> Any:
        return np.minimum(np.maximum(z, -6.0), 6.0)

    def df(self, z: Any, a: Any) -> Any:
        return (np.abs(z) < 6.0) * 1.0 if self.right else 1.0


class OwnHuber(Loss):
    def __init__(self, right: bool) -> None:
        self.right = right

    def cost(self, h: Any, y: Any) -> Any:
        return Huber().cost(h, y)

    def dcost(self, h: Any, y: Any) -> Any:
        return Huber().dcost(h, y) if self.right else h - y


class LogOfSize(Loss):
    """ln(1 + |h − y|), whose derivative has the sign of h − y."""

    kinks = (0.0,)

    def __init__(self, right: bool) -> None:
        self.right = right

    def cost(self, h: Any, y: Any) -> Any:
        return np.log1p(np.abs(h - y))

    def dcost(self, h: Any, y: Any) -> Any:
        return (np.sign(h - y) if self.right else 1.0) / (1.0 + np.abs(h - y))


class SignOfOutput(LogOfSize):
    """ln(1 + |h|): outputs and targets in (0, 1) do not show the sign."""

    def cost(self, h: Any, y: Any) -> Any:
        return np.log1p(np.abs(h)) * (1.0 + 0.0 * y)

    def dcost(self, h: Any, y: Any) -> Any:
        return (np.sign(h) if self.right else 1.0) / (1.0 + np.abs(h))


def test_activation_is_tried_where_it_saturates() -> None:
    assert check_activation(Clip(True)) is None
    with pytest.raises(GradientError, match=r"At z = .* it gives 1, central differences give 0 "):
        check_activation(Clip(False))


@pytest.mark.parametrize("cls", [OwnHuber, LogOfSize, SignOfOutput])
def test_loss_is_tried_far_out_and_on_both_sides(cls: Any) -> None:
    assert check_loss(cls(True), Identity()) is None
    with pytest.raises(GradientError, match=r"At h = \S+, y = \S+ it gives"):
        check_loss(cls(False), Identity())


class Clipped(Loss):
    """Binary cross-entropy as many write it: the cut is not in the derivative, and sigmoid and softmax stay inside."""

    def cost(self, h: Any, y: Any) -> Any:
        p = np.minimum(np.maximum(h, 1e-7), 1 - 1e-7)
        return -y * np.log(p) - (1 - y) * np.log(1 - p)

    def dcost(self, h: Any, y: Any) -> Any:
        p = np.minimum(np.maximum(h, 1e-7), 1 - 1e-7)
        return (1 - y) / (1 - p) - y / p


class Hinge(Loss):
    """max(0, 1 − y h) has its kink at y h = 1, which `kinks` cannot say; targets are −1 and 1."""

    def cost(self, h: Any, y: Any) -> Any:
        return np.maximum(0.0, 1.0 - y * h)

    def dcost(self, h: Any, y: Any) -> Any:
        return -y * (y * h < 1.0)

    def encode(self, y: Any, outputs: int) -> Any:
        if not np.isin(y, (-1.0, 1.0)).all():
            raise DataError("Targets of hinge are −1 and 1.")
        return super().encode(y, outputs)


class Counts(Loss):
    """h − y ln h is no number for an h below 0, and has a pole at 0."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def cost(self, h: Any, y: Any) -> Any:
        return h - y * np.log(h)

    def dcost(self, h: Any, y: Any) -> Any:
        return 1.0 - self.factor * y / h


def test_loss_is_tried_on_outputs_that_its_activation_can_have() -> None:
    for output in (Sigmoid(), Softmax()):
        assert check_loss(Clipped(), output) is None
    with pytest.raises(GradientError, match="dcost"):
        check_loss(Clipped(), Identity())


def test_loss_is_tried_on_targets_that_it_accepts() -> None:
    assert check_loss(Hinge(), Identity()) is None
    assert check_loss(Hinge(), Tanh()) is None


def test_points_outside_of_the_domain_are_left_out() -> None:
    for output in (Identity(), Exponential(), Sigmoid()):
        assert check_loss(Counts(), output) is None
        with pytest.raises(GradientError, match="dcost"):
            check_loss(Counts(1.001), output)


def test_formula_that_is_finite_nowhere_is_refused() -> None:
    class Nowhere(Counts):
        def cost(self, h: Any, y: Any) -> Any:
            return h + np.nan

    with pytest.raises(GradientError, match="nowhere is it finite"):
        check_loss(Nowhere(), Identity())


# cost_z.


class FromZ(Loss):
    """½ (h − y)², scaled in one of its formulas."""

    def __init__(self, cost: float = 1.0, cost_z: float = 1.0) -> None:
        self.scales = (cost, cost_z)

    def cost(self, h: Any, y: Any) -> Any:
        return 0.5 * self.scales[0] * np.square(h - y)

    def dcost(self, h: Any, y: Any) -> Any:
        return self.scales[0] * (h - y)

    def cost_z(self, z: Any, y: Any) -> Any:
        return 0.5 * self.scales[1] * np.square(z - y)


def test_cost_z_with_delta_h_minus_y_passes() -> None:
    class Poisson2(Poisson):  # type: ignore[misc]
        """The same formulas, in a class of a user's."""

    class Entropy2(BinaryCrossEntropy):  # type: ignore[misc]
        """It has no cost of h at all."""

    class Entropies2(CrossEntropy):  # type: ignore[misc]
        """It is no sum of terms of one output each."""

    assert check_loss(FromZ(), Identity()) is None
    assert check_loss(Poisson2(), Exponential()) is None
    assert check_loss(Entropy2(), Sigmoid()) is None
    assert check_loss(Entropies2(), Softmax()) is None


@pytest.mark.parametrize("loss", [FromZ(3.0, 3.0), FromZ(1.0, 1.001), FromZ(3.0, 1.0)], ids=repr)
def test_cost_z_of_which_h_minus_y_is_not_the_derivative_or_that_is_not_cost(loss: Loss) -> None:
    with pytest.raises(GradientError, match=r"formula from z.*identity\(z\).* At z = \S+, y = \S+ it gives"):
        check_loss(loss, Identity())


def test_cost_z_is_not_asked_where_it_is_not_used() -> None:
    assert check_loss(FromZ(3.0, 1.0), Tanh()) is None


def test_cost_z_that_a_base_brings_is_checked() -> None:
    class Weighted(BinaryCrossEntropy):  # type: ignore[misc]
        """Ones count twice, but delta would still be h − y."""

        def cost_z(self, z: Any, y: Any) -> Any:
            return (1.0 + y) * super().cost_z(z, y)

    class Focal(BinaryCrossEntropy):  # type: ignore[misc]
        """A cost of its own beside the cost_z of its base."""

        def cost(self, h: Any, y: Any) -> Any:
            return -y * (1 - h) ** 2 * np.log(h) - (1 - y) * h**2 * np.log(1 - h)

        def dcost(self, h: Any, y: Any) -> Any:
            one = 2 * (1 - h) * np.log(h) - (1 - h) ** 2 / h
            return y * one + (1 - y) * (h**2 / (1 - h) - 2 * h * np.log(1 - h))

    class Scaled(CrossEntropy):  # type: ignore[misc]
        def cost(self, h: Any, y: Any) -> Any:
            return -2.0 * y * np.log(h)

    with pytest.raises(GradientError, match="delta is h − y"):
        check_loss(Weighted(), Sigmoid())
    with pytest.raises(GradientError, match=r"cost_z\(z, y\) has to be cost\(h, y\), h = sigmoid"):
        check_loss(Focal(), Sigmoid())
    with pytest.raises(GradientError, match=r"received cost\. Derive the class from Loss"):
        check_loss(Scaled(), Softmax())


def test_cost_z_of_one_output_does_not_go_with_softmax() -> None:
    class Mixed(BinaryCrossEntropy):  # type: ignore[misc]
        output_activation = "softmax"

    with pytest.raises(GradientError, match="delta is h − y"):
        check_loss(Mixed(), Softmax())


def test_canonical_activation_is_known_by_its_class() -> None:
    class Steep(Sigmoid):  # type: ignore[misc]
        """It has the name of its base."""

        def f(self, z: Any) -> Any:
            return super().f(2.0 * z)

        def df(self, z: Any, a: Any) -> Any:
            return 2.0 * a * (1.0 - a)

    assert BinaryCrossEntropy().is_canonical(Sigmoid())
    assert not BinaryCrossEntropy().is_canonical(Steep())
    with pytest.raises(ValueError, match="name of its own"):
        Network([2, 1], loss="binary_cross_entropy", output_activation=Steep(), device="cpu")


def test_error_is_a_value_error_of_nnbp() -> None:
    assert issubclass(GradientError, ValueError)
    assert issubclass(GradientError, NnbpError)


def test_networks_check_what_they_are_given() -> None:
    class Bad(Cube):
        name = "bad_cube"

    class BadLoss(Quartic):
        name = "bad_quartic"

    try:
        for options in ({"activation": Bad(2.0)}, {"output_activation": Bad(2.0)}, {"loss": BadLoss(2.0)}):
            with pytest.raises(GradientError):
                Network([2, 3, 1], device="cpu", **options)
        assert Network([2, 3, 1], activation=Bad(), loss=BadLoss(), device="cpu").forward([[0, 1]]).shape == (1, 1)
    finally:
        del Activation.registry["bad_cube"], Loss.registry["bad_quartic"]


def test_a_formula_is_enough() -> None:
    """Without `df` and `dcost` the derivatives follow from the formulas, kinks included."""

    class Bent(Activation):
        name = "bent_for_this_test"
        kinks = (-0.5,)

        def f(self, z: Any) -> Any:
            return np.maximum(0.1 * z, np.sqrt(z * z + 1.0) + 0.5 * z - 1.0) + abs(z + 0.5)

    class LogCosh(Loss):
        name = "log_cosh_for_this_test"

        def cost(self, h: Any, y: Any) -> Any:
            r = abs(h - y)
            return r + np.log1p(np.exp(-2.0 * r)) - np.log(2.0)

    try:
        net = Network([3, 6, 2], activation=Bent(), loss=LogCosh(), dtype="float64", device="cpu", seed=0)
        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
        assert check_gradients(net, X, y).passed
        before = net.loss(X, y)
        net.fit(X, y, epochs=50, progress=False)
        assert net.loss(X, y) < before
    finally:
        del Activation.registry[Bent.name], Loss.registry[LogCosh.name]


def test_a_formula_that_is_not_finite_is_said_to_be_the_fault() -> None:
    class Root(Activation):
        def f(self, z: Any) -> Any:
            return np.sqrt(z)

    with pytest.raises(GradientError, match=r"it is derived from f\(z\), which has to be finite near 0.*Correct f"):
        check_activation(Root())
