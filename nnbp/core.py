"""What a Network stands on: its arguments, its device, its parameters, and how users' arrays get to the device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnbp.activations import Activation
from nnbp.architecture import Architecture
from nnbp.backend import Array
from nnbp.device import open_backend
from nnbp.errors import DataError, DTypeError, NnbpError, ShapeError
from nnbp.inputs import features, host, sample_weights, whole_number
from nnbp.layers import Layer
from nnbp.losses import Loss
from nnbp.model import Model
from nnbp.optimizers import Optimizer
from nnbp.sweep import Data, OptimizerState

__all__ = ["NetworkCore"]


class NetworkCore:
    """State and intake of a network; `nnbp.network.Network` adds what one does with it."""

    def __init__(
        self,
        layers: Sequence[int | Layer] | None = None,
        *,
        activation: str | Activation | Sequence[str | Activation] = "relu",
        loss: str | Loss = "squared_error",
        weight_decay: float = 0.0,
        device: str = "auto",
        dtype: Any = "float32",
        seed: int | None = None,
        output_activation: str | Activation | None = None,
        fallback: bool = True,
    ) -> None:
        self._architecture = Architecture(layers, activation, output_activation, loss)
        if not (np.isfinite(weight_decay) and weight_decay >= 0):
            raise ValueError(f"weight_decay is λ, finite and at least 0; received {weight_decay!r}.")
        self.weight_decay = float(weight_decay)
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise DTypeError(f"dtype is float32 or float64; received {self.dtype}.")
        self.seed = int.from_bytes(os.urandom(4), "big") if seed is None else whole_number("seed", seed, 0)
        self._backend = open_backend(device, fallback=fallback)
        self._model: Model | None = None
        self._ongoing: tuple[Optimizer, OptimizerState] | None = None
        if self._architecture.n_in is not None and self._architecture.n_out is not None:
            self._build(self._architecture.n_in, self._architecture.n_out)

    def _build(self, n_in: int, n_out: int) -> Model:
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
                "The sizes of this network are taken from the data, and it has seen none yet. Call fit(X, y) first, or give "
                "the sizes: Network([n_in, 100, n_out])."
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
        n_in = self._architecture.n_in if self._model is None else self._model.n_in
        with self._backend.active():
            array = features(self._backend, X, self.dtype, n_in)
        if self._model is None and self._architecture.n_out is not None:
            self._build(array.shape[1], self._architecture.n_out)
        return array

    def _targets(self, y: Any, samples: int) -> tuple[NDArray[Any], Array]:
        """Targets on the host, and encoded on the device."""
        values = host(y, "y")
        if values.ndim == 0 or len(values) != samples:
            raise ShapeError(f"y has one target a sample, {samples} here; received shape {values.shape}.")
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise DataError(f"Targets are finite numbers; received {values[row]} in row {row}. Drop such samples.")
        encoded = self.loss_function.encode(values, self.model.n_out)
        return values, self._backend.upload(encoded, self.dtype)

    def _data(self, X: Any, y: Any, weights: Any = None) -> tuple[Data, NDArray[Any], NDArray[np.float64] | None]:
        array = self._inputs(X)
        if self._model is None:
            self._build(array.shape[1], self._architecture.outputs_of(host(y, "y")))
        with self._backend.active():
            values, encoded = self._targets(y, len(array))
            w = sample_weights(weights, len(array))
            return Data(array, encoded, self._column(w)), values, w

    def _column(self, w: NDArray[np.float64] | None) -> Array | None:
        return None if w is None else self._backend.upload(w.reshape(-1, 1), self.dtype)

    def _move(self, device: str, *, fallback: bool) -> None:
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
        self._backend = open_backend(state["device"], fallback=state["fallback"])
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
