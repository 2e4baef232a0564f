"""Any network of timm as a B-cos network, by rule."""

from .layers import as_bcos
from .network import Converted
from .trial import randomised, tried

__all__ = ["Converted", "as_bcos"]
