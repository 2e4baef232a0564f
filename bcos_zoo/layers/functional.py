"""The formulas, as pure functions. Boehle et al. 2022 (CVPR) and 2024 (TPAMI), "B-cos Networks".

B-cos(x; w) = |w_hat . x| * |cos(x, w)|^(B-1) * sgn(cos(x, w)) = (w_hat . x) * |cos(x, w)|^(B-1),  w_hat = w / |w|.

The stabilisers are those of the published networks, so that their numbers come out: 1e-6 inside the root of a patch
norm, 1e-12 added to a token norm, and 1e-6 added to |cos| where B is neither 1 nor 2.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH_EPS = 1e-6
TOKEN_EPS = 1e-12
COS_EPS = 1e-6


def encode(images: Tensor) -> Tensor:
    """Append inverted colours, so that black also carries signal and the direction of a pixel is its colour.

    images: (..., K, H, W), values in [0, 1], not normalised. Returns (..., 2K, H, W), for RGB [r, g, b, 1-r, 1-g, 1-b].
    Source: Boehle et al. 2022, section 3.4 (image encoding).
    """
    return torch.cat([images, 1 - images], dim=-3)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 if it is of half precision, else as it is: squares of halves overflow and underflow."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def unit_rows(weight: Tensor) -> Tensor:
    """Divide each row weight[i] by its L2 norm; an all-zero row stays zero.

    weight: (O, ...). Returns the same shape and dtype; the norm is taken in float32 at least.
    """
    norm = torch.linalg.vector_norm(at_least_float32(weight), dim=tuple(range(1, weight.ndim)), keepdim=True)
    return weight / torch.where(norm > 0, norm, 1).to(weight.dtype)


def max_out(y: Tensor, m: int, dim: int) -> Tensor:
    """Maximum over each group of m consecutive units of `dim` (Goodfellow et al. 2013), whose size shrinks m-fold."""
    dim = dim % y.ndim
    return y.unflatten(dim, (-1, m)).max(dim + 1).values if m > 1 else y


def bcos_scale(linear: Tensor, norm: Tensor, b: float) -> Tensor:
    """|cos(x, w)|^(b-1), the factor that B-cos puts on the linear response w_hat . x.

    linear: w_hat . x. norm: |x|, stabilised, broadcastable to `linear`. b >= 1. Returns the shape and dtype of
    `linear`; the arithmetic is done in the wider of the two dtypes.
    """
    if b == 2:
        size = linear.abs()
        return (size / norm).to(linear.dtype) if size.requires_grad else size.div_(norm)
    return (linear / norm).abs().add(COS_EPS).pow(b - 1).to(linear.dtype)


def token_norm(x: Tensor) -> Tensor:
    """L2 norm over the last dimension, kept, plus 1e-12. (..., D) -> (..., 1), in float32 at least."""
    return torch.linalg.vector_norm(at_least_float32(x), dim=-1, keepdim=True) + TOKEN_EPS


def channel_energy(x: Tensor, groups: int = 1) -> Tensor:
    """Sum of squares over the channels of each group. (N, K, H, W) -> (N, groups, H, W), in float32 at least."""
    x = at_least_float32(x)
    if groups == x.shape[1]:
        return x.square()
    dim = 1
    if groups > 1:
        x, dim = x.unflatten(1, (groups, -1)), 2
    if x.requires_grad:
        return x.square().sum(dim, keepdim=groups == 1)
    return torch.linalg.vector_norm(x, dim=dim, keepdim=groups == 1).square_()  # never materialises the squares


def window_sum(
    x: Tensor, kernel_size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> Tensor:
    """Sum over each window of a zero-padded map, channel by channel. (N, G, H, W) -> (N, G, H', W')."""
    if kernel_size == (1, 1):
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0])) if padding != (0, 0) else x
        return x[..., :: stride[0], :: stride[1]]
    if dilation == (1, 1):
        if 2 * padding[0] > kernel_size[0] or 2 * padding[1] > kernel_size[1]:  # avg_pool2d refuses these
            x, padding = F.pad(x, (padding[1], padding[1], padding[0], padding[0])), (0, 0)
        # Not divisor_override=1: the ONNX exporter drops it without a word.
        return F.avg_pool2d(x, kernel_size, stride, padding) * math.prod(kernel_size)
    ones = x.new_ones(x.shape[1], 1, *kernel_size)
    return F.conv2d(x, ones, None, stride, padding, dilation, groups=x.shape[1])


def v1_scale(kernel_size: int | tuple[int, int], in_channels: int, scale_factor: float = 100.0) -> float:
    """What the v1 ImageNet networks divide a layer's output by: kernel * sqrt(in_channels) / scale_factor.

    scale_factor: 100 for ResNet and DenseNet, 200 for Inception, 1000 for VGG.
    """
    kernel = kernel_size if isinstance(kernel_size, int) else math.sqrt(math.prod(kernel_size))
    return kernel * math.sqrt(in_channels) / scale_factor


def default_logit_bias(num_classes: int) -> float:
    """-log(C-1): with it an untrained network gives each of C classes a sigmoid probability near 1/C. 0 for C <= 2."""
    return -math.log(num_classes - 1) if num_classes > 2 else 0.0
