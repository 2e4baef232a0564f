"""Small sets of images on disk, and images that are broken in every way."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from photographs import encoded, png
from PIL import Image

from bcos_zoo.data import Batch

QUIET = {"log": lambda line: None, "threads": 1}


def noise(seed: int, width: int = 12, height: int = 10) -> Image.Image:
    """A picture that no other seed gives."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def generators() -> tuple[object, ...]:
    """The states of all global generators that augmentations draw from."""
    name, words, *place = np.random.get_state()
    return random.getstate(), name, words.tobytes(), *place, torch.get_rng_state().numpy().tobytes()


def class_folders(root: Path, counts: dict[str, int], first: int = 0) -> Path:
    """`root/<class>/<number>.png`, as many of each class as said."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            first += 1
            noise(first).save(root / name / f"{i}.png")
    return root


def _whole(kind: str) -> bytes:
    return encoded(noise(0, 64, 48), format=kind)


BROKEN = {
    "empty.png": b"",
    "text.jpg": b"this is no picture\n" * 20,
    "short.jpg": _whole("JPEG")[:700],
    "short.png": _whole("PNG")[:700],
    "bomb.png": png(60_000, 60_000, 8, 2, b"\0"),
    "header.jpg": b"\0\0\0\0" + _whole("JPEG")[4:],
    "middle.png": _whole("PNG")[:200] + b"\0" * 100 + _whole("PNG")[300:],
    "page.gif": b"<html>404</html>",
}


def tarred(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """A tar of these names and contents, in this order."""
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def same(some: list[Batch], others: list[Batch]) -> bool:
    """Whether two loaders gave the same batches, to the bit."""
    return len(some) == len(others) and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
        for a, b in zip(some, others, strict=True)
    )
