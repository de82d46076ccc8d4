"""Network: the class that users work with. It checks its arguments, computes on its device and returns the results."""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnbp.engine.dataset import Dataset
from nnbp.engine.exclusive import alone, exclusive, lock
from nnbp.engine.ranks import ALONE, Ranks
from nnbp.errors import ConvergenceWarning, DataError, DeviceMemoryError, ModelFileError, NnbpError, ShapeError
from nnbp.formatting import brief, described, shown
from nnbp.graph.backend import Backend
from nnbp.graph.ops import Array, Precision
from nnbp.nn.activations import Activation
from nnbp.nn.architecture import Architecture
from nnbp.nn.layers import Dense, Layer, named
from nnbp.nn.losses import Loss
from nnbp.registry import Named
from nnbp.training.data_adapter import DataAdapter, sizes_unknown
from nnbp.validation import (
    finite,
    flag,
    float_dtype,
    host,
    instance,
    items,
    joined,
    like,
    not_negative,
    number,
    reduced,
    whole_number,
)

# The imports above suffice to describe a network. Methods that open a device or build, train, measure, save or load a
# network import the rest when they are called, so that `import nnbp` takes little more time than `import numpy`.
if TYPE_CHECKING:
    from nnbp.engine.model import Model
    from nnbp.engine.passes import Passes
    from nnbp.engine.results import Gradients, Trace
    from nnbp.engine.updater import OptimizerState
    from nnbp.metrics import Metric
    from nnbp.optim.optimizers import Optimizer
    from nnbp.optim.schedules import Schedule
    from nnbp.serialization.model_file import ModelFile, State
    from nnbp.training.callbacks import Callback, EarlyStopping, History, TrainingState
    from nnbp.training.checkpoint import Checkpoint
    from nnbp.training.samples import Samples
    from nnbp.training.stream import Batches
    from nnbp.training.trainer import Evaluation, Trainer, TrainingOptions

_TOO_LARGE = "X or the parameters are too large: standardise X, or use dtype='float64'."

_KEPT = 2**20
"""How many elements, of data and layers together, a call of `partial_fit` may keep prepared for the next call."""


