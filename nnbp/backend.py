"""What the engine asks of an array library: the `Backend` protocol, and how backends are found.

The engine never asks which backend it has. Every operation of a step is *bound* once, to the arrays that it will
always work on, and comes back as a list of calls ``(function, arguments)``; running a step is running the list. A
backend of one's own is one class with these members and an entry point in the group ``nnbp.backends``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from numpy.typing import DTypeLike, NDArray

from nnbp.expression import Formula

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "PRECISIONS",
    "Array",
    "Backend",
    "Call",
    "Calls",
    "Precision",
    "RandomStream",
    "Streaming",
    "Transfer",
    "backend_class",
    "registered",
]

Array: TypeAlias = Any
"""An array of the backend's own library, on its device."""

Call: TypeAlias = tuple[Callable[..., object], tuple[Any, ...]]
"""A function and the arguments that it was bound to."""

Calls: TypeAlias = list[Call]

Precision: TypeAlias = Literal["tf32", "bf16"]
"""To how many bits after the point the factors of a float32 product may be rounded, 10 or 7; sums are float32."""

PRECISIONS: tuple[Precision, ...] = ("tf32", "bf16")


class RandomStream(Protocol):
    """An endless stream of uniform float32 numbers, the same bits on every device, of which a position is known."""

    @property
    def position(self) -> int:
        """How many numbers were drawn so far."""

    @position.setter
    def position(self, position: int) -> None: ...


@runtime_checkable
class Backend(Protocol):
    """An array library on one device.

    Shapes: matrices are 2-D; ``(n, m)`` is features by samples. Every operand of an operation has the dtype of its
    output, float32 or float64, unless the member says otherwise.
    """

    name: str
    """Name of the array library: ``"numpy"``, ``"cupy"``."""

    device: str
    """The device as users write it: ``"cpu"``, ``"cuda:0"``."""

    xp: Any
    """The array library itself, for what happens outside a step."""

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        """A new C-contiguous array whose values are not set."""

    def upload(self, host: NDArray[Any], dtype: DTypeLike) -> Array:
        """A C-contiguous device array with the values of a host array; may be that array itself."""

    def download(self, array: Array) -> NDArray[Any]:
        """A host array with the values; waits until they are computed. May be the same array on a CPU."""

    def owns(self, array: object) -> bool:
        """Whether this is an array of this library, on this device."""

    def gemm(self, a: Array, b: Array, out: Array, precision: Precision | None = None) -> Calls:
        """``out = a @ b``; a (n, k) and b (k, m) may be transposes of contiguous arrays, out (n, m) is contiguous.

        With a precision, a and b may be rounded to it; a backend that gains nothing from that does not.
        """

    def sum(self, a: Array, axis: int, out: Array) -> Calls:
        """``out[0, j] = Σ_i a[i, j]`` for axis 0, ``out[i, 0] = Σ_j a[i, j]`` for axis 1, whose out is contiguous."""

    def elementwise(self, formula: Formula, inputs: Sequence[Array], outputs: Sequence[Array]) -> Calls:
        """``outputs = formula(inputs)``, broadcast; an output may be one of the inputs, but not overlap one partly."""

    def maximum_rows(self, a: Array, out: Array) -> Calls:
        """``out[0, j] = max_i a[i, j]``; a (n, m), out (1, m)."""

    def gather(self, source: Array, order: Array, counter: Array, stride: int, out: Array) -> Calls:
        """``out[i] = source[order[counter[0] * stride + i]]``: the rows of one batch; order and counter are int64."""

    def advance(self, counter: Array, count: int) -> Calls:
        """``counter[0] += count``; the counter is int64."""

    def random_stream(self, key: tuple[int, int]) -> RandomStream:
        """The stream of ``np.random.Generator(np.random.Philox(key=key)).random(dtype=np.float32)``, bit for bit."""

    def uniform(self, stream: RandomStream, out: Array) -> Calls:
        """Fills ``out`` (float32, C-contiguous) with the next numbers of the stream."""

    def capture(self, calls: Calls, times: int = 1, runs: int = 1) -> Callable[[], None]:
        """A function that runs the calls in order, all of them so many times; where the library can, as a graph.

        `runs` is how often the function will be called, about: more of them are worth more preparation.
        """

    def synchronize(self) -> None:
        """Waits until all that was asked of the device is done."""

    def active(self) -> AbstractContextManager[object]:
        """The context in which the engine runs: the device is current, floating-point warnings are off."""


class Transfer(Protocol):
    """The way of batches from the host to a device, which copies one while it computes with the one before.

    There are two halves, which take turns: `rows` gives the host's side of the next one to be filled, `send` copies it.
    """

    windows: Sequence[Array]
    """The device's side: both halves, one below the other, (2 rows, columns), for each array of a batch."""

    def rows(self) -> Sequence[NDArray[Any]]:
        """The host's side of the next half, (rows, columns) each; waits until what was in it has been copied."""

    def send(self, samples: int) -> int:
        """Copies so many rows of it to the device, where all that is asked for after this call finds them.

        Returns:
            the half of the windows that they are in, 0 or 1.
        """


@runtime_checkable
class Streaming(Protocol):
    """What a backend has besides where its device has a memory of its own: what does not fit there is streamed.

    To a backend without these members all data are uploaded at once.
    """

    def memory(self) -> tuple[int, int]:
        """Free and total memory of the device, in bytes; what the backend itself keeps for reuse is free."""

    def transfer(self, rows: int, columns: Sequence[int], dtype: DTypeLike) -> Transfer:
        """A transfer of batches of at most so many rows, of arrays with these numbers of columns."""


def registered() -> dict[str, EntryPoint]:
    """What is installed in the entry-point group ``nnbp.backends``, by name."""
    # Here, not above: the import is slow, and `import nnbp` is to be quick.
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group="nnbp.backends")}


@cache
def backend_class(name: str) -> Callable[..., Backend]:
    """The class of the backend that is installed under this name in the entry-point group ``nnbp.backends``.

    Raises:
        LookupError: none is.
    """
    found = registered()
    if name not in found:
        listed = ", ".join(sorted(found)) or "none at all: is nnbp installed, or only on the path?"
        raise LookupError(
            f"No backend is installed under the name {name!r}: a backend is an entry point in the group "
            "'nnbp.backends'; "
            f"found {listed}. Install nnbp itself with `python -m pip install -e .`, or the package that brings "
            f"{name!r}."
        )
    loaded: Callable[..., Backend] = found[name].load()
    return loaded
