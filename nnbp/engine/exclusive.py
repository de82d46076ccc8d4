"""Mutual exclusion: decorators for methods of which only one may run at a time, on the network's device."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import copy_context
from functools import partial, wraps
from threading import RLock
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

import numpy as np

from nnbp.errors import DeviceMemoryError
from nnbp.graph.backend import Backend

Method = TypeVar("Method", bound=Callable[..., Any])
"""A method of an object with the attributes `_lock` and `_backend` and the method `_release`."""


_locked: WeakValueDictionary[int, Any] = WeakValueDictionary()
"""All objects that `lock` has given a lock, by id: a user's subclass may have no hash."""


def lock(holder: Any) -> None:
    """Gives an object its `_lock`, and another one in a forked process, which has no thread that would release it."""
    holder._lock = RLock()
    _locked[id(holder)] = holder


def _lock_anew() -> None:
    for holder in _locked.values():
        holder._lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lock_anew)


def alone(method: Method) -> Method:
    """Makes a method wait while another thread is in one of these methods.

    It is for methods that call user code (callbacks, metrics). They enter the device's context only around their own
    computations, because NumPy's warnings are off in that context.
    """
    return _excluding(method, on_device=False)


def exclusive(method: Method) -> Method:
    """Makes a method run on the network's device, and wait while another thread is in one of these methods."""
    return _excluding(method, on_device=True)


def _excluding(method: Method, *, on_device: bool) -> Method:
    """What both decorators do.

    NumPy's error state is a context variable. Even if an interrupt ends a backend's ``with`` statement between setting
    the state and restoring it, the caller's is as before: it belongs to another context, or is restored here.
    """

    @wraps(method)
    def waiting(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            try:
                if on_device:
                    return copy_context().run(_on_device, self._backend, partial(method, self, *args, **kwargs))
                with np.errstate():
                    return method(self, *args, **kwargs)
            except DeviceMemoryError as error:
                self._release()
                raise _bare(error) from None

    return cast(Method, waiting)


def _on_device(backend: Backend, call: Callable[[], Any]) -> Any:
    with backend.active():
        return call()


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
