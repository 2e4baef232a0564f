"""All shortcuts for speed. `functional` has the plain formulas; `_switch` decides where these may be taken.

Where somebody could notice the difference, every module is called in turn and the plain formulas run. A
shortcut overwrites only tensors that it made itself and that nobody else has seen.

`benchmarks/fast_ways.py` measures what each shortcut gains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from . import functional as BF
from ._switch import bare, free, on, switched_off, transformed, untouched
from .depthwise import convolve
from .linear_mode import hold, is_linear, parameter

CACHED = 600_000  # values processed at a time, so that intermediate results stay in a processor's cache
SEPARATED = 5  # pixels: windows of this size or more are summed along columns, then along rows
FEW = 4  # handling a row of weights this many times longer than its output is most of the work


class _Layer(Protocol):
    """What `bcos.BcosLinear` and `bcos.BcosConv2d` have in common."""

    linear: Any
    b: float
    max_out: int
    scale: float
    normalize: bool


class _Convolution(_Layer, Protocol):
    """What `bcos.BcosConv2d` has."""

    out_channels: int

    def ahead(self, x: Tensor) -> Tensor: ...
    def patch_norm(
        self,
        x: Tensor,
        energy_of: Callable[[Tensor, int], Tensor] = ...,
        sum_of: Callable[..., Tensor] = ...,
    ) -> Tensor: ...


def _absent(module: nn.Module | None) -> bool:
    """Whether a module does nothing and is unwatched: none, an identity, or stochastic depth that is off."""
    if module is None:
        return True
    off = type(module) is nn.Identity or (type(module) is DropPath and not module.training)
    return off and untouched(module)


def skipped(module: nn.Module, x: Tensor) -> bool:
    """Whether a B-cos layer's plain forward may use the weight of `module` directly, without calling it.

    That saves a pass. In half precision it is done even with all shortcuts off, because the responses of
    rows that are not yet of unit norm overflow.
    """
    return bare(module) and (BF.narrow(x) or not switched_off())


def channels_last(x: Tensor) -> Tensor:
    """x in channels-last layout if on the CPU: convolutions and patch norms are faster in it, and keep it.

    The gradient mode makes no difference, so that code which works with the layout in one works in all.
    """
    if on("layout") and x.device.type == "cpu" and free(x):
        return x.contiguous(memory_format=torch.channels_last)
    return x


def as_given(y: Tensor, x: Tensor) -> Tensor:
    """The network's map y, contiguous if its input x was."""
    if on("layout") and free(y) and x.is_contiguous():
        return y.contiguous()
    return y


def project(module: nn.Module, x: Tensor) -> Tensor:
    """`module(x)`, for a plain linear layer or whatever replaces one. (..., K) -> (..., O)."""
    if bare(module) and not switched_off():
        plain: Any = module
        return F.linear(x, parameter(plain.weight))
    y: Tensor = module(x)
    return y


def attends() -> bool:
    """Whether to use torch's own attention, which stores no (L, L) weights; torch.func has no rule for it."""
    return on("attention") and (torch.compiler.is_compiling() or not transformed())


def _max_out(y: Tensor, m: int, dim: int) -> Tensor:
    """`functional.max_out`, without storing where the maxima are if no gradient is needed."""
    if m == 1 or y.requires_grad or not on("max_out"):
        return BF.max_out(y, m, dim)
    dim = dim % y.ndim
    return torch.unflatten(y, dim, (-1, m)).amax(dim + 1)


def _factor(y: Tensor, norm: Tensor, b: float) -> Tensor:
    """`functional.bcos_scale`; if no gradient is needed, |cos| overwrites cos."""
    if not on("in_place") or y.requires_grad and torch.is_grad_enabled():
        return BF.bcos_scale(y, norm, b)
    size = (y * norm.reciprocal()).abs_()
    return (size if b == 2 else size.add_(BF.COS_EPS).pow_(b - 1)).to(y.dtype)


