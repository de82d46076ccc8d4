"""Programs: calls on NumPy arrays as records, which C walks without Python (`native/walker.c`).

The calls of a step are known before its first run, and so are their arrays. A ufunc becomes NumPy's own inner loop with
the addresses, strides and lengths of its arrays; a product becomes a call of the BLAS that NumPy has loaded. So a
program computes what the calls compute, bit for bit. A call that has no record, a user's for example, runs as Python
between two parts of the program; without the compiled library all of them do.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import accumulate, groupby, product
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from nnbp.graph.ops import Array, address, span

from . import chains, streams, tasks
from .chains import Calls, Chain, Registers
from .streams import PhiloxStream
from .threads import blas

BUDGET = 20_000_000
"""Nanoseconds after which a walk pauses, so that Python can handle signals."""

# The fields of `record` in walker.c.
_RECORD = struct.Struct("=q3Q4Q4q4q4q4q")
_DATA, _COST, _ADVANCE = slice(4, 8), 19, slice(20, 24)
_LOOP, _CONVERT, _SELECT, _PRODUCT, _VECTOR_PRODUCT, _DOT, _GATHER, _UNIFORM, _REPEAT = range(9)

_PADDING = (0, 0, 0, 0)

_MOST_LAYOUTS = 2000
"""Layouts that are kept: one takes a few kilobytes, and a network a few dozen."""

_FAILED = 2

_TILES = 1024
"""Tiles that are run without a look at the clock."""

_LETTERS = {np.dtype(np.float32): "s", np.dtype(np.float64): "d"}
"""BLAS's letters for dtypes."""


