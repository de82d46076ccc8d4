"""The registry: names, classes and objects become objects, and an unknown name is answered with a hint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nnbp import Activation, Dense, Layer, Loss, Metric, Network, Optimizer, metrics, schedules
from nnbp.nn import activations, initializers, losses
from nnbp.nn.initializers import Initializer
from nnbp.optim import lbfgs, optimizers
from nnbp.optim.schedules import Schedule
from nnbp.registry import Named, is_built_in, unknown_name

BASES = [Activation, Initializer, Layer, Loss, Metric, Optimizer, Schedule]


class Thing(Named, kind="thing"):
    pass


class Known(Thing):
    name = "known"

    def __init__(self, size: int = 3) -> None:
        self.size = size


def test_name_class_and_object() -> None:
    made = Thing.get("known")
    assert isinstance(made, Known)
    assert made.size == 3
    assert isinstance(Thing.get(Known), Known)
    own = Known(5)
    assert Thing.get(own) is own


def test_each_name_makes_a_new_object() -> None:
    assert Thing.get("known") is not Thing.get("known")


def test_each_kind_has_a_registry_of_its_own() -> None:
    class Other(Named, kind="other"):
        pass

    assert Thing.registry == {"known": Known}
    assert Other.registry == {}


def test_objects_of_the_same_arguments_are_equal() -> None:
    assert Known(5) == Known(5) != Known(3)
    assert hash(Known(5)) == hash(Known(5))
    assert repr(Known(5)) == "Known(size=5)"
    assert Known(**Known(5).config()) == Known(5)


@pytest.mark.parametrize("received", ["Known", "knwon", "", 3, None, int, 1.5, ["known"]])
def test_unknown(received: object) -> None:
    with pytest.raises(ValueError, match="Unknown thing: it is one of known") as caught:
        Thing.get(received)  # type: ignore[arg-type]
    assert f"received {received!r}" in str(caught.value)


def test_find_gives_the_class_itself() -> None:
    assert Thing.find("known") is Known
    for received in ("knwon", None, Known, ["known"]):
        with pytest.raises(ValueError, match="Unknown thing"):
            Thing.find(received)


def test_hint_names_what_is_close_and_else_what_to_do() -> None:
    assert "did you mean 'known'?" in str(unknown_name("thing", Thing.registry, "knwon"))
    far = str(unknown_name("thing", Thing.registry, "qqqq"))
    assert "did you mean" not in far
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


# Names that are taken, and names of one's own.


def attribute(base: Any) -> str:
    return "kind" if base is Layer else "name"


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """Classes that a test defines leave the registries with it."""
    kept = [(base.registry, dict(base.registry)) for base in BASES]
    yield
    for registry, before in kept:
        registry.clear()
        registry.update(before)


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.__name__)
def test_names_of_nnbps_own_classes_are_taken(base: Any) -> None:
    before = dict(base.registry)
    for name, known in before.items():
        with pytest.raises(ValueError, match=rf"needs a name of its own: '{name}' is that of nnbp's {known.__name__}"):
            type("Mine", (base,), {attribute(base): name})
    assert base.registry == before


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.__name__)
def test_class_of_a_users_can_be_defined_again(base: Any) -> None:
    """As when a cell of a notebook is run a second time."""
    first = type("Mine", (base,), {attribute(base): "mine"})
    assert base.registry["mine"] is first
    second = type("Mine", (base,), {attribute(base): "mine"})
    assert base.registry["mine"] is second


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.__name__)
def test_class_without_a_name_of_its_own_is_not_registered(base: Any) -> None:
    before = dict(base.registry)
    type("Between", (base,), {})
    type("Between", (next(iter(before.values())),), {})
    type("Between", (base,), {attribute(base): property(lambda self: "made")})
    assert base.registry == before


def test_module_of_nnbp_may_be_loaded_again() -> None:
    type("Tanh", (Activation,), {"name": "tanh", "__module__": "nnbp.nn.activations"})
    assert Activation.registry["tanh"] is not activations.Tanh


def test_what_is_built_in() -> None:
    assert is_built_in(activations.Tanh)
    assert is_built_in(lbfgs.LBFGS)
    assert not is_built_in(Known)
    assert not is_built_in(type("Tanh", (), {"__module__": "nnbp.nn.activations"})), "a doctest's class, say"


@pytest.mark.parametrize("module", [activations, losses, initializers, optimizers], ids=lambda m: m.__name__)
def test_object_whose_class_has_no_name_is_refused_where_it_is_looked_up(module: Any) -> None:
    base = next(base for base in BASES if base.__module__ == module.__name__)
    named = next(iter(base.registry.values()))
    nameless = type("Nameless", (base,), {"draw": None})
    heir = type("Heir", (named,), {})
    for spec in (nameless, nameless()):
        with pytest.raises(ValueError, match=r"Nameless needs a name of its own.*received none.*name = 'nameless'"):
            module.get(spec)
    with pytest.raises(ValueError, match=rf"Heir needs a name of its own.*received '{named.name}', the name of its"):
        module.get(heir())


def test_network_does_not_take_what_it_could_not_save() -> None:
    class Nameless(Activation):
        def f(self, z: Any) -> Any:
            return z

        def df(self, z: Any, a: Any) -> Any:
            return 1.0

    for layers, options in (([2, 3, 1], {"activation": Nameless()}), ([2, Dense(3), 1], {"activation": [Nameless]})):
        with pytest.raises(ValueError, match="Nameless needs a name"):
            Network(layers, device="cpu", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["name", "greater_is_better", "needs"])
def test_metric_has_what_its_use_needs(missing: str) -> None:
    attributes = {"name": "mine", "greater_is_better": True, "needs": "values", "score": lambda *_: 0.0}
    del attributes[missing]
    metric = type("Mine", (Metric,), attributes)()
    with pytest.raises(ValueError, match=rf"metric Mine .*received none of {missing}"):
        metrics.get(metric)


def test_schedule_needs_no_name() -> None:
    own = type("Own", (Schedule,), {"__call__": lambda self, epoch: 1.0})()
    assert schedules.get(own) is own
