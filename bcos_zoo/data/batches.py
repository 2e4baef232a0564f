"""What loaders yield, and torch's options for them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import default_collate

Item = tuple[Tensor | None, Tensor, tuple[str, ...]]  # None: an image that is left out


class Batch(NamedTuple):
    """What a loader yields at each step."""

    images: Tensor  # (N, 3, H, W) float32; (0,) if none of a measurement's could be read
    labels: Tensor  # (N,) int64, or (N, C) float32
    failed: list[str]  # 'name: why' of unreadable images: in training, the next readable one stands in
    read: list[bool]  # for each image that was asked for, in order, whether it is among `images`


def collate(items: Sequence[Item]) -> Batch:
    """Items stacked into a batch."""
    failed = [why for _, _, whys in items for why in whys]
    read = [image is not None for image, _, _ in items]
    kept = [(image, label) for image, label, _ in items if image is not None]
    if not kept:
        return Batch(torch.empty(0), items[0][1][None][:0], failed, read)
    images, labels = zip(*kept, strict=True)
    return Batch(default_collate(list(images)), default_collate(list(labels)), failed, read)


def settings(workers: int) -> dict[str, Any]:
    """Options for torch's DataLoader that all loaders share."""
    return {
        "num_workers": workers,
        "collate_fn": collate,
        "pin_memory": torch.cuda.is_available(),
        # A forked worker shares the images in memory; one started in another way gets a copy.
        "multiprocessing_context": "fork" if workers and sys.platform == "linux" else None,
    }
