"""A network knows what it was built with, so that a config.json can make it again."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from conftest import images
from timm.models import save_for_hf

RECORDED = {"logit_bias", "logit_temperature", "scale", "max_out", "norm"}  # arguments of a v1 checkpoint


@pytest.mark.parametrize(
    ("name", "options", "arguments"),
    [
        ("bcos_resnet20", {}, {}),
        ("bcos_resnet20", {"widths": (16, 32, 64), "stem": "cifar"}, {}),  # its own
        ("bcos_resnet20", {"widths": (8, 8, 8), "device": "meta", "b": 1.5}, {"widths": [8, 8, 8], "b": 1.5}),
        ("bcos_resnet20.cifar10", {"num_classes": 2, "pretrained": True}, {"num_classes": 2}),
        ("bcos_plain9.v1_b1p5_cifar10", {"b": 3.0}, {"b": 3.0}),
        ("bcos_plain9.v1_b1p5_cifar10", {"features_only": True, "out_indices": (1,)}, {"b": 1.5}),
    ],
)
def test_a_network_knows_what_it_was_built_with(name, options, arguments):
    model = timm.create_model(name, **options)
    got = model.build_arguments
    assert got.items() >= arguments.items() and not got.keys() - arguments.keys() - RECORDED
    assert json.loads(json.dumps(got)) == got
    assert model.pretrained_from == ("bcos_resnet20.cifar10" if "pretrained" in options else None)


def test_timms_own_export_knows_the_arguments_of_a_checkpoint(tmp_path):
    model = timm.create_model("bcos_plain9.v1_b1p5_cifar10", num_classes=4).eval()
    assert model.build_arguments and "num_classes" in model.build_arguments
    save_for_hf(model, tmp_path / "v1", safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'v1'}", pretrained=True).eval()
    assert loaded.spec == model.spec and loaded.spec.b == 1.5
    assert torch.equal(loaded(images()), model(images()))
