"""The results of a pass over some samples, as `Network.trace` and `Network.gradients` return them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Trace:
    """A forward pass: ``z[l]`` and ``a[l]`` (m, n_l) of layer l, counted from 1; ``a[0]`` is X, ``z[0]`` None.

    The layers are those that have an activation: Dense, BatchNorm and LayerNorm.
    """

    z: list[Any]
    a: list[Any]


@dataclass(frozen=True, eq=False)
class Gradients:
    """The gradients that backpropagation finds.

    Attributes:
        loss: J.
        dW, db: ∂J/∂W and ∂J/∂b of each dense layer, views of `flat`.
        delta: ∂C/∂z of every sample, (m, n_out) for each layer that has an activation.
        dX: ∂C/∂x of every sample, (m, n_in).
        flat: ∇J in the order of `Network.parameters`.
    """

    loss: float
    dW: list[Any]
    db: list[Any]
    delta: list[Any]
    dX: Any
    flat: Any
