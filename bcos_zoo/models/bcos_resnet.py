"""B-cos ResNet, ResNeXt and Wide ResNet (He et al. 2015; Xie et al. 2017; Zagoruyko & Komodakis 2016).

As published by Boehle et al. 2024: every convolution is a B-cos one, norms have no bias, no activations,
average instead of max pooling in the stem, and the classifier is a 1x1 convolution applied before the global
pooling. Names in the state dict are those of the published v2 files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, SelectAdaptivePool2d
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from ..errors import InputError
from ..layers import BcosConv2d, Encode, LogitLayer, conv_norm, is_linear, make_norm2d
from ._build import build, cards, register_model

POOLS = ("avg", "max", "avgmax", "")  # those that keep the class maps' channels and stay piecewise linear

Conv = Callable[..., nn.Module]
Norm = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut. (N, in_chs, H, W) -> (N, width, H / stride, W / stride)."""

    expansion = 1

    def __init__(
        self, in_chs: int, width: int, *, stride: int, cardinality: int, base_width: int, drop_path: float,
        conv: Conv, norm: Norm,
    ) -> None:  # fmt: skip
        super().__init__()
        if cardinality != 1 or base_width != 64:
            raise InputError(
                f"cardinality={cardinality}, base_width={base_width}: only Bottleneck takes these; leave them"
            )
        self.conv1 = conv(in_chs, width, 3, stride=stride, padding=1)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, padding=1)
        self.bn2 = norm(width)
        self.downsample = _shortcut(in_chs, width, stride, conv, norm)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else conv_norm(self.downsample[0], self.downsample[1], x)
        x = conv_norm(self.conv1, self.bn1, x)
        x = self.drop_path(conv_norm(self.conv2, self.bn2, x))
        x += shortcut
        return x


class Bottleneck(nn.Module):
    """1x1, (grouped) 3x3 and 1x1 convolutions beside a shortcut.

    (N, in_chs, H, W) -> (N, 4 width, H / stride, W / stride).
    """

    expansion = 4

    def __init__(
        self, in_chs: int, width: int, *, stride: int, cardinality: int, base_width: int, drop_path: float,
        conv: Conv, norm: Norm,
    ) -> None:  # fmt: skip
        super().__init__()
        inner, outer = width * base_width // 64 * cardinality, width * self.expansion
        self.conv1 = conv(in_chs, inner, 1)
        self.bn1 = norm(inner)
        self.conv2 = conv(inner, inner, 3, stride=stride, padding=1, groups=cardinality)
        self.bn2 = norm(inner)
        self.conv3 = conv(inner, outer, 1)
        self.bn3 = norm(outer)
        self.downsample = _shortcut(in_chs, outer, stride, conv, norm)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else conv_norm(self.downsample[0], self.downsample[1], x)
        x = conv_norm(self.conv1, self.bn1, x)
        x = conv_norm(self.conv2, self.bn2, x)
        x = self.drop_path(conv_norm(self.conv3, self.bn3, x))
        x += shortcut
        return x


def _shortcut(in_chs: int, out_chs: int, stride: int, conv: Conv, norm: Norm) -> nn.Sequential | None:
    if stride == 1 and in_chs == out_chs:
        return None
    return nn.Sequential(conv(in_chs, out_chs, 1, stride=stride), norm(out_chs))


