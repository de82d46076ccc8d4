"""PyTorch with torch.compile of the loss, its gradient and the optimizer's step."""

from __future__ import annotations

from typing import Any

from .torch_eager import TorchEager


class TorchCompile(TorchEager):
    """torch.compile; the optimizer is not the fused one, as the compiler fuses it. On a GPU, what it makes runs as
    CUDA graphs."""

    label = "torch.compile"
    fused = False

    def compiled(self) -> None:
        """The functions of eager PyTorch, compiled; what earlier cases compiled is forgotten."""
        super().compiled()
        self.torch._dynamo.reset()
        words = {"mode": "reduce-overhead"} if self.case.on_gpu else {}
        self.batch_loss = self.torch.compile(self.batch_loss, **words)
        self.update = self.torch.compile(self.update, **words)
        # Every batch size is compiled for itself, as a program that predicts with one size has it.
        self.classes = self.torch.compile(self.classes, dynamic=False)

    def step(self, rows: Any) -> Any:
        if self.case.on_gpu:
            # The loss of the step before has been added up: its memory may be used again.
            self.torch.compiler.cudagraph_mark_step_begin()
        return super().step(rows)
