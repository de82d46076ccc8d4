"""An activation, a layer and a backend from outside of nnbp."""

from nnbp_thirdparty.activation import Softsign
from nnbp_thirdparty.layer import Scale

__all__ = ["Scale", "Softsign"]
