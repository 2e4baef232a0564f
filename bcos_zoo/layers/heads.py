"""The two ends of a network: its encoding layer and its logit layer. Neither has weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from ..errors import InputError
from .functional import default_logit_bias, encode
from .linear_mode import add_constant, is_linear, record_encoded


@register_notrace_module
class Encode(nn.Module):
    """Append inverted colours: the input of the linear map. Then normalise it, in B-cosified networks.

    (N, in_chans, H, W) in [0, 1] -> (N, 2 in_chans, H, W).
    mean, std: of each channel, or none. An inverted channel has the mean 1 - mean and the same std, so that
    it comes out as its channel's negative. What the means subtract is a constant of the network, no part of
    its linear map.
    Raises InputError for another rank or number of channels, and for means and stds that do not fit.
    """

    def __init__(
        self, in_chans: int = 3, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        mean, std = check_statistics(in_chans, mean, std)
        self.mean, self.std = (*mean, *(1 - m for m in mean)), (*std, *std)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_chans, hint="the network adds the inverted colours itself")
        given = x
        if x.device.type == "cpu" and (is_linear() or not torch.is_grad_enabled()):
            # Channels last: the convolutions and patch norms that follow are faster so and keep the layout.
            x = x.contiguous(memory_format=torch.channels_last)
        return standardize(record_encoded(encode(x), given, self), self.mean, self.std)

    def extra_repr(self) -> str:
        return f"in_chans={self.in_chans}, mean={self.mean}, std={self.std}"


@register_notrace_module
class Normalize(nn.Module):
    """The first layer of a conventional network: (x - mean) / std. (N, in_chans, H, W) in [0, 1] -> the same.

    mean, std: of each channel. Raises InputError as `Encode` does.
    """

    def __init__(self, in_chans: int, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.mean, self.std = check_statistics(in_chans, mean, std)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_chans, hint="this network sees no inverted colours")
        return standardize(x, self.mean, self.std)

    def extra_repr(self) -> str:
        return f"in_chans={self.in_chans}, mean={self.mean}, std={self.std}"


def standardize(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x - mean) / std of each channel; nothing where both are empty."""
    if not std:
        return x
    scale = torch.tensor(std, device=x.device, dtype=x.dtype)[:, None, None].reciprocal()
    return add_constant(x * scale, -torch.tensor(mean, device=x.device, dtype=x.dtype)[:, None, None] * scale)


def check_channels(x: Tensor, in_chans: int, *, hint: str) -> None:
    """Raise InputError unless x is (N, in_chans, H, W)."""
    if x.ndim != 4 or x.shape[1] != in_chans:
        hint = f"; pass the plain image: {hint}" if x.ndim == 4 and x.shape[1] == 2 * in_chans else ""
        raise InputError(f"got a tensor of shape {tuple(x.shape)}; allowed is (N, {in_chans}, H, W){hint}")


def check_statistics(
    in_chans: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and stds, one a channel, or two empty tuples if there are none.

    The published ones are of red, green and blue. For another number of channels their averages serve all.
    """
    if in_chans < 1:
        raise InputError(f"in_chans={in_chans}: an image has at least one channel; 3 is RGB, 1 is grey")
    if mean is None and std is None:
        return (), ()
    if not mean or not std or len(mean) != len(std) or min(std) <= 0:
        raise InputError(f"mean={mean}, std={std}: give both, one positive std for each mean, or neither")
    if len(mean) != in_chans:
        mean, std = [sum(mean) / len(mean)] * in_chans, [sum(std) / len(std)] * in_chans
    return tuple(mean), tuple(std)


@register_notrace_module
class LogitLayer(nn.Module):
    """x / temperature + bias, with one constant bias for all classes.

    num_classes: sets the bias to -log(C-1) where none is given.
    bias: a number, 0 included; None for the default.
    temperature: a positive divisor; None leaves x as it is.

    Raises InputError for a temperature that is not positive.
    """

    def __init__(
        self, num_classes: int, *, bias: float | None = None, temperature: float | None = None
    ) -> None:
        super().__init__()
        if temperature is not None and not temperature > 0:
            raise InputError(
                f"temperature={temperature}: logits are divided by it, so it must be positive; None is off"
            )
        self.bias = default_logit_bias(num_classes) if bias is None else bias
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        if self.temperature is not None:
            x = x / self.temperature
        return add_constant(x, self.bias)

    def extra_repr(self) -> str:
        return f"bias={self.bias:.6g}, temperature={self.temperature}"
