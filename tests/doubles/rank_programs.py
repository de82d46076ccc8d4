"""What the ranks of `tests/training/test_ranks.py` run: ``mpiexec -n 2 python -m mpi4py rank_programs.py NAME WITH``.

A program is a function of the communicator and of its argument. It asserts on every rank; what it returns on rank 0 is
printed as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from strict_backend import StrictBackend

import nnbp
from nnbp import Dense, Dropout, Network, Optimizer
from nnbp.device.host import blas, cores
from nnbp.training.checkpoint import Checkpoint
from nnbp.validation import balanced, class_weights

RNG = np.random.default_rng(0)
M = 48
X = RNG.normal(size=(M, 5)) * [1, 10, 100, 1, 0.1] + 3
Y = RNG.integers(0, 3, M)
W = RNG.uniform(0, 3, M) * (np.arange(M) % 7 > 0)
V, VY = RNG.normal(size=(12, 5)) * [1, 10, 100, 1, 0.1] + 3, RNG.integers(0, 3, 12)
Comm = MPI.Intracomm


def network(*more: Any, **options: Any) -> Network:
    layers = [nnbp.Standardize(), Dense(8, "tanh"), *more, Dense(3)]
    options = {"loss": "cross_entropy", "dtype": "float64", "device": "cpu", "seed": 3, "weight_decay": 1e-3} | options
    return Network(layers, **options)


def part(comm: Comm, size: int = M) -> slice:
    """The samples of this rank, about as many on every rank."""
    return slice(comm.rank * size // comm.size, (comm.rank + 1) * size // comm.size)


def difference(net: Network, other: Network) -> float:
    a, b = (np.asarray(x.model.backend.download(x.model.parameters.values)) for x in (net, other))
    return float(np.abs(a - b).max() / np.abs(b).max())


def same_bits(comm: Comm, *arrays: Any) -> None:
    digests = comm.allgather([hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() for array in arrays])
    assert all(found == digests[0] for found in digests)


def fails(comm: Comm, /, *args: Any, net: Network | None = None, **options: Any) -> tuple[str, str]:
    """The class and the message of the error that `fit` raises on this rank."""
    net = network() if net is None else net
    try:
        net.fit(*args, **{"epochs": 2, "progress": False, **options}, comm=comm)
    except Exception as error:
        return type(error).__name__, str(error)
    raise AssertionError("nothing was raised")


def same_as_one_process(comm: Comm, name: str) -> Any:
    """The whole data set in each step: with any optimizer, ranks end as one process does, and twice alike."""
    mine, runs = part(comm), []
    dropout = [] if Optimizer.registry[name].searches else [Dropout(0.25)]
    options: dict[str, Any] = {"optimizer": name, "batch_size": None, "epochs": 3, "progress": False}
    options["clip_norm"] = 0.5 if Optimizer.registry[name].clippable else None
    for _ in range(2):
        net, seen = network(*dropout), []

        def rate(epoch: int, net: Network = net, seen: list[Any] = seen) -> float:
            seen.append(net.parameters.copy())
            return 1.0

        if Optimizer.registry[name].scheduled:
            options["schedule"] = rate
        history = net.fit(X[mine], Y[mine], comm=comm, **options)
        same_bits(comm, *seen, net.parameters)
        runs.append([*(np.array(values).tobytes() for values in history.values()), net.parameters.tobytes()])
    assert runs[0] == runs[1]
    one = network(*dropout)
    expected = one.fit(X, Y, **{**options, "schedule": None})
    return {
        "parameters": difference(net, one),
        "loss": max(abs(a / b - 1) for a, b in zip(history["loss"], expected["loss"], strict=True)),
    }


def ranks_of_any_size(comm: Comm, name: str) -> Any:
    """Batches of which some ranks have a few samples or none, with weights, against one process step by step."""
    counts = [17, 9, 4, 18][: comm.size]
    ends, size = np.cumsum([0, *counts]), 5
    mine = slice(ends[comm.rank], ends[comm.rank + 1])
    # A scale of the weights of its own on each rank, which the whole data set shows.
    scales = np.repeat([1.0, 1e-3, 1e9, 1.0][: comm.size], counts)
    w = W[: ends[-1]] * scales if name == "weights" else None
    whole, options = slice(0, ends[-1]), {"shuffle": False, "progress": False}
    net = network(Dropout(0.25), Dense(6, "relu"), Dropout(0.5))
    net = net.to({"another backend": StrictBackend(), "cuda": "cuda"}.get(name, "cpu"), fallback=False)
    given = {"class_weight": "balanced", "sample_weight": None if w is None else w[mine]}
    net.fit(X[mine], Y[mine], batch_size=size, epochs=3, comm=comm, **given, **options)
    same_bits(comm, net.model.backend.download(net.parameters))
    one, y = network(Dropout(0.25), Dense(6, "relu"), Dropout(0.5)), Y[whole]
    by_class = class_weights(balanced([np.unique(y, return_counts=True)]), y, y, 3)
    weights = by_class if w is None else by_class * w
    one.prepare(X[whole], y, weights)
    for _ in range(3):
        for step in range(max(-(-count // size) for count in counts)):
            parts = [np.arange(a + step * size, min(a + (step + 1) * size, b)) for a, b in pairwise(ends)]
            rows = np.concatenate(parts)
            if not weights[rows].any():
                raise AssertionError("partial_fit takes no batch without weights")
            one.partial_fit(X[rows], y[rows], sample_weight=weights[rows], batch_size=None)
    positions = [[stream.position for stream in x.model.streams if stream is not None] for x in (net, one)]
    return {"parameters": difference(net, one), "streams": positions[0] == positions[1]}


def validated(comm: Comm, name: str) -> Any:
    """Validation, metrics, early stopping and best parameters, against one process."""
    mine, held_out = part(comm), [slice(0, 2), slice(2, 5), slice(5, 12)][comm.rank]
    options: dict[str, Any] = {
        "batch_size": None, "epochs": 60, "learning_rate": 0.05, "early_stopping": 3, "progress": False,
        "metrics": ["accuracy", "f1_macro", lambda truth, labels: float(np.sum(truth * labels))],
    }  # fmt: skip
    net, one = network(), network()
    history = net.fit(X[mine], Y[mine], validation_data=(V[held_out], VY[held_out]), comm=comm, **options)
    same_bits(comm, net.parameters, *history.values())
    assert comm.allgather((history.stopped, history.best_epoch)) == [(history.stopped, history.best_epoch)] * comm.size
    expected = one.fit(X, Y, validation_data=(V, VY), **options)
    assert history.epochs == expected.epochs < 60
    assert history.stopped is not None
    assert history.best_epoch == expected.best_epoch
    worst = max(float(np.abs(np.subtract(history[key], expected[key])).max()) for key in expected)
    return {"parameters": difference(net, one), "values": worst}


def resumed(comm: Comm, folder: str) -> Any:
    """A training that an error of a callback interrupts and another one resumes, and one that nothing interrupts."""
    mine = part(comm)
    options: dict[str, Any] = {"batch_size": 4, "progress": False, "epochs": 6, "early_stopping": 50}

    def stop(state: Any) -> None:
        if state.epoch == 3:
            raise RuntimeError("the disk is full")

    net = network(Dropout(0.25))
    try:
        net.fit(X[mine], Y[mine], checkpoint=Checkpoint(folder), callbacks=stop, comm=comm, **options)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    expected = "RuntimeError: the disk is full"
    assert told == (expected if comm.rank == 0 else f"NnbpError: Rank 0 of {comm.size} has failed: {expected}")
    again, whole = network(Dropout(0.25)), network(Dropout(0.25))
    history = again.fit(X[mine], Y[mine], checkpoint=Checkpoint(folder), resume=True, comm=comm, **options)
    unbroken = whole.fit(X[mine], Y[mine], comm=comm, **options)
    same_bits(comm, again.parameters)
    assert again.parameters.tobytes() == whole.parameters.tobytes()
    assert list(history.items()) == list(unbroken.items())
    other = X[mine] + (comm.rank == comm.size - 1)
    return fails(comm, other, Y[mine], net=network(Dropout(0.25)), checkpoint=Checkpoint(folder), resume=True,
                 **{**options, "epochs": 7})[1]  # fmt: skip


def streamed(comm: Comm, folder: str) -> Any:
    """Blocks that each rank reads, and memory maps, against arrays in memory."""
    mine = part(comm)
    options: dict[str, Any] = {"batch_size": 4, "epochs": 3, "shuffle": False, "progress": False, "comm": comm}

    def blocks() -> Any:
        for start in range(mine.start, mine.stop, 5):
            rows = slice(start, min(start + 5, mine.stop))
            yield X[rows], Y[rows], W[rows] + 0.1 + 1e-5 * comm.rank

    nets = [network(Dropout(0.25), Dense(4, "relu")) for _ in range(3)]
    nets[0].fit(X[mine], Y[mine], sample_weight=W[mine] + 0.1 + 1e-5 * comm.rank, **options)
    sized = Network(
        [5, nnbp.Standardize(), Dense(8, "tanh"), Dropout(0.25), Dense(4, "relu"), Dense(3)], loss="cross_entropy",
        dtype="float64", device="cpu", seed=3, weight_decay=1e-3,
    )  # fmt: skip
    sized.fit(batches=blocks, **options)
    same_bits(comm, sized.parameters)
    assert difference(sized, nets[0]) < 1e-12  # the mean and deviation of blocks are rounded differently
    path = Path(folder) / f"x{comm.rank}.npy"
    np.save(path, X[mine].astype(np.float32))
    nets[1].fit(np.load(path, mmap_mode="r"), Y[mine], **options)
    nets[2].fit(X[mine].astype(np.float32), Y[mine], **options)
    assert nets[1].parameters.tobytes() == nets[2].parameters.tobytes()
    # Each rank draws an order of its own, the same one at each run.
    shuffled = [network() for _ in range(2)]
    for net in shuffled:
        net.fit(X[mine], Y[mine], **{**options, "shuffle": True})
    same_bits(comm, shuffled[0].parameters)
    assert shuffled[0].parameters.tobytes() == shuffled[1].parameters.tobytes()
    return "done"


def sizes_of_the_data(comm: Comm, name: str) -> Any:
    """Sizes are taken from the samples of all ranks, although one of them has no sample of the last class."""
    mine = part(comm)
    y = np.sort(Y)[mine]
    net = Network(loss="cross_entropy", device="cpu", seed=1)
    net.fit(X[mine], y, epochs=1, progress=False, comm=comm)
    assert net.model.n_out == 3
    same_bits(comm, net.parameters)
    return "done"


def differences(comm: Comm, name: str) -> Any:
    """The errors of all ranks if one of them brings something else."""
    mine, other = part(comm), comm.rank == 1
    x, y, net, options = X[mine], Y[mine], network(), {}
    match name:
        case "dtype":
            net = network(dtype="float32" if other else "float64")
        case "width":
            x = x[:, :4] if other else x
        case "seed":
            net = network(seed=4 if other else 3)
        case "weights":
            net = Network([5, 4, 3], loss="cross_entropy", device="cpu", seed=0)
            net.parameters[0] += float(other)
        case "layers":
            net = network(*([Dropout(0.1)] if other else []))
        case "batch_size":
            options = {"batch_size": 8 if other else 16}
        case "optimizer":
            options = {"learning_rate": 0.1 if other else 0.01}
        case "epochs":
            options = {"epochs": 4 if other else 3}
        case "validation":
            options = {"validation_data": (V, VY) if other else None}
        case "sample_weight":
            options = {"sample_weight": W[mine] if other else None}
        case "argument":
            options = {"epochs": 0 if other else 3}
        case "nan":
            x = np.where(other & (np.arange(5) == 2), np.nan, x)
        case "metric":
            options = {"metrics": [lambda truth, outputs: 1 / 0]}
        case "BatchNorm":
            net = network(nnbp.BatchNorm("relu"))
        case "levenberg_marquardt":
            net, options = Network([5, 3, 1], device="cpu", seed=0), {"optimizer": "levenberg_marquardt"}
            y = x[:, 0]
    before = None if "sizes from the data" in repr(net) else net.parameters.copy()
    found = fails(comm, x, y, net=net, **options)
    assert before is None or (before == net.parameters).all(), "nothing has changed"
    network().fit(X[mine], Y[mine], epochs=1, progress=False, comm=comm)  # the ranks still understand each other
    return comm.gather(found)


def follows_callbacks(comm: Comm, name: str) -> Any:
    """What a callback changes on rank 0, and its reason to stop, hold for all ranks; the others' are not called."""
    calls: list[int] = []

    def change(state: Any) -> None:
        calls.append(state.epoch)
        state.network.parameters[:] = state.epoch
        state.stop = "enough" if state.epoch == 2 else None

    class Everywhere(nnbp.Callback):
        each_rank = True

        def on_epoch_end(self, state: Any) -> None:
            everywhere.append(state.epoch)

    net, everywhere = network(), []
    callbacks = [change, Everywhere()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = net.fit(X[part(comm)], Y[part(comm)], epochs=5, callbacks=callbacks, progress=False, comm=comm)
    assert everywhere == [1, 2]
    assert history.stopped == "enough"
    assert (net.parameters == 2.0).all()
    assert calls == ([1, 2] if comm.rank == 0 else [])
    return "done"


def recovers(comm: Comm, name: str) -> Any:
    """After errors that all ranks raise, the same network can be trained, and the program ends well."""

    class Fails(nnbp.Callback):
        def on_train_end(self, state: Any) -> None:
            raise OSError("the log cannot be closed")

    class Stops(nnbp.Callback):
        each_rank = True

        def on_epoch_end(self, state: Any) -> None:
            state.stop = f"rank {comm.rank} has no time" if comm.rank == 1 else None

    net, mine = network(), part(comm)
    _, text = fails(comm, X[mine], Y[mine], net=net, early_stopping=nnbp.EarlyStopping(monitor="val_acuracy"))
    assert "val_acuracy" in text
    assert "sizes from the data" in repr(net), "nothing has changed"
    _, text = fails(comm, X[mine], Y[mine], net=net, callbacks=[Fails()])
    assert "the log cannot be closed" in text
    _, text = fails(comm, X[mine], Y[mine], net=net, schedule=lambda epoch: 1 / comm.rank)
    assert "division by zero" in text
    history = net.fit(X[mine], Y[mine], epochs=5, progress=False, comm=comm, callbacks=[Stops()])
    assert history.stopped == "rank 1 has no time"
    assert history.epochs == 1
    same_bits(comm, net.parameters)
    return "done"


def shared_cores(comm: Comm, name: str) -> Any:
    """The number of BLAS's threads within a fit, on each rank, and the cores that it may use."""
    found: list[int] = []

    class Looks(nnbp.Callback):
        each_rank = True

        def on_epoch_end(self, state: Any) -> None:
            found.append(blas()["threads"])

    network().fit(X[part(comm)], Y[part(comm)], epochs=1, progress=False, comm=comm, callbacks=[Looks()])
    return comm.gather((found[0], cores(), blas()["threads"]))


def diverging(comm: Comm, name: str) -> Any:
    """Training that diverges does so on all ranks, which keep the same parameters."""
    net = network()
    kind, text = fails(comm, X[part(comm)], Y[part(comm)], net=net, optimizer="sgd", learning_rate=1e300, epochs=5)
    assert kind == "DivergenceError", text
    same_bits(comm, net.parameters)
    return text


def warned(comm: Comm, name: str) -> Any:
    """One rank warns of a network that has learnt nothing, and it judges by the samples of all."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rate = 1e-9 if name == "nothing" else 0.05
        # The classes of each rank alone are one class, and any constant would be perfect.
        mine = part(comm)
        options = {"epochs": 25, "batch_size": 4, "learning_rate": rate, "progress": False}
        network().fit(X[mine], np.sort(Y)[mine], comm=comm, **options)
    return comm.gather([str(item.message) for item in caught])


def ends(comm: Comm, how: str) -> Any:
    """One rank ends in the middle of a training, at a step: by an error, by sys.exit, or by a signal."""
    what, folder = how.split(":")

    def blocks() -> Any:
        calls.append(0)
        # Two calls are before training begins.
        if comm.rank == 1 and len(calls) == 5:
            if what == "error":
                raise OSError("the tape is torn")
            if what == "exit":
                sys.exit(7)
            if what == "caught":
                raise KeyError("a program that catches everything")
            os.kill(os.getpid(), signal.SIGKILL)
        yield X[part(comm)], Y[part(comm)]

    calls: list[int] = []
    layers = [5, nnbp.Standardize(), Dense(8, "tanh"), Dense(3)]
    net = Network(layers, loss="cross_entropy", device="cpu", seed=0)
    try:
        net.fit(batches=blocks, epochs=9, progress=False, checkpoint=Checkpoint(folder, keep=9), comm=comm)
    except KeyError:
        return "caught"
    return "not ended"


def uncaught(comm: Comm, name: str) -> Any:
    """An error that all ranks raise, and none catches."""
    network().fit(X[part(comm)], Y[part(comm)], optimizer="sgd", learning_rate=1e300, progress=False, comm=comm)


def works_for_long(comm: Comm, folder: str) -> Any:
    """A training that is killed at any moment."""
    net = network(Dropout(0.25))
    if comm.rank == 0:
        print(*comm.gather(os.getpid()) or (), flush=True)
    else:
        comm.gather(os.getpid())
    net.fit(
        X[part(comm)], Y[part(comm)], batch_size=4, epochs=400, progress=False, comm=comm, resume=True,
        checkpoint=Checkpoint(folder), callbacks=lambda state: time.sleep(0.005),
    )  # fmt: skip
    return {"parameters": net.parameters.tobytes().hex()}


if __name__ == "__main__":
    result = globals()[sys.argv[1]](MPI.COMM_WORLD, sys.argv[2])
    if MPI.COMM_WORLD.rank == 0:
        print(json.dumps(result))
