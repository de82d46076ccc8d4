"""All parameters of a network as one flat vector theta, and their gradient as another; W and b are views of them.

The order is theta = [W¹, W², …, b¹, b², …]: what the weight decay acts on comes first, so λ/2 ΣW² and its gradient λW
are one operation on ``theta[:decayed]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from numpy.typing import DTypeLike

from nnbp.graph.backend import Backend
from nnbp.graph.ops import Array


class ParameterSpec(NamedTuple):
    """One array of a layer: its name, its shape, whether the weight decay acts on it.

    One that is not `learnt` has no gradient; training may change it otherwise, such as a running mean.
    """

    name: str
    shape: tuple[int, ...]
    decays: bool
    learnt: bool = True

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Parameters:
    """The flat vectors and their views, on a backend.

    Attributes:
        values: theta, and behind it all that is not learnt.
        theta: the parameters, a view of `values`.
        gradient: as long as theta.

    Args:
        backend: where the vectors live.
        specs: what each layer has, in the order of the layers; an empty list for a layer without parameters.
        dtype: float32 or float64.
    """

    def __init__(self, backend: Backend, specs: Sequence[Sequence[ParameterSpec]], dtype: DTypeLike) -> None:
        flat = [(k, spec) for k, layer in enumerate(specs) for spec in layer]
        self.size = sum(spec.size for _, spec in flat if spec.learnt)
        self.decayed = sum(spec.size for _, spec in flat if spec.decays)
        self.values = backend.empty(sum(spec.size for _, spec in flat), dtype)
        self.theta = self.values[: self.size]
        self.gradient = backend.empty(self.size, dtype)
        self.slices: list[dict[str, slice]] = [{} for _ in specs]
        offset = 0
        for k, spec in sorted(flat, key=lambda item: (not item[1].learnt, not item[1].decays)):
            self.slices[k][spec.name] = slice(offset, offset + spec.size)
            offset += spec.size
        self.specs = specs

    @property
    def matrices(self) -> tuple[slice, ...]:
        """Where each array that decays lies in theta."""
        pairs = zip(self.specs, self.slices, strict=True)
        return tuple(slices[spec.name] for layer, slices in pairs for spec in layer if spec.decays)

    def views(self, vector: Array) -> list[dict[str, Array]]:
        """The arrays of every layer as views of a flat vector; one as long as theta has those that are learnt."""
        return [
            {
                spec.name: vector[..., slices[spec.name]].reshape(*vector.shape[:-1], *spec.shape)
                for spec in layer
                if spec.learnt or vector.shape[-1] > self.size
            }
            for layer, slices in zip(self.specs, self.slices, strict=True)
        ]
