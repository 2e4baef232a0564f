"""Small networks of timm with random weights, of families as unlike as can be."""

from __future__ import annotations

import functools
from typing import Any

import timm
import torch
from torch import Tensor, nn

from bcos_zoo.conversion.trial import randomised

# name -> (options that make it small, size of its images). Names with a suffix after / differ in options.
SMALL: dict[str, tuple[dict[str, Any], int]] = {
    "test_resnet": ({}, 64),
    "resnet18": ({}, 64),
    "resnetv2_50": (dict(layers=(1, 1, 1, 1), channels=(32, 64, 64, 64), stem_chs=16), 64),
    "densenet121": (dict(block_config=(2, 2, 2, 2), growth_rate=8), 64),
    "hgnet_tiny": ({}, 64),
    "test_efficientnet": ({}, 64),
    "tf_efficientnet_lite0": ({}, 64),
    "mobilenetv3_small_050": ({}, 64),
    "convnext_atto": ({}, 64),
    "convnextv2_atto": ({}, 64),
    "test_vit": ({}, 160),
    "test_vit3": ({}, 160),
    "vit_tiny_patch16_224/registers": (
        dict(img_size=64, depth=2, reg_tokens=2, qk_norm=True, embed_dim=64, num_heads=2), 64,
    ),
    "deit3_small_patch16_224": (dict(img_size=64, depth=2, embed_dim=64, num_heads=2), 64),
    "swin_tiny_patch4_window7_224": (
        dict(img_size=56, depths=(2, 2), num_heads=(2, 2), embed_dim=32), 56,
    ),
    "swinv2_tiny_window8_256": (
        dict(img_size=64, depths=(2, 2), num_heads=(2, 2), embed_dim=32, window_size=4), 64,
    ),
    "beit_base_patch16_224": (dict(img_size=64, depth=2, embed_dim=64, num_heads=2), 64),
    "eva02_tiny_patch14_224": (dict(img_size=56, depth=2), 56),
    "cait_xxs24_224": (dict(img_size=64, depth=2), 64),
    "xcit_nano_12_p16_224": (dict(depth=2), 64),
    "mixer_s32_224": (dict(img_size=64), 64),
    "resmlp_12_224": (dict(img_size=64), 64),
    "poolformer_s12": ({}, 64),
    "gmlp_ti16_224": (dict(img_size=64), 64),
    "coatnet_pico_rw_224": (dict(img_size=64), 64),
    "hiera_tiny_224": (dict(img_size=(64, 64), stages=(1, 1, 2, 1)), 64),
    "mvitv2_tiny": (dict(img_size=64), 64),
    "regnety_002": ({}, 64),
    "repvgg_a0": ({}, 64),
    "ghostnet_050": ({}, 64),
    "focalnet_tiny_srf": ({}, 64),
    "test_nfnet": ({}, 64),
    "levit_128s": (dict(img_size=64), 64),
    "efficientformer_l1": (dict(img_size=224), 224),
    "tiny_vit_5m_224": ({}, 224),
    "fastvit_t8": ({}, 64),
    "mobilevit_xxs": ({}, 64),
    "edgenext_xx_small": ({}, 64),
    "starnet_s1": ({}, 64),
    "mambaout_femto": (dict(depths=(1, 1, 1, 1)), 64),
    "efficientvit_b0": ({}, 64),
    "gemma4_vit_167m": (dict(img_size=96, depth=2), 96),  # too large to be measured whole for the page
    "deepseek_vit_412m": (dict(img_size=56, depth=2), 56),
}  # fmt: skip


@functools.cache
def _built(name: str) -> nn.Module:
    options, size = SMALL[name]
    model = timm.create_model(name.partition("/")[0], num_classes=5, **options)
    model.pretrained_cfg["input_size"] = (3, size, size)
    return randomised(model.eval()).double()


def original(name: str) -> Any:
    """The network, in float64 and eval mode: the same object every time, to be left as it is."""
    return _built(name)


def images(name: str, n: int = 2, seed: int = 0) -> Tensor:
    """(N, 3, H, W) in [0, 1] of the size that the network takes, smooth enough to have structure."""
    size = SMALL[name][1]
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 9, 7, generator=generator, dtype=torch.float64)
    return nn.functional.interpolate(coarse, (size, size), mode="bilinear").clamp(0, 1)


def normalised(model: Any, x: Tensor) -> Tensor:
    """What the original wants of an image in [0, 1]."""
    mean, std = (
        torch.tensor(model.pretrained_cfg[key], dtype=torch.float64)[:, None, None] for key in ("mean", "std")
    )
    return (x - mean) / std
