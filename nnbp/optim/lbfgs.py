"""L-BFGS: quasi-Newton steps on the whole data set, with a strong Wolfe line search.

The definitions and defaults are those of `torch.optim.LBFGS`, step for step, except that the line search is on by
default, and comes back from where J is not finite. The curvature of J is learnt from the last changes of theta and of
the gradient, and the direction −H g follows from them without a matrix. Source: Nocedal and Wright, "Numerical
optimization", 2nd edition: algorithms 3.5 and 3.6 with equation 3.59 (the line search and its cubic interpolation), 7.4
and 7.5 (L-BFGS).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import numpy as np

from nnbp.graph.ops import Array
from nnbp.optim.optimizers import Memory, Objective, Optimizer
from nnbp.validation import LARGEST_SIZE, number, one_of, whole_number

Read = Callable[[Array], float]
"""Downloads an array of one number."""

# Of the strong Wolfe conditions: J(t) ≤ J(0) + C1 t J'(0) and |J'(t)| ≤ C2 |J'(0)|.
C1, C2 = 1e-4, 0.9

# A line search ends in an interval in which no parameter changes by more. As in PyTorch `tolerance_change` does not
# reach it.
NARROW = 1e-9

# A pair (s, y) is learnt from only where y·s is larger, so that H stays positive definite.
CURVATURE = 1e-10

# A length of vectors whose product no BLAS shares among threads: OpenBLAS does from 10,001 elements on.
_PART = 8192


@dataclass
class LBFGSMemory(Memory):
    """What L-BFGS remembers between steps.

    Attributes:
        changes: s = t d, y and 1 / (y·s) of each iteration that is remembered, oldest first; y (P,) is the change of
            the gradient.
        n_iter: iterations so far.
        d: direction of the last iteration, (P,); None before the first.
        t: how far theta went along it.
        h_diag: γ, of the initial inverse Hessian γ I.
        gradient: at the start of the last iteration, (P,).
    """

    changes: deque[tuple[Array, Array, float]] = field(default_factory=deque)
    n_iter: int = 0
    d: Array | None = None
    t: float = 0.0
    h_diag: float = 1.0
    gradient: Array | None = None

    def state(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """All of it: JSON values, and arrays that never change."""
        found = {"d": self.d, "gradient": self.gradient}
        for k, (s, y, _) in enumerate(self.changes):
            found |= {f"s{k}": s, f"y{k}": y}
        values = {"n_iter": self.n_iter, "t": self.t, "h_diag": self.h_diag, "ro": [ro for _, _, ro in self.changes]}
        return values, {name: array for name, array in found.items() if array is not None}

    def restore(self, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Sets all of it to what `state` returned."""
        self.n_iter, self.t, self.h_diag = values["n_iter"], values["t"], values["h_diag"]
        self.d, self.gradient = arrays.get("d"), arrays.get("gradient")
        self.changes.extend((arrays[f"s{k}"], arrays[f"y{k}"], ro) for k, ro in enumerate(values["ro"]))

    def advance(self, g: Array, xp: Any, read: Read) -> Array:
        """Learns from the last iteration, whose end has the gradient g, and returns the next direction, −H g."""
        if self.d is not None:
            y, s = g - self.gradient, self.t * self.d
            curvature = read(_dot(y, s, xp))
            if curvature > CURVATURE:
                self.changes.append((s, y, 1.0 / curvature))
                self.h_diag = curvature / read(_dot(y, y, xp))
        self.n_iter += 1
        self.gradient = g
        self.d = self._direction(g, xp)
        return self.d

    def _direction(self, g: Array, xp: Any) -> Array:
        """−H g by the two loops of algorithm 7.4; its inner products stay on the device."""
        q = -g
        weights = []
        for s, y, ro in reversed(self.changes):
            weight = _dot(s, q, xp) * ro
            q = q - weight * y
            weights.append(weight)
        r = q * self.h_diag
        for (s, y, ro), weight in zip(self.changes, reversed(weights), strict=True):
            r = r + (weight - _dot(y, r, xp) * ro) * s
        return r


@dataclass(frozen=True)
class _Point:
    """A point t on the line theta + t d, with J, its slope dJ/dt and its gradient there."""

    t: float
    loss: float
    slope: float
    gradient: Array


