"""What users hand over, checked: arrays become device arrays of the right shape and dtype, or a clear error."""

from __future__ import annotations

import math
import os
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from numbers import Real
from typing import Any, Self, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from nnbp.errors import DataError, DTypeError, ShapeError
from nnbp.formatting import shown
from nnbp.graph.backend import Backend
from nnbp.graph.ops import PRECISIONS, Array, Precision

_BLOCK_ON_DEVICE = 2**24
_BLOCK_ON_HOST = 2**20
"""Elements that `finite` checks at once, about."""

T = TypeVar("T")

_TEXT = "Turn text columns into numbers first, or cast with .astype('float32')."

_FIXES = {
    "c": "Pass the real and the imaginary part as columns of their own.",
    "M": "Turn times into numbers: ({0} - {0}.min()) / np.timedelta64(1, 'D').",
    "m": "Turn times into numbers: {0} / np.timedelta64(1, 'D').",
    "V": "Turn fields into columns: numpy.lib.recfunctions.structured_to_unstructured({0}).",
}
"""What to do with arrays of a kind of dtype that holds no real numbers."""

_IMPUTE = "Impute or drop missing values; scale large ones."


_HOST = 1
"""DLPack's number for the memory of the host."""


def on_device(backend: Backend, values: Any) -> Any:
    """An array of another library in the memory of the backend's device as a view of the backend's; or the values.

    Libraries offer their arrays through DLPack or the CUDA array interface.
    """
    if isinstance(values, np.ndarray) or backend.owns(values):
        return values
    view = None
    # Whatever a backend cannot view goes by way of the host, which says what is wrong with it.
    with suppress(AttributeError, BufferError, RuntimeError, TypeError, ValueError):
        if hasattr(values, "__dlpack_device__"):
            if values.__dlpack_device__()[0] != _HOST:
                view = backend.xp.from_dlpack(values)
        elif hasattr(values, "__cuda_array_interface__"):
            view = backend.xp.asarray(values)
    return view if backend.owns(view) else values


def _as_numpy(values: Any) -> NDArray[Any]:
    """The values as an array of NumPy; those of a device are copied, those on the host are not if that is possible."""
    # A tensor with a gradient raises an error when it is asked for the interface.
    if hasattr(values, "get") and hasattr(values, "__cuda_array_interface__"):
        values = values.get()
    if isinstance(values, np.ndarray) or not hasattr(values, "__dlpack_device__"):
        return np.asanyarray(values)
    if values.__dlpack_device__()[0] != _HOST:
        return np.from_dlpack(values, device="cpu", copy=True)
    return np.asanyarray(values) if hasattr(values, "__array__") else np.from_dlpack(values)


def host(values: Any, name: str, *, classes: bool = False) -> NDArray[Any]:
    """Any array, frame or sequence of numbers as a NumPy array; a GPU array is downloaded.

    Args:
        values: the numbers.
        name: of the argument, for messages.
        classes: whether the numbers are class indices.

    Raises:
        ShapeError: the rows of a sequence have different lengths.
        DTypeError: the values are not real numbers.
    """
    kind = type(values).__name__
    if hasattr(values, "toarray"):
        raise DTypeError(f"{name} is a dense array; received the sparse {kind}. Pass {name}.toarray().")
    try:
        array = _as_numpy(values)
    except (ValueError, TypeError, RuntimeError, BufferError) as error:
        if isinstance(values, list | tuple) and isinstance(error, ValueError):
            raise ShapeError(
                f"{name} is an array in which all rows have the same length; received a {kind} in which they have not. "
                "Fill up the short rows."
            ) from error
        raise DTypeError(
            f"{name} is an array, or converts to one of NumPy; received a {kind}, which does not: "
            f"{str(error).rstrip('.')}. Convert it first, a tensor of PyTorch by .detach(), .float() or .to_dense()."
        ) from error
    return np.asarray(real(array, name, classes=classes))


class Lazy(ABC):
    """A matrix (m, n) on the host that is not in memory as a dense array. Some of its rows are one again."""

    ndim = 2
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(math.prod(self.shape))

    def __len__(self) -> int:
        return int(self.shape[0])

    @abstractmethod
    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Self: ...

    @abstractmethod
    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]: ...


class Sparse(Lazy):
    """A sparse matrix of SciPy."""

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix.tocsr()
        self.shape, self.dtype = self._matrix.shape, self._matrix.dtype

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Self:
        return type(self)(self._matrix[rows])

    def is_finite(self, dtype: np.dtype[Any]) -> bool:
        """Whether all elements are finite in this dtype."""
        return bool(np.isfinite(self._matrix.data.astype(dtype, copy=False)).all())

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self._matrix.toarray(), dtype)


