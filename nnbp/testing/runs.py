"""The results of a network on one device for one problem: the arrays that parity, records and isolation compare.

They have the names of the notes: z1, a1, J, delta1, dW1, db1, …, dX for a forward and a backward pass, and "W1
trained", "b1 trained", …, "J by epoch" for some updates. delta is ∂J/∂z and dX is ∂J/∂x; each sample has its share of
J. A layer has the same number as its arrays in a model file.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nnbp.device.select import open_backend
from nnbp.engine.executor import Batch, Executor
from nnbp.engine.model import Model
from nnbp.engine.passes import Passes
from nnbp.errors import ConvergenceWarning, DivergenceError
from nnbp.graph.ops import Array, Foreign, Operation, overlap
from nnbp.network import Network
from nnbp.nn.activations import Activation
from nnbp.optim import optimizers
from nnbp.optim.lbfgs import LBFGS
from nnbp.optim.optimizers import Optimizer
from nnbp.validation import host, matrix, sample_weights, whole_number

Found = dict[str, NDArray[Any]]
"""Arrays on the host by name; arrays with a row per sample are (m, n)."""

BY_SAMPLE = ("z", "a", "delta", "dX")
"""Prefixes of the names of arrays that are not sums over the samples."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Data and updates that are the same on every device.

    Attributes:
        X: (m, n_in) in the network's dtype, on the host.
        y: targets on the host.
        w: (m,) or None.
        rule: the optimizer.
        learning_rate: η, or None for the optimizer's default.
        epochs, batch_size: of the training.
    """

    X: NDArray[Any]
    y: NDArray[Any]
    w: NDArray[np.float64] | None
    rule: Optimizer
    learning_rate: float | None
    epochs: int
    batch_size: int

    @classmethod
    def of(
        cls,
        net: Network,
        X: Any,
        y: Any,
        sample_weight: Any,
        *,
        steps: int = 10,
        optimizer: str | Optimizer = "adam",
        learning_rate: float | None = None,
        batch_size: int | None = None,
    ) -> Self:
        """The problem for these arguments, which are checked; they are those of `compare_devices`."""
        steps = whole_number("steps", steps, 1)
        rule = copy(optimizers.get(optimizer))
        if isinstance(rule, LBFGS):
            # One of its steps makes many updates, and rounding errors grow with each of them.
            rule.max_iter = min(rule.max_iter, steps)
        X, y = host(X, "X"), host(y, "y", classes=net.loss_function.classification)
        with np.errstate(over="ignore"):
            X = np.asarray(matrix(open_backend("cpu"), X, net.dtype, None), net.dtype)
            y = y.astype(net.dtype) if y.dtype.kind == "f" else y
        epochs, size = _epochs(len(X), steps, batch_size, rule)
        return cls(X, y, sample_weights(sample_weight, len(X)), rule, learning_rate, epochs, size)

    @property
    def updates(self) -> int:
        """Number of updates."""
        per_epoch = self.rule.max_iter if isinstance(self.rule, LBFGS) else -(-len(self.X) // self.batch_size)
        return self.epochs * per_epoch

    def computed(self, net: Network) -> Found:
        """A forward and a backward pass of a network."""
        data, model = net.prepare(self.X, self.y, self.w), net.model
        with model.backend.active():
            passes, download = Passes(model), model.backend.download
            trace, g = passes.trace(data.X, download), passes.gradients(data, download, own_cost=False)
        layers = [number for number, _ in activated(model)]
        found: dict[str, Any] = {}
        for number, z, a in zip(layers, trace.z[1:], trace.a[1:], strict=True):
            found |= {f"z{number}": z, f"a{number}": a}
        found["J"] = np.array([g.loss], net.dtype)
        # In the order in which backpropagation computes them.
        found |= {f"delta{number}": delta for number, delta in zip(layers[::-1], g.delta[::-1], strict=True)}
        found |= {f"d{name}": array for name, array in named(model, g.flat)}
        return {name: np.array(array) for name, array in {**found, "dX": g.dX}.items()}

    def trained(self, net: Network, *, may_diverge: bool) -> Found:
        """Trains a network; returns its parameters after training, and J by epoch.

        If training diverges, all are NaN if it may diverge; otherwise it is an error.
        """
        parameters = net.model.parameters.values
        try:
            with warnings.catch_warnings():
                # The comparison asks whether devices agree, not whether training converges.
                warnings.simplefilter("ignore", ConvergenceWarning)
                history = net.fit(
                    self.X, self.y, sample_weight=self.w, optimizer=copy(self.rule), learning_rate=self.learning_rate,
                    epochs=self.epochs, batch_size=self.batch_size, progress=False,
                )  # fmt: skip
            J, values = history["loss"], np.asarray(net.model.backend.download(parameters))
        except DivergenceError:
            if not may_diverge:
                raise
            J, values = [math.nan] * self.epochs, np.full(parameters.shape, np.nan, net.dtype)
        found = {f"{name} trained": np.array(array) for name, array in named(net.model, values)}
        return {**found, "J by epoch": np.array(J, net.dtype)}


def _epochs(samples: int, steps: int, batch_size: int | None, rule: Optimizer) -> tuple[int, int]:
    """Number of epochs, and samples per batch."""
    size = samples if batch_size is None else min(whole_number("batch_size", batch_size, 1), samples)
    if isinstance(rule, LBFGS):
        return -(-steps // rule.max_iter), samples
    if rule.full_batch:
        return steps, samples
    if batch_size is None:
        # Up to 5 batches per epoch, so that `steps` is a whole number of epochs if possible; never one batch, because
        # shuffling would not show.
        most = min(5, samples, steps)
        counts = [count for count in range(most, 1, -1) if steps % count == 0]
        whole = (-(-samples // count) for count in counts if -(-samples // -(-samples // count)) == count)
        size = next(whole, -(-samples // most))
    return -(-steps // -(-samples // size)), size


def numbers(model: Model) -> list[int]:
    """The number of each layer; layers with parameters or an activation are counted from 1."""
    pairs = zip(model.parameters.specs, model.layers, strict=True)
    return list(accumulate(int(bool(specs) or layer.activation is not None) for specs, layer in pairs))


def activated(model: Model) -> list[tuple[int, Activation]]:
    """Number and activation of each layer that has one."""
    counts = numbers(model)
    return [(counts[k], f) for k in model.activated if (f := model.layers[k].activation) is not None]


def named(model: Model, vector: Array) -> Iterator[tuple[str, Array]]:
    """Names and views of the arrays in a flat vector: all W, then all b, and so on, as in `Network.parameters`."""
    views = zip(numbers(model), model.parameters.views(vector), strict=True)
    found = [(f"{name}{number}", name, array) for number, own in views for name, array in own.items()]
    order = list(dict.fromkeys(name for _, name, _ in found))
    return ((label, array) for label, name, array in sorted(found, key=lambda item: order.index(item[1])))


# ---- isolation


def isolated(net: Network, problem: Problem, found: Found, counted: NDArray[Any] | None = None) -> Found:
    """The results of each layer by itself, computed from the arrays that another run has found.

    z of a layer is computed from the found a of the previous layer; a from the found z; J and the last delta from the
    found h; the other deltas from the found delta of the next layer; and the gradients from the found a and delta. So a
    fault in one layer shows only in the results of this layer, not in all that follow.

    Args:
        net: the same network on the CPU; its arithmetic is used.
        problem: of the run.
        found: the arrays of the run's pass.
        counted: (m,), a factor for the delta of each sample; None is 1.
    """
    model = net.model
    data = net.prepare(problem.X, problem.y, problem.w)
    result: Found = {}

    def replaced(array: Array, name: str, f: Activation | None = None) -> None:
        """Keeps the computed array, and replaces it by the found one."""
        if f is not None:
            # One operation may have computed both z and a, and so a from the computed z, not from the found one.
            array[...] = f.f(found[f"z{name[1:]}"].astype(array.dtype)).T
        result[name] = array.T.copy()
        array[...] = found[name].T
        if counted is not None and name.startswith("delta"):
            array[...] *= counted

    with model.backend.active():
        executor = Executor(model, Batch(data.X, data.y, data.w), gradients=True, keep_z=True, want_dx=True)
        nodes: list[Any] = [executor.nodes[k] for k in model.activated]
        forward, backward = list(executor.forward), list(executor.backward)
        for (number, f), node in zip(activated(model), nodes, strict=True):
            _after(forward, node.z, Foreign(replaced, (node.z, f"z{number}")))
            _after(forward, node.a, Foreign(replaced, (node.a, f"a{number}", f)))
            _after(backward, node.delta, Foreign(replaced, (node.delta, f"delta{number}")))
        model.backend.compile(forward)()
        model.backend.compile(backward)()
        result["J"] = np.array([model.objective(float(executor.total[0, 0]), data.weight)], model.dtype)
        result |= {f"d{name}": np.array(array) for name, array in named(model, model.parameters.gradient)}
        assert executor.dx is not None, "want_dx is set"
        result["dX"] = executor.dx.T.copy()
    return {name: result[name] for name in found}


def _after(operations: list[Operation], array: Array, added: Operation) -> None:
    """Inserts an operation after the last one that writes to an array."""
    last = max(k for k, operation in enumerate(operations) if any(overlap(array, out) for out in operation.writes))
    operations.insert(last + 1, added)