def _init(module: nn.Module) -> None:
    """Kaiming-normal (fan out) convolutions. The forward normalises rows, so only the step size feels it."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BcosResNet(nn.Module):
    """B-cos ResNet. (N, in_chans, H, W) in [0, 1] -> (N, num_classes) logits.

    block: `BasicBlock` or `Bottleneck`. layers: blocks in each stage.
    widths: channels of each stage, before expansion; those beyond the last stage are not used.
    stem: "imagenet" (7x7 stride 2, then 3x3 stride 2 average pooling) or "cifar" (3x3 stride 1).
    cardinality, base_width: groups of a `Bottleneck`'s 3x3 convolution, and channels of each at width 64.
    norm: a name `make_norm2d` knows. b, max_out: of every B-cos layer.
    logit_bias: -log(num_classes - 1) unless given. logit_temperature: a divisor of the logits.
    global_pool: one of "avg", "max", "avgmax", or "" for the map of logits (N, num_classes, H', W').
    drop_rate: dropout before the classifier. drop_path_rate: stochastic depth, rising linearly with depth.

    Raises InputError for settings that do not fit.
    """

    feature_info: list[dict[str, Any]]  # timm's: channels, stride and name of each feature level
    conv1: BcosConv2d
    pool: nn.Module
    fc: nn.Module
    logits: nn.Module

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
        norm: str | None = "bnu",
        b: float = 2.0,
        max_out: int = 1,
        logit_bias: float | None = None,
        logit_temperature: float | None = None,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not 0 < len(layers) <= len(widths):
            raise InputError(f"{len(layers)} stages and {len(widths)} widths; give one width for each stage")
        if stem not in ("imagenet", "cifar"):
            raise InputError(f"stem={stem!r}: allowed are 'imagenet' and 'cifar'")
        self.in_chans = in_chans
        self.drop_rate, self.grad_checkpointing = drop_rate, False
        self._logit_bias, self._logit_temperature = logit_bias, logit_temperature
        conv = partial(BcosConv2d, b=b, max_out=max_out, device=device, dtype=dtype)
        norm_layer = partial(make_norm2d, norm, device=device, dtype=dtype)

        self.encode = Encode(in_chans)
        in_chs = widths[0]
        if stem == "imagenet":
            self.conv1, self.pool = conv(2 * in_chans, in_chs, 7, stride=2, padding=3), nn.AvgPool2d(3, 2, 1)
        else:
            self.conv1, self.pool = conv(2 * in_chans, in_chs, 3, padding=1), nn.Identity()
        self.bn1 = norm_layer(in_chs)
        stem_reduction, reduction = (2, 4) if stem == "imagenet" else (1, 1)
        self.feature_info = [dict(num_chs=in_chs, reduction=stem_reduction, module="bn1")]

        index, last = 0, max(sum(layers) - 1, 1)  # of all blocks
        for stage, (blocks, width) in enumerate(zip(layers, widths, strict=False), start=1):
            modules = []
            for i in range(blocks):
                stride = 2 if stage > 1 and i == 0 else 1
                reduction *= stride
                one = block(
                    in_chs, width, stride=stride, cardinality=cardinality, base_width=base_width,
                    drop_path=drop_path_rate * index / last, conv=conv, norm=norm_layer,
                )  # fmt: skip
                modules.append(one)
                in_chs, index = width * block.expansion, index + 1
            self.add_module(f"layer{stage}", nn.Sequential(*modules))
            self.feature_info.append(dict(num_chs=in_chs, reduction=reduction, module=f"layer{stage}"))

        self.num_features = self.head_hidden_size = in_chs
        self.apply(_init)
        self.reset_classifier(num_classes, global_pool)

    def get_classifier(self) -> nn.Module:
        """The 1x1 B-cos convolution that makes the class maps; the identity if num_classes is 0."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier on the same features; the logit bias follows num_classes unless given."""
        if num_classes < 0:
            raise InputError(f"num_classes={num_classes}: 0 removes the classifier, 1 and more make one")
        if global_pool is not None:
            if global_pool not in POOLS:
                raise InputError(f"global_pool={global_pool!r}: allowed are {', '.join(map(repr, POOLS))}")
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        self.num_classes = num_classes
        stem = self.conv1.linear.weight
        self.fc, self.logits = nn.Identity(), nn.Identity()
        if num_classes:
            self.fc = BcosConv2d(
                self.num_features, num_classes, 1, b=self.conv1.b, max_out=self.conv1.max_out,
                device=stem.device, dtype=stem.dtype,
            ).apply(_init)  # fmt: skip
            self.logits = LogitLayer(num_classes, bias=self._logit_bias, temperature=self._logit_temperature)
        for module in (self.global_pool, self.fc, self.logits):
            module.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Parameter groups by depth, for layer-wise learning rates."""
        return dict(stem=r"^conv1|bn1", blocks=r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)")

    def _stages(self) -> list[nn.Sequential]:
        return [getattr(self, info["module"]) for info in self.feature_info[1:]]

    def _stem(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(self.encode(x)))
        return x

    def _run(self, stage: nn.Sequential, x: Tensor) -> Tensor:
        # Never in linear mode: on an accelerator autograd recomputes in a thread of its own, outside it.
        x = checkpoint_seq(stage, x) if self.grad_checkpointing and not is_linear() else stage(x)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) in [0, 1] -> (N, num_features, H', W')."""
        x = self.pool(self._stem(x))
        for stage in self._stages():
            x = self._run(stage, x)
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Features of the stem and of each stage, as in timm; `norm` has no effect: all are normalised."""
        if output_fmt != "NCHW":
            raise InputError(f"output_fmt={output_fmt!r}: this network gives 'NCHW' only")
        take, last = feature_take_indices(len(self.feature_info), indices)
        x = self._stem(x)
        taken = [x] if 0 in take else []
        x = self.pool(x)
        stages = self._stages()
        for index, stage in enumerate(stages[:last] if stop_early else stages, start=1):
            x = self._run(stage, x)
            if index in take:
                taken.append(x)
        return taken if intermediates_only else (x, taken)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages that the wanted intermediates do not need; returns the indices kept, as in timm."""
        take: list[int]
        take, last = feature_take_indices(len(self.feature_info), indices)
        for info in self.feature_info[last + 1 :]:
            setattr(self, info["module"], nn.Sequential().train(self.training))
        if last == 0:
            self.pool = nn.Identity().train(self.training)
        pruned = last < len(self.feature_info) - 1
        if pruned:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or pruned:
            self.reset_classifier(0, "")
        return take

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to logits, or to pooled features if `pre_logits`. The classifier precedes the pooling."""
        x = F.dropout(x, p=self.drop_rate, training=self.training)
        x = self.global_pool(x) if pre_logits else self.logits(self.global_pool(self.fc(x)))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


_IMAGENET = dict(input_size=(3, 224, 224), pool_size=(7, 7), crop_pct=0.875, num_classes=1000)
_CIFAR = dict(input_size=(3, 32, 32), pool_size=(8, 8), crop_pct=1.0, num_classes=10)

default_cfgs = cards(
    {f"bcos_resnet{size}": _IMAGENET for size in (18, 34, 50, 101, 152)}
    | {f"bcos_resnext{size}": _IMAGENET for size in ("50_32x4d", "101_32x8d")}
    | {f"bcos_wide_resnet{size}": _IMAGENET for size in ("50_2", "101_2")}
    | {f"bcos_resnet{size}": _CIFAR for size in (20, 32, 44, 56, 110)},
    classifier="fc.linear",
)


def _create(
    name: str, pretrained: bool, kwargs: Any, block: type[nn.Module], layers: tuple[int, ...], **more: Any
) -> BcosResNet:
    arch = dict(block=block, layers=layers, **more)
    levels = 1 + len(kwargs.get("layers", layers))  # the stem and each stage
    stem = "conv1.linear.weight"
    model: BcosResNet = build(BcosResNet, name, pretrained, arch, kwargs, stem=stem, levels=levels)
    return model


@register_model
def bcos_resnet18(pretrained: bool = False, **kwargs: Any) -> BcosResNet:
    """ResNet-18 (He et al. 2015, table 1)."""
    return _create("bcos_resnet18", pretrained, kwargs, BasicBlock, (2, 2, 2, 2))


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
