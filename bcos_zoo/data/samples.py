"""Labelled images, read when they are asked for."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import images
from ..errors import InputError
from ..files import reading

AHEAD = 4  # images per thread that may be decoded before they are asked for
ARRAY = 2**26  # approximate bytes of one array of images in memory


class ImageStore(Protocol):
    """Images by index. `load` gives RGB, or raises InputError naming the image; `content` gives its bytes."""

    def load(self, index: int) -> Image.Image: ...
    def content(self, index: int) -> bytes: ...
    def name(self, index: int) -> str: ...


@dataclass(frozen=True)
class Files:
    """Images that are each a file of its own."""

    paths: tuple[Path, ...]

    def load(self, index: int) -> Image.Image:
        return images.load_rgb(self.paths[index])

    def content(self, index: int) -> bytes:
        with reading(self.name(index)):
            return self.paths[index].read_bytes()

    def name(self, index: int) -> str:
        return str(self.paths[index])


@dataclass(frozen=True)
class Samples:
    """One split of a set of images."""

    source: ImageStore
    indices: Tensor  # (M,) int64, indices into the source
    labels: Tensor  # (M,) int64 class indices; or (M, C) floats 0 and 1, several labels per image
    groups: np.ndarray | None = None  # (M,) texts: images of one group stay on one side of every split

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, i: int) -> Image.Image:
        """Image i in RGB. Raises InputError, which names it, if it cannot be read."""
        return self.source.load(int(self.indices[i]))

    def name(self, i: int) -> str:
        """What to call image i in messages and lists."""
        return self.source.name(int(self.indices[i]))

    def select(self, chosen: Sequence[int] | Tensor) -> Samples:
        """The images at these indices, in this order."""
        chosen = torch.as_tensor(chosen, dtype=torch.int64)
        groups = None if self.groups is None else self.groups[chosen.numpy()]
        return Samples(self.source, self.indices[chosen], self.labels[chosen], groups)

    def group(self, i: int) -> str | None:
        """The group of image i, such as its patient, animal or video; None where groups are not asked for."""
        return None if self.groups is None else str(self.groups[i])


def of_files(paths: Iterable[Path], labels: Sequence[int] | Tensor) -> Samples:
    """Samples of image files. labels: as in `Samples`."""
    files = tuple(paths)
    return Samples(Files(files), torch.arange(len(files)), torch.as_tensor(labels))


def decoded(samples: Samples, threads: int | None = None) -> Iterator[Image.Image | InputError]:
    """Every image in order, or why it cannot be read, decoded by threads (one per core unless given)."""
    threads = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Image.Image | InputError]] = deque()
        for i in range(len(samples)):
            waiting.append(pool.submit(_attempt, samples, i))
            if len(waiting) > AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _attempt(samples: Samples, i: int) -> Image.Image | InputError:
    try:
        return samples.load(i)
    except InputError as error:
        return error


def fault(name: str, error: InputError) -> str:
    """'name: why' for an image that cannot be read."""
    why = str(error).split("; ")[0].replace(repr(name), "").replace(name, "").strip()
    return f"{name}: {why}"


class Memory:
    """Decoded images, packed into a few large arrays, so that forked workers share them all."""

    def __init__(self, pictures: Iterable[Image.Image | InputError], name: Callable[[int], str]) -> None:
        self.name = name
        self.faults: dict[int, str] = {}
        self.places: list[tuple[int, int, int, int]] = []  # array, first byte, height, width
        self.arrays: list[np.ndarray] = []
        block: list[np.ndarray] = []
        first = 0
        for i, image in enumerate(pictures):
            if isinstance(image, InputError):
                self.faults[i] = str(image)
                image = Image.new("RGB", (0, 0))
            if first >= ARRAY:
                self.arrays.append(np.concatenate(block))
                block, first = [], 0
            pixels = np.asarray(image).reshape(-1)
            self.places.append((len(self.arrays), first, image.height, image.width))
            block.append(pixels)
            first += len(pixels)
        if block:
            self.arrays.append(np.concatenate(block))

    def load(self, index: int) -> Image.Image:
        if index in self.faults:
            raise InputError(self.faults[index])
        array, first, height, width = self.places[index]
        pixels = self.arrays[array][first : first + 3 * height * width]
        return Image.fromarray(pixels.reshape(height, width, 3))

    def content(self, index: int) -> bytes:
        image = self.load(index)
        return repr(image.size).encode() + image.tobytes()


def in_memory(samples: Samples, threads: int | None = None) -> Samples:
    """The same samples, every image decoded now and kept: 3 bytes per pixel."""
    memory = Memory(decoded(samples, threads), samples.name)
    return replace(samples, source=memory, indices=torch.arange(len(samples)))
