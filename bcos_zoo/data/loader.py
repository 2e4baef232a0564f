"""Batches of images. Each is a function of its keys: neither workers nor what was drawn before matter."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ..errors import InputError
from . import seeds
from .augment import Transform
from .order import Key, Order
from .samples import Samples, in_memory

TRIES = 100  # unreadable images in a row, after which the disk must be at fault
Item = tuple[Tensor, Tensor, tuple[str, ...]]


class Batch(NamedTuple):
    """What a loader gives."""

    images: Tensor  # (N, 3, H, W) float32
    labels: Tensor  # (N,) int64, or (N, C) float32
    failed: list[str]  # why images could not be read; each is replaced by the next one that can


class Augmented(Dataset[Item]):
    """Samples through a transform, by key: a pure function of (seed, draw, index)."""

    def __init__(self, samples: Samples, transform: Transform, *, seed: int) -> None:
        self.samples, self.transform, self.seed = samples, transform, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> Item:
        with seeds.kept():
            return self._item(key)

    def __getitems__(self, keys: Sequence[Key]) -> list[Item]:
        with seeds.kept():  # once a batch: it costs more than moving a small image
            return [self._item(key) for key in keys]

    def _item(self, key: Key) -> Item:
        draw, first = key
        failed: list[str] = []
        for index in range(first, first + min(TRIES, len(self.samples))):
            index %= len(self.samples)
            try:
                image = self.samples.load(index)
            except InputError as error:
                failed.append(str(error))
                continue
            seeds.seed_all(self.seed, draw)
            return self.transform(image), self.samples.labels[index], tuple(failed)
        raise InputError(
            f"{len(failed)} images in a row cannot be read; check the disk. The first: {failed[0]}"
        )


def collate(items: Sequence[Item]) -> Batch:
    """A batch of items."""
    images, labels, failed = zip(*items, strict=True)
    return Batch(
        default_collate(list(images)), default_collate(list(labels)), [why for one in failed for why in one]
    )


def train_loader(
    samples: Samples, transform: Transform, order: Order, *, seed: int, workers: int = 0, cache: bool = False
) -> DataLoader[Any]:
    """Batches of one epoch at a time, from where `order` stands: set its position before each iteration.

    cache: decode every image now, and keep it in memory.
    """
    samples = in_memory(samples) if cache else samples
    return _loader(Augmented(samples, transform, seed=seed), order, workers)


def val_loader(
    samples: Samples,
    transform: Transform,
    batch_size: int,
    *,
    rank: int = 0,
    processes: int = 1,
    workers: int = 0,
    cache: bool = False,
) -> DataLoader[Any]:
    """Every image once, in order; of several processes each gets a contiguous part, maybe none."""
    part = range(len(samples))[rank * len(samples) // processes : (rank + 1) * len(samples) // processes]
    samples = samples.select(list(part))
    samples = in_memory(samples) if cache else samples
    starts = range(0, len(samples), batch_size)
    keys = [[(i, i) for i in range(s, min(s + batch_size, len(samples)))] for s in starts]
    return _loader(Augmented(samples, transform, seed=0), keys, workers)


def _loader(dataset: Augmented, keys: Iterable[list[Key]], workers: int) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, or each iteration would draw from the caller's
        # A child of fork shares the images in memory; of the other ways each gets a copy.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )
