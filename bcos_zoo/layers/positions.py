"""Where a token stands in the image."""

from __future__ import annotations

import torch
from torch import Tensor


def sincos_positions(height: int, width: int, dim: int, like: Tensor) -> Tensor:
    """The fixed two-dimensional sine and cosine embedding: (height * width, dim), row-major.

    [sin x, cos x, sin y, cos y] of dim / 4 frequencies each, from 1 to 1/10000; dim must be divisible by 4.
    like: gives device and dtype. Computed in float32 whatever the dtype, as the published networks do.
    Source: Beyer et al. 2022, "Better plain ViT baselines for ImageNet-1k".

    ```python
    import torch

    from bcos_zoo.layers import sincos_positions

    assert sincos_positions(14, 14, 192, like=torch.zeros(1)).shape == (196, 192)
    ```
    """
    quarter = dim // 4
    frequency = 1 / 10_000 ** (torch.arange(quarter, device=like.device) / max(quarter - 1, 1))
    rows = torch.arange(height, device=like.device)[:, None] * frequency
    columns = torch.arange(width, device=like.device)[:, None] * frequency
    y = rows.repeat_interleave(width, 0)
    x = columns.repeat(height, 1)
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], 1).to(like.dtype)
