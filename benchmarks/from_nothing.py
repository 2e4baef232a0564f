"""The same network converted from a pretrained one and trained from nothing: accuracy after each epoch.

python benchmarks/from_nothing.py DATA FILE [--epochs 12] [-o runs/from_nothing] [--picture FILE]
DATA: Imagenette, with train/ and val/. FILE: weights of tf_efficientnet_lite0. Both are EfficientNet-Lite0 at
B = 1.5 on the same images, the same number of times. The converted one follows the recipe
configs/imagenette_efficientnet_lite0.toml: it begins with the original's function, loses its constants while
it learns, and the original teaches it. The other has none from the start, random weights, and the recipe
configs/imagenette_resnet18_w32.toml. Prints a table of top-1 in percent, and draws it. Runs in the folder are
continued, or skipped if finished.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bcos_zoo.data import open_task
from bcos_zoo.training import engine, history, recipe, states

ROOT = Path(__file__).resolve().parent.parent
CONVERTED, NOTHING = "converted", "from nothing"
COLOURS = {CONVERTED: "#00695c", NOTHING: "#6a1b9a"}
WITHOUT_CONSTANTS = (
    "model.name=bcos_converted", "model.args.original=tf_efficientnet_lite0", "model.args.b=1.5",
    "model.args.biases=dropped", "model.args.centring=dropped", "data.crop_pct=0.875", "data.cache=false",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("original", type=Path, metavar="FILE")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("-o", dest="folder", type=Path, default=Path("runs/from_nothing"))
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "from_nothing.png")
    asked = parser.parse_args()
    weights = [f"model.weights={asked.original}", f"teacher.weights={asked.original}"]
    ways = {
        CONVERTED: ("imagenette_efficientnet_lite0", weights),
        NOTHING: ("imagenette_resnet18_w32", list(WITHOUT_CONSTANTS)),
    }
    found = {
        name: trained(stem, changes, asked.data, asked.folder / name.replace(" ", "_"), asked.epochs)
        for name, (stem, changes) in ways.items()
    }
    print(f"| epoch | {' | '.join(found)} |\n|---|---|---|")
    for epoch in range(asked.epochs + 1):
        cells = [f"{of[epoch]:.1f}" if epoch in of else "" for of in found.values()]
        print(f"| {epoch} | {' | '.join(cells)} |")
    draw(found, asked.picture)


def trained(stem: str, changes: list[str], data: Path, run: Path, epochs: int) -> dict[int, float]:
    """Top-1 after each epoch that was measured."""
    if max(_rows(run), default=0) < epochs or not (run / "index.html").exists():  # the page is written last
        more = [f"run.epochs={epochs}", "run.validate_every=1", "run.trackers=[]"]
        wanted = recipe.read(ROOT / "configs" / f"{stem}.toml", changes + more)
        task = open_task(str(data), log=lambda line: None)
        engine.train(wanted, task, run, resume=states.newest(run) is not None)
    return _rows(run)


def _rows(run: Path) -> dict[int, float]:
    return {int(row["epoch"]): row["top1"] for row in history.read(run) if row.get("top1") is not None}


def draw(found: Mapping[str, Mapping[int, float]], path: Path) -> None:
    figure = Figure(figsize=(6.0, 3.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, scores in found.items():
        axes.plot([*scores], [*scores.values()], "o-", color=COLOURS[name], markersize=4, label=name)
    axes.set(xlabel="epoch", ylabel="top-1 on Imagenette, %", ylim=(0, 100))
    axes.legend(loc="lower right")
    figure.savefig(path)


if __name__ == "__main__":
    main()
