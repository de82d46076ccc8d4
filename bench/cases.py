"""What is trained: the cases, and the data, initial weights and batch orders of each, from a seed, the same for all.

The cases of a GPU are in `bench.device_cases`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CASES",
    "DIGITS",
    "INFERENCE",
    "INFERENCE_BATCHES",
    "PRECISIONS",
    "SEED",
    "SHAPES",
    "Case",
    "Problem",
    "chosen",
]

SEED = 0
"""Of all data, initial weights and batch orders."""

PRECISIONS = ("fp32", "tf32", "bf16")
"""Of matrix products; parameters are float32 in all of them."""

_RATES = {"sgd": 0.01, "adam": 0.001}
_SLOTS = {"sgd": 0, "adam": 2}

# nnbp's random numbers for the order of batches: the second word of the network's seed.
_ORDER = 1


@dataclass(frozen=True)
class Case:
    """A network and how it is trained: dense layers, softmax, mean cross-entropy.

    Attributes:
        sizes: of all layers, input first.
        batch: samples of a step.
        activation: of hidden layers, tanh or relu.
        optimizer: sgd (no momentum) or adam (PyTorch's defaults).
        batches: steps of an epoch.
        dtype: of data and parameters.
        precision: of matrix products, one of `PRECISIONS`.
        device: cpu, or cuda:0.
        shuffle: whether every epoch has its own order of the samples, which the host draws; else they stay as they
            are.
        distinct: rows of the data that are drawn, a multiple of the batch, and then repeated; None is all of them.
    """

    sizes: tuple[int, ...]
    batch: int
    activation: str
    optimizer: str
    batches: int
    dtype: str = "float32"
    precision: str = "fp32"
    device: str = "cpu"
    shuffle: bool = True
    distinct: int | None = None

    @classmethod
    def load(cls, values: Mapping[str, Any]) -> Self:
        """A case from plain JSON values, as `dump` gives them."""
        return cls(**{**values, "sizes": tuple(values["sizes"])})

    def dump(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "sizes": list(self.sizes)}

    @property
    def network(self) -> str:
        """Sizes and batch: 64-64-10@64."""
        return f"{'-'.join(map(str, self.sizes))}@{self.batch}"

    @property
    def title(self) -> str:
        """64-64-10@64 tanh sgd; a precision other than fp32 stands behind it."""
        words = [self.network, self.activation, self.optimizer]
        return " ".join(words if self.precision == "fp32" else [*words, self.precision])

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return self.device.startswith("cuda")

    @property
    def rate(self) -> float:
        """The learning rate."""
        return _RATES[self.optimizer]

    @property
    def slots(self) -> int:
        """Vectors as long as the parameters that the optimizer keeps."""
        return _SLOTS[self.optimizer]

    @property
    def samples(self) -> int:
        """Rows of the data."""
        return self.batch * self.batches

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return sum((n_in + 1) * n_out for n_in, n_out in pairwise(self.sizes))

    @property
    def work(self) -> int:
        """Multiplications of a forward pass of one batch: what cases are ordered by."""
        return self.batch * sum(n_in * n_out for n_in, n_out in pairwise(self.sizes))


SHAPES = (
    ((4, 16, 3), 32, 64),
    ((64, 64, 10), 64, 64),
    ((64, 128, 128, 10), 128, 64),
    ((784, 128, 10), 128, 8),
    ((784, 512, 512, 10), 128, 8),
    ((784, 512, 512, 10), 1024, 8),
    ((1024, 2048, 2048, 10), 1024, 4),
)
"""Sizes, batch and steps of an epoch."""

CASES = tuple(
    Case(sizes, batch, activation, optimizer, batches)
    for activation, optimizer in (("tanh", "sgd"), ("relu", "adam"))
    for sizes, batch, batches in SHAPES
)
"""All cases, each shape with both kinds of training."""

DIGITS = Case((64, 64, 10), 32, "tanh", "adam", 57)
"""The fit on scikit-learn's digits, 1797 samples, the last batch a small one."""

INFERENCE = (Case((64, 64, 10), 128, "tanh", "sgd", 2), Case((784, 128, 10), 128, "tanh", "sgd", 2))
INFERENCE_BATCHES = (1, 128, 10_000)


def chosen(text: str | None, cases: Sequence[Case] = CASES) -> tuple[Case, ...]:
    """The cases whose title contains one of the comma-separated parts of the text; all of them for None.

    Raises:
        ValueError: no title does.
    """
    if text is None:
        return tuple(cases)
    parts = [part.strip() for part in text.split(",") if part.strip()]
    found = tuple(case for case in cases if any(part in case.title for part in parts))
    if not found:
        titles = ", ".join(case.title for case in cases)
        raise ValueError(f"--cases is a part of a case's title, or several with commas; received {text!r}. "
                         f"The titles are {titles}.")  # fmt: skip
    return found


@dataclass(frozen=True)
class Problem:
    """A case with its numbers.

    Attributes:
        case: the case.
        X: (m, n_in).
        y: (m,) class indices, int64.
        weights: W (n_out, n_in) of each layer.
        biases: b (n_out,) of each layer.
        seed: of the batch orders.
    """

    case: Case
    X: NDArray[Any]
    y: NDArray[np.int64]
    weights: list[NDArray[Any]]
    biases: list[NDArray[Any]]
    seed: int

    @classmethod
    def random(cls, case: Case, seed: int = SEED) -> Self:
        """Standard normal inputs, random labels."""
        rng = np.random.default_rng(seed)
        rows = case.samples if case.distinct is None else min(case.distinct, case.samples)
        X = rng.standard_normal((rows, case.sizes[0]), np.float32).astype(case.dtype, copy=False)
        y = rng.integers(0, case.sizes[-1], rows)
        if rows < case.samples:
            # Every row is read once an epoch, so that it costs the memory's time as a new one would.
            times = case.samples // rows
            X, y = np.tile(X, (times, 1)), np.tile(y, times)
        return cls.of(case, X, y, seed)

    @classmethod
    def of(cls, case: Case, X: NDArray[Any], y: NDArray[np.int64], seed: int = SEED) -> Self:
        """Data of one's own; weights normal with variance 1 / n_in, biases 0."""
        rng = np.random.default_rng((seed, 1))
        weights = [
            (rng.standard_normal((n_out, n_in)) / np.sqrt(n_in)).astype(case.dtype)
            for n_in, n_out in pairwise(case.sizes)
        ]
        return cls(case, X, y, weights, [np.zeros(n, case.dtype) for n in case.sizes[1:]], seed)

    def orders(self) -> np.random.Generator:
        """The generator whose permutations are the epochs' orders: that of an nnbp network with this seed."""
        return np.random.default_rng(np.random.SeedSequence((self.seed, _ORDER)))

    def queries(self, rows: int) -> NDArray[Any]:
        """Inputs to predict."""
        rng = np.random.default_rng((self.seed, 2))
        return rng.standard_normal((rows, self.case.sizes[0]), np.float32).astype(self.case.dtype, copy=False)
