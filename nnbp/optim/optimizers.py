"""Optimizers: each is its update rule on the flat parameter vector, and the names of the vectors that it remembers.

The definitions and defaults are those of PyTorch's optimizers of the same names, step for step. A rule is NumPy code,
traced and compiled for the device (see `nnbp.graph.formula`): one pass over theta, gradient and state. What depends on
the step number alone (learning rate, bias corrections) is computed on the host in float64 for a whole epoch at once.

>>> class SignDescent(Optimizer):
...     name = "sign_descent"
...     default_rate = 1e-3
...
...     def update(self, theta, g, eta):
...         return theta - eta * np.sign(g)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, final

import numpy as np
from numpy.typing import NDArray

from nnbp.graph.builder import Builder
from nnbp.graph.ops import Array
from nnbp.registry import Named
from nnbp.validation import flag, not_negative, number

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Objective:
    """J of the whole data set, for a rule that searches: it evaluates J at points of its own choice.

    Attributes:
        theta: (P,), changed in place to go to a point.
        gradient: (P,), where `evaluate` leaves ∇J.
        evaluate: computes J and its gradient for what theta holds at the time; returns J.
        curvature: computes G ≈ ∇²J there, (P, P) in float64; see `nnbp.engine.curvature`.
        xp: the array library of theta.
        read: downloads an array of one number.
        matrices: where each weight matrix lies in theta; they come first.
        samples, outputs: number of samples whose weight is not 0, and of targets of each.
    """

    theta: Array
    gradient: Array
    evaluate: Callable[[], float]
    curvature: Callable[[], Array]
    xp: Any
    read: Callable[[Array], float]
    matrices: tuple[slice, ...] = ()
    samples: int = 0
    outputs: int = 0


class Memory:
    """What a rule that searches remembers between its steps.

    Attributes:
        ended: why no further step can lower J, or None.
        doubt: a reason not to trust what training has found, which is a warning at its end, or None.
    """

    ended: str | None = None
    doubt: str | None = None

    def logs(self) -> dict[str, float]:
        """What the history gains: values of the last step by name. They have the same names before the first one."""
        return {}

    def state(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """All of it, for checkpoints: JSON values, and arrays that never change."""
        return {}, {}

    def restore(self, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Sets all of it to what `state` returned."""


class Trainable(Protocol):
    """What `Optimizer.check` may look at: a network whose sizes are known."""

    loss: Any
    layers: Any
    parameters: Any
    streams: Any
    weight_decay: float


class Optimizer(Named, kind="optimizer"):
    """An update rule: theta, gradient and state in, theta and state out.

    Args:
        learning_rate: η; None takes the default of the class, unless `fit` is given one.
    """

    name: ClassVar[str]

    default_rate: ClassVar[float]

    full_batch: ClassVar[bool] = False
    """Whether the rule needs the gradient of the whole data set."""

    scheduled: ClassVar[bool] = True
    """Whether the learning rate of a step reaches the rule; where not, `fit` takes no schedule."""

    squares_only: ClassVar[bool] = False
    """Whether the rule is for sums of squares, loss="squared_error", and networks without dropout."""

    adds_up: ClassVar[bool] = True
    """Whether the rule takes nothing from the samples but sums over them, which several ranks can add up."""

    searches: ClassVar[bool] = False
    """Whether the rule has a `search`. It computes between its evaluations, with all threads of BLAS."""

    sets_decay: ClassVar[bool] = False
    """Whether the rule sets a weight decay of its own before every step; the network's is 0 then. Because the decay and
    J change, a fit leaves the last parameters and not those with the lowest J."""

    clippable: ClassVar[bool] = True
    """Whether the rule works with a clipped gradient; if not, `fit` takes no `clip_norm`."""

    def __init__(self, learning_rate: float | None = None) -> None:
        name = f"learning_rate of {type(self).__name__}"
        self.learning_rate = None if learning_rate is None else not_negative(name, learning_rate)

    @property
    def rate(self) -> float:
        """η as given, or the default."""
        return self.default_rate if self.learning_rate is None else self.learning_rate

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the vectors that the rule remembers, each as long as theta."""
        return ()

    def initial(self, slot: str) -> float:
        """What a slot holds before the first step."""
        return 0.0

    def rates(self, t: Floats, eta: Floats) -> dict[str, Floats]:
        """The numbers of each step that `update` takes, by name, for the steps t = 1, 2, … with learning rates eta."""
        return {"eta": eta}

    def check(self, model: Trainable) -> None:
        """Raises ValueError if the rule cannot train such a network; the message says what can."""

    def memory(self) -> Memory:
        """A new memory, for `search`."""
        return Memory()

    def search(self, objective: Objective, memory: Any) -> Callable[[], float] | None:
        """A function that makes one step by evaluating J at points of its own choice, and returns J before the step.

        None for the rules that are an `update`.
        """
        return None

    def update(self, theta: Any, g: Any, *args: Any, **slots_and_rates: Any) -> Any:
        """The formula of a step. A rule names the slots and rates that it takes: ``update(self, theta, g, v, eta)``.

        Returns:
            theta after the step, followed by the slots in the order of `slots`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no rule: define update(self, theta, g, …).")

    def record(self, op: Builder, theta: Array, g: Array, slots: dict[str, Array], rates: dict[str, Array]) -> None:
        """Records `update`, which changes theta and the slots."""
        inputs = {"theta": theta, "g": g, **slots, **rates}
        # Passed by name, so that a rule may have its arguments in any order.
        op.map(
            lambda *values: self.update(**dict(zip(inputs, values, strict=True))), [theta, *slots.values()], **inputs
        )


