"""Learning-rate schedules: rate(t) = base rate · factor(t), t the time in epochs, 0 at the first update.

Time is real: t = step / steps_per_epoch. A schedule that PyTorch has, too, is equal to PyTorch's stepped once
per epoch: it uses ⌊t⌋ and holds still within an epoch. `WarmUp` alone moves with every update.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, Self, final

import numpy as np
from numpy.typing import NDArray

from nnbp.formatting import shown
from nnbp.registry import Named
from nnbp.validation import not_negative, number, one_of, whole_number


class Schedule(Named, ABC, kind="schedule"):
    """A factor on the base learning rate: a subclass gives `__call__`, and a `name` if `get` is to know it.

    Example:
        >>> class Halves(Schedule):
        ...     def __call__(self, epoch):
        ...         return 0.5 ** int(epoch)
        >>> Halves().rate(0.1, 2.5)
        0.025
    """

    name: str

    @classmethod
    def default(cls, epochs: int) -> Self:
        """The schedule that its bare name stands for in a training run of `epochs` epochs."""
        return cls()

    @abstractmethod
    def __call__(self, epoch: float) -> float:
        """The factor at time `epoch` (real, 0 at the first update): the rate for a base rate of 1."""

    def rate(self, base: float, epoch: float) -> float:
        """The learning rate base · factor(epoch); this, not the factor, is what an optimizer uses."""
        return base * self(epoch)

    def rates(self, base: float, epoch: int, steps: int) -> NDArray[np.float64]:
        """The learning rates of an epoch's steps."""
        return np.array([self.rate(base, epoch + step / steps) for step in range(steps)])

    def observe(self, loss: float) -> None:
        """Take the loss of the epoch that has just ended; called once per epoch."""

    def fresh(self) -> Self:
        """An independent schedule of the same settings that has observed nothing, for a training run to use."""
        return copy.deepcopy(self)


@final
class Constant(Schedule):
    """factor(t) = 1."""

    name = "constant"

    def __call__(self, epoch: float) -> float:
        return 1.0

    def rates(self, base: float, epoch: int, steps: int) -> NDArray[np.float64]:
        return np.full(steps, base)


