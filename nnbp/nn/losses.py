"""Loss functions: C(h, y) of one sample, and its derivative.

An elementwise loss is one class with `cost` in NumPy code, which is traced and compiled for the device; C is the sum
over the outputs. The derivative `dcost` follows from the formula, unless the class gives one. The losses that have a
canonical output activation (identity, sigmoid, softmax, exponential) are computed from z, where the derivative is
∂C/∂z = h − y and nothing overflows.

>>> class LogCosh(Loss):
...     name = "log_cosh"
...
...     def cost(self, h, y):
...         return np.abs(h - y) + np.log1p(np.exp(-2.0 * np.abs(h - y))) - np.log(2.0)
>>> print(f"{LogCosh().dcost(1.0, 0.0):.12f} {np.tanh(1.0):.12f}")
0.761594155956 0.761594155956
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from nnbp.errors import ShapeError
from nnbp.graph.builder import Builder
from nnbp.graph.derivative import derivative
from nnbp.graph.ops import Array, Reduce
from nnbp.nn.activations import Activation
from nnbp.registry import Named
from nnbp.validation import number, refuse


@dataclass(frozen=True, eq=False)
class Output:
    """What a loss sees of the output layer: f, z and h = f(z), (outputs, m), and the rows that f found on the way."""

    f: Activation
    z: Array
    h: Array
    rows: tuple[Array, ...]


class Loss(Named, kind="loss"):
    """The cost C(h, y) of a sample: elementwise, summed over the outputs.

    Subclasses give `name` and `cost`, and `dcost` if they know a better formula than the derived one. A loss with a
    canonical activation gives `cost_z` as well.
    """

    name: ClassVar[str]

    output_activation: ClassVar[str] = "identity"
    """Activation of the output layer unless the user gives one."""

    requires: ClassVar[str | None] = None
    """The only output activation that the loss can be used with, if there is such a one."""

    classification: ClassVar[bool] = False
    """Whether targets are classes."""

    sums_squares: ClassVar[bool] = False
    """Whether C = ½ ‖h − y‖²."""

    kinks: ClassVar[tuple[float, ...]] = ()
    """Values of h − y at which the derivative jumps; gradient checks name them."""

    def cost(self, h: Any, y: Any) -> Any:
        """The term of one output: C = Σ cost(h, y)."""
        raise NotImplementedError(
            f"{type(self).__name__} has no formula: define cost(self, h, y), one output's term of C."
        )

    def dcost(self, h: Any, y: Any) -> Any:
        """∂cost/∂h; by default derived from `cost`."""
        return derivative(self.cost, h, y)

    def cost_z(self, z: Any, y: Any) -> Any:
        """The same term from z, if the output activation is `output_activation`; by default not used.

        A loss that gives it says that ∂C/∂z = h − y there, and delta is computed so.
        """
        return None

    def is_canonical(self, activation: Activation) -> bool:
        """Whether with this output activation C is computed from z by `cost_z`, and ∂C/∂z = h − y."""
        canonical = Activation.registry.get(self.output_activation)
        return type(self).cost_z is not Loss.cost_z and type(activation) is canonical

    def encode(self, y: NDArray[Any], outputs: int) -> NDArray[Any]:
        """Checks host targets and returns them as the step wants them: (m, outputs).

        Args:
            y: (m,) or (m, outputs) numbers.
            outputs: size of the output layer.

        Raises:
            ShapeError: the shape does not fit the output layer.
            DataError: values outside of the loss's domain.
        """
        columns = y.reshape(len(y), -1)
        if y.ndim > 2 or columns.shape[1] != outputs:
            raise ShapeError(
                f"Targets of {self.name} have one value per output: (m,) or (m, {outputs}) here; received shape "
                f"{y.shape}. Change the size of the output layer ({outputs}), or the targets."
            )
        return columns

    def truth(self, y: NDArray[Any]) -> NDArray[Any]:
        """Host targets as metrics want them: (m,) if there is one column."""
        return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y

    def decide(self, xp: Any, h: Array) -> Array:
        """What `predict` gives for outputs h (m, n_out): values, (m,) if there is one output."""
        return h[:, 0] if h.shape[1] == 1 else h

    def probabilities(self, xp: Any, h: Array) -> Array:
        """What `predict_proba` gives for outputs h (m, n_out)."""
        raise TypeError(
            f"Probabilities belong to classes; the loss {self.name} is for values. Use predict, or train with "
            "loss='cross_entropy'."
        )

    def constants(self, y: NDArray[Any], weights: NDArray[Any] | None) -> Sequence[NDArray[Any]]:
        """Constant predictions of which one is about the best, each (outputs,); arguments as for `bounds`."""
        return np.average(y, axis=0, weights=weights), _quantile(y, 0.5, weights)

    def bounds(self, y: NDArray[Any], weights: NDArray[Any] | None) -> tuple[float, float]:
        """Mean C of perfect predictions, and of the best constant one.

        Args:
            y: (m, columns), encoded targets on the host.
            weights: (m,), or None for equal ones.
        """
        y = y.astype(np.float64)
        with np.errstate(all="ignore"):
            # A cost may contain 0 ln 0, which is 0.
            costs = [np.nan_to_num(self.cost(h, y)).sum(1) for h in (y, *self.constants(y, weights))]
        perfect, *constant = (float(np.average(cost, weights=weights)) for cost in costs)
        return perfect, min(constant)

    def record_cost(self, op: Builder, out: Output, y: Array, cost: Array) -> None:
        """Records C of every sample; y (outputs, m), cost (1, m)."""
        terms = cost if out.z.shape[0] == 1 else op.empty(out.z.shape[0])
        if self.is_canonical(out.f):
            op.map(self.cost_z, [terms], z=out.z, y=y)
        else:
            op.map(self.cost, [terms], h=out.h, y=y)
        if terms is not cost:
            op.record(Reduce("sum", terms, 0, cost))

    def record_delta(self, op: Builder, out: Output, y: Array, c: Array) -> Array:
        """Records delta = c · ∂C/∂z of the output layer and returns it.

        Args:
            op, out, y: as for `record_cost`.
            c: each sample's share of the mean, (1, m), or (1, 1) if all are the same.
        """
        delta = op.empty(out.z.shape[0])
        if self.is_canonical(out.f):
            op.map(lambda h, y, c: (h - y) * c, [delta], h=out.h, y=y, c=c)
            return delta
        op.map(lambda h, y, c: self.dcost(h, y) * c, [delta], h=out.h, y=y, c=c)
        return out.f.backward(op, out.z, out.h, delta)

    def record_targets(self, op: Builder, y: Array, outputs: int) -> Array:
        """Records what makes (outputs, m) targets of the encoded ones, (columns, m)."""
        return y


@final
class SquaredError(Loss):
    """C = ½ ‖h − y‖²; ∂C/∂h = h − y (docs/notes.md, 3.1)."""

    name = "squared_error"
    sums_squares = True
    aliases = ("mse", "mean_squared_error", "mse_loss", "l2", "l2_loss")

    def cost(self, h: Any, y: Any) -> Any:
        return 0.5 * np.square(h - y)

    def dcost(self, h: Any, y: Any) -> Any:
        return h - y


@final
class AbsoluteError(Loss):
    """C = Σ |h − y|; ∂C/∂h = sign(h − y)."""

    name = "absolute_error"
    aliases = ("mae", "mean_absolute_error", "l1", "l1_loss")
    kinks = (0.0,)

    def cost(self, h: Any, y: Any) -> Any:
        return np.abs(h - y)

    def dcost(self, h: Any, y: Any) -> Any:
        return np.sign(h - y)


@final
class Huber(Loss):
    """C = Σ ½ r² if |r| <= d, else d (|r| − d/2), with r = h − y; ∂C/∂h = r clipped to [−d, d].

    Huber, "Robust estimation of a location parameter", 1964.
    """

    name = "huber"
    aliases = ("huber_loss", "smooth_l1", "smooth_l1_loss")

    def __init__(self, threshold: float = 1.0) -> None:
        self.threshold = number("The threshold of huber", threshold, "(0, inf)")

    def cost(self, h: Any, y: Any) -> Any:
        r = np.abs(h - y)
        inner = np.minimum(r, self.threshold)
        return inner * (r - 0.5 * inner)

    def dcost(self, h: Any, y: Any) -> Any:
        return np.minimum(np.maximum(h - y, -self.threshold), self.threshold)


@final
class Quantile(Loss):
    """C = Σ max(q (y − h), (q − 1)(y − h)): its minimum is the q-quantile; ∂C/∂h = (1 − q) if h > y, −q if h < y.

    Koenker and Bassett, "Regression quantiles", 1978. At h = y, where it has a kink, the derivative is taken as 0.
    """

    name = "quantile"
    aliases = ("quantile_loss", "pinball", "pinball_loss")
    kinks = (0.0,)

    def __init__(self, q: float = 0.5) -> None:
        self.q = number("The quantile q", q, "(0, 1)")

    def constants(self, y: NDArray[Any], weights: NDArray[Any] | None) -> Sequence[NDArray[Any]]:
        return (_quantile(y, self.q, weights),)

    def cost(self, h: Any, y: Any) -> Any:
        r = y - h
        return np.maximum(self.q * r, (self.q - 1.0) * r)

    def dcost(self, h: Any, y: Any) -> Any:
        return (1.0 - self.q) * (h > y) - self.q * (h < y)


@final
class Poisson(Loss):
    """C = Σ h − y ln h, the Poisson deviance but for terms of y alone; if h = eᶻ, C = eᶻ − y z, ∂C/∂z = h − y."""

    name = "poisson"
    aliases = ("poisson_loss", "poisson_nll", "poisson_nll_loss")
    output_activation = "exponential"

    def cost(self, h: Any, y: Any) -> Any:
        return h - y * np.log(h)

    def dcost(self, h: Any, y: Any) -> Any:
        return 1.0 - y / h

    def cost_z(self, z: Any, y: Any) -> Any:
        return np.exp(z) - y * z

    def encode(self, y: NDArray[Any], outputs: int) -> NDArray[Any]:
        columns = super().encode(y, outputs)
        refuse(f"Targets of {self.name} are counts, at least 0", columns, columns < 0, "Use loss='squared_error'.")
        return columns


@final
class BinaryCrossEntropy(Loss):
    """C = −Σ y ln h + (1 − y) ln(1 − h), h = σ(z); from z: max(z, 0) − z y + ln(1 + e^−|z|), and ∂C/∂z = h − y."""

    name = "binary_cross_entropy"
    aliases = ("bce", "bce_loss", "bce_with_logits", "bce_with_logits_loss", "logistic")
    output_activation = "sigmoid"
    requires = "sigmoid"
    classification = True

    def cost_z(self, z: Any, y: Any) -> Any:
        return np.maximum(z, 0.0) - z * y + np.log1p(np.exp(-np.abs(z)))

    def bounds(self, y: NDArray[Any], weights: NDArray[Any] | None) -> tuple[float, float]:
        return _entropies(np.stack([y, 1.0 - y], axis=-1), weights)

    def decide(self, xp: Any, h: Array) -> Array:
        """1 if h >= ½: (m,) classes of one output, (m, n_out) labels of several."""
        return super().decide(xp, (h >= 0.5).astype(np.int64))

    def probabilities(self, xp: Any, h: Array) -> Array:
        """(m, 2) for one output, the probabilities of 0 and 1; else h, each output's own probability of 1."""
        return xp.concatenate([1.0 - h, h], axis=1) if h.shape[1] == 1 else h

    def encode(self, y: NDArray[Any], outputs: int) -> NDArray[Any]:
        columns = super().encode(y, outputs)
        refuse(
            "Targets of binary_cross_entropy lie in [0, 1]", columns, (columns < 0) | (columns > 1),
            "Encode the two classes as 0 and 1, or use loss='cross_entropy' for more than two.",
        )  # fmt: skip
        return columns


