"""Ways to fine-tune, compared with training from scratch: the basis of `training/defaults.py`.

python benchmarks/finetune.py [--only MODE ...] [--set TABLE.KEY=VALUE ...]
The embedded CIFAR-10 network on scikit-learn's digits: all of them, and ten images per class. Prints a table
of seconds and of validation accuracy in percent, at the epoch that is best on these images and so is kept.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from pathlib import Path

from bcos_zoo.data import open_task
from bcos_zoo.training import defaults, engine

MODEL = "bcos_resnet20.cifar10"
MODES: dict[str, list[str]] = {
    "full": [],
    "full, rates falling by 0.7 a level": ["optimizer.layer_decay=0.7"],
    "from layer3": ["model.train=from:layer3"],
    "head": ["model.train=head"],
    "from scratch": ["model.name=bcos_resnet20", "model.pretrained=false"],
}
SETS = {"1,438 images": None, "10 images a class": "10"}
ALWAYS = ["augment.hflip=0", "run.trackers=[]", "run.snapshots=0"]  # a mirrored digit is not a digit


def digits(folder: Path, images: str | None) -> Path:
    spec = importlib.util.spec_from_file_location(
        "digits", Path(__file__).resolve().parent.parent / "examples" / "digits.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(str(folder), images)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(MODES), choices=list(MODES))
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--set", nargs="*", default=[], dest="changes")
    asked = parser.parse_args()
    print("| learns | images | top-1 | loss | seconds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for name in asked.sets:
            images = SETS[name]
            task = open_task(digits(Path(place) / name, images), log=lambda line: None)
            for mode in asked.only:
                changes = [*ALWAYS, *MODES[mode], *asked.changes]
                recipe = defaults.for_task(defaults.finetuning(MODEL, changes=changes), task, changes)
                started = time.monotonic()
                run = Path(place) / f"{name} {mode}"
                result = engine.train(recipe, task, run, log=lambda line: None)
                top1, loss = result.scores["top1"], result.scores["loss"]
                seconds = time.monotonic() - started
                print(f"| {mode} | {name} | {top1:.1f} | {loss:.3f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
