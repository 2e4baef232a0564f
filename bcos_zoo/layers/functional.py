"""The formulas, as pure functions.

B-cos(x; w) = |w_hat . x| * |cos(x, w)|^(B-1) * sgn(cos(x, w)) = (w_hat . x) * |cos(x, w)|^(B-1)
with w_hat = w / |w|.

Sources: Boehle et al. 2022, "B-cos Networks: Alignment is All We Need for Interpretability"; and
Boehle et al. 2024, "B-cos Alignment for Inherently Interpretable CNNs and Vision Transformers".

The stabilisers are those of the published networks, to reproduce their numbers: 1e-6 inside the root of a
patch norm, 1e-12 added to a token norm, and 1e-6 added to |cos| where B is neither 1 nor 2.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH_EPS = 1e-6
TOKEN_EPS = 1e-12
COS_EPS = 1e-6


def encode(images: Tensor) -> Tensor:
    """Append inverted colours, so that black also carries signal and the direction of a pixel is its colour.

    images: (..., K, H, W), values in [0, 1], not normalised.
    Returns (..., 2K, H, W), for RGB [r, g, b, 1-r, 1-g, 1-b]. Source: Boehle et al. 2022.

    ```python
    import torch

    from bcos_zoo.layers import encode

    black = encode(torch.zeros(1, 3, 8, 8))
    assert black.shape == (1, 6, 8, 8) and black[:, 3:].eq(1).all()
    ```
    """
    return torch.cat([images, 1 - images], dim=-3)


def at_least_float32(x: Tensor) -> Tensor:
    """`x`, in float32 if it was of half precision, in which squares overflow and underflow."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Autocast off for the device of x: sums of squares overflow in half precision."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def narrow(x: Tensor) -> bool:
    """Whether products with x are computed in half precision, because of its dtype or of autocast."""
    kind = x.device.type
    autocasts = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return x.dtype in (torch.float16, torch.bfloat16) or autocasts


def unit_factors(weight: Tensor) -> Tensor:
    """(O,): one over the L2 norm of each row weight[i], float32 at least; 1 for an all-zero row."""
    norm = torch.linalg.vector_norm(at_least_float32(weight).flatten(1), dim=1)
    return (norm + (norm == 0)).reciprocal()


def unit_rows(weight: Tensor) -> Tensor:
    """Divide each row weight[i] by its L2 norm; an all-zero row stays zero.

    weight: (O, ...). Returns the same shape and dtype; the arithmetic is done in float32 at least.
    """
    factors = unit_factors(weight).view(-1, *[1] * (weight.ndim - 1))
    return (at_least_float32(weight) * factors).to(weight.dtype)


def row_factors(gain: Tensor, b: float) -> Tensor:
    """Factors of the weight rows that multiply a B-cos layer's output by `gain`.

    gain: (O,) or (1,), of either sign.
    The layer computes f(w) = (w . x) |w . x / norm(x)|^(b-1). A factor s on the row w gives
    f(s w) = s |s|^(b-1) f(w) = sgn(s) |s|^b f(w). That is gain * f(w) for s = sgn(gain) |gain|^(1/b).
    Exact for b = 1 and b = 2 only: for any other b, a stabiliser is added to the cosine.
    """
    return gain.abs().pow(1 / b) * gain.sign()


def max_out(y: Tensor, m: int, dim: int) -> Tensor:
    """Maximum over each group of m consecutive units of `dim`. Goodfellow et al. 2013, "Maxout Networks"."""
    if m == 1:
        return y
    dim = dim % y.ndim
    return torch.unflatten(y, dim, (-1, m)).max(dim + 1).values


def divided(y: Tensor, scale: float) -> Tensor:
    """y / scale; y itself where the scale is 1."""
    return y if scale == 1 else y / scale


def bcos_scale(linear: Tensor, norm: Tensor, b: float) -> Tensor:
    """|cos(x, w)|^(b-1), the factor that B-cos puts on the linear response w_hat . x.

    linear: w_hat . x.
    norm: |x|, stabilised, broadcastable to `linear`.
    b: the exponent B >= 1.
    Returns the shape and dtype of `linear`; the arithmetic is done in the wider of the two dtypes.
    """
    size = (linear * norm.reciprocal()).abs()
    return (size if b == 2 else (size + COS_EPS).pow(b - 1)).to(linear.dtype)


def token_norm(x: Tensor) -> Tensor:
    """L2 norm over the last dimension, kept, plus 1e-12. (..., D) -> (..., 1), in float32 at least."""
    norm: Tensor = torch.linalg.vector_norm(at_least_float32(x), dim=-1, keepdim=True)
    return norm + TOKEN_EPS


def channel_energy(x: Tensor, groups: int = 1) -> Tensor:
    """Sum of squares over each group's channels, float32 at least. (..., K, H, W) -> (..., groups, H, W)."""
    squares = at_least_float32(x).square()
    if groups == 1:
        return squares.sum(-3, keepdim=True)
    return squares if groups == x.shape[-3] else torch.unflatten(squares, -3, (groups, -1)).sum(-3)


def window_sum(
    x: Tensor,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Tensor:
    """Sum over each window of a zero-padded map, channel by channel. (..., G, H, W) -> (..., G, H', W').

    kernel_size .. dilation: pairs, for rows and columns.
    """
    pooled = dilation == (1, 1) and kernel_size != (1, 1)
    small = all(2 * p <= k for p, k in zip(padding, kernel_size, strict=True))  # else avg_pool2d refuses
    if padding != (0, 0) and not (pooled and small):
        x, padding = F.pad(x, (padding[1], padding[1], padding[0], padding[0])), (0, 0)
    if pooled:  # not divisor_override=1: the ONNX exporter silently drops it
        return F.avg_pool2d(x, kernel_size, stride, padding) * math.prod(kernel_size)
    if kernel_size == (1, 1):
        return x[..., :: stride[0], :: stride[1]]
    # Not a convolution with ones: autocast would run it in half precision, where energies overflow.
    for dim, size, step, gap in zip((-2, -1), kernel_size, stride, dilation, strict=True):
        x = x.unfold(dim, gap * (size - 1) + 1, step)[..., ::gap].sum(-1)
    return x


def v1_scale(kernel_size: int | tuple[int, int], in_channels: int, scale_factor: float = 100.0) -> float:
    """What the v1 ImageNet networks divide a layer's output by: kernel * sqrt(in_channels) / scale_factor.

    scale_factor: 100 for ResNet and DenseNet, 200 for Inception, 1000 for VGG.

    ```python
    from bcos_zoo.layers import v1_scale

    assert v1_scale(3, 64) == 3 * 8 / 100
    ```
    """
    kernel = kernel_size if isinstance(kernel_size, int) else math.sqrt(math.prod(kernel_size))
    return kernel * math.sqrt(in_channels) / scale_factor


def default_logit_bias(num_classes: int) -> float:
    """-log(C-1): a network that knows nothing then gives each of C classes probability 1/C. 0 for C <= 2.

    ```python
    import torch

    from bcos_zoo.layers import default_logit_bias

    assert abs(torch.tensor(default_logit_bias(10)).sigmoid() - 0.1) < 1e-6
    ```
    """
    return -math.log(num_classes - 1) if num_classes > 2 else 0.0
