"""Tolerances: how much two devices may differ by rounding if both are correct.

The bounds are on max |p − q| / max |p|, with p and q the same array on two devices:

- float64: 10⁻¹² for a forward and backward pass, 10⁻¹⁰ for the results of training, or 2⁻²⁹ · 8 ρ and 2⁻²⁹ · 32 ρ with
  the ρ of float32, if that is more. After training an absolute error of 8 √s ε max |θ| passes as well: a parameter
  whose derivative is 0 except for rounding (a bias before a BatchNorm) takes s steps of rounding errors.
- float32: 8 √K ε + 8 ρ, and 8 √(K s) ε + 32 ρ after s updates. ε = 2⁻²³ is the rounding error of float32. K is the
  number of terms of the longest sum, whose error is about √K ε (Higham and Mary, "A new approach to probabilistic
  rounding error analysis", 2019). ρ shows how much this network amplifies rounding: the larger error, relative to
  float64, of two runs in float64 in which every factor, term of a sum and result is multiplied by 1 ± ε at random.
  TF32, bfloat16 or a wrong kernel exceed this bound by far.
- products in TF32 or bfloat16, summed in float32: 8 √K ε + η + 2 ρ, and 8 √(K s) ε + η + 8 ρ after s updates. In the
  runs for ρ, products take factors that are also rounded to that precision. TF32 units round to nearest or truncate,
  and truncation has three times the error: ρ is the larger of the two errors. bfloat16 is rounded to nearest. η = 2⁻¹⁰
  or 2⁻⁷, from the 10 or 7 bits after the point, is one unit in the last place of a factor; it allows for small arrays
  whose errors happen to cancel. Products with three bits less exceed the bound.

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
from nnbp.graph.ops import Array, Foreign, Gemm, Map, Operation, Precision, Reduce

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
    """max |p − q| / max |p|, or infinity if that is NaN or infinite, or 0 if there are no entries.

    `size` replaces max |p|.
    """
    with np.errstate(all="ignore"):
        error = float(np.max(np.abs(p.astype(np.float64) - q), initial=0.0))
        size = float(np.max(np.abs(p), initial=0.0)) if size is None else size
    if error == 0:
        return 0.0
    return error / size if size > 0 and math.isfinite(error) else math.inf


class _Rounding:
    """The CPU backend for networks in float64, with the errors that every operation has in a lower precision.

    Factors of products are rounded to the bits of TF32 or bfloat16; then they, the terms of sums and all results are
    multiplied by 1 ± 2⁻²³, at random. So nothing is computed in float32, which a fault of the CPU could affect.
    """

    def __init__(self, backend: Backend, seed: int, bits: int | None = None, *, cut: bool = False) -> None:
        self._backend, self._rng, self._bits, self._cut = backend, np.random.default_rng(seed), bits, cut
        # Copied as attributes instead of using __getattr__, so that isinstance(self, Backend) is true.
        own = [name for name in dir(Backend) if name[0] != "_" and name != "compile"]
        vars(self).update({name: getattr(backend, name) for name in own})
        vars(self).update(name=backend.name, device=backend.device, xp=backend.xp)

    def compile(self, operations: Sequence[Operation], times: int = 1, runs: int = 1) -> Callable[[], None]:
        found = [rounded for operation in operations for rounded in self._rounded(operation)]
        return self._backend.compile(found, times, runs)

    def _rounded(self, operation: Operation) -> list[Operation]:
        found: list[Operation] = []
        match operation:
            case Gemm(a, b, out):
                a, b = (self._copied(x, found, factor=True) for x in (a, b))
                operation = Gemm(a, b, out)
            case Reduce("sum", a, axis, out) if a.dtype == np.float64:
                operation = Reduce("sum", self._copied(a, found), axis, out)
        found.append(operation)
        if isinstance(operation, Gemm | Map | Reduce):
            found += [self._changed(out, out) for out in operation.writes if out.dtype == np.float64]
        return found

    def _copied(self, x: Array, found: list[Operation], *, factor: bool = False) -> Array:
        """A copy with errors, in the order of memory that the original has."""
        copy = np.empty_like(x)
        if factor and self._bits is not None:
            dropped = 52 - self._bits
            half, kept = np.uint64(0 if self._cut else 1 << (dropped - 1)), np.uint64(2**64 - (1 << dropped))
            bits = copy.view(np.uint64)
            found += [Foreign(np.add, (x.view(np.uint64), half, bits)), Foreign(np.bitwise_and, (bits, kept, bits))]
            x = copy
        found.append(self._changed(x, copy))
        return copy

    def _changed(self, x: Array, out: Array) -> Operation:
        """out = x (1 ± 2⁻²³)."""
        signs = np.where(self._rng.random(x.shape) < 0.5, -1.0, 1.0)
        return Foreign(np.multiply, (x, 1.0 + signs * float(np.finfo(np.float32).eps), out))


def with_rounding(precision: Precision | None) -> list[Backend]:
    """CPU backends on which networks in float64 have the errors of float32, or of products in TF32 or bfloat16.

    Two for float32 and bfloat16, with other errors; for TF32 one that rounds to nearest and one that truncates.

    >>> nearest, cut = with_rounding("tf32")
    >>> a, out = np.array([[1 + 2**-11 + 2**-20]]), np.zeros((1, 1))
    >>> nearest.compile([Gemm(a, np.ones_like(a), out)])()
    >>> round((float(out[0, 0]) - 1) * 2**10, 2)
    1.0
    """
    bits = None if precision is None else _BITS[precision]
    ways = [cut and precision == "tf32" for cut in (False, True)]
    return [cast(Backend, _Rounding(open_backend("cpu"), k, bits, cut=cut)) for k, cut in enumerate(ways)]
