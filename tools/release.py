"""Train a checkpoint of our own, measure it, and write its file and its record.

python tools/release.py NAME DATA [-o runs] [--original FILE]    (from the root; DATA/train, DATA/val)
Runs its recipes in folders of the same names, each from the network of the one before; an interrupted run is
resumed, and no finished epoch is trained again. FILE: weights of the original, for a converted network. The
file goes into the package if its record in the manifest says so, otherwise to release/, to be published. The
scores in the record are those of the file, whose weights may be stored in half precision. All networks
compute in float32. Run `make generate` afterwards.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from torch import Tensor

from bcos_zoo import Classifier
from bcos_zoo.data import open_task
from bcos_zoo.evaluate import evaluate
from bcos_zoo.training import engine, recipe, states
from bcos_zoo.weights import state_dicts
from bcos_zoo.weights.manifest import PACKAGE, Packaged

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ROOT / "weights_manifest.json"


class Release(NamedTuple):
    """How a checkpoint is made."""

    recipes: tuple[str, ...]  # files in configs/
    dataset: str  # the name of its validation images
    dtype: torch.dtype = torch.float16  # type of the weights in the file
    converted: bool = False  # from a network of timm's, which teaches it


IMAGENETTE = "Imagenette val, shorter side 224"
IMAGENETTE_256 = "Imagenette val, shorter side 256"
AMONG_1000 = "Imagenette val, shorter side 182, among 1,000 classes"
RELEASES = {
    "bcos_resnet20.cifar10": Release(("cifar10_resnet20",), "CIFAR-10 (JPEG) val", torch.float32),
    "bcos_resnet18_w32.imagenette": Release(
        ("imagenette_resnet18_w32", "imagenette_resnet18_w32_192"), IMAGENETTE
    ),
    "bcos_efficientnet_lite0.imagenette": Release(
        ("imagenette_efficientnet_lite0", "imagenette_efficientnet_lite0_192"), IMAGENETTE_256, converted=True
    ),
    "bcos_efficientnet_lite0.imagenette_in1k": Release(
        ("imagenette_efficientnet_lite0_in1k",), AMONG_1000, converted=True
    ),
    "bcos_resnet18.imagenette": Release(("imagenette_resnet18", "imagenette_resnet18_192"), IMAGENETTE),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", choices=RELEASES)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", dest="runs", type=Path, default=Path("runs"))
    parser.add_argument("--original", type=Path, metavar="FILE")
    asked = parser.parse_args()
    release = RELEASES[asked.name]
    if release.converted != (asked.original is not None):
        parser.error(f"{asked.name} {'needs' if release.converted else 'takes no'} --original FILE")
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    record = manifest["checkpoints"][asked.name]
    (file,) = record["files"]
    packaged = (file["where"] or {}).get("packaged")
    target = ROOT / "release" / f"{asked.name}.safetensors"
    if packaged:
        target = ROOT / Packaged(packaged).path.relative_to(PACKAGE.parent)
    run = trained(release, asked.data, asked.runs, asked.original)
    model = timm.create_model(asked.name, num_classes=record["classes"]["count"]).eval()
    model.load_state_dict(state_dicts.read(run / "model.safetensors"))
    classifier = Classifier(model, record["classes"]["labels"])
    before = evaluate(classifier, asked.data / "val")
    weights = {key: stored(value, release.dtype) for key, value in model.state_dict().items()}
    model.load_state_dict(weights)
    score = evaluate(classifier, asked.data / "val") if release.dtype != torch.float32 else before
    target.parent.mkdir(parents=True, exist_ok=True)
    state_dicts.save(weights, target)
    content = target.read_bytes()
    file |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    record["params"] = sum(p.numel() for p in model.parameters())
    command = f"bcos-zoo evaluate {asked.data / 'val'} --model {asked.name}"
    measured = {"dataset": release.dataset, "kind": "measured", "command": command}
    record["metrics"] = [
        {"name": m, "value": round(getattr(score, m), 2)} | measured for m in ("top1", "top5")
    ]
    MANIFEST.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{target}: {len(content)} bytes, top-1 {score.top1:.2f} % ({before.top1:.2f} % in float32)")
    print(f"top-5 {score.top5:.2f} %; the docs follow with `make generate`")


def trained(release: Release, data: Path, runs: Path, original: Path | None = None) -> Path:
    """The folder of the last run. original: weights of the network that is converted, and teaches."""
    task = open_task(str(data))
    folder, before = runs, original
    for name in release.recipes:
        path = ROOT / "configs" / f"{name}.toml"
        if before is None:
            changes = []
        elif release.converted:
            changes = [f"model.weights={before}", f"teacher.weights={original}"]
        else:
            changes = [f"model.name={folder}"]
        folder = runs / name
        engine.train(recipe.read(path, changes), task, folder, resume=bool(states.list_(folder)))
        before = folder / "model.safetensors"
    return folder


def stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights in that precision; statistics and counters, which are few, stay as they are."""
    return value.to(dtype) if value.ndim > 1 else value


if __name__ == "__main__":
    main()