@final
class CrossEntropy(Loss):
    """C = −Σ yₖ ln hₖ, h = softmax(z); from z: Σ yₖ (ln Σⱼ e^zⱼ − zₖ), and ∂C/∂z = h − y.

    Targets are class indices (m,), or rows (m, classes) that sum to 1.
    """

    name = "cross_entropy"
    aliases = (
        "cross_entropy_loss",
        "categorical_cross_entropy",
        "sparse_categorical_cross_entropy",
        "log_loss",
        "nll",
        "nll_loss",
    )
    output_activation = "softmax"
    requires = "softmax"
    classification = True

    def is_canonical(self, activation: Activation) -> bool:
        return True

    def truth(self, y: NDArray[Any]) -> NDArray[Any]:
        """Class indices (m,), also of one-hot rows."""
        return y.argmax(axis=1) if y.ndim == 2 and y.shape[1] > 1 else super().truth(y)

    def decide(self, xp: Any, h: Array) -> Array:
        """The class of the largest output, (m,)."""
        return h.argmax(axis=1)

    def probabilities(self, xp: Any, h: Array) -> Array:
        """h."""
        return h

    def encode(self, y: NDArray[Any], outputs: int) -> NDArray[Any]:
        if y.ndim == 2 and y.shape[1] == outputs and outputs > 1:
            refuse(
                "Rows of targets of cross_entropy are probabilities, none below 0, with the sum 1", y,
                (np.abs(y.sum(axis=1) - 1) > 1e-3) | (y < 0).any(axis=1),
                "Give one-hot rows, or class indices of shape (m,).",
            )  # fmt: skip
            return y
        if (y.ndim == 2 and y.shape[1] != 1) or y.ndim > 2:
            raise ShapeError(
                f"Targets of cross_entropy are class indices (m,) or rows (m, {outputs}) here; received shape "
                f"{y.shape}."
            )
        labels = y.reshape(len(y), 1)
        refuse(
            f"Class indices are whole numbers from 0 to {outputs - 1}, the size of the output layer less one",
            labels[:, 0], (labels != np.floor(labels)) | (labels < 0) | (labels >= outputs),
            "Number the classes from 0, or give the output layer a unit for every class.",
        )  # fmt: skip
        return labels

    def bounds(self, y: NDArray[Any], weights: NDArray[Any] | None) -> tuple[float, float]:
        if y.shape[1] > 1:
            return _entropies(y, weights)
        # One-hot rows would take memory for every class; each has the entropy 0.
        counts = np.bincount(y[:, 0].astype(np.int64), weights)
        return 0.0, float(_entropy(counts / counts.sum()))

    def record_targets(self, op: Builder, y: Array, outputs: int) -> Array:
        if y.shape[0] == outputs:
            return y
        classes = op.constant(np.arange(outputs).reshape(-1, 1))
        rows = op.empty(outputs)
        op.map(lambda label, k: (label == k) * 1.0, [rows], label=y, k=classes)
        return rows

    def record_cost(self, op: Builder, out: Output, y: Array, cost: Array) -> None:
        largest, total = out.rows
        terms = op.empty(out.z.shape[0])
        op.map(
            lambda z, y, largest, total: y * ((largest - z) + np.log(total)),
            [terms],
            z=out.z, y=y, largest=largest, total=total,
        )  # fmt: skip
        op.record(Reduce("sum", terms, 0, cost))


def _quantile(y: NDArray[Any], q: float, weights: NDArray[Any] | None) -> NDArray[Any]:
    found: NDArray[Any] = np.quantile(y, q, axis=0, weights=weights, method="inverted_cdf")
    return found


def _entropies(p: NDArray[Any], weights: NDArray[Any] | None) -> tuple[float, float]:
    """The mean entropy of the samples, p (m, …), and that of their mean, each summed over the outputs."""
    mean = np.average(p, axis=0, weights=weights)
    each = _entropy(p).reshape(len(p), -1).sum(1)
    return float(np.average(each, weights=weights)), float(_entropy(mean).sum())


def _entropy(p: NDArray[Any]) -> NDArray[Any]:
    """−Σ p ln p over the last axis; 0 ln 0 is 0."""
    found: NDArray[Any] = -(p * np.log(np.where(p > 0, p, 1.0))).sum(-1)
    return found


get = Loss.get
"""The loss of a name, or the object itself; see `Named.get`."""
