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
        assert first.model.name == manifest.get(name).architecture and not first.model.pretrained
        for before, wanted in zip(release.recipes, later, strict=False):
            assert wanted.model.pretrained and wanted.model.name == f"runs/{before}"


def small(**model: Any) -> str:
    """A recipe of one epoch."""
    tables: dict[str, Any] = {
        "model": model,
        "data": {"workers": 0, "check": False},
        "optimizer": {"lr": 1e-3},
        "run": {"epochs": 1, "batch_size": 4, "trackers": [], "snapshots": 0},
    }
    return recipe.to_toml(recipe.parse(tables, where="test"))


PACKAGED = {"packaged": f"checkpoints/{NAME}.safetensors"}


@pytest.mark.parametrize(
    "where",
    [PACKAGED, {"url": "http://127.0.0.1:9/x.safetensors"}, None],
    ids=["packaged", "url", "no place"],
)
def test_a_checkpoint_is_trained_measured_and_recorded(
    tool: Any, where: dict[str, str] | None, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    rng = np.random.default_rng(0)
    for split, label in itertools.product(("train", "val"), manifest.class_names(manifest.get(NAME)) or ()):
        path = tmp_path / "data" / split / label
        path.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path / "a.png")
    for stem, model in ("one", {"name": "bcos_resnet20"}), ("two", {"name": "x", "pretrained": True}):
        (tmp_path / "configs").mkdir(exist_ok=True)
        (tmp_path / "configs" / f"{stem}.toml").write_text(small(**model))
    record = json.loads((ROOT / "weights_manifest.json").read_text())["checkpoints"][NAME]
    record["files"][0] |= {"where": where, "sha256": None}
    written = tmp_path / "weights_manifest.json"
    written.write_text(json.dumps({"$schema": "schema.json", "version": 1, "checkpoints": {NAME: record}}))
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "MANIFEST", written)
    monkeypatch.setattr(tool, "RELEASES", {NAME: tool.Release(("one", "two"), "noise", torch.float16)})
    monkeypatch.setattr(sys, "argv", ["release", NAME, str(tmp_path / "data"), "-o", str(tmp_path / "runs")])
    tool.main()
    found = manifest.load(written)[NAME]
    place, target = found.files[0].where, tmp_path / "release" / f"{NAME}.safetensors"
    if isinstance(place, manifest.Packaged):  # where the package of this checkout looks for it
        target = tmp_path / place.path.relative_to(ROOT)
        assert place.path.is_file()
    assert (found.files[0].sha256, found.files[0].bytes) == (checksums.sha256(target), target.stat().st_size)
    stored = state_dicts.read(target)
    last = state_dicts.read(tmp_path / "runs" / "two" / "model.safetensors")
    first = state_dicts.read(tmp_path / "runs" / "one" / "model.safetensors")
    key = "layer1.0.conv1.linear.weight"
    assert stored[key].dtype == torch.float16 and torch.equal(stored[key], last[key].half())
    turned = torch.cosine_similarity(last[key].flatten(1), first[key].flatten(1))
    assert 0.9 < turned.min() < 1  # the second run began with the network of the first
    [top1] = [metric for metric in found.metrics if metric.name == "top1"]
    assert f"top-1 {top1.value:.2f} %" in capsys.readouterr().out
    states = {path: path.read_bytes() for path in (tmp_path / "runs").glob("*/metrics.csv")}
    tool.main()
    assert states == {path: path.read_bytes() for path in states}  # nothing is trained again
