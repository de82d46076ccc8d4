"""The samples of a fit: its data arguments, which are checked and read here, and the data sets that training uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nnbp.engine.dataset import Dataset
from nnbp.engine.ranks import Ranks
from nnbp.formatting import described, shown
from nnbp.training.data_adapter import DataAdapter, in_proportion
from nnbp.training.stream import Batches, Stream
from nnbp.training.trainer import TrainingOptions
from nnbp.validation import number, whole_number


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples that training reads, is judged by, and is validated on; each rank has a part of them.

    Attributes:
        adapter: knows the sizes of the data.
        data: the samples to learn from, as they were read; `placed` are the same where training reads them.
        sample: those on which J is taken before and after, on the host; `placed_sample` are the same where J is taken.
        held_out: the validation data, or None.
    """

    adapter: DataAdapter
    data: Dataset
    placed: Dataset
    sample: Dataset
    placed_sample: Dataset
    held_out: Dataset | None

    def sample_of_all(self, ranks: Ranks) -> Dataset:
        """`sample` with the targets and weights of all ranks on rank 0; it stands for all samples of its rank."""
        own = self.sample
        if ranks.alone:
            return own
        w = np.ones(len(own)) if own.weights is None else own.weights
        y, w = ranks.gather(own.y), ranks.gather(w * (self.data.weight / own.weight))
        return own if y is None else replace(own, y=y, weights=w)


@dataclass(frozen=True, eq=False)
class DataArguments:
    """The arguments of `Network.fit` that are data, as they were given; see there."""

    X: Any
    y: Any
    batches: Batches | None
    shuffle_buffer: int
    validation_data: Any
    validation_split: float
    sample_weight: Any
    class_weight: Mapping[int, float] | ArrayLike | str | None

    def facts(self) -> dict[str, Any]:
        """Values that must be the same on all ranks, by name."""
        given = {name: getattr(self, name) is not None for name in ("batches", "validation_data", "sample_weight")}
        return {
            **{name: "given" if there else "not given" for name, there in given.items()},
            "class_weight": described(self.class_weight),
            "validation_split": described(self.validation_split),
            "shuffle_buffer": described(self.shuffle_buffer),
        }

    def read(self, adapter: DataAdapter, options: TrainingOptions, seed: int, ranks: Ranks) -> Samples:
        """The samples, each checked once. Runs in ``backend.active()``.

        Raises:
            ShapeError, DTypeError, DataError, TypeError, ValueError: an argument does not fit.
        """
        beside = options.batch_size, len(options.optimizer.slots)
        if self.batches is None:
            if self.X is None and self.y is None:
                raise TypeError("fit trains on X and y, or on batches; received none of them. Call fit(X, y).")
            whole_number("shuffle_buffer", self.shuffle_buffer, 0, 0)
            adapter, data, held_out = self._arrays(adapter, seed, ranks)
            sample, placed = adapter.sample(data, ranks), adapter.placed(data, beside)
            placed_sample = placed if sample is data else adapter.placed(sample)
        else:
            stream = self._stream(self.batches, adapter, options, ranks)
            adapter, sample = stream.adapter, stream.sample
            data = placed = stream.dataset()
            held_out = None if self.validation_data is None else self._held_out(adapter)
            placed_sample = adapter.placed(sample)
        ranks.same({
            "number of inputs": adapter.n_in,
            "number of outputs": adapter.n_out,
            "sample weights": "given" if data.w is not None else "not given",
            "validation weights": "given" if held_out is not None and held_out.w is not None else "not given",
        })  # fmt: skip
        if held_out is not None:
            held_out = adapter.placed(in_proportion(held_out, ranks), beside)
        return Samples(adapter, data, placed, sample, placed_sample, held_out)

    def _arrays(self, adapter: DataAdapter, seed: int, ranks: Ranks) -> tuple[DataAdapter, Dataset, Dataset | None]:
        """An adapter that knows the sizes, the data to learn from, and the validation data."""
        known, data = adapter.read(self.X, self.y, self.sample_weight)
        outputs = max(ranks.allgather(known.n_out or 0))
        if outputs != known.n_out:
            # The samples of another rank have more classes.
            known, data = replace(adapter, n_out=outputs).read(self.X, self.y, self.sample_weight)
        known.finite(data.X)
        held_out = None
        if number("validation_split, the share of the samples to set aside,", self.validation_split, "[0, 1)"):
            if self.validation_data is not None:
                raise ValueError(
                    "Validation data are given or split off, not both; received validation_data and validation_split."
                )
            data, held_out = known.split(data, self.validation_split, seed)
        elif self.validation_data is not None:
            held_out = self._held_out(known)
        if held_out is not None:
            held_out = known.weighted(held_out, self.class_weight, data, ranks)
        return known, in_proportion(known.weighted(data, self.class_weight, data, ranks), ranks), held_out

    def _held_out(self, adapter: DataAdapter) -> Dataset:
        """The validation data, checked."""
        given = self.validation_data
        if not isinstance(given, tuple | list) or len(given) not in (2, 3):
            size = f" of {len(given)}" if isinstance(given, tuple | list) else ""
            raise ValueError(
                f"validation_data is (X, y) or (X, y, sample_weight); received {type(given).__name__}{size}."
            )
        _, held_out = adapter.read(*given)
        adapter.finite(held_out.X)
        return held_out

    def _stream(self, batches: Batches, adapter: DataAdapter, options: TrainingOptions, ranks: Ranks) -> Stream:
        """The samples of `batches`, of which the first epoch has been read."""
        wrong = [name for name in ("X", "y", "sample_weight", "class_weight") if getattr(self, name) is not None]
        if wrong or self.validation_split:
            raise ValueError(
                "batches gives the samples, their targets and weights, and they are never in memory together; received "
                f"{', '.join(wrong) or 'validation_split'}, too. Leave that out; put weights into the blocks, and give "
                "validation_data."
            )
        if not callable(batches):
            raise TypeError(
                f"batches is a function that returns an iterator over blocks (X, y); received {shown(batches)}. Pass "
                "the function itself: fit(batches=read)."
            )
        if options.batch_size is None or options.optimizer.full_batch:
            raise ValueError(
                f"The samples of batches are never in memory together; received batch_size={options.batch_size} and "
                f"the optimizer {options.optimizer.name}. Give a batch_size, and an optimizer that works step by step, "
                "such as adam."
            )
        buffer = whole_number("shuffle_buffer", self.shuffle_buffer, 0) if options.shuffle else 0
        return Stream(batches, buffer, adapter, ranks)
