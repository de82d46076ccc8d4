"""A device with one fault: in what one layer computes forwards, in its delta, dW, db, or in what it hands back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnbp.graph.backend import Backend, backend_class
from nnbp.graph.ops import Foreign, Gemm, Map, Operation, Reduce

KINDS = ("z", "delta", "dW", "db", "dx")
"""What can be wrong. dx of a layer is Wᵀ delta, from which the layer before has its delta."""


def one_wrong(out: Any) -> None:
    """An element is off by half of the largest one."""
    out[out.shape[0] // 2, out.shape[1] // 3] += 0.5 * np.abs(out).max()


class PlantedBackend:
    """A backend on the CPU that spoils an operation of the passes of a network of dense layers.

    Args:
        kind: of `KINDS`.
        layer: its number, counted from 1.
        layers: how many there are.
        spoil: changes an array.
        backend: computes.
    """

    device = name = "planted"

    def __init__(
        self,
        kind: str,
        layer: int,
        layers: int,
        spoil: Callable[[Any], None] = one_wrong,
        backend: Backend | None = None,
    ) -> None:
        self.backend = backend_class("numpy")() if backend is None else backend
        self.kind, self.layer, self.layers, self.spoil = kind, layer, layers, spoil
        own = [name for name in dir(Backend) if name[0] != "_" and name != "compile"]
        vars(self).update({name: getattr(self.backend, name) for name in own})
        self.xp = self.backend.xp

    def compile(self, operations: Sequence[Operation], times: int = 1, runs: int = 1) -> Any:
        at = self._place(list(operations))
        if at is None:
            return self.backend.compile(operations, times, runs)
        spoiled = operations[at].writes[0]
        added = Foreign(self.spoil, (spoiled if spoiled.ndim == 2 else spoiled.reshape(-1, 1),))
        return self.backend.compile([*operations[: at + 1], added, *operations[at + 1 :]], times, runs)

    def _place(self, operations: list[Operation]) -> int | None:
        """Which operation is to be spoiled, if this is a pass that has it."""
        gemms = [k for k, item in enumerate(operations) if isinstance(item, Gemm)]
        backward = bool(gemms) and isinstance(operations[0], Map)
        if self.kind == "z":
            forward = not backward and len(gemms) >= self.layers
            return gemms[self.layer - 1] if forward else None
        if not backward:
            return None
        from_last = self.layers - self.layer
        match self.kind:
            case "dW":
                return gemms[2 * from_last]
            case "dx":
                return gemms[2 * from_last + 1]
            case "db":
                return [k for k, item in enumerate(operations) if isinstance(item, Reduce)][from_last]
        # The operation before the product that makes dW of it.
        return gemms[2 * from_last] - 1


class RoundedFactors:
    """The CPU backend, with the factors of products that may be in TF32 or bfloat16 rounded to nearest."""

    device = name = "rounded"

    def __init__(self, precision: str) -> None:
        self.backend, self.dropped = backend_class("numpy")(), 13 if precision == "tf32" else 16
        own = [name for name in dir(Backend) if name[0] != "_" and name != "compile"]
        vars(self).update({name: getattr(self.backend, name) for name in own})
        vars(self).update(device="rounded", name="rounded", xp=self.backend.xp)

    def compile(self, operations: Sequence[Operation], times: int = 1, runs: int = 1) -> Any:
        return self.backend.compile([item for one in operations for item in self._rounded(one)], times, runs)

    def _rounded(self, operation: Operation) -> list[Operation]:
        if not isinstance(operation, Gemm) or operation.precision is None:
            return [operation]
        half, kept = np.uint32(1 << (self.dropped - 1)), np.uint32(2**32 - (1 << self.dropped))
        found: list[Operation] = []
        for x, into in ((operation.a, a := np.empty_like(operation.a)), (operation.b, b := np.empty_like(operation.b))):
            bits = into.view(np.uint32)
            found += [Foreign(np.add, (x.view(np.uint32), half, bits)), Foreign(np.bitwise_and, (bits, kept, bits))]
        return [*found, Gemm(a, b, operation.out)]
