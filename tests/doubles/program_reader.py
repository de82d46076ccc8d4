"""Runs the program of the explorer's page, from its JSON values alone, as static/pass.js does."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from nnbp.graph.formula import PRIMITIVES


def decoded(text: str) -> np.ndarray:
    """The numbers that `nnbp.explorer.program.encoded` has encoded, flat."""
    return np.frombuffer(base64.b64decode(text), "<f8").astype(np.float64)


class Reader:
    """The buffers of a program."""

    def __init__(self, program: dict[str, Any]) -> None:
        self.program = json.loads(json.dumps(program, allow_nan=False))
        self.buffers = [np.zeros(size) for size in self.program["buffers"]]
        for view, text in self.program["constants"]:
            array = self.array(view)
            array[...] = decoded(text).reshape(array.shape)

    def array(self, view: Any) -> np.ndarray:
        buffer, first, shape, strides = view
        return as_strided(self.buffers[buffer][first:], shape, [8 * step for step in strides])

    def run(self, x: Any, y: Any, theta: Any) -> dict[str, Any]:
        for name, values in (("x", x), ("y", y), ("theta", theta)):
            self.array(self.program[name])[...] = values
        upstream = {}
        for i, operation in enumerate(self.program["operations"]):
            for l, layer in enumerate(self.program["layers"]):
                if layer["last"] == i:
                    upstream[l] = self.array(layer["delta"]).ravel().copy()
            self.execute(*operation)
        layers = [
            {"da": upstream.get(l), **{name: self.array(layer[name]).ravel().copy() for name in ("z", "a", "delta")}}
            for l, layer in enumerate(self.program["layers"])
        ]
        ends = {name: self.array(self.program[name]).ravel().copy() for name in ("cost", "dx", "gradient", "inputs")}
        return {"layers": layers, **ends}

    def execute(self, kind: str, *operands: Any) -> None:
        if kind == "map":
            number, inputs, outputs = operands
            results = self.formula(number, [None if view is None else self.array(view).copy() for view in inputs])
            for view, result in zip(outputs, results, strict=True):
                self.array(view)[...] = result
        elif kind == "gemm":
            a, b, out = map(self.array, operands)
            out[...] = a @ b
        else:
            a, axis, out = operands
            self.array(out)[...] = getattr(self.array(a), "sum" if kind == "sum" else "max")(axis=axis, keepdims=True)

    def formula(self, number: int, inputs: list[Any]) -> list[Any]:
        formula, values = self.program["formulas"][number], []

        def operand(item: Any) -> Any:
            kind, value = item
            return inputs[value] if kind == 0 else values[value] if kind == 1 else float(value)

        with np.errstate(all="ignore"):
            for name, *operands in formula["steps"]:
                values.append((PRIMITIVES[name].ufunc or np.where)(*map(operand, operands)))
        return [operand(result) for result in formula["results"]]
