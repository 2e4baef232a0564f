"""Images in tar archives, each read in place, by any thread or worker."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from PIL import Image

from .. import images
from ..errors import InputError, reason
from ..files import reading
from . import groups
from .labelled import LabelledSet, by_names
from .layout import arranged, is_hidden


@dataclass(frozen=True)
class Members:
    """Images in tar archives, each a plain range of bytes of its archive."""

    archives: tuple[Path, ...]
    names: tuple[str, ...]
    places: np.ndarray  # (M, 3) int64: archive, first byte, bytes

    def load(self, index: int) -> Image.Image:
        return images.decode_rgb(self.content(index), self.name(index))

    def content(self, index: int) -> bytes:
        archive, first, size = self.places[index].tolist()
        # Each read opens the file anew: a shared file would have a shared position.
        with reading(self.name(index)), self.archives[archive].open("rb") as file:
            file.seek(first)
            return file.read(size)

    def name(self, index: int) -> str:
        return f"{self.archives[self.places[index, 0]]}/{self.names[index]}"


def from_tar(path: Path, train_split: str, val_split: str | None, group: str | None = None) -> LabelledSet:
    """The images in a tar of class folders, or in a tar with a folder of class folders for each part.

    group: a pattern for paths in the tar. Raises InputError for a file that is not a complete tar, for a tar
    that is compressed or holds no image, and as `arranged` and `by_names` do.
    """
    places: dict[PurePosixPath, tuple[int, int, int]] = {}
    inside: dict[PurePosixPath, set[str]] = {}
    try:
        with path.open("rb") as file:
            for name, first, size in _members(file, 0, PurePosixPath()):
                for folder in name.parents if size is not None else (name, *name.parents):
                    if folder.parts:
                        inside.setdefault(folder.parent, set()).add(folder.name)
                if size is not None and name.suffix.lower() in images.image_suffixes():
                    places[name] = (0, first, size)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a complete tar archive of images ({reason(error)}); make one, without "
            "compression, with a folder for each class"
        ) from error
    if not places:
        raise InputError(f"{path}: no image in this tar; make one with a folder for each class")
    files = sorted(places)
    layout = arranged(path, files, lambda below: sorted(inside.get(below, ())), train_split, val_split)
    used = [i for i, use in enumerate(layout.uses) if use]
    names = tuple(str(files[i]) for i in used)
    source = Members((path,), names, np.array([places[files[i]] for i in used], dtype=np.int64))
    grouped = None if group is None else groups.by_pattern(path, group, names)
    return by_names(
        path,
        source,
        [layout.classes[i] for i in used],
        [layout.uses[i] for i in used],
        names=layout.names,
        groups=grouped,
        notes=layout.notes,
    )


def _members(
    file: IO[bytes], base: int, outer: PurePosixPath
) -> Iterator[tuple[PurePosixPath, int, int | None]]:
    """Name, first byte and size (None for a folder) of each entry of a tar; hidden ones are left out.

    base: where the tar begins in the file on disk. outer: the folder that a tar inside a tar stands for.
    """
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            name = outer / PurePosixPath(member.name)
            if is_hidden(name):
                continue
            if member.isdir():
                yield name, 0, None
            elif member.isfile() and name.suffix.lower() == ".tar" and (inner := tar.extractfile(member)):
                yield from _members(inner, base + member.offset_data, name.with_suffix(""))
            elif member.isfile():
                yield name, base + member.offset_data, member.size
