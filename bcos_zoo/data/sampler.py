"""Which samples make which batch: a function of seed, epoch and step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ..errors import InputError
from . import seeds

Key = tuple[int, int]  # the draw, unique to an epoch and a position in its order; the index of the sample


class SeededBatchSampler(Sampler[list[Key]]):
    """One process's share of every batch, as a torch batch sampler.

    An epoch has `steps` batches of `batch_size` images, over all processes; it leaves out what remains. A
    batch has `accumulate` pieces, whatever the number of processes; each process gets a part of each piece.
    batch_size: if above the number of images, cut down to the largest that divides among all pieces.
    weights: (length,), how often to draw each image, with replacement; without them each is drawn once.
    repeats: how many times in a row each image comes; the epoch does not get longer.
    Raises InputError for a batch_size that does not divide, and for fewer images than processes x pieces.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        accumulate: int = 1,
        weights: Tensor | None = None,
        repeats: int = 1,
    ) -> None:
        parts = processes * accumulate
        if length < parts:
            raise InputError(
                f"{length} training images do not divide among {processes} processes and {accumulate} pieces "
                "of a batch; give more images, or fewer of the others"
            )
        if batch_size % parts:
            raise InputError(
                f"batch_size={batch_size} does not divide by {processes} processes x {accumulate} pieces; "
                f"give a multiple of {parts}"
            )
        self.length, self.seed = length, seed
        self.rank, self.processes, self.accumulate = rank, processes, accumulate
        self.weights, self.repeats = weights, repeats
        self.batch_size = min(batch_size, length // parts * parts)
        self.piece = self.batch_size // parts
        self.steps = length // self.batch_size
        self.epoch = self.step = 0

    def set_position(self, epoch: int, step: int) -> None:
        """Set where the next iterations start. They run to the end of the epoch; the position stays."""
        self.epoch, self.step = epoch, step

    def order(self, epoch: int) -> Tensor:
        """(length,) indices of the samples, in the order of an epoch."""
        draw = seeds.generator(self.seed, epoch)
        if self.weights is not None:
            unique = -(-self.length // self.repeats)
            order = torch.multinomial(self.weights.double(), unique, replacement=True, generator=draw)
        else:
            order = torch.randperm(self.length, generator=draw)
        return order.repeat_interleave(self.repeats)[: self.length]

    def __len__(self) -> int:
        return max(0, self.steps - self.step) * self.accumulate

    def __iter__(self) -> Iterator[list[Key]]:
        order = self.order(self.epoch).tolist()
        before = self.epoch * self.length
        for step in range(self.step, self.steps):
            mine = step * self.batch_size + self.rank * self.piece
            for first in range(mine, mine + self.batch_size, self.piece * self.processes):
                yield [(before + place, order[place]) for place in range(first, first + self.piece)]
