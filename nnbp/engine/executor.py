"""Executors: one forward and backward pass, with every buffer allocated once and every operation recorded.

An executor is built for one batch size and can be run any number of times. A run does not allocate, branch on values or
wait, so a backend may record it as one graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nnbp.engine.model import Model, statistics_unknown
from nnbp.graph.builder import Builder
from nnbp.graph.ops import Array, Gemm, Operation, Reduce
from nnbp.nn.layers import DenseNode, Node
from nnbp.nn.losses import Output


@dataclass(frozen=True, eq=False)
class Batch:
    """The arrays that an executor reads: x (m, n_in), encoded targets y (m, columns), weights w (m, 1)."""

    x: Array
    y: Array | None = None
    w: Array | None = None


class Executor:
    """A forward pass on a batch, with the cost if there are targets, and the backward pass if `gradients` is set.

    Attributes:
        forward, backward: the operations, so that they can become part of a longer recording; `run_forward` and
            `run_backward` run them. The backward pass writes ∇J to ``parameters.gradient``.
        nodes: one per layer; the node of a Dense layer has z, a and, after the backward pass, delta.
        h: output (n_out, m); `output` is the whole output layer, in the form that the loss takes.
        cost: C of each sample (1, m).
        share: w / Σw (1, m), or 1 / m (1, 1) without weights; if `summed`, w or 1. Delta and gradients are
            linear in it.
        weight: Σw (1, 1), or m without weights.
        total: Σ w C (1, 1).
        dx: ∂J/∂x (n_in, m) if `want_dx`.
        check: Σ x² of all samples (1, 1) if `check`, plus Σ h² if the loss decides classes; a finite sum has finite
            terms alone.

    Args:
        model: the network.
        batch: the arrays to read.
        training: whether dropout is active.
        searching: whether the pass is that of an optimizer that searches; see `Builder`.
        gradients: whether to record the backward pass, which needs targets.
        keep_z: whether every layer keeps z as well as a.
        check: whether to compute what shows that x and h are finite.
        want_dx: whether the backward pass continues to the input.
        summed: whether the gradient is Σ w ∂C/∂θ, to be added to that of other ranks, and not ∇J.
        place: where the samples are in a larger batch; see `Builder`.

    Raises:
        NnbpError: the statistics of the inputs are not known yet.
    """

    def __init__(
        self,
        model: Model,
        batch: Batch,
        *,
        training: bool = False,
        searching: bool = False,
        gradients: bool = False,
        keep_z: bool = False,
        check: bool = False,
        want_dx: bool = False,
        summed: bool = False,
        place: tuple[int, int] | None = None,
    ) -> None:
        if not model.observed:
            raise statistics_unknown()
        self.model, self.batch = model, batch
        op = model.builder(len(batch.x), training=training, searching=searching, place=place)
        self.forward: list[Operation] = op.begin()
        self.nodes: list[Node] = []
        self._record_layers(op, keep_z=keep_z)
        last = self.nodes[-1]
        assert isinstance(last, DenseNode), "a network ends in a Dense layer"
        self.h, self._last, self.output = last.a, last, Output(last.f, last.z, last.a, last.rows)
        self.dx: Array | None = None
        if check:
            self._record_check(op)
        if batch.y is not None:
            self._record_loss(op, batch.y, summed=summed)
        self.backward: list[Operation] = op.begin()
        if gradients:
            self.record_back(op, model.loss.record_delta(op, self.output, self.y, self.share), want_dx=want_dx)
            if not summed:
                model.record_decay(op)

    def _record_layers(self, op: Builder, *, keep_z: bool) -> None:
        model = self.model
        theta = model.parameters.views(model.parameters.values)
        gradient = model.parameters.views(model.parameters.gradient)
        x = self.batch.x.T
        for k, layer in enumerate(model.layers):
            # The loss reads z of the output layer.
            keep = keep_z or k == len(model.layers) - 1
            arrays = {**theta[k], **model.statistics[k]}
            node = layer.connect(op, x, arrays, gradient[k], model.streams[k], keep_z=keep)
            self.nodes.append(node)
            x = node.a

    def _record_check(self, op: Builder) -> None:
        squares = []
        for array in (self.batch.x, self.h) if self.model.loss.classification else (self.batch.x,):
            squares.append(op.empty(1, 1, array.dtype))
            op.record(Gemm(array.reshape(1, -1), array.reshape(-1, 1), squares[-1]))
        self.check, *others = squares
        for other in others:
            op.map(lambda x, h: x + h, [self.check], x=self.check, h=other)

    @cached_property
    def run_forward(self) -> Callable[[], None]:
        """Runs the forward pass."""
        return self.model.backend.compile(self.forward)

    @cached_property
    def run_backward(self) -> Callable[[], None]:
        """Runs the backward pass; the forward pass must have run."""
        return self.model.backend.compile(self.backward)

    def _record_loss(self, op: Builder, y: Array, *, summed: bool) -> None:
        loss, m = self.model.loss, op.samples
        self.cost, self.total, self.weight = op.empty(1), op.empty(1, 1), op.constant([[m]])
        self.share = op.constant([[1.0 if summed else 1.0 / m]])
        self.y = loss.record_targets(op, y.T, self.model.n_out)
        loss.record_cost(op, self.output, self.y, self.cost)
        if self.batch.w is None:
            op.record(Reduce("sum", self.cost, 1, self.total))
            return
        w, self.share = self.batch.w.T, self.batch.w.T if summed else op.empty(1)
        op.record(Reduce("sum", w, 1, self.weight))
        if not summed:
            op.map(mean, [self.share], total=w, weight=self.weight)
        op.record(Gemm(self.cost, self.batch.w, self.total))

    def record_back(self, op: Builder, delta: Array, *, want_dx: bool = False) -> None:
        """Records the way of delta (n_out, m) of the output layer back through all layers, to their gradients."""
        model = self.model
        # Nothing before the first layer with parameters needs a derivative, unless ∂J/∂x itself is wanted.
        first = next(k for k, specs in enumerate(model.parameters.specs) if specs)
        last = len(self.nodes) - 1
        da = self._last.propagate(op, delta, want_dx=want_dx or last > first)
        for k in range(last - 1, -1 if want_dx else first - 1, -1):
            da = self.nodes[k].backward(op, da, want_dx=want_dx or k > first)
        self.dx = da if want_dx else None


def mean(total: Any, weight: Any) -> Any:
    """total / weight; 0 if a batch has no weight: its loss and its gradient are 0."""
    return total / (weight + (weight == 0.0))
