"""A layer describes itself, and records its forward and backward passes."""

import numpy as np

from nnbp import Layer
from nnbp.graph.ops import Reduce
from nnbp.nn.layers import Node
from nnbp.nn.parameters import ParameterSpec


class Scale(Layer):
    """a = s x, feature by feature, with learned factors s that begin at 1."""

    kind = "scale"

    def outputs(self, n_in):
        return n_in

    def parameters(self, n_in):
        return [ParameterSpec("s", (n_in,), decays=False)]

    def initial(self, rng, n_in):
        return {"s": np.ones(n_in)}

    def connect(self, op, x, theta, gradient, stream, *, keep_z):
        return ScaleNode(op, x, theta["s"].reshape(-1, 1), gradient["s"].reshape(-1, 1))

    def config(self):
        return {}


class ScaleNode(Node):
    """The buffers of one `Scale` layer: x and a are (n, m), s and its gradient (n, 1)."""

    def __init__(self, op, x, s, ds):
        self.x, self.s, self.ds = x, s, ds
        self.a = op.empty(x.shape[0])
        op.map(lambda s, x: s * x, [self.a], s=s, x=x)

    def backward(self, op, da, *, want_dx):
        """∂C/∂s = Σ ∂C/∂a x over the samples, and ∂C/∂x = s ∂C/∂a."""
        products = op.empty(self.x.shape[0])
        op.map(lambda da, x: da * x, [products], da=da, x=self.x)
        op.record(Reduce("sum", products, 1, self.ds))
        if not want_dx:
            return None
        op.map(lambda da, s: da * s, [da], da=da, s=self.s)
        return da
