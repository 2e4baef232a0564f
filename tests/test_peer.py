"""The networks are those of the official package `bcos` (extra `peer`), to the last bits of a float.

It wants the six encoded channels, made outside. Differences are relative to the largest value.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from conftest import EXPLAINED, NAMES, assert_close, by_size, images, network

import bcos_zoo
from bcos_zoo.layers import encode

pytest.importorskip("bcos", reason="the official bcos package is not installed")
from official import flat, official  # noqa: E402

# Not in the official package.
OURS_ALONE = (
    *("bcos_converted", "bcos_efficientnet_lite0", "bcos_inception_v3", "bcos_plain9", "bcos_resnet18_w32"),
    "bcos_resnet50_clip",
)
OFFICIAL = [name for name in NAMES if name not in OURS_ALONE]
NAMED = [name for name in OFFICIAL if "vgg" not in name or name.endswith("_bnu")]
# In a VGG without norms theirs count identities that the published v1 file does not know; ours has its names.


@pytest.mark.parametrize("name", NAMED)
def test_names_shapes_and_order_of_the_state_dict_are_the_published_ones(name):
    with torch.device("meta"):
        ours, theirs = timm.create_model(name).state_dict(), flat(official(name).state_dict(), name)
    ours, theirs = ([(k, v.shape, v.dtype) for k, v in state.items()] for state in (ours, theirs))
    assert ours == theirs


@pytest.fixture(params=by_size(OFFICIAL))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def pair(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Ours and theirs with one state dict, of weights that in float32 do not amplify rounding errors."""
    model, theirs = network(name, mean=0.1 if dtype == torch.float32 else 0.0).to(dtype), official(name)
    theirs = theirs.to(dtype).eval()
    state = model.state_dict()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state.values(), strict=True)))
    if name in EXPLAINED:
        theirs.logit_layer.logit_temperature = model.logits.temperature
    return model, theirs


def their_input(name: str, model: Any, x: torch.Tensor) -> torch.Tensor:
    return encode(x) if name in EXPLAINED else model.encode(x)


SIZES = [
    pytest.param("odd"),
    pytest.param("own", marks=pytest.mark.slow),
]  # own: 224 pixels, or 32 of CIFAR-10


def told(theirs: Any, x: torch.Tensor, targets: torch.Tensor) -> list[dict[str, Any]]:
    """What the official package says of the first image's first target, and of the second's second."""
    return [theirs.explain(encode(x[i : i + 1]).requires_grad_(), idx=int(targets[i, i])) for i in (0, 1)]


def rounding(name: str, model: Any, theirs: Any, x: torch.Tensor) -> float:
    """How far the official logits and linear maps in float32 are from theirs in float64, relative.

    With random weights some deep networks amplify rounding so much that no two float32 programs agree better.
    """
    exact, x64 = copy.deepcopy(theirs).double(), x.double()
    with torch.inference_mode():
        pairs = [(theirs(their_input(name, model, x)), exact(their_input(name, model, x64)))]
    if name in EXPLAINED:
        targets = pairs[0][0].topk(2).indices
        both = zip(told(theirs, x, targets), told(exact, x64, targets), strict=True)
        pairs += [tuple(one["dynamic_linear_weights"] for one in two) for two in both]
    return max(float((got - right).abs().max() / right.abs().max()) for got, right in pairs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_logits_linear_map_and_picture_are_the_official_ones(name, dtype, size):
    model, theirs = pair(name, dtype)
    height, width = (33, 31) if size == "odd" else model.pretrained_cfg["input_size"][1:]
    x = images(2, height, width, like=model).to(dtype)
    tolerance = 1e-8  # a change of 1e-15 in an image moves the logits of DenseNet-201 by 1.7e-9
    if dtype == torch.float32:
        tolerance = max(1e-5, 3 * rounding(name, model, theirs, x))
    with torch.inference_mode():
        logits = theirs(their_input(name, model, x))
        assert_close(model(x), logits, tolerance)
    if name not in EXPLAINED:
        return
    targets = logits.topk(2).indices  # with no pixel that speaks for a target, the official picture is white
    explanation = bcos_zoo.explain(model, x, targets)
    assert_close(explanation.logits, logits, tolerance)
    for i, official_one in enumerate(told(theirs, x, targets)):
        weights = official_one["dynamic_linear_weights"][0]
        assert_close(explanation.weights[i, i], weights, tolerance)
        assert_close(explanation.contributions[i, i], official_one["contribution_map"][0].detach(), tolerance)
        picture, own = (
            torch.from_numpy(official_one["explanation"]).permute(2, 0, 1),
            explanation.rgba()[i, i],
        )
        assert_close(own[3], picture[3], 100 * tolerance)
        # A colour is the ratio of a pair of weights, so it is as coarse as they are small.
        pairs = weights.clamp_min(0).unflatten(0, (2, 3)).sum(0)
        assert_close(own[:3] * pairs, picture[:3] * pairs, 10 * tolerance)


def test_the_bias_of_a_convolutional_network_is_its_logit_bias():
    model = network("bcos_resnet20")
    assert bcos_zoo.explain(model, images()).bias.unique().item() == pytest.approx(model.logits.bias)
