"""`python -m bench.small_regression`: Levenberg–Marquardt beside L-BFGS and full-batch Adam, in time to a given error.

All three begin with the same parameters, in float64 on one thread, and are timed in turn in one process. The time is
that of `fit` until the mean squared error of the training data has reached the goal.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import nnbp
from nnbp.cli.options import count
from nnbp.formatting import table

Data = tuple[Any, Any]


def _sine(seed: int) -> Data:
    x = np.linspace(-1, 1, 101).reshape(-1, 1)
    return x / x.std(), np.sin(3 * np.pi * x)


def _friedman(samples: int) -> Callable[[int], Data]:
    def make(seed: int) -> Data:
        from sklearn.datasets import make_friedman1

        X, y = make_friedman1(samples, noise=0.0, random_state=seed)
        return (X - X.mean(0)) / X.std(0), y.reshape(-1, 1)

    return make


CASES: dict[str, tuple[Callable[[int], Data], list[int], float]] = {
    "sin 3πx, 1-10-1": (_sine, [1, 10, 1], 1e-6),
    "Friedman 1, 200 samples, 10-20-1": (_friedman(200), [10, 20, 1], 1e-2),
    "Friedman 1, 1,000 samples, 10-20-1": (_friedman(1000), [10, 20, 1], 3e-4),
}
"""What makes the data, the sizes of the layers, and the goal, a mean squared error."""

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "levenberg_marquardt": {"epochs": 2000},
    "lbfgs": {"epochs": 5000},
    "adam": {"epochs": 400_000, "batch_size": None, "learning_rate": 0.01},
}


def seconds(name: str, case: str, seed: int, limit: float) -> float:
    """The time until the error is reached, or infinity if it takes longer than the limit."""
    make, sizes, goal = CASES[case]
    x, y = make(seed)
    layers: list[int | nnbp.Layer] = [
        sizes[0],
        nnbp.Dense(sizes[1], "tanh", initializer="nguyen_widrow"),
        nnbp.Dense(sizes[2]),
    ]
    net = nnbp.Network(layers, dtype="float64", device="cpu", seed=seed)
    start = time.perf_counter()
    reached = []

    def stop(state: nnbp.TrainingState) -> None:
        if 2 * state.logs["loss"] <= goal:
            reached.append(time.perf_counter() - start)
            state.stop = "reached"
        elif time.perf_counter() - start > limit:
            state.stop = "late"

    net.fit(x, y, optimizer=name, callbacks=[stop], progress=False, **OPTIMIZERS[name])
    return reached[0] if reached else float("inf")


def compare(case: str, seeds: Sequence[int], limit: float) -> tuple[str, ...]:
    """A row: medians in milliseconds, and how many times as long the others take."""
    found: dict[str, list[float]] = {name: [] for name in OPTIMIZERS}
    for seed in seeds:
        for name, times in found.items():
            times.append(seconds(name, case, seed, limit))
    middle = {name: median(times) for name, times in found.items()}
    ratios = [f"{middle[name] / middle['levenberg_marquardt']:.1f}" for name in ("lbfgs", "adam")]
    return (case, *(f"{1000 * middle[name]:.1f}" for name in OPTIMIZERS), *ratios)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.small_regression", description=__doc__)
    parser.add_argument("--seeds", type=count, default=5, metavar="N", help="networks per case (default 5)")
    parser.add_argument("--limit", type=float, default=20.0, metavar="S", help="seconds per fit (default 20)")
    arguments = parser.parse_args()
    head = ("case", *(f"{name}, ms" for name in OPTIMIZERS), "lbfgs ÷", "adam ÷")
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The first fit of each optimizer imports and compiles.
        for name in OPTIMIZERS:
            seconds(name, next(iter(CASES)), 0, 0.1)
        rows = [compare(case, range(arguments.seeds), arguments.limit) for case in CASES]
    print("\n".join(table([head, *rows], left=(0,), ruled=True)))


if __name__ == "__main__":
    main()
