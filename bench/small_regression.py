"""`python -m bench.small_regression`: Levenberg–Marquardt beside others, on small networks in float64 on one thread.

`--table time`: L-BFGS and full-batch Adam, in the time to a given error. All three begin with the same parameters and
are timed in turn in one process. The time is that of `fit` until the mean squared error of the training data has
reached the goal.

`--table noise`: Bayesian regularization on all training samples, and Levenberg–Marquardt stopped early by 20 % of them,
in the root mean squared error on test data. Inputs and targets are standardised by the training data. The test targets
of the synthetic sets are without noise.
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


def _noisy_sine(seed: int) -> tuple[Data, Data]:
    x, dense = np.linspace(-1, 1, 41).reshape(-1, 1), np.linspace(-1, 1, 401).reshape(-1, 1)
    noise = np.random.default_rng(seed).normal(0.0, 0.2, x.shape)
    return (x, np.sin(np.pi * x) + noise), (dense, np.sin(np.pi * dense))


def _diabetes(seed: int) -> tuple[Data, Data]:
    from sklearn.datasets import load_diabetes

    X, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(X))
    train, test = order[: 3 * len(X) // 4], order[3 * len(X) // 4 :]
    return (X[train], y[train].reshape(-1, 1)), (X[test], y[test].reshape(-1, 1))


def _noisy_friedman(samples: int) -> Callable[[int], tuple[Data, Data]]:
    def make(seed: int) -> tuple[Data, Data]:
        from sklearn.datasets import make_friedman1

        X, y = make_friedman1(samples, noise=1.0, random_state=seed)
        X_test, y_test = make_friedman1(1000, noise=0.0, random_state=1000 + seed)
        return (X, y.reshape(-1, 1)), (X_test, y_test.reshape(-1, 1))

    return make


NOISY: dict[str, tuple[Callable[[int], tuple[Data, Data]], int]] = {
    "sin πx, 41 samples, σ = 0.2, 1-10-1": (_noisy_sine, 10),
    "diabetes, 331 samples, 10-5-1": (_diabetes, 5),
    "Friedman 1, 200 samples, σ = 1, 10-10-1": (_noisy_friedman(200), 10),
    "Friedman 1, 400 samples, σ = 1, 10-10-1": (_noisy_friedman(400), 10),
}
"""What makes the training and the test data, and the hidden units."""

AGAINST_NOISE: dict[str, dict[str, Any]] = {
    "bayesian_regularization": {},
    "levenberg_marquardt": {"validation_split": 0.2, "early_stopping": 10},
}


def error(name: str, case: str, seed: int, initializer: str | None) -> tuple[float, int]:
    """The root mean squared error on the test data, in deviations of the training targets, and the epochs."""
    make, units = NOISY[case]
    (X, y), (X_test, y_test) = make(seed)
    mean, deviation, level, scale = X.mean(0), X.std(0), y.mean(), y.std()
    layers: list[int | nnbp.Layer] = [X.shape[1], nnbp.Dense(units, "tanh", initializer=initializer), nnbp.Dense(1)]
    net = nnbp.Network(layers, dtype="float64", device="cpu", seed=seed)
    history = net.fit(
        (X - mean) / deviation, (y - level) / scale, optimizer=name, epochs=1000, progress=False, **AGAINST_NOISE[name]
    )
    residuals = net.forward((X_test - mean) / deviation) - (y_test - level) / scale
    return float(np.sqrt(np.mean(residuals**2))), history.epochs


def compare_errors(case: str, seeds: Sequence[int], initializer: str | None) -> tuple[str, ...]:
    """A row: means of the errors and medians of the epochs, and in how many data sets the first error is the lower."""
    found = {name: [error(name, case, seed, initializer) for seed in seeds] for name in AGAINST_NOISE}
    means = [f"{np.mean([each for each, _ in runs]):.4f}" for runs in found.values()]
    epochs = [f"{median(count for _, count in runs):.0f}" for runs in found.values()]
    first, second = found.values()
    lower = sum(one < other for (one, _), (other, _) in zip(first, second, strict=True))
    return (case, *means, f"{lower} of {len(first)}", *epochs)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.small_regression", description=__doc__)
    parser.add_argument("--table", choices=("time", "noise"), default="time", help="what is compared (default time)")
    parser.add_argument("--seeds", type=count, default=5, metavar="N", help="networks per case (default 5)")
    parser.add_argument(
        "--initializer", default="nguyen_widrow", help="of the hidden layer, for noise (default nguyen_widrow)"
    )
    parser.add_argument("--limit", type=float, default=20.0, metavar="S", help="seconds per fit (default 20)")
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    head: tuple[str, ...] = ("case", *(f"{name}, ms" for name in OPTIMIZERS), "lbfgs ÷", "adam ÷")
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if arguments.table == "noise":
            head = ("case", *AGAINST_NOISE, "lower", *(f"epochs of {name}" for name in AGAINST_NOISE))
            rows = [compare_errors(case, seeds, arguments.initializer) for case in NOISY]
        else:
            # The first fit of each optimizer imports and compiles.
            for name in OPTIMIZERS:
                seconds(name, next(iter(CASES)), 0, 0.1)
            rows = [compare(case, seeds, arguments.limit) for case in CASES]
    print("\n".join(table([head, *rows], left=(0,), ruled=True)))


if __name__ == "__main__":
    main()
