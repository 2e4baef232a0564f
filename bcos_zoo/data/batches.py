"""What loaders yield, and torch's options for them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import default_collate

Item = tuple[Tensor, Tensor, tuple[str, ...]]


class Batch(NamedTuple):
    """What a loader yields at each step."""

    images: Tensor  # (N, 3, H, W) float32
    labels: Tensor  # (N,) int64, or (N, C) float32
    failed: list[str]  # 'name: why' of unreadable images; the next readable one stands in for each


def collate(items: Sequence[Item]) -> Batch:
    """Items stacked into a batch."""
    images, labels, failed = zip(*items, strict=True)
    return Batch(
        default_collate(list(images)), default_collate(list(labels)), [why for one in failed for why in one]
    )


def settings(workers: int) -> dict[str, Any]:
    """Options for torch's DataLoader that all loaders share."""
    return {
        "num_workers": workers,
        "collate_fn": collate,
        "pin_memory": torch.cuda.is_available(),
        # A forked worker shares the images in memory; one started in another way gets a copy.
        "multiprocessing_context": "fork" if workers and sys.platform == "linux" else None,
    }
