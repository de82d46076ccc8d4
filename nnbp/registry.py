"""Names for classes: how "tanh", "adam" or "huber" become objects, and what is said when a name is unknown."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

__all__ = ["lookup", "unknown_name"]

T = TypeVar("T")


def unknown_name(kind: str, names: Mapping[str, Any], received: object) -> ValueError:
    """The error for a name that nothing is registered under."""
    close = get_close_matches(str(received), names, 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return ValueError(
        f"Unknown {kind}: it is one of {', '.join(sorted(names))}, or an object of its class; received {received!r}.{hint}"
    )


def lookup(kind: str, base: type[T], registry: Mapping[str, type[T]], spec: str | T | type[T]) -> T:
    """The object that a name, a class or an object stands for.

    Args:
        kind: what it is, as the error message shall call it.
        base: the class that objects belong to.
        registry: the classes by name.
        spec: a name, a subclass of base without required arguments, or an object of it.

    Raises:
        ValueError: nothing goes by this name.
    """
    if isinstance(spec, base):
        return spec
    if isinstance(spec, type) and issubclass(spec, base):
        return spec()
    if isinstance(spec, str) and spec in registry:
        return registry[spec]()
    raise unknown_name(kind, registry, spec)