def _scale(y: Tensor, norm: Callable[[], Tensor], b: float) -> Tensor:
    """y * bcos_scale(y, norm, b); if no gradient is needed, it overwrites y, a few images at a time."""
    if is_linear():
        return y * hold(lambda: _factor(y, norm(), b))
    length = norm()
    if y.requires_grad or length.requires_grad or not on("in_place"):
        return y * BF.bcos_scale(y, length, b)
    step = max(1, CACHED // max(y[:1].numel(), 1))
    batched = y.ndim > 2 and len(length) == len(y) > step
    if y.device.type != "cpu" or not batched:
        return y.mul_(_factor(y, length, b))
    for some, their_length in zip(torch.split(y, step), torch.split(length, step), strict=True):
        some.mul_(_factor(some, their_length, b))
    return y


def _energy(x: Tensor, groups: int = 1) -> Tensor:
    """`functional.channel_energy`; if no gradient is needed, without memory for the squares of the batch."""
    plain = not on("energy") or x.numel() == 0 or groups == x.shape[-3]
    if plain or (x.requires_grad and torch.is_grad_enabled()):
        return BF.channel_energy(x, groups)
    grouped = torch.unflatten(x, -3, (groups, -1))
    if x.device.type == "cpu" and x.stride(-3) != 1 and x.ndim == 4:
        # Channels that lie far apart are slow to sum on a CPU; the squares of one image stay in its cache.
        return torch.stack([BF.at_least_float32(image).square().sum(-3) for image in grouped])
    dtype = torch.promote_types(x.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(grouped, dim=-3, dtype=dtype)
    return norm.square_()


def _window_sum(
    x: Tensor,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Tensor:
    """`functional.window_sum`; sums large windows along columns, then rows, by convolutions with ones."""
    large = min(kernel_size) >= SEPARATED and dilation == (1, 1) and x.dtype == torch.float32
    large = large and x.device.type != "cuda"  # there, convolutions round to TF32 unless told otherwise
    if not large or x.shape[-3] == 1 or x.ndim != 4 or not on("separate"):
        return BF.window_sum(x, kernel_size, stride, padding, dilation)
    channels = x.shape[1]
    down, across = (x.new_ones(channels, 1, *size) for size in ((kernel_size[0], 1), (1, kernel_size[1])))
    with BF.full_precision(x):
        x = F.conv2d(x, down, None, (stride[0], 1), (padding[0], 0), groups=channels)
        return F.conv2d(x, across, None, (1, stride[1]), (0, padding[1]), groups=channels)


def _rows(
    apply: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, factors: Tensor | None,
    outputs: int, dim: int,
) -> Tensor:  # fmt: skip
    """apply(x, weight) with row i of the weight multiplied by factors[i].

    As (f w) . x = f (w . x), a factor may multiply either the row or its outputs: whichever has fewer values.
    In half precision it is always the row, as the response of a long one could overflow.
    outputs: how many values each row gives. dim: the axis of the rows in the result.
    """
    if factors is None:
        return apply(x, weight)
    before = BF.narrow(x) or not on("rows")
    if before or outputs >= weight.numel() // len(weight):
        rows = factors.view(-1, *[1] * (weight.ndim - 1))
        return apply(x, (BF.at_least_float32(weight) * rows).to(weight.dtype))
    y = apply(x, weight)
    columns = factors.to(y.dtype).view(-1, *[1] * (-1 - dim))
    return y * columns if y.requires_grad or columns.requires_grad else y.mul_(columns)


def _convolve(conv: nn.Conv2d, positions: int, x: Tensor, weight: Tensor) -> Tensor:
    """The convolution `conv` with another weight. positions: roughly how many values each row gives."""
    dense, few = torch.channels_last, FEW * positions < weight.numel() // len(weight)
    if not few or x.ndim != 4 or x.device.type != "cpu" or not on("few"):
        return convolve(conv, x, weight)
    if not x.is_contiguous(memory_format=dense):
        return convolve(conv, x, weight)
    # In channels last, the convolution would first reorder its weights, which here is most of the work.
    if weight.shape[2:] == conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1:
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)
    return convolve(conv, x.contiguous(), weight).contiguous(memory_format=dense)


def _divided(y: Tensor, scale: float) -> Tensor:
    in_place = scale != 1 and not y.requires_grad and on("in_place")
    return y.div_(scale) if in_place else BF.divided(y, scale)


def convolution(
    conv: _Convolution,
    x: Tensor,
    gain: Tensor | None = None,
    *,
    shortcut: Tensor | None = None,
    input_gain: Tensor | None = None,
    energy: Tensor | None = None,
) -> Tensor:
    """`conv(x)`, for a `free` x and a `bare` inner convolution, with more done in the same passes.

    x: what `conv.ahead` gives. gain: (out_channels,) or (1,), multiplies the output; only for b = 1 or 2, and
    without MaxOut. shortcut: added after the gain. input_gain: (in_channels,), multiplies x; only for kernels
    of one pixel without groups, with energy: (N, 1, H, W), the sum of squares of x times input_gain.
    """
    inner: Any = conv.linear
    weight = parameter(inner.weight)
    factors = None if gain is None else BF.row_factors(gain, conv.b)
    if conv.normalize:
        factors = BF.unit_factors(weight) if factors is None else BF.unit_factors(weight) * factors
    if input_gain is not None:
        weight = weight * input_gain.to(weight.dtype)[:, None, None]
    positions = x.numel() // max(x.shape[-3] * inner.stride[0] * inner.stride[1], 1)
    y = _rows(partial(_convolve, inner, positions), x, weight, factors, positions, dim=-3)
    y = _max_out(y, conv.max_out, dim=-3)
    if conv.b != 1:

        def norm() -> Tensor:
            if energy is not None:
                return (energy + BF.PATCH_EPS).sqrt()
            return conv.patch_norm(x, _energy, _window_sum)

        if inner.groups in (1, conv.out_channels):
            y = _scale(y, norm, conv.b)
        else:
            grouped = torch.unflatten(y, -3, (inner.groups, -1))
            y = _scale(grouped, lambda: norm().unsqueeze(-3), conv.b).flatten(-4, -3)
    y = _divided(y, conv.scale)
    if shortcut is None:
        return y
    same = y.dtype == shortcut.dtype and y.shape == shortcut.shape
    return y.add_(shortcut) if on("in_place") and same else y + shortcut


def fully_connected(module: _Layer, x: Tensor) -> Tensor:
    """`module(x)`, for a `free` x and a `bare` inner layer."""
    inner: Any = module.linear
    weight = parameter(inner.weight)
    factors = BF.unit_factors(weight) if module.normalize else None
    y = _rows(F.linear, x, weight, factors, x.numel() // max(x.shape[-1], 1), dim=-1)
    y = _max_out(y, module.max_out, dim=-1)
    if module.b != 1:
        y = _scale(y, lambda: BF.token_norm(x), module.b)
    return _divided(y, module.scale)


def _folds(conv: nn.Module, x: Tensor) -> bool:
    """Whether `convolution`, with a factor in its weights, may replace the call of a B-cos layer."""
    if not on("fold") or not free(x) or not hasattr(conv, "patch_norm"):
        return False
    plain: Any = conv
    return untouched(conv) and bare(plain.linear) and plain.b in (1, 2) and plain.max_out == 1


def _gain(norm: nn.Module, channels: int) -> Tensor | None:
    """The factor of each channel if `norm` only multiplies by it, and takes that many channels; else None."""
    if not hasattr(norm, "fixed_gain") or not untouched(norm):
        return None
    plain: Any = norm
    gain: Tensor | None = plain.fixed_gain()
    fits = gain is not None and not gain.requires_grad and (plain.joint or len(gain) == channels)
    return gain if fits else None


def conv_norm(
    conv: nn.Module,
    norm: nn.Module,
    x: Tensor,
    *,
    path: nn.Module | None = None,
    shortcut: Tensor | None = None,
) -> Tensor:
    """`path(norm(conv(x))) + shortcut`, without a pass for a norm that multiplies channels by fixed factors.

    Uncentred batch norm in eval mode is such a norm. A B-cos convolution with b = 1 or 2 takes the factors
    into its weights, exactly (`functional.row_factors`). A norm that needs a gradient is called as usual.

    ```python
    import torch
    from bcos_zoo.layers import BatchNorm2d, BcosConv2d, conv_norm

    conv, norm, x = BcosConv2d(6, 8, 3).eval(), BatchNorm2d(8).eval(), torch.rand(1, 6, 9, 9)
    assert torch.allclose(conv_norm(conv, norm, x), norm(conv(x)), atol=1e-5)
    ```
    """
    plain: Any = conv
    gain = _gain(norm, plain.out_channels) if (folds := _folds(conv, x)) else None
    if gain is not None or (folds and _absent(norm)):
        return _folded(conv, x, gain, path, shortcut)
    return _beside(norm(conv(x)), path, shortcut)


def conv_gain(
    conv: nn.Module, gain: Tensor, x: Tensor, *, path: nn.Module | None = None, shortcut: Tensor | None = None
) -> Tensor:
    """`path(conv(x) * gain) + shortcut`, computed as in `conv_norm`. gain: (out_channels, 1, 1)."""
    gain = parameter(gain)
    if _folds(conv, x) and not gain.requires_grad:
        return _folded(conv, x, gain.flatten(), path, shortcut)
    return _beside(conv(x) * gain, path, shortcut)


def _folded(
    conv: Any, x: Tensor, gain: Tensor | None, path: nn.Module | None, shortcut: Tensor | None
) -> Tensor:
    x = conv.ahead(x)
    if _absent(path):
        return convolution(conv, x, gain, shortcut=shortcut)
    return _beside(convolution(conv, x, gain), path, shortcut)


def _beside(y: Tensor, path: nn.Module | None, shortcut: Tensor | None) -> Tensor:
    """`path(y) + shortcut`, without whichever of the two is None."""
    if path is not None:
        y = path(y)
    return y if shortcut is None else y + shortcut


def chain(modules: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Apply the modules in turn; a B-cos convolution and the norm after it go through `conv_norm` together.

    An `nn.Sequential` is called as a whole where somebody could notice the difference.
    """
    if isinstance(modules, nn.Sequential) and not (free(x) and untouched(modules)):
        whole: Tensor = modules(x)
        return whole
    waiting: nn.Module | None = None
    for module in modules:
        if waiting is not None and hasattr(module, "fixed_gain"):
            x, waiting = conv_norm(waiting, module, x), None
            continue
        if waiting is not None:
            x = waiting(x)
        if hasattr(module, "patch_norm"):
            waiting = module
        else:
            x, waiting = module(x), None
    return x if waiting is None else waiting(x)


def dense_features(layers: Sequence[Any], x: Tensor) -> list[Tensor] | None:
    """What DenseNet's layers make of x, one after the other, without a pass for the first norm of each.

    In eval mode the first norm of layer l multiplies channel k by a fixed g[l, k], so the 1x1 convolution
    behind it sees z[k] = g[l, k] x[k]. Its response w_hat . z = sum_k (w_hat[k] g[l, k]) x[k] is that of a
    weight with the gains in its columns. Its patch norm needs |z|^2 = sum_k g[l, k]^2 x[k]^2, a sum to which
    each layer's new features add a share. One product of g^2 (layers by channels) with x^2, pixel by pixel,
    gives the shares of new features x in the sums of all layers that follow.

    layers: DenseLayers. Returns None where they cannot be folded, and for a single image, which takes longer.
    """
    if not on("dense") or not free(x) or len(x) == 1 or x.device.type == "cuda":  # as in `_window_sum`
        return None
    gains = []
    for one in layers:
        gain = _gain(one.norm1, one.conv1.in_channels)
        if gain is None or not (untouched(one) and _absent(one.act)):
            return None
        if not (untouched(one.conv1) and bare(one.conv1.linear)) or one.grad_checkpointing:
            return None
        gains.append(gain.expand(one.conv1.in_channels))  # an all norm has a single factor
    features, start, energies = [x], 0, x.new_zeros(())
    squares = nn.utils.rnn.pad_sequence(gains, batch_first=True).square()[:, :, None, None]
    for index, (one, gain) in enumerate(zip(layers, gains, strict=True)):
        new = features[-1]
        end = start + new.shape[1]
        share = hold(partial(_energy_shares, new, squares[index:, start:end]))
        energies = share if index == 0 else energies[:, 1:] + share
        options = dict(input_gain=gain, energy=energies[:, :1])
        joined, gain2 = torch.cat(features, 1), _gain(one.norm2, one.conv1.out_channels)
        if gain2 is not None and _folds(one.conv1, x):
            y = convolution(one.conv1, joined, gain2, **options)
        else:
            y = one.norm2(convolution(one.conv1, joined, **options))
        features.append(F.dropout(one.conv2(y), p=one.drop_rate, training=one.training))
        start = end
    return features


def _energy_shares(x: Tensor, squares: Tensor) -> Tensor:
    """Weighted sums of squares over the channels, one per row of weights. (N, K, H, W) -> (N, L, H, W)."""
    x = BF.at_least_float32(x).square()
    with BF.full_precision(x):
        return F.conv2d(x, squares.to(x.dtype))
