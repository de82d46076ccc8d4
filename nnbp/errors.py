"""What can go wrong, by name: every error and warning that nnbp raises of its own."""

from __future__ import annotations

from typing import Any

from nnbp.formatting import printable


class NnbpError(Exception):
    """The root of all errors of nnbp.

    Names of files and columns, labels and cells may come from strangers: the message shows their control characters
    escaped.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class ShapeError(NnbpError, ValueError):
    """An array has the wrong shape or length."""


class DTypeError(NnbpError, TypeError):
    """An array has a dtype that the operation cannot take."""


class DataError(NnbpError, ValueError):
    """Data cannot be used as they are: a non-finite value, an unknown label, a bad cell of a table."""


class GradientError(NnbpError, ValueError):
    """A derivative that a user supplied disagrees with its own formula."""


class DeviceUnavailableError(NnbpError, RuntimeError):
    """The device that was asked for does not work here; the message says why and what would fix it."""


class DeviceMemoryError(NnbpError, MemoryError):
    """The memory of a device does not hold what it has to; the message says how much was asked for and is free."""


class ModelFileError(NnbpError, ValueError):
    """A model file is damaged, is no nnbp model, or cannot be read or written."""


class DivergenceError(NnbpError, ArithmeticError):
    """Training met a loss that is not finite; the network keeps good parameters.

    Attributes:
        history: the epochs before.
    """

    history: Any = None


class MissingDependencyError(NnbpError, ImportError):
    """An optional library is needed and not installed; the message names the command that adds it."""


class ConvergenceWarning(UserWarning):
    """A fit has left the network worse than it was, or hardly better than a constant prediction."""


class DeviceFallbackWarning(UserWarning):
    """A GPU was asked for and none works: the network is on the CPU instead."""
