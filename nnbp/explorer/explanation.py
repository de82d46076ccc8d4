"""The numbers and names that the explorer shows: a trace, gradients, and the names of units and classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.engine.executor import Batch, Executor
from nnbp.engine.results import Gradients, Trace
from nnbp.errors import NnbpError, ShapeError
from nnbp.formatting import shown
from nnbp.graph.formula import Formula, trace
from nnbp.network import Network
from nnbp.nn.activations import Activation
from nnbp.nn.layers import Layer, OneHot
from nnbp.nn.losses import Loss
from nnbp.tabular.model import TableModel
from nnbp.tabular.preprocessing import NumberColumn
from nnbp.tabular.readers import frame_source
from nnbp.tabular.table import Source
from nnbp.validation import items, samples_on_host, whole_number

LARGEST = 300_000
"""The most parameters that a network may have: the page contains each of them twice."""


@dataclass(frozen=True)
class Column:
    """One number that a user gives for each sample, and the input units that it feeds.

    Attributes:
        name: the name of the column, or "".
        units: the indices of its input units, counted from 0: one, or one for each category.
        categories: the categories of a column of text; the number is the index of one of them.
        mean, scale: the value in the table is number · scale + mean.
    """

    name: str
    units: tuple[int, ...]
    categories: tuple[str, ...] = ()
    mean: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Explanation:
    """A network and some samples, as the explorer shows them. All numbers are float64.

    Attributes:
        network: a copy in float64 on the CPU.
        rows: (m,), the indices of the samples that are shown.
        samples: the number of samples that were given.
        X: (m, n_in).
        y: (m, n_out), one target for each output; class indices have become one-hot rows.
        trace, gradients: those of the samples shown.
        cost: (m,), C of each sample.
        inputs: (m, n), the outputs of the input units: X, standardised or one-hot if the first layer does that.
        columns: the columns of X.
        input_names, output_names: the names of the input and output units; empty if they have none.
        target: the name, mean and scale of the target.
    """

    network: Network
    rows: NDArray[np.int64]
    samples: int
    X: NDArray[np.float64]
    y: NDArray[np.float64]
    trace: Trace
    gradients: Gradients
    cost: NDArray[np.float64]
    inputs: NDArray[np.float64]
    columns: tuple[Column, ...]
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    target: Column = field(default_factory=lambda: Column("", ()))

    @property
    def layers(self) -> list[Layer]:
        """The layers that have an activation, and so z, a and delta."""
        model = self.network.model
        return [model.layers[k] for k in model.activated]

    @property
    def activations(self) -> list[Activation]:
        """The activation of each of these layers."""
        return [layer.activation for layer in self.layers if layer.activation is not None]

    @property
    def sizes(self) -> list[int]:
        """The number of input units, then the number of units of each of these layers."""
        return [self.inputs.shape[1], *(a.shape[1] for a in self.trace.a[1:])]

    @property
    def first_units(self) -> list[int]:
        """The number of the first unit of each: units are numbered from 1 through all layers, as in the notes."""
        return [1 + sum(self.sizes[:l]) for l in range(len(self.sizes))]


def explained(
    model: Network | TableModel,
    X: Any,
    y: Any = None,
    *,
    names: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    rows: int = 20,
) -> Explanation:
    """Explains a network on some samples; the arguments are those of `nnbp.explain`."""
    rows = whole_number("rows", rows, 1)
    if isinstance(model, TableModel):
        return _of_table(model, X, rows)
    if not isinstance(model, Network):
        raise TypeError(f"net must be a Network or a TableModel; received {shown(model)}.")
    if y is None:
        raise TypeError(
            "A network needs targets, and only a TableModel takes them from its table; received y=None. Give them: "
            "explain(net, X, y)."
        )
    _check_size(model)
    # All samples are checked in the network's own dtype; only those that are shown become float64.
    data = model.copy(device="cpu").prepare(X, y)
    chosen = spread(len(data), rows)
    X, y = np.asarray(samples_on_host(X)[chosen]), data.targets[chosen]
    found = _of_network(model, X, y, _names("names", names), _names("labels", labels))
    return replace(found, rows=chosen, samples=len(data))


def _check_size(network: Network) -> None:
    count = network.model.parameters.size
    if count > LARGEST:
        raise NnbpError(
            f"The explorer shows networks with at most {LARGEST:,} parameters; received one of {count:,}. Explain a "
            "smaller network of the same kind."
        )


def _names(what: str, given: Sequence[str] | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    found = items(what, given, "a list of strings, one for each unit")
    if wrong := [name for name in found if not isinstance(name, str)]:
        raise TypeError(f"{what} is a list of strings, one for each unit; received {shown(wrong[0])}. Use str().")
    return tuple(found)


def _of_table(model: TableModel, table: Any, rows: int) -> Explanation:
    _check_size(model.network)
    source = table
    if not isinstance(table, Source):
        source = frame_source(table, target=model.target.name, reading=model.reading, keep_text=model.texts)
    chosen = spread(len(source), rows)
    part = source.take(chosen)
    X, _ = model.features(part)
    known, target = model.preprocessor, model.target
    columns, units = [], 0
    for column in () if known is None else known.columns:
        scaling = {"mean": column.mean, "scale": column.scale} if isinstance(column, NumberColumn) else {}
        columns.append(Column(column.name, tuple(range(units, units + column.width)), column.categories, **scaling))
        units += column.width
    names = tuple(source.columns) if known is None else known.feature_names
    classes = tuple(map(str, target.labels))
    # Of two classes, the one output is the probability of the second.
    labels = classes[1:] if len(classes) == 2 and model.network.model.n_out == 1 else classes or None
    found = _of_network(model.network, X, target.encode(part), names, labels, tuple(columns))
    quantity = Column(target.name, (), classes, target.mean, target.scale)
    return replace(found, rows=chosen, samples=len(source), target=quantity)


def _of_network(
    model: Network,
    X: Any,
    y: Any,
    names: tuple[str, ...] | None,
    labels: tuple[str, ...] | None,
    columns: tuple[Column, ...] = (),
) -> Explanation:
    """The explanation of all these samples."""
    network = model.copy(device="cpu", dtype="float64")
    data = network.prepare(X, y)
    X, inner = np.array(data.X, np.float64), network.model
    with inner.backend.active():
        executor = Executor(inner, Batch(X, data.y), keep_z=True)
        executor.run_forward()
        targets = np.array(executor.y.T)
        begin = inner.activated[0]
        inputs = np.array(executor.nodes[begin - 1].a.T if begin else X)
        cost = np.array(executor.cost[0])
    for what, given, expected in (("names", names, inputs.shape[1]), ("labels", labels, inner.n_out)):
        if given is not None and len(given) != expected:
            raise ShapeError(f"{what} has one name for each of {expected} units; received {len(given)} names.")
    return Explanation(
        network, np.arange(len(X)), len(X), X, targets, network.trace(X), network.gradients(X, targets), cost, inputs,
        columns or _columns(inner.layers[0], inner.n_in, names or ()), names or (), labels or (),
    )  # fmt: skip


def _columns(first: Layer, n_in: int, names: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of X without the preprocessing of a table."""
    if isinstance(first, OneHot):
        columns, units = [], 0
        for count in first.categories:
            width = max(1, count)
            columns.append(Column("", tuple(range(units, units + width)), tuple(map(str, range(count)))))
            units += width
        return tuple(columns)
    return tuple(Column(names[k] if names else "", (k,)) for k in range(n_in))


def spread(samples: int, rows: int) -> NDArray[np.int64]:
    """Indices of at most `rows` of the samples, evenly spread: tables are often sorted by their target."""
    return np.unique(np.linspace(0, samples - 1, min(samples, rows)).round().astype(np.int64))


def stated(item: Activation | Loss | Layer) -> str:
    """The formula of an activation, a loss or a layer: the first sentence of its docstring, without remarks."""
    line = (type(item).__doc__ or "").strip().partition("\n")[0].partition(". ")[0].rstrip(".")
    return re.sub(r" \([^()]*[a-z]{4}[^()]*\)", "", line)


def slope(f: Activation) -> Formula | None:
    """f'(z) as a formula of z and a; None if f is not elementwise."""
    try:
        return trace(lambda z, a: 1.0 * f.df(z, a), "z", "a")
    except TypeError:
        return None
