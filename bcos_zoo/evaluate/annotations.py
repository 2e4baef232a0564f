"""Files of boxes: a plain CSV, or COCO's JSON."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError

COLUMNS = ("image", "x0", "y0", "x1", "y1", "label")


@dataclass(frozen=True)
class Box:
    """One object: left, top, right and bottom in pixels of the picture, and its class if known."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: str | None = None

    def __str__(self) -> str:
        return f"{self.x0:g},{self.y0:g},{self.x1:g},{self.y1:g}"


@dataclass(frozen=True)
class Annotations:
    """What a file says, by its names for the images."""

    boxes: dict[str, list[Box]]
    sizes: dict[str, tuple[int, int]]  # (width, height) of each image whose size the file gives


def read_annotations(file: Path) -> Annotations:
    """The boxes of a file, at least one; it is COCO's JSON if its name ends in .json, otherwise a CSV file.

    CSV: image, x0, y0, x1, y1 and optionally label, in this order or as a first line names them; a line per
    box. JSON: the keys images, annotations, of which the bbox counts, and categories.
    Raises InputError for a file that cannot be read, an invalid box, and labels on some boxes only.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error}); give boxes as CSV or COCO JSON") from error
    found = _of_coco(file, text) if file.suffix.lower() == ".json" else Annotations(_of_csv(file, text), {})
    labels = [box.label for boxes in found.boxes.values() for box in boxes]
    if not labels:
        raise InputError(f"{file}: no box is in it; give at least one")
    if any(labels) and not all(labels):
        raise InputError(
            f"{file}: {labels.count(None)} boxes have no label though others have; label all or none"
        )
    return found


def _of_csv(file: Path, text: str) -> dict[str, list[Box]]:
    lines = [(n, line) for n, line in enumerate(csv.reader(text.splitlines()), 1) if any(line)]
    names: tuple[str, ...] = COLUMNS
    if lines and not any(_is_number(cell) for cell in lines[0][1]):
        names = tuple(cell.strip().lower() for cell in lines.pop(0)[1])
        if missing := [name for name in COLUMNS[:5] if name not in names]:
            raise InputError(
                f"{file}: the first line names no column {', '.join(missing)}; needed are "
                f"{', '.join(COLUMNS[:5])}, and label if there are any"
            )
    found: dict[str, list[Box]] = {}
    for n, line in lines:
        cells = dict(zip(names, (cell.strip() for cell in line), strict=False))
        edges = [cells.get(name, "") for name in COLUMNS[1:5]]
        box = _box(f"{file}, line {n}", edges, cells.get("label") or None)
        found.setdefault(cells["image"], []).append(box)
    return found


def _of_coco(file: Path, text: str) -> Annotations:
    try:
        document = json.loads(text)
        pictures = {picture["id"]: picture for picture in document["images"]}
        names = {category["id"]: str(category["name"]) for category in document["categories"]}
        found: dict[str, list[Box]] = {}
        for i, annotation in enumerate(document["annotations"]):
            left, top, width, height = annotation["bbox"]
            edges = [left, top, left + width, top + height]
            box = _box(f"{file}, annotation {i}", edges, names[annotation["category_id"]])
            found.setdefault(str(pictures[annotation["image_id"]]["file_name"]), []).append(box)
        sizes = {str(p["file_name"]): (p["width"], p["height"]) for p in pictures.values() if "width" in p}
    except InputError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: not as COCO has it ({type(error).__name__}: {error}); needed are images (id, "
            "file_name), annotations (image_id, category_id, bbox) and categories (id, name)"
        ) from error
    return Annotations(found, sizes)


def _box(where: str, edges: list[Any], label: str | None) -> Box:
    if not all(_is_number(edge) for edge in edges):
        came = ", ".join(map(repr, edges))
        raise InputError(f"{where}: {came} are no four edges; allowed are x0, y0, x1, y1, finite pixels")
    x0, y0, x1, y1 = (float(edge) for edge in edges)
    box = Box(x0, y0, x1, y1, label)
    if not (box.x0 < box.x1 and box.y0 < box.y1):
        raise InputError(f"{where}: the box {box} holds nothing; allowed are x0 < x1 and y0 < y1")
    return box


def _is_number(text: Any) -> bool:
    try:
        return math.isfinite(float(text))
    except (TypeError, ValueError):
        return False
