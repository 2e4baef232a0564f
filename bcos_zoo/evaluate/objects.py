"""Where objects are in photographs, for the energy pointing game: boxes in a file or masks in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import images
from ..classifier import Classifier
from ..data import identity
from ..errors import InputError
from ..files import is_folder
from ..weights import checksums
from .accuracy import class_index, classes_called
from .annotations import Box, read_annotations
from .geometry import centres

BEYOND = 1.0  # pixels that a box may extend beyond its picture: tools round differently
Size = tuple[int, int]  # width, height
Meant = Callable[[str], bool]


class Objects(Protocol):
    """What the game needs of boxes and masks."""

    def identity(self, images: Iterable[Path]) -> str:
        """A text that is equal for equal objects in these images, and differs otherwise."""

    def has(self, path: Path) -> bool:
        """Whether anything is known about that image."""

    def inside(self, path: Path, meant: Meant, size: Size, points: tuple[Tensor, Tensor]) -> Tensor:
        """(H, W) bool: which points of the picture, at columns (W,) and rows (H,), a class's objects cover.

        meant: whether a label means that class.
        Raises InputError for objects that do not fit a picture of that size.
        """


@dataclass(frozen=True)
class Boxes:
    """The boxes in a file, by the absolute path of the image."""

    file: Path
    of: dict[Path, list[Box]]
    sizes: dict[Path, Size]  # of each image whose size the file gives

    @property
    def labelled(self) -> bool:
        """Whether the boxes name their classes; if not, the folders of the images do."""
        return all(box.label is not None for boxes in self.of.values() for box in boxes)

    def identity(self, images: Iterable[Path]) -> str:
        return f"boxes {checksums.sha256(self.file)}"

    def has(self, path: Path) -> bool:
        return _absolute(path) in self.of

    def inside(self, path: Path, meant: Meant, size: Size, points: tuple[Tensor, Tensor]) -> Tensor:
        path, (columns, rows), (width, height) = _absolute(path), points, size
        if (said := self.sizes.get(path, size)) != size:
            raise InputError(
                f"{path}: {width}x{height} pixels, but {self.file.name} has its boxes for "
                f"{said[0]}x{said[1]}; give the image that was annotated, upright"
            )
        found = torch.zeros(len(rows), len(columns), dtype=torch.bool)
        for box in self.of[path]:
            if min(box.x0, box.y0) < -BEYOND or box.x1 > width + BEYOND or box.y1 > height + BEYOND:
                raise InputError(
                    f"{self.file.name}: the box {box} leaves {path}, of {width}x{height} pixels; boxes are "
                    "in pixels of the original image, upright"
                )
            if box.label is None or meant(box.label):
                wide = (columns >= box.x0) & (columns < box.x1)
                found |= ((rows >= box.y0) & (rows < box.y1))[:, None] & wide
        return found

    def pairs(self, classifier: Classifier) -> tuple[list[Path], list[int]]:
        """Each image with each class of the network that it has a box for, called by name or WordNet number.

        Raises InputError if no box is of a class of the network, and for a label that is the name of several.
        """
        names = classifier.class_names
        found = sorted({(path, box.label) for path, boxes in self.of.items() for box in boxes if box.label})
        index = {
            label: class_index(names, label, self.file)
            for label in dict.fromkeys(label for _, label in found)
            if classes_called(names, label)
        }
        pairs = sorted({(path, index[label]) for path, label in found if label in index})
        if not pairs:
            raise InputError(
                f"{self.file}: none of its labels, such as {found[0][1]!r}, is a class of this network; "
                f"name its classes ({', '.join(classifier.class_names[:5])}, ...), or leave labels out"
            )
        return [path for path, _ in pairs], [label for _, label in pairs]


@dataclass(frozen=True)
class Masks:
    """A folder of one PNG per image, with the image's name in the data: pixels that are not 0 are object."""

    folder: Path
    root: Path

    def identity(self, images: Iterable[Path]) -> str:
        files = {self._file(path) for path in images if self.has(path)}
        named = ((file.relative_to(self.folder).as_posix(), file) for file in files)
        return f"masks {identity.of_files(named)}"

    def has(self, path: Path) -> bool:
        return self._file(path).is_file()

    def inside(self, path: Path, meant: Meant, size: Size, points: tuple[Tensor, Tensor]) -> Tensor:
        mask = _read_mask(self._file(path))
        if (came := (mask.shape[1], mask.shape[0])) != size:
            raise InputError(
                f"{self._file(path)}: a mask of {came[0]}x{came[1]} pixels for an image of "
                f"{size[0]}x{size[1]}; give one of the size of the original image, upright"
            )
        columns, rows = (positions.floor().long() for positions in points)
        in_columns, in_rows = (columns >= 0) & (columns < size[0]), (rows >= 0) & (rows < size[1])
        found = torch.from_numpy(mask)[rows.clamp(0, size[1] - 1)][:, columns.clamp(0, size[0] - 1)]
        return found & in_rows[:, None] & in_columns

    def _file(self, path: Path) -> Path:
        return (self.folder / _absolute(path).relative_to(_absolute(self.root))).with_suffix(".png")


