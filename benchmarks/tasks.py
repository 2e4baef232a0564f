"""Tasks to compare ways of fine-tuning on: small sets of images, each with a part for the final test.

    python benchmarks/tasks.py FOLDER [--data data] [--seed 0]

`data` holds `cifar10` and `imagenette`, each with train/ and val/ of class folders. The seed draws which
images are for training; the test images are the same for all seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

SMALL, LARGE = "bcos_resnet20.cifar10", "bcos_resnet18_w32.imagenette"
IMAGENETTE = {
    "n01440764": "tench", "n02102040": "English springer", "n02979186": "cassette player",
    "n03000684": "chain saw", "n03028079": "church", "n03394916": "French horn",
    "n03417042": "garbage truck", "n03425413": "gas pump", "n03445777": "golf ball",
    "n03888257": "parachute",
}  # fmt: skip
UNSEEN = ("automobile", "cat", "frog", "ship")  # of CIFAR-10: nothing like them is in Imagenette
SIDE = 224  # pixels of the images that are drawn here


@dataclass(frozen=True)
class Task:
    """One set of images. make: writes it into a folder, for a seed. model: what fine-tuning begins with."""

    name: str
    model: str
    make: Callable[[Path, int, Path], None]
    changes: tuple[str, ...] = ()  # to the recipe, such as no mirroring where it changes the class

    def write(self, folder: Path, seed: int, data: Path) -> Path:
        """Make it, hold a fifth of each class out for validation; returns what `finetune` takes."""
        self.make(folder, seed, data)
        if (table := folder / "images.csv").exists():
            return table
        for label in sorted((folder / "train").iterdir()):
            paths = sorted(label.iterdir())
            target = folder / "val" / label.name
            target.mkdir(parents=True)
            for path in random.Random(f"{seed} {label.name}").sample(paths, max(len(paths) // 5, 1)):
                path.rename(target / path.name)
        return folder

    @property
    def folder(self) -> str:
        return self.name.replace(" ", "_").replace(",", "")


def digits(a_class: int | None, folder: Path, seed: int, data: Path) -> None:
    """scikit-learn's handwritten digits, enlarged from 8 to 32 pixels; every fifth is for the test."""
    found = load_digits()
    every = list(zip(found.images, found.target, strict=True))
    wanted = {"test": every[::5], "train": [one for i, one in enumerate(every) if i % 5]}
    wanted["train"] = drawn(wanted["train"], [int(label) for _, label in wanted["train"]], a_class, seed)
    for part, ones in wanted.items():
        for i, (pixels, label) in enumerate(ones):
            grey = Image.fromarray((pixels / 16 * 255).astype(np.uint8))
            image = grey.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB")
            save(image, folder / part / str(label) / f"{i:04d}.png")


