"""The normalisation layers of the published networks: no bias, and a standard deviation held in linear mode.

"Uncentred" norms divide by the ordinary standard deviation but subtract no mean, so in linear mode they only
scale x. The centred ones also subtract a mean that is itself linear in x (or, in batch norm's eval mode, a
constant that goes on the tape of linear mode). Source: Boehle et al. 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._compat import AnyBatchNorm, backward_task
from ..errors import InputError
from ._switch import layer
from .functional import at_least_float32
from .linear_mode import add_constant, hold, is_linear, parameter
from .processes import moments_of_all, several_processes


def _standardize(x: Tensor, dims: tuple[int, ...], weight: Tensor, centered: bool, eps: float) -> Tensor:
    """weight * x / sqrt(var + eps), with the biased variance; `centered` subtracts the mean first.

    dims: what the statistics are taken over. weight: broadcastable to x. Computed in float32 at least.
    """
    wide = at_least_float32(x)
    var, mean = torch.var_mean(wide, dims, correction=0, keepdim=True)
    return _scale(wide, var, mean if centered else None, weight, eps).to(x.dtype)


def _scale(x: Tensor, var: Tensor, mean: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    if mean is not None:
        x = x - mean
    return x * (hold(lambda: (var + eps).rsqrt()) * weight)


def _per_channel(weight: Tensor) -> Tensor:
    return parameter(weight)[:, None, None]


@layer
class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm without bias, uncentred by default. (N, K, H, W) -> the same.

    centered: subtract the mean too (then it is torch's BatchNorm2d without its bias).
    joint: one statistic for all channels together ("all norm"); weight and buffers then have one element.
    momentum: share of the new statistic in the running one; None averages over all batches.
    synchronised: an attribute, set by `synchronise_norms`: statistics in training are taken over the batch of
    all processes, whose parts may differ in size; in linear mode, over this process's part.
    frozen: an attribute, set by `freeze_norms`: training computes as eval mode does, and tracks nothing.

    In training the uncentred form averages the biased variance into `running_var` and never touches
    `running_mean`, as the published networks do; that buffer exists because their files hold it.
    A pass that is computed again during the backward pass (checkpointing) is tracked once.

    It derives from torch's class so that tools which look for batch norms find it. Tools that would replace
    it with another norm read its bias, which does not exist: the AttributeError says what to call instead.
    Raises InputError for anything but (N, K, H, W), with K as it was made for (any if `joint`), and in
    training if a channel has one value only, which has no variance.
    """

    weight: nn.Parameter
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    synchronised = False
    frozen = False

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
        size = 1 if joint else num_features
        super().__init__(size, eps, momentum, affine=False, device=device, dtype=dtype)  # no bias
        self.centered, self.joint, self.affine = centered, joint, True
        self.weight = nn.Parameter(torch.ones(size, device=device, dtype=dtype))
        del self.bias

    def __getattr__(self, name: str) -> Any:
        if name == "bias":
            raise AttributeError(
                "a batch norm of bcos_zoo has no bias, and no norm of torch or timm can take its place; "
                "bcos_zoo.layers.synchronise_norms(model) shares its statistics between processes, "
                "freeze_norms(model) freezes them (docs/norms.md)"
            )
        return super().__getattr__(name)

    def reset_parameters(self) -> None:
        """Forget what was learnt and tracked."""
        self.reset_running_stats()
        if self.affine:  # not yet while torch's constructor runs
            nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        _check_map(x, None if self.joint else len(self.weight))
        tracks = self.running_var is not None  # torch.func takes the buffers away
        if tracks and (self.frozen or not self.training):
            scale = self.gain()[:, None, None]
            x = x * scale.to(x.dtype)
            return add_constant(x, -_per_channel(self.running_mean) * scale) if self.centered else x
        dims = (0, 1, 2, 3) if self.joint else (0, 2, 3)
        values = x.numel() // (1 if self.joint else x.shape[1])
        count: int | Tensor = values
        wide = at_least_float32(x)
        var, mean = torch.var_mean(wide, dims, correction=0, keepdim=True)
        if self.synchronised and not is_linear() and several_processes():
            var, mean, count = moments_of_all(var, mean, values)
        elif values == 1:
            raise _one_value(x, "batch norm in training", "per channel; use a larger batch, or call eval()")
        y = _scale(wide, var, mean if self.centered else None, _per_channel(self.weight), self.eps)
        if tracks and self.training and self.track_running_stats and not _recomputing():
            self._track(var.flatten(), mean.flatten(), count)
        return y.to(x.dtype)

    def gain(self) -> Tensor:
        """(K,) or (1,): the factor that eval mode puts on each channel, in float32 at least."""
        return parameter(self.weight) * (at_least_float32(self.running_var) + self.eps).rsqrt()

    def fixed_gain(self) -> Tensor | None:
        """`gain` if this norm only multiplies by it (uncentred, and in eval mode or frozen), else None."""
        fixed = self.running_var is not None and (self.frozen or not self.training) and not self.centered
        return self.gain() if fixed else None

    @torch.no_grad()
    def _track(self, var: Tensor, mean: Tensor, count: int | Tensor) -> None:
        self.num_batches_tracked.add_(1)
        share: Tensor | float | None = self.momentum
        if share is None:
            share = self.num_batches_tracked.to(self.running_var.dtype).reciprocal()
        if self.centered:
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
            var = var * (count / (count - 1))  # the running variance of torch's norm is the unbiased one
        self.running_var.lerp_(var.to(self.running_var.dtype), share)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, centered={self.centered}, joint={self.joint}, eps={self.eps}"


