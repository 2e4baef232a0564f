"""Rules for the operators of networks: layers, norms, activations, attention."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import add_constant, hold
from ..layers.linear_mode import aside
from .arithmetic import RIGHT
from .calls import Call
from .marks import mark_of, on_path


def fully_connected(call: Call) -> Any:
    """w x + bias."""
    x, w, bias = call.args[0], call.argument(1, "weight"), call.argument(2, "bias")
    if on_path(x) and not on_path(w):
        y = call.layer(F.linear(x, w))
    else:
        y = call.do(torch.matmul, x, call.do(torch.transpose, w, -1, -2) if mark_of(w) else w.mT)
    return y if bias is None else call.do(torch.add, y, bias)


def convolution(call: Call) -> Any:
    """w * x + bias, of every convolution; weights made from the image are held beside a path."""
    x, w, bias = call.args[0], call.argument(1, "weight"), call.argument(2, "bias")
    rest = call.args[3:]
    options = {key: value for key, value in call.kwargs.items() if key not in ("input", "weight", "bias")}
    if on_path(x) and on_path(w):
        y = call.product(call.func(x, hold(lambda: w.clone()), None, *rest, **options), RIGHT)
    else:
        y = call.layer(call.func(x, w, None, *rest, **options))
    if bias is None:
        return y
    spatial = int(call.name[-2])
    return call.do(torch.add, y, call.do(torch.reshape, bias, (-1,) + (1,) * spatial))


def own_layer(call: Call) -> Any:
    """A layer of `conversion.layers`, which is written for linear mode."""
    return call.layer(call.run())


def batch_norm(call: Call) -> Any:
    """Of running statistics: a factor and a constant for each channel. Of the batch's: see `standardized`."""
    x, mean, var = call.args[0], call.argument(1, "running_mean"), call.argument(2, "running_var")
    weight, bias = call.argument(3, "weight"), call.argument(4, "bias")
    training, eps = call.argument(5, "training", False), call.argument(7, "eps", 1e-5)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    if training or mean is None:
        y = _standardized(x, (0, *range(2, x.ndim)), eps)
        return _affine(call, y, weight, bias, shape)
    gain = (var + eps).rsqrt() * (1 if weight is None else weight)
    offset = -mean * gain if bias is None else bias - mean * gain
    return call.path(add_constant(x * gain.to(x.dtype).view(shape), offset.view(shape)))


def layer_norm(call: Call) -> Any:
    """The mean is linear, the standard deviation held."""
    x, over = call.args[0], call.argument(1, "normalized_shape")
    weight, bias = call.argument(2, "weight"), call.argument(3, "bias")
    dims = tuple(range(-len(tuple(over)), 0))
    return _affine(call, _standardized(x, dims, call.argument(4, "eps", 1e-5)), weight, bias, None)


def group_norm(call: Call) -> Any:
    """As `layer_norm`, within each group of channels."""
    x, groups = call.args[0], call.argument(1, "num_groups")
    weight, bias = call.argument(2, "weight"), call.argument(3, "bias")
    grouped = x.reshape(x.shape[0], groups, -1)
    y = _standardized(grouped, (-1,), call.argument(4, "eps", 1e-5)).reshape(x.shape)
    return _affine(call, y, weight, bias, (1, -1) + (1,) * (x.ndim - 2))


def instance_norm(call: Call) -> Any:
    """As `layer_norm`, within each channel."""
    x, mean = call.args[0], call.argument(1, "running_mean")
    weight, bias = call.argument(3, "weight"), call.argument(4, "bias")
    if mean is not None and not call.argument(5, "use_input_stats", True):
        return call.held()
    y = _standardized(x, tuple(range(2, x.ndim)), call.argument(7, "eps", 1e-5))
    return _affine(call, y, weight, bias, (1, -1) + (1,) * (x.ndim - 2))


def rms_norm(call: Call) -> Any:
    """The root mean square is held."""
    x, over = call.args[0], call.argument(1, "normalized_shape")
    eps = call.argument(3, "eps")
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    dims = tuple(range(-len(tuple(over)), 0))
    y = x * hold(lambda: (x.square().mean(dims, keepdim=True) + eps).rsqrt())
    return _affine(call, y, call.argument(2, "weight"), None, None)


def _standardized(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred * hold(lambda: (x.var(dims, correction=0, keepdim=True) + eps).rsqrt())


def _affine(
    call: Call, y: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...] | None
) -> Any:
    if weight is not None:
        y = y * (weight if shape is None else weight.view(shape))
    if bias is not None:
        y = add_constant(y, bias if shape is None else bias.view(shape))
    return call.path(y)


