"""Schedules: PyTorch's where it has the same one, the formulas, and what training may rely on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnbp import schedules
from nnbp.optim.schedules import Constant, Cosine, Exponential, InverseScaling, ReduceOnPlateau, Schedule, Step, WarmUp

NAMES = ["constant", "step", "exponential", "cosine", "warm_up", "inverse_scaling", "reduce_on_plateau"]
BASE = 0.3


def torch_rates(make: Callable[[Any, Any], Any], count: int, losses: list[float] | None = None) -> list[float]:
    """The rates of a PyTorch schedule before each of `count` calls of its `step`."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=BASE)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    for i in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step() if losses is None else scheduler.step(losses[i])
    return rates


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Constant(), lambda s, o: s.ConstantLR(o, factor=1.0)),
        (Step(3), lambda s, o: s.StepLR(o, 3)),
        (Step(4, 0.5), lambda s, o: s.StepLR(o, 4, gamma=0.5)),
        (Exponential(0.9), lambda s, o: s.ExponentialLR(o, 0.9)),
        (Cosine(12), lambda s, o: s.CosineAnnealingLR(o, 12)),
        (Cosine(7, 0.1), lambda s, o: s.CosineAnnealingLR(o, 7, eta_min=0.1 * BASE)),
    ],
    ids=lambda value: repr(value) if isinstance(value, Schedule) else "",
)
def test_equal_to_torch_stepped_once_an_epoch(ours: Schedule, theirs: Callable[[Any, Any], Any]) -> None:
    expected = torch_rates(theirs, 30)
    assert [ours.rate(BASE, epoch) for epoch in range(30)] == pytest.approx(expected, rel=1e-12, abs=1e-15)
    # Within an epoch the rate holds still.
    assert [ours.rate(BASE, epoch + 0.75) for epoch in range(30)] == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_warm_up_equals_torch_stepped_at_every_update() -> None:
    per_epoch = 4
    expected = torch_rates(lambda s, o: s.LinearLR(o, start_factor=0.25, total_iters=3 * per_epoch), 20)
    ours = WarmUp(3, start=0.25)
    assert [ours.rate(BASE, i / per_epoch) for i in range(20)] == pytest.approx(expected, rel=1e-12)
    assert [WarmUp(3)(i / per_epoch) * BASE for i in range(20)] == pytest.approx(
        torch_rates(lambda s, o: s.LinearLR(o, total_iters=3 * per_epoch), 20), rel=1e-12
    )


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
def test_warm_up_and_then_equals_torch_sequential() -> None:
    expected = torch_rates(
        lambda s, o: s.SequentialLR(
            o, [s.LinearLR(o, start_factor=0.5, total_iters=3), s.ExponentialLR(o, 0.8)], milestones=[3]
        ),
        15,
    )
    ours = WarmUp(3, Exponential(0.8), start=0.5)
    assert [ours.rate(BASE, epoch) for epoch in range(15)] == pytest.approx(expected, rel=1e-12)


LOSSES = st.lists(st.sampled_from([1.0, 0.9999, 0.99, 0.5, 0.2, 0.0, -1.0, 3.0, math.nan, math.inf]), max_size=40)


@given(
    losses=LOSSES,
    factor=st.sampled_from([0.1, 0.5, 0.999]),
    patience=st.integers(0, 3),
    threshold=st.sampled_from([0.0, 1e-4, 0.3]),
    mode=st.sampled_from(["rel", "abs"]),
    cooldown=st.integers(0, 3),
    min_rate=st.sampled_from([0.0, 1e-3, 0.2, 0.5]),
)
@settings(max_examples=150, deadline=None)
def test_plateau_equals_torch(
    losses: list[float],
    factor: float,
    patience: int,
    threshold: float,
    mode: Any,
    cooldown: int,
    min_rate: float,
) -> None:
    options: dict[str, Any] = {
        "factor": factor,
        "patience": patience,
        "threshold": threshold,
        "threshold_mode": mode,
        "cooldown": cooldown,
    }
    expected = torch_rates(lambda s, o: s.ReduceLROnPlateau(o, min_lr=min_rate, **options), len(losses), losses)
    ours = ReduceOnPlateau(min_rate=min_rate, **options)
    rates = []
    for epoch, loss in enumerate(losses):
        rates.append(ours.rate(BASE, epoch))
        ours.observe(loss)
    assert rates == expected


