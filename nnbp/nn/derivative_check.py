"""A check of users' own formulas: does `df` belong to `f`, `dcost` to `cost`, and `cost_z` to both?

A derivative that follows from the formula is checked as well, at little cost: the formula may be undefined somewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.errors import GradientError
from nnbp.nn.activations import Activation
from nnbp.nn.losses import CrossEntropy, Loss
from nnbp.registry import is_built_in

TOLERANCE = 1e-6
STEP = 1e-5

Floats = NDArray[np.float64]

# Close together where formulas bend; far out, on both sides of 0, where they saturate, clip or forget a sign. The
# odd numbers keep the points off whole numbers, where kinks that nobody named like to be.
_NEAR = np.linspace(-4.0, 4.0, 161) + 1.0 / 321
_FAR = np.linspace(-30.0, 30.0, 61) + 1.0 / 777
_UNIT = np.linspace(0.05, 0.95, 19) + 1.0 / 1777

# Labels, counts and shares are among them; a loss is tried on those that it accepts.
_TARGETS = np.concatenate([np.linspace(0.07, 0.93, 11), np.arange(-2.0, 4.0), [-30.0, -7.3, 7.3, 30.0]])


def check_activation(f: Activation) -> None:
    """Compares f' with central differences of f for z in [−30, 30], away from its kinks; derived ones, too.

    Raises:
        GradientError: they differ by more than 1e-6, relative to 1 + |f'|; or f is not finite in [−4, 4].
    """
    if is_built_in(type(f)):
        return
    z = np.concatenate([_NEAR, _FAR])
    for kink in f.kinks:
        z = z[np.abs(z - kink) > 1e-3]
    with np.errstate(all="ignore"):
        expected, settled = _differences(f.f, z)
        given = np.asarray(f.df(z, f.f(z))) + np.zeros_like(z)
    if type(f).df is Activation.df:
        what = f"The activation {f!r} has no derivative: it is derived from f(z), which has to be finite near 0"
        fix = "Correct f, or give the derivative as df(self, z, a)."
    else:
        what = f"The derivative of the activation {f!r} is wrong: df(z, a) has to be the derivative of f(z)"
        fix = "Correct df, or name the points where it jumps in `kinks`."
    _judge(what, {"z": z}, given, expected, settled | ((np.abs(z) < 4.1) & ~np.isfinite(expected)), fix)


def check_loss(loss: Loss, output: Activation) -> None:
    """Compares ∂cost/∂h with central differences of cost, on values of h that the output activation can have.

    Where the loss is computed from z, `cost_z` is compared with cost, and h − y with central differences of it.

    Args:
        loss: C.
        output: the activation that it is used with.

    Raises:
        GradientError: they differ by more than 1e-6, relative to 1 + what is right.
    """
    if is_built_in(type(loss)):
        return
    own = [name for name in ("cost", "dcost", "cost_z") if getattr(type(loss), name) is not getattr(Loss, name)]
    if isinstance(loss, CrossEntropy):
        if not own:
            return
        raise GradientError(
            f"{loss!r} is a CrossEntropy, which is computed from all outputs at once and takes no formula of one; "
            f"received {' and '.join(own)}. Derive the class from Loss."
        )
    with np.errstate(all="ignore"):
        y = _targets(loss)
        if own != ["cost_z"] or not loss.is_canonical(output):
            _check_dcost(loss, output, y)
        if "cost_z" in own and loss.is_canonical(output):
            _check_cost_z(loss, output, y, "cost" in own)


def _check_dcost(loss: Loss, output: Activation, y: Floats) -> None:
    # Two outputs per sample, so that a softmax has something to share.
    at = np.asarray(output.f(np.stack([_FAR, np.zeros_like(_FAR)], axis=-1)) + np.zeros((len(_FAR), 2)))[:, 0]
    h = np.concatenate([_UNIT, _FAR])
    h, y = _pairs(np.concatenate([h[(h > at.min()) & (h < at.max())], at[np.abs(_FAR) < 8.0]]), y)
    for kink in loss.kinks:
        apart = np.abs(h - y - kink) > 1e-3
        h, y = h[apart], y[apart]
    expected, settled = _differences(lambda h: loss.cost(h, y), h)
    _judge(
        f"The derivative of the loss {loss!r} is wrong: dcost(h, y) has to be the derivative of cost(h, y)",
        {"h": h, "y": y}, np.asarray(loss.dcost(h, y)) + np.zeros_like(h), expected, settled,
        "Correct dcost, or name the values of h − y where it jumps in `kinks`.",
    )  # fmt: skip


def _check_cost_z(loss: Loss, output: Activation, y: Floats, has_cost: bool) -> None:
    z, y = _pairs(np.concatenate([_NEAR[::5], _FAR]), y)
    h = np.asarray(output.f(z))
    expected, settled = _differences(lambda z: loss.cost_z(z, y), z)
    _judge(
        f"The formula from z of the loss {loss!r} is wrong: if it is used delta is h − y, h = {output.name}(z), "
        "which has to be the derivative of cost_z(z, y)",
        {"z": z, "y": y}, h - y, expected, settled, "Correct cost_z; or leave it out, and delta comes from dcost.",
    )  # fmt: skip
    if not has_cost:
        return
    # Farther out h is rounded to the ends of its range, where ln h or ln(1 − h) has few digits left.
    near = np.abs(z) < 4.1
    z, y, h = z[near], y[near], h[near]
    wanted = np.asarray(loss.cost(h, y)) + np.zeros_like(z)
    _judge(
        f"The formula from z of the loss {loss!r} is wrong: cost_z(z, y) has to be cost(h, y), h = {output.name}(z)",
        {"z": z, "y": y}, np.asarray(loss.cost_z(z, y)) + np.zeros_like(z), wanted, np.isfinite(wanted),
        "Correct cost_z, or leave it out.", "cost gives",
    )  # fmt: skip


def _pairs(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Every x with every y."""
    left, right = np.meshgrid(x, y)
    return left.ravel(), right.ravel()


