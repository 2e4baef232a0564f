"""Networks as folders in the form of the Hub: what is written comes back to the last bit, or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import images, network
from huggingface_hub import ModelCard
from PIL import Image
from timm.models import save_for_hf

import bcos_zoo
from bcos_zoo import InputError, UnknownModelError, WeightsError, zoo
from bcos_zoo.hub import export as hub
from bcos_zoo.hub import folder as hub_folder
from bcos_zoo.images import load_rgb
from bcos_zoo.models.bcos_resnet import Bottleneck
from bcos_zoo.weights import manifest, state_dicts

NAME = "bcos_resnet20.cifar10"
FILES = ["README.md", "config.json", "explanation.png", "model.safetensors"]


def classifier(names: str = "abc", **options: Any) -> bcos_zoo.Classifier:
    """A network of one's own, with random weights."""
    model = network("bcos_resnet20", **{"num_classes": len(names), "widths": (8, 16, 32)} | options)
    return bcos_zoo.Classifier(model, list(names), smooth=5, percentile=98)


def config_of(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded checkpoint as a folder, for tests that leave it as it is."""
    return bcos_zoo.export(NAME, tmp_path_factory.mktemp("hf") / "not" / "there" / "yet")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A small network of one's own as a folder, for tests that change it."""
    return bcos_zoo.export(classifier(), tmp_path / "mine")


# What a folder holds.


def test_a_folder_holds_weights_config_card_and_picture(embedded):
    assert left_in(embedded) == FILES
    assert left_in(embedded.parent) == [embedded.name]
    assert embedded.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def test_what_is_ours_stands_beside_timms_card_and_not_in_it(embedded):
    config = config_of(embedded)
    assert config["bcos_zoo"] == {
        "version": bcos_zoo.__version__,
        "checkpoint": NAME,
        "outputs": {"kind": "sigmoid", "multilabel": False},
        "preprocessing": {"resize": 32, "encoding": "rgb+inverse"},
        "explanation": {"smooth": 3, "percentile": 99.5},
    }
    timm.models.PretrainedCfg(**config["pretrained_cfg"])  # which raises for unknown keys
    assert config["label_names"][3] == "cat"


def test_the_card_of_a_checkpoint_has_licence_and_scores_with_their_kind(embedded):
    card = ModelCard.load(embedded / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "timm")
    assert (card.data.pipeline_tag, card.data.datasets) == ("image-classification", ["cifar10"])
    assert "interpretability" in card.data.tags and card.data.base_model is None
    (record,) = (c for c in manifest.checkpoints() if c.name == NAME)
    assert [result.metric_value for result in card.data.eval_results] == [m.value for m in record.metrics]
    assert "measured" in card.data.eval_results[0].metric_name
    for text in (
        record.metrics[0].command,
        record.training_images.terms,
        "explanation.png",
        "bcos_zoo.load(",
    ):
        assert text in card.text


def test_what_the_card_says_to_do_works(embedded, monkeypatch):
    text = (embedded / "README.md").read_text()
    monkeypatch.chdir(embedded)
    Image.radial_gradient("L").save("photo.jpg")
    names: dict[str, Any] = {}
    try:
        for block in text.split("```python\n")[1:]:
            code = block.split("```")[0]
            exec(code.replace(f"hf-hub:ORGANISATION/{NAME}", f"local-dir:{embedded}"), names)
    finally:
        (embedded / "photo.jpg").unlink()
    assert names["e"].logits.shape == names["outputs"].shape == (1, 10)


def test_the_picture_shows_the_sample_and_its_explanation(embedded, mine, tmp_path):
    for folder in (embedded, mine):
        picture = np.asarray(Image.open(folder / "explanation.png").convert("RGB"))
        height, width = picture.shape[:2]
        assert width > 900 and height > 300
        assert all(panel.std() > 5 for panel in np.array_split(picture, 3, axis=1))
    other = bcos_zoo.export(classifier(), tmp_path / "other", sample=Image.new("RGB", (40, 40), "blue"))
    photograph = np.asarray(Image.open(other / "explanation.png"))[100:200, 100:200]
    assert (photograph == [0, 0, 255]).all()
    assert "CC0" in (mine / "README.md").read_text() and "CC0" not in (other / "README.md").read_text()


def test_a_folder_gives_back_the_classifier(mine):
    before = classifier()
    loaded = bcos_zoo.load(f"local-dir:{mine}")
    assert loaded.class_names == ("a", "b", "c")
    assert (loaded.head.smooth, loaded.head.percentile) == (5, 98)
    photograph = Image.radial_gradient("L").convert("RGB")
    a, b = (one.explain(photograph, ["a", "c"]) for one in (before, loaded))
    assert torch.equal(a.logits, b.logits) and torch.equal(a.weights, b.weights)
    again = bcos_zoo.create_model(f"local-dir:{mine}", pretrained=True)
    x = before.preprocess(photograph)
    assert torch.equal(again(x), before.model(x))
    assert not again.training


def test_the_licence_and_scores_of_a_checkpoint_are_not_claimed_for_a_network_of_ones_own(mine):
    card, config = ModelCard.load(mine / "README.md"), config_of(mine)
    assert card.data.license == "unknown" and card.data.eval_results is None
    assert "license" not in {k for k, v in config["pretrained_cfg"].items() if v}
    assert config["pretrained_cfg"]["tag"] is config["bcos_zoo"]["checkpoint"] is None


def test_a_checkpoint_is_one_only_while_its_weights_are_as_they_were(tmp_path):
    loaded = bcos_zoo.load(NAME)
    same = bcos_zoo.export(loaded, tmp_path / "same")
    assert config_of(same)["bcos_zoo"]["checkpoint"] == NAME
    with torch.no_grad():
        loaded.model.fc.linear.weight[0, 0] += 1
    tuned = bcos_zoo.export(loaded, tmp_path / "tuned")
    card = ModelCard.load(tuned / "README.md")
    assert config_of(tuned)["bcos_zoo"]["checkpoint"] is None
    assert card.data.eval_results is None and card.data.license == "apache-2.0"
    assert f"Began with the weights of `{NAME}`" in card.text


def test_a_head_that_was_replaced_later_comes_back(tmp_path):
    model = bcos_zoo.create_model("bcos_resnet20", pretrained=True)
    model.reset_classifier(3, "max")
    folder = bcos_zoo.export(bcos_zoo.Classifier(model, list(list("abc"))), tmp_path / "new")
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert loaded.num_classes == 3 and loaded.global_pool.pool_type == "max"
    assert torch.equal(loaded(images()), model(images()))


def test_a_plain_folder_of_timm_is_loaded_with_defaults(tmp_path):
    model = network("bcos_plain9", num_classes=4, logit_temperature=None)
    model.logits.temperature = None
    save_for_hf(model, tmp_path / "plain", safe_serialization=True)
    loaded = bcos_zoo.load(f"local-dir:{tmp_path / 'plain'}")
    assert loaded.class_names == ("0", "1", "2", "3")
    assert (loaded.head.smooth, loaded.head.percentile) == (15, 99.5)
    assert torch.equal(loaded.model(images()), model(images()))


def test_weights_of_ones_own_are_of_no_checkpoint(mine):
    overlay = {"file": str(mine / "model.safetensors"), "num_classes": 3}
    model = timm.create_model(
        "bcos_resnet20", pretrained=True, pretrained_cfg_overlay=overlay, widths=[8, 16, 32]
    )
    assert model.pretrained_from is None and model.build_arguments["widths"] == [8, 16, 32]
    local = timm.create_model(f"local-dir:{mine}", pretrained=True)
    assert local.pretrained_from is None and local.spec == model.spec


# What has no exact explanation, or no place in a folder.


def test_a_conventional_network_goes_without_a_picture(tmp_path):
    model = timm.create_model("bcos_std_vitc_ti_patch1_14", num_classes=2, depth=1).eval()
    folder = bcos_zoo.export(bcos_zoo.Classifier(model, ["cat", "dog"]), tmp_path / "twin")
    assert left_in(folder) == [name for name in FILES if name != "explanation.png"]
    text = (folder / "README.md").read_text()
    assert "No picture of an explanation is here: a conventional network has no exact one." in text
    assert config_of(folder)["bcos_zoo"]["explanation"] is None
    assert config_of(folder)["bcos_zoo"]["preprocessing"]["encoding"] == "rgb"
    assert bcos_zoo.load(f"local-dir:{folder}").class_names == ("cat", "dog")


def test_an_embedding_goes_without_a_picture_and_is_no_classifier(tmp_path, monkeypatch):
    record = zoo.find_checkpoint(NAME)
    unnamed = replace(record, classes=replace(record.classes, labels=None))
    monkeypatch.setattr(zoo, "find_checkpoint", lambda name: unnamed)
    folder = bcos_zoo.export(NAME, tmp_path / "embedding")
    assert "explanation.png" not in left_in(folder) and "label_names" not in config_of(folder)
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert "the outputs are an embedding, not classes" in card.text
    with pytest.raises(InputError, match="an embedding, without names; take bcos_zoo.create_model"):
        bcos_zoo.load(f"local-dir:{folder}")
    assert bcos_zoo.create_model(f"local-dir:{folder}", pretrained=True)(images()).shape == (2, 10)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"in_chans": 2}, "takes 2 channels, a photograph has 3"),
        ({"global_pool": ""}, "gives a map of logits"),
    ],
)
def test_other_networks_without_a_picture_come_back_too(tmp_path, options, reason):
    folder = bcos_zoo.export(classifier(**options), tmp_path / "out")
    assert reason in (folder / "README.md").read_text()
    assert "explanation.png" not in left_in(folder)
    assert bcos_zoo.load(f"local-dir:{folder}").class_names == ("a", "b", "c")