def _one_value(x: Tensor, norm: str, hint: str) -> InputError:
    return InputError(f"got a tensor of shape {tuple(x.shape)}: {norm} has one value {hint}")


def _recomputing() -> bool:
    """Whether a backward pass is running: whatever a forward computes now was tracked the first time."""
    return not torch.compiler.is_compiling() and backward_task() != -1  # as checkpoint asks


def freeze_norms(model: nn.Module, on: bool = True) -> None:
    """Let every batch norm of `model` train with its running statistics, unchanged (`on`), or not (off).

    Weights are left as they are. For torch's norms, see timm's `freeze_batch_norm_2d`.

    ```python
    import bcos_zoo
    from bcos_zoo.layers import freeze_norms

    model = bcos_zoo.create_model("bcos_resnet20", num_classes=2).train()
    freeze_norms(model)  # in training too, statistics stay as they are
    ```
    """
    for module in model.modules():
        if isinstance(module, BatchNorm2d):
            module.frozen = on


def synchronise_norms(model: nn.Module, on: bool = True) -> list[str]:
    """Let every batch norm of `model` take its statistics over all processes (`on`) or over its own part.

    These are ours, and the fading ones of converted networks. Returns the names of batch norms of other
    kinds, which are left alone: for torch's own see `nn.SyncBatchNorm.convert_sync_batchnorm`, which needs an
    accelerator.

    ```python
    import bcos_zoo
    from bcos_zoo.layers import synchronise_norms

    model = bcos_zoo.create_model("bcos_resnet20", num_classes=2).train()
    assert synchronise_norms(model) == []  # all norms are of bcos_zoo
    ```
    """
    others = []
    for name, module in model.named_modules():
        if isinstance(module, AnyBatchNorm) and hasattr(module, "synchronised"):
            module.synchronised = on
        elif isinstance(module, AnyBatchNorm):
            others.append(name)
    return others