def gate(call: Call) -> Any:
    """An activation f with f(0) = 0 is x times the held gate f(x) / x."""
    x = call.args[0]

    def factor() -> Tensor:
        zero = x == 0
        safe = torch.where(zero, 1, x)
        return torch.where(zero, 0, call.func(safe, *call.args[1:], **call.kwargs) / safe)

    return call.path(x * hold(factor), gate=True)


def saturating(call: Call) -> Any:
    """tanh is a gate too, though it has no factor x: between layers that is a choice, as in ReLU6."""
    y = gate(call)
    call.choice("tanh(x) / x held", y)
    return y


def capped(call: Call) -> Any:
    """A clamp: its floor at 0 alone is piecewise linear; around 0 it is a gate; elsewhere it is held."""
    if call.name == "clamp_max":
        low, high = None, call.argument(1, "max")
    else:
        low = call.argument(1, "min", call.kwargs.get("min_val"))
        high = call.argument(2, "max", call.kwargs.get("max_val"))
    if call.name == "hardtanh":
        low, high = (-1.0 if low is None else low), (1.0 if high is None else high)
    if isinstance(low, Tensor) or isinstance(high, Tensor):  # where it is capped, it is a constant
        y = call.args[0]
        y = y if low is None else call.do(torch.where, y < low, low, y)
        return y if high is None else call.do(torch.where, y > high, high, y)
    if high is None and low == 0:
        return call.path(call.args[0].clamp_min(0), gate=True)
    below, above = (-math.inf if low is None else low), (math.inf if high is None else high)
    return _clamped(call, below, above) if below <= 0 <= above else call.held()


def _clamped(call: Call, low: float, high: float) -> Any:
    x = call.args[0]

    def factor() -> Tensor:
        safe = torch.where(x == 0, 1, x)
        return torch.where(x == 0, 0, x.clamp(low, high) / safe)

    return call.path(x * hold(factor), gate=True)


def activation(call: Call) -> Any:
    """Piecewise linear, and so its own map; in a product of two paths it is the gate."""
    return call.path(call.run(), gate=True)


def gated_halves(call: Call) -> Any:
    """a sigmoid(b), of the halves of x."""
    a, b = call.do(torch.chunk, call.args[0], 2, call.argument(1, "dim", -1))
    return call.do(torch.mul, a, call.do(torch.sigmoid, b))


def attention(call: Call) -> Any:
    """softmax(q k^T scale + mask) v, with the softmax held."""
    q, k, v = call.args[:3]
    mask, causal = call.argument(3, "attn_mask"), call.argument(5, "is_causal", False)
    if not on_path(v) or call.argument(4, "dropout_p", 0.0) or call.kwargs.get("enable_gqa"):
        return call.held()

    def weights() -> Tensor:
        scale = call.kwargs.get("scale")
        scores = q @ k.mT * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
        if causal:
            allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
            scores = scores.masked_fill(~allowed, -math.inf)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask
        return scores.softmax(-1)

    return call.path(hold(weights) @ v)


def dropped(call: Call) -> Any:
    """Dropout multiplies by a random factor, which is held."""
    x = call.args[0]
    if not call.argument(2, "training", True):
        return call.path(x.clone())
    return call.path(x * hold(lambda: call.func(torch.ones_like(x), *call.args[1:], **call.kwargs)))


def normalized(call: Call) -> Any:
    """x over its length, which is held."""
    x = call.args[0]
    p, dim, eps = (
        call.argument(1, "p", 2.0),
        call.argument(2, "dim", 1),
        call.argument(3, "eps", 1e-12),
    )
    return call.path(x / hold(lambda: x.norm(p, dim, keepdim=True).clamp_min(eps)))


def locally_normalized(call: Call) -> Any:
    """x over a power of its neighbours' squares, which is held."""
    x = call.args[0]

    def factor() -> Tensor:
        safe = torch.where(x == 0, 1, x)
        return torch.where(x == 0, 0, call.run() / safe)

    return call.path(x * hold(factor))


def moments(call: Call) -> Any:
    """Variance, which is held, and mean, which is linear."""
    x = call.args[0]
    with aside():
        dispersion, _ = call.run()
    options = {key: value for key, value in call.kwargs.items() if key in ("dim", "keepdim")}
    dims = [value for value in call.args[1:2] if isinstance(value, (int, tuple, list))]
    mean = call.path(x.mean(*dims, **options))
    return call.as_held(dispersion, call.name), mean