def _targets(loss: Loss) -> Floats:
    """Targets that the loss accepts, as it encodes them; those in (0, 1) if none of them is by itself."""
    found = []
    for value in _TARGETS:
        try:
            found.append(float(loss.encode(np.array([value]), 1).flat[0]))
        except ValueError:
            continue
    return np.array(found) if found else _TARGETS[:11]


def _differences(f: Callable[[Floats], Any], x: Floats) -> tuple[Floats, NDArray[np.bool]]:
    """Derivatives by central differences, and where two steps agree on them: off kinks, poles and the domain's ends."""
    wide, narrow, largest = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    for difference, step in ((wide, STEP), (narrow, STEP / 2)):
        high, low = (np.asarray(f(x + offset), np.float64) for offset in (step, -step))
        difference += (high - low) / (2 * step)
        largest = np.maximum(largest, np.maximum(np.abs(high), np.abs(low)))
    expected = (4 * narrow - wide) / 3
    rounding = 16 * np.finfo(np.float64).eps * largest / STEP
    doubt = np.abs(narrow - wide) + rounding
    return expected, np.isfinite(expected) & (doubt <= 0.25 * TOLERANCE * (1 + np.abs(expected)))


def _judge(
    what: str,
    places: dict[str, Floats],
    given: Floats,
    expected: Floats,
    judged: NDArray[np.bool],
    fix: str,
    source: str = "central differences give",
) -> None:
    """Raises GradientError with the worst place, if `given` is not what is expected."""
    if not judged.any():
        raise GradientError(f"{what}, and there is no point at which that could be seen: nowhere is it finite. {fix}")
    with np.errstate(all="ignore"):
        error = np.abs(given - expected) / (1.0 + np.abs(expected))
    # A NaN compares as False: it counts as wrong.
    wrong = judged & ~(error <= TOLERANCE)
    if not wrong.any():
        return
    worst = int(np.argmax(np.where(wrong, np.where(np.isnan(error), np.inf, error), -1.0)))
    where = ", ".join(f"{name} = {values[worst]:.6g}" for name, values in places.items())
    raise GradientError(
        f"{what}. At {where} it gives {given[worst]:.9g}, {source} {expected[worst]:.9g} (relative error "
        f"{error[worst]:.2g}, allowed {TOLERANCE:g}). {fix}"
    )
