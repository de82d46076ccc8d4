"""The cases: the networks that are trained, on which device, and with which data, initial weights and batch orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, product
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

SEED = 0
"""Of all data, initial weights and batch orders."""

KINDS = (("relu", "adam"), ("tanh", "sgd"))
"""Activation of the hidden layers and optimizer, the more important kind of training first."""

PRECISIONS = ("fp32", "tf32", "bf16")
"""Of matrix products; parameters are float32 in all of them."""

FIRST = (
    "4096-4096-4096-10@8192 relu adam",
    "4096-4096-4096-10@8192 relu adam tf32",
    "4096-4096-4096-10@8192 relu adam bf16",
    "64-64-10@64 relu adam",
    "784-512-512-10@1024 relu adam",
    "784-512-512-10@1024 relu adam tf32",
    "784-128-10@128 relu adam",
    "64-64-64-16@65536 relu adam",
    "64-64-64-16@65536 relu adam bf16",
)
"""Titles of the cases that a GPU, whose time is limited, is measured with first."""

INFERENCE_BATCHES = (1, 128, 10_000)
"""Rows of a prediction."""

_SHAPES = (
    ((4, 16, 3), 32),
    ((64, 64, 10), 64),
    ((64, 128, 128, 10), 128),
    ((784, 128, 10), 128),
    ((784, 512, 512, 10), 128),
    ((784, 512, 512, 10), 1024),
    ((1024, 2048, 2048, 10), 1024),
)
_GPU_SHAPES = (((64, 64, 64, 16), 65536), ((4096, 4096, 4096, 10), 8192))
_LARGE = 1024
"""The batch from which a GPU multiplies at all precisions."""

_GRID_WIDTHS, _GRID_BATCHES = (16, 64, 256, 1024, 2048), (16, 128, 1024, 8192)
_GRID_WORK = 2**35
"""The most work of a case of the grid: more would take a CPU many seconds."""

# The numbers in the data of an epoch, and its fewest and most steps. Epochs on a GPU are long, so that the host's part
# of an epoch and its wait for the device weigh nothing.
_EPOCHS = {"cpu": (2**20, 4, 64), "cuda": (2**27, 8, 1024)}
_GRID_EPOCHS = {"cpu": (2**22, 2, 128), "cuda": (2**25, 8, 512)}

_DRAWN = 2**23
"""Numbers that are drawn for the data of a case; if it has more, they repeat."""

_RATES = {"sgd": 0.01, "adam": 0.001}
_SLOTS = {"sgd": 0, "adam": 2}

# nnbp's random numbers for the order of batches: the second word of the network's seed.
_ORDER = 1


@dataclass(frozen=True)
class Case:
    """A network and its training: dense layers in float32, softmax, mean cross-entropy.

    Attributes:
        sizes: of all layers, input first.
        batch: samples of a step.
        activation: of hidden layers, tanh or relu.
        optimizer: sgd (no momentum) or adam (PyTorch's defaults).
        batches: steps of an epoch.
        precision: of matrix products, one of `PRECISIONS`.
        device: cpu, or cuda:0.
        shuffle: whether the host draws a new order of the samples for every epoch.
        distinct: rows of the data that are drawn, a multiple of the batch, and then repeated; None is all of them.
    """

    sizes: tuple[int, ...]
    batch: int
    activation: str
    optimizer: str
    batches: int
    precision: str = "fp32"
    device: str = "cpu"
    shuffle: bool = True
    distinct: int | None = None

    @classmethod
    def load(cls, values: Mapping[str, Any]) -> Self:
        """A case from plain JSON values, as `dump` returns them."""
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
        """64-64-10@64 tanh sgd, followed by the precision unless it is fp32."""
        words = [self.network, self.activation, self.optimizer, self.precision]
        return " ".join(words if self.precision != "fp32" else words[:3])

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return self.device != "cpu"

    @property
    def gpu(self) -> int:
        """The number of its GPU."""
        return int(self.device.partition(":")[2])

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


def cases(device: str) -> tuple[Case, ...]:
    """The cases of a device, in the order of measurement.

    >>> [case.title for case in cases("cuda:0")][:2]
    ['4096-4096-4096-10@8192 relu adam', '4096-4096-4096-10@8192 relu adam tf32']
    """
    on_gpu = device != "cpu"
    found = []
    for kind, (sizes, batch) in product(KINDS, _SHAPES + _GPU_SHAPES if on_gpu else _SHAPES):
        case = _case(sizes, batch, kind, device, _EPOCHS)
        precisions = PRECISIONS if on_gpu and batch >= _LARGE else PRECISIONS[:1]
        found += [replace(case, precision=precision) for precision in precisions]
    if on_gpu:
        found.sort(key=lambda case: FIRST.index(case.title) if case.title in FIRST else len(FIRST))
    return tuple(found)


def grid(device: str) -> tuple[Case, ...]:
    """Networks w-w-w-10 with ReLU and Adam, over widths w and batches, for the comparison of a CPU with a GPU."""
    places = product(_GRID_WIDTHS, _GRID_BATCHES)
    found = (_case((width,) * 3 + (10,), batch, KINDS[0], device, _GRID_EPOCHS) for width, batch in places)
    return tuple(replace(case, shuffle=False) for case in found if case.work <= _GRID_WORK)


def _case(
    sizes: tuple[int, ...], batch: int, kind: tuple[str, str], device: str, epochs: Mapping[str, tuple[int, int, int]]
) -> Case:
    """A case with epochs of about as many numbers as the table says for its device."""
    numbers = batch * sizes[0]
    total, fewest, most = epochs[device.partition(":")[0]]
    # The rows that are drawn fit a whole number of times: both are powers of 2 times the batch.
    steps = _power(min(max(total // numbers, fewest), most))
    drawn = batch * min(steps, _power(_DRAWN // numbers))
    # Drawing an order on the host may take longer than all steps of an epoch on a GPU.
    return Case(sizes, batch, *kind, steps, device=device, shuffle=device == "cpu", distinct=drawn)


def _power(number: int) -> int:
    """The largest power of 2 that is not larger, at least 1."""
    return 1 << max(0, number.bit_length() - 1)


DIGITS = Case((64, 64, 10), 32, "tanh", "adam", 57)
"""As large as a fit on scikit-learn's digits, 1824 samples instead of 1797."""

INFERENCE = (Case((64, 64, 10), 128, "tanh", "sgd", 2), Case((784, 128, 10), 128, "tanh", "sgd", 2))
"""The networks that predict."""


def chosen(text: str | None, known: Sequence[Case]) -> tuple[Case, ...]:
    """The cases whose title contains one of the comma-separated parts of the text; all of them for None.

    Raises:
        ValueError: no title does.
    """
    if text is None:
        return tuple(known)
    parts = [part.strip() for part in text.split(",") if part.strip()]
    found = tuple(case for case in known if any(part in case.title for part in parts))
    if not found:
        raise ValueError(
            f"--cases is a part of a case's title, or several with commas; received {text!r}. "
            f"The titles are {', '.join(case.title for case in known)}."
        )
    return found


@dataclass(frozen=True)
class Problem:
    """A case with its numbers.

    Attributes:
        case: the case.
        X: (m, n_in), float32.
        y: (m,) class indices, int64.
        weights: W (n_out, n_in) of each layer: normal with variance 1 / n_in.
        biases: b (n_out,) of each layer, 0.
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
        rows = case.distinct or case.samples
        X = rng.standard_normal((rows, case.sizes[0]), np.float32)
        y = rng.integers(0, case.sizes[-1], rows)
        # Every row is read once per epoch, so a repeated one costs as much time as a new one.
        times = case.samples // rows
        return cls.of(case, np.tile(X, (times, 1)), np.tile(y, times), seed)

    @classmethod
    def of(cls, case: Case, X: NDArray[Any], y: NDArray[np.int64], seed: int = SEED) -> Self:
        """The case on given data."""
        rng = np.random.default_rng((seed, 1))
        weights = [
            (rng.standard_normal((n_out, n_in)) / np.sqrt(n_in)).astype(np.float32)
            for n_in, n_out in pairwise(case.sizes)
        ]
        return cls(case, X, y, weights, [np.zeros(n, np.float32) for n in case.sizes[1:]], seed)

    def orders(self) -> np.random.Generator:
        """The generator whose permutations are the epochs' orders, the same as in an nnbp network with this seed."""
        return np.random.default_rng(np.random.SeedSequence((self.seed, _ORDER)))

    def queries(self, rows: int) -> NDArray[Any]:
        """Inputs (rows, n_in) to predict."""
        return np.random.default_rng((self.seed, 2)).standard_normal((rows, self.case.sizes[0]), np.float32)
