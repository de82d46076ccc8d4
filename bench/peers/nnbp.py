"""nnbp, through its public `Network.fit`."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ..cases import Problem
from ..peer import Peer

__all__ = ["Nnbp"]


class Nnbp(Peer):
    """nnbp on the CPU."""

    label = "nnbp"
    modules = ("nnbp",)
    distributions = ("nnbp",)

    def __init__(self, problem: Problem, threads: int) -> None:
        super().__init__(problem, threads)
        from nnbp import Network

        self.net = Network(
            list(self.case.sizes),
            activation=self.case.activation,
            loss="cross_entropy",
            dtype=self.case.dtype,
            device="cpu",
            seed=problem.seed,
        )
        self.reset()

    def reset(self) -> None:
        # `fit` always begins with a new optimizer.
        self.net.set_parameters(self.problem.weights, self.problem.biases)

    def fit(self, epochs: int) -> None:
        case = self.case
        self.net.fit(
            self.problem.X,
            self.problem.y,
            epochs=epochs,
            batch_size=case.batch,
            optimizer=case.optimizer,
            learning_rate=case.rate,
            progress=False,
        )

    def loss(self) -> float:
        return self.net.loss(self.problem.X, self.problem.y)

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        classes: NDArray[Any] = self.net.predict(X)
        return classes
