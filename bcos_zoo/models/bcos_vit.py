"""B-cos Simple ViT (Beyer et al. 2022), with patches or with a convolutional stem (Xiao et al. 2021).

As published by Boehle et al. 2024: B-cos layers instead of linear ones except for query, key and value; no
activations; layer norms without bias; fixed sine and cosine positions; no class token, tokens are averaged.
The conventional twins `bcos_std_*`, published with them, have no exact explanation. Names in the state dict
are those of the published v2 files.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from timm.models import checkpoint
from torch import Tensor, nn

from .._compat import check_indices
from ..errors import InputError
from ..layers import V2, ConventionalSpec, Encoder, Head, LayerSpec, PatchEmbed, is_linear
from ._build import build, cards, register_model
from ._network import STEM_FITS, forget_names, gains
from .interface import Network


class BcosSimpleViT(Network):
    """B-cos Simple ViT. (N, in_chans, H, W) in [0, 1] -> (N, num_classes) logits.

    dim, depth, heads, mlp_dim: width, encoders, attention heads, width of the feed-forward layers.
    patch_size: in pixels, or in cells of the stem's map. conv_stem: widths of the stem's 3x3 convolutions, of
    stride 2 at the first and wherever the width grows; empty for no stem.
    img_size: only checked; the network takes images of any size that divides into patches.
    global_pool: "avg" for the average over tokens, "" for logits of each token (N, L, num_classes).
    pool_last: classify each token, then average (B-cosified networks); else average, norm, classify.
    drop_rate: dropout before the classifier. drop_path_rate: stochastic depth, rising linearly with depth.
    spec: how its layers are made.

    Raises InputError for settings, or images, that do not fit.
    """

    feature_info: list[dict[str, Any]]  # timm's: channels, stride and name of each feature level

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        heads: int,
        mlp_dim: int,
        patch_size: int,
        conv_stem: Sequence[int] = (),
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] | None = None,
        global_pool: str = "avg",
        pool_last: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        spec: LayerSpec | ConventionalSpec = V2,
    ) -> None:
        super().__init__()
        if dim % heads or dim % 4:
            raise InputError(f"dim={dim}, heads={heads}: dim must divide by heads and by 4")
        self.spec, self.in_chans, self.drop_rate, self.pool_last = spec, in_chans, drop_rate, pool_last
        self._traits = STEM_FITS
        self.grad_checkpointing = False
        self.encode = spec.encode(in_chans)
        channels = spec.encoded_channels(in_chans)
        self.to_patch_embedding = PatchEmbed(channels, dim, patch_size, conv_stem, spec)
        if img_size is not None:
            sides = (img_size, img_size) if isinstance(img_size, int) else img_size
            self.to_patch_embedding.check_size(*sides)
        rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        encoders = [Encoder(dim, heads, mlp_dim, rate, spec) for rate in rates]
        self.transformer = nn.Sequential(OrderedDict((f"encoder_{i}", e) for i, e in enumerate(encoders)))
        stride = self.to_patch_embedding.stride
        self.feature_info = [
            dict(num_chs=dim, reduction=stride, module=f"transformer.encoder_{i}") for i in range(depth)
        ]
        self.num_features = self.head_hidden_size = self.embed_dim = dim
        self.linear_head: Any = Head(OrderedDict(norm=spec.token_norm(dim), linear=nn.Identity()))
        self.reset_classifier(num_classes, global_pool)

    def get_classifier(self) -> nn.Module:
        """The B-cos layer that makes the logits; the identity if num_classes is 0."""
        classifier: nn.Module = self.linear_head.linear
        return classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier on the same features; the logit bias follows num_classes unless given.

        Raises InputError for a negative num_classes and for any pooling but "avg" and "".
        """
        if num_classes < 0:
            raise InputError(f"num_classes={num_classes}: 0 removes the classifier, 1 and more make one")
        if global_pool is not None:
            if global_pool not in ("avg", ""):
                raise InputError(f"global_pool={global_pool!r}: allowed are 'avg', ''")
            self.global_pool = global_pool
        like = next(self.parameters())
        spec = replace(self.spec, device=like.device, dtype=like.dtype)
        classifier = spec.linear(self.embed_dim, num_classes) if num_classes else nn.Identity()
        logits = spec.logits(num_classes) if num_classes else nn.Identity()
        self.num_classes = num_classes
        forget_names(self)
        self.linear_head.linear = classifier.train(self.training)
        self.logits: Callable[[Tensor], Tensor] = logits.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each encoder in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups by depth, for layer-wise learning rates."""
        blocks = [(r"^transformer\.encoder_(\d+)", None), (r"^linear_head\.norm", (99999,))]
        return dict(stem=r"^to_patch_embedding", blocks=blocks)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay should spare: all but the weights of layers."""
        return gains(self)

    def _run(self, encoder: nn.Module, x: Tensor) -> Tensor:
        # Never in linear mode: on an accelerator, autograd recomputes in another thread, outside the mode.
        x = checkpoint(encoder, x) if self.grad_checkpointing and not is_linear() else encoder(x)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) in [0, 1] -> (N, L, num_features), tokens row by row."""
        x = self.to_patch_embedding(self.encode(x)).flatten(1, 2)
        if not self.grad_checkpointing:
            return self.transformer(x)
        for encoder in self.transformer:
            x = self._run(encoder, x)
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
        """Tokens after each encoder, as in timm: maps (N, D, H', W') or, with "NLC", (N, L, D).

        norm: apply the head's norm to each. Raises InputError for any other output_fmt.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise InputError(f"output_fmt={output_fmt!r}: allowed are 'NCHW', 'NLC'")
        take, last = check_indices(len(self.transformer), indices)
        x = self.to_patch_embedding(self.encode(x))
        grid = x.shape[1:3]
        x, taken = x.flatten(1, 2), []
        for index, encoder in enumerate(self.transformer[: last + 1] if stop_early else self.transformer):
            x = self._run(encoder, x)
            if index in take:
                tokens = self.linear_head.norm(x) if norm else x
                taken.append(tokens.mT.unflatten(2, grid) if output_fmt == "NCHW" else tokens)
        return taken if intermediates_only else (x, taken)

    def prune_intermediate_layers(
        self, indices: int | list[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the encoders that the wanted intermediates do not need; returns the indices kept."""
        take: list[int]
        take, last = check_indices(len(self.transformer), indices)
        self.transformer = self.transformer[: last + 1]
        if prune_norm:
            self.linear_head.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return take

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens to logits or, if `pre_logits`, to the pooled features that the classifier sees."""
        pool = self.global_pool == "avg"
        if pool and not self.pool_last:
            x = x.mean(1)
        if pre_logits:
            x = self.linear_head.norm(x)
            x = x.mean(1) if pool and self.pool_last else x
            return F.dropout(x, p=self.drop_rate, training=self.training)
        return self.from_classifier(self.linear_head(x, self.drop_rate))

    def from_classifier(self, x: Tensor) -> Tensor:
        """What the classifier gives, (N, num_classes) or (N, L, num_classes), to logits."""
        return self.logits(x.mean(1) if self.global_pool == "avg" and self.pool_last else x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


_SIZES = {  # Dosovitskiy et al. 2021, table 1, and Touvron et al. 2021; l is shallower, as published
    "ti": dict(dim=192, depth=12, heads=3, mlp_dim=768),
    "s": dict(dim=384, depth=12, heads=6, mlp_dim=1536),
    "b": dict(dim=768, depth=12, heads=12, mlp_dim=3072),
    "l": dict(dim=1024, depth=14, heads=16, mlp_dim=4096),
}
_STEMS = {  # Xiao et al. 2021, scaled
    "ti": (24, 48, 96, 192),
    "s": (48, 96, 192, 384),
    "b": (64, 128, 128, 256, 256, 512),
    "l": (64, 128, 128, 256, 256, 512),
}
_IMAGENET = dict(input_size=(3, 224, 224), pool_size=None, crop_pct=0.875, num_classes=1000)
_KINDS = {  # and the name of its stem
    "simple_vit_{}_patch16_224": "to_patch_embedding.linear",
    "vitc_{}_patch1_14": "to_patch_embedding.conv_stem.0",
}

default_cfgs = {
    name: card
    for kind, stem in _KINDS.items()
    for prefix, layer in (("bcos_", ".linear"), ("bcos_std_", ""))  # a B-cos layer holds a plain one
    for name, card in cards(
        {f"{prefix}{kind.format(size)}": _IMAGENET for size in _SIZES},
        classifier=f"linear_head.linear{layer}",
        first_conv=f"{stem}{layer}",
    ).items()
}


def _create(name: str, pretrained: bool, kwargs: Any, size: str) -> BcosSimpleViT:
    """Build the size and kind that the name says; a convolutional stem replaces one encoder."""
    arch: dict[str, Any] = {**_SIZES[size], "patch_size": 16}
    spec = ConventionalSpec if "_std_" in name else LayerSpec
    if "_vitc_" in name:
        arch |= dict(depth=arch["depth"] - 1, patch_size=1, conv_stem=_STEMS[size])
        arch |= {} if spec is ConventionalSpec else dict(norm="ln")
    model: BcosSimpleViT = build(BcosSimpleViT, name, pretrained, arch, kwargs, spec=spec)
    return model


@register_model
def bcos_simple_vit_ti_patch16_224(pretrained: bool = False, **kwargs: Any) -> BcosSimpleViT:
    """Simple ViT-Ti with patches of 16 pixels."""
    return _create("bcos_simple_vit_ti_patch16_224", pretrained, kwargs, "ti")


@register_model
def bcos_simple_vit_s_patch16_224(pretrained: bool = False, **kwargs: Any) -> BcosSimpleViT:
    """Simple ViT-S with patches of 16 pixels."""
    return _create("bcos_simple_vit_s_patch16_224", pretrained, kwargs, "s")


@register_model
def bcos_simple_vit_b_patch16_224(pretrained: bool = False, **kwargs: Any) -> BcosSimpleViT:
    """Simple ViT-B with patches of 16 pixels."""
    return _create("bcos_simple_vit_b_patch16_224", pretrained, kwargs, "b")


@register_model
def bcos_simple_vit_l_patch16_224(pretrained: bool = False, **kwargs: Any) -> BcosSimpleViT:
    """Simple ViT-L with patches of 16 pixels."""
    return _create("bcos_simple_vit_l_patch16_224", pretrained, kwargs, "l")


@register_model
def bcos_vitc_ti_patch1_14(pretrained: bool = False, **kwargs: Any) -> BcosSimpleViT:
    """Simple ViT-Ti with a convolutional stem."""
    return _create("bcos_vitc_ti_patch1_14", pretrained, kwargs, "ti")


@register_model
def bcos_vitc_s_patch1_14(pretrained: bool = False, **kwargs: Any) -> BcosSimpleViT:
    """Simple ViT-S with a convolutional stem."""
    return _create("bcos_vitc_s_patch1_14", pretrained, kwargs, "s")


@register_model
def bcos_vitc_b_patch1_14(pretrained: bool = False, **kwargs: Any) -> BcosSimpleViT:
    """Simple ViT-B with a convolutional stem."""
    return _create("bcos_vitc_b_patch1_14", pretrained, kwargs, "b")


@register_model
def bcos_vitc_l_patch1_14(pretrained: bool = False, **kwargs: Any) -> BcosSimpleViT:
    """Simple ViT-L with a convolutional stem."""
    return _create("bcos_vitc_l_patch1_14", pretrained, kwargs, "l")


@register_model
def bcos_std_simple_vit_ti_patch16_224(pretrained: bool = False, **kwargs: Any) -> BcosSimpleViT:
    """Simple ViT-Ti with patches of 16 pixels; conventional: it has no exact explanation."""
    return _create("bcos_std_simple_vit_ti_patch16_224", pretrained, kwargs, "ti")


@register_model
def bcos_std_simple_vit_s_patch16_224(pretrained: bool = False, **kwargs: Any) -> BcosSimpleViT:
    """Simple ViT-S with patches of 16 pixels; conventional: it has no exact explanation."""
    return _create("bcos_std_simple_vit_s_patch16_224", pretrained, kwargs, "s")


@register_model
def bcos_std_simple_vit_b_patch16_224(pretrained: bool = False, **kwargs: Any) -> BcosSimpleViT:
    """Simple ViT-B with patches of 16 pixels; conventional: it has no exact explanation."""
    return _create("bcos_std_simple_vit_b_patch16_224", pretrained, kwargs, "b")


@register_model
def bcos_std_simple_vit_l_patch16_224(pretrained: bool = False, **kwargs: Any) -> BcosSimpleViT:
    """Simple ViT-L with patches of 16 pixels; conventional: it has no exact explanation."""
    return _create("bcos_std_simple_vit_l_patch16_224", pretrained, kwargs, "l")


@register_model
def bcos_std_vitc_ti_patch1_14(pretrained: bool = False, **kwargs: Any) -> BcosSimpleViT:
    """Simple ViT-Ti with a convolutional stem; conventional: it has no exact explanation."""
    return _create("bcos_std_vitc_ti_patch1_14", pretrained, kwargs, "ti")


@register_model
def bcos_std_vitc_s_patch1_14(pretrained: bool = False, **kwargs: Any) -> BcosSimpleViT:
    """Simple ViT-S with a convolutional stem; conventional: it has no exact explanation."""
    return _create("bcos_std_vitc_s_patch1_14", pretrained, kwargs, "s")


@register_model
def bcos_std_vitc_b_patch1_14(pretrained: bool = False, **kwargs: Any) -> BcosSimpleViT:
    """Simple ViT-B with a convolutional stem; conventional: it has no exact explanation."""
    return _create("bcos_std_vitc_b_patch1_14", pretrained, kwargs, "b")


@register_model
def bcos_std_vitc_l_patch1_14(pretrained: bool = False, **kwargs: Any) -> BcosSimpleViT:
    """Simple ViT-L with a convolutional stem; conventional: it has no exact explanation."""
    return _create("bcos_std_vitc_l_patch1_14", pretrained, kwargs, "l")
