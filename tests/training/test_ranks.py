"""Several processes that train one network: `fit(comm=)`, over MPI that the tests start themselves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi import ended, needs_mpi, start
from strict_backend import StrictArray, StrictBackend

from nnbp import Network, Optimizer, fit_many
from nnbp.engine.ranks import Ranks, Steps
from nnbp.training.checkpoint import Checkpoint

PROGRAMS = Path(__file__).parents[1] / "doubles" / "rank_programs.py"
KILLS = int(os.environ.get("NNBP_TEST_KILLS", "0"))


def program(ranks: int, name: str, argument: str = "", *, runner: bool = True) -> subprocess.Popen[str]:
    return start(ranks, *(["-m", "mpi4py"] if runner else []), str(PROGRAMS), name, argument)


def run(ranks: int, name: str, argument: str = "") -> Any:
    """What a program returns on rank 0."""
    code, out, err = ended(program(ranks, name, argument))
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


class Told(Ranks):
    """A rank that knows what the others would send."""

    def __init__(self, rank: int, counts: list[tuple[int, int]]) -> None:
        self.rank, self.size, self.counts = rank, len(counts), counts

    def allgather(self, value: Any) -> list[Any]:
        return self.counts


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_the_steps_of_ranks_fit_together(counts: list[tuple[int, int]]) -> None:
    """As many steps on every rank; the parts of a batch lie side by side, and every sample is in one of them."""
    counts = [(m, min(m, n)) for m, n in counts]
    plans = [Told(rank, counts).steps(*counts[rank]) for rank in range(len(counts))]
    assert len({tuple((part.total, part.times) for part in plan) for plan in plans}) == 1
    steps = sum(part.times for part in plans[0])
    assert steps == max(-(-m // n) for m, n in counts)
    for (m, n), plan in zip(counts, plans, strict=True):
        own = [part.samples for part in plan for _ in range(part.times)]
        assert own == [min(n, max(0, m - n * step)) for step in range(steps)]
    for parts in zip(*plans, strict=True):
        at = 0
        for part in parts:
            assert part.offset == at
            at += part.samples
        assert at == parts[0].total > 0


def test_one_process_is_a_rank_without_others() -> None:
    alone = Ranks()
    assert alone.steps(6, 3) == [Steps(3, 0, 3, 2)]
    assert alone.allgather("a") == ["a"]
    assert alone.from_root(lambda: 5) == 5
    assert alone.mean(2.0, 3.0) == 2.0
    generator = np.random.default_rng(0)
    assert alone.generator(generator) is generator


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("name", [name for name, kind in Optimizer.registry.items() if kind.adds_up])
def test_ranks_train_as_one_process_does(name: str, ranks: int) -> None:
    if ranks != 2 and name not in ("adam", "lbfgs"):
        pytest.skip("one number of ranks is enough for most optimizers")
    found = run(ranks, "same_as_one_process", name)
    # A line search takes small differences of J, so rounding grows from epoch to epoch.
    bound = 1e-6 if Optimizer.registry[name].searches else 1e-12
    assert found["parameters"] < bound
    assert found["loss"] < 1e-11


@needs_mpi
@pytest.mark.parametrize(("ranks", "name"), [(2, "weights"), (3, "no weights"), (4, "weights"), (2, "another backend")])
def test_ranks_have_any_number_of_samples(ranks: int, name: str) -> None:
    found = run(ranks, "ranks_of_any_size", name)
    assert found["parameters"] < 1e-12
    assert found["streams"], "random numbers go on from where those of one process do"


@needs_mpi
@pytest.mark.gpu
@pytest.mark.skipif("emulated_gpu" in sys.modules, reason="the emulation is of this process alone")
def test_ranks_on_a_gpu_train_as_one_process_on_the_cpu() -> None:
    found = run(2, "ranks_of_any_size", "cuda")
    assert found["parameters"] < 1e-10
    assert found["streams"]


@needs_mpi
def test_validation_is_that_of_one_process() -> None:
    found = run(3, "validated")
    assert found["parameters"] < 1e-12
    assert found["values"] < 1e-10


@needs_mpi
def test_training_resumes_on_all_ranks_with_the_same_bits(tmp_path: Path) -> None:
    message = run(2, "resumed", str(tmp_path))
    assert "received another data: [" in message
    net = Network.load(Checkpoint(tmp_path).paths[0], device="cpu")
    assert net.model.n_in == 5


@needs_mpi
def test_each_rank_reads_its_own_blocks(tmp_path: Path) -> None:
    assert run(2, "streamed", str(tmp_path)) == "done"


@needs_mpi
def test_sizes_are_those_of_the_data_of_all_ranks() -> None:
    assert run(2, "sizes_of_the_data") == "done"


@needs_mpi
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dtype", "another dtype on rank 1: 'float32' there, 'float64' on rank 0"),
        ("width", "another number of inputs on rank 1: 4 there, 5 on rank 0"),
        ("seed", "another seed on rank 1: 4 there, 3 on rank 0"),
        ("weights", "another initial parameters on rank 1"),
        ("layers", "another layers on rank 1"),
        ("batch_size", "another batch_size on rank 1: '8' there, '16' on rank 0"),
        ("optimizer", "another optimizer on rank 1"),
        ("epochs", "another epochs on rank 1"),
        ("validation", "another validation_data on rank 1: 'given' there, 'not given' on rank 0"),
        ("sample_weight", "another sample_weight on rank 1"),
        ("argument", "epochs is a whole number"),
        ("nan", "received nan in row 0, column 2"),
        ("metric", "division by zero"),
        ("BatchNorm", "each rank sees its own alone; received comm with 2 ranks. Use LayerNorm"),
        ("levenberg_marquardt", "takes more from the samples than their gradients"),
    ],
)
def test_what_differs_is_found_before_the_first_step(name: str, said: str) -> None:
    """All ranks raise an error that says what it is, and can be used again."""
    found = run(2, "differences", name)
    assert len(found) == 2
    for _, text in found:
        assert said in text


@needs_mpi
def test_callbacks_are_those_of_rank_0() -> None:
    assert run(2, "follows_callbacks") == "done"


@needs_mpi
def test_ranks_go_on_after_an_error_that_all_of_them_raise() -> None:
    assert run(2, "recovers") == "done"


@needs_mpi
def test_ranks_share_the_cores_of_their_machine() -> None:
    for within, cores, outside in run(2, "shared_cores"):
        assert within == max(1, min(cores // 2, outside))


@needs_mpi
def test_all_ranks_diverge_together() -> None:
    assert "Training diverged" in run(2, "diverging")


@needs_mpi
def test_a_network_that_has_learnt_nothing_is_told_once() -> None:
    first, *others = run(2, "warned", "nothing")
    assert "better than a constant" in first[0]
    assert not any(others)
    assert not any(run(2, "warned", "something"))


@needs_mpi
@pytest.mark.parametrize("runner", [True, False], ids=["python -m mpi4py", "python"])
@pytest.mark.parametrize("how", ["error", "exit", "caught", "killed"])
def test_if_one_rank_ends_all_end(how: str, runner: bool, tmp_path: Path) -> None:
    """In the middle of an epoch, where the others wait for it; the last checkpoint stands."""
    before = time.monotonic()
    code, out, err = ended(program(3, "ends", f"{how}:{tmp_path}", runner=runner), 30)
    assert time.monotonic() - before < 20
    assert code != 0
    assert "not ended" not in out
    if how == "error" and not runner:
        assert err.count("OSError: the tape is torn") == 1
    if how != "killed" and not runner:
        assert err.count("nnbp: rank 1 of 3 has failed, and all ranks are aborted.") == 1
    assert [path.name for path in Checkpoint(tmp_path).paths] == [
        "checkpoint-00000002.safetensors", "checkpoint-00000001.safetensors",
    ]  # fmt: skip


@needs_mpi
def test_an_error_that_all_ranks_raise_is_printed_once() -> None:
    code, _, err = ended(program(3, "uncaught", runner=False))
    assert code != 0
    assert err.count("Traceback") == 1, err
    assert err.count("DivergenceError") == 1


@needs_mpi
@pytest.mark.skipif(not KILLS, reason="takes long; set NNBP_TEST_KILLS to the number of kills")
def test_nothing_is_lost_if_a_rank_is_killed_at_any_moment(tmp_path: Path) -> None:
    rng = np.random.default_rng()
    whole = run(2, "works_for_long", str(tmp_path / "whole"))
    for kill in range(min(KILLS, 50)):
        folder = tmp_path / str(kill)
        process = program(2, "works_for_long", str(folder))
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        time.sleep(rng.uniform(0, 3))
        newest = max((path.name for path in Checkpoint(folder).paths), default="")
        with suppress(ProcessLookupError):  # it may have ended
            os.kill(pids[rng.integers(2)], signal.SIGKILL)
        ended(process, 20)
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        assert max((path.name for path in Checkpoint(folder).paths), default="") >= newest
        assert run(2, "works_for_long", str(folder)) == whole
        shutil.rmtree(folder)


def test_memory_of_a_gpu_is_added_up_where_it_is_if_mpi_reads_it() -> None:
    """Else it goes through the host."""
    done: list[Any] = []

    class Comm:
        def __init__(self, kinds: str) -> None:
            self.kinds = kinds

        def Get_info(self) -> dict[str, str]:
            return {"mpi_memory_alloc_kinds": self.kinds}

        def Allreduce(self, place: str, array: Any) -> None:
            done.append((place, type(array)))
            array[...] = 1.0

    class Mpi:
        IN_PLACE = "in place"

    backend = StrictBackend()
    for kinds, kind in (("mpi,system,cuda:device", StrictArray), ("mpi,system", np.ndarray)):
        ranks = Ranks()
        ranks.comm, ranks._mpi = Comm(kinds), Mpi
        with backend.active():
            array = backend.upload(np.zeros(3), np.float64)
            ranks.allreduce(array, backend)()
        assert done.pop() == ("in place", kind)
        assert (backend.download(array) == 1.0).all()


def test_a_communicator_is_one_of_mpi4py() -> None:
    pytest.importorskip("mpi4py")
    net = Network([2, 1], device="cpu", seed=0)
    with pytest.raises(TypeError, match="comm is a communicator of mpi4py; received 'world'"):
        net.fit([[0.0, 1.0]], [1.0], comm="world")


def test_many_networks_are_not_trained_by_many_ranks() -> None:
    with pytest.raises(ValueError, match=r"fit_many .* received comm"):
        fit_many([Network([2, 1], device="cpu")], [[0.0, 1.0]], [1.0], comm=object())
