"""B-cos ConvNeXt (Liu et al. 2022).

As published by Boehle et al. 2024: B-cos convolutions and no activations; norms over the channels of each
position or, in the `_bnu` networks, uncentred batch norm. Names in the state dict are those of the published
v2 files.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from ..errors import InputError
from ..layers import V2, Head, LayerSpec, conv_gain, conv_norm, parameter
from ..layers._switch import known, untouched
from ._build import build, cards, register_model
from ._network import ConvNetwork, Level, Stride, strides


@known
class ConvNeXtPath(nn.Sequential):
    """Four layers, and before the last an activation, which has no number. Keeps the shape."""

    act: nn.Module

    def widen(self, x: Tensor) -> Tensor:
        """All but the last layer. (N, width, H, W) -> (N, 4 width, H, W)."""
        return self.act(self[2](conv_norm(self[0], self[1], x)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self[3](self.widen(x))
        return y


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, norm, 1x1 to four times the width and back, with a shortcut. Keeps the shape."""

    def __init__(
        self, width: int, *, dilation: int, layer_scale: float, drop_path: float, spec: LayerSpec
    ) -> None:
        super().__init__()
        self.initial_scale = layer_scale
        scale = torch.full((width, 1, 1), layer_scale, device=spec.device, dtype=spec.dtype)
        self.layer_scale = nn.Parameter(scale)
        self.block = ConvNeXtPath(
            spec.conv(width, width, 7, padding=3 * dilation, dilation=dilation, groups=width),
            spec.norm2d(width),
            spec.conv(width, 4 * width, 1),
            spec.conv(4 * width, width, 1),
        )
        self.block.act = spec.activation()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def reset_parameters(self) -> None:
        """Reset the layer scale only; the layers in the block have such methods of their own."""
        nn.init.constant_(self.layer_scale, self.initial_scale)

    def forward(self, x: Tensor) -> Tensor:
        gain = self.layer_scale
        if not untouched(self.block):
            return self.drop_path(self.block(x) * parameter(gain)) + x
        y = self.block.widen(x)
        return conv_gain(self.block[3], gain, y, path=self.drop_path, shortcut=x)


def _down(in_chs: int, out_chs: int, stride: Stride, spec: LayerSpec) -> nn.Sequential:
    """A norm, and a 2x2 convolution of stride 2, or dilated. (N, K, H, W) -> (N, K', H / step, W / step)."""
    layers: dict[str, nn.Module] = {"0": spec.norm2d(in_chs)}
    if stride.step != stride.full:  # on the far sides only, so that positions stay where they are
        layers["pad"] = nn.ZeroPad2d((0, stride.before, 0, stride.before))
    layers["1"] = spec.conv(in_chs, out_chs, 2, stride=stride.step, dilation=stride.before)
    return nn.Sequential(OrderedDict(layers))


