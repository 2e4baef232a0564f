"""Names lead to networks; those that lead nowhere say so."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import timm
import torch
from conftest import NAMES, images
from timm.models import save_for_hf

import bcos_zoo
from bcos_zoo import InputError, UnknownModelError, WeightsError, weights, zoo
from bcos_zoo.data.task import open_task
from bcos_zoo.evaluate import answer, read_masks
from bcos_zoo.weights import manifest, state_dicts

RESNETS = (18, "18_w32", 20, 32, 34, 44, 50, 56, 101, 110, 152)


def test_architectures_are_listed_in_natural_order():
    assert bcos_zoo.list_models("bcos_resnet*[0-9]") == [f"bcos_resnet{size}" for size in RESNETS]
    assert bcos_zoo.list_models("bcos_res*50*d") == ["bcos_resnext50_32x4d"]
    assert bcos_zoo.list_models("*") == bcos_zoo.list_models() == NAMES
    assert bcos_zoo.list_models("resnet*") == bcos_zoo.list_models("unicorn") == []


def test_checkpoints_are_listed_by_their_full_names():
    placed = {c.name for c in manifest.checkpoints() if any(file.where for file in c.files)}
    assert set(bcos_zoo.list_models(pretrained=True)) == placed
    of_50 = ["bcos_resnet50.v2_in1k", "bcos_resnet50.v2_long_in1k"]
    assert sorted(bcos_zoo.list_models("bcos_resnet50", pretrained=True)) == of_50
    assert bcos_zoo.list_models("*.cifar10", pretrained=True) == ["bcos_resnet20.cifar10"]


def test_timm_lists_ours_under_our_own_module():
    assert set(timm.list_models(module="bcos_vit")) == {name for name in NAMES if "_vit" in name}
    assert not any(name.startswith("bcos_") for name in timm.list_models(module="resnet"))


def test_timm_knows_the_names_once_the_package_is_imported():
    ask = "print(timm.is_model('bcos_resnet18'))"
    code = f"import timm; {ask}; import bcos_zoo; {ask}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("name", ["bcos_resnet20", "bcos_resnet20.cifar10"])
def test_a_created_network_is_timms_in_eval_mode(name):
    torch.manual_seed(0)
    ours = bcos_zoo.create_model(name, num_classes=4, in_chans=1)
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=4, in_chans=1).eval()
    assert not any(module.training for module in ours.modules())
    torch.testing.assert_close(ours(images(channels=1)), theirs(images(channels=1)), rtol=0, atol=0)
    assert ours.pretrained_cfg == theirs.pretrained_cfg


def test_the_embedded_checkpoint_is_created_with_its_weights():
    record = zoo.find_checkpoint("bcos_resnet20")
    assert record.name == "bcos_resnet20.cifar10"
    if not record.files[0].where.path.exists():
        pytest.skip("the checkpoint is not embedded yet")
    model = bcos_zoo.create_model("bcos_resnet20", pretrained=True)
    state = state_dicts.read(weights.fetch(record))
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bcos_resnet05", "no model named 'bcos_resnet05'; closest: bcos_resnet.*`bcos-zoo list` shows all"),
        ("resnet18", "no model named 'resnet18'; closest: bcos_resnet18"),
        ("", "no model named ''; closest: none"),
        ("org/bcos_resnet18", "no (folder at|model named) '?org/bcos_resnet18"),
        ("bcos_resnet18.v3", "no checkpoint named 'bcos_resnet18.v3'; known: bcos_resnet18.v2_in1k"),
        ("bcos_resnet110.x", "'bcos_resnet110.x'; known: none; bcos_resnet110 has no weights yet"),
    ],
)
def test_unknown_names_are_refused_with_the_closest(name, message):
    for use in (bcos_zoo.create_model, zoo.describe, zoo.find_checkpoint):
        with pytest.raises(UnknownModelError, match=message):
            use(name)


def test_an_architecture_without_weights_says_so():
    with pytest.raises(
        UnknownModelError, match="bcos_resnet110 has no pretrained weights; `bcos-zoo list --pre"
    ):
        bcos_zoo.create_model("bcos_resnet110", pretrained=True)


TOO_LONG = "x" * 300  # more than any common file system allows


@pytest.mark.parametrize(
    ("use", "kind", "message"),
    [
        (lambda: bcos_zoo.load(TOO_LONG), UnknownModelError, "no model named"),
        (lambda: bcos_zoo.create_model(f"a/{TOO_LONG}"), UnknownModelError, "no folder at"),
        (lambda: state_dicts.read(f"{TOO_LONG}.pth"), WeightsError, "no file at"),
        (lambda: zoo.convert(TOO_LONG, "bcos_resnet20"), WeightsError, "no file at"),
        (
            lambda: zoo.convert("a.pth", "bcos_resnet20", f"{TOO_LONG}.safetensors"),
            InputError,
            "cannot be written: File name too long; give another name",
        ),
        (
            lambda: bcos_zoo.export("bcos_resnet20.cifar10", TOO_LONG),
            InputError,
            "cannot be written: File name too long; give another folder",
        ),
        (lambda: open_task(TOO_LONG), InputError, "no such file or folder; give"),
        (lambda: read_masks(TOO_LONG, "."), InputError, "no such folder; give one"),
        (
            lambda: answer(bcos_zoo.load("bcos_resnet20.cifar10"), TOO_LONG),
            InputError,
            "no such file or folder; give a folder of class folders",
        ),
    ],
    ids=["load", "create", "read", "convert", "convert to", "export", "train", "masks", "evaluate"],
)
def test_a_name_that_no_disk_allows_is_one_line(use, kind, message):
    with pytest.raises(kind, match=message) as error:
        use()
    assert "\n" not in str(error.value)


def test_keywords_reach_the_network_and_unknown_ones_are_refused():
    assert (
        bcos_zoo.create_model("bcos_resnet20", dtype=torch.float64).conv1.linear.weight.dtype == torch.float64
    )
    with pytest.raises(TypeError, match="unicorn"):
        bcos_zoo.create_model("bcos_resnet20", unicorn=1)
    with pytest.raises(InputError, match="stem='big'"):
        bcos_zoo.create_model("bcos_resnet20", stem="big")


@pytest.mark.parametrize(
    "name", ["bcos_resnet18", "bcos_resnet18.v2_in1k", "bcos_resnet20.cifar10", "bcos_resnet110"]
)
def test_a_description_is_plain_data(name):
    document = json.loads(json.dumps(zoo.describe(name)))
    architecture, _, tag = name.partition(".")
    assert document["name"] == name and document["architecture"] == architecture
    model = timm.create_model(name)
    assert document["params"] == sum(p.numel() for p in model.parameters())
    assert document["input_size"] == list(model.pretrained_cfg["input_size"])
    assert document["description"].startswith("ResNet-")
    if tag:
        assert document["checkpoint"]["name"] == name
    else:
        assert document["checkpoints"] == [c.name for c in manifest.checkpoints(architecture)]


@pytest.fixture
def folder(shared: Any, tmp_path: Any) -> Any:
    """A folder as timm writes it for the hub."""
    save_for_hf(shared, tmp_path / "saved", safe_serialization=True)
    return tmp_path / "saved"


def test_a_folder_in_the_format_of_the_hub_is_loaded(shared, folder):
    model = bcos_zoo.create_model(f"local-dir:{folder}", pretrained=True)
    assert not model.training
    torch.testing.assert_close(model(images()), shared(images()), rtol=0, atol=0)
    grey = bcos_zoo.create_model(f"local-dir:{folder}", pretrained=True, in_chans=1, num_classes=3)
    halves = shared.conv1.linear.weight.unflatten(1, (2, 3)).sum(2)
    torch.testing.assert_close(grey.conv1.linear.weight, halves)


def test_folders_that_hold_no_network_are_refused(folder, tmp_path):
    with pytest.raises(
        WeightsError, match=r"cannot load local-dir:.*nowhere \(.+\); give a repository or folder"
    ):
        bcos_zoo.create_model(f"local-dir:{tmp_path / 'nowhere'}", pretrained=True)
    with pytest.raises(TypeError, match="unicorn"):
        bcos_zoo.create_model(f"local-dir:{folder}", pretrained=True, unicorn=1)
    (folder / "model.safetensors").write_bytes(b"<html>")
    with pytest.raises(
        WeightsError, match=r"cannot load local-dir:.*saved \(.+\); give a repository or folder"
    ):
        bcos_zoo.create_model(f"local-dir:{folder}", pretrained=True)
    state_dicts.save({"x": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="the file is not of bcos_resnet20: .* missing .*, 1 surplus"):
        bcos_zoo.create_model(f"local-dir:{folder}", pretrained=True)