def test_what_no_config_can_make_again_is_refused(tmp_path, small):
    own = bcos_zoo.Classifier(small, list("abcdefghij"))

    def refused(message: str, source: Any = own, **options: Any) -> None:
        with pytest.raises((InputError, UnknownModelError), match=message):
            bcos_zoo.export(source, tmp_path / "out", **options)
        assert left_in(tmp_path) == []

    refused(r"got a BcosResNet; .* bcos_zoo.Classifier\(model, class_names\)", small)
    refused("no model named 'bcos_resnet21'; closest", "bcos_resnet21")
    refused("no.jpg", sample=tmp_path / "no.jpg")
    refused(
        "ResNet was not made by timm from an arch.*",
        bcos_zoo.Classifier(timm.create_model("resnet18"), ["x"] * 1000),
    )
    refused("no classifier .num_classes=0", bcos_zoo.Classifier(network("bcos_resnet20", num_classes=0), []))
    block = timm.create_model("bcos_resnet20", num_classes=2, block=Bottleneck).eval()
    refused("block=<class .*Bottleneck'> cannot be written as JSON", bcos_zoo.Classifier(block, list("ab")))
    small.double()
    refused("conv1.linear.weight is torch.float64; timm loads float32 only")
    small.float().fc.linear.weight.data[0] = torch.nan
    refused("fc.linear.weight holds NaN or infinite")


