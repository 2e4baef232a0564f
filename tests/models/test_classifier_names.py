"""The classifier answers to the names that tools ask a fully connected one for."""

from __future__ import annotations

import pytest
import timm
import torch
from conftest import images, smallest_of_each_family
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


@pytest.mark.parametrize("name", ["bcos_resnet20", "bcos_densenet52", "bcos_plain9"])
def test_a_plain_linear_head_on_maps_is_one_line(name):
    model = timm.create_model(name)
    path = model.CLASSIFIER
    setattr(model, path, nn.Linear(model.get_submodule(path).in_features, 3))
    with pytest.raises(InputError, match=r"plain nn.Linear.*reset_classifier"):
        model(images(1, like=model))
