"""PyTorch as it runs by itself, with what its documentation recommends for speed: fused optimizers, resident data."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from numpy.typing import NDArray

from ..cases import Problem
from ..peer import Peer

__all__ = ["TorchEager"]


class TorchEager(Peer):
    """PyTorch eager."""

    label = "PyTorch"
    modules = ("torch",)
    distributions = ("torch",)
    fused = True

    def __init__(self, problem: Problem, threads: int) -> None:
        super().__init__(problem, threads)
        import torch

        torch.set_num_threads(threads)
        self.torch, case = torch, self.case
        layers: list[Any] = []
        for n_in, n_out in pairwise(case.sizes):
            layers += [torch.nn.Linear(n_in, n_out), torch.nn.Tanh() if case.activation == "tanh" else torch.nn.ReLU()]
        self.net = torch.nn.Sequential(*layers[:-1])
        self.cost = torch.nn.CrossEntropyLoss()
        rule = torch.optim.SGD if case.optimizer == "sgd" else torch.optim.Adam
        self.optimizer = rule(self.net.parameters(), lr=case.rate, fused=self.fused or None)
        self.X, self.y = torch.from_numpy(problem.X), torch.from_numpy(problem.y)
        self.compiled()
        self.reset()

    def compiled(self) -> None:
        """Sets the functions that a step and a prediction call."""
        self.batch_loss: Callable[[Any, Any], Any] = lambda x, y: self.cost(self.net(x), y)
        self.update: Callable[[], Any] = self.optimizer.step
        self.classes: Callable[[Any], Any] = lambda x: self.net(x).argmax(1)

    def reset(self) -> None:
        arrays = [array for pair in zip(self.problem.weights, self.problem.biases, strict=True) for array in pair]
        with self.torch.no_grad():
            for parameter, array in zip(self.net.parameters(), arrays, strict=True):
                parameter.copy_(self.torch.from_numpy(array))
            for state in self.optimizer.state.values():
                for slot in state.values():
                    if slot is not None:
                        slot.zero_()

    def fit(self, epochs: int) -> None:
        torch, batch, m = self.torch, self.case.batch, len(self.X)
        for _ in range(epochs):
            order, total = torch.from_numpy(self.order.permutation(m)), torch.zeros(())
            for start in range(0, m, batch):
                rows = order[start : start + batch]
                self.optimizer.zero_grad(set_to_none=True)
                loss = self.batch_loss(self.X.index_select(0, rows), self.y.index_select(0, rows))
                loss.backward()
                self.update()
                total += loss.detach()
            total.item()

    def loss(self) -> float:
        with self.torch.inference_mode():
            return float(self.cost(self.net(self.X), self.y))

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        with self.torch.inference_mode():
            found: NDArray[Any] = self.classes(self.torch.from_numpy(X)).numpy()
            return found
