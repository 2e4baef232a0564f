"""Model randomisation, as Quantus does it: `reset_parameters` of each module that has one."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from conftest import network, smallest_of_each_family


@pytest.mark.parametrize("name", smallest_of_each_family())
def test_every_module_with_weights_of_its_own_forgets_them_and_no_others(name):
    model = timm.create_model(name)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for path, module in model.named_modules():
        own = {f"{path}.{key}".removeprefix(".") for key, _ in module.named_parameters(recurse=False)}
        if not own:
            continue
        with torch.no_grad():
            for p in module.parameters(recurse=False):
                p.fill_(7)
        before = {key: value._version for key, value in tensors.items()}
        module.reset_parameters()
        changed = {key for key, value in tensors.items() if value._version != before[key]}
        mine = {f"{path}.{key}".removeprefix(".") for key in module.state_dict()}
        assert own <= changed <= mine, path
        assert not any((tensors[key] == 7).any() for key in own), path


@pytest.mark.parametrize("name", ["bcos_resnet20", "bcos_convnext_atto"])
def test_after_quantus_has_randomised_a_network_nothing_learnt_is_left(name):
    pytest.importorskip("quantus", reason="quantus (extra `neighbours`) is not installed")
    from quantus.helpers.model.pytorch_model import PyTorchModel

    model = network(name)
    learnt = copy.deepcopy(model.state_dict())
    *_, (_, last) = PyTorchModel(model, channel_first=True).get_random_layer_generator(
        order="top_down", seed=1
    )
    norms = timm.create_model(name)
    for key, value in last.state_dict().items():
        if "running_mean" in key:  # it never learnt any
            continue
        assert not torch.equal(value, learnt[key]), key
        if "running" in key or "layer_scale" in key:
            assert torch.equal(value, norms.state_dict()[key]), key
    assert all(torch.equal(value, learnt[key]) for key, value in model.state_dict().items())
