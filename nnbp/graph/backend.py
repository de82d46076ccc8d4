"""The `Backend` protocol, which an array library must implement, and how backends are found.

The engine never checks which backend it has. It passes the operations of a step, on existing buffers, to `compile` and
gets back a function that runs them; no other member computes. To add a backend, write one class with these members and
an entry point in the group ``nnbp.backends``.
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
    """The array library itself, for computations outside a step."""

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        """A new C-contiguous array with uninitialised values."""

    def upload(self, host: NDArray[Any], dtype: DTypeLike) -> Array:
        """A C-contiguous device array with the values of a host array; may be that array itself."""

    def download(self, array: Array) -> NDArray[Any]:
        """A host array with the values; waits until they are computed. On a CPU it may be the same array."""

    def owns(self, array: object) -> bool:
        """Whether the object is an array of this library on this device."""

    def random_stream(self, key: tuple[int, int]) -> RandomStream:
        """The stream of ``np.random.Generator(np.random.Philox(key=key)).random(dtype=np.float32)``, bit for bit."""

    def compile(self, operations: Sequence[Operation], times: int = 1, runs: int = 1) -> Callable[[], None]:
        """A function that runs the operations in order, all of them `times` times.

        The function works on the arrays of the operations. It does not allocate, wait or inspect values, unless a
        `Foreign` operation does. A backend may reorder and join operations as long as every array ends up with the
        same values, up to rounding. Operations without elements do nothing.

        Args:
            operations: of `nnbp.graph.ops`.
            times: how often all of them run in each call.
            runs: approximate number of calls; the more there are, the more preparation is worthwhile.

        Raises:
            ShapeError, DTypeError: the device does not support an operand.
        """

    def synchronize(self) -> None:
        """Waits until the device has finished all its work."""

    def active(self) -> AbstractContextManager[object]:
        """The context in which the engine runs: the device is current and floating-point warnings are off."""


class Transfer(Protocol):
    """Transfers batches from the host to a device, which computes with one batch while the next is copied.

    Two halves are used alternately: `rows` returns the host's side of the next half, to be filled; `send` copies it.
    """

    windows: Sequence[Array]
    """The device's side: both halves, one below the other, (2 rows, columns), for each array of a batch."""

    def rows(self) -> Sequence[NDArray[Any]]:
        """The host's side of the next half, (rows, columns) each; waits until its old contents have been copied."""

    def send(self, samples: int) -> int:
        """Copies this many rows to the device; work that is submitted after this call sees them.

        Returns:
            the half of the windows that holds them, 0 or 1.
        """


@runtime_checkable
class Streaming(Protocol):
    """Optional members of a backend whose device has separate memory: data that do not fit there are streamed.

    For a backend without these members, all data but large sparse matrices are uploaded at once.
    """

    def memory(self) -> tuple[int, int]:
        """Free and total memory of the device, in bytes; memory that the backend keeps for reuse counts as free."""

    def transfer(self, rows: int, columns: Sequence[int], dtypes: Sequence[DTypeLike]) -> Transfer:
        """A transfer for batches of at most `rows` rows, with one array for each number of columns and dtype."""


def registered() -> dict[str, EntryPoint]:
    """The installed entry points of the group ``nnbp.backends``, by name."""
    # Imported here because the import is slow and `import nnbp` must be fast.
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group="nnbp.backends")}


@cache
def backend_class(name: str) -> Callable[..., Backend]:
    """The class of the backend that is installed under this name in the entry-point group ``nnbp.backends``.

    Raises:
        LookupError: no backend has this name.
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
