"""Images without labels: all that lie below a folder, for learning what another network answers."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import torch

from .. import images
from ..errors import InputError
from ..files import is_folder
from . import groups, parts
from .labelled import LabelledSet, parted
from .layout import is_hidden
from .samples import Files, Samples

ONE_CLASS = ("image",)  # of them all, until a network says more


def from_unlabelled(
    root: Path, train_split: str, val_split: str | None, group: str | None = None
) -> LabelledSet:
    """The images below a folder, at any depth, all of class 0.

    Sub-folders named like parts (such as train/ and val/) are these parts; a test part is not used, for
    nothing is known of its images. group: a pattern for paths below root.
    Raises InputError if there is no such folder, or no image in it.
    """
    if not is_folder(root):
        raise InputError(f"{root}: no such folder; without labels, give a folder that holds images")
    paths = [path for path in images.find_images([root]) if not is_hidden(path.relative_to(root).as_posix())]
    if not paths:
        raise InputError(f"{root}: all images in it are hidden; give a folder that holds others")
    names = [path.relative_to(root).as_posix() for path in paths]
    tops = [PurePosixPath(name).parts[0] for name in names]
    chosen = parts.choose(root, sorted(set(tops)), train_split, val_split, kind="folder")
    uses = ["train" if chosen is None else chosen.uses.get(top, "") for top in tops]
    grouped = None if group is None else groups.by_pattern(root, group, names)
    everything = Samples(
        Files(tuple(paths)), torch.arange(len(paths)), torch.zeros(len(paths), dtype=torch.int64), grouped
    )
    notes = [f"{root}: images without labels"] + ([] if chosen is None else [f"{root}: {chosen.said()}"])
    return parted(everything, [use if use != "test" else "" for use in uses], ONE_CLASS, notes)


def class_folders(root: str | Path) -> list[str]:
    """The names of what may be class folders, below a folder's parts if it has parts; none if it has none.

    Folders around all others do not count. Whether they are classes, only the names tell: those of an album
    may be years.
    """
    below = _folders(Path(root))
    while len(below) == 1 and not parts.part_of(below[0].name):
        below = _folders(below[0])
    if inside := [one for one in below if parts.part_of(one.name)]:
        below = [one for part in inside for one in _folders(part)]
    return sorted({one.name for one in below})


def _folders(root: Path) -> list[Path]:
    if not is_folder(root):
        return []
    return [one for one in root.iterdir() if one.is_dir() and not is_hidden(one.name)]
