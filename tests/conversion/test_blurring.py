"""A blur ahead of a converted network's strides: where it stands, and that nothing else changes."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import timm
import torch
from networks import images, normalised, original
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

import bcos_zoo
from bcos_zoo import InputError
from bcos_zoo.metrics import checkerboard

# with layers of stride 2: convolutions and poolings, padded as the size demands, depthwise and dense
STRIDED = [
    "test_resnet", "test_efficientnet", "resnet18", "tf_efficientnet_lite0", "convnext_atto", "densenet121",
    "levit_128s", "fastvit_t8",
]  # fmt: skip


def smooth(x: Tensor, weights: tuple[int, ...] = (1, 2, 1)) -> Tensor:
    """The weighted mean of neighbours along both axes; beyond the border the outermost pixels go on."""
    reach = len(weights) // 2
    for dim in (-2, -1):
        at = torch.arange(x.shape[dim])
        shifted = [x.index_select(dim, (at + k - reach).clamp(0, len(at) - 1)) for k in range(len(weights))]
        x = sum(w * one for w, one in zip(weights, shifted, strict=True)) / sum(weights)
    return x


class SmoothAhead(nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.weights = (1, 4, 6, 4, 1) if layer.stride == (4, 4) else (1, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(smooth(x, self.weights))
        return y


def strided(network: nn.Module) -> list[str]:
    kinds = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
    every: list[tuple[str, Any]] = list(network.named_modules())
    return [name for name, one in every if isinstance(one, kinds) and one.stride in (2, (2, 2), (4, 4))]


@pytest.mark.parametrize("name", STRIDED[:5])
def test_layers_with_a_stride_see_their_map_blurred(name):
    model = bcos_zoo.bcosify(original(name), b=1, antialias="blur")
    by_hand = copy.deepcopy(original(name))
    layers = strided(by_hand)
    assert layers and sorted(layers) == list(model.plan.blurred) == model.conversion["plan"]["blurred"]
    for one in layers:
        by_hand.set_submodule(one, SmoothAhead(by_hand.get_submodule(one)))
    x = images(name)
    torch.testing.assert_close(model(x), by_hand(normalised(by_hand, x)))


@pytest.mark.parametrize("name", STRIDED)
def test_explanations_stay_exact_and_state_dicts_the_same(name):
    model = bcos_zoo.bcosify(original(name), b=1.5, antialias="blur")
    e = bcos_zoo.explain(model, images(name))
    parts = e.contributions.sum((-1, -2)) + e.bias
    torch.testing.assert_close(parts, e.logits.gather(1, e.targets), rtol=1e-9, atol=1e-9)
    assert {key.removeprefix("network.") for key in model.state_dict()} == {*original(name).state_dict()}


def test_it_is_made_again_copied_and_saved():
    model = bcos_zoo.bcosify("test_efficientnet", b=1.5, antialias="blur").eval()
    again = timm.create_model("bcos_converted", original="test_efficientnet", conversion=model.conversion)
    again.load_state_dict(model.state_dict())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    x = images("test_efficientnet").float()
    for other in (again.eval(), copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), model(x))
    assert not torch.equal(bcos_zoo.bcosify("test_efficientnet", b=1.5).eval()(x), model(x))
    model.reset_classifier(3)
    assert model(x).shape == (len(x), 3) and model.plan.blurred == again.plan.blurred


def test_the_pattern_of_the_strides_is_gone():
    plain = timm.create_model("tf_efficientnet_lite0", num_classes=4).eval()
    with torch.no_grad():
        for weight in plain.parameters():
            weight.abs_()  # no noise of signs, in which the pattern would drown
    x = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    maps = [bcos_zoo.explain(bcos_zoo.bcosify(plain, antialias=way), x) for way in ("none", "blur")]
    before, after = (float(checkerboard(one.weights[:, 0, 0], 32).mean()) for one in maps)
    assert after < before / 10, (before, after)


def test_it_runs_compiled_and_exported():
    model = bcos_zoo.bcosify("test_efficientnet", b=1.5, antialias="blur").eval()
    x = images("test_efficientnet").float()
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))
    torch.testing.assert_close(torch.compile(model)(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", ["flc", True, None])
def test_another_way_is_refused(way):
    with pytest.raises(InputError, match=r"antialias=.*: allowed are 'none', 'blur'"):
        bcos_zoo.bcosify("test_resnet", antialias=way)


def test_a_network_without_strides_is_refused():
    with pytest.raises(InputError, match="antialias='blur' reaches nothing"):
        bcos_zoo.bcosify("test_vit", antialias="blur")


def test_a_plan_that_blurs_where_there_is_no_stride_is_refused():
    said = bcos_zoo.bcosify("test_resnet", antialias="blur").conversion
    said["plan"] = said["plan"] | {"blurred": ["layer1.0.conv1"]}
    with pytest.raises(InputError, match=r"'layer1\.0\.conv1' has no stride to blur ahead of"):
        timm.create_model("bcos_converted", original="test_resnet", conversion=said)


def test_what_only_makes_factors_is_left_alone():
    """The poolings of VOLO make attention weights; a convolution there is its stem."""
    model = bcos_zoo.bcosify("volo_d1_224", antialias="blur")
    assert model.plan.blurred and not [name for name in model.plan.blurred if "attn" in name]
    said = model.conversion
    assert said["strides_blurred"] == len(model.plan.blurred) and said["strides_left"] > 0


def test_it_is_filled_after_it_was_built_without_memory():
    model = bcos_zoo.bcosify("test_efficientnet", b=1.5, antialias="blur").eval()
    with torch.device("meta"):
        empty = timm.create_model("bcos_converted", original="test_efficientnet", conversion=model.conversion)
    filled = empty.to_empty(device="cpu").eval()
    filled.load_state_dict(model.state_dict())
    assert torch.equal(
        filled(images("test_efficientnet").float()), model(images("test_efficientnet").float())
    )


@pytest.mark.parametrize("name", ["repvgg_a0", "fastvit_t8"])
def test_fusing_is_refused_for_the_result_would_be_another_network(name):
    model = bcos_zoo.bcosify(original(name), b=1, antialias="blur")
    with pytest.raises(InputError, match="a converted network cannot be fused"):
        reparameterize_model(model)
