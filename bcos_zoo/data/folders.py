"""Folders of images: `root/<class>/<image>`, or `root/<part>/<class>/<image>`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

from .. import images
from ..errors import InputError
from ..files import is_folder
from . import groups
from .labelled import LabelledSet, by_names
from .layout import arranged, is_hidden
from .samples import Files


def list_folder(root: str | Path) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """Paths, class indices and class names (the sub-folders, sorted) of `root/<class>/<image>`.

    Raises InputError if root is not a folder, has no sub-folders, or one of them holds no image.
    """
    root = Path(root)
    names = tuple(_folders(root))
    passed = images.Passed()
    found = [_images(root / name, passed) for name in names]
    passed.tell(root)
    paths = [path for some in found for path in some]
    labels = [index for index, some in enumerate(found) for _ in some]
    return paths, labels, names


def from_folder(root: Path, train_split: str, val_split: str | None, group: str | None = None) -> LabelledSet:
    """The images in a folder of class folders, or in a folder with a folder of these for each part.

    group: a pattern for paths below root. Raises InputError as `list_folder`, `arranged` and `by_names` do.
    """
    _folders(root)
    paths = _images(root)
    files = [PurePosixPath(path.relative_to(root).as_posix()) for path in paths]

    @cache
    def folders(below: PurePosixPath) -> tuple[str, ...]:
        place = root / below
        inside = sorted(place.iterdir()) if place.is_dir() else []
        return tuple(one.name for one in inside if one.is_dir() and not is_hidden(one.name))

    layout = arranged(root, files, folders, train_split, val_split)
    used = [i for i, use in enumerate(layout.uses) if use]
    names = [str(files[i]) for i in used]
    grouped = None if group is None else groups.by_pattern(root, group, names)
    return by_names(
        root,
        Files(tuple(paths[i] for i in used)),
        [layout.classes[i] for i in used],
        [layout.uses[i] for i in used],
        names=layout.names,
        groups=grouped,
        notes=layout.notes,
    )


def _folders(root: Path) -> Iterator[str]:
    """Names of the sub-folders of root, sorted. Raises InputError if it is not a folder, or has none."""
    if not is_folder(root):
        raise InputError(f"{root}: no such folder; give one that holds a sub-folder of images for each class")
    found = sorted(p.name for p in root.iterdir() if p.is_dir() and not is_hidden(p.name))
    if not found:
        raise InputError(f"{root}: no sub-folders; put the images of each class into a folder named after it")
    return iter(found)


def _images(root: Path, passed: images.Passed | None = None) -> list[Path]:
    """The images below a folder, sorted; hidden ones are left out."""
    found = images.find_images([root], passed)
    return [path for path in found if not is_hidden(path.relative_to(root).as_posix())]
