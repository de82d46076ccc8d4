"""An activation is its formula."""

from nnbp import Activation


class Softsign(Activation):
    """f(z) = z / (1 + |z|)."""

    name = "softsign"

    def f(self, z):
        return z / (1 + abs(z))
