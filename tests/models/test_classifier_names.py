"""The classifier answers to the names that tools ask a fully connected one for."""

from __future__ import annotations

import pytest
import timm
import torch
from conftest import images, smallest_of_each_family
from timm.layers import apply_test_time_pool
from torch import nn

from bcos_zoo import InputError

NAMES = [*smallest_of_each_family(), "bcos_simple_vit_ti_patch16_224"]


@pytest.mark.parametrize("name", dict.fromkeys(NAMES))
def test_the_classifier_answers_and_its_weight_is_the_published_one(name):
    model = timm.create_model(name, num_classes=7)
    head, keys = model.get_classifier(), list(model.state_dict())
    assert (head.in_features, head.out_features, head.bias) == (model.head_hidden_size, 7, None)
    assert head.weight is dict(model.named_parameters())[f"{model.pretrained_cfg['classifier']}.weight"]
    before = head.weight.detach().clone()
    with torch.no_grad():  # timm's --head-init-scale
        head.weight.mul_(0.5)
    torch.testing.assert_close(model.get_classifier().weight, before / 2)
    assert list(model.state_dict()) == keys
    assert len(list(model.parameters())) == len({id(p) for p in model.parameters()})


def with_plain_head(name: str, **options) -> nn.Module:
    """A network with nn.Linear(in_features, 3) in the place of its classifier, as people write it."""
    model = timm.create_model(name, **options).eval()
    path = (
        model.pretrained_cfg["classifier"].removesuffix(".linear")
        if "_std_" not in name
        else "linear_head.linear"
    )
    model.set_submodule(path, nn.Linear(model.get_classifier().in_features, 3))
    return model


CONVOLUTIONAL = [name for name in smallest_of_each_family() if "vit" not in name and "clip" not in name]


@pytest.mark.parametrize("pool", ["avg", ""])
@pytest.mark.parametrize("name", [*CONVOLUTIONAL, pytest.param("bcos_vgg11", marks=pytest.mark.slow)])
def test_a_plain_linear_head_on_maps_is_one_line(name, pool):
    model = with_plain_head(name, global_pool=pool)
    side = 96 if "inception" in name else 32
    with pytest.raises(InputError, match=r"^.* is a plain nn.Linear.*reset_classifier.*$"):
        model(images(1, side, side, like=model))
    with torch.no_grad():
        assert model.forward_head(
            model.forward_features(images(1, side, side, like=model)), pre_logits=True
        ).ndim


@pytest.mark.parametrize("pool", ["avg", ""])
@pytest.mark.parametrize("name", ["bcos_simple_vit_ti_patch16_224", "bcos_std_simple_vit_ti_patch16_224"])
def test_a_plain_linear_head_on_tokens_gives_its_logits(name, pool):
    """Those of the linear map on what it sees, but for the logit layer's constant."""
    model = with_plain_head(name, global_pool=pool)
    x = images(2, 32, 32, like=model)
    with torch.no_grad():
        seen = model.forward_head(model.forward_features(x), pre_logits=True)
        expected = model.logits(seen @ model.get_classifier().weight.T + model.get_classifier().bias)
        torch.testing.assert_close(model(x), expected)


def test_a_plain_linear_head_on_clips_attention_pooling():
    model = with_plain_head("bcos_resnet50_clip")
    x = images(1, 64, 64, like=model)
    with torch.no_grad():
        seen = model.forward_head(model.forward_features(x), pre_logits=True)
        expected = seen @ model.get_classifier().weight.T + model.get_classifier().bias
        torch.testing.assert_close(model(x), expected)
        model.global_pool = ""
        with pytest.raises(InputError, match=r"^attnpool.c_proj is a plain nn.Linear.*reset_classifier.*$"):
            model(x)


@pytest.mark.parametrize("name", ["bcos_resnet18", "bcos_densenet121"])
@torch.no_grad()
def test_larger_images_are_pooled_over_without_timms_test_pool(name):
    """`validate.py --test-pool` puts a convolution with a bias behind the features; ours needs none."""
    model = timm.create_model(name, num_classes=3).eval()
    x = torch.rand(1, 3, 288, 320)
    maps = model.get_classifier()(model.forward_features(x))
    assert maps.shape[-2:] == (9, 10)
    torch.testing.assert_close(model(x), maps.mean((2, 3)) + model.logits.bias)
    with pytest.raises(AttributeError):  # docs/timm.md says so
        apply_test_time_pool(model, {"input_size": (3, 288, 320)})
