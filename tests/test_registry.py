"""The registry: names, classes and objects become objects, and an unknown name is answered with a hint."""

from __future__ import annotations

from typing import Any

import pytest

from nnbp import Activation, Dense, Layer, Loss, Metric, Network, Optimizer, metrics, schedules
from nnbp.nn import activations, initializers, losses
from nnbp.nn.initializers import Initializer
from nnbp.optim import lbfgs, optimizers
from nnbp.optim.schedules import Schedule
from nnbp.registry import Named, is_built_in, spelling, unknown_name

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


@pytest.mark.parametrize("received", ["knwon", "", 3, None, int, 1.5, ["known"]])
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


TYPED = {
    Activation: {
        "identity": "Identity linear", "sigmoid": "Sigmoid logistic", "tanh": "Tanh TANH", "relu": "ReLU Relu",
        "leaky_relu": "LeakyReLU leakyrelu leaky-relu", "elu": "ELU", "silu": "SiLU swish", "gelu": "GELU",
        "exponential": "Exponential exp",
    },
    Loss: {
        "squared_error": "mse MSE MSELoss mean_squared_error MeanSquaredError l2 squared-error",
        "absolute_error": "mae L1Loss mean_absolute_error l1", "huber": "HuberLoss smooth_l1 SmoothL1Loss",
        "quantile": "pinball", "poisson": "PoissonNLLLoss",
        "binary_cross_entropy": "bce BCELoss binary_crossentropy BCEWithLogitsLoss logistic",
        "cross_entropy": (
            "crossentropy CrossEntropyLoss categorical_crossentropy sparse_categorical_crossentropy log_loss nll"
        ),
    },
    Optimizer: {
        "sgd": "SGD gradient_descent", "rmsprop": "RMSprop RMSProp rms_prop", "adam": "Adam", "adamw": "AdamW",
        "rprop": "Rprop", "lbfgs": "L-BFGS LBFGS l_bfgs", "levenberg_marquardt": "LevenbergMarquardt LM trainlm",
        "bayesian_regularization": "BayesianRegularization bayesian-regularization trainbr",
    },
    Schedule: {
        "step": "StepLR", "exponential": "ExponentialLR", "cosine": "CosineAnnealingLR cosine_annealing",
        "warm_up": "warmup warm-up", "reduce_on_plateau": "ReduceLROnPlateau reduce-on-plateau",
        "inverse_scaling": "InverseScaling",
    },
    Metric: {
        "accuracy": "acc Accuracy accuracy_score", "balanced_accuracy": "balanced_accuracy_score", "r2": "R2 r2_score",
        "roc_auc": "AUC ROC_AUC roc_auc_score", "mse": "MSE mean_squared_error", "mae": "mean_absolute_error",
        "rmse": "root_mean_squared_error RootMeanSquaredError",
    },
    Initializer: {
        "glorot_uniform": "GlorotUniform xavier_uniform xavier_uniform_ glorot", "glorot_normal": "xavier_normal",
        "he_uniform": "kaiming_uniform HeUniform", "he_normal": "kaiming_normal_", "zeros": "zeros_",
    },
}  # fmt: skip
"""What users of Keras, PyTorch and scikit-learn type, by the name of the class that has the same formula."""


@pytest.mark.parametrize(
    ("base", "name", "typed"),
    [(base, name, typed) for base, names in TYPED.items() for name in names for typed in names[name].split()],
    ids=str,
)
def test_names_in_other_spellings_and_from_other_libraries(base: Any, name: str, typed: str) -> None:
    assert base.find(typed) is base.registry[name]


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.__name__)
def test_a_spelling_belongs_to_one_class(base: Any) -> None:
    spellings = [spelling(text) for name, cls in base.registry.items() for text in (name, *cls.aliases)]
    assert len(spellings) == len(set(spellings))


def test_an_alias_trains_and_is_saved_under_the_name_of_its_class(tmp_path: Any) -> None:
    options: Any = {"device": "cpu", "seed": 0}
    typed = Network([2, Dense(3, "Swish", initializer="kaiming-normal"), 1], loss="BCE", **options)
    named = Network([2, Dense(3, "silu", initializer="he_normal"), 1], loss="binary_cross_entropy", **options)
    assert "silu" in typed.summary()
    assert "loss binary_cross_entropy" in typed.summary()
    for net, how in ((typed, ("RMSProp", "warmup")), (named, ("rmsprop", "warm_up"))):
        optimizer, schedule = how
        net.fit([[0, 1], [1, 0]], [0, 1], epochs=3, optimizer=optimizer, schedule=schedule, progress=False)
        net.save(tmp_path / optimizer)
    assert (tmp_path / "RMSProp").read_bytes() == (tmp_path / "rmsprop").read_bytes()


def test_a_name_of_ones_own_comes_before_an_alias_and_before_another_spelling() -> None:
    for name in ("swish", "Tanh"):
        own = type("Own", (Activation,), {"name": name})
        assert Activation.find(name) is own
    assert Activation.find("tanh") is Activation.find("TANH") is activations.Tanh
    assert Activation.find("Swish") is Activation.find("swish")


def test_a_class_of_ones_own_may_have_aliases() -> None:
    own = type("Own", (Activation,), {"name": "softsign", "aliases": ("elliot_sigmoid",)})
    assert Activation.find("Elliot Sigmoid") is own


def test_aliases_are_not_inherited() -> None:
    type("Heir", (activations.SiLU,), {"name": "heir"})
    assert Activation.find("swish") is activations.SiLU


@pytest.mark.parametrize(
    ("base", "typed", "meant"),
    [
        (Activation, "tahn", "tanh"), (Activation, "rellu", "relu"), (Activation, "lienar", "linear"),
        (Activation, "Sigmod", "sigmoid"), (Optimizer, "adm", "adam"), (Optimizer, "lbgfs", "lbfgs"),
        (Loss, "cross_entropi", "cross_entropy"), (Loss, "categorical_crosentropy", "categorical_cross_entropy"),
        (Schedule, "invscaling", "inverse_scaling"), (Metric, "acuracy", "accuracy"),
    ],
)  # fmt: skip
def test_hint_for_a_slip(base: Any, typed: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"received '{typed}' \(did you mean '{meant}'\?\)\."):
        base.find(typed)


@pytest.mark.parametrize(
    ("base", "typed"),
    [
        (Activation, "selu relu6 prelu celu hardtanh hard_sigmoid softsign log_softmax mish"),
        (Loss, "hinge squared_hinge mape msle mean_squared_logarithmic_error kl_divergence log_cosh focal"),
        (Optimizer, "nadam adamax adagrad radam asgd sgdm lion momentum newton-cg"),
        (Schedule, "cyclic one_cycle adaptive linear multi_step cosine_annealing_warm_restarts"),
        (Metric, "f1 precision recall neg_mean_squared_error median_absolute_error"),
        (Initializer, "normal uniform lecun_uniform orthogonal he ones"),
    ],
)
def test_no_hint_for_the_name_of_something_else(base: Any, typed: str) -> None:
    for name in typed.split():
        with pytest.raises(ValueError, match=rf"Unknown {base._kind}: .*; received '{name}'\. Pass"):
            base.find(name)


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
