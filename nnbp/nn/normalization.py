"""Normalization layers: each gives groups of its inputs mean 0 and variance 1, then scales and shifts them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal, final

import numpy as np
from numpy.typing import NDArray

from nnbp.errors import DataError
from nnbp.graph.builder import Builder
from nnbp.graph.ops import Array, RandomStream, Reduce
from nnbp.nn import activations
from nnbp.nn.activations import Activation
from nnbp.nn.layers import ActivatedNode, Layer, Statistics, Views, named
from nnbp.nn.parameters import ParameterSpec
from nnbp.validation import number


class Normalization(Layer):
    """x̂ = (x − mean) / √(variance + ε), z = gamma · x̂, a = f(z + beta).

    gamma and beta (n,) are learnt, start from 1 and 0, and do not decay.

    Args:
        activation: f, by name or as an object. To normalize between a Dense layer and its activation, give the
            activation here, and "identity" to the Dense layer.
        epsilon: ε, above 0, which keeps the quotient finite.
    """

    activation: Activation

    def __init__(self, activation: str | Activation, epsilon: float) -> None:
        self.activation = activations.get(activation)
        self.epsilon = number(f"epsilon of {type(self).__name__}", epsilon, "(0, inf)")

    def outputs(self, n_in: int) -> int:
        return n_in

    def parameters(self, n_in: int) -> list[ParameterSpec]:
        return [ParameterSpec(name, (n_in,), False) for name in ("gamma", "beta")]

    def initial(self, rng: np.random.Generator, n_in: int) -> dict[str, NDArray[Any]]:
        return {"gamma": np.ones(n_in), "beta": np.zeros(n_in)}

    def config(self) -> dict[str, Any]:
        return {"activation": named(self.activation), "epsilon": self.epsilon}

    @abstractmethod
    def connect(
        self, op: Builder, x: Array, theta: Views, gradient: Views, stream: RandomStream | None, *, keep_z: bool
    ) -> NormalizationNode: ...


@final
class LayerNorm(Normalization):
    """x̂ = (x − mean) / √(variance + ε), a = f(gamma · x̂ + beta), with the mean and variance of each sample's features.

    Ba, Kiros & Hinton, "Layer normalization", 2016; as in `torch.nn.LayerNorm`, the variance is Σ (x − mean)² / n.

    Args:
        activation: f, by name or as an object. To normalize between a Dense layer and its activation, give the
            activation here, and "identity" to the Dense layer.
        epsilon: ε, above 0, which keeps the quotient finite.

    >>> import nnbp
    >>> net = nnbp.Network([nnbp.Dense(32, "identity"), nnbp.LayerNorm("relu"), nnbp.Dense(3)], loss="cross_entropy")
    """

    kind = "layer_norm"

    def __init__(self, activation: str | Activation = "identity", *, epsilon: float = 1e-5) -> None:
        super().__init__(activation, epsilon)

    def connect(
        self, op: Builder, x: Array, theta: Views, gradient: Views, stream: RandomStream | None, *, keep_z: bool
    ) -> NormalizationNode:
        return NormalizationNode(self, op, x, theta, gradient, keep_z=keep_z).standardize(0)


@final
class BatchNorm(Normalization):
    """x̂ = (x − mean) / √(variance + ε), a = f(gamma · x̂ + beta), with the mean and variance of each feature.

    Training uses the statistics of the batch, with the variance Σ (x − mean)² / m, and every step updates the running
    statistics: running ← (1 − momentum) · running + momentum · batch, with the variance Σ (x − mean)² / (m − 1).
    `predict`, `loss`, `gradients` and validation use the running statistics. These belong to the parameters of an
    epoch, and are restored with them. They ignore sample weights.

    Ioffe & Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate shift",
    2015; the definitions are those of `torch.nn.BatchNorm1d`. Deviation: a batch of one sample, such as the last of an
    epoch, changes neither the running statistics nor gamma, and the layer gives f(beta) for it. With LBFGS, whose batch
    is all data, the running statistics are those of the batch, so that J is the same in training and afterwards.

    Args:
        activation: f, by name or as an object. To normalize between a Dense layer and its activation, give the
            activation here, and "identity" to the Dense layer.
        momentum: the share of the last batch in the running mean and variance, above 0 and at most 1.
        epsilon: ε, above 0, which keeps the quotient finite.

    >>> import nnbp
    >>> net = nnbp.Network([nnbp.Dense(32, "identity"), nnbp.BatchNorm("relu"), nnbp.Dense(3)], loss="cross_entropy")
    """

    kind = "batch_norm"
    least_batch: ClassVar[int] = 2

    def __init__(
        self, activation: str | Activation = "identity", *, momentum: float = 0.1, epsilon: float = 1e-5
    ) -> None:
        super().__init__(activation, epsilon)
        self.momentum = number("momentum of BatchNorm", momentum, "(0, 1]")

    def parameters(self, n_in: int) -> list[ParameterSpec]:
        running = [ParameterSpec(name, (n_in,), False, learnt=False) for name in ("mean", "variance")]
        return [*super().parameters(n_in), *running]

    def initial(self, rng: np.random.Generator, n_in: int) -> dict[str, NDArray[Any]]:
        return {**super().initial(rng, n_in), "mean": np.zeros(n_in), "variance": np.ones(n_in)}

    def connect(
        self, op: Builder, x: Array, theta: Views, gradient: Views, stream: RandomStream | None, *, keep_z: bool
    ) -> NormalizationNode:
        node = NormalizationNode(self, op, x, theta, gradient, keep_z=keep_z)
        mean, variance = theta["mean"].reshape(-1, 1), theta["variance"].reshape(-1, 1)
        if not op.training:
            return node.apply(mean, variance)
        node.standardize(1)
        m, momentum = op.samples, self.momentum
        for running, total, count in ((mean, node.sum, m), (variance, node.squares, m - 1)):
            if op.searching:
                op.map(lambda s: s * (1.0 / m), [running], s=total)
            elif m > 1:
                share = momentum / count
                op.map(lambda r, s, share=share: (1.0 - momentum) * r + share * s, [running], r=running, s=total)
        return node

    def check_statistics(self, statistics: Statistics) -> None:
        smallest = statistics["variance"].min()
        if smallest < 0:
            raise DataError(f"The running variance of BatchNorm is at least 0; received {smallest}.")

    def config(self) -> dict[str, Any]:
        return {**super().config(), "momentum": self.momentum}


class NormalizationNode(ActivatedNode):
    """A normalization layer in one executor; `standardize` or `apply` records the forward pass.

    Attributes:
        x_hat: x̂ (n, m).
        sum, squares: Σ x and Σ (x − mean)² of each group.
    """

    def __init__(
        self, layer: Normalization, op: Builder, x: Array, theta: Views, gradient: Views, *, keep_z: bool
    ) -> None:
        self.op, self.gradient, self.f, self.epsilon = op, gradient, layer.activation, layer.epsilon
        self.x = x
        if not x.flags.c_contiguous:
            # X itself, which is stored sample by sample.
            self.x = op.empty(x.shape[0])
            op.map(lambda x: x, [self.x], x=x)
        self.gamma, self.beta = theta["gamma"].reshape(-1, 1), theta["beta"].reshape(-1, 1)
        self.a = op.empty(x.shape[0])
        self.z = op.empty(x.shape[0]) if keep_z or self.f.needs_z else self.a
        self.x_hat = op.empty(x.shape[0])
        self.axis: Literal[0, 1] | None = None
        self.delta: Array | None = None

    def standardize(self, axis: Literal[0, 1]) -> NormalizationNode:
        """Uses the mean and variance of x along an axis: 0 for each sample, 1 for each feature.

        The variance is a sum of squared differences from the mean, so a large mean costs no digits.
        """
        op, self.axis = self.op, axis
        self.count = self.x.shape[axis]
        self.sum, self.squares, self.inverse = (self._sums() for _ in range(3))
        op.record(Reduce("sum", self.x, axis, self.sum))
        op.map(lambda x, s: x - s * (1.0 / self.count), [self.x_hat], x=self.x, s=self.sum)
        op.map(lambda c: c * c, [self.z], c=self.x_hat)
        op.record(Reduce("sum", self.z, axis, self.squares))
        op.map(lambda v: 1.0 / np.sqrt(v * (1.0 / self.count) + self.epsilon), [self.inverse], v=self.squares)
        op.map(
            lambda c, inverse, gamma: (c * inverse, gamma * (c * inverse)),
            [self.x_hat, self.z], c=self.x_hat, inverse=self.inverse, gamma=self.gamma,
        )  # fmt: skip
        self.f.forward(op, self.z, self.beta, self.a)
        return self

    def apply(self, mean: Array, variance: Array) -> NormalizationNode:
        """Uses a given mean and variance (n, 1) of each feature."""
        op = self.op
        self.inverse = op.empty(self.x.shape[0], 1)
        op.map(lambda v: 1.0 / np.sqrt(v + self.epsilon), [self.inverse], v=variance)
        op.map(
            lambda x, mean, inverse, gamma: ((x - mean) * inverse, gamma * ((x - mean) * inverse)),
            [self.x_hat, self.z], x=self.x, mean=mean, inverse=self.inverse, gamma=self.gamma,
        )  # fmt: skip
        self.f.forward(op, self.z, self.beta, self.a)
        return self

    def backward(self, op: Builder, da: Array, *, want_dx: bool) -> Array | None:
        """With delta = ∂C/∂a · f' and g = gamma · delta: ∂C/∂gamma = Σ delta · x̂ and ∂C/∂beta = Σ delta over samples.

        ∂C/∂x = (g − mean(g) − x̂ · mean(g · x̂)) / √(variance + ε), with the means of each group, because mean and
        variance depend on x. If they are given, ∂C/∂x = g / √(variance + ε).
        """
        self.delta = delta = self.f.backward(op, self.z, self.a, da)
        g, product = op.empty(delta.shape[0]), op.empty(delta.shape[0])
        op.map(lambda delta, x_hat: delta * x_hat, [product], delta=delta, x_hat=self.x_hat)
        op.record(Reduce("sum", product, 1, self.gradient["gamma"].reshape(-1, 1)))
        op.record(Reduce("sum", delta, 1, self.gradient["beta"].reshape(-1, 1)))
        if not want_dx:
            return None
        if self.axis is None:
            op.map(
                lambda delta, gamma, inverse: gamma * delta * inverse,
                [g], delta=delta, gamma=self.gamma, inverse=self.inverse,
            )  # fmt: skip
            return g
        op.map(
            lambda delta, gamma, x_hat: (gamma * delta, gamma * delta * x_hat),
            [g, product], delta=delta, gamma=self.gamma, x_hat=self.x_hat,
        )  # fmt: skip
        first, second = self._sums(), self._sums()
        op.record(Reduce("sum", g, self.axis, first))
        op.record(Reduce("sum", product, self.axis, second))
        share = 1.0 / self.count
        op.map(
            lambda g, first, second, x_hat, inverse: (g - first * share - x_hat * (second * share)) * inverse,
            [g], g=g, first=first, second=second, x_hat=self.x_hat, inverse=self.inverse,
        )  # fmt: skip
        return g

    def per_sample(self, xp: Any, out: Views) -> None:
        delta = self.delta
        assert delta is not None, "the backward pass has run"
        xp.multiply(delta.T, self.x_hat.T, out=out["gamma"])
        out["beta"][...] = delta.T

    def _sums(self) -> Array:
        """A buffer with one number per group."""
        return self.op.empty(1) if self.axis == 0 else self.op.empty(self.x.shape[0], 1)
