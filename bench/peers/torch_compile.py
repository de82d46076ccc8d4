"""PyTorch with torch.compile of the loss, its gradient and the optimizer's step."""

from __future__ import annotations

from .torch_eager import TorchEager

__all__ = ["TorchCompile"]


class TorchCompile(TorchEager):
    """torch.compile; the optimizer is not the fused one, as the compiler fuses it."""

    label = "torch.compile"
    fused = False

    def compiled(self) -> None:
        """The functions of eager PyTorch, compiled; what earlier cases compiled is forgotten."""
        super().compiled()
        self.torch._dynamo.reset()
        self.batch_loss = self.torch.compile(self.batch_loss)
        self.update = self.torch.compile(self.update)
        # Every batch size is compiled for itself, as a program that predicts with one size has it.
        self.classes = self.torch.compile(self.classes, dynamic=False)
