"""A network with plain strides and one with a blur ahead of each, trained alike: what the blur changes.

python benchmarks/antialias.py data/imagenette [--epochs 12] [-o runs/antialias] [--picture FILE]
Both by configs/imagenette_resnet18_w32.toml, but for fewer epochs and no cutmix. Prints a table: top-1 in
percent at the size of validation; the 3x3 grid pointing game, and the strongest pattern of the strides in the
maps of single images, where 1.15 is noise, both as medians with quartiles; and the seconds of an epoch. Draws
the contributions of both for free photographs. Runs in the folder are continued, or skipped if finished.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import skimage.data
from PIL import Image
from rich.console import Console
from rich.progress import Progress

import bcos_zoo
from bcos_zoo import evaluate
from bcos_zoo.classifier import Classifier
from bcos_zoo.data import open_task
from bcos_zoo.pictures import panels
from bcos_zoo.pictures.panels import Panel
from bcos_zoo.training import engine, history, recipe, states

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "configs" / "imagenette_resnet18_w32.toml"
WAYS = {"plain strides": "none", "blurred": "'blur'"}
PHOTOGRAPHS = ("rocket", "coffee", "chelsea")  # of scikit-image; CC0 or in the public domain
SIDE = 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--grids", type=int, default=250)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("-o", dest="folder", type=Path, default=Path("runs/antialias"))
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "antialias.png")
    asked = parser.parse_args()
    task = open_task(str(asked.data), log=lambda line: None)
    print("| strides | top-1 | localisation | pattern | seconds an epoch |\n|---|---|---|---|---|")
    networks = {}
    for name, way in WAYS.items():
        run = asked.folder / name.replace(" ", "_")
        changes = [
            "model.args={}" if way == "none" else f"model.args.antialias={way}",
            "augment.cutmix=0.0", "augment.mixup_prob=1.0", f"run.epochs={asked.epochs}", "run.trackers=[]",
            "run.snapshots=0", f"run.validate_every={asked.epochs}",
        ]  # fmt: skip
        going_on = states.newest(run) is not None
        result = engine.train(recipe.read(RECIPE, changes), task, run, resume=going_on, log=lambda line: None)
        networks[name] = bcos_zoo.load(str(run))
        found = [
            measured(networks[name], asked.data / "val", run / metric, metric, samples)
            for metric, samples in (("localisation", asked.grids), ("checkerboard", asked.images))
        ]
        seconds = sorted(row["seconds"] for row in history.read(run))[asked.epochs // 2]
        print(f"| {name} | {result.scores['top1']:.1f} | {' | '.join(found)} | {seconds:.0f} |", flush=True)
    picture(list(networks.items())).save(asked.picture)


def measured(classifier: Classifier, images: Path, folder: Path, metric: str, samples: int) -> str:
    """Median and quartiles."""
    settings = evaluate.Settings(explainers=("inherent",), metrics=(metric,), samples=samples)
    quiet = Progress(console=Console(stderr=True), transient=True)
    found = evaluate.run(classifier, images, folder, settings, progress=quiet)[0]
    digits = 3 if metric == "localisation" else 1
    low, median, high = (f"{found[key]:.{digits}f}" for key in ("p25", "p50", "p75"))
    return f"{median} ({low} to {high})"


def picture(networks: Sequence[tuple[str, Classifier]]) -> Image.Image:
    """Rows are photographs; a column for each network, with the contributions to its own answer."""
    rows = []
    for name in PHOTOGRAPHS:
        photograph = Image.fromarray(getattr(skimage.data, name)())
        row = [Panel(networks[0][1].view(photograph).resize((SIDE, SIDE)), name)]
        for way, classifier in networks:
            best = classifier.predict(photograph)[0]
            contributions = classifier.explain(photograph, best.index).contributions[0, 0]
            shown = panels.contribution_map(contributions, limit=panels.color_limit(contributions))
            row.append(Panel(shown, f"{way}: {best.label}", sharp=True))
        rows.append(row)
    return panels.lay_out(rows, side=SIDE)


if __name__ == "__main__":
    main()
