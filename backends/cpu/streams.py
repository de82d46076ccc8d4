"""Random streams of the CPU: uniform float32 numbers from NumPy's Philox4x64-10."""

from __future__ import annotations

from typing import final

import numpy as np

from nnbp.graph.ops import Array

_NEAR = 16
"""A matrix of up to this many times the columns is drawn as a whole, which is faster than going to each row."""


@final
class PhiloxStream:
    """A stream; `state` stands for the state that every draw changes.

    The generator's state and the position keep their addresses, which a program holds (`program.py`).
    """

    def __init__(self, key: tuple[int, int]) -> None:
        self.key = key
        self.state = np.empty(1)
        self.bits = np.random.Philox(key=np.array(key, np.uint64))
        self.drawn = np.zeros(1, np.int64)
        self._generator = np.random.Generator(self.bits)
        self._start = self.bits.state

    @property
    def position(self) -> int:
        return int(self.drawn[0])

    @position.setter
    def position(self, position: int) -> None:
        # A block of the generator is four 64-bit words, each of which yields two float32 numbers.
        blocks, rest = divmod(position, 8)
        self.bits.state = self._start
        self.bits.advance(blocks)
        self._generator.random(rest, np.float32)
        self.drawn[0] = position


def fill(stream: PhiloxStream, out: Array) -> None:
    """Fills a float32 array with the next numbers of the stream."""
    stream._generator.random(None, np.float32, out)
    stream.drawn[0] += out.size


def fill_columns(stream: PhiloxStream, out: Array, first: int, total: int) -> None:
    """Fills a float32 array (rows, columns) with the columns from `first` on of the next matrix of `total` columns."""
    rows, columns = out.shape
    if total <= _NEAR * columns:
        out[...] = stream._generator.random((rows, total), np.float32)[:, first : first + columns]
        stream.drawn[0] += rows * total
        return
    start = stream.position
    for k in range(rows):
        stream.position = start + k * total + first
        stream._generator.random(None, np.float32, out[k])
    stream.position = start + rows * total
