"""Comparison of any two functions, in any libraries, on the same arrays: do they compute the same, up to rounding?

The bound on max |p − q| / max |p| is 8 √K ε + 8 ρ, as in `nnbp.testing.tolerances`: ε is the rounding error of the
dtype, K the largest size of an axis, and ρ the amplification of rounding by the first function. ρ is measured: it is
how much results differ from those of a run in float64, or change if inputs change by one unit in the last place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbp.formatting import shown
from nnbp.testing.rows import UNDECIDED, ParityRow, Report, judged
from nnbp.testing.runs import Found
from nnbp.testing.tolerances import flushed, relative_error
from nnbp.validation import host, number

_CHANGES = 4
"""How often inputs are changed by one unit in the last place, up or down at random."""


@dataclass(frozen=True)
class Comparison(Report):
    """The report of `compare`; print it to see a table.

    Attributes:
        names: of the two functions, or "p" and "q".
        rows: one per array.
    """

    names: tuple[str, str]
    rows: tuple[ParityRow, ...]

    def lines(self) -> list[str]:
        """What stands below the table: the verdict, and what it depends on."""
        said = "PASSED" if self.passed else "FAILED"
        lines = [
            f"{said}: p by {self.names[0]}, q by {self.names[1]}; largest relative error {self.max_relative_error:.2g}"
        ]
        if open_ := [row.name for row in self.rows if row.verdict == UNDECIDED and not row.passed]:
            lines.append(
                f"undecided: {', '.join(open_)}; p amplifies rounding so much that its errors are about as large as "
                "the array itself: give a bound"
            )
        return lines


def compare(
    f: Callable[..., Any] | Mapping[str, Any],
    g: Callable[..., Any] | Mapping[str, Any],
    *arrays: Any,
    bound: float | None = None,
) -> Comparison:
    """Compares the results of two functions for the same arrays, or two dictionaries of arrays.

    Args:
        f, g: functions of NumPy arrays that return an array, several arrays, or a dictionary of arrays, from NumPy,
            CuPy, PyTorch, JAX or another library; or the dictionaries themselves. f also runs in float64, and on inputs
            that are changed by one unit in the last place, so it must compute in the dtype of its inputs.
        arrays: the arguments of the functions; only floating-point arrays are changed.
        bound: on the relative error; None finds it by runs of f. Dictionaries need a bound. An array whose bound is
            found to be 0.1 or more is undecided and does not pass.

    Returns:
        a report with `passed` and one row per array; `print` shows it as a table.

    Raises:
        ValueError: a dictionary without a bound, results with different names or shapes, or a bound that is not finite.

    >>> def by_hand(x):
    ...     return (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean())
    >>> x = np.random.default_rng(0).normal(100, 1, 50).astype(np.float32)
    >>> compare(by_hand, lambda x: (x - np.mean(x)) / np.std(x), x).passed
    True
    >>> compare(by_hand, lambda x: (x - np.mean(x)) / np.std(x, ddof=1), x).passed
    False
    """
    for item in (f, g):
        if not (callable(item) or isinstance(item, Mapping)):
            raise TypeError(f"f and g are functions, or dictionaries of arrays; received {shown(item)}.")
    given = [np.asarray(host(array, f"arrays[{k}]")) for k, array in enumerate(arrays)]
    if bound is not None:
        bound = number("bound, on the relative error,", bound, "[0, inf)")
    elif isinstance(f, Mapping):
        raise ValueError(
            "Runs of f in float64 find the bound; received a dictionary. Give a bound, or the function that computed "
            "the dictionary."
        )
    p, q = (_results(item, given) for item in (f, g))
    if not p or set(p) != set(q) or any(p[name].shape != q[name].shape or not p[name].size for name in p):
        described = [{name: array.shape for name, array in found.items()} for found in (p, q)]
        raise ValueError(
            f"Both must give arrays with the same names and shapes, none of them empty; received {shown(described[0])} "
            f"and {shown(described[1])}."
        )
    changed = [] if bound is not None else _amplified(f, given)
    terms = max((size for array in given for size in array.shape), default=1)
    rows = []
    for name, array in p.items():
        limit, lost, wide = bound, 0.0, np.result_type(array, q[name])
        if limit is None:
            eps = float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else 0.0
            exact, *others = (found[name] for found in changed)
            rho = max(relative_error(exact, found) for found in (array, *others))
            limit = 8 * math.sqrt(terms) * eps + 8 * rho
            lost = flushed(terms) if array.dtype == np.float32 else 0.0
        row = judged("comparison", name, "", array.astype(wide), q[name].astype(wide), bound=limit, lost=lost)
        # No other array decides in its place, and a measured bound is nobody's intention.
        rows.append(replace(row, passed=False) if row.verdict == UNDECIDED and bound is None else row)
    return Comparison((_name(f, "p"), _name(g, "q")), tuple(rows))


def _results(function: Any, arrays: list[NDArray[Any]]) -> Found:
    """The results of a function, as arrays by name on the host."""
    # Copies, because a function may work in place.
    found = function if isinstance(function, Mapping) else function(*(array.copy() for array in arrays))
    if isinstance(found, tuple | list):
        names = getattr(found, "_fields", None) or [f"[{k}]" for k in range(len(found))]
        found = dict(zip(names, found, strict=True))
    if not isinstance(found, Mapping):
        found = {"result": found}
    # A PyTorch tensor may need to be detached.
    return {
        str(name): np.asarray(host(array.detach() if hasattr(array, "detach") else array, str(name)))
        for name, array in found.items()
    }


def _amplified(f: Any, arrays: list[NDArray[Any]]) -> list[Found]:
    """The results of f in float64, and for inputs that are changed by one unit in the last place."""
    rng = np.random.default_rng(0)
    floats = [array.dtype.kind == "f" for array in arrays]
    exact = [array.astype(np.float64) if is_float else array for array, is_float in zip(arrays, floats, strict=True)]
    found = [_results(f, exact)]
    for _ in range(_CHANGES):
        moved = [
            np.nextafter(array, np.where(rng.random(array.shape) < 0.5, np.inf, -np.inf).astype(array.dtype))
            if is_float
            else array
            for array, is_float in zip(arrays, floats, strict=True)
        ]
        found.append(_results(f, moved))
    return found


def _name(function: Any, default: str) -> str:
    return default if isinstance(function, Mapping) else str(getattr(function, "__qualname__", default))
