"""Layers: how each computes, and how delta goes back through it; forward and backward side by side.

A layer describes itself (sizes, activation, initializer) and is connected to a batch by `Layer.connect`, which records
the forward pass and returns a `Node`: the buffers of this layer in this executor, and its backward pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from nnbp.errors import DataError, ShapeError
from nnbp.graph.backend import Backend
from nnbp.graph.builder import Builder
from nnbp.graph.ops import Array, RandomStream, Reduce, Uniform
from nnbp.nn import activations, initializers
from nnbp.nn.activations import Activation
from nnbp.nn.initializers import Initializer
from nnbp.nn.moments import Moments
from nnbp.nn.parameters import ParameterSpec
from nnbp.registry import Named
from nnbp.validation import LARGEST_SIZE, items, number, whole_number

Views = Mapping[str, Array]
Statistics = dict[str, NDArray[Any]]


class Node(ABC):
    """A layer in one executor: ``a`` is its output (n_out, m); `backward` takes ∂C/∂a and returns ∂C/∂x, or None."""

    a: Array

    @abstractmethod
    def backward(self, op: Builder, da: Array, *, want_dx: bool) -> Array | None:
        """Records the backward pass; da may be overwritten."""

    def per_sample(self, xp: Any, out: Views) -> None:  # noqa: B027
        """Writes what each sample contributes to the gradient, (m, *shape) by name, after the backward pass."""


class ActivatedNode(Node):
    """A node that ends in a = f(z), and has delta = ∂C/∂z, or ∂C/∂(z + b), after the backward pass."""

    f: Activation
    z: Array
    delta: Array | None


class Layer(Named, ABC, kind="layer", attribute="kind"):
    """What all layers have: a closed set of subclasses, by `kind`, that model files may hold."""

    kind: ClassVar[str]

    activation: Activation | None = None

    least_batch: ClassVar[int] = 1
    """The least batch size that training the layer makes sense with."""

    observes_inputs: ClassVar[bool] = False
    """Whether the layer takes statistics from the inputs at the first fit; only the first layer of a network can."""

    @abstractmethod
    def outputs(self, n_in: int) -> int:
        """Number of outputs for this number of inputs."""

    def parameters(self, n_in: int) -> list[ParameterSpec]:
        """What the layer learns."""
        return []

    def initial(self, rng: np.random.Generator, n_in: int) -> dict[str, NDArray[Any]]:
        """Initial values of the parameters, float64, on the host."""
        return {}

    def statistics(self, n_in: int) -> Statistics:
        """Arrays that the layer does not learn and that are part of the model: their initial values, on the host."""
        return {}

    def observed(self, inputs: Moments) -> Statistics:
        """The statistics from the moments of the inputs of the first fit, if the layer `observes_inputs`."""
        return {}

    def check_statistics(self, statistics: Statistics) -> None:
        """Raises DataError if these cannot be the arrays of the layer that are not learnt."""

    def input_dtype(self, given: np.dtype[Any], dtype: np.dtype[Any]) -> np.dtype[Any]:
        """The dtype in which the layer, if it is the first one, reads X of a given dtype; `dtype` is the network's."""
        return dtype

    def stream(self, backend: Backend, key: tuple[int, int]) -> RandomStream | None:
        """The random numbers that the layer needs in training."""
        return None

    @abstractmethod
    def connect(
        self, op: Builder, x: Array, theta: Views, gradient: Views, stream: RandomStream | None, *, keep_z: bool
    ) -> Node:
        """Records the forward pass on x (n_in, m).

        Args:
            op: the recorder of the executor.
            x: the input.
            theta: the layer's parameters and statistics by name.
            gradient: where their gradients go.
            stream: the layer's random numbers.
            keep_z: whether z has to stay in memory beside a.
        """

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The arguments that make an equal layer, as JSON values."""


@final
class Dense(Layer):
    """z = W x + b, a = f(z).

    Args:
        units: n_out, the number of units.
        activation: f, by name or as an object; None leaves it to the network (the loss's choice for the last layer, the
            network's activation for the others).
        initializer: of W and b, by name or as an object; None leaves it to the activation. b starts at 0, unless the
            initializer draws it.
    """

    kind = "dense"

    def __init__(
        self, units: int, activation: str | Activation | None = None, *, initializer: str | Initializer | None = None
    ) -> None:
        self.units = whole_number("The number of units of a Dense layer", units, 1, LARGEST_SIZE)
        self.activation = None if activation is None else activations.get(activation)
        self.initializer = None if initializer is None else initializers.get(initializer)

    def with_activation(self, activation: Activation) -> Dense:
        """This layer with the activation that it left open, or itself."""
        return self if self.activation is not None else Dense(self.units, activation, initializer=self.initializer)

    @property
    def f(self) -> Activation:
        """The activation, once it is decided."""
        assert self.activation is not None, "a network decides the activations of its layers before it connects them"
        return self.activation

    def outputs(self, n_in: int) -> int:
        return self.units

    def parameters(self, n_in: int) -> list[ParameterSpec]:
        return [ParameterSpec("W", (self.units, n_in), True), ParameterSpec("b", (self.units,), False)]

    def initial(self, rng: np.random.Generator, n_in: int) -> dict[str, NDArray[Any]]:
        initializer = self.initializer or initializers.get(self.f.initializer)
        shape = self.units, n_in
        return {"W": initializer.sample(rng, shape), "b": initializer.sample_biases(rng, shape)}

    def connect(
        self, op: Builder, x: Array, theta: Views, gradient: Views, stream: RandomStream | None, *, keep_z: bool
    ) -> DenseNode:
        return DenseNode(self, op, x, theta, gradient, keep_z=keep_z)

    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = {"units": self.units}
        if self.activation is not None:
            config["activation"] = named(self.activation)
        if self.initializer is not None:
            config["initializer"] = self.initializer.name
        return config

    def __repr__(self) -> str:
        chosen = [repr(item) for item in (self.activation, self.initializer) if item is not None]
        return f"Dense({', '.join([str(self.units), *chosen])})"


class DenseNode(ActivatedNode):
    """A Dense layer in one executor, in the letters of docs/notes.md: z, a, delta = ∂C/∂z.

    `rows` are those that `Activation.forward` returned.
    """

    def __init__(self, layer: Dense, op: Builder, x: Array, theta: Views, gradient: Views, *, keep_z: bool) -> None:
        self.f, self.x, self.W, self.gradient = layer.f, x, theta["W"], gradient
        self.a = op.empty(layer.units)
        self.z = op.empty(layer.units) if keep_z or self.f.needs_z else self.a
        self.delta = None
        op.gemm(self.W, x, self.z)
        self.rows = self.f.forward(op, self.z, theta["b"].reshape(-1, 1), self.a)

    def backward(self, op: Builder, da: Array, *, want_dx: bool) -> Array | None:
        """Hidden layer, the second case of docs/notes.md, 3.2: delta = f'(z) · ∂C/∂a."""
        return self.propagate(op, self.f.backward(op, self.z, self.a, da), want_dx=want_dx)

    def propagate(self, op: Builder, delta: Array, *, want_dx: bool) -> Array | None:
        """From delta: ∂C/∂W = delta xᵀ, ∂C/∂b = Σ delta, ∂C/∂x = Wᵀ delta."""
        self.delta = delta
        op.gemm(delta, self.x.T, self.gradient["W"])
        op.record(Reduce("sum", delta, 1, self.gradient["b"].reshape(-1, 1)))
        return op.gemm(self.W.T, delta, op.empty(self.W.shape[1])) if want_dx else None

    def per_sample(self, xp: Any, out: Views) -> None:
        """delta xᵀ and delta of each sample."""
        assert self.delta is not None, "the backward pass has run"
        xp.multiply(self.delta.T[:, :, None], self.x.T[:, None, :], out=out["W"])
        out["b"][...] = self.delta.T


@final
class Dropout(Layer):
    """In training, each input becomes 0 with probability `rate`, else x / (1 − rate); otherwise nothing happens.

    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014 (there the scaling is
    done at test time). Masks use the rate rounded to a multiple of 2⁻²⁴, the grid of the random numbers, so that they
    are the same in every dtype and on every device.
    """

    kind = "dropout"

    def __init__(self, rate: float = 0.5) -> None:
        self.rate = number("The rate of Dropout, the share of inputs to drop,", rate, "[0, 1)")

    def outputs(self, n_in: int) -> int:
        return n_in

    def stream(self, backend: Backend, key: tuple[int, int]) -> RandomStream | None:
        return backend.random_stream(key)

    def connect(
        self, op: Builder, x: Array, theta: Views, gradient: Views, stream: RandomStream | None, *, keep_z: bool
    ) -> Node:
        return DropoutNode(op, x, self.rate, stream) if op.training and self.rate > 0 else IdentityNode(x)

    def config(self) -> dict[str, Any]:
        return {"rate": self.rate}


class DropoutNode(Node):
    """A Dropout layer in training: the uniform numbers are kept, so that the backward pass uses the same mask."""

    def __init__(self, op: Builder, x: Array, rate: float, stream: RandomStream | None) -> None:
        self.rate = min(round(rate * 2**24), 2**24 - 1) / 2**24
        self.scale = 1.0 / (1.0 - self.rate)
        assert stream is not None, "a layer that drops has a stream"
        self.u = op.record(Uniform(stream, op.empty(x.shape[0], dtype=np.float32), *op.place))
        self.a = op.empty(x.shape[0])
        self._mask(op, x, self.a)

    def backward(self, op: Builder, da: Array, *, want_dx: bool) -> Array | None:
        self._mask(op, da, da)
        return da

    def _mask(self, op: Builder, x: Array, out: Array) -> None:
        op.map(lambda x, u: x * self.scale * (u >= self.rate), [out], x=x, u=self.u)


@final
class Standardize(Layer):
    """a = (x − mean) / deviation, feature by feature; 0 for a feature that was constant. The first layer of a network.

    Mean and deviation, √(Σ w (x − mean)² / Σ w), are those of the training data of the first fit or `partial_fit`, in
    which a sample of weight w, by sample and class weights, counts like w samples. From then on they are part of the
    model and stay the same.

    The layer subtracts in float64 and rounds afterwards. X is kept in float64 for it, unless the network's dtype holds
    every number of X's dtype.
    """

    kind = "standardize"
    observes_inputs = True

    def outputs(self, n_in: int) -> int:
        return n_in

    def statistics(self, n_in: int) -> Statistics:
        return {"mean": np.full(n_in, np.nan), "deviation": np.full(n_in, np.nan)}

    def observed(self, inputs: Moments) -> Statistics:
        """Mean and deviation, which is 0 for features that are constant up to rounding."""
        mean, square, total = inputs
        deviation = np.sqrt(square / total)
        deviation[is_constant(mean, deviation)] = 0.0
        found = {"mean": mean, "deviation": deviation}
        self.check_statistics(found)
        return found

    def check_statistics(self, statistics: Statistics) -> None:
        deviation = statistics["deviation"]
        if not (np.isfinite(deviation).all() and deviation.min() >= 0 and deviation.any()):
            raise DataError(
                "Standardize divides by the deviation of each feature, which is finite, at least 0, and above 0 for "
                f"one feature at least; received deviations from {deviation.min()} to {deviation.max()}. Begin with "
                "samples that differ, of a size whose square is a number."
            )

    def input_dtype(self, given: np.dtype[Any], dtype: np.dtype[Any]) -> np.dtype[Any]:
        return dtype if np.can_cast(given, dtype) else np.dtype(np.float64)

    def connect(
        self, op: Builder, x: Array, theta: Views, gradient: Views, stream: RandomStream | None, *, keep_z: bool
    ) -> StandardizeNode:
        return StandardizeNode(op, x, theta["mean"], theta["deviation"])

    def config(self) -> dict[str, Any]:
        return {}


class StandardizeNode(Node):
    """A Standardize layer in one executor; it works on X as it lies in memory, (m, n)."""

    def __init__(self, op: Builder, x: Array, mean: Array, deviation: Array) -> None:
        self.deviation = deviation
        x, mean, deviation = x.T, mean.reshape(1, -1), deviation.reshape(1, -1)
        m, n = x.shape
        wide = op.empty(m, n, np.float64)
        op.map(lambda x, mean, s: (x - mean) * _inverse(s), [wide], x=x, mean=mean, s=deviation)
        if op.dtype == np.float64:
            self.a = wide.T
            return
        rounded = op.empty(m, n)
        op.map(lambda a: a, [rounded], a=wide)
        self.a = rounded.T

    def backward(self, op: Builder, da: Array, *, want_dx: bool) -> Array | None:
        """∂C/∂x = ∂C/∂a / deviation."""
        op.map(lambda da, s: da * _inverse(s), [da], da=da, s=self.deviation.reshape(-1, 1))
        return da


def is_constant(mean: Any, deviation: Any) -> Any:
    """Whether numbers of this mean and deviation are all the same, but for rounding errors of the mean."""
    return deviation <= 4 * np.spacing(np.abs(mean))


def _inverse(deviation: Any) -> Any:
    """1 / deviation, and 0 for a constant feature."""
    return np.where(deviation > 0.0, 1.0 / deviation, 0.0)


@final
class OneHot(Layer):
    """a = x for an input that is a quantity; K outputs for an input that is a category, 1 at its index and 0 elsewhere.

    It keeps a table with many categories small: of its rows, only those of a batch become wide. An input that is none
    of 0, 1, …, K − 1, such as −1, gives K zeros.

    Args:
        categories: K for each input, and 0 for a quantity.
    """

    kind = "one_hot"

    def __init__(self, categories: Sequence[int]) -> None:
        what = "The number of categories of an input of OneHot, 0 for a quantity,"
        counts = items("categories", categories, "a list of numbers, one for each input")
        self.categories = [whole_number(what, count, 0, LARGEST_SIZE) for count in counts]

    def outputs(self, n_in: int) -> int:
        if n_in != len(self.categories):
            raise ShapeError(
                f"OneHot has one number of categories for each input; received {len(self.categories)} numbers for "
                f"{n_in} inputs. Give 0 for an input that is a quantity."
            )
        return sum(max(1, count) for count in self.categories)

    def connect(
        self, op: Builder, x: Array, theta: Views, gradient: Views, stream: RandomStream | None, *, keep_z: bool
    ) -> OneHotNode:
        return OneHotNode(op, x, self.categories)

    def config(self) -> dict[str, Any]:
        return {"categories": [*self.categories]}

    def __repr__(self) -> str:
        return f"OneHot({self.categories})"


class OneHotNode(Node):
    """A OneHot layer in one executor."""

    def __init__(self, op: Builder, x: Array, categories: Sequence[int]) -> None:
        first = [0, *accumulate(max(1, count) for count in categories)]
        self.a, self.shape = op.empty(first[-1]), x.shape
        self.quantities: list[tuple[slice, slice]] = []
        """Rows of x, and the rows of a that are the same."""
        for is_quantity, group in groupby(range(len(categories)), lambda row: not categories[row]):
            rows = list(group)
            if is_quantity:
                own, of_a = slice(rows[0], rows[-1] + 1), slice(first[rows[0]], first[rows[-1] + 1])
                op.map(lambda x: x, [self.a[of_a]], x=x[own])
                self.quantities.append((own, of_a))
                continue
            for row in rows:
                known = op.constant(np.arange(categories[row])[:, None])
                op.map(lambda x, k: (x == k) * 1.0, [self.a[first[row] : first[row + 1]]], x=x[row : row + 1], k=known)

    def backward(self, op: Builder, da: Array, *, want_dx: bool) -> Array | None:
        """∂C/∂x = ∂C/∂a for a quantity, and 0 for a category."""
        if not want_dx:
            return None
        dx = op.constant(np.zeros(self.shape))
        for own, of_a in self.quantities:
            op.map(lambda da: da, [dx[own]], da=da[of_a])
        return dx


class IdentityNode(Node):
    """A layer that does nothing in this executor."""

    def __init__(self, x: Array) -> None:
        self.a = x

    def backward(self, op: Builder, da: Array, *, want_dx: bool) -> Array | None:
        return da


def named(item: Any) -> dict[str, Any]:
    """An activation or a loss as JSON values: its name and its arguments."""
    return {"name": item.name, **item.config()}
