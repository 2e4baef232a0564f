"""EfficientNet-Lite as a B-cos network. Source: Tan & Le 2019, less squeeze-and-excitation and swish.

What the conversion made of each layer is in the JSON file beside this one, so that weights fit it whatever
the rules become; and no trial is needed.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from torch import nn

from ..models._build import build, cards, register_model
from .bcos_converted import Place, again

LITE0 = "bcos_efficientnet_lite0"
_CARD = dict(
    input_size=(3, 224, 224), pool_size=(7, 7), crop_pct=0.875, interpolation="bicubic", num_classes=1000
)

default_cfgs = cards({LITE0: _CARD}, classifier="network.classifier", first_conv="network.conv_stem")


@functools.cache
def _text(name: str) -> str:
    return Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8")


@register_model
def bcos_efficientnet_lite0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's tf_efficientnet_lite0, converted: B = 1.5, weights as they are, no biases, strides blurred.

    Norms are uncentred, and depthwise convolutions stay linear. `pretrained`, `num_classes`, `in_chans` and
    the like as in timm; other arguments are those of timm's network.
    """
    own = dict(original=LITE0.replace("bcos", "tf"), conversion=json.loads(_text(LITE0)))
    model: nn.Module = build(again, LITE0, pretrained, own, kwargs, spec=Place)
    return model
