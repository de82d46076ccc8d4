"""PyTorch as it runs by itself, with what its documentation recommends for speed: fused optimizers, resident data."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any, ClassVar

from numpy.typing import NDArray

from ..cases import Problem
from ..peer import Peer

_MATMUL = {"fp32": "highest", "tf32": "high", "bf16": "highest"}
"""PyTorch's names for the precision of products of float32 matrices; with bf16 they are cast."""


class TorchEager(Peer):
    """PyTorch eager."""

    label = "PyTorch"
    modules = ("torch",)
    distributions = ("torch",)
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    fused = True

    def __init__(self, problem: Problem, threads: int) -> None:
        super().__init__(problem, threads)
        import torch

        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(_MATMUL[self.case.precision])
        self.torch, case = torch, self.case
        layers: list[Any] = []
        for n_in, n_out in pairwise(case.sizes):
            layers += [torch.nn.Linear(n_in, n_out), torch.nn.Tanh() if case.activation == "tanh" else torch.nn.ReLU()]
        self.net = torch.nn.Sequential(*layers[:-1]).to(case.device)
        self.cost = torch.nn.CrossEntropyLoss()
        rule, words = torch.optim.SGD, {}
        if case.optimizer == "adam":
            # Its counter of steps is then on the device too, which graphs need.
            rule, words = torch.optim.Adam, {"capturable": True} if case.on_gpu else {}
        self.optimizer = rule(self.net.parameters(), lr=case.rate, fused=self.fused or None, **words)
        self.X, self.y = (torch.from_numpy(array).to(case.device) for array in (problem.X, problem.y))
        self.standing = None if case.shuffle else torch.from_numpy(self.epoch_order()).to(case.device)
        self.compiled()
        self.reset()

    @classmethod
    def lacks(cls, device: str) -> str | None:
        import torch

        if device == "cpu" or int(device.partition(":")[2]) < torch.cuda.device_count():
            return None
        found = torch.cuda.device_count() or "no"
        return f"torch {torch.__version__} sees {found} GPU: {device} needs a build of PyTorch for CUDA, and a driver"

    def compiled(self) -> None:
        """Sets the functions that a step and a prediction call."""
        self.batch_loss: Callable[[Any, Any], Any] = self.cost_of
        self.update: Callable[[], Any] = self.optimizer.step
        self.classes: Callable[[Any], Any] = lambda x: self.net(x).argmax(1)

    def cost_of(self, x: Any, y: Any) -> Any:
        """Mean cross-entropy, with the case's precision: bf16 has float32 parameters, which are cast in every step."""
        with self.cast():
            return self.cost(self.net(x), y)

    def cast(self) -> AbstractContextManager[Any]:
        """The context in which operations are cast to bf16; none for other precisions."""
        if self.case.precision != "bf16":
            return nullcontext()
        cast: AbstractContextManager[Any] = self.torch.autocast(self.case.device.partition(":")[0], self.torch.bfloat16)
        return cast

    def reset(self) -> None:
        arrays = [array for pair in zip(self.problem.weights, self.problem.biases, strict=True) for array in pair]
        with self.torch.no_grad():
            for parameter, array in zip(self.net.parameters(), arrays, strict=True):
                parameter.copy_(self.torch.from_numpy(array))
            for state in self.optimizer.state.values():
                for slot in state.values():
                    if slot is not None:
                        slot.zero_()

    def wait(self) -> None:
        if self.case.on_gpu:
            self.torch.cuda.synchronize(self.case.device)

    def next_order(self) -> Any:
        """The order of the next epoch, on the device."""
        return self.torch.from_numpy(self.epoch_order()) if self.standing is None else self.standing

    def fit(self, epochs: int) -> None:
        torch, batch, m = self.torch, self.case.batch, len(self.X)
        for _ in range(epochs):
            order, total = self.next_order(), torch.zeros((), device=self.case.device)
            for start in range(0, m, batch):
                total += self.step(order[start : start + batch])
            total.item()

    def step(self, rows: Any) -> Any:
        """One training step; the batch's loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.batch_loss(self.X.index_select(0, rows), self.y.index_select(0, rows))
        loss.backward()
        self.update()
        return loss.detach()

    def loss(self) -> float:
        with self.torch.inference_mode():
            return float(self.cost_of(self.X, self.y))

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        with self.torch.inference_mode():
            found: NDArray[Any] = self.classes(self.torch.from_numpy(X).to(self.case.device)).cpu().numpy()
            return found
