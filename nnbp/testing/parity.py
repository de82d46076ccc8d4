"""Parity: the same network on two devices, compared number by number.

For every z, a, delta, dW, db and ∂C/∂x, and for the parameters after some updates, max |p − q| / max |p| must stay
within a bound, with p from the first device and q from another. `nnbp.testing.tolerances` defines and justifies the
bounds: 10⁻¹² and 10⁻¹⁰ in float64; in float32, TF32 and bfloat16, a few roundings and their amplification by the
network.

If a z is so close to a kink of its activation that the devices are on different sides of it, both are right although
they differ. These samples are left out of deltas and gradients, and counted. Updates include them: if there are such
samples, trained arrays may differ beyond their bound although no device is wrong.

A fault in one layer affects everything that follows. In isolation, each layer of each device is compared with a float64
run of that layer on the inputs that this device computed, so only the faulty layer is named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.device.select import open_backend
from nnbp.errors import DeviceUnavailableError
from nnbp.formatting import shown
from nnbp.graph.backend import Backend
from nnbp.network import Network
from nnbp.optim.optimizers import Optimizer
from nnbp.testing.rows import UNDECIDABLE, UNDECIDED, ParityRow, Report, equal, judged
from nnbp.testing.runs import BY_SAMPLE, Found, Problem, activated, isolated
from nnbp.testing.tolerances import (
    PASS_BOUND,
    TRAINING_BOUND,
    bound,
    flushed,
    relative_error,
    rounded,
    with_rounding,
)
from nnbp.validation import flag, instance, items


@dataclass(frozen=True)
class ParityReport(Report):
    """The report of `compare_devices` and `nnbp.testing.compare_with`; print it to see a table.

    Attributes:
        devices: the devices; the first is compared with every other.
        dtype: of the networks.
        precision: of the products, "tf32" or "bf16"; None if it is that of the dtype.
        optimizer: of the updates.
        updates: number of updates.
        kinks: samples left out of deltas and gradients because the devices were on different sides of a kink.
        rows: one per array, in the order of computation.
        isolate: whether each layer of each device was judged by itself.
    """

    devices: tuple[str, ...]
    dtype: str
    precision: str | None
    optimizer: str
    updates: int
    kinks: int
    rows: tuple[ParityRow, ...]
    isolate: bool = False

    @property
    def arithmetic(self) -> str:
        """The precision of the products if it is lower than that of the dtype, else the dtype."""
        return self.precision or self.dtype

    @property
    def several(self) -> bool:
        """Whether the rows are of several devices, so that each has to name its own."""
        return self.isolate or len(self.devices) > 2

    def lines(self) -> list[str]:
        """What stands below the table: the verdict, and what it depends on."""
        lines = []
        if self.isolate:
            what = f"every layer of {', '.join(self.devices)} by itself, p in float64; {self.arithmetic}"
        else:
            what = (
                f"p on {self.devices[0]}, q on {', '.join(self.devices[1:])}; {self.arithmetic}, {self.updates} "
                f"updates by {self.optimizer.partition('(')[0]}"
            )
        lines.append(
            f"{'PASSED' if self.passed else 'FAILED'}: {what}; largest relative error {self.max_relative_error:.2g}"
        )
        if self.kinks:
            lines.append(
                f"kinks: {self.kinks} samples left out of deltas and gradients, but not of the updates: devices are on "
                "different sides of one"
            )
        if open_ := [row.name for row in self.rows if row.verdict == UNDECIDED]:
            lines.append(f"undecided: {', '.join(open_)}; the rounding errors are as large as the arrays themselves")
        if self.culprit is not None:
            faults = ", ".join(f"{row.name} on {row.device}" for row in self.rows if not row.passed)
            first = self.culprit
            lines.append(
                f"faulty: {faults}" if self.isolate else
                f"first beyond its bound: {first.name} on {first.device}, {first.ratio:.2g} times; isolate=True shows "
                "whether the others follow from it"
            )  # fmt: skip
        return lines


def compare_devices(
    net: Network,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    devices: Sequence[str | Backend] = ("cpu", "cuda"),
    steps: int = 10,
    optimizer: str | Optimizer = "adam",
    learning_rate: float | None = None,
    batch_size: int | None = None,
    isolate: bool = False,
) -> ParityReport:
    """Runs copies of a network on several devices and compares all their results.

    Args:
        net: the network; copies in its dtype are compared, and the network itself does not change.
        X: (m, n_in).
        y: targets, as for `fit`.
        sample_weight: (m,), at least 0, or None.
        devices: at least two, by name or as opened backends; the first is compared with every other.
        steps: number of updates, on shuffled mini-batches that are the same on every device; full-batch optimizers use
            all samples, and an update of L-BFGS is one of its iterations. Rprop uses only signs: if a derivative is 0
            except for rounding (a sum of signs, with absolute_error), devices may step in different directions, and
            neither is wrong. The same holds in float32 for derivatives below 2⁻⁶³, as the product of two of them is 0
            on a GPU. It also holds for adam and a bias before a BatchNorm, whose derivative is 0 except for rounding:
            use sgd.
        optimizer: of the updates, by name or as an object.
        learning_rate: η; None is the optimizer's default.
        batch_size: samples per update; None chooses a size for which `steps` is a whole number of epochs of several
            batches, if there is one. With any other size, the last epoch is completed: see `ParityReport.updates`.
        isolate: whether to judge each layer of each device by itself, instead of comparing devices. A float64 run
            computes the layer from the inputs that this device computed. The report then names the faulty layer, and
            not the results that follow from it. Updates are not compared.

    Returns:
        a report with `passed` and one row per array; `print` shows it as a table.

    Raises:
        DeviceUnavailableError: a device does not work on this machine, or two names mean the same device. The same name
            twice, ("cpu", "cpu"), is allowed because it must be intended.
        DivergenceError: training diverges on the first device.
        ShapeError, DTypeError, DataError, ValueError: an argument does not fit.

    >>> net = Network([2, 3, 1], activation="tanh", device="cpu", seed=0)
    >>> report = compare_devices(net, [[0.5, -1.0], [2.0, 0.3]], [1.0, -1.0], devices=("cpu", "cpu"))
    >>> report.passed, report.max_relative_error
    (True, 0.0)
    """
    instance("net", net, Network, "a Network")
    isolate = flag("isolate", isolate)
    backends = _open(devices)
    problem = Problem.of(
        net, X, y, sample_weight, steps=steps, optimizer=optimizer, learning_rate=learning_rate, batch_size=batch_size
    )  # fmt: skip
    runs: list[Run] = []
    for backend, label in zip(backends, _labels(backends), strict=True):
        runs.append(Run.of(net, problem, backend, label, train=not isolate, may_diverge=bool(runs)))
    judge = Judge(net, problem)
    report = judge(runs, isolate=isolate)
    if report.passed:
        return report
    # If something is wrong, it matters whether two runs on one device differ.
    again = [
        Run.of(net, problem, backend, run.label, train=not isolate, may_diverge=True)
        for backend, run in zip(backends, runs, strict=True)
    ]
    return judge([run.beside(other) for run, other in zip(runs, again, strict=True)], isolate=isolate)


def _open(devices: Sequence[str | Backend]) -> list[Backend]:
    rule = 'a list of at least two, of which the first is compared with the others, as in ("cpu", "cuda")'
    given = items("devices", devices, rule)
    if len(given) < 2:
        raise ValueError(f"devices is {rule}; received {shown(devices)}.")
    opened = [item if isinstance(item, Backend) else open_backend(item, fallback=False) for item in given]
    names: dict[str, str] = {}
    for item, backend in zip(given, opened, strict=True):
        if isinstance(item, str) and names.setdefault(backend.device, item) != item:
            raise DeviceUnavailableError(
                f"Parity compares different devices; {names[backend.device]!r} and {item!r} are both {backend.device} "
                "here. Run `nnbp doctor` to see which devices work."
            )
    return opened


def _labels(backends: Sequence[Backend]) -> list[str]:
    names = [backend.device for backend in backends]
    return [
        f"{backend.device} ({backend.name})" if names.count(backend.device) > 1 else backend.device
        for backend in backends
    ]


# ---- runs and their judge


@dataclass(frozen=True, eq=False)
class Run:
    """The results of a network on one device.

    Attributes:
        label: of the device.
        computed: the arrays of a forward and a backward pass.
        trained: the arrays after the updates.
        unsteady: for each array that differs between two runs on the device, the largest absolute difference; empty
            if there was one run.
    """

    label: str
    computed: Found
    trained: Found
    unsteady: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        net: Network,
        problem: Problem,
        device: str | Backend,
        label: str,
        *,
        train: bool = True,
        may_diverge: bool = False,
    ) -> Run:
        """Runs a copy of a network on a device; see `Problem.trained` for `may_diverge`."""
        twin = net.copy(device=device)
        return cls(label, problem.computed(twin), problem.trained(twin, may_diverge=may_diverge) if train else {})

    def beside(self, other: Run) -> Run:
        """This run with its differences from another run on the same device."""
        pairs = [
            (name, p, {**other.computed, **other.trained}[name])
            for name, p in {**self.computed, **self.trained}.items()
        ]
        with np.errstate(all="ignore"):
            changes = {name: float(np.max(np.abs(p.astype(np.float64) - q))) for name, p, q in pairs if not equal(p, q)}
        unsteady = {name: change if math.isfinite(change) else math.inf for name, change in changes.items()}
        return Run(self.label, self.computed, self.trained, unsteady)


class Judge:
    """Judges runs of a network by bounds that follow from runs in float64.

    The bounds are based on ρ, the largest error of float64 runs to which the rounding errors of a lower precision were
    added. So no device affects its own bound.

    Args:
        net: the network; copies of it run.
        problem: the data and updates of the runs.
    """

    def __init__(self, net: Network, problem: Problem) -> None:
        self.problem, self.dtype, self.precision = problem, net.dtype, net.precision
        self.exact = net.copy(device="cpu", dtype=np.float64)
        self.exact.prepare(problem.X, problem.y)
        self.model = self.exact.model
        self.rounding = [self.exact.copy(device=backend) for backend in with_rounding(net.precision)]

    @cached_property
    def references(self) -> list[Run]:
        """The run in float64, and the runs with rounding errors."""
        exact = Run.of(self.exact, self.problem, "cpu", "float64")
        rounded = [Run.of(net, self.problem, net.model.backend, "rounding", may_diverge=True) for net in self.rounding]
        return [exact, *rounded]

    def __call__(self, runs: Sequence[Run], *, isolate: bool) -> ParityReport:
        """The report on some runs; the first is compared with every other, unless layers are isolated."""
        problem, kinks = self.problem, 0
        if isolate:
            rows = [row for run in runs for row in self._isolated(run)]
        else:
            crossed = self._on_both_sides([run.computed for run in (*runs, *self.references)])
            kinks = int(crossed.sum())
            rows = [*self._passes(runs, crossed), *self._trainings(runs)]
        labels = tuple(run.label for run in runs)
        updates = problem.updates
        return ParityReport(
            labels, self.dtype.name, self.precision, repr(problem.rule), updates, kinks, tuple(rows), isolate
        )

    def _passes(self, runs: Sequence[Run], crossed: NDArray[np.bool]) -> Iterator[ParityRow]:
        whole = [run.computed for run in runs]
        kept = [self._without(found, crossed) for found in whole]
        references = [self._without(run.computed, crossed) for run in self.references]
        for name, p in kept[0].items():
            exact = self.references[0].computed[name]
            limit, lost = self._bound(name, [found[name] for found in references], len(self.problem.X), None, exact)
            lost = max(lost, self._cancelled(name, whole[0]))
            for run, q, q_whole in zip(runs[1:], kept[1:], whole[1:], strict=True):
                yield judged(
                    "pass", name, run.label, p, q[name], bound=limit, lost=lost, size=_largest(exact),
                    unsteady=_unsteady(name, runs[0], run), whole=(whole[0][name], q_whole[name]),
                )  # fmt: skip

    def _trainings(self, runs: Sequence[Run]) -> Iterator[ParityRow]:
        problem = self.problem
        for name, p in runs[0].trained.items():
            references = [run.trained[name] for run in self.references]
            limit, lost = self._bound(name, references, problem.batch_size, problem.updates)
            for run in runs[1:]:
                yield judged(
                    "training", name, run.label, p, run.trained[name], bound=limit, lost=lost,
                    size=_largest(references[0]), unsteady=_unsteady(name, runs[0], run),
                )  # fmt: skip

    def _isolated(self, run: Run) -> Iterator[ParityRow]:
        found = run.computed
        exact, *own = (isolated(net, self.problem, found) for net in (self.exact, *self.rounding))
        for name, p in exact.items():
            limit, lost = self._bound(name, [p, *(other[name] for other in own)], len(self.problem.X), None)
            lost = max(lost, self._cancelled(name, found))
            yield judged(
                "pass", name, run.label, p.astype(self.dtype), found[name], bound=limit, lost=lost,
                unsteady=run.unsteady.get(name, 0.0),
            )  # fmt: skip

    def _bound(
        self,
        name: str,
        references: Sequence[NDArray[Any]],
        batch: int,
        updates: int | None,
        whole: NDArray[Any] | None = None,
    ) -> tuple[float, float]:
        """The bound on the relative error of an array, and the absolute error that is always allowed.

        Args:
            references: the array of the run in float64, and of the runs with rounding errors.
            batch: the number of samples that gradients sum over.
            updates: number of updates; None for an array of a pass.
            whole: the array of the run in float64 with the samples at kinks; None if there are none.
        """
        exact, *others = references
        # Errors are relative to the array with the samples at kinks, as in the rows: without them, it may be 0.
        size = _largest(exact if whole is None else whole)
        rho = max(relative_error(exact, other, size) for other in others)
        width = max(self.model.sizes)
        terms = width if name.startswith(BY_SAMPLE) else max(width, batch)
        steps = 0.0
        if updates is not None:
            steps = rounded(_largest(self.model.parameters.values), updates, self.dtype)
        if self.dtype == np.float64:
            least = PASS_BOUND if updates is None else TRAINING_BOUND
            return max(least, (8 if updates is None else 32) * rho * 2.0**-29), steps
        limit = bound(rho, terms=terms, updates=updates, precision=self.precision)
        # If an array is 0 except for rounding, no relative error bounds its rounding.
        return limit, flushed(terms) if limit < UNDECIDABLE else max(flushed(terms), steps)

    def _cancelled(self, name: str, found: Found) -> float:
        """The absolute error that a sum of deltas may have if they cancel, so that no relative error bounds it."""
        delta = found.get(name.replace("dbeta", "delta").replace("db", "delta"))
        if delta is None or not name.startswith("db"):
            return 0.0
        largest = _largest(delta)
        if self.dtype == np.float64:
            return PASS_BOUND * largest
        return largest * bound(0.0, terms=len(delta), updates=None, precision=self.precision)

    def _on_both_sides(self, passes: Sequence[Found]) -> NDArray[np.bool]:
        """For each sample, whether any z or h − y is on different sides of a kink in different runs."""
        layers, y = activated(self.model), self.problem.y
        places: list[tuple[str, Any]] = [(f"z{number}", kink) for number, f in layers for kink in f.kinks]
        # A loss with kinks is a regression loss: targets have the shape of the outputs, or are a single column.
        target = y.reshape(len(y), -1)
        places += [(f"a{layers[-1][0]}", kink + target) for kink in self.exact.loss_function.kinks]
        crossed = np.zeros(len(y), np.bool)
        for name, kink in places:
            first, *others = (np.sign(found[name] - kink) for found in passes)
            crossed |= np.any([side != first for side in others], axis=(0, 2))
        return crossed

    def _without(self, found: Found, crossed: NDArray[np.bool]) -> Found:
        """The arrays without these samples' contributions to deltas and gradients."""
        if not crossed.any():
            return found
        counted = crossed.astype(np.float64)
        part, none = (isolated(self.exact, self.problem, found, each) for each in (counted, 0 * counted))
        kept: Found = {}
        for name, array in found.items():
            if name.startswith(("delta", "dX")):
                kept[name] = array[~crossed]
            elif name.startswith("d"):
                kept[name] = (array - (part[name] - none[name])).astype(array.dtype)
            else:
                kept[name] = array
        return kept


def _unsteady(name: str, first: Run, other: Run) -> float:
    return max(first.unsteady.get(name, 0.0), other.unsteady.get(name, 0.0))


def _largest(array: NDArray[Any]) -> float:
    return float(np.max(np.abs(array), initial=0.0))
