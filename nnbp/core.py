"""What a Network stands on: its arguments, its device, its parameters, and how users' arrays get to the device."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnbp.activations import Activation
from nnbp.architecture import Architecture
from nnbp.backend import Array, Backend
from nnbp.device import open_backend
from nnbp.errors import DataError, DTypeError, NnbpError, ShapeError
from nnbp.inputs import class_weights, features, finite, host, not_negative, sample_weights, whole_number
from nnbp.layers import Layer
from nnbp.losses import Loss
from nnbp.metrics import Metric
from nnbp.model import Model
from nnbp.optimizers import Optimizer
from nnbp.sweep import Data, OptimizerState
from nnbp.training import Measured

__all__ = ["NetworkCore"]

# The word of the seed for drawing validation samples; see the words in `nnbp.model`.
_SPLIT = 3


class NetworkCore:
    """State and intake of a network; `nnbp.network.Network` adds what one does with it."""

    def __init__(
        self,
        layers: Sequence[int | Layer] | None = None,
        *,
        activation: str | Activation | Sequence[str | Activation] = "relu",
        loss: str | Loss = "squared_error",
        weight_decay: float = 0.0,
        device: str | Backend = "auto",
        dtype: Any = "float32",
        seed: int | None = None,
        output_activation: str | Activation | None = None,
        fallback: bool = True,
    ) -> None:
        self._architecture = Architecture(layers, activation, output_activation, loss)
        self.weight_decay = not_negative("weight_decay, λ,", weight_decay)
        self.dtype = _float_dtype(dtype)
        self.seed = int.from_bytes(os.urandom(4), "big") if seed is None else whole_number("seed", seed, 0)
        self._backend = _opened(device, fallback)
        self._model: Model | None = None
        self._ongoing: tuple[Optimizer, OptimizerState] | None = None
        if self._architecture.n_in is not None and self._architecture.n_out is not None:
            self._build(self._architecture.n_in, self._architecture.n_out)

    def _build(self, n_in: int, n_out: int) -> Model:
        with self._backend.active():
            self._model = Model(
                self._backend, self._architecture.layers(n_out), self._architecture.loss, n_in=n_in,
                weight_decay=self.weight_decay, dtype=self.dtype, seed=self.seed,
            )  # fmt: skip
        return self._model

    @property
    def model(self) -> Model:
        """The network with its sizes known.

        Raises:
            NnbpError: they are not known yet.
        """
        if self._model is None:
            raise NnbpError(
                "The sizes of this network are taken from the data, and it has seen none yet. Call fit(X, y) first, or "
                "give the sizes: Network([n_in, 100, n_out])."
            )
        return self._model

    @property
    def device(self) -> str:
        """Where the network is: "cpu", "cuda:0"."""
        return self._backend.device

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, without the input."""
        return self.model.layers

    @property
    def loss_function(self) -> Loss:
        """C."""
        return self._architecture.loss

    @property
    def parameters(self) -> Array:
        """theta = [W¹, W², …, b¹, b², …], one flat device array; `weights` and `biases` are views of it."""
        return self.model.parameters.theta

    @property
    def weights(self) -> list[Array]:
        """W of each dense layer, (n_out, n_in)."""
        return self._views(self.parameters, "W")

    @property
    def biases(self) -> list[Array]:
        """b of each dense layer, (n_out,)."""
        return self._views(self.parameters, "b")

    def _views(self, vector: Array, name: str) -> list[Array]:
        views = self.model.parameters.views(vector)
        return [views[k][name] for k in self.model.dense]

    def set_parameters(self, weights: Sequence[ArrayLike], biases: Sequence[ArrayLike]) -> None:
        """Sets every W, (n_out, n_in), and every b, (n_out,), from lists of arrays.

        Raises:
            ShapeError: a shape or the number of arrays is wrong; nothing is changed then.
        """
        flat = np.empty(self.model.parameters.size, self.dtype)
        for name, arrays in (("W", weights), ("b", biases)):
            views = self._views(flat, name)
            if len(arrays) != len(views):
                raise ShapeError(f"There is one {name} for each of {len(views)} dense layers; received {len(arrays)}.")
            for k, (view, values) in enumerate(zip(views, arrays, strict=True)):
                array = host(values, f"{name}[{k}]")
                if array.shape != view.shape:
                    raise ShapeError(f"{name}[{k}] has shape {view.shape}; received {array.shape}. W is (n_out, n_in).")
                view[...] = array
        with self._backend.active():
            self.parameters[...] = self._backend.upload(flat, self.dtype)

    def _inputs(self, X: Any) -> Array:
        """X on the device; a network whose layers are given but not its inputs learns their number here."""
        array = self._features(X)
        if self._model is None and self._architecture.n_out is not None:
            self._build(array.shape[1], self._architecture.n_out)
        return array

    def _features(self, X: Any) -> Array:
        n_in = self._architecture.n_in if self._model is None else self._model.n_in
        with self._backend.active():
            return features(self._backend, X, self.dtype, n_in)

    def _targets(self, y: Any, samples: int) -> NDArray[Any]:
        """Targets on the host: one a sample, finite."""
        values = host(y, "y")
        if values.ndim == 0 or len(values) != samples:
            raise ShapeError(f"y has one target a sample, {samples} here; received shape {values.shape}.")
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise DataError(f"Targets are finite numbers; received {values[row]} in row {row}. Drop such samples.")
        return values

    def _data(self, X: Any, y: Any, weights: Any = None) -> tuple[Data, NDArray[Any], NDArray[np.float64] | None]:
        array = self._features(X)
        values = self._targets(y, len(array))
        n_out = self._architecture.n_out if self._model is None else self._model.n_out
        n_out = self._architecture.outputs_of(values) if n_out is None else n_out
        encoded = self.loss_function.encode(values, n_out)
        w = sample_weights(weights, len(array))
        # Sizes are taken from data that were found good.
        if self._model is None:
            self._build(array.shape[1], n_out)
        with self._backend.active():
            return Data(array, self._backend.upload(encoded, self.dtype), self._column(w)), values, w

    def _column(self, w: NDArray[np.float64] | None) -> Array | None:
        with self._backend.active():
            return None if w is None else self._backend.upload(w.reshape(-1, 1), self.dtype)

    def _measured(
        self, X: Any, y: Any, weights: Any, class_weight: Mapping[int, float] | str | None,
        reference: NDArray[Any] | None, metrics: Sequence[Metric],
    ) -> Measured:  # fmt: skip
        """A data set with what its metrics need; class weights multiply the sample weights."""
        data, values, w = self._data(X, y, weights)
        finite(self._backend, data.X, "X")
        truth = self.loss_function.truth(values)
        if class_weight is not None and not self.loss_function.classification:
            raise ValueError(
                f"class_weight belongs to classes, and the loss {self.loss_function.name} is for values; received "
                f"{class_weight!r}. Use sample_weight."
            )
        by_class = class_weights(class_weight, truth, truth if reference is None else reference)
        if by_class is not None:
            w = sample_weights(by_class if w is None else w * by_class, len(by_class))
            data = Data(data.X, data.y, self._column(w))
        return Measured(data, truth, w, self._predicted, metrics)

    def _predicted(self, X: Array, needs: str) -> NDArray[Any]:
        """What a metric wants to see of device inputs, on the host."""
        xp, loss = self._backend.xp, self.loss_function
        with self._backend.active():
            h = self.model.forward(X)
            if needs == "labels":
                return self._backend.download(loss.decide(xp, h))
            if needs == "probabilities":
                return self._backend.download(loss.probabilities(xp, h))
            values = self._backend.download(h)
        return values[:, 0] if values.shape[1] == 1 else values

    def _split(self, X: Any, y: Any, weights: Any, validation_data: Any, share: float) -> tuple[Any, Any, Any, Any]:
        if validation_data is not None:
            raise ValueError(
                "Validation data are given or split off, not both; received validation_data and validation_split."
            )
        if not 0 < share < 1:
            raise ValueError(f"validation_split is a share of the samples, at least 0 and below 1; received {share!r}.")
        data, values, w = self._data(X, y, weights)
        m = len(data)
        aside = min(max(1, round(m * share)), m - 1)
        if m < 2:
            raise ValueError(f"validation_split needs at least 2 samples; received {m}.")
        order = np.random.default_rng(np.random.SeedSequence((self.seed, _SPLIT))).permutation(m)
        parts = []
        for rows in (np.sort(order[aside:]), np.sort(order[:aside])):
            with self._backend.active():
                part = data.X[self._backend.upload(rows, np.int64)]
            parts.append((part, values[rows], None if w is None else w[rows]))
        return (*parts[0], parts[1])

    def _twin(self, device: str | Backend, dtype: Any) -> Self:
        """A network of its own with the same parameters and random sequences, on a device that has to work."""
        state = {**self.__getstate__(), "device": device, "fallback": False, "dtype": np.dtype(dtype).name}
        twin = object.__new__(type(self))
        twin.__setstate__({**state, "ongoing": None})
        return twin

    def _move(self, device: str | Backend, *, fallback: bool) -> None:
        """Opens another device and takes parameters, optimizer state and random sequences along."""
        state = self.__getstate__()
        self.__setstate__({**state, "device": device, "fallback": fallback})

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "architecture": self._architecture, "weight_decay": self.weight_decay, "dtype": self.dtype.name,
            "seed": self.seed, "device": self.device, "fallback": True, "sizes": None, "ongoing": None,
        }  # fmt: skip
        if self._model is not None:
            model, download = self._model, self._backend.download
            state |= {
                "sizes": (model.n_in, model.n_out),
                "theta": np.array(download(model.parameters.theta)),
                "order": model.order_generator.bit_generator.state,
                "masks": [None if stream is None else stream.position for stream in model.engine.streams],
            }
            if self._ongoing is not None:
                optimizer, memory = self._ongoing
                slots = {name: np.array(download(slot)) for name, slot in memory.slots.items()}
                state["ongoing"] = (optimizer, memory.steps, slots)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._architecture = state["architecture"]
        self.weight_decay, self.seed = state["weight_decay"], state["seed"]
        self.dtype = np.dtype(state["dtype"])
        self._backend = _opened(state["device"], state["fallback"])
        self._model, self._ongoing = None, None
        if state["sizes"] is None:
            return
        model = self._build(*state["sizes"])
        with self._backend.active():
            model.parameters.theta[...] = self._backend.upload(state["theta"], self.dtype)
            model.order_generator.bit_generator.state = state["order"]
            for stream, position in zip(model.engine.streams, state["masks"], strict=True):
                if stream is not None:
                    stream.position = position
            if state["ongoing"] is not None:
                optimizer, steps, slots = state["ongoing"]
                arrays = {name: self._backend.upload(slot, self.dtype) for name, slot in slots.items()}
                self._ongoing = (optimizer, OptimizerState(steps, arrays))


def _opened(device: str | Backend, fallback: bool) -> Backend:
    """The backend of a device; a backend that the caller has made serves as it is."""
    return device if isinstance(device, Backend) else open_backend(device, fallback=fallback)


def _float_dtype(dtype: Any) -> np.dtype[Any]:
    try:
        made = np.dtype(object if dtype is None else dtype)
    except TypeError:
        made = np.dtype(object)
    if made not in (np.float32, np.float64):
        raise DTypeError(f"dtype is float32 or float64; received {dtype!r}.")
    return made
