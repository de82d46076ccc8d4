"""Networks and table models as ONNX files, which other runtimes and languages run without nnbp.

A forward pass is a list of operations on buffers (`nnbp.graph.ops`), and a formula in it is a list of instructions. So
one table, from the primitives of formulas to ONNX operators, exports every layer and every activation, including those
of users. Most of the preprocessing of columns and targets consists of formulas, too.

ONNX arrays are samples by features, (batch, n): an array of the recording, (n, m), is stored transposed. The number of
samples stays open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nnbp.engine.executor import Batch, Executor
from nnbp.errors import MissingDependencyError
from nnbp.formatting import brief, json_text, number, shown
from nnbp.graph.formula import Constant, Formula, Input, Operand, Primitive, Value, trace
from nnbp.graph.ops import Array, Gemm, Map, Operation, Reduce, address, overlap, same
from nnbp.network import Network
from nnbp.nn.losses import Loss
from nnbp.requirements import optional
from nnbp.serialization.safetensors_file import RefusedError, explained, replace
from nnbp.tabular.model import TableModel
from nnbp.tabular.preprocessing import Spec, TextColumn
from nnbp.tabular.readers import frame_source
from nnbp.tabular.table import Source
from nnbp.validation import file_path, host, not_negative
from nnbp.version import __version__

OPSET, TABLES_OPSET, IR_VERSION = 17, 3, 8
"""The versions of ONNX's operators, of its operators for tables, and of the file format of the same age."""

TOLERANCES = {"float32": 1e-5, "float64": 1e-10}
"""How much the outputs of ONNX and nnbp may differ by default, by the dtype of the network; see `Export.error`."""

_LARGEST = 2**31 - 2**20
"""The most bytes of parameters that an ONNX file can hold: a protocol buffer has at most 2 GiB."""

_RECORDED = 2
"""Number of samples of the recording; the graph is the same for any number."""

_SAMPLES = 64
"""Number of samples that are generated for the comparison."""

OPERATORS: dict[str, tuple[str, ...]] = {
    "exp": ("Exp",), "log": ("Log",), "tanh": ("Tanh",), "sqrt": ("Sqrt",), "sin": ("Sin",), "cos": ("Cos",),
    "arctan": ("Atan",), "absolute": ("Abs",), "negative": ("Neg",), "reciprocal": ("Reciprocal",), "sign": ("Sign",),
    "add": ("Add",), "subtract": ("Sub",), "multiply": ("Mul",), "divide": ("Div",), "power": ("Pow",),
    "maximum": ("Max",), "minimum": ("Min",), "greater": ("Greater",), "greater_equal": ("GreaterOrEqual",),
    "less": ("Less",), "less_equal": ("LessOrEqual",), "equal": ("Equal",), "not_equal": ("Equal", "Not"),
    "where": ("Where",),
}  # fmt: skip
"""The ONNX operators for each primitive of formulas, applied one after the other."""


def _log1p(x: Any) -> Any:
    # ln u for the rounded u = 1 + x, plus the rounding error to first order. If u − 1 is x, nothing is added, as −1
    # and infinity require. Hewlett-Packard, "HP-15C advanced functions handbook", 1982, appendix.
    u = 1.0 + x
    rounded = u - 1.0
    return np.where(rounded == x, np.log(u), np.log(u) + (x - rounded) / u)


FORMULAS: dict[str, Callable[[Any], Any]] = {
    "square": lambda x: x * x,
    # eˣ − 1 = tanh(x/2) (eˣ + 1) without cancellation.
    "expm1": lambda x: np.tanh(0.5 * x) * (np.exp(x) + 1.0),
    "log1p": _log1p,
}
"""Formulas for the primitives that have no ONNX operator."""

FLOAT32_ONLY = {"arctan", "cos"}
"""Primitives whose operators onnxruntime lacks in float64: Atan (1.32), Cos (1.23; 1.32 has it)."""


