"""Bayesian regularization: Levenberg–Marquardt with a weight decay for each matrix that the data themselves set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np

from nnbp.graph.ops import Array
from nnbp.optim.levenberg_marquardt import Damping, LevenbergMarquardt, diagonal, solved
from nnbp.optim.optimizers import Objective, Trainable

FIRST = 1e-2
"""λ of every matrix in the first step."""

FREE = 1e-6
"""λ of the biases in γ alone, relative to the largest entry on the diagonal of G. Without it A would be as good as
singular if biases change no output, or only together; such biases are no effective parameters then."""

LARGEST_DECAY = 1e8
"""The largest λ, relative to the same. The weights of a matrix that the data do not need go to 0, and ΣW² with them."""

SETTLED = 5
"""Training ends after this many steps in a row that hardly change γ and J."""


@dataclass
class Evidence(Damping):
    """What the rule remembers between its steps.

    Attributes:
        decays: λ of each matrix; empty before the first step.
        gamma: γ at the start of the last step, nan before the first.
        noise: σ, likewise.
        loss: J, likewise.
        settled: the number of last steps that hardly changed γ and J.
    """

    decays: list[float] = field(default_factory=list)
    gamma: float = math.nan
    noise: float = math.nan
    loss: float = math.nan
    settled: int = 0
    doubt: str | None = None

    def logs(self) -> dict[str, float]:
        return {"effective_parameters": self.gamma, "noise": self.noise}

    def state(self) -> tuple[dict[str, Any], dict[str, Array]]:
        values, arrays = super().state()
        numbers = {name: getattr(self, name) for name in ("gamma", "noise", "loss")}
        own = {name: None if math.isnan(value) else value for name, value in numbers.items()}
        return {**values, **own, "decays": list(self.decays), "settled": self.settled, "doubt": self.doubt}, arrays

    def restore(self, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        super().restore(values, arrays)
        self.gamma, self.noise, self.loss = (
            math.nan if values[name] is None else values[name] for name in ("gamma", "noise", "loss")
        )
        self.decays, self.settled, self.doubt = list(values["decays"]), values["settled"], values["doubt"]


@final
class BayesianRegularization(LevenbergMarquardt):
    """The step of LevenbergMarquardt on J = mean ½‖h − y‖² + ½ Σ_c λ_c ΣW_c², with λ_c set anew before every step.

    No validation data are needed against overfitting: the more of the targets is noise, the larger is λ_c. Standardise
    inputs and targets: the first λ_c is meant for these. With A = G + Λ, G ≈ ∇² of the mean cost, Λ diagonal, k_c of P
    parameters in matrix c, m samples and N = m · n_out targets:

    - γ_c = k_c − λ_c tr_c(A⁻¹), the part of the weights that the data determine;
    - γ = P − Σ_c λ_c tr_c(A⁻¹), the effective number of parameters. Biases do not decay; they count in full, unless
      they change no output, or several of them together one as a single one would;
    - σ² = Σ‖h − y‖² / (N − γ), the variance of the noise in a target;
    - λ_c = γ_c σ² / (m ΣW_c²) before every step but the first, for which λ_c is 0.01.

    In terms of MacKay's α and β, λ_c = α_c / (m β) and σ² = 1 / β. The history gains "effective_parameters", γ, and
    "noise", σ in the unit of the targets. They and "loss" are of the start of the epoch; "loss" contains the λ_c of its
    step, so that it may rise from one epoch to the next. "val_loss" and `Network.loss` are without λ_c, because the
    network's own `weight_decay` is 0.

    Weighted samples count as targets with the variance σ² Σw / (m wₙ), where m counts the samples with wₙ > 0: scaling
    all weights changes nothing, and a sample of weight 0 is absent.

    Training ends, with the reason in ``history.stopped``, if γ moves by less than 0.1 % and J by less than 0.01 % in
    five steps in a row. The last parameters are kept, or those that validation chooses. A warning says if γ > 0.9 N:
    there are too few data to tell noise from function.

    Sources: MacKay, "Bayesian interpolation", 1992; Foresee & Hagan, "Gauss-Newton approximation to Bayesian learning",
    1997, with one α for all weights. Deviation: in γ, biases have 10⁻⁶ of the largest entry on the diagonal of G for a
    λ, because A has no inverse if two biases do the same, as they do when all tanh units are in their linear range.

    Args:
        damping: the first μ, relative to the largest entry on the diagonal of A.
        tolerance_grad: θ stays if max |∂J/∂θ| is no larger.
        tolerance_change: a step is too short to lower J if max |d| is no larger, relative to max |θ| + 1.

    Raises:
        ValueError: an argument is out of its range.

    >>> import nnbp
    >>> x = np.linspace(-1.7, 1.7, 41).reshape(-1, 1)
    >>> y = np.sin(np.pi / 1.7 * x) + np.random.default_rng(0).normal(0, 0.2, x.shape)
    >>> net = nnbp.Network([1, 10, 1], activation="tanh", dtype="float64", device="cpu", seed=0)
    >>> history = net.fit(x, y, optimizer="bayesian_regularization", epochs=300, progress=False)
    >>> history["effective_parameters"][-1] < 15 < net.parameters.size
    True
    """

    name = "bayesian_regularization"
    aliases = ("br", "trainbr")
    sets_decay = True

    def check(self, model: Trainable) -> None:
        super().check(model)
        if model.weight_decay:
            raise ValueError(
                "bayesian_regularization sets the weight decay of each matrix itself; received a network with "
                f"weight_decay={model.weight_decay:g}. Make it with weight_decay=0, or use levenberg_marquardt."
            )

    def memory(self) -> Evidence:
        return Evidence()

    def step(self, objective: Objective, memory: Any) -> float:
        """Sets λ_c, and goes one step that lowers J if there is one.

        Returns:
            J before the step, with the new λ_c.
        """
        theta, xp, read = objective.theta, objective.xp, objective.read
        cost = objective.evaluate()
        if not math.isfinite(cost):
            return cost
        G, before = objective.curvature(), (memory.gamma, memory.loss)
        _weigh(objective, memory, cost, G)
        decay = _spread(objective, memory.decays)

        def penalty() -> float:
            wide = theta.astype(np.float64)
            return 0.5 * read(xp.dot(decay, wide * wide))

        loss = cost + penalty()
        g = objective.gradient.astype(np.float64) + decay * theta.astype(np.float64)
        diagonal(G)[...] += decay
        decaying = replace(objective, evaluate=lambda: objective.evaluate() + penalty())
        if read(xp.max(xp.abs(g))) > self.tolerance_grad and not self.lower(decaying, memory, loss, g, G):
            # λ will change, and a step may lower J again: μ begins anew.
            memory.mu = math.nan
        still = abs(memory.gamma - before[0]) <= 1e-3 * before[0] and abs(loss - before[1]) <= 1e-4 * before[1]
        memory.settled, memory.loss = memory.settled + 1 if still else 0, loss
        if memory.settled >= SETTLED:
            memory.ended = f"γ and J have hardly changed in {SETTLED} steps"
        return loss


def _spread(objective: Objective, decays: Sequence[float], free: float = 0.0) -> Array:
    """The diagonal of Λ, (P,) in float64: λ_c at the weights of matrix c, and `free` at the biases."""
    spread = objective.theta.astype(np.float64) * 0.0 + free
    for rows, decay in zip(objective.matrices, decays, strict=True):
        spread[rows] = decay
    return spread


def _weigh(objective: Objective, memory: Evidence, cost: float, G: Array) -> None:
    """Sets γ, σ and λ_c from the mean cost and its curvature G; all stay as they are if A has no inverse."""
    xp, read, m = objective.xp, objective.read, objective.samples
    first, total = not memory.decays, m * objective.outputs
    if first:
        memory.decays = [FIRST] * len(objective.matrices)
    largest = read(xp.max(diagonal(G)))
    prior = _spread(objective, memory.decays, FREE * largest)
    A, identity = G * 1.0, G * 0.0
    diagonal(A)[...] += prior
    diagonal(identity)[...] = 1.0
    # The share of each parameter that the data leave undetermined.
    unknown = prior * diagonal(solved(xp, A, identity))
    gamma = len(unknown) - read(xp.sum(unknown))
    if not math.isfinite(gamma):
        return
    # γ < N but for rounding.
    variance = 2.0 * m * cost / max(total - gamma, 1e-9 * total)
    memory.gamma, memory.noise, memory.doubt = gamma, math.sqrt(variance), _doubt(gamma, total)
    if first:
        return
    wide, limit, decays = objective.theta.astype(np.float64), LARGEST_DECAY * largest, []
    for rows, decay in zip(objective.matrices, memory.decays, strict=True):
        known = rows.stop - rows.start - read(xp.sum(unknown[rows]))
        wanted, squares = known * variance / m, read(xp.dot(wide[rows], wide[rows]))
        new = wanted / squares if wanted < limit * squares else limit
        # Rounding may leave nothing known of weights that λ_c keeps at 0.
        decays.append(new if known > 0 else decay)
    memory.decays = decays


def _doubt(gamma: float, total: int) -> str | None:
    """The warning that the data are too few, or None."""
    if gamma <= 0.9 * total:
        return None
    return (
        f"Training ended with {gamma:.4g} effective parameters for {total:,} targets, more than 90 %: too few to tell "
        "noise from function, so neither the noise nor the weight decay that it found is reliable. Give more samples, "
        "or fewer units."
    )
