"""Depthwise convolutions of torch, with gradients that cost as much as they should on a CPU.

What they compute is torch's. Two of its gradients are slow there: that of the map where there is a stride
(with bfloat16 forty times the forward pass), and that of a large kernel in bfloat16 (three times that in
float32). `benchmarks/fast_ways.py` measures what that makes in a network.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._compat import convolve as _convolve
from ._switch import free, in_training_step, on

Pair = tuple[int, int]
SMALL = 9  # elements of a kernel whose gradient is fast in bfloat16, too


def conv2d(
    x: Tensor,
    weight: Tensor,
    stride: Pair,
    padding: Pair | str,
    dilation: Pair,
    groups: int,
    bias: Tensor | None = None,
) -> Tensor:
    """`torch.nn.functional.conv2d`.

    x: (N, K, H, W) or (K, H, W). weight: (out, K / groups, h, w). bias: (out,).
    """
    if isinstance(padding, str) or not differentiated(x, weight, groups):
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    if torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    y: Tensor = _Depthwise.apply(x, weight, bias, stride, padding, dilation)
    return y


def convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor) -> Tensor:
    """What `conv` makes of x, (..., K, H, W), with another weight and without a bias."""
    if conv.groups == 1 or conv.padding_mode != "zeros":
        return _convolve(conv, x, weight)
    plain: Any = conv  # whose stride and dilation are pairs
    return conv2d(x, weight, plain.stride, plain.padding, plain.dilation, conv.groups)


def differentiated(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether it is a depthwise convolution on a CPU whose gradient is going to be asked for, by backward."""
    if groups == 1 or not isinstance(x, Tensor) or x.ndim != 4 or x.device.type != "cpu":
        return False
    recorded = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if not (recorded and groups == len(weight) == x.shape[1] and on("depthwise")):
        return False
    return in_training_step() if torch.compiler.is_compiling() else free(x)


class _Depthwise(torch.autograd.Function):
    """(N, K, H, W), (K, 1, h, w), (K,) -> (N, K, H', W')."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, dilation
        return F.conv2d(x, weight, bias, stride, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.geometry
        of_map = of_weight = None
        with torch.autocast("cpu", enabled=False):
            if ctx.needs_input_grad[0]:
                of_map = _of_map(gradient, x, weight, stride, padding, dilation)
            if ctx.needs_input_grad[1]:
                wide = weight.dtype == torch.bfloat16 and weight[0].numel() > SMALL
                dtype = torch.float32 if wide else weight.dtype
                parts = (one.to(dtype) for one in (gradient, x, weight))
                _, of_weight, _ = torch.ops.aten.convolution_backward(
                    *parts, None, stride, padding, dilation, False, (0, 0), len(weight), (False, True, False)
                )
                of_weight = of_weight.to(weight.dtype)
        of_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return of_map, of_weight, of_bias, None, None, None


def _of_map(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """The gradient of the map: what the mirrored kernel makes of the output's, spread out to its stride."""
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[-2:], strict=True)]
    if stride != (1, 1):
        rows, columns = (size + 2 * p - r for size, p, r in zip(x.shape[-2:], padding, reach, strict=True))
        spread = gradient.new_zeros(len(gradient), rows, columns, len(weight)).permute(0, 3, 1, 2)
        spread[..., :: stride[0], :: stride[1]] = gradient
        gradient = spread
    margin = [r - p for r, p in zip(reach, padding, strict=True)]
    if min(margin) < 0:  # rows or columns that saw nothing but padding
        (above, left), margin = (min(size, 0) for size in margin), [max(size, 0) for size in margin]
        gradient = F.pad(gradient, (left, left, above, above))
    y: Tensor = F.conv2d(gradient, weight.flip(-1, -2), None, 1, margin, dilation, len(weight))
    return y
