"""Folders of images, `root/<class>/<image>`."""

from __future__ import annotations

from pathlib import Path

from .. import images
from ..errors import InputError


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
