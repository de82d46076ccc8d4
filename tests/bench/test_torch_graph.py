"""Peers as a GPU has them, in this process and on the CPU: the captured step, the scan, every precision."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from bench import peers
from bench.cases import Case, Problem
from bench.process import Worker

CASE = Case((5, 8, 7, 3), 16, "relu", "adam", 3, shuffle=False)


class FakeCuda:
    """The part of torch.cuda that a capture touches; a replayed graph runs the step again."""

    def __init__(self):
        self.said, self.inside = [], None

    def Stream(self, device):
        return SimpleNamespace(name="side", wait_stream=lambda other: self.said.append(f"side waits for {other.name}"))

    def current_stream(self, device):
        return SimpleNamespace(name="main", wait_stream=lambda other: self.said.append(f"main waits for {other.name}"))

    @contextmanager
    def stream(self, stream):
        self.inside = f"on {stream.name}"
        yield
        self.inside = None

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: None)

    @contextmanager
    def graph(self, graph, stream):
        self.inside = f"captured on {stream.name}"
        yield
        self.inside = None


def peer_of(name, case):
    pytest.importorskip("torch")
    return peers.load(name)(Problem.random(case), 1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_captured_step_does_what_the_eager_one_does(optimizer):
    case = replace(CASE, optimizer=optimizer)
    eager, graph = (peer_of(name, case) for name in ("torch_eager", "torch_graph"))
    for _ in range(2):
        for peer in (eager, graph):
            peer.reset()
            peer.fit(3)
        assert graph.loss() == pytest.approx(eager.loss(), rel=1e-6)
        assert graph.counter.item() == case.batches


def test_a_step_is_warmed_up_and_captured_on_a_stream_of_its_own(monkeypatch):
    peer, cuda = peer_of("torch_graph", CASE), FakeCuda()
    for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(peer.torch.cuda, name, getattr(cuda, name))
    whole_step = peer.whole_step

    def step():
        cuda.said.append(cuda.inside)
        assert 0 <= peer.counter.item() < CASE.batches, "every step finds a batch"
        whole_step()

    monkeypatch.setattr(peer, "whole_step", step)
    replay = peer.captured()
    assert cuda.said == ["side waits for main", *["on side"] * 3, "main waits for side", "captured on side"]
    assert replay() is None


def test_a_captured_step_needs_whole_batches_in_one_order():
    with pytest.raises(ValueError, match="not shuffled"):
        peer_of("torch_graph", replace(CASE, shuffle=True))


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("name", ["torch_eager", "torch_graph", "jax_jit"])
def test_peers_agree_at_every_precision(name, precision):
    with Worker("numpy_loop", threads=1) as loop, Worker(name, threads=1) as worker:
        said = worker.ask("describe", device="cuda:0")["missing"]
        if said is not None and "not installed" in said:
            pytest.skip(said)
        losses = []
        for each, case in ((loop, CASE), (worker, replace(CASE, precision=precision))):
            each.ask("prepare", case=case.dump(), seed=0)
            losses.append(each.ask("check", epochs=3)["loss"])
        assert losses[1] == pytest.approx(losses[0], rel=1e-2 if precision == "bf16" else 1e-5)
        if precision == "bf16":
            assert abs(losses[1] - losses[0]) > 1e-7, "products were not rounded to bf16"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("name", peers.names("cuda"))
def test_peers_agree_on_a_gpu(name, precision):
    case = replace(CASE, precision=precision, device="cuda:0")
    with Worker("numpy_loop", threads=1) as loop, Worker(name, threads=4) as worker:
        said = worker.ask("describe", device=case.device)["missing"]
        if said is not None:
            pytest.skip(said)
        losses = []
        for each, given in ((loop, CASE), (worker, case)):
            each.ask("prepare", case=given.dump(), seed=0)
            losses.append(each.ask("check", epochs=3)["loss"])
        assert losses[1] == pytest.approx(losses[0], rel=1e-5 if precision == "fp32" else 1e-2)
        assert worker.ask("measure", epochs=2)["long"] > 0


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_scanned_epoch_does_what_single_steps_do(optimizer):
    pytest.importorskip("jax")
    case = replace(CASE, optimizer=optimizer)
    stepped, scanned = (peers.load("jax_jit")(Problem.random(case), 1) for _ in range(2))
    total = float(stepped.stepped(stepped.standing))
    assert float(scanned.scanned(scanned.standing)) == pytest.approx(total, rel=1e-6)
    assert scanned.loss() == pytest.approx(stepped.loss(), rel=1e-6)
    scanned.wait()