# Places.


def test_a_folder_that_is_not_empty_needs_force_and_keeps_what_else_it_holds(mine, tmp_path):
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="mine is not empty; give another folder, or --force"):
        bcos_zoo.export(NAME, mine)
    assert config_of(mine)["num_classes"] == 3
    twin = classifier(in_chans=2)
    assert bcos_zoo.export(twin, mine, force=True) == mine
    assert left_in(mine) == ["README.md", "config.json", "model.safetensors", "notes.txt"]  # no old picture
    assert left_in(tmp_path) == ["mine"]
    (tmp_path / "empty").mkdir()
    bcos_zoo.export(twin, tmp_path / "empty")
    with pytest.raises(InputError, match="notes.txt is a file; give a folder"):
        bcos_zoo.export(twin, mine / "notes.txt", force=True)
    with pytest.raises(InputError, match="cannot be written: .*; give another folder"):
        bcos_zoo.export(twin, mine / "notes.txt" / "below")


def test_the_folder_one_is_in_stays_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bcos_zoo.export(classifier(), ".")
    assert left_in(Path()) == FILES


def _save(change: Any) -> Any:
    save = state_dicts.save

    def tampered(state: Any, *arguments: Any) -> None:
        save(change({key: value.clone() for key, value in state.items()}), *arguments)

    return tampered


def _one_bit(state: Any) -> Any:
    weight = state["layer1.0.conv1.linear.weight"].view(torch.int32)
    weight[0, 0, 0, 0] ^= 1
    return state


@pytest.mark.parametrize("where", ["new", "mine", "not/there/yet"])
def test_one_wrong_bit_is_noticed_and_nothing_is_left(mine, tmp_path, monkeypatch, where):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(state_dicts, "save", _save(_one_bit))
    message = "gives another network: layer1.0.conv1.linear.weight; nothing was kept"
    with pytest.raises(WeightsError, match=message):
        bcos_zoo.export(classifier(), tmp_path / where, force=True)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert left_in(tmp_path) == ["mine"]


