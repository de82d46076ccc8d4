"""Small networks, data and fits for tests of training."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp import Network
from nnbp.optim.optimizers import Optimizer


def _rule(optimizer: Any) -> Any:
    return Optimizer.registry[optimizer] if isinstance(optimizer, str) else optimizer


def loss_for(optimizer: Any) -> str:
    """A loss that an optimizer can train; it may be a name or an object."""
    return "squared_error" if _rule(optimizer).squares_only else "cross_entropy"


def decay_for(optimizer: Any, decay: float) -> float:
    """This weight decay, or 0 if the optimizer sets its own."""
    return 0.0 if _rule(optimizer).sets_decay else decay


def network(*sizes: int, **options: Any) -> Network:
    options = {"activation": "tanh", "dtype": "float64", "device": "cpu", "seed": 1, **options}
    return Network(list(sizes or (3, 4, 2)), **options)


def data(m: int, n_in: int = 3, n_out: int = 2, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, n_in)), rng.normal(size=(m, n_out))


def fit(net: Network, X: Any, y: Any, **options: Any) -> Any:
    return net.fit(X, y, **{"epochs": 3, "progress": False, **options})
