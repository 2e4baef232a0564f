"""The networks of the official package `bcos` (extra `peer`) under the names of this one.

An oracle for tests and the peer in benchmarks; nothing in bcos_zoo imports it. Inputs have six channels.
"""

from __future__ import annotations

import warnings
from typing import Any

from bcos.common import BcosUtilMixin
from bcos.models import convnext, densenet, resnet, vgg, vit
from bcos.modules import BcosConv2d, BcosLinear, LogitLayer, norms
from torch import nn

from bcos_zoo.layers import default_logit_bias

CIFAR = {*(f"resnet{n}" for n in (20, 32, 44, 56, 110)), *(f"densenet{n}" for n in (52, 100, 190, 250))}


class OfficialViT(BcosUtilMixin, nn.Sequential):
    """A ViT as their entry points assemble it: the transformer, then the logit layer."""

    @property
    def logit_layer(self) -> nn.Module:
        return self[1]


def official(name: str) -> Any:
    """Their network of that name, with the norm that the published network has."""
    short = name.removeprefix("bcos_")
    batch_norm = norms.NoBias(norms.BatchNormUncentered2d)
    if "vit" in short:
        return _official_vit(short)
    if "convnext" in short:
        plain = short.removesuffix("_bnu")
        return getattr(convnext, plain)(in_chans=6, norm_layer=None if plain == short else batch_norm)
    if "vgg" in short:
        options = dict(norm_layer=batch_norm) if short.endswith("_bnu") else {}
        return getattr(vgg, short)(conv_layer=BcosConv2d, **options)
    family = densenet if "densenet" in short else resnet
    return getattr(family, f"cifar10_{short}" if short in CIFAR else short)(in_chans=6, norm_layer=batch_norm)


def _official_vit(short: str) -> nn.Module:
    build = getattr(vit, short.removeprefix("std_"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns unless called by their own entry points
        if short.startswith("std_"):
            return build(
                channels=3, linear_layer=nn.Linear, norm_layer=nn.LayerNorm, act_layer=nn.GELU,
                conv2d_layer=nn.Conv2d, norm2d_layer=norms.DetachableGNLayerNorm2d,
            )  # fmt: skip
        transformer = build(
            channels=6, linear_layer=BcosLinear, norm_layer=norms.NoBias(norms.DetachableLayerNorm),
            act_layer=nn.Identity, conv2d_layer=BcosConv2d,
            norm2d_layer=norms.NoBias(norms.DetachableGNLayerNorm2d),
        )  # fmt: skip
    return OfficialViT(transformer, LogitLayer(logit_bias=default_logit_bias(1000)))


def flat(state_dict: dict[str, Any], name: str) -> dict[str, Any]:
    """Their tensor names in our form: they put a B-cos ViT into a Sequential."""
    prefix = "0." if "vit" in name and "_std_" not in name else ""
    return {key.removeprefix(prefix): value for key, value in state_dict.items()}
