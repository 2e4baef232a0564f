"""Put a trained checkpoint into the package and its measured facts into the manifest.

python tools/embed.py RUN NAME DATA DATASET
RUN: a folder of `bcos-zoo train`. NAME: the record, such as bcos_resnet20.cifar10.
DATA: the validation images. DATASET: what they are called, such as "CIFAR-10 (JPEG) val".
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import timm

from bcos_zoo import Classifier, state_dicts
from bcos_zoo.evaluate import evaluate

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ROOT / "weights_manifest.json"


def main(run: str, name: str, data: str, dataset: str) -> None:
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    record = manifest["checkpoints"][name]
    (file,) = record["files"]
    target = ROOT / "bcos_zoo" / file["where"]["packaged"]
    state_dict = state_dicts.read(Path(run) / "model.safetensors")
    model = timm.create_model(record["architecture"], num_classes=record["classes"]["count"]).eval()
    model.load_state_dict(state_dict)

    score = evaluate(Classifier(model, record["classes"]["labels"]), data)
    state_dicts.save(state_dict, target)
    content = target.read_bytes()
    file |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    record["params"] = sum(p.numel() for p in model.parameters())
    command = f"bcos-zoo evaluate {data} --model {name}"
    measured = {"dataset": dataset, "kind": "measured", "command": command}
    record["metrics"] = [
        {"name": m, "value": round(getattr(score, m), 2)} | measured for m in ("top1", "top5")
    ]
    MANIFEST.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{target}: {len(content)} bytes, top-1 {score.top1:.2f} %, top-5 {score.top5:.2f} %")


if __name__ == "__main__":
    main(*sys.argv[1:])
