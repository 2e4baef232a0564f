"""Averages over windows of a map, for smooth pictures and for measures of localisation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def smoothed(values: Tensor, window: int) -> Tensor:
    """(..., H, W), averaged over square windows of `window` pixels a side, with zeros outside the map.

    Even windows reach one pixel further right and down; windows of 0 and 1 change nothing.
    """
    if window <= 1:
        return values
    before, after = (window - 1) // 2, window // 2
    flat = F.pad(values.reshape(-1, 1, *values.shape[-2:]), (before, after, before, after))
    return F.avg_pool2d(flat, window, stride=1).reshape(values.shape)
