"""An exported folder in transformers: `AutoModelForImageClassification.from_pretrained(folder)`."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import load_file

import bcos_zoo


@pytest.mark.parametrize("norm", ["bnu", "bn"])
def test_transformers_can_build_the_network_from_the_config(tmp_path, norm):
    """As its TimmWrapper does: the number of classes from the top, all else from model_args."""
    own = bcos_zoo.create_model("bcos_resnet20", num_classes=3, in_chans=3, norm=norm, layers=(1, 1))
    folder = bcos_zoo.export(bcos_zoo.Classifier(own, ["a", "b", "c"]), tmp_path / "network")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    arguments = dict(config["model_args"])
    assert config["num_classes"] == 3 and not {"num_classes", "pretrained"} & arguments.keys()
    x = torch.rand(2, 3, 32, 32)
    model = timm.create_model(config["architecture"], pretrained=False, num_classes=3, **arguments).eval()
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict(weights)
    assert torch.equal(model(x), own.eval()(x))
    features = timm.create_model(config["architecture"], pretrained=False, num_classes=0, **arguments).eval()
    features.load_state_dict({key: value for key, value in weights.items() if key in features.state_dict()})
    assert torch.equal(features.forward_features(x), own.forward_features(x))
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert again.num_classes == 3 and torch.equal(again(x), own(x))


@pytest.mark.parametrize("name", ["bcos_resnet20.cifar10", "bcos_resnet18_w32.imagenette"])
def test_transformers_itself_loads_an_exported_folder(tmp_path, name):
    """By its own door: the same logits, and the names of the classes."""
    transformers = pytest.importorskip("transformers")
    folder = bcos_zoo.export(name, tmp_path / "network")
    classifier = bcos_zoo.load(name)
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    x = torch.rand(2, 3, *classifier.input_size)
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values=x).logits, classifier.model(x), rtol=1e-4, atol=1e-4)
    assert [model.config.id2label[i] for i in range(10)] == list(classifier.class_names)


def test_transformers_loads_a_converted_network_with_its_own_normalisation(tmp_path):
    """Whose mean and std are in no file, and are made while transformers builds on the meta device."""
    transformers = pytest.importorskip("transformers")
    own = bcos_zoo.bcosify("test_resnet", num_classes=3, b=1.5).eval()
    folder = bcos_zoo.export(bcos_zoo.Classifier(own, ["a", "b", "c"]), tmp_path / "network")
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    x = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values=x).logits, own(x), rtol=1e-4, atol=1e-4)