@final
class Step(Schedule):
    """factor(t) = factor^⌊t / every⌋, with `every` in epochs.

    Source: `torch.optim.lr_scheduler.StepLR(step_size=every, gamma=factor)`.
    """

    name = "step"
    aliases = ("step_lr",)

    def __init__(self, every: int, factor: float = 0.1) -> None:
        self.every = whole_number("every of Step", every, 1)
        self.factor = number("factor of Step", factor, "(0, inf)")

    @classmethod
    def default(cls, epochs: int) -> Self:
        """Two steps: after the first and the second third of the training."""
        return cls(every=math.ceil(epochs / 3))

    def __call__(self, epoch: float) -> float:
        return self.factor ** (math.floor(epoch) // self.every)


@final
class Exponential(Schedule):
    """factor(t) = gamma^⌊t⌋: gamma is what each epoch multiplies by.

    Source: `torch.optim.lr_scheduler.ExponentialLR(gamma)`.
    """

    name = "exponential"
    aliases = ("exponential_lr",)

    def __init__(self, gamma: float) -> None:
        self.gamma = number("gamma of Exponential", gamma, "(0, inf)")

    @classmethod
    def default(cls, epochs: int) -> Self:
        """Down to a hundredth at the end of the training."""
        return cls(gamma=0.01 ** (1.0 / epochs))

    def __call__(self, epoch: float) -> float:
        return self.gamma ** math.floor(epoch)


@final
class Cosine(Schedule):
    """factor(t) = minimum + (1 - minimum) · (1 + cos(π ⌊t⌋ / epochs)) / 2.

    After `epochs` whole epochs the factor rises again, as PyTorch's does (period 2 · epochs). The minimum is
    a fraction of the base rate; PyTorch's `eta_min` is a rate.

    Source: `torch.optim.lr_scheduler.CosineAnnealingLR(T_max=epochs, eta_min=minimum * base)`; Loshchilov &
    Hutter, "SGDR", ICLR 2017, equation 5, without the restarts.
    """

    name = "cosine"
    aliases = ("cosine_annealing", "cosine_annealing_lr")

    def __init__(self, epochs: int, minimum: float = 0.0) -> None:
        self.epochs = whole_number("epochs of Cosine", epochs, 1)
        self.minimum = number("minimum of Cosine", minimum, "[0, 1]")

    @classmethod
    def default(cls, epochs: int) -> Self:
        """Over the whole training."""
        return cls(epochs=epochs)

    def __call__(self, epoch: float) -> float:
        wave = (1.0 + math.cos(math.pi * math.floor(epoch) / self.epochs)) / 2.0
        return self.minimum + (1.0 - self.minimum) * wave


@final
class InverseScaling(Schedule):
    """factor(t) = 1 / (⌊t⌋ + 1)^power.

    scikit-learn's `learning_rate="invscaling"` has the same form, but its t counts samples, not epochs: there
    the rate falls by orders of magnitude with the first epoch, the more so the larger the data.

    Source: Robbins & Monro, "A stochastic approximation method", 1951: convergence for 0.5 < power <= 1.
    """

    name = "inverse_scaling"

    def __init__(self, power: float = 0.5) -> None:
        self.power = number("power of InverseScaling", power, "(0, inf)")

    def __call__(self, epoch: float) -> float:
        return 1.0 / math.pow(math.floor(epoch) + 1, self.power)


@final
class WarmUp(Schedule):
    """factor(t) = start + (1 - start) · t / epochs for t < epochs, then(t - epochs) afterwards; t unrounded.

    `then` starts its own time, and observes losses, where the warm-up ends; None holds the base rate. The
    length `epochs` may be a fraction. With start = 0 the first update does nothing.

    Source: `torch.optim.lr_scheduler.LinearLR(start_factor=start, total_iters=epochs * steps_per_epoch)`,
    stepped at every update and joined to the next one as by `SequentialLR`; the default start is PyTorch's.
    """

    name = "warm_up"
    aliases = ("linear_warm_up",)

    def __init__(self, epochs: float, then: Schedule | None = None, start: float = 1.0 / 3.0) -> None:
        if not isinstance(then, Schedule | None):
            raise TypeError(
                f"then of WarmUp is a Schedule object or None; received {shown(then)}. Pass for example "
                "then=Cosine(95), or then=get('cosine', 95)."
            )
        self.epochs = number("epochs of WarmUp", epochs, "(0, inf)")
        self.then = then
        self.start = number("start of WarmUp", start, "[0, 1]")
        self._next = Constant() if then is None else then
        self._observed = 0

    @classmethod
    def default(cls, epochs: int) -> Self:
        """A tenth of the training, at most five epochs; the base rate after that."""
        return cls(epochs=min(5.0, epochs / 10))

    def __call__(self, epoch: float) -> float:
        return self.rate(1.0, epoch)

    def rate(self, base: float, epoch: float) -> float:
        """The learning rate at time `epoch`."""
        if epoch < self.epochs:
            return base * (self.start + (1.0 - self.start) * (epoch / self.epochs))
        return self._next.rate(base, epoch - self.epochs)

    def observe(self, loss: float) -> None:
        """Hand the loss on, once an epoch has ended that reached beyond the warm-up."""
        self._observed += 1
        if self._observed > self.epochs:
            self._next.observe(loss)

    def fresh(self) -> Self:
        return type(self)(self.epochs, None if self.then is None else self.then.fresh(), self.start)


@final
class ReduceOnPlateau(Schedule):
    """rate ← max(rate · factor, min_rate) whenever the loss has not improved for more than `patience` epochs.

    A step of at most 1e-8 is not taken, as in PyTorch. A loss that is not a number counts as no improvement.

    Args:
        factor: what each reduction multiplies by, in (0, 1).
        patience: epochs without improvement that are let pass, at least 0.
        threshold: how much better counts as better, at least 0.
        threshold_mode: "rel": loss < best · (1 - threshold); "abs": loss < best - threshold.
        cooldown: epochs after a reduction in which nothing is counted, at least 0.
        min_rate: the lowest learning rate, at least 0. It is a rate, no factor: `rate` is exact for any base,
            and calling the schedule gives the rate for a base of 1.

    Source: `torch.optim.lr_scheduler.ReduceLROnPlateau(mode="min", min_lr=min_rate)`.
    """

    name = "reduce_on_plateau"
    aliases = ("reduce_lr_on_plateau", "plateau")

    def __init__(
        self,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_rate: float = 0.0,
    ) -> None:
        self.factor = number("factor of ReduceOnPlateau", factor, "(0, 1)")
        self.patience = whole_number("patience of ReduceOnPlateau", patience, 0)
        self.threshold = not_negative("threshold of ReduceOnPlateau", threshold)
        self.threshold_mode = one_of("threshold_mode of ReduceOnPlateau", threshold_mode, "rel", "abs")
        self.cooldown = whole_number("cooldown of ReduceOnPlateau", cooldown, 0)
        self.min_rate = not_negative("min_rate of ReduceOnPlateau", min_rate)
        self._best = math.inf
        self._bad_epochs = self._cooling = self._reductions = 0

    def __call__(self, epoch: float) -> float:
        return self.rate(1.0, epoch)

    def rate(self, base: float, epoch: float) -> float:
        """The learning rate after the reductions so far, whatever the time."""
        # Redone from the count of reductions each time, so that the state does not depend on the base rate.
        for _ in range(self._reductions):
            lower = max(base * self.factor, self.min_rate)
            if base - lower <= 1e-8:
                break
            base = lower
        return base

    def observe(self, loss: float) -> None:
        """Take the loss of the epoch that has just ended."""
        relative = self.threshold_mode == "rel"
        if loss < (self._best * (1.0 - self.threshold) if relative else self._best - self.threshold):
            self._best = float(loss)
            self._bad_epochs = 0
        else:
            self._bad_epochs += 1
        if self._cooling > 0:
            self._cooling -= 1
            self._bad_epochs = 0
        if self._bad_epochs > self.patience:
            self._reductions += 1
            self._cooling = self.cooldown
            self._bad_epochs = 0

    def fresh(self) -> Self:
        return type(self)(**self.config())


@final
class _Function(Schedule):
    """factor(t) = function(t), for a function of the user's."""

    def __init__(self, function: Callable[[float], float]) -> None:
        self.function = function

    def __call__(self, epoch: float) -> float:
        factor = self.function(epoch)
        with suppress(TypeError, ValueError, OverflowError):
            if 0 <= float(factor) < math.inf:
                return float(factor)
        raise ValueError(
            f"A schedule returns a finite factor of at least 0 on the base rate; received {shown(factor)} at epoch "
            f"{epoch} from {self.function!r}. Correct the function."
        )


def get(spec: str | Schedule | Callable[[float], float] | None, epochs: int = 100) -> Schedule:
    """The schedule that `spec` stands for.

    Args:
        spec: None (constant), a name of `Schedule.registry`, a Schedule,
            which is returned as it is, or a function from the time in epochs to the factor.
        epochs: the length of the training, from which a bare name takes its settings (see `default`).

    Raises:
        ValueError: no schedule has that name (the message has the names and the closest one), or epochs is not a whole
            number.
        TypeError: spec is none of the above.

    Example:
        >>> get("cosine", epochs=30)
        Cosine(epochs=30, minimum=0.0)
    """
    epochs = max(1, whole_number("epochs", epochs, 0))
    if spec is None:
        return Constant()
    if isinstance(spec, Schedule):
        return spec
    if isinstance(spec, str):
        return Schedule.find(spec).default(epochs)
    if isinstance(spec, type) or not callable(spec):
        raise TypeError(
            f"A schedule is None, a name, a Schedule object or a function of the epoch; received {shown(spec)}. Pass "
            "for example 'cosine' or Step(10)."
        )
    return _Function(spec)
