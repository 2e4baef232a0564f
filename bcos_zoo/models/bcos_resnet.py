"""B-cos ResNet, ResNeXt and Wide ResNet (He et al. 2015; Xie et al. 2017; Zagoruyko & Komodakis 2016).

As published by Boehle et al. 2024: every convolution is a B-cos one, norms have no bias, there are no
activations, the stem uses average instead of max pooling, and the classifier is a 1x1 convolution before the
global pooling. Names in the state dict are those of the published v2 files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import DropPath
from torch import Tensor, nn

from ..errors import InputError
from ..layers import V2, LayerSpec, chain, conv_norm
from ._build import build, cards, register_model
from ._network import ConvNetwork, Level, Stride, strides


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut. (N, in_chs, H, W) -> (N, width, H / step, W / step)."""

    expansion = 1

    def __init__(
        self, in_chs: int, width: int, *, stride: Stride, cardinality: int, base_width: int, drop_path: float,
        spec: LayerSpec,
    ) -> None:  # fmt: skip
        super().__init__()
        if cardinality != 1 or base_width != 64:
            raise InputError(
                f"cardinality={cardinality}, base_width={base_width}: only Bottleneck takes these; leave them"
            )
        before, after = stride.before, stride.after
        self.conv1 = spec.conv(in_chs, width, 3, stride=stride.step, padding=before, dilation=before)
        self.bn1 = spec.norm2d(width)
        self.conv2 = spec.conv(width, width, 3, padding=after, dilation=after)
        self.bn2 = spec.norm2d(width)
        self.act = spec.activation()
        self.downsample = _shortcut(in_chs, width, stride, spec)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else chain(self.downsample, x)
        x = self.act(conv_norm(self.conv1, self.bn1, x))
        return self.act(conv_norm(self.conv2, self.bn2, x, path=self.drop_path, shortcut=shortcut))


class Bottleneck(nn.Module):
    """1x1, (grouped) 3x3 and 1x1 convolutions with a shortcut.

    (N, in_chs, H, W) -> (N, 4 width, H / step, W / step).
    """

    expansion = 4

    def __init__(
        self, in_chs: int, width: int, *, stride: Stride, cardinality: int, base_width: int, drop_path: float,
        spec: LayerSpec,
    ) -> None:  # fmt: skip
        super().__init__()
        inner, outer = width * base_width // 64 * cardinality, width * self.expansion
        self.conv1 = spec.conv(in_chs, inner, 1)
        self.bn1 = spec.norm2d(inner)
        self.conv2 = spec.conv(
            inner, inner, 3, stride=stride.step, padding=stride.before, dilation=stride.before,
            groups=cardinality,
        )  # fmt: skip
        self.bn2 = spec.norm2d(inner)
        self.conv3 = spec.conv(inner, outer, 1)
        self.bn3 = spec.norm2d(outer)
        self.act = spec.activation()
        self.downsample = _shortcut(in_chs, outer, stride, spec)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else chain(self.downsample, x)
        x = self.act(conv_norm(self.conv1, self.bn1, x))
        x = self.act(conv_norm(self.conv2, self.bn2, x))
        return self.act(conv_norm(self.conv3, self.bn3, x, path=self.drop_path, shortcut=shortcut))


def _shortcut(in_chs: int, out_chs: int, stride: Stride, spec: LayerSpec) -> nn.Sequential | None:
    if stride.full == 1 and in_chs == out_chs:
        return None
    return nn.Sequential(spec.conv(in_chs, out_chs, 1, stride=stride.step), spec.norm2d(out_chs))


