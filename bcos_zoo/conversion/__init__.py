"""Any network of timm as a B-cos network, by rule."""

from . import bcos_converted as bcos_converted  # registers it with timm
from . import bcos_efficientnet as bcos_efficientnet
from .bcosify import bcosify
from .layers import as_bcos
from .network import Converted
from .statistics import reestimate

__all__ = ["Converted", "as_bcos", "bcosify", "reestimate"]
