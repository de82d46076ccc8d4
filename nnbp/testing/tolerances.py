"""Rounding: how far two devices that both compute rightly may be apart.

The bounds are on max |p − q| / max |p|, p and q one array on two devices:

- float64: 10⁻¹² for a pass forward and back, 10⁻¹⁰ for what training leaves.
- float32: 8 √K ε + 8 ρ, and 8 √(K s) ε + 32 ρ after s updates. ε = 2⁻²³ is the rounding of float32; K the number of
  terms of the longest sum, which errs by some √K ε (Higham and Mary, "A new approach to probabilistic rounding error
  analysis", 2019); ρ the error of a run on the CPU against one in float64, which tells how much this network
  amplifies a rounding. TF32, bfloat16 or a wrong kernel miss this bound by far.
- products in TF32 or bfloat16, summed in float32: 8 √K ε + η + 2 ρ, and 8 √(K s) ε + η + 8 ρ after s updates. ρ is the
  error against float64 of a run on the CPU whose products take factors that were rounded to that precision before.
  Units for TF32 round to the nearest or cut off, which errs three times as much: ρ is that of the worse one. bfloat16
  is rounded to the nearest. η = 2⁻¹⁰ or 2⁻⁷, by the 10 or 7 bits after the point, is one unit in the last place of a
  factor, for arrays of a few numbers whose errors cancel by chance. Products of three bits less miss this bound.

In float32 an absolute error of at most 8 K · 2⁻¹²⁶ passes as well: on a GPU numbers below 2⁻¹²⁶, denormals, are 0 in
every kernel, and the terms of a sum can lose as much each. Optimizers that divide by the size of the gradient, such as
Adam, can make more of them than that.
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
"""After the point, of a factor."""


def bound(rho: float, *, terms: int, updates: int | None, precision: Precision | None) -> float:
    """The bound of an array in float32.

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


def flushed(terms: int) -> float:
    """The absolute error that denormals which are taken for 0 explain, in float32.

    Args:
        terms: K.
    """
    return 8 * terms * float(np.finfo(np.float32).tiny)


def relative_error(p: NDArray[Any], q: NDArray[Any]) -> float:
    """max |p − q| / max |p|, and infinite where that is no number."""
    with np.errstate(all="ignore"):
        error, size = (float(np.max(np.abs(array))) for array in (p.astype(np.float64) - q, p))
    if error == 0:
        return 0.0
    return error / size if size > 0 and math.isfinite(error) else math.inf


class _RoundedFactors:
    """The CPU, but that float32 factors of less precision are rounded to it: to the nearest, or cut off."""

    def __init__(self, backend: Backend, *, cut: bool) -> None:
        self._backend, self._cut = backend, cut
        # Members of its own, not looked up when asked for: so it counts as a `Backend`.
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
    """The CPU with products as precise as TF32 or bfloat16 where a network allows it, for each way of rounding.

    >>> nearest, cut = with_rounded_factors("tf32")
    >>> a, out = np.float32([[1 + 2**-11 + 2**-20]]), np.zeros((1, 1), np.float32)
    >>> nearest.compile([Gemm(a, np.ones_like(a), out, "tf32")])()
    >>> (float(out[0, 0]) - 1) * 2**10
    1.0
    """
    ways = (False, True) if precision == "tf32" else (False,)
    return [cast(Backend, _RoundedFactors(open_backend("cpu"), cut=cut)) for cut in ways]
