"""What the parity suite goes over: every activation, loss and optimizer that is registered."""

from __future__ import annotations

import numpy as np

from nnbp.nn.activations import Activation
from nnbp.nn.losses import Loss
from nnbp.optim.optimizers import Optimizer

LOSSES = list(Loss.registry)
OPTIMIZERS = list(Optimizer.registry)
HIDDEN = [name for name in Activation.registry if name != "softmax"]
OUTPUT = [
    (output, loss)
    for loss, cls in Loss.registry.items()
    for output in Activation.registry
    if cls.requires is None and output != cls.output_activation
]

WEIGHTS = np.array([1.0, 0.0, 0.5, 2.0, 0.1, 3.0])


def outputs_of(loss: str, output: str | None = None) -> tuple[int, ...]:
    """1, 2 and 5 outputs; softmax over one output is constant."""
    return (2, 5) if "softmax" in (output, Loss.registry[loss].requires) else (1, 2, 5)
