"""A convolution and what multiplies its output, as one where that is exact."""

from __future__ import annotations

from collections.abc import Iterable

import torch.fx
from torch import Tensor, nn

from .bcos import BcosConv2d
from .linear_mode import parameter
from .norms import BatchNorm2d


def conv_norm(conv: nn.Module, norm: nn.Module, x: Tensor, **options: Tensor) -> Tensor:
    """`norm(conv(x, **options))`, without a pass for a norm that multiplies each channel by a fixed factor.

    Uncentred batch norm in eval mode does, and a B-cos convolution with b of 1 or 2 takes the factor into
    its weights. The two are called one after the other where a gradient reaches the norm, where somebody
    hooked one of them, and while the network is traced.
    """
    gain = fixed_gain(norm, x)
    if gain is not None and _folds(conv, x):
        folded: Tensor = conv(x, gain, **options)
        return folded
    y: Tensor = norm(conv(x, **options))
    return y


def conv_gain(conv: nn.Module, gain: Tensor, x: Tensor) -> Tensor:
    """`gain * conv(x)`, the factor of each channel taken into the weights where `conv_norm` would do so.

    gain: (out_channels, 1, 1).
    """
    gain = parameter(gain)
    if _folds(conv, x) and not gain.requires_grad:
        folded: Tensor = conv(x, gain.flatten())
        return folded
    y: Tensor = conv(x) * gain
    return y


def fixed_gain(norm: nn.Module, x: Tensor) -> Tensor | None:
    """The factor of each channel, if all that `norm` does to x is multiply by it; or else None."""
    if isinstance(x, torch.fx.Proxy) or not isinstance(norm, BatchNorm2d) or hooked(norm):
        return None
    if norm.training or norm.centered or norm.running_var is None:
        return None
    gain = norm.gain()
    return None if gain.requires_grad else gain


def hooked(module: nn.Module) -> bool:
    """Whether somebody wants to see what goes in or comes out."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _folds(conv: nn.Module, x: Tensor) -> bool:
    """Whether a factor on the output of `conv` may go into its weights."""
    if not isinstance(conv, BcosConv2d) or isinstance(x, torch.fx.Proxy) or hooked(conv):
        return False
    return conv.b in (1, 2) and conv.max_out == 1


def chain(modules: Iterable[nn.Module], x: Tensor) -> Tensor:
    """The modules one after the other, each convolution and a norm behind it by `conv_norm`."""
    waiting: nn.Module | None = None
    for module in modules:
        if waiting is not None and isinstance(module, BatchNorm2d):
            x, waiting = conv_norm(waiting, module, x), None
            continue
        if waiting is not None:
            x = waiting(x)
        if isinstance(module, BcosConv2d):
            waiting = module
        else:
            x, waiting = module(x), None
    return x if waiting is None else waiting(x)
