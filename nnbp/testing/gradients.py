"""Gradient check: backpropagation against central differences of J, in float64.

The derivative at θᵢ is extrapolated from two central differences (Richardson; Press et al., "Numerical Recipes",
section 5.7), n = (4 D(h/2) − D(h)) / 3 with D(h) = (J(θᵢ + h) − J(θᵢ − h)) / 2h, whose error is of order h⁴. The
uncertainty u of n is the difference between two steps plus the rounding error of J. The step shrinks until u is small,
or no longer decreases (Ridders, "Accurate computation of F'(x) and F'(x)F''(x)", 1982).

If a z crosses a kink of its activation between θᵢ − h and θᵢ + h, or h − y crosses a kink of the loss, a central
difference is meaningless: the step shrinks until no kink is crossed. An entry that lies on a kink is reported but not
judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnbp.engine.dataset import Dataset
from nnbp.engine.executor import Batch, Executor
from nnbp.formatting import json_value, table
from nnbp.network import Network
from nnbp.nn.layers import ActivatedNode
from nnbp.validation import instance, number, whole_number

Floats = NDArray[np.float64]

STEP = 2.0**-10
"""First step, relative to max(1, |θᵢ|); near ε^(1/5), at which rounding equals the h⁴ error of the extrapolation."""

LEVELS = 5
SHRINK = 8.0
TOLERANCE = 1e-6


@dataclass(frozen=True)
class GradientRow:
    """The result for one array of derivatives.

    Attributes:
        name: "W1", "b1", … as in the notes, "dX" for ∂C/∂x.
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
        kinks: descriptions of the kinks that were crossed: "relu at z = 0".
        loss: J.
    """

    rows: tuple[GradientRow, ...]
    tolerance: float
    kinks: tuple[str, ...]
    loss: float

    @property
    def passed(self) -> bool:
        """Whether every row passed and at least one entry was compared."""
        return all(row.passed for row in self.rows) and any(row.checked for row in self.rows)

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
        head = ["array", "shape", "checked", "max |a−n|", "max relative", "worst at"]
        head += ["a, backpropagated", "n, differenced", ""]
        lines = table([head, *map(_cells, self.rows)], left=(0, 1, 8), ruled=True)
        lines.append(
            f"{'PASSED' if self.passed else 'FAILED'}: {sum(row.checked for row in self.rows)} derivatives against "
            f"central differences in float64, largest relative error {self.max_relative_error:.2g}, allowed "
            f"{self.tolerance:g}"
        )
        if self.kinks:
            lines.append(
                f"kinks: {', '.join(self.kinks)}; {sum(row.stepped_around for row in self.rows)} entries stepped "
                f"around one, {sum(row.at_kink for row in self.rows)} on one and not judged"
            )
        return "\n".join(lines)


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

    def at_parameter(self, i: int, offset: Floats) -> _Point:
        """J with θᵢ shifted by the offset (1,); samples of weight 0 are ignored."""
        kept = self.theta[i]
        self.theta[i] = kept + offset[0]
        self.run()
        W = self.theta[: self.decayed]
        J = self.share @ self.executor.cost[0] + 0.5 * self.decay * (W @ W)
        self.theta[i] = kept
        counts = self.share != 0
        return _Point(np.array([J]), [(name, side[:, counts].reshape(-1, 1)) for name, side in self._sides()])

    def at_input(self, i: int, offset: Floats) -> _Point:
        """C of every sample with feature i shifted."""
        kept = self.X[:, i].copy()
        self.X[:, i] += offset
        self.run()
        self.X[:, i] = kept
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
    name: str, shape: tuple[int, ...], places: list[tuple[int, ...]], a: Floats, n: list[_Differences], tolerance: float
) -> GradientRow:
    values, uncertainty, stepped_around, at_kink = map(np.concatenate, zip(*n, strict=True))
    judged = ~at_kink
    absolute = np.abs(a - values)
    with np.errstate(all="ignore"):
        relative = absolute / np.maximum(np.abs(a) + np.abs(values), 1e6 * uncertainty)
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
    tolerance: float = TOLERANCE,
    entries: int | None = 200,
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
        tolerance: largest relative error that passes.
        entries: number of entries of each array to check, drawn with a fixed seed; for ∂C/∂x, number of features. None
            is all.

    Returns:
        a report with `passed`, `max_relative_error` and one row per array; `print` shows it as a table.

    Raises:
        ShapeError, DTypeError, DataError, ValueError: an argument does not fit.

    >>> net = Network([2, 3, 1], activation="tanh", device="cpu", seed=0)
    >>> check_gradients(net, [[0.5, -1.0], [2.0, 0.3]], [1.0, -1.0]).passed
    True
    """
    relative = STEP if step is None else number("step, relative to max(1, |θ|),", step, "(0, 1)")
    tolerance = number("tolerance, a bound on the relative error,", tolerance, "(0, inf]")
    count = None if entries is None else whole_number("entries", entries, 1)
    twin = instance("net", net, Network, "a Network").copy(device="cpu", dtype=np.float64)
    data = twin.prepare(X, y, sample_weight)
    found = twin.gradients(X, y, sample_weight)
    parameters, rng, rows = twin.model.parameters, np.random.default_rng(0), []
    with twin.model.backend.active():
        probe = _Probe(twin, data, np.array(data.X))
        # The rounding error of C scales with C itself, with the z that it is computed from, and with the products of
        # targets and outputs in it. (ln h has the rounding error of h, ε, even if ln h itself is close to 0.)
        executor = probe.executor
        scale = np.abs(executor.cost[0]) + np.sum(
            np.abs(found.delta[-1].T * executor.output.z) + np.abs(executor.y * executor.h), 0
        )
        W = probe.theta[: probe.decayed]
        total = np.atleast_1d(probe.share @ scale + 0.5 * probe.decay * (W @ W))
        for name, where, shape in _arrays(parameters):
            chosen = _sample(rng, where.stop - where.start, count)
            single = [
                probe.differences(partial(probe.at_parameter, i), _step(_size(probe.theta[i]), relative), total)
                for i in where.start + chosen
            ]
            places = list(zip(*(axis.tolist() for axis in np.unravel_index(chosen, shape)), strict=True))
            rows.append(_row(name, shape, places, found.flat[where][chosen], single, tolerance))
        features, sizes = _sample(rng, data.X.shape[1], count), _sizes_of_inputs(twin, data.X)
        single = [probe.differences(partial(probe.at_input, i), _step(sizes[:, i], relative), scale) for i in features]
        places = [(n, int(i)) for i in features for n in range(len(data.X))]
        rows.append(_row("dX", tuple(data.X.shape), places, found.dX.T[features].ravel(), single, tolerance))
    return GradientReport(tuple(rows), tolerance, tuple(probe.kinks), float(found.loss))


def _arrays(parameters: Any) -> Iterator[tuple[str, slice, tuple[int, ...]]]:
    """Name, slice of the flat vector and shape of every parameter array; the k-th W, counted from 1, is named "Wk"."""
    counts: dict[str, int] = {}
    for specs, slices in zip(parameters.specs, parameters.slices, strict=True):
        for spec in (spec for spec in specs if spec.learnt):
            counts[spec.name] = counts.get(spec.name, 0) + 1
            yield f"{spec.name}{counts[spec.name]}", slices[spec.name], spec.shape
