"""The formulas, as pure functions.

B-cos(x; w) = |w_hat . x| * |cos(x, w)|^(B-1) * sgn(cos(x, w)) = (w_hat . x) * |cos(x, w)|^(B-1)
with w_hat = w / |w|.

Sources: Boehle et al. 2022, "B-cos Networks: Alignment is All We Need for Interpretability"; and
Boehle et al. 2024, "B-cos Alignment for Inherently Interpretable CNNs and Vision Transformers".

The stabilisers are those of the published networks, so that their numbers come out: 1e-6 inside the root of a
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
CACHED = 600_000  # values: so many at a time, what is in between stays in a processor's cache
PIXELS = 128  # tokens: so many are worth going through a convolution
SEPARATED = 5  # pixels: windows of that size are summed along columns, then along rows


def encode(images: Tensor) -> Tensor:
    """Append inverted colours, so that black also carries signal and the direction of a pixel is its colour.

    images: (..., K, H, W), values in [0, 1], not normalised.
    Returns (..., 2K, H, W), for RGB [r, g, b, 1-r, 1-g, 1-b]. Source: Boehle et al. 2022.
    """
    return torch.cat([images, 1 - images], dim=-3)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 if it is of half precision, else as it is: squares of halves overflow and underflow."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Autocast off for the device of x: sums of squares overflow in half precision."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on for the device of x."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _recorded() -> bool:
    """Whether a graph is being compiled, exported or traced: a loop over images would fix the batch size."""
    return torch.compiler.is_compiling() or torch._C._is_tracing()


def unit_rows(weight: Tensor, gain: Tensor | None = None, b: float = 1.0) -> Tensor:
    """Divide each row weight[i] by its L2 norm; an all-zero row stays zero.

    weight: (O, ...). Returns the same shape and dtype; the arithmetic is done in float32 at least.
    gain, b: as in `row_factors`, in the same pass over the weights.
    """
    factors = unit_factors(weight, gain, b)
    return (at_least_float32(weight) * factors.view(-1, *[1] * (weight.ndim - 1))).to(weight.dtype)


def unit_factors(weight: Tensor, gain: Tensor | None = None, b: float = 1.0) -> Tensor:
    """(O,): what `unit_rows` multiplies each row by, or just as well what the row gives. Float32 at least."""
    norm = torch.linalg.vector_norm(at_least_float32(weight).flatten(1), dim=1)
    factors = (norm + (norm == 0)).reciprocal()
    return factors if gain is None else factors * row_factors(gain, b)


def row_factors(gain: Tensor, b: float) -> Tensor:
    """Factors of weight rows that multiply a B-cos layer's output by `gain`, its patch norm left as it is.

    gain: (O,) or (1,), of either sign. The response is of degree b in the weights, so a row takes
    sgn(gain) |gain|^(1/b); exact for b = 1 and b = 2, where no stabiliser is added to the cosine.
    """
    return torch.copysign(gain.abs().pow(1 / b), gain)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """`F.linear(x, weight)`. (..., K), (O, K) -> (..., O).

    Where no gradient is wanted, many tokens are taken as pixels of a 1x1 convolution: on an AMD processor the
    matrix products of oneDNN took 8 to 15 % less time than those of MKL, which `F.linear` calls.
    """
    tokens = x.numel() // max(x.shape[-1], 1)
    plain = torch.is_grad_enabled() or _recorded() or x.dtype != torch.float32 or x.device.type != "cpu"
    if plain or tokens < PIXELS or not torch._C._has_mkldnn:
        return F.linear(x, weight)
    pixels = x.reshape(1, tokens, 1, -1).permute(0, 3, 1, 2)  # channels last
    return F.conv2d(pixels, weight[:, :, None, None]).permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def max_out(y: Tensor, m: int, dim: int) -> Tensor:
    """Maximum over each group of m consecutive units of `dim`. Goodfellow et al. 2013, "Maxout Networks"."""
    if m == 1:
        return y
    dim = dim % y.ndim
    grouped = torch.unflatten(y, dim, (-1, m))
    return grouped.max(dim + 1).values if y.requires_grad else grouped.amax(dim + 1)  # amax keeps no indices


def bcos_scale(linear: Tensor, norm: Tensor, b: float) -> Tensor:
    """|cos(x, w)|^(b-1), the factor that B-cos puts on the linear response w_hat . x.

    linear: w_hat . x.
    norm: |x|, stabilised, broadcastable to `linear`.
    b: the exponent B >= 1.
    Returns the shape and dtype of `linear`; the arithmetic is done in the wider of the two dtypes.
    """
    cosine = linear * norm.reciprocal()
    size = cosine.abs() if cosine.requires_grad else cosine.abs_()
    return (size if b == 2 else size.add(COS_EPS).pow(b - 1)).to(linear.dtype)


def scale_(linear: Tensor, norm: Tensor, b: float) -> Tensor:
    """`linear *= bcos_scale(linear, norm, b)`, written over `linear`, for passes that want no gradient."""
    step = max(1, CACHED // max(linear[:1].numel(), 1))
    batched = linear.ndim > 2 and len(norm) == len(linear) > step
    if linear.device.type != "cpu" or not batched or _recorded():
        return linear.mul_(bcos_scale(linear, norm, b))
    for some, their_norm in zip(torch.split(linear, step), torch.split(norm, step), strict=True):
        some.mul_(bcos_scale(some, their_norm, b))
    return linear


def token_norm(x: Tensor) -> Tensor:
    """L2 norm over the last dimension, kept, plus 1e-12. (..., D) -> (..., 1), in float32 at least."""
    norm: Tensor = torch.linalg.vector_norm(at_least_float32(x), dim=-1, keepdim=True)
    return norm + TOKEN_EPS


def channel_energy(x: Tensor, groups: int = 1) -> Tensor:
    """Sum of squares over each group's channels, float32 at least. (..., K, H, W) -> (..., groups, H, W)."""
    if groups == x.shape[-3]:
        return at_least_float32(x).square()
    grouped = torch.unflatten(x, -3, (groups, -1))
    if (x.requires_grad and torch.is_grad_enabled()) or _recorded() or x.numel() == 0:
        return at_least_float32(grouped).square().sum(-3)
    # Where no gradient is wanted, the squares of the batch need no memory of their own.
    if x.device.type == "cpu" and x.stride(-3) != 1 and x.ndim == 4:
        # Reducing over distant channels is slow there; the squares of one image at a time stay in the cache.
        return torch.stack([at_least_float32(image).square().sum(-3) for image in grouped])
    dtype = torch.promote_types(x.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(grouped, dim=-3, dtype=dtype)
    return norm.square_()


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
    narrow = all(2 * p <= k for p, k in zip(padding, kernel_size, strict=True))  # else avg_pool2d refuses
    if padding != (0, 0) and not (pooled and narrow):
        x, padding = F.pad(x, (padding[1], padding[1], padding[0], padding[0])), (0, 0)
    if pooled:
        # Not divisor_override=1: the ONNX exporter drops it without a word.
        if min(kernel_size) >= SEPARATED and x.dtype == torch.float32 and x.shape[-3] > 1:
            return _separated_sum(x, kernel_size, stride, padding)
        return F.avg_pool2d(x, kernel_size, stride, padding) * math.prod(kernel_size)
    if kernel_size == (1, 1):
        return x[..., :: stride[0], :: stride[1]]
    # Not a convolution with ones: autocast would run it in half precision, where energies overflow.
    for dim, size, step, gap in zip((-2, -1), kernel_size, stride, dilation, strict=True):
        x = x.unfold(dim, gap * (size - 1) + 1, step)[..., ::gap].sum(-1)
    return x


def _separated_sum(
    x: Tensor, kernel_size: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]
) -> Tensor:
    """`window_sum` along columns, then along rows, by convolutions with ones: fast for large windows."""
    channels = x.shape[-3]
    down, across = (x.new_ones(channels, 1, *size) for size in ((kernel_size[0], 1), (1, kernel_size[1])))
    with full_precision(x):
        x = F.conv2d(x, down, None, (stride[0], 1), (padding[0], 0), groups=channels)
        return F.conv2d(x, across, None, (1, stride[1]), (0, padding[1]), groups=channels)


def v1_scale(kernel_size: int | tuple[int, int], in_channels: int, scale_factor: float = 100.0) -> float:
    """What the v1 ImageNet networks divide a layer's output by: kernel * sqrt(in_channels) / scale_factor.

    scale_factor: 100 for ResNet and DenseNet, 200 for Inception, 1000 for VGG.
    """
    kernel = kernel_size if isinstance(kernel_size, int) else math.sqrt(math.prod(kernel_size))
    return kernel * math.sqrt(in_channels) / scale_factor


def default_logit_bias(num_classes: int) -> float:
    """-log(C-1): a network that knows nothing then gives each of C classes probability 1/C. 0 for C <= 2."""
    return -math.log(num_classes - 1) if num_classes > 2 else 0.0
