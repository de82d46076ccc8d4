"""What a user says of a network, made definite: the list of layers with every activation decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnbp.errors import DataError
from nnbp.formatting import shown
from nnbp.nn import activations, losses
from nnbp.nn.activations import Activation, Softmax
from nnbp.nn.derivative_check import check_activation, check_loss
from nnbp.nn.layers import Dense, Layer
from nnbp.nn.losses import Loss
from nnbp.validation import LARGEST_SIZE, items, whole_number

HIDDEN_UNITS = 100
"""Units of the one hidden layer of a network that was given no sizes."""

_LAYERS = "a list of sizes or layers, input first, such as [64, 32, 10]"

_CLASSES_WITHOUT_QUESTION = 1000
# A larger class index, and larger than the number of samples, is taken for a label such as a year.


class Architecture:
    """Layers, loss, and the numbers of inputs and outputs as far as they are known.

    Attributes:
        loss: C.
        n_in: number of inputs, or None.
        n_out: size of the output layer, or None.

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
        found = [HIDDEN_UNITS] if layers is None else items("layers", layers, _LAYERS)
        if layers is not None and found and not isinstance(found[0], Layer):
            self.n_in = whole_number("The number of inputs", found.pop(0), 1, LARGEST_SIZE)
        given = [item if isinstance(item, Layer) else Dense(item) for item in found]
        if not given or not isinstance(given[-1], Dense):
            raise ValueError(
                "A network ends in a Dense layer, or a size: [64, 32, 10], or [Dense(32), Dropout(0.1), Dense(10)]; "
                f"received {shown(layers)}. Add the output layer."
            )
        self.n_out = None if layers is None else given[-1].units
        self._output = activations.get(self.loss.output_activation if output_activation is None else output_activation)
        dense = sum(isinstance(layer, Dense) for layer in given)
        hidden = _one_each(activation, dense if layers is None else dense - 1)
        choices = iter([*hidden, self._output])
        # Without the output layer if its size comes from the data.
        self._decided = [layer.with_activation(next(choices)) if isinstance(layer, Dense) else layer for layer in given]
        self._check()

    @property
    def first(self) -> Layer:
        """The layer that reads X."""
        return self._decided[0]

    def _check(self) -> None:
        for k, layer in enumerate(self._decided):
            if k and layer.observes_inputs:
                raise ValueError(
                    f"{layer!r} is for the inputs of a network, so it is the first layer; received it after "
                    f"{self._decided[k - 1]!r}. Move it to the front."
                )
        layers = self.layers(outputs=2)
        used = [layer.activation for layer in layers if layer.activation is not None]
        for activation in used:
            check_activation(activation)
        last = layers[-1]
        assert isinstance(last, Dense), "a network ends in a Dense layer"
        if any(isinstance(activation, Softmax) for activation in used[:-1]):
            raise ValueError("softmax is for the output layer; received it for a hidden layer. Use tanh or relu there.")
        f, loss = last.f, self.loss
        if loss.requires is not None and type(f) is not Activation.registry.get(loss.requires):
            raise ValueError(
                f"The loss {loss.name} is computed from z with the output activation {loss.requires}; received "
                f"{f.name}. Leave output_activation out, or choose another loss."
            )
        if loss.name == "cross_entropy" and last.units < 2:
            raise ValueError(
                "cross_entropy compares at least 2 classes, one output each; received an output layer with 1 unit. Use "
                "2 units, or loss='binary_cross_entropy'."
            )
        check_loss(loss, f)

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

    def table(self) -> list[tuple[str, str, str]]:
        """Kind, units and activation of the input and of each layer, a head first; what data decide says so."""
        rows = [("layer", "units", "activation"), ("input", str(self.n_in or "from X"), "")]
        for layer in self.layers(1):
            f = "" if layer.activation is None else layer.activation.name
            rows.append((layer.kind, str(layer.config().get("units", "")), f))
        if self.n_out is None:
            rows[-1] = (rows[-1][0], "from y", rows[-1][2])
        return rows

    def layers(self, outputs: int) -> list[Layer]:
        """The layers, activations decided; `outputs` is the size of the last one if it was left open."""
        return [*self._decided, *([] if self.n_out else [Dense(outputs, self._output)])]


def _one_each(activation: str | Activation | Sequence[str | Activation], count: int) -> list[Activation]:
    """An activation for each of `count` hidden layers."""
    if isinstance(activation, str) or not isinstance(activation, Sequence):
        return [activations.get(activation)] * count
    if len(activation) != count:
        raise ValueError(
            f"`activation` is one for all hidden layers or one for each; there are {count} hidden layers, received "
            f"{len(activation)} activations."
        )
    return [activations.get(item) for item in activation]
