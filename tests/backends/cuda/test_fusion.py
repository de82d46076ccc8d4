"""What operations share a kernel, and that nothing else changes by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from emulated_cupy import EmulatedArray, emulated_backend_class
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_samples import needs_compiler
from nnbp.backends.cuda.fusion import Group, fused
from nnbp.backends.cuda.lowering import narrowed

from nnbp import Network
from nnbp.graph.formula import Formula, Input, Value, trace
from nnbp.graph.ops import Foreign, Gemm, Map, Reduce, same

# A pool of memory: matrices of several sizes, rows, columns and numbers, some of them views of the same elements.
SIZES = {"A": (4, 6), "B": (4, 6), "C": (3, 6), "D": (4, 3), "r": (1, 6), "s": (1, 6), "c": (4, 1), "n": (1, 1)}
NAMES = [*SIZES, "A.T", "A[:, ::-1]", "B[:3]", "A[1:2]", "B[:, :1]", "r.T"]


class Pool:
    """Arrays that operations work on."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.arrays = {name: rng.normal(size=shape).view(EmulatedArray) for name, shape in SIZES.items()}

    def __getitem__(self, name: str) -> Any:
        return eval(name, {}, self.arrays)

    def values(self) -> list[np.ndarray]:
        return [np.array(array) for array in self.arrays.values()]


FORMULAS: dict[int, Callable[..., Any]] = {
    1: lambda x: np.tanh(x) + 0.5,
    2: lambda x, y: (x - 0.5 * y, x + y),
    3: lambda x, y, z: np.where(x > y, z, x),
}


def bound(drawn: Any, pool: Pool) -> Any:
    """The operation of a draw; None where its arrays do not fit, or an output overlaps an operand partly."""
    match drawn:
        case ("map", count, names, into):
            formula = trace(FORMULAS[count], *"xyz"[:count])
            inputs, outputs = [pool[name] for name in names[:count]], [pool[name] for name in into][: 1 + (count == 2)]
            try:
                shape = np.broadcast_shapes(*(x.shape for x in inputs))
            except ValueError:
                return None
            apart = len(outputs) == 1 or not np.shares_memory(*outputs)
            fits = all(out.shape == shape for out in outputs) and apart
            clean = all(
                same(x, out) or not np.may_share_memory(x, out) for x in inputs for out in outputs
            )  # fmt: skip
            return Map(formula, tuple(inputs), tuple(outputs)) if fits and clean else None
        case ("reduce", fold, name, into):
            a, out = pool[name], pool[into]
            axis = {(1, a.shape[1]): 0, (a.shape[0], 1): 1}.get(out.shape)
            bad = axis is None or np.may_share_memory(a, out) or (fold == "maximum" and axis == 1)
            bad = bad or (axis == 1 and not out.flags.c_contiguous)
            return None if bad else Reduce(fold, a, axis, out)
        case ("product", *names):
            a, b, out = (pool[name] for name in names)
            fits = a.shape[1] == b.shape[0] and out.shape == (a.shape[0], b.shape[1])
            apart = not (np.may_share_memory(a, out) or np.may_share_memory(b, out))
            return Gemm(a, b, out) if fits and apart else None
    return Foreign(np.negative, (pool[drawn[1]], pool[drawn[1]]))


@cache
def programs() -> list[Any]:
    """Draws that are operations, as many of each kind."""
    rng, pool = np.random.default_rng(1), Pool()
    found: dict[Any, list[Any]] = {kind: [] for kind in (1, 2, 3, "sum", "maximum", "product")}
    for _ in range(40_000):
        names = [str(name) for name in rng.choice(NAMES, 5)]
        count, fold = int(rng.integers(1, 4)), str(rng.choice(["sum", "maximum"]))
        for kind, item in (
            (count, ("map", count, names[:3], names[3:])),
            (fold, ("reduce", fold, *names[:2])),
            ("product", ("product", *names[:3])),
        ):
            if len(found[kind]) < 60 and bound(item, pool) is not None:
                found[kind].append(item)
    assert all(len(items) == 60 for items in found.values())
    return [item for items in found.values() for item in items] + [("foreign", name) for name in ("A", "r")]


