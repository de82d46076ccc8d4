"""What a Network stands on: its arguments, its device, its parameters, its files and copies; one call at a time."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from threading import RLock
from typing import Any, Generic, Self, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnbp.device.select import open_backend, reopening
from nnbp.engine.exclusive import exclusive
from nnbp.engine.model import Model
from nnbp.engine.updater import OptimizerState
from nnbp.errors import ShapeError
from nnbp.graph.backend import Backend
from nnbp.graph.ops import Array, Precision
from nnbp.nn.activations import Activation
from nnbp.nn.architecture import Architecture
from nnbp.nn.layers import Dense, Layer, named
from nnbp.nn.losses import Loss
from nnbp.serialization import model_file
from nnbp.training.data_adapter import DataAdapter, sizes_unknown
from nnbp.training.trainer import Ongoing
from nnbp.validation import float_dtype, host, joined, not_negative, reduced, whole_number

__all__ = ["NetworkCore"]

T = TypeVar("T")


class _Fixed(Generic[T]):
    """An argument of a network that stays as it was given."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, net: None, owner: type) -> Self: ...
    @overload
    def __get__(self, net: NetworkCore, owner: type) -> T: ...
    def __get__(self, net: NetworkCore | None, owner: type) -> Self | T:
        if net is None:
            return self
        value: T = vars(net)[self._name]
        return value

    def __set__(self, net: NetworkCore, value: T) -> None:
        raise AttributeError(
            f"{self._name} of a network is fixed when it is made; received {value!r}. Make a network with that "
            f"{self._name}, and give it the parameters of this one by set_parameters(net.weights, net.biases)."
        )


