"""All peers compute the same, as a CPU and a GPU have them, at every precision."""

from dataclasses import replace

import pytest

from bench import peer as peers
from bench.cases import PRECISIONS, Case, Problem
from bench.measure.process import Worker

TINY = Case((4, 6, 3), 8, "tanh", "sgd", 4)
CASE = Case((5, 8, 7, 3), 16, "relu", "adam", 3)
STANDING = replace(CASE, shuffle=False)


def losses(name, case):
    """The loss of the NumPy loop and of a peer after three epochs, each in a process of its own."""
    with Worker("numpy_loop", threads=1) as loop, Worker(name, threads=4 if case.on_gpu else 1) as worker:
        missing = worker.ask("describe", device=case.device)["missing"]
        if missing is not None:
            pytest.skip(missing)
        found = []
        for each, given in ((loop, replace(case, device="cpu", precision="fp32")), (worker, case)):
            found.append(each.ask("prepare", case=given.dump(), epochs=3))
        assert worker.ask("step", seconds=0.01) > 0
        assert worker.ask("infer", batch=2, seconds=0.001) > 0
    return found


@pytest.mark.parametrize("name", peers.names("cpu"))
@pytest.mark.parametrize("case", [TINY, CASE], ids=lambda case: case.title)
def test_every_installed_peer_agrees_with_the_loop(name, case):
    if name == "torch_compile" and case is not TINY:
        pytest.skip("compiling takes long, and one case shows it")
    loop, own = losses(name, case)
    if peers.load(name).own_order:
        assert 0 < own < 5
    else:
        assert own == pytest.approx(loop, rel=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS[1:])
@pytest.mark.parametrize("name", ["torch_eager", "jax_scan"])
def test_peers_agree_at_lower_precision(name, precision):
    loop, own = losses(name, replace(STANDING, precision=precision))
    assert own == pytest.approx(loop, rel=1e-2 if precision == "bf16" else 1e-5)
    assert precision != "bf16" or abs(own - loop) > 1e-7, "products were not rounded to bf16"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", peers.names("cuda:0"))
def test_peers_agree_on_a_gpu(name, precision):
    loop, own = losses(name, replace(STANDING, precision=precision, device="cuda:0"))
    assert own == pytest.approx(loop, rel=1e-5 if precision == "fp32" else 1e-2)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_captured_step_does_what_the_eager_one_does(optimizer):
    pytest.importorskip("torch")
    problem = Problem.random(replace(STANDING, optimizer=optimizer))
    eager, graph = (peers.load(name)(problem, 1) for name in ("torch_eager", "torch_graph"))
    for _ in range(2):
        for each in (eager, graph):
            each.reset()
            each.fit(3)
        assert graph.loss() == pytest.approx(eager.loss(), rel=1e-6)


def test_a_scan_trains_on_the_samples_of_a_smaller_last_batch_too():
    pytest.importorskip("jax")
    problem = Problem.random(CASE)
    problem = Problem.of(CASE, problem.X[:-5], problem.y[:-5])
    single, scanned = (peers.load(name)(problem, 1) for name in ("jax_jit", "jax_scan"))
    for each in (single, scanned):
        each.fit(2)
    assert scanned.loss() == pytest.approx(single.loss(), rel=1e-6)


def test_a_captured_step_needs_whole_batches_in_one_order():
    pytest.importorskip("torch")
    with pytest.raises(ValueError, match="not shuffled"):
        peers.load("torch_graph")(Problem.random(CASE), 1)


def test_a_peer_is_a_name_or_a_file_with_one_class(tmp_path):
    assert peers.names("cpu")[0] == "nnbp"
    assert peers.names("cuda:0") == ["nnbp", "jax_scan", "torch_compile", "torch_eager", "torch_graph"]
    with pytest.raises(ValueError, match="numpy_loop"):
        peers.check_name("nobody")
    empty = tmp_path / "empty.py"
    empty.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="has 0"):
        peers.load(str(empty))
