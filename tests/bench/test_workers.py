"""What workers measure, on known numbers: cases, the products alone, memory, the parts and kernels of a step."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from bench import cases, peer
from bench.cases import Case, Problem
from bench.peers.nnbp import KINDS
from bench.workers import kernels, limits, memory
from bench.workers.timing import seconds_per_call
from nnbp import Network

CASE = Case((3, 5, 4, 2), 8, "tanh", "sgd", 4)


def test_a_gpu_has_the_cases_of_the_cpu_and_two_larger_ones_the_most_important_first():
    found, on_cpu = cases.cases("cuda:1"), cases.cases("cpu")
    titles = [case.title for case in found]
    assert len(on_cpu) == 14
    assert len(set(titles)) == len(found) == 34
    assert {case.title for case in on_cpu} <= set(titles)
    assert set(titles[: len(cases.FIRST)]) == set(cases.FIRST)
    large = {case.network for case in found if case.precision == "bf16"}
    assert large == {case.network for case in found if case.precision == "tf32"}
    assert "4096-4096-4096-10@8192" in large
    assert "4-16-3@32" not in large
    assert {case.device for case in found} == {"cuda:1"}
    assert all(case.samples % case.distinct == 0 and case.distinct % case.batch == 0 for case in found)
    assert all(Case.load(json.loads(json.dumps(case.dump()))) == case for case in found)
    assert [case.network for case in cases.grid("cuda:0")] == [case.network for case in cases.grid("cpu")]


def test_cases_are_found_by_parts_of_their_titles():
    found = cases.chosen("4-16-3@32, 2048-10@1024 relu", cases.cases("cpu"))
    titles = ["1024-2048-2048-10@1024 relu adam", "4-16-3@32 relu adam", "4-16-3@32 tanh sgd"]
    assert sorted(case.title for case in found) == titles
    with pytest.raises(ValueError, match="4-16-3@32 tanh sgd"):
        cases.chosen("no such network", cases.cases("cpu"))


def test_rows_that_repeat_are_whole_batches_of_the_drawn_ones():
    problem = Problem.random(replace(CASE, distinct=16))
    assert problem.X.shape == (32, 3)
    assert np.array_equal(problem.X[:16], problem.X[16:])
    assert np.array_equal(problem.y[:16], problem.y[16:])
    assert not np.array_equal(problem.X[:8], problem.X[8:16])


def test_batches_come_in_the_order_that_a_network_draws():
    order = Network(list(CASE.sizes), seed=5, device="cpu").model.order_generator
    mine = Problem.random(CASE, seed=5).orders()
    assert all(np.array_equal(mine.permutation(32), order.permutation(32)) for _ in range(3))


def test_the_limit_has_the_products_of_a_step_and_cut_ones_are_the_whole_ones():
    shapes = [[out.shape for *_, out in phase] for phase in limits.numpy_products(CASE)]
    assert shapes == [[(5, 8), (4, 8), (2, 8), (4, 8), (5, 8)], [(2, 4), (4, 5), (5, 3)]]
    for phase in limits.numpy_products(Case((40, 50, 60), 70, "tanh", "sgd", 4)):
        limits.multiply(phase)
        whole = [out.copy() for *_, out in phase]
        for *_, out in phase:
            out[...] = np.nan
        for k in range(3):
            limits.multiply(limits.columns(phase, k, 3))
        for (*_, out), expected in zip(phase, whole, strict=True):
            np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_the_products_alone_run_in_pytorch_at_each_precision():
    pytest.importorskip("torch")
    for precision in cases.PRECISIONS:
        run, wait = limits.torch_products(replace(CASE, precision=precision))
        assert seconds_per_call(run, 0.001, wait) > 0


def test_a_device_is_asked_many_times_before_it_is_waited_for():
    pending = [0]

    def run():
        pending[0] += 1

    def wait():
        time.sleep(1e-4 * pending[0])
        pending[0] = 0

    assert seconds_per_call(run, 0.1, wait) == pytest.approx(1e-4, rel=0.5)
    assert pending == [0]


def test_the_bound_counts_parameters_slots_gradient_and_activations():
    case = Case((3, 5, 2), 8, "tanh", "adam", 4)
    parameters = 3 * 5 + 5 + 5 * 2 + 2
    assert case.parameters == parameters
    assert memory.bound(case, 100) == 100 + 4 * parameters * 4 + 8 * (3 + 14) * 4 + 60_000_000


@pytest.mark.parametrize(("activation", "optimizer"), cases.KINDS)
def test_the_parts_of_a_step_are_of_all_kinds(activation, optimizer):
    case = Case((6, 8, 7, 3), 16, activation, optimizer, 20)
    parts = peer.load("nnbp")(Problem.random(case), 1).parts(0.02)
    assert list(parts["kinds"]) == list(KINDS)
    assert all(seconds > 0 for seconds in parts["kinds"].values())
    assert parts["operations"] > len(KINDS)


def test_kernels_of_a_step_are_those_that_the_longer_fit_has_more():
    short = {"sgemm": (10, 100.0), "once": (1, 50.0)}
    long = {"sgemm": (40, 400.0), "once": (1, 50.0), "tanh": (20, 10.0)}
    found = kernels.per_step(short, long, 10)
    assert found == {"count": 5.0, "microseconds": 31.0, "names": [("sgemm", 3.0, 30.0), ("tanh", 2.0, 1.0)]}