class NetworkCore:
    """State of a network; `nnbp.network.Network` adds what one does with it."""

    weight_decay = _Fixed[float]()
    dtype = _Fixed[np.dtype[Any]]()
    seed = _Fixed[int]()
    precision = _Fixed[Precision | None]()

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
        precision: Precision | None = None,
    ) -> None:
        architecture = Architecture(layers, activation, output_activation, loss)
        fixed = {
            "weight_decay": not_negative("weight_decay, λ,", weight_decay),
            "dtype": float_dtype(dtype),
            "precision": None if precision is None else reduced(precision, float_dtype(dtype)),
            "seed": int.from_bytes(os.urandom(4), "big") if seed is None else whole_number("seed", seed, 0),
        }
        self._begin(architecture, fixed, _opened(device, fallback))
        if self._adapter.n_in is not None and self._adapter.n_out is not None:
            self._build(self._adapter)

    def _begin(self, architecture: Architecture, fixed: dict[str, Any], backend: Backend) -> None:
        vars(self).update(fixed)
        self._lock = RLock()
        self._architecture, self._backend = architecture, backend
        self._adapter = DataAdapter(backend, self.dtype, architecture, architecture.n_in, architecture.n_out)
        self._model: Model | None = None
        self._ongoing: Ongoing | None = None

    def _build(self, adapter: DataAdapter) -> Model:
        assert adapter.n_in is not None, "a network is built when its sizes are known"
        assert adapter.n_out is not None, "a network is built when its sizes are known"
        with self._backend.active():
            self._model = Model(
                self._backend, self._architecture.layers(adapter.n_out), self._architecture.loss, n_in=adapter.n_in,
                weight_decay=self.weight_decay, dtype=self.dtype, seed=self.seed, precision=self.precision,
            )  # fmt: skip
        self._adapter = adapter
        return self._model

    @contextmanager
    def _built(self, adapter: DataAdapter) -> Iterator[Model]:
        """The model, made where there is none yet; where the block fails, the network is then without one again."""
        before = self._adapter, self._model
        try:
            yield self._model or self._build(adapter)
        except BaseException:
            self._adapter, self._model = before
            raise

    @property
    def model(self) -> Model:
        """The network with its sizes known.

        Raises:
            NnbpError: they are not known yet.
        """
        if self._model is None:
            raise sizes_unknown()
        return self._model

    def _ready(self, X: Array) -> Model:
        """The model; where only the number of inputs is left to the data, it is that of X, which has to be finite."""
        if self._model is None and self._adapter.n_out is not None:
            self._adapter.finite(X)
            self._build(replace(self._adapter, n_in=X.shape[1]))
        return self.model

    @exclusive
    def _take_sizes(self, X: Any, y: Any) -> None:
        """Takes the sizes that are open from data, which have to be good."""
        adapter, X, y = self._adapter.sized(X, y)
        adapter.measured(X, y, None, self._predicted)
        if self._model is None:
            self._build(adapter)

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
        with self._lock, self._backend.active():
            self.parameters[...] = self._backend.upload(flat, self.dtype)

    @exclusive
    def _predicted(self, X: Array | NDArray[Any], needs: str) -> NDArray[Any]:
        """What a metric wants to see of inputs on the device or, of the network's sizes, on the host; on the host."""
        xp, loss, download = self._backend.xp, self.loss_function, self._backend.download
        outputs = (h for _, h in self.model.outputs(X))
        if needs == "labels":
            return joined([download(loss.decide(xp, h)) for h in outputs])
        if needs == "probabilities":
            return joined([download(loss.probabilities(xp, h)) for h in outputs])
        values = joined([download(h) for h in outputs])
        return values[:, 0] if values.shape[1] == 1 else values

    # Files.

    @exclusive
    def save(self, path: str | PathLike[str], *, extra: Mapping[str, Any] | None = None) -> None:
        """Writes architecture and parameters to one safetensors file, whole or not at all.

        Args:
            path: the file; an older one is replaced.
            extra: plain JSON values to keep beside them.

        Raises:
            ModelFileError: the file cannot be written.
        """
        model = self.model
        architecture = {
            "n_in": model.n_in,
            "layers": [{"kind": layer.kind, "config": layer.config()} for layer in model.layers],
            "loss": named(self.loss_function),
            "weight_decay": self.weight_decay,
            "dtype": self.dtype.name,
            "seed": self.seed,
        }
        arrays: dict[str, NDArray[Any]] = {}
        for k, (W, b) in enumerate(zip(self.weights, self.biases, strict=True), start=1):
            arrays |= {f"W{k}": self._backend.download(W), f"b{k}": self._backend.download(b)}
        model_file.write(path, model_file.ModelFile(architecture, arrays, dict(extra or {})))

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        device: str | Backend = "auto",
        fallback: bool = True,
        precision: Precision | None = None,
        custom: Sequence[type] = (),
    ) -> Self:
        """The network that `save` wrote.

        Args:
            path: the file.
            device, fallback, precision: as for `Network`.
            custom: your own activation and loss classes that the network uses.

        Raises:
            ModelFileError: the file is no nnbp model, or damaged.
        """
        file = model_file.read(path, custom)
        return cls.from_file(file, device=device, fallback=fallback, precision=precision, custom=custom)

    @classmethod
    def from_file(
        cls,
        file: model_file.ModelFile,
        *,
        device: str | Backend = "auto",
        fallback: bool = True,
        precision: Precision | None = None,
        custom: Sequence[type] = (),
    ) -> Self:
        """The network of a model file that was read."""
        architecture = file.architecture
        layers, loss = model_file.build_layers(architecture, custom)
        last = layers[-1]
        net = cls(
            [architecture["n_in"], *layers], loss=loss, weight_decay=architecture["weight_decay"], device=device,
            dtype=architecture["dtype"], seed=architecture["seed"], fallback=fallback, precision=precision,
            output_activation=last.activation if isinstance(last, Dense) else None,
        )  # fmt: skip
        dense = range(1, len(net.weights) + 1)
        net.set_parameters([file.arrays[f"W{k}"] for k in dense], [file.arrays[f"b{k}"] for k in dense])
        return net

    # Copies: a state on the host, and the backend that it is brought to life on. What users hung on a network, and what
    # subclasses keep, goes along.

    @exclusive
    def _state(self) -> dict[str, Any]:
        own = vars(self)
        state: dict[str, Any] = {
            "architecture": self._architecture, "fixed": {name: own[name] for name in _FIXED},
            "attributes": {name: value for name, value in own.items() if name not in _OWN},
            "sizes": None, "ongoing": None,
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
                memory = self._ongoing.state
                slots = {name: np.array(download(slot)) for name, slot in memory.slots.items()}
                state["ongoing"] = (self._ongoing.optimizer, memory.steps, slots)
        return state

    def _revive(self, state: dict[str, Any], backend: Backend) -> None:
        vars(self).update(state["attributes"])
        self._begin(state["architecture"], state["fixed"], backend)
        if state["sizes"] is None:
            return
        n_in, n_out = state["sizes"]
        model = self._build(replace(self._adapter, n_in=n_in, n_out=n_out))
        with backend.active():
            model.parameters.theta[...] = backend.upload(state["theta"], self.dtype)
            model.order_generator.bit_generator.state = state["order"]
            for stream, position in zip(model.engine.streams, state["masks"], strict=True):
                if stream is not None:
                    stream.position = position
            if state["ongoing"] is not None:
                optimizer, steps, slots = state["ongoing"]
                arrays = {name: backend.upload(slot, self.dtype) for name, slot in slots.items()}
                self._ongoing = Ongoing(optimizer, OptimizerState(steps, arrays))

    def _revived(self, state: dict[str, Any], backend: Backend) -> Self:
        network = object.__new__(type(self))
        network._revive(state, backend)
        return network

    def _twin(self, device: str | Backend, dtype: Any) -> Self:
        """A network of its own with the same parameters and random sequences, on a device that has to work."""
        state = self._state()
        narrower = self.precision if np.dtype(dtype) == np.float32 else None
        fixed = {**state["fixed"], "dtype": np.dtype(dtype), "precision": narrower}
        return self._revived({**state, "fixed": fixed, "ongoing": None}, _opened(device, fallback=False))

    @exclusive
    def _move(self, device: str | Backend, *, fallback: bool) -> None:
        """Opens another device and takes parameters, optimizer state and random sequences along."""
        moved = self._revived(self._state(), _opened(device, fallback))
        # From here on nothing fails.
        self._backend, self._adapter, self._model, self._ongoing = (
            moved._backend, moved._adapter, moved._model, moved._ongoing,
        )  # fmt: skip

    def __copy__(self) -> Self:
        return self._revived(self._state(), self._backend)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        network = memo[id(self)] = object.__new__(type(self))
        network._revive(copy.deepcopy(self._state(), memo), self._backend)
        return network

    def __getstate__(self) -> dict[str, Any]:
        return {**self._state(), "device": reopening(self._backend)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._revive(state, open_backend(state["device"]))


_FIXED = frozenset(name for name, value in vars(NetworkCore).items() if isinstance(value, _Fixed))
_OWN = _FIXED | {"_lock", "_architecture", "_backend", "_adapter", "_model", "_ongoing"}


def _opened(device: str | Backend, fallback: bool) -> Backend:
    """The backend of a device; a backend that the caller has made serves as it is."""
    return device if isinstance(device, Backend) else open_backend(device, fallback=fallback)
