"""nnbp, through its public `Network.fit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cases import Problem
from ..peer import Peer
from ..workers.timing import seconds_per_call

KINDS = ("products", "activation", "softmax and cost", "bias gradients", "gather", "update", "the rest")
"""Of the operations of a training step."""

_PRECISIONS: dict[str, Any] = {"fp32": None, "tf32": "tf32", "bf16": "bf16"}

_RUNS = 10_000
"""So often, about, runs what is compiled for a measurement."""


class Nnbp(Peer):
    """nnbp; on a GPU its inputs are there already."""

    label = "nnbp"
    modules = ("nnbp",)
    distributions = ("nnbp",)
    devices = ("cpu", "cuda")

    def __init__(self, problem: Problem, threads: int) -> None:
        super().__init__(problem, threads)
        from nnbp import Network

        case = self.case
        self.net = Network(
            list(case.sizes),
            activation=case.activation,
            loss="cross_entropy",
            device=self.device(case.device),
            seed=problem.seed,
            fallback=False,
            precision=_PRECISIONS[case.precision],
        )
        self.backend = self.net.model.backend
        self.X = self.backend.upload(problem.X, np.float32) if case.on_gpu else problem.X
        self.reset()

    def device(self, name: str) -> Any:
        """What the network is given as its device."""
        return name

    @classmethod
    def lacks(cls, device: str) -> str | None:
        from nnbp import DeviceUnavailableError, Network

        try:
            Network([1, 1], device=device, fallback=False)
        except DeviceUnavailableError as error:
            return str(error)
        return None

    def wait(self) -> None:
        self.backend.synchronize()

    def reset(self) -> None:
        # `fit` always begins with a new optimizer.
        self.net.set_parameters(self.problem.weights, self.problem.biases)

    def fit(self, epochs: int) -> None:
        case = self.case
        self.net.fit(
            self.X,
            self.problem.y,
            epochs=epochs,
            batch_size=case.batch,
            optimizer=case.optimizer,
            learning_rate=case.rate,
            shuffle=case.shuffle,
            progress=False,
        )

    def loss(self) -> float:
        return self.net.loss(self.X, self.problem.y)

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        classes: NDArray[Any] = self.net.predict(X)
        return classes

    def step_operations(self) -> list[Any]:
        """The operations of a training step, as `fit` hands them to the backend: the longest list that it compiles."""
        lists: list[list[Any]] = []
        keep = self.backend.compile

        def compile(operations: Sequence[Any], times: int = 1, runs: int = 1) -> Callable[[], None]:
            lists.append(list(operations))
            return keep(operations, times, runs)

        self.backend.compile = compile  # type: ignore[method-assign]
        try:
            self.fit(1)
        finally:
            self.backend.compile = keep  # type: ignore[method-assign]
        return max(lists, key=len)

    def parts(self, seconds: float) -> dict[str, Any]:
        """What a step consists of: ``operations``, how many, and seconds of each kind, compiled and run on its own.

        Args:
            seconds: of all measurements together, about.
        """
        from nnbp.graph.ops import Advance

        operations = self.step_operations()
        found = kinds(operations, self.net.model.parameters.theta, len(self.case.sizes) - 1)
        groups: dict[str, list[Any]] = {kind: [] for kind in KINDS}
        for operation, kind in zip(operations, found, strict=True):
            if isinstance(operation, Advance):
                # The counter finds the batch: it goes back to the first one, and stays there.
                operation.counter[...] = 0
            else:
                groups[kind].append(operation)
        with self.backend.active():
            times = {
                kind: seconds_per_call(self.backend.compile(group, runs=_RUNS), seconds / len(KINDS), self.wait)
                for kind, group in groups.items()
            }
        return {"operations": len(operations), "kinds": times}


def kinds(operations: Sequence[Any], theta: Any, layers: int) -> list[str]:
    """The kind of each operation of a training step.

    The first products, one per layer, are the forward pass; the loss works between the last of them and the next
    product, and activations between the others.
    """
    from nnbp.graph.ops import Gather, Gemm, Reduce

    products = [i for i, operation in enumerate(operations) if isinstance(operation, Gemm) and operation.out.size > 1]
    forward, last = products[:layers], products[-1]

    def kind(i: int, operation: Any) -> str:
        if i in products:
            return "products"
        if any(np.may_share_memory(array, theta) for array in operation.writes):
            return "update"
        if isinstance(operation, Gather):
            return "gather"
        if forward[-1] < i < products[layers]:
            return "softmax and cost"
        if isinstance(operation, Reduce) and i > products[layers]:
            return "bias gradients"
        return "activation" if forward[0] < i < last else "the rest"

    return [kind(i, operation) for i, operation in enumerate(operations)]
