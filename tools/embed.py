"""Put a trained checkpoint into the package and its measured facts into the manifest.

python tools/embed.py RUN NAME DATA DATASET [DTYPE]
RUN: a folder of `bcos-zoo train`. NAME: the record, such as bcos_resnet20.cifar10.
DATA: the validation images. DATASET: what they are called, such as "CIFAR-10 (JPEG) val".
DTYPE: what the weights are stored in, float32 unless given. All networks compute in float32.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import timm
import torch
from torch import Tensor

from bcos_zoo import Classifier, state_dicts
from bcos_zoo.evaluate import evaluate

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ROOT / "weights_manifest.json"


def main(run: str, name: str, data: str, dataset: str, dtype: str = "float32") -> None:
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    record = manifest["checkpoints"][name]
    (file,) = record["files"]
    target = ROOT / "bcos_zoo" / file["where"]["packaged"]
    state_dict = state_dicts.read(Path(run) / "model.safetensors")
    model = timm.create_model(name, num_classes=record["classes"]["count"]).eval()
    model.load_state_dict(state_dict)
    classifier = Classifier(model, record["classes"]["labels"])
    before = evaluate(classifier, data)
    kept = {key: _stored(value, getattr(torch, dtype)) for key, value in state_dict.items()}
    model.load_state_dict(kept)
    score = evaluate(classifier, data) if dtype != "float32" else before
    state_dicts.save(kept, target)
    content = target.read_bytes()
    file |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    record["params"] = sum(p.numel() for p in model.parameters())
    command = f"bcos-zoo evaluate {data} --model {name}"
    measured = {"dataset": dataset, "kind": "measured", "command": command}
    record["metrics"] = [
        {"name": m, "value": round(getattr(score, m), 2)} | measured for m in ("top1", "top5")
    ]
    MANIFEST.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{target}: {len(content)} bytes, top-1 {score.top1:.2f} % ({before.top1:.2f} % in float32)")
    print(f"top-5 {score.top5:.2f} %")


def _stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights in that precision; statistics and counters, which are few, as they are."""
    return value.to(dtype) if value.ndim > 1 else value


if __name__ == "__main__":
    main(*sys.argv[1:])
