"""What a fit has achieved: a warning if it left the network worse, or hardly better than a constant prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.engine.dataset import Dataset
from nnbp.formatting import shown
from nnbp.nn.losses import Loss
from nnbp.training.trainer import Trainer
from nnbp.validation import Sparse

_WORSE = 0.05
"""J may grow by this share of its size: training that goes on from good parameters moves around them."""

_LITTLE = 0.01
"""This share of the way from the best constant prediction to perfect ones counts as nothing, either way."""

_STEPS = 100
"""Steps before a fit is expected to be better than a constant prediction."""

_LARGE = 10.0
"""Root mean square from which on inputs and targets slow training down, or make it diverge."""


@dataclass(frozen=True)
class Outcome:
    """What is known after a fit.

    Args:
        loss: the loss function.
        data: the samples on which J was taken; y and the weights are on the host.
        trainer: after it has run.
    """

    loss: Loss
    data: Dataset
    trainer: Trainer

    def doubt(self) -> str | None:
        """What is wrong with the result, why, and what to do about it; None if nothing seems to be."""
        trainer = self.trainer
        before, after, epochs = trainer.before, trainer.after, trainer.epochs
        perfect, constant = self.loss.bounds(self.data.y, self.data.weights)
        room, cost = constant - perfect, after - trainer.decay
        # A rule that sets the weight decay gives up a part of the fit on purpose.
        comparable = math.isfinite(before) and not trainer.options.optimizer.sets_decay
        if comparable and after - before > max(_WORSE * abs(before), _LITTLE * room):
            what = f"The network has got worse: J was {before:.4g} before the fit and is {after:.4g} after it."
            return f"{what} {self._remedy('Lower the learning rate')}"
        if trainer.memory.doubt is not None:
            return trainer.memory.doubt
        # With targets that are all the same, a constant prediction is perfect.
        if trainer.steps < _STEPS or not room > 1e-9 * abs(constant) or cost < constant - _LITTLE * room:
            return None
        what = (
            f"After {epochs} epochs the network is {'hardly' if cost < constant else 'no'} better than a constant "
            f"prediction: the mean cost of a sample is {cost:.4g}, and {constant:.4g} if h is the best constant."
        )
        return f"{what} {self._remedy('Train for more epochs, or with another learning rate')}"

    def _remedy(self, otherwise: str) -> str:
        remedies = []
        X, y, model = self.data.X, self.data.y, self.trainer.model
        # Columns of sparse data are mostly 0.
        X = np.zeros((1, 1)) if isinstance(X, Sparse) else model.backend.download(X) if model.backend.owns(X) else X
        sizes = _sizes(X)
        if not (sizes.max() <= _LARGE or model.layers[0].observes_inputs):
            k = int(np.argmax(sizes))
            column = X[:, k].astype(np.float64)
            remedies.append(
                f"Column {k} of X has the mean {column.mean():.4g} and the deviation {column.std():.4g}; inputs should "
                "be standardised: make nnbp.Standardize() the first layer."
            )
        if self.loss.output_activation == "identity" and not _sizes(y).max() <= _LARGE:
            remedies.append(
                f"The targets have the mean {y.mean():.4g} and the deviation {y.std():.4g}; they should be "
                "standardised: train on (y - y.mean()) / y.std()."
            )
        return " ".join(remedies) or f"{otherwise} (it was {shown(self.trainer.rate)})."


def _sizes(array: NDArray[Any]) -> NDArray[np.float64]:
    """The root mean square of every column."""
    found: NDArray[np.float64] = np.sqrt(np.mean(np.square(array, dtype=np.float64), axis=0))
    return found
