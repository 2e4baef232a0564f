"""A card names the classes of a network only where its classifier is the one that has these names."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from conftest import images, smallest_of_each_family

import bcos_zoo
from bcos_zoo import InputError, explain
from bcos_zoo.posthoc import attribute
from bcos_zoo.weights import manifest

NAME = "bcos_resnet20.cifar10"
FILE = {"file": str(manifest.get(NAME).file.where.path)}  # type: ignore[union-attr]
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def names_on(model: Any) -> Any:
    assert model.default_cfg is model.pretrained_cfg or model.default_cfg == model.pretrained_cfg
    return model.pretrained_cfg.get("label_names")


def check_nameless(model: Any) -> None:
    assert not names_on(model)
    x = images(1, 32, 32)
    assert explain(model.eval(), x).labels is None
    for call in (lambda: explain(model, x, ["cat"]), lambda: attribute(model, x, "cat", "ixg")):
        with pytest.raises(InputError, match="'cat' is a label, but this model has no class names"):
            call()


@pytest.mark.parametrize(
    "make",
    [
        lambda: bcos_zoo.create_model("bcos_resnet20", num_classes=10),
        lambda: timm.create_model("bcos_resnet20"),
        lambda: timm.create_model(NAME),
        lambda: bcos_zoo.create_model("bcos_resnet20", pretrained=True, pretrained_cfg_overlay=FILE),
    ],
    ids=["ten classes of the caller's", "random weights", "random weights under a tag", "the caller's file"],
)
def test_networks_of_other_weights_have_no_names(make: Any) -> None:
    """timm gives each network of an architecture the card of the default checkpoint."""
    check_nameless(make())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (NAME, {}),
        ("bcos_resnet20", {}),
        ("bcos_resnet20", {"num_classes": 10}),
        (NAME, {"pretrained_cfg_overlay": FILE}),
        ("bcos_resnet20", {"pretrained_cfg_overlay": FILE | {"label_names": CIFAR}}),
        ("bcos_resnet20", {"in_chans": 1}),
    ],
)
def test_the_checkpoint_keeps_its_names(name: str, options: dict[str, Any]) -> None:
    model = bcos_zoo.create_model(name, pretrained=True, **options)
    assert list(names_on(model)) == CIFAR
    x = images(1, 32, 32, channels=options.get("in_chans", 3))
    assert explain(model, x, "ship").targets.tolist() == [[8]]


def test_a_new_classifier_has_no_names_and_other_networks_keep_theirs() -> None:
    model = bcos_zoo.create_model(NAME, pretrained=True)
    twin, shallow = copy.deepcopy(model), copy.copy(model)
    model.reset_classifier(10)
    check_nameless(model)
    assert list(names_on(twin)) == list(names_on(shallow)) == CIFAR
    assert list(names_on(bcos_zoo.create_model(NAME, pretrained=True))) == CIFAR
    for classes in (3, 0):
        assert not names_on(bcos_zoo.create_model(NAME, pretrained=True, num_classes=classes))
    assert not names_on(timm.create_model(NAME, pretrained=True, features_only=True))


@pytest.mark.parametrize("name", [*smallest_of_each_family(), "bcos_simple_vit_ti_patch16_224"])
def test_every_family_forgets_the_names_of_a_former_classifier(name: str) -> None:
    model: Any = timm.create_model(name, num_classes=3, device="meta")
    model.pretrained_cfg |= {"label_names": ["a", "b", "c"], "label_descriptions": {"a": "A"}}
    model.reset_classifier(3)
    assert not {"label_names", "label_descriptions"} & model.pretrained_cfg.keys()


def test_weights_that_are_loaded_later_bring_no_names_and_can_be_given_some() -> None:
    clf = bcos_zoo.load(NAME)
    model = bcos_zoo.create_model("bcos_resnet20")
    model.load_state_dict(clf.model.state_dict())
    check_nameless(model)
    x = images(1, 32, 32)
    again = bcos_zoo.Classifier(model, clf.class_names)
    assert again.explain(x, "cat").labels == clf.explain(x, "cat").labels == (("cat",),)
    assert torch.equal(explain(model, x, "cat", class_names=CIFAR).weights, clf.explain(x, "cat").weights)


def test_an_exported_folder_brings_its_names(tmp_path: Any) -> None:
    own = bcos_zoo.Classifier(bcos_zoo.create_model("bcos_resnet20", num_classes=3), ["x", "y", "z"])
    bcos_zoo.export(own, tmp_path / "own")
    folder = f"local-dir:{tmp_path / 'own'}"
    assert list(names_on(timm.create_model(folder, pretrained=True))) == ["x", "y", "z"]
    assert bcos_zoo.load(tmp_path / "own").class_names == ("x", "y", "z")
    assert not names_on(timm.create_model(folder, pretrained=True, num_classes=4))
    assert not names_on(timm.create_model(folder))
