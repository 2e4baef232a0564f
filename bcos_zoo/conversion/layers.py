"""The B-cos layers of converted networks: timm's own layers with a factor on their response, bias kept.

A layer keeps its class's parameters under their names, so that a state dict of the original fits, and its
attributes, which timm's code reads. With w . x its response to a patch or token x, w its weight row and
cos = w . x / (|w| |x|), it gives

    rows="plain":      (w . x) |cos|^(B-1) + bias        the original's layer at B = 1
    rows="unit":       (w . x / |w|) |cos|^(B-1) + bias  as B-cos networks trained from nothing
    rows="published":  (w . x) |w . x / |x||^(B-1) + bias  as published B-cosified networks

Sources: Boehle et al. 2022 (rows of unit norm); Arya et al. 2024 (weights as they are).
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from timm.layers import Conv2dSame, ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame, pad_same
from timm.layers import Linear as TimmLinear
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from .._compat import padding_of
from ..layers import add_constant, depthwise, hold, parameter
from ..layers import functional as BF
from ..layers._switch import layer

Rows = Literal["plain", "unit", "published"]
ROWS: tuple[Rows, ...] = ("plain", "unit", "published")


def response(y: Tensor, norm: Tensor, factors: Tensor, b: float, rows: Rows) -> Tensor:
    """The formula of a form of the layer, without bias.

    y: w . x. norm: |x|, stabilised. factors: 1 / |w|. Both are broadcastable to y. b: the exponent.
    """
    if rows == "unit":
        y = y * factors.to(y.dtype)
    if b == 1:
        return y
    inner = y * factors.to(y.dtype) if rows == "plain" else y
    return y * hold(lambda: BF.bcos_scale(inner, norm, b))


class BcosForm:
    """What the layers here have in common. `as_bcos` sets the attributes.

    b: the exponent, at least 1; it may be changed at any time, but an export wants one b of all layers.
    rows: one of `ROWS`.
    """

    b: float
    rows: Rows


class _Convolution(BcosForm):
    def forward(self: Any, x: Tensor) -> Tensor:
        if has_torch_function_unary(x):
            return handle_torch_function(respond, (x,), self, x)
        return respond(self, x)

    def extra_repr(self: Any) -> str:
        return f"{super().extra_repr()}, b={self.b}, rows={self.rows!r}"  # type: ignore[misc]


def respond(module: Any, x: Tensor) -> Tensor:
    """What a layer gives for its input; by name, for linear mode to know it."""
    y: Tensor = module.respond(x)
    return y


class _Conv2d(_Convolution):
    """(N, K, H, W) -> (N, out_channels, H', W')."""

    def respond(self: Any, x: Tensor) -> Tensor:
        weight = parameter(_row_weights(self))
        x, padding = _padded(self, x)
        y = depthwise.conv2d(x, weight, self.stride, padding, self.dilation, self.groups)
        if self.b != 1 or self.rows == "unit":
            factors = BF.unit_factors(weight)[:, None, None]
            norm = _patch_norm(self, x, padding) if self.b != 1 else y
            y = response(y, norm, factors, self.b, self.rows)
        return y if self.bias is None else add_constant(y, parameter(self.bias)[:, None, None])


def _padded(conv: Any, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """x, padded as the layer does unless its convolution can; and what is left to pad with zeros."""
    padding: Any = conv.padding
    if isinstance(conv, Conv2dSame) or getattr(conv, "same_pad", False):
        return pad_same(x, conv.kernel_size, conv.stride, conv.dilation), (0, 0)
    if conv.padding_mode == "zeros" and not isinstance(padding, str):
        return x, padding
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return F.pad(x, padding_of(conv), mode=mode), (0, 0)


def _row_weights(conv: Any) -> Tensor:
    """The weights that multiply patches: standardised ones, in timm's layers for that."""
    weight: Tensor = conv.weight
    if not isinstance(conv, (StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame)):
        return weight
    gain = (conv.gain * conv.scale).view(-1) if hasattr(conv, "gain") else None
    rows = weight.reshape(1, conv.out_channels, -1)
    return F.batch_norm(rows, None, None, gain, None, True, 0.0, conv.eps).reshape_as(weight)