@final
class LBFGS(Optimizer):
    """θ ← θ + t d with d = −H g, H learnt from the last `history_size` changes of θ and g. For the whole batch.

    A step makes up to `max_iter` iterations, and evaluates the gradient `max_eval` times at most, with a line search
    once more. Schedules do not reach it. As in PyTorch t of the very first iteration is η / max(1, Σ|g|).

    Args:
        learning_rate: t of every iteration, or where its line search begins; None is 1.
        max_iter: iterations of a step.
        max_eval: evaluations of the gradient in a step; None is 5/4 of max_iter.
        tolerance_grad: a step ends where max |g| is no larger.
        tolerance_change: a step ends where max |t d| or the change of J is no larger.
        history_size: changes remembered; each takes twice the memory of theta.
        line_search: "strong_wolfe", which picks t; or None, as in PyTorch: t is the learning rate, and J may grow.

    Raises:
        ValueError: an argument is out of its range.
    """

    name = "lbfgs"
    default_rate = 1.0
    full_batch = True
    searches = True
    scheduled = False
    clippable = False

    def __init__(
        self,
        learning_rate: float | None = None,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search: str | None = "strong_wolfe",
    ) -> None:
        super().__init__(learning_rate)
        self.max_iter = whole_number("max_iter of LBFGS", max_iter, 1)
        self.max_eval = None if max_eval is None else whole_number("max_eval of LBFGS", max_eval, 1)
        self.tolerance_grad = number("tolerance_grad of LBFGS", tolerance_grad, "[0, inf]")
        self.tolerance_change = number("tolerance_change of LBFGS", tolerance_change, "[0, inf]")
        self.history_size = whole_number("history_size of LBFGS", history_size, 1, LARGEST_SIZE)
        self.line_search = one_of("line_search of LBFGS", line_search, None, "strong_wolfe")

    def memory(self) -> LBFGSMemory:
        """A new memory, for `step`."""
        return LBFGSMemory(deque(maxlen=self.history_size))

    def search(self, objective: Objective, memory: LBFGSMemory) -> Callable[[], float]:
        return partial(self.step, objective, memory)

    def step(self, objective: Objective, memory: LBFGSMemory) -> float:
        """One step of up to `max_iter` iterations.

        Args:
            objective: J and its gradient; of the array library, `dot`, `abs`, `max` and `sum` are used.
            memory: from the step before, or a new one; changed in place.

        Returns:
            J before the step. Without a line search the step ends once J is not finite, and returns J there.
        """
        theta, gradient, evaluate = objective.theta, objective.gradient, objective.evaluate
        xp, read = objective.xp, objective.read
        first = loss = evaluate()
        g = _copy(gradient)
        evaluations = 1
        allowed = self.max_iter * 5 // 4 if self.max_eval is None else self.max_eval
        if not math.isfinite(loss) or read(xp.max(xp.abs(g))) <= self.tolerance_grad:
            return loss
        for iteration in range(1, self.max_iter + 1):
            before = loss
            d = memory.advance(g, xp, read)
            slope, width = read(_dot(g, d, xp)), read(xp.max(xp.abs(d)))
            memory.t = self.rate
            if memory.n_iter == 1:
                memory.t *= min(1.0, 1.0 / read(xp.sum(xp.abs(g))))
            if slope > -self.tolerance_change:
                break
            if self.line_search is not None:
                line = _Line(theta, gradient, d, width, evaluate, xp, read)
                start = _Point(0.0, loss, slope, g)
                found = line.search(start, memory.t, allowed - evaluations)
                evaluations += line.evaluations
                line.go(found.t)
                loss, g, memory.t = found.loss, found.gradient, found.t
            else:
                theta[...] = theta + memory.t * d
                if iteration == self.max_iter:
                    break
                loss = evaluate()
                evaluations += 1
                if not math.isfinite(loss):
                    return loss
                g = _copy(gradient)
            if (
                evaluations >= allowed
                or read(xp.max(xp.abs(g))) <= self.tolerance_grad
                or memory.t * width <= self.tolerance_change
                or abs(loss - before) < self.tolerance_change
            ):
                break
        return first


