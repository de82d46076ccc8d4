"""Many networks that are trained on the same data, side by side."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from threading import Event, Lock
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nnbp.device.host import cores
from nnbp.optim import optimizers
from nnbp.training.callbacks import Callback, History, TrainingState, early_stopping, listed
from nnbp.training.checkpoint import Checkpoint
from nnbp.training.progress import reporter
from nnbp.validation import Lazy, instance, is_mapped, items, samples_on_host

_PAUSE = 0.1
"""Seconds after which the main thread looks for signals: not every system interrupts a thread that waits."""


@runtime_checkable
class Trainable(Protocol):
    """What `fit_many` needs of a network."""

    history: History | None

    @property
    def device(self) -> str:
        """The device that the network is on."""

    def input_dtype(self, X: NDArray[Any]) -> np.dtype[Any]:
        """The dtype in which the network reads X."""

    def fit(self, X: Any, y: Any, **options: Any) -> History:
        """Trains the network."""


def fit_many(networks: Sequence[Trainable], X: Any, y: Any, **options: Any) -> list[History]:
    """Trains networks on the same data, side by side in as many threads as there are cores.

    Every network ends with the same bits as after its own `fit` with these options. Only what runs outside of the
    training steps may round differently: metrics over many samples, and your own functions that call BLAS, which may
    find it with another number of threads.

    Networks on a GPU are trained one after the other, beside those on the CPU. So are all networks if the optimizer
    searches (lbfgs).

    Args:
        networks: different networks, on any devices and of any dtypes.
        X, y: the data, as for `Network.fit`.
        options: of `Network.fit`, the same for all networks. Every network gets copies of the optimizer, the schedule,
            the EarlyStopping and the Callback objects. Functions among callbacks and metrics are called from several
            threads; `state.network` says whose epoch has ended. `progress` counts networks. Checkpoints of networks[0]
            are in the folder 0 inside of that of the `checkpoint`, and so on.

    Returns:
        the history of each network, in the same order.

    Raises:
        ValueError, TypeError: an item is no network, or a network is in the list twice.
        Exception: the training of a network fails; a note says which one. The others end after their current epochs,
            as they do after Ctrl-C. Every network that has begun has its history, `net.history`, whose `stopped` says
            why it ended; the others are unchanged.

    >>> import nnbp
    >>> networks = [nnbp.Network([2, 8, 1], device="cpu", seed=seed) for seed in range(3)]
    >>> histories = nnbp.fit_many(networks, [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0], epochs=9, progress=False)
    >>> [history.epochs for history in histories]
    [9, 9, 9]
    """
    if options.get("comm") is not None:
        raise ValueError(
            "fit_many trains each network in one process, and comm is for one network in several; received comm. Leave "
            "it out: give each process some of the networks."
        )
    networks = items("networks", networks, "a list of networks")
    places: dict[int, int] = {}
    for index, network in enumerate(networks):
        instance(f"networks[{index}]", network, Trainable, "a network")
        first = places.setdefault(id(network), index)
        if first != index:
            raise ValueError(
                f"All networks of the list are different ones; received the same as networks[{first}] and "
                f"networks[{index}]. Train copies: net.copy()."
            )
    return _Run(networks, X, y, options)()


class _EndedEarly(Exception):  # noqa: N818
    """Ends the training of a network because of another one's; a `stop` would be kept in its checkpoints."""


class _Run:
    """One call of `fit_many`."""

    def __init__(self, networks: Sequence[Trainable], X: Any, y: Any, options: dict[str, Any]) -> None:
        self.networks, self.X, self.y, self.options = networks, X, y, options
        self.callbacks = listed(options.get("callbacks", ()))
        self.stopping = early_stopping(options.get("early_stopping"))
        self.optimizer = optimizers.get(options.get("optimizer", "adam"))
        self.progress = reporter(options.get("progress", "auto"), unit="network") or Callback()
        self.state = TrainingState(None, len(networks), History())
        self.errors: dict[int, BaseException] = {}
        self.reason: str | None = None
        """Why training is to end early."""
        self._lock, self._begun = Lock(), Event()
        self._read: dict[str, NDArray[Any] | Lazy] = {}
        self._converted: dict[tuple[str, np.dtype[Any]], NDArray[Any]] = {}

    def __call__(self) -> list[History]:
        queues: defaultdict[Any, list[int]] = defaultdict(list)
        for index, network in enumerate(self.networks):
            alone = self.optimizer.searches or network.device != "cpu"
            queues[network.device if alone else index].append(index)
        self.progress.on_train_begin(self.state)
        try:
            with ThreadPoolExecutor(cores(), "nnbp fit_many") as pool:
                try:
                    # In the caller's context, NumPy's error state for example.
                    futures = [pool.submit(copy_context().run, self._train, queue) for queue in queues.values()]
                    self._begun.set()
                    while wait(futures, _PAUSE).not_done:
                        pass
                except BaseException as error:
                    self._end(f"fit_many was interrupted by {type(error).__name__}")
                    self._begun.set()
                    raise
        finally:
            self.progress.on_train_end(self.state)
        if self.errors:
            raise self.errors[min(self.errors)]
        return [network.history for network in self.networks if network.history is not None]

    def _train(self, queue: Sequence[int]) -> None:
        """Trains networks one after the other."""
        # The pool does not wait for a thread that it was about to note when an interrupt came.
        self._begun.wait()
        for index in queue:
            if self.reason is not None:
                return
            try:
                history = self._fit(index)
            except _EndedEarly:
                known = self.networks[index].history
                assert known is not None, "it has trained"
                known.stopped = self.reason
                return
            except BaseException as error:
                error.add_note(f"This happened in the training of networks[{index}] by fit_many.")
                self.errors[index] = error
                self._end(f"the training of networks[{index}] failed")
                return
            with self._lock:
                self.state.epoch += 1
                self.state.logs = {name: values[-1] for name, values in history.items()}
                self.progress.on_epoch_end(self.state)

    def _fit(self, index: int) -> History:
        network = self.networks[index]
        own: dict[str, Any] = {
            "callbacks": [*map(copy.copy, self.callbacks), self._end_early],
            "early_stopping": copy.copy(self.stopping),
            "progress": False,
        }
        if isinstance(checkpoint := self.options.get("checkpoint"), Checkpoint):
            own["checkpoint"] = checkpoint.inner(str(index))
        held_out = self.options.get("validation_data")
        if isinstance(held_out, tuple | list) and held_out:
            own["validation_data"] = (self._shared("validation", held_out[0], network), *held_out[1:])
        return network.fit(self._shared("training", self.X, network), self.y, **{**self.options, **own})

    def _end(self, reason: str) -> None:
        """Ends all training, for the first reason that there is."""
        self.reason = self.reason or reason

    def _end_early(self, state: TrainingState) -> None:
        if self.reason is not None and not state.stop and state.epoch < state.epochs:
            raise _EndedEarly(self.reason)

    def _shared(self, purpose: str, X: Any, network: Trainable) -> Any:
        """X in the dtype in which a network on the CPU reads it, the same array for all networks of this dtype."""
        if network.device != "cpu":
            return X
        with self._lock, np.errstate(over="ignore"):
            array = self._read[purpose] = self._read[purpose] if purpose in self._read else samples_on_host(X)
            if isinstance(array, Lazy) or is_mapped(array):
                return array
            key = purpose, network.input_dtype(array)
            if key not in self._converted:
                self._converted[key] = np.ascontiguousarray(array, key[1])
            return self._converted[key]
