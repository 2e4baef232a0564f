"""B-cos DenseNet (Huang et al. 2017).

As published by Boehle et al. 2024: B-cos convolutions, norms without bias, no activations, average pooling,
and a 1x1 convolution as classifier before the global pooling. Names in the state dict are those of the
published v2 files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import checkpoint
from torch import Tensor, nn

from .._compat import with_group_before
from ..errors import InputError
from ..layers import V2, LayerSpec, chain, conv_norm, is_linear
from ..layers._fast import dense_features
from ..layers._switch import known
from ._build import build, cards, register_model
from ._network import ConvNetwork, Level


@known
class DenseLayer(nn.Module):
    """Norm, 1x1 convolution, norm, 3x3 convolution. (N, in_chs, H, W) -> (N, growth, H, W), new features."""

    def __init__(self, in_chs: int, growth: int, bn_size: int, drop_rate: float, spec: LayerSpec) -> None:
        super().__init__()
        inner = bn_size * growth
        self.norm1 = spec.norm2d(in_chs)
        self.conv1 = spec.conv(in_chs, inner, 1)
        self.norm2 = spec.norm2d(inner)
        self.conv2 = spec.conv(inner, growth, 3, padding=1)
        self.act = spec.activation()
        self.drop_rate = drop_rate
        self.grad_checkpointing = False

    def _bottleneck(self, *features: Tensor) -> Tensor:
        x = self.act(self.norm1(torch.cat(features, 1)))
        return self.act(conv_norm(self.conv1, self.norm2, x))

    def forward(self, features: list[Tensor]) -> Tensor:
        if self.grad_checkpointing and not is_linear() and any(x.requires_grad for x in features):
            x = checkpoint(self._bottleneck, *features)  # the concatenations are what costs memory
        else:
            x = self._bottleneck(*features)
        return F.dropout(self.conv2(x), p=self.drop_rate, training=self.training)


class DenseBlock(nn.ModuleDict):
    """Layers that each see the features of all layers before them, and add their own."""

    def __init__(
        self, layers: int, in_chs: int, growth: int, bn_size: int, drop_rate: float, spec: LayerSpec
    ) -> None:
        super().__init__()
        for i in range(layers):
            layer = DenseLayer(in_chs + i * growth, growth, bn_size, drop_rate, spec)
            self.add_module(f"denselayer{i + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        layers: list[Any] = list(self.values())
        features = dense_features(layers, x)
        if features is None:
            features = [x]
            for layer in layers:
                features.append(layer(features))
        return torch.cat(features, 1)


class Transition(nn.Module):
    """Norm, 1x1 convolution, 2x2 average pooling. (N, in_chs, H, W) -> (N, out_chs, H / 2, W / 2)."""

    def __init__(self, in_chs: int, out_chs: int, spec: LayerSpec) -> None:
        super().__init__()
        self.norm = spec.norm2d(in_chs)
        self.act = spec.activation()
        self.conv = spec.conv(in_chs, out_chs, 1)
        self.pool = spec.average_pool(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return chain((self.norm, self.act, self.conv, self.pool), x)


class BcosDenseNet(ConvNetwork):
    """B-cos DenseNet. (N, in_chans, H, W) in [0, 1] -> (N, num_classes) logits.

    growth: channels that each layer adds. layers: how many in each block.
    stem_width: channels of the first convolution.
    bn_size: width of a layer's 1x1 convolution, in units of growth.
    stem: "imagenet" (7x7 stride 2, norm, 3x3 stride 2 average pooling) or "cifar" (3x3 stride 1 alone).
    global_pool: one of "avg", "max", "avgmax", or "" for the map of logits. drop_rate: dropout in each layer.
    memory_efficient: recompute each layer's bottleneck in the backward pass (Pleiss et al. 2017);
    `set_grad_checkpointing` switches it too. spec: how its layers are made.
    """

    CLASSIFIER = "classifier"

    def __init__(
        self,
        growth: int,
        layers: Sequence[int],
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        stem_width: int = 64,
        bn_size: int = 4,
        stem: str = "imagenet",
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        memory_efficient: bool = False,
        spec: LayerSpec = V2,
    ) -> None:
        if stem not in ("imagenet", "cifar"):
            raise InputError(f"stem={stem!r}: allowed are 'imagenet' and 'cifar'")
        super().__init__(spec, in_chans, 0.0)
        levels = []
        self.features = features = nn.Sequential()
        in_chs, large = spec.encoded_channels(in_chans), stem == "imagenet"
        names: list[str] = []
        if large:
            features.add_module("conv0", spec.conv(in_chs, stem_width, 7, stride=2, padding=3))
            features.add_module("norm0", spec.norm2d(stem_width))
            features.add_module("act0", spec.activation())
            features.add_module("pool0", spec.average_pool(3, 2, 1))
            stem_names = ("features.conv0", "features.norm0", "features.act0")
            levels.append(Level(stem_names, stem_width, 2, name="features.norm0"))
            names = ["features.pool0"]
        else:
            features.add_module("conv0", spec.conv(in_chs, stem_width, 3, padding=1))
            names = ["features.conv0"]
        in_chs, reduction = stem_width, 4 if large else 1
        for index, depth in enumerate(layers, start=1):
            block = DenseBlock(depth, in_chs, growth, bn_size, drop_rate, spec)
            features.add_module(f"denseblock{index}", block)
            names.append(f"features.denseblock{index}")
            in_chs += depth * growth
            if index == len(layers):
                features.add_module("norm5", spec.norm2d(in_chs))
                features.add_module("act5", spec.activation())
                names += ["features.norm5", "features.act5"]
                levels.append(Level(tuple(names), in_chs, reduction, name="features.norm5"))
                break
            levels.append(Level(tuple(names), in_chs, reduction))
            features.add_module(f"transition{index}", Transition(in_chs, in_chs // 2, spec))
            names = [f"features.transition{index}"]
            in_chs, reduction = in_chs // 2, 2 * reduction
        self._complete(levels, num_classes, global_pool)
        self.set_grad_checkpointing(memory_efficient)

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each layer's bottleneck in the backward pass instead of keeping its activations."""
        for module in self.modules():
            if isinstance(module, DenseLayer):
                module.grad_checkpointing = enable

    @staticmethod
    def rename(key: str) -> str:
        """From a name in the B-cosified file, whose outer layers are numbered, to the network's own."""
        blocks = [f"{kind}{i}" for i in (1, 2, 3) for kind in ("denseblock", "transition")]
        outer = ["conv0", "norm0", "act", "pool0", *blocks, "denseblock4", "norm5"]
        parts = key.split(".")
        if len(parts) > 2 and parts[0] == "features" and parts[1].isdigit() and int(parts[1]) < len(outer):
            parts[1] = outer[int(parts[1])]
            if parts[1].startswith("transition"):
                parts[2] = {"0": "norm", "2": "conv"}.get(parts[2], parts[2])
        return ".".join(parts)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups by depth, for layer-wise learning rates; a transition joins the block before."""
        fine = [
            (r"^features\.denseblock(\d+)\.denselayer(\d+)", None),
            (r"^features\.transition(\d+)", with_group_before),
        ]
        blocks = r"^features\.(?:denseblock|transition)(\d+)" if coarse else fine
        return dict(stem=r"^features\.conv0|features\.norm0", blocks=blocks)


_IMAGENET = dict(input_size=(3, 224, 224), pool_size=(7, 7), crop_pct=0.875, num_classes=1000)
_CIFAR = dict(input_size=(3, 32, 32), pool_size=(8, 8), crop_pct=1.0, num_classes=10)

default_cfgs = cards(
    {f"bcos_densenet{size}": _IMAGENET for size in (121, 161, 169, 201)}
    | {f"bcos_densenet{size}": _CIFAR for size in (52, 100, 190, 250)},
    classifier="classifier.linear",
    first_conv="features.conv0.linear",
)


def _create(
    name: str, pretrained: bool, kwargs: Any, growth: int, layers: Sequence[int], **more: Any
) -> BcosDenseNet:
    arch = dict(growth=growth, layers=layers, **more)
    model: BcosDenseNet = build(BcosDenseNet, name, pretrained, arch, kwargs)
    return model


def _create_small(name: str, pretrained: bool, kwargs: Any, growth: int, depth: int) -> BcosDenseNet:
    """DenseNet-BC for 32x32 images (Huang et al. 2017, section 3): three blocks of (depth - 4) / 6 layers."""
    layers = ((depth - 4) // 6,) * 3
    return _create(name, pretrained, kwargs, growth, layers, stem_width=2 * growth, stem="cifar")


@register_model
def bcos_densenet121(pretrained: bool = False, **kwargs: Any) -> BcosDenseNet:
    """DenseNet-121 (Huang et al. 2017, table 1)."""
    return _create("bcos_densenet121", pretrained, kwargs, 32, (6, 12, 24, 16))


@register_model
def bcos_densenet161(pretrained: bool = False, **kwargs: Any) -> BcosDenseNet:
    """DenseNet-161 (Huang et al. 2017): growth 48."""
    return _create("bcos_densenet161", pretrained, kwargs, 48, (6, 12, 36, 24), stem_width=96)


@register_model
def bcos_densenet169(pretrained: bool = False, **kwargs: Any) -> BcosDenseNet:
    """DenseNet-169 (Huang et al. 2017, table 1)."""
    return _create("bcos_densenet169", pretrained, kwargs, 32, (6, 12, 32, 32))


@register_model
def bcos_densenet201(pretrained: bool = False, **kwargs: Any) -> BcosDenseNet:
    """DenseNet-201 (Huang et al. 2017, table 1)."""
    return _create("bcos_densenet201", pretrained, kwargs, 32, (6, 12, 48, 32))


@register_model
def bcos_densenet52(pretrained: bool = False, **kwargs: Any) -> BcosDenseNet:
    """DenseNet-BC-52 for 32x32 images, growth 12."""
    return _create_small("bcos_densenet52", pretrained, kwargs, 12, 52)


@register_model
def bcos_densenet100(pretrained: bool = False, **kwargs: Any) -> BcosDenseNet:
    """DenseNet-BC-100 for 32x32 images (Huang et al. 2017, table 2), growth 12."""
    return _create_small("bcos_densenet100", pretrained, kwargs, 12, 100)


@register_model
def bcos_densenet190(pretrained: bool = False, **kwargs: Any) -> BcosDenseNet:
    """DenseNet-BC-190 for 32x32 images (Huang et al. 2017, table 2), growth 40."""
    return _create_small("bcos_densenet190", pretrained, kwargs, 40, 190)


@register_model
def bcos_densenet250(pretrained: bool = False, **kwargs: Any) -> BcosDenseNet:
    """DenseNet-BC-250 for 32x32 images (Huang et al. 2017, table 2), growth 24."""
    return _create_small("bcos_densenet250", pretrained, kwargs, 24, 250)
