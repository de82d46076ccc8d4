"""Mutual exclusion: decorators for methods of which only one may run at a time, on the network's device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from nnbp.errors import DeviceMemoryError
from nnbp.graph.backend import Backend


class _Held(Protocol):
    """An object whose methods exclude each other."""

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

    It is for methods that call user code (callbacks, metrics). They enter the device's context only around their own
    computations, because NumPy's warnings are off in that context.
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
    """The error and the errors that caused it, without their tracebacks.

    The frames of a traceback keep a half-allocated executor alive. While the caller handles the error, and for longer
    in a notebook, the device would remain full, and a smaller batch would fail as well.
    """
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    error.__context__ = None
    return error