def _patch_norm(conv: Any, x: Tensor, padding: tuple[int, int]) -> Tensor:
    """sqrt(|patch|^2 + 1e-6) for each output channel, or one for all. x: padded, but for `padding`."""
    energy = BF.channel_energy(x, conv.groups)
    summed = BF.window_sum(energy, conv.kernel_size, conv.stride, padding, conv.dilation)
    norms = (summed + BF.PATCH_EPS).sqrt()
    each = conv.out_channels // conv.groups
    return norms if each in (1, conv.out_channels) else norms.repeat_interleave(each, -3)


class _Linear(_Convolution):
    """(..., in_features) -> (..., out_features)."""

    def respond(self: Any, x: Tensor) -> Tensor:
        weight = parameter(self.weight)
        y = F.linear(x, weight)
        if self.b != 1 or self.rows == "unit":
            y = response(y, BF.token_norm(x), BF.unit_factors(weight), self.b, self.rows)
        return y if self.bias is None else add_constant(y, parameter(self.bias))


@layer
class BcosifiedConv2d(_Conv2d, nn.Conv2d):
    """nn.Conv2d as a B-cos layer; see the module."""


@layer
class BcosifiedConv2dSame(_Conv2d, Conv2dSame):  # type: ignore[misc]
    """timm's Conv2dSame as a B-cos layer: patches are padded as the image size demands."""


@layer
class BcosifiedStdConv2d(_Conv2d, StdConv2d):  # type: ignore[misc]
    """timm's StdConv2d as a B-cos layer, of standardised weights."""


@layer
class BcosifiedStdConv2dSame(_Conv2d, StdConv2dSame):  # type: ignore[misc]
    """timm's StdConv2dSame as a B-cos layer."""


@layer
class BcosifiedScaledStdConv2d(_Conv2d, ScaledStdConv2d):  # type: ignore[misc]
    """timm's ScaledStdConv2d as a B-cos layer, of standardised and scaled weights."""


@layer
class BcosifiedScaledStdConv2dSame(_Conv2d, ScaledStdConv2dSame):  # type: ignore[misc]
    """timm's ScaledStdConv2dSame as a B-cos layer."""


@layer
class BcosifiedLinear(_Linear, nn.Linear):
    """nn.Linear as a B-cos layer; see the module."""


class _Depthwise:
    """(N, K, H, W) -> (N, K, H', W')."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if not depthwise.differentiated(x, self.weight, self.groups):
            return super().forward(x)  # type: ignore[misc]
        x, padding = _padded(self, x)
        return depthwise.conv2d(x, self.weight, self.stride, padding, self.dilation, self.groups, self.bias)


@layer
class DepthwiseConv2d(_Depthwise, nn.Conv2d):
    """nn.Conv2d that is depthwise and stays linear; see `layers.depthwise`."""


@layer
class DepthwiseConv2dSame(_Depthwise, Conv2dSame):  # type: ignore[misc]
    """timm's Conv2dSame, the same."""


DEPTHWISE_OF: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: DepthwiseConv2d,
    Conv2dSame: DepthwiseConv2dSame,
}
BCOS_OF: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: BcosifiedConv2d,
    DepthwiseConv2d: BcosifiedConv2d,
    Conv2dSame: BcosifiedConv2dSame,
    DepthwiseConv2dSame: BcosifiedConv2dSame,
    StdConv2d: BcosifiedStdConv2d,
    StdConv2dSame: BcosifiedStdConv2dSame,
    ScaledStdConv2d: BcosifiedScaledStdConv2d,
    ScaledStdConv2dSame: BcosifiedScaledStdConv2dSame,
    nn.Linear: BcosifiedLinear,
    TimmLinear: BcosifiedLinear,
}


def as_bcos(module: nn.Module, *, b: float = 2.0, rows: Rows = "plain") -> nn.Module:
    """Make a layer of torch or timm a B-cos layer, in place; of classes not in `BCOS_OF` it is left alone.

    b: the exponent, at least 1. rows: the form, one of `ROWS`.

    ```python
    import torch
    from torch import nn

    from bcos_zoo.conversion import as_bcos

    layer, x = nn.Linear(8, 4), torch.rand(2, 8)
    plain = layer(x)
    assert torch.allclose(as_bcos(layer, b=1)(x), plain)
    ```
    """
    made = BCOS_OF.get(type(module), type(module))
    if issubclass(made, BcosForm):
        module.__class__ = made
        form: Any = module
        form.b, form.rows = b, rows
    return module