class BcosResNet(ConvNetwork):
    """B-cos ResNet. (N, in_chans, H, W) in [0, 1] -> (N, num_classes) logits.

    block: `BasicBlock` or `Bottleneck`. layers: blocks in each stage.
    widths: channels of each stage, before expansion; those beyond the last stage are not used.
    stem: "imagenet" (7x7 stride 2, then 3x3 stride 2 average pooling) or "cifar" (3x3 stride 1).
    cardinality, base_width: groups of a `Bottleneck`'s 3x3 convolution, and channels per group at width 64.
    global_pool: one of "avg", "max", "avgmax", or "" for the map of logits (N, num_classes, H', W').
    drop_rate: dropout before the classifier. drop_path_rate: stochastic depth, rising linearly with depth.
    output_stride: largest stride of a map in the image, as in timm: stages beyond it are dilated, with the
    same weights. None for no dilation.
    spec: how its layers are made.

    Raises InputError for settings that do not fit.
    """

    CLASSIFIER = "fc"

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512),
        stem: str = "imagenet",
        cardinality: int = 1,
        base_width: int = 64,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        output_stride: int | None = None,
        spec: LayerSpec = V2,
    ) -> None:
        if not 0 < len(layers) <= len(widths):
            raise InputError(f"{len(layers)} stages and {len(widths)} widths; give one width for each stage")
        if stem not in ("imagenet", "cifar"):
            raise InputError(f"stem={stem!r}: allowed are 'imagenet' and 'cifar'")
        super().__init__(spec, in_chans, drop_rate)
        in_chs, large = widths[0], stem == "imagenet"
        self.conv1 = (
            spec.conv(spec.encoded_channels(in_chans), in_chs, 7, stride=2, padding=3)
            if large
            else spec.conv(spec.encoded_channels(in_chans), in_chs, 3, padding=1)
        )
        self.bn1 = spec.norm2d(in_chs)
        self.act = spec.activation()
        self.pool = spec.average_pool(3, 2, 1) if large else nn.Identity()
        levels = [Level(("conv1", "bn1", "act"), in_chs, 2 if large else 1, name="bn1")]

        planned = strides(4 if large else 1, len(layers), output_stride)
        index, last = 0, max(sum(layers) - 1, 1)  # of all blocks
        for stage, (blocks, width) in enumerate(zip(layers, widths, strict=False), start=1):
            modules = []
            for i in range(blocks):
                one = block(
                    in_chs, width, stride=planned[stage - 1].of(i), cardinality=cardinality,
                    base_width=base_width, drop_path=drop_path_rate * index / last, spec=spec,
                )  # fmt: skip
                modules.append(one)
                in_chs, index = width * block.expansion, index + 1
            self.add_module(f"layer{stage}", nn.Sequential(*modules))
            first = ("pool",) if stage == 1 else ()
            levels.append(Level((*first, f"layer{stage}"), in_chs, planned[stage - 1].reduction))
        self._complete(levels, num_classes, global_pool)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Parameter groups by depth, for layer-wise learning rates."""
        return dict(stem=r"^conv1|bn1", blocks=r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)")


_IMAGENET = dict(input_size=(3, 224, 224), pool_size=(7, 7), crop_pct=0.875, num_classes=1000)
_CIFAR = dict(input_size=(3, 32, 32), pool_size=(8, 8), crop_pct=1.0, num_classes=10)

default_cfgs = cards(
    {f"bcos_resnet{size}": _IMAGENET for size in (18, "18_w32", 34, 50, 101, 152)}
    | {f"bcos_resnext{size}": _IMAGENET for size in ("50_32x4d", "101_32x8d")}
    | {f"bcos_wide_resnet{size}": _IMAGENET for size in ("50_2", "101_2")}
    | {f"bcos_resnet{size}": _CIFAR for size in (20, 32, 44, 56, 110)},
    classifier="fc.linear",
    first_conv="conv1.linear",
)


def _create(
    name: str, pretrained: bool, kwargs: Any, block: type[nn.Module], layers: tuple[int, ...], **more: Any
) -> BcosResNet:
    arch = dict(block=block, layers=layers, **more)
    model: BcosResNet = build(BcosResNet, name, pretrained, arch, kwargs)
    return model


@register_model
def bcos_resnet18(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """ResNet-18 (He et al. 2015, table 1)."""
    return _create("bcos_resnet18", pretrained, kwargs, BasicBlock, (2, 2, 2, 2))


@register_model
def bcos_resnet18_w32(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """ResNet-18 of half the width, with 32 channels in the first stage."""
    widths = (32, 64, 128, 256)
    return _create("bcos_resnet18_w32", pretrained, kwargs, BasicBlock, (2, 2, 2, 2), widths=widths)


@register_model
def bcos_resnet34(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """ResNet-34 (He et al. 2015, table 1)."""
    return _create("bcos_resnet34", pretrained, kwargs, BasicBlock, (3, 4, 6, 3))


@register_model
def bcos_resnet50(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """ResNet-50 (He et al. 2015, table 1), the stride on the 3x3 convolution."""
    return _create("bcos_resnet50", pretrained, kwargs, Bottleneck, (3, 4, 6, 3))


@register_model
def bcos_resnet101(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """ResNet-101 (He et al. 2015, table 1), the stride on the 3x3 convolution."""
    return _create("bcos_resnet101", pretrained, kwargs, Bottleneck, (3, 4, 23, 3))


@register_model
def bcos_resnet152(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """ResNet-152 (He et al. 2015, table 1), the stride on the 3x3 convolution."""
    return _create("bcos_resnet152", pretrained, kwargs, Bottleneck, (3, 8, 36, 3))


@register_model
def bcos_resnext50_32x4d(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """ResNeXt-50 (32x4d) (Xie et al. 2017, table 1)."""
    return _create(
        "bcos_resnext50_32x4d", pretrained, kwargs, Bottleneck, (3, 4, 6, 3), cardinality=32, base_width=4
    )


@register_model
def bcos_resnext101_32x8d(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """ResNeXt-101 (32x8d) (Xie et al. 2017; the width of Mahajan et al. 2018)."""
    return _create(
        "bcos_resnext101_32x8d", pretrained, kwargs, Bottleneck, (3, 4, 23, 3), cardinality=32, base_width=8
    )


@register_model
def bcos_wide_resnet50_2(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """Wide ResNet-50-2 (Zagoruyko & Komodakis 2016, table 8): 3x3 convolutions of twice the width."""
    return _create("bcos_wide_resnet50_2", pretrained, kwargs, Bottleneck, (3, 4, 6, 3), base_width=128)


@register_model
def bcos_wide_resnet101_2(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """Wide ResNet-101-2: as Wide ResNet-50-2, at the depths of ResNet-101."""
    return _create("bcos_wide_resnet101_2", pretrained, kwargs, Bottleneck, (3, 4, 23, 3), base_width=128)


_SMALL: dict[str, Any] = dict(widths=(16, 32, 64), stem="cifar")  # He et al. 2015, section 4.2


@register_model
def bcos_resnet20(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """ResNet-20 for 32x32 images (He et al. 2015, section 4.2, n = 3)."""
    return _create("bcos_resnet20", pretrained, kwargs, BasicBlock, (3, 3, 3), **_SMALL)


@register_model
def bcos_resnet32(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """ResNet-32 for 32x32 images (He et al. 2015, section 4.2, n = 5)."""
    return _create("bcos_resnet32", pretrained, kwargs, BasicBlock, (5, 5, 5), **_SMALL)


@register_model
def bcos_resnet44(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """ResNet-44 for 32x32 images (He et al. 2015, section 4.2, n = 7)."""
    return _create("bcos_resnet44", pretrained, kwargs, BasicBlock, (7, 7, 7), **_SMALL)


@register_model
def bcos_resnet56(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """ResNet-56 for 32x32 images (He et al. 2015, section 4.2, n = 9)."""
    return _create("bcos_resnet56", pretrained, kwargs, BasicBlock, (9, 9, 9), **_SMALL)


@register_model
def bcos_resnet110(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """ResNet-110 for 32x32 images (He et al. 2015, section 4.2, n = 18)."""
    return _create("bcos_resnet110", pretrained, kwargs, BasicBlock, (18, 18, 18), **_SMALL)