def test_plateau_stops_at_steps_of_1e_8_like_torch() -> None:
    expected = torch_rates(lambda s, o: s.ReduceLROnPlateau(o, patience=0), 20, [1.0] * 20)
    ours = ReduceOnPlateau(patience=0)
    rates = []
    for epoch in range(20):
        rates.append(ours.rate(BASE, epoch))
        ours.observe(1.0)
    assert rates == expected
    assert rates[-1] == pytest.approx(3e-9)


def test_the_formulas_by_hand() -> None:
    assert [Step(2)(t) for t in (0, 1.9, 2, 4.5)] == pytest.approx([1, 1, 0.1, 0.01])
    assert [Cosine(4, 0.2)(t) for t in (0, 2, 4, 8)] == pytest.approx([1, 0.6, 0.2, 1])
    assert [InverseScaling()(t) for t in (0, 0.9, 3, 8.2)] == pytest.approx([1, 1, 0.5, 1 / 3])
    assert InverseScaling(1.0)(3) == 0.25
    assert [WarmUp(0.5, Step(1), start=0.0)(t) for t in (0, 0.25, 0.5, 1.4, 1.5)] == pytest.approx([0, 0.5, 1, 1, 0.1])


def test_the_names_of_the_contract_are_known() -> None:
    assert set(NAMES) <= set(Schedule.registry)
    assert all(cls.name == name for name, cls in Schedule.registry.items())


@pytest.mark.parametrize("name", Schedule.registry)
@pytest.mark.parametrize("epochs", [1, 2, 100])
def test_every_bare_name_gives_positive_finite_factors_over_the_whole_training(name: str, epochs: int) -> None:
    schedule = schedules.get(name, epochs=epochs)
    factors = [schedule(i / 8) for i in range(8 * epochs)]
    assert all(type(f) is float and 0 < f <= 1 for f in factors)
    assert schedule.rate(BASE, 0.5) == pytest.approx(BASE * factors[4])


def test_bare_names_take_their_settings_from_the_length() -> None:
    assert schedules.get("cosine", epochs=40) == Cosine(40)
    assert schedules.get("cosine", epochs=0) == Cosine(1)
    assert schedules.get("step", epochs=90) == Step(30)
    assert schedules.get("exponential", epochs=50)(50) == pytest.approx(0.01)
    assert schedules.get("warm-up", epochs=20) == WarmUp(2)
    assert schedules.get("reduce-on-plateau") == ReduceOnPlateau()
    assert schedules.get("constant", epochs=3) == Constant()


def test_get_takes_none_objects_and_functions() -> None:
    step = Step(3)
    assert schedules.get(None) == Constant()
    assert schedules.get(step) is step
    halves = schedules.get(lambda epoch: 0.5**epoch)
    assert halves.rate(BASE, 2.0) == pytest.approx(BASE / 4)
    assert halves.fresh()(1.0) == 0.5


@pytest.mark.parametrize("factor", [-0.5, math.nan, math.inf])
def test_a_function_that_returns_no_factor_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=r"finite factor of at least 0.*at epoch 1\.5"):
        schedules.get(lambda epoch: factor)(1.5)


def test_an_unknown_name_lists_the_names_and_the_closest() -> None:
    with pytest.raises(ValueError, match=r"constant, cosine.*received 'cosin'.*did you mean 'cosine'\?"):
        schedules.get("cosin")
    with pytest.raises(ValueError, match="Pass one of these names"):
        schedules.get("???")