@dataclass(frozen=True)
class Export:
    """The file that `export` wrote, and how it was checked.

    Attributes:
        path: of the file.
        inputs, outputs: their names.
        runtime: the runtime that ran the file: onnxruntime if it is installed, else the reference evaluator of onnx.
        samples: number of samples for which the outputs were compared with those of nnbp.
        error: the largest difference of a probability. For values, the largest difference, less eight rounding errors
            of the value, divided by the range of this output over the samples, or by the deviation of a table's target
            if that is larger.
        tolerance: the largest error allowed.
    """

    path: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    runtime: str
    samples: int
    error: float
    tolerance: float


def export(
    model: Network | TableModel, path: str | PathLike[str], *, data: Any = None, tolerance: float | None = None
) -> Export:
    """Writes an ONNX file (opset 17) that predicts as the model does, after a runtime has computed the same results.

    Inputs of a network: "X" (batch, n_in), in the network's dtype, or float64 if the network begins with Standardize.
    Inputs of a table model: one (batch, 1) per column, with the column's name. Numbers and bools are float64, NaN if
    missing. Texts are strings without blanks around them, "" or a mark such as "NA" if missing. Preprocessing is part
    of the file. The file computes with cells that nnbp refuses, such as infinity.

    Outputs: "label", the result of `predict`, and "probabilities", the result of `predict_proba`; or "value", the
    result of `predict`. If a column has that name, the output gets an underscore. The file's metadata "labels" lists
    the classes in the order of their probabilities.

    Args:
        model: a network whose sizes are known, and its statistics if it takes any from data; or a table model.
        path: of the file; an existing file is replaced.
        data: the inputs for the comparison: X (m, n_in), or a data frame; None generates data.
        tolerance: of the comparison; None is 1e-5 for float32 and 1e-10 for float64. See `Export.error`.

    Raises:
        MissingDependencyError: onnx is not installed.
        ModelFileError: a part of the model has no counterpart in ONNX, the runtime computes different results, or the
            file cannot be written; the message says which. In these cases no file is written.
        DataError, ShapeError, DTypeError: the data do not fit the model.

    >>> import nnbp, tempfile
    >>> net = nnbp.Network([2, 8, 3], loss="cross_entropy", device="cpu", seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = export(net, f"{folder}/net.onnx")
    >>> done.inputs, done.outputs, done.error < 1e-5
    (('X',), ('label', 'probabilities'), True)
    """
    onnx, where = optional("onnx", "exporting to ONNX"), file_path(path)
    subject = _subject(model)
    allowed = TOLERANCES[subject.network.dtype.name]
    allowed = allowed if tolerance is None else not_negative("tolerance", tolerance)
    feeds, X = subject.samples(data)
    expected = subject.predicted(X)
    with explained(f"Cannot export to {shown(where)}", "Nothing was written: correct this and export again."):
        graph = _Graph(onnx, feeds)
        outputs = [graph.fresh(name) for name in expected]
        made = graph.model(feeds, dict(zip(outputs, expected.values(), strict=True)), subject.record(graph))
        onnx.helper.set_model_props(made, subject.metadata)
        onnx.checker.check_model(made, full_check=True)
        runtime, run = _runtime(onnx, made)
        error = _difference(expected, run(feeds), subject.unit, allowed, runtime)
        replace(where, made.SerializeToString())
    return Export(where, tuple(feeds), tuple(outputs), runtime, len(X), error, allowed)


# ---- what is exported


def _subject(model: object) -> _NetworkSubject:
    if isinstance(model, Network):
        return _NetworkSubject(model)
    if not isinstance(model, TableModel):
        raise TypeError(f"The model must be a Network or a TableModel; received {shown(model)}.")
    return _NetworkSubject(model.network) if model.preprocessor is None else _TableSubject(model)


