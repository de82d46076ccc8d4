"""What `nnbp train` trains, and how: from its arguments and a table to arrays, a network and settings.

Where an argument is left out, the default follows from the data; all of it ends up in the run's config.toml.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.cli.common import UsageError, arguments_checked
from nnbp.cli.output import note
from nnbp.network import Network
from nnbp.nn import losses
from nnbp.nn.layers import Dense, Dropout, Layer, OneHot
from nnbp.optim import optimizers, schedules
from nnbp.tabular.preprocessing import NumberColumn, TablePreprocessor, TargetEncoder
from nnbp.tabular.readers import load_source
from nnbp.tabular.table import Reading, Source, train_test_split
from nnbp.training.trainer import TrainingOptions

Samples = tuple[NDArray[np.float64], NDArray[Any]]

_CLASS_LOSSES = ("binary_cross_entropy", "cross_entropy")

_UPDATES = 2500
"""Updates that a training by default may take; small tables need many epochs for as many."""

_COLUMNS_OF_ONE_UNIT = 16


@dataclass(frozen=True)
class PreparedData:
    """A table, split and encoded.

    Attributes:
        source: the whole table.
        preprocessor, target: fitted to all rows but the held-out ones.
        train, validation: (X, y) each; validation may be None.
        test: the rows held out, or None.
        one_unit: whether the columns were standardised together; see `_in_one_unit`.
    """

    source: Source
    preprocessor: TablePreprocessor
    target: TargetEncoder
    train: Samples
    validation: Samples | None
    test: Source | None
    one_unit: bool

    def rows(self) -> dict[str, int]:
        """Numbers of rows of each part."""
        return {
            "train": len(self.train[1]),
            "validation": 0 if self.validation is None else len(self.validation[1]),
            "held_out": 0 if self.test is None else len(self.test),
        }


def prepare(arguments: argparse.Namespace) -> PreparedData:
    """Reads the source of `nnbp train`, splits its rows and encodes them.

    Raises:
        DataError: the source cannot be read, or a cell of it cannot be used.
        UsageError: loss and task do not go together.
    """
    reading = Reading(
        tuple(arguments.missing or ()), arguments.decimal, tuple(arguments.text or ()), tuple(arguments.drop or ())
    )
    source = load_source(arguments.source, target=arguments.target, reading=reading)
    task = arguments.task
    with arguments_checked():
        loss = None if arguments.loss is None else losses.get(arguments.loss)
    if loss is not None and task is None:
        task = "classification" if loss.classification else "regression"
    target = TargetEncoder.fit(source, task)
    if loss is not None and loss.classification != bool(target.labels):
        raise UsageError(
            f"the loss {loss.name} is for {'classes' if loss.classification else 'quantities'}, and the task is "
            f"{target.task}. Leave out --loss or --task."
        )
    labels = target.encode(source) if target.labels else None
    rest, test = source, None
    if arguments.test_fraction:
        kept, aside = train_test_split(len(source), arguments.test_fraction, arguments.seed, labels)
        rest, test = source.take(kept), source.take(aside)
    if not target.labels:
        target = TargetEncoder.fit(rest, "regression")
        if loss is not None and loss.name == "poisson":
            # Counts are at least 0 and stay what they are; eᶻ finds their scale by itself.
            target = replace(target, mean=0.0, scale=1.0)
    preprocessor, one_unit = _preprocessor(rest, reading)
    note("nnbp train", preprocessor.notes)
    X, _ = preprocessor.transform(rest)
    y = target.encode(rest)
    train, validation = (X, y), None
    if arguments.validation_fraction:
        share, stratify = arguments.validation_fraction, y if target.labels else None
        kept, aside = train_test_split(len(rest), share, arguments.seed, stratify)
        train, validation = (X[kept], y[kept]), (X[aside], y[aside])
    return PreparedData(source, preprocessor, target, train, validation, test, one_unit)


def _preprocessor(source: Source, reading: Reading) -> tuple[TablePreprocessor, bool]:
    """The preprocessor of a table; columns of one unit get one mean and one scale."""
    fitted = TablePreprocessor.fit(source, reading)
    numeric = [column for column in fitted.columns if isinstance(column, NumberColumn)]
    if len(numeric) < len(fitted.columns) or not _in_one_unit(source, numeric):
        return fitted, False
    values = [source.numbers(column.name) for column in numeric]
    matrix = np.column_stack([np.where(np.isnan(x), c.median, x) for x, c in zip(values, numeric, strict=True)])
    mean, scale = float(matrix.mean()), float(matrix.std())
    return replace(fitted, columns=tuple(replace(column, mean=mean, scale=scale) for column in numeric)), True


def _in_one_unit(source: Source, columns: Sequence[NumberColumn]) -> bool:
    """Whether the columns are measures of one kind, as pixels are: many, and half of them reach both bounds of all.

    Standardising each of these by itself blows up those that hardly vary, such as the pixels at the edge of digits: a
    value that a few rows have becomes the largest feature.
    """
    if len(columns) < _COLUMNS_OF_ONE_UNIT:
        return False
    bounds = []
    for column in columns:
        values = source.numbers(column.name)
        known = values[~np.isnan(values)]
        bounds.append((known.min(), known.max()) if len(known) else (column.median, column.median))
    low, high = np.array(bounds).T
    reach = (low == low.min()) & (high == high.max())
    return bool(low.min() < high.max() and 2 * reach.sum() >= len(columns))


def choose_settings(arguments: argparse.Namespace, data: PreparedData) -> dict[str, dict[str, Any]]:
    """All that a run depends on, as config.toml has it; defaults follow from the data.

    Raises:
        UsageError: an argument cannot be used.
    """
    samples, n_in = len(data.train[0]), data.preprocessor.n_features
    labels, pixels = data.target.labels, data.one_unit
    return {
        "data": {
            "source": str(arguments.source),
            "target": data.source.target_name,
            "task": data.target.task,
            "test_fraction": arguments.test_fraction,
            "validation_fraction": arguments.validation_fraction,
            "standardised": "together" if pixels else "by column",
        },
        "network": {
            "hidden": _given(arguments.hidden, [min(512, max(32, (8 if pixels else 4) * n_in))]),
            "dropout": _given(arguments.dropout, 0.5 if pixels else 0.2),
            "input_dropout": _given(arguments.input_dropout, 0.2 if pixels else 0.0),
            "activation": arguments.activation,
            # Wide layers on many inputs learn better from the larger weights of he_uniform.
            "initializer": "he_uniform" if pixels and arguments.activation == "relu" else None,
            "loss": arguments.loss or ("squared_error" if not labels else _CLASS_LOSSES[len(labels) > 2]),
            # ΣW²/2 counts as much as the cost of one sample does, as in scikit-learn's LogisticRegression with its
            # C of 1.
            "weight_decay": _given(arguments.weight_decay, 1.0 / samples),
            "dtype": arguments.dtype,
            "device": arguments.device,
            "seed": arguments.seed,
        },
        "training": _training(arguments, samples, validated=data.validation is not None),
    }


def _given(argument: Any, default: Any) -> Any:
    return default if argument is None else argument


def _training(arguments: argparse.Namespace, samples: int, *, validated: bool) -> dict[str, Any]:
    """Arguments of `Network.fit`, checked before there is a run folder, and the patience of early stopping."""
    batch_size = arguments.batch_size or (64 if samples <= 20_000 else 256 if samples <= 200_000 else 1024)
    epochs = arguments.epochs or min(1000, max(100, _UPDATES // -(-samples // batch_size)))
    with arguments_checked():
        optimizer, schedule = optimizers.get(arguments.optimizer), schedules.get(arguments.schedule, epochs)
        TrainingOptions(epochs, batch_size, optimizer, schedule)
    return {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": arguments.optimizer,
        # Twice Adam's own, for batches twice as large as are usual.
        "learning_rate": _given(arguments.learning_rate, 0.002 if optimizer.name == "adam" else None),
        "schedule": arguments.schedule,
        "clip_norm": arguments.clip_norm,
        "patience": _given(arguments.patience, max(15, epochs // 10)) if validated else None,
    }


def build_network(
    data: PreparedData, hidden: list[int], dropout: float, input_dropout: float, initializer: str | None, **more: Any
) -> Network:
    """The network of the settings; UsageError if one of them cannot be used.

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
    with arguments_checked():
        return Network(layers, **more)


def describe_layers(network: Network) -> str:
    """64 → 256 relu → dropout 0.5 → 10 softmax."""
    parts = [str(network.model.n_in)]
    for layer in network.layers:
        match layer:
            case Dense(units=units, f=f):
                parts.append(f"{units} {f.name}")
            case Dropout(rate=rate):
                parts.append(f"dropout {rate:g}")
            case OneHot(categories=categories):
                parts.append(f"one-hot {layer.outputs(len(categories))}")
            case _:
                parts.append(layer.kind)
    return " → ".join(parts)
