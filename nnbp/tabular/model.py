"""A network that was trained on a table, with all it takes to use it on another: one model file holds both."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nnbp import metrics
from nnbp.errors import DataError, ModelFileError
from nnbp.network import Network
from nnbp.nn.layers import OneHot
from nnbp.serialization import model_file
from nnbp.tabular.defaults import Options, build_network, choose_settings, prepare, train
from nnbp.tabular.preprocessing import TablePreprocessor, TargetEncoder
from nnbp.tabular.readers import LARGE_TABLE, RowGroups, frame_source, is_parquet, load_source
from nnbp.tabular.table import PLAIN, Reading, Source
from nnbp.validation import items

_NOTES = 20


@dataclass(frozen=True)
class Evaluation:
    """How predictions compare with a labelled table.

    Attributes:
        metrics: name → value; for quantities in the unit of the target. nan if a metric is not defined.
        truth: class indices (m,), or values (m,).
        predicted: the same, as predicted.
        messages: what was ignored or not known in the table.
    """

    metrics: dict[str, float]
    truth: NDArray[Any]
    predicted: NDArray[Any]
    messages: list[str]


def _tell(messages: Sequence[str], stacklevel: int = 3) -> None:
    for message in messages:
        warnings.warn(message, UserWarning, stacklevel)


def noticed(messages: list[str], more: list[str]) -> list[str]:
    """The messages on several blocks of a table: all of the first that has any, and no more than 20 with the others."""
    return [*messages, *more[: max(0, _NOTES - len(messages))]] if messages else more


@dataclass(frozen=True)
class TableModel:
    """A network for tables, with the preprocessing of their columns: what `nnbp train` makes and its model file holds.

    Columns of numbers are imputed and standardised, bools become 0 and 1, texts are one-hot encoded. A table is a data
    frame of pandas, polars, Arrow, DuckDB or any other library with the Arrow stream interface. Its columns are matched
    by name, in any order; one that is missing is an error.

    >>> import pandas
    >>> import nnbp
    >>> houses = pandas.DataFrame({"area": [50, 80, 120, 65] * 8, "town": ["Rome", "Oslo"] * 16})
    >>> houses["price"] = 3.1 * houses["area"] + 40 * (houses["town"] == "Oslo")
    >>> model = nnbp.TableModel.fit(houses, "price", epochs=300, progress=False)
    >>> model.evaluate(houses)["r2"] > 0.9
    True
    >>> model.predict(houses[["town", "area"]]).shape
    (32,)

    Attributes:
        network: takes the features, gives class indices or standardised values.
        preprocessor: makes features of columns; None for a network that was saved without: it takes columns of
            numbers as they are.
        target: makes labels or values of what the network gives.
        about: other JSON values in the model file.
    """

    network: Network
    preprocessor: TablePreprocessor | None
    target: TargetEncoder
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(
        cls, frame: Any, target: str, *, missing: Iterable[str] = (), decimal: str = ".", text: Iterable[str] = (),
        drop: Iterable[str] = (), callbacks: Sequence[Any] = (), progress: bool | str = "auto", **options: Any,
    ) -> Self:  # fmt: skip
        """A network trained on a table.

        Args:
            frame: the table.
            target: the name of the column to predict.
            missing: marks of a missing value in columns of text, besides NA, null, ? and others.
            decimal: the decimal mark in columns of text, a point or a comma.
            text: columns to take as text, whatever their cells say.
            drop: columns to leave out.
            callbacks, progress: as for `Network.fit`.
            options: see `nnbp.tabular.defaults.Options`.

        Raises:
            DataError: a cell cannot be used; the message names it and the remedies.
            ValueError, TypeError: an option cannot be used.
            DivergenceError: a loss or a parameter becomes NaN or infinite.
        """
        lists = {"missing": missing, "text": text, "drop": drop}
        given = {name: tuple(items(name, value, "a list of strings")) for name, value in lists.items()}
        reading = Reading(decimal=decimal, **given)
        source = frame_source(frame, target=target, reading=reading)
        chosen = Options(**options)
        data = prepare(source, chosen, reading)
        _tell(data.preprocessor.notes(source))
        settings = choose_settings(chosen, data)
        network = build_network(data, **settings["network"])
        train(network, data, callbacks=callbacks, progress=progress, **settings["training"])
        return cls(network, data.preprocessor, data.target)

    def save(self, path: str | PathLike[str]) -> None:
        """Writes one model file, whole or not at all."""
        if self.preprocessor is None:
            raise ValueError("A network without preprocessing is saved by Network.save.")
        table = {"preprocessing": self.preprocessor.to_json(), "target": self.target.to_json()}
        self.network.save(path, extra={**self.about, **table})

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str = "auto") -> Self:
        """The model of a file; one that `Network.save` wrote without a table numbers its classes from 0.

        Raises:
            ModelFileError: the file is no nnbp model, or damaged.
        """
        file = model_file.read(path)
        about = dict(file.extra)
        if "preprocessing" not in about:
            network = Network.from_file(file, device=device)
            labels = tuple(range(max(network.model.n_out, 2))) if network.loss_function.classification else ()
            return cls(network, None, TargetEncoder("target", labels), about)
        preprocessor = TablePreprocessor.from_json(about.pop("preprocessing"))
        target = TargetEncoder.from_json(about.pop("target", None))
        layers, one_hot = file.architecture["layers"], {"categories": preprocessor.one_hot}
        n_features, n_classes = preprocessor.n_features, len(target.labels)
        n_in, is_wide = file.arrays["W1"].shape[1], layers[0]["kind"] != OneHot.kind
        if is_wide and any(preprocessor.one_hot) and n_in == n_features:
            # The networks of earlier versions took one input for each category.
            layers = [{"kind": OneHot.kind, "config": one_hot}, *layers]
            file.architecture.update(n_in=len(preprocessor.one_hot), layers=layers)
        network = Network.from_file(file, device=device)
        loss, n_out = network.loss_function, network.model.n_out
        outputs = 1 if not n_classes or loss.name == "binary_cross_entropy" else n_classes
        fits = is_wide or layers[0]["config"] == one_hot
        if not fits or (n_features, outputs, n_classes > 0) != (n_in, n_out, loss.classification):
            raise ModelFileError(
                f"{path}: its table has {n_features} features and {n_classes} classes, which does not fit its network "
                f"of {n_in} inputs and {n_out} outputs. Save it anew."
            )
        return cls(network, preprocessor, target, about)

    @property
    def reading(self) -> Reading:
        """How the training table was read."""
        return PLAIN if self.preprocessor is None else self.preprocessor.reading

    @property
    def texts(self) -> list[str] | None:
        """The columns whose text the model needs; None is all of them."""
        if self.preprocessor is None:
            return []
        names = [column.name for column in self.preprocessor.columns if column.categories]
        return names if self.preprocessor.named or not names else None

    def blocks(self, source: str | Path, target: str | None, *, required: bool) -> Iterator[Source]:
        """The rows of a file or a set for this model: as a whole, or block by block if it is a large Parquet file.

        Args:
            source: its path or name.
            target: see `load_source`.
            required: whether the target must be there.
        """
        path, known = Path(source), self.preprocessor
        if known is not None and known.named and self.reading.decimal == "." and is_parquet(path):
            unused = replace(self.reading, drop=(*self.reading.drop, *known.left_out))
            table = RowGroups.of(path, target, unused, required=required)
            if table.nbytes > LARGE_TABLE:
                yield from (block for _, block in table.blocks())
                return
        n_features = self.network.model.n_in if known is None else len(known.columns)
        yield load_source(
            source, target=target, target_required=required, n_features=None if required else n_features,
            reading=self.reading, keep_text=self.texts,
        )  # fmt: skip

    def features(self, source: Source) -> tuple[NDArray[np.float64], list[str]]:
        """Features (m, n_in) of a table, and messages on what was ignored or not known."""
        if self.preprocessor is not None:
            X, messages = self.preprocessor.transform(source)
            self._check_range(source, X)
            return X, messages
        n_in = self.network.model.n_in
        if len(source.columns) != n_in:
            raise DataError(
                f"{source.name}: {len(source.columns)} columns of features, but this model, which was saved without "
                f"the preprocessing of a table, takes {n_in} columns of numbers in the order of its training."
            )
        X = np.column_stack([source.numbers(name) for name in source.columns])
        if np.isnan(X).any():
            row, column = np.argwhere(np.isnan(X))[0]
            raise DataError(
                f"{source.at(int(row), list(source.columns)[column])}: the cell is empty, and this model, which was "
                "saved without the preprocessing of a table, has nothing to put there. Fill the cell."
            )
        return X, []

    def _check_range(self, source: Source, X: NDArray[np.float64]) -> None:
        """DataError with its place for a number that is finite, but not in the network's dtype."""
        assert self.preprocessor is not None, "features were made by it"
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(X.astype(self.network.dtype))
        if bad.any():
            row, position = np.argwhere(bad)[0]
            name = self.preprocessor.columns[position].name
            if name not in source.columns:
                name = list(source.columns)[position]
            mask = np.arange(len(source)) == row
            source.check(name, mask, f"a number that {self.network.dtype} can hold", "Check the cell and its unit")

    def predict(self, frame: Any) -> NDArray[Any]:
        """Labels as the training table had them (m,), or values in their own unit (m,).

        Raises:
            DataError: a column is missing, or a cell cannot be used.
        """
        return self.decoded(self.network.predict(self._known(frame)))

    def predict_proba(self, frame: Any) -> NDArray[Any]:
        """Probabilities (m, k) of the classes in the order of `labels`; TypeError if there are none."""
        return np.asarray(self.network.predict_proba(self._known(frame)))

    def evaluate(self, frame: Any) -> dict[str, float]:
        """Accuracy and others, or R² and others in the target's own unit, of a table that has the target."""
        found = self.compare(self._source(frame, target_required=True))
        _tell(found.messages)
        return found.metrics

    @property
    def labels(self) -> tuple[Any, ...]:
        """The classes in the order of the network's outputs; empty for a quantity."""
        return self.target.labels

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The columns that the model takes, by name, in the order of training."""
        return () if self.preprocessor is None else tuple(column.name for column in self.preprocessor.columns)

    def _source(self, frame: Any, *, target_required: bool) -> Source:
        return frame_source(
            frame, target=self.target.name, target_required=target_required, reading=self.reading, keep_text=self.texts
        )

    def _known(self, frame: Any) -> NDArray[np.float64]:
        X, messages = self.features(self._source(frame, target_required=False))
        _tell(messages, stacklevel=4)
        return X

    def decoded(self, outputs: Any) -> NDArray[Any]:
        """Labels, or values in their own unit, of class indices or standardised values."""
        values = self.target.decode(outputs)
        # float32 says no more than float32 knows: 0.1, not 0.10000000149011612.
        return values if self.target.labels else values.astype(self.network.dtype)

    def compare(self, source: Source) -> Evaluation:
        """Predictions of a labelled table against its target; see `compare_blocks`."""
        return self.compare_blocks([source])

    def compare_blocks(self, blocks: Iterable[Source]) -> Evaluation:
        """Predictions of a labelled table, given in blocks of rows, against its target.

        Raises:
            DataError: the target is missing, or has a label that the training did not have.
        """
        truths, outputs, chances, messages = [], [], [], list[str]()
        for block in blocks:
            truths.append(self.target.encode(block))
            X, notes = self.features(block)
            messages = noticed(messages, notes)
            outputs.append(self.network.predict(X))
            if self.target.labels:
                chances.append(self.network.predict_proba(X))
            elif outputs[-1].ndim > 1:
                raise DataError(
                    f"{block.name}: the model predicts {outputs[-1].shape[1]} values per row, and a table has one "
                    "target. Evaluate such a network in Python: Network.evaluate(X, y)."
                )
        truth, predicted = np.concatenate(truths), np.concatenate(outputs)
        if not self.target.labels:
            truth, predicted = self.target.decode(truth), self.decoded(predicted)
            found = {name: metrics.get(name)(truth, predicted) for name in ("r2", "rmse", "mae")}
            return Evaluation(found, truth, predicted, messages)
        found = {name: metrics.get(name)(truth, predicted) for name in ("accuracy", "balanced_accuracy", "f1_macro")}
        probabilities = np.concatenate(chances)
        names = ("log_loss", "roc_auc") if len(self.target.labels) == 2 else ("log_loss",)
        found |= {name: metrics.get(name)(truth, probabilities) for name in names}
        return Evaluation(found, truth, predicted, messages)

    def baseline(self, truth: NDArray[Any]) -> float:
        """Accuracy of always naming the most frequent of these classes (m,); nan for quantities, for which R² tells."""
        return float(np.bincount(truth).max() / len(truth)) if self.target.labels else math.nan
