"""`python -m bench.ranks`: a training step on one and two ranks, beside PyTorch's DistributedDataParallel over gloo.

Each library trains in processes of its own, with one thread each, in float32 with Adam, in turns. A step's time is that
of an epoch divided by its steps, on rank 0. The model of time (docs/ranks.md) has two measured parts: a step of one
process while another one computes on the other core, and an all-reduce of as many numbers as there are parameters.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

CASES = {
    "64-128-128-10@128": ([64, 128, 128, 10], 128, 64),
    "784-512-512-10@1024": ([784, 512, 512, 10], 1024, 6),
    "1024-2048-2048-10@1024": ([1024, 2048, 2048, 10], 1024, 2),
}
"""Sizes of the layers, samples of a rank in a step, steps in an epoch."""

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def samples(case: str, rank: int) -> tuple[Any, Any]:
    sizes, batch, steps = CASES[case]
    rng = np.random.default_rng(rank)
    X = rng.normal(size=(batch * steps, sizes[0])).astype(np.float32)
    return X, rng.integers(0, sizes[-1], len(X))


def nnbp_steps(case: str, epochs: int) -> list[float]:
    """Seconds per step of each epoch, on rank 0."""
    from mpi4py import MPI

    import nnbp

    sizes, batch, steps = CASES[case]
    X, y = samples(case, MPI.COMM_WORLD.rank)
    net = nnbp.Network(sizes, loss="cross_entropy", device="cpu", seed=0)
    ends: list[float] = []
    net.fit(
        X, y, batch_size=batch, epochs=epochs, progress=False, comm=MPI.COMM_WORLD,
        callbacks=[lambda state: ends.append(time.perf_counter())],
    )  # fmt: skip
    return [(b - a) / steps for a, b in pairwise(ends)]


def torch_steps(case: str, epochs: int) -> list[float]:
    """The same with DistributedDataParallel."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    sizes, batch, steps = CASES[case]
    X, y = map(torch.from_numpy, samples(case, rank))
    layers: list[Any] = []
    for n_in, n_out in pairwise(sizes):
        layers += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
    torch.manual_seed(0)
    net: Any = torch.nn.Sequential(*layers[:-1])
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{os.environ['MEETING']}", rank=rank, world_size=size)
        net = DistributedDataParallel(net)
    optimizer, cost = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True), torch.nn.CrossEntropyLoss()
    found = []
    for _ in range(epochs):
        start, order, total = time.perf_counter(), torch.randperm(len(X)), torch.zeros(())
        for k in range(steps):
            rows = order[k * batch : (k + 1) * batch]
            optimizer.zero_grad()
            loss = cost(net(X[rows]), y[rows])
            loss.backward()
            optimizer.step()
            total += loss.detach()
        float(total)
        found.append((time.perf_counter() - start) / steps)
    if size > 1:
        dist.destroy_process_group()
    return found[1:]


def reduce_steps(case: str, epochs: int) -> list[float]:
    """Seconds of an all-reduce of a vector as long as the parameters."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    vector, found = np.ones(parameters(case) + 2, np.float32), []
    for _ in range(8 * epochs):
        comm.Barrier()
        start = time.perf_counter()
        comm.Allreduce(MPI.IN_PLACE, vector)
        found.append(time.perf_counter() - start)
    return found[epochs:]


def parameters(case: str) -> int:
    return sum(n_in * n_out + n_out for n_in, n_out in pairwise(CASES[case][0]))


WORKERS = {"nnbp": nnbp_steps, "torch": torch_steps, "all-reduce": reduce_steps}


def measured(worker: str, case: str, ranks: int, epochs: int, python: str, *, beside: bool = False) -> float:
    """The median of a run, in milliseconds; `beside` keeps the other core busy with the same work."""
    command = [python, "-m", "bench.ranks", "--worker", worker, "--case", case, "--epochs", str(epochs)]
    environment = {**os.environ, **_ONE_THREAD}
    with tempfile.TemporaryDirectory() as folder:
        if worker == "torch":
            runs = [
                subprocess.Popen(
                    command, stdout=subprocess.PIPE, text=True,
                    env={**environment, "RANK": str(k), "WORLD_SIZE": str(ranks), "MEETING": f"{folder}/meeting"},
                )
                for k in range(ranks)
            ]  # fmt: skip
        else:
            mpiexec = shutil.which("mpiexec", path=f"{Path(python).parent}:{os.environ['PATH']}")
            together = [str(mpiexec), "-n", str(ranks), *command]
            copies = 2 if beside else 1
            runs = [
                subprocess.Popen(together, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(copies)
            ]
        outputs = [run.communicate()[0] for run in runs]
    if any(run.returncode for run in runs):
        raise SystemExit(f"{worker} failed on {case}")
    found = [json.loads(line) for line in outputs[0].splitlines() if line.startswith("[")]
    return 1e3 * float(median(found[0]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ranks", description=__doc__.partition("\n")[0])
    parser.add_argument("--torch-python", default=sys.executable, help="an interpreter that has PyTorch")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, of which the medians are shown")
    parser.add_argument("--epochs", type=int, default=12, help="epochs of a run")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        found = WORKERS[given.worker](given.case, given.epochs)
        if int(os.environ.get("RANK", os.environ.get("PMI_RANK", "0"))) == 0:
            print(json.dumps(found))
        return
    own = sys.executable
    kinds: dict[str, dict[str, Any]] = {
        "nnbp, 1 rank": {"worker": "nnbp", "ranks": 1, "python": own},
        "nnbp, 1 rank beside another": {"worker": "nnbp", "ranks": 1, "python": own, "beside": True},
        "all-reduce, 2 ranks": {"worker": "all-reduce", "ranks": 2, "python": own},
        "nnbp, 2 ranks": {"worker": "nnbp", "ranks": 2, "python": own},
        "PyTorch, 1 process": {"worker": "torch", "ranks": 1, "python": given.torch_python},
        "PyTorch DDP, 2 ranks": {"worker": "torch", "ranks": 2, "python": given.torch_python},
    }
    for case in CASES:
        times: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(given.rounds):
            for name, words in kinds.items():
                times[name].append(measured(case=case, epochs=given.epochs, **words))
        print(f"\n{case}, {parameters(case):,} parameters, ms per step")
        for name, values in times.items():
            print(f"  {name:<28} {median(values):9.3f}   ({min(values):.3f} to {max(values):.3f})")
        ratios = [b / a for a, b in zip(times["nnbp, 2 ranks"], times["PyTorch DDP, 2 ranks"], strict=True)]
        print(f"  PyTorch DDP / nnbp, pairs    {median(ratios):9.2f}   ({min(ratios):.2f} to {max(ratios):.2f})")
        parts = [median(times[name]) for name in ("nnbp, 1 rank beside another", "all-reduce, 2 ranks")]
        print(f"  predicted for 2 ranks        {sum(parts):9.3f}   measured / predicted "
              f"{median(times['nnbp, 2 ranks']) / sum(parts):.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
