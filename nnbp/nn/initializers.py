"""Initial values: W drawn so that the variance of a layer's output neither grows nor dies with depth; b is 0 or drawn.

Every initializer draws on the host in float64 from a NumPy generator, and the caller casts and uploads: the
same seed gives the same bits on every device. The normal ones are plain normal distributions, as PyTorch's
`xavier_normal_` and `kaiming_normal_` are; Keras's of the same names are cut off at two standard deviations.

Notation: n_in is the number of inputs of a unit (fan-in), n_out the number of units (fan-out).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, final

import numpy as np
import numpy.typing as npt

from nnbp.errors import DTypeError, ShapeError
from nnbp.registry import Named

Floats = npt.NDArray[np.float64]


class Initializer(Named, ABC, kind="initializer"):
    """A distribution of initial weights: a subclass gives `draw`, and a `name` by which `get` then knows it.

    Biases are 0, unless the subclass gives `draw_biases`, too.

    Example:
        >>> class Small(Initializer):
        ...     name = "small"
        ...
        ...     def draw(self, rng, n_out, n_in):
        ...         return rng.uniform(-0.01, 0.01, size=(n_out, n_in))
        >>> get("small").sample(np.random.default_rng(0), (3, 2)).shape
        (3, 2)
        >>> del Initializer.registry["small"]
    """

    name: str

    @abstractmethod
    def draw(self, rng: np.random.Generator, n_out: int, n_in: int) -> Floats:
        """W (n_out, n_in), float64."""

    def draw_biases(self, rng: np.random.Generator, n_out: int, n_in: int) -> Floats:
        """b (n_out,), float64."""
        return np.zeros(n_out)

    @final
    def sample(self, rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
        """A weight matrix W ~ this distribution.

        Args:
            rng: the generator that the numbers are drawn from; it advances.
            shape: (n_out, n_in), both at least 1.

        Returns:
            W, float64, on the host.

        Raises:
            ShapeError, DTypeError: a subclass drew another shape or dtype.
        """
        return self._checked("draw", self.draw(rng, *shape), shape, "(n_out, n_in)")

    @final
    def sample_biases(self, rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
        """The biases b (n_out,) of a layer with weights of this shape; otherwise as `sample`.

        They are drawn from a child of the generator, so the next weights do not depend on whether there are any.
        """
        return self._checked("draw_biases", self.draw_biases(rng.spawn(1)[0], *shape), shape[:1], "(n_out,)")

    def _checked(self, method: str, values: Any, shape: tuple[int, ...], means: str) -> Floats:
        if (dtype := getattr(values, "dtype", type(values).__name__)) != np.float64:
            raise DTypeError(
                f"{method} of {self!r} returns a float64 array, the same bits for every device; received {dtype}. "
                "Leave the casting to the caller."
            )
        if values.shape != shape:
            raise ShapeError(
                f"{method} of {self!r} returns an array of shape {means}, {shape} here; received shape "
                f"{values.shape}. Pass size={means} to the generator."
            )
        drawn: Floats = values
        return drawn

    def config(self) -> dict[str, Any]:
        """Nothing: a model file knows an initializer by its name alone."""
        return {}


@final
class GlorotUniform(Initializer):
    """W ~ U(-r, r), r = √(6 / (n_in + n_out)); variance 2 / (n_in + n_out). For tanh, sigmoid, linear.

    Source: Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    AISTATS 2010, equation 16.
    """

    name = "glorot_uniform"
    aliases = ("xavier_uniform", "glorot", "xavier")

    def draw(self, rng: np.random.Generator, n_out: int, n_in: int) -> Floats:
        bound = math.sqrt(6.0 / (n_in + n_out))
        return rng.uniform(-bound, bound, size=(n_out, n_in))


@final
class GlorotNormal(Initializer):
    """W ~ N(0, 2 / (n_in + n_out)), not truncated. For tanh, sigmoid and linear units.

    Source: Glorot & Bengio, AISTATS 2010, equation 12 (the compromise between the forward and the backward
    condition); the paper itself draws uniformly.
    """

    name = "glorot_normal"
    aliases = ("xavier_normal",)

    def draw(self, rng: np.random.Generator, n_out: int, n_in: int) -> Floats:
        return rng.normal(0.0, math.sqrt(2.0 / (n_in + n_out)), size=(n_out, n_in))


@final
class HeUniform(Initializer):
    """W ~ U(-r, r), r = √(6 / n_in); variance 2 / n_in. For relu and its relatives.

    Source: He, Zhang, Ren & Sun, "Delving deep into rectifiers", ICCV 2015, equation 10 (forward condition:
    ½ n_in Var[W] = 1); the paper itself draws from a normal distribution.
    """

    name = "he_uniform"
    aliases = ("kaiming_uniform",)

    def draw(self, rng: np.random.Generator, n_out: int, n_in: int) -> Floats:
        bound = math.sqrt(6.0 / n_in)
        return rng.uniform(-bound, bound, size=(n_out, n_in))


@final
class HeNormal(Initializer):
    """W ~ N(0, 2 / n_in), not truncated. For relu and its relatives.

    Source: He, Zhang, Ren & Sun, "Delving deep into rectifiers", ICCV 2015, equation 10.
    """

    name = "he_normal"
    aliases = ("kaiming_normal",)

    def draw(self, rng: np.random.Generator, n_out: int, n_in: int) -> Floats:
        return rng.normal(0.0, math.sqrt(2.0 / n_in), size=(n_out, n_in))


@final
class RectifierUniform(Initializer):
    """W ~ U(-r, r), r = √(12 / (n_in + n_out)); b ~ U(-2r, 2r). The default for relu and leaky_relu.

    The variance of W is 4 / (n_in + n_out): that of `glorot_uniform`, doubled because a rectifier halves the signal.
    A unit on one input has its kink at x = -b / W: without biases all kinks lie at x = 0, with these they spread over
    the range of a standardised input, and further.

    Source: Glorot & Bengio, AISTATS 2010, equation 16, with the factor of He, Zhang, Ren & Sun, "Delving deep into
    rectifiers", ICCV 2015, equations 10 and 14; PyTorch's `xavier_uniform_` with the gain of relu. The interval of b is
    our own choice: twice as wide as in scikit-learn's MLPRegressor, relative to W.
    """

    name = "rectifier_uniform"

    def draw(self, rng: np.random.Generator, n_out: int, n_in: int) -> Floats:
        bound = math.sqrt(12.0 / (n_in + n_out))
        return rng.uniform(-bound, bound, size=(n_out, n_in))

    def draw_biases(self, rng: np.random.Generator, n_out: int, n_in: int) -> Floats:
        bound = 2.0 * math.sqrt(12.0 / (n_in + n_out))
        return rng.uniform(-bound, bound, size=n_out)


@final
class LecunNormal(Initializer):
    """W ~ N(0, 1 / n_in), not truncated. For units that keep the variance of z: linear, scaled tanh.

    Source: LeCun, Bottou, Orr & Müller, "Efficient BackProp", 1998, section 4.6: σ_w = m^(-1/2) for m inputs.
    """

    name = "lecun_normal"

    def draw(self, rng: np.random.Generator, n_out: int, n_in: int) -> Floats:
        return rng.normal(0.0, math.sqrt(1.0 / n_in), size=(n_out, n_in))


@final
class NguyenWidrow(Initializer):
    """Rows of W with random directions and the length 0.7 n_out^(1/n_in) / 1.7; b spreads the units' kinks evenly.

    Each unit is steep in a strip of the inputs, and the strips of a layer cover the range of standardised inputs, about
    ±1.7, where the units of other initializers are steep around 0 alone. b is −β, …, β in equal steps and a random
    order, with β = 0.7 n_out^(1/n_in). For tanh and sigmoid units of networks with few inputs.

    Source: Nguyen & Widrow, "Improving the learning speed of 2-layer neural networks by choosing initial values of the
    adaptive weights", IJCNN 1990. Deviation: biases are evenly spaced, as in MATLAB's initnw, and not drawn uniformly.
    """

    name = "nguyen_widrow"
    aliases = ("initnw",)

    def draw(self, rng: np.random.Generator, n_out: int, n_in: int) -> Floats:
        directions = rng.normal(size=(n_out, n_in))
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        scaled: Floats = self._beta(n_out, n_in) / 1.7 * directions / lengths
        return scaled

    def draw_biases(self, rng: np.random.Generator, n_out: int, n_in: int) -> Floats:
        steps = np.linspace(-1.0, 1.0, n_out) if n_out > 1 else np.zeros(1)
        return rng.permutation(self._beta(n_out, n_in) * steps)

    def _beta(self, n_out: int, n_in: int) -> float:
        return 0.7 * math.pow(n_out, 1.0 / n_in)


@final
class Zeros(Initializer):
    """W = 0; nothing is drawn from the generator.

    For a network of one layer only (logistic regression): in a hidden layer all units would stay equal,
    because they would get equal gradients.
    """

    name = "zeros"
    aliases = ("zero",)

    def draw(self, rng: np.random.Generator, n_out: int, n_in: int) -> Floats:
        return np.zeros((n_out, n_in))


get = Initializer.get
"""The initializer of a name, or the object itself; see `Named.get`."""
