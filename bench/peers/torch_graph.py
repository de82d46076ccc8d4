"""PyTorch with a whole step captured by hand in one CUDA graph: batch, loss, gradients and update in one launch."""

from __future__ import annotations

from collections.abc import Callable

from ..cases import Problem
from .torch_eager import TorchEager

_WARM_UP = 3
"""Steps before the capture: libraries allocate their workspaces, the optimizer its slots."""


class TorchGraph(TorchEager):
    """A torch.cuda.CUDAGraph of the step. It finds its batch by a counter on the device.

    Raises:
        ValueError: the last batch of an epoch is smaller, or samples are shuffled: the graph has one size and order.
    """

    label = "PyTorch CUDA graph"
    devices = ("cuda",)

    def __init__(self, problem: Problem, threads: int) -> None:
        super().__init__(problem, threads)
        if self.standing is None or len(self.X) % self.case.batch:
            raise ValueError(
                "A captured step has whole batches and samples that are not shuffled; give it such a case."
            )
        self.batches = self.standing.view(-1, self.case.batch)
        self.counter = self.torch.zeros(1, dtype=self.torch.int64, device=self.case.device)
        self.total = self.torch.zeros((), device=self.case.device)
        self.replay = self.captured() if self.case.on_gpu else self.whole_step
        # The warm-up has trained.
        self.reset()

    def whole_step(self) -> None:
        """One step, which reads and leaves all it needs on the device."""
        rows = self.batches.index_select(0, self.counter).view(-1)
        self.total += self.step(rows)
        self.counter += 1

    def captured(self) -> Callable[[], None]:
        """Launches the step as one graph; made on a stream of its own, as PyTorch's documentation has it."""
        cuda = self.torch.cuda
        stream = cuda.Stream(self.case.device)
        stream.wait_stream(cuda.current_stream(self.case.device))
        with cuda.stream(stream):
            for _ in range(_WARM_UP):
                self.counter.zero_()
                self.whole_step()
        cuda.current_stream(self.case.device).wait_stream(stream)
        # The gradients' memory has to come from the graph's own pool.
        self.optimizer.zero_grad(set_to_none=True)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph, stream=stream):
            self.whole_step()
        replay: Callable[[], None] = graph.replay
        return replay

    def fit(self, epochs: int) -> None:
        for _ in range(epochs):
            self.counter.zero_()
            self.total.zero_()
            for _ in range(self.case.batches):
                self.replay()
            self.total.item()
