"""Blurring ahead of layers with a stride, which would otherwise take fine patterns for coarse ones.

Source: Zhang 2019, "Making Convolutional Networks Shift-Invariant Again". A blur is linear and has no
weights, so explanations stay exact, and checkpoints keep their names.
"""

from __future__ import annotations

from functools import reduce
from math import comb
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError

WAYS = (None, "blur")
TAPS = {2: 3, 3: 5, 4: 5}  # of the binomial filter for each stride: it should reach to the next position


class Blur(nn.Module):
    """A binomial filter over each channel, taken at every so many positions. It has no state, nor buffers.

    (..., K, H, W) -> (..., K, ceil(H / stride), ceil(W / stride)). Beyond the border the map goes on as its
    outermost pixels do, so a map of one pixel can be blurred, too.
    """

    def __init__(self, taps: int, stride: int) -> None:
        super().__init__()
        self.filt_size, self.stride = taps, stride

    def _row(self) -> list[float]:
        return [comb(self.filt_size - 1, k) / 2 ** (self.filt_size - 1) for k in range(self.filt_size)]

    def forward(self, x: Tensor) -> Tensor:
        batch = x if x.ndim == 4 else x[None]
        for dim in (2, 3):
            batch = _widened(batch, self.filt_size // 2, dim)
        y = self._summed(batch) if torch.compiler.is_dynamo_compiling() else self._convolved(batch)
        return y if x.ndim == 4 else y[0]

    def _convolved(self, x: Tensor) -> Tensor:
        row = x.new_tensor(self._row())
        weight = torch.outer(row, row).expand(x.shape[1], 1, self.filt_size, self.filt_size)
        return F.conv2d(x, weight, stride=self.stride, groups=x.shape[1])

    def _summed(self, x: Tensor) -> Tensor:
        """The same as sums of shifted maps, which a compiler joins to what stands around them.

        An antialiased ResNet-18 trains a sixth faster so (two cores, bfloat16); without a compiler it
        would be slower.
        """
        taps = self._row()
        for dim in (2, 3):
            length = x.shape[dim] - self.filt_size + 1
            shifted = [x.narrow(dim, k, length) for k in range(self.filt_size)]
            parts = [
                tap * (part[:, :, :: self.stride] if dim == 2 else part[..., :: self.stride])
                for tap, part in zip(taps, shifted, strict=True)
            ]
            x = reduce(torch.add, parts)
        return x

    def extra_repr(self) -> str:
        return f"taps={self.filt_size}, stride={self.stride}"


def check(way: str | None) -> None:
    """Raises InputError unless `way` is one of `WAYS`."""
    if way not in WAYS:
        raise InputError(f"antialias={way!r}: allowed are 'blur', and None for plain strides")


def blur_for(layer: nn.Conv2d | nn.AvgPool2d) -> Blur | None:
    """The blur ahead of a layer with a stride, which it takes over where maps keep their sizes; else None.

    A layer that pads its map by half its kernel then has stride 1, as published. Any other keeps its stride,
    and the blur has stride 1.

    Raises InputError for a stride that differs between the axes, or is larger than 4.
    """
    kernel, padding = _pair(layer.kernel_size), _pair(layer.padding)
    down, across = _pair(layer.stride)
    if down == across == 1:
        return None
    if not taps_for(layer):
        raise InputError(
            f"antialias='blur' with a stride of {down} x {across}; allowed are equal ones up to 4"
        )
    dilation = _pair(getattr(layer, "dilation", 1))
    same = all(2 * p == d * (k - 1) for p, d, k in zip(padding, dilation, kernel, strict=True))
    if not same:
        return Blur(TAPS[down], 1)
    layer.stride = (1, 1)
    return Blur(TAPS[down], down)


def taps_for(layer: Any) -> int:
    """Taps of the blur ahead of a layer, by its stride; 0 without one, or for one that no blur is for."""
    down, across = _pair(layer.stride)
    return TAPS.get(down, 0) if down == across else 0


def average_pool(
    kernel_size: int, stride: int, padding: int = 0, *, antialias: str | None = None
) -> nn.Module:
    """Average pooling, with a blur ahead if asked for. (N, K, H, W) -> (N, K, H', W')."""
    pool = nn.AvgPool2d(kernel_size, stride, padding)
    blur = blur_for(pool) if antialias else None
    return pool if blur is None else nn.Sequential(blur, pool)


def _widened(x: Tensor, margin: int, dim: int) -> Tensor:
    """A map whose outermost pixels go on for `margin` more, at both ends of an axis.

    As `F.pad(mode="replicate")` does, whose gradient torch.compile gets wrong in channels_last.
    """
    first, last = x.narrow(dim, 0, 1), x.narrow(dim, -1, 1)
    return torch.cat([first] * margin + [x] + [last] * margin, dim)


def _pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
