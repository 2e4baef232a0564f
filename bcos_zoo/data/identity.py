"""What images a number was made on: names, labels and parts of a set as one hash, and the content of each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from ..files import reading
from .samples import Samples
from .stream import Stream

CHUNK = 1 << 20  # bytes


def of_parts(class_names: tuple[str, ...], parts: Mapping[str, Samples | Stream]) -> str:
    """A sha256 of classes, and of the names, labels and groups of each part's images, in their order.

    Without the folders that they are in, which may have moved.
    """
    digest = hashlib.sha256(repr(class_names).encode())
    for name, samples in parts.items():
        digest.update(name.encode() + b"\0")
        if isinstance(samples, Stream):
            digest.update(repr(samples).encode())
            continue
        digest.update(samples.labels.numpy().tobytes())
        for i in range(len(samples)):
            digest.update(f"{PurePath(samples.name(i)).name}\0{samples.group(i)}\0".encode(errors="replace"))
    return digest.hexdigest()


def of_files(files: Iterable[tuple[str, Path]]) -> str:
    """A sha256 of the names and the bytes of files, whatever their order: of each the name that it goes by.

    Raises InputError for one that cannot be read.
    """

    def look(one: tuple[str, Path]) -> str:
        name, path = one
        digest = hashlib.blake2b(digest_size=16)
        with reading(str(path)), path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return f"{name}\0{digest.hexdigest()}\n"

    with ThreadPoolExecutor() as pool:  # reading and hashing let others go on
        lines = sorted(pool.map(look, files))
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def other_content(before: Tensor, now: Tensor) -> Tensor:
    """(K,) numbers of the images that can be read both times, with other bytes. before, now: as of `scan`."""
    return ((before != now) & (before != 0) & (now != 0)).nonzero()[:, 0]


def shared_content(one: Tensor | None, other: Tensor | None) -> Tensor:
    """(K,) numbers of the images in `one` whose bytes stand in `other` too."""
    if one is None or other is None:
        return torch.zeros(0, dtype=torch.int64)
    return (torch.isin(one, other) & (one != 0)).nonzero()[:, 0]


def plain(value: Any) -> Any:
    """The same as JSON has it: what is no text, number or list of these as its repr."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
