"""The check of users' own formulas: right ones pass, wrong ones are told where and by how much."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from nnbp import Activation, Loss, Network, ReLU
from nnbp.activations import GELU
from nnbp.derivatives import check_activation, check_loss
from nnbp.errors import GradientError, NnbpError


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
    assert check_loss(Quartic()) is None


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
        check_loss(Quartic(1.01))


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
