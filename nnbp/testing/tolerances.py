"""Tolerances: how much two devices may differ by rounding if both are correct.

The bounds are on max |p − q| / max |p|, with p and q the same array on two devices:

- float64: 10⁻¹² for a forward and backward pass, 10⁻¹⁰ for the results of training, in which an absolute error of
  8 √s ε max |θ| passes as well: a parameter whose derivative is 0 except for rounding (a bias before a BatchNorm) takes
  s steps of rounding errors. Here ε = 2⁻⁵².
- float32: 8 √K ε + 8 ρ, and 8 √(K s) ε + 32 ρ after s updates. ε = 2⁻²³ is the rounding error of float32. K is the
  number of terms of the longest sum, whose error is about √K ε (Higham and Mary, "A new approach to probabilistic
  rounding error analysis", 2019). ρ is the error of a run on the CPU relative to one in float64, which shows how much
  this network amplifies rounding. TF32, bfloat16 or a wrong kernel exceed this bound by far.
- products in TF32 or bfloat16, summed in float32: 8 √K ε + η + 2 ρ, and 8 √(K s) ε + η + 8 ρ after s updates. ρ is the
  error, relative to float64, of a run on the CPU whose products take factors already rounded to that precision. TF32
  units round to nearest or truncate, and truncation has three times the error: ρ is the larger of the two errors.
  bfloat16 is rounded to nearest. η = 2⁻¹⁰ or 2⁻⁷, from the 10 or 7 bits after the point, is one unit in the last place
  of a factor; it allows for small arrays whose errors happen to cancel. Products with three bits less exceed the bound.

A sum of deltas over the samples, db, may cancel to nearly 0: an absolute error of the bound for ρ = 0 times max |delta|
passes as well. A trained array that is 0 in float64 may be off by 8 √s ε max |θ| in float32, too.

In float32 an absolute error of at most 8 K · 2⁻¹²⁶ passes as well: every kernel on a GPU treats numbers below 2⁻¹²⁶
(denormals) as 0, and each term of a sum can lose as much. Optimizers that divide by the size of the gradient, such as
Adam, can amplify these errors beyond this bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from nnbp.device.select import open_backend
from nnbp.graph.backend import Backend
from nnbp.graph.ops import Foreign, Gemm, Operation, Precision

PASS_BOUND, TRAINING_BOUND = 1e-12, 1e-10

_BITS: dict[str, int] = {"tf32": 10, "bf16": 7}
"""Bits after the point, of a factor."""


def bound(rho: float, *, terms: int, updates: int | None, precision: Precision | None) -> float:
    """The bound for an array in float32.

    Args:
        rho: ρ of the array.
        terms: K.
        updates: s; None for an array of a pass.
        precision: of the products.
    """
    floor = 8 * math.sqrt(terms * (updates or 1)) * float(np.finfo(np.float32).eps)
    if precision is None:
        return floor + (8 if updates is None else 32) * rho
    return floor + 2.0 ** -_BITS[precision] + (2 if updates is None else 8) * rho


def rounded(largest: float, updates: int, dtype: Any) -> float:
    """The absolute error that steps of rounding errors explain, for a parameter whose derivative is 0 otherwise.

    Args:
        largest: max |θ|.
        updates: s.
        dtype: of the parameters.
    """
    return 8 * math.sqrt(updates) * float(np.finfo(dtype).eps) * largest


def flushed(terms: int) -> float:
    """The absolute error in float32 that is explained by treating denormals as 0.

    Args:
        terms: K.
    """
    return 8 * terms * float(np.finfo(np.float32).tiny)


def relative_error(p: NDArray[Any], q: NDArray[Any], size: float | None = None) -> float:
    """max |p − q| / max |p|, or infinity if that is NaN or infinite; `size` replaces max |p|."""
    with np.errstate(all="ignore"):
        error = float(np.max(np.abs(p.astype(np.float64) - q)))
        size = float(np.max(np.abs(p))) if size is None else size
    if error == 0:
        return 0.0
    return error / size if size > 0 and math.isfinite(error) else math.inf


class _RoundedFactors:
    """The CPU backend, with the factors of reduced-precision products rounded to nearest, or truncated."""

    def __init__(self, backend: Backend, *, cut: bool) -> None:
        self._backend, self._cut = backend, cut
        # Copied as attributes instead of using __getattr__, so that isinstance(self, Backend) is true.
        own = [name for name in dir(Backend) if name[0] != "_" and name != "compile"]
        vars(self).update({name: getattr(backend, name) for name in own})
        vars(self).update(name=backend.name, device=backend.device, xp=backend.xp)

    def compile(self, operations: Sequence[Operation], times: int = 1, runs: int = 1) -> Callable[[], None]:
        found = [rounded for operation in operations for rounded in self._rounded(operation)]
        return self._backend.compile(found, times, runs)

    def _rounded(self, operation: Operation) -> list[Operation]:
        if not isinstance(operation, Gemm) or operation.precision is None:
            return [operation]
        dropped = 23 - _BITS[operation.precision]
        half, kept = np.uint32(0 if self._cut else 1 << (dropped - 1)), np.uint32(2**32 - (1 << dropped))
        a, b = (self._backend.empty(x.shape, x.dtype) for x in operation.reads)
        found: list[Operation] = []
        for x, into in zip(operation.reads, (a, b), strict=True):
            bits = into.view(np.uint32)
            found += [Foreign(np.add, (x.view(np.uint32), half, bits)), Foreign(np.bitwise_and, (bits, kept, bits))]
        return [*found, Gemm(a, b, operation.out)]


def with_rounded_factors(precision: Precision) -> list[Backend]:
    """CPU backends with products in TF32 or bfloat16 if a network allows it, one backend for each way of rounding.

    >>> nearest, cut = with_rounded_factors("tf32")
    >>> a, out = np.float32([[1 + 2**-11 + 2**-20]]), np.zeros((1, 1), np.float32)
    >>> nearest.compile([Gemm(a, np.ones_like(a), out, "tf32")])()
    >>> (float(out[0, 0]) - 1) * 2**10
    1.0
    """
    ways = (False, True) if precision == "tf32" else (False,)
    return [cast(Backend, _RoundedFactors(open_backend("cpu"), cut=cut)) for cut in ways]