@final
class SGD(Optimizer):
    """Gradient descent, θ ← θ − η g (docs/notes.md, 3.2), with momentum μ: v ← μ v + g, θ ← θ − η v.

    With `nesterov`: θ ← θ − η (g + μ v). As in PyTorch the learning rate is outside of v.
    """

    name = "sgd"
    aliases = ("gradient_descent",)
    default_rate = 1e-3

    def __init__(self, learning_rate: float | None = None, momentum: float = 0.0, nesterov: bool = False) -> None:
        super().__init__(learning_rate)
        self.momentum = number("momentum of SGD", momentum, "[0, 1)")
        self.nesterov = flag("nesterov of SGD", nesterov)
        if self.nesterov and not momentum:
            raise ValueError(
                "Nesterov's method looks ahead along the momentum; received momentum=0. Give momentum=0.9, say."
            )

    @property
    def slots(self) -> tuple[str, ...]:
        return ("v",) if self.momentum else ()

    def update(self, theta: Any, g: Any, eta: Any, v: Any = None) -> Any:
        if not self.momentum:
            return theta - eta * g
        v = self.momentum * v + g
        return theta - eta * (g + self.momentum * v if self.nesterov else v), v


@final
class RMSprop(Optimizer):
    """v ← α v + (1 − α) g²; θ ← θ − η g / (√v + ε). Tieleman and Hinton, lecture 6e, 2012.

    With `centered`, v less the square of the running mean of g (Graves, 2013); with momentum the quotient is
    accumulated, u ← μ u + g / (√v + ε), and θ ← θ − η u.
    """

    name = "rmsprop"
    default_rate = 1e-2

    def __init__(
        self,
        learning_rate: float | None = None,
        alpha: float = 0.99,
        epsilon: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__(learning_rate)
        self.alpha = number("alpha of RMSprop", alpha, "[0, 1)")
        self.epsilon = not_negative("epsilon of RMSprop", epsilon)
        self.momentum = number("momentum of RMSprop", momentum, "[0, 1)")
        self.centered = flag("centered of RMSprop", centered)

    @property
    def slots(self) -> tuple[str, ...]:
        return ("v", *(["mean"] if self.centered else []), *(["u"] if self.momentum else []))

    def update(self, theta: Any, g: Any, v: Any, eta: Any, mean: Any = None, u: Any = None) -> Any:
        v = self.alpha * v + (1.0 - self.alpha) * g * g
        slots = [v]
        if self.centered:
            mean = self.alpha * mean + (1.0 - self.alpha) * g
            slots.append(mean)
            v = v - mean * mean
        change = g / (np.sqrt(v) + self.epsilon)
        if self.momentum:
            change = self.momentum * u + change
            slots.append(change)
        return theta - eta * change, *slots


class Adam(Optimizer):
    """m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²; θ ← θ − η m̂ / (√v̂ + ε), m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ).

    Kingma and Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1. The slots hold m / (1 − β₁) and
    v / (1 − β₂), which are two products a parameter less; the numbers of the step make up for it, ε among them.
    """

    name = "adam"
    default_rate = 1e-3
    slots = ("m", "v")

    def __init__(
        self, learning_rate: float | None = None, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        super().__init__(learning_rate)
        self.beta1 = number(f"beta1 of {type(self).__name__}", beta1, "[0, 1)")
        self.beta2 = number(f"beta2 of {type(self).__name__}", beta2, "[0, 1)")
        self.epsilon = not_negative(f"epsilon of {type(self).__name__}", epsilon)

    def rates(self, t: Floats, eta: Floats) -> dict[str, Floats]:
        # With m̂ = first · m and v̂ = root² v, m̂ / (√v̂ + ε) is (first / root) m / (√v + ε / root).
        root = np.sqrt((1.0 - self.beta2) / (1.0 - self.beta2**t))
        first = (1.0 - self.beta1) / (1.0 - self.beta1**t)
        return {"step": eta * first / root, "floor": self.epsilon / root}

    def update(self, theta: Any, g: Any, m: Any, v: Any, step: Any, floor: Any) -> Any:
        m = self.beta1 * m + g
        v = self.beta2 * v + g * g
        return theta - step * m / (np.sqrt(v) + floor), m, v


@final
class AdamW(Adam):
    """Adam after θ ← (1 − η w) θ, on every parameter: Loshchilov and Hutter, "Decoupled weight decay", 2019.

    This decay w is the optimizer's own, and no part of J, unlike the network's `weight_decay`.
    """

    name = "adamw"

    def __init__(
        self,
        learning_rate: float | None = None,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(learning_rate, beta1, beta2, epsilon)
        self.weight_decay = not_negative("weight_decay of AdamW", weight_decay)

    def rates(self, t: Floats, eta: Floats) -> dict[str, Floats]:
        return super().rates(t, eta) | {"keep": 1.0 - eta * self.weight_decay}

    def update(self, theta: Any, g: Any, m: Any, v: Any, step: Any, floor: Any, keep: Any = 1.0) -> Any:
        return super().update(theta * keep, g, m, v, step, floor)


@final
class Rprop(Optimizer):
    """Each parameter has its own step size, which grows while its gradient keeps the sign and shrinks where it flips.

    s ← s η⁺ where g g' > 0, s η⁻ where g g' < 0 (then g is taken as 0), within the bounds; θ ← θ − sign(g) s; g' is the
    gradient of the step before. Riedmiller and Braun, "A direct adaptive method for faster backpropagation learning",
    1993, without backtracking. For the whole batch: on mini-batches signs flip by chance. The learning rate is the
    first step size; schedules do not reach it.
    """

    name = "rprop"
    default_rate = 1e-2
    full_batch = True
    scheduled = False
    slots = ("before", "size")

    def __init__(
        self,
        learning_rate: float | None = None,
        shrink: float = 0.5,
        grow: float = 1.2,
        smallest: float = 1e-6,
        largest: float = 50.0,
    ) -> None:
        super().__init__(learning_rate)
        self.shrink = number("shrink of Rprop", shrink, "[0, 1)")
        self.grow = number("grow of Rprop", grow, "[1, inf)")
        largest = number("largest of Rprop", largest, "(0, inf]")
        self.smallest, self.largest = number("smallest of Rprop", smallest, f"[0, {largest:g})"), largest

    def initial(self, slot: str) -> float:
        return self.rate if slot == "size" else 0.0

    def rates(self, t: Floats, eta: Floats) -> dict[str, Floats]:
        return {}

    def update(self, theta: Any, g: Any, before: Any, size: Any) -> Any:
        same = np.sign(g * before)
        factor = 1.0 + (self.grow - 1.0) * (same > 0.0) + (self.shrink - 1.0) * (same < 0.0)
        size = np.minimum(np.maximum(size * factor, self.smallest), self.largest)
        g = g * (same >= 0.0)
        return theta - np.sign(g) * size, g, size


get = Optimizer.get
"""The optimizer of a name, or the object itself; see `Named.get`."""
