"""The B-cos convolution and fully connected layer. They own the weights; the maths is in `functional`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._compat import padding_of
from ..errors import InputError
from . import _fast, adapters
from . import antialias as aa
from . import functional as BF
from ._switch import bare, free, layer
from .depthwise import convolve
from .linear_mode import hold, parameter

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


def _check(b: float, max_out: int, scale: float) -> None:
    if not b >= 1:
        raise InputError(
            f"b={b}: a B-cos layer needs b >= 1; b=1 is a plain linear layer, b=2 the published choice"
        )
    if max_out < 1:
        raise InputError(f"max_out={max_out}: allowed are 1 (off) and more; 2 is the published v1 choice")
    if not scale > 0:
        raise InputError(f"scale={scale}: the output is divided by it, so it must be positive; 1 is off")


@layer
class BcosConv2d(nn.Module):
    """Convolution whose response to each patch is scaled by |cos(patch, w)|^(B-1).

    (N, in_channels, H, W) -> (N, out_channels, H', W'), or without N, as nn.Conv2d, without bias.
    Source: Boehle et al. 2022, the B-cos transform.

    in_channels .. padding_mode: as nn.Conv2d; the patch norm sees the same padded patch as the convolution,
    whatever the padding mode.
    b: the exponent B >= 1.
    max_out: linear units per output, of which the largest response counts (MaxOut).
    scale: the output is divided by it (the v1 networks; `functional.v1_scale`).
    normalize: use weight rows of unit norm; off for B-cosified networks, whose weights are used as they are.
    antialias: "blur" for a blur ahead of a stride (`antialias.blur_for`), which is the module `blur`.

    Raises InputError for b < 1, max_out < 1, scale <= 0, groups that do not divide out_channels, and another
    antialias or a stride that has none.
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
        antialias: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check(b, max_out, scale)
        aa.check(antialias)
        if groups < 1 or out_channels % groups:  # nn.Conv2d would accept some of these if max_out > 1
            raise InputError(f"out_channels={out_channels} do not split into groups={groups}; use a divisor")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.b, self.max_out, self.scale, self.normalize = b, max_out, scale, normalize
        self.linear = nn.Conv2d(
            in_channels, out_channels * max_out, kernel_size, stride, padding, dilation, groups,
            bias=False, padding_mode=padding_mode, device=device, dtype=dtype,
        )  # fmt: skip
        self.blur = aa.blur_for(self.linear) if antialias else None

    @property
    def weight(self) -> Tensor:
        """The weight of the linear layer inside, which tools expect a classifier to have."""
        return self.linear.weight

    @property
    def bias(self) -> None:
        """None: the layer has no bias."""
        return None

    @property
    def in_features(self) -> int:
        """Input channels, under the name they have in a fully connected classifier."""
        return self.in_channels

    @property
    def out_features(self) -> int:
        """Output channels."""
        return self.out_channels

    def ahead(self, x: Tensor) -> Tensor:
        """The map that patches are taken from: x, or x blurred."""
        return x if self.blur is None else self.blur(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.ahead(x)
        if free(x) and bare(self.linear):
            return _fast.convolution(self, x)
        y = BF.max_out(self._respond(x), self.max_out, dim=-3)
        if self.b != 1:
            y = y * hold(lambda: BF.bcos_scale(y, self._norms(x), self.b))
        return BF.divided(y, self.scale)

    def _respond(self, x: Tensor) -> Tensor:
        """w_hat . patch, or w . patch if rows are not normalised: (..., out_channels * max_out, H', W')."""
        inner: Any = self.linear
        if _fast.skipped(inner, x):
            weight = parameter(inner.weight)
            return convolve(inner, x, BF.unit_rows(weight) if self.normalize else weight)
        y: Tensor = inner(x)
        return y * adapters.row_factors(inner, x, self.geometry)[:, None, None] if self.normalize else y

    def _norms(self, x: Tensor) -> Tensor:
        """`patch_norm` for each output channel, or one for all: (..., out_channels or 1, H', W')."""
        norms, each = self.patch_norm(x), self.out_channels // self.geometry.groups
        return norms if each in (1, self.out_channels) else norms.repeat_interleave(each, -3)

    @property
    def geometry(self) -> nn.Conv2d:
        """The convolution that gives kernel, stride, padding and groups, inside whatever adapter holds it."""
        inner: Any = self.linear
        return inner if isinstance(inner, nn.Conv2d) else adapters.adapted(inner, nn.Conv2d)

    def patch_norm(
        self,
        x: Tensor,
        energy_of: Callable[[Tensor, int], Tensor] = BF.channel_energy,
        sum_of: Callable[..., Tensor] = BF.window_sum,
    ) -> Tensor:
        """sqrt(|patch|^2 + 1e-6) at each output position. (..., K, H, W) -> (..., groups, H', W').

        x: what `ahead` gives.
        energy_of, sum_of: how the two sums are taken.
        """
        conv = self.geometry
        energy = energy_of(x, conv.groups)
        padding = conv.padding
        if conv.padding_mode != "zeros" or isinstance(padding, str):
            # Padding copies or zeroes whole pixels, so it commutes with the sum over channels.
            mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
            energy, padding = F.pad(energy, padding_of(conv), mode=mode), (0, 0)
        summed = sum_of(energy, conv.kernel_size, conv.stride, padding, conv.dilation)
        return (summed + BF.PATCH_EPS).sqrt()

    def extra_repr(self) -> str:
        return f"b={self.b}, max_out={self.max_out}, scale={self.scale}, normalize={self.normalize}"


@layer
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

    @property
    def weight(self) -> Tensor:
        """The weight of the linear layer inside, which tools expect a classifier to have."""
        return self.linear.weight

    @property
    def bias(self) -> None:
        """None: the layer has no bias."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        if free(x) and bare(self.linear):
            return _fast.fully_connected(self, x)
        y = BF.max_out(self._respond(x), self.max_out, dim=-1)
        if self.b != 1:
            y = y * hold(lambda: BF.bcos_scale(y, BF.token_norm(x), self.b))
        return BF.divided(y, self.scale)

    def _respond(self, x: Tensor) -> Tensor:
        inner: Any = self.linear
        if _fast.skipped(inner, x):
            weight = parameter(inner.weight)
            return F.linear(x, BF.unit_rows(weight) if self.normalize else weight)
        y: Tensor = inner(x)
        return y * adapters.row_factors(inner, x) if self.normalize else y

    def extra_repr(self) -> str:
        return f"b={self.b}, max_out={self.max_out}, scale={self.scale}, normalize={self.normalize}"
