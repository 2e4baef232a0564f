"""The two ends of a network: its encoding layer and its logit layer. Neither has weights."""

from __future__ import annotations

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from ..errors import InputError
from .functional import default_logit_bias, encode
from .linear_mode import add_constant, is_linear, record_encoded


@register_notrace_module
class Encode(nn.Module):
    """Append inverted colours; what it returns is the input of the linear map.

    (N, in_chans, H, W) in [0, 1] -> (N, 2 in_chans, H, W).
    Raises InputError for another rank or number of channels.
    """

    def __init__(self, in_chans: int = 3) -> None:
        super().__init__()
        if in_chans < 1:
            raise InputError(f"in_chans={in_chans}: an image has at least one channel; 3 is RGB, 1 is grey")
        self.in_chans = in_chans

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            encoded = x.ndim == 4 and x.shape[1] == 2 * self.in_chans
            hint = "; pass the plain image: the network adds the inverted colours itself" if encoded else ""
            raise InputError(
                f"got a tensor of shape {tuple(x.shape)}; allowed is (N, {self.in_chans}, H, W){hint}"
            )
        channels = encode(x)
        if x.device.type == "cpu" and (is_linear() or not torch.is_grad_enabled()):
            # Channels last: the convolutions and patch norms that follow are faster so and keep the layout.
            channels = channels.contiguous(memory_format=torch.channels_last)
        return record_encoded(channels)

    def extra_repr(self) -> str:
        return f"in_chans={self.in_chans}"


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
