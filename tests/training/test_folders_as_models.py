"""A folder that holds config.json is a model by its path, wherever a name is taken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from conftest import images, network
from PIL import Image

import bcos_zoo
from bcos_zoo import UnknownModelError, WeightsError, pipeline, zoo
from bcos_zoo.pipeline import bundle

NAME = "bcos_resnet20.cifar10"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = network("bcos_resnet20", num_classes=3, widths=(8, 16, 32))
    return bcos_zoo.export(bcos_zoo.Classifier(model, list("abc")), tmp_path_factory.mktemp("runs") / "one")


def test_a_folder_is_loaded_by_its_path(folder, monkeypatch):
    expected = bcos_zoo.load(f"local-dir:{folder}")
    monkeypatch.chdir(folder.parent)
    for name in (str(folder), folder, "one", "./one", "one/"):
        loaded = bcos_zoo.load(name)
        assert loaded.class_names == ("a", "b", "c")
        assert torch.equal(loaded.model(images()), expected.model(images()))
        made = bcos_zoo.create_model(name, pretrained=True)
        assert torch.equal(made(images()), expected.model(images()))


def test_a_name_of_the_zoo_wins_over_a_folder_that_is_called_so(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (NAME, "bcos_resnet20", "bcos_resnet20.mine"):
        shutil.copytree(folder, name)
    assert bcos_zoo.load(NAME).class_names[3] == bcos_zoo.load("bcos_resnet20").class_names[3] == "cat"
    assert bcos_zoo.load(f"./{NAME}").class_names == ("a", "b", "c")
    assert bcos_zoo.load("bcos_resnet20.mine").class_names == ("a", "b", "c")  # no checkpoint of that name


def test_what_is_no_model_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(WeightsError, match="^empty is a folder without config.json; give one that"):
        bcos_zoo.load("empty")
    with pytest.raises(UnknownModelError, match="^no folder at org/name; .* or hf-hub:org/name if it is a"):
        bcos_zoo.load("org/name")
    with pytest.raises(UnknownModelError, match="no model named 'nothing'"):
        bcos_zoo.load("nothing")


def test_bundles_and_pages_name_the_folder(folder, tmp_path):
    photograph = tmp_path / "photo.png"
    Image.radial_gradient("L").convert("RGB").save(photograph)
    classifier = bcos_zoo.load(folder)
    for format_ in ("bundle", "html"):
        order = pipeline.RenderOptions(format=format_)
        ((_, answer),) = pipeline.explain_files(
            classifier, [photograph], None, tmp_path, order, model=str(folder)
        )
        assert isinstance(answer, pipeline.Answer)
        if format_ == "bundle":
            checks = bundle.verify(answer.picture, photograph, model=str(folder))
            assert all(check.holds for check in checks)
            assert bundle.read(answer.picture).metadata["model"]["name"] == zoo.resolve(folder)
        else:
            assert str(folder) in answer.picture.read_text()
