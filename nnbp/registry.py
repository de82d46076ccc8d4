"""Names for classes: how "tanh", "adam" or "huber" become objects, and what is said when a name is unknown."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any, ClassVar, Self

from nnbp.formatting import shown


class Named:
    """Base of what users choose by name: activations, losses, optimizers, …

    ``class Activation(Named, kind="activation")`` begins a kind with a registry of its own. A subclass with a `name`
    (or the `attribute` that the kind is declared with) enters it; without one of its own it is a base, and stays out.
    The public attributes of an object are the arguments that make an equal one.

    Names are compared without case, hyphens, underscores and spaces. A class is also found by its `aliases`, the names
    that the same formula has in Keras, PyTorch and scikit-learn; objects, messages and model files use its `name`. A
    class that has a text as its own name comes before one that has it as an alias.

    A later class of a user's takes the place of an earlier one, as when a cell of a notebook is run again; it never
    takes the place of one of nnbp's, whose name others mean by it: losses, model files, the command line.

    Raises:
        ValueError: at the definition of a class that takes the name of one of nnbp's own.
    """

    registry: ClassVar[dict[str, type[Any]]]
    """Every class of this kind by its name."""

    aliases: ClassVar[tuple[str, ...]] = ()
    """Other names by which `find` knows the class. Subclasses do not inherit them."""

    _kind: ClassVar[str]
    _attribute: ClassVar[str]

    def __init_subclass__(cls, kind: str | None = None, attribute: str = "name", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if kind is not None:
            cls._kind, cls._attribute, cls.registry = kind, attribute, {}
            return
        name = cls.__dict__.get(cls._attribute)
        if not isinstance(name, str):
            return
        known = cls.registry.get(name)
        if known is not None and is_built_in(known) and cls.__module__ != known.__module__:
            raise ValueError(
                f"The {cls._kind} {cls.__name__} needs a name of its own: {name!r} is that of nnbp's {known.__name__}, "
                f"which no other class replaces; received {cls._attribute} = {name!r}. Choose another: "
                f"{cls._attribute} = 'my_{name}'."
            )
        cls.registry[name] = cls

    @classmethod
    def find(cls, name: object) -> type[Self]:
        """The class of this kind that goes by this name.

        Raises:
            ValueError: none does.
        """
        if isinstance(name, str) and name in cls.registry:
            return cls.registry[name]
        # Of several classes with the same spelling the first is found: names come before aliases.
        aliases = ((alias, item) for item in cls.registry.values() for alias in item.__dict__.get("aliases", ()))
        known = [*cls.registry.items(), *aliases]
        spelled: dict[str, type[Self]] = {spelling(text): item for text, item in reversed(known)}
        if isinstance(name, str) and (found := spelled.get(spelling(name))):
            return found
        raise unknown_name(cls._kind, cls.registry, name, [text for text, _ in known])

    @classmethod
    def get(cls, spec: str | Self | type[Self]) -> Self:
        """The object that a name, a class without required arguments, or an object stands for.

        Raises:
            ValueError: nothing goes by this name, or the object's class has none of its own.
        """
        if isinstance(spec, cls):
            found = spec
        else:
            found = (spec if isinstance(spec, type) and issubclass(spec, cls) else cls.find(spec))()
        owner = type(found)
        if not isinstance(owner.__dict__.get("name"), str):
            inherited = getattr(owner, "name", None)
            received = f"{inherited!r}, the name of its base" if isinstance(inherited, str) else "none"
            raise ValueError(
                f"The {cls._kind} {owner.__name__} needs a name of its own, which messages and model files know it by; "
                f"received {received}. Write it into the class: name = {owner.__name__.lower()!r}."
            )
        return found

    @classmethod
    def built_in(cls) -> dict[str, type[Self]]:
        """nnbp's own classes of this kind by name, without those of users."""
        return {name: known for name, known in cls.registry.items() if is_built_in(known)}

    def config(self) -> dict[str, Any]:
        """The arguments that make an equal object."""
        return {name: value for name, value in vars(self).items() if name[0] != "_"}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).items()))


def is_built_in(cls: type) -> bool:
    """Whether nnbp itself brings this class: it stands in one of nnbp's modules under its own name."""
    return cls.__module__.startswith("nnbp.") and getattr(sys.modules[cls.__module__], cls.__name__, None) is cls


def spelling(name: str) -> str:
    """A name without case, hyphens, underscores and spaces; names of the same spelling are the same.

    >>> spelling("Leaky ReLU") == spelling("leaky_relu") == spelling("leaky-relu")
    True
    """
    return re.sub(r"[\s_-]", "", name.casefold())


def suggest(received: object, known: Iterable[str]) -> str:
    """A hint for a message, (did you mean 'age'?), if a known name is likely to be meant; else the empty string.

    A name is likely if it begins with the same letter and some letters are missing, doubled or swapped, or, in a long
    name, one is wrong. In a short name another letter usually makes the name of something else: relu, selu, celu.
    """
    from difflib import get_close_matches  # needed for a wrong name only

    if not isinstance(received, str):
        return ""
    typed, spelled = spelling(received), {spelling(name): name for name in reversed([*known])}
    for close in get_close_matches(typed, spelled, cutoff=0.75):
        one_letter = abs(len(close) - len(typed)) <= 1 and get_close_matches(typed, [close], cutoff=0.9)
        if close[0] == typed[0] and (set(typed) <= set(close) or one_letter):
            return f" (did you mean {spelled[close]!r}?)"
    return ""


def unknown_name(kind: str, names: Iterable[str], received: object, hints: Iterable[str] | None = None) -> ValueError:
    """The error for a name that nothing goes by; it lists the names, and the one that is likely to be meant.

    Args:
        kind: what it should have been the name of.
        names: the known ones.
        received: the unknown one, or something else.
        hints: names and aliases that the hint may suggest; None is the names.
    """
    names = sorted(names)
    return ValueError(
        f"Unknown {kind}: it is one of {', '.join(names)}; received {shown(received)}"
        f"{suggest(received, names if hints is None else hints)}. Pass one of these names, or an object of its class."
    )
