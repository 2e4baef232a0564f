"""What loaders give, and how they are set."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import default_collate

Item = tuple[Tensor, Tensor, tuple[str, ...]]


class Batch(NamedTuple):
    """What a loader gives."""

    images: Tensor  # (N, 3, H, W) float32
    labels: Tensor  # (N,) int64, or (N, C) float32
    failed: list[str]  # 'name: why' of unreadable images; each is replaced by the next that is not


def collate(items: Sequence[Item]) -> Batch:
    """A batch of items."""
    images, labels, failed = zip(*items, strict=True)
    return Batch(
        default_collate(list(images)), default_collate(list(labels)), [why for one in failed for why in one]
    )


def settings(workers: int) -> dict[str, Any]:
    """Options of torch's loader, the same for all."""
    return {
        "num_workers": workers,
        "collate_fn": collate,
        "pin_memory": torch.cuda.is_available(),
        # A child of fork shares the images in memory; of the other ways each gets a copy.
        "multiprocessing_context": "fork" if workers and sys.platform == "linux" else None,
    }