class Mapped(Lazy):
    """A file that is mapped into memory, in another dtype than the network's: a copy would be as large as the file."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array, self.shape, self.dtype = array, (array.shape[0], array.shape[1]), array.dtype

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Self:
        return type(self)(self._array[rows])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self._array, dtype)


def samples_on_host(X: Any) -> NDArray[Any] | Lazy:
    """X on the host: an array of NumPy, see `host`, or a sparse matrix, which stays sparse."""
    if isinstance(X, Lazy):
        return X
    # A library that has not been imported has made no matrix.
    scipy = sys.modules.get("scipy.sparse")
    return Sparse(X) if scipy is not None and scipy.issparse(X) else host(X, "X")


def is_mapped(array: Any) -> bool:
    """Whether an array, or the one that it is a view of, lies in a file that is mapped into memory."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def real(array: Array, name: str, *, classes: bool = False) -> Array:
    """The array, on the device or the host; Python objects that are numbers or missing values become float64.

    Raises:
        DTypeError: it holds something else, or has masked values.
    """
    if isinstance(array, np.ma.MaskedArray):
        if np.ma.is_masked(array):
            raise DTypeError(
                f"{name} has a value everywhere; received a MaskedArray with masked values. Pass {name}.filled(value), "
                "or impute."
            )
        array = array.data
    if array.dtype.kind in "fiub":
        return array
    received = f"dtype {array.dtype}"
    if array.dtype.kind == "O":
        numbers, other = _numbers(np.asarray(array))
        if numbers is not None:
            return numbers
        received = f"{received} with {shown(other)} in it" if array.ndim else shown(other)
    fix = "Encode labels as class indices: np.unique(y, return_inverse=True)." if classes else _TEXT
    raise DTypeError(
        f"{name} holds real numbers; received {received}. {_FIXES.get(array.dtype.kind, fix).format(name)}"
    )


def _numbers(objects: NDArray[np.object_]) -> tuple[NDArray[np.float64] | None, object]:
    """Objects as float64, None and pandas.NA as NaN; or None, and the first object that is no real number.

    Frames whose columns are of several dtypes, or of dtypes with missing values, come as arrays of objects.
    """
    from decimal import Decimal

    items = objects.ravel().tolist()
    kinds = {kind: issubclass(kind, Real | Decimal | np.bool) for kind in set(map(type, items))}
    missing = {kind for kind in kinds if objects.ndim and (kind is type(None) or kind.__name__ == "NAType")}
    for item in items:
        if not kinds[type(item)] and type(item) not in missing:
            return None, item
    floats = [math.nan if type(item) in missing else _float(item) for item in items]
    return np.array(floats).reshape(objects.shape), None


def _float(value: Any) -> float:
    """A real number as a float, infinite if it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def matrix(backend: Backend, X: Any, dtype: np.dtype[Any], n_in: int | None) -> Array | NDArray[Any] | Lazy:
    """X (m, n_in): a device array in the network's dtype, itself if it fits; host data in their own dtype.

    Raises:
        ShapeError, DTypeError: X is no matrix of real numbers with n_in columns.
    """
    X = real(X if backend.owns(X) else samples_on_host(X), "X")
    if X.ndim != 2 or 0 in X.shape or (n_in is not None and X.shape[1] != n_in):
        columns = "n_in" if n_in is None else str(n_in)
        hint = " For one sample, pass X.reshape(1, -1)." if X.ndim == 1 else ""
        raise ShapeError(
            f"X is a matrix (samples, features) with at least one sample and one feature, here (m, {columns}); "
            f"received shape {tuple(X.shape)}.{hint}"
        )
    return backend.xp.ascontiguousarray(X, dtype=dtype) if backend.owns(X) else X


def finite(backend: Backend, array: Any, name: str, dtype: np.dtype[Any], fix: str = _IMPUTE, first: int = 0) -> None:
    """Raises DataError if a value is NaN or infinite in the network's dtype, naming the first.

    Runs in ``backend.active()``. The array is checked in blocks of rows: one on the host may be larger than the device,
    and a device may have no room for the squares of all values, which CuPy makes before it sums them.

    Args:
        backend: of the network.
        array: (m, n), on the device or on the host, maybe sparse.
        name: of the array.
        dtype: of the network.
        fix: what the error advises.
        first: the row of the caller's array that row 0 is.
    """
    if isinstance(array, Sparse) and array.is_finite(dtype):
        return
    owned = backend.owns(array)
    xp, read = (backend.xp, backend.download) if owned else (np, np.asarray)
    rows = max(1, (_BLOCK_ON_DEVICE if owned else _BLOCK_ON_HOST) // array.shape[1])
    for begin in range(0, len(array), rows):
        block = array[begin : begin + rows]
        if not owned:
            block = np.ascontiguousarray(block, dtype)
        flat = block.reshape(-1)
        # A sum of squares that is finite has finite terms alone. It is found much faster than a mask.
        if math.isfinite(read(xp.dot(flat, flat))) or read(xp.isfinite(flat).all()):
            continue
        values = read(block)
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise DataError(
            f"{name} holds finite numbers in the network's dtype, {dtype}; received {values[row, column]} in row "
            f"{first + begin + row}, column {column}. {fix}"
        )


def refuse(rule: str, array: NDArray[Any], wrong: NDArray[np.bool], fix: str) -> None:
    """Raises DataError with the first row of `array` in which `wrong` holds, if there is one.

    Args:
        rule: what the rows keep to, as a sentence without its full stop.
        array: (m, …).
        wrong: of the same shape, or (m,).
        fix: what the error advises.
    """
    if wrong.any():
        rows = np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))
        raise DataError(f"{rule}; received {array[rows[0]]} in row {rows[0]}. {fix}")


def like(X: Any, backend: Backend) -> Callable[[Array], Any]:
    """What turns arrays of the device or the host into the kind that X is: NumPy for host data, CuPy for a GPU's."""
    if backend.owns(on_device(backend, X)):
        return lambda array: array

    def on_host(array: Array) -> Any:
        return backend.download(array) if backend.owns(array) else array

    module = sys.modules.get("cupy")
    if module is not None and isinstance(X, module.ndarray):
        return lambda array: module.asarray(on_host(array))
    return on_host


