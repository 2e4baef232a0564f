"""The B-cos convolution and fully connected layer. They own the weights; the maths is in `functional`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from ..errors import InputError
from . import functional as BF
from .linear_mode import hold, is_linear, parameter

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
FEW = 4  # a row of weights so many times longer than what it gives is most of the work (measured)


def _check(b: float, max_out: int, scale: float) -> None:
    if not b >= 1:
        raise InputError(
            f"b={b}: a B-cos layer needs b >= 1; b=1 is a plain linear layer, b=2 the published choice"
        )
    if max_out < 1:
        raise InputError(f"max_out={max_out}: allowed are 1 (off) and more; 2 is the published v1 choice")
    if not scale > 0:
        raise InputError(f"scale={scale}: the output is divided by it, so it must be positive; 1 is off")


def _apply_bcos(linear: Tensor, norm: Callable[[], Tensor], b: float) -> Tensor:
    """linear * |cos|^(b-1), written over `linear` where no gradient is wanted."""
    if is_linear():
        return linear * hold(lambda: BF.bcos_scale(linear, norm(), b))
    length = norm()
    if not (linear.requires_grad or length.requires_grad):
        return BF.scale_(linear, length, b)
    return linear * BF.bcos_scale(linear, length, b)


def _divide(y: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return y
    return y / scale if y.requires_grad else y.div_(scale)


def _row_factors(weight: Tensor, gain: Tensor | None, b: float, normalize: bool) -> Tensor | None:
    """What each row of the weights is multiplied by; None if they are used as they are."""
    if normalize:
        return BF.unit_factors(weight, gain, b)
    return None if gain is None else BF.row_factors(gain, b)


def _scaled_rows(
    apply: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    weight: Tensor,
    factors: Tensor | None,
    outputs: int,
    dim: int,
) -> Tensor:
    """apply(weight), each row times its factor: before, or where it is less work, what the row gave after.

    outputs: how many values a row gives. dim: of the rows in what is given.
    In half precision always before, for a long row could overflow.
    """
    if factors is None:
        return apply(x, weight)
    narrow = x.element_size() < 4 or BF.autocasts(x)
    if narrow or outputs >= weight.numel() // len(weight):
        rows = factors.view(-1, *[1] * (weight.ndim - 1))
        return apply(x, (BF.at_least_float32(weight) * rows).to(weight.dtype))
    y = apply(x, weight)
    columns = factors.to(y.dtype).view(-1, *[1] * (-1 - dim))
    return y * columns if y.requires_grad or columns.requires_grad else y.mul_(columns)


@register_notrace_module
class BcosConv2d(nn.Module):
    """Convolution whose response to each patch is scaled by |cos(patch, w)|^(B-1).

    (N, in_channels, H, W) -> (N, out_channels, H', W'), or without N, as nn.Conv2d, without bias.
    Source: Boehle et al. 2022, the B-cos transform.

    in_channels .. padding_mode: as nn.Conv2d; the patch norm sees the same padded patch as the convolution,
    whatever the padding mode.
    b: the exponent B >= 1.
    max_out: linear units per output; the largest response of each group of this many answers (MaxOut).
    scale: the output is divided by it (the v1 networks; `functional.v1_scale`).
    normalize: use weight rows of unit norm; off for B-cosified networks, whose weights are used as they are.

    Raises InputError for b < 1, max_out < 1, scale <= 0, or groups that do not divide out_channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        padding_mode: PaddingMode = "zeros",
        b: float = 2.0,
        max_out: int = 1,
        scale: float = 1.0,
        normalize: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check(b, max_out, scale)
        if groups < 1 or out_channels % groups:  # nn.Conv2d would take some of these where max_out > 1
            raise InputError(f"out_channels={out_channels} do not split into groups={groups}; use a divisor")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.b, self.max_out, self.scale, self.normalize = b, max_out, scale, normalize
        self.linear = nn.Conv2d(
            in_channels, out_channels * max_out, kernel_size, stride, padding, dilation, groups,
            bias=False, padding_mode=padding_mode, device=device, dtype=dtype,
        )  # fmt: skip

    def forward(
        self,
        x: Tensor,
        gain: Tensor | None = None,
        *,
        input_gain: Tensor | None = None,
        energy: Tensor | None = None,
    ) -> Tensor:
        """See the class; the rest spares passes over x and the output.

        gain: (out_channels,) or (1,), multiplies the output; only if b is 1 or 2, and without MaxOut.
        input_gain: (in_channels,), multiplies x; only without groups and for kernels of one pixel, and with
        energy: (N, 1, H, W), the sum of squares of x so multiplied.
        """
        weight = parameter(self.linear.weight)
        factors = _row_factors(weight, gain, self.b, self.normalize)
        if input_gain is not None:
            weight = weight * input_gain.to(weight.dtype)[:, None, None]
        y = _scaled_rows(self._convolve, x, weight, factors, self._positions(x), dim=-3)
        y = BF.max_out(y, self.max_out, dim=-3)
        if self.b != 1:
            y = self._scale_by_cosine(y, x, energy)
        return _divide(y, self.scale)

    def _positions(self, x: Tensor) -> int:
        """About how many values each channel of the output has, all images together."""
        return x.numel() // x.shape[-3] // math.prod(self.linear.stride)

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        conv, dense = self.linear, torch.channels_last
        few = FEW * self._positions(x) < weight.numel() // len(weight)
        if not few or x.ndim != 4 or x.device.type != "cpu" or not x.is_contiguous(memory_format=dense):
            return conv._conv_forward(x, weight, None)
        # The convolution in channels last would first reorder its weights, and they are most of the work.
        if weight.shape[2:] == conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1:
            return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)
        return conv._conv_forward(x.contiguous(), weight, None).contiguous(memory_format=dense)

    def _scale_by_cosine(self, y: Tensor, x: Tensor, energy: Tensor | None) -> Tensor:
        groups = self.linear.groups

        def norm() -> Tensor:
            return self._patch_norm(x) if energy is None else (energy + BF.PATCH_EPS).sqrt()

        if groups in (1, self.out_channels):
            return _apply_bcos(y, norm, self.b)
        grouped = torch.unflatten(y, -3, (groups, -1))
        return _apply_bcos(grouped, lambda: norm().unsqueeze(-3), self.b).flatten(-4, -3)

    def _patch_norm(self, x: Tensor) -> Tensor:
        """sqrt(|patch|^2 + 1e-6), one patch an output position. (..., K, H, W) -> (..., groups, H', W')."""
        conv = self.linear
        energy = BF.channel_energy(x, conv.groups)
        padding = conv.padding
        if conv.padding_mode != "zeros" or isinstance(padding, str):
            # Padding copies or zeroes whole pixels, so it commutes with the sum over channels.
            mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
            energy, padding = F.pad(energy, conv._reversed_padding_repeated_twice, mode=mode), (0, 0)
        summed = BF.window_sum(energy, conv.kernel_size, conv.stride, padding, conv.dilation)
        return (summed + BF.PATCH_EPS).sqrt()

    def extra_repr(self) -> str:
        return f"b={self.b}, max_out={self.max_out}, scale={self.scale}, normalize={self.normalize}"


@register_notrace_module
class BcosLinear(nn.Module):
    """Fully connected layer whose response to each token is scaled by |cos(token, w)|^(B-1).

    (..., in_features) -> (..., out_features), without bias. Options and errors as in `BcosConv2d`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        b: float = 2.0,
        max_out: int = 1,
        scale: float = 1.0,
        normalize: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check(b, max_out, scale)
        self.in_features, self.out_features = in_features, out_features
        self.b, self.max_out, self.scale, self.normalize = b, max_out, scale, normalize
        self.linear = nn.Linear(in_features, out_features * max_out, bias=False, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        weight = parameter(self.linear.weight)
        factors = _row_factors(weight, None, self.b, self.normalize)
        outputs = x.numel() // self.in_features
        y = _scaled_rows(BF.linear, x, weight, factors, outputs, dim=-1)
        y = BF.max_out(y, self.max_out, dim=-1)
        if self.b != 1:
            y = _apply_bcos(y, lambda: BF.token_norm(x), self.b)
        return _divide(y, self.scale)

    def extra_repr(self) -> str:
        return f"b={self.b}, max_out={self.max_out}, scale={self.scale}, normalize={self.normalize}"
