"""Names for classes: how "tanh", "adam" or "huber" become objects, and what is said when a name is unknown."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypeVar

__all__ = ["find", "is_built_in", "lookup", "register", "unknown_name"]

T = TypeVar("T")


def is_built_in(cls: type) -> bool:
    """Whether nnbp itself brings this class: it stands in one of nnbp's modules under its own name."""
    return cls.__module__.startswith("nnbp.") and getattr(sys.modules[cls.__module__], cls.__name__, None) is cls


def register(kind: str, registry: dict[str, type[T]], cls: type[T], attribute: str = "name") -> None:
    """Enters a class under the name that it gives itself; without one of its own it is a base, and stays out.

    A later class of a user's takes the place of an earlier one, as when a cell of a notebook is run again; it never
    takes the place of one of nnbp's, whose name others mean by it: losses, model files, the command line.

    Raises:
        ValueError: the name is that of one of nnbp's own classes.
    """
    name = cls.__dict__.get(attribute)
    if not isinstance(name, str):
        return
    known = registry.get(name)
    if known is not None and is_built_in(known) and cls.__module__ != known.__module__:
        raise ValueError(
            f"The {kind} {cls.__name__} needs a name of its own: {name!r} is that of nnbp's {known.__name__}, which no "
            f"other class replaces; received {attribute} = {name!r}. Choose another: {attribute} = 'my_{name}'."
        )
    registry[name] = cls


def unknown_name(kind: str, names: Mapping[str, Any], received: object) -> ValueError:
    """The error for a name that nothing is registered under; it lists the names, and the closest one."""
    from difflib import get_close_matches

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
        ValueError: nothing goes by this name, or the object's class has none of its own.
    """
    found: T
    if isinstance(spec, base):
        found = spec
    else:
        cls = spec if isinstance(spec, type) and issubclass(spec, base) else find(kind, registry, spec)
        found = cls()
    owner = type(found)
    if not isinstance(owner.__dict__.get("name"), str):
        inherited = getattr(owner, "name", None)
        received = f"{inherited!r}, the name of its base" if isinstance(inherited, str) else "none"
        raise ValueError(
            f"The {kind} {owner.__name__} needs a name of its own, which messages and model files know it by; received "
            f"{received}. Write it into the class: name = {owner.__name__.lower()!r}."
        )
    return found
