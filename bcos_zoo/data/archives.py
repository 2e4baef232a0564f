"""Images in tar archives, each read where it stands, by any thread or worker."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from timm.data.readers.reader_image_in_tar import extract_tarinfos

from .. import images
from ..errors import InputError, reason
from .found import VAL_NAMES, Found, by_names


@dataclass(frozen=True)
class Members:
    """Images that are files in archives, each a plain range of bytes there."""

    archives: tuple[Path, ...]
    names: tuple[str, ...]
    places: np.ndarray  # (M, 3) int64: archive, first byte, bytes

    def load(self, index: int) -> Image.Image:
        archive, first, size = self.places[index].tolist()
        try:
            with self.archives[archive].open("rb") as file:  # of its own: a shared one has a shared position
                file.seek(first)
                data = file.read(size)
        except OSError as error:
            raise InputError(f"{self.name(index)!r} cannot be read ({reason(error)}); mend it") from error
        return images.decode_rgb(data, self.name(index))

    def name(self, index: int) -> str:
        return f"{self.archives[self.places[index, 0]]}/{self.names[index]}"


def from_tar(path: Path, train_split: str, val_split: str | None) -> Found:
    """The images of a tar of class folders, which may stand below folders named after two splits.

    Raises InputError for what is no whole tar, or holds no image.
    """
    try:
        found, *_ = extract_tarinfos(str(path), cache_tarinfo=False, extensions=images.image_suffixes())
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: no whole tar of images ({reason(error)}); make one with a folder for each class"
        ) from error
    names, places = [], []
    for member, _, outer in sorted(found, key=lambda one: one[0].name):  # outer: of a tar in the tar
        name = PurePosixPath(outer.name if outer else "", member.name)
        if not name.name.startswith("."):
            names.append(name)
            places.append((0, member.offset_data + (outer.offset_data if outer else 0), member.size))
    if loose := [name for name in names if len(name.parts) < 2]:
        raise InputError(f"{path}: {loose[0]} is in no folder; put the images of each class into one")
    source = Members((path,), tuple(map(str, names)), np.array(places, dtype=np.int64))
    splits = _splits([name.parts[:-2] for name in names], train_split, val_split)
    return by_names(path, source, [name.parts[-2] for name in names], splits)


def _splits(above: Sequence[tuple[str, ...]], train_split: str, val_split: str | None) -> list[str]:
    """The split of each image by the folders above that of its class: all "train" if none is named so."""
    there = {part for parts in above for part in parts}
    if train_split not in there:
        return ["train"] * len(above)
    val = next((name for name in ([val_split] if val_split else VAL_NAMES) if name in there), None)
    return ["train" if train_split in parts else "val" if val in parts else "" for parts in above]
