"""Activation functions: a = f(z), and f'(z).

An activation is one class with its formula `f` in NumPy code. It is traced and compiled for the device (see
`nnbp.graph.formula`), so a class of your own runs fused on the GPU, too. The derivative `df` follows from the formula,
unless the class gives one:

>>> class Softsign(Activation):
...     name = "softsign"
...
...     def f(self, z):
...         return z / (1 + abs(z))
>>> float(Softsign().df(1.0, 0.5))
0.25

All formulas here are stable: no overflow, no warning and exact limits for any finite z.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, final

import numpy as np

from nnbp.graph.builder import Builder
from nnbp.graph.derivative import derivative
from nnbp.graph.formula import trace
from nnbp.graph.ops import Array, Reduce
from nnbp.registry import Named
from nnbp.validation import number


class Activation(Named, kind="activation"):
    """a = f(z), elementwise, and its derivative.

    Subclasses give `name` and `f`, and `df` if they know a better formula than the derived one. Numbers that a formula
    needs (a slope, say) are attributes of the object.
    """

    name: ClassVar[str]

    initializer: ClassVar[str] = "glorot_uniform"
    """Initializer of W and b of a layer with this activation."""

    kinks: ClassVar[tuple[float, ...]] = ()
    """Values of z at which f' jumps; gradient checks step around them."""

    def f(self, z: Any) -> Any:
        """a = f(z)."""
        raise NotImplementedError(f"{type(self).__name__} has no formula: define f(self, z), which returns f(z).")

    def df(self, z: Any, a: Any) -> Any:
        """f'(z), from z and a = f(z); by default derived from f. A formula of a alone saves the memory for z."""
        return derivative(self.f, z, result=a)

    @property
    def needs_z(self) -> bool:
        """Whether the derivative looks at z; if it does not, a may overwrite z."""
        return trace(self.df, "z", "a").uses("z")

    def forward(self, op: Builder, z: Array, b: Array, a: Array) -> tuple[Array, ...]:
        """Records z += b and a = f(z); a may be the same array as z, which is then lost.

        Returns:
            what was computed on the way and the loss may use: rows (1, m).
        """
        if a is z:
            op.map(lambda z, b: self.f(z + b), [a], z=z, b=b)
        else:
            op.map(lambda z, b: (z + b, self.f(z + b)), [z, a], z=z, b=b)
        return ()

    def backward(self, op: Builder, z: Array, a: Array, da: Array) -> Array:
        """Records delta = f'(z) · da, in the array of da, and returns it."""
        op.map(lambda z, a, da: da * self.df(z, a), [da], z=z, a=a, da=da)
        return da


@final
class Identity(Activation):
    """f(z) = z; f' = 1."""

    name = "identity"
    aliases = ("linear",)

    def f(self, z: Any) -> Any:
        return z

    def df(self, z: Any, a: Any) -> Any:
        return 1.0


def _sigmoid(z: Any) -> Any:
    # e^min(z,0) / (1 + e^-|z|) is 1 / (1 + e^-z) without a positive exponent on either side of 0.
    return np.exp(np.minimum(z, 0.0)) / (1.0 + np.exp(-np.abs(z)))


@final
class Sigmoid(Activation):
    """f(z) = 1 / (1 + e⁻ᶻ); f' = f (1 − f)."""

    name = "sigmoid"
    aliases = ("logistic",)

    def f(self, z: Any) -> Any:
        return _sigmoid(z)

    def df(self, z: Any, a: Any) -> Any:
        return a * (1.0 - a)


@final
class Tanh(Activation):
    """f(z) = (eᶻ − e⁻ᶻ) / (eᶻ + e⁻ᶻ); f' = 1 − f²."""

    name = "tanh"

    def f(self, z: Any) -> Any:
        return np.tanh(z)

    def df(self, z: Any, a: Any) -> Any:
        return 1.0 - a * a


@final
class ReLU(Activation):
    """f(z) = max(z, 0); f' = 1 if z > 0, else 0 (at the kink itself too, as PyTorch has it).

    Nair and Hinton, "Rectified linear units improve restricted Boltzmann machines", ICML 2010.
    """

    name = "relu"
    initializer = "rectifier_uniform"
    kinks = (0.0,)

    def f(self, z: Any) -> Any:
        return np.maximum(z, 0.0)

    def df(self, z: Any, a: Any) -> Any:
        return a > 0.0


@final
class LeakyReLU(Activation):
    """f(z) = max(z, s z) with slope s in [0, 1); f' = 1 if z > 0, else s.

    Maas, Hannun and Ng, "Rectifier nonlinearities improve neural network acoustic models", 2013.
    """

    name = "leaky_relu"
    initializer = "rectifier_uniform"
    kinks = (0.0,)

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = number("The slope of leaky_relu", slope, "[0, 1)")

    def f(self, z: Any) -> Any:
        return np.maximum(z, self.slope * z)

    def df(self, z: Any, a: Any) -> Any:
        return self.slope + (1.0 - self.slope) * (z > 0.0)


@final
class ELU(Activation):
    """f(z) = z if z > 0, else α (eᶻ − 1); f' = 1 if z > 0, else f + α.

    Clevert, Unterthiner and Hochreiter, "Fast and accurate deep network learning by exponential linear units", 2016.
    """

    name = "elu"
    initializer = "he_uniform"
    kinks = (0.0,)

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = number("The alpha of elu", alpha, "(0, inf)")

    def f(self, z: Any) -> Any:
        return np.maximum(z, 0.0) + self.alpha * np.expm1(np.minimum(z, 0.0))

    def df(self, z: Any, a: Any) -> Any:
        return np.minimum(a, 0.0) + self.alpha + (1.0 - self.alpha) * (a > 0.0)


