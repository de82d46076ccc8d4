"""Initializers: their distributions, their bits, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnbp.errors import DTypeError, ShapeError
from nnbp.nn import initializers
from nnbp.nn.initializers import Initializer

PAPERS = ["glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_normal", "zeros"]
NAMES = [*PAPERS, "rectifier_uniform"]
SHAPE = (300, 200)  # (n_out, n_in)
VARIANCE = {
    "glorot_uniform": 2 / 500,
    "glorot_normal": 2 / 500,
    "he_uniform": 2 / 200,
    "he_normal": 2 / 200,
    "lecun_normal": 1 / 200,
    "zeros": 0.0,
    "rectifier_uniform": 4 / 500,
}


def test_the_names_of_the_contract_are_known() -> None:
    assert set(NAMES) <= set(Initializer.registry)
    assert all(cls.name == name for name, cls in Initializer.registry.items())


@pytest.mark.parametrize("name", Initializer.registry)
def test_sample_is_float64_of_the_shape_and_repeats_with_the_seed(name: str) -> None:
    initializer = initializers.get(name)
    first = initializer.sample(np.random.default_rng(7), (5, 3))
    again = initializers.get(name).sample(np.random.default_rng(7), (5, 3))
    assert first.shape == (5, 3)
    assert first.dtype == np.float64
    assert first.tobytes() == again.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_mean_and_variance_are_those_of_the_formula(name: str) -> None:
    weights = initializers.get(name).sample(np.random.default_rng(0), SHAPE)
    assert abs(weights.mean()) <= 5 * math.sqrt(VARIANCE[name] / weights.size)
    assert weights.var() == pytest.approx(VARIANCE[name], rel=0.03)


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("uniform")])
def test_uniform_ones_fill_their_interval_and_stay_in_it(name: str) -> None:
    weights = initializers.get(name).sample(np.random.default_rng(0), SHAPE)
    bound = math.sqrt(3 * VARIANCE[name])
    assert 0.999 * bound < abs(weights).max() <= bound


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("normal")])
def test_normal_ones_are_not_truncated(name: str) -> None:
    weights = initializers.get(name).sample(np.random.default_rng(0), SHAPE) / math.sqrt(VARIANCE[name])
    # P(|x| > 2) = 0.0455 and P(|x| > 3) = 0.0027 for a normal distribution; both are 0 for a truncated one.
    assert np.mean(abs(weights) > 2) == pytest.approx(0.0455, abs=0.004)
    assert np.mean(abs(weights) > 3) == pytest.approx(0.0027, abs=0.001)


def test_the_formulas_use_fan_in_and_fan_out_the_right_way_round() -> None:
    rng = np.random.default_rng
    assert initializers.HeNormal().sample(rng(1), (2, 8)) == pytest.approx(
        0.5 * rng(1).standard_normal((2, 8)), rel=1e-15
    )
    assert initializers.LecunNormal().sample(rng(1), (9, 4)) == pytest.approx(
        0.5 * rng(1).standard_normal((9, 4)), rel=1e-15
    )
    assert initializers.GlorotUniform().sample(rng(1), (2, 4)) == pytest.approx(
        2 * rng(1).random((2, 4)) - 1, rel=1e-14, abs=1e-15
    )


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (250, 250)])
def test_rectifiers_have_glorot_s_weights_times_the_root_of_2_and_biases(shape: tuple[int, int]) -> None:
    initializer = initializers.get("rectifier_uniform")
    bound = math.sqrt(12 / sum(shape))
    glorot = initializers.get("glorot_uniform").sample(np.random.default_rng(0), shape)
    weights = initializer.sample(np.random.default_rng(0), shape)
    np.testing.assert_allclose(weights, glorot * math.sqrt(2), 1e-12, 1e-15)
    biases = np.concatenate([initializer.sample_biases(np.random.default_rng(seed), shape) for seed in range(20)])
    assert biases.shape == (20 * shape[0],)
    assert 1.99 * bound < abs(biases).max() <= 2 * bound
    assert biases.var() == pytest.approx((2 * bound) ** 2 / 3, rel=0.05)


@pytest.mark.parametrize("name", Initializer.registry)
def test_drawn_biases_leave_the_generator_as_it_was(name: str) -> None:
    initializer, rng = initializers.get(name), np.random.default_rng(7)
    biases = initializer.sample_biases(rng, (5, 3))
    assert (biases.shape, biases.dtype) == ((5,), np.float64)
    assert biases.any() == (name in ("rectifier_uniform", "nguyen_widrow"))
    again = np.random.default_rng(7)
    assert initializer.sample_biases(again, (5, 3)).tobytes() == biases.tobytes()
    # The next layer's are others.
    assert name in (*PAPERS, "nguyen_widrow") or not np.isin(initializer.sample_biases(again, (5, 3)), biases).any()
    assert rng.random() == np.random.default_rng(7).random()


def test_torch_draws_from_the_same_distributions() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    for name, fill in [
        ("glorot_uniform", torch.nn.init.xavier_uniform_),
        ("glorot_normal", torch.nn.init.xavier_normal_),
        ("he_uniform", lambda w: torch.nn.init.kaiming_uniform_(w, nonlinearity="relu")),
        ("rectifier_uniform", lambda w: torch.nn.init.xavier_uniform_(w, torch.nn.init.calculate_gain("relu"))),
        ("he_normal", lambda w: torch.nn.init.kaiming_normal_(w, nonlinearity="relu")),
    ]:
        theirs = fill(torch.empty(SHAPE, dtype=torch.float64)).numpy()
        ours = initializers.get(name).sample(np.random.default_rng(0), SHAPE)
        quantiles = np.linspace(0.01, 0.99, 25)
        scale = math.sqrt(VARIANCE[name])
        assert np.quantile(ours, quantiles) == pytest.approx(np.quantile(theirs, quantiles), abs=0.04 * scale)


def test_zeros_draws_nothing() -> None:
    rng = np.random.default_rng(3)
    assert not initializers.Zeros().sample(rng, (4, 4)).any()
    assert rng.random() == np.random.default_rng(3).random()


def test_get_passes_an_object_through_and_builds_names() -> None:
    he = initializers.HeNormal()
    assert initializers.get(he) is he
    assert repr(initializers.get("he_normal")) == "HeNormal()"


def test_an_unknown_name_lists_the_names_and_the_closest() -> None:
    with pytest.raises(ValueError, match=r"glorot_normal, glorot_uniform.*'glorot_unifrm'.*'glorot_uniform'\?"):
        initializers.get("glorot_unifrm")
    with pytest.raises(ValueError, match="Pass one of these names"):
        initializers.get("???")


@pytest.mark.parametrize("spec", [None, 3])
def test_what_is_no_initializer_is_refused(spec: object) -> None:
    with pytest.raises(ValueError, match="Pass one of these names, or an object of its class"):
        initializers.get(spec)  # type: ignore[arg-type]


def test_an_own_initializer_is_checked_and_known_by_its_name() -> None:
    class Own(Initializer):
        name = "own_for_this_test"
        result: object = None

        def draw(self, rng: np.random.Generator, n_out: int, n_in: int) -> initializers.Floats:
            return self.result  # type: ignore[return-value]

    try:
        own = initializers.get("own_for_this_test")
        assert isinstance(own, Own)
        rng = np.random.default_rng(0)
        own.result = np.ones((2, 3))
        assert own.sample(rng, (2, 3)) is own.result
        with pytest.raises(ShapeError, match=r"\(3, 2\).*received.*\(2, 3\)"):
            own.sample(rng, (3, 2))
        own.result = np.ones((2, 3), np.float32)
        with pytest.raises(DTypeError, match="float32"):
            own.sample(rng, (2, 3))
        own.result = [[1.0]]
        with pytest.raises(DTypeError, match="list"):
            own.sample(rng, (1, 1))
        assert not own.sample_biases(rng, (3, 2)).any()
        Own.draw_biases = lambda self, rng, n_out, n_in: np.ones(n_in)  # type: ignore[method-assign]
        with pytest.raises(ShapeError, match=r"draw_biases of .* \(n_out,\), \(3,\) here; received shape \(2,\)"):
            own.sample_biases(rng, (3, 2))
    finally:
        del Initializer.registry["own_for_this_test"]