def compute(formula: Formula, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The results of a formula."""
    values: list[Any] = []

    def operand(item: Any) -> Any:
        if isinstance(item, Input):
            return np.array(inputs[item.position])
        return values[item.position] if isinstance(item, Value) else item.number

    for step in formula.instructions:
        function = np.where if step.primitive.ufunc is None else step.primitive.ufunc
        values.append(function(*map(operand, step.operands)))
    return [operand(result) for result in formula.results]


def execute(operation: Any, part: slice | None = None) -> None:
    """Runs an operation, or what a part of the columns has of it."""

    def cut(array: Any) -> Any:
        return array if part is None or array.shape[-1] == 1 else array[..., part]

    match operation:
        case Map(formula, inputs, outputs):
            for out, result in zip(outputs, compute(formula, [cut(x) for x in inputs]), strict=True):
                cut(out)[...] = result
        case Reduce(fold, a, axis, out):
            cut(out)[...] = (np.sum if fold == "sum" else np.max)(np.array(cut(a)), axis=axis, keepdims=True)
        case Gemm(a, b, out):
            out[...] = np.array(a) @ np.array(b)
        case Foreign(function, arguments):
            function(*arguments)
        case Group((Map() as item, Reduce(axis=1) as total)):
            # The sum is of what the formula computes, and not of what is read again.
            summand = [same(out, total.a) for out in item.outputs].index(True)
            results = compute(item.formula, item.inputs)
            execute(item)
            total.out[...] = np.sum(results[summand], axis=1, keepdims=True)
        case Group(items):
            # Column by column, each with all of the operations: that is what no operation may notice.
            for j in reversed(range(items[0].writes[0].shape[-1])):
                for item in items:
                    execute(item, slice(j, j + 1))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(programs()), min_size=2, max_size=40))
def test_operations_that_share_kernels_leave_what_they_would_leave_alone(drawn):
    pools = Pool(), Pool()
    plain, others = ([bound(item, pool) for item in drawn] for pool in pools)
    groups = fused(others)
    with np.errstate(all="ignore"):
        for operation in plain:
            execute(operation)
        for operation in groups:
            execute(operation)
    for x, y in zip(pools[0].values(), pools[1].values(), strict=True):
        np.testing.assert_allclose(x, y, 1e-9, 1e-9)


def kinds(operations: Sequence[Any]) -> list[str]:
    return [
        "RowSum" if isinstance(x, Group) and getattr(x.items[-1], "axis", 0) == 1 else type(x).__name__
        for x in operations
    ]


def test_the_drawn_programs_are_fused_at_all():
    """The test of the test: what it draws does share kernels."""
    rng, counts = np.random.default_rng(1), Counter()
    for _ in range(400):
        pool = Pool()
        operations = [bound(programs()[k], pool) for k in rng.integers(len(programs()), size=20)]
        groups = fused(operations)
        counts += Counter(kinds(groups))
        counts["merged"] += len(operations) - sum(len(g.items) if hasattr(g, "items") else 1 for g in groups)
    assert min(counts[kind] for kind in ("Group", "RowSum", "merged", "Map", "Gemm")) > 10


def pool_of(*shapes: tuple[int, int], dtype: Any = np.float32) -> list[Any]:
    rng = np.random.default_rng(2)
    return [rng.normal(size=shape).astype(dtype).view(EmulatedArray) for shape in shapes]


def test_a_chain_of_formulas_is_one():
    x, y, z, row = pool_of((3, 5), (3, 5), (3, 5), (1, 5))
    double, add = trace(lambda x: 2.0 * x, "x"), trace(lambda x, y: x + y, "x", "y")
    groups = fused([Map(double, (x,), (y,)), Map(add, (y, row), (z,)), Map(add, (z, y), (y,))])
    assert kinds(groups) == ["Map"]
    before = np.array(x)
    execute(groups[0])
    np.testing.assert_array_equal(z, 2 * before + row)
    np.testing.assert_array_equal(y, (2 * before + row) + 2 * before)
    # In float64 from there on: no longer the same arithmetic.
    (wide,) = pool_of((3, 5), dtype=np.float64)
    assert kinds(fused([Map(double, (x,), (y,)), Map(double, (y,), (wide,))])) == ["Map", "Map"]
    # A row that was written is read by all rows of the matrix.
    assert kinds(fused([Map(double, (row,), (row,)), Map(add, (x, row), (y,))])) == ["Map", "Map"]


def test_factors_in_bfloat16_are_rounded_once_and_again_when_they_change():
    a, b, c, d = pool_of((4, 4), (4, 4), (4, 4), (4, 4))
    made = []

    def empty(shape: Any, dtype: Any) -> Any:
        made.append(np.zeros(shape, dtype).view(EmulatedArray))
        return made[-1]

    double = Map(trace(lambda x: 2.0 * x, "x"), (a,), (a,))
    first, last = Gemm(a, b, c, "bf16"), Gemm(a, b, d, "tf32")
    program = [first, Gemm(a.T, b, d, "bf16"), double, Gemm(a, b, c, "bf16"), last]
    found = narrowed(program, empty)
    assert kinds(found) == ["Map", "Map", "Gemm", "Gemm", "Map", "Map", "Gemm", "Gemm"]
    assert len(made) == 2
    assert found[3].a.dtype == np.uint16
    assert found[3].a.strides == made[0].T.strides
    assert found[-1].a is a
    # Whoever calls something that the backend does not know may have changed anything.
    assert kinds(narrowed([program[0], Foreign(print, ()), program[0]], empty)).count("Map") == 4


STEP = (
    # The batch and its targets; the way forward; softmax, cost and delta; their sum; the way back; the update.
    *("gather", "gather", "product", "elementwise", "product", "columns", "row_sums"),
    *("product", "row_sums", "product", "product", "row_sums"),
    *("elementwise", "gather", "elementwise", "advance"),
)


@needs_compiler
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_training_step_has_as_many_launches_as_it_needs(optimizer):
    backend = emulated_backend_class()()
    seen: list[Any] = []
    keep = backend.compile
    backend.compile = lambda operations, times=1, runs=1: seen.append(keep(operations, times)) or seen[-1]
    net = Network([6, 5, 3], activation="tanh", loss="cross_entropy", seed=0, device=backend, weight_decay=0.0)
    X, y = np.random.default_rng(0).normal(size=(64, 6)), np.arange(64) % 3
    net.fit(X, y, epochs=1, batch_size=16, optimizer=optimizer, progress=False)
    step = max(seen, key=lambda recording: len(recording.calls))
    assert step.times == 4
    assert sorted(map(launch_name, step.calls)) == sorted(STEP)


def launch_name(call: Any) -> str:
    function, _ = call
    if function.__name__ == "_multiply":
        return "product"
    return getattr(function, "kernel_name", "call")
