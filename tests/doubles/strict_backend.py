"""A backend that computes as NumPy does and behaves as a GPU does, so that the engine's faults show without a GPU.

Its arrays are no NumPy arrays and never become one by themselves: ``np.asarray``, NumPy's functions, ``float``, ``if``,
iteration and operations with host arrays are errors; only `StrictBackend.download` gives values to the host, as a copy.
New memory is full of NaN, and using the device outside of `active()` is an error. In a captured step nothing may
allocate, download or upload. Arithmetic is handed to the NumPy backend, so results are equal bit for bit.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np

from nnbp.graph.backend import backend_class
from nnbp.graph.formula import Input, Value
from nnbp.graph.ops import Foreign, Gather, Gemm, Map, Operation, Reduce, same


def _never(what: str) -> Callable[..., NoReturn]:
    def refuse(self: StrictArray, *arguments: object) -> NoReturn:
        raise TypeError(f"a device array has no {what} on the host; download it first")

    return refuse


class StrictArray:
    """An array on a pretended device."""

    __slots__ = ("_backend", "_host")

    __array_ufunc__ = None  # NumPy's functions and operators refuse
    __cuda_array_interface__ = None  # that there is one says that `get` gives a host array
    __hash__ = None  # type: ignore[assignment]

    __array__ = _never("NumPy array")
    __bool__ = _never("truth value")
    __int__ = __index__ = __float__ = __complex__ = _never("number")
    __iter__ = __contains__ = _never("elements to go through")

    def __init__(self, backend: StrictBackend, host: np.ndarray) -> None:
        self._backend, self._host = backend, host

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: self._host.flags)
    nbytes = property(lambda self: self._host.nbytes)

    def __len__(self) -> int:
        return len(self._host)

    def __repr__(self) -> str:
        return f"StrictArray(shape={self.shape}, dtype={self.dtype})"

    @property
    def T(self) -> StrictArray:
        return StrictArray(self._backend, self._host.T)

    def reshape(self, *shape: Any) -> StrictArray:
        """A view; where NumPy would have to copy, the step would work on a copy of its buffer unawares."""
        view = self._host.reshape(*shape)
        if not np.may_share_memory(view, self._host):
            raise ValueError(f"reshaping {self.shape} with strides {self.strides} to {shape} copies")
        return StrictArray(self._backend, view)

    def _key(self, key: Any) -> Any:
        if not isinstance(key, tuple):
            key = (key,)
        for part in key:
            if not isinstance(part, int | slice | StrictArray | type(None) | type(Ellipsis)):
                raise TypeError(f"a device array is indexed by numbers, slices and device arrays; received {part!r}")
        key = tuple(self._backend.host(part) if isinstance(part, StrictArray) else part for part in key)
        # Without an Ellipsis NumPy would give a host scalar for a full index.
        return key if any(part is Ellipsis for part in key) else (*key, ...)

    def __getitem__(self, key: Any) -> StrictArray:
        if any(isinstance(part, StrictArray) for part in (key if isinstance(key, tuple) else (key,))):
            self._backend.allocates("indexing with an array")
        return StrictArray(self._backend, self._host[self._key(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._backend.check_active()
        self._host[self._key(key)] = self._backend.host(value)

    def astype(self, dtype: Any) -> StrictArray:
        return self._backend.compute("astype", lambda host: host.astype(dtype), self)

    def all(self) -> StrictArray:
        return self._backend.compute("all", np.all, self)

    def any(self) -> StrictArray:
        return self._backend.compute("any", np.any, self)

    def argmax(self, axis: int) -> StrictArray:
        return self._backend.compute("argmax", lambda host: host.argmax(axis), self)

    def get(self) -> np.ndarray:
        return self._backend.download(self)


def _operators() -> None:
    def forward(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, *others: self._backend.compute(function.__name__, function, self, *others)

    def reflected(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, other: self._backend.compute(function.__name__, function, other, self)

    def in_place(function: Callable[..., Any]) -> Callable[..., Any]:
        def update(self: StrictArray, other: Any) -> StrictArray:
            self._backend.check_active()
            function(self._host, self._backend.host(other))
            return self

        return update

    for name in ("neg", "abs", "lt", "le", "gt", "ge", "eq", "ne", "invert"):
        setattr(StrictArray, f"__{name}__", forward(getattr(operator, name)))
    for name in ("add", "sub", "mul", "truediv", "pow", "matmul", "and", "or"):
        function = getattr(operator, f"__{name}__")
        setattr(StrictArray, f"__{name}__", forward(function))
        setattr(StrictArray, f"__r{name}__", reflected(function))
    for name in ("iadd", "isub", "imul", "itruediv"):
        setattr(StrictArray, f"__{name}__", in_place(getattr(operator, name)))


_operators()


class StrictNamespace:
    """The array library of the strict backend: what the engine uses outside of its steps, and `add`, no more."""

    _FUNCTIONS = (*("abs", "add", "ascontiguousarray", "concatenate", "dot", "isfinite", "max", "multiply", "sum"),)

    def __init__(self, backend: StrictBackend) -> None:
        for name in self._FUNCTIONS:
            setattr(self, name, self._bound(backend, name, getattr(np, name)))
        self.linalg = SimpleNamespace(solve=self._bound(backend, "solve", np.linalg.solve))

    def _bound(self, backend: StrictBackend, name: str, function: Any) -> Callable[..., StrictArray]:

        def call(*arguments: Any, **options: Any) -> StrictArray:
            out = options.get("out", arguments[2] if isinstance(function, np.ufunc) and len(arguments) > 2 else None)
            if out is None:
                return backend.compute(name, function, *arguments, **options)
            backend.check_active()
            function(*map(backend.host, arguments), **{key: backend.host(value) for key, value in options.items()})
            return out

        call.__name__ = name
        return call


class StrictBackend:
    """The NumPy backend behind the manners of a GPU."""

    name = "strict"
    device = "strict:0"

    def __init__(self) -> None:
        self._numpy = backend_class("numpy")()
        self._capturing = False
        self._active = 0
        self.captured_runs = 0
        self.xp = StrictNamespace(self)

    def host(self, value: Any) -> Any:
        """What NumPy gets for an operand: numbers as they are, own arrays without their wrapper, nothing else."""
        if isinstance(value, StrictArray):
            if value._backend is not self:
                raise ValueError("this array is on another device")
            return value._host
        if isinstance(value, list | tuple):
            return type(value)(map(self.host, value))
        # NumPy's scalars are refused, too: float64 ones would silently turn float32 arrays into float64.
        if isinstance(value, np.generic | np.ndarray):
            raise TypeError(
                f"a device array meets {type(value).__name__} from the host; upload it, or use a plain number"
            )
        return value

    def compute(self, name: str, function: Callable[..., Any], *operands: Any, **options: Any) -> StrictArray:
        """A new array."""
        self.allocates(name)
        return StrictArray(self, np.asarray(function(*map(self.host, operands), **options)))

    def allocates(self, what: str) -> None:
        self.check_active()
        if self._capturing:
            raise RuntimeError(f"a captured step allocates: {what}")

    def check_active(self) -> None:
        if not self._active:
            raise RuntimeError("the engine works on a device outside of backend.active(): on a second GPU, this fails")

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> StrictArray:
        self.allocates("empty")
        array = np.empty(shape, dtype)
        array.fill(np.nan if array.dtype.kind == "f" else 77)
        return StrictArray(self, array)

    def upload(self, host: np.ndarray, dtype: Any) -> StrictArray:
        self.allocates("upload")
        if not isinstance(host, np.ndarray):
            raise TypeError(f"only host arrays are uploaded; received {type(host).__name__}")
        return StrictArray(self, np.ascontiguousarray(host, dtype).copy())

    def download(self, array: StrictArray) -> np.ndarray:
        if self._capturing:
            raise RuntimeError("a captured step downloads")
        if not self.owns(array):
            raise TypeError(f"only arrays of this device are downloaded; received {type(array).__name__}")
        return array._host.copy()

    def owns(self, array: object) -> bool:
        return isinstance(array, StrictArray) and array._backend is self

    def random_stream(self, key: tuple[int, int]) -> Any:
        return self._numpy.random_stream(key)

    def compile(self, operations: Sequence[Operation], times: int = 1, runs: int = 1) -> Callable[[], None]:
        run = self._numpy.compile([on_host for one in operations for on_host in self.lowered(one)], times, runs)

        def step() -> None:
            self.check_active()
            self._capturing = True
            try:
                run()
            finally:
                self._capturing = False
            self.captured_runs += 1

        return step

    def lowered(self, operation: Operation) -> list[Operation]:
        """Operations on NumPy arrays for one on arrays of this device, which has to be one that a GPU can do."""
        match operation:
            case Gemm(a, b, out):
                for factor in (a, b):
                    if not (factor.flags.c_contiguous or factor.flags.f_contiguous):
                        raise ValueError(f"a factor of gemm is no (transposed) contiguous array: {factor.strides}")
                    if np.shares_memory(factor._host, out._host):
                        raise ValueError("gemm writes over its own operand")
                if not out.flags.c_contiguous or len({a.dtype, b.dtype, out.dtype}) > 1:
                    raise ValueError(
                        f"gemm wants a contiguous output and one dtype; received {a.dtype}, {b.dtype}, {out.dtype}"
                    )
            case Map(_, inputs, outputs):
                for out in outputs:
                    for array in inputs:
                        if np.shares_memory(array._host, out._host) and not same(array._host, out._host):
                            raise ValueError("an output overlaps an input partly")
            case Reduce(_, a, _, out):
                if np.shares_memory(a._host, out._host):
                    raise ValueError("sum writes over its own operand")
            case Gather(source):
                if not source.flags.c_contiguous:
                    raise ValueError("gather wants a contiguous source")
        members = [(member.name, getattr(operation, member.name)) for member in fields(operation)]
        arrays = {name: self.host(value) for name, value in members if isinstance(value, StrictArray | tuple)}
        return [operation if isinstance(operation, Foreign) else replace(operation, **arrays)]

    def synchronize(self) -> None:
        if self._capturing:
            raise RuntimeError("a captured step waits")

    @contextmanager
    def active(self) -> Iterator[None]:
        self._active += 1
        try:
            with self._numpy.active():
                yield
        finally:
            self._active -= 1


class OtherRoundingBackend(StrictBackend):
    """A device that rounds otherwise, as a GPU does: sums go backwards, formulas are computed in a wider dtype."""

    name = "other"

    def lowered(self, operation: Operation) -> list[Operation]:
        (on_host,) = super().lowered(operation)
        match on_host:
            case Gemm(a, b, out):
                # A copy, so that the sum really goes from the other end.
                return [Foreign(lambda: np.copyto(out, a[:, ::-1].copy() @ b[::-1].copy()))]
            case Reduce("sum", a, axis, out):
                # From the other end, and the results in the order that they had.
                backwards = a[::-1, ::-1]
                return [Foreign(lambda: np.copyto(out, backwards.copy().sum(axis, keepdims=True)[::-1, ::-1]))]
            case Map(formula, inputs, outputs):
                return [Foreign(_wide, (formula, inputs, outputs))]
        return [on_host]


def _wide(formula: Any, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
    dtype = outputs[0].dtype
    wide = np.float64 if dtype == np.float32 else np.longdouble
    read = [array.astype(wide) for array in inputs]
    values: list[np.ndarray] = []

    def operand(item: Any) -> Any:
        if isinstance(item, Input):
            return read[item.position]
        return values[item.position] if isinstance(item, Value) else wide(dtype.type(item.number))

    for step in formula.instructions:
        function = np.where if step.primitive.ufunc is None else step.primitive.ufunc
        values.append(function(*map(operand, step.operands)))
    for out, result in zip(outputs, formula.results, strict=True):
        out[...] = operand(result)
