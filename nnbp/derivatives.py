"""A check of users' own formulas: does `df` belong to `f`, does `dcost` belong to `cost`?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp import activations, losses
from nnbp.activations import Activation
from nnbp.errors import GradientError
from nnbp.losses import Loss

__all__ = ["check_activation", "check_loss"]

TOLERANCE = 1e-6

Floats = NDArray[np.float64]


def check_activation(f: Activation) -> None:
    """Compares f' with central differences of f on [−4, 4], away from its kinks.

    Raises:
        GradientError: they differ by more than 1e-6, relative to 1 + |f'|.
    """
    if type(f).__module__ == activations.__name__:
        return
    z = np.linspace(-4.0, 4.0, 161) + 1.0 / 321
    for kink in f.kinks:
        z = z[np.abs(z - kink) > 1e-3]
    _compare(
        f"the activation {f!r}",
        "df(z, a)",
        "f(z)",
        "z",
        f.f,
        z,
        np.asarray(f.df(z, f.f(z))) + np.zeros_like(z),
    )


def check_loss(loss: Loss) -> None:
    """Compares ∂cost/∂h with central differences of cost, on h and y in (0, 1), away from its kinks.

    Raises:
        GradientError: they differ by more than 1e-6, relative to 1 + |∂cost/∂h|.
    """
    if type(loss).__module__ == losses.__name__:
        return
    h, y = (grid.ravel() for grid in np.meshgrid(np.linspace(0.05, 0.95, 19), np.linspace(0.07, 0.93, 11)))
    for kink in loss.kinks:
        apart = np.abs(h - y - kink) > 1e-3
        h, y = h[apart], y[apart]
    derivative = np.asarray(loss.dcost(h, y)) + np.zeros_like(h)
    _compare(f"the loss {loss!r}", "dcost(h, y)", "cost(h, y)", "h", lambda h: loss.cost(h, y), h, derivative)


def _compare(
    what: str, derivative: str, formula: str, variable: str, f: Callable[[Any], Any], x: Floats, given: Floats
) -> None:
    step = 1e-5
    expected = (np.asarray(f(x + step)) - np.asarray(f(x - step))) / (2 * step)
    error = np.abs(given - expected) / (1.0 + np.abs(expected))
    # A NaN compares as False: it counts as wrong.
    if np.all(error <= TOLERANCE):
        return
    worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
    raise GradientError(
        f"The derivative of {what} is wrong: {derivative} has to be the derivative of {formula}. At {variable} = "
        f"{x[worst]:.6g} it gives {given[worst]:.9g}, central differences give {expected[worst]:.9g} (relative error "
        f"{error[worst]:.2g}, allowed {TOLERANCE:g}). Correct {derivative.split('(')[0]}, or name the points where it "
        "jumps "
        "in `kinks`."
    )
