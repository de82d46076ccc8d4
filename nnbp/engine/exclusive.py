"""One call at a time: methods that wait for each other, on the network's device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from nnbp.errors import DeviceMemoryError
from nnbp.graph.backend import Backend


class _Held(Protocol):
    """What has methods that take turns."""

    @property
    def _lock(self) -> AbstractContextManager[Any]: ...

    @property
    def _backend(self) -> Backend: ...

    def _release(self) -> None: ...


T = TypeVar("T")
P = ParamSpec("P")
Owner = TypeVar("Owner", bound=_Held)


def alone(method: Callable[Concatenate[Owner, P], T]) -> Callable[Concatenate[Owner, P], T]:
    """Makes a method wait while another thread is in one of these methods.

    For those that call what is the user's (callbacks, metrics) and enter the device's context around the rest: in it
    NumPy does not warn.
    """

    @wraps(method)
    def waiting(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._lock:
            try:
                return method(self, *args, **kwargs)
            except DeviceMemoryError as error:
                self._release()
                raise _bare(error) from None

    return waiting


def exclusive(method: Callable[Concatenate[Owner, P], T]) -> Callable[Concatenate[Owner, P], T]:
    """Makes a method run on the network's device, and wait while another thread is in one of these methods."""

    @wraps(method)
    def active(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._lock:
            try:
                with self._backend.active():
                    return method(self, *args, **kwargs)
            except DeviceMemoryError as error:
                self._release()
                raise _bare(error) from None

    return active


def _bare(error: DeviceMemoryError) -> DeviceMemoryError:
    """The error without the frames that it, and those that it came of, came through.

    They hold the half of an executor that had room. As long as the caller handles the error, and in a notebook for
    longer, a smaller batch would find the device as full as the large one left it.
    """
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    error.__context__ = None
    return error
