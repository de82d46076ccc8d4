"""Names for classes: how "tanh", "adam" or "huber" become objects, and what is said when a name is unknown."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

__all__ = ["find", "lookup", "unknown_name"]

T = TypeVar("T")


def unknown_name(kind: str, names: Mapping[str, Any], received: object) -> ValueError:
    """The error for a name that nothing is registered under; it lists the names, and the closest one."""
    close = get_close_matches(received, names, 1, 0.5) if isinstance(received, str) else []
    hint = f"Did you mean {close[0]!r}?" if close else "Pass one of these names, or an object of its class."
    return ValueError(f"Unknown {kind}: it is one of {', '.join(sorted(names))}; received {received!r}. {hint}")


def find(kind: str, registry: Mapping[str, type[T]], name: object) -> type[T]:
    """The class that is registered under a name.

    Raises:
        ValueError: nothing goes by this name.
    """
    if isinstance(name, str) and name in registry:
        return registry[name]
    raise unknown_name(kind, registry, name)


def lookup(kind: str, base: Any, registry: Mapping[str, type[T]], spec: str | T | type[T]) -> T:
    """The object that a name, a class without required arguments, or an object stands for.

    Raises:
        ValueError: nothing goes by this name.
    """
    found: T
    if isinstance(spec, base):
        found = spec
    else:
        cls = spec if isinstance(spec, type) and issubclass(spec, base) else find(kind, registry, spec)
        found = cls()
    return found