class _NetworkSubject:
    """A network to export; `record` gives the names of its outputs' values in the graph.

    Attributes:
        network: a copy on the CPU.
        unit: of its values; 0 if it is not known.
        metadata: of the file, texts by name.
    """

    unit = 0.0

    def __init__(self, network: Network) -> None:
        self.network = network.copy(device="cpu")
        self.metadata: dict[str, str] = {}
        self.dtype = self.network.model.input_dtype(np.empty(0))

    def samples(self, data: Any) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
        """The inputs of the file (m, …) by name, and X for the network; generated if `data` is None."""
        model = self.network.model
        if data is None:
            rng, statistics = np.random.default_rng(0), model.host_statistics()[0]
            X = rng.normal(size=(_SAMPLES, model.n_in))
            # Every second sample has whole numbers, for a layer that treats them as categories.
            X[::2] = np.rint(2.0 * X[::2])
            data = statistics.get("mean", 0.0) + statistics.get("deviation", 1.0) * X
        with np.errstate(over="ignore"):
            X = host(data, "data").astype(self.dtype)
        return {"X": X}, X

    def predicted(self, X: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The outputs of the file by name, as nnbp computes them."""
        predicted = self.decoded(self.network.predict(X))
        if self.network.loss_function.classification:
            return {"label": predicted, "probabilities": self.network.predict_proba(X)}
        return {"value": predicted}

    def decoded(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """The predictions of the model from those of its network."""
        return outputs

    def record(self, graph: _Graph) -> list[str]:
        """Adds the model to the graph; the names of the values that are its outputs."""
        model, loss = self.network.model, self.network.loss_function
        if model.parameters.values.nbytes > _LARGEST:
            raise RefusedError(
                f"an ONNX file holds at most 2 GiB; the parameters take {model.parameters.values.nbytes} B."
            )
        x = np.empty((model.n_in, _RECORDED), self.dtype)
        with model.backend.active():
            executor = Executor(model, Batch(x.T))
            arrays = _Arrays(graph, _names(self.network))
            self.record_inputs(graph, arrays, x)
            for operation in executor.forward:
                arrays.record(operation)
            label, *probabilities = _decisions(graph, loss, arrays.read(executor.h))
            return [self.record_decoded(graph, label), *(rows.name for rows in probabilities)]

    def record_inputs(self, graph: _Graph, arrays: _Arrays, x: Array) -> None:
        """Assigns a value of the graph to the array x (n_in, m)."""
        arrays.write(x, "X")

    def record_decoded(self, graph: _Graph, label: _Tensor) -> str:
        """Adds `decoded` to the graph; the name of its result."""
        return label.name


class _TableSubject(_NetworkSubject):
    """A table model to export."""

    def __init__(self, table: TableModel) -> None:
        super().__init__(table.network)
        assert table.preprocessor is not None, "a model without preprocessing is exported as its network"
        self.table, self.preprocessor, self.unit = table, table.preprocessor, table.target.scale
        if table.labels:
            self.metadata["labels"] = json_text(table.labels)

    def samples(self, data: Any) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
        table, columns = self.table, self.preprocessor.columns
        if data is None:
            rng = np.random.default_rng(0)
            cells = {column.name: column.example(rng, _SAMPLES) for column in columns}
            data = Source("the generated table", cells, np.arange(_SAMPLES), named=self.preprocessor.named)
        elif not isinstance(data, Source):
            data = frame_source(
                data, target=table.target.name, target_required=False, reading=table.reading, keep_text=table.texts
            )
        X, _ = table.features(data)
        names = self.preprocessor.names_in(data, [])
        feeds = {c.name: c.cells(data, name)[:, None] for c, name in zip(columns, names, strict=True)}
        return feeds, X

    def decoded(self, outputs: NDArray[Any]) -> NDArray[Any]:
        return self.table.decoded(outputs)

    def record_inputs(self, graph: _Graph, arrays: _Arrays, x: Array) -> None:
        for k, column in enumerate(self.preprocessor.columns):
            feature = graph.cast(self._feature(graph, column), self.dtype)
            arrays.write(x[k : k + 1], feature.name)

    def _feature(self, graph: _Graph, column: Spec) -> _Tensor:
        """Adds a column's `encode` to the graph; its result."""
        if not isinstance(column, TextColumn):
            cells = _Tensor(column.name, (1, _RECORDED), np.dtype(np.float64))
            return graph.apply(trace(column.f, "x"), {"x": cells}, np.float64)[0]
        index = {category: k for k, category in enumerate(column.categories)}
        index |= dict.fromkeys(self.table.reading.marks, index.get("", -1))
        places = [float(place) for place in index.values()]
        name = graph.node(
            "LabelEncoder", column.name, domain="ai.onnx.ml", keys_strings=[*index], values_floats=places,
            default_float=-1.0,
        )  # fmt: skip
        return _Tensor(name, (1, _RECORDED), np.dtype(np.float32))

    def record_decoded(self, graph: _Graph, label: _Tensor) -> str:
        if self.table.labels:
            return graph.node("Gather", graph.constant(np.array(self.table.labels), "labels"), label.name)
        (value,) = graph.apply(trace(self.table.target.f, "y"), {"y": label}, np.float64)
        return graph.cast(value, self.network.dtype).name


def _names(network: Network) -> dict[int, str]:
    """Names for the parameters and statistics of each layer, by their addresses."""
    model = network.model
    views = model.parameters.views(model.parameters.values)
    return {
        address(array): f"{layer.kind}{k}.{name}"
        for k, (layer, *owned) in enumerate(zip(model.layers, views, model.statistics, strict=True), start=1)
        for own in owned
        for name, array in own.items()
    }


# ---- the graph


class _Tensor(NamedTuple):
    """A value of the graph: its name, the shape of the array (n, m) that it represents, and its dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class _Graph:
    """The nodes and constants of an ONNX graph.

    Args:
        onnx: the library.
        taken: names that must not be used.
    """

    def __init__(self, onnx: Any, taken: Mapping[str, object]) -> None:
        self._onnx, self._taken = onnx, {*taken}
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._scalars: dict[tuple[str, DTypeLike], _Tensor] = {}

    def fresh(self, name: str) -> str:
        """This name, with underscores appended if it is taken."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node; the name of its result."""
        name = self.fresh(f"{operator}_{len(self._nodes)}")
        self._nodes.append(self._onnx.helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, values: NDArray[Any], name: str | None = None) -> str:
        """Adds a constant; its name."""
        name = self.fresh(name or f"constant_{len(self._constants)}")
        values = values.astype(object) if values.dtype.kind == "U" else np.ascontiguousarray(values)
        self._constants.append(self._onnx.numpy_helper.from_array(values, name))
        return name

    def cast(self, value: _Tensor, dtype: DTypeLike) -> _Tensor:
        """The value in this dtype."""
        dtype = np.dtype(dtype)
        if value.dtype == dtype:
            return value
        return value._replace(name=self.node("Cast", value.name, to=self._type(dtype)), dtype=dtype)

    def apply(self, formula: Formula, inputs: Mapping[str, _Tensor], dtype: DTypeLike) -> list[_Tensor]:
        """Adds a formula that computes in this dtype; its results.

        Args:
            formula: see `nnbp.graph.formula`.
            inputs: the values of the inputs that the formula uses.
            dtype: float32 or float64.
        """
        values: list[_Tensor] = []

        def operand(item: Operand) -> _Tensor:
            match item:
                case Input(position):
                    return self.cast(inputs[formula.inputs[position]], dtype)
                case Value(position):
                    return values[position]
                case Constant(constant):
                    return self._scalar(constant, dtype)

        for step in formula.instructions:
            # An instruction takes the values of earlier ones.
            values += [self._primitive(step.primitive, [operand(item) for item in step.operands], dtype)]
        return [self.cast(operand(item), dtype) for item in formula.results]

    def _primitive(self, primitive: Primitive, operands: Sequence[_Tensor], dtype: DTypeLike) -> _Tensor:
        if primitive.name in FORMULAS:
            return self.apply(trace(FORMULAS[primitive.name], "x"), {"x": operands[0]}, dtype)[0]
        if primitive.name in FLOAT32_ONLY and dtype == np.float64:
            raise RefusedError(
                f"np.{primitive.name} is {OPERATORS[primitive.name][0]} in ONNX, which onnxruntime, or an older one, "
                "does not have in float64.",
                "Export a copy in float32: net.copy(dtype='float32').",
            )
        # A comparison is a truth value as the condition of `where`, and a number otherwise.
        conditions = 1 if primitive.ufunc is None else 0
        numbers = [value if k < conditions else self.cast(value, dtype) for k, value in enumerate(operands)]
        first, *more = OPERATORS[primitive.name]
        name = self.node(first, *(value.name for value in numbers))
        for operator in more:
            name = self.node(operator, name)
        shape = np.broadcast_shapes(*(value.shape for value in numbers))
        return _Tensor(name, shape, np.dtype(np.bool_ if primitive.boolean else dtype))

    def _scalar(self, value: float, dtype: DTypeLike) -> _Tensor:
        key = repr(value), dtype
        if key not in self._scalars:
            self._scalars[key] = _Tensor(self.constant(np.array(value, dtype)), (), np.dtype(dtype))
        return self._scalars[key]

    def model(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]], results: Sequence[str]
    ) -> Any:
        """The graph as a model.

        Args:
            inputs, outputs: samples (m, …) of the inputs and outputs, by name.
            results: the names of the values that become the outputs.
        """
        helper = self._onnx.helper
        for name, result in zip(outputs, results, strict=True):
            self._nodes.append(helper.make_node("Identity", [result], [name]))

        def described(samples: Mapping[str, NDArray[Any]]) -> list[Any]:
            return [
                helper.make_tensor_value_info(name, self._type(array.dtype), ["batch", *array.shape[1:]])
                for name, array in samples.items()
            ]

        graph = helper.make_graph(self._nodes, "nnbp", described(inputs), described(outputs), self._constants)
        versions = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", TABLES_OPSET)]
        return helper.make_model(
            graph, opset_imports=versions, ir_version=IR_VERSION, producer_name="nnbp", producer_version=__version__
        )

    def _type(self, dtype: np.dtype[Any]) -> int:
        """ONNX's number for a dtype."""
        if dtype.kind in "OU":
            return int(self._onnx.TensorProto.STRING)
        return int(self._onnx.helper.np_dtype_to_tensor_dtype(dtype))


