"""Levenberg–Marquardt: damped Gauss–Newton steps on the whole data set, for small networks and squared errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from nnbp.graph.ops import Array
from nnbp.optim.optimizers import Memory, Objective, Optimizer, Trainable
from nnbp.validation import number

LARGEST = 8192
"""The most parameters: a step holds four (P, P) matrices of float64."""


@dataclass
class Damping(Memory):
    """What the rule remembers between its steps: μ, nan before the first, and why it has ended."""

    mu: float = math.nan
    ended: str | None = None

    def state(self) -> tuple[dict[str, Any], dict[str, Array]]:
        return {"mu": None if math.isnan(self.mu) else self.mu, "ended": self.ended}, {}

    def restore(self, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        self.mu, self.ended = math.nan if values["mu"] is None else values["mu"], values["ended"]


class LevenbergMarquardt(Optimizer):
    """(G + μI) d = −g, θ ← θ + d, with G ≈ ∇²J by Gauss and Newton. One epoch is one step that lowers J.

    For squared_error, whole batches and at most 8,192 parameters. Small regression networks are fitted in tens of
    epochs. μ blends two methods: Gauss–Newton for a small one, short steps of gradient descent for a large one. If a
    step lowers J, by the share ρ of what the quadratic model predicts, μ is multiplied by max(⅓, 1 − (2ρ − 1)³); if
    not, μ grows by 2, 4, 8, …, and the step is tried again.

    Training ends, with the reason in ``history.stopped``, if max |g| <= tolerance_grad, or if no step lowers J.

    Source: Nielsen, "Damping parameter in Marquardt's method", 1999; Marquardt, "An algorithm for least-squares
    estimation of nonlinear parameters", 1963. Deviation: I in place of the diagonal of G.

    Args:
        damping: the first μ, relative to the largest entry on the diagonal of G.
        tolerance_grad: training ends if max |∂J/∂θ| is no larger.
        tolerance_change: a step is too short to lower J if max |d| is no larger, relative to max |θ| + 1.

    Raises:
        ValueError: an argument is out of its range.

    >>> import nnbp
    >>> x = np.linspace(-1, 1, 41).reshape(-1, 1)
    >>> net = nnbp.Network([1, 5, 1], activation="tanh", dtype="float64", device="cpu", seed=0)
    >>> history = net.fit(x, np.sin(np.pi * x), optimizer="levenberg_marquardt", epochs=30, progress=False)
    >>> history["loss"][-1] < 1e-4
    True
    """

    name = "levenberg_marquardt"
    aliases = ("lm", "trainlm")
    default_rate = 1.0
    full_batch = True
    squares_only = True
    adds_up = False
    searches = True
    scheduled = False
    clippable = False

    learning_rate = None  # Not an argument: it chooses the length of its steps.

    def __init__(self, damping: float = 1e-2, tolerance_grad: float = 1e-7, tolerance_change: float = 1e-12) -> None:
        self.damping = number(f"damping of {type(self).__name__}", damping, "(0, inf)")
        self.tolerance_grad = number(f"tolerance_grad of {type(self).__name__}", tolerance_grad, "[0, inf]")
        self.tolerance_change = number(f"tolerance_change of {type(self).__name__}", tolerance_change, "[0, inf]")

    def check(self, model: Trainable) -> None:
        if not model.loss.sums_squares:
            raise ValueError(
                f"{self.name} is for sums of squares, loss='squared_error'; received the loss "
                f"{model.loss.name}. Use optimizer='lbfgs', or adam."
            )
        if any(stream is not None for stream in model.streams) or any(each.least_batch > 1 for each in model.layers):
            raise ValueError(
                f"{self.name} needs the same J at every evaluation, and a sample's outputs from that sample "
                f"alone; received the layers {', '.join(each.kind for each in model.layers)}. Leave dropout and "
                "batch_norm out, or use adam."
            )
        if model.parameters.size > LARGEST:
            raise ValueError(
                f"{self.name} solves a system with a row for each of at most {LARGEST:,} parameters; received "
                f"a network of {model.parameters.size:,}. Use optimizer='lbfgs', or adam."
            )
        if self.learning_rate is not None:
            raise ValueError(
                f"{self.name} chooses the length of its steps; received "
                f"learning_rate={self.learning_rate:g}. Leave it out; damping is the argument of the class."
            )

    def memory(self) -> Damping:
        return Damping()

    def search(self, objective: Objective, memory: Damping) -> Callable[[], float]:
        return partial(self.step, objective, memory)

    def step(self, objective: Objective, memory: Damping) -> float:
        """One step that lowers J, unless the memory says afterwards that none does.

        Returns:
            J before the step.
        """
        loss = objective.evaluate()
        g = objective.gradient.astype(np.float64)
        if not math.isfinite(loss):
            return loss
        if objective.read(objective.xp.max(objective.xp.abs(g))) <= self.tolerance_grad:
            memory.ended = f"no derivative of J is larger than {self.tolerance_grad:g}"
        elif not self.lower(objective, memory, loss, g, objective.curvature()):
            memory.ended = "no step lowers J"
        return loss

    def lower(self, objective: Objective, memory: Damping, loss: float, g: Array, G: Array) -> bool:
        """Goes a step (G + μI) d = −g, with the first μ that lowers J; returns whether there is one.

        Args:
            objective: at the point of loss, g and G, where it stays if no step lowers J.
            memory: holds μ, which is changed for the next step.
            loss: J.
            g: (P,) in float64, ∇J.
            G: (P, P) in float64, the curvature.
        """
        theta, xp, read = objective.theta, objective.xp, objective.read
        if math.isnan(memory.mu):
            memory.mu = self.damping * read(xp.max(diagonal(G)))
        start = theta.astype(np.float64)
        shortest = self.tolerance_change * (read(xp.max(xp.abs(start))) + 1.0)
        growth = 2.0
        # With an infinite μ, or one that is not a number, every comparison below is false.
        while math.isfinite(memory.mu):
            damped = G * 1.0
            diagonal(damped)[...] += memory.mu
            d = solved(xp, damped, -g)
            theta[...] = start + d
            reached = objective.evaluate()
            if reached < loss:
                predicted = 0.5 * read(xp.dot(d, memory.mu * d - g))
                rho = (loss - reached) / predicted if predicted > 0 else 0.0
                memory.mu *= max(1.0 / 3.0, 1.0 - (2.0 * min(rho, 1.0) - 1.0) ** 3)
                return True
            theta[...] = start
            if read(xp.max(xp.abs(d))) <= shortest:
                break
            memory.mu *= growth
            growth *= 2.0
        return False


def diagonal(matrix: Array) -> Array:
    """A view of the diagonal of a contiguous matrix."""
    return matrix.reshape(-1)[:: len(matrix) + 1]


def solved(xp: Any, A: Array, b: Array) -> Array:
    """A⁻¹ b, or nan if A is singular."""
    try:
        return xp.linalg.solve(A, b)
    except np.linalg.LinAlgError:
        return b * math.nan