class _CallInfo(ctypes.Structure):
    """NumPy's ``ufunc_call_info``: an inner loop and its arguments."""

    _fields_ = (
        ("loop", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("auxiliary", ctypes.c_void_p),
        ("needs_python", ctypes.c_bool),
        ("ignores_errors", ctypes.c_bool),
    )


@final
class Library:
    """The compiled walker, and the functions of NumPy and of BLAS that programs call.

    Raises:
        OSError: there is none, it is outdated, or NumPy's inner loops are not what it expects; with the reason.
    """

    def __init__(self) -> None:
        if os.environ.get("NNBP_NATIVE") == "0":
            raise OSError("it is switched off by NNBP_NATIVE=0")
        folder = Path(__file__).parent
        path = next((found for name in ("_native.so", "_native.dll") if (found := folder / name).exists()), None)
        if path is None:
            raise OSError("no C compiler worked when nnbp was installed: add one and repeat the installation")
        library = ctypes.CDLL(str(path))
        library.nnbp_source.restype = ctypes.c_char_p
        source = folder / "native" / "walker.c"
        if source.exists() and library.nnbp_source() != source_hash(source).encode():
            raise OSError("it is older than its source: repeat the installation")
        self.run: Callable[..., int] = library.nnbp_run
        library.nnbp_run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
        # The same function, for walks so short that another thread had better not take Python's lock meanwhile.
        self.run_briefly: Callable[..., int] = ctypes.PyDLL(str(path)).nnbp_run
        self.run_briefly.argtypes = library.nnbp_run.argtypes
        self.help: Callable[..., None] = library.nnbp_help
        library.nnbp_help.argtypes, library.nnbp_help.restype = [ctypes.c_void_p], None
        prototype = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
        self._pointer = prototype(("PyCapsule_GetPointer", ctypes.pythonapi))
        self._loops: dict[Any, tuple[_CallInfo, object]] = {}
        self._layouts: dict[Any, _Layout] = {}
        self._find_blas()
        self._check()

    def loop(self, ufunc: Any, dtypes: tuple[Any, ...], strides: tuple[int, ...]) -> _CallInfo:
        """The inner loop of a ufunc for arrays of these dtypes and strides; the library keeps it alive.

        Raises:
            LookupError: there is none without casts, or it needs Python.
        """
        key = ufunc, dtypes, strides
        known = self._loops.get(key)
        if known is None:
            found, capsule = ufunc._resolve_dtypes_and_context((*dtypes[:-1], None))
            if found != dtypes:
                raise LookupError(f"{ufunc.__name__} casts {dtypes}")
            ufunc._get_strided_loop(capsule, fixed_strides=strides)
            info = _CallInfo.from_address(self._pointer(capsule, b"numpy_1.24_ufunc_call_info"))
            if info.needs_python:
                raise LookupError(f"{ufunc.__name__} on {dtypes} needs Python")
            # If two threads ask at the same time, both get the first capsule; the other one is freed.
            known = self._loops.setdefault(key, (info, capsule))
        return known[0]

    def layout(self, key: Any, make: Callable[[], _Layout]) -> _Layout:
        """The layout of a key, which is made once: most programs are for networks of sizes that have been before."""
        found = self._layouts.get(key)
        if found is None:
            found = make()
            if len(self._layouts) >= _MOST_LAYOUTS:
                self._layouts.clear()
            self._layouts[key] = found
        return found

    def _find_blas(self) -> None:
        # The names of NumPy's wheels, of OpenBLAS and of MKL with 64-bit integers, and those of most systems.
        patterns = [
            ("scipy_cblas_{}64_", True),
            ("cblas_{}64_", True),
            ("cblas_{}_64", True),
            ("cblas_{}", False),
        ]
        path = blas().path
        self._blas = None if path is None else ctypes.CDLL(path)
        config = getattr(self._blas, "openblas_get_config", None)
        if config is not None:
            config.restype = ctypes.c_char_p
            # NumPy's library for Windows has 64-bit integers behind the bare names.
            patterns[-1] = ("cblas_{}", b"USE64BITINT" in config())
        self.blas: dict[str, tuple[int, bool]] = {}
        """The address of each function of BLAS, such as ``sgemm``, and whether its integers have 64 bits."""
        for name, (pattern, long) in product(("sgemm", "dgemm", "sgemv", "dgemv", "sdot", "ddot"), patterns):
            function = getattr(self._blas, pattern.format(name), None)
            if function is not None:
                self.blas.setdefault(name, (ctypes.cast(function, ctypes.c_void_p).value or 0, long))

    def _check(self) -> None:
        """Calls one loop, to see whether NumPy's structures are those that are expected here."""
        x = np.array([0.5, -1.25, 3.0], np.float32)
        out = np.empty_like(x)
        try:
            Program([(np.multiply, (x, x, out))], self)(1)
        except (AttributeError, TypeError, ValueError) as error:
            raise OSError(f"NumPy {np.__version__} does not hand out its inner loops: {error}") from error
        if not np.array_equal(out, x * x):
            raise OSError(f"NumPy {np.__version__} hands out other inner loops than are expected")


def source_hash(path: Path) -> str:
    """The hash of its source that a library carries."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@cache
def walker() -> Library | str:
    """The library, or the reason why there is none."""
    try:
        return Library()
    except OSError as error:
        return str(error)


@final
class Program:
    """Calls that run in order, as records wherever a call has one.

    Args:
        calls: functions with their arguments, which are kept alive.
        library: the walker; None runs all calls as Python.
    """

    def __init__(self, calls: Calls, library: Library | None) -> None:
        self._parts: list[Callable[[int], None]] = []
        found = [None if library is None else _records(library, *call) for call in calls]
        pairs = list(zip(calls, found, strict=True))
        for native, group in groupby(pairs, lambda pair: pair[1] is not None):
            if native:
                records = b"".join(record for _, records in group for record in records or ())
                self._parts.append(_Walk(library, [[records]], calls))
            else:
                self._parts.append(partial(_run, [call for call, _ in group]))

    @property
    def is_native(self) -> bool:
        """Whether no call runs as Python."""
        return all(isinstance(part, _Walk) for part in self._parts)

    @property
    def records(self) -> bytes:
        """The records of a native program, which has one part at most."""
        assert self.is_native, "calls of Python have no records"
        return b"".join(part.records for part in self._parts if isinstance(part, _Walk))

    def repeated(self, times: int, *, briefly: bool = False) -> Callable[[], None]:
        """A function that runs the calls in order, all of them `times` times; `briefly` with Python's lock held."""
        for part in self._parts:
            if briefly and isinstance(part, _Walk):
                part.hold_lock()
        return partial(self._parts[0] if len(self._parts) == 1 else self._run_parts, times)

    def __call__(self, times: int = 1) -> None:
        """Runs the calls in order, all of them `times` times."""
        self.repeated(times)()

    def _run_parts(self, times: int) -> None:
        for _ in range(times):
            for part in self._parts:
                part(1)


@final
class Phases:
    """Native programs in phases: those of one phase may run at the same time, on threads that stay in C between phases.

    Args:
        phases: the programs of each phase.
        library: the walker.
    """

    def __init__(self, phases: Sequence[Sequence[Program]], library: Library) -> None:
        self._walk = _Walk(library, [[program.records for program in programs] for programs in phases], phases)

    def __call__(self, times: int) -> None:
        """Runs the phases in order, all of them `times` times, alone if no other thread calls `help` meanwhile."""
        try:
            self._walk(times)
        finally:
            self._walk.invite(False)

    def help(self) -> None:
        """Takes programs of a phase that another thread runs, until that thread has run all phases."""
        self._walk.help()

    def invite(self) -> None:
        """Makes `help` wait for the next run to begin."""
        self._walk.invite(True)


@final
class _Walk:
    """Records, and the call that walks them: phases of parts that may run at the same time.

    It keeps alive what the records point to: the library has NumPy's loops, and `keeps` all arrays.
    """

    # The fields of `program` in walker.c.
    _FIELDS, _CLAIM = 25, 14

    def __init__(self, library: Any, phases: Sequence[Sequence[bytes]], keeps: object) -> None:
        self._library, self._run, self._keeps = library, library.run, keeps
        self._records = [np.frombuffer(records, np.int64).copy() for part in phases for records in part]
        sizes = [len(records) // _RECORD.size for part in phases for records in part]
        self._parts = np.array([(address(array), size, 0) for array, size in zip(self._records, sizes, strict=True)])
        self._first = np.array([*accumulate(map(len, phases), initial=0)])
        self._fields = np.zeros(self._FIELDS, np.int64)
        self._fields[:3] = address(self._parts), address(self._first), len(phases)
        self.invite(False)
        self._at = ctypes.c_void_p(address(self._fields))
        self._times = 0

    @property
    def records(self) -> bytes:
        """All records in order."""
        return b"".join(array.tobytes() for array in self._records)

    def __call__(self, times: int) -> None:
        if times != self._times:
            # ctypes takes as long to convert numbers as to make the call.
            arguments = ctypes.c_int64(times), ctypes.c_int64(BUDGET)
            self._anew, self._on = ((self._at, *arguments, ctypes.c_int(anew)) for anew in (1, 0))
            self._times = times
        result = self._run(*self._anew)
        # Between two walks Python handles signals.
        while result:
            if result == _FAILED:
                raise IndexError("A batch lies outside of the order of the samples: a counter was not reset.")
            result = self._run(*self._on)

    def hold_lock(self) -> None:
        self._run = self._library.run_briefly

    def help(self) -> None:
        self._library.help(self._at)

    def invite(self, wanted: bool) -> None:
        # No phase has 255 parts.
        self._fields[self._CLAIM] = 255 if wanted else -1


def _run(calls: Calls, times: int) -> None:
    for _ in range(times):
        for function, arguments in calls:
            function(*arguments)


# ---- Records of calls


def _records(library: Library, function: Any, arguments: tuple[Any, ...]) -> list[bytes] | None:
    """The records of a call, or None if there are none."""
    if isinstance(function, partial):
        function, arguments = function.func, (*arguments, function.keywords["out"])
    try:
        if isinstance(function, Chain):
            return _chain(library, function)
        if function in _TRANSLATIONS:
            return _TRANSLATIONS[function](library, *arguments)
        if isinstance(function, np.ufunc):
            return _ufunc(library, function, *arguments)
    except LookupError:
        pass
    return None


def _record(
    kind: int, addresses: Sequence[int], strides: Sequence[int], steps: Sequence[int] = (), length: int = 1,
    rows: int = 1, *, width: int = 0, cost: float = 0,
    function: int | None = 0, context: int | None = 0, auxiliary: int | None = 0, advance: Sequence[int] = (),
) -> bytes:  # fmt: skip
    return _RECORD.pack(
        kind, function or 0, context or 0, auxiliary or 0,
        *addresses, *_PADDING[len(addresses) :], *strides, *_PADDING[len(strides) :],
        *steps, *_PADDING[len(steps) :], length, rows, width, int(cost), *advance, *_PADDING[len(advance) :],
    )  # fmt: skip


class _Rows(NamedTuple):
    """Elements of several arrays: `rows` times `length`, from these addresses on."""

    addresses: list[int]
    strides: tuple[int, ...]
    steps: tuple[int, ...]
    length: int
    rows: int


def _rows(arrays: Sequence[Array]) -> list[_Rows]:
    """Rows that together are all elements of arrays that broadcast to the shape of the last one.

    Raises:
        LookupError: C cannot go through an array as it is.
    """
    for array in arrays:
        if not (array.flags.aligned and array.dtype.isnative):
            raise LookupError("an array is not aligned, or its bytes are swapped")
        if min(array.strides, default=0) < 0:
            raise LookupError("NumPy goes through an array from its end")
    *outer, (rows, steps), (length, strides) = _axes(arrays)
    starts = [[address(array) for array in arrays]]
    for size, own in outer:
        starts = [[at + i * step for at, step in zip(start, own, strict=True)] for start in starts for i in range(size)]
    return [_Rows(start, strides, steps, length, rows) for start in starts]


def _axes(arrays: Sequence[Array]) -> list[tuple[int, tuple[int, ...]]]:
    """The size of each axis, two at least, and the strides of all arrays along it, as few axes as possible."""
    shape = arrays[-1].shape
    axes: list[tuple[int, tuple[int, ...]]] = []
    along = [_strides(array, len(shape)) for array in arrays]
    for size, strides in zip(shape, zip(*along, strict=True), strict=True):
        # Two axes are one if every array is contiguous over both.
        if axes and axes[-1][1] == tuple([stride * size for stride in strides]):
            axes[-1] = (axes[-1][0] * size, strides)
        elif size != 1:
            axes.append((size, strides))
    if not axes and all(array.ndim in (0, len(shape)) for array in arrays):
        # One number each. Loops may compute differently if a stride is 0, and NumPy has one where there is no axis.
        axes.append((1, tuple(array.itemsize if array.ndim else 0 for array in arrays)))
    still = (1, (0,) * len(arrays))
    return [still] * (2 - len(axes)) + axes


def _strides(array: Array, axes: int) -> tuple[int, ...]:
    """The strides of an array that broadcasts to so many axes, 0 along those that it lacks or has one element of."""
    strides: tuple[int, ...] = array.strides
    if 1 in array.shape:
        strides = tuple([0 if size == 1 else stride for size, stride in zip(array.shape, strides, strict=True)])
    full: tuple[int, ...] = (0,) * (axes - array.ndim) + strides
    return full[len(full) - axes :]


def _elements(part: _Rows) -> int:
    return part.length * part.rows


def _loop(library: Library, ufunc: np.ufunc, dtypes: tuple[Any, ...], part: _Rows) -> bytes:
    info = library.loop(ufunc, dtypes, part.strides)
    pointers = {"function": info.loop, "context": info.context, "auxiliary": info.auxiliary}
    return _record(_LOOP, *part, cost=5 + _elements(part), **pointers)


def _ufunc(library: Library, ufunc: np.ufunc, *arguments: Any) -> list[bytes]:
    if not all(isinstance(argument, np.ndarray) for argument in arguments):
        raise LookupError("a number without memory of its own")
    dtypes = tuple(array.dtype for array in arguments)
    return [_loop(library, ufunc, dtypes, part) for part in _rows(arguments)]


class _Layout(NamedTuple):
    """The records of a chain wherever its arrays lie: addresses count from where the memory begins that they are in.

    Attributes:
        records: with these addresses.
        memory: for each address, which memory it is in: an array, a register, or the last index for none of them.
        registers: dtype and index of each.
        constants: the registers of which the constants are used.
    """

    records: NDArray[np.int64]
    memory: NDArray[np.int64]
    registers: list[tuple[np.dtype[Any], int]]
    constants: Registers


def _chain(library: Library, chain: Chain) -> list[bytes]:
    """The records of a chain, by the layout that it shares with all chains of its formula on arrays that are alike."""
    arrays = [*chain.inputs, *chain.outputs]
    addresses, owners = [address(array) for array in arrays], [tasks.owner(array) for array in arrays]
    alike = []
    for array, at, own in zip(arrays, addresses, owners, strict=True):
        first = owners.index(own)
        alike.append((first, at - addresses[first], array.shape, array.strides, array.dtype, array.flags.aligned))
    key = chain.formula, chain.registers.tile, tuple(alike)
    layout = library.layout(key, partial(_layout, library, chain))
    registers = [chain.registers.whole(*register) for register in layout.registers]
    chain.keeps = layout, registers
    starts = np.array([*addresses, *map(address, registers), 0])
    records = layout.records.copy()
    records[:, _DATA] += starts[layout.memory]
    return [records.tobytes()]


def _layout(library: Library, chain: Chain) -> _Layout:
    own = chain.registers.anew()
    made = b"".join(_tiles(library, Chain(chain.formula, chain.inputs, chain.outputs, own)))
    records = np.frombuffer(made, np.int64).reshape(-1, _RECORD.size // 8).copy()
    data = records[:, _DATA]
    spans = [span(array) for array in (*chain.inputs, *chain.outputs, *(own.whole(*used) for used in own.used))]
    starts = np.array([*(start for start, _ in spans), 0])
    memory = np.full(data.shape, len(spans))
    for k, (start, end) in enumerate(spans):
        # It does not matter which of several that lie in each other is found, as all arrays that are alike do so.
        memory[(data >= start) & (data < end)] = k
    data -= starts[memory]
    return _Layout(records, memory, own.used, own)


def _tiles(library: Library, chain: Chain) -> list[bytes]:
    """The records of the first tile, which are repeated for all tiles of full size, and those of a smaller last one."""

    def records(k: int) -> NDArray[np.int64]:
        found = [_records(library, *call) for call in chain.tile(k)]
        if None in found:
            raise LookupError("a call of the chain has no record")
        packed = b"".join(record for records in found for record in records or ())
        return np.frombuffer(packed, np.int64).reshape(-1, _RECORD.size // 8).copy()

    made, tile = [], records(0)
    if chain.full > 1:
        # From tile to tile nothing changes but the addresses, by as much every time.
        tile[:, _ADVANCE] = records(1)[:, _DATA] - tile[:, _DATA]
    cost = int(tile[:, _COST].sum())
    for first in range(0, chain.full, _TILES):
        times = min(_TILES, chain.full - first)
        if chain.full > 1:
            made.append(_record(_REPEAT, (), (), length=len(tile), rows=times, cost=times * cost))
        made.append(tile.tobytes())
        tile[:, _DATA] += _TILES * tile[:, _ADVANCE]
    if chain.tiles > chain.full:
        made.append(records(chain.full).tobytes())
    return made


def _maximum(library: Library, a: Array, axis: int, dtype: None, out: Array, keepdims: bool) -> list[bytes]:
    """As NumPy reduces along axis 0: the first row, then ``out = maximum(out, row)`` for the others."""
    records = _copyto(library, out, a[:1])
    if len(a) > 1:
        ((x, y, z), (i, j, k), _, length, _) = _rows([out[0], a[1], out[0]])[0]
        part = _Rows([x, y, z], (i, j, k), (0, a.strides[0], 0), length, len(a) - 1)
        records.append(_loop(library, np.maximum, (out.dtype, a.dtype, out.dtype), part))
    return records


def _copyto(
    library: Library, out: Array, values: Array, casting: str = "same_kind", condition: Array | None = None
) -> list[bytes]:
    if condition is not None:
        return _select(out, values, condition)
    if values.dtype == out.dtype:
        return _ufunc(library, np.positive, values, out)
    if values.dtype != np.bool:
        _letter(values)
    _letter(out)
    sizes = {"context": values.itemsize, "width": out.itemsize}
    return [_record(_CONVERT, *part, cost=5 + _elements(part), **sizes) for part in _rows([values, out])]


def _copy_unless(library: Library, out: Array, values: Array, condition: Array) -> list[bytes]:
    return _select(out, values, condition, unless=1)


def _select(out: Array, values: Array, condition: Array, unless: int = 0) -> list[bytes]:
    _letter(out, values)
    parts = _rows([condition, values, out])
    return [_record(_SELECT, *part, width=out.itemsize, cost=5 + _elements(part), auxiliary=unless) for part in parts]


def _gather(
    library: Library, source: Array, order: Array, counter: Array, stride: int, start: int, out: Array
) -> list[bytes]:
    if source.dtype != out.dtype:
        raise LookupError("gather casts")
    addresses = [address(array) for array in (source, order, counter, out)]
    strides, steps = (source.strides[0], len(order)), (0, start, stride, out.shape[1] * out.itemsize)
    return [_record(_GATHER, addresses, strides, steps, rows=len(out), width=len(source), cost=10 + out.size)]


def _fill(library: Library, stream: PhiloxStream, out: Array) -> list[bytes]:
    functions = stream.bits.ctypes
    next_number = ctypes.cast(functions.next_uint32, ctypes.c_void_p).value
    addresses = [functions.state_address, address(out), address(stream.drawn)]
    return [_record(_UNIFORM, addresses, (), length=out.size, cost=5 * out.size, function=next_number)]


def _letter(*arrays: Array) -> str:
    """BLAS's letter for the dtype of the arrays.

    Raises:
        LookupError: it has none, or they have several.
    """
    dtypes = {array.dtype for array in arrays}
    if len(dtypes) > 1 or (letter := _LETTERS.get(dtypes.pop())) is None:
        raise LookupError("neither float32 nor float64 alone")
    return letter


def _dot(library: Library, a: Array, b: Array, out: Array) -> list[bytes]:
    """As `np.dot` chooses: a product of vectors, of a matrix and a vector, or of matrices."""
    if not all(_is_contiguous(array) for array in (a, b)):
        raise LookupError("np.dot copies")
    if a.shape[1] == 1 in out.shape:
        raise LookupError("np.dot calls axpy")
    return _vectors(library, a, b, out) if 1 in out.shape else _matrices(library, a, b, out)


def _matmul(library: Library, a: Array, b: Array, out: Array) -> list[bytes]:
    """As `np.matmul` chooses, which takes parts of arrays, too."""
    if a.shape[1] == 1:
        raise LookupError("np.matmul multiplies without BLAS")
    return _vectors(library, a, b, out) if 1 in out.shape else _matrices(library, a, b, out)


def _vectors(library: Library, a: Array, b: Array, out: Array) -> list[bytes]:
    """A product of two vectors, or of a matrix and a vector."""
    letter, size = _letter(a, b, out), out.itemsize
    (n, k), m = a.shape, b.shape[1]

    def step(stride: int) -> int:
        """The stride of a vector for BLAS, in numbers."""
        if stride < size or stride % size:
            raise LookupError("not a vector for BLAS")
        return int(stride // size)

    if n == m == 1:
        kind, name, factors = _DOT, "dot", (a, b)
        strides, steps, flags = (step(a.strides[1]), step(b.strides[0])), (k,), (0, 0)
    else:
        kind, name, factors = _VECTOR_PRODUCT, "gemv", (a, b) if m == 1 else (b, a)
        (leading, columns), steps = _leading(factors[0]), factors[0].shape
        strides, flags = (leading, step(b.strides[0] if m == 1 else a.strides[1])), (int(m != 1), columns)
        if out.strides[0 if m == 1 else 1] != size:
            raise LookupError("the result is not contiguous")
    function, long = library.blas[letter + name]
    addresses = [address(array) for array in (*factors, out)]
    cost = 50 + a.size * m / 10
    return [_record(kind, addresses, strides, steps, *flags, width=size, cost=cost, function=function, context=long)]


def _matrices(library: Library, a: Array, b: Array, out: Array) -> list[bytes]:
    """A product of matrices."""
    letter, size = _letter(a, b, out), out.itemsize
    (n, k), m = a.shape, b.shape[1]
    addresses = [address(array) for array in (a, b, out)]
    if not out.size or not k or addresses[0] == addresses[1] or out.strides[1] != size or out.strides[0] < m * size:
        raise LookupError("not a product for gemm")
    (lda, transpose_a), (ldb, transpose_b) = _leading(a), _leading(b)
    function, long = library.blas[f"{letter}gemm"]
    leading = (lda, ldb, out.strides[0] // size)
    cost = 50 + n * m * k / 20
    return [
        _record(
            _PRODUCT, addresses, leading, (n, m, k), transpose_a, transpose_b,
            width=size, cost=cost, function=function, context=long,
        )
    ]  # fmt: skip


def _leading(matrix: Array) -> tuple[int, int]:
    """A matrix's leading dimension for BLAS, and 1 if its columns are contiguous instead of its rows.

    Raises:
        LookupError: neither are.
    """
    size = matrix.itemsize
    columns = matrix.flags.f_contiguous if _is_contiguous(matrix) else matrix.strides[1] != size
    (row, step), length = (matrix.strides[::-1], len(matrix)) if columns else (matrix.strides, matrix.shape[1])
    if (step != size and length > 1) or row % size or (row < length * size and max(matrix.shape) > length > 1):
        raise LookupError("neither rows nor columns are contiguous")
    return max(row // size, length, 1), int(columns)


def _is_contiguous(array: Array) -> bool:
    return bool(array.flags.c_contiguous or array.flags.f_contiguous)


_TRANSLATIONS: dict[Any, Callable[..., list[bytes]]] = {
    np.copyto: _copyto,
    np.dot: _dot,
    np.matmul: _matmul,
    np.maximum.reduce: _maximum,
    chains.copy_unless: _copy_unless,
    streams.fill: _fill,
    tasks.gather: _gather,
}
"""What makes records of a call, by its function; ufuncs have `_ufunc`."""
