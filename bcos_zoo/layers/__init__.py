"""The building blocks of B-cos networks, usable in networks of one's own."""

from .bcos import BcosConv2d, BcosLinear
from .conv_norm import conv_norm
from .functional import default_logit_bias, encode, v1_scale
from .heads import Encode, LogitLayer
from .linear_mode import add_constant, hold, is_linear, linear_mode
from .norms import NORM_NAMES, BatchNorm2d, GroupNorm2d, LayerNorm, PositionNorm2d, make_norm2d

__all__ = [
    "NORM_NAMES",
    "BatchNorm2d",
    "BcosConv2d",
    "BcosLinear",
    "Encode",
    "GroupNorm2d",
    "LayerNorm",
    "LogitLayer",
    "PositionNorm2d",
    "add_constant",
    "conv_norm",
    "default_logit_bias",
    "encode",
    "hold",
    "is_linear",
    "linear_mode",
    "make_norm2d",
    "v1_scale",
]
