"""How strongly a map repeats with the strides of the network that made it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, check_integer
from .checks import maps

CLEAR = 5  # frequencies from one multiple of the stride's to the next: then each has neighbours of its own


def checkerboard(attributions: Tensor, stride: int) -> Tensor:
    """How much energy maps have at the frequencies of a stride, against their neighbours: 1 is no pattern.

    attributions: (..., H, W). stride: pixels after which the pattern would repeat, such as the reduction of
    the network's last map: it holds the patterns of all smaller strides that divide it. The map is cut to
    multiples of the stride, and faded out at its border (Hann), so that its border is no pattern.
    Returns (...), at least 0: over all frequencies (i, j) / stride but (0, 0), the mean of the energy there
    divided by that of the sixteen frequencies around it at a distance of two; 0 for a map that is constant.
    White noise has 1.15, and 10 means that the pattern has ten times the energy of what lies beside it. The
    largest value over several strides favours a network that has fewer of them: compare stride by stride.

    Source of the pattern: Odena et al. 2016, "Deconvolution and Checkerboard Artifacts"; of its cause in
    networks, Zhang 2019, "Making Convolutional Networks Shift-Invariant Again".
    Raises InputError for a stride below 2, maps of fewer than five times the stride, and values that are not
    finite.

    ```python
    import torch
    from bcos_zoo.metrics import checkerboard

    smooth = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(smooth, (64, 64), mode="bicubic")[0]
    stripes = (torch.arange(64) % 4 == 0).expand(64, 64)
    assert checkerboard(smooth + 0.5 * stripes, 4) > 10 * checkerboard(smooth, 4)
    ```
    """
    check_integer("stride", stride, 2)
    values = maps("attributions", attributions)
    height, width = (side - side % stride for side in values.shape[-2:])
    if min(height, width) < CLEAR * stride:
        raise InputError(
            f"maps of {values.shape[-2]}x{values.shape[-1]} pixels and a stride of {stride}; allowed are "
            f"sides of at least {CLEAR} strides"
        )
    values = values[..., :height, :width].reshape(-1, 1, height, width)
    values = values / values.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    values = values - values.mean((-2, -1), keepdim=True)
    fade = [torch.hann_window(side, dtype=values.dtype, device=values.device) for side in (height, width)]
    energy = torch.fft.fft2(values * fade[0][:, None] * fade[1]).abs().square()
    near = F.avg_pool2d(F.pad(energy, (2, 2, 2, 2), mode="circular"), 5, 1) * 25
    nearest = F.avg_pool2d(F.pad(energy, (1, 1, 1, 1), mode="circular"), 3, 1) * 9
    around = (near - nearest).clamp_min(0) / 16
    at = [torch.arange(0, side, side // stride, device=values.device) for side in (height, width)]
    here, beside = (part[:, 0][:, at[0]][:, :, at[1]].flatten(1)[:, 1:] for part in (energy, around))
    floor = torch.finfo(values.dtype).eps ** 2 * energy.sum((-2, -1))  # rounding has energy everywhere
    ratio = torch.where(here > floor, here / beside.clamp_min(floor), 0.0)
    return ratio.nan_to_num(0.0).mean(1).reshape(attributions.shape[:-2])
