"""Gradient check: backpropagation against central differences of J, in float64.

The derivative at θᵢ is extrapolated from two central differences (Richardson; Press et al., "Numerical Recipes",
section 5.7), n = (4 D(h/2) − D(h)) / 3 with D(h) = (J(θᵢ + h) − J(θᵢ − h)) / 2h, whose error is of order h⁴. The
uncertainty u of n is the difference between two steps plus the rounding error of J. The step shrinks until u is small,
or no longer decreases (Ridders, "Accurate computation of F'(x) and F'(x)F''(x)", 1982).

If a z crosses a kink of its activation between θᵢ − h and θᵢ + h, or h − y crosses a kink of the loss, a central
difference is meaningless: the step shrinks until no kink is crossed. An entry that lies on a kink is reported but not
judged.

A large network is checked along random directions v with N(0, 1) entries, in one array at a time: g·v by
backpropagation against the difference of J along v. An error e of the array shows as e·v, which is N(0, |e|²) whatever
e is. So one of |e| = f |g| stays below t |g| with a probability of at most √(2/π) t / f in each direction, and these
probabilities multiply.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnbp import html
from nnbp.engine.dataset import Dataset
from nnbp.engine.executor import Batch, Executor
from nnbp.engine.model import Model
from nnbp.formatting import json_value, table
from nnbp.network import Network
from nnbp.nn.layers import ActivatedNode
from nnbp.testing.runs import numbers
from nnbp.validation import instance, number, whole_number

Floats = NDArray[np.float64]

STEP = 2.0**-10
"""First step, relative to max(1, |θᵢ|); near ε^(1/5), at which rounding equals the h⁴ error of the extrapolation."""

LEVELS = 5
SHRINK = 8.0
TOLERANCE = 1e-6

FAULT = 1e-3
"""The error of an array, relative to its Euclidean norm, that directions are to find."""

ALONG = 1e-5
"""The relative error that passes along a direction."""

_MOST = 100
"""Directions in one array at most."""


@dataclass(frozen=True)
class GradientRow:
    """The result for one array of derivatives.

    Attributes:
        name: "W1", "b1", … as in the notes, with the number of the layer; "dX" for ∂C/∂x.
        shape: of the array.
        checked: number of entries compared.
        max_absolute_error: largest |a − n|; a by backpropagation, n by differences.
        max_relative_error: largest |a − n| / max(|a| + |n|, 10⁶ u).
        worst: index of the entry with the largest relative error, or None if no entry was compared.
        backpropagated, differenced: a and n of that entry.
        stepped_around: number of entries whose step was shrunk so that no kink is crossed.
        at_kink: number of entries that lie on a kink and were not judged.
        passed: whether all relative errors are within the tolerance.
    """

    name: str
    shape: tuple[int, ...]
    checked: int
    max_absolute_error: float
    max_relative_error: float
    worst: tuple[int, ...] | None
    backpropagated: float
    differenced: float
    stepped_around: int
    at_kink: int
    passed: bool


@dataclass(frozen=True)
class GradientReport:
    """The result of `check_gradients`; print it to see a table.

    Attributes:
        rows: one per parameter array, and one for ∂C/∂x.
        tolerance: largest relative error that passes.
        chance: of missing an error of 1e-3 in one array, if derivatives were checked along random directions; 1 if
            rounding hides such an error, or kinks the directions.
        asked: the chance that was asked for.
        kinks: descriptions of the kinks that were crossed: "relu at z = 0".
        loss: J.
    """

    rows: tuple[GradientRow, ...]
    tolerance: float
    kinks: tuple[str, ...]
    loss: float
    chance: float | None = None
    asked: float | None = None

    @property
    def passed(self) -> bool:
        """Whether every row passed, at least one derivative was compared, and the chance is as low as was asked."""
        low = self.chance is None or self.asked is None or self.chance <= self.asked
        return low and all(row.passed for row in self.rows) and any(row.checked for row in self.rows)

    @property
    def max_relative_error(self) -> float:
        """The largest relative error of all rows."""
        return max(row.max_relative_error for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """The report in JSON types; numbers that are not finite become None."""
        summary = {"passed": self.passed, "max_relative_error": self.max_relative_error}
        report: dict[str, Any] = json_value({**summary, **asdict(self)})
        return report

    def __str__(self) -> str:
        return "\n".join([*table(self._table(), left=_LEFT, ruled=True), *self.lines()])

    def _repr_html_(self) -> str:
        """The table, with a bar for each relative error on a logarithmic scale, for notebooks."""
        bars = [(html.length(row.max_relative_error / self.tolerance), row.passed) for row in self.rows]
        return html.table(self._table(), left=_LEFT, bars=bars, lines=self.lines())

    def _table(self) -> list[Sequence[str]]:
        head = ["array", "shape", "checked", "max |a−n|", "max relative", "worst at"]
        return [[*head, "a, backpropagated", "n, differenced", ""], *map(_cells, self.rows)]

    def lines(self) -> list[str]:
        """What stands below the table: the verdict, and what it depends on."""
        lines = [
            f"{'PASSED' if self.passed else 'FAILED'}: {sum(row.checked for row in self.rows)} derivatives against "
            f"central differences in float64, largest relative error {self.max_relative_error:.2g}, allowed "
            f"{self.tolerance:g}"
        ]
        if self.chance is not None:
            lines.append(
                f"along random directions: an error of {FAULT:g} in one array is missed with a chance of at most "
                f"{self.chance:.1g}; asked: {self.asked:g}"
            )
        if self.kinks:
            lines.append(
                f"kinks: {', '.join(self.kinks)}; {sum(row.stepped_around for row in self.rows)} entries stepped "
                f"around one, {sum(row.at_kink for row in self.rows)} on one and not judged"
            )
        return lines


_LEFT = (0, 1, 8)
"""Columns that stand at the left."""


def _cells(row: GradientRow) -> tuple[str, ...]:
    notes = [] if row.passed else ["FAILED"]
    notes += [f"{row.stepped_around} around kinks"] if row.stepped_around else []
    notes += [f"{row.at_kink} on a kink"] if row.at_kink else []
    start = (row.name, str(row.shape), str(row.checked))
    if row.worst is None:
        return (*start, "–", "–", "–", "–", "–", ", ".join(notes))
    place = str(list(row.worst))
    errors = (f"{row.max_absolute_error:.1e}", f"{row.max_relative_error:.1e}")
    return (*start, *errors, place, f"{row.backpropagated:.10g}", f"{row.differenced:.10g}", ", ".join(notes))


class _Point(NamedTuple):
    """The network at one point: the values to difference, one per column, and the side of each kink that it is on."""

    values: Floats
    sides: list[tuple[str, NDArray[np.int8]]]


class _Differences(NamedTuple):
    """Derivatives by differences, one per column."""

    values: Floats
    uncertainty: Floats
    stepped_around: NDArray[np.bool]
    at_kink: NDArray[np.bool]


class _Probe:
    """A network in float64 on the CPU, with an executor whose parameters and inputs are shifted and restored."""

    def __init__(self, net: Network, data: Dataset, X: Floats) -> None:
        model = net.model
        self.theta, self.decayed, self.decay = net.parameters, model.parameters.decayed, model.weight_decay
        self.X, self.loss = X, model.loss
        self.executor = Executor(model, Batch(X, data.y, data.w), keep_z=True)
        self.run = model.backend.compile(self.executor.forward)
        self.run()
        self.share: Floats = np.broadcast_to(self.executor.share[0], len(X))
        self.nodes = [node for node in self.executor.nodes if isinstance(node, ActivatedNode)]
        self.kinks: dict[str, None] = {}

    def _sides(self) -> Iterator[tuple[str, NDArray[np.int8]]]:
        """The side of every kink that each unit is on for each sample, (units, m)."""
        for node in self.nodes:
            for kink in node.f.kinks:
                yield f"{node.f.name} at z = {kink:g}", np.sign(node.z - kink).astype(np.int8)
        for kink in self.loss.kinks:
            where = "h = y" if kink == 0 else f"h − y = {kink:g}"
            yield f"{self.loss.name} at {where}", np.sign(self.executor.h - self.executor.y - kink).astype(np.int8)

    def at_parameters(self, where: slice, v: Floats, offset: Floats) -> _Point:
        """J with a part of θ shifted by the offset (1,) along v; samples of weight 0 are ignored."""
        kept = self.theta[where].copy()
        self.theta[where] += offset[0] * v
        self.run()
        W = self.theta[: self.decayed]
        J = self.share @ self.executor.cost[0] + 0.5 * self.decay * (W @ W)
        self.theta[where] = kept
        counts = self.share != 0
        return _Point(np.array([J]), [(name, side[:, counts].reshape(-1, 1)) for name, side in self._sides()])

    def at_inputs(self, features: slice, v: Floats, offset: Floats) -> _Point:
        """C of every sample with some features shifted by the offset (m,) along v (m, features)."""
        kept = self.X[:, features].copy()
        self.X[:, features] += offset[:, None] * v
        self.run()
        self.X[:, features] = kept
        return _Point(self.executor.cost[0].copy(), list(self._sides()))

    def differences(self, at: Callable[[Floats], _Point], step: Floats, scale: Floats) -> _Differences:
        """Derivatives by differences.

        Args:
            at: evaluates the network with each column's variable shifted by an offset, (k,).
            step: first step of each column.
            scale: size of the terms that add up to each column's value; ε times the scale is its rounding error.
        """
        best, doubt = np.full(len(step), np.nan), np.full(len(step), np.inf)
        crossed = np.zeros(len(step), np.bool)
        for level in range(LEVELS):
            h = step / SHRINK**level
            values, sides = zip(*(at(h * factor) for factor in (-1.0, -0.5, 0.5, 1.0)), strict=True)
            crossing = np.zeros(len(step), np.bool)
            for (name, first), *others in zip(*sides, strict=True):
                found = np.any([side != first for _, side in others], axis=(0, 1))
                if found.any():
                    self.kinks[name] = None
                    crossing |= found
            wide, narrow = (values[3] - values[0]) / (2 * h), (values[2] - values[1]) / h
            value, rounding = (4 * narrow - wide) / 3, 16 * np.finfo(np.float64).eps * scale / h
            uncertainty = np.abs(value - narrow) + rounding
            better = ~crossing & (uncertainty < doubt)
            best[better], doubt[better] = value[better], uncertainty[better]
            crossed |= crossing
            # u does not affect the relative error once it is at most 10⁻⁶ |n|.
            if np.all(doubt <= np.maximum(2 * rounding, 1e-6 * np.abs(best))):
                break
        clean = np.isfinite(doubt)
        # A column whose value is NaN or infinite is not on a kink: it is compared, and fails.
        return _Differences(best, doubt, crossed & clean, crossed & ~clean)


def _step(size: Any, relative: float) -> Floats:
    """relative · size, rounded to a power of two, so that x ± h is exact."""
    return np.exp2(np.round(np.log2(relative * np.atleast_1d(size))))


def _size(x: Any) -> Any:
    return np.maximum(1.0, np.abs(x))


def _sizes_of_inputs(net: Network, X: Floats) -> Floats:
    """The size of every input that the first step is relative to."""
    deviation = net.model.host_statistics()[0].get("deviation")
    if deviation is None:
        sizes: Floats = _size(X)
        return sizes
    # However large a standardised feature is, the network sees it in units of its deviation.
    return np.broadcast_to(np.where(deviation > 0, deviation, 1.0), X.shape)


def _row(
    name: str,
    shape: tuple[int, ...],
    places: list[tuple[int, ...]],
    a: Floats,
    n: list[_Differences],
    tolerance: float,
    sizes: Floats | None = None,
) -> GradientRow:
    values, uncertainty, stepped_around, at_kink = map(np.concatenate, zip(*n, strict=True))
    judged = ~at_kink
    absolute = np.abs(a - values)
    with np.errstate(all="ignore"):
        if sizes is None:
            relative = absolute / np.maximum(np.abs(a) + np.abs(values), 1e6 * uncertainty)
        else:
            relative = absolute / np.maximum(sizes, uncertainty / tolerance)
    relative[absolute == 0] = 0.0
    # Every comparison with NaN is False, so a NaN must be counted as wrong explicitly.
    absolute, relative = (np.where(judged, np.where(np.isfinite(e), e, np.inf), -1.0) for e in (absolute, relative))
    counts = (int(stepped_around.sum()), int(at_kink.sum()))
    if not judged.any():
        return GradientRow(name, shape, 0, 0.0, 0.0, None, np.nan, np.nan, *counts, passed=True)
    worst = int(np.argmax(relative))
    largest = float(relative[worst])
    return GradientRow(
        name, shape, int(judged.sum()), float(absolute.max()), largest, places[worst], float(a[worst]),
        float(values[worst]), *counts, passed=largest <= tolerance,
    )  # fmt: skip


class _Directions:
    """Checks of derivatives along random directions.

    Attributes:
        missed: the largest chance, of all arrays so far, of missing an error of `FAULT`.

    Args:
        probe: the network.
        rng: draws directions.
        step: first step, relative to the size of what is moved.
        tolerance: relative error that passes, t.
        chance: that suffices.
    """

    def __init__(self, probe: _Probe, rng: np.random.Generator, step: float, tolerance: float, chance: float) -> None:
        self.probe, self.rng, self.step, self.tolerance, self.chance = probe, rng, step, tolerance, chance
        self.missed = 0.0

    def of_parameters(self, name: str, shape: tuple[int, ...], where: slice, g: Floats, scale: Floats) -> GradientRow:
        """The row of an array of parameters whose gradient is g."""
        theta = self.probe.theta[where]
        size = _step(max(1.0, float(np.linalg.norm(theta))) / math.sqrt(len(g)), self.step)

        def along() -> tuple[Floats, _Differences]:
            v = self.rng.normal(size=len(g))
            return np.atleast_1d(g @ v), self.probe.differences(
                partial(self.probe.at_parameters, where, v), size, scale
            )

        return self._row(name, shape, np.atleast_1d(np.linalg.norm(g)), along)

    def of_inputs(self, dX: Floats, sizes: Floats, scale: Floats) -> GradientRow:
        """The row of ∂C/∂x, each sample of which is judged by itself."""
        size = _step(sizes.min(axis=1) / math.sqrt(dX.shape[1]), self.step)

        def along() -> tuple[Floats, _Differences]:
            v = self.rng.normal(size=dX.shape)
            at = partial(self.probe.at_inputs, slice(None), v)
            return np.sum(dX * v, axis=1), self.probe.differences(at, size, scale)

        return self._row("dX", dX.shape, np.linalg.norm(dX, axis=1), along)

    def _row(
        self, name: str, shape: tuple[int, ...], norm: Floats, along: Callable[[], tuple[Floats, _Differences]]
    ) -> GradientRow:
        """Draws directions until the chance of a miss is small enough in each column."""
        missed, values, found = np.ones(len(norm)), [], list[_Differences]()
        while len(found) < _MOST and not (missed <= self.chance).all():
            a, n = along()
            values.append(a)
            found.append(n)
            with np.errstate(all="ignore"):
                # Below its uncertainty a difference tells nothing.
                t = np.maximum(self.tolerance, n.uncertainty / norm)
                missed *= np.where(n.at_kink, 1.0, np.minimum(1.0, math.sqrt(2 / math.pi) * t / FAULT))
            if len(found) > 2 and (missed == 1.0).all():
                break
        # Derivatives that are all 0 have no relative error.
        self.missed = max(self.missed, float(np.max(missed[norm > 0], initial=0.0)))
        places: list[tuple[int, ...]] = [(k,) for k in range(len(found)) for _ in norm]
        sizes = np.tile(norm, len(found))
        return _row(name, shape, places, np.concatenate(values), found, self.tolerance, sizes)


def _sample(rng: np.random.Generator, count: int, entries: int | None) -> NDArray[np.int64]:
    """Indices of the entries to check, of `count` in all, in order."""
    if entries is None or entries >= count:
        return np.arange(count)
    return np.sort(rng.choice(count, entries, replace=False))


def check_gradients(
    net: Network,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    step: float | None = None,
    tolerance: float | None = None,
    entries: int | None = 200,
    chance: float | None = None,
) -> GradientReport:
    """Compares ∂J/∂W, ∂J/∂b and ∂C/∂x by backpropagation with central differences.

    The relative error of an entry is |a − n| / max(|a| + |n|, 10⁶ u): a by backpropagation, n by differences, u the
    uncertainty of n. A difference below the rounding error of J therefore counts as at most 1e-6, however small the
    derivative is. The check uses a copy in float64 on the CPU, without dropout; the network itself is not changed.

    Args:
        net: the network.
        X: (m, n_in); a few samples are enough.
        y: targets, as for `fit`.
        sample_weight: (m,), at least 0, or None.
        step: first step h, relative to max(1, |θᵢ|), or to the deviation of a standardised feature; None is 2⁻¹⁰.
        tolerance: largest relative error that passes; None is 1e-6, and 1e-5 along directions.
        entries: number of entries of each array to check, drawn with a fixed seed; for ∂C/∂x, number of features. None
            is all.
        chance: such as 1e-6, for large networks: derivatives are checked along random directions, as many as make the
            chance of missing an error of 1e-3 in one array (of its norm) at most this. The relative error of a
            direction is |a − n| / |g|, with g the derivatives of the array; 1e-5 passes unless `tolerance` is given.

    Returns:
        a report with `passed`, `max_relative_error` and one row per array; `print` shows it as a table.

    Raises:
        ShapeError, DTypeError, DataError, ValueError: an argument does not fit.

    >>> net = Network([2, 3, 1], activation="tanh", device="cpu", seed=0)
    >>> check_gradients(net, [[0.5, -1.0], [2.0, 0.3]], [1.0, -1.0]).passed
    True
    """
    relative = STEP if step is None else number("step, relative to max(1, |θ|),", step, "(0, 1)")
    if chance is not None:
        chance = number("chance, of missing an error,", chance, "(0, 1)")
    default = TOLERANCE if chance is None else ALONG
    tolerance = (
        default if tolerance is None else number("tolerance, a bound on the relative error,", tolerance, "(0, inf]")
    )
    count = None if entries is None else whole_number("entries", entries, 1)
    twin = instance("net", net, Network, "a Network").copy(device="cpu", dtype=np.float64)
    data = twin.prepare(X, y, sample_weight)
    found = twin.gradients(X, y, sample_weight)
    rng, rows = np.random.default_rng(0), []
    with twin.model.backend.active():
        probe, one = _Probe(twin, data, np.array(data.X)), np.ones(1)
        # The rounding error of C scales with C itself, with the z that it is computed from, and with the products of
        # targets and outputs in it. (ln h has the rounding error of h, ε, even if ln h itself is close to 0.)
        executor = probe.executor
        scale = np.abs(executor.cost[0]) + np.sum(
            np.abs(found.delta[-1].T * executor.output.z) + np.abs(executor.y * executor.h), 0
        )
        W = probe.theta[: probe.decayed]
        total = np.atleast_1d(probe.share @ scale + 0.5 * probe.decay * (W @ W))
        if chance is not None:
            directions = _Directions(probe, rng, relative, tolerance, chance)
            for name, where, shape in _arrays(twin.model):
                rows.append(directions.of_parameters(name, shape, where, found.flat[where], total))
            rows.append(directions.of_inputs(found.dX, _sizes_of_inputs(twin, data.X), scale))
            kinks = tuple(probe.kinks)
            return GradientReport(tuple(rows), tolerance, kinks, float(found.loss), directions.missed, chance)
        for name, where, shape in _arrays(twin.model):
            chosen = _sample(rng, where.stop - where.start, count)
            single = [
                probe.differences(
                    partial(probe.at_parameters, slice(i, i + 1), one), _step(_size(probe.theta[i]), relative), total
                )
                for i in where.start + chosen
            ]
            places = list(zip(*(axis.tolist() for axis in np.unravel_index(chosen, shape)), strict=True))
            rows.append(_row(name, shape, places, found.flat[where][chosen], single, tolerance))
        features, sizes = _sample(rng, data.X.shape[1], count), _sizes_of_inputs(twin, data.X)
        single = [
            probe.differences(partial(probe.at_inputs, slice(i, i + 1), one), _step(sizes[:, i], relative), scale)
            for i in features
        ]
        places = [(n, int(i)) for i in features for n in range(len(data.X))]
        rows.append(_row("dX", tuple(data.X.shape), places, found.dX.T[features].ravel(), single, tolerance))
    return GradientReport(tuple(rows), tolerance, tuple(probe.kinks), float(found.loss))


def _arrays(model: Model) -> Iterator[tuple[str, slice, tuple[int, ...]]]:
    """Name, slice of the flat vector and shape of every array of parameters."""
    parameters = model.parameters
    for k, specs, slices in zip(numbers(model), parameters.specs, parameters.slices, strict=True):
        for spec in (spec for spec in specs if spec.learnt):
            yield f"{spec.name}{k}", slices[spec.name], spec.shape