class Network:
    """A feed-forward network: a⁰ = x, zˡ = Wˡ aˡ⁻¹ + bˡ, aˡ = f(zˡ), trained on J = Σ wₙCⁿ / Σ wₙ + λ/2 ΣW².

    Threads may share a network: it runs one call at a time, and calls from other threads wait, even for a training run
    to end. Threads that must compute at the same time each need their own `copy`. `nnbp.fit_many` trains many networks
    at the same time.

    Args:
        layers: sizes of all layers, input first, ``[64, 32, 10]``; or layer objects, ``[Dense(32, "tanh"),
            Dropout(0.1), Dense(10)]``, with Standardize() before them if the inputs are to be standardised. None takes
            the sizes from the data at the first fit and adds one hidden layer of 100 units.
        activation: of the hidden layers that do not specify one: a name, an object, or a sequence with one per layer.
        loss: C, by name or as an object.
        weight_decay: λ, at least 0. Biases do not decay.
        device: "auto" (a working GPU, else the CPU), "cpu", "cuda", "cuda:1"; the name of a backend from another
            package; or a backend object.
        dtype: "float32" or "float64".
        seed: for initial weights, shuffles and dropout masks; None takes one from the operating system.
        output_activation: of the last layer; None chooses the one that matches the loss.
        fallback: if a GPU does not work, True uses the CPU instead, with one warning; False raises an error.
        precision: "tf32" or "bf16" lets a GPU round the factors of the layers' products to 10 or 7 bits after the
            point and multiply them on its dedicated units; everything else, parameters and sums included, stays
            float32. None does not round. A CPU always computes in float32.

    Raises:
        ValueError: an argument is out of range; the message says which one and what is allowed.
        DeviceUnavailableError: the device does not work, and `fallback` is False or NNBP_REQUIRE_GPU=1 is set.

    >>> net = Network([2, 8, 1], loss="binary_cross_entropy", device="cpu", seed=0)
    >>> X, y = [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]
    >>> history = net.fit(X, y, epochs=200, batch_size=None, learning_rate=0.05, progress=False)
    >>> net.predict(X)
    array([0, 1, 1, 0])
    """

    _lock: Any

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
        self._weight_decay = not_negative("weight_decay, λ,", weight_decay)
        self._dtype = float_dtype(dtype)
        self._precision = None if precision is None else reduced(precision, self._dtype)
        self._seed = int.from_bytes(os.urandom(4), "big") if seed is None else whole_number("seed", seed, 0)
        self.history: History | None = None
        """The history of the last `fit`, whatever ended it; None before the first."""
        self._begin(architecture, _opened(device, fallback))
        if self._adapter.n_in is not None and self._adapter.n_out is not None:
            self._build(self._adapter)

    def _begin(self, architecture: Architecture, backend: Backend) -> None:
        """Initialises the state of a network that has no parameters yet."""
        lock(self)
        self._architecture, self._backend = architecture, backend
        self._adapter = DataAdapter(backend, self._dtype, architecture, architecture.n_in, architecture.n_out)
        self._passes: Passes | None = None
        # `partial_fit` continues from these: the rule, its state, and a trainer for as many samples.
        self._ongoing: tuple[Optimizer, OptimizerState] | None = None
        self._prepared: Trainer | None = None
        self._training = False

    # Sizes.

    def _build(self, adapter: DataAdapter) -> Passes:
        """Creates the layers and parameters for the sizes that the adapter knows."""
        from nnbp.engine.model import Model
        from nnbp.engine.passes import Passes

        assert adapter.n_in is not None, "a network is built when its sizes are known"
        assert adapter.n_out is not None, "a network is built when its sizes are known"
        with self._backend.active():
            model = Model(
                self._backend, self._architecture.layers(adapter.n_out), self._architecture.loss, n_in=adapter.n_in,
                weight_decay=self._weight_decay, dtype=self._dtype, seed=self._seed, precision=self._precision,
            )  # fmt: skip
            self._passes = Passes(model)
        self._adapter = adapter
        return self._passes

    @contextmanager
    def _built(self, adapter: DataAdapter, data: Dataset, ranks: Ranks = ALONE) -> Iterator[Passes]:
        """The passes of the network, built if necessary, with statistics of these data if they are its first.

        If the block fails, the former state is restored.
        """
        before = self._adapter, self._passes
        known = self._passes is None or self._passes.model.observed
        try:
            passes = self._passes or self._build(adapter)
            if not passes.model.observed:
                with self._backend.active():
                    passes.model.observe(data, ranks)
            yield passes
        except BaseException:
            self._adapter, self._passes = before
            if self._passes is not None and not known:
                self._passes.forget()
            raise

    def _ready(self, X: Array) -> Passes:
        """The passes; if only the number of inputs is still unknown, it is taken from X, which must be finite."""
        if self._passes is None:
            if self._adapter.n_out is None:
                raise sizes_unknown()
            if self._architecture.first.observes_inputs:
                from nnbp.engine.model import statistics_unknown

                raise statistics_unknown()
            self._adapter.finite(X)
            return self._build(replace(self._adapter, n_in=X.shape[1]))
        return self._passes

    @exclusive
    def prepare(self, X: Any, y: Any, sample_weight: Any = None) -> Dataset:
        """The data set on the device, in the form that the engine takes.

        Unknown sizes, and the statistics of a first fit, are taken from the data.

        Raises:
            ShapeError, DTypeError, DataError: the data do not fit; nothing is changed then.
        """
        adapter, data = self._adapter.read(X, y, sample_weight)
        adapter.finite(data.X)
        with self._built(adapter, data):
            return adapter.resident(data)

    def input_dtype(self, X: Array | NDArray[Any]) -> np.dtype[Any]:
        """The dtype in which the network reads X."""
        return self._adapter.input_dtype(X)

    def _release(self) -> None:
        """Releases everything that is kept between calls, because the device is full."""
        self._prepared = None
        if self._passes is not None:
            self._passes.clear()

    # Properties.

    @property
    def model(self) -> Model:
        """The network with its sizes known.

        Raises:
            NnbpError: they are not known yet.
        """
        if self._passes is None:
            raise sizes_unknown()
        return self._passes.model

    @property
    def device(self) -> str:
        """The device that the network is on: "cpu", "cuda:0"."""
        return self._backend.device

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self._dtype

    @property
    def precision(self) -> Precision | None:
        """Precision of the layers' products on a GPU; None is that of the dtype."""
        return self._precision

    @property
    def seed(self) -> int:
        """The seed of initial weights, shuffles and dropout masks."""
        return self._seed

    @property
    def weight_decay(self) -> float:
        """λ. It can be set between two trainings; the state of the optimizer for `partial_fit` is kept.

        Raises:
            ValueError: λ is not a finite number of at least 0.
            NnbpError: the network is being trained.
        """
        return self._weight_decay

    @weight_decay.setter
    @exclusive
    def weight_decay(self, weight_decay: float) -> None:
        value = not_negative("weight_decay, λ,", weight_decay)
        if self._training:
            raise NnbpError(
                "λ is constant while a network is being trained; received weight_decay from a callback. Set it when "
                "fit has returned."
            )
        if value != self._weight_decay:
            self._weight_decay = value
            if self._passes is not None:
                self._passes.model.weight_decay = value
                # The steps that are recorded contain the former λ.
                self._release()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, excluding the input."""
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
    def weights(self) -> tuple[Array, ...]:
        """W of each dense layer, (n_out, n_in): writable views."""
        return self._views(self.parameters, "W")

    @property
    def biases(self) -> tuple[Array, ...]:
        """b of each dense layer, (n_out,): writable views."""
        return self._views(self.parameters, "b")

    def _views(self, vector: Array, name: str) -> tuple[Array, ...]:
        views = self.model.parameters.views(vector)
        return tuple(views[k][name] for k in self.model.dense)

    def set_parameters(self, weights: Sequence[ArrayLike], biases: Sequence[ArrayLike]) -> None:
        """Sets every W, (n_out, n_in), and every b, (n_out,), from lists of arrays.

        Raises:
            ShapeError: a shape or the number of arrays is wrong; nothing is changed then.
            DataError: a number is NaN, or infinite in the network's dtype; nothing is changed then.
        """
        flat = np.array(self._backend.download(self.parameters))
        for name, arrays in (("W", weights), ("b", biases)):
            views = self._views(flat, name)
            argument = "weights" if name == "W" else "biases"
            given = items(argument, arrays, f"a list of arrays, one {name} for each dense layer")
            if len(given) != len(views):
                raise ShapeError(f"There is one {name} for each of {len(views)} dense layers; received {len(given)}.")
            for k, (view, values) in enumerate(zip(views, given, strict=True)):
                array = host(values, f"{name}[{k}]")
                if array.shape != view.shape:
                    raise ShapeError(f"{name}[{k}] has shape {view.shape}; received {array.shape}. W is (n_out, n_in).")
                with np.errstate(over="ignore"):
                    view[...] = array
                if not np.isfinite(view).all():
                    raise DataError(
                        f"Parameters are finite numbers in the network's dtype, {self._dtype}; received "
                        f"{array[~np.isfinite(view)].flat[0]} in {name}[{k}]. If it is only large, use dtype='float64'."
                    )
        with self._lock, self._backend.active():
            self.parameters[...] = self._backend.upload(flat, self.dtype)

    def summary(self) -> str:
        """A table of the layers; print it."""
        from nnbp.formatting import table

        rows, line = self._summary()
        return "\n".join([*table(rows, left=(0, 2)), line])

    def _summary(self) -> tuple[list[tuple[str, str, str, str]], str]:
        """The rows of the table of layers, the head first, and the line below it."""
        rows = [("layer", "units", "activation", "parameters")]
        sizes = self.model.sizes
        rows.append(("input", str(sizes[0]), "", ""))
        for layer, n_in, n_out in zip(self.layers, sizes, sizes[1:], strict=False):
            count = sum(spec.size for spec in layer.parameters(n_in) if spec.learnt)
            f = "" if layer.activation is None else layer.activation.name
            rows.append((layer.kind, str(n_out), f, f"{count:,}" if count else ""))
        total = self.model.parameters.size
        products = f" (products in {self.precision})" if self.precision else ""
        decay = f", weight decay {self.weight_decay:g}" if self.weight_decay else ""
        return rows, (
            f"{total:,} parameters, {total * self.dtype.itemsize / 1e6:.3g} MB of {self.dtype.name}{products} on "
            f"{self.device}; loss {self.loss_function.name}{decay}"
        )

    def _repr_html_(self) -> str:
        """A diagram and the table of the layers, for notebooks; the table alone if the sizes are not known yet."""
        from nnbp.html import diagram, table

        if self._passes is None:
            return table(self._architecture.table(), left=(0, 2), lines=[repr(self)])
        rows, line = self._summary()
        drawn = [row for row in rows[1:] if row[2] or row[0] == "input"]
        picture = diagram([int(units) for _, units, *_ in drawn], [f or kind for kind, _, f, _ in drawn])
        return f"{picture}\n{table(rows, left=(0, 2), lines=[line])}"

    def __repr__(self) -> str:
        sizes = "sizes from the data" if self._passes is None else "-".join(map(str, self.model.sizes))
        dtype = f"{self.dtype.name!r}" + (f", precision={self.precision!r}" if self.precision else "")
        return f"Network({sizes}, loss={self.loss_function.name!r}, dtype={dtype}, device={self.device!r})"

    # Computation.

    @exclusive
    def forward(self, X: Any) -> Any:
        """h of every sample, (m, n_out); a NaN in X gives NaN in h."""
        array, back = self._adapter.matrix(X), like(X, self._backend)
        return joined([back(h) for _, h, _ in self._ready(array).outputs(array)])

    def _decided(self, X: Any, decide: Callable[[Any, Array], Array]) -> Any:
        """Applies a function to h. The inputs must be finite: a decision based on NaN would be arbitrary."""
        array, back = self._adapter.matrix(X), like(X, self._backend)
        parts, backend = [], self._backend
        for first, h, sound in self._ready(array).outputs(array, checked=True):
            if not sound:
                self._adapter.finite(array[first : first + len(h)], first)
                if self.loss_function.classification:
                    finite(backend, h, "h", self._dtype, _TOO_LARGE, first)
            parts.append(decide(backend.xp, h) if backend.owns(array) else decide(np, backend.download(h)))
        return back(joined(parts))

    @exclusive
    def trace(self, X: Any) -> Trace:
        """z and a of every layer."""
        array, back = self._adapter.matrix(X), like(X, self._backend)
        passes = self._ready(array)
        return passes.trace(passes.model.on_device(array, passes.model.input_dtype(array)), back)

    @exclusive
    def loss(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """J(W, b) = Σ wₙCⁿ / Σ wₙ + λ/2 ΣW²."""
        _, data = self._adapter.read(X, y, sample_weight)
        return self._ready(data.X).loss(self._adapter.placed(data))

    @exclusive
    def gradients(self, X: Any, y: Any, sample_weight: Any = None) -> Gradients:
        """∇J by backpropagation, together with delta and ∂C/∂x of every sample."""
        _, data = self._adapter.read(X, y, sample_weight)
        return self._ready(data.X).gradients(self._adapter.resident(data), like(X, self._backend))

    @exclusive
    def per_sample_gradients(self, X: Any, y: Any) -> Any:
        """(m, P): row n is the gradient of C for sample n, without weight decay."""
        _, data = self._adapter.read(X, y)
        return like(X, self._backend)(self._ready(data.X).per_sample_gradients(self._adapter.resident(data)))

    @exclusive
    def predict(self, X: Any) -> Any:
        """Class indices (m,) for classification losses, else values: (m,) for one output, (m, n_out) for several.

        Raises:
            DataError: a value of X is not finite, or an output that decides a class is not.
        """
        return self._decided(X, self.loss_function.decide)

    @exclusive
    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the classes, (m, n_classes).

        Raises:
            TypeError: the loss is not a classification loss.
            DataError: a value of X, or a probability, is not finite.
        """
        return self._decided(X, self.loss_function.probabilities)

    @exclusive
    def predict_interval(self, X: Any, *, calibration: Any, level: float = 0.9) -> tuple[Any, Any]:
        """Intervals that contain a new target with a probability of at least `level`, whatever the distribution.

        Prediction ± r, where r is the ⌈(n + 1) · level⌉-th smallest of the n residuals |y − prediction| of the
        calibration data, for each output separately. The guarantee holds if the calibration data and the new sample are
        drawn from the same distribution, and the network depends on neither: they must not be training data, nor data
        by which parameters were selected, such as validation data.

        Source: Lei, G'Sell, Rinaldo, Tibshirani & Wasserman, "Distribution-free predictive inference for regression",
        JASA 113, 2018, algorithm 2 (split conformal).

        Args:
            X: (m, n_in).
            calibration: (X_cal, y_cal), at least level / (1 − level) samples: 9 for 0.9, 19 for 0.95.
            level: the probability, above 0 and below 1.

        Returns:
            the lower and upper ends, each shaped like `predict(X)`.

        Raises:
            TypeError: the loss is a classification loss.
            DataError: there are too few calibration samples, or a value of X, X_cal or y_cal is not finite.
        """
        level = number("level, the probability of an interval,", level, "(0, 1)")
        if self.loss_function.classification:
            raise TypeError(
                f"Intervals are for regression; the loss {self.loss_function.name} is for classes. Use predict_proba."
            )
        if not isinstance(calibration, tuple | list) or len(calibration) != 2:
            raise TypeError(f"calibration is (X, y); received {shown(calibration)}. Give samples kept aside for it.")
        X_cal, y_cal = calibration
        with self._backend.active():
            _, data = self._adapter.read(X_cal, y_cal)
        residuals = np.sort(np.abs(data.y - np.reshape(host(self.predict(X_cal), "X"), data.y.shape)), axis=0)
        # A product may be rounded up: 20 · 0.95 must give 19.
        rank = math.ceil((len(data) + 1) * level - 1e-9)
        if rank > len(data):
            least = math.ceil(level / (1.0 - level) - 1e-9)
            raise DataError(
                f"Intervals of level {level:g} need at least {least} calibration samples; received {len(data)}. Give "
                "more, or a lower level."
            )
        predicted = self.predict(X)
        r = residuals[rank - 1] if residuals.shape[1] > 1 else residuals[rank - 1, 0]
        if self._backend.owns(predicted):
            r = self._backend.upload(np.asarray(r), self.dtype)
        return predicted - r, predicted + r

    @exclusive
    def _predicted(self, X: Array | NDArray[Any], needs: str) -> NDArray[Any]:
        """The outputs that a metric needs, for the inputs of a data set, on the host."""
        assert self._passes is not None, "metrics are measured on a network whose sizes are known"
        loss, download = self.loss_function, self._backend.download
        decide = {"labels": loss.decide, "probabilities": loss.probabilities}.get(needs)
        outputs = (h for _, h, _ in self._passes.outputs(X))
        if decide is not None:
            return joined([download(decide(self._backend.xp, h)) for h in outputs])
        values = joined([download(h) for h in outputs])
        return values[:, 0] if values.shape[1] == 1 else values

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
            metrics: names, objects or functions; None is accuracy for classes, r2 and rmse for values, and no metric
                if a sample has several labels or a probability as its target.
        """
        from nnbp.metrics import are_labels

        with self._backend.active():
            _, data = self._adapter.read(X, y, sample_weight)
            self._adapter.finite(data.X)
            data, rule = self._adapter.placed(data), self.loss_function
            if metrics is None and rule.classification and not are_labels(rule.truth(data.targets)):
                metrics = ()
            evaluation = self._evaluation(data, self._metrics(metrics))
            loss = self._ready(data.X).loss(data)
        return {"loss": loss, **evaluation.values()}

    def _evaluation(self, data: Dataset, metrics: Sequence[Metric], ranks: Ranks = ALONE) -> Evaluation:
        from nnbp.training.trainer import Evaluation

        return Evaluation(data, self.loss_function.truth(data.targets), self._predicted, metrics, ranks)

    def _metrics(self, metrics: Sequence[str | Metric | Callable[..., float]] | None) -> list[Metric]:
        from nnbp.metrics import listed

        return listed(metrics, self.loss_function.classification)

    # Training.

    @alone
    def fit(
        self,
        X: Any = None,
        y: Any = None,
        *,
        batches: Batches | None = None,
        shuffle_buffer: int = 0,
        epochs: int = 100,
        batch_size: int | None = 32,
        optimizer: str | Optimizer = "adam",
        learning_rate: float | None = None,
        schedule: str | Schedule | Callable[[float], float] | None = None,
        validation_data: Any = None,
        validation_split: float = 0.0,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | ArrayLike | str | None = None,
        shuffle: bool = True,
        early_stopping: bool | int | EarlyStopping | None = None,
        callbacks: Sequence[Callback | Callable[[TrainingState], None]] | None = (),
        metrics: Sequence[str | Metric | Callable[..., float]] | None = (),
        progress: bool | str = "auto",
        clip_norm: float | None = None,
        checkpoint: Checkpoint | None = None,
        resume: bool = False,
        comm: Any = None,
    ) -> History:
        """Trains the network from its current parameters, with a new optimizer state: fit(10) twice is not fit(20).

        Args:
            X: (m, n_in). A sparse matrix of SciPy is made dense batch by batch, as a whole for optimizers that use the
                whole data set.
            y: (m,) or (m, n_out) values; (m,) class indices or (m, n_out) one-hot rows.
            batches: instead of X, y and sample_weight, for data larger than memory: a function that returns, for each
                epoch, a new iterator over blocks (X, y) or (X, y, sample_weight) of any size. The first epoch is read
                before training begins, to check and count the samples.
            shuffle_buffer: the number of samples of `batches` that are in memory to be shuffled; 0 keeps their order.
            epochs: passes through the data.
            batch_size: samples per step; None is the whole data set, which rprop and lbfgs always use.
            optimizer: name or object.
            learning_rate: η; None is the optimizer's default.
            schedule: name, object, or a function of the epoch that returns a factor for η.
            validation_data: (X, y) or (X, y, sample_weight). The weights with the lowest validation loss are kept and
                restored at the end.
            validation_split: share of the samples to set aside for validation, drawn with the network's seed.
            sample_weight: (m,), at least 0.
            class_weight: weights by class index, an array with one for each class, or "balanced"; multiplies the sample
                weights, in validation too.
            shuffle: whether batches are drawn in a new order every epoch.
            early_stopping: an EarlyStopping, its patience in epochs, or True for the default patience.
            callbacks: Callback objects, or functions of the TrainingState that are called after every epoch.
            metrics: measured after every epoch on the training and validation data; costs a forward pass over each.
                None is those of `evaluate`.
            progress: "auto" (a bar in a terminal, else lines of text), "lines", False.
            clip_norm: bound on the Euclidean norm of the whole gradient.
            checkpoint: where and how often to write what `resume` needs; see `Checkpoint`.
            resume: from the newest checkpoint, if there is one. The network's own parameters are not used then.
            comm: a communicator of mpi4py, MPI.COMM_WORLD, if several processes train the same network, each on its own
                samples, with the same arguments otherwise. A step takes the batches of all of them together. All end
                with the same parameters. Callbacks, progress and checkpoints belong to rank 0.

        Returns:
            one value of "loss", "val_loss" and every metric per epoch.

        Raises:
            ShapeError, DTypeError, DataError, ValueError: an argument does not fit; nothing is changed then.
            DivergenceError: a loss or a parameter becomes NaN or infinite; the network keeps the best parameters.
            ModelFileError: none of the checkpoints can be read.

        Warns:
            ConvergenceWarning: the network is worse than before, or hardly better than a constant prediction.
        """
        from nnbp.optim import schedules
        from nnbp.training import callbacks as known_callbacks
        from nnbp.training import checkpoint as checkpoints
        from nnbp.training.outcome import Outcome
        from nnbp.training.progress import reporter
        from nnbp.training.samples import DataArguments
        from nnbp.training.trainer import TrainingOptions

        ranks, history = Ranks(comm), known_callbacks.History()
        given = DataArguments(
            X, y, batches, shuffle_buffer, validation_data, validation_split, sample_weight, class_weight
        )  # fmt: skip
        with ranks.training(), self._in_training():
            with ranks.together():
                epochs = whole_number("epochs", epochs, 1)
                stopping = known_callbacks.early_stopping(early_stopping)
                attendants = stopping, *known_callbacks.listed(callbacks), reporter(progress)
                options = TrainingOptions(
                    epochs=epochs,
                    batch_size=None if batch_size is None else whole_number("batch_size", batch_size, 1),
                    optimizer=_optimizer(optimizer, learning_rate),
                    schedule=schedules.get(schedule, epochs).fresh(),
                    shuffle=flag("shuffle", shuffle),
                    clip_norm=clip_norm,
                    callbacks=[each for each in attendants if each is not None and (ranks.rank == 0 or each.each_rank)],
                )
                measures = self._metrics(metrics)
                if not ranks.alone:
                    ranks.same(given.facts() | self._settings(options, measures) | self._known() | {
                        "checkpoint": "not given" if checkpoint is None else "given", "resume": described(resume),
                    })  # fmt: skip
                with self._backend.active():
                    samples = given.read(self._adapter, options, self._seed, ranks)
                if checkpoint is not None:
                    instance("checkpoint", checkpoint, checkpoints.Checkpoint, "an nnbp.Checkpoint or None")
                elif flag("resume", resume):
                    raise ValueError(
                        "resume=True needs a checkpoint to resume from; received checkpoint=None. Give one."
                    )
                with self._built(samples.adapter, samples.data, ranks) as passes:
                    trainer = self._trainer(passes, samples, options, measures, ranks)
                    found = None if checkpoint is None else self._checkpoint(trainer, checkpoint, resume=resume)
                    trainer.begin(self, history)
                # All checks have passed: the network changes from here on.
                self._ongoing = self._prepared = None
                self.history = history
            trainer.run(None if found is None else partial(self._go_on, trainer, *found))
            outcome = Outcome(self.loss_function, samples.sample_of_all(ranks), trainer)
        if ranks.rank == 0 and (doubt := outcome.doubt()):
            # Points to the caller, past the wrapper that takes the lock.
            warnings.warn(doubt, ConvergenceWarning, stacklevel=3)
        return history

    def _trainer(
        self,
        passes: Passes,
        samples: Samples,
        options: TrainingOptions,
        measures: Sequence[Metric],
        ranks: Ranks,
    ) -> Trainer:
        """A trainer of the network on these samples.

        Raises:
            ValueError: ranks have different networks.
        """
        import hashlib

        from nnbp.training.trainer import Trainer

        model = passes.model
        if not ranks.alone:
            values = np.ascontiguousarray(model.backend.download(model.parameters.values))
            facts = {"initial parameters": values.tobytes(), "random sequences": repr(model.sequences()).encode()}
            hashes = {name: hashlib.sha256(value).hexdigest()[:12] for name, value in facts.items()}
            ranks.same(self._description() | hashes)
        train = samples.placed_sample if samples.placed.feed is not None else samples.placed
        held_out = samples.held_out
        return Trainer(
            model,
            self._evaluation(train, measures, ranks),
            None if held_out is None else self._evaluation(held_out, measures, ranks),
            options,
            piece=passes.piece,
            objective=lambda: ranks.mean(self._objective(passes, samples.placed_sample), samples.data.weight),
            data=samples.placed,
            ranks=ranks,
        )

    def _checkpoint(self, trainer: Trainer, checkpoint: Checkpoint, *, resume: bool) -> tuple[ModelFile, State] | None:
        """The newest checkpoint if training is to resume and there is one. Rank 0 reads and writes them."""
        from nnbp.training.checkpoint import CheckpointWriter

        facts, ranks = self._facts(trainer), trainer.ranks
        writer = CheckpointWriter(checkpoint, facts, trainer.model, self.to_file)

        def newest() -> tuple[ModelFile, State] | None:
            trainer.checkpoints = writer
            if not resume and checkpoint.paths:
                raise ValueError(
                    f"The folder {str(checkpoint.folder)!r} has checkpoints of another training; received "
                    "resume=False. Give resume=True to resume it, or another folder."
                )
            return writer.newest(self._classes()) if resume else None

        return ranks.from_root(newest)

    def _go_on(self, trainer: Trainer, file: ModelFile, state: State) -> None:
        """Sets the network and its training to a checkpoint."""
        try:
            self._take(file)
            trainer.restore(state)
        except (LookupError, TypeError, ValueError) as error:
            raise ModelFileError(
                f"The checkpoint lacks what this training needs ({brief(error)}). It was edited, or another nnbp wrote "
                "it: remove it, or begin in another folder."
            ) from error

    def _facts(self, trainer: Trainer) -> dict[str, Any]:
        """What the bits of a training run depend on, by name, as JSON values."""
        from nnbp.training.checkpoint import digest

        ranks, data, held_out = trainer.ranks, trainer.data, trainer.validation
        parts: dict[str, Any] = {
            "number of samples": len(data),
            "data": digest(self.model, data),
            "validation data": digest(self.model, None if held_out is None else held_out.data),
        }
        if not ranks.alone:
            found = ranks.allgather(parts)
            parts = {name: [part[name] for part in found] for name in parts} | {"number of ranks": ranks.size}
        settings = self._settings(trainer.options, trainer.train.metrics)
        del settings["epochs"]
        return {"network": self._description(), **settings, **parts}

    def _known(self) -> dict[str, Any]:
        """What the network knows from earlier data, by name."""
        known = "known" if self._passes is not None else "unknown"
        return {"sizes": known, "statistics of the inputs": known if known == "unknown" else self.model.observed}

    def _settings(self, options: TrainingOptions, measures: Sequence[Metric]) -> dict[str, Any]:
        """How to train, by name, as JSON values."""
        chosen = {item.name: getattr(options, item.name) for item in fields(options) if item.name != "callbacks"}
        return {
            **{name: described(value) for name, value in chosen.items()},
            "metrics": [metric.name for metric in measures],
        }

    def _classes(self) -> list[type]:
        """The classes that a model file of this network names."""
        parts = [part for layer in self.layers for part in vars(layer).values() if isinstance(part, Named)]
        return [type(part) for part in (*parts, self.loss_function)]

    @contextmanager
    def _in_training(self) -> Iterator[None]:
        """The network stays on its device until the block ends, even if a callback trains it, too."""
        before, self._training = self._training, True
        try:
            yield
        finally:
            self._training = before

    @exclusive
    def _objective(self, passes: Passes, data: Dataset) -> float:
        return passes.loss(data)

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
        """One pass over these samples, in order; the optimizer continues from the previous call.

        The optimizer's state is reset when its class or one of its arguments changes, and after `fit`. A Standardize
        layer that has seen no data takes mean and deviation of these samples: begin with as many as you have.
        """
        rule = _optimizer(optimizer, learning_rate)
        if rule.full_batch:
            raise ValueError(
                f"partial_fit sees a part of the data, and {rule.name} needs all of it at every step. Use fit, or adam."
            )
        size = None if batch_size is None else whole_number("batch_size", batch_size, 1)
        adapter, data = self._adapter.read(X, y, sample_weight)
        adapter.finite(data.X)
        data = adapter.placed(data, (size, len(rule.slots)))
        before = ongoing = self._ongoing
        if ongoing is None or type(ongoing[0]) is not type(rule) or ongoing[0].config() != rule.config():
            from nnbp.engine.updater import OptimizerState

            ongoing, self._prepared = (rule, OptimizerState()), None
        with self._built(adapter, data) as passes:
            trainer = self._prepared_for(passes.model, data, size, *ongoing)
        # All checks have passed: the network changes from here on. If training diverges, the optimizer state is lost.
        self._ongoing, steps = None, ongoing[1].steps
        try:
            trainer.run_once()
        except DeviceMemoryError:
            # The device was full before the first step, so the optimizer keeps its former state.
            if ongoing[1].steps == steps:
                self._ongoing = before
            raise
        self._ongoing = ongoing
        return self

    def _prepared_for(
        self, model: Model, data: Dataset, size: int | None, rule: Optimizer, state: OptimizerState
    ) -> Trainer:
        """A trainer for one pass over a data set; for few samples it is kept for the next call with the same number."""
        resident, kept = self._backend.owns(data.X), self._prepared
        if resident and kept is not None and kept.take(data, size, state):
            return kept
        from nnbp.optim.schedules import Constant
        from nnbp.training.trainer import Evaluation, Trainer, TrainingOptions

        # The old trainer is released first: the device may not have room for both.
        kept = self._prepared = None
        samples = len(data)
        held = sum(array.size for array in data.arrays) + min(size or samples, samples) * sum(model.sizes)
        keeps = held < _KEPT and resident
        if keeps:
            # Copies, because none of the caller's arrays may be kept.
            w = None if data.w is None else model.copied(data.w)
            data = Dataset(model.copied(data.X), model.copied(data.y), w, weights=data.weights)
        unmeasured = Evaluation(data, np.empty(0), lambda X, needs: np.empty(0))
        options = TrainingOptions(1, size, rule, Constant(), shuffle=False)
        trainer = Trainer(model, unmeasured, None, options, state=state)
        self._prepared = trainer if keeps else None
        return trainer

    # Files.

    @exclusive
    def save(self, path: str | PathLike[str], *, extra: Mapping[str, Any] | None = None) -> None:
        """Writes architecture and parameters to one safetensors file, atomically.

        Args:
            path: the file; an existing one is replaced.
            extra: JSON values to store with them.

        Raises:
            ModelFileError: the file cannot be written.
            NnbpError: the network has not been fitted, and has statistics that are taken from the first fit.
        """
        from nnbp.serialization.model_file import State, write

        extra = {} if extra is None else instance("extra", extra, Mapping, "a dictionary of JSON values or None")
        model = self.model
        write(path, self.to_file(model.parameters.values, State({"sequences": model.sequences()}), extra))

    def to_file(self, parameters: Array, state: State, extra: Mapping[str, Any] | None = None) -> ModelFile:
        """The model file of this network with these values of its parameters."""
        from nnbp.serialization.model_file import ModelFile, State, numbered

        model, download = self.model, self._backend.download
        statistics = model.host_statistics()
        arrays: dict[str, NDArray[Any]] = {}
        views = model.parameters.views(parameters)
        for (k, _, _), own, more in zip(numbered(model.layers, model.n_in), views, statistics, strict=True):
            arrays |= {f"{name}{k}": np.asarray(download(array)) for name, array in own.items()}
            arrays |= {f"{name}{k}": array for name, array in more.items()}
        owns = self._backend.owns
        kept = {name: np.asarray(download(array) if owns(array) else array) for name, array in state.arrays.items()}
        return ModelFile(self._description(), arrays, {} if extra is None else dict(extra), State(state.values, kept))

    def _description(self) -> dict[str, Any]:
        """The architecture, as a model file has it."""
        return {
            "n_in": self.model.n_in,
            "layers": [{"kind": layer.kind, "config": layer.config()} for layer in self.model.layers],
            "loss": named(self.loss_function),
            "weight_decay": self._weight_decay,
            "dtype": self.dtype.name,
            "seed": self.seed,
        }

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
            ModelFileError: the file is not an nnbp model, or is damaged.
        """
        from nnbp.serialization.model_file import read

        custom = items("custom", custom, "a list of classes of your own")
        return cls.from_file(read(path, custom), custom, device=device, fallback=fallback, precision=precision)

    @classmethod
    def from_file(cls, file: ModelFile, custom: Sequence[type] = (), **placement: Any) -> Self:
        """The network described by a model file that has been read; `placement` is device, fallback and precision."""
        from nnbp.serialization.model_file import build_layers, statistics_in

        architecture = file.architecture
        layers, loss = build_layers(architecture, custom)
        last = layers[-1]
        net = cls(
            [architecture["n_in"], *layers], loss=loss, weight_decay=architecture["weight_decay"],
            dtype=architecture["dtype"], seed=architecture["seed"],
            output_activation=last.activation if isinstance(last, Dense) else None, **placement,
        )  # fmt: skip
        net._take(file)
        with net._backend.active():
            net.model.set_statistics(statistics_in(file.arrays, layers, architecture["n_in"]))
            if file.state is not None:
                try:
                    net.model.set_sequences(file.state.values.get("sequences", {}))
                except ValueError as error:
                    raise ModelFileError(
                        f"The model file is damaged or was edited: {error}. Take a fresh copy."
                    ) from error
        return net

    def _take(self, file: ModelFile) -> None:
        """Takes the parameters of a model file."""
        from nnbp.serialization.model_file import numbered

        model = self.model
        flat = np.empty(len(model.parameters.values), self._dtype)
        for (k, _, _), own in zip(numbered(model.layers, model.n_in), model.parameters.views(flat), strict=True):
            for name, view in own.items():
                view[...] = file.arrays[f"{name}{k}"]
        with self._lock, self._backend.active():
            model.parameters.values[...] = self._backend.upload(flat, self._dtype)

    # Copies are made from a state on the host, which is restored on a backend. Attributes that users or subclasses
    # added are copied, too.

    @exclusive
    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "architecture": self._architecture, "sizes": None, "ongoing": None,
            "attributes": {name: value for name, value in vars(self).items() if name not in _LIVE},
        }  # fmt: skip
        if self._passes is not None:
            model, download = self.model, self._backend.download
            state |= {
                "sizes": (model.n_in, model.n_out),
                "values": np.array(download(model.parameters.values)),
                "statistics": model.host_statistics() if model.observed else None,
                "sequences": model.sequences(),
            }
            if self._ongoing is not None:
                rule, memory = self._ongoing
                slots = {name: np.array(download(slot)) for name, slot in memory.slots.items()}
                state["ongoing"] = (rule, memory.steps, slots)
        return state

    def _revive(self, state: dict[str, Any], backend: Backend) -> None:
        vars(self).update(state["attributes"])
        self._begin(state["architecture"], backend)
        if state["sizes"] is None:
            return
        n_in, n_out = state["sizes"]
        model = self._build(replace(self._adapter, n_in=n_in, n_out=n_out)).model
        with backend.active():
            model.parameters.values[...] = backend.upload(state["values"], self._dtype)
            if state["statistics"] is not None:
                model.set_statistics(state["statistics"])
            model.set_sequences(state["sequences"])
            if state["ongoing"] is not None:
                from nnbp.engine.updater import OptimizerState

                rule, steps, slots = state["ongoing"]
                arrays = {name: backend.upload(slot, self._dtype) for name, slot in slots.items()}
                self._ongoing = rule, OptimizerState(steps, arrays)

    def _revived(self, state: dict[str, Any], backend: Backend) -> Self:
        network = object.__new__(type(self))
        network._revive(state, backend)
        return network

    def copy(self, *, device: str | Backend | None = None, dtype: Any = None) -> Self:
        """An independent network with the same parameters, random sequences and optimizer state.

        Attributes that users have added are copied, too, but shared if a device or a dtype is given.

        Args:
            device: of the copy; it must work. None is the backend of this network.
            dtype: float32 or float64; None is that of this network. A lower `precision` is kept for float32 only.

        Raises:
            DeviceUnavailableError: the device does not work.
            DTypeError: the dtype is not one of these.
        """
        if device is None and dtype is None:
            return copy.deepcopy(self)
        state = self._state()
        if dtype is not None:
            state["attributes"]["_dtype"] = made = float_dtype(dtype)
            state["attributes"]["_precision"] = self._precision if made == np.float32 else None
        return self._revived(state, self._backend if device is None else _opened(device, fallback=False))

    @exclusive
    def to(self, device: str | Backend, *, fallback: bool = True) -> Self:
        """Moves the network to a device, with its optimizer state and random sequences, and returns it.

        If the device cannot be opened or has no room, the network is left unchanged on its current device.

        Raises:
            NnbpError: the network is being trained.
        """
        if self._training:
            raise NnbpError(
                "A network stays on its device while it is being trained; received a call of to() from a callback. "
                "Move it when fit has returned, or move a copy: net.copy(device=...)."
            )
        moved = self._revived(self._state(), _opened(device, fallback))
        # Nothing can fail from here on.
        for name in _LIVE - {"_lock"}:
            vars(self)[name] = vars(moved)[name]
        return self

    def __copy__(self) -> Self:
        return self._revived(self._state(), self._backend)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        network = memo[id(self)] = object.__new__(type(self))
        network._revive(copy.deepcopy(self._state(), memo), self._backend)
        return network

    def __getstate__(self) -> dict[str, Any]:
        from nnbp.device.select import reopening

        return {**self._state(), "device": reopening(self._backend)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._revive(state, _opened(state["device"]))


_LIVE = frozenset({"_lock", "_architecture", "_backend", "_adapter", "_passes", "_ongoing", "_prepared", "_training"})
"""Attributes that belong to the network's device; all others are copied as they are."""


def _optimizer(optimizer: str | Optimizer, learning_rate: float | None) -> Optimizer:
    from nnbp.optim import optimizers

    rule = optimizers.get(optimizer)
    if rule is optimizer:
        rule = copy.copy(rule)
    if learning_rate is not None:
        rule.learning_rate = not_negative("learning_rate", learning_rate)
    return rule


def _opened(device: str | Backend, fallback: bool = True) -> Backend:
    """The backend for a device; a backend object is returned as it is."""
    fallback = flag("fallback", fallback)
    if isinstance(device, Backend):
        return device
    from nnbp.device.select import open_backend

    return open_backend(device, fallback=fallback)