# ---- the recording


class _Arrays:
    """The values of the arrays of a recording, while its operations are added to the graph.

    An array that no operation has written is a constant.

    Args:
        graph: the graph to which constants and operations are added.
        names: of constants, by their addresses.
    """

    def __init__(self, graph: _Graph, names: Mapping[int, str]) -> None:
        self._graph, self._names = graph, names
        self._held: list[tuple[Array, str]] = []
        self._transposes: dict[str, str] = {}

    def record(self, operation: Operation) -> None:
        """Adds an operation to the graph."""
        graph = self._graph
        match operation:
            case Map():
                self._map(operation)
            case Gemm(a=a, b=b, out=out):
                self.write(out, graph.node("MatMul", self.read(b).name, self.read(a).name))
            case Reduce(fold="sum", a=a, axis=axis, out=out):
                axes = graph.constant(np.array([1 - axis]))
                self.write(out, graph.node("ReduceSum", self.read(a).name, axes))
            case Reduce(fold="maximum", a=a, axis=axis, out=out):
                self.write(out, graph.node("ReduceMax", self.read(a).name, axes=[1 - axis]))
            case _:
                function = getattr(operation, "function", type(operation))
                raise RefusedError(
                    f"{getattr(function, '__qualname__', function)}, which a layer calls, has no counterpart in ONNX.",
                    "Write the layer with the operations Map, Gemm and Reduce.",
                )

    def _map(self, operation: Map) -> None:
        formula = operation.formula
        named = zip(formula.inputs, operation.inputs, strict=True)
        inputs = {name: self.read(array) for name, array in named if formula.uses(name)}
        results = self._graph.apply(formula, inputs, operation.outputs[0].dtype)
        for out, result in zip(operation.outputs, results, strict=True):
            self.write(out, self._spread(result, out, operation.inputs).name)

    def _spread(self, value: _Tensor, out: Array, inputs: Sequence[Array]) -> _Tensor:
        """The value in the shape of an output; the result of a constant formula lacks that shape."""
        if value.shape == out.shape:
            return value
        # An input that has a column for each sample.
        full = next((self.read(array).name for array in inputs if array.shape == out.shape), None)
        if full is None:
            raise RefusedError(
                "an operation of a layer computes the same value for all samples, and ONNX has no shape for it.",
                "Let its formula use an array with a column for each sample: x + 0.0 * z.",
            )
        return value._replace(name=self._graph.node("Expand", value.name, self._graph.node("Shape", full)))

    def write(self, array: Array, name: str) -> None:
        """Assigns the value of this name to an array."""
        others = [held for held in self._held if not same(held[0], array)]
        if any(overlap(other, array) for other, _ in others):
            raise RefusedError("a layer overwrites a part of an array, which ONNX cannot express.")
        self._held = [*others, (array, name)]

    def read(self, array: Array) -> _Tensor:
        """The value of an array: a written value, rows or columns of it, or several values side by side."""
        held = sorted((held for held in self._held if overlap(held[0], array)), key=lambda held: address(held[0]))
        if not held:
            name = self._graph.constant(array.T, self._names.get(address(array)))
            return _Tensor(name, array.shape, array.dtype)
        for turned, across in product((False, True), repeat=2):
            view = array.T if turned else array
            found = _rows(view, [other.T if across else other for other, _ in held])
            if found is not None:
                parts = [
                    self._part(name, across, rows, len(other.T if across else other))
                    for (other, name), rows in zip(held, found, strict=True)
                ]
                name = parts[0] if len(parts) == 1 else self._graph.node("Concat", *parts, axis=1)
                return _Tensor(self._turned(name) if turned else name, array.shape, array.dtype)
        raise RefusedError("a layer reads an array in a different order than it was written; ONNX cannot express this.")

    def _part(self, name: str, across: bool, rows: slice, size: int) -> str:
        """These rows of a value, or of its transpose."""
        name = self._turned(name) if across else name
        if rows == slice(0, size):
            return name
        bounds = (self._graph.constant(np.array([bound])) for bound in (rows.start, rows.stop, 1))
        return self._graph.node("Slice", name, *bounds)

    def _turned(self, name: str) -> str:
        """The transpose of a value."""
        if name not in self._transposes:
            turned = self._graph.node("Transpose", name, perm=[1, 0])
            self._transposes |= {name: turned, turned: name}
        return self._transposes[name]


