"""Which images a result was measured on: one hash of a set's names, labels and parts, one of each content."""

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

    The folders that they are in do not count: those may have moved.
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
    """A sha256 of the names and bytes of files, given as (name, path) in any order.

    Raises InputError for a file that cannot be read.
    """

    def look(one: tuple[str, Path]) -> str:
        name, path = one
        digest = hashlib.blake2b(digest_size=16)
        with reading(str(path)), path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return f"{name}\0{digest.hexdigest()}\n"

    with ThreadPoolExecutor() as pool:  # reading and hashing release the lock of the interpreter
        lines = sorted(pool.map(look, files))
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def other_content(before: Tensor, now: Tensor) -> Tensor:
    """(K,) indices of images readable both times whose bytes changed. before, now: `contents` of a `Scan`."""
    return ((before != now) & (before != 0) & (now != 0)).nonzero()[:, 0]


def shared_content(one: Tensor | None, other: Tensor | None) -> Tensor:
    """(K,) indices of the images in `one` whose bytes are in `other` too."""
    if one is None or other is None:
        return torch.zeros(0, dtype=torch.int64)
    return (torch.isin(one, other) & (one != 0)).nonzero()[:, 0]


def plain(value: Any) -> Any:
    """A value as JSON has it: what is not a text, a number or a list of these becomes its repr."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
