"""Folders of images, `root/<class>/<image>`, and of two splits of such."""

from __future__ import annotations

from pathlib import Path

from .. import images
from ..errors import InputError
from .found import VAL_NAMES, Found
from .samples import of_files


def list_folder(root: str | Path) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """Paths, class indices and class names (the sub-folders, sorted) of `root/<class>/<image>`.

    Raises InputError if root is no folder, has no sub-folders, or one of them holds no image.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give one that holds a sub-folder of images for each class")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise InputError(f"{root}: no sub-folders; put the images of each class into a folder named after it")
    found = [images.find_images([folder]) for folder in folders]
    paths = [path for paths in found for path in paths]
    labels = [index for index, paths in enumerate(found) for _ in paths]
    return paths, labels, tuple(folder.name for folder in folders)


def from_folder(root: Path, train_split: str, val_split: str | None) -> Found:
    """The images of a folder of class folders, or of one that holds a folder of these for each split.

    Raises InputError for what `list_folder` refuses, for a split that is not there, and for splits whose
    classes differ.
    """
    if not (root / train_split).is_dir():
        if train_split != "train" or val_split is not None:
            raise InputError(f"{root}: no folder {train_split} in it; train_split must name one")
        paths, labels, names = list_folder(root)
        return Found(of_files(paths, labels), None, names)
    paths, labels, names = list_folder(root / train_split)
    train = of_files(paths, labels)
    there = [name for name in ([val_split] if val_split else VAL_NAMES) if (root / name).is_dir()]
    if not there:
        if val_split:
            raise InputError(f"{root}: no folder {val_split} in it; val_split must name one")
        return Found(train, None, names)
    paths, labels, val_names = list_folder(root / there[0])
    if names != val_names:
        only = sorted(set(names) ^ set(val_names))
        raise InputError(
            f"{root}: {', '.join(only[:5])} in one of {train_split} and {there[0]} only; "
            "give both the same sub-folders"
        )
    return Found(train, of_files(paths, labels), names)