def joined(parts: Sequence[T]) -> T:
    """Arrays of one library, one below the other; a single one as it is."""
    # NumPy's function hands arrays of CuPy to CuPy's.
    if len(parts) == 1:
        return parts[0]
    return cast(T, np.concatenate(cast(Any, parts)))


def sample_weights(weights: Any, samples: int) -> NDArray[np.float64] | None:
    """Weights as (m,) float64, at least 0 and not all 0, or None.

    J does not depend on their scale. They are scaled by a power of two, exactly, so that the largest is at least 1 and
    below 2: weights of any size are then numbers of every dtype that a network may have.

    Raises:
        ShapeError, DataError: otherwise.
    """
    if weights is None:
        return None
    w = unscaled_weights(weights, samples)
    if not w.any():
        raise DataError("Sample weights are not all 0, and J would be 0 / 0; received zeros. Give one above 0.")
    scaled: NDArray[np.float64] = np.ldexp(w, weight_shift(float(w.max())))
    return scaled


def unscaled_weights(weights: Any, samples: int) -> NDArray[np.float64]:
    """Weights as (m,) float64, at least 0; ShapeError or DataError otherwise."""
    w = host(weights, "sample_weight").astype(np.float64)
    if w.shape not in ((samples,), (samples, 1)):
        raise ShapeError(f"sample_weight has one number per sample, ({samples},); received shape {w.shape}.")
    if not np.isfinite(w).all() or (w < 0).any():
        raise DataError(
            f"Sample weights are finite, at least 0 and not all 0; received weights from {np.min(w)} to {np.max(w)}. "
            "Drop samples that are not to count."
        )
    return w.reshape(samples)


def weight_shift(largest: float) -> int:
    """The power of two that scales weights so that the largest is at least 1 and below 2."""
    return 1 - int(np.frexp(largest)[1])


def class_weights(
    weights: Mapping[Any, float] | ArrayLike | str | None,
    labels: NDArray[Any],
    reference: NDArray[Any],
    classes: int,
) -> NDArray[np.float64] | None:
    """The weight of each sample by its class, or None.

    Args:
        weights: by class index, classes that are not named have 1; or an array with one for each class; "balanced" is
            m / (k mₖ) for a class with mₖ of the m reference samples, k classes.
        labels: class index of each sample.
        reference: labels that "balanced" counts: those of the training data.
        classes: the number of classes.

    Raises:
        ValueError, DataError: the weights are none, or not those of classes.
    """
    if weights is None:
        return None
    if labels.ndim != 1:
        raise ShapeError(
            f"class_weight goes by the one class of a sample; received targets of shape {labels.shape}, several labels "
            "per sample. Use sample_weight."
        )
    if isinstance(weights, str) and weights == "balanced":
        weights = balanced([np.unique(reference, return_counts=True)])
    elif not isinstance(weights, Mapping):
        weights = dict(enumerate(_one_per_class(weights, classes)))
    values = np.ones(len(labels))
    for label, weight in weights.items():
        if not isinstance(label, Real) or label not in range(classes):
            raise DataError(
                f"The keys of class_weight are class indices, whole numbers from 0 to {classes - 1} here; received "
                f"{shown(label)}. Number the classes as in y."
            )
        not_negative(f"The weight of class {label}", weight)
        values[labels == label] = weight
    return values