class BcosConvNeXt(ConvNetwork):
    """B-cos ConvNeXt. (N, in_chans, H, W) in [0, 1] -> (N, num_classes) logits.

    layers: blocks of each stage. widths: channels of each stage.
    layer_scale: initial value of the factors on each block's output channels.
    global_pool: one of "avg", "max", "avgmax", or "" for the map of logits.
    drop_rate: dropout before the classifier. drop_path_rate: stochastic depth, rising linearly with depth;
    published were 0.1 (atto, tiny), 0.4 (small) and 0.5 (base, large).
    output_stride: largest stride of a map in the image, as in timm: stages beyond it are dilated, with the
    same weights. None for no dilation. spec: how its layers are made.

    Raises InputError unless every stage has a width, and for an output_stride that no stage has.
    """

    CLASSIFIER = "classifier.1"
    HEAD = ("classifier.0",)

    def __init__(
        self,
        layers: Sequence[int],
        widths: Sequence[int],
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        layer_scale: float = 1e-6,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        output_stride: int | None = None,
        spec: LayerSpec = V2,
    ) -> None:
        if not 0 < len(layers) == len(widths):
            raise InputError(f"{len(layers)} stages and {len(widths)} widths; give one width for each stage")
        super().__init__(spec, in_chans, drop_rate)
        levels = []
        stem = spec.conv(spec.encoded_channels(in_chans), widths[0], 4, stride=4)
        self.features = nn.Sequential(stem, spec.norm2d(widths[0]))
        names = ["features.0", "features.1"]
        planned = strides(4, len(layers), output_stride)
        index, last = 0, max(sum(layers) - 1, 1)  # of all blocks
        for stage, (depth, width) in enumerate(zip(layers, widths, strict=True)):
            if stage:
                names = [self._append(_down(widths[stage - 1], width, planned[stage], spec))]
            rates = [drop_path_rate * (index + i) / last for i in range(depth)]
            blocks = [
                ConvNeXtBlock(
                    width, dilation=planned[stage].after, layer_scale=layer_scale, drop_path=rate, spec=spec
                )
                for rate in rates
            ]
            index += depth
            names.append(self._append(nn.Sequential(*blocks)))
            levels.append(Level(tuple(names), width, planned[stage].reduction))
        self.classifier = Head(spec.norm2d(widths[-1]), nn.Identity())
        self._complete(levels, num_classes, global_pool)

    def _append(self, module: nn.Module) -> str:
        self.features.append(module)
        return f"features.{len(self.features) - 1}"

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Parameter groups by depth, for layer-wise learning rates."""
        blocks = r"^features\.(\d+)" if coarse else r"^features\.(\d+)(?:\.(\d+))?"
        return dict(stem=r"^features\.[01]\.", blocks=blocks)


_SIZES: dict[str, dict[str, Any]] = {  # Liu et al. 2022, section 3; atto: Woo et al. 2023, section 5
    "atto": dict(layers=(2, 2, 6, 2), widths=(40, 80, 160, 320)),
    "tiny": dict(layers=(3, 3, 9, 3), widths=(96, 192, 384, 768)),
    "small": dict(layers=(3, 3, 27, 3), widths=(96, 192, 384, 768)),
    "base": dict(layers=(3, 3, 27, 3), widths=(128, 256, 512, 1024)),
    "large": dict(layers=(3, 3, 27, 3), widths=(192, 384, 768, 1536)),
}
_IMAGENET = dict(input_size=(3, 224, 224), pool_size=(7, 7), crop_pct=0.875, num_classes=1000)

default_cfgs = cards(
    {f"bcos_convnext_{size}{norm}": _IMAGENET for size in _SIZES for norm in ("", "_bnu")},
    classifier="classifier.1.linear",
    first_conv="features.0.linear",
)


def _position_norm(size: str, pretrained: bool, kwargs: Any) -> BcosConvNeXt:
    arch = dict(norm="pn", norm_eps=1e-6, **_SIZES[size])
    model: BcosConvNeXt = build(BcosConvNeXt, f"bcos_convnext_{size}", pretrained, arch, kwargs)
    return model


def _batch_norm(size: str, pretrained: bool, kwargs: Any) -> BcosConvNeXt:
    model: BcosConvNeXt = build(BcosConvNeXt, f"bcos_convnext_{size}_bnu", pretrained, _SIZES[size], kwargs)
    return model


@register_model
def bcos_convnext_atto(pretrained: bool = False, **kwargs: Any) -> BcosConvNeXt:
    """ConvNeXt-A with position norm."""
    return _position_norm("atto", pretrained, kwargs)


@register_model
def bcos_convnext_tiny(pretrained: bool = False, **kwargs: Any) -> BcosConvNeXt:
    """ConvNeXt-T with position norm."""
    return _position_norm("tiny", pretrained, kwargs)


@register_model
def bcos_convnext_small(pretrained: bool = False, **kwargs: Any) -> BcosConvNeXt:
    """ConvNeXt-S with position norm."""
    return _position_norm("small", pretrained, kwargs)


@register_model
def bcos_convnext_base(pretrained: bool = False, **kwargs: Any) -> BcosConvNeXt:
    """ConvNeXt-B with position norm."""
    return _position_norm("base", pretrained, kwargs)


@register_model
def bcos_convnext_large(pretrained: bool = False, **kwargs: Any) -> BcosConvNeXt:
    """ConvNeXt-L with position norm."""
    return _position_norm("large", pretrained, kwargs)


@register_model
def bcos_convnext_atto_bnu(pretrained: bool = False, **kwargs: Any) -> BcosConvNeXt:
    """ConvNeXt-A with uncentred batch norm."""
    return _batch_norm("atto", pretrained, kwargs)


@register_model
def bcos_convnext_tiny_bnu(pretrained: bool = False, **kwargs: Any) -> BcosConvNeXt:
    """ConvNeXt-T with uncentred batch norm."""
    return _batch_norm("tiny", pretrained, kwargs)


@register_model
def bcos_convnext_small_bnu(pretrained: bool = False, **kwargs: Any) -> BcosConvNeXt:
    """ConvNeXt-S with uncentred batch norm."""
    return _batch_norm("small", pretrained, kwargs)


@register_model
def bcos_convnext_base_bnu(pretrained: bool = False, **kwargs: Any) -> BcosConvNeXt:
    """ConvNeXt-B with uncentred batch norm."""
    return _batch_norm("base", pretrained, kwargs)


@register_model
def bcos_convnext_large_bnu(pretrained: bool = False, **kwargs: Any) -> BcosConvNeXt:
    """ConvNeXt-L with uncentred batch norm."""
    return _batch_norm("large", pretrained, kwargs)