@layer
class GroupNorm2d(nn.Module):
    """Group norm without bias: statistics over a group's channels and all pixels. (N, K, H, W) -> the same.

    num_groups: 1 is layer norm over (K, H, W); equal to num_channels it is instance norm.

    Raises InputError if num_groups does not divide num_channels, for anything but (N, K, H, W), and, as
    instance norm, for channels of a single value.
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
        if num_groups < 1 or num_channels % num_groups:
            raise InputError(f"{num_channels} channels do not split into {num_groups} groups; use a divisor")
        self.num_groups, self.centered, self.eps = num_groups, centered, eps
        self.weight = nn.Parameter(torch.ones(num_channels, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Forget what was learnt."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        _check_map(x, len(self.weight))
        if self.num_groups == len(self.weight) and x.shape[-2] * x.shape[-1] == 1:
            raise _one_value(x, "instance norm", "per channel; use a larger image, or another norm")
        if self.centered and not is_linear():
            # Fewer passes. F.group_norm would check the number of values over all images together.
            return torch.group_norm(x, self.num_groups, self.weight, None, self.eps).to(x.dtype)
        grouped = torch.unflatten(x, 1, (self.num_groups, -1))
        weight = torch.unflatten(_per_channel(self.weight), 0, (self.num_groups, -1))
        return _standardize(grouped, (2, 3, 4), weight, self.centered, self.eps).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, {self.num_groups}, centered={self.centered}, eps={self.eps}"


@layer
class PositionNorm2d(nn.Module):
    """Norm over the channels of each position, without bias. (N, K, H, W) -> the same, or without N.

    Raises InputError for a single channel, and for another number of channels than it was made for.
    """

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
        _check_channels(num_channels)
        self.centered, self.eps = centered, eps
        self.weight = nn.Parameter(torch.ones(num_channels, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Forget what was learnt."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 3:
            _check_map(x, len(self.weight))
        elif len(x) != len(self.weight):
            raise _misfit(x, f"({len(self.weight)}, H, W)")
        # A compiled or exported graph keeps the layout: a new one would put guards on its dynamic sides.
        if self.centered and not (is_linear() or torch.compiler.is_compiling()):
            y = F.layer_norm(x.movedim(-3, -1), self.weight.shape, self.weight, None, self.eps)
            return y.movedim(-1, -3)
        return _standardize(x, (-3,), _per_channel(self.weight), self.centered, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, centered={self.centered}, eps={self.eps}"


@layer
class LayerNorm(nn.Module):
    """Centred layer norm of tokens without bias. (..., D) -> the same.

    Raises InputError for a single channel, and for another number of channels than it was made for.
    """

    def __init__(
        self,
        dim: int,
        *,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_channels(dim)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Forget what was learnt."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1:] != self.weight.shape:
            raise _misfit(x, f"(..., {len(self.weight)})")
        if not is_linear():
            return F.layer_norm(x, self.weight.shape, self.weight, None, self.eps).to(
                x.dtype
            )  # far fewer passes
        return _standardize(x, (-1,), parameter(self.weight), True, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"


def _check_map(x: Tensor, channels: int | None) -> None:
    """Raise InputError unless x is (N, K, H, W) of that many channels; None for any number.

    Weights broadcast, so a norm of one channel would take any map, and a map of one channel any norm.
    """
    if x.ndim != 4 or (channels is not None and x.shape[1] != channels):
        raise _misfit(x, f"(N, {'K' if channels is None else channels}, H, W)")


def _misfit(x: Tensor, allowed: str) -> InputError:
    return InputError(
        f"got a tensor of shape {tuple(x.shape)}; this norm allows {allowed}: make it of that many channels"
    )


def _check_channels(channels: int) -> None:
    if channels == 1:
        raise InputError("a norm over one channel has no variance; use more channels, or another norm")


def _instance_norm(channels: int, **options: Any) -> GroupNorm2d:
    return GroupNorm2d(channels, channels, **options)


_NORMS: dict[str, Callable[..., nn.Module]] = {
    "an": partial(BatchNorm2d, joint=True),
    "bn": BatchNorm2d,
    "gn": partial(GroupNorm2d, num_groups=2),  # two in the published CIFAR-10 comparison of norms
    "in": _instance_norm,
    "ln": partial(GroupNorm2d, num_groups=1),
    "pn": PositionNorm2d,
}
NORM_NAMES = (*_NORMS, *(f"{name}u" for name in _NORMS))


def make_norm2d(
    name: str,
    channels: int,
    *,
    eps: float = 1e-5,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The norm layer of that name, as the published checkpoints abbreviate them; "none" is the identity (v1).

    an all, bn batch, gn group (2), in instance, ln layer, pn position norm; a trailing u is uncentred.
    Raises InputError for any other name.

    ```python
    import torch

    from bcos_zoo.layers import make_norm2d

    norm = make_norm2d("bnu", 16)  # batch norm, uncentred
    assert norm(torch.rand(2, 16, 8, 8)).shape == (2, 16, 8, 8)
    ```
    """
    if name == "none":
        return nn.Identity()
    if name not in NORM_NAMES:
        raise InputError(f"no norm named {name!r}; known: {', '.join(NORM_NAMES)}, or 'none' for no norm")
    make = _NORMS[name.removesuffix("u")]
    return make(channels, centered=not name.endswith("u"), eps=eps, device=device, dtype=dtype)