class _Line:
    """J along theta + t d, and a search for a t that fulfils the strong Wolfe conditions."""

    def __init__(
        self, theta: Array, gradient: Array, d: Array, width: float, evaluate: Callable[[], float], xp: Any, read: Read
    ) -> None:
        self.theta, self.start, self.gradient, self.d, self.width = theta, _copy(theta), gradient, d, width
        self.evaluate, self.xp, self.read = evaluate, xp, read
        self.evaluations = 0

    def go(self, t: float) -> None:
        """Sets theta to the point t."""
        self.theta[...] = self.start + t * self.d

    def at(self, t: float) -> _Point:
        """The point t; its loss counts as infinite if J or the slope is not finite. Theta is back at the start then."""
        self.go(t)
        loss = self.evaluate()
        self.theta[...] = self.start
        self.evaluations += 1
        slope = self.read(_dot(self.gradient, self.d, self.xp))
        if not (math.isfinite(loss) and math.isfinite(slope)):
            loss = math.inf
        return _Point(t, loss, slope, _copy(self.gradient))

    def search(self, start: _Point, t: float, allowed: int) -> _Point:
        """A point that fulfils the conditions, or the best one found; its loss is finite.

        Algorithm 3.5: t grows until an interval must hold such a point; algorithm 3.6 then shrinks it.

        Args:
            start: the point 0.
            t: where to look first.
            allowed: evaluations after the first.
        """
        previous, point = start, self.at(t)
        for k in range(allowed):
            if _too_high(point, start) or (k > 1 and point.loss >= previous.loss):
                return self._zoom(start, [previous, point], allowed)
            if abs(point.slope) <= -C2 * start.slope:
                return point
            if point.slope >= 0:
                return self._zoom(start, [previous, point], allowed)
            nearest, farthest = point.t + 0.01 * (point.t - previous.t), 10 * point.t
            t = _minimum_of_cubic(previous, point, nearest, farthest)
            previous, point = point, self.at(t)
        return start if start.loss <= point.loss else point

    def _zoom(self, start: _Point, ends: list[_Point], allowed: int) -> _Point:
        low = 0 if ends[0].loss <= ends[1].loss else 1
        near_end = False
        while self.evaluations <= allowed:
            left, right = sorted(end.t for end in ends)
            if (right - left) * self.width < NARROW:
                break
            t = _minimum_of_cubic(ends[0], ends[1], left, right)
            margin = 0.1 * (right - left)
            inside = min(right - t, t - left)
            # Twice in a row near an end, or once on it, is no progress: the point moves in by the margin.
            if inside < margin and (near_end or inside <= 0):
                t = right - margin if right - t < t - left else left + margin
                near_end = False
            else:
                near_end = inside < margin
            point = self.at(t)
            if _too_high(point, start) or point.loss >= ends[low].loss:
                ends[1 - low] = point
                low = 0 if ends[0].loss <= ends[1].loss else 1
                continue
            if abs(point.slope) <= -C2 * start.slope:
                return point
            if point.slope * (ends[1 - low].t - ends[low].t) >= 0:
                ends[1 - low] = ends[low]
            ends[low] = point
        return ends[low]


def _too_high(point: _Point, start: _Point) -> bool:
    """Whether the first Wolfe condition, sufficient decrease, fails."""
    return point.loss > start.loss + C1 * point.t * start.slope


def _minimum_of_cubic(a: _Point, b: _Point, least: float, most: float) -> float:
    """Where the cubic through losses and slopes of both points is least, within bounds; else the bounds' middle."""
    a, b = (a, b) if a.t <= b.t else (b, a)
    with np.errstate(all="ignore"):
        # As np.float64 a quotient by zero is infinite, and then bounded, or NaN.
        width = np.float64(b.t - a.t)
        d1 = a.slope + b.slope - 3 * (b.loss - a.loss) / width
        square = d1 * d1 - a.slope * b.slope
        if square >= 0:
            d2 = np.sqrt(square)
            t = float(b.t - width * ((b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2)))
            if not math.isnan(t):
                return min(max(t, least), most)
    return (least + most) / 2


def _dot(x: Array, y: Array, xp: Any) -> Array:
    """xᵀy, in parts so short that a BLAS computes each on one thread: the bits do not depend on its number of threads.

    Networks that train side by side share that number, and end with the bits of training one after the other.
    """
    whole = len(x) // _PART * _PART
    if not whole:
        return xp.dot(x, y)
    products = xp.matmul(x[:whole].reshape(-1, 1, _PART), y[:whole].reshape(-1, _PART, 1))
    return xp.sum(products) + xp.dot(x[whole:], y[whole:])


def _copy(vector: Array) -> Array:
    # Arithmetic alone: every array library has it, and x * 1 is x, bit for bit.
    return vector * 1.0