def _rows(view: Array, others: Sequence[Array]) -> list[slice] | None:
    """The rows of each of the other arrays that make up the view, in memory order; None if they do not make it up."""
    found, at = [], 0
    for other in others:
        first = (address(view) - address(other)) // other.strides[0]
        start, stop = max(first, 0), min(first + len(view), len(other))
        if stop <= start or not same(view[at : at + stop - start], other[start:stop]):
            return None
        found.append(slice(start, stop))
        at += stop - start
    return found if at == len(view) else None


# ---- outputs and their check


def _decisions(graph: _Graph, loss: Loss, h: _Tensor) -> list[_Tensor]:
    """Adds the results of `Loss.decide` and, for classes, `Loss.probabilities` for h (n_out, m)."""
    alone = h.shape[0] == 1

    def flat(rows: _Tensor) -> _Tensor:
        name = graph.node("Squeeze", rows.name, graph.constant(np.array([1]))) if alone else rows.name
        return rows._replace(name=name)

    if not loss.classification:
        return [flat(h)]
    if loss.requires == "softmax":
        return [_Tensor(graph.node("ArgMax", h.name, axis=1, keepdims=0), h.shape[1:], np.dtype(np.int64)), h]
    if loss.requires != "sigmoid":
        raise RefusedError(
            f"the loss {loss.name} decides classes by its own function, which has no counterpart in ONNX.",
            "Let the loss require the output activation sigmoid or softmax.",
        )
    (other,), (is_one,) = (
        graph.apply(trace(f, "h"), {"h": h}, h.dtype) for f in (lambda h: 1.0 - h, lambda h: 1.0 * (h >= 0.5))
    )
    both = h._replace(name=graph.node("Concat", other.name, h.name, axis=1)) if alone else h
    return [flat(graph.cast(is_one, np.int64)), both]


