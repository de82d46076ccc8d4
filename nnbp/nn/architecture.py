"""What a user says of a network, made definite: the list of layers with every activation decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnbp.errors import DataError
from nnbp.nn import activations, losses
from nnbp.nn.activations import Activation, Softmax
from nnbp.nn.derivative_check import check_activation, check_loss
from nnbp.nn.layers import Dense, Layer
from nnbp.nn.losses import Loss
from nnbp.validation import whole_number

HIDDEN_UNITS = 100
"""Units of the one hidden layer of a network that was given no sizes."""

_CLASSES_WITHOUT_QUESTION = 1000
# A larger class index, and larger than the number of samples, is taken for a label such as a year.


class Architecture:
    """Layers, loss and the number of inputs, as far as they are known.

    Args:
        layers: sizes of all layers, input first; or layers, of which a leading number is the number of inputs and any
            other number a Dense layer; or None for one hidden layer, the rest from the data.
        activation: of the hidden layers: one, or a sequence with one for each.
        output_activation: of the last layer; None is what goes with the loss.
        loss: by name or as an object.
    """

    def __init__(
        self,
        layers: Sequence[int | Layer] | None,
        activation: str | Activation | Sequence[str | Activation],
        output_activation: str | Activation | None,
        loss: str | Loss,
    ) -> None:
        self.loss = losses.get(loss)
        self.n_in: int | None = None
        if isinstance(layers, int | str | Layer):
            raise ValueError(
                f"The layers are a list of sizes or layers, input first: [64, 32, 10]; received {layers!r}. Put it in "
                "a list."
            )
        items: list[int | Layer | None] = [HIDDEN_UNITS, None] if layers is None else list(layers)
        if layers is not None and items and not isinstance(items[0], Layer):
            self.n_in = whole_number("The number of inputs", items.pop(0), 1)
        self._items = [item if isinstance(item, Layer | None) else Dense(item) for item in items]
        last = self._items[-1] if self._items else self.n_in
        if not self._items or not isinstance(last, Dense | None):
            raise ValueError(
                "A network ends in a Dense layer, or a size: [64, 32, 10], or [Dense(32), Dropout(0.1), Dense(10)]; "
                f"received {layers!r}. Add the output layer."
            )
        self.output = activations.get(self.loss.output_activation if output_activation is None else output_activation)
        self.hidden = self._hidden(activation)
        self._check()

    def _hidden(self, activation: str | Activation | Sequence[str | Activation]) -> list[Activation]:
        count = sum(not isinstance(item, Layer) or isinstance(item, Dense) for item in self._items) - 1
        if isinstance(activation, str) or not isinstance(activation, Sequence):
            return [activations.get(activation)] * count
        if len(activation) != count:
            raise ValueError(
                f"`activation` is one for all hidden layers or one for each; there are {count} hidden layers, received "
                f"{len(activation)} activations."
            )
        return [activations.get(item) for item in activation]

    def _check(self) -> None:
        decided = self.layers(outputs=2)
        dense = [layer for layer in decided if isinstance(layer, Dense)]
        for layer in dense:
            check_activation(layer.f)
        for layer in dense[:-1]:
            if isinstance(layer.f, Softmax):
                raise ValueError(
                    "softmax is for the output layer; received it for a hidden layer. Use tanh or relu there."
                )
        f, loss = dense[-1].f, self.loss
        if loss.requires is not None and type(f) is not Activation.registry.get(loss.requires):
            raise ValueError(
                f"The loss {loss.name} is computed from z with the output activation {loss.requires}; received "
                f"{f.name}. Leave output_activation out, or choose another loss."
            )
        if loss.name == "cross_entropy" and self._items[-1] is not None and dense[-1].units < 2:
            raise ValueError(
                "cross_entropy compares at least 2 classes, one output each; received an output layer with 1 unit. Use "
                "2 units, or loss='binary_cross_entropy'."
            )
        check_loss(loss, f)

    @property
    def n_out(self) -> int | None:
        """Size of the output layer, if it is known."""
        last = self._items[-1]
        return last.units if isinstance(last, Dense) else None

    def outputs_of(self, y: np.ndarray[Any, Any]) -> int:
        """Size of the output layer that these targets ask for."""
        if y.ndim == 2 and y.shape[1] > 1:
            return int(y.shape[1])
        if self.loss.name == "cross_entropy":
            largest = int(np.max(y))
            if largest >= max(len(y), _CLASSES_WITHOUT_QUESTION):
                raise DataError(
                    f"Class indices number the classes from 0; received {largest} among {len(y)} targets, which asks "
                    "for as many outputs. Encode labels with np.unique(y, return_inverse=True), or give the sizes of "
                    "the layers."
                )
            return max(2, largest + 1)
        return 1

    def layers(self, outputs: int) -> list[Layer]:
        """The layers, activations decided; `outputs` is the size of the last one if it was left open."""
        decided: list[Layer] = []
        hidden = iter(self.hidden)
        for k, item in enumerate(self._items):
            layer = Dense(outputs) if item is None else item
            if isinstance(layer, Dense):
                layer = layer.with_activation(self.output if k == len(self._items) - 1 else next(hidden))
            decided.append(layer)
        return decided
