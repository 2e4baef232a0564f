"""Networks linearised by hand, module by module, with detach(): nothing of bcos_zoo's linear mode is used.

`linearised` copies a network of timm and replaces each module that is not linear by one written here, whose
factors are cut out of the graph. Autograd of the copy then gives the linear map, and shares no code with the
rules under test.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import GELU, LayerNorm2d
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.vision_transformer import Attention
from torch import Tensor, nn


class SlowConv(nn.Module):
    """B-cos convolution, patch by patch: (w . x) |cos|^(B-1) + bias with plain weights."""

    def __init__(self, conv: Any, b: float, rows: str = "plain") -> None:
        super().__init__()
        self.conv, self.b, self.rows = conv, b, rows

    def forward(self, x: Tensor) -> Tensor:
        conv, b = self.conv, self.b
        weight = conv.weight.detach()
        (kh, kw), (sh, sw), (dh, dw) = conv.kernel_size, conv.stride, conv.dilation
        if type(conv) is not nn.Conv2d:  # timm's SAME: as many pixels as the output needs, the odd one last
            pads = []
            for size, k, s, d in zip(x.shape[-2:], (kh, kw), (sh, sw), (dh, dw), strict=True):
                total = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
                pads.append((total // 2, total - total // 2))
            x = F.pad(x, (*pads[1], *pads[0]))
        else:
            x = F.pad(x, (conv.padding[1], conv.padding[1], conv.padding[0], conv.padding[0]))
        rows = (x.shape[-2] - (kh - 1) * dh - 1) // sh + 1
        cols = (x.shape[-1] - (kw - 1) * dw - 1) // sw + 1
        patches = F.unfold(x, (kh, kw), (dh, dw), 0, (sh, sw))  # (N, K kh kw, L)
        outs = []
        per_in, per_out = patches.shape[1] // conv.groups, len(weight) // conv.groups
        for g in range(conv.groups):
            patch = patches[:, g * per_in : (g + 1) * per_in]
            w = weight[g * per_out : (g + 1) * per_out].flatten(1)
            outs.append(_slow(patch.transpose(1, 2), w, b, self.rows, 1e-6).transpose(1, 2))
        y = torch.cat(outs, 1).unflatten(-1, (rows, cols))
        return y if conv.bias is None else y + conv.bias[:, None, None]


class SlowLinear(nn.Module):
    def __init__(self, linear: Any, b: float, rows: str = "plain") -> None:
        super().__init__()
        self.linear, self.b, self.rows = linear, b, rows

    def forward(self, x: Tensor) -> Tensor:
        y = _slow(x, self.linear.weight.detach(), self.b, self.rows, 0.0)
        return y if self.linear.bias is None else y + self.linear.bias


def _slow(x: Tensor, w: Tensor, b: float, rows: str, eps: float) -> Tensor:
    """x: (..., D), w: (O, D) -> (..., O), by the definition of the cosine."""
    if rows == "unit":
        w = w / w.norm(dim=1, keepdim=True)
    y = x @ w.T
    size = w.norm(dim=1) if rows == "plain" else 1.0
    cos = (y / ((x.square().sum(-1, keepdim=True) + eps).sqrt() * size)).abs()
    factor = cos if b == 2 else (cos + 1e-6) ** (b - 1) if b != 1 else torch.ones_like(cos)
    return y * factor.detach()


class SlowGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.distributions.Normal(0, 1).cdf(x).detach()


class SlowSiLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1 / (1 + torch.exp(-x))).detach()


class SlowNorm(nn.Module):
    """Layer norm over the last axis, or over channels."""

    def __init__(self, norm: Any, channels: bool) -> None:
        super().__init__()
        self.norm, self.channels = norm, channels

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1) if self.channels else x
        centred = x - x.mean(-1, keepdim=True)
        sigma = (centred.square().mean(-1, keepdim=True) + self.norm.eps).sqrt().detach()
        y = centred / sigma * self.norm.weight + self.norm.bias
        return y.movedim(-1, 1) if self.channels else y


class SlowBatchNorm(nn.Module):
    """Batch norm of running statistics, then what timm puts behind it."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.norm = norm
        self.act: nn.Module = slow(norm.act) if hasattr(norm, "act") else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm
        mean, var, weight, bias = (
            p[:, None, None] for p in (n.running_mean, n.running_var, n.weight, n.bias)
        )
        return self.act((x - mean) / (var + n.eps).sqrt() * weight + bias)


class SlowSqueezeExcite(nn.Module):
    def __init__(self, se: Any) -> None:
        super().__init__()
        self.se = se

    def forward(self, x: Tensor) -> Tensor:
        inner = F.silu(self.se.conv_reduce(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.se.conv_expand(inner)).detach()


class SlowAttention(nn.Module):
    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.inner = attention

    def forward(self, x: Tensor, attn_mask: Any = None, **_: Any) -> Tensor:
        a = self.inner
        n, tokens, width = x.shape
        q, k, v = a.qkv(x).view(n, tokens, 3, a.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = a.q_norm(q), a.k_norm(k)
        scores = torch.einsum("nhid,nhjd->nhij", q, k) / math.sqrt(width // a.num_heads)
        weights = (scores - scores.logsumexp(-1, keepdim=True)).exp().detach()
        return a.proj(torch.einsum("nhij,nhjd->nihd", weights, v).flatten(2))


def slow(module: nn.Module, b: float = 1.0, bcos: tuple[str, ...] = (), prefix: str = "") -> nn.Module:
    """The module, or one written here in its place; inner ones are replaced. bcos: names of B-cos layers."""
    if prefix in bcos:
        return (SlowLinear if isinstance(module, nn.Linear) else SlowConv)(module, b)
    if isinstance(module, (nn.GELU, GELU)):
        return SlowGELU()
    if isinstance(module, nn.SiLU):
        return SlowSiLU()
    if isinstance(module, LayerNorm2d):
        return SlowNorm(module, channels=True)
    if isinstance(module, nn.LayerNorm):
        return SlowNorm(module, channels=False)
    if isinstance(module, nn.BatchNorm2d):
        return SlowBatchNorm(module)
    for name, child in list(module.named_children()):
        setattr(module, name, slow(child, b, bcos, f"{prefix}.{name}" if prefix else name))
    if isinstance(module, Attention):
        return SlowAttention(module)
    if isinstance(module, SqueezeExcite):
        return SlowSqueezeExcite(module)
    return module


def linearised(network: nn.Module, b: float = 1.0, bcos: tuple[str, ...] = ()) -> nn.Module:
    """A copy of the network, linearised by hand. bcos: the names of its B-cos layers."""
    return slow(copy.deepcopy(network), b, bcos)


def map_of(network: nn.Module, z: Tensor, target: int) -> Tensor:
    """The gradient of one output with respect to the network's own input."""
    z = z.clone().requires_grad_()
    return torch.autograd.grad(network(z)[:, target].sum(), z)[0]
