"""The registry: names, classes and objects become objects, and an unknown name is answered with a hint."""

from __future__ import annotations

import pytest

from nnbp import activations, initializers, losses, optimizers
from nnbp.registry import find, lookup, unknown_name


class Base:
    pass


class Known(Base):
    def __init__(self, size: int = 3) -> None:
        self.size = size


REGISTRY: dict[str, type[Base]] = {"known": Known}


def test_name_class_and_object() -> None:
    made = lookup("thing", Base, REGISTRY, "known")
    assert isinstance(made, Known)
    assert made.size == 3
    assert isinstance(lookup("thing", Base, REGISTRY, Known), Known)
    own = Known(5)
    assert lookup("thing", Base, REGISTRY, own) is own


def test_each_name_makes_a_new_object() -> None:
    assert lookup("thing", Base, REGISTRY, "known") is not lookup("thing", Base, REGISTRY, "known")


@pytest.mark.parametrize("received", ["Known", "knwon", "", 3, None, int, 1.5, ["known"]])
def test_unknown(received: object) -> None:
    with pytest.raises(ValueError, match="Unknown thing: it is one of known") as caught:
        lookup("thing", Base, REGISTRY, received)  # type: ignore[arg-type]
    assert f"received {received!r}" in str(caught.value)


def test_find_gives_the_class_itself() -> None:
    assert find("thing", REGISTRY, "known") is Known
    for received in ("knwon", None, Known, ["known"]):
        with pytest.raises(ValueError, match="Unknown thing"):
            find("thing", REGISTRY, received)  # type: ignore[arg-type]


def test_hint_names_what_is_close_and_else_what_to_do() -> None:
    assert "Did you mean 'known'?" in str(unknown_name("thing", REGISTRY, "knwon"))
    far = str(unknown_name("thing", REGISTRY, "qqqq"))
    assert "Did you mean" not in far
    assert "object" in far


@pytest.mark.parametrize("module", [activations, losses, initializers, optimizers], ids=lambda m: m.__name__)
def test_registries_know_their_own_classes_by_name(module: object) -> None:
    bases = {activations: "Activation", losses: "Loss", initializers: "Initializer", optimizers: "Optimizer"}
    base = getattr(module, bases[module])  # type: ignore[index]
    assert len(base.registry) >= 5
    for name, cls in base.registry.items():
        assert cls.name == name
        assert isinstance(module.get(name), cls)  # type: ignore[attr-defined]
        assert isinstance(module.get(cls), cls)  # type: ignore[attr-defined]
