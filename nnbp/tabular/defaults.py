"""How a network is trained on a table: from what the user says, and the table, to arrays, a network and settings.

Where the user says nothing, the default follows from the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nnbp.network import Network
from nnbp.nn import losses
from nnbp.nn.activations import Activation
from nnbp.nn.layers import Dense, Dropout, Layer, OneHot
from nnbp.nn.losses import Loss
from nnbp.optim import optimizers, schedules
from nnbp.optim.optimizers import Optimizer
from nnbp.optim.schedules import Schedule
from nnbp.tabular.preprocessing import NumberColumn, TablePreprocessor, TargetEncoder, Task, checked_target
from nnbp.tabular.summary import Moments, Summary
from nnbp.tabular.table import Reading, Source, train_test_split
from nnbp.training.callbacks import History
from nnbp.training.trainer import TrainingOptions
from nnbp.validation import number, one_of, whole_number

Samples = tuple[NDArray[np.float64], NDArray[Any]]

_CLASS_LOSSES = ("binary_cross_entropy", "cross_entropy")

_UPDATES = 2500
"""Updates that training may take by default; small tables need many epochs for as many."""

_COLUMNS_OF_ONE_UNIT = 16


@dataclass(frozen=True)
class Options:
    """What a user may say of a network for a table and of its training; None leaves it to the data.

    Attributes:
        task: "classification" or "regression"; None follows from the target.
        hidden: units of the hidden layers; None is one layer of 32 to 512.
        activation: of the hidden layers.
        loss: None is cross entropy for classes, else squared_error.
        dropout: rate after each hidden layer; None is 0.2, or 0.5 for pixels.
        input_dropout: rate of the features; None is 0, or 0.2 for pixels.
        weight_decay: λ of J; None is 1 / number of training rows.
        dtype, device: of the network.
        epochs: at most; None is 100 to 1000, about 2500 updates.
        batch_size: None is 64, and more for more than 20,000 rows.
        optimizer, learning_rate, schedule, clip_norm: as for `Network.fit`, but Adam's rate is 0.002.
        patience: epochs without a lower validation loss after which training ends, 0 for no end; None is 15 or more.
        validation_fraction: share of the rows for validation, 0 for none.
        test_fraction: share of the rows that are held out before, 0 for none.
        seed: of splits, weights, shuffles and masks.
    """

    task: Task | None = None
    hidden: Sequence[int] | None = None
    activation: str | Activation = "relu"
    loss: str | Loss | None = None
    dropout: float | None = None
    input_dropout: float | None = None
    weight_decay: float | None = None
    dtype: str = "float32"
    device: str = "auto"
    epochs: int | None = None
    batch_size: int | None = None
    optimizer: str | Optimizer = "adam"
    learning_rate: float | None = None
    schedule: str | Schedule | None = None
    clip_norm: float | None = None
    patience: int | None = None
    validation_fraction: float = 0.1
    test_fraction: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("task", self.task, "classification", "regression", None)
        for name in ("validation_fraction", "test_fraction"):
            number(f"{name}, a share of the rows,", getattr(self, name), "[0, 1)")
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 0), ("seed", 0)):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), least)


class TrainingRows(Protocol):
    """The rows that a network is trained on, wherever they are."""

    def __len__(self) -> int:
        """How many they are."""

    @property
    def facts(self) -> dict[str, Any]:
        """What the configuration of a run says of how they are read."""

    def fit(self, network: Network, *, callbacks: Sequence[Any], progress: bool | str, **options: Any) -> History:
        """Trains a network on them; the options are those of `Network.fit`."""


@dataclass(frozen=True)
class RowsInMemory:
    """Rows whose features X (m, columns) and encoded targets y (m,) are in memory."""

    X: NDArray[np.float64]
    y: NDArray[Any]

    def __len__(self) -> int:
        return len(self.y)

    @property
    def facts(self) -> dict[str, Any]:
        return {}

    def fit(self, network: Network, *, callbacks: Sequence[Any], progress: bool | str, **options: Any) -> History:
        return network.fit(self.X, self.y, callbacks=callbacks, progress=progress, **options)


@dataclass(frozen=True)
class PreparedData:
    """A table, split and encoded.

    Attributes:
        source: the whole table, or some of its rows if it is larger than memory.
        preprocessor, target: fitted to all rows but the held-out ones.
        train: the rows to train on.
        validation: (X, y), or None; of several ranks, the part of this one.
        test: the rows held out, or None.
        one_unit: whether the columns were standardised together; see `_in_one_unit`.
    """

    source: Source
    preprocessor: TablePreprocessor
    target: TargetEncoder
    train: TrainingRows
    validation: Samples | None
    test: Source | None
    one_unit: bool
    validating: int
    """Number of rows that validate, on all ranks."""

    def rows(self) -> dict[str, int]:
        """Numbers of rows of each part."""
        return {
            "train": len(self.train),
            "validation": self.validating,
            "held_out": 0 if self.test is None else len(self.test),
        }


def prepare(source: Source, options: Options, reading: Reading) -> PreparedData:
    """Splits the rows of a table with a target, and encodes them.

    Raises:
        DataError: a cell cannot be used.
        ValueError: loss and task do not go together.
    """
    name = checked_target(source)
    target = encoder_of(Summary.of(source, name, distinct=True), options)
    labels = target.encode(source) if target.labels else None
    rest, test = source, None
    if options.test_fraction:
        kept, aside = train_test_split(len(source), options.test_fraction, options.seed, labels)
        rest, test = source.take(kept), source.take(aside)
    if not target.labels:
        target = encoder_of(Summary.of(rest, name), replace(options, task="regression"))
    for column in source.columns:
        # A cell of a held-out row is to be found now, not after the training.
        source.kind(column)
    summaries = [Summary.of(rest, column) for column in rest.columns]
    preprocessor, one_unit = preprocessor_of(rest, summaries, reading)
    if test is not None:
        preprocessor.transform(test)
    X, _ = preprocessor.transform(rest)
    y = target.encode(rest)
    train, validation = RowsInMemory(X, y), None
    if options.validation_fraction:
        stratify = y if target.labels else None
        kept, aside = train_test_split(len(rest), options.validation_fraction, options.seed, stratify)
        train, validation = RowsInMemory(X[kept], y[kept]), (X[aside], y[aside])
    validating = len(rest) - len(train)
    return PreparedData(source, preprocessor, target, train, validation, test, one_unit, validating)


def encoder_of(target: Summary, options: Options) -> TargetEncoder:
    """The encoder of a target whose summary tells its cells apart, for the task and the loss of the options.

    Raises:
        DataError: a cell cannot be used.
        ValueError: loss and task do not go together.
    """
    task = options.task
    loss = None if options.loss is None else losses.get(options.loss)
    if loss is not None and task is None:
        task = "classification" if loss.classification else "regression"
    encoder = TargetEncoder.of(target, task)
    if loss is not None and loss.classification != bool(encoder.labels):
        raise ValueError(
            f"the loss {loss.name} is for {'classes' if loss.classification else 'quantities'}, and the task is "
            f"{encoder.task}. Leave out {target.cells.option('loss')} or {target.cells.option('task')}."
        )
    # Counts are at least 0 and stay what they are; eᶻ finds their scale by itself.
    return replace(encoder, mean=0.0, scale=1.0) if loss is not None and loss.name == "poisson" else encoder


def preprocessor_of(source: Source, summaries: Sequence[Summary], reading: Reading) -> tuple[TablePreprocessor, bool]:
    """The preprocessor of a table of which the source is a part; columns of one unit get one mean and one scale."""
    fitted = TablePreprocessor.of(source, summaries, reading)
    known = {summary.name: summary for summary in summaries}
    columns, moments = [], []
    for column in fitted.columns:
        summary = known[column.name]
        if isinstance(column, NumberColumn) and summary.moments is not None:
            columns.append(column)
            moments.append(summary.moments.with_constant(column.median, summary.missing))
    if len(columns) < len(fitted.columns) or not _in_one_unit(moments):
        return fitted, False
    of_all = sum(moments, start=Moments())
    together = [replace(column, mean=of_all.mean, scale=of_all.deviation) for column in columns]
    return replace(fitted, columns=tuple(together)), True


def _in_one_unit(moments: Sequence[Moments]) -> bool:
    """Whether columns are measures of one kind, as pixels are: many, and half of them reach both bounds of all.

    Standardising each of these by itself blows up those that hardly vary, such as the pixels at the edge of digits: a
    value that a few rows have becomes the largest feature.
    """
    if len(moments) < _COLUMNS_OF_ONE_UNIT:
        return False
    low, high = np.array([(column.low, column.high) for column in moments]).T
    reach = (low == low.min()) & (high == high.max())
    return bool(low.min() < high.max() and 2 * reach.sum() >= len(moments))


def choose_settings(options: Options, data: PreparedData) -> dict[str, dict[str, Any]]:
    """All that a training run depends on: "data", the arguments of `build_network` and of `train`.

    Raises:
        ValueError, TypeError: an option cannot be used.
    """
    samples, n_in = len(data.train), data.preprocessor.n_features
    labels, pixels = data.target.labels, data.one_unit
    return {
        "data": {
            "target": data.source.target_name,
            "task": data.target.task,
            "test_fraction": options.test_fraction,
            "validation_fraction": options.validation_fraction,
            "standardised": "together" if pixels else "by column",
            **data.train.facts,
        },
        "network": {
            "hidden": _given(options.hidden, [min(512, max(32, (8 if pixels else 4) * n_in))]),
            "dropout": _given(options.dropout, 0.5 if pixels else 0.2),
            "input_dropout": _given(options.input_dropout, 0.2 if pixels else 0.0),
            "activation": options.activation,
            # Wide layers on many inputs learn better from the larger weights of he_uniform.
            "initializer": "he_uniform" if pixels and options.activation == "relu" else None,
            "loss": options.loss or ("squared_error" if not labels else _CLASS_LOSSES[len(labels) > 2]),
            # ΣW²/2 counts as much as the cost of one sample does, as in scikit-learn's LogisticRegression with its
            # C of 1.
            "weight_decay": _given(options.weight_decay, 1.0 / samples),
            "dtype": options.dtype,
            "device": options.device,
            "seed": options.seed,
        },
        "training": _training(options, samples, validated=data.validation is not None),
    }


def _given(argument: Any, default: Any) -> Any:
    return default if argument is None else argument


def _training(options: Options, samples: int, *, validated: bool) -> dict[str, Any]:
    """The arguments of `train`, checked."""
    batch_size = options.batch_size or (64 if samples <= 20_000 else 256 if samples <= 200_000 else 1024)
    epochs = options.epochs or min(1000, max(100, _UPDATES // -(-samples // batch_size)))
    optimizer, schedule = optimizers.get(options.optimizer), schedules.get(options.schedule, epochs)
    TrainingOptions(epochs, batch_size, optimizer, schedule)
    return {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": options.optimizer,
        # Twice Adam's own, for batches twice as large as are usual.
        "learning_rate": _given(options.learning_rate, 0.002 if optimizer.name == "adam" else None),
        "schedule": options.schedule,
        "clip_norm": options.clip_norm,
        "patience": _given(options.patience, max(15, epochs // 10)) if validated else None,
    }


def build_network(
    data: PreparedData, hidden: list[int], dropout: float, input_dropout: float, initializer: str | None, **more: Any
) -> Network:
    """The network of the settings; ValueError or TypeError if one of them cannot be used.

    Args:
        data: what it is trained on.
        hidden: units of the hidden layers.
        dropout: rate after each of them.
        input_dropout: rate of the features.
        initializer: of the hidden layers; None leaves it to the activation.
        more: other arguments of `Network`.
    """
    one_hot = data.preprocessor.one_hot
    layers: list[int | Layer] = [len(one_hot), *([OneHot(one_hot)] if any(one_hot) else [])]
    if input_dropout:
        layers.append(Dropout(input_dropout))
    for units in hidden:
        layers.append(Dense(units, initializer=initializer))
        if dropout:
            layers.append(Dropout(dropout))
    labels = data.target.labels
    layers.append(Dense(1 if not labels or more["loss"] == "binary_cross_entropy" else len(labels)))
    return Network(layers, **more)


def train(
    network: Network, data: PreparedData, *, patience: int | None, callbacks: Sequence[Any] = (),
    progress: bool | str = "auto", **options: Any,
) -> History:  # fmt: skip
    """Trains the network of the settings; with early stopping if there is a patience. `options` are those of `fit`."""
    return data.train.fit(
        network, **options, validation_data=data.validation, early_stopping=patience or None,
        metrics=["accuracy"] if data.target.labels else ["r2"], callbacks=callbacks, progress=progress,
    )  # fmt: skip
