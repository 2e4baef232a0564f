"""The networks are those of the official package `bcos` (extra `peer`), to the last bits of a float.

It wants the six encoded channels, made outside. Differences are relative to the largest value.
"""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from conftest import BY_SIZE, assert_close, images, network

import bcos_zoo
from bcos_zoo.layers import encode

OFFICIAL = {
    "bcos_resnet18": "resnet18",
    "bcos_resnet34": "resnet34",
    "bcos_resnet50": "resnet50",
    "bcos_resnet101": "resnet101",
    "bcos_resnet152": "resnet152",
    "bcos_resnext50_32x4d": "resnext50_32x4d",
    "bcos_resnext101_32x8d": "resnext101_32x8d",
    "bcos_wide_resnet50_2": "wide_resnet50_2",
    "bcos_wide_resnet101_2": "wide_resnet101_2",
    "bcos_resnet20": "cifar10_resnet20",
    "bcos_resnet32": "cifar10_resnet32",
    "bcos_resnet44": "cifar10_resnet44",
    "bcos_resnet56": "cifar10_resnet56",
    "bcos_resnet110": "cifar10_resnet110",
}


def official(name: str) -> Any:
    resnet = pytest.importorskip("bcos.models.resnet", reason="the official bcos package is not installed")
    from bcos.modules import norms

    return getattr(resnet, name)(in_chans=6, norm_layer=norms.NoBias(norms.BatchNormUncentered2d)).eval()


@pytest.mark.parametrize(("name", "theirs"), OFFICIAL.items())
def test_names_shapes_and_order_of_the_state_dict_are_the_published_ones(name, theirs):
    with torch.device("meta"):
        networks = timm.create_model(name), official(theirs)
    ours, theirs = ([(k, v.shape, v.dtype) for k, v in net.state_dict().items()] for net in networks)
    assert ours == theirs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", [name for name in BY_SIZE if name.values[0] in OFFICIAL])
def test_logits_linear_map_and_picture_are_the_official_ones(name, dtype):
    """In float32 with weights that do not amplify rounding errors, in float64 with those that do."""
    single = dtype == torch.float32
    tolerance = 1e-5 if single else 1e-9
    model, theirs = network(name, mean=0.1 if single else 0.0).to(dtype), official(OFFICIAL[name]).to(dtype)
    theirs.load_state_dict(model.state_dict())
    x = images().to(dtype)
    with torch.inference_mode():
        logits = theirs(encode(x))
        assert_close(model(x), logits, tolerance)
    targets = logits.topk(2).indices  # with no pixel that speaks for a target, the official picture is white
    explanation = bcos_zoo.explain(model, x, targets)
    assert_close(explanation.logits, logits, tolerance)
    assert explanation.bias.unique().item() == pytest.approx(theirs.logit_layer.logit_bias, rel=1e-6)
    pictures = explanation.rgba()
    for n, t in ((0, 0), (1, 1)):
        told = theirs.explain(encode(x[n : n + 1]).requires_grad_(), idx=int(targets[n, t]))
        weights = told["dynamic_linear_weights"][0]
        assert_close(explanation.weights[n, t], weights, tolerance)
        assert_close(explanation.contributions[n, t], told["contribution_map"][0].detach(), tolerance)
        picture = torch.from_numpy(told["explanation"]).permute(2, 0, 1)
        assert_close(pictures[n, t, 3], picture[3], 100 * tolerance)
        # A colour is the ratio of a pair of weights, so it is as coarse as they are small.
        pairs = weights.clamp_min(0).unflatten(0, (2, 3)).sum(0)
        assert_close(pictures[n, t, :3] * pairs, picture[:3] * pairs, 10 * tolerance)
