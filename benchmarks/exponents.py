"""Accuracy, and where explanations point, over the exponent B: a smaller table of Boehle et al. 2022.

python benchmarks/exponents.py data [--exponents 1 1.5 2] [-o runs/exponents]      (data/train, data/val)
ResNet-20 with MaxOut of two, as in the paper (B = 1 would otherwise be linear), trained by
configs/cifar10_resnet20.toml, but for fewer epochs and in bfloat16. Prints a table: top-1 in percent, and the
3x3 grid pointing game of the inherent explanations. Runs in the folder are continued, or skipped if finished.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from bcos_zoo import evaluate, load
from bcos_zoo.data import open_task
from bcos_zoo.training import engine, recipe, states

RECIPE = Path(__file__).resolve().parent.parent / "configs" / "cifar10_resnet20.toml"
EXPONENTS = [1, 1.25, 1.5, 1.75, 2, 2.25, 2.5]
EPOCHS = 4
CHANGES = [
    "model.args.max_out=2", "run.precision=bfloat16", "run.channels_last=true", f"run.epochs={EPOCHS}",
    "run.trackers=[]", "run.snapshots=0", "run.validate_every=4", "optimizer.warmup_epochs=0.5",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--exponents", nargs="*", type=float, default=EXPONENTS)
    parser.add_argument("--grids", type=int, default=250)
    parser.add_argument("--set", nargs="*", default=[], dest="changes")
    parser.add_argument("-o", dest="folder", type=Path, default=Path("runs/exponents"))
    asked = parser.parse_args()
    task = open_task(str(asked.data), log=lambda line: None)
    settings = evaluate.Settings(explainers=("inherent",), samples=asked.grids)
    quiet = Progress(console=Console(stderr=True), transient=True)
    print("| B | top-1 | localisation, median | quartiles |\n|---|---|---|---|")
    for b in asked.exponents:
        run = asked.folder / f"b{b:g}"
        wanted = recipe.read(RECIPE, [*CHANGES, f"model.args.b={b}", *asked.changes])
        result = engine.train(wanted, task, run, resume=states.newest(run) is not None, log=lambda line: None)
        points = run / "localisation"
        found = evaluate.run(load(str(run)), asked.data / "val", points, settings, progress=quiet)[0]
        low, median, high = (found[key] for key in ("p25", "p50", "p75"))
        top1 = result.scores["top1"]
        print(f"| {b:g} | {top1:.1f} | {median:.3f} | {low:.3f} to {high:.3f} |", flush=True)


if __name__ == "__main__":
    main()
