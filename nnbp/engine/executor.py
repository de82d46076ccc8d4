"""Executors: one forward and backward pass, with every buffer allocated once and every call bound.

An executor is made for one batch size and run as often as wanted. Running it allocates nothing, branches on no value
and waits for nothing, so a backend that can may record it as one graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nnbp.graph.backend import Backend
from nnbp.graph.builder import Builder
from nnbp.graph.ops import Array, Gemm, Precision, RandomStream, Reduce
from nnbp.nn.layers import DenseNode, Layer, Node
from nnbp.nn.losses import Loss, Output
from nnbp.nn.parameters import Parameters

__all__ = ["Batch", "Engine", "Executor"]


@dataclass(frozen=True)
class Engine:
    """What an executor needs of a network: layers of known sizes, the loss, the parameters and where they live."""

    backend: Backend
    dtype: Any
    layers: Sequence[Layer]
    loss: Loss
    weight_decay: float
    n_in: int
    n_out: int
    parameters: Parameters
    streams: Sequence[RandomStream | None]
    precision: Precision | None = None

    def recorder(self, samples: int, *, training: bool) -> Builder:
        """A recorder for batches of so many samples."""
        return Builder(self.backend, self.dtype, samples, training=training, precision=self.precision)


@dataclass(frozen=True)
class Batch:
    """The arrays that an executor reads: x (m, n_in), encoded targets y (m, columns), weights w (m, 1)."""

    x: Array
    y: Array | None = None
    w: Array | None = None


class Executor:
    """A forward pass on a batch, with targets its cost, with `gradients` the way back.

    Attributes:
        forward, backward: the bound calls, for a longer recording; `run_forward` and `run_backward` run them. The way
            back leaves ∇J in ``parameters.gradient``.
        nodes: one a layer; a Dense layer's has z, a and, after `backward`, delta.
        h: output (n_out, m).
        cost: C of each sample (1, m).
        share: w / Σw (1, m), or 1 / m (1, 1) without weights; delta and gradients are linear in it.
        weight: Σw (1, 1), m without weights.
        total: Σ w C (1, 1).
        dx: ∂J/∂x (n_in, m) where `want_dx`.

    Args:
        engine: the network.
        batch: the arrays to read.
        training: whether dropout drops.
        gradients: whether to record the way back; needs targets.
        keep_z: whether z is kept beside a in every layer.
        want_dx: whether the way back goes on to the input.
    """

    def __init__(
        self,
        engine: Engine,
        batch: Batch,
        *,
        training: bool = False,
        gradients: bool = False,
        keep_z: bool = False,
        want_dx: bool = False,
    ) -> None:
        self.engine, self.batch = engine, batch
        op = engine.recorder(len(batch.x), training=training)
        self.buffers = op.buffers
        self.forward = op.begin()
        self.nodes: list[Node] = []
        self._record_layers(op, keep_z=keep_z)
        self.h = self.nodes[-1].a
        self.dx: Array | None = None
        if batch.y is not None:
            self._record_loss(op, batch.y)
        self.backward = op.begin()
        if gradients:
            self._record_backward(op, want_dx=want_dx)

    def _record_layers(self, op: Builder, *, keep_z: bool) -> None:
        engine = self.engine
        theta = engine.parameters.views(engine.parameters.theta)
        gradient = engine.parameters.views(engine.parameters.gradient)
        x = self.batch.x.T
        for k, layer in enumerate(engine.layers):
            # The loss looks at z of the output layer.
            keep = keep_z or k == len(engine.layers) - 1
            node = layer.connect(op, x, theta[k], gradient[k], engine.streams[k], keep_z=keep)
            self.nodes.append(node)
            x = node.a

    @cached_property
    def run_forward(self) -> Callable[[], None]:
        """Runs the forward pass."""
        return self.engine.backend.compile(self.forward)

    @cached_property
    def run_backward(self) -> Callable[[], None]:
        """Runs the way back; the forward pass has to have run."""
        return self.engine.backend.compile(self.backward)

    @property
    def _last(self) -> DenseNode:
        node = self.nodes[-1]
        assert isinstance(node, DenseNode), "a network ends in a Dense layer"
        return node

    @property
    def output(self) -> Output:
        """The output layer, as the loss sees it."""
        node = self._last
        return Output(node.f, node.z, node.a, node.rows)

    def _record_loss(self, op: Builder, y: Array) -> None:
        loss, out, m = self.engine.loss, self.output, op.samples
        self.cost, self.total, self.weight = op.empty(1), op.empty(1, 1), op.constant([[m]])
        self.share = op.constant([[1.0 / m]])
        self.y = loss.record_targets(op, y.T, self.engine.n_out)
        loss.record_cost(op, out, self.y, self.cost)
        if self.batch.w is None:
            op.record(Reduce("sum", self.cost, 1, self.total))
            return
        w, self.share = self.batch.w.T, op.empty(1)
        op.record(Reduce("sum", w, 1, self.weight))
        # A batch whose weights are all 0 has loss 0 and gradient 0.
        op.map(lambda w, total: w / (total + (total == 0.0)), [self.share], w=w, total=self.weight)
        op.record(Gemm(self.cost, self.batch.w, self.total))

    def _record_backward(self, op: Builder, *, want_dx: bool) -> None:
        engine = self.engine
        delta = engine.loss.record_delta(op, self.output, self.y, self.share)
        # Nothing before the first layer with parameters needs a derivative, unless ∂J/∂x itself is wanted.
        first = next(k for k, specs in enumerate(engine.parameters.specs) if specs)
        last = len(self.nodes) - 1
        da: Array | None = None
        for k in range(last, -1 if want_dx else first - 1, -1):
            below = want_dx or k > first
            if k == last:
                da = self._last.propagate(op, delta, want_dx=below)
            else:
                assert da is not None, "every layer above the first that learns passes its derivative down"
                da = self.nodes[k].backward(op, da, want_dx=below)
        self.dx = da if want_dx else None
        if engine.weight_decay:
            theta, gradient = engine.parameters.theta, engine.parameters.gradient
            n = engine.parameters.decayed
            op.map(lambda g, W: g + engine.weight_decay * W, [gradient[:n]], g=gradient[:n], W=theta[:n])
