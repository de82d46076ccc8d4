"""`python -m bench.estimators`: nnbp's estimators beside scikit-learn's, in score and time, on the same splits.

Both have the same arguments and the same `random_state`, and are fitted in turn in one process. The score is that of
held-out samples: accuracy, or R².
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Sequence
from statistics import mean, median, stdev
from typing import Any

from sklearn import datasets, neural_network
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from nnbp import sklearn as estimators
from nnbp.cli.options import count
from nnbp.formatting import table

DATA: dict[str, tuple[str, Callable[[int], tuple[Any, Any]]]] = {
    "digits": ("Classifier", lambda seed: datasets.load_digits(return_X_y=True)),
    "breast cancer": ("Classifier", lambda seed: datasets.load_breast_cancer(return_X_y=True)),
    "wine": ("Classifier", lambda seed: datasets.load_wine(return_X_y=True)),
    "moons": ("Classifier", lambda seed: datasets.make_moons(500, noise=0.25, random_state=seed)),
    "diabetes": ("Regressor", lambda seed: datasets.load_diabetes(return_X_y=True)),
    "Friedman 1": ("Regressor", lambda seed: datasets.make_friedman1(500, noise=1.0, random_state=seed)),
}
"""The kind of estimator for each data set, and what makes its X and y."""

SOLVERS = ("adam", "sgd", "lbfgs")


def pair(name: str, solver: str, seed: int) -> list[tuple[float, float]]:
    """Score and seconds of the fit of scikit-learn's estimator, then of nnbp's."""
    kind, load = DATA[name]
    X, y = load(seed)
    if kind == "Regressor":
        y = (y - y.mean()) / y.std()
    stratify = y if kind == "Classifier" else None
    X, X_test, y, y_test = train_test_split(X, y, random_state=seed, stratify=stratify)
    scaler = StandardScaler().fit(X)
    X, X_test = scaler.transform(X), scaler.transform(X_test)
    found = []
    for module in (neural_network, estimators):
        mlp = getattr(module, f"MLP{kind}")(solver=solver, max_iter=500, random_state=seed)
        assert is_classifier(mlp) == (kind == "Classifier")
        start = time.perf_counter()
        mlp.fit(X, y)
        found.append((time.perf_counter() - start, mlp.score(X_test, y_test)))
    return [(score, seconds) for seconds, score in found]


def compare(name: str, solver: str, seeds: Sequence[int]) -> tuple[str, ...]:
    """A row of the table: mean scores, their difference with its standard error, times, and their ratio."""
    pairs = [pair(name, solver, seed) for seed in seeds]
    theirs, ours = ([scores[k][0] for scores in pairs] for k in (0, 1))
    differences = [own - other for own, other in zip(ours, theirs, strict=True)]
    error = stdev(differences) / math.sqrt(len(differences))
    seconds = [median(scores[k][1] for scores in pairs) for k in (0, 1)]
    ratio = median(scores[0][1] / scores[1][1] for scores in pairs)
    return (
        name, solver, f"{mean(theirs):.4f}", f"{mean(ours):.4f}", f"{mean(differences):+.4f}", f"{error:.4f}",
        *(f"{1000 * each:.0f}" for each in seconds), f"{ratio:.2f}",
    )  # fmt: skip


def main() -> None:
    """Prints a table with one row for each data set and solver."""
    parser = argparse.ArgumentParser(prog="python -m bench.estimators", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("--seeds", type=count, default=10, help="number of seeds, at least 2 (default: 10)")
    parser.add_argument("--data", choices=DATA, nargs="+", default=[*DATA], help="data sets (default: all)")
    parser.add_argument("--solvers", choices=SOLVERS, nargs="+", default=[*SOLVERS], help="solvers (default: all)")
    arguments = parser.parse_args()
    # Both stop where scikit-learn would; whether that is early enough is not the question here.
    warnings.simplefilter("ignore", ConvergenceWarning)
    for name in arguments.data:
        pair(name, "adam", 0)
    head = ("data", "solver", "scikit-learn", "nnbp", "difference", "error", "scikit-learn, ms", "nnbp, ms", "ratio")
    rows = [compare(name, solver, range(arguments.seeds)) for name in arguments.data for solver in arguments.solvers]
    print("\n".join(table([head, *rows], left=(0, 1))))


if __name__ == "__main__":
    main()
