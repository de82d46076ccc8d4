"""Ranks: the processes of an MPI communicator that train one network together, each on its own samples.

A training step is that of one process up to the gradient, and from the sum of the gradients on. In between all ranks
add up one vector: Σ w ∂C/∂θ of their samples, and behind it Σ wC and Σ w. MPI gives all of them the same bits, so they
take the same step.

Everything else that ranks exchange is small Python objects, all by one call. A rank that fails sends its error in place
of the object, so the others learn of it wherever they are and raise an error, too. During the steps of an epoch no
errors are exchanged: a rank that fails there leaves the others waiting, and all are aborted when its process ends.

Source: Message Passing Interface Forum, "MPI: a message-passing interface standard", section 6.9.6 (all-reduce).
"""

from __future__ import annotations

import atexit
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np

from nnbp.errors import NnbpError
from nnbp.formatting import shown
from nnbp.graph.backend import Backend
from nnbp.graph.ops import Array

T = TypeVar("T")

_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Environment variables that have the number of processes: of MPICH and its derivatives, of Open MPI, of Slurm."""

_FORWARDED = 0.2
"""Seconds before all ranks are aborted: what mpiexec has not forwarded by then is lost."""


class Steps(NamedTuple):
    """Some steps of an epoch whose batches are alike.

    Attributes:
        samples: in this rank's part of a batch; 0 if the others still have samples when this rank has none.
        offset, total: where the part begins in the whole batch, which has the parts of all ranks in their order, and
            the number of samples of the whole.
        times: the number of steps.
    """

    samples: int
    offset: int
    total: int
    times: int


class Ranks:
    """The ranks of a communicator, or this process alone.

    Attributes:
        rank: the number of this one, from 0.
        size: how many there are.
        comm: a duplicate of the communicator, so that no message meets one of the user's; None for a process alone.

    Args:
        comm: an intracommunicator of mpi4py, or None. All ranks make the object at the same time.

    Raises:
        MissingDependencyError: mpi4py cannot be imported.
        TypeError: this is no communicator.
    """

    rank, size = 0, 1
    comm: Any = None

    def __init__(self, comm: Any = None) -> None:
        if comm is None:
            return
        from nnbp.requirements import optional

        self._mpi = optional("mpi4py.MPI", "Training on several ranks")
        if not isinstance(comm, self._mpi.Intracomm):
            raise TypeError(f"comm is a communicator of mpi4py; received {shown(comm)}. Give MPI.COMM_WORLD, or None.")
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        if not self.alone:
            self.comm = comm.Dup()
            _end.watch(self._mpi, self.rank, self.size)

    @property
    def alone(self) -> bool:
        """Whether there is one rank."""
        return self.size == 1

    # Small objects, and errors.

    def allgather(self, value: T) -> list[T]:
        """The values of all ranks, in their order.

        Raises:
            NnbpError: another rank has failed.
        """
        if self.alone:
            return [value]
        received = self.comm.allgather((None, value))
        for rank, (failure, _) in enumerate(received):
            if failure is not None:
                raise _ReportedError(f"Rank {rank} of {self.size} has failed: {failure}")
        return [theirs for _, theirs in received]

    def from_root(self, make: Callable[[], T]) -> T:
        """The result of `make`, which only rank 0 calls."""
        return self.allgather(make() if self.rank == 0 else cast(T, None))[0]

    def gather(self, array: Any) -> Any:
        """The rows of the arrays of all ranks, below each other, on rank 0; None on the others."""
        if self.alone:
            return array
        self.allgather(None)
        parts = self.comm.gather(array)
        return None if parts is None else np.concatenate(parts)

    def mean(self, value: float, weight: float) -> float:
        """Σ weight · value / Σ weight over the ranks."""
        if self.alone:
            return value
        found = self.allgather((value, weight))
        return sum(v * w for v, w in found if w) / sum(w for _, w in found)

    def same(self, facts: Mapping[str, Any]) -> None:
        """Raises ValueError unless the facts of all ranks are those of rank 0."""
        for rank, theirs in enumerate(found := self.allgather(dict(facts))):
            for name, value in theirs.items():
                if value != found[0].get(name):
                    raise ValueError(
                        "All ranks train the same network with the same options, and only their samples differ; "
                        f"received another {name} on rank {rank}: {shown(value)} there, {shown(found[0].get(name))} on "
                        "rank 0. Give all ranks the same arguments, and Network the same seed."
                    )

    @contextmanager
    def together(self) -> Iterator[None]:
        """An error that is raised on one rank in the block is raised on all of them.

        An interrupt is not, such as Ctrl-C: it may come just after the others have been heard, and they have gone on.
        """
        if self.alone:
            yield
            return
        try:
            yield
            self.allgather(None)
        except _ReportedError as reported:
            _agreed(error := NnbpError(str(reported)), reported=True)
            raise error from None
        except Exception as error:
            failures = [failure for failure, _ in self.comm.allgather((f"{type(error).__name__}: {error}", None))]
            _agreed(error, reported=any(failures[: self.rank]))
            raise

    def is_agreed(self, error: BaseException) -> bool:
        """Whether all ranks raise an error at the same time, and this one on this rank."""
        return _mark(error) is not None

    def is_reported(self, error: BaseException) -> bool:
        """Whether all ranks raise this error, and another one reports it."""
        return _mark(error) == "reported"

    @contextmanager
    def training(self) -> Iterator[None]:
        """The block in which ranks depend on each other; BLAS has this rank's share of the cores in it."""
        if self.alone:
            yield
            return
        from threadpoolctl import threadpool_limits

        with threadpool_limits(self._threads(), "blas"):
            try:
                yield
            except BaseException as error:
                self.abandon(error)
                if _mark(error):
                    self.comm.Free()
                raise
            # The others have answered, so none waits because of an earlier error.
            _end.abandoned = None
            self.comm.Free()

    def abandon(self, error: BaseException) -> None:
        """Notes that an error ends this rank: unless all raise it, they are aborted when its process ends."""
        if not (self.alone or _mark(error)):
            _end.abandoned = error

    def _threads(self) -> int:
        from nnbp.device.host import blas, cores

        usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(cores()))
        places = self.allgather((platform.node(), usable))
        rivals = sum(node == platform.node() and bool(usable & others) for node, others in places)
        return max(1, min(len(usable) // rivals, blas()["threads"] or 1))

    # Samples and arrays.

    def steps(self, samples: int, size: int) -> list[Steps]:
        """The steps of an epoch with batches of `size` samples of this rank; there are as many on every rank.

        >>> Ranks().steps(10, 4)
        [Steps(samples=4, offset=0, total=4, times=2), Steps(samples=2, offset=0, total=2, times=1)]
        """
        counts = self.allgather((samples, size))
        ends = {0} | {m // n for m, n in counts} | {-(-m // n) for m, n in counts}
        found = []
        for start, end in pairwise(sorted(ends)):
            parts = [min(n, max(0, m - n * start)) for m, n in counts]
            found.append(Steps(parts[self.rank], sum(parts[: self.rank]), sum(parts), end - start))
        return found

    def generator(self, generator: np.random.Generator) -> np.random.Generator:
        """A generator of this rank's own, from one that is the same on all ranks; one number of it is drawn."""
        return generator if self.alone else np.random.default_rng((int(generator.integers(2**63)), self.rank))

    def allreduce(self, array: Array, backend: Backend) -> Callable[[], None]:
        """A function that replaces an array by the sum of those of all ranks, which has the same bits on all of them.

        An array on a GPU goes through the host, unless MPI says that it reads the memory of GPUs.
        """
        add, place = self.comm.Allreduce, self._mpi.IN_PLACE
        if isinstance(array, np.ndarray):
            return lambda: add(place, array)
        if "cuda" in (self.comm.Get_info().get("mpi_memory_alloc_kinds") or ""):

            def on_device() -> None:
                backend.synchronize()
                add(place, array)

            return on_device

        def through_host() -> None:
            host = np.array(backend.download(array))
            add(place, host)
            array[...] = backend.upload(host, host.dtype)

        return through_host

    def broadcast(self, array: Array, backend: Backend) -> None:
        """Gives an array the values that it has on rank 0."""
        if self.alone:
            return
        if isinstance(array, np.ndarray):
            self.comm.Bcast(array)
            return
        host = np.array(backend.download(array))
        self.comm.Bcast(host)
        array[...] = backend.upload(host, host.dtype)


class _ReportedError(Exception):
    """Another rank has failed; the message says which and why."""


def _agreed(error: Exception, *, reported: bool) -> None:
    """Marks an error as one that all ranks raise; `reported` by another one."""
    vars(error)["nnbp_mark"] = "reported" if reported else "agreed"


def _mark(error: BaseException | None) -> str | None:
    """The mark of an error, or of the one that it was raised from."""
    while error is not None and "nnbp_mark" not in vars(error):
        error = error.__cause__
    return None if error is None else vars(error)["nnbp_mark"]


class _End:
    """Aborts all ranks when the process of one ends with an error that the others do not know of.

    They wait for it, in MPI_Allreduce or in MPI_Finalize, and a rank that waits hears nothing else. Of an error that
    all ranks raise, one of them prints the traceback.

    Attributes:
        abandoned: the error with which this rank has left the others waiting, or None.
    """

    def __init__(self) -> None:
        self._watching = False
        self.abandoned: BaseException | None = None

    def watch(self, mpi: Any, rank: int, size: int) -> None:
        if self._watching:
            return
        self._watching, show = True, sys.excepthook

        def hook(kind: Any, error: Any, traceback: Any) -> None:
            if _mark(error) != "reported":
                show(kind, error, traceback)

        def leave() -> None:
            uncaught = getattr(sys, "last_value", None)
            if self.abandoned is not None or (uncaught is not None and not _mark(uncaught)):
                text = f"nnbp: rank {rank} of {size} has failed, and all ranks are aborted."
                print(text, file=sys.stderr, flush=True)
                time.sleep(_FORWARDED)
                mpi.COMM_WORLD.Abort(1)

        sys.excepthook = hook
        atexit.register(leave)


_end = _End()


def launched() -> Ranks:
    """The ranks that mpiexec or srun has started, or this process alone.

    Raises:
        MissingDependencyError: there are several processes, and mpi4py cannot be imported.
    """
    if not any(os.environ.get(name, "1") != "1" for name in _SIZES):
        return ALONE
    from nnbp.requirements import optional

    return Ranks(optional("mpi4py.MPI", "A program that mpiexec starts in several processes").COMM_WORLD)


ALONE = Ranks()
"""This process alone."""
