"""Network: what users hold. It checks what it is given, puts it on the device, and gives back what is theirs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np

from nnbp import metrics as known_metrics
from nnbp.core import NetworkCore
from nnbp.engine.exclusive import alone, exclusive
from nnbp.errors import DeviceMemoryError
from nnbp.formatting import table
from nnbp.graph.backend import Backend
from nnbp.graph.ops import Array
from nnbp.metrics import Metric
from nnbp.nn.layers import Dense
from nnbp.optim import optimizers, schedules
from nnbp.optim.optimizers import Optimizer
from nnbp.optim.schedules import Schedule
from nnbp.training import callbacks as known_callbacks
from nnbp.training.callbacks import Callback, EarlyStopping, History, TrainingState
from nnbp.training.progress import reporter
from nnbp.training.trainer import Ongoing, TrainingOptions, prepared, train
from nnbp.validation import finite, finite_on_host, joined, like, not_negative, whole_number

__all__ = ["Gradients", "Network", "Trace"]

_TOO_LARGE = "X or the parameters are too large: standardise X, or use dtype='float64'."


@dataclass(frozen=True)
class Trace:
    """A forward pass: ``z[l]``, ``a[l]`` (m, n_l) of the l-th dense layer, from 1 on; ``a[0]`` is X, ``z[0]`` None."""

    z: list[Any]
    a: list[Any]


@dataclass(frozen=True)
class Gradients:
    """What backpropagation finds.

    Attributes:
        loss: J.
        dW, db: ∂J/∂W and ∂J/∂b of each dense layer, views of `flat`.
        delta: ∂C/∂z of every sample, (m, n_out) a dense layer.
        dX: ∂C/∂x of every sample, (m, n_in).
        flat: ∇J in the order of `Network.parameters`.
    """

    loss: float
    dW: list[Any]
    db: list[Any]
    delta: list[Any]
    dX: Any
    flat: Any


class Network(NetworkCore):
    """A feed-forward network: a⁰ = x, zˡ = Wˡ aˡ⁻¹ + bˡ, aˡ = f(zˡ), trained on J = Σ wₙCⁿ / Σ wₙ + λ/2 ΣW².

    Threads may share a network: it does one thing at a time, and calls from other threads wait, also until training
    ends. Threads that shall compute at the same time take a `copy` each.

    Args:
        layers: sizes of all layers, input first, ``[64, 32, 10]``; or layers, ``[Dense(32, "tanh"), Dropout(0.1),
            Dense(10)]``; None takes the sizes from the data at the first fit, with one hidden layer of 100.
        activation: of hidden layers that do not say: a name, an object, or one for each.
        loss: C, by name or as an object.
        weight_decay: λ, at least 0. Biases do not decay.
        device: "auto" (a working GPU, else the CPU), "cpu", "cuda", "cuda:1"; the name of a backend that another
            package brings; or a backend of your own, opened.
        dtype: "float32" or "float64".
        seed: of initial weights, shuffles and dropout masks; None takes one from the operating system.
        output_activation: of the last layer; None is what goes with the loss.
        fallback: whether a GPU that does not work is replaced by the CPU, with one warning, or is an error.
        precision: "tf32" or "bf16" lets a GPU round the factors of the layers' products to 10 or 7 bits after the
            point, for which it has units of their own; all else, parameters and sums, stays float32. None does not. A
            CPU computes in float32 in any case.

    Raises:
        ValueError: an argument is out of its range; the message says which and what would be right.
        DeviceUnavailableError: the device does not work, and `fallback` is False or NNBP_REQUIRE_GPU=1 is set.

    >>> net = Network([2, 8, 1], loss="binary_cross_entropy", device="cpu", seed=0)
    >>> X, y = [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]
    >>> history = net.fit(X, y, epochs=200, batch_size=None, learning_rate=0.05, progress=False)
    >>> net.predict(X)
    array([0, 1, 1, 0])
    """

    @exclusive
    def forward(self, X: Any) -> Any:
        """h of every sample, (m, n_out); a NaN in X is a NaN in h."""
        array, back = self._adapter.matrix(X), like(X, self._backend)
        return joined([back(h) for _, h in self._ready(array).outputs(array)])

    def _decided(self, X: Any, decide: Callable[[Any, Array], Array]) -> Any:
        """A function of h, of inputs that have to be finite: a decision on NaN would be made up."""
        array, back = self._adapter.matrix(X), like(X, self._backend)
        model = self._ready(array)
        self._adapter.finite(array)
        parts, classes, backend = [], self.loss_function.classification, self._backend
        for first, h in model.outputs(array):
            if backend.owns(X):
                if classes:
                    finite(backend, h, "h", _TOO_LARGE, first)
                parts.append(decide(backend.xp, h))
            else:
                # What goes to the host anyway is looked at there: the device is waited for once.
                values = backend.download(h)
                if classes:
                    finite_on_host(values, "h", self.dtype, _TOO_LARGE, first)
                parts.append(decide(np, values))
        return back(joined(parts))

    @exclusive
    def trace(self, X: Any) -> Trace:
        """z and a of every layer."""
        array, back = self._adapter.features(X), like(X, self._backend)
        found = self._ready(array).trace(array)
        return Trace([None, *map(back, found.z)], [back(a) for a in found.a])

    @exclusive
    def loss(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """J(W, b) = Σ wₙCⁿ / Σ wₙ + λ/2 ΣW²."""
        data, w = self._adapter.data_with_room(X, y, sample_weight)
        return self._ready(data.X).loss_of(data.X, data.y, w)

    @exclusive
    def gradients(self, X: Any, y: Any, sample_weight: Any = None) -> Gradients:
        """∇J by backpropagation, with delta and ∂C/∂x of every sample."""
        data, _, _ = self._adapter.data(X, y, sample_weight)
        back = like(X, self._backend)
        found = self._ready(data.X).gradients(data.X, data.y, data.w)
        flat = back(found.flat)
        return Gradients(
            found.loss,
            self._views(flat, "W"),
            self._views(flat, "b"),
            [back(d) for d in found.delta],
            back(found.dX),
            flat,
        )

    @exclusive
    def per_sample_gradients(self, X: Any, y: Any) -> Any:
        """(m, P): row n is the gradient of C of sample n, without the weight decay."""
        data, _, _ = self._adapter.data(X, y)
        return like(X, self._backend)(self._ready(data.X).per_sample_gradients(data.X, data.y))

    @exclusive
    def predict(self, X: Any) -> Any:
        """Class indices (m,) for classification losses, values else: (m,) for one output, (m, n_out) for several.

        Raises:
            DataError: a value of X, or of the outputs that classes are decided by, is not finite.
        """
        return self._decided(X, self.loss_function.decide)

    @exclusive
    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the classes, (m, n_classes).

        Raises:
            TypeError: the loss is not one of classes.
            DataError: a value of X, or a probability, is not finite.
        """
        return self._decided(X, self.loss_function.probabilities)

    @alone
    def evaluate(
        self,
        X: Any,
        y: Any,
        *,
        metrics: Sequence[str | Metric | Callable[..., float]] | None = None,
        sample_weight: Any = None,
    ) -> dict[str, float]:
        """J and metrics on a data set: ``{"loss": …, "accuracy": …}``.

        Args:
            X, y, sample_weight: the data.
            metrics: names, objects or functions; None is accuracy for classes, r2 and rmse for values, and nothing for
                several labels a sample.
        """
        with self._backend.active():
            measured = self._adapter.measured(X, y, sample_weight, self._predicted)
            if metrics is None and self.loss_function.classification and measured.y.ndim == 2:
                metrics = ()
            measured = replace(measured, metrics=self._metrics(metrics))
            data = measured.data
            loss = self._ready(data.X).loss_of(data.X, data.y, measured.w)
        return {"loss": loss, **measured.values("")}

    def _metrics(self, metrics: Sequence[str | Metric | Callable[..., float]] | None) -> list[Metric]:
        return known_metrics.listed(metrics, self.loss_function.classification)

    @alone
    def fit(
        self,
        X: Any,
        y: Any,
        *,
        epochs: int = 100,
        batch_size: int | None = 32,
        optimizer: str | Optimizer = "adam",
        learning_rate: float | None = None,
        schedule: str | Schedule | Callable[[float], float] | None = None,
        validation_data: Any = None,
        validation_split: float = 0.0,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | str | None = None,
        shuffle: bool = True,
        early_stopping: bool | int | EarlyStopping | None = None,
        callbacks: Sequence[Callback | Callable[[TrainingState], None]] = (),
        metrics: Sequence[str | Metric | Callable[..., float]] = (),
        progress: bool | str = "auto",
        clip_norm: float | None = None,
    ) -> History:
        """Trains the network, from where it stands, with a new optimizer state.

        Args:
            X: (m, n_in).
            y: (m,) or (m, n_out) values; (m,) class indices or (m, n_out) one-hot rows.
            epochs: passes through the data.
            batch_size: samples of a step; None is the whole data set, as it always is for rprop and lbfgs.
            optimizer: name or object.
            learning_rate: η; None is the optimizer's.
            schedule: name, object, or function of the epoch that gives a factor on η.
            validation_data: (X, y) or (X, y, sample_weight). The weights with the lowest validation loss are kept and
                restored at the end.
            validation_split: share of the samples to set aside for validation, drawn with the network's seed.
            sample_weight: (m,), at least 0.
            class_weight: a weight for each class index, or "balanced"; times the sample weights, in validation too.
            shuffle: whether batches are drawn in a new order every epoch.
            early_stopping: an EarlyStopping, its patience in epochs, or True for the default patience.
            callbacks: Callback objects, or functions of the TrainingState that are called after every epoch.
            metrics: measured after every epoch on training and validation data; costs a forward pass over each.
            progress: "auto" (a bar in a terminal, else plain lines), "lines", False.
            clip_norm: bound on the Euclidean norm of the whole gradient.

        Returns:
            one value an epoch of "loss", "val_loss" and every metric.

        Raises:
            ShapeError, DTypeError, DataError, ValueError: an argument does not fit; nothing is changed then.
            DivergenceError: a loss or a parameter is not finite any more; the network keeps the last good parameters.
        """
        rule = self._optimizer(optimizer, learning_rate)
        epochs = whole_number("epochs", epochs, 1)
        if clip_norm is not None and not_negative("clip_norm", clip_norm) == 0:
            raise ValueError(f"clip_norm is a positive bound on the gradient's norm, or None; received {clip_norm!r}.")
        if clip_norm is not None and rule.name == "lbfgs":
            raise ValueError(
                "lbfgs builds its model of J on the gradient as it is, and clip_norm changes it; received both. "
                "Leave clip_norm out, or use adam."
            )
        shown = reporter(progress)
        options = TrainingOptions(
            epochs=epochs,
            batch_size=None if batch_size is None else whole_number("batch_size", batch_size, 1),
            optimizer=rule,
            schedule=schedules.get(schedule, epochs).fresh(),
            shuffle=shuffle,
            clip_norm=clip_norm,
            early_stopping=known_callbacks.early_stopping(early_stopping),
            callbacks=[*known_callbacks.listed(callbacks), *([shown] if shown else [])],
        )
        measures = self._metrics(metrics)
        with self._backend.active():
            adapter, X, y = self._adapter.sized(X, y)
            if validation_split:
                X, y, sample_weight, validation_data = adapter.split(
                    X, y, sample_weight, validation_data, validation_split, self.seed
                )
            measured = partial(
                adapter.measured, predict=self._predicted, class_weight=class_weight, metrics=measures,
                training=(options.batch_size, len(rule.slots)),
            )  # fmt: skip
            data = measured(X, y, sample_weight)
            validation = None
            if validation_data is not None:
                if not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
                    size = f" of {len(validation_data)}" if isinstance(validation_data, tuple | list) else ""
                    raise ValueError(
                        "validation_data is (X, y) or (X, y, sample_weight); received "
                        f"{type(validation_data).__name__}{size}."
                    )
                X_val, y_val, *w_val = validation_data
                validation = measured(X_val, y_val, w_val[0] if w_val else None, reference=data.y)
        with self._built(adapter) as model:
            run = prepared(model, data, validation, options)
        # All is well: from here on the network changes.
        self._ongoing = None
        return train(run, self)

    @exclusive
    def partial_fit(
        self,
        X: Any,
        y: Any,
        *,
        batch_size: int | None = 32,
        optimizer: str | Optimizer = "adam",
        learning_rate: float | None = None,
        sample_weight: Any = None,
    ) -> Self:
        """One pass over these samples, in their order; the optimizer goes on from the call before.

        The optimizer's state begins anew when its class or one of its arguments changes, or after `fit`.
        """
        rule = self._optimizer(optimizer, learning_rate)
        if rule.full_batch:
            raise ValueError(
                f"partial_fit sees a part of the data, and {rule.name} needs all of it at every step. Use fit, or adam."
            )
        size = None if batch_size is None else whole_number("batch_size", batch_size, 1)
        adapter, X, y = self._adapter.sized(X, y)
        data = adapter.measured(X, y, sample_weight, self._predicted, training=(size, len(rule.slots)))
        before = ongoing = self._ongoing
        if ongoing is None or repr(ongoing.optimizer) != repr(rule):
            ongoing = Ongoing(rule)
        with self._built(adapter) as model:
            trainer = ongoing.prepare(model, data, size)
        # All is well: from here on the network changes. When training diverges, what the optimizer then remembers is no
        # good any more.
        self._ongoing = None
        steps = ongoing.state.steps
        try:
            trainer.once()
        except DeviceMemoryError:
            # The device was full before the first step: the optimizer remembers what it did before.
            if ongoing.state.steps == steps:
                self._ongoing = before
            raise
        self._ongoing = ongoing
        return self

    def _optimizer(self, optimizer: str | Optimizer, learning_rate: float | None) -> Optimizer:
        rule = copy.copy(optimizers.get(optimizer))
        if learning_rate is not None:
            rule.learning_rate = not_negative("learning_rate", learning_rate)
        return rule

    def to(self, device: str | Backend, *, fallback: bool = True) -> Self:
        """Moves the network to a device and returns it; parameters and random sequences go along.

        Where the device does not open, or has no room for it, the network stays as and where it is.
        """
        self._move(device, fallback=fallback)
        return self

    def copy(self) -> Self:
        """A network of its own with the same parameters, on the same backend."""
        return copy.deepcopy(self)

    def summary(self) -> str:
        """A table of the layers; print it."""
        rows = [("layer", "units", "activation", "parameters")]
        sizes = self.model.sizes
        rows.append(("input", str(sizes[0]), "", ""))
        for layer, n_in, n_out in zip(self.layers, sizes, sizes[1:], strict=False):
            count = sum(spec.size for spec in layer.parameters(n_in))
            f = layer.f.name if isinstance(layer, Dense) else ""
            rows.append((layer.kind, str(n_out), f, f"{count:,}" if count else ""))
        lines = table(rows, left=(0, 2))
        total = self.model.parameters.size
        products = f" (products in {self.precision})" if self.precision else ""
        decay = f", weight decay {self.weight_decay:g}" if self.weight_decay else ""
        lines.append(
            f"{total:,} parameters, {total * self.dtype.itemsize / 1e6:.3g} MB of {self.dtype.name}{products} on "
            f"{self.device}; "
            f"loss {self.loss_function.name}{decay}"
        )
        return "\n".join(lines)

    def __repr__(self) -> str:
        sizes = "sizes from the data" if self._model is None else "-".join(map(str, self._model.sizes))
        dtype = f"{self.dtype.name!r}" + (f", precision={self.precision!r}" if self.precision else "")
        return f"Network({sizes}, loss={self.loss_function.name!r}, dtype={dtype}, device={self.device!r})"
