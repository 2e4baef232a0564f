"""Batches of images. Each depends on its keys alone, not on the workers or on earlier random draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import InputError
from . import seeds
from .augment import Transform
from .batches import Batch, Item, settings
from .sampler import Key, SeededBatchSampler
from .samples import Samples, fault, in_memory
from .stream import Stream, StreamLoader

TRIES = 100  # unreadable images in a row, after which the disk must be at fault


class Augmented(Dataset[Item]):
    """Samples through a transform, by key: a pure function of (seed, draw, index).

    For an image that cannot be read the next one that can be stands in.
    """

    def __init__(self, samples: Samples, transform: Transform, *, seed: int) -> None:
        self.samples, self.transform, self.seed = samples, transform, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> Item:
        with seeds.kept():
            return self._item(key)

    def __getitems__(self, keys: Sequence[Key]) -> list[Item]:
        with seeds.kept():  # once per batch: it takes longer than shifting a small image
            return [self._item(key) for key in keys]

    def _item(self, key: Key) -> Item:
        draw, first = key
        failed: list[str] = []
        for index in range(first, first + min(TRIES, len(self.samples))):
            index %= len(self.samples)
            try:
                image = self.samples.load(index)
            except InputError as error:
                failed.append(fault(self.samples.name(index), error))
                continue
            seeds.seed_all(self.seed, draw)
            return self.transform(image), self.samples.labels[index], tuple(failed)
        raise InputError(
            f"{len(failed)} images in a row cannot be read; check the disk. The first: {failed[0]}"
        )


class Measured(Augmented):
    """The same for a measurement, in which nothing may stand in: an image that cannot be read is left out."""

    def _item(self, key: Key) -> Item:
        draw, index = key
        try:
            image = self.samples.load(index)
        except InputError as error:
            return None, self.samples.labels[index], (fault(self.samples.name(index), error),)
        seeds.seed_all(self.seed, draw)
        return self.transform(image), self.samples.labels[index], ()


def train_loader(
    samples: Samples | Stream,
    transform: Transform,
    order: SeededBatchSampler,
    *,
    seed: int,
    workers: int = 0,
    cache: bool = False,
) -> Iterable[Batch]:
    """Batches of one epoch at a time, from where `order` stands: set its position before each iteration.

    cache: decode every image now, and keep it in memory.
    Raises InputError if a stream is to be cached.
    """
    if isinstance(samples, Stream):
        if cache:
            raise InputError(f"{samples.name} is a stream, which is not kept in memory: leave cache out")
        return StreamLoader(samples, transform, order, seed=seed, workers=workers)
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
) -> Iterable[Batch]:
    """Every image that can be read once, in order; the others are left out, and named in the batches.

    Each of several processes gets a contiguous part, which may be empty.
    """
    part = range(len(samples))[rank * len(samples) // processes : (rank + 1) * len(samples) // processes]
    samples = samples.select(list(part))
    samples = in_memory(samples) if cache else samples
    starts = range(0, len(samples), batch_size)
    keys = [[(i, i) for i in range(s, min(s + batch_size, len(samples)))] for s in starts]
    return _loader(Measured(samples, transform, seed=0), keys, workers)


def _loader(dataset: Augmented, keys: Iterable[list[Key]], workers: int) -> DataLoader[Any]:
    own = torch.Generator()  # otherwise each iteration would draw from the caller's
    return DataLoader(dataset, batch_sampler=keys, generator=own, **settings(workers))