def photographs(
    source: str, names: Iterable[str], a_class: int, test: int, folder: Path, seed: int, data: Path
) -> None:
    """Some images of each class for training, and the first ones of the validation part for the test."""
    for name in names:
        of_train = sorted((data / source / "train" / name).iterdir())
        of_val = sorted((data / source / "val" / name).iterdir())
        wanted = {
            "train": random.Random(f"{seed} {name}").sample(of_train, a_class),
            "test": of_val[:: max(len(of_val) // test, 1)][:test],
        }
        for part, paths in wanted.items():
            for path in paths:
                target = folder / part / IMAGENETTE.get(name, name) / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)


def pairs(count: int, test: int, folder: Path, seed: int, data: Path) -> None:
    """Two photographs of Imagenette side by side, with the labels of both, listed in a CSV."""
    rows = []
    for part, number, of in (("train", count, "train"), ("test", test, "val")):
        chosen = random.Random(seed if part == "train" else "test")
        for i in range(number):
            both = chosen.sample(sorted(IMAGENETTE), 2)
            image = Image.new("RGB", (SIDE, SIDE))
            for left, name in zip((0, SIDE // 2), both, strict=True):
                path = chosen.choice(sorted((data / "imagenette" / of / name).iterdir()))
                one = Image.open(path).convert("RGB").resize((SIDE, SIDE))
                image.paste(one.crop((SIDE // 4, 0, 3 * SIDE // 4, SIDE)), (left, 0))
            place = Path(part) / f"{i:04d}.jpg"
            save(image, folder / place)
            labels = "|".join(IMAGENETTE[name] for name in both)
            split = "val" if part == "train" and i % 5 == 0 else part
            rows.append({"path": place, "labels": labels, "split": split})
    with (folder / "images.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["path", "labels", "split"])
        table.writeheader()
        table.writerows(rows)


def textures(a_class: int, test: int, folder: Path, seed: int, data: Path) -> None:
    """Stripes, checks, dots, waves, rings and blots, in any colours, sizes and directions."""
    draw_all(TEXTURES, a_class, test, folder, seed)


def shapes(a_class: int, test: int, folder: Path, seed: int, data: Path) -> None:
    """One disc, square, triangle, star, cross or ring, anywhere on a ground of blots."""
    draw_all(SHAPES, a_class, test, folder, seed)


def draw_all(
    kinds: dict[str, Callable[..., Image.Image]], a_class: int, test: int, folder: Path, seed: int
) -> None:
    for part, count in (("train", a_class), ("test", test)):
        for name, draw in kinds.items():
            for i in range(count):
                chosen = np.random.default_rng(
                    list(f"{part} {seed if part == 'train' else ''} {name} {i}".encode())
                )
                save(draw(chosen), folder / part / name / f"{i:03d}.png")


def coloured(values: np.ndarray, chosen: np.random.Generator) -> Image.Image:
    """A grey picture (H, W) in [0, 1] between two colours that differ, with some noise."""
    first = chosen.uniform(0, 1, 3)
    second = (first + chosen.uniform(0.3, 0.7, 3)) % 1
    mixed = values[..., None] * first + (1 - values[..., None]) * second
    noisy = (mixed + chosen.normal(0, 0.06, mixed.shape)).clip(0, 1)
    return Image.fromarray((255 * noisy).astype(np.uint8))


def plane(chosen: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """Coordinates of all pixels, turned and shifted, and the length of a period in pixels."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    turn = chosen.uniform(0, math.pi)
    u = x * math.cos(turn) + y * math.sin(turn) + chosen.uniform(0, SIDE)
    v = y * math.cos(turn) - x * math.sin(turn) + chosen.uniform(0, SIDE)
    return u, v, chosen.uniform(14, 40)


def soft(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-8 * values))


def stripes(chosen: np.random.Generator) -> Image.Image:
    u, _, period = plane(chosen)
    return coloured(soft(np.sin(2 * math.pi * u / period)), chosen)


def checks(chosen: np.random.Generator) -> Image.Image:
    u, v, period = plane(chosen)
    return coloured(soft(np.sin(2 * math.pi * u / period) * np.sin(2 * math.pi * v / period)), chosen)


def dots(chosen: np.random.Generator) -> Image.Image:
    u, v, period = plane(chosen)
    return coloured(soft(np.cos(2 * math.pi * u / period) + np.cos(2 * math.pi * v / period) - 0.9), chosen)


def waves(chosen: np.random.Generator) -> Image.Image:
    u, v, period = plane(chosen)
    bent = u + 0.5 * period * np.sin(math.pi * v / period)
    return coloured(soft(np.sin(2 * math.pi * bent / period)), chosen)


def rings(chosen: np.random.Generator) -> Image.Image:
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    middle = chosen.uniform(0, SIDE, 2)
    far = np.hypot(y - middle[0], x - middle[1])
    return coloured(soft(np.sin(2 * math.pi * far / chosen.uniform(14, 40))), chosen)


def blots(chosen: np.random.Generator) -> Image.Image:
    return coloured(soft(clouds(chosen)), chosen)


def clouds(chosen: np.random.Generator) -> np.ndarray:
    """Smooth noise (H, W) around 0."""
    side = int(chosen.integers(8, 20))
    coarse = Image.fromarray(chosen.normal(0, 1, (side, side)).astype(np.float32))
    return np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def shape(name: str, chosen: np.random.Generator) -> Image.Image:
    ground = coloured(soft(0.3 * clouds(chosen)), chosen)
    mask = Image.new("L", (SIDE, SIDE))
    pen = ImageDraw.Draw(mask)
    radius = chosen.uniform(30, 70)
    x, y = chosen.uniform(radius, SIDE - radius, 2)
    turn = chosen.uniform(0, 2 * math.pi)

    def corners(count: int, *lengths: float) -> list[tuple[float, float]]:
        return [
            (
                x + radius * lengths[i % len(lengths)] * math.cos(turn + 2 * math.pi * i / count),
                y + radius * lengths[i % len(lengths)] * math.sin(turn + 2 * math.pi * i / count),
            )
            for i in range(count)
        ]

    if name in ("disc", "ring"):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    if name == "ring":
        pen.ellipse((x - radius / 2, y - radius / 2, x + radius / 2, y + radius / 2), fill=0)
    if name in ("triangle", "square"):
        pen.polygon(corners(3 if name == "triangle" else 4, 1), fill=255)
    if name == "star":
        pen.polygon(corners(10, 1, 0.4), fill=255)
    if name == "cross":
        near = math.sqrt(2) * 0.3
        pen.polygon(corners(12, 1, near, 1), fill=255)
    inside = coloured(np.ones((SIDE, SIDE)), chosen)
    return Image.composite(inside, ground, mask)


TEXTURES = dict(stripes=stripes, checks=checks, dots=dots, waves=waves, rings=rings, blots=blots)
SHAPES = {
    name: partial(shape, name) for name in ("disc", "ring", "triangle", "square", "star", "cross")
}  # fmt: skip


def drawn(ones: list, labels: list[int], a_class: int | None, seed: int) -> list:
    """So many of each class, at random; all of them for None."""
    if a_class is None:
        return ones
    chosen = random.Random(seed)
    wanted = []
    for label in sorted(set(labels)):
        wanted += chosen.sample([one for one, its in zip(ones, labels, strict=True) if its == label], a_class)
    return wanted


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


FOUR = ("n01440764", "n02979186", "n03394916", "n03888257")
UPRIGHT = ("augment.hflip=0",)  # a mirrored digit is none
TASKS = (
    Task("digits, all", SMALL, partial(digits, None), UPRIGHT),
    Task("digits, 10 a class", SMALL, partial(digits, 10), UPRIGHT),
    Task("Imagenette, 4 x 30", LARGE, partial(photographs, "imagenette", FOUR, 30, 50)),
    Task("Imagenette, 10 x 5", LARGE, partial(photographs, "imagenette", tuple(IMAGENETTE), 5, 30)),
    Task("unseen classes, 4 x 30", LARGE, partial(photographs, "cifar10", UNSEEN, 30, 50)),
    Task("CIFAR-10, 10 x 50", LARGE, partial(photographs, "cifar10", (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ), 50, 30)),
    Task("textures, 6 x 10", LARGE, partial(textures, 10, 40)),
    Task("shapes, 6 x 5", LARGE, partial(shapes, 5, 40)),
    Task("pairs, two labels, 80", LARGE, partial(pairs, 80, 200)),
)  # fmt: skip


def read_rows(file: Path) -> list[dict]:
    """What was measured before: a JSON object in each line; nothing without the file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def add_row(file: Path, row: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for task in TASKS:
        print(f"{task.name}: {task.write(asked.folder / task.folder, asked.seed, asked.data)}")


if __name__ == "__main__":
    main()
