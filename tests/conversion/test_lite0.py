"""bcos_efficientnet_lite0: the architecture that one conversion made, whatever the rules become."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from conftest import assert_close
from torch import nn

import bcos_zoo
from bcos_zoo.conversion import Converted
from bcos_zoo.conversion.bcos_efficientnet import LITE0


@pytest.fixture(scope="module")
def model() -> Converted:
    torch.manual_seed(0)
    made: Converted = timm.create_model(LITE0, num_classes=7).double().eval()
    return made


def test_the_rules_still_make_it(model: Converted) -> None:
    original = timm.create_model("tf_efficientnet_lite0", num_classes=7)
    made = bcos_zoo.bcosify(original, b=1.5, biases="dropped", centring="dropped", antialias="blur")
    assert made.plan == model.plan
    assert {key: v.shape for key, v in made.state_dict().items()} == {
        key: v.shape for key, v in model.state_dict().items()
    }


def test_no_share_of_a_logit_is_a_constant(model: Converted) -> None:
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    e = bcos_zoo.explain(model, x, [0, 6])
    assert e.bias.abs().max() == 0
    assert e.completeness().abs().max() < 1e-12 * e.logits.abs().max()
    assert not model.biases and not list(model.constants())


def test_it_is_saved_by_its_name_and_comes_back(model: Converted, tmp_path: Path) -> None:
    clf = bcos_zoo.Classifier(model.float(), list("abcdefg"))
    bcos_zoo.export(clf, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == LITE0
    again = bcos_zoo.load(tmp_path / "out").model
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert_close(again(x), model(x), 0.0)


def test_a_run_of_a_converted_network_fits_it() -> None:
    torch.manual_seed(0)
    source = timm.create_model("tf_efficientnet_lite0", num_classes=3).eval()
    run = bcos_zoo.bcosify(source, b=1.5, centring="fading", antialias="blur").eval()
    run.scale_constants(0.0)
    assert run.drop_constants()
    model = timm.create_model(LITE0, num_classes=3).eval()
    model.load_state_dict(run.state_dict())
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert_close(model(x), run(x), 0.0)
