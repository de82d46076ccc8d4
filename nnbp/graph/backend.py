"""What the engine asks of an array library: the `Backend` protocol, and how backends are found.

The engine never asks which backend it has. It gives a backend the operations of a step, on buffers that already exist,
and gets back a function that runs them: `compile` is the one member that does work. A backend of one's own is one class
with these members and an entry point in the group ``nnbp.backends``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from numpy.typing import DTypeLike, NDArray

from nnbp.graph.ops import Array, Operation, RandomStream

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


@runtime_checkable
class Backend(Protocol):
    """An array library on one device.

    Every operand of an operation has the dtype of its output, float32 or float64, unless `nnbp.graph.ops` says
    otherwise.
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

    def random_stream(self, key: tuple[int, int]) -> RandomStream:
        """The stream of ``np.random.Generator(np.random.Philox(key=key)).random(dtype=np.float32)``, bit for bit."""

    def compile(self, operations: Sequence[Operation], times: int = 1, runs: int = 1) -> Callable[[], None]:
        """A function that runs the operations in order, all of them `times` times.

        It works on the arrays of the operations: running it allocates nothing, waits for nothing and looks at no value,
        unless a `Foreign` operation does. A backend is free to reorder and join operations as long as every array then
        holds what it would hold, up to rounding. Operations without elements do nothing.

        Args:
            operations: of `nnbp.graph.ops`.
            times: how often all of them run at each call.
            runs: how often the function will be called, about; more of them are worth more preparation.

        Raises:
            ShapeError, DTypeError: the device cannot have such an operand.
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
            f"'nnbp.backends'; found {listed}. Install nnbp itself with `python -m pip install -e .`, or the package "
            f"that brings {name!r}."
        )
    loaded: Callable[..., Backend] = found[name].load()
    return loaded