@pytest.mark.parametrize("spec", [3, Cosine, 0.1])
def test_what_is_no_schedule_is_a_type_error(spec: Any) -> None:
    with pytest.raises(TypeError, match="is None, a name, a Schedule object or a function"):
        schedules.get(spec)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Step(0), ValueError, "every of Step is a whole number, at least 1; received 0"),
        (lambda: Step(2.5), ValueError, r"every of Step .* received 2\.5"),  # type: ignore[arg-type]
        (lambda: Step(True), ValueError, "every"),
        (lambda: Step(3, factor=0), ValueError, "factor of Step is a number, finite and above 0"),
        (lambda: Exponential(math.nan), ValueError, "gamma"),
        (lambda: Exponential(math.inf), ValueError, "gamma"),
        (lambda: Exponential("0.9"), ValueError, "gamma"),  # type: ignore[arg-type]
        (lambda: Cosine(-1), ValueError, "epochs"),
        (lambda: Cosine(5, minimum=1.5), ValueError, r"minimum .* at least 0 and at most 1; received 1\.5"),
        (lambda: InverseScaling(0.0), ValueError, "power"),
        (lambda: WarmUp(0), ValueError, "epochs"),
        (lambda: WarmUp(5, start=-0.1), ValueError, "start"),
        (lambda: WarmUp(5, then="cosine"), TypeError, "then of WarmUp is .* 'cosine'"),  # type: ignore[arg-type]
        (lambda: ReduceOnPlateau(factor=1.0), ValueError, "factor"),
        (lambda: ReduceOnPlateau(patience=-1), ValueError, "patience"),
        (lambda: ReduceOnPlateau(patience=None), ValueError, "patience"),  # type: ignore[arg-type]
        (lambda: ReduceOnPlateau(threshold=-1e-9), ValueError, "threshold"),
        (
            lambda: ReduceOnPlateau(threshold_mode="relative"),  # type: ignore[arg-type]
            ValueError,
            "'rel' or 'abs'; received 'relative'",
        ),
        (lambda: ReduceOnPlateau(cooldown=-2), ValueError, "cooldown"),
        (lambda: ReduceOnPlateau(min_rate=-1), ValueError, "min_rate"),
    ],
)
def test_wrong_settings_are_refused(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_settings_become_python_numbers() -> None:
    step = Step(np.int64(3), np.float32(0.5))  # type: ignore[arg-type]
    assert (type(step.every), type(step.factor)) == (int, float)
    assert step == Step(3, 0.5)


def test_a_plateau_after_a_warm_up_does_not_see_the_warm_up() -> None:
    schedule = WarmUp(3, ReduceOnPlateau(patience=0))
    for _ in range(4):  # three epochs of warm-up, then the first loss, which is the best so far
        schedule.observe(1.0)
    assert schedule(4.0) == 1.0
    schedule.observe(1.0)
    assert schedule(5.0) == pytest.approx(0.1)


def test_warm_up_hands_min_rate_through() -> None:
    schedule = WarmUp(1, ReduceOnPlateau(patience=0, min_rate=0.2))
    for _ in range(4):
        schedule.observe(1.0)
    assert schedule.rate(BASE, 3.0) == 0.2


@pytest.mark.parametrize("make", [lambda: ReduceOnPlateau(patience=0), lambda: WarmUp(1, ReduceOnPlateau(patience=0))])
def test_fresh_is_independent_and_has_observed_nothing(make: Callable[[], Schedule]) -> None:
    mine = make()
    for _ in range(5):
        mine.observe(1.0)
    rate, fresh = mine.rate(BASE, 5.0), mine.fresh()
    assert fresh.rate(BASE, 5.0) == make().rate(BASE, 5.0) != rate
    for _ in range(9):
        fresh.observe(1.0)
    assert mine.rate(BASE, 5.0) == rate != fresh.rate(BASE, 5.0)


@pytest.mark.parametrize("name", Schedule.registry)
def test_fresh_keeps_the_settings(name: str) -> None:
    schedule = schedules.get(name, epochs=12)
    fresh = schedule.fresh()
    assert type(fresh) is type(schedule)
    assert repr(fresh) == repr(schedule)
    assert [fresh(t) for t in range(12)] == [schedule(t) for t in range(12)]


def test_an_own_schedule_is_one_class() -> None:
    class Own(Schedule):
        name = "own_for_this_test"

        def __call__(self, epoch: float) -> float:
            return 0.5

    try:
        own = schedules.get("own_for_this_test", epochs=3)
        assert isinstance(own, Own)
        own.observe(1.0)
        assert own.fresh().rate(BASE, 1.0) == BASE / 2
    finally:
        del Schedule.registry["own_for_this_test"]
