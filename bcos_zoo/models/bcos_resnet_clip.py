"""The B-cosified visual encoder of CLIP's ResNet-50 (Radford et al. 2021; Arya et al. 2024).

A ResNet with a stem of three convolutions, average pooling in place of every later stride, and attention in
place of the global pooling. It gives an embedding, not logits. Names in the state dict are CLIP's, as in the
published B-cosified files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..layers import V2, BcosLinear, LayerSpec, attend, chain, conv_norm, hold, project
from ..layers._switch import layer
from ..layers.functional import TOKEN_EPS, at_least_float32
from ._build import build, cards, register_model
from ._network import ConvNetwork, Level, forget_names


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; average pooling before the last one if stride > 1.

    (N, in_chs, H, W) -> (N, 4 width, H / stride, W / stride).
    """

    def __init__(self, in_chs: int, width: int, stride: int, spec: LayerSpec) -> None:
        super().__init__()
        self.conv1 = spec.conv(in_chs, width, 1)
        self.bn1 = spec.norm2d(width)
        self.conv2 = spec.conv(width, width, 3, padding=1)
        self.bn2 = spec.norm2d(width)
        self.avgpool = spec.average_pool(stride, stride) if stride > 1 else nn.Identity()
        self.conv3 = spec.conv(width, 4 * width, 1)
        self.bn3 = spec.norm2d(4 * width)
        self.act = spec.activation()
        self.downsample: nn.Sequential | None = None
        if stride > 1 or in_chs != 4 * width:
            pool = spec.average_pool(stride, stride) if stride > 1 else nn.Identity()
            self.downsample = nn.Sequential(pool, spec.conv(in_chs, 4 * width, 1), spec.norm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else chain(self.downsample, x)
        x = self.act(conv_norm(self.conv1, self.bn1, x))
        x = self.avgpool(self.act(conv_norm(self.conv2, self.bn2, x)))
        return self.act(conv_norm(self.conv3, self.bn3, x, shortcut=shortcut))


@layer
class Projection(BcosLinear):
    """The output projection: used as a plain linear layer, as published, or with `each` as a B-cos layer."""

    def forward(self, x: Tensor, each: bool = False) -> Tensor:
        y: Tensor = super().forward(x) if each else project(self.linear, x)
        return y


class AttentionPool2d(nn.Module):
    """Attention from the average position to itself and all others. (N, K, H, W) -> (N, K).

    The attention weights are held in linear mode. As published, the output projection `c_proj` is applied to
    the result as a plain linear layer; `each` instead applies it to every position as a B-cos layer.
    """

    def __init__(self, channels: int, heads: int, spec: LayerSpec) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = spec.projection(channels, channels)
        self.q_proj = spec.projection(channels, channels)
        self.v_proj = spec.projection(channels, channels)
        self.c_proj: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, H, W) -> (N, K), before the output projection."""
        tokens = x.flatten(2).mT
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        q = self._heads(self.q_proj, tokens[:, :1])
        k, v = (self._heads(projection, tokens) for projection in (self.k_proj, self.v_proj))
        return attend(q, k, v).transpose(1, 2).flatten(1)

    def _heads(self, projection: nn.Linear, tokens: Tensor) -> Tensor:
        return torch.unflatten(project(projection, tokens), -1, (self.heads, -1)).transpose(1, 2)

    def each(self, x: Tensor) -> Tensor:
        """(N, K, H, W) -> (N, dim, H, W): the unit-length embedding of each position, zero where x is.

        Raises InputError if a plain linear layer has replaced the projection: it makes no embedding.
        """
        if isinstance(self.c_proj, nn.Linear):
            raise InputError(
                "attnpool.c_proj is a plain nn.Linear, which classifies what attention pooled; leave "
                "global_pool='attn', or call model.reset_classifier(num_classes) for a B-cos one"
            )
        tokens = self.c_proj(project(self.v_proj, x.permute(0, 2, 3, 1)), each=True)

        def norm() -> Tensor:
            length = torch.linalg.vector_norm(at_least_float32(tokens), dim=-1, keepdim=True)
            return torch.where(length > TOKEN_EPS, length, 1)  # zero features have the embedding zero

        return (tokens / hold(norm)).to(tokens.dtype).permute(0, 3, 1, 2)


class BcosResNetCLIP(ConvNetwork):
    """B-cosified CLIP ResNet. (N, in_chans, H, W) in [0, 1] -> (N, num_classes), an embedding by default.

    layers: blocks of each stage. width: channels of the first stage, before expansion. heads: of attention.
    num_classes: size of the embedding, or number of classes.
    global_pool: "attn", or "" for the embedding of each position.
    drop_rate: dropout before the output projection. spec: how its layers are made.
    """

    CLASSIFIER = "attnpool.c_proj"
    HEAD = ("attnpool.q_proj", "attnpool.k_proj", "attnpool.v_proj")

    def __init__(
        self,
        layers: Sequence[int],
        *,
        num_classes: int = 1024,
        in_chans: int = 3,
        width: int = 64,
        heads: int = 32,
        global_pool: str = "attn",
        drop_rate: float = 0.0,
        spec: LayerSpec = V2,
    ) -> None:
        super().__init__(spec, in_chans, drop_rate)
        half = width // 2
        self.conv1 = spec.conv(spec.encoded_channels(in_chans), half, 3, stride=2, padding=1)
        self.bn1 = spec.norm2d(half)
        self.conv2 = spec.conv(half, half, 3, padding=1)
        self.bn2 = spec.norm2d(half)
        self.conv3 = spec.conv(half, width, 3, padding=1)
        self.bn3 = spec.norm2d(width)
        self.act = spec.activation()
        stem = ("conv1", "bn1", "act", "conv2", "bn2", "act", "conv3", "bn3", "act")
        levels = [Level(stem, width, 2, name="bn3")]
        self.avgpool = spec.average_pool(2, 2)
        in_chs = width
        for stage, depth in enumerate(layers, start=1):
            blocks = []
            for i in range(depth):
                stride = 2 if stage > 1 and i == 0 else 1
                blocks.append(Bottleneck(in_chs, width, stride, spec))
                in_chs = 4 * width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            first = ("avgpool",) if stage == 1 else ()
            levels.append(Level((*first, f"layer{stage}"), in_chs, 2 * 2**stage))
            width *= 2
        self.attnpool = AttentionPool2d(in_chs, heads, spec)
        self._complete(levels, num_classes, global_pool)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh output projection on the same features.

        Raises InputError for a negative num_classes and for any pooling but "attn" and "".
        """
        if num_classes < 0:
            raise InputError(f"num_classes={num_classes}: 0 removes the projection, 1 and more make one")
        if global_pool is not None:
            if global_pool not in ("attn", ""):
                raise InputError(f"global_pool={global_pool!r}: allowed are 'attn', ''")
            self.global_pool = global_pool
        like = next(self.parameters())
        spec = replace(self.spec, device=like.device, dtype=like.dtype)
        if isinstance(self.attnpool.q_proj, nn.Identity) and (
            num_classes or self.global_pool
        ):  # it was pruned
            attnpool = AttentionPool2d(self.head_hidden_size, self.attnpool.heads, spec)
            self.attnpool = attnpool.train(self.training)
        projection: nn.Module = nn.Identity()
        if num_classes:
            projection = Projection(
                self.head_hidden_size, num_classes, b=spec.b, max_out=spec.max_out, scale=spec.scale,
                normalize=spec.normalize, device=spec.device, dtype=spec.dtype,
            )  # fmt: skip
        self.num_classes = num_classes
        forget_names(self)
        self._replace(self.CLASSIFIER, projection)
        self._replace("logits", spec.logits(num_classes) if num_classes else nn.Identity())

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Parameter groups by depth, for layer-wise learning rates."""
        blocks = r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"
        return dict(stem=r"^conv\d|bn\d", blocks=blocks)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to the embedding, or to pooled features (N, num_features) if `pre_logits`."""
        if not self.global_pool:
            return self.logits(self.attnpool.each(x)) if self.num_classes and not pre_logits else x
        x = F.dropout(self.attnpool(x), p=self.drop_rate, training=self.training)
        if pre_logits or self.num_classes == 0:
            return x
        return self.logits(self.get_classifier()(x))


_CARD = dict(input_size=(3, 224, 224), pool_size=(7, 7), crop_pct=1.0, interpolation="bicubic")

default_cfgs = cards(
    {"bcos_resnet50_clip": _CARD | dict(num_classes=1024)},
    classifier="attnpool.c_proj.linear",
    first_conv="conv1.linear",
)

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@register_model
def bcos_resnet50_clip(pretrained: bool = False, **kwargs: Any) -> BcosResNetCLIP:
    """CLIP's ResNet-50 (Radford et al. 2021), B-cosified: image to embedding."""
    arch: dict[str, Any] = dict(
        layers=(3, 4, 6, 3), normalize=False, act="relu", logit_bias=0.0, mean=_CLIP_MEAN, std=_CLIP_STD
    )
    model: BcosResNetCLIP = build(BcosResNetCLIP, "bcos_resnet50_clip", pretrained, arch, kwargs)
    return model