def test_a_lost_tensor_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(state_dicts, "save", _save(lambda state: dict(list(state.items())[1:])))
    with pytest.raises(WeightsError, match="does not load .*1 missing .*nothing was kept"):
        bcos_zoo.export(classifier(), tmp_path / "new")
    assert left_in(tmp_path) == []


def test_what_was_changed_by_hand_is_noticed(tmp_path):
    changed = classifier()
    changed.model.logits.bias = 5.0
    with pytest.raises(WeightsError, match="another network: the logits of the sample; .*changed by hand"):
        bcos_zoo.export(changed, tmp_path / "new")
    changed = classifier()
    changed.transform = timm.data.create_transform((3, 32, 32), crop_pct=0.5, mean=(0,) * 3, std=(1,) * 3)
    changed.model.pretrained_cfg = changed.model.pretrained_cfg | {"crop_pct": 0.5, "unicorn": 1}
    with pytest.raises(
        WeightsError, match=r"does not load .*unknown keys in pretrained_cfg \(unicorn\)|unicorn"
    ):
        bcos_zoo.export(changed, tmp_path / "new")
    assert left_in(tmp_path) == []


def test_a_disk_that_fails_midway_leaves_the_old_files(mine, monkeypatch):
    before, move = {path.name: path.read_bytes() for path in mine.iterdir()}, os.replace

    def failing(source: Path, target: Path) -> None:
        if Path(target) == mine / "model.safetensors" and Path(source).parent.name != "old":
            raise OSError(28, "No space left on device")
        move(source, target)

    monkeypatch.setattr(hub.os, "replace", failing)
    with pytest.raises(InputError, match="mine cannot be written: No space left on device"):
        bcos_zoo.export(classifier("abcd"), mine, force=True)
    assert {path.name: path.read_bytes() for path in mine.iterdir()} == before


# What cannot be loaded.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: "<html>", r"cannot load local-dir:.* \(Expecting value.*\); give a repository or folder"),
        (lambda c: [1], "names no architecture of timm; give one that bcos_zoo or timm wrote"),
        (lambda c: {"architectures": ["ViTForImageClassification"]}, "names no architecture of timm"),
        (
            lambda c: c | {"architecture": "resnet18"},
            "is of 'resnet18', no network of this zoo: `bcos-zoo list`",
        ),
        (lambda c: c | {"pretrained_cfg": 3}, "has pretrained_cfg=3, where an object belongs"),
        (lambda c: c | {"pretrained_cfg": {"unicorn": 3}}, r"unknown keys in pretrained_cfg \(unicorn\)"),
        (lambda c: c | {"model_args": {"unicorn": 3}}, "cannot load .*unexpected keyword argument 'unicorn'"),
        (lambda c: c | {"model_args": {"b": -1}}, "b=-1"),
        (lambda c: c | {"num_classes": 4, "model_args": {}}, "of another shape"),
        (lambda c: c | {"bcos_zoo": "x"}, "has bcos_zoo='x', where an object belongs"),
        (lambda c: c | {"bcos_zoo": {"explanation": {"smooth": -1}}}, "smooth is 0 and more, percentile in"),
        (lambda c: c | {"label_names": ["a"]}, "names 1 classes for 3 outputs; give one that names each"),
        (lambda c: c | {"label_names": [1, 2, 3]}, "has label_names that are no list of texts"),
    ],
)
def test_a_damaged_or_foreign_config_gives_one_clear_line(mine, change, message):
    config = change(config_of(mine))
    (mine / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(bcos_zoo.BcosZooError, match=message) as error:
        bcos_zoo.load(f"local-dir:{mine}")
    assert "\n" not in str(error.value)


def test_class_names_by_index_are_read_too(mine):
    config = config_of(mine) | {"label_names": {"0": "x", "1": "y", "2": "z"}}
    (mine / "config.json").write_text(json.dumps(config))
    assert bcos_zoo.load(f"local-dir:{mine}").class_names == ("x", "y", "z")


def test_the_package_carries_its_sample_and_says_whose_it_is():
    assert hub_folder.SAMPLE.stat().st_size < 50_000
    assert load_rgb(hub_folder.SAMPLE).size == (451, 300)
    assert "CC0" in hub_folder.SAMPLE.with_name("README.md").read_text()