def balanced(parts: Iterable[tuple[NDArray[Any], NDArray[np.int64]]]) -> dict[Any, float]:
    """m / (k mₖ) by label, from the labels and counts of the parts of a data set."""
    total: Counter[Any] = Counter()
    for labels, counts in parts:
        total.update(dict(zip(labels.tolist(), counts.tolist(), strict=True)))
    return {label: total.total() / (len(total) * count) for label, count in total.items()}


def _one_per_class(weights: Any, classes: int) -> list[float]:
    """An array of class weights as a list."""
    if isinstance(weights, str) or not np.iterable(weights):
        raise ValueError(
            "class_weight is a dictionary, an array with one weight per class, 'balanced' or None; received "
            f"{shown(weights)}. Write {{class: weight, …}}."
        )
    found = host(weights, "class_weight")
    if found.shape != (classes,):
        raise ShapeError(
            f"A class_weight array has one weight for each class, ({classes},) here; received shape {found.shape}. "
            "Name the classes that it is for: {class: weight, …}."
        )
    return [float(weight) for weight in found]


def number(name: str, value: Any, interval: str) -> float:
    """The value as a float that lies in an interval such as "[0, 1)" or "(0, inf)", or a ValueError."""
    low, high = interval[1:-1].split(", ")
    if not isinstance(value, bool) and isinstance(value, Real):
        x, least, most = _float(value), float(low), float(high)
        if least < x < most or (x == least and interval[0] == "[") or (x == most and interval[-1] == "]"):
            return x
    rule = f"{'at least' if interval[0] == '[' else 'above'} {low}"
    if high != "inf":
        rule += f" and {'at most' if interval[-1] == ']' else 'below'} {high}"
    elif interval[-1] == ")":
        rule = f"finite and {rule}"
    raise ValueError(f"{name} is a number, {rule}; received {shown(value)}.")


def not_negative(name: str, value: Any) -> float:
    """The value as a float, finite and at least 0, or a ValueError."""
    return number(name, value, "[0, inf)")


LARGEST_SIZE = 2**31 - 1
"""The largest number of units, samples and the like: more would overflow the sizes of arrays."""


def whole_number(name: str, value: Any, low: int, high: float = math.inf) -> int:
    """The value as an int, from `low` to `high`, or a ValueError."""
    rule = f"at least {low}"
    if not isinstance(value, bool) and isinstance(value, int | np.integer):
        if low <= value <= high:
            return int(value)
        rule = f"at most {high}" if value > high else rule
    raise ValueError(f"{name} is a whole number, {rule}; received {shown(value)}.")


def flag(name: str, value: Any) -> bool:
    """True or False as a bool, or a ValueError."""
    return bool(one_of(name, bool(value) if isinstance(value, np.bool) else value, True, False))


def one_of(name: str, value: Any, *allowed: T) -> T:
    """The value if it is one of those that are allowed, or a ValueError."""
    for item in allowed:
        # The type first: 1 equals True, and an array equals nothing as a whole.
        if isinstance(value, type(item)) and value == item:
            return item
    *most, last = map(repr, allowed)
    raise ValueError(f"{name} is {', '.join(most)} or {last}; received {shown(value)}.")


def instance(name: str, value: T, kind: type[Any], rule: str) -> T:
    """The value if it is of a class, or a TypeError that says by the rule what it is."""
    if isinstance(value, kind):
        return value
    raise TypeError(f"{name} is {rule}; received {shown(value)}.")


def items(name: str, value: Any, rule: str) -> list[Any]:
    """What a list, a tuple or another ordered collection holds, or a ValueError that says by the rule what it is."""
    if not isinstance(value, str | bytes | Set | Mapping):
        with suppress(TypeError):
            return list(value)
    raise ValueError(f"{name} is {rule}; received {shown(value)}.")


def file_path(path: Any, name: str = "path", what: str = "a file") -> str:
    """The path of a file, or of something else, as text, or a TypeError."""
    with suppress(TypeError):
        return os.fsdecode(path)
    raise TypeError(f"{name} is the path of {what}, as a string or a pathlib.Path; received {shown(path)}.")


def float_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype of a network, or a DTypeError."""
    # NumPy takes None for float64, and anything with a dtype for it.
    if isinstance(dtype, str | type | np.dtype):
        with suppress(TypeError, ValueError):
            made: np.dtype[Any] = np.dtype(dtype)
            if made in (np.float32, np.float64):
                return made
    raise DTypeError(f"dtype is float32 or float64; received {shown(dtype)}.")


def reduced(precision: Any, dtype: np.dtype[Any]) -> Precision:
    """The precision to which a network of this dtype may round the factors of products, or a ValueError."""
    if isinstance(precision, str) and precision in PRECISIONS and dtype == np.float32:
        return precision
    raise ValueError(
        f"precision is {' or '.join(map(repr, PRECISIONS))}, how float32 matrices may be multiplied, or None; received "
        f"{shown(precision)} with dtype {dtype}. Leave precision out, or take dtype='float32'."
    )
