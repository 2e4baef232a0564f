"""The networks are those of the official package `bcos` (extra `peer`), to the last bits of a float.

It wants the six encoded channels, made outside. Differences are relative to the largest value.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
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


@pytest.fixture(scope="module", params=[name for name in BY_SIZE if name.values[0] in OFFICIAL])
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    model, theirs = network(request.param), official(OFFICIAL[request.param])
    theirs.load_state_dict(model.state_dict())
    return model, theirs


def test_names_shapes_and_order_of_the_state_dict_are_the_published_ones(pair):
    shapes = [[(key, value.shape, value.dtype) for key, value in net.state_dict().items()] for net in pair]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
def test_logits_linear_map_and_picture_are_the_official_ones(pair, dtype, tolerance):
    model, theirs = pair
    if dtype != torch.float32:
        model, theirs = copy.deepcopy(model).to(dtype), copy.deepcopy(theirs).to(dtype)
    x = images(2).to(dtype)
    with torch.inference_mode():
        logits = theirs(encode(x))
        assert_close(model(x), logits, tolerance)
    targets = torch.stack([logits.argmax(1), logits.argmin(1)], dim=1)
    explanation = bcos_zoo.explain(model, x, targets)
    assert_close(explanation.logits, logits, tolerance)
    assert explanation.bias.unique().item() == pytest.approx(theirs.logit_layer.logit_bias, rel=1e-6)
    pictures = explanation.rgba()
    for n, t in ((0, 0), (1, 1)):
        told = theirs.explain(encode(x[n : n + 1]).requires_grad_(), idx=int(targets[n, t]))
        assert_close(explanation.weights[n, t], told["dynamic_linear_weights"][0], tolerance)
        assert_close(explanation.contributions[n, t], told["contribution_map"][0].detach(), tolerance)
        picture = torch.from_numpy(told["explanation"]).permute(2, 0, 1)
        # A pixel's colour is a ratio of its weights: where all of them are small, it is the coarser.
        difference = (pictures[n, t] - picture).abs()
        assert difference.max() < 100 * tolerance and difference.mean() < tolerance
