"""The building blocks of B-cos networks, usable in networks of one's own."""

from ._fast import chain, conv_gain, conv_norm, project
from ._switch import fast_ways
from .activations import GatedGELU, make_activation
from .attention import Attention, attend
from .bcos import BcosConv2d, BcosLinear
from .functional import default_logit_bias, encode, v1_scale
from .heads import Encode, Head, LogitLayer, Normalize
from .linear_mode import add_constant, hold, is_linear, linear_mode, parameter, recording
from .norms import (
    NORM_NAMES,
    BatchNorm2d,
    GroupNorm2d,
    LayerNorm,
    PositionNorm2d,
    freeze_norms,
    make_norm2d,
    synchronise_norms,
)
from .positions import sincos_positions
from .spec import V2, ConventionalSpec, LayerSpec
from .transformer import Encoder, PatchEmbed

__all__ = [
    "NORM_NAMES",
    "Attention",
    "BatchNorm2d",
    "BcosConv2d",
    "BcosLinear",
    "ConventionalSpec",
    "Encode",
    "Encoder",
    "GatedGELU",
    "GroupNorm2d",
    "Head",
    "LayerNorm",
    "LayerSpec",
    "LogitLayer",
    "Normalize",
    "PatchEmbed",
    "PositionNorm2d",
    "V2",
    "add_constant",
    "attend",
    "chain",
    "conv_gain",
    "conv_norm",
    "default_logit_bias",
    "encode",
    "fast_ways",
    "freeze_norms",
    "hold",
    "is_linear",
    "linear_mode",
    "make_activation",
    "make_norm2d",
    "parameter",
    "project",
    "recording",
    "sincos_positions",
    "synchronise_norms",
    "v1_scale",
]
