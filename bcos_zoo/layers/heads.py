"""The two ends of a network: its encoding layer and its logit layer. Neither has weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ._fast import chain, channels_last
from ._switch import layer
from .functional import default_logit_bias, encode
from .linear_mode import add_constant, is_linear, record_encoded


class Standardize(nn.Module):
    """(x - mean) / std of each channel; the identity if both are empty.

    Its tensors are buffers that no state dict holds. They are made anew from the numbers whenever the module
    changes its device or dtype, so that no rounding of an earlier dtype remains, and none stays empty when
    the module leaves the meta device.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    factor: Tensor | None
    offset: Tensor | None

    def hold_statistics(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the buffers. mean, std: one number per channel each, or both empty."""
        self.mean, self.std = mean, std
        like = torch.empty(0, device=device, dtype=dtype)
        factor, offset = self._made(like) if std else (None, None)
        self.register_buffer("factor", factor, persistent=False)
        self.register_buffer("offset", offset, persistent=False)

    def _made(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(K, 1, 1) each: what multiplies a channel, and what is then added. like: gives dtype and device."""
        options: Any = dict(dtype=like.dtype, device=like.device)
        factor = torch.tensor(self.std, **options)[:, None, None].reciprocal()
        return factor, -torch.tensor(self.mean, **options)[:, None, None] * factor

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        if self.factor is not None:
            self.factor, self.offset = self._made(self.factor)
        return self

    def init_non_persistent_buffers(self) -> None:
        """Make the buffers, which no file holds, anew: transformers calls this after building on meta."""
        if self.factor is not None:
            self.factor, self.offset = self._made(self.factor)

    def standardize(self, x: Tensor, one: Tensor | None = None) -> Tensor:
        """(..., K, H, W) -> the same. one: ones that are linear in the image; then so is what is added."""
        if self.factor is None or self.offset is None:
            return x
        factor, offset = self.factor, self.offset
        if factor.device != x.device or factor.dtype != x.dtype:  # as when weights were assigned to a
            factor, offset = self._made(x)  # network on the meta device
        return add_constant(x * factor, offset) if one is None else x * factor + one * offset


@layer
class Encode(Standardize):
    """Append inverted colours: the input of the linear map. B-cosified networks then normalise it.

    (N, in_chans, H, W) in [0, 1] -> (N, 2 in_chans, H, W).
    mean, std: of each channel, or none. An inverted channel has the mean 1 - mean and the same std, so it
    becomes the negative of its channel. What the means subtract is a constant of the network, not part of its
    linear map; unless it is `carried` by the image: since x + (1 - x) = 1, x - mean is also
    (1 - mean) x - mean (1 - x), which is linear in the encoded image.
    Raises InputError for any other rank or number of channels, and for means and stds that do not fit.
    """

    def __init__(
        self,
        in_chans: int = 3,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        carried: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_chans, self.carried = in_chans, carried
        mean, std = check_statistics(in_chans, mean, std)
        self.hold_statistics((*mean, *(1 - m for m in mean)), (*std, *std), device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_chans, hint="the network adds the inverted colours itself")
        encoded = record_encoded(encode(channels_last(x)), x, self)
        carries = self.carried and is_linear()  # outside linear mode it only rounds otherwise
        return self.standardize(encoded, encoded + encoded.roll(self.in_chans, -3) if carries else None)

    def extra_repr(self) -> str:
        return f"in_chans={self.in_chans}, mean={self.mean}, std={self.std}"


@layer
class Normalize(Standardize):
    """The first layer of a conventional network: (x - mean) / std. (N, in_chans, H, W) in [0, 1] -> the same.

    mean, std: of each channel. Raises InputError as `Encode` does.
    """

    def __init__(
        self,
        in_chans: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.hold_statistics(*check_statistics(in_chans, mean, std), device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_chans, hint="this network sees no inverted colours")
        return self.standardize(x)

    def extra_repr(self) -> str:
        return f"in_chans={self.in_chans}, mean={self.mean}, std={self.std}"


def check_channels(x: Tensor, in_chans: int, *, hint: str) -> None:
    """Raise InputError unless x is (N, in_chans, H, W), of floats."""
    if not isinstance(x, Tensor):
        raise InputError(
            f"got a {type(x).__name__}; a network takes a tensor (N, {in_chans}, H, W) in [0, 1]: "
            "bcos_zoo.load(...) takes files, pictures and arrays"
        )
    if x.ndim != 4 or x.shape[1] != in_chans:
        if x.ndim == 4 and x.shape[1] == 2 * in_chans:
            hint = f"; pass the plain image: {hint}"
        elif x.ndim == 4 and x.shape[-1] == in_chans:
            hint = "; channels come second: x.permute(0, 3, 1, 2)"
        else:
            hint = "; add the batch axis with x[None]" if x.ndim == 3 and len(x) == in_chans else ""
        raise InputError(f"got a tensor of shape {tuple(x.shape)}; allowed is (N, {in_chans}, H, W){hint}")
    if not x.is_floating_point():
        raise InputError(f"got {x.dtype} images; allowed are floats in [0, 1]: divide 8-bit values by 255")


def check_statistics(
    in_chans: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and stds, one per channel, or two empty tuples if there are none.

    The published ones are for red, green and blue; with any other number, each channel gets their average.
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


class Head(nn.Sequential):
    """The modules from features to class maps, with dropout before the last of them, the classifier."""

    def forward(self, x: Tensor, drop_rate: float = 0.0) -> Tensor:
        *first, classifier = self
        x = F.dropout(chain(first, x), p=drop_rate, training=self.training)
        y: Tensor = classifier(x)
        return y


@layer
class LogitLayer(nn.Module):
    """x / temperature + bias, with one constant bias for all classes.

    num_classes: sets the bias to -log(C-1) if none is given.
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