def in_view(objects: Objects, classifier: Classifier, path: Path, label: int) -> Tensor:
    """(H, W) bool: which pixels of an image, as the network sees it, are in an object of that class.

    A pixel counts if its centre, taken back through the card's crop and resize, is in the object.
    Raises InputError for an image that cannot be read, and for boxes or a mask that do not fit it.
    """
    size = images.load_rgb(path).size
    points = centres(classifier.transform, size, "L" if classifier.model.in_chans == 1 else "RGB")
    return objects.inside(
        path, lambda name: classes_called(classifier.class_names, name) == [label], size, points
    )


def read_boxes(file: str | os.PathLike[str], root: str | os.PathLike[str]) -> Boxes:
    """The boxes of the images below `root` in a file that `read_annotations` reads.

    The names of images are relative to `root` or to the folder of the file. Edges are in pixels of the
    upright image: (0, 0, 2, 1) covers its first two.
    Raises InputError as `read_annotations` does, and if none of the images is below `root`.

    ```python
    from pathlib import Path

    from bcos_zoo.evaluate import read_boxes

    Path("out").mkdir(exist_ok=True)
    Path("out/boxes.csv").write_text("image,x0,y0,x1,y1,label\\nchelsea.jpg,10,10,200,200,cat\\n")
    assert read_boxes("out/boxes.csv", "bcos_zoo/samples").labelled
    ```
    """
    file, root = Path(file), Path(root)
    annotations = read_annotations(file)
    of: dict[Path, list[Box]] = {}
    sizes: dict[Path, Size] = {}
    for name, boxes in annotations.boxes.items():
        if (place := _place(name, file, root)) is not None:
            of.setdefault(place, []).extend(boxes)
            if name in annotations.sizes:
                sizes[place] = annotations.sizes[name]
    if not of:
        first = next(iter(annotations.boxes))
        raise InputError(
            f"{file}: none of its {len(annotations.boxes)} images is in {root}, such as {first!r}; names are "
            "relative to that folder or to the file's"
        )
    return Boxes(file, of, sizes)


def read_masks(folder: str | os.PathLike[str], root: str | os.PathLike[str]) -> Masks:
    """The masks of the images below `root`: `folder/cat/1.png` belongs to `root/cat/1.jpg`.

    Raises InputError if there is no such folder.

    ```python
    from pathlib import Path

    from PIL import Image

    from bcos_zoo.evaluate import read_masks

    Path("out/masks").mkdir(parents=True, exist_ok=True)
    Image.new("L", (451, 300), 255).save("out/masks/chelsea.png")
    root = Path("bcos_zoo/samples").resolve()
    assert read_masks("out/masks", root).has(root / "chelsea.jpg")
    ```
    """
    if not is_folder(Path(folder)):
        raise InputError(f"{folder}: no such folder; give one with a PNG for each image, under its name")
    return Masks(Path(folder), Path(root))


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # unlike resolve(), it does not follow links


def _place(name: str, file: Path, root: Path) -> Path | None:
    """The image of that name, if it is below `root`."""
    for folder in (root, file.parent):
        path = _absolute(folder / name)
        if path.is_relative_to(_absolute(root)) and path.is_file():
            return path
    return None


def _read_mask(file: Path) -> np.ndarray:
    """(H, W) bool: which pixels are not zero, in their palette index or in any channel but opacity."""
    try:
        with Image.open(file) as mask:
            values = np.asarray(mask.convert(mask.mode[:-1]) if mask.mode in ("LA", "RGBA") else mask)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{file}: cannot be read as a mask ({error}); give a whole PNG") from error
    return np.asarray(values.reshape(*values.shape[:2], -1).any(-1))
