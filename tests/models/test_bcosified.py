"""The B-cosified networks (Arya et al. 2024) against slow ones, and against what they were made from.

Weights as they are, activations kept, the normalisation inside. The numbers below are the published ones, so
that the arguments in the manifest are tested too.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import slow_networks as slow
import timm
import torch
import torchvision
from conftest import assert_close, images
from torch import Tensor, nn

import bcos_zoo
from bcos_zoo import InputError
from bcos_zoo.layers import sincos_positions
from bcos_zoo.weights import manifest

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def positions(rows: int, columns: int, dim: int) -> Tensor:
    """Ours, for they are rounded to float32, as published; test_attention.py holds them."""
    return sincos_positions(rows, columns, dim, like=torch.empty(0, dtype=torch.float64))


RESNET = (slow.resnet, dict(layers=(2, 1, 2), widths=(8, 12, 16)))
DENSENET = (slow.densenet, dict(growth=6, layers=(2, 3, 2), stem_width=8))
VIT = dict(dim=24, depth=2, heads=3, mlp_dim=40)
STEM = VIT | dict(conv_stem=(8, 12, 12, 16, 16, 20))
SIMPLE_VIT = (functools.partial(slow.vit, heads=3, patch=16, positions=positions), VIT)
VITC = (functools.partial(slow.vit, heads=3, patch=1, positions=positions), STEM)
RESNET_CLIP = (functools.partial(slow.clip_resnet, heads=4), dict(layers=(1, 2, 1, 1), width=8, heads=4))
NETWORKS: dict[str, tuple[slow.Network, dict[str, Any]]] = {
    "bcos_resnet18.bcosified_in1k": RESNET,
    "bcos_resnet50.bcosified_in1k": RESNET,
    "bcos_resnet50.bcosified_tv1_in1k": RESNET,
    "bcos_densenet121.bcosified_in1k": DENSENET,
    **{f"bcos_simple_vit_{size}_patch16_224.bcosified_in1k": SIMPLE_VIT for size in ("ti", "s", "b", "l")},
    **{f"bcos_vitc_{size}_patch1_14.bcosified_in1k": VITC for size in ("ti", "s", "b", "l")},
    "bcos_resnet50_clip.bcosified_in1k": RESNET_CLIP,
    "bcos_resnet50_clip.bcosified_cc3m": RESNET_CLIP,
}


def test_every_b_cosified_checkpoint_is_here():
    assert {record.name for record in manifest.checkpoints() if "bcosified" in record.tag} == set(NETWORKS)


def with_slow(name: str, **options: Any) -> tuple[Any, slow.Network, slow.Pass]:
    """The network of that name with random weights, the slow one of the image encoded, and its rules."""
    network, sizes = NETWORKS[name]
    model = timm.create_model(name, num_classes=3, dtype=torch.float64, **sizes, **options)
    slow.with_weights(model, images(4, 64, 96, seed=1).double())
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (CLIP if "clip" in name else IMAGENET))
    mean, std = torch.cat([mean, 1 - mean])[:, None, None], torch.cat([std, std])[:, None, None]
    act = "gelu" if "vit" in name else "relu"
    start = slow.Pass(model.state_dict(), normalize=False, act=act)
    return model, lambda net, z: network(net, (z - mean) / std), start


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request: pytest.FixtureRequest) -> tuple[Any, slow.Explained, Tensor]:
    """A network, and what the slow one says of two images."""
    model, network, start = with_slow(request.param)
    x = images(2, 64, 48).double()
    bias = 0.0 if "clip" in request.param else -math.log(2)
    return model, slow.explain(network, start, torch.cat([x, 1 - x], 1), bias=bias), x


def test_a_b_cosified_network_is_the_slow_one(pair):
    model, expected, x = pair
    with torch.no_grad():
        assert_close(model(x), expected.logits, 1e-9)


def test_its_linear_map_and_its_constants_are_those_of_the_slow_one(pair):
    model, expected, x = pair
    explanation = bcos_zoo.explain(model, x, list(range(3)))
    assert_close(explanation.logits, expected.logits, 1e-9)
    assert_close(explanation.weights, expected.weights, 1e-9)
    assert_close(explanation.bias, expected.bias, 1e-9)


def test_pixels_means_and_positions_make_the_whole_logit(pair):
    """Not the pixels and the logit bias alone: the means of the normalisation have a share of their own."""
    model, _, x = pair
    explanation = bcos_zoo.explain(model, x, list(range(3)))
    assert (explanation.completeness().abs() <= 1e-10 * explanation.logits.abs().max()).all()
    share = explanation.bias - model.logits.bias
    assert (share.abs() > 1e-3 * explanation.logits.abs().max()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_clip_without_pooling_gives_zero_where_all_features_are_zero(dtype):
    """Zero has no direction; the other positions are what they are without the zeros."""
    model, _, _ = with_slow("bcos_resnet50_clip.bcosified_in1k", global_pool="")
    model = model.to(dtype)
    features = torch.rand(1, model.num_features, 2, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    features[:, :, 0, 1] = 0
    with torch.no_grad():
        got = model.forward_head(features)
        apart = model.forward_head(features[..., 2:])
    assert got.dtype == dtype and got.isfinite().all() and not got[..., 0, 1].any()
    torch.testing.assert_close(got[..., 2:], apart)
    features.requires_grad_()
    with bcos_zoo.linear_mode():
        (weights,) = torch.autograd.grad(model.forward_head(features)[:, 0].sum(), features)
    assert weights.isfinite().all() and weights[..., 0, 0].any()


@pytest.mark.parametrize("data", ["in1k", "cc3m"])
def test_clip_without_pooling_gives_the_unit_embedding_of_each_position(data):
    name = f"bcos_resnet50_clip.bcosified_{data}"
    model, _, start = with_slow(name, global_pool="")
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in CLIP)
    x = images(2, 64, 96).double()
    z = (x - mean) / std
    with torch.no_grad():
        embedding = model(x)
        assert embedding.shape == (2, 3, 2, 3)
        assert_close(embedding, slow.clip_each(start, torch.cat([z, -z], 1)), 1e-9)
        assert_close(embedding.norm(dim=1), torch.ones(2, 2, 3, dtype=torch.float64), 1e-12)


def conventional_resnet(block: str, width: int) -> Any:
    """torchvision's, with average pooling, and without biases and means: what a B-cosified one begins as."""
    model: Any = torchvision.models.resnet.ResNet(
        getattr(torchvision.models.resnet, block), [1, 2, 1, 1], num_classes=5, width_per_group=width
    ).double()
    model.maxpool = nn.AvgPool2d(3, 2, 1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith("running_var") or (value.ndim == 1 and key.endswith("weight")):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            if key.endswith(("bias", "running_mean")):
                value.zero_()
    return model.eval()


def halves(weight: Tensor, dim: int = 1) -> Tensor:
    """A stem for three channels as one for the six encoded ones."""
    return torch.cat([weight, -weight], dim) / 2


@pytest.mark.parametrize(
    ("name", "block", "width"), [("bcos_resnet18", "BasicBlock", 64), ("bcos_resnet50", "Bottleneck", 32)]
)
def test_with_b_1_a_b_cosified_resnet_is_the_conventional_one(name, block, width):
    theirs = conventional_resnet(block, width)
    state = {
        key.replace(".weight", ".linear.weight") if value.ndim > 1 else key: value
        for key, value in theirs.state_dict().items()
        if not key.endswith("bias")
    }
    state["conv1.linear.weight"] = halves(state["conv1.linear.weight"])
    state["fc.linear.weight"] = state["fc.linear.weight"][:, :, None, None]
    options = dict(b=1, logit_bias=0.0, layers=(1, 2, 1, 1), base_width=width, num_classes=5)
    ours = timm.create_model(f"{name}.bcosified_in1k", dtype=torch.float64, **options).eval()
    ours.load_state_dict(state)
    x = images(2, 67, 65).double()
    normalised = torchvision.transforms.functional.normalize(x, *IMAGENET)
    with torch.no_grad():
        assert_close(ours(x), theirs(normalised), 1e-12)


@pytest.mark.parametrize("kind", ["simple_vit_ti_patch16_224", "vitc_ti_patch1_14"])
def test_with_b_1_a_b_cosified_vit_is_its_conventional_twin_without_biases(kind):
    sizes = STEM if "vitc" in kind else VIT
    theirs = timm.create_model(f"bcos_std_{kind}", num_classes=5, dtype=torch.float64, **sizes).eval()
    options = dict(b=1, logit_bias=0.0, pool_last=False, num_classes=5)
    ours = timm.create_model(f"bcos_{kind}.bcosified_in1k", dtype=torch.float64, **options, **sizes).eval()
    slow.with_weights(theirs)
    with torch.no_grad():
        for key, value in theirs.named_parameters():
            value.mul_(0 if key.endswith("bias") else 1)
    weights = [value for key, value in theirs.state_dict().items() if not key.endswith("bias")]
    stem = weights[0]
    weights[0] = halves(stem) if stem.ndim == 4 else halves(stem.unflatten(1, (-1, 3)), 2).flatten(1)
    ours.load_state_dict(dict(zip(ours.state_dict(), weights, strict=True)))
    x = images(2, 64, 48).double()
    with torch.no_grad():
        assert_close(ours(x), theirs(x), 1e-9)


@pytest.mark.parametrize("name", bcos_zoo.list_models("bcos_std_*"))
def test_a_conventional_twin_is_not_explained(name):
    sizes = STEM if "vitc" in name else VIT
    model = timm.create_model(name, **sizes).eval()
    with pytest.raises(InputError, match="has no B-cos encoding layer, so no linear map to explain"):
        bcos_zoo.explain(model, images(1, 32, 32))
