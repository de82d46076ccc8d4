"""Parity: the same network on two devices, compared number by number.

For every z, a, delta, dW, db and ∂C/∂x, and for the parameters after some updates, max |p − q| / max |p| must stay
within a bound, with p from the first device and q from another. `nnbp.testing.tolerances` defines and justifies the
bounds: 10⁻¹² and 10⁻¹⁰ in float64; in float32, TF32 and bfloat16, a few roundings and their amplification by the
network.

If a z is so close to a kink of its activation that the devices are on different sides of it, both are right although
they differ. Such samples are excluded from the comparison of deltas and gradients, and counted.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.device.select import open_backend
from nnbp.errors import ConvergenceWarning, DeviceUnavailableError, DivergenceError
from nnbp.formatting import json_value, shown, table
from nnbp.graph.backend import Backend
from nnbp.network import Network
from nnbp.nn.layers import Dense
from nnbp.optim import optimizers
from nnbp.optim.lbfgs import LBFGS
from nnbp.optim.optimizers import Optimizer
from nnbp.testing.tolerances import PASS_BOUND, TRAINING_BOUND, bound, flushed, relative_error, with_rounded_factors
from nnbp.validation import host, instance, items, matrix, sample_weights, whole_number

Found = dict[str, NDArray[Any]]

_BY_SAMPLE = ("z", "a", "delta", "dX")
"""Prefixes of the names of arrays that are not sums over the samples."""


@dataclass(frozen=True)
class ParityRow:
    """One array on two devices.

    Attributes:
        stage: "pass", forward and backward, or "training".
        name: "z1", "a1", "J", "delta1", "dW1", "db1", …, "dX"; after the updates "W1 trained", "b1 trained", …, and "J
            by epoch".
        device: the device that is compared with the first.
        shape: of the array.
        max_absolute_error: max |p − q|.
        max_relative_error: max |p − q| / max |p|, which must be within the bound. In float32 an array also passes if
            denormals explain its absolute error; see `nnbp.testing.tolerances`.
        max_ulp_error: max |p − q| in units in the last place of the larger of the two.
        cosine: of the angle between the arrays as vectors.
        bound: on the relative error.
        passed: whether the array is within its bound.
    """

    stage: str
    name: str
    device: str
    shape: tuple[int, ...]
    max_absolute_error: float
    max_relative_error: float
    max_ulp_error: float
    cosine: float
    bound: float
    passed: bool


@dataclass(frozen=True)
class ParityReport:
    """The result of `compare_devices`; print it to see a table.

    Attributes:
        devices: the devices; the first is compared with every other.
        dtype: of the networks.
        precision: "tf32" or "bf16", of their products, or None if it is that of the dtype.
        optimizer: of the updates.
        updates: number of updates.
        kinks: samples excluded from deltas and gradients because the devices were on different sides of a kink.
        rows: one per array.
    """

    devices: tuple[str, ...]
    dtype: str
    precision: str | None
    optimizer: str
    updates: int
    kinks: int
    rows: tuple[ParityRow, ...]

    @property
    def arithmetic(self) -> str:
        """The precision of the products if it is lower than that of the dtype, else the dtype."""
        return self.precision or self.dtype

    @property
    def passed(self) -> bool:
        """Whether every row passed."""
        return all(row.passed for row in self.rows)

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
        head = ("array", "shape", "max |p−q|", "relative", "ulp", "1 − cosine", "bound", "on")
        several = len(self.devices) > 2
        cells = [head if several else (*head[:-1], ""), *(_cells(row, several) for row in self.rows)]
        lines = table(cells, left=(0, 1, 7), ruled=True)
        names = f"p on {self.devices[0]}, q on {', '.join(self.devices[1:])}"
        lines.append(
            f"{'PASSED' if self.passed else 'FAILED'}: {names}; {self.arithmetic}, {self.updates} updates by "
            f"{self.optimizer.partition('(')[0]}; largest relative error {self.max_relative_error:.2g}"
        )
        if self.kinks:
            lines.append(
                f"kinks: {self.kinks} samples left out of deltas and gradients, with the devices on both sides of one"
            )
        return "\n".join(lines)


def _cells(row: ParityRow, several: bool) -> tuple[str, ...]:
    errors = (f"{row.max_absolute_error:.1e}", f"{row.max_relative_error:.1e}", f"{row.max_ulp_error:.3g}")
    notes = " ".join([row.device] * several + ["FAILED"] * (not row.passed))
    return (row.name, str(row.shape), *errors, f"{1 - row.cosine:.1e}", f"{row.bound:.1e}", notes)


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
) -> ParityReport:
    """Runs copies of a network on several devices and compares all their results.

    Args:
        net: the network; copies in its dtype are compared, and it is not changed itself.
        X: (m, n_in).
        y: targets, as for `fit`.
        sample_weight: (m,), at least 0, or None.
        devices: at least two, by name or as opened backends; the first is compared with every other.
        steps: number of updates, on shuffled mini-batches that are the same on every device; full-batch optimizers use
            all samples, and an update of L-BFGS is one of its iterations. Rprop uses only signs: if a derivative is 0
            except for rounding (a sum of signs, with absolute_error), devices may step in different directions, and
            neither is wrong. The same holds in float32 for derivatives below 2⁻⁶³: the product of two of them is 0 on a
            GPU.
        optimizer: of the updates, by name or as an object.
        learning_rate: η; None is the optimizer's default.
        batch_size: samples per update; None chooses a size for which `steps` is a whole number of epochs. With any
            other size the last epoch is completed: see `ParityReport.updates`.

    Returns:
        a report with `passed` and one row per array; `print` shows it as a table.

    Raises:
        DeviceUnavailableError: a device does not work on this machine, or two names stand for the same device. The same
            name twice, ("cpu", "cpu"), is allowed because it must be intended.
        DivergenceError: training diverges on the first device.
        ShapeError, DTypeError, DataError, ValueError: an argument does not fit.

    >>> net = Network([2, 3, 1], activation="tanh", device="cpu", seed=0)
    >>> report = compare_devices(net, [[0.5, -1.0], [2.0, 0.3]], [1.0, -1.0], devices=("cpu", "cpu"))
    >>> report.passed, report.max_relative_error
    (True, 0.0)
    """
    instance("net", net, Network, "a Network")
    steps = whole_number("steps", steps, 1)
    backends = _open(devices)
    rule = copy(optimizers.get(optimizer))
    if isinstance(rule, LBFGS):
        # One of its steps is many updates, and rounding errors grow with each of them.
        rule.max_iter = min(rule.max_iter, steps)
    X, y = host(X, "X"), host(y, "y", classes=net.loss_function.classification)
    with np.errstate(over="ignore"):
        X = np.asarray(matrix(backends[0], X, net.dtype, None), net.dtype)
        y = y.astype(net.dtype) if y.dtype.kind == "f" else y
    w = sample_weights(sample_weight, len(X))
    epochs, size = _epochs(len(X), steps, batch_size, rule)
    updates = epochs * (rule.max_iter if isinstance(rule, LBFGS) else -(-len(X) // size))
    single = net.dtype == np.float32
    runs = [net.copy(device=backend) for backend in backends]
    # ρ, on which the float32 bounds are based, is the largest error of the judged runs relative to the last run. They
    # run on the CPU: if a device's own errors widened its bound, it would pass whatever it computed.
    judged = slice(1)
    if net.precision is not None or (single and backends[0].device != "cpu"):
        own = [open_backend("cpu")] if net.precision is None else with_rounded_factors(net.precision)
        runs += [net.copy(device=backend) for backend in own]
        judged = slice(len(backends), len(runs))
    if single:
        runs.append(net.copy(device="cpu", dtype=np.float64))
    for twin in runs:
        twin.prepare(X, y)
    forward = [_forward(twin, X) for twin in runs]
    crossed = _on_both_sides(runs[0], forward, y)
    keep = slice(None) if crossed.all() or not crossed.any() else ~crossed
    kept = (X[keep], y[keep], None if w is None else w[keep])
    passes = [before | _backward(twin, *kept) for before, twin in zip(forward, runs, strict=True)]
    options: dict[str, Any] = {"optimizer": rule, "learning_rate": learning_rate, "epochs": epochs, "batch_size": size}
    trained = [_trained(runs[0], X, y, w, options)]
    trained += [_trained(twin, X, y, w, options, trained[0]) for twin in runs[1:]]
    labels, width = _labels(backends), max(runs[0].model.sizes)
    rows = []
    for stage, found, fixed, batch, count in (
        ("pass", passes, PASS_BOUND, len(X), None),
        ("training", trained, TRAINING_BOUND, size, updates),
    ):
        for name, p in found[0].items():
            limit, lost = fixed, 0.0
            if single:
                terms = width if name.startswith(_BY_SAMPLE) else max(width, batch)
                lost = flushed(terms)
                rho = max(relative_error(found[-1][name], run[name]) for run in found[judged])
                limit = bound(rho, terms=terms, updates=count, precision=net.precision)
            for k, label in enumerate(labels[1:], 1):
                rows.append(_row(stage, name, label, p, found[k][name], limit, lost))
    kinks = int(crossed.sum()) if isinstance(keep, np.ndarray) else 0
    return ParityReport(tuple(labels), net.dtype.name, net.precision, repr(rule), updates, kinks, tuple(rows))


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


def _epochs(samples: int, steps: int, batch_size: int | None, rule: Optimizer) -> tuple[int, int]:
    """Number of epochs, and samples per batch."""
    size = samples if batch_size is None else min(whole_number("batch_size", batch_size, 1), samples)
    if isinstance(rule, LBFGS):
        return -(-steps // rule.max_iter), samples
    if rule.full_batch:
        return steps, samples
    if batch_size is None:
        # As many batches per epoch as possible, up to 5, with `steps` being a whole number of epochs.
        counts = [count for count in range(min(5, samples), 0, -1) if steps % count == 0]
        size = next(-(-samples // count) for count in counts if -(-samples // -(-samples // count)) == count)
    return -(-steps // -(-samples // size)), size


def _numbered(name: str, arrays: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{name}{k}", array) for k, array in enumerate(arrays, 1))


def _forward(twin: Network, X: NDArray[Any]) -> Found:
    """z and a of every layer, on the host."""
    trace = twin.trace(X)
    named = zip(_numbered("z", trace.z[1:]), _numbered("a", trace.a[1:]), strict=True)
    return {name: np.asarray(array) for pair in named for name, array in pair}


def _backward(twin: Network, X: NDArray[Any], y: NDArray[Any], w: NDArray[Any] | None) -> Found:
    """J and all results of backpropagation, on the host."""
    g = twin.gradients(X, y, w)
    named = [*_numbered("delta", g.delta), *_numbered("dW", g.dW), *_numbered("db", g.db), ("dX", g.dX)]
    return {"J": np.array([g.loss], twin.dtype), **{name: np.asarray(array) for name, array in named}}


def _trained(
    twin: Network, X: NDArray[Any], y: NDArray[Any], w: Any, options: dict[str, Any], first: Found | None = None
) -> Found:
    """Trains, and returns the final parameters and the loss of every epoch, on the host.

    If training diverges, although it did not on the first device, all results are NaN.
    """
    try:
        with warnings.catch_warnings():
            # What matters here is whether devices agree, not whether the training is any good.
            warnings.simplefilter("ignore", ConvergenceWarning)
            history = twin.fit(X, y, sample_weight=w, progress=False, **options)
    except DivergenceError:
        if first is None:
            raise
        return {name: np.full_like(array, np.nan) for name, array in first.items()}
    named = [*_numbered("W", twin.weights), *_numbered("b", twin.biases)]
    found = {f"{name} trained": np.array(twin.model.backend.download(array)) for name, array in named}
    return {**found, "J by epoch": np.array(history["loss"], twin.dtype)}


def _on_both_sides(twin: Network, passes: Sequence[Found], y: NDArray[Any]) -> NDArray[np.bool]:
    """For each sample, whether any z or h − y is on different sides of a kink in different runs."""
    dense = [layer for layer in twin.layers if isinstance(layer, Dense)]
    places = [(name, kink) for name, layer in _numbered("z", dense) for kink in layer.f.kinks]
    # A loss with kinks is a regression loss: targets have the shape of the outputs, or are a single column.
    target = y.reshape(len(y), -1)
    places += [(f"a{len(dense)}", kink + target) for kink in twin.loss_function.kinks]
    crossed = np.zeros(len(y), np.bool)
    for name, kink in places:
        first, *others = (np.sign(found[name] - kink) for found in passes)
        crossed |= np.any([side != first for side in others], axis=(0, 2))
    return crossed


def _row(stage: str, name: str, device: str, p: NDArray[Any], q: NDArray[Any], bound: float, lost: float) -> ParityRow:
    x, y = p.astype(np.float64).ravel(), q.astype(np.float64).ravel()
    with np.errstate(all="ignore"):
        difference = np.abs(x - y)
        ulp = difference / np.spacing(np.maximum(np.abs(p), np.abs(q))).ravel()
        lengths = np.linalg.norm(x) * np.linalg.norm(y)
        cosine = min(1.0, float(x @ y / lengths)) if lengths > 0 else float(np.array_equal(x, y))
    relative = relative_error(p, q)
    return ParityRow(
        stage, name, device, tuple(p.shape), float(difference.max()), relative, float(ulp.max()), cosine, bound,
        # A bound that is not finite is no bound: the run in float64 has failed.
        passed=(relative <= bound and math.isfinite(bound)) or bool(difference.max() <= lost),
    )  # fmt: skip
