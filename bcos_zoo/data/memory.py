"""Sets of small images, decoded once and held in memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import images
from ..errors import InputError
from .folders import list_folder


@dataclass(frozen=True)
class ImageSet:
    """A labelled set held in memory."""

    images: Tensor  # (M, 3, H, W) uint8
    labels: Tensor  # (M,) int64, indices into class_names
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def load_in_memory(root: str | Path, size: int) -> ImageSet:
    """Decode a folder of size x size images once. Raises InputError for any other file in it."""
    paths, labels, names = list_folder(root)

    def decode(path: Path) -> np.ndarray:
        image = images.load_rgb(path)
        if image.size != (size, size):
            raise InputError(
                f"{path}: {image.width}x{image.height}; in-memory training takes {size}x{size} images only"
            )
        return np.asarray(image)

    with ThreadPoolExecutor() as pool:
        pixels = np.stack(list(pool.map(decode, paths)))
    return ImageSet(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels), names)


def shift_and_flip(batch: Tensor, shift: int) -> Tensor:
    """Move each image by up to `shift` pixels both ways, black coming in, and mirror half of them.

    batch: (N, 3, H, W), any dtype; returns a new tensor of that shape. Drawn from torch's global generator.
    """
    n, _, height, width = batch.shape
    flip = torch.rand(n) < 0.5
    padded = F.pad(batch, (shift, shift, shift, shift))
    dy, dx = torch.randint(0, 2 * shift + 1, (2, n, 1))
    columns = dx + torch.arange(width)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    rows = dy + torch.arange(height)
    image = torch.arange(n)[:, None, None]
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