def _runtime(onnx: Any, made: Any) -> tuple[str, Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]]]:
    """The name of an installed runtime, and a function that computes the outputs of a model from its inputs."""
    try:
        library = optional("onnxruntime", "computing an ONNX file")
    except MissingDependencyError:
        name = f"the reference evaluator of onnx {onnx.__version__}"
        run = optional("onnx.reference", "computing an ONNX file").ReferenceEvaluator(made).run
    else:
        name, options = f"onnxruntime {library.__version__}", library.SessionOptions()
        options.log_severity_level = 3  # Only errors, which are also raised.
        try:
            run = library.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"]).run
        except Exception as error:  # The library's exceptions have no common base.
            raise RefusedError(f"{name} cannot run the model ({brief(error)}).") from error

    def outputs(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        with np.errstate(all="ignore"):
            return [np.asarray(array) for array in run(None, dict(inputs))]

    return name, outputs


def _difference(
    expected: Mapping[str, NDArray[Any]], found: Sequence[NDArray[Any]], unit: float, allowed: float, runtime: str
) -> float:
    """The error of the last output, which is numeric; see `Export.error`. Refuses an error larger than allowed.

    A label may differ if its probability is nearly the same.
    """
    label, last = expected.get("label"), list(expected.values())[-1]
    numbers, theirs, eps = last.astype(np.float64), found[-1].astype(np.float64), float(np.finfo(last.dtype).eps)
    finite = np.isfinite(numbers)
    if finite.mean() < 0.5:
        raise RefusedError(
            f"the outputs are compared for {len(numbers)} samples; received outputs that are not finite for most of "
            "them.", "Give data that resemble the training data.",
        )  # fmt: skip
    scale, rounding = np.ones(1), np.zeros(1)
    if label is None:
        least, most = (np.where(finite, numbers, side).T for side in (np.inf, -np.inf))
        scale = np.maximum(unit, np.atleast_1d(most.max(axis=-1) - least.min(axis=-1)))
        scale, rounding = np.where(np.isfinite(scale) & (scale > 0.0), scale, 1.0), 8.0 * eps * np.abs(numbers)
    with np.errstate(all="ignore"):
        errors = np.maximum(np.abs(numbers - theirs) - rounding, 0.0) / scale
    # Equal infinities are no error; any other pair with a number that is not finite is one.
    errors = np.where(numbers == theirs, 0.0, np.where(finite & np.isfinite(theirs), errors, np.inf))
    error = float(errors.max())
    if error > allowed:
        raise RefusedError(
            f"{runtime} and nnbp must compute the same, up to {allowed:g}; received outputs that differ by "
            f"{number(error)}. Rounding alone may be the cause if the network is deep or its numbers are large.",
            "If so, give a larger tolerance, or use float64; else report this.",
        )
    if label is not None:
        two = np.sort(numbers, axis=1)[:, -2:]
        margin = np.abs(2.0 * numbers - 1.0) if label.ndim == 2 else two[:, 1] - two[:, 0]
        if ((label != found[0]) & (margin > 2.0 * allowed)).any():
            raise RefusedError(f"{runtime} and nnbp must predict the same labels; received others.", "Report this.")
    return error
