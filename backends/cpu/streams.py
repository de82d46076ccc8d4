"""Random streams of the CPU: uniform float32 numbers from NumPy's Philox4x64-10."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import numpy as np

from nnbp.graph.ops import Array

_NEAR = 2048
"""Drawing so many numbers that nobody needs takes about as long as going to another position."""


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


def filling_columns(stream: PhiloxStream, out: Array, offset: int, total: int) -> Callable[[], None]:
    """A function that fills a float32 array (rows, columns) with columns of the next matrix of `total` columns.

    Args:
        stream: the stream.
        out: the array.
        offset: the first column.
        total: number of columns of the matrix.
    """
    rows, columns = out.shape
    draw, near = stream._generator.random, total - columns <= _NEAR
    row = np.empty(total if near else 0, np.float32)

    def fill_rows() -> None:
        if near:
            for k in range(rows):
                draw(None, np.float32, row)
                out[k] = row[offset : offset + columns]
            stream.drawn[0] += rows * total
            return
        start = stream.position
        for k in range(rows):
            stream.position = start + k * total + offset
            draw(None, np.float32, out[k])
        stream.position = start + rows * total

    return fill_rows
