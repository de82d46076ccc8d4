"""Learning-rate schedules: rate(t) = base rate · factor(t), t the time in epochs, 0 at the first update.

Time is real: t = step / steps_per_epoch. A schedule that PyTorch has, too, is equal to PyTorch's stepped once
an epoch: it uses ⌊t⌋ and holds still within an epoch. `WarmUp` alone moves with every update.
"""

from __future__ import annotations

import copy
import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Self, final, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from nnbp.registry import find, register
from nnbp.validation import inside

__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "InverseScaling",
    "ReduceOnPlateau",
    "Schedule",
    "Step",
    "WarmUp",
    "get",
]


class Schedule(ABC):
    """A factor on the base learning rate: a subclass gives `__call__`, and a `name` if `get` is to know it.

    Example:
        >>> class Halves(Schedule):
        ...     def __call__(self, epoch):
        ...         return 0.5 ** int(epoch)
        >>> Halves().rate(0.1, 2.5)
        0.025
    """

    name: str
    registry: ClassVar[dict[str, type[Schedule]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register("schedule", Schedule.registry, cls)

    @classmethod
    def default(cls, epochs: int) -> Self:
        """The schedule that its bare name stands for in a training of `epochs` epochs."""
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

    def observe(self, loss: float) -> None:  # noqa: B027  (most schedules look at the time only)
        """Take the loss of the epoch that has just ended; called once an epoch."""

    def fresh(self) -> Self:
        """An independent schedule of the same settings that has observed nothing, for a training to use."""
        return copy.deepcopy(self)


class _Checked(Schedule):
    """A dataclass whose settings `Annotated[type, interval]` are held to that type and interval."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            if get_origin(hint) is not Annotated:
                continue
            kind, interval = get_args(hint)
            value = getattr(self, name)
            number = numbers.Integral if kind is int else numbers.Real
            typed = isinstance(value, number) and not isinstance(value, bool)
            if not (typed and inside(value, interval)):
                raise (ValueError if typed else TypeError)(
                    f"{type(self).__name__}: {name} must be of type {kind.__name__} and in {interval}; "
                    f"received {value!r}. Pass a {kind.__name__} of that interval."
                )
            # Set on frozen classes, too: a float32 left in place would make every later product one.
            object.__setattr__(self, name, kind(value))


@final
@dataclass(frozen=True)
class Constant(Schedule):
    """factor(t) = 1."""

    name = "constant"

    def __call__(self, epoch: float) -> float:
        return 1.0

    def rates(self, base: float, epoch: int, steps: int) -> NDArray[np.float64]:
        return np.full(steps, base)


@final
@dataclass(frozen=True)
class Step(_Checked):
    """factor(t) = factor^⌊t / every⌋, with `every` in epochs.

    Source: `torch.optim.lr_scheduler.StepLR(step_size=every, gamma=factor)`.
    """

    name = "step"
    every: Annotated[int, "[1, inf)"]
    factor: Annotated[float, "(0, inf)"] = 0.1

    @classmethod
    def default(cls, epochs: int) -> Self:
        """Two steps: after the first and the second third of the training."""
        return cls(every=math.ceil(epochs / 3))

    def __call__(self, epoch: float) -> float:
        return self.factor ** (math.floor(epoch) // self.every)


@final
@dataclass(frozen=True)
class Exponential(_Checked):
    """factor(t) = gamma^⌊t⌋: gamma is what each epoch multiplies by.

    Source: `torch.optim.lr_scheduler.ExponentialLR(gamma)`.
    """

    name = "exponential"
    gamma: Annotated[float, "(0, inf)"]

    @classmethod
    def default(cls, epochs: int) -> Self:
        """Down to a hundredth at the end of the training."""
        return cls(gamma=0.01 ** (1.0 / epochs))

    def __call__(self, epoch: float) -> float:
        return self.gamma ** math.floor(epoch)


@final
@dataclass(frozen=True)
class Cosine(_Checked):
    """factor(t) = minimum + (1 - minimum) · (1 + cos(π ⌊t⌋ / epochs)) / 2.

    After `epochs` whole epochs the factor rises again, as PyTorch's does (period 2 · epochs). The minimum is
    a fraction of the base rate; PyTorch's `eta_min` is a rate.

    Source: `torch.optim.lr_scheduler.CosineAnnealingLR(T_max=epochs, eta_min=minimum * base)`; Loshchilov &
    Hutter, "SGDR", ICLR 2017, equation 5, without the restarts.
    """

    name = "cosine"
    epochs: Annotated[int, "[1, inf)"]
    minimum: Annotated[float, "[0, 1]"] = 0.0

    @classmethod
    def default(cls, epochs: int) -> Self:
        """Over the whole training."""
        return cls(epochs=epochs)

    def __call__(self, epoch: float) -> float:
        wave = (1.0 + math.cos(math.pi * math.floor(epoch) / self.epochs)) / 2.0
        return self.minimum + (1.0 - self.minimum) * wave


@final
@dataclass(frozen=True)
class InverseScaling(_Checked):
    """factor(t) = 1 / (⌊t⌋ + 1)^power.

    scikit-learn's `learning_rate="invscaling"` has the same form, but its t counts samples, not epochs: there
    the rate falls by orders of magnitude with the first epoch, the more so the larger the data.

    Source: Robbins & Monro, "A stochastic approximation method", 1951: convergence for 0.5 < power <= 1.
    """

    name = "inverse_scaling"
    power: Annotated[float, "(0, inf)"] = 0.5

    def __call__(self, epoch: float) -> float:
        return 1.0 / math.pow(math.floor(epoch) + 1, self.power)


@final
@dataclass
class WarmUp(_Checked):
    """factor(t) = start + (1 - start) · t / epochs for t < epochs, then(t - epochs) afterwards; t unrounded.

    `then` starts its own time, and observes losses, where the warm-up ends; None holds the base rate. The
    length `epochs` may be a fraction. With start = 0 the first update does nothing.

    Source: `torch.optim.lr_scheduler.LinearLR(start_factor=start, total_iters=epochs * steps_per_epoch)`,
    stepped at every update and joined to the next one as by `SequentialLR`; the default start is PyTorch's.
    """

    name = "warm_up"
    epochs: Annotated[float, "(0, inf)"]
    then: Schedule | None = None
    start: Annotated[float, "[0, 1]"] = 1.0 / 3.0
    _next: Schedule = field(init=False, repr=False)
    _observed: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._next = Constant() if self.then is None else self.then
        if not isinstance(self._next, Schedule):
            raise TypeError(
                f"WarmUp: then must be a Schedule object or None; received {self.then!r}. "
                "Pass for example then=Cosine(95), or then=get('cosine', 95)."
            )

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
        return replace(self, then=None if self.then is None else self.then.fresh())


@final
@dataclass
class ReduceOnPlateau(_Checked):
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
    factor: Annotated[float, "(0, 1)"] = 0.1
    patience: Annotated[int, "[0, inf)"] = 10
    threshold: Annotated[float, "[0, inf)"] = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: Annotated[int, "[0, inf)"] = 0
    min_rate: Annotated[float, "[0, inf)"] = 0.0
    _best: float | None = field(default=None, init=False, repr=False)
    _bad_epochs: int = field(default=0, init=False, repr=False)
    _cooling: int = field(default=0, init=False, repr=False)
    _reductions: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold_mode not in ("rel", "abs"):
            raise ValueError(
                f"ReduceOnPlateau: threshold_mode must be 'rel' or 'abs'; received {self.threshold_mode!r}. "
                "Pass 'rel' for a fraction of the best loss, 'abs' for a difference."
            )

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
        best = math.inf if self._best is None else self._best
        bound = best * (1.0 - self.threshold) if self.threshold_mode == "rel" else best - self.threshold
        if loss < bound:
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
        return replace(self)


@final
@dataclass(frozen=True)
class _Function(Schedule):
    """factor(t) = function(t), for a function of the user's."""

    function: Callable[[float], float]

    def __call__(self, epoch: float) -> float:
        factor = float(self.function(epoch))
        if not (math.isfinite(factor) and factor >= 0):
            raise ValueError(
                f"a schedule must return a finite factor of at least 0 on the base rate; received {factor} "
                f"at epoch {epoch} from {self.function!r}. Mend the function."
            )
        return factor


def get(spec: str | Schedule | Callable[[float], float] | None, epochs: int = 100) -> Schedule:
    """The schedule that `spec` stands for.

    Args:
        spec: None (constant), a name of `Schedule.registry` (hyphens may stand for underscores), a Schedule,
            which is returned as it is, or a function from the time in epochs to the factor.
        epochs: the length of the training, from which a bare name takes its settings (see `default`).

    Raises:
        ValueError: no schedule has that name (the message has the names and the closest one), or epochs < 1.
        TypeError: spec is none of the above.

    Example:
        >>> get("cosine", epochs=30)
        Cosine(epochs=30, minimum=0.0)
    """
    if spec is None:
        return Constant()
    if isinstance(spec, Schedule):
        return spec
    if isinstance(spec, str):
        return find("schedule", Schedule.registry, spec.replace("-", "_")).default(max(1, epochs))
    if isinstance(spec, type) or not callable(spec):
        raise TypeError(
            "a schedule must be None, a name, a Schedule object or a function of the epoch; "
            f"received {spec!r}. Pass for example 'cosine' or Step(10)."
        )
    return _Function(spec)
