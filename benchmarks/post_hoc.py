"""Post-hoc explanations of a network, and the inherent ones of its B-cosified self, on the same knowledge.

python benchmarks/post_hoc.py RUN NAME[+FILE] DATA [--samples 250] [--fewer intgrad=50 ...] [-o runs/post_hoc]
RUN: a network that `bcos-zoo bcosify NAME[+FILE] DATA` made: a folder, or the name of a checkpoint. DATA: a
folder with a sub-folder of images for each class. The original answers for the same classes, by its rows of
them, and sees the same pixels. Each network is measured on images that it classifies rightly itself.
Prints a table of medians with quartiles: the 3x3 grid pointing game; the energy pointing game, on photographs
pasted at half their size into the blurred photograph of another class; and the area under the curve of the
class's probability as pixels are deleted, the most important first (less is better; it compares explainers of
one network). A run that is interrupted goes on.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageFilter
from rich.progress import Progress
from torch import Tensor, nn

import bcos_zoo
from bcos_zoo import evaluate
from bcos_zoo.classifier import Classifier
from bcos_zoo.files import replacing
from bcos_zoo.outputs import Outputs
from bcos_zoo.training import known_classes, networks

POST_HOC = ("gradcam", "layercam", "intgrad", "ixg", "grad")
METRICS = {"localisation": 3, "energy": 3, "deletion": 3}  # and how many digits are shown
SIDE, SMALL, BLUR = 448, 224, 24  # pixels: of a canvas, of the photograph on it, of the blur around it


class Original(nn.Module):
    """A conventional network that takes images in [0, 1], and answers for some of its classes.

    rows: of its classifier. card: that of the network it is compared with, which says how images are cut.
    """

    def __init__(self, network: Any, rows: Sequence[int], card: dict[str, Any]) -> None:
        super().__init__()
        own, self.pretrained_cfg = network.pretrained_cfg, card
        self.network, self.rows = network, list(rows)
        self.num_classes, self.in_chans = len(rows), network.in_chans
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(own[name])[:, None, None])

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        levels = self.network.feature_info
        return [level | {"module": f"network.{level['module']}"} for level in levels]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits[:, self.rows]


def original_of(name: str, file: str | None, clf: Classifier) -> Classifier:
    """The network of that name as a classifier of another's classes."""
    network: Any = networks.create(name, True, {}, file).eval()
    rows = known_classes.places(clf.class_names, known_classes.names_of(network) or ())
    if missing := [one for one, row in zip(clf.class_names, rows, strict=True) if row is None]:
        raise SystemExit(f"error: {name} does not know {', '.join(missing)}")
    model = Original(network, [row for row in rows if row is not None], dict(clf.model.pretrained_cfg))
    softmax = Outputs(clf.class_names, kind="softmax")
    return Classifier(model.eval(), softmax, smooth=clf.head.smooth)


def pasted(data: Path, folder: Path, count: int) -> Path:
    """Photographs on others, in class folders, with a CSV of their boxes; as many of each class."""
    boxes = folder / "boxes.csv"
    if boxes.exists():
        return boxes
    draw, classes = random.Random(0), sorted(path for path in data.iterdir() if path.is_dir())
    files = {place: sorted(one for one in place.iterdir() if is_image(one)) for place in classes}
    rows = []
    for i in range(count):
        place = classes[i % len(classes)]
        other = draw.choice([one for one in classes if one != place])
        canvas = square(draw.choice(files[other]), SIDE).filter(ImageFilter.GaussianBlur(BLUR))
        x, y = (draw.randrange(SIDE - SMALL + 1) for _ in range(2))
        canvas.paste(square(draw.choice(files[place]), SMALL), (x, y))
        target = folder / place.name / f"{i:04}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        canvas.save(target)
        rows.append([str(target.relative_to(folder)), x, y, x + SMALL, y + SMALL, place.name])
    with replacing(boxes) as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows([["image", "x0", "y0", "x1", "y1", "label"], *rows])
    return boxes


def is_image(path: Path) -> bool:
    return path.suffix.lower() in Image.registered_extensions()


def square(path: Path, side: int) -> Image.Image:
    """The middle of a photograph."""
    image = Image.open(path).convert("RGB")
    scale = side / min(image.size)
    width, height = (max(round(length * scale), side) for length in image.size)
    left, above = (width - side) // 2, (height - side) // 2
    return image.resize((width, height), Image.Resampling.BICUBIC).crop(
        (left, above, left + side, above + side)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("original")
    parser.add_argument("data", type=Path)
    parser.add_argument("--samples", type=int, default=250)
    parser.add_argument("--fewer", nargs="*", default=["intgrad=50"], metavar="EXPLAINER=N")
    parser.add_argument("--metrics", nargs="*", default=list(METRICS), choices=list(METRICS))
    parser.add_argument("-o", dest="folder", type=Path, default=Path("runs/post_hoc"))
    asked = parser.parse_args()
    inherent = bcos_zoo.load(asked.run)
    name, _, file = asked.original.partition("+")
    original = original_of(name, file or None, inherent)
    fewer = evaluate.parse_counts(asked.fewer)
    print(f"| network | explainer | {' | '.join(asked.metrics)} |\n|---|---|{'---|' * len(asked.metrics)}")
    for called, place, clf, explainers in (
        (asked.run, "inherent", inherent, ("inherent",)),
        (name, "original", original, POST_HOC),
    ):
        found = {
            metric: measured(clf, explainers, metric, asked, fewer, asked.folder / place)
            for metric in asked.metrics
        }
        for explainer in explainers:
            cells = " | ".join(found[metric][explainer] for metric in asked.metrics)
            print(f"| {Path(called).name} | {explainer} | {cells} |", flush=True)


def measured(
    clf: Classifier, explainers: Sequence[str], metric: str, asked: Any, fewer: dict[str, int], folder: Path
) -> dict[str, str]:
    """For each explainer, median and quartiles."""
    images, boxes = asked.data, None
    if metric == "energy":
        images = asked.folder / f"pasted-{2 * asked.samples}"
        boxes = pasted(asked.data, images, 2 * asked.samples)
    settings = evaluate.Settings(
        explainers=tuple(explainers), metrics=(metric,), samples=asked.samples, boxes=boxes,
        fewer={key: count for key, count in fewer.items() if key in explainers},
        smooth=clf.head.smooth if metric == "localisation" else 1,
    )  # fmt: skip
    rows = evaluate.run(clf, images, folder / metric, settings, progress=Progress(disable=True))
    digits = METRICS[metric]
    return {
        row["explainer"]: f"{row['p50']:.{digits}f} ({row['p25']:.{digits}f} to {row['p75']:.{digits}f})"
        for row in rows
    }


if __name__ == "__main__":
    main()
