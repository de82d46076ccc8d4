"""The forward and backward pass of one sample as JSON values, which static/pass.js runs in a browser.

A pass is a list of operations on buffers (`nnbp.graph.ops`), and a formula is a list of instructions. An interpreter of
the primitives and of three operations can therefore run every layer, activation and loss, including those of users.
"""

from __future__ import annotations

import base64
from bisect import bisect
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from nnbp.engine.executor import Batch, Executor
from nnbp.engine.model import Model
from nnbp.errors import NnbpError
from nnbp.graph.formula import Constant, Formula, Input, Operand, Value
from nnbp.graph.ops import Array, Gemm, Map, Operation, Reduce, overlap, span

_ITEM = np.dtype(np.float64).itemsize

View = list[Any]
"""An array of a program: the number of its buffer, its first element there, its shape, and its strides in elements."""


def encoded(values: Any) -> str:
    """Numbers as base64-encoded little-endian float64."""
    return base64.b64encode(np.ascontiguousarray(values, "<f8").tobytes()).decode("ascii")


def formula_json(formula: Formula) -> dict[str, Any]:
    """A formula; an operand is [0, i] for input i, [1, i] for the result of instruction i, or [2, number]."""
    steps = [[step.primitive.name, *map(_operand, step.operands)] for step in formula.instructions]
    return {"steps": steps, "results": [_operand(result) for result in formula.results]}


def _operand(operand: Operand) -> list[Any]:
    match operand:
        case Input(position):
            return [0, position]
        case Value(position):
            return [1, position]
        case Constant(number):
            # JSON has no NaN and no infinity; JavaScript's Number() reads these texts.
            return [2, number if np.isfinite(number) else str(number).replace("inf", "Infinity").replace("nan", "NaN")]


def program_of(model: Model) -> dict[str, Any]:
    """The pass of one sample, without weight decay.

    Args:
        model: in float64, on the CPU.

    Returns:
        JSON values:
            buffers: the number of elements of each.
            constants: pairs of a view and its elements in base64.
            formulas: those of the operations, each once; see `formula_json`.
            operations: ["map", number of the formula, inputs, outputs], ["gemm", a, b, out] or ["sum" or "maximum", a,
                axis, out], with views for arrays.
            x, y, inputs, theta, gradient, cost, dx: views; y has one number for each output, and inputs are the outputs
                of the input units, x if the network does not begin with Standardize or OneHot.
            layers: for each layer with an activation, the views z, a and delta, and the number of the last operation
                that writes delta (-1 if only one does). Before it, the buffer contains ∂C/∂a.

    Raises:
        NnbpError: a layer uses an operation that a page cannot run.
    """
    x, y = np.zeros((1, model.n_in)), np.zeros((1, model.n_out))
    decay, model.weight_decay = model.weight_decay, 0.0
    try:
        executor = Executor(model, Batch(x, y), gradients=True, keep_z=True, want_dx=True)
    finally:
        model.weight_decay = decay
    operations = [*executor.forward, *executor.backward]
    parameters = model.parameters
    inputs = executor.nodes[model.activated[0] - 1].a if model.activated[0] else x
    ends = [x, y, inputs, parameters.values, parameters.gradient, executor.dx]
    views = _Views([*ends, *_arrays(operations)])
    recorder = _Recorder(views, known=[x, y, parameters.theta])
    listed = [recorder.record(operation) for operation in operations]
    layers = []
    for k in model.activated:
        node: Any = executor.nodes[k]
        writers = [i for i, operation in enumerate(operations) if any(overlap(w, node.delta) for w in operation.writes)]
        last = writers[-1] if len(writers) > 1 else -1
        layers.append({"z": views(node.z), "a": views(node.a), "delta": views(node.delta), "last": last})
    return {
        "buffers": views.sizes,
        "constants": recorder.constants,
        "formulas": [formula_json(formula) for formula in recorder.formulas],
        "operations": listed,
        "x": views(x),
        "y": views(y),
        "inputs": views(inputs),
        "theta": views(parameters.theta),
        "gradient": views(parameters.gradient),
        "cost": views(executor.cost),
        "dx": views(executor.dx),
        "layers": layers,
    }


def _arrays(operations: Iterable[Operation]) -> list[Array]:
    return [array for operation in operations for array in (*operation.reads, *operation.writes)]


class _Views:
    """The buffers of arrays: arrays that share memory are in the same buffer. Buffers are numbered in order of use.

    Attributes:
        sizes: the number of elements of each buffer.
    """

    def __init__(self, arrays: Sequence[Array]) -> None:
        merged: list[tuple[int, int]] = []
        for first, end in sorted(map(span, arrays)):
            if merged and first < merged[-1][1]:
                first, before = merged.pop()
                end = max(end, before)
            merged.append((first, end))
        starts = [first for first, _ in merged]
        used = dict.fromkeys(bisect(starts, span(array)[0]) - 1 for array in arrays)
        self._starts, self._number = starts, {place: number for number, place in enumerate(used)}
        self.sizes = [(merged[place][1] - merged[place][0]) // _ITEM for place in used]

    def __call__(self, array: Array) -> View:
        start = span(array)[0]
        place = bisect(self._starts, start) - 1
        strides = [step // _ITEM for step in array.strides]
        return [self._number[place], (start - self._starts[place]) // _ITEM, list(array.shape), strides]


class _Recorder:
    """Operations as JSON values.

    Attributes:
        constants: arrays that are read before any operation writes them, with their elements.
        formulas: the formulas of the operations, each once.

    Args:
        views: the views of all arrays.
        known: arrays that the interpreter fills before it runs the program.
    """

    def __init__(self, views: _Views, known: Sequence[Array]) -> None:
        self.constants: list[list[Any]] = []
        self.formulas: list[Formula] = []
        self._views, self._filled = views, list(known)

    def record(self, operation: Operation) -> list[Any]:
        view = self._views
        for array in operation.reads:
            if not any(overlap(array, other) for other in self._filled):
                self.constants.append([view(array), encoded(array)])
                self._filled.append(array)
        self._filled += operation.writes
        match operation:
            case Map(formula=formula, inputs=inputs, outputs=outputs):
                if formula not in self.formulas:
                    self.formulas.append(formula)
                used = [view(array) if formula.uses(name) else None
                        for name, array in zip(formula.inputs, inputs, strict=True)]  # fmt: skip
                return ["map", self.formulas.index(formula), used, [view(array) for array in outputs]]
            case Gemm(a=a, b=b, out=out):
                return ["gemm", view(a), view(b), view(out)]
            case Reduce(fold=fold, a=a, axis=axis, out=out):
                return [fold, view(a), axis, view(out)]
        raise NnbpError(
            f"The explorer runs the operations Map, Gemm and Reduce; received {type(operation).__name__} from a layer. "
            "Write the layer with those three."
        )
