"""The building blocks of B-cos networks, usable in networks of one's own."""

from .activations import GatedGELU, make_activation
from .attention import Attention, attend
from .bcos import BcosConv2d, BcosLinear
from .conv_norm import chain, conv_norm
from .functional import default_logit_bias, encode, v1_scale
from .heads import Encode, LogitLayer, Normalize
from .linear_mode import add_constant, hold, is_linear, linear_mode
from .norms import NORM_NAMES, BatchNorm2d, GroupNorm2d, LayerNorm, PositionNorm2d, make_norm2d
from .spec import V2, LayerSpec

__all__ = [
    "NORM_NAMES",
    "Attention",
    "BatchNorm2d",
    "BcosConv2d",
    "BcosLinear",
    "Encode",
    "GatedGELU",
    "GroupNorm2d",
    "LayerNorm",
    "LayerSpec",
    "LogitLayer",
    "Normalize",
    "PositionNorm2d",
    "V2",
    "add_constant",
    "attend",
    "chain",
    "conv_norm",
    "default_logit_bias",
    "encode",
    "hold",
    "is_linear",
    "linear_mode",
    "make_activation",
    "make_norm2d",
    "v1_scale",
]