@final
class Softplus(Activation):
    """f(z) = ln(1 + eᶻ), computed as max(z, 0) + ln(1 + e^−|z|); f' = sigmoid(z) = 1 − e⁻ᶠ."""

    name = "softplus"
    initializer = "he_uniform"

    def f(self, z: Any) -> Any:
        return np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))

    def df(self, z: Any, a: Any) -> Any:
        return -np.expm1(-a)


@final
class SiLU(Activation):
    """f(z) = z σ(z), "swish"; f' = σ (1 + z (1 − σ)), σ the sigmoid.

    Elfwing, Uchibe and Doya, "Sigmoid-weighted linear units for neural network function approximation", 2018.
    """

    name = "silu"
    aliases = ("swish",)
    initializer = "he_uniform"

    def f(self, z: Any) -> Any:
        return z * _sigmoid(z)

    def df(self, z: Any, a: Any) -> Any:
        s = _sigmoid(z)
        return s * (1.0 + z * (1.0 - s))


# erfc(x) = t exp(P(2t − 1) − x²) for x >= 0 with t = 1 / (1 + x/2): the substitution of Press et al., "Numerical
# Recipes", section 6.2.2; P is our own Chebyshev fit in 40 digits, relative error 3e-15 in float64. Highest power
# first.
_ERFC = (
    -1.3791307091711107e-08, 2.992327305770758e-08, 8.354694238740855e-08, -2.9024439955999927e-07,
    -5.745724111914076e-08, 1.2851059663435587e-06, -1.3853380961247155e-06, -2.965932985910632e-06,
    8.63948536674404e-06, 1.4209509994658064e-07, -3.0223285604111394e-05, 3.174564452587232e-05,
    7.141197420995916e-05, -0.00017430363340430627, -9.373724844136099e-05, 0.0006736790125595953,
    -0.00014624658593819772, -0.002345812534455851, 0.0017589335383343834, 0.00882493855975445,
    -0.009872689365754328, -0.04689561023126843, 0.047343306841898185, 0.6726432239776576, -0.6717940840566923,
)  # fmt: skip


def _normal_cdf(z: Any) -> Any:
    """Φ(z) = ½ erfc(−z/√2), accurate in relative terms in the lower tail."""
    # Beyond |z| = 40 the tail is 0 in double precision too; the bound keeps x² from overflowing.
    x = np.minimum(np.abs(z), 40.0) * math.sqrt(0.5)
    t = 1.0 / (1.0 + 0.5 * x)
    s = 2.0 * t - 1.0
    power = s * _ERFC[0] + _ERFC[1]
    for coefficient in _ERFC[2:]:
        power = power * s + coefficient
    tail = 0.5 * t * np.exp(power - x * x)
    return tail + (z > 0.0) * (1.0 - 2.0 * tail)


@final
class GELU(Activation):
    """f(z) = z Φ(z), Φ the normal distribution function (exact, not its tanh approximation); f' = Φ + z φ(z).

    Hendrycks and Gimpel, "Gaussian error linear units", 2016.
    """

    name = "gelu"
    initializer = "he_uniform"

    def f(self, z: Any) -> Any:
        return z * _normal_cdf(z)

    def df(self, z: Any, a: Any) -> Any:
        # Beyond |z| = 40 the density is 0 in double precision too; the bound keeps z² from overflowing.
        near = np.minimum(np.abs(z), 40.0)
        return _normal_cdf(z) + z * np.exp(-0.5 * near * near) * (1.0 / math.sqrt(2.0 * math.pi))


@final
class Exponential(Activation):
    """f(z) = eᶻ, the inverse of the log link of the Poisson loss; f' = f."""

    name = "exponential"
    aliases = ("exp",)

    def f(self, z: Any) -> Any:
        return np.exp(z)

    def df(self, z: Any, a: Any) -> Any:
        return a


@final
class Softmax(Activation):
    """f(z)ᵢ = e^zᵢ / Σⱼ e^zⱼ over the outputs of a sample; ∂fᵢ/∂zⱼ = fᵢ ([i = j] − fⱼ). For output layers."""

    name = "softmax"

    @property
    def needs_z(self) -> bool:
        return False

    def f(self, z: Any) -> Any:
        """Softmax over the last axis of an array (samples, outputs)."""
        e = np.exp(z - np.max(z, axis=-1, keepdims=True))
        return e / np.sum(e, axis=-1, keepdims=True)

    def forward(self, op: Builder, z: Array, b: Array, a: Array) -> tuple[Array, ...]:
        """As for every activation; the rows are max z and Σ e^(z − max z)."""
        op.map(lambda z, b: z + b, [z], z=z, b=b)
        largest = op.record(Reduce("maximum", z, 0, op.empty(1)))
        op.map(lambda z, largest: np.exp(z - largest), [a], z=z, largest=largest)
        total = op.record(Reduce("sum", a, 0, op.empty(1)))
        op.map(lambda a, total: a / total, [a], a=a, total=total)
        return largest, total

    def backward(self, op: Builder, z: Array, a: Array, da: Array) -> Array:
        """delta = a · (da − Σⱼ aⱼ daⱼ)."""
        product, row = op.empty(a.shape[0]), op.empty(1)
        op.map(lambda a, da: a * da, [product], a=a, da=da)
        op.record(Reduce("sum", product, 0, row))
        op.map(lambda a, da, mean: a * (da - mean), [da], a=a, da=da, mean=row)
        return da


get = Activation.get
"""The activation of a name, or the object itself; see `Named.get`."""
