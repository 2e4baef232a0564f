"""B-cos VGG (Simonyan & Zisserman 2014), and the plain nine-layer networks of Boehle et al. 2022.

As published: average pooling, no activations, no dropout, and a head of three convolutions that keeps the 7x7
map, so that the pooling comes last. Names in the state dict are those of the published files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..layers import V2, Head, LayerSpec
from ._build import build, cards, register_model
from ._network import ConvNetwork, Level


class BcosVGG(ConvNetwork):
    """B-cos VGG. (N, in_chans, H, W) in [0, 1] -> (N, num_classes) logits.

    depths: number of 3x3 convolutions in each stage; a 2x2 average pooling follows each stage.
    widths: channels of each stage. hidden: channels of the head.
    global_pool: one of "avg", "max", "avgmax", or "" for the map of logits. drop_rate: dropout before the
    classifier. spec: how its layers are made.
    """

    CLASSIFIER = "classifier.2"
    HEAD = ("classifier.0", "classifier.1")

    def __init__(
        self,
        depths: Sequence[int],
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        hidden: int = 4096,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        spec: LayerSpec = V2,
    ) -> None:
        super().__init__(spec, in_chans, drop_rate)
        levels = []
        self.features = nn.Sequential()
        in_chs, names = spec.encoded_channels(in_chans), []
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            for _ in range(depth):
                layers: list[nn.Module] = [spec.conv(in_chs, width, 3, padding=1)]
                layers += [] if spec.norm == "none" else [spec.norm2d(width)]
                names += self._append(*layers)
                in_chs = width
            levels.append(Level(tuple(names), in_chs, 2**stage))
            names = self._append(spec.average_pool(2, 2))
        levels.append(Level(tuple(names), in_chs, 2 ** len(depths)))
        self.classifier = Head(
            spec.conv(in_chs, hidden, 7, padding=3), spec.conv(hidden, hidden, 1), nn.Identity()
        )
        self._complete(levels, num_classes, global_pool, hidden=hidden)

    def _append(self, *layers: nn.Module) -> list[str]:
        start = len(self.features)
        self.features.extend(layers)
        return [f"features.{i}" for i in range(start, len(self.features))]

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Parameter groups by depth, for layer-wise learning rates."""
        return dict(stem=r"^features\.0", blocks=r"^features\.(\d+)")


class BcosPlain(ConvNetwork):
    """Eight 3x3 convolutions one after the other and a 1x1 classifier: no pooling, no norm.

    (N, in_chans, H, W) in [0, 1] -> (N, num_classes) logits. Its modules are called "0" to "8".
    global_pool, drop_rate, spec: as in `BcosVGG`; the spec's norm is not used.
    """

    CLASSIFIER = "8"
    STAGES = ((64, 64), (128, 128, 128), (256, 256, 256))  # widths; later stages begin with stride 2

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        spec: LayerSpec = V2,
    ) -> None:
        super().__init__(spec, in_chans, drop_rate)
        levels = []
        in_chs, index = spec.encoded_channels(in_chans), 0
        for stage, widths in enumerate(self.STAGES):
            names = []
            for i, width in enumerate(widths):
                stride = 2 if stage > 0 and i == 0 else 1
                self.add_module(str(index), spec.conv(in_chs, width, 3, stride=stride, padding=1))
                names.append(str(index))
                in_chs, index = width, index + 1
            levels.append(Level(tuple(names), in_chs, 2**stage))
        self._complete(levels, num_classes, global_pool)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Parameter groups by depth, for layer-wise learning rates."""
        return dict(stem=r"^0\.", blocks=r"^(\d+)\.")


_DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_IMAGENET = dict(input_size=(3, 224, 224), pool_size=(7, 7), crop_pct=0.875, num_classes=1000)
_CIFAR = dict(input_size=(3, 32, 32), pool_size=(8, 8), crop_pct=1.0, num_classes=10)

default_cfgs = {
    **cards(
        {f"bcos_vgg{depth}{norm}": _IMAGENET for depth in _DEPTHS for norm in ("", "_bnu")},
        classifier="classifier.2.linear",
        first_conv="features.0.linear",
    ),
    **cards({"bcos_plain9": _CIFAR}, classifier="8.linear", first_conv="0.linear"),
}


def _vgg(name: str, pretrained: bool, kwargs: Any, depth: int, norm: str) -> BcosVGG:
    arch = dict(depths=_DEPTHS[depth], norm=norm)
    model: BcosVGG = build(BcosVGG, name, pretrained, arch, kwargs)
    return model


@register_model
def bcos_vgg11(pretrained: bool = False, **kwargs: Any) -> BcosVGG:
    """VGG-11 (Simonyan & Zisserman 2014, table 1, column A) without norms."""
    return _vgg("bcos_vgg11", pretrained, kwargs, 11, "none")


@register_model
def bcos_vgg13(pretrained: bool = False, **kwargs: Any) -> BcosVGG:
    """VGG-13 (Simonyan & Zisserman 2014, table 1, column B) without norms."""
    return _vgg("bcos_vgg13", pretrained, kwargs, 13, "none")


@register_model
def bcos_vgg16(pretrained: bool = False, **kwargs: Any) -> BcosVGG:
    """VGG-16 (Simonyan & Zisserman 2014, table 1, column D) without norms."""
    return _vgg("bcos_vgg16", pretrained, kwargs, 16, "none")


@register_model
def bcos_vgg19(pretrained: bool = False, **kwargs: Any) -> BcosVGG:
    """VGG-19 (Simonyan & Zisserman 2014, table 1, column E) without norms."""
    return _vgg("bcos_vgg19", pretrained, kwargs, 19, "none")


@register_model
def bcos_vgg11_bnu(pretrained: bool = False, **kwargs: Any) -> BcosVGG:
    """VGG-11 with uncentred batch norm."""
    return _vgg("bcos_vgg11_bnu", pretrained, kwargs, 11, "bnu")


@register_model
def bcos_vgg13_bnu(pretrained: bool = False, **kwargs: Any) -> BcosVGG:
    """VGG-13 with uncentred batch norm."""
    return _vgg("bcos_vgg13_bnu", pretrained, kwargs, 13, "bnu")


@register_model
def bcos_vgg16_bnu(pretrained: bool = False, **kwargs: Any) -> BcosVGG:
    """VGG-16 with uncentred batch norm."""
    return _vgg("bcos_vgg16_bnu", pretrained, kwargs, 16, "bnu")


@register_model
def bcos_vgg19_bnu(pretrained: bool = False, **kwargs: Any) -> BcosVGG:
    """VGG-19 with uncentred batch norm."""
    return _vgg("bcos_vgg19_bnu", pretrained, kwargs, 19, "bnu")


@register_model
def bcos_plain9(pretrained: bool = False, **kwargs: Any) -> BcosPlain:
    """Nine convolutions for 32x32 images, with B = 2 by default (Boehle et al. 2022, section 4)."""
    arch = dict(max_out=2, norm="none", scale=10**-1.25)
    model: BcosPlain = build(BcosPlain, "bcos_plain9", pretrained, arch, kwargs)
    return model
