"""What users hand over, checked: arrays become device arrays of the right shape and dtype, or a clear error."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from numbers import Real
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from nnbp.errors import DataError, DTypeError, ShapeError
from nnbp.formatting import shown
from nnbp.graph.backend import Backend
from nnbp.graph.ops import PRECISIONS, Array, Precision

_BLOCK_ON_DEVICE = 2**24
_BLOCK_ON_HOST = 2**20
"""Elements that `finite` checks at once, about."""

T = TypeVar("T")

_IMPUTE = "Impute or drop missing values; scale large ones."


def host(values: Any, name: str) -> NDArray[Any]:
    """Any array or sequence of numbers as a NumPy array; a GPU array is downloaded.

    Raises:
        DTypeError: the values are no real numbers.
    """
    if hasattr(values, "__cuda_array_interface__") and hasattr(values, "get"):
        values = values.get()
    if hasattr(values, "toarray"):
        raise DTypeError(
            f"{name} is a dense array; received the sparse {type(values).__name__}. Pass {name}.toarray()."
        )
    try:
        array = np.asanyarray(values)
    except ValueError as error:
        raise ShapeError(f"{name} is an array in which all rows have the same length; {error}.") from error
    _check_real(array, name)
    return np.asarray(array)


def _check_real(array: Array, name: str) -> None:
    if isinstance(array, np.ma.MaskedArray):
        raise DTypeError(
            f"{name} is an array without a mask; received a MaskedArray. Pass {name}.filled(value), or impute."
        )
    if array.dtype.kind not in "fiub":
        hint = (
            "Encode labels as class indices (np.unique(y, return_inverse=True))."
            if name.startswith("y")
            else "Turn text columns into numbers first, or cast with .astype('float32')."
        )
        raise DTypeError(f"{name} holds real numbers; received dtype {array.dtype}. {hint}")


def matrix(backend: Backend, X: Any, dtype: np.dtype[Any], n_in: int | None) -> Array | NDArray[Any]:
    """X (m, n_in): a device array in the network's dtype, itself if it fits; a host array in its own dtype.

    Raises:
        ShapeError, DTypeError: X is no matrix of real numbers with n_in columns.
    """
    if backend.owns(X):
        _check_real(X, "X")
    else:
        X = host(X, "X")
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
        array: (m, n), on the device or on the host.
        name: of the array.
        dtype: of the network.
        fix: what the error advises.
        first: the row of the caller's array that row 0 is.
    """
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
    rows = np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))
    if len(rows):
        raise DataError(f"{rule}; received {array[rows[0]]} in row {rows[0]}. {fix}")


def like(X: Any, backend: Backend) -> Callable[[Array], Any]:
    """What turns arrays of the device or the host into the kind that X is: NumPy for host data, CuPy for CuPy."""
    if backend.owns(X):
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
    w = host(weights, "sample_weight").astype(np.float64)
    if w.shape not in ((samples,), (samples, 1)):
        raise ShapeError(f"sample_weight has one number per sample, ({samples},); received shape {w.shape}.")
    if not np.isfinite(w).all() or (w < 0).any() or not w.any():
        raise DataError(
            f"Sample weights are finite, at least 0 and not all 0; received weights from {np.min(w)} to {np.max(w)}. "
            "Drop samples that are not to count."
        )
    scaled: NDArray[np.float64] = np.ldexp(w, 1 - np.frexp(w.max())[1])
    return scaled.reshape(samples)


def class_weights(
    weights: Mapping[Any, float] | str | None, labels: NDArray[Any], reference: NDArray[Any], classes: int
) -> NDArray[np.float64] | None:
    """The weight of each sample by its class, or None.

    Args:
        weights: one for each class; classes that are not named have 1; "balanced" is m / (k mₖ) for a class with mₖ of
            the m reference samples, k classes.
        labels: class index of each sample.
        reference: labels that "balanced" counts: those of the training data.
        classes: number of classes.

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
    if not isinstance(weights, Mapping):
        if weights != "balanced":
            raise ValueError(
                f"class_weight is a dictionary, 'balanced' or None; received {weights!r}. Write {{class: weight, …}}."
            )
        found, counts = np.unique(reference, return_counts=True)
        weights = dict(zip(found.tolist(), (len(reference) / (len(found) * counts)).tolist(), strict=True))
    values = np.ones(len(labels))
    for label, weight in weights.items():
        if not isinstance(label, Real) or label not in range(classes):
            raise DataError(
                f"The keys of class_weight are class indices, whole numbers from 0 to {classes - 1} here; received "
                f"{label!r}. Number the classes as in y."
            )
        not_negative(f"The weight of class {label}", weight)
        values[labels == label] = weight
    return values


def number(name: str, value: Any, interval: str) -> float:
    """The value as a float that lies in an interval such as "[0, 1)" or "(0, inf)", or a ValueError."""
    low, high = interval[1:-1].split(", ")
    if not isinstance(value, bool) and isinstance(value, Real):
        x, least, most = float(value), float(low), float(high)
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


def whole_number(name: str, value: Any, low: int) -> int:
    """The value as an int, at least `low`, or a ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        raise ValueError(f"{name} is a whole number, at least {low}; received {shown(value)}.")
    return int(value)


def float_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype of a network, or a DTypeError."""
    # NumPy takes None for float64.
    if dtype is not None:
        with suppress(TypeError):
            made: np.dtype[Any] = np.dtype(dtype)
            if made in (np.float32, np.float64):
                return made
    raise DTypeError(f"dtype is float32 or float64; received {dtype!r}.")


def reduced(precision: Any, dtype: np.dtype[Any]) -> Precision:
    """The precision to which a network of this dtype may round the factors of products, or a ValueError."""
    if precision in PRECISIONS and dtype == np.float32:
        return cast(Precision, precision)
    raise ValueError(
        f"precision is {' or '.join(map(repr, PRECISIONS))}, how float32 matrices may be multiplied, or None; received "
        f"{precision!r} with dtype {dtype}. Leave precision out, or take dtype='float32'."
    )
