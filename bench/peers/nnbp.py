"""nnbp, through its public `Network.fit`."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ..cases import Problem
from ..peer import Peer

__all__ = ["Nnbp"]


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
        # What has no other precision than the dtype's own is not asked for one.
        words: dict[str, Any] = {} if case.precision == "fp32" else {"precision": case.precision}
        self.net = Network(
            list(case.sizes),
            activation=case.activation,
            loss="cross_entropy",
            dtype=case.dtype,
            device=self.device(case.device),
            seed=problem.seed,
            fallback=False,
            **words,
        )
        backend = self.net.model.backend
        self.X = backend.upload(problem.X, case.dtype) if case.on_gpu else problem.X
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
        self.net.model.backend.synchronize()

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
