"""The normalisation layers of the published networks: no bias, and a standard deviation that is held in linear mode.

"Uncentred" norms divide by the ordinary standard deviation but subtract no mean, so they stay linear maps of x; the
centred ones subtract a mean that is itself linear in x (or, in batch norm's eval mode, a constant that goes on the
tape of linear mode). Boehle et al. 2024, section 3.2.
"""

from __future__ import annotations

from functools import partial

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from ..errors import InputError
from .functional import at_least_float32
from .linear_mode import add_constant, hold, parameter


def _standardize(x: Tensor, dims: tuple[int, ...], centered: bool, eps: float) -> Tensor:
    """x / sqrt(var(x) + eps) with the biased variance over `dims`, less the mean first if `centered`."""
    var = at_least_float32(hold(x)).var(dims, correction=0, keepdim=True)
    if centered:
        x = x - x.mean(dims, keepdim=True)
    return x * (var + eps).rsqrt().to(x.dtype)


def _per_channel(weight: Tensor) -> Tensor:
    return parameter(weight)[:, None, None]


@register_notrace_module
class BatchNorm2d(nn.Module):
    """Batch norm without bias, uncentred unless told otherwise. (N, K, H, W) -> the same.

    centered: subtract the mean too (then it is nn.BatchNorm2d without its bias).
    joint: one statistic for all channels together ("all norm"); weight and buffers then have one element.
    momentum: share of the new statistic in the running one; None averages over all batches.

    The uncentred form keeps its running variance biased and never touches `running_mean`, as the published networks
    do; the buffer is there because their files hold it.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        centered: bool = False,
        joint: bool = False,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.centered, self.joint, self.eps, self.momentum = centered, joint, eps, momentum
        size = 1 if joint else num_features
        self.weight = nn.Parameter(torch.ones(size, device=device, dtype=dtype))
        self.register_buffer("running_mean", torch.zeros(size, device=device, dtype=dtype))
        self.register_buffer("running_var", torch.ones(size, device=device, dtype=dtype))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long, device=device))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            scale = _per_channel(self.weight) * (self.running_var[:, None, None] + self.eps).rsqrt()
            x = x * scale.to(x.dtype)
            return add_constant(x, -self.running_mean[:, None, None] * scale) if self.centered else x
        dims = (0, 1, 2, 3) if self.joint else (0, 2, 3)
        var, mean = torch.var_mean(at_least_float32(hold(x)), dims, correction=0, keepdim=True)
        self._track(var.detach().flatten(), mean.detach().flatten(), x.numel() // var.numel())
        if self.centered:
            x = x - x.mean(dims, keepdim=True)
        return x * ((var + self.eps).rsqrt() * _per_channel(self.weight)).to(x.dtype)

    @torch.no_grad()
    def _track(self, var: Tensor, mean: Tensor, count: int) -> None:
        self.num_batches_tracked.add_(1)
        share: Tensor | float = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked
        if self.centered:
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
            var = var * (count / (count - 1))  # the running variance of nn.BatchNorm2d is the unbiased one
        self.running_var.lerp_(var.to(self.running_var.dtype), share)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, centered={self.centered}, joint={self.joint}, eps={self.eps}"


@register_notrace_module
class GroupNorm2d(nn.Module):
    """Group norm without bias: statistics over the channels of a group and all positions. (N, K, H, W) -> the same.

    num_groups: 1 is layer norm over (K, H, W); equal to num_channels it is instance norm.
    """

    def __init__(
        self,
        num_channels: int,
        num_groups: int,
        *,
        centered: bool = False,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_channels % num_groups:
            raise InputError(f"{num_channels} channels do not split into {num_groups} groups; use a divisor")
        self.num_groups, self.centered, self.eps = num_groups, centered, eps
        self.weight = nn.Parameter(torch.ones(num_channels, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.unflatten(1, (self.num_groups, -1))
        return _standardize(grouped, (2, 3, 4), self.centered, self.eps).flatten(1, 2) * _per_channel(self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, {self.num_groups}, centered={self.centered}, eps={self.eps}"


@register_notrace_module
class PositionNorm2d(nn.Module):
    """Norm over the channels of each position, without bias. (N, K, H, W) -> the same."""

    def __init__(
        self,
        num_channels: int,
        *,
        centered: bool = False,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.centered, self.eps = centered, eps
        self.weight = nn.Parameter(torch.ones(num_channels, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return _standardize(x, (1,), self.centered, self.eps) * _per_channel(self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, centered={self.centered}, eps={self.eps}"


@register_notrace_module
class LayerNorm(nn.Module):
    """Centred layer norm of tokens without bias. (..., D) -> the same."""

    def __init__(
        self, dim: int, *, eps: float = 1e-5, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return _standardize(x, (-1,), True, self.eps) * parameter(self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"


def _instance_norm(channels: int, **options: object) -> GroupNorm2d:
    return GroupNorm2d(channels, channels, **options)  # type: ignore[arg-type]


_NORMS = {
    "an": partial(BatchNorm2d, joint=True),
    "bn": BatchNorm2d,
    "gn": partial(GroupNorm2d, num_groups=2),  # two groups in the published CIFAR-10 comparison of norms
    "in": _instance_norm,
    "ln": partial(GroupNorm2d, num_groups=1),
    "pn": PositionNorm2d,
}
NORM_NAMES = (*_NORMS, *(f"{name}u" for name in _NORMS))


def make_norm2d(
    name: str | None,
    channels: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The norm layer of that name, as the published checkpoints abbreviate them; `None` is the identity (v1).

    an all, bn batch, gn group (2), in instance, ln layer, pn position norm; a trailing u makes it uncentred ("bnu").
    Raises InputError for any other name.
    """
    if name is None:
        return nn.Identity()
    if name not in NORM_NAMES:
        raise InputError(f"no norm named {name!r}; known: {', '.join(NORM_NAMES)}, or None for no norm")
    return _NORMS[name.removesuffix("u")](channels, centered=not name.endswith("u"), device=device, dtype=dtype)  # type: ignore[operator]
